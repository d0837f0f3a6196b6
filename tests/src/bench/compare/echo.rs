//! Echo requests from a socket of our own: `ping` needs milliseconds to start, which is what is measured here.

use crate::lab::Host;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Between two requests: what the answer is exact to.
const SPACING: Duration = Duration::from_millis(1);

/// Asks `to` every millisecond until it answers; when that was.
///
/// # Errors
/// If no answer comes within `limit`.
pub fn first_reply(from: &Host, to: IpAddr, limit: Duration) -> Result<Instant, String> {
    let (domain, protocol, request, reply, skip) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8, 0, 20),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128, 129, 0),
    };
    let opened = from.run(|| Socket::new(domain, Type::RAW, Some(protocol)));
    let socket = opened.map_err(|e| format!("a raw socket: {e}"))?;
    socket
        .set_read_timeout(Some(SPACING))
        .map_err(|e| e.to_string())?;
    let own = std::process::id() as u16;
    let start = Instant::now();
    let mut buffer = [0; 256];
    for number in 0u16.. {
        if start.elapsed() > limit {
            break;
        }
        let mut packet = [0; 16];
        packet[0] = request;
        packet[4..6].copy_from_slice(&own.to_be_bytes());
        packet[6..8].copy_from_slice(&number.to_be_bytes());
        if domain == Domain::IPV4 {
            let sum = u32::from(request) * 256 + u32::from(own) + u32::from(number);
            let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
            packet[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        // Refused while there is no route or the peer is not ready.
        let _ = socket.send_to(&packet, &SocketAddr::new(to, 0).into());
        let next = Instant::now() + SPACING;
        while Instant::now() < next {
            let Ok(length) = (&socket).read(&mut buffer) else {
                break;
            };
            let answer = buffer[..length].get(skip..).unwrap_or_default();
            if answer.first() == Some(&reply) && answer.get(4..6) == Some(&own.to_be_bytes()) {
                return Ok(Instant::now());
            }
        }
    }
    Err(format!("{to} does not answer within {limit:?}"))
}
