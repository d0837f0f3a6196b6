//! The sockets behind candidates: a UDP socket and a TCP listener for each address, connections, and TURN allocations.

use super::candidate::{Candidate, Kind, MAX_CANDIDATES, Preference, TcpRole};
use super::gather::Gather;
use super::stream::{Speaks, Stream};
use super::{Path, Protocol};
use crate::anode::{Bucket, Rate};
use crate::sockets::on_one_port;
use crate::turn::client::{Check, TurnClient};
use anode_turn::client::{Config, Event as TurnEvent};
use anode_turn::resolve::Server;
use anode_turn::stun::{Class, Message, Writer, attr, is_stun, method};
use nix::poll::{PollFd, PollFlags};
use rand_core::Rng;
use slab::Slab;
use socket2::SockRef;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

/// Connections at a time, and of those that nothing has proven yet.
const MAX_STREAMS: usize = 512;
const MAX_UNPROVEN: usize = 64;
/// Datagrams of one socket, or new connections, in one turn.
const TURN: usize = 64;
/// Messages that wait to be taken.
const MAX_ARRIVED: usize = 4096;
/// Connections of TLS that wait to be taken.
const MAX_HANDED: usize = 64;
/// TURN servers that are asked for an address.
const MAX_RELAYS: usize = 4;
/// Binding requests of strangers that are answered a second.
const ANSWERS: Rate = Rate::per_second(200, 200);
/// The largest message.
const MESSAGE: usize = 65_536;

/// What was dropped, and how much was done.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counters {
    /// Messages that nobody took in time.
    pub arrived_dropped: u64,
    /// Connections for which there was no room.
    pub streams_refused: u64,
    /// Messages that could not be sent: the loss of that message and nothing more.
    pub send_failed: u64,
    /// Binding requests answered.
    pub bindings_answered: u64,
    /// Binding requests that were too many.
    pub bindings_limited: u64,
}

/// A TURN server to have an address on.
#[derive(Clone)]
pub struct RelayServer {
    /// Where and how.
    pub server: Server,
    /// Credentials and timers.
    pub config: Config,
    /// What TLS and DTLS are checked by.
    pub check: Option<Check>,
}

/// A connection that speaks TLS, from somebody who dialled a listener.
pub struct Handed {
    /// The connection, non-blocking.
    pub socket: TcpStream,
    /// What was read of it.
    pub early: Vec<u8>,
    /// Whose.
    pub from: SocketAddr,
}

struct Local {
    udp: UdpSocket,
    listener: Option<TcpListener>,
    at: SocketAddr,
}

impl Local {
    fn open(address: &SocketAddr) -> io::Result<Self> {
        let (udp, listener) = on_one_port(*address, pair)
            .or_else(|_| Ok::<_, io::Error>((UdpSocket::bind(address)?, None)))?;
        udp.set_nonblocking(true)?;
        let at = udp.local_addr()?;
        if let IpAddr::V4(ip) = at.ip() {
            // Questions to a group go out where this address is.
            SockRef::from(&udp).set_multicast_if_v4(&ip)?;
        }
        if let Some(listener) = &listener {
            listener.set_nonblocking(true)?;
        }
        Ok(Self { udp, listener, at })
    }
}

fn pair(address: SocketAddr) -> io::Result<(UdpSocket, Option<TcpListener>)> {
    let udp = UdpSocket::bind(address)?;
    let listener = TcpListener::bind(udp.local_addr()?)?;
    Ok((udp, Some(listener)))
}

/// Whether a socket is where it is wanted: port 0 is any.
fn is_at(own: SocketAddr, wanted: SocketAddr) -> bool {
    own.ip() == wanted.ip() && (wanted.port() == 0 || wanted.port() == own.port())
}

/// The sockets; whoever owns it waits for [`Endpoint::fds`] and calls [`Endpoint::work`].
pub struct Endpoint {
    locals: Vec<Local>,
    streams: Slab<Stream>,
    by_path: HashMap<Path, usize>,
    relays: Vec<TurnClient>,
    gather: Gather,
    /// How servers see our sockets: base, seen.
    reflexive: Vec<(SocketAddr, SocketAddr)>,
    arrived: VecDeque<(Path, Vec<u8>)>,
    handed: VecDeque<Handed>,
    answers: Bucket,
    buffer: Vec<u8>,
    counters: Counters,
}

impl Endpoint {
    /// Binds a UDP socket and a TCP listener at each address, of the same port; port 0 takes any. A listener that cannot
    /// be had is done without.
    ///
    /// # Errors
    /// A UDP socket cannot be bound.
    pub fn open(addresses: &[SocketAddr]) -> io::Result<Self> {
        let locals = addresses.iter().map(Local::open);
        let locals = locals.collect::<io::Result<Vec<_>>>()?;
        Ok(Self {
            locals,
            streams: Slab::new(),
            by_path: HashMap::new(),
            relays: Vec::new(),
            gather: Gather::default(),
            reflexive: Vec::new(),
            arrived: VecDeque::new(),
            handed: VecDeque::new(),
            answers: Bucket::default(),
            buffer: vec![0; MESSAGE],
            counters: Counters::default(),
        })
    }

    /// Has sockets at these addresses from now on, where they can be had; connections from others end. False: it has them
    /// already.
    pub fn follow(&mut self, addresses: &[SocketAddr]) -> bool {
        let before: Vec<SocketAddr> = self.addresses().collect();
        let gone: Vec<SocketAddr> = self
            .addresses()
            .filter(|own| !addresses.iter().any(|at| is_at(*own, *at)))
            .collect();
        self.locals.retain(|local| !gone.contains(&local.at));
        self.reflexive.retain(|(base, _)| !gone.contains(base));
        for at in gone {
            self.close(at, None);
        }
        for address in addresses {
            if self.addresses().any(|own| is_at(own, *address)) {
                continue;
            }
            match Local::open(address) {
                Ok(local) => self.locals.push(local),
                // The address may have gone again.
                Err(error) => tracing::debug!("no socket at {address}: {error}"),
            }
        }
        !self.addresses().eq(before)
    }

    /// Where its sockets are.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.locals.iter().map(|local| local.at)
    }

    /// Begins to find server-reflexive addresses, and to ask these servers for relayed ones. Allocations that stand are
    /// kept.
    pub fn gather(
        &mut self,
        now: Instant,
        rng: &mut dyn Rng,
        stun: &[SocketAddr],
        relays: &[RelayServer],
    ) {
        let bases: Vec<_> = self.addresses().collect();
        self.gather.start(now, &bases, stun, || {
            let mut id = [0; 12];
            rng.fill_bytes(&mut id);
            id
        });
        for relay in relays {
            let known = |it: &TurnClient| *it.server() == relay.server;
            if self.relays.len() >= MAX_RELAYS || self.relays.iter().any(known) {
                continue;
            }
            let config = relay.config.clone();
            match TurnClient::new(now, relay.server.clone(), config, relay.check.clone()) {
                Ok(client) => self.relays.push(client),
                Err(error) => tracing::debug!("TURN server {}: {error}", relay.server.address),
            }
        }
        self.transmit_gather();
    }

    /// Whether nothing more is to be expected of [`Endpoint::gather`]; TURN servers may still be connecting.
    pub fn is_gathered(&self) -> bool {
        self.gather.is_done()
            && self.relays.iter().all(|relay| {
                !relay.relayed().is_empty() || relay.failure().is_some() || relay.fd().is_none()
            })
    }

    /// What can be told, each with the address that its packets are sent from. `active` stands for connections to be
    /// opened: a port for this session alone.
    pub fn candidates(&self, preference: Preference, active: u16) -> Vec<(Candidate, SocketAddr)> {
        let mut all = Vec::new();
        for (place, local) in self.locals.iter().enumerate() {
            let new = |protocol, tcp| {
                Candidate::new(Kind::Host, protocol, tcp, local.at, place, preference)
            };
            all.push((new(Protocol::Udp, None), local.at));
            if local.listener.is_some() {
                all.push((new(Protocol::Tcp, Some(TcpRole::Passive)), local.at));
            }
            let opened = SocketAddr::new(local.at.ip(), active);
            all.push((new(Protocol::Tcp, Some(TcpRole::Active)), opened));
        }
        let mut add = |kind, place, at, base| {
            let known = all
                .iter()
                .any(|(it, _)| it.protocol == Protocol::Udp && it.address == at);
            if !known {
                let candidate = Candidate::new(kind, Protocol::Udp, None, at, place, preference);
                all.push((candidate, base));
            }
        };
        for (place, (base, seen)) in self.reflexive.iter().enumerate() {
            add(Kind::ServerReflexive, place, *seen, *base);
        }
        let relayed = self.relays.iter().flat_map(|relay| relay.relayed());
        for (place, at) in relayed.enumerate() {
            add(Kind::Relayed, place, *at, *at);
        }
        all.sort_by_key(|(it, _)| std::cmp::Reverse(it.priority));
        all.truncate(MAX_CANDIDATES);
        all
    }

    /// What to wait for.
    pub fn fds<'a>(&'a self, all: &mut Vec<PollFd<'a>>) {
        let mut add = |fd: BorrowedFd<'a>, write| {
            let flags = if write {
                PollFlags::POLLIN | PollFlags::POLLOUT
            } else {
                PollFlags::POLLIN
            };
            all.push(PollFd::new(fd, flags));
        };
        for local in &self.locals {
            add(local.udp.as_fd(), false);
            if let Some(listener) = &local.listener {
                add(listener.as_fd(), false);
            }
        }
        for (_, stream) in &self.streams {
            add(stream.fd(), stream.wants_write());
        }
        for (fd, write) in self.relays.iter().filter_map(TurnClient::fd) {
            add(fd, write);
        }
    }

    /// When [`Endpoint::work`] wants to be called although nothing came.
    pub fn deadline(&self) -> Option<Instant> {
        let relays = self.relays.iter().filter_map(TurnClient::deadline);
        let streams = self.streams.iter().filter_map(|(_, it)| it.deadline());
        let all = relays.chain(streams);
        all.chain(self.gather.deadline()).min()
    }

    /// Takes what has come and does what is due.
    pub fn work(&mut self, now: Instant) {
        self.read_datagrams(now);
        self.accept(now);
        self.work_streams(now);
        self.work_relays(now);
        self.gather.handle_timeout(now);
        self.transmit_gather();
    }

    /// The next message that has come, STUN included.
    pub fn poll_arrived(&mut self) -> Option<(Path, Vec<u8>)> {
        self.arrived.pop_front()
    }

    /// The next connection that speaks TLS.
    pub fn poll_handed(&mut self) -> Option<Handed> {
        self.handed.pop_front()
    }

    /// Sends a message. False: it is lost.
    pub fn send(&mut self, now: Instant, path: Path, bytes: &[u8]) -> bool {
        let sent = match path.protocol {
            Protocol::Udp => self.send_datagram(now, path, bytes),
            Protocol::Tcp => self.send_frame(now, path, bytes),
        };
        self.counters.send_failed += u64::from(!sent);
        sent
    }

    /// A check that fitted has come over this way: its connection stays.
    pub fn prove(&mut self, path: &Path) {
        if let Some(stream) = self
            .by_path
            .get(path)
            .and_then(|at| self.streams.get_mut(*at))
        {
            stream.proven = true;
        }
    }

    /// Ends the connections from one of our addresses to one of theirs, or all from `local`.
    pub fn close(&mut self, local: SocketAddr, remote: Option<SocketAddr>) {
        let ends =
            |path: &Path| path.local == local && remote.is_none_or(|remote| path.remote == remote);
        let over: Vec<_> = self
            .by_path
            .keys()
            .filter(|path| ends(path))
            .copied()
            .collect();
        for path in over {
            self.drop_stream(&path);
        }
    }

    /// Gives allocations back.
    pub fn shut(&mut self, now: Instant) {
        self.relays.iter_mut().for_each(|relay| relay.close(now));
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        let lost: u64 = self.streams.iter().map(|(_, it)| it.lost).sum();
        Counters {
            send_failed: self.counters.send_failed + lost,
            ..self.counters
        }
    }

    fn arrive(&mut self, path: Path, bytes: &[u8]) {
        match self.arrived.len() < MAX_ARRIVED {
            true => self.arrived.push_back((path, bytes.to_vec())),
            false => self.counters.arrived_dropped += 1,
        }
    }

    fn read_datagrams(&mut self, now: Instant) {
        let mut buffer = std::mem::take(&mut self.buffer);
        for place in 0..self.locals.len() {
            for _ in 0..TURN {
                let Ok((length, from)) = self.locals[place].udp.recv_from(&mut buffer) else {
                    break;
                };
                self.handle_datagram(now, place, from, &buffer[..length]);
            }
        }
        self.buffer = buffer;
    }

    fn handle_datagram(&mut self, now: Instant, place: usize, from: SocketAddr, bytes: &[u8]) {
        let base = self.locals[place].at;
        if is_stun(bytes) {
            if let Some(seen) = self.gather.handle(base, from, bytes) {
                if let Some(seen) = seen.filter(|seen| *seen != base) {
                    let pair = (base, seen);
                    if !self.reflexive.contains(&pair) && self.reflexive.len() < MAX_CANDIDATES {
                        self.reflexive.push(pair);
                    }
                }
                return;
            }
            if let Some(answer) = self.answer(now, from, bytes) {
                let sent = self.locals[place].udp.send_to(&answer, from);
                self.counters.send_failed += u64::from(sent.is_err());
                return;
            }
        }
        let path = Path {
            protocol: Protocol::Udp,
            local: base,
            remote: from,
        };
        self.arrive(path, bytes);
    }

    /// What a STUN server answers to a request without credentials (reload.md R97).
    fn answer(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) -> Option<Vec<u8>> {
        let request = Message::parse(bytes).ok()?;
        let plain = request.class() == Class::Request
            && request.method() == method::BINDING
            && !request.has(attr::USERNAME);
        if !plain {
            return None;
        }
        if !self.answers.take(now, ANSWERS) {
            self.counters.bindings_limited += 1;
            return None;
        }
        self.counters.bindings_answered += 1;
        let writer = Writer::success(&request).xor_address(attr::XOR_MAPPED_ADDRESS, from);
        Some(writer.fingerprint().finish())
    }

    fn accept(&mut self, now: Instant) {
        for place in 0..self.locals.len() {
            for _ in 0..TURN {
                let local = &self.locals[place];
                let Some(Ok((socket, from))) = local.listener.as_ref().map(TcpListener::accept)
                else {
                    break;
                };
                let at = local.at;
                self.make_room();
                if self.streams.len() >= MAX_STREAMS {
                    self.counters.streams_refused += 1;
                    continue;
                }
                let path = Path {
                    protocol: Protocol::Tcp,
                    local: at,
                    remote: from,
                };
                if let Ok(stream) = Stream::accepted(now, socket, path) {
                    self.insert(stream);
                }
            }
        }
    }

    /// Of those that nothing has proven yet, the oldest goes: who opens connections and says nothing keeps nobody out.
    fn make_room(&mut self) {
        let unproven = || self.streams.iter().filter(|(_, it)| !it.proven);
        if unproven().count() < MAX_UNPROVEN {
            return;
        }
        let oldest = unproven().min_by_key(|(_, it)| it.deadline());
        if let Some(path) = oldest.map(|(_, it)| it.path) {
            self.counters.streams_refused += 1;
            self.drop_stream(&path);
        }
    }

    fn insert(&mut self, stream: Stream) {
        let path = stream.path;
        self.drop_stream(&path);
        let at = self.streams.insert(stream);
        self.by_path.insert(path, at);
    }

    fn drop_stream(&mut self, path: &Path) {
        if let Some(at) = self.by_path.remove(path) {
            let gone = self.streams.remove(at);
            self.counters.send_failed += gone.lost;
        }
    }

    fn work_streams(&mut self, now: Instant) {
        let mut buffer = std::mem::take(&mut self.buffer);
        let (mut over, mut tls, mut messages) = (Vec::new(), Vec::new(), Vec::new());
        for (_, stream) in &mut self.streams {
            let path = stream.path;
            let late = stream.deadline().is_some_and(|at| at <= now);
            let worked = stream.work(&mut buffer, &mut |message| {
                messages.push((path, message.to_vec()));
            });
            if worked.is_err() || late {
                over.push(path);
            } else if stream.speaks == Speaks::Tls {
                tls.push(path);
            }
        }
        self.buffer = buffer;
        for (path, message) in messages {
            self.arrive(path, &message);
        }
        over.iter().for_each(|path| self.drop_stream(path));
        for path in tls {
            let Some(stream) = self.by_path.remove(&path).map(|at| self.streams.remove(at)) else {
                continue;
            };
            if self.handed.len() >= MAX_HANDED {
                self.counters.streams_refused += 1;
                continue;
            }
            let (socket, early) = stream.into_parts();
            let from = path.remote;
            self.handed.push_back(Handed {
                socket,
                early,
                from,
            });
        }
    }

    fn work_relays(&mut self, now: Instant) {
        let mut messages = Vec::new();
        for relay in &mut self.relays {
            let local = relay.relayed().to_vec();
            relay.work(now, &mut |peer, payload| {
                // A relay of two families has an address in each.
                let fits = local.iter().find(|at| at.is_ipv4() == peer.is_ipv4());
                if let Some(local) = fits {
                    let path = Path {
                        protocol: Protocol::Udp,
                        local: *local,
                        remote: peer,
                    };
                    messages.push((path, payload.to_vec()));
                }
            });
            while let Some(event) = relay.poll_event() {
                if let TurnEvent::Ended { why, .. } = event {
                    tracing::debug!("TURN server {}: {why}", relay.server().address);
                }
            }
        }
        self.relays.retain(|relay| relay.fd().is_some());
        for (path, message) in messages {
            self.arrive(path, &message);
        }
    }

    fn transmit_gather(&mut self) {
        while let Some((base, server, bytes)) = self.gather.poll_transmit() {
            if let Some(local) = self.locals.iter().find(|local| local.at == base) {
                let sent = local.udp.send_to(&bytes, server);
                self.counters.send_failed += u64::from(sent.is_err());
            }
        }
    }

    fn send_datagram(&mut self, now: Instant, path: Path, bytes: &[u8]) -> bool {
        if let Some(local) = self.locals.iter().find(|local| local.at == path.local) {
            return local.udp.send_to(bytes, path.remote).is_ok();
        }
        let mut relays = self.relays.iter_mut();
        let relay = relays.find(|relay| relay.relayed().contains(&path.local));
        relay.is_some_and(|relay| relay.send(now, path.remote, bytes))
    }

    fn send_frame(&mut self, now: Instant, path: Path, bytes: &[u8]) -> bool {
        if !self.by_path.contains_key(&path) {
            // Who listens does not dial: the pair is for the other side to open.
            let listens = self.locals.iter().any(|local| local.at == path.local);
            if listens || self.streams.len() >= MAX_STREAMS {
                return false;
            }
            match Stream::dial(now, path) {
                Ok(stream) => self.insert(stream),
                Err(_) => return false,
            }
        }
        let stream = self
            .by_path
            .get(&path)
            .and_then(|at| self.streams.get_mut(*at));
        stream.is_some_and(|stream| stream.send(bytes))
    }
}
