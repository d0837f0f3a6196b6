//! ICMPv6: errors about packets of this machine (RFC 4443), and their rate.

use std::collections::HashMap;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use crate::Unreachable;
use crate::packet::{
    FragmentHeader, ICMP_HEADER, IPV6_HEADER, Upper, fill_checksum, ipv6_header, protocol,
    set_payload_length, upper,
};

/// RFC 4443 §2.4 (c): an error must not exceed the smallest MTU.
pub(crate) const QUOTE_MAX: usize = 1280 - IPV6_HEADER - ICMP_HEADER;
/// Types below this one are errors (RFC 4443 §2.1).
const FIRST_INFORMATIONAL: u8 = 128;
const REDIRECT: u8 = 137;
pub(crate) const ECHO_REQUEST: u8 = 128;
pub(crate) const ECHO_REPLY: u8 = 129;

/// An error to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Error {
    Unreachable(Unreachable),
    /// The MTU in bytes.
    TooBig(u32),
    HopLimit,
}

impl Error {
    /// Type, code, and the four bytes behind the checksum.
    fn fields(self) -> (u8, u8, u32) {
        match self {
            Self::Unreachable(Unreachable::NoRoute) => (1, 0, 0),
            Self::Unreachable(Unreachable::Prohibited) => (1, 1, 0),
            Self::Unreachable(Unreachable::Address) => (1, 3, 0),
            Self::Unreachable(Unreachable::Port) => (1, 4, 0),
            Self::TooBig(mtu) => (2, 0, mtu),
            Self::HopLimit => (3, 0, 0),
        }
    }
}

/// What an error may be about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Quoted {
    pub from: Ipv6Addr,
    pub to: Ipv6Addr,
    /// An echo request: its sender repeats it without end, so that errors about it are rare on purpose (N20).
    pub echo: bool,
}

/// Reads the packet, whole or cut, that an error shall quote. `None`: no packet, or RFC 4443 §2.4 (e) forbids an error about it.
pub(crate) fn quoted(quote: &[u8]) -> Option<Quoted> {
    let header = etherparse::Ipv6HeaderSlice::from_slice(quote).ok()?;
    let (from, to) = (header.source_addr(), header.destination_addr());
    // (e.3) and (e.6); packets too big to a multicast group do not come up here.
    if to.is_multicast() || from.is_multicast() || from.is_unspecified() {
        return None;
    }
    let icmp_at = match upper(quote, header.next_header().0).ok()? {
        Upper::Whole {
            protocol: protocol::ICMPV6,
            at,
        } => Some(at),
        Upper::Fragment(FragmentHeader {
            at,
            next_header: protocol::ICMPV6,
            offset,
            ..
        }) => {
            // Behind the first fragment nothing tells an error from a request.
            if offset != 0 {
                return None;
            }
            Some(at + 8)
        }
        _ => None,
    };
    let kind = match icmp_at {
        Some(at) => Some(*quote.get(at)?),
        None => None,
    };
    if kind.is_some_and(|kind| kind < FIRST_INFORMATIONAL || kind == REDIRECT) {
        return None;
    }
    Some(Quoted {
        from,
        to,
        echo: kind == Some(ECHO_REQUEST),
    })
}

/// Writes an error about `quote` into `out`.
pub(crate) fn write_error(
    out: &mut Vec<u8>,
    source: Ipv6Addr,
    to: Ipv6Addr,
    error: Error,
    quote: &[u8],
) {
    let (kind, code, argument) = error.fields();
    out.clear();
    out.extend_from_slice(&ipv6_header(source, to, protocol::ICMPV6, 0));
    out.extend_from_slice(&[kind, code, 0, 0]);
    out.extend_from_slice(&argument.to_be_bytes());
    out.extend_from_slice(&quote[..quote.len().min(QUOTE_MAX)]);
    set_payload_length(out);
    fill_checksum(out, IPV6_HEADER, source, to, protocol::ICMPV6);
}

/// Bytes of a refused packet behind its IPv6 header that [`prohibited`] quotes: ports, and what a program knows its packet by.
const REFUSED_QUOTE: usize = 56;

/// An ICMPv6 message, without IPv6 header and checksum, by which one machine tells another that it lets a packet of this
/// protocol not in (1/1, RFC 4443 §3.1). `transport` is what followed the packet's IPv6 header, in parts.
pub fn prohibited(from: Ipv6Addr, to: Ipv6Addr, protocol: u8, transport: &[&[u8]]) -> Vec<u8> {
    let (kind, code, argument) = Error::Unreachable(Unreachable::Prohibited).fields();
    let length: usize = transport.iter().map(|part| part.len()).sum();
    let payload = u16::try_from(length).unwrap_or(u16::MAX);
    let mut message = vec![kind, code, 0, 0];
    message.extend_from_slice(&argument.to_be_bytes());
    message.extend_from_slice(&ipv6_header(from, to, protocol, payload));
    let end = message.len() + length.min(REFUSED_QUOTE);
    for part in transport {
        let room = end - message.len();
        message.extend_from_slice(&part[..part.len().min(room)]);
    }
    message
}

/// The first eight bytes of an echo message, without checksum.
pub(crate) fn echo_header(kind: u8, id: u16, sequence: u16) -> [u8; ICMP_HEADER] {
    let [id_high, id_low] = id.to_be_bytes();
    let [sequence_high, sequence_low] = sequence.to_be_bytes();
    [kind, 0, 0, 0, id_high, id_low, sequence_high, sequence_low]
}

/// How often errors may be sent: a token bucket for all (RFC 4443 §2.4 f), and once a second per destination for
/// "address unreachable" about echo requests (N20).
#[derive(Debug)]
pub(crate) struct Limiter {
    tokens: u32,
    /// Time up to which tokens were added.
    filled: Option<Instant>,
    unreachable: HashMap<Ipv6Addr, Instant>,
}

impl Limiter {
    const BURST: u32 = 100;
    const INTERVAL: Duration = Duration::from_millis(1);
    const PER_DESTINATION: Duration = Duration::from_secs(1);
    const DESTINATIONS: usize = 1024;

    pub fn new() -> Self {
        Self {
            tokens: Self::BURST,
            filled: None,
            unreachable: HashMap::new(),
        }
    }

    /// Takes a token.
    pub fn allow(&mut self, now: Instant) -> bool {
        let filled = *self.filled.get_or_insert(now);
        let elapsed = now.saturating_duration_since(filled);
        let new = elapsed.as_nanos() / Self::INTERVAL.as_nanos();
        match u32::try_from(new) {
            Ok(new) if new < Self::BURST => {
                self.tokens = (self.tokens + new).min(Self::BURST);
                self.filled = Some(filled + Self::INTERVAL * new);
            }
            _ => {
                self.tokens = Self::BURST;
                self.filled = Some(now);
            }
        }
        let allowed = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        allowed
    }

    /// Whether `destination` was not called unreachable within the last second.
    pub fn allow_destination(&mut self, now: Instant, destination: Ipv6Addr) -> bool {
        let fresh = |&at: &Instant| now.saturating_duration_since(at) < Self::PER_DESTINATION;
        if self.unreachable.get(&destination).is_some_and(fresh) {
            return false;
        }
        if self.unreachable.len() >= Self::DESTINATIONS {
            self.unreachable.retain(|_, at| fresh(at));
        }
        if self.unreachable.len() >= Self::DESTINATIONS {
            return false;
        }
        self.unreachable.insert(destination, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_one_error_per_millisecond() {
        let mut limiter = Limiter::new();
        let start = Instant::now();
        let count = |limiter: &mut Limiter, now| (0..1000).filter(|_| limiter.allow(now)).count();
        assert_eq!(count(&mut limiter, start), 100);
        assert_eq!(count(&mut limiter, start + Duration::from_millis(7)), 7);
        assert_eq!(count(&mut limiter, start + Duration::from_micros(7_999)), 0);
        assert_eq!(count(&mut limiter, start + Duration::from_millis(8)), 1);
        assert_eq!(count(&mut limiter, start + Duration::from_secs(3600)), 100);
    }

    #[test]
    fn a_destination_is_called_unreachable_once_a_second() {
        // N20
        let mut limiter = Limiter::new();
        let start = Instant::now();
        let (a, b) = ("fda0::a".parse().unwrap(), "fda0::b".parse().unwrap());
        assert!(limiter.allow_destination(start, a));
        assert!(!limiter.allow_destination(start + Duration::from_millis(999), a));
        assert!(limiter.allow_destination(start + Duration::from_millis(999), b));
        assert!(limiter.allow_destination(start + Duration::from_secs(1), a));
        for host in 0..5000u128 {
            limiter.allow_destination(start, Ipv6Addr::from(host << 4));
        }
        assert!(limiter.unreachable.len() <= Limiter::DESTINATIONS);
    }
}
