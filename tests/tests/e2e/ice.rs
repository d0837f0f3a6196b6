//! ICE by itself: two sides in namespaces that tell each other their descriptions, through NATs, with our TURN server.

use anode_routing::ice::{
    Description, Endpoint, Event, Kind, Path, Preference, Protocol, RelayServer, Role, Sessions,
    TcpRole, own_addresses,
};
use anode_tests::lab::{Family, Host, Lab, Lan, Nat, NatKind, Ns, Proc, anode_binary, command};
use anode_turn::Transport;
use anode_turn::client::{Config, Credentials};
use anode_turn::resolve::Server;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

const PORT: u16 = 3478;
const LIMIT: Duration = Duration::from_secs(20);

/// A LAN with a TURN server of ours; NATs stand on it.
struct World {
    turn: SocketAddr,
    _server: Proc,
    lan: Lan,
    _lab: Lab,
}

impl World {
    fn start() -> Option<Self> {
        let lab = Lab::open()?;
        let lan = Lan::new(&lab, Family::V4);
        let at = lan.host("turn");
        let turn = SocketAddr::new(at.v4().into(), PORT);
        let config = lab.directory().join("turn.toml");
        let text = format!(
            "[turn]\nlisten = [\"{turn}\"]\nrealm = \"example.org\"\nusers = {{ alice = \"secret\" }}\n\
             allow-peers = [\"0.0.0.0/0\"]\n"
        );
        std::fs::write(&config, text).expect("written");
        let mut relay = command(anode_binary());
        relay.args(["relay", "-c", config.to_str().expect("UTF-8")]);
        let mut server = at.start(relay);
        let ready = server.wait_stderr_line("ready", LIMIT);
        ready.unwrap_or_else(|why| panic!("{why}"));
        Some(Self {
            turn,
            _server: server,
            lan,
            _lab: lab,
        })
    }

    fn open(&self, name: &str) -> Ns {
        let host: Host = self.lan.host(name);
        host.ns().clone()
    }

    /// Runs both sides; what each has chosen, and how soon.
    fn meet(&self, a: &Ns, b: &Ns, preference: Preference) -> [Met; 2] {
        let turn = self.turn;
        let (to_b, from_a) = channel();
        let (to_a, from_b) = channel();
        std::thread::scope(|scope| {
            let first =
                scope.spawn(|| a.run(|| side(turn, Role::Controlling, preference, to_b, from_b)));
            let second =
                scope.spawn(|| b.run(|| side(turn, Role::Controlled, preference, to_a, from_a)));
            [first, second].map(|side| side.join().expect("a side ends well"))
        })
    }
}

fn relay(turn: SocketAddr) -> RelayServer {
    RelayServer {
        server: Server {
            address: turn,
            transport: Transport::Udp,
        },
        config: Config {
            credentials: Some(Credentials {
                name: "alice".into(),
                password: "secret".to_owned().into(),
            }),
            ..Config::default()
        },
        check: None,
    }
}

fn side(
    turn: SocketAddr,
    role: Role,
    preference: Preference,
    tell: Sender<Description>,
    told: Receiver<Description>,
) -> Met {
    let own = own_addresses().expect("addresses");
    let places: Vec<_> = own.into_iter().map(|ip| SocketAddr::new(ip, 0)).collect();
    let endpoint = Endpoint::open(&places).expect("sockets");
    // Any seed does, but for each side another one.
    let seed = role as u64 + 1;
    let mut ice = Sessions::new(endpoint, Box::new(StdRng::seed_from_u64(seed)));
    let end = Instant::now() + LIMIT;
    ice.gather(Instant::now(), &[turn], &[relay(turn)]);
    let patience = Instant::now() + Duration::from_secs(2);
    while !ice.endpoint().is_gathered() && Instant::now() < patience {
        ice.wait(patience);
    }
    let session = ice.begin(role, preference).expect("room");
    let own = ice.describe(session).expect("told").clone();
    tell.send(own.clone()).expect("told");
    let remote = told.recv_timeout(LIMIT).expect("told");
    let begin = Instant::now();
    ice.start(begin, session, &remote).expect("usable");
    let mut met = Met {
        own,
        remote,
        path: None,
        after: Duration::ZERO,
    };
    let (mut heard, mut again) = (0, begin);
    while Instant::now() < end && (met.path.is_none() || heard < 3) {
        ice.wait((Instant::now() + Duration::from_millis(50)).min(end));
        while let Some(event) = ice.poll_event() {
            match event {
                Event::Selected { path, .. } => {
                    met.path = Some(path);
                    met.after = begin.elapsed();
                }
                other => panic!("{other:?}: {met:?}"),
            }
        }
        if let Some(path) = met.path
            && again <= Instant::now()
        {
            again = Instant::now() + Duration::from_millis(100);
            ice.send(Instant::now(), path, b"\x80 hello");
        }
        while let Some(data) = ice.poll_data() {
            assert_eq!(data.session, Some(session), "nobody else speaks");
            heard += 1;
        }
    }
    assert!(met.path.is_some() && heard >= 3, "{heard} heard: {met:?}");
    // The other side may still be waiting for ours.
    let path = met.path.expect("just shown");
    for _ in 0..20 {
        ice.send(Instant::now(), path, b"\x80 bye");
        ice.wait(Instant::now() + Duration::from_millis(20));
    }
    met
}

#[derive(Debug)]
struct Met {
    own: Description,
    remote: Description,
    path: Option<Path>,
    after: Duration,
}

impl Met {
    fn path(&self) -> Path {
        self.path.expect("chosen")
    }

    /// Whether a relayed candidate of either side is part of it.
    fn is_relayed(&self) -> bool {
        let path = self.path();
        let relayed = |all: &Description, at: SocketAddr| {
            let mut all = all.candidates.iter();
            all.any(|it| it.kind == Kind::Relayed && it.address == at)
        };
        relayed(&self.own, path.local) || relayed(&self.remote, path.remote)
    }

    fn has(&self, kind: Kind) -> bool {
        self.own.candidates.iter().any(|it| it.kind == kind)
    }

    /// The ports of what it told of this kind and protocol, those of connections yet to be opened left out.
    fn ports(&self, kind: Kind, protocol: Protocol) -> Vec<u16> {
        let all = self.own.candidates.iter();
        let all = all.filter(|it| it.kind == kind && it.protocol == protocol);
        let all = all.filter(|it| it.tcp != Some(TcpRole::Active));
        all.map(|it| it.address.port()).collect()
    }
}

// R93, R94, R95, R96: host candidates over UDP and TCP, what is preferred wins
#[test]
fn two_hosts_meet_over_udp_and_tcp() {
    let Some(world) = World::start() else { return };
    let (a, b) = (world.open("a"), world.open("b"));
    for (preference, protocol) in [
        (Preference::Udp, Protocol::Udp),
        (Preference::Tcp, Protocol::Tcp),
    ] {
        for met in world.meet(&a, &b, preference) {
            assert_eq!(met.path().protocol, protocol, "{met:?}");
            assert!(!met.is_relayed() && met.has(Kind::Relayed), "{met:?}");
            let [udp, tcp] = [Protocol::Udp, Protocol::Tcp].map(|it| met.ports(Kind::Host, it));
            assert!(!udp.is_empty() && udp == tcp, "one port for both: {met:?}");
            println!("{protocol:?}: chosen after {:?}", met.after);
        }
    }
}

// R97, R98: server-reflexive candidates lead through NATs that keep a port for all destinations
#[test]
fn two_behind_nats_meet_directly() {
    let Some(world) = World::start() else { return };
    let nats = [1, 2].map(|number| Nat::of_kind(&world.lan, number, NatKind::Port));
    let [a, b] = [0, 1].map(|at: usize| nats[at].machine("inside"));
    for met in world.meet(&a, &b, Preference::Udp) {
        // These NATs keep ports: what the STUN server saw is the socket of the host candidate.
        let [host, seen] =
            [Kind::Host, Kind::ServerReflexive].map(|kind| met.ports(kind, Protocol::Udp));
        assert!(!seen.is_empty() && host == seen, "{met:?}");
        assert!(!met.is_relayed(), "{met:?}");
        println!("port-port: chosen after {:?}", met.after);
    }
}

// R98: a side whose NAT has another port for each destination is met at the port that only its checks show
#[test]
fn a_port_that_nobody_was_told_is_found_by_the_checks() {
    let Some(world) = World::start() else { return };
    let kinds = [NatKind::Address, NatKind::Random];
    let nats = [0, 1].map(|at| Nat::of_kind(&world.lan, at as u8 + 1, kinds[at]));
    let [a, b] = [0, 1].map(|at: usize| nats[at].machine("inside"));
    let [open, symmetric] = world.meet(&a, &b, Preference::Udp);
    for met in [&open, &symmetric] {
        assert!(!met.is_relayed(), "{met:?}");
        println!("address-random: chosen after {:?}", met.after);
    }
    let mut told = open.remote.candidates.iter();
    let at = open.path().remote;
    assert!(!told.any(|it| it.address == at), "{open:?}");
    assert_eq!(at.ip(), nats[1].address());
}

// R98, T12: who has another port for each destination needs a relayed address, of our own TURN server
#[test]
fn two_behind_symmetric_nats_meet_by_the_relay() {
    let Some(world) = World::start() else { return };
    let nats = [1, 2].map(|number| Nat::of_kind(&world.lan, number, NatKind::Random));
    let [a, b] = [0, 1].map(|at: usize| nats[at].machine("inside"));
    for met in world.meet(&a, &b, Preference::Udp) {
        assert!(met.is_relayed(), "{met:?}");
        println!("random-random: chosen after {:?}", met.after);
    }
}

// R95: where UDP does not get out, a connection does
#[test]
fn without_udp_a_connection_is_opened() {
    let Some(world) = World::start() else { return };
    let nat = Nat::of_kind(&world.lan, 1, NatKind::NoUdp);
    let (a, b) = (nat.machine("inside"), world.open("b"));
    for met in world.meet(&a, &b, Preference::Udp) {
        assert_eq!(met.path().protocol, Protocol::Tcp, "{met:?}");
        println!("no UDP: chosen after {:?}", met.after);
    }
}
