//! Where an overlay's document is, by the overlay's name alone (R122, R123): an address, DNS SRV, or, for names under
//! `.local`, multicast DNS as a one-shot question (RFC 6762 §5.1, RFC 6763 §4).

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anode_routing::dht::reload::config::{Discovery, discovery};
use anode_routing::ice::own_addresses;
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use rand::TryRng as _;
use rand::rngs::SysRng;
use socket2::SockRef;

use crate::turn::resolve::srv_records;

/// Where multicast DNS is spoken.
const GROUP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(224, 0, 0, 251)), 5353);
/// Answers come within this time, or nobody is there.
const WAIT: Duration = Duration::from_millis(1500);
/// Datagrams that are looked at: more are a flood.
const MAX_DATAGRAMS: usize = 64;
/// Records that are remembered of all answers.
const MAX_RECORDS: usize = 256;
/// Places that are tried.
const MAX_PLACES: usize = 4;
/// HTTPS.
const PORT: u16 = 443;

/// Where to ask for the document over HTTPS, best first: a host and a port.
///
/// # Errors
/// In words.
pub fn places(overlay: &str) -> Result<Vec<(String, u16)>, String> {
    let mut found = match discovery(overlay) {
        Discovery::Address(ip) => vec![(ip.to_string(), PORT)],
        Discovery::Srv(name) => by_srv(&name, overlay),
        Discovery::Local { service, srv } => match by_multicast(&service) {
            Ok(found) if !found.is_empty() => found,
            _ => by_srv(&srv, overlay),
        },
    };
    found.truncate(MAX_PLACES);
    match found.is_empty() {
        true => Err("nobody says where it is".to_owned()),
        false => Ok(found),
    }
}

/// Without SRV records, the name itself may lead there.
fn by_srv(name: &str, overlay: &str) -> Vec<(String, u16)> {
    let mut found = srv_records(name);
    // RFC 2782: the lowest priority first; within it, the heaviest
    found.sort_by_key(|it| (it.priority, std::cmp::Reverse(it.weight)));
    let mut found: Vec<(String, u16)> = found
        .into_iter()
        .filter(|it| it.target != ".")
        .map(|it| (it.target, it.port))
        .collect();
    if found.is_empty() {
        found.push((overlay.to_owned(), PORT));
    }
    found
}

/// Records of answers: pointers, places of instances, addresses of hosts.
#[derive(Default)]
struct Heard {
    pointers: BTreeSet<Name>,
    places: BTreeSet<(Name, Name, u16)>,
    addresses: BTreeSet<(Name, IpAddr)>,
}

impl Heard {
    fn note(&mut self, service: &Name, message: &Message) {
        let records = message.answers.iter().chain(&message.additionals);
        for record in records {
            let known = self.pointers.len() + self.places.len() + self.addresses.len();
            if known >= MAX_RECORDS {
                return;
            }
            match &record.data {
                RData::PTR(instance) if record.name == *service => {
                    self.pointers.insert(instance.0.clone());
                }
                RData::SRV(srv) => {
                    let place = (record.name.clone(), srv.target.clone(), srv.port);
                    self.places.insert(place);
                }
                RData::A(ip) => drop(self.addresses.insert((record.name.clone(), ip.0.into()))),
                RData::AAAA(ip) => drop(self.addresses.insert((record.name.clone(), ip.0.into()))),
                _ => {}
            }
        }
    }

    /// Instances of the service whose host has an address.
    fn found(&self) -> Vec<(String, u16)> {
        let places = self.places.iter();
        let places = places.filter(|(instance, ..)| self.pointers.contains(instance));
        let mut found = Vec::new();
        for (_, host, port) in places {
            let addresses = self.addresses.iter().filter(|(name, _)| name == host);
            found.extend(addresses.map(|(_, ip)| (ip.to_string(), *port)));
        }
        found
    }

    /// What is to be asked next.
    fn missing(&self) -> Vec<(Name, RecordType)> {
        let placed = |name: &&Name| self.places.iter().all(|(instance, ..)| instance != *name);
        let instances = self.pointers.iter().filter(placed);
        let instances = instances.map(|name| (name.clone(), RecordType::SRV));
        let hosts = self.places.iter().map(|(_, host, _)| host);
        let known = |host: &&Name| self.addresses.iter().all(|(name, _)| name != *host);
        let hosts = hosts
            .filter(known)
            .map(|name| (name.clone(), RecordType::A));
        instances.chain(hosts).collect()
    }
}

fn by_multicast(service: &str) -> io::Result<Vec<(String, u16)>> {
    let service = Name::from_ascii(format!("{service}.")).map_err(io::Error::other)?;
    // A socket for each address of ours, so that the question goes out of every interface.
    let own = own_addresses()?.into_iter().filter_map(|ip| match ip {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    });
    let sockets: Vec<UdpSocket> = own.filter_map(|ip| open(ip).ok()).collect();
    let mut heard = Heard::default();
    let mut asked = BTreeSet::new();
    let end = Instant::now() + WAIT;
    let mut wanted = vec![(service.clone(), RecordType::PTR)];
    for _ in 0..MAX_DATAGRAMS {
        wanted.retain(|question| asked.insert(format!("{} {}", question.0, question.1)));
        for (name, kind) in wanted.drain(..) {
            let id = SysRng.try_next_u32().map_err(io::Error::other)? as u16;
            let mut message = Message::new(id, MessageType::Query, OpCode::Query);
            message.add_query(Query::query(name, kind));
            let bytes = message.to_vec().map_err(io::Error::other)?;
            for socket in &sockets {
                // An interface without a way is none that answers.
                let _ = socket.send_to(&bytes, GROUP);
            }
        }
        let Some(answer) = receive(&sockets, end) else {
            break;
        };
        let Ok(message) = Message::from_vec(&answer) else {
            continue;
        };
        if message.metadata.message_type == MessageType::Response {
            heard.note(&service, &message);
        }
        let found = heard.found();
        if !found.is_empty() {
            return Ok(found);
        }
        wanted = heard.missing();
    }
    Ok(heard.found())
}

/// Goes out of the interface that has this address, whatever the routes say.
fn open(ip: Ipv4Addr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((ip, 0))?;
    SockRef::from(&socket).set_multicast_if_v4(&ip)?;
    Ok(socket)
}

/// The next datagram at any of the sockets; `None`: it is too late.
fn receive(sockets: &[UdpSocket], end: Instant) -> Option<Vec<u8>> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd as _;
    let left = end.saturating_duration_since(Instant::now());
    let left = u16::try_from(left.as_millis()).unwrap_or(u16::MAX);
    if left == 0 || sockets.is_empty() {
        return None;
    }
    let fds = sockets.iter();
    let mut fds: Vec<PollFd> = fds
        .map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN))
        .collect();
    poll(&mut fds, PollTimeout::from(left)).ok()?;
    let ready = fds.iter().position(|fd| fd.any() == Some(true))?;
    let mut buffer = vec![0; 9000];
    let (length, _) = sockets[ready].recv_from(&mut buffer).ok()?;
    buffer.truncate(length);
    Some(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::rr::Record;
    use hickory_proto::rr::rdata::{A, PTR, SRV};

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn answer(records: Vec<(&str, RData)>) -> Message {
        let mut message = Message::new(0, MessageType::Response, OpCode::Query);
        for (owner, data) in records {
            message.add_answer(Record::from_rdata(name(owner), 60, data));
        }
        message
    }

    // R122, RFC 6763 §4: pointer, place, address, each asked for where it does not come along
    #[test]
    fn a_service_is_followed_to_its_address() {
        let service = name("_p2p_menroll._tcp.local.");
        let instance = "home._p2p_menroll._tcp.local.";
        let mut heard = Heard::default();
        heard.note(
            &service,
            &answer(vec![(
                "_p2p_menroll._tcp.local.",
                RData::PTR(PTR(name(instance))),
            )]),
        );
        assert_eq!(heard.missing(), [(name(instance), RecordType::SRV)]);
        let srv = SRV::new(0, 0, 6085, name("box.local."));
        heard.note(&service, &answer(vec![(instance, RData::SRV(srv))]));
        assert_eq!(heard.missing(), [(name("box.local."), RecordType::A)]);
        assert!(heard.found().is_empty());
        heard.note(
            &service,
            &answer(vec![("box.local.", RData::A(A::new(192, 0, 2, 7)))]),
        );
        assert_eq!(heard.found(), [("192.0.2.7".to_owned(), 6085)]);
        assert!(heard.missing().is_empty());
    }

    #[test]
    fn other_services_and_floods_are_passed_over() {
        let service = name("_p2p_menroll._tcp.local.");
        let mut heard = Heard::default();
        let other = answer(vec![(
            "_http._tcp.local.",
            RData::PTR(PTR(name("x.local."))),
        )]);
        heard.note(&service, &other);
        assert!(heard.missing().is_empty() && heard.found().is_empty());
        for n in 0..1000 {
            let host = format!("h{n}.local.");
            let records = vec![(host.as_str(), RData::A(A::new(192, 0, 2, 1)))];
            heard.note(&service, &answer(records));
        }
        assert_eq!(heard.addresses.len(), MAX_RECORDS);
    }

    // R122: an address is asked itself
    #[test]
    fn an_address_needs_no_question() {
        assert_eq!(
            places("192.0.2.1").unwrap(),
            [("192.0.2.1".to_owned(), 443)]
        );
    }
}
