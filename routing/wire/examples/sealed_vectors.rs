//! Test vectors of the sealed sessions: `cargo run --example sealed_vectors > docs/vectors/sealed.json`.
//!
//! Two nodes with fixed keys, clocks and randomness shake hands and exchange two messages. Everything that went over
//! the wire is in the vectors, and everything that was drawn at random: enough to compute all of it again.
use anode_wire::sealed::ticket::Ticket;
use anode_wire::sealed::{
    Config, Limits, Now, Outcome, Pq, Rate, Reason, Sessions, Source, Timestamp,
};
use anode_wire::{Identity, PeerId, Zone, message};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Instant;

#[allow(dead_code)] // the test that compares these vectors with the stored ones has another main
fn main() {
    println!("{:#}", vectors());
}

/// All vectors.
pub fn vectors() -> Value {
    json!({
        "about": "Anode sealed sessions, version 1. See docs/protocol.md. All bytes in hexadecimal, packets whole.",
        "handshakes": [
            handshake("post-quantum", [Pq::Prefer, Pq::Prefer], [0, 0], false),
            handshake("with peer ids", [Pq::Require, Pq::Prefer], [3, 12], false),
            handshake("without ML-KEM", [Pq::Off, Pq::Prefer], [1, 0], false),
            handshake("with a cookie", [Pq::Prefer, Pq::Prefer], [0, 0], true),
        ],
        "ticket": ticket(),
    })
}

/// The same bytes every time, and what was drawn is written down.
struct Drawn {
    next: u64,
    log: Arc<Mutex<Vec<String>>>,
}

impl rand::TryRng for Drawn {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_be_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_be_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        for byte in out.iter_mut() {
            self.next += 1;
            *byte = (self.next.wrapping_mul(self.next) / 7 % 251) as u8;
        }
        self.log.lock().expect("one thread").push(hex(out));
        Ok(())
    }
}

impl rand::TryCryptoRng for Drawn {}

struct Node {
    sessions: Sessions,
    drawn: Arc<Mutex<Vec<String>>>,
    private: [u8; 32],
}

impl Node {
    fn new(seed: u8, pq: Pq, peer: u8, cookies: bool) -> Self {
        let private = std::array::from_fn(|i| seed + i as u8);
        let identity = Identity::from_scalar(Zone(0x0102_0304), &private).expect("a scalar");
        let mut limits = Limits::default();
        if cookies {
            limits.without_cookie = Rate::new(0, 0);
        }
        let config = Config {
            peer: PeerId::new(peer).expect("below 16"),
            pq,
            limits,
            ..Config::default()
        };
        let drawn = Arc::new(Mutex::new(Vec::new()));
        let rng = Drawn {
            next: u64::from(seed) * 1_000_003,
            log: drawn.clone(),
        };
        Self {
            sessions: Sessions::new(&identity, config, Box::new(rng)),
            drawn,
            private,
        }
    }

    /// Keys, and what was drawn of 64 bytes (the ephemeral scalar with 32 bytes to spare, ML-KEM's d ‖ z) and of 32
    /// (the cookie secret, ML-KEM's m).
    fn describe(&self, cookies: bool) -> Value {
        let drawn = self.drawn.lock().expect("one thread");
        let long: Vec<_> = drawn.iter().filter(|bytes| bytes.len() == 128).collect();
        let middle: Vec<_> = drawn.iter().filter(|bytes| bytes.len() == 64).collect();
        let own = self.sessions.own();
        json!({
            "private": hex(&self.private),
            "address": hex(own.address.as_bytes()),
            "address_id": hex(&own.address.id().0),
            "peer_id": own.peer.get(),
            "ephemeral_private": &long[0][..64],
            "kem_d_z": long.get(1),
            "kem_m": middle.get(usize::from(cookies)),
            "cookie_secret": middle.first().filter(|_| cookies),
        })
    }
}

fn handshake(name: &str, pq: [Pq; 2], peers: [u8; 2], cookies: bool) -> Value {
    let mut nodes = [
        Node::new(1, pq[0], peers[0], false),
        Node::new(77, pq[1], peers[1], cookies),
    ];
    let now = Now {
        at: Instant::now(),
        wall: Timestamp(1_700_000_000_000_000),
    };
    let mut packets = Vec::new();
    let responder = nodes[1].sessions.own();
    nodes[0].sessions.start(now, responder, Reason::Traffic);
    exchange(now, &mut nodes, &mut packets);
    for (from, text) in [(0, "from the initiator"), (1, "from the responder")] {
        let far = nodes[1 - from].sessions.own();
        let sessions = &mut nodes[from].sessions;
        let key = sessions.lookup(&far).expect("connected");
        let body = [&[0, 7, 0, 9], text.as_bytes()].concat();
        let packet = sessions
            .seal_copy(now, key, message::kind::DGRAM, &body)
            .expect("a session");
        packets.push(json!({"from": side(from), "packet": hex(&packet), "body": hex(&body)}));
    }
    let initiator = nodes[0].sessions.own();
    let key = nodes[1].sessions.lookup(&initiator).expect("connected");
    let up = nodes[1].sessions.state(key).expect("connected");
    json!({
        "name": name,
        "timestamp": now.wall.0,
        "endpoint": hex(&ENDPOINT),
        "initiator": nodes[0].describe(false),
        "responder": nodes[1].describe(cookies),
        "handshake_hash": hex(&up.handshake_hash),
        "post_quantum": up.pq,
        "packets": packets,
    })
}

/// Where everything seems to come from; cookies are bound to it.
const ENDPOINT: [u8; 6] = [192, 0, 2, 1, 0x22, 0x21];

/// Carries packets to and fro until nobody has any.
fn exchange(now: Now, nodes: &mut [Node; 2], packets: &mut Vec<Value>) {
    let source = Source {
        endpoint: &ENDPOINT,
        network: 1,
    };
    loop {
        let mut idle = true;
        for from in [0, 1] {
            while let Some(mut transmit) = nodes[from].sessions.poll_transmit() {
                idle = false;
                packets.push(json!({"from": side(from), "packet": hex(&transmit.packet)}));
                let outcome = nodes[1 - from]
                    .sessions
                    .handle(now, source, &mut transmit.packet);
                assert!(
                    matches!(outcome, Outcome::Consumed { .. })
                        || packets.len() == 1 && matches!(outcome, Outcome::Dropped(_)),
                    "{outcome:?}"
                );
            }
        }
        if idle {
            return;
        }
    }
}

fn side(node: usize) -> &'static str {
    ["initiator", "responder"][node]
}

fn ticket() -> Value {
    let inviter = Node::new(1, Pq::Prefer, 0, false).sessions.own().address;
    let joiner = Node::new(77, Pq::Prefer, 0, false).sessions.own().address;
    let mut rng = Drawn {
        next: 5,
        log: Arc::default(),
    };
    let mut ticket = Ticket::new(inviter, Timestamp(1_800_000_000_000_000), &mut rng);
    ticket.endpoints = vec![
        "udp://192.0.2.1:8737".parse().expect("an endpoint"),
        "tcp://[2001:db8::1]:443".parse().expect("an endpoint"),
    ];
    ticket.relays = vec![(
        joiner,
        "udp://198.51.100.7:8737".parse().expect("an endpoint"),
    )];
    json!({
        "text": *ticket.to_text().expect("few entries"),
        "inviter": hex(inviter.as_bytes()),
        "joiner": hex(joiner.as_bytes()),
        "id": hex(&ticket.id.0),
        "handshake_hash": hex(&[0x5a; 32]),
        "proof": hex(&ticket.proof(&[0x5a; 32], &joiner)),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
