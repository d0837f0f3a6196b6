//! One thread of the server: a state machine, and the sockets of its clients.
//!
//! ```text
//!   epoll ─▶ ready: ports, relays, streams, peers, letters ─▶ obey: what the state machine wants ─▶ flush
//! ```

mod joined;

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant, SystemTime};

use anode_turn::Transport;
use anode_turn::server::{Command, Config, ConnectionId, FiveTuple, RelayId, Server};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::net::SocketAddr;

use super::datagrams::{Datagrams, Kept, Kind, Port, icmp_errors};
use super::peers::{Peers, Progress};
use super::sessions::Sessions;
use super::streams::Streams;
use super::{Letters, Listener, Mailbox, Snapshot};
use crate::anode::source_prefix;
use crate::turn::SetDontFragment;
use crate::turn::certificate::ServerCertificate;
use crate::turn::udp::ReceiveBuffers;

/// Events taken from the kernel at once.
const EVENTS: usize = 256;
/// Bytes read from a connection at once.
const READ: usize = 16 << 10;
/// Reads from one connection before the others have their turn.
const READS: usize = 8;
/// Connections taken from one listener before the others have their turn.
const ACCEPTS: usize = 64;
/// How often connections without use are looked for, and the clock is.
const SWEEP: Duration = Duration::from_secs(5);
/// A stream that is held to a rate is looked at again after this time.
const HOLD: Duration = Duration::from_millis(10);

/// What a descriptor is, as it stands in epoll.
#[derive(Clone, Copy)]
pub(super) enum Token {
    Letters,
    Port(usize),
    Listener(usize),
    Relay(usize),
    Stream(usize),
    Peer(usize),
}

impl From<Token> for u64 {
    fn from(token: Token) -> Self {
        let (kind, index) = match token {
            Token::Letters => (0, 0),
            Token::Port(index) => (1, index),
            Token::Listener(index) => (2, index),
            Token::Relay(index) => (3, index),
            Token::Stream(index) => (4, index),
            Token::Peer(index) => (5, index),
        };
        kind << 56 | index as u64
    }
}

impl From<u64> for Token {
    fn from(number: u64) -> Self {
        let index = (number & ((1 << 56) - 1)) as usize;
        match number >> 56 {
            1 => Self::Port(index),
            2 => Self::Listener(index),
            3 => Self::Relay(index),
            4 => Self::Stream(index),
            5 => Self::Peer(index),
            _ => Self::Letters,
        }
    }
}

/// What a shard is told from outside.
pub(super) enum Inbox {
    /// A connection of a client that is this shard's.
    Stream {
        socket: TcpStream,
        secure: bool,
    },
    Reload(Box<(Config, Option<ServerCertificate>)>),
    Drain,
    Report(Sender<Snapshot>),
    Stop,
}

macro_rules! io_counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What the sockets have counted. All only grow.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct IoCounters { $($(#[$doc])* pub $name: u64,)* }

        impl IoCounters {
            pub(super) fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            /// Names and values, for metrics.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

io_counters! {
    /// Datagrams that a socket did not take: no room, no way there, too large.
    lost_datagrams,
    /// Datagrams for clients over TCP or TLS whose connection takes no more.
    lost_to_streams,
    /// Datagrams for clients over DTLS whose session takes no more.
    lost_to_sessions,
    /// Connections refused: too many in all, or of one source.
    refused_streams,
    /// Handshakes over DTLS refused, and datagrams that belong to none.
    refused_sessions,
}

/// What a shard is made of.
pub(super) struct Parts {
    pub index: usize,
    pub turn: Server,
    pub ports: Vec<Port>,
    pub listeners: Vec<Listener>,
    pub inbox: Letters,
    pub mailboxes: Arc<[Mailbox]>,
    pub kept: Kept,
    pub certificate: Option<ServerCertificate>,
    pub streams: Arc<AtomicUsize>,
    pub set_dont_fragment: SetDontFragment,
}

pub(super) struct Shard {
    index: usize,
    turn: Server,
    epoll: Arc<Epoll>,
    datagrams: Datagrams,
    streams: Streams,
    sessions: Sessions,
    peers: Peers,
    listeners: Vec<Listener>,
    inbox: Letters,
    mailboxes: Arc<[Mailbox]>,
    certificate: Option<ServerCertificate>,
    buffers: ReceiveBuffers,
    read: Vec<u8>,
    /// Connections that had more to read than their turn allowed.
    again: Vec<Side>,
    /// Bytes of streams that are held to a rate.
    held: Vec<Held>,
    sweep_at: Instant,
    /// Descriptors have run out: no connections are taken.
    deaf: bool,
    stop: bool,
}

/// One side of a joined connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Client(usize),
    Peer(usize),
}

struct Held {
    until: Instant,
    connection: ConnectionId,
    from: Side,
    bytes: Vec<u8>,
}

impl Shard {
    pub fn new(parts: Parts) -> io::Result<Self> {
        let epoll = Arc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?);
        let event = |token: Token| EpollEvent::new(EpollFlags::EPOLLIN, token.into());
        epoll.add(&*parts.inbox.wake, event(Token::Letters))?;
        for (index, listener) in parts.listeners.iter().enumerate() {
            epoll.add(&listener.socket, event(Token::Listener(index)))?;
        }
        let datagrams = Datagrams::new(
            Arc::clone(&epoll),
            parts.ports,
            parts.kept,
            parts.set_dont_fragment,
        )?;
        Ok(Self {
            index: parts.index,
            turn: parts.turn,
            datagrams,
            streams: Streams::new(Arc::clone(&epoll), parts.streams),
            sessions: Sessions::new(),
            peers: Peers::new(Arc::clone(&epoll)),
            epoll,
            listeners: parts.listeners,
            inbox: parts.inbox,
            mailboxes: parts.mailboxes,
            certificate: parts.certificate,
            buffers: ReceiveBuffers::default(),
            read: vec![0; READ],
            again: Vec::new(),
            held: Vec::new(),
            sweep_at: Instant::now(),
            deaf: false,
            stop: false,
        })
    }

    /// Until it is told to stop.
    pub fn run(mut self) {
        let mut events = vec![EpollEvent::empty(); EVENTS];
        while !self.stop {
            let timeout = self.timeout(Instant::now());
            let count = match self.epoll.wait(&mut events, timeout) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => 0,
                Err(error) => {
                    tracing::error!("a thread of the TURN server ends: {error}");
                    return;
                }
            };
            let now = Instant::now();
            for event in &events[..count] {
                self.ready(now, event.data().into(), event.events());
            }
            self.work(now);
        }
    }

    fn timeout(&self, now: Instant) -> EpollTimeout {
        if !self.again.is_empty() {
            return EpollTimeout::ZERO;
        }
        let next = [
            Some(self.sweep_at),
            self.turn.deadline(),
            self.sessions.deadline(),
            self.held.iter().map(|held| held.until).min(),
        ];
        let Some(next) = next.into_iter().flatten().min() else {
            return EpollTimeout::NONE;
        };
        // Rounded up: a deadline is not met before its time.
        let wait = next.saturating_duration_since(now) + Duration::from_micros(999);
        u16::try_from(wait.as_millis()).map_or(EpollTimeout::MAX, EpollTimeout::from)
    }

    fn ready(&mut self, now: Instant, token: Token, flags: EpollFlags) {
        let broken = flags.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP);
        match token {
            Token::Letters => self.letters(now),
            Token::Port(index) => self.port(now, index),
            Token::Listener(index) => self.accept(now, index),
            Token::Relay(slot) => self.relay(now, slot, broken),
            Token::Stream(index) => {
                self.streams.touch(index);
                self.read_stream(now, index);
                let deaf = |s: &mut super::streams::Stream| s.paused;
                if broken && self.streams.get(index).is_some_and(deaf) {
                    self.stream_ended(index);
                }
            }
            Token::Peer(index) => {
                match self.peers.progress(index) {
                    Progress::Connected => self.peer_connected(now, index, true),
                    Progress::Failed => return self.peer_connected(now, index, false),
                    Progress::Same => {}
                }
                self.peers.touch(index);
                self.read_peer(now, index);
                let deaf = |p: &mut super::peers::Peer| p.paused;
                if broken && self.peers.get(index).is_some_and(deaf) {
                    self.peer_ended(index);
                }
            }
        }
    }

    /// What follows from a batch of input.
    fn work(&mut self, now: Instant) {
        for side in std::mem::take(&mut self.again) {
            match side {
                Side::Client(index) => self.read_stream(now, index),
                Side::Peer(index) => self.read_peer(now, index),
            }
        }
        if self.turn.deadline().is_some_and(|at| at <= now) {
            self.turn.handle_timeout(now);
        }
        if self.sessions.deadline().is_some_and(|at| at <= now) {
            let turn = &self.turn;
            let ended = self
                .sessions
                .due(now, &mut self.datagrams, |c| turn.is_known(c));
            ended
                .iter()
                .for_each(|client| self.turn.client_closed(client));
        }
        self.release(now);
        if self.sweep_at <= now {
            self.sweep(now);
        }
        self.obey(now);
        self.flush(now);
    }

    fn sweep(&mut self, now: Instant) {
        self.sweep_at = now + SWEEP;
        if self.deaf {
            self.listen(true);
        }
        if let Ok(unix) = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
            self.turn.set_unix_time(now, unix.as_secs());
        }
        let turn = &self.turn;
        for index in self.streams.overdue(now, |client| turn.is_known(client)) {
            self.stream_ended(index);
        }
        for index in self.peers.overdue(now) {
            self.peer_ended(index);
        }
    }

    fn letters(&mut self, now: Instant) {
        let _ = self.inbox.wake.read();
        while let Ok(letter) = self.inbox.receiver.try_recv() {
            match letter {
                Inbox::Stream { socket, secure } => self.add_stream(now, socket, secure),
                Inbox::Reload(new) => {
                    let (config, certificate) = *new;
                    self.certificate = certificate;
                    // It was checked before it was sent.
                    if let Err(error) = self.turn.reload(config) {
                        tracing::error!("TURN: {error}");
                    }
                }
                Inbox::Drain => self.turn.drain(now),
                // Who asked may have gone.
                Inbox::Report(to) => drop(to.send(self.snapshot())),
                Inbox::Stop => self.stop = true,
            }
        }
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            turn: *self.turn.counters(),
            io: IoCounters {
                lost_datagrams: self.datagrams.lost,
                lost_to_streams: self.streams.dropped,
                lost_to_sessions: self.sessions.dropped,
                refused_streams: self.streams.refused,
                refused_sessions: self.sessions.refused,
            },
            allocations: self.turn.allocations(),
            streams: self.streams.len(),
            sessions: self.sessions.len(),
        }
    }

    /// Datagrams of clients.
    fn port(&mut self, now: Instant, index: usize) {
        let mut buffers = std::mem::replace(&mut self.buffers, ReceiveBuffers::none());
        let port = &mut self.datagrams.ports[index];
        let (secure, local) = (port.secure, port.socket.local());
        let count = buffers.receive(&port.socket, port.appetite.buffers());
        port.appetite.learn(count);
        for received in buffers.received(count) {
            let ip = received.to.unwrap_or(local.ip());
            let five = FiveTuple {
                transport: if secure {
                    Transport::Dtls
                } else {
                    Transport::Udp
                },
                client: received.from,
                server: SocketAddr::new(ip, local.port()),
            };
            for datagram in received.datagrams() {
                if secure {
                    self.session(now, five, datagram);
                } else if let Some(to) = self.turn.handle_client(now, &five, datagram) {
                    self.datagrams.send_to_peer(&to, datagram);
                }
            }
        }
        self.buffers = buffers;
    }

    fn session(&mut self, now: Instant, five: FiveTuple, datagram: &[u8]) {
        let Some(certificate) = &self.certificate else {
            return;
        };
        let turn = &mut self.turn;
        let message = |datagrams: &mut Datagrams, bytes: &[u8]| {
            if let Some(to) = turn.handle_client(now, &five, bytes) {
                datagrams.send_to_peer(&to, bytes);
            }
        };
        let fed = self.sessions.receive(
            now,
            five,
            datagram,
            certificate,
            &mut self.datagrams,
            message,
        );
        match fed {
            Ok(()) => self.sessions.settle(&five, || self.turn.is_known(&five)),
            Err(client) => {
                self.sessions.close(&client, now, &mut self.datagrams);
                self.turn.client_closed(&client);
            }
        }
    }

    /// Datagrams of peers, and what ICMP says about those to them; or a peer that connects.
    fn relay(&mut self, now: Instant, slot: usize, broken: bool) {
        let Some(relay) = self.datagrams.relay(slot) else {
            return;
        };
        let id = relay.id;
        match &mut relay.kind {
            Kind::Tcp(listener) => {
                let accepted = listener.accept();
                if let Ok((socket, from)) = accepted {
                    self.peer_accepted(now, id, socket, from);
                }
            }
            Kind::Udp { socket, appetite } => {
                if broken {
                    for error in icmp_errors(socket) {
                        self.turn.handle_icmp(now, id, &error);
                    }
                }
                let mut buffers = std::mem::replace(&mut self.buffers, ReceiveBuffers::none());
                let count = buffers.receive(socket, appetite.buffers());
                appetite.learn(count);
                for received in buffers.received(count) {
                    for datagram in received.datagrams() {
                        self.pass_to_client(now, id, received.from, datagram);
                    }
                }
                self.buffers = buffers;
            }
        }
    }

    fn pass_to_client(&mut self, now: Instant, id: RelayId, from: SocketAddr, payload: &[u8]) {
        let Some(to) = self.turn.handle_relayed(now, id, from, payload.len()) else {
            return;
        };
        let padding = &[0; 3][..to.header.padding()];
        let parts = [to.header.bytes(), payload, padding];
        match to.client.transport {
            Transport::Udp => self.datagrams.send_to_client(&to.client, &parts),
            Transport::Tcp | Transport::Tls => self.streams.send_datagram(&to.client, &parts),
            Transport::Dtls => self
                .sessions
                .send(now, &to.client, &parts, &mut self.datagrams),
        }
    }

    fn accept(&mut self, now: Instant, index: usize) {
        for _ in 0..ACCEPTS {
            let listener = &self.listeners[index];
            let (socket, from) = match listener.socket.accept() {
                Ok(accepted) => accepted,
                // Gone before it was taken: the next one.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // No descriptors left: the listener would wake us for ever. The next sweep tries again.
                Err(_) => return self.listen(false),
            };
            let secure = listener.secure;
            // Multiplied, so that neighbouring addresses do not meet in one shard.
            let hash = source_prefix(from.ip()).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
            let shard = hash as usize % self.mailboxes.len();
            if shard == self.index {
                self.add_stream(now, socket, secure);
            } else {
                self.mailboxes[shard].send(Inbox::Stream { socket, secure });
            }
        }
    }

    /// Whether connections are taken.
    fn listen(&mut self, listens: bool) {
        self.deaf = !listens;
        let mut interest = EpollFlags::empty();
        interest.set(EpollFlags::EPOLLIN, listens);
        for (index, listener) in self.listeners.iter().enumerate() {
            let mut event = EpollEvent::new(interest, Token::Listener(index).into());
            // It cannot fail for a descriptor that is there.
            let _ = self.epoll.modify(&listener.socket, &mut event);
        }
    }

    fn add_stream(&mut self, now: Instant, socket: TcpStream, secure: bool) {
        let certificate = self.certificate.as_ref().filter(|_| secure);
        if secure && certificate.is_none() {
            return;
        }
        self.streams.add(now, socket, certificate);
    }

    /// Does all that the state machine wants done.
    fn obey(&mut self, now: Instant) {
        while let Some(command) = self.turn.poll_command() {
            match command {
                Command::Send { to, bytes } => match to.transport {
                    Transport::Udp => self.datagrams.send_to_client(&to, &[&bytes]),
                    Transport::Tcp | Transport::Tls => self.streams.send_message(now, &to, &bytes),
                    Transport::Dtls => {
                        self.sessions.send(now, &to, &[&bytes], &mut self.datagrams);
                    }
                },
                Command::OpenRelay {
                    relay,
                    address,
                    tcp,
                    pair,
                } => {
                    let opened = self.datagrams.open(relay, address, tcp, pair);
                    self.turn.relay_opened(now, relay, opened);
                }
                Command::AdoptRelay { relay, address } => {
                    let adopted = self.datagrams.adopt(relay, address);
                    self.turn.relay_opened(now, relay, adopted);
                }
                Command::CloseRelay { relay } => {
                    // What it was given to send before leaves by it.
                    self.datagrams.flush();
                    self.datagrams.close(relay);
                }
                Command::CloseReserved { address } => self.datagrams.forget_kept(address),
                Command::Connect {
                    connection,
                    relay,
                    peer,
                } => self.dial_peer(now, connection, relay, peer),
                Command::Join { connection, client } => self.join(now, connection, client),
                Command::CloseConnection { connection } => self.peers.close_after(now, connection),
                Command::CloseClient { client } => self.close_client(now, client),
            }
        }
    }

    fn dial_peer(&mut self, now: Instant, id: ConnectionId, relay: RelayId, to: SocketAddr) {
        let from = match self.datagrams.relay(relay.slot()).map(|relay| &relay.kind) {
            Some(Kind::Tcp(listener)) => listener.local_addr().ok(),
            _ => None,
        };
        let dialled = from.is_some_and(|from| self.peers.connect(id, from, to).is_ok());
        if !dialled {
            self.turn.peer_connected(now, id, false);
        }
    }

    fn close_client(&mut self, now: Instant, client: FiveTuple) {
        match client.transport {
            Transport::Tcp | Transport::Tls => {
                if let Some(index) = self.streams.of(&client) {
                    self.streams.close_after(now, index);
                }
            }
            Transport::Dtls => self.sessions.close(&client, now, &mut self.datagrams),
            Transport::Udp => {}
        }
    }

    fn flush(&mut self, now: Instant) {
        self.datagrams.flush();
        let (mut ended, mut drained) = (Vec::new(), Vec::new());
        self.streams
            .flush(now, |i| ended.push(i), |i| drained.push(i));
        for index in ended {
            self.stream_ended(index);
        }
        for index in drained {
            self.resume_peer_of(index);
        }
        let (mut ended, mut drained) = (Vec::new(), Vec::new());
        self.peers
            .flush(now, |i| ended.push(i), |i| drained.push(i));
        for index in ended {
            self.peer_ended(index);
        }
        for index in drained {
            self.resume_client_of(index);
        }
        // What has ended may have told the state machine, which may want more closed.
        if self.turn.has_commands() {
            self.obey(now);
            self.datagrams.flush();
        }
    }
}
