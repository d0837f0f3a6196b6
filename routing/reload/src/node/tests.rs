mod forwarding;
mod hostile;
mod reader;
mod renewal;
mod requests;
mod shares;

use super::*;
use crate::body::{Membership, PingRequest, StoreRequest, StoreType};
use crate::contents::{Contents, ErrorBody, Kind, emit_contents};
use crate::header::Fragment;
use crate::node::transact::GIVE_UP;
use crate::signature::Signature;
use crate::{Chord, DataValue, Method, SharedKey, StoredData, TypeId};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const OVERLAY: &str = "x.net";

fn at(millis: u64) -> Now {
    Now {
        at: Duration::from_millis(millis),
        unix: 1_700_000_000 + millis / 1000,
    }
}

fn id(n: u8) -> Id {
    Id([n; 16])
}

fn node_with(n: u8, change: impl FnOnce(&mut NodeConfig)) -> Node {
    let mut config = NodeConfig::new(OVERLAY);
    change(&mut config);
    let mut node = Node::new(
        config,
        Box::new(SharedKey::new(id(n))),
        Box::new(Chord::new(id(n), crate::chord::Config::default(), 1)),
        Box::new(StdRng::seed_from_u64(n.into())),
    );
    node.create(at(0));
    node
}

fn link(node: &mut Node, number: u64, peer: u8) {
    let info = LinkInfo {
        peer: id(peer),
        mtu: None,
        transport: LogTransport::Sealed,
        group: 0,
    };
    node.link_up(at(0), LinkId(number), info);
}

/// Node 0x50 with a routable peer 0x90 on link 1 and one that is no part of the ring, 0x20, on link 2.
fn bench() -> Node {
    bench_with(|_| {})
}

fn bench_with(change: impl FnOnce(&mut NodeConfig)) -> Node {
    let mut node = node_with(0x50, change);
    link(&mut node, 1, 0x90);
    link(&mut node, 2, 0x20);
    let update = crate::body::ChordUpdate::default().emit().unwrap();
    let message = message(0x90, Method::Update, vec![id(0x50)], &update, 1);
    node.handle(at(0), LinkId(1), &message);
    drain(&mut node);
    node
}

/// Link, header and contents of a message.
type Sent = (u64, Header, Vec<u8>);

fn drain(node: &mut Node) -> (Vec<Sent>, Vec<Event>) {
    let sent = std::iter::from_fn(|| node.poll_transmit())
        .map(|transmit| {
            let (header, contents) = Header::parse(&transmit.bytes).unwrap();
            (transmit.link.0, header, contents.to_vec())
        })
        .collect();
    (sent, std::iter::from_fn(|| node.poll_event()).collect())
}

fn signed(by: u8, kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut contents = emit_contents(kind, payload);
    Signature::unsigned(id(by)).write(&mut contents).unwrap();
    contents
}

fn message(by: u8, method: Method, route: Vec<Id>, payload: &[u8], transaction: u64) -> Vec<u8> {
    let contents = signed(by, Kind::Request(method as u16), payload);
    Header::new(overlay_hash(OVERLAY), transaction, route)
        .emit(&contents)
        .unwrap()
}

fn ping(by: u8, route: Vec<Id>, transaction: u64) -> Vec<u8> {
    let body = PingRequest { infos: vec![1, 2] }.emit().unwrap();
    message(by, Method::Ping, route, &body, transaction)
}

/// Codes of the responses that a message brings, with the link they take.
fn answers(node: &mut Node, link: u64, message: &[u8]) -> Vec<(u64, u16)> {
    node.handle(at(100), LinkId(link), message);
    codes(drain(node).0)
}

fn codes(sent: Vec<Sent>) -> Vec<(u64, u16)> {
    sent.into_iter()
        .filter_map(
            |(link, _, contents)| match Contents::parse(&contents).ok()?.kind {
                Kind::Response(code) => Some((link, code.0)),
                Kind::Request(_) => None,
            },
        )
        .collect()
}

fn store_of(resource: u8, times: &[u32]) -> Vec<u8> {
    let values = times.iter().map(|time| StoredData {
        storage_time: 1_700_000_000 + time,
        lifetime: 600,
        value: DataValue::Single(vec![1]),
        signature: None,
    });
    StoreRequest {
        resource: id(resource),
        types: vec![StoreType {
            kind: TypeId::TURN_SERVICE,
            generation: 0,
            values: values.collect(),
        }],
    }
    .emit()
    .unwrap()
}

fn fragment_limit() -> usize {
    crate::fragment::MAX_BYTES
}
