//! TXT questions to the servers that the system uses, and what their answers say (A31, D13). A stub: it asks for
//! recursion and believes the answer to just its question. A forged one can only lead to another key, which then has to be
//! proven: it misdirects a name, and impersonates no address.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anode_wire::Address;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use rand::TryRng;
use rand::rngs::SysRng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::host::HostName;
use super::message::is_response;

/// Where the system's servers stand (resolv.conf(5)). It is never written.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Servers that are tried, as by the C library (MAXNS).
const MAX_SERVERS: usize = 3;

/// Bytes of resolv.conf that are read.
const MAX_CONF: usize = 64 * 1024;

/// How long one server has.
const TRY: Duration = Duration::from_millis(1500);

/// How often all servers are tried.
const ROUNDS: usize = 2;

/// Datagrams that are looked at for one question: more are a flood.
const MAX_DATAGRAMS: usize = 16;

/// The largest datagram that is asked for: no fragments on any link.
const PAYLOAD: u16 = 1232;

/// CNAMEs that are followed inside one answer.
const MAX_ALIASES: usize = 8;

/// Addresses of one name that are kept.
pub const MAX_ADDRESSES: usize = 8;

/// How long an answer is believed at most.
const MAX_TTL: u32 = 3600;

/// How long a denial is believed: when the answer does not say, and at most.
const DENIAL_TTL: (u32, u32) = (10, 60);

/// What the servers say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The addresses at the name, never none, for so many seconds.
    Found(Vec<Address>, u32),
    /// The name exists, and carries no valid `anode:` record.
    Empty(u32),
    /// No such name.
    Nobody(u32),
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StubError {
    /// No `nameserver` line, or only this node's own responder.
    #[error(
        "the system has no DNS server to ask: add a `nameserver` line to /etc/resolv.conf, or [dns] servers"
    )]
    NoServers,
    /// Nobody answered in time.
    #[error("no DNS server answered ({0})")]
    Silent(String),
    /// They answered with an error.
    #[error("the DNS server answers {0}")]
    Refused(ResponseCode),
}

/// The servers of resolv.conf, without `own`.
pub fn system_servers(own: Option<SocketAddr>) -> io::Result<Vec<SocketAddr>> {
    let text = std::fs::read(RESOLV_CONF)?;
    let text = String::from_utf8_lossy(&text[..text.len().min(MAX_CONF)]);
    Ok(parse_servers(&text, own))
}

/// Whether programs that read resolv.conf ask `own`.
pub fn system_asks(own: SocketAddr) -> bool {
    system_servers(None).is_ok_and(|servers| servers.contains(&own))
}

fn parse_servers(text: &str, own: Option<SocketAddr>) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("nameserver")).then_some(words.next()?)
        })
        .filter_map(|word| word.parse::<IpAddr>().ok())
        .map(|ip| SocketAddr::new(ip, 53))
        .filter(|server| Some(*server) != own)
        .take(MAX_SERVERS)
        .collect()
}

/// Asks `servers`, one after the other, until one has an answer.
pub async fn ask(servers: &[SocketAddr], host: &HostName) -> Result<Answer, StubError> {
    let mut last = StubError::NoServers;
    for _ in 0..ROUNDS {
        for server in servers.iter().take(MAX_SERVERS) {
            match timeout(TRY, ask_one(*server, host)).await {
                Ok(Ok(Ok(answer))) => return Ok(answer),
                Ok(Ok(Err(code))) => last = StubError::Refused(code),
                Ok(Err(error)) => last = StubError::Silent(format!("{server}: {error}")),
                Err(_) => last = StubError::Silent(format!("{server}: nothing in {TRY:?}")),
            }
        }
    }
    Err(last)
}

async fn ask_one(server: SocketAddr, host: &HostName) -> io::Result<Result<Answer, ResponseCode>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // Connected: the kernel lets through what comes from this server alone, and tells of a closed port.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let question = Asked::new(host)?;
    socket.send(&question.bytes).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    for _ in 0..MAX_DATAGRAMS {
        let length = socket.recv(&mut buffer).await?;
        match question.judge(&buffer[..length]) {
            Judged::Foreign => {}
            Judged::Truncated => return over_tcp(server, &question).await,
            Judged::Answer(answer) => return Ok(answer),
        }
    }
    Err(io::Error::other("a flood of answers to other questions"))
}

async fn over_tcp(
    server: SocketAddr,
    question: &Asked,
) -> io::Result<Result<Answer, ResponseCode>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(question.bytes.len()).map_err(io::Error::other)?;
    let framed = [&length.to_be_bytes()[..], &question.bytes].concat();
    stream.write_all(&framed).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    match question.judge(&answer) {
        Judged::Answer(answer) => Ok(answer),
        Judged::Foreign | Judged::Truncated => {
            Err(io::Error::other("an answer over TCP to another question"))
        }
    }
}

/// A question under way.
struct Asked {
    id: u16,
    name: Name,
    bytes: Vec<u8>,
}

/// What a message is to a question.
#[derive(PartialEq, Eq, Debug)]
enum Judged {
    /// Somebody else's, forged, or no message.
    Foreign,
    /// Ours, and too long for a datagram.
    Truncated,
    /// Ours.
    Answer(Result<Answer, ResponseCode>),
}

impl Asked {
    fn new(host: &HostName) -> io::Result<Self> {
        let id = SysRng.try_next_u32().map_err(io::Error::other)? as u16;
        Self::with_id(id, host).map_err(io::Error::other)
    }

    fn with_id(id: u16, host: &HostName) -> Result<Self, hickory_proto::ProtoError> {
        let name = Name::from_ascii(format!("{host}."))?;
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(name.clone(), RecordType::TXT));
        let mut edns = Edns::new();
        edns.set_max_payload(PAYLOAD);
        message.set_edns(edns);
        let bytes = message.to_vec()?;
        Ok(Self { id, name, bytes })
    }

    fn judge(&self, bytes: &[u8]) -> Judged {
        // The header and the question first: nobody else's records are parsed.
        let id = bytes.get(..2).map(|id| u16::from_be_bytes([id[0], id[1]]));
        if id != Some(self.id) {
            return Judged::Foreign;
        }
        let Ok(message) = Message::from_vec(bytes) else {
            return Judged::Foreign;
        };
        let ours = |query: &Query| {
            *query.name() == self.name
                && query.query_type() == RecordType::TXT
                && query.query_class() == DNSClass::IN
        };
        let [query] = message.queries.as_slice() else {
            return Judged::Foreign;
        };
        if !is_response(&message) || !ours(query) {
            return Judged::Foreign;
        }
        if message.metadata.truncation {
            return Judged::Truncated;
        }
        Judged::Answer(match message.metadata.response_code {
            ResponseCode::NoError => Ok(self.records(&message)),
            ResponseCode::NXDomain => Ok(Answer::Nobody(denial_ttl(&message))),
            code => Err(code),
        })
    }

    /// The valid records at the name, or at the name that it is an alias of (D13).
    fn records(&self, message: &Message) -> Answer {
        let mut owner = self.name.clone();
        let mut ttl = MAX_TTL;
        for _ in 0..=MAX_ALIASES {
            let at = || {
                let mine = |record: &&hickory_proto::rr::Record| {
                    record.name == owner && record.dns_class == DNSClass::IN
                };
                message.answers.iter().filter(mine)
            };
            let mut addresses: Vec<Address> = Vec::new();
            for record in at() {
                let RData::TXT(text) = &record.data else {
                    continue;
                };
                if let Some(Ok(address)) = Address::from_txt(&text.txt_data) {
                    ttl = ttl.min(record.ttl);
                    if addresses.len() < MAX_ADDRESSES && !addresses.contains(&address) {
                        addresses.push(address);
                    }
                }
            }
            if !addresses.is_empty() {
                return Answer::Found(addresses, ttl);
            }
            let alias = at().find_map(|record| match &record.data {
                RData::CNAME(target) => Some((target.0.clone(), record.ttl)),
                _ => None,
            });
            let Some((target, alias_ttl)) = alias else {
                break;
            };
            ttl = ttl.min(alias_ttl);
            owner = target;
        }
        Answer::Empty(denial_ttl(message))
    }
}

/// RFC 2308 §5, within our bounds.
fn denial_ttl(message: &Message) -> u32 {
    let (default, most) = DENIAL_TTL;
    let told = message
        .authorities
        .iter()
        .find_map(|record| match &record.data {
            RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
            _ => None,
        });
    told.unwrap_or(default).min(most)
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::Record;
    use hickory_proto::rr::rdata::{CNAME, SOA, TXT};

    use super::*;

    const ADDRESS: &str = "aeaaaaaaaaaag2yx2hzoclcci74lzzxfmoseb4txan6yclplgoqpjijzixmjrquw";

    fn host() -> HostName {
        "host.example.com".parse().unwrap()
    }

    fn asked() -> Asked {
        Asked::with_id(7, &host()).unwrap()
    }

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    /// An answer to the question with these records.
    fn answer(records: Vec<Record>) -> Message {
        let mut message = Message::response(7, OpCode::Query);
        message.add_query(Query::query(name("host.example.com."), RecordType::TXT));
        message.add_answers(records);
        message
    }

    fn txt(owner: &str, text: &str, ttl: u32) -> Record {
        Record::from_rdata(
            name(owner),
            ttl,
            RData::TXT(TXT::new(vec![text.to_owned()])),
        )
    }

    fn alias(owner: &str, target: &str, ttl: u32) -> Record {
        Record::from_rdata(name(owner), ttl, RData::CNAME(CNAME(name(target))))
    }

    fn judge(message: &Message) -> Judged {
        asked().judge(&message.to_vec().unwrap())
    }

    #[test]
    fn only_the_answer_to_the_own_question_counts() {
        let text = format!("anode:{ADDRESS}");
        let good = answer(vec![txt("host.example.com.", &text, 60)]);
        let found = Answer::Found(vec![ADDRESS.parse().unwrap()], 60);
        assert_eq!(judge(&good), Judged::Answer(Ok(found)));

        let wrong: &[fn(&mut Message)] = &[
            |message| message.metadata.id = 8,
            |message| message.metadata.message_type = MessageType::Query,
            |message| message.queries.clear(),
            |message| {
                message.queries[0].set_name(Name::from_ascii("other.example.com.").unwrap());
            },
            |message| {
                message.queries[0].set_query_type(RecordType::A);
            },
        ];
        for (number, change) in wrong.iter().enumerate() {
            let mut message = good.clone();
            change(&mut message);
            assert_eq!(judge(&message), Judged::Foreign, "{number}");
        }
        for bytes in [&[][..], &[0], &[0, 7], &[0xff; 600]] {
            assert_eq!(asked().judge(bytes), Judged::Foreign);
        }
        let mut long = good;
        long.metadata.truncation = true;
        assert_eq!(judge(&long), Judged::Truncated);
    }

    #[test]
    fn records_are_found_behind_aliases_and_nowhere_else() {
        // S28: CNAME loops, answers for names not asked, wrong types, too many.
        let text = format!("anode:{ADDRESS}");
        let found = |ttl| Answer::Found(vec![ADDRESS.parse().unwrap()], ttl);
        let chain: Vec<Record> = (0..20)
            .map(|n| {
                alias(
                    &format!("n{n}.example.com."),
                    &format!("n{}.example.com.", n + 1),
                    9,
                )
            })
            .chain([
                alias("host.example.com.", "n0.example.com.", 9),
                txt("n20.example.com.", &text, 9),
            ])
            .collect();
        let cases = [
            (
                vec![
                    alias("host.example.com.", "a.example.net.", 30),
                    txt("a.example.net.", &text, 60),
                ],
                found(30),
            ),
            (
                vec![txt("other.example.com.", &text, 60)],
                Answer::Empty(10),
            ),
            (
                vec![txt("host.example.com.", "v=spf1", 60)],
                Answer::Empty(10),
            ),
            (
                vec![
                    alias("host.example.com.", "a.example.net.", 30),
                    alias("a.example.net.", "host.example.com.", 30),
                ],
                Answer::Empty(10),
            ),
            (chain, Answer::Empty(10)),
            (
                vec![txt("host.example.com.", &text, u32::MAX)],
                found(MAX_TTL),
            ),
            (vec![], Answer::Empty(10)),
        ];
        for (number, (records, expected)) in cases.into_iter().enumerate() {
            assert_eq!(
                judge(&answer(records)),
                Judged::Answer(Ok(expected)),
                "{number}"
            );
        }
    }

    #[test]
    fn denials_last_as_long_as_the_zone_says_within_bounds() {
        let denied = |ttl, minimum| {
            let mut message = answer(vec![]);
            message.metadata.response_code = ResponseCode::NXDomain;
            let start = SOA::new(name("com."), name("com."), 1, 1, 1, 1, minimum);
            message.add_authority(Record::from_rdata(name("com."), ttl, RData::SOA(start)));
            judge(&message)
        };
        assert_eq!(denied(30, 20), Judged::Answer(Ok(Answer::Nobody(20))));
        assert_eq!(denied(900, 900), Judged::Answer(Ok(Answer::Nobody(60))));
        let mut failed = answer(vec![]);
        failed.metadata.response_code = ResponseCode::Refused;
        assert_eq!(judge(&failed), Judged::Answer(Err(ResponseCode::Refused)));
    }

    #[test]
    fn servers_are_read_as_the_c_library_reads_them() {
        let text = "# nameserver 192.0.2.9\nsearch example.com\nnameserver 127.8.7.37\n nameserver\t192.0.2.53 # x\n\
                    nameserver nonsense\nnameserver 2001:db8::53\nnameserver\nnameserver 192.0.2.1\nnameserver 192.0.2.2\n";
        let own = Some(super::super::LISTEN);
        let expected: Vec<SocketAddr> = ["192.0.2.53:53", "[2001:db8::53]:53", "192.0.2.1:53"]
            .map(|server| server.parse().unwrap())
            .into();
        assert_eq!(parse_servers(text, own), expected);
        assert_eq!(parse_servers("", own), []);
    }
}
