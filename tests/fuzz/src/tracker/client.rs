//! Trackers that say what they like.
use super::within_limits;
use crate::steps::steps;
use anode_tracker::client::{Client, MAX_LOCALS, MAX_SWARMS, Report, Transmit};
use anode_tracker::http::AnnounceQuery;
use anode_tracker::rendezvous::LocalAddress;
use anode_tracker::udp::packet::{self, Request};
use anode_tracker::{Event, InfoHash, MAX_PEERS, TrackerUrl};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// One of each way to speak, by name and by address.
const TRACKERS: [&str; 4] = [
    "http://tracker.example/announce",
    "https://[2001:db8::7]/announce?key=1",
    "udp://198.51.100.7:6969/announce",
    "udp://[2001:db8::7]:6969",
];
const SWARMS: [InfoHash; 2] = [InfoHash([1; 20]), InfoHash([2; 20])];
/// Between two announces of one address to one tracker.
const SPACING: Duration = Duration::from_secs(60);
/// How long `stopped` may take.
const STOP: Duration = Duration::from_secs(2);

fn locals() -> [LocalAddress; 2] {
    let addresses: [IpAddr; 2] = [
        [192, 0, 2, 1].into(),
        [0x2001, 0xdb8, 1, 0, 0, 0, 0, 1].into(),
    ];
    addresses.map(|ip| LocalAddress {
        ip,
        port: 8737,
        deprecated: false,
        way_out: true,
    })
}

/// The kinds of steps.
pub const ANSWER: u8 = 0;
pub const NO_ANSWER: u8 = 1;
pub const DATAGRAM: u8 = 2;
pub const STRAY: u8 = 3;
pub const NO_SOCKET: u8 = 4;
pub const ADDRESSES: u8 = 5;
pub const CHANGE: u8 = 6;
pub const EAGER: u8 = 7;

/// A client, what it has out, and when it last asked.
struct World {
    client: Client,
    rng: StdRng,
    start: Instant,
    now: Instant,
    requests: BTreeSet<anode_tracker::client::RequestId>,
    names: Vec<anode_tracker::client::TrackerId>,
    /// The last transaction of a pair of addresses, and the action that was asked for.
    datagrams: BTreeMap<(IpAddr, SocketAddr), (u32, u32)>,
    announced: BTreeMap<(IpAddr, String), Instant>,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            client: Client::new([7; 32]),
            rng: StdRng::seed_from_u64(1),
            start: now,
            now,
            requests: BTreeSet::new(),
            names: Vec::new(),
            datagrams: BTreeMap::new(),
            announced: BTreeMap::new(),
        }
    }

    /// Does all that the client wants now.
    fn drain(&mut self) {
        let mut sent = 0;
        while let Some(transmit) = self.client.poll(self.now, &mut self.rng) {
            sent += 1;
            assert!(sent < 200, "it does not come to rest");
            match transmit {
                Transmit::Resolve { tracker, host } => {
                    assert_eq!(host, "tracker.example");
                    self.names.push(tracker);
                }
                Transmit::Cancel(id) => drop(self.requests.remove(&id)),
                Transmit::Http {
                    id,
                    local,
                    remote,
                    request,
                    ..
                } => {
                    assert_eq!(local.is_ipv4(), remote.is_ipv4());
                    assert!(request.target.bytes().all(|byte| byte.is_ascii_graphic()));
                    // an id of 256 bytes, each of them written as three
                    assert!(request.target.len() <= 400 + 3 * 256);
                    self.requests.insert(id);
                    assert!(self.requests.len() <= 32);
                    let (_, query) = request.target.split_once('?').expect("a query");
                    let query = AnnounceQuery::parse(query).expect("an announce");
                    assert!(SWARMS.contains(&query.info_hash));
                    self.spaced(local, request.headers[0].1.clone(), query.event);
                }
                Transmit::Datagram {
                    local,
                    remote,
                    payload,
                } => {
                    assert_eq!(local.is_ipv4(), remote.is_ipv4());
                    let (asked, action) = match Request::parse(&payload) {
                        Some(Request::Connect(transaction)) => (transaction, 0),
                        Some(Request::Announce(announce)) => {
                            assert!(SWARMS.contains(&announce.info_hash));
                            (announce.transaction, 1)
                        }
                        other => panic!("{other:?}"),
                    };
                    self.datagrams.insert((local, remote), (asked.0, action));
                }
            }
        }
        let deadline = self.client.deadline(self.now);
        assert!(deadline.is_none_or(|at| at > self.now), "it has more to do");
    }

    /// No tracker makes the client ask more often (discovery.md §3).
    fn spaced(&mut self, local: IpAddr, host: String, event: Option<Event>) {
        let before = self.announced.insert((local, host), self.now);
        let soon = before.is_some_and(|at| self.now - at < SPACING);
        assert!(!soon || event == Some(Event::Stopped));
    }

    fn reports(&mut self) {
        let mut count = 0;
        while let Some(report) = self.client.poll_report() {
            count += 1;
            match report {
                Report::Answered { about, answer, .. } => {
                    assert!(self.client.tracker(about.tracker).is_some());
                    // each entry was read from at least six bytes
                    within_limits(&answer, 6 * MAX_PEERS + answer.surplus + answer.unusable);
                }
                Report::Failed { error, retry, .. } => {
                    assert!(error.len() < 2_000);
                    assert!(retry.is_none_or(|at| at > self.now - SPACING));
                }
                Report::Unresolved { retry, .. } => assert!(retry > self.now),
            }
        }
        assert!(count <= 256);
    }

    /// A step of a tracker, the resolver, the sockets or the program.
    fn step(&mut self, kind: u8, which: u8, bytes: &[u8]) {
        let now = self.now;
        let request = self.requests.iter().nth(usize::from(which) % 32).copied();
        let pairs = self.datagrams.len().max(1);
        let pair = self.datagrams.iter().nth(usize::from(which) % pairs);
        let pair = pair.map(|(pair, asked)| (*pair, *asked));
        match kind {
            ANSWER => {
                let request = request.or(self.requests.first().copied());
                let [low, body @ ..] = bytes else { return };
                let status = [200, 200, 200, 301, 404, 500][usize::from(*low) % 6];
                if let Some(request) = request {
                    self.requests.remove(&request);
                    self.client.http_answer(request, status, body, now);
                }
            }
            NO_ANSWER => {
                if let Some(request) = request {
                    self.requests.remove(&request);
                    self.client.http_failed(request, "no", now);
                }
            }
            // of whoever has seen the question: the action and the transaction are right
            DATAGRAM => {
                let Some(((local, remote), (transaction, action))) = pair else {
                    return;
                };
                let action = if which >= 200 { 3 } else { action };
                let mut answer = action.to_be_bytes().to_vec();
                answer.extend(transaction.to_be_bytes());
                answer.extend(bytes);
                let before = self.client.counters().stray;
                self.client.datagram(local, remote, &answer, now);
                if packet::Answer::parse(&answer).is_none() {
                    assert_eq!(self.client.counters().stray, before + 1);
                }
            }
            STRAY => {
                if let Some(((local, remote), _)) = pair {
                    self.client.datagram(local, remote, bytes, now);
                }
            }
            NO_SOCKET => {
                if let Some(((local, remote), _)) = pair {
                    self.client.datagram_failed(local, remote, "no", now);
                }
            }
            ADDRESSES => {
                let Some(name) = self.names.pop() else { return };
                let (four, _) = bytes.as_chunks::<4>();
                let (six, _) = bytes.as_chunks::<16>();
                let four = four.iter().copied().map(IpAddr::from);
                let six = six.iter().copied().map(IpAddr::from);
                let result = match which {
                    255 => Err("no".to_owned()),
                    _ => Ok(four.chain(six).collect()),
                };
                self.client.resolved(name, result, now);
            }
            CHANGE => self.change(which, bytes),
            _ => self.client.set_eager(which & 1 == 0, now),
        }
    }

    fn change(&mut self, which: u8, bytes: &[u8]) {
        let now = self.now;
        let mut kept = locals().to_vec();
        kept.retain(|local| which & 1 << u8::from(local.ip.is_ipv6()) == 0);
        for local in &mut kept {
            local.port = bytes.first().map_or(8737, |byte| 1024 + u16::from(*byte));
        }
        self.client.set_locals(&kept, now);
        let swarms = usize::from(which >> 2 & 3).min(SWARMS.len());
        self.client.set_swarms(&SWARMS[..swarms], now);
        if which >= 240 {
            // a tracker that comes again is another one
            self.client.set_trackers(&[], now);
            self.client.set_trackers(&trackers(), now);
            self.announced.clear();
        }
        let all = [SWARMS[0]; MAX_SWARMS + 1];
        if which == 255 {
            let before = self.client.counters().over_limit;
            self.client.set_swarms(&all, now);
            self.client.set_locals(&[locals()[0]; MAX_LOCALS + 2], now);
            assert_eq!(self.client.counters().over_limit, before + 3);
        }
    }
}

fn trackers() -> [TrackerUrl; 4] {
    TRACKERS.map(|url| url.parse().expect("a URL"))
}

/// What trackers, the resolver and the sockets say to a client, with time. It asks no more often for that, comes to rest after
/// each step, and is gone two seconds after it was told to go.
pub fn client(talk: &[u8]) {
    let mut world = World::new();
    world.client.set_trackers(&trackers(), world.now);
    world.client.set_locals(&locals(), world.now);
    world.client.set_swarms(&SWARMS, world.now);
    world.drain();
    for step in steps(talk).take(200) {
        // the upper bits of the kind: so many times a minute
        let later = u64::from(step.later) + 60 * u64::from(step.kind >> 3);
        world.now += Duration::from_secs(later);
        world.drain();
        let which = step.bytes.first().copied().unwrap_or(0);
        let rest = step.bytes.get(1..).unwrap_or_default();
        world.step(step.kind & 7, which, rest);
        world.drain();
        world.reports();
    }
    assert!(world.now >= world.start);
    world.client.shut_down(world.now);
    world.drain();
    let end = world.now + STOP;
    for _ in 0..100 {
        let deadline = world.client.deadline(world.now);
        let Some(at) = deadline.filter(|at| *at <= end) else {
            break;
        };
        world.now = at;
        world.drain();
    }
    assert!(world.client.is_finished());
}
