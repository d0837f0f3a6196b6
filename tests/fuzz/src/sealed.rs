//! Targets for the sealed sessions: two nodes, a network that does what the input says, and an attacker who holds one
//! of the keys. Nothing may panic, no table may outgrow its limit, and what is opened was sealed, once.
use anode_wire::packet::SHORT_HEADER;
use anode_wire::sealed::ticket::{Join, Joined, Ticket};
use anode_wire::sealed::{
    Config, Limits, MAX_DATAGRAM, Now, Outcome, Plain, Pq, Rate, Reason, Sessions, Source,
    Timestamp, kind,
};
use anode_wire::{Identity, MacKey, Packet, PeerId, Zone, message};
use rand_core::{TryCryptoRng, TryRng};
use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// A target's name, which is that of its corpus, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 3] = [
    ("sessions", sessions),
    ("fragments", fragments),
    ("ticket", ticket),
];

/// Steps of a run: enough for several handshakes, and few enough for many runs.
const STEPS: usize = 256;
/// Packets that the network remembers.
const WIRE: usize = 64;
const LIMITS: Limits = Limits {
    peers: 6,
    agreements: 4,
    unconfirmed: 4,
    fragment_pool: 16 << 10,
    transmits: 16,
    plain: Rate::new(5, 5),
    without_cookie: Rate::new(2, 4),
    with_cookie: Rate::new(4, 4),
    with_cookie_network: Rate::new(2, 4),
    known: Rate::new(2, 4),
    known_strangers: Rate::new(4, 8),
    cookies: Rate::new(10, 10),
    cookies_network: Rate::new(5, 5),
    errors: Rate::new(10, 10),
    errors_network: Rate::new(5, 5),
};
/// Of one pair: what its budget for HELLOs lets in while replaced ones go on receiving (10 s), twice for ML-KEM.
const SESSIONS_OF_A_PAIR: usize = 2 * (4 + 2 * 10) + 4;

/// Repeatable, and different for every node and each of its lives.
struct Seeded(u64);

impl TryRng for Seeded {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.try_next_u64().map(|word| word as u32)
    }

    /// SplitMix64.
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Ok(word ^ (word >> 31))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        for chunk in out.chunks_mut(8) {
            let word = self.try_next_u64()?.to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
        Ok(())
    }
}

impl TryCryptoRng for Seeded {}

struct Fixture {
    identities: [Identity; 2],
    /// Of the two with each other.
    mac: MacKey,
}

fn fixture() -> &'static Fixture {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let identities = [1, 2].map(|seed| {
            Identity::from_scalar(Zone::LOCAL, &[seed; 32]).expect("a small scalar is in range")
        });
        let mac = identities[0].agree(identities[1].address());
        Fixture { identities, mac }
    })
}

/// What the input says, byte by byte.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    fn number(&mut self) -> usize {
        self.byte().unwrap_or(0).into()
    }

    fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

/// A packet on its way.
struct Flight {
    to: usize,
    packet: Vec<u8>,
}

struct World {
    config: [Config; 2],
    nodes: [Sessions; 2],
    lives: u64,
    now: Now,
    wire: VecDeque<Flight>,
    /// Bodies that were sealed and not opened yet, each with a number of its own.
    sealed: HashMap<Vec<u8>, usize>,
    /// A peer made FRAGMENTs of its own: they may hold a body that is not counted.
    own_fragments: bool,
    next_body: u64,
}

impl World {
    /// `setup`: policies and cookies.
    fn new(setup: u8) -> Self {
        let config = [0, 1].map(|node| {
            let bits = setup >> (node * 4);
            let mut limits = LIMITS;
            if bits & 1 != 0 {
                limits.without_cookie = Rate::new(0, 0);
            }
            Config {
                peer: PeerId::new(bits >> 1 & 1).unwrap_or_default(),
                pq: [Pq::Prefer, Pq::Off, Pq::Require, Pq::Prefer][usize::from(bits >> 2 & 3)],
                plain: Plain::Deny,
                limits,
            }
        });
        Self {
            nodes: [0, 1].map(|node| life(node, &config[node], node as u64)),
            config,
            lives: 2,
            now: Now {
                at: Instant::now(),
                wall: Timestamp(1_700_000_000_000_000),
            },
            wire: VecDeque::new(),
            sealed: HashMap::new(),
            own_fragments: false,
            next_body: 0,
        }
    }

    /// Everything that the nodes have to say, onto the wire; and the bounds.
    fn collect(&mut self) {
        for (place, node) in self.nodes.iter_mut().enumerate() {
            while let Some(transmit) = node.poll_transmit() {
                assert!(!transmit.packet.is_empty());
                self.wire.push_back(Flight {
                    to: 1 - place,
                    packet: transmit.packet,
                });
            }
            while node.poll_event().is_some() {}
            let [peers, agreements, sessions, fragments] = node.sizes();
            let limits = &node.config().limits;
            assert!(peers <= limits.peers, "{peers} peers");
            // One trusted peer beside those that are counted.
            assert!(
                agreements <= limits.agreements + 1,
                "{agreements} agreements"
            );
            assert!(
                sessions <= limits.peers * SESSIONS_OF_A_PAIR,
                "{sessions} sessions"
            );
            assert!(
                fragments <= 2 * limits.fragment_pool,
                "{fragments} B of fragments"
            );
        }
        while self.wire.len() > WIRE {
            self.wire.pop_front();
        }
    }

    fn deliver(&mut self, to: usize, place: u8, mut packet: Vec<u8>) {
        let source = Source {
            endpoint: &[192, 0, 2, place],
            network: u64::from(place >> 4),
        };
        let outcome = self.nodes[to].handle(self.now, source, &mut packet);
        let (opened, counted) = match outcome {
            Outcome::Opened { kind, body, .. } => (Some((kind, packet[body].to_vec())), true),
            Outcome::Reassembled { kind, body, .. } => {
                assert!(body.len() < MAX_DATAGRAM);
                (Some((kind, body)), !self.own_fragments)
            }
            Outcome::Consumed { .. } | Outcome::Plain | Outcome::Dropped(_) => (None, true),
        };
        if let Some((message::kind::DGRAM, body)) = opened {
            let left = self.sealed.remove(&body);
            assert!(
                left == Some(to) || !counted,
                "opened what was not sealed for it, or twice"
            );
        }
    }

    /// A body that no other is like.
    fn body(&mut self, to: usize, len: usize) -> Vec<u8> {
        let mut body = self.next_body.to_be_bytes().to_vec();
        self.next_body += 1;
        body.resize(len.max(8), 0x5a);
        self.sealed.insert(body.clone(), to);
        body
    }

    /// Traffic: in one packet, or in FRAGMENTs.
    fn seal(&mut self, from: usize, len: usize) {
        let far = self.nodes[1 - from].own();
        let Some(key) = self.nodes[from].lookup(&far) else {
            return;
        };
        let body = self.body(1 - from, len);
        let node = &mut self.nodes[from];
        let packets = if len <= 1_000 {
            let packet = node.seal_copy(self.now, key, message::kind::DGRAM, &body);
            packet.map(|packet| vec![packet])
        } else {
            node.seal_fragments(self.now, key, message::kind::DGRAM, &body, 1_280)
        };
        for packet in packets.unwrap_or_default() {
            self.wire.push_back(Flight {
                to: 1 - from,
                packet,
            });
        }
    }

    /// What an authentic, malicious peer can say inside a session.
    fn seal_anything(&mut self, from: usize, message_kind: u8, body: &[u8]) {
        if message_kind == message::kind::DGRAM {
            return; // the honest one is counted
        }
        let far = self.nodes[1 - from].own();
        let Some(key) = self.nodes[from].lookup(&far) else {
            return;
        };
        self.own_fragments |= message_kind == kind::FRAGMENT;
        if let Ok(packet) = self.nodes[from].seal_copy(self.now, key, message_kind, body) {
            self.wire.push_back(Flight {
                to: 1 - from,
                packet,
            });
        }
    }

    /// A packet of the wire: taken, or copied.
    fn take(&mut self, place: usize, copy: bool) -> Option<Flight> {
        let place = place % self.wire.len().max(1);
        if copy {
            let Flight { to, packet } = self.wire.get(place)?;
            return Some(Flight {
                to: *to,
                packet: packet.clone(),
            });
        }
        self.wire.remove(place)
    }

    fn advance(&mut self, step: Duration) {
        self.now.at += step;
        self.now.wall.0 += step.as_micros() as u64;
        for node in &mut self.nodes {
            for _ in 0..64 {
                match node.deadline() {
                    Some((due, _)) if due <= self.now.at => node.handle_timeout(self.now),
                    _ => break,
                }
            }
            assert!(
                node.deadline().is_none_or(|(due, _)| due > self.now.at),
                "a deadline that never passes"
            );
        }
    }

    /// A new life with what was on disk, or without.
    fn restart(&mut self, node: usize, with_records: bool) {
        let records: Vec<_> = self.nodes[node].records().collect();
        self.lives += 1;
        self.nodes[node] = life(node, &self.config[node], self.lives);
        if with_records {
            for record in records {
                self.nodes[node].restore(self.now, &record);
            }
        }
    }
}

fn life(node: usize, config: &Config, seed: u64) -> Sessions {
    let rng = Box::new(Seeded(seed));
    Sessions::new(&fixture().identities[node], config.clone(), rng)
}

/// First byte: policies. Then steps: what to do in the low four bits and to whom in the fifth, with what it takes behind.
pub fn sessions(data: &[u8]) {
    let mut input = Input(data);
    let Some(setup) = input.byte() else { return };
    let mut world = World::new(setup);
    for _ in 0..STEPS {
        let Some(step) = input.byte() else { break };
        let node = usize::from(step >> 4 & 1);
        match step & 0xf {
            0 => {
                let far = world.nodes[1 - node].own();
                world.nodes[node].start(world.now, far, Reason::Traffic);
            }
            // Everything that is under way, in order: what networks mostly do.
            1 => {
                for _ in 0..world.wire.len() {
                    if let Some(flight) = world.take(0, false) {
                        world.deliver(flight.to, flight.to as u8, flight.packet);
                    }
                }
            }
            // Out of order, copied, from elsewhere, lost.
            2 | 3 => {
                let place = input.number();
                if let Some(flight) = world.take(place, step & 1 != 0) {
                    world.deliver(flight.to, step >> 5, flight.packet);
                }
            }
            4 => drop(world.take(input.number(), false)),
            // Altered; signed again by one who has the key, or cut.
            5..=7 => {
                let place = input.number();
                let (at, value) = (input.number() << 8 | input.number(), input.number());
                let Some(mut flight) = world.take(place, true) else {
                    continue;
                };
                let at = at % flight.packet.len();
                match step & 0xf {
                    5 => flight.packet[at] ^= value as u8,
                    6 => flight.packet.truncate(at),
                    _ => {
                        flight.packet[at] ^= value as u8;
                        // A SEALED packet has its counter where others have the MAC.
                        if flight.packet.len() >= SHORT_HEADER
                            && Packet::new_checked(&flight.packet)
                                .is_ok_and(|packet| packet.kind() != kind::SEALED)
                        {
                            fixture().mac.sign(&mut flight.packet);
                        }
                    }
                }
                world.deliver(flight.to, step >> 5, flight.packet);
            }
            8 => {
                let count = input.number();
                let packet = input.bytes(count).to_vec();
                world.deliver(node, step >> 5, packet);
            }
            9 => {
                let len = input.number();
                world.seal(node, len * 16);
            }
            10 => {
                let (message_kind, count) = (input.number() as u8, input.number());
                let body = input.bytes(count).to_vec();
                world.seal_anything(node, message_kind, &body);
            }
            // From 1 ms to 9 hours.
            11 => world.advance(Duration::from_millis(1 << (input.number() % 26))),
            12 => {
                let far = world.nodes[1 - node].own();
                match step >> 5 {
                    0 => world.nodes[node].trust(&far.address),
                    1 => world.nodes[node].distrust(&far.address),
                    2 => world.nodes[node].forget(&far),
                    3 => drop(world.nodes[node].start(world.now, far, Reason::Hint)),
                    _ => {
                        if let Some(key) = world.nodes[node].lookup(&far) {
                            world.nodes[node].drop_peer(key);
                        }
                    }
                }
            }
            13 => world.nodes[node].drop_all(),
            14 => world.restart(node, step >> 5 != 0),
            // The clock is set back.
            _ => world.now.wall.0 -= 1 << (input.number() % 40),
        }
        world.collect();
    }
}

/// Steps of what a peer says in FRAGMENTs: id, place, count and length in a byte each, then what the slice is made of.
pub fn fragments(data: &[u8]) {
    let mut input = Input(data);
    // Without ML-KEM: its keys are cut into FRAGMENTs too, and cost most of the time.
    let mut world = World::new(0b0100_0100);
    let far = world.nodes[1].own();
    world.nodes[0].start(world.now, far, Reason::Traffic);
    for _ in 0..4 {
        world.collect();
        while let Some(flight) = world.take(0, false) {
            world.deliver(flight.to, flight.to as u8, flight.packet);
        }
    }
    assert!(world.nodes[1].has_session(&world.nodes[0].own().address));
    for _ in 0..STEPS {
        let Some(id) = input.byte() else { break };
        if id == 0xff {
            world.advance(Duration::from_millis(input.number() as u64 * 40));
        }
        let mut body = vec![0, 0, 0, id];
        body.extend([input.number() as u8, input.number() as u8]);
        let (len, fill) = (input.number() * 5, input.number() as u8);
        body.resize(body.len() + len, fill);
        world.seal_anything(0, kind::FRAGMENT, &body);
        while let Some(flight) = world.take(0, false) {
            world.deliver(flight.to, 0, flight.packet);
        }
        world.collect();
    }
    world.advance(Duration::from_secs(60));
    assert_eq!(
        world.nodes[1].sizes()[3],
        0,
        "memory of incomplete datagrams is given back"
    );
}

/// A ticket that somebody pasted, and the bodies of JOIN and JOINED.
pub fn ticket(data: &[u8]) {
    if let Some(join) = Join::parse(data) {
        assert_eq!(join.emit().as_slice(), data);
    }
    if let Some(joined) = Joined::parse(data) {
        assert_eq!(joined.emit().as_slice(), data);
    }
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match text.parse::<Ticket>() {
        Ok(ticket) => {
            let again = ticket.to_text().expect("no more entries than were read");
            let reread: Ticket = again.parse().expect("a written ticket can be read");
            assert_eq!(
                (reread.address, &reread.endpoints, &reread.relays),
                (ticket.address, &ticket.endpoints, &ticket.relays)
            );
            assert_eq!((reread.expires, reread.id), (ticket.expires, ticket.id));
            let joiner = fixture().identities[0].address();
            assert_eq!(
                reread.proof(&[1; 32], joiner),
                ticket.proof(&[1; 32], joiner)
            );
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
