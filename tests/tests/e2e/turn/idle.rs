//! NATs that forget who has been silent.

use super::session::Session;
use super::*;
use anode_tests::lab::{Nat, NatKind, Ns};
use anode_tests::traffic;
use anode_turn::client::{Config, Event};
use std::net::UdpSocket;
use std::thread;

/// A server and a peer outside of a NAT.
struct Outside {
    own: SocketAddr,
    peer: SocketAddr,
    speaker: UdpSocket,
    nat: Nat,
    _server: Changing,
    _ground: Ground,
}

impl Outside {
    /// The NAT keeps a mapping so many seconds.
    fn of_nat(seconds: u32) -> Option<Self> {
        let ground = Ground::open(Family::V4)?;
        let server = ground.serve("");
        let host = ground.lan.host("peer");
        let peer = SocketAddr::new(host.ip_address(), ECHO);
        let nat = Nat::of_kind(&ground.lan, 1, NatKind::Port);
        for name in ["timeout", "timeout_stream"] {
            let name = format!("net/netfilter/nf_conntrack_udp_{name}");
            nat.ns().sysctl(&name, &seconds.to_string());
        }
        Some(Self {
            own: ground.own(),
            peer,
            speaker: traffic::udp(&host, peer),
            nat,
            _server: server,
            _ground: ground,
        })
    }

    /// Clients behind the NAT, each with its time between keep-alives, which nobody talks to for a while: whom the peer
    /// reaches then.
    fn reaches(&self, keepalives: &[Duration], idle: Duration) -> Vec<bool> {
        // The rest of a NAT stays with its thread.
        let (own, peer, speaker) = (self.own, self.peer, &self.speaker);
        let reached = |at: &Ns, keepalive| {
            let config = Config {
                keepalive,
                ..Session::config("alice", "secret")
            };
            let mut session = Session::with(at, own, config);
            session.until(|event| matches!(event, Event::Allocated { .. }));
            session.permit(peer.ip());
            let say = |session: &Session, words: &[u8]| {
                let sent = speaker.send_to(words, session.relayed());
                sent.expect("sent");
            };
            say(&session, b"while it is fresh");
            assert!(session.hears(peer, b"while it is fresh", LIMIT));
            assert!(!session.hears(peer, b"what nobody says", idle));
            say(&session, b"and now");
            session.hears(peer, b"and now", Duration::from_secs(2))
        };
        let machines: Vec<Ns> = (0..keepalives.len())
            .map(|number| self.nat.machine(&format!("inside{number}")))
            .collect();
        thread::scope(|scope| {
            let reached = &reached;
            let start = |(at, keepalive): (_, &Duration)| {
                let keepalive = *keepalive;
                scope.spawn(move || reached(at, keepalive))
            };
            let running: Vec<_> = machines.iter().zip(keepalives).map(start).collect();
            let all = running.into_iter().map(|one| one.join().expect("it ends"));
            all.collect()
        })
    }
}

const NEVER: Duration = Duration::from_secs(3600);

// T38: what an idle client sends now and then keeps its way open through a NAT that forgets after three seconds; without
// that it is not reached any more
#[test]
fn an_idle_client_is_reached_through_a_nat_that_forgets() {
    let Some(outside) = Outside::of_nat(3) else {
        return;
    };
    let keepalives = [Duration::from_millis(500), NEVER];
    let reached = outside.reaches(&keepalives, Duration::from_secs(7));
    assert_eq!(reached, [true, false]);
}

// T38: as a client is by default, for two minutes, through a NAT that forgets after 20 seconds
#[test]
#[ignore = "takes two minutes"]
fn a_client_as_it_is_by_default_stays_reachable_for_two_idle_minutes() {
    let Some(outside) = Outside::of_nat(20) else {
        return;
    };
    let keepalives = [Config::default().keepalive, NEVER];
    let reached = outside.reaches(&keepalives, Duration::from_secs(120));
    assert_eq!(reached, [true, false]);
}
