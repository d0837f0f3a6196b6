//! Programs of this machine whose datagrams go through the overlay (R61, R133, R134): `[[dht.application]]` hands what peers
//! say to a local socket, `[[dht.forward]]` takes what a local program says to a peer.
//!
//! ```text
//!  program ──▶ forward's socket ─▶ conversation ═ TUNNEL, CONNECT ═▶ conversation ─▶ a socket for it alone ──▶ program
//!          ◀── to who spoke last ◀──┘                                          └──◀ its answers
//! ```

use std::collections::HashMap;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket as StdSocket};
use std::str::FromStr;
use std::sync::Arc;

use anode_routing::dht::reload::Id;
use anode_routing::dht::reload::usage::sip;
use anode_routing::dht::{Callee, ConversationId, Heard};
use anode_wire::{Address, PeerId};
use serde::Deserialize;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::config::DhtEntry;
use super::text::resource_id;
use crate::Error;
use crate::value::{Text, ValueError};

/// Datagrams of local programs that wait for the task.
const WAITING: usize = 256;
/// Bytes of the largest datagram.
const MAX_DATAGRAM: usize = 65_535;
/// Tables of each sort in one overlay.
const MAX_TABLES: usize = 16;
/// Numbers that are RELOAD's and Anode's own (RD30).
const TAKEN: [u16; 2] = [6084, 8737];

/// `[[dht.application]]`: what peers say goes to a program of this machine.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ApplicationEntry {
    /// `port = 5060`: the application's number.
    #[serde(deserialize_with = "number")]
    pub port: u16,
    /// `to = "127.0.0.1:5060"`: the UDP socket of the program.
    #[serde(deserialize_with = "place")]
    pub to: SocketAddr,
    /// `users = ["sip:alice@home.example"]`: who is reached here (SIP-REGISTRATION).
    #[serde(default)]
    pub users: Vec<Text<SipUri>>,
}

/// `[[dht.forward]]`: what a program of this machine says goes to a peer.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ForwardEntry {
    /// `listen = "127.0.0.1:5070"`: the UDP socket that the program speaks to.
    #[serde(deserialize_with = "place")]
    pub listen: SocketAddr,
    /// `application = 5060`: the application's number.
    #[serde(deserialize_with = "number")]
    pub application: u16,
    /// `peer = "sip:bob@home.example"`, an address, `hex:` of a Peer-ID, or `gruu:` and the value of `gr`.
    pub peer: Text<Peer>,
}

fn number<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    match u16::deserialize(deserializer)? {
        0 => Err(serde::de::Error::custom(
            "an application has a number from 1 to 65535",
        )),
        taken if TAKEN.contains(&taken) => Err(serde::de::Error::custom(format!(
            "{taken} is not an application's: the overlay itself uses it"
        ))),
        number => Ok(number),
    }
}

fn place<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let place = SocketAddr::deserialize(deserializer)?;
    match place.port() != 0 && !place.ip().is_unspecified() && !place.ip().is_multicast() {
        true => Ok(place),
        false => Err(serde::de::Error::custom(format!(
            "{place}: name one address of this machine, and a port"
        ))),
    }
}

/// A `sip:` URI.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SipUri(pub String);

impl FromStr for SipUri {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let uri = sip::canonical_uri(text).filter(|uri| uri.len() <= 512);
        uri.map(Self)
            .ok_or_else(|| ValueError::new(format!("{text:?}: write sip:USER@OVERLAY")))
    }
}

impl fmt::Display for SipUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whom a forward leads to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    text: String,
    /// The same for the overlay.
    pub callee: Callee,
}

impl FromStr for Peer {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let callee = if let Some(id) = resource_id(text) {
            Callee::Route(vec![id?])
        } else if let Some(gruu) = text.strip_prefix("gruu:") {
            let route = sip::parse_gruu(gruu);
            Callee::Route(
                route.map_err(|error| ValueError::new(format!("peer {text:?}: {error}")))?,
            )
        } else if let Ok(SipUri(uri)) = text.parse() {
            Callee::Uri(uri)
        } else if let Ok(address) = text.parse::<Address>() {
            Callee::Route(vec![Id::of_address(&address, PeerId::ANY)])
        } else {
            return Err(ValueError::new(format!(
                "peer {text:?}: write an address, sip:USER@OVERLAY, hex: of a Peer-ID, or gruu: and the value of gr"
            )));
        };
        let text = text.to_owned();
        Ok(Self { text, callee })
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl DhtEntry {
    /// Whether the tables of applications can be meant together.
    ///
    /// # Errors
    /// In words.
    pub(super) fn check_applications(&self) -> Result<(), &'static str> {
        let mut ports: Vec<u16> = self.application.iter().map(|it| it.port).collect();
        ports.sort_unstable();
        match ports.windows(2).any(|two| two[0] == two[1]) {
            true => Err("[[dht.application]]: one port stands twice"),
            false if ports.len() > MAX_TABLES || self.forward.len() > MAX_TABLES => {
                Err("more than 16 [[dht.application]], or more than 16 [[dht.forward]]")
            }
            false => Ok(()),
        }
    }

    /// `sip:` URIs of this machine's users.
    pub(super) fn users(&self) -> Vec<String> {
        let all = self.application.iter().flat_map(|it| &it.users);
        all.map(|Text(SipUri(uri))| uri.clone()).collect()
    }
}

/// A forward whose socket is open.
pub struct OpenForward {
    /// Place of its `[[dht]]`.
    pub place: usize,
    application: u16,
    callee: Callee,
    socket: StdSocket,
}

/// Opens the sockets of forwards, before this node gives up its rights.
///
/// # Errors
/// A socket is not to be had.
pub fn open_forwards(entries: &[DhtEntry]) -> Result<Vec<OpenForward>, Error> {
    let enabled = entries.iter().enumerate().filter(|(_, it)| it.enabled);
    let all = enabled.flat_map(|(place, entry)| entry.forward.iter().map(move |it| (place, it)));
    let open = |(place, entry): (usize, &ForwardEntry)| {
        let made = StdSocket::bind(entry.listen)
            .and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
        let socket = made.map_err(|error| {
            Error::refused(format!(
                "[[dht.forward]]: cannot listen at {}: {error}",
                entry.listen
            ))
        })?;
        Ok(OpenForward {
            place,
            application: entry.application,
            callee: entry.peer.0.callee.clone(),
            socket,
        })
    };
    all.map(open).collect()
}

/// What a local program has said.
#[derive(Debug)]
pub struct Said {
    by: By,
    /// It.
    pub bytes: Vec<u8>,
}

#[derive(Debug)]
enum By {
    /// The one behind an application, in this conversation.
    Served(Name),
    /// The one before a forward, from this address.
    Forward(usize, SocketAddr),
}

/// A conversation: hash of its overlay's name, and its number there.
type Name = (u32, ConversationId);

struct Forward {
    place: usize,
    application: u16,
    callee: Callee,
    socket: Arc<UdpSocket>,
    conversation: Option<Name>,
    /// Who spoke last: answers go there.
    program: Option<SocketAddr>,
}

struct Served {
    socket: Arc<UdpSocket>,
    reader: AbortHandle,
}

/// Sockets of all conversations.
pub struct Applications {
    forwards: Vec<Forward>,
    served: HashMap<Name, Served>,
    tell: mpsc::Sender<Said>,
    said: mpsc::Receiver<Said>,
    /// Datagrams that a local socket did not take.
    pub lost: u64,
}

impl Applications {
    /// With the sockets of forwards; a runtime must be there.
    pub fn new(forwards: Vec<OpenForward>) -> Self {
        let (tell, said) = mpsc::channel(WAITING);
        let mut applications = Self {
            forwards: Vec::new(),
            served: HashMap::new(),
            tell,
            said,
            lost: 0,
        };
        for open in forwards {
            let socket = match UdpSocket::from_std(open.socket) {
                Ok(socket) => Arc::new(socket),
                Err(error) => {
                    tracing::error!("[[dht.forward]]: {error}");
                    continue;
                }
            };
            let number = applications.forwards.len();
            let (tell, reader) = (applications.tell.clone(), Arc::clone(&socket));
            tokio::spawn(read(reader, tell, move |from| By::Forward(number, from)));
            applications.forwards.push(Forward {
                place: open.place,
                application: open.application,
                callee: open.callee,
                socket,
                conversation: None,
                program: None,
            });
        }
        applications
    }

    /// The next that a local program says.
    pub async fn next(&mut self) -> Option<Said> {
        self.said.recv().await
    }

    /// The conversation that something said belongs to; or the forward's that has none yet: place of its `[[dht]]`,
    /// application and peer.
    pub fn conversation(&mut self, said: &Said) -> Result<Name, Option<(usize, u16, Callee)>> {
        match &said.by {
            By::Served(name) => Ok(*name),
            By::Forward(number, from) => {
                let forward = self.forwards.get_mut(*number).ok_or(None)?;
                forward.program = Some(*from);
                let known = forward.conversation;
                known.ok_or_else(|| {
                    Some((forward.place, forward.application, forward.callee.clone()))
                })
            }
        }
    }

    /// The forward's conversation is this one.
    pub fn opened(&mut self, said: &Said, name: Name) {
        if let By::Forward(number, _) = said.by
            && let Some(forward) = self.forwards.get_mut(number)
        {
            forward.conversation = Some(name);
        }
    }

    /// Something of a conversation. `to` is the program behind an application.
    pub fn hear(&mut self, name: Name, heard: Heard, to: impl Fn(u16) -> Option<SocketAddr>) {
        match heard {
            Heard::Begun { application, peer } => {
                tracing::debug!(application, %peer, "a conversation");
                if let Some(to) = to(application) {
                    self.serve(name, to);
                }
            }
            Heard::Unit(unit) => {
                let mut forwards = self.forwards.iter();
                let forward = forwards.find(|it| it.conversation == Some(name));
                let sent = match (self.served.get(&name), forward) {
                    (Some(it), _) => it.socket.try_send(&unit).is_ok(),
                    (None, Some(it)) => it
                        .program
                        .is_some_and(|to| it.socket.try_send_to(&unit, to).is_ok()),
                    (None, None) => false,
                };
                self.lost += u64::from(!sent);
            }
            Heard::Over(why) => {
                if let Some(gone) = self.served.remove(&name) {
                    gone.reader.abort();
                }
                let mut forwards = self.forwards.iter_mut();
                if let Some(forward) = forwards.find(|it| it.conversation == Some(name)) {
                    tracing::info!("DHT: application {}: {why}", forward.application);
                    forward.conversation = None;
                }
            }
        }
    }

    fn serve(&mut self, name: Name, to: SocketAddr) {
        let any = match (to, to.ip().is_loopback()) {
            (SocketAddr::V4(_), true) => SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            (SocketAddr::V4(_), false) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            (SocketAddr::V6(_), true) => SocketAddr::from((Ipv6Addr::LOCALHOST, 0)),
            (SocketAddr::V6(_), false) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let made = StdSocket::bind(any).and_then(|socket| {
            socket.set_nonblocking(true)?;
            socket.connect(to)?;
            UdpSocket::from_std(socket)
        });
        match made {
            Ok(socket) => {
                let socket = Arc::new(socket);
                let reading = read(Arc::clone(&socket), self.tell.clone(), move |_| {
                    By::Served(name)
                });
                let reader = tokio::spawn(reading).abort_handle();
                self.served.insert(name, Served { socket, reader });
            }
            Err(error) => tracing::warn!("DHT: no socket for the program at {to}: {error}"),
        }
    }
}

/// Hands on what comes to a socket; what the task has no time for is lost, as datagrams are.
async fn read(
    socket: Arc<UdpSocket>,
    tell: mpsc::Sender<Said>,
    by: impl Fn(SocketAddr) -> By + Send,
) {
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((len, from)) => {
                let said = Said {
                    by: by(from),
                    bytes: buffer[..len].to_vec(),
                };
                if let Err(mpsc::error::TrySendError::Closed(_)) = tell.try_send(said) {
                    return;
                }
            }
            // Nobody listens there: it may yet.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
            Err(error) => {
                tracing::warn!("DHT: a socket of a local program: {error}");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::config::cases::refused;
    use std::path::Path;

    const ADDRESS: &str = "aeaaaaaaaaaag2yx2hzoclcci74lzzxfmoseb4txan6yclplgoqpjijzixmjrquw";

    #[test]
    fn applications_and_forwards_are_tables_of_an_overlay() {
        let text = format!(
            "[[dht]]\n[[dht.application]]\nport = 5060\nto = \"127.0.0.1:5060\"\n\
             users = [\"sip:alice@Home.Example;x=y\"]\n[[dht.forward]]\nlisten = \"[::1]:5070\"\n\
             application = 5060\npeer = \"sip:bob@home.example\"\n[[dht.forward]]\n\
             listen = \"127.0.0.1:5071\"\napplication = 9\npeer = \"{ADDRESS}\"\n"
        );
        let config = Config::parse(&text, Path::new("x")).unwrap();
        let entry = &config.dht[0];
        assert_eq!(entry.users(), ["sip:alice@home.example"]);
        assert_eq!(entry.check_applications(), Ok(()));
        let callee = |n: usize| entry.forward[n].peer.0.callee.clone();
        assert_eq!(callee(0), Callee::Uri("sip:bob@home.example".into()));
        let address = ADDRESS.parse().unwrap();
        let id = Id::of_address(&address, PeerId::ANY);
        assert_eq!(callee(1), Callee::Route(vec![id]));
        let gruu = format!("gruu:{}", sip::gruu(&[id, Id([1; 16])]));
        let peer: Peer = gruu.parse().unwrap();
        assert_eq!(peer.callee, Callee::Route(vec![id, Id([1; 16])]));
    }

    #[test]
    fn a_wrong_table_is_refused_with_its_line() {
        let application = |line: &str| format!("[[dht]]\n[[dht.application]]\n{line}\n");
        let forward = |peer: &str| {
            format!(
                "[[dht]]\n[[dht.forward]]\nlisten = \"127.0.0.1:1\"\napplication = 9\npeer = \"{peer}\"\n"
            )
        };
        let cases = [
            (application("port = 0"), ":3: ", "1 to 65535"),
            (application("port = 8737"), ":3: ", "overlay itself"),
            (application("to = \"0.0.0.0:5060\""), ":3: ", "one address"),
            (
                application("users = [\"alice\"]"),
                ":3: ",
                "sip:USER@OVERLAY",
            ),
            (application("port = 9"), ":2: ", "to"),
            (forward("bob"), ":5: ", "bob"),
            (forward("gruu:x"), ":5: ", "gruu:x"),
            (forward("hex:00"), ":5: ", "16 bytes"),
        ];
        let cases = cases
            .each_ref()
            .map(|(text, at, why)| (text.as_str(), *at, *why));
        refused(&cases);
    }
}
