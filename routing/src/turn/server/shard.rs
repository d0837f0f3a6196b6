//! One thread of the server: a state machine, and the sockets of its clients.
//!
//! ```text
//!   epoll ─▶ ready: ports, relays, streams, peers, letters ─▶ obey: what the state machine wants ─▶ flush
//! ```

mod joined;
mod outbound;

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant, SystemTime};

use anode_turn::Transport;
use anode_turn::server::{Config, ConnectionId, FiveTuple, RelayId, Server};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::net::SocketAddr;

use super::connections::Connection;
use super::counters::IoCounters;
use super::datagrams::{Datagrams, Kept, Kind, Port, icmp_errors};
use super::peers::{Peer, Peers, Progress};
use super::sessions::Sessions;
use super::streams::{Stream, Streams};
use super::token::Token;
use super::{Letters, Listener, Mailbox, Snapshot, shard_of};
use crate::net::streams::pipe::Pipe;
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

/// What a shard is told from outside.
pub(super) enum Inbox {
    /// A connection of a client that is this shard's.
    Stream {
        socket: TcpStream,
        secure: bool,
    },
    /// The same, accepted by somebody else, its first bytes read.
    Entered {
        pipe: Box<Pipe>,
        five: FiveTuple,
        seen: Vec<u8>,
    },
    Reload(Box<(Config, Option<ServerCertificate>)>),
    Drain,
    Report(Sender<Snapshot>),
    Stop,
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
    pub cookie_secret: [u8; 32],
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
    /// Those of the turn before, while they are read.
    reading: Vec<Side>,
    /// Bytes of streams that are held to a rate.
    held: Vec<Held>,
    sweep_at: Instant,
    /// Descriptors have run out: no connections are taken.
    deaf: bool,
    /// Counts the batches of events.
    round: u32,
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
            sessions: Sessions::new(Instant::now(), parts.cookie_secret),
            peers: Peers::new(Arc::clone(&epoll)),
            epoll,
            listeners: parts.listeners,
            inbox: parts.inbox,
            mailboxes: parts.mailboxes,
            certificate: parts.certificate,
            buffers: ReceiveBuffers::default(),
            read: vec![0; READ],
            again: Vec::new(),
            reading: Vec::new(),
            held: Vec::new(),
            sweep_at: Instant::now(),
            deaf: false,
            round: 0,
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
            self.round = self.round.wrapping_add(1);
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
                self.streams.all.touch(index);
                self.read_stream(now, index);
                let deaf = |s: &mut Connection<Stream>| s.paused;
                if broken && self.streams.all.get(index).is_some_and(deaf) {
                    self.stream_ended(index);
                }
            }
            Token::Peer(index) => {
                match self.peers.progress(index) {
                    Progress::Connected => self.peer_connected(now, index, true),
                    Progress::Failed => return self.peer_connected(now, index, false),
                    Progress::Same => {}
                }
                self.peers.all.touch(index);
                self.read_peer(now, index);
                let deaf = |p: &mut Connection<Peer>| p.paused;
                if broken && self.peers.all.get(index).is_some_and(deaf) {
                    self.peer_ended(index);
                }
            }
        }
    }

    /// What follows from a batch of input.
    fn work(&mut self, now: Instant) {
        std::mem::swap(&mut self.again, &mut self.reading);
        while let Some(side) = self.reading.pop() {
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
                Inbox::Entered { pipe, five, seen } => {
                    if let Some(index) = self.streams.add_entered(now, *pipe, five) {
                        self.stream_bytes(now, index, &seen);
                        // TLS may hold more, of which the kernel knows nothing.
                        self.again.push(Side::Client(index));
                    }
                }
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
            streams: self.streams.all.len(),
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
            Kind::Udp { socket, sip } => {
                if broken {
                    for error in icmp_errors(socket) {
                        self.turn.handle_icmp(now, id, &error);
                    }
                }
                let mut buffers = std::mem::replace(&mut self.buffers, ReceiveBuffers::none());
                let count = buffers.receive(socket, sip.buffers(self.round));
                sip.learn(count);
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
            let shard = shard_of(from.ip(), self.mailboxes.len());
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
}
