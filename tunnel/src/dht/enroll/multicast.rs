//! The credential server of an overlay under `.local` answers for itself by multicast DNS (R122): there is no other DNS.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anode_routing::ice::own_addresses;
use hickory_proto::op::{Message, MessageType, OpCode};
use hickory_proto::rr::rdata::{A, PTR, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use socket2::{Domain, Protocol, Socket, Type};

/// Where it is spoken (RFC 6762 §3).
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const PORT: u16 = 5353;
/// Seconds that answers are good (RFC 6762 §10).
const TTL: u32 = 120;
/// Answers a second at most.
const RATE: u32 = 20;

/// Socket and names, before this node gives up its rights.
pub struct Responder {
    socket: UdpSocket,
    service: Name,
    instance: Name,
    host: Name,
    port: u16,
    addresses: Vec<Ipv4Addr>,
}

impl Responder {
    /// For the server of this overlay. `None`: it is in the DNS, and not under `.local`.
    ///
    /// # Errors
    /// There is no socket to hear questions by.
    pub fn new(overlay: &str, service: &str, at: &[IpAddr], port: u16) -> io::Result<Option<Self>> {
        let Some(label) = overlay.strip_suffix(".local") else {
            return Ok(None);
        };
        let name = |text: String| Name::from_ascii(text).map_err(io::Error::other);
        let addresses = at.iter().filter_map(|ip| match ip {
            IpAddr::V4(ip) => Some(*ip),
            IpAddr::V6(_) => None,
        });
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        // Other responders of this machine hear at the same port.
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)).into())?;
        let socket = UdpSocket::from(socket);
        for own in own_addresses()? {
            if let IpAddr::V4(own) = own {
                // An interface without multicast has nobody who asks.
                let _ = socket.join_multicast_v4(&GROUP, &own);
            }
        }
        socket.set_nonblocking(true)?;
        Ok(Some(Self {
            socket,
            service: name(format!("{service}."))?,
            instance: name(format!("{label}.{service}."))?,
            host: name(format!("{overlay}."))?,
            port,
            addresses: addresses.collect(),
        }))
    }

    /// Answers until the node ends.
    pub async fn run(self) {
        let socket = match self
            .socket
            .try_clone()
            .and_then(tokio::net::UdpSocket::from_std)
        {
            Ok(socket) => socket,
            Err(error) => return tracing::warn!("multicast DNS: {error}"),
        };
        let mut buffer = [0; 1500];
        let (mut since, mut answered) = (Instant::now(), 0);
        loop {
            let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
                continue;
            };
            if since.elapsed() >= Duration::from_secs(1) {
                (since, answered) = (Instant::now(), 0);
            }
            let Some(answer) = self.answer(&buffer[..length]).filter(|_| answered < RATE) else {
                continue;
            };
            answered += 1;
            // RFC 6762 §6.7: whoever asks from another port is answered there.
            let to = match from.port() {
                PORT => SocketAddr::from((GROUP, PORT)),
                _ => from,
            };
            let _ = socket.send_to(&answer, to).await;
        }
    }

    fn answer(&self, question: &[u8]) -> Option<Vec<u8>> {
        let asked = Message::from_vec(question).ok()?;
        if asked.metadata.message_type != MessageType::Query {
            return None;
        }
        let mut answer = Message::new(asked.metadata.id, MessageType::Response, OpCode::Query);
        answer.metadata.authoritative = true;
        let ours = |kind: RecordType, name: &Name| {
            let mut queries = asked.queries.iter();
            queries.any(|it| {
                it.name() == name
                    && matches!(it.query_type(), of if of == kind || of == RecordType::ANY)
            })
        };
        let (by_type, by_name) = (
            ours(RecordType::PTR, &self.service),
            ours(RecordType::SRV, &self.instance),
        );
        if !by_type && !by_name && !ours(RecordType::A, &self.host) {
            return None;
        }
        answer.queries.clone_from(&asked.queries);
        let record = |name: &Name, data| Record::from_rdata(name.clone(), TTL, data);
        if by_type {
            let pointer = RData::PTR(PTR(self.instance.clone()));
            answer.add_answer(record(&self.service, pointer));
        }
        if by_type || by_name {
            let place = SRV::new(0, 0, self.port, self.host.clone());
            answer.add_answer(record(&self.instance, RData::SRV(place)));
        }
        for ip in &self.addresses {
            answer.add_answer(record(&self.host, RData::A(A(*ip))));
        }
        answer.to_vec().ok()
    }
}
