//! From a STUN or TURN URI to servers, by the system's DNS servers (RFC 5928, RFC 8489 §8; T36).
//!
//! Which name is asked for next, `anode_turn::resolve` knows. Host names go to the system's resolver, so that /etc/hosts
//! counts; SRV and NAPTR are asked for here. A forged answer misleads, and impersonates nobody where TLS is spoken.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::time::Duration;

use anode_turn::Transport;
use anode_turn::resolve::{Lookup, Naptr, Query, Server, Srv};
use anode_turn::uri::Uri;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query as Question, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use rand::TryRng as _;
use rand::rngs::SysRng;

use crate::dns::message::is_response;
use crate::dns::stub;

/// The transports that we speak, best first.
const SPEAK: [Transport; 4] = [
    Transport::Udp,
    Transport::Tcp,
    Transport::Tls,
    Transport::Dtls,
];
/// How long one DNS server has.
const TRY: Duration = Duration::from_millis(1500);
/// Datagrams that are looked at for one question: more are a flood.
const MAX_DATAGRAMS: usize = 16;
/// The largest datagram that is asked for: no fragments on any link.
const PAYLOAD: u16 = 1232;

/// The servers that a URI leads to, in the order to try them.
///
/// # Errors
/// In words: which lookup failed, and how.
pub fn resolve(uri: &Uri) -> Result<Vec<Server>, String> {
    let mut lookup = Lookup::new(uri.clone(), &SPEAK);
    let mut failure = None;
    while let Some(query) = lookup.query() {
        match query {
            Query::Naptr(name) => lookup.naptr(records(&name, RecordType::NAPTR, naptr)),
            Query::Srv(name) => {
                let found = records(&name, RecordType::SRV, srv);
                lookup.srv(found, &mut below);
            }
            Query::Addresses(name) => match (name.as_str(), 0).to_socket_addrs() {
                Ok(found) => lookup.addresses(&found.map(|a| a.ip()).collect::<Vec<_>>()),
                Err(error) => {
                    failure = Some(format!("{name}: {error}"));
                    lookup.addresses(&[]);
                }
            },
        }
    }
    match lookup.servers() {
        [] => Err(failure.unwrap_or_else(|| "no server is found for it".to_owned())),
        servers => Ok(servers.to_vec()),
    }
}

/// A random number below `n`.
fn below(n: u32) -> u32 {
    // Without randomness the first record is as good as any other.
    SysRng.try_next_u32().unwrap_or_default() % n.max(1)
}

/// SRV records of a name, as the system's DNS servers have them; none if nobody answers.
pub fn srv_records(name: &str) -> Vec<Srv> {
    records(name, RecordType::SRV, srv)
}

fn naptr(data: &RData) -> Option<Naptr> {
    let RData::NAPTR(naptr) = data else {
        return None;
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some(Naptr {
        order: naptr.order,
        preference: naptr.preference,
        flags: text(&naptr.flags),
        services: text(&naptr.services),
        replacement: host(&naptr.replacement),
    })
}

fn srv(data: &RData) -> Option<Srv> {
    let RData::SRV(srv) = data else {
        return None;
    };
    Some(Srv {
        priority: srv.priority,
        weight: srv.weight,
        port: srv.port,
        target: host(&srv.target),
    })
}

/// As `anode_turn` has names: without the last dot, but for the root.
fn host(name: &Name) -> String {
    let text = name.to_ascii();
    match text.strip_suffix('.') {
        Some("") | None => text,
        Some(text) => text.to_owned(),
    }
}

/// Records of one type; none if nobody answers, as where there are none: the lookup then goes on as RFC 5928 says.
fn records<T>(name: &str, kind: RecordType, read: impl Fn(&RData) -> Option<T>) -> Vec<T> {
    let servers = stub::system_servers(None).unwrap_or_default();
    for server in servers {
        match ask(server, name, kind) {
            Ok(message) => {
                return message
                    .answers
                    .iter()
                    .filter_map(|record| read(&record.data))
                    .collect();
            }
            Err(error) => tracing::debug!("{kind} {name} at {server}: {error}"),
        }
    }
    Vec::new()
}

fn ask(server: SocketAddr, name: &str, kind: RecordType) -> io::Result<Message> {
    let id = SysRng.try_next_u32().map_err(io::Error::other)? as u16;
    let name = Name::from_ascii(format!("{name}.")).map_err(io::Error::other)?;
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Question::query(name.clone(), kind));
    let mut edns = Edns::new();
    edns.set_max_payload(PAYLOAD);
    message.set_edns(edns);
    let bytes = message.to_vec().map_err(io::Error::other)?;

    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(TRY))?;
    socket.send(&bytes)?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    for _ in 0..MAX_DATAGRAMS {
        let length = socket.recv(&mut buffer)?;
        let Some(answer) = judge(&buffer[..length], id, &name, kind) else {
            continue;
        };
        let answer = match answer.metadata.truncation {
            true => over_tcp(server, &bytes, id, &name, kind)?,
            false => answer,
        };
        return match answer.metadata.response_code {
            ResponseCode::NoError | ResponseCode::NXDomain => Ok(answer),
            code => Err(io::Error::other(format!("the server answers {code}"))),
        };
    }
    Err(io::Error::other("a flood of answers to other questions"))
}

/// The answer to just this question, or nothing.
fn judge(bytes: &[u8], id: u16, name: &Name, kind: RecordType) -> Option<Message> {
    let told = bytes.get(..2).map(|id| u16::from_be_bytes([id[0], id[1]]));
    if told != Some(id) {
        return None;
    }
    let message = Message::from_vec(bytes).ok()?;
    let ours = |query: &Question| {
        query.name() == name && query.query_type() == kind && query.query_class() == DNSClass::IN
    };
    let fits = matches!(message.queries.as_slice(), [query] if ours(query));
    (fits && is_response(&message)).then_some(message)
}

fn over_tcp(
    server: SocketAddr,
    question: &[u8],
    id: u16,
    name: &Name,
    kind: RecordType,
) -> io::Result<Message> {
    let mut stream = TcpStream::connect_timeout(&server, TRY)?;
    stream.set_read_timeout(Some(TRY))?;
    let length = u16::try_from(question.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], question].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer)?;
    judge(&answer, id, name, kind)
        .ok_or_else(|| io::Error::other("an answer over TCP to another question"))
}
