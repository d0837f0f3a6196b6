//! A peer of the test's own: a good certificate, links like any other's, and whatever it likes to say.

use super::{OPEN, OVERLAY, SOON, World};
use anode_routing::dht::reload::body::{
    DataValue, PingRequest, StoreRequest, StoreType, StoredData, TypeId,
};
use anode_routing::dht::reload::contents::{Contents, Kind, emit_contents};
use anode_routing::dht::reload::security::{LinkCredentials, Policy};
use anode_routing::dht::reload::signature::message_input;
use anode_routing::dht::reload::usage::anode;
use anode_routing::dht::reload::{
    Credentials, Header, Id, Method, Security as _, Signature, SignerIdentity, overlay_hash,
};
use anode_routing::ice::{Endpoint, Sessions};
use anode_routing::links::{LinkEvent, LinkKey, LinkSecurity, Links, Target};
use anode_tests::lab::Host;
use anode_wire::{Identity, PeerId, Zone};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub fn unix() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("after 1970").as_secs()
}

fn policy() -> Policy {
    Policy {
        overlay: OVERLAY.to_owned(),
        self_signed: true,
        ..Policy::default()
    }
}

fn scalar(number: u16) -> [u8; 32] {
    let mut scalar = [7; 32];
    scalar[30..].copy_from_slice(&number.to_be_bytes());
    scalar
}

/// Who signs, as a member of the overlay.
pub fn signer(number: u16) -> Credentials {
    Credentials::self_made(&scalar(number), PeerId::ANY, policy()).expect("a key")
}

/// Links of the host that has no node.
pub fn links(host: &Host, number: u16) -> Links {
    let at = SocketAddr::new(host.v4().into(), 0);
    let endpoint = host.run(|| Endpoint::open(&[at])).expect("sockets");
    let ice = Sessions::new(endpoint, Box::new(StdRng::seed_from_u64(number.into())));
    let identity = Identity::from_scalar(Zone::default(), &scalar(number)).expect("a key");
    let made = LinkCredentials::self_made(&identity, PeerId::ANY, policy(), [3; 16], unix());
    let security = LinkSecurity::certificates(made.expect("a certificate")).expect("usable");
    Links::new(Instant::now(), ice, security, Vec::new(), Vec::new())
}

/// A member that says what it likes.
pub struct Intruder {
    pub number: u16,
    pub own: Credentials,
    pub links: Links,
    pub link: LinkKey,
    pub node: Id,
    next: u64,
    /// Codes of the node's answers, by transaction.
    pub answers: BTreeMap<u64, u16>,
    pub heard: usize,
}

impl Intruder {
    #[track_caller]
    pub fn new(world: &World, number: u16, target: Target) -> Self {
        let mut links = links(&world.bad, number);
        world.bad.run(|| links.dial(Instant::now(), target));
        let mut intruder = Self {
            number,
            own: signer(number),
            links,
            link: 0,
            node: world.id(),
            next: u64::from(number) << 32,
            answers: BTreeMap::new(),
            heard: 0,
        };
        let end = Instant::now() + SOON;
        let node = Some(intruder.node);
        let up = |event| match event {
            LinkEvent::Up { link, peer, .. } if peer == node => Some(link),
            _ => None,
        };
        intruder.link = loop {
            if let Some(link) = intruder.turn().into_iter().find_map(up) {
                break link;
            }
            assert!(Instant::now() < end, "no link");
        };
        intruder
    }

    /// Waits for a moment, and takes what has come.
    pub fn turn(&mut self) -> Vec<LinkEvent> {
        let mut fds = Vec::new();
        self.links.fds(&mut fds);
        let _ = nix::poll::poll(&mut fds, nix::poll::PollTimeout::from(5u8));
        drop(fds);
        self.links.work(Instant::now());
        let events: Vec<LinkEvent> = std::iter::from_fn(|| self.links.poll_event()).collect();
        for event in &events {
            if let LinkEvent::Message { bytes, .. } = event {
                self.heard += 1;
                let Ok((header, contents)) = Header::parse(bytes) else {
                    panic!("the node sends garbage: {bytes:02x?}")
                };
                let kind = Contents::parse(contents).map(|contents| contents.kind);
                if let Ok(Kind::Response(code)) = kind {
                    self.answers.insert(header.transaction, code.0);
                }
            }
        }
        events
    }

    pub fn header(&mut self, to: Id) -> Header {
        self.next += 1;
        // Far from each other: a changed one is not another's.
        let transaction = self.next.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Header::new(overlay_hash(OVERLAY), transaction, vec![to])
    }

    /// The contents of a request, signed by this member.
    pub fn signed(&self, transaction: u64, method: u16, payload: &[u8]) -> Vec<u8> {
        sign(&self.own, transaction, method, payload)
    }

    pub fn message(&mut self, to: Id, method: Method, payload: &[u8]) -> (u64, Vec<u8>) {
        let header = self.header(to);
        let contents = self.signed(header.transaction, method as u16, payload);
        (header.transaction, header.emit(&contents).expect("lists"))
    }

    /// The link is as good as any: it is not ended for what is said over it.
    #[track_caller]
    pub fn say(&mut self, bytes: &[u8]) {
        assert!(self.links.send(Instant::now(), self.link, bytes));
    }

    /// The code of the answer, if one comes in time.
    #[track_caller]
    pub fn answer_within(&mut self, transaction: u64, limit: Duration) -> Option<u16> {
        let end = Instant::now() + limit;
        loop {
            if let Some(code) = self.answers.get(&transaction) {
                return Some(*code);
            }
            if Instant::now() > end {
                return None;
            }
            for event in self.turn() {
                assert!(!matches!(event, LinkEvent::Down { .. }), "the link is down");
            }
        }
    }

    /// Whether the node still answers, over this very link. It is asked again, for a datagram behind hundreds may be lost.
    #[track_caller]
    pub fn pings(&mut self) {
        let body = PingRequest { infos: vec![1, 2] };
        let body = body.emit().expect("short");
        let end = Instant::now() + SOON;
        loop {
            let (transaction, ping) = self.message(self.node, Method::Ping, &body);
            self.say(&ping);
            match self.answer_within(transaction, Duration::from_secs(1)) {
                Some(code) => return assert_eq!(code, 200),
                None => assert!(Instant::now() < end, "the node has fallen silent"),
            }
        }
    }
}

pub fn sign(by: &Credentials, transaction: u64, method: u16, payload: &[u8]) -> Vec<u8> {
    let contents = emit_contents(Kind::Request(method), payload);
    let identity = by.identity(true);
    let input = message_input(overlay_hash(OVERLAY), transaction, &identity, &contents);
    let (algorithm, value) = by.sign(&input.expect("short"));
    let signature = Signature {
        algorithm,
        value,
        identity,
    };
    signature.append(contents).expect("short")
}

/// A value of an open kind under the key of `owner`, signed by `by`.
pub fn value(
    resource: Id,
    owner: &Credentials,
    by: &Credentials,
    bytes: Vec<u8>,
    at: u64,
) -> StoredData {
    let mut data = StoredData {
        storage_time: at as u32,
        lifetime: 600,
        value: DataValue::Dictionary {
            key: anode::key(owner.address(), PeerId::ANY),
            value: bytes,
        },
        signature: None,
    };
    resign(resource, by, &mut data);
    data
}

pub fn resign(resource: Id, by: &Credentials, data: &mut StoredData) {
    let identity = SignerIdentity::Anode(*by.address());
    let input = data.signature_input(resource, OPEN, &identity);
    data.signature = Some(by.sign_as_address(&input.expect("short")));
}

pub fn store(resource: Id, kind: TypeId, data: StoredData) -> Vec<u8> {
    let request = StoreRequest {
        resource,
        types: vec![StoreType {
            kind,
            generation: 0,
            values: vec![data],
        }],
    };
    request.emit().expect("short")
}
