//! A peer that signs what it likes, and sends it in any order.
use super::{keys, start};
use crate::steps::steps;
use anode_i2cp::Now;
use anode_i2cp::envelope::{Ports, protocol};
use anode_i2cp::message::MessageStatus;
use anode_i2cp::streaming::{Config, Event, PingId, StreamId, Streams};
use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

/// The kinds of steps.
pub const PACKET: u8 = 0;
pub const RAW: u8 = 1;
pub const ACCEPT: u8 = 2;
pub const REFUSE: u8 = 3;
pub const READ: u8 = 4;
pub const WRITE: u8 = 5;
pub const FINISH: u8 = 6;
pub const RESET: u8 = 7;
pub const CONNECT: u8 = 8;
pub const PING: u8 = 9;
pub const STATUS: u8 = 10;
pub const SESSION_LOST: u8 = 11;

/// Flags of packets (i2cp.md §2.8).
pub mod flag {
    pub const SYN: u16 = 1;
    pub const CLOSE: u16 = 1 << 1;
    pub const RESET: u16 = 1 << 2;
    pub const SIGNATURE: u16 = 1 << 3;
    pub const FROM: u16 = 1 << 5;
    pub const DELAY: u16 = 1 << 6;
    pub const MAX_SIZE: u16 = 1 << 7;
    pub const ECHO: u16 = 1 << 9;
    pub const NO_ACK: u16 = 1 << 10;
}

const MAX_STREAMS: usize = 8;
const SEND_BUFFER: usize = 20_000;
/// Unread bytes of one stream that are never exceeded.
const MOST_UNREAD: usize = 512 * 1024;
/// A packet of ours: header, NACKs, destination and signature, the largest payload.
const LARGEST: usize = 22 + 4 * 255 + 459 + 1812;
/// What a stranger gets at most for a byte: a SYN that is refused, and 16 reminders of that.
const AMPLIFICATION: usize = 12;

fn config() -> Config {
    Config {
        send_buffer: SEND_BUFFER,
        max_streams: MAX_STREAMS,
        backlog: 4,
        ..Config::default()
    }
}

/// A packet of the peer as a step describes it: which of our streams it is for (0: none yet), its own id, sequence,
/// acknowledgement, flags (2), delay (2), the number of NACKs, these, and the payload. Who it is from, and its signature, are
/// right where its flags say that they are there.
fn packet(ids: &[u32], bytes: &[u8]) -> Option<Vec<u8>> {
    let [which, from, sequence, ack, high, low, delay @ ..] = bytes else {
        return None;
    };
    let [slow, slower, nacks, rest @ ..] = delay else {
        return None;
    };
    let to = match which {
        0 => 0,
        which => *ids.get(usize::from(*which - 1) % ids.len().max(1))?,
    };
    let nacks = usize::from(*nacks).min(rest.len());
    let (nacks, payload) = rest.split_at(nacks);
    let peer = &keys()[1];
    // an offline signature would need a key of its own: RAW brings those
    let flags = u16::from_be_bytes([*high, *low]) & 0x07ff;
    let mut out = Vec::new();
    for word in [to, u32::from(*from), u32::from(*sequence), u32::from(*ack)] {
        out.extend(word.to_be_bytes());
    }
    out.push(nacks.len() as u8);
    let nacks = nacks.iter().map(|nack| u32::from(*nack));
    out.extend(nacks.flat_map(u32::to_be_bytes));
    out.push(0);
    out.extend(flags.to_be_bytes());
    let mut options = Vec::new();
    if flags & flag::DELAY != 0 {
        options.extend([slow, slower]);
    }
    if flags & flag::FROM != 0 {
        options.extend(peer.destination().as_bytes());
    }
    if flags & flag::MAX_SIZE != 0 {
        options.extend(1812u16.to_be_bytes());
    }
    if flags & flag::SIGNATURE != 0 {
        options.extend([0; 64]);
    }
    out.extend((options.len() as u16).to_be_bytes());
    out.extend(options);
    let end = out.len();
    out.extend(payload);
    if flags & flag::SIGNATURE != 0 {
        let signature = peer.sign(&out);
        out[end - 64..end].copy_from_slice(&signature);
    }
    Some(out)
}

struct World {
    streams: Streams,
    now: Now,
    /// Those that the program knows of.
    open: BTreeSet<StreamId>,
    pings: HashSet<PingId>,
    /// Our ids, as packets have shown them.
    ids: Vec<u32>,
    nonces: Vec<u32>,
    /// Packets that others than the peer may have signed.
    raw: Vec<Vec<u8>>,
    /// Bytes in and out, as long as the program has not spoken.
    silent: Option<(usize, usize)>,
}

impl World {
    fn transmit(&mut self) {
        let mut count = 0;
        while let Some(out) = self.streams.poll_transmit(self.now) {
            count += 1;
            let named = |it: &Vec<u8>| {
                let to = out.to.as_bytes();
                it.windows(to.len()).any(|part| part == to)
            };
            assert!(out.to == *keys()[1].destination() || self.raw.iter().any(named));
            assert_eq!(out.ports.protocol, protocol::STREAMING);
            assert!(out.data.len() <= LARGEST, "{}", out.data.len());
            let [_, _, _, _, a, b, c, d, ..] = out.data[..] else {
                panic!("no whole header");
            };
            let from = u32::from_be_bytes([a, b, c, d]);
            if from != 0 && !self.ids.contains(&from) {
                self.ids.push(from);
            }
            if out.nonce != 0 {
                self.nonces.push(out.nonce);
            }
            if let Some((_, sent)) = &mut self.silent {
                *sent += out.data.len();
            }
        }
        // all windows, and what lies outside of streams
        assert!(count <= 128 * MAX_STREAMS + 256, "{count}");
        let (heard, sent) = self.silent.unwrap_or_default();
        assert!(sent <= AMPLIFICATION * heard, "{sent} for {heard}");
    }

    /// Each stream begins once and ends once; in between things happen to it.
    fn events(&mut self) {
        while let Some(event) = self.streams.poll_event() {
            match event {
                Event::Incoming { stream, .. } => assert!(self.open.insert(stream)),
                Event::Connected(stream)
                | Event::Readable(stream)
                | Event::Writable(stream)
                | Event::Finished(stream) => assert!(self.open.contains(&stream)),
                Event::Closed(stream, _) => assert!(self.open.remove(&stream)),
                Event::Pong(ping, _) => assert!(self.pings.remove(&ping)),
            }
        }
        assert_eq!(self.streams.len(), self.open.len());
        assert!(self.open.len() <= MAX_STREAMS && self.pings.len() <= 256);
        for stream in &self.open {
            let info = self.streams.info(*stream).expect("it is open");
            assert!(info.unread <= MOST_UNREAD);
            assert!(self.streams.room(*stream) <= SEND_BUFFER);
        }
    }

    fn pass(&mut self, span: Duration) {
        let end = self.now.instant + span;
        self.transmit();
        for turn in 0.. {
            let Some(at) = self.streams.deadline().filter(|at| *at <= end) else {
                break;
            };
            assert!(turn < 20_000, "a deadline that does not pass");
            let until = at.saturating_duration_since(self.now.instant);
            self.now = self.now + until;
            self.streams.handle_timeout(self.now);
            self.events();
            self.transmit();
        }
        self.now = self.now + end.saturating_duration_since(self.now.instant);
    }

    fn hear(&mut self, data: &[u8]) {
        let ports = Ports {
            protocol: protocol::STREAMING,
            from: 5,
            to: 80,
        };
        if let Some((heard, _)) = &mut self.silent {
            *heard += data.len();
        }
        self.streams.handle(ports, data, self.now);
    }

    fn step(&mut self, kind: u8, bytes: &[u8]) {
        let (now, peer) = (self.now, keys()[1].destination());
        let which = usize::from(bytes.first().copied().unwrap_or(0));
        let chosen = self
            .open
            .iter()
            .nth(which % self.open.len().max(1))
            .copied();
        match (kind, chosen) {
            (PACKET, _) => {
                if let Some(data) = packet(&self.ids, bytes) {
                    self.hear(&data);
                }
            }
            (RAW, _) => {
                self.raw.push(bytes.to_vec());
                self.hear(bytes);
            }
            (CONNECT, _) => {
                self.silent = None;
                let connected = self.streams.connect(peer, 80, 5, now);
                assert_eq!(connected.is_err(), self.open.len() >= MAX_STREAMS);
                self.open.extend(connected);
            }
            (PING, _) => {
                self.silent = None;
                self.pings
                    .extend(self.streams.ping(peer, 80, 5, bytes, now));
            }
            (STATUS, _) => {
                let status = MessageStatus(which as u8);
                if let Some(nonce) = self.nonces.pop() {
                    self.streams.handle_status(nonce, status, now);
                }
            }
            (SESSION_LOST, _) => {
                self.streams.session_lost();
                self.events();
                assert!(self.streams.is_empty() && self.pings.is_empty());
            }
            (ACCEPT, Some(stream)) => {
                let accepted = self.streams.accept(stream, now).is_ok();
                self.silent = self.silent.filter(|_| !accepted);
            }
            (REFUSE, Some(stream)) => {
                let refused = if bytes.len().is_multiple_of(2) {
                    self.streams.refuse(stream, now)
                } else {
                    self.streams.ignore(stream)
                };
                if refused.is_ok() {
                    self.open.remove(&stream);
                }
            }
            (READ, Some(stream)) => {
                let mut buffer = vec![0; which * which];
                let read = self.streams.read(stream, &mut buffer, now);
                assert!(read.is_ok_and(|count| count <= buffer.len()));
            }
            (WRITE, Some(stream)) => {
                let room = self.streams.room(stream);
                let data = bytes.repeat(1 + which);
                let written = self.streams.write(stream, &data, now);
                assert!(written.is_ok_and(|count| count <= data.len().min(room)));
            }
            (FINISH, Some(stream)) => assert!(self.streams.finish(stream, now).is_ok()),
            (RESET, Some(stream)) => {
                assert!(self.streams.reset(stream, now).is_ok());
                self.open.remove(&stream);
            }
            _ => {}
        }
        self.events();
    }
}

/// A talk of a peer with streams whose program accepts, reads and writes, with time. Whatever comes, tables and buffers stay
/// within their limits, little is said to a stranger, and two hours after the program has finished nothing is left.
pub fn streaming(talk: &[u8]) {
    let mut world = World {
        streams: Streams::new(keys()[0].clone(), config(), [9; 32]),
        now: start(),
        open: BTreeSet::new(),
        pings: HashSet::new(),
        ids: Vec::new(),
        nonces: Vec::new(),
        raw: Vec::new(),
        silent: Some((0, 0)),
    };
    for step in steps(talk).take(100) {
        world.pass(Duration::from_millis(1 << (step.later % 18)) - Duration::from_millis(1));
        world.step(step.kind & 15, step.bytes);
    }
    world.transmit();
    for stream in world.open.clone() {
        let read = world
            .streams
            .read_with(stream, &mut |piece| piece.len(), world.now);
        assert!(read.is_ok());
        // reading may have been what was missing to its end
        let _ = world.streams.finish(stream, world.now);
    }
    world.events();
    world.pass(Duration::from_secs(2 * 3600));
    assert!(world.streams.is_empty() && world.pings.is_empty());
    assert_eq!(world.streams.deadline(), None);
}
