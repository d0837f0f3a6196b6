//! Strangers at a tracker.
use crate::steps::steps;
use anode_tracker::bencode;
use anode_tracker::compact::{self, Family};
use anode_tracker::http::{self, AnswerError};
use anode_tracker::server::{Access, Config, Counters, Server};
use anode_tracker::udp::packet::{self, AnnounceHead, CONNECT_SIZE, ConnectionId, Request};
use anode_tracker::{Event, InfoHash};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

/// Those who ask. Two of them share a /64, and one is shown as IPv4 in IPv6.
pub fn sources() -> [IpAddr; 6] {
    [
        [192, 0, 2, 1].into(),
        [192, 0, 2, 2].into(),
        Ipv4Addr::new(192, 0, 2, 3).to_ipv6_mapped().into(),
        [0x2001, 0xdb8, 0, 1, 0, 0, 0, 1].into(),
        [0x2001, 0xdb8, 0, 1, 0, 0, 0, 2].into(),
        [0x2001, 0xdb8, 0, 2, 0, 0, 0, 1].into(),
    ]
}

/// What limits count the source of a number by.
fn network(source: usize) -> usize {
    if source == 4 { 3 } else { source }
}

/// Small enough for a talk to reach.
fn config() -> Config {
    Config {
        max_peers: 10,
        max_datagram: 200,
        entries_per_source: 4,
        max_entries: 18,
        max_swarms: 5,
        ..Config::default()
    }
}

/// Longest connection id's life, in seconds.
const COOKIE_LIFE: u64 = 180;

/// How a datagram comes by its connection id.
const RAW: u8 = 0;
const PROVEN: u8 = 1;
const OF_ANOTHER: u8 = 2;
/// Who is served changes; everything else is the target of an HTTP request.
const ACCESS: u8 = 3;

/// A step: what comes and from whom (`kind % 6 + 6 * source`); seconds before. Nothing that is not asked for from where it
/// says is answered by more than it is, every request is counted once, and after two intervals nothing is left.
pub fn server(talk: &[u8]) {
    let (start, mut seconds) = (Instant::now(), 0u64);
    // connection ids come from it: one that was seen in a run must not be good in the next
    let seed = talk.iter().fold(1u64, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(u64::from(*byte))
    });
    let mut rng = StdRng::seed_from_u64(seed);
    let mut server = Server::new(config(), Access::Open, start, &mut rng);
    let sources = sources();
    let mut connections: [Option<(ConnectionId, u64)>; 6] = [None; 6];
    let (mut networks, mut asked) = (BTreeSet::new(), 0);
    for step in steps(talk).take(300) {
        seconds += u64::from(step.later);
        let now = start + Duration::from_secs(seconds);
        if server.deadline() <= now {
            server.handle_timeout(now);
            assert!(server.deadline() > now);
        }
        let from = usize::from(step.kind / 6 % 6);
        let (what, ip) = (step.kind % 6, sources[from]);
        networks.insert(network(from));
        let mut out = Vec::new();
        match what {
            RAW..=OF_ANOTHER => {
                let mut datagram = step.bytes.to_vec();
                let owner = if what == OF_ANOTHER {
                    (from + 1) % 6
                } else {
                    from
                };
                if let (PROVEN | OF_ANOTHER, Some((id, _)), Some(place)) =
                    (what, connections[owner], datagram.get_mut(..8))
                {
                    place.copy_from_slice(&id.0);
                }
                asked += 1;
                let source = SocketAddr::new(ip, 4000);
                let answered = server.udp(source, &datagram, now, &mut rng, &mut out);
                assert_eq!(answered, !out.is_empty());
                if answered {
                    answer(&datagram, &out, ip, (from, &connections), seconds);
                }
                if let Some((_, packet::Answer::Connect(id))) = packet::Answer::parse(&out) {
                    connections[from] = Some((id, seconds));
                }
            }
            ACCESS => {
                let mut hashes = HashSet::new();
                hashes.extend(step.bytes.iter().map(|byte| InfoHash([*byte; 20])));
                server.set_access(if hashes.is_empty() {
                    Access::Open
                } else {
                    Access::Listed(hashes.clone())
                });
                assert!(hashes.is_empty() || server.swarms() <= hashes.len());
            }
            _ => {
                asked += 1;
                let target = String::from_utf8_lossy(step.bytes);
                let status = server.http(ip, &target, now, &mut rng, &mut out);
                page(status, &target, &out, ip);
            }
        }
        let (config, per_source) = (config(), networks.len() * 4);
        assert!(server.entries() <= config.max_entries.min(per_source));
        assert!(server.swarms() <= config.max_swarms.min(server.entries()));
        assert_eq!(counted(server.counters()), asked);
    }
    let end = start + Duration::from_secs(seconds) + 2 * config().interval;
    server.handle_timeout(end + Duration::from_secs(61));
    assert_eq!((server.entries(), server.swarms()), (0, 0));
}

/// Requests, each of which counts as one thing.
fn counted(counters: Counters) -> u64 {
    let Counters {
        connects,
        announces,
        scrapes,
        malformed,
        invalid,
        wrong_connection,
        limited,
        not_listed,
        too_many_entries,
        full,
        expired: _,
    } = counters;
    let answered = connects + announces + scrapes;
    let refused = invalid + not_listed + too_many_entries + full;
    answered + refused + malformed + wrong_connection + limited
}

/// An answer over UDP is to the question, and for a source that has shown that it hears us or no larger than the question.
fn answer(
    question: &[u8],
    out: &[u8],
    ip: IpAddr,
    (from, connections): (usize, &[Option<(ConnectionId, u64)>; 6]),
    seconds: u64,
) {
    let request = Request::parse(question).expect("what is no request is not answered");
    let (transaction, answer) = packet::Answer::parse(out).expect("an answer");
    // an id belongs to an address and not to a network
    let known = |id| {
        connections[from].is_some_and(|(own, since)| own == id && seconds - since <= COOKIE_LIFE)
    };
    match (request, answer) {
        (Request::Connect(asked), packet::Answer::Connect(_)) => {
            assert_eq!((asked, out.len()), (transaction, CONNECT_SIZE));
        }
        (Request::Scrape(asked), packet::Answer::Scrape(_)) => {
            assert!(asked.transaction == transaction && known(asked.connection));
            assert!(out.len() <= question.len());
        }
        (Request::Announce(asked), packet::Answer::Error(_)) => {
            assert!(asked.transaction == transaction && known(asked.connection));
            assert!(out.len() <= question.len());
        }
        (Request::Announce(asked), packet::Answer::Announce(body)) => {
            assert!(asked.transaction == transaction && known(asked.connection));
            assert!(out.len() <= config().max_datagram);
            let (_, peers) = AnnounceHead::parse(body).expect("a whole answer");
            let entries = compact::entries(peers, Family::of(ip.to_canonical()));
            let peers: Vec<_> = entries.expect("whole entries").collect();
            assert!(
                asked
                    .num_want
                    .is_none_or(|want| peers.len() <= want as usize)
            );
            assert!(asked.event != Some(Event::Stopped) || peers.is_empty());
            named(&peers);
        }
        other => panic!("{other:?}"),
    }
}

/// Nobody is named who did not ask himself (B9, B15).
fn named(peers: &[SocketAddr]) {
    assert!(peers.len() <= config().max_peers);
    let sources = sources().map(|ip| ip.to_canonical());
    let known = |peer: &SocketAddr| sources.contains(&peer.ip()) && peer.port() != 0;
    assert!(peers.iter().all(known), "{peers:?}");
}

/// An answer over HTTP.
fn page(status: u16, target: &str, body: &[u8], ip: IpAddr) {
    if status == 404 {
        return;
    }
    assert_eq!(status, 200);
    // 300 bytes beside peers of 100 at most, or 74 swarms
    assert!(body.len() <= 300 + 100 * config().max_peers || target.starts_with("/scrape"));
    assert!(body.len() <= 100 * packet::MAX_SCRAPE + 20);
    bencode::parse(body).expect("bencode");
    match http::announce_answer(status, body) {
        Ok(answer) => {
            assert_eq!(answer.external_ip, Some(ip.to_canonical()));
            named(&answer.peers);
        }
        Err(AnswerError::Refused(_)) => {}
        Err(error) => assert!(target.starts_with("/scrape"), "{error}"),
    }
}
