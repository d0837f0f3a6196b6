//! Programs of this machine that speak through the overlay (R61, R133, R134): `[[dht.application]]` hands what peers say to a
//! local program, `[[dht.forward]]` takes what a local program says to a peer.
//!
//! ```text
//!  program ──▶ forward's socket ─▶ conversation ═ TUNNEL, CONNECT ═▶ conversation ─▶ a socket for it alone ──▶ program
//!          ◀── to who spoke last ◀──┘                                          └──◀ its answers
//! ```
//!
//! Datagrams are the units of a conversation; of TCP connections, `streams` makes units that carry their bytes.

pub mod config;
mod streams;

use std::collections::HashMap;
use std::net::{
    Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener as StdListener, UdpSocket as StdSocket,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anode_routing::dht::{Callee, ConversationId, Heard};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::config::DhtEntry;
use crate::Error;
use config::{ForwardEntry, Protocol};
use streams::Streams;

/// Datagrams of local programs that wait for the task.
const WAITING: usize = 256;
/// Bytes of the largest datagram.
const MAX_DATAGRAM: usize = 65_535;
/// A forward whose socket is open.
pub struct OpenForward {
    /// Place of its `[[dht]]`.
    pub place: usize,
    application: u16,
    callee: Callee,
    socket: OpenSocket,
}

enum OpenSocket {
    Udp(StdSocket),
    Tcp(StdListener),
}

impl OpenSocket {
    fn open(entry: &ForwardEntry) -> std::io::Result<Self> {
        Ok(match entry.protocol {
            Protocol::Udp => {
                let socket = StdSocket::bind(entry.listen)?;
                socket.set_nonblocking(true)?;
                Self::Udp(socket)
            }
            Protocol::Tcp => {
                let listener = StdListener::bind(entry.listen)?;
                listener.set_nonblocking(true)?;
                Self::Tcp(listener)
            }
        })
    }
}

/// Opens the sockets of forwards, before this node gives up its rights.
///
/// # Errors
/// A socket is not to be had.
pub fn open_forwards(entries: &[DhtEntry]) -> Result<Vec<OpenForward>, Error> {
    let enabled = entries.iter().enumerate().filter(|(_, it)| it.enabled);
    let all = enabled.flat_map(|(place, entry)| entry.forward.iter().map(move |it| (place, it)));
    let open = |(place, entry): (usize, &ForwardEntry)| {
        let socket = OpenSocket::open(entry).map_err(|error| {
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

/// Something of a local program.
#[derive(Debug)]
pub struct Said {
    by: By,
    /// It.
    pub what: What,
}

/// What a local program has said or done.
#[derive(Debug)]
pub enum What {
    /// A unit for the peer.
    Unit(Vec<u8>),
    /// It has connected.
    Connection(TcpStream),
}

#[derive(Debug)]
enum By {
    /// One in this conversation: behind an application, or at a connection.
    Conversation(Name),
    /// The one before a forward; the address that a datagram came from.
    Forward(usize, Option<SocketAddr>),
}

/// A conversation: hash of its overlay's name, and its number there.
type Name = (u32, ConversationId);

struct Forward {
    place: usize,
    application: u16,
    callee: Callee,
    /// `None`: programs connect, and have streams.
    socket: Option<StdSocket>,
    conversation: Option<Name>,
    /// Who spoke last: answers go there.
    program: Option<SocketAddr>,
    /// When that was, by [`Applications::spoken`]: of several forwards in one conversation the last one has the answer.
    spoke: u64,
}

/// The program behind an application.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Where it listens.
    pub to: SocketAddr,
    /// How it is spoken to.
    pub protocol: Protocol,
}

struct Served {
    socket: StdSocket,
    reader: AbortHandle,
}

/// Sends by the system's own socket: tokio's does not know yet that a new one can be written, and would lose the first datagram.
/// False: it is lost.
fn hand(send: impl Fn() -> std::io::Result<usize>) -> bool {
    match send() {
        // Of the datagram before this one, when nobody listened there: this one was not sent.
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => send().is_ok(),
        sent => sent.is_ok(),
    }
}

/// Sockets of all conversations.
pub struct Applications {
    forwards: Vec<Forward>,
    served: HashMap<Name, Served>,
    streams: Streams,
    /// Conversations that have turned out to be the same as others.
    same: HashMap<Name, Name>,
    /// Units that came to forwards.
    spoken: u64,
    tell: mpsc::Sender<Said>,
    said: mpsc::Receiver<Said>,
    lost: Arc<AtomicU64>,
}

impl Applications {
    /// With the sockets of forwards; a runtime must be there.
    pub fn new(forwards: Vec<OpenForward>) -> Self {
        let (tell, said) = mpsc::channel(WAITING);
        let lost = Arc::default();
        let mut applications = Self {
            forwards: Vec::new(),
            served: HashMap::new(),
            same: HashMap::new(),
            spoken: 0,
            streams: Streams::new(tell.clone(), Arc::clone(&lost)),
            tell,
            said,
            lost,
        };
        for open in forwards {
            let number = applications.forwards.len();
            let socket = match applications.listen(number, open.socket) {
                Ok(socket) => socket,
                Err(error) => {
                    tracing::error!("[[dht.forward]]: {error}");
                    continue;
                }
            };
            applications.forwards.push(Forward {
                place: open.place,
                application: open.application,
                callee: open.callee,
                socket,
                conversation: None,
                program: None,
                spoke: 0,
            });
        }
        applications
    }

    /// Reads from a forward's socket from now on.
    fn listen(&self, number: usize, socket: OpenSocket) -> std::io::Result<Option<StdSocket>> {
        let (tell, lost) = (self.tell.clone(), Arc::clone(&self.lost));
        match socket {
            OpenSocket::Udp(socket) => {
                let reads = UdpSocket::from_std(socket.try_clone()?)?;
                let by = move |from| By::Forward(number, Some(from));
                tokio::spawn(read(reads, tell, lost, by));
                Ok(Some(socket))
            }
            OpenSocket::Tcp(listener) => {
                tokio::spawn(accept(number, TcpListener::from_std(listener)?, tell));
                Ok(None)
            }
        }
    }

    /// Datagrams that a local socket or the task did not take.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// One that came for nobody.
    pub fn note_lost(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }

    /// The next that a local program says.
    pub async fn next(&mut self) -> Option<Said> {
        self.said.recv().await
    }

    /// The conversation that something said belongs to; or the forward's that has none yet: place of its `[[dht]]`,
    /// application and peer.
    pub fn conversation(&mut self, said: &Said) -> Result<Name, Option<(usize, u16, Callee)>> {
        match &said.by {
            By::Conversation(name) => Ok(self.same.get(name).copied().unwrap_or(*name)),
            By::Forward(number, from) => {
                let forward = self.forwards.get_mut(*number).ok_or(None)?;
                self.spoken += 1;
                forward.spoke = self.spoken;
                forward.program = from.or(forward.program);
                let known = forward.conversation;
                known.ok_or_else(|| {
                    Some((forward.place, forward.application, forward.callee.clone()))
                })
            }
        }
    }

    /// What was said goes on in this conversation, which is the forward's from now on. A unit of it comes back, to be said there.
    pub fn opened(&mut self, said: Said, name: Name) -> Option<Vec<u8>> {
        let mut application = None;
        if let By::Forward(number, _) = said.by
            && let Some(forward) = self.forwards.get_mut(number)
        {
            forward.conversation = Some(name);
            application = Some(forward.application);
        }
        match (said.what, application) {
            (What::Unit(unit), _) => Some(unit),
            (What::Connection(socket), Some(application)) => {
                self.streams.open(name, application, socket);
                None
            }
            (What::Connection(_), None) => None,
        }
    }

    /// Something of a conversation. `to` is the program behind an application.
    pub fn hear(&mut self, name: Name, heard: Heard, to: impl Fn(u16) -> Option<Program>) {
        match heard {
            Heard::Begun { application, peer } => {
                tracing::debug!(application, %peer, "a conversation");
                match to(application) {
                    Some(program) if program.protocol == Protocol::Udp => {
                        self.serve(name, program.to);
                    }
                    Some(_) => self.streams.serve(name, application),
                    None => {}
                }
            }
            Heard::Unit(unit) if self.streams.has(name) => {
                let program = |application| {
                    let program = to(application);
                    Some(program.filter(|it| it.protocol == Protocol::Tcp)?.to)
                };
                self.streams.hear(name, &unit, program);
            }
            Heard::Unit(unit) => {
                let of = |it: &&Forward| it.conversation == Some(name) && it.socket.is_some();
                let forwards = self.forwards.iter().filter(of);
                let forward = forwards.max_by_key(|it| it.spoke);
                let sent = match (self.served.get(&name), forward) {
                    (Some(it), _) => hand(|| it.socket.send(&unit)),
                    (
                        None,
                        Some(Forward {
                            socket: Some(socket),
                            program: Some(to),
                            ..
                        }),
                    ) => hand(|| socket.send_to(&unit, to)),
                    (None, _) => false,
                };
                if !sent {
                    self.note_lost();
                }
            }
            Heard::Same(other) => {
                let other = (name.0, other);
                self.streams.same(name, other);
                for forward in &mut self.forwards {
                    if forward.conversation == Some(name) {
                        forward.conversation = Some(other);
                    }
                }
                let before = self.same.values_mut().filter(|it| **it == name);
                before.for_each(|it| *it = other);
                self.same.insert(name, other);
            }
            Heard::Over(why) => {
                self.streams.over(name);
                self.same.retain(|_, other| *other != name);
                if let Some(gone) = self.served.remove(&name) {
                    gone.reader.abort();
                }
                let forwards = self.forwards.iter_mut();
                for forward in forwards.filter(|it| it.conversation == Some(name)) {
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
            let reads = UdpSocket::from_std(socket.try_clone()?)?;
            Ok((socket, reads))
        });
        match made {
            Ok((socket, reads)) => {
                let (tell, lost) = (self.tell.clone(), Arc::clone(&self.lost));
                let reading = read(reads, tell, lost, move |_| By::Conversation(name));
                let reader = tokio::spawn(reading).abort_handle();
                self.served.insert(name, Served { socket, reader });
            }
            Err(error) => tracing::warn!("DHT: no socket for the program at {to}: {error}"),
        }
    }
}

/// Hands on what comes to a socket; what the task has no time for is lost, as datagrams are.
async fn read(
    socket: UdpSocket,
    tell: mpsc::Sender<Said>,
    lost: Arc<AtomicU64>,
    by: impl Fn(SocketAddr) -> By + Send,
) {
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((len, from)) => {
                let said = Said {
                    by: by(from),
                    what: What::Unit(buffer[..len].to_vec()),
                };
                match tell.try_send(said) {
                    Ok(()) => {}
                    Err(mpsc::error::TrySendError::Full(_)) => {
                        lost.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(mpsc::error::TrySendError::Closed(_)) => return,
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

/// Hands on the connections of local programs, as fast as the task takes them.
async fn accept(number: usize, listener: TcpListener, tell: mpsc::Sender<Said>) {
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                let said = Said {
                    by: By::Forward(number, None),
                    what: What::Connection(socket),
                };
                if tell.send(said).await.is_err() {
                    return;
                }
            }
            // Out of descriptors: somebody will close one.
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anode_routing::dht::Ended;
    use anode_routing::dht::reload::Id;
    use std::time::Duration;

    fn forward(callee: Callee) -> (OpenForward, SocketAddr) {
        let socket = StdSocket::bind("127.0.0.1:0").expect("a socket");
        socket.set_nonblocking(true).expect("a socket");
        let at = socket.local_addr().expect("a port");
        let open = OpenForward {
            place: 0,
            application: 5060,
            callee,
            socket: OpenSocket::Udp(socket),
        };
        (open, at)
    }

    async fn hears(program: &UdpSocket) -> Vec<u8> {
        let mut buffer = [0; 64];
        let heard = program.recv(&mut buffer);
        let len = tokio::time::timeout(Duration::from_secs(5), heard).await;
        buffer[..len.expect("in time").expect("heard")].to_vec()
    }

    // R61: the first datagram of a conversation that a peer begins reaches the program, and so does the first after nobody listened
    #[tokio::test]
    async fn the_first_datagram_of_a_conversation_reaches_the_program() {
        let program = StdSocket::bind("127.0.0.1:0").expect("a socket");
        let to = program.local_addr().expect("a port");
        let served = |_| {
            let protocol = Protocol::Udp;
            Some(Program { to, protocol })
        };
        let mut all = Applications::new(Vec::new());
        let begun = Heard::Begun {
            application: 5060,
            peer: Id([1; 16]),
        };
        all.hear((7, 0), begun, served);
        all.hear((7, 0), Heard::Unit(b"first".to_vec()), served);
        assert_eq!(all.lost(), 0);
        program.set_nonblocking(true).expect("a socket");
        let program = UdpSocket::from_std(program).expect("a socket");
        assert_eq!(hears(&program).await, b"first");
        drop(program);
        all.hear((7, 0), Heard::Unit(b"to nobody".to_vec()), served);
        let program = UdpSocket::bind(to).await.expect("the same port");
        all.hear((7, 0), Heard::Unit(b"second".to_vec()), served);
        assert_eq!(hears(&program).await, b"second");
        assert_eq!(all.lost(), 0);
    }

    // R132, R134: forwards to one peer under two names are in one conversation; the program that spoke last has the answer
    #[tokio::test]
    async fn forwards_that_lead_to_one_peer_share_a_conversation() {
        let id = Id([1; 16]);
        let (named, first) = forward(Callee::Route(vec![id]));
        let (anonymous, second) = forward(Callee::Anonymous(vec![id, id]));
        let mut all = Applications::new(vec![named, anonymous]);
        let bind = || UdpSocket::bind("127.0.0.1:0");
        let programs = [bind().await, bind().await].map(|it| it.expect("a socket"));
        let places = [first, second];
        for (number, (program, at)) in programs.iter().zip(places).enumerate() {
            program.send_to(b"hello", at).await.expect("sent");
            let said = all.next().await.expect("something said");
            assert!(matches!(all.conversation(&said), Err(Some(_))));
            assert!(all.opened(said, (7, number as u64)).is_some());
        }
        all.hear((7, 1), Heard::Same(0), |_| None);
        all.hear((7, 0), Heard::Unit(b"to the second".to_vec()), |_| None);
        assert_eq!(hears(&programs[1]).await, b"to the second");
        programs[0].send_to(b"more", first).await.expect("sent");
        let said = all.next().await.expect("something said");
        assert_eq!(all.conversation(&said).ok(), Some((7, 0)));
        all.hear((7, 0), Heard::Unit(b"to the first".to_vec()), |_| None);
        assert_eq!(hears(&programs[0]).await, b"to the first");
        // What still means the other one, such as a connection of it, is of this one.
        let old = Said {
            by: By::Conversation((7, 1)),
            what: What::Unit(vec![1]),
        };
        assert_eq!(all.conversation(&old).ok(), Some((7, 0)));
        all.hear((7, 0), Heard::Over(Ended::Idle), |_| None);
        assert_eq!(
            all.conversation(&old).ok(),
            Some((7, 1)),
            "nobody remembers it"
        );
        for (program, at) in programs.iter().zip(places) {
            program.send_to(b"again", at).await.expect("sent");
            let said = all.next().await.expect("something said");
            assert!(matches!(all.conversation(&said), Err(Some(_))));
        }
        assert_eq!(all.lost(), 0);
    }
}
