//! A router that says what it likes.
use super::{START_MS, keys, start};
use crate::steps::steps;
use anode_i2cp::Now;
use anode_i2cp::client::{Client, Event, LookupId, Phase};
use anode_i2cp::destination::Hash;
use anode_i2cp::message::{MAX_SENT_BODY, PROTOCOL, Query};
use anode_i2cp::options::SessionOptions;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// The session of every target.
pub const SESSION: [u8; 2] = [0, 100];

/// The kinds of steps. The bytes of a message are its type and its body, of [`OWN`] a body without the session's id.
pub const MESSAGE: u8 = 0;
pub const OWN: u8 = 1;
pub const STREAM: u8 = 2;
pub const LOOKUP: u8 = 3;
pub const SEND: u8 = 4;
pub const READ: u8 = 5;
pub const CHANGE: u8 = 6;
/// A HostReply to a lookup that is open: its bytes are the code and what follows.
pub const REPLY: u8 = 7;

/// What the first byte of a talk says of the session.
pub const ENCRYPTED: u8 = 1;
pub const SLOW_RECEIVE: u8 = 2;
pub const IDLES: u8 = 4;
pub const IS_READY: u8 = 8;

/// Bytes that wait for the socket at most: the limit, a message that crosses it, and what time makes beside it.
const MOST_QUEUED: usize = (1 << 20) + (256 << 10);
/// What a client may send.
const TYPES: [u8; 11] = [1, 2, 3, 6, 7, 8, 30, 32, 36, 38, 41];

/// A message with its length.
pub fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32).to_be_bytes();
    [&length[..], &[kind], body].concat()
}

/// What a router says until a session is ready: the date, the session, and two leases of ten minutes.
pub fn handshake() -> Vec<u8> {
    let date = [&START_MS.to_be_bytes()[..], b"\x060.9.66"].concat();
    let end = (START_MS + 600_000).to_be_bytes();
    let leases = [&SESSION[..], &[2], &[7; 36], &end, &[8; 36], &end].concat();
    let status = [&SESSION[..], &[1]].concat();
    [frame(33, &date), frame(20, &status), frame(37, &leases)].concat()
}

fn options(kinds: u8) -> SessionOptions {
    let sets: [(u8, &[(&str, &str)]); 3] = [
        (ENCRYPTED, &[("i2cp.leaseSetType", "5")]),
        (SLOW_RECEIVE, &[("i2cp.fastReceive", "false")]),
        (
            IDLES,
            &[
                ("i2cp.closeOnIdle", "true"),
                ("i2cp.closeIdleTime", "600000"),
                ("i2cp.reduceOnIdle", "true"),
                ("i2cp.reduceIdleTime", "300000"),
            ],
        ),
    ];
    let chosen = sets.iter().filter(|(kind, _)| kinds & kind != 0);
    SessionOptions::parse(chosen.flat_map(|(_, pairs)| pairs.iter().copied())).expect("good ones")
}

struct World {
    client: Client,
    now: Now,
    /// Bytes that the router has read and not understood yet; the first one is the protocol's.
    read: Vec<u8>,
    greeted: bool,
    lookups: HashMap<LookupId, Option<Hash>>,
    /// Lookups by their numbers on the wire.
    open: HashSet<[u8; 4]>,
    closed: bool,
}

impl World {
    /// Reads what waits for the socket: whole messages of known types, and no more than may wait.
    fn read(&mut self) {
        let mut queued = 0;
        while let Some(bytes) = self.client.poll_transmit() {
            queued += bytes.len();
            self.read.extend_from_slice(&bytes);
        }
        assert!(queued <= MOST_QUEUED, "{queued}");
        if !self.greeted && !self.read.is_empty() {
            assert_eq!(self.read.remove(0), PROTOCOL);
            self.greeted = true;
        }
        let mut rest = &self.read[..];
        while let [a, b, c, d, kind, behind @ ..] = rest {
            let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
            assert!(length <= MAX_SENT_BODY && TYPES.contains(kind));
            let body;
            (body, rest) = behind.split_at(length);
            if let (38, [_, _, a, b, c, d, ..]) = (kind, body) {
                self.open.insert([*a, *b, *c, *d]);
            }
        }
        assert!(rest.is_empty());
        self.read.clear();
    }

    /// Every lookup ends once and with what it asked for, and nothing follows the end of the connection.
    fn events(&mut self) -> usize {
        let mut count = 0;
        while let Some(event) = self.client.poll_event() {
            count += 1;
            assert!(!self.closed, "{event:?}");
            match event {
                Event::Lookup(id, found) => {
                    let asked = self.lookups.remove(&id).expect("it is open");
                    if let (Some(hash), Ok(found)) = (asked, found) {
                        assert_eq!(found.destination.hash(), hash);
                    }
                }
                Event::Closed(reason) => {
                    assert!(!reason.to_string().chars().any(char::is_control));
                    assert!(self.lookups.is_empty());
                    self.closed = true;
                }
                _ => {}
            }
        }
        assert_eq!(
            self.closed,
            self.client.deadline().is_none() && self.client.phase() == Phase::Closed
        );
        count
    }

    fn received(&mut self, bytes: &[u8]) {
        let most = self.lookups.len() + bytes.len() / 5 + 2;
        self.client.received(bytes, self.now);
        assert!(self.events() <= most);
    }

    /// Passes time, and does what is due on the way.
    fn pass(&mut self, span: Duration) {
        let end = self.now.instant + span;
        for turn in 0.. {
            let Some(at) = self.client.deadline().filter(|at| *at <= end) else {
                break;
            };
            assert!(turn < 1000, "a deadline that does not pass");
            let until = at.saturating_duration_since(self.now.instant);
            self.now = self.now + until;
            self.client.handle_timeout(self.now);
            self.events();
        }
        self.now = self.now + end.saturating_duration_since(self.now.instant);
    }

    fn step(&mut self, kind: u8, bytes: &[u8]) {
        let peer = keys()[1].destination();
        match (kind, bytes) {
            (MESSAGE, [kind, body @ ..]) => self.received(&frame(*kind, body)),
            (OWN, [kind, body @ ..]) => {
                let body = [&SESSION[..], body].concat();
                self.received(&frame(*kind, &body));
            }
            (STREAM, _) => self.received(bytes),
            (LOOKUP, _) => {
                let (query, hash) = match bytes.first_chunk::<32>() {
                    Some(hash) => (Query::Hash(Hash(*hash)), Some(Hash(*hash))),
                    None if bytes.is_empty() => (Query::Hash(peer.hash()), Some(peer.hash())),
                    None => (
                        Query::Name(String::from_utf8_lossy(bytes).into_owned()),
                        None,
                    ),
                };
                if let Ok(id) = self.client.lookup(query, bytes.len() % 2 == 1, self.now) {
                    assert!(self.lookups.insert(id, hash).is_none());
                    assert!(self.lookups.len() <= 256);
                }
            }
            (SEND, _) => {
                // a megabyte takes few of the large ones
                let payload = bytes.repeat(1 + bytes.len() % 64);
                let ttl = Duration::from_secs(60);
                let _ = self.client.send(peer, &payload, 7, true, ttl, self.now);
            }
            (READ, _) => self.read(),
            (CHANGE, [0, ..]) => self.client.close(self.now),
            (CHANGE, [1, ..]) => self.client.connection_lost(),
            (CHANGE, [2, ..]) => drop(self.client.ask_bandwidth_limits()),
            (CHANGE, [kinds, ..]) => drop(self.client.reconfigure(options(*kinds), self.now)),
            (REPLY, _) => {
                let asked = self.open.iter().min().copied();
                if let Some(asked) = asked {
                    self.open.remove(&asked);
                    let body = [&SESSION[..], &asked, bytes].concat();
                    self.received(&frame(39, &body));
                }
            }
            _ => {}
        }
        self.events();
    }
}

/// A talk of a router with a client whose program looks up, sends, and reads or not. Queues and tables stay within their
/// limits, every message that leaves is whole, every lookup ends, and a session that is told to end does so in two seconds.
pub fn messages(talk: &[u8]) {
    let Some((kinds, talk)) = talk.split_first() else {
        return;
    };
    let now = start();
    let client = Client::new(keys()[0].clone(), options(*kinds), None, [5; 32], now);
    let mut world = World {
        client: client.expect("options that work"),
        now,
        read: Vec::new(),
        greeted: false,
        lookups: HashMap::new(),
        open: HashSet::new(),
        closed: false,
    };
    if kinds & IS_READY != 0 {
        world.received(&handshake());
        assert_eq!(world.client.phase(), Phase::Ready);
    }
    for step in steps(talk).take(200) {
        world.pass(Duration::from_millis(1 << (step.later % 20)) - Duration::from_millis(1));
        world.step(step.kind & 7, step.bytes);
    }
    world.client.close(world.now);
    world.events();
    world.pass(Duration::from_secs(2));
    assert!(world.closed);
    world.read();
}
