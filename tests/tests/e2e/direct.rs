//! Direct paths in life: relayed first, then direct, back when that dies, and a running transfer through all of it.

use anode_tests::lab::{Internet, Nat, NatKind, Node, Ns, Site, heavy};
use anode_tests::matrix::{Pair, Pinging, kind};
use anode_tests::{programs, traffic};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);
/// What a gap may be on a loaded machine; the promise is one second, and the figure is printed.
const GAP: Duration = Duration::from_secs(2);

/// A TCP connection through the overlay on which bytes flow, about 8 MB a second, until it is stopped.
pub(crate) struct Flow {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<u64>,
    receiver: JoinHandle<(u64, Vec<(Instant, Duration)>)>,
}

impl Flow {
    pub(crate) fn start(from: &Node, to: &Node) -> Self {
        let at = SocketAddr::new(to.ipv6().into(), 9_100);
        let (mut near, mut far) = traffic::pair(from.ns(), to.ns(), at);
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let sender = thread::spawn(move || {
            let mut noise = traffic::Noise::new(11);
            let mut sent = 0;
            while !told.load(Ordering::Relaxed) {
                let bytes = noise.bytes(16 << 10);
                near.write_all(&bytes).expect("no reset");
                sent += bytes.len() as u64;
                thread::sleep(Duration::from_millis(2));
            }
            sent
        });
        let receiver = thread::spawn(move || {
            let mut noise = traffic::Noise::new(11);
            let (mut got, mut gaps, mut last) = (0, Vec::new(), Instant::now());
            let (mut buffer, mut expected) = (vec![0; 16 << 10], Vec::new());
            loop {
                let read = far.read(&mut buffer).expect("no reset");
                if read == 0 {
                    return (got, gaps);
                }
                let gap = last.elapsed();
                if gap > Duration::from_millis(100) {
                    gaps.push((last, gap));
                }
                last = Instant::now();
                while expected.len() < read {
                    expected.extend(noise.bytes(16 << 10));
                }
                assert!(buffer[..read] == expected[..read], "every byte, in order");
                expected.drain(..read);
                got += read as u64;
            }
        });
        Self {
            stop,
            sender,
            receiver,
        }
    }

    /// Ends it: every byte must have come. The longest gap.
    pub(crate) fn finish(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.join().expect("no reset");
        let (got, gaps) = self.receiver.join().expect("no reset, nothing wrong");
        assert_eq!(got, sent, "every byte");
        gaps.into_iter()
            .map(|(_, gap)| gap)
            .max()
            .unwrap_or_default()
    }
}

/// A pair that is direct already.
fn direct_pair(internet: &mut Internet, sites: [Site; 2]) -> Pair {
    let pair = Pair::start(internet, sites);
    let pinging = pair.pinging();
    pinging.first(SOON);
    let direct = pair.await_direct(SOON);
    assert!(direct.is_some(), "{:?}", kind(&pair.a, &pair.b));
    pair
}

#[track_caller]
fn short(gap: Duration, what: &str) {
    println!("{what}: longest gap of the transfer {gap:?}");
    assert!(gap < GAP, "{what}: {gap:?}");
}

#[test]
fn ping_and_paths_show_the_relay_first_and_then_the_direct_path() {
    let Some(mut internet) = Internet::new(2) else {
        return;
    };
    let _alone = heavy();
    let pair = Pair::start(&mut internet, [Site::Port, Site::Port]);
    let answer = pair
        .a
        .json(&["ping", pair.b.address(), "-c", "25", "-i", "0.1"]);
    let replies = answer["replies"].as_array().expect("a list");
    assert_eq!(answer["received"], 25, "{answer}");
    assert_eq!(replies[0]["path"], "relay");
    assert_eq!(replies[24]["path"], "direct");
    let shown = pair.a.cli(&["paths"]).expect_ok().stdout();
    assert!(
        shown.contains("direct") && shown.contains("standby"),
        "{shown}"
    );
}

#[test]
fn a_transfer_outlives_the_direct_path_and_comes_back_to_it() {
    // DESIGN §7
    let Some(mut internet) = Internet::new(2) else {
        return;
    };
    let _alone = heavy();
    let pair = direct_pair(&mut internet, [Site::Port, Site::Port]);
    let flow = Flow::start(&pair.a, &pair.b);
    let pinging = pair.pinging();
    thread::sleep(Duration::from_secs(1));
    let far = IpAddr::from(pair.places[1].nats[0].address());
    pair.places[0].nats[0].block(far);
    thread::sleep(Duration::from_secs(3));
    assert_eq!(kind(&pair.a, &pair.b).0, "relay");
    println!(
        "direct path dead: longest gap between echoes {:?}",
        pinging.longest_gap()
    );
    pair.places[0].nats[0].unblock();
    let back = pair.await_direct(Duration::from_secs(60));
    println!("direct again {back:?} after the way was free");
    assert!(back.is_some());
    short(flow.finish(), "direct path dead");
}

#[test]
fn nats_that_forget_everything_and_relays_that_die_do_not_end_a_transfer() {
    let Some(mut internet) = Internet::new(2) else {
        return;
    };
    let _alone = heavy();
    let pair = direct_pair(&mut internet, [Site::Port, Site::Port]);
    let flow = Flow::start(&pair.a, &pair.b);
    thread::sleep(Duration::from_secs(1));
    pair.places[0].nats[0].forget();
    thread::sleep(Duration::from_secs(3));
    let back = pair.await_direct(SOON);
    println!("direct again {back:?} after 3 s");
    assert!(back.is_some(), "{:?}", kind(&pair.a, &pair.b));
    short(flow.finish(), "NAT started again");

    let flow = Flow::start(&pair.a, &pair.b);
    thread::sleep(Duration::from_millis(500));
    internet.relays().for_each(Node::kill);
    thread::sleep(Duration::from_secs(4));
    assert_eq!(kind(&pair.a, &pair.b).0, "direct");
    internet.relays().for_each(Node::start);
    thread::sleep(Duration::from_secs(1));
    short(flow.finish(), "all relays dead and back");
}

/// Takes the machine's uplink away and gives it another one, behind another NAT.
fn switch_uplink(internet: &Internet, machine: &Ns, number: u8, kind: NatKind) -> Nat {
    let nat = internet.nat(number, kind);
    let index = machine.index("eth0");
    machine.netlink(|netlink| netlink.set_up(index, false));
    nat.plug(machine, "eth1");
    nat
}

#[test]
fn a_machine_and_then_both_at_once_change_their_network_under_a_transfer() {
    // A2, D24
    let Some(mut internet) = Internet::new(2) else {
        return;
    };
    let _alone = heavy();
    let pair = direct_pair(&mut internet, [Site::Port, Site::Full]);
    let flow = Flow::start(&pair.a, &pair.b);
    thread::sleep(Duration::from_secs(1));
    let _new = switch_uplink(&internet, &pair.places[0].ns, 60, NatKind::Port);
    thread::sleep(Duration::from_secs(2));
    let direct = pair.await_direct(SOON);
    assert!(direct.is_some(), "{:?}", kind(&pair.a, &pair.b));
    short(flow.finish(), "one side has moved");

    let pair = direct_pair(&mut internet, [Site::Port, Site::Port]);
    let flow = Flow::start(&pair.a, &pair.b);
    thread::sleep(Duration::from_secs(1));
    let places = [61, 62].into_iter().zip(&pair.places);
    let _new: Vec<Nat> = places
        .map(|(number, place)| switch_uplink(&internet, &place.ns, number, NatKind::Port))
        .collect();
    thread::sleep(Duration::from_secs(3));
    let direct = pair.await_direct(SOON);
    assert!(direct.is_some(), "{:?}", kind(&pair.a, &pair.b));
    let gap = flow.finish();
    println!("both sides have moved: longest gap of the transfer {gap:?}");
    assert!(gap < 3 * GAP, "{gap:?}");
}

#[test]
fn two_machines_behind_one_nat_find_the_short_way() {
    let Some(internet) = Internet::new(2) else {
        return;
    };
    let _alone = heavy();
    let nat = internet.nat(1, NatKind::Port);
    let machines = ["a", "b"].map(|name| nat.machine(name));
    let [a, b] = ["a", "b"].map(|name| {
        let machine = &machines[usize::from(name == "b")];
        let place = anode_tests::lab::Place {
            ns: machine.clone(),
            nats: Vec::new(),
            site: Site::Port,
        };
        internet.node(&place, name).no_lan().start()
    });
    a.trust(&b, "b");
    b.trust(&a, "a");
    for node in [&a, &b] {
        internet.registered(node);
    }
    let pinging = Pinging::start(&a, b.ipv6().into());
    pinging.first(SOON);
    a.wait("the short way", SOON, || kind(&a, &b).0 == "direct");
    let paths = a.json(&["paths"]);
    let used = paths.as_array().expect("a list").iter();
    let used = used.filter(|path| path["address"] == b.address() && path["active"] == true);
    let endpoints: Vec<&str> = used.filter_map(|path| path["endpoint"].as_str()).collect();
    assert_eq!(endpoints, ["udp://10.1.0.3:8737"]);
}

#[test]
fn netcheck_tells_what_stands_before_a_machine() {
    // the contract of the command line
    let Some(mut internet) = Internet::new(2) else {
        return;
    };
    let _alone = heavy();
    let cases = [
        (Site::Open, true, "none", "endpoint-independent"),
        (
            Site::Full,
            true,
            "endpoint-independent",
            "endpoint-independent",
        ),
        (
            Site::Address,
            true,
            "endpoint-independent",
            "address-dependent",
        ),
        (
            Site::Port,
            true,
            "endpoint-independent",
            "address-port-dependent",
        ),
        (
            Site::Random,
            true,
            "address-port-dependent",
            "address-port-dependent",
        ),
        (
            Site::Sequence,
            true,
            "address-port-dependent",
            "address-port-dependent",
        ),
        (Site::NoUdp, false, "unknown", "unknown"),
    ];
    for (site, udp, mapping, filtering) in cases {
        let place = internet.place(site);
        let node = internet.node(&place, &format!("check-{}", site.as_str()));
        let node = node.no_lan().start();
        internet.registered(&node);
        let found = node.json(&["netcheck"]);
        let name = site.as_str();
        assert_eq!(found["udp"], udp, "{name}: {found}");
        assert_eq!(found["mapping"], mapping, "{name}: {found}");
        assert_eq!(found["filtering"], filtering, "{name}: {found}");
        assert!(found["portmap"].is_null(), "{name}: {found}");
        assert!(
            found["verdict"]
                .as_str()
                .expect("a sentence")
                .ends_with('.')
        );
        let relays = found["relays"].as_array().expect("a list");
        let reached = |transport: &str| {
            let mut of = relays
                .iter()
                .filter(|place| place["transport"] == transport);
            of.any(|place| place["rtt_ms"].as_f64().is_some_and(|rtt| rtt > 0.0))
        };
        assert_eq!(reached("udp"), udp, "{name}: {found}");
        for transport in ["tcp", "tls", "http"] {
            assert!(reached(transport), "{name}: {transport}: {found}");
        }
        let external: Vec<&Value> = found["external"]
            .as_array()
            .expect("a list")
            .iter()
            .collect();
        assert_eq!(external.is_empty(), !udp, "{name}: {found}");
        let text = node.cli(&["netcheck"]).expect_ok().stdout();
        assert!(text.contains(mapping) && text.contains("RTT"), "{text}");
    }
}

/// A gateway that speaks NAT-PMP as it is told to: what it answers to a request of this many bytes.
fn gateway(nat: &Nat, answer: impl Fn(&[u8]) -> Vec<u8> + Send + 'static) {
    let inside = nat.ns().netlink(|netlink| netlink.addresses(None));
    let inside = inside
        .iter()
        .map(|address| address.prefix.address())
        .find(|ip| matches!(ip, IpAddr::V4(ip) if ip.octets()[0] == 10))
        .expect("its inner address");
    let socket = nat
        .ns()
        .run(|| UdpSocket::bind(SocketAddr::new(inside, 5351)))
        .expect("the port is free");
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        // Ends with the process: nobody speaks to it any more.
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&answer(&buffer[..len]), from);
        }
    });
}

/// What a real NAT-PMP gateway (RFC 6886) says: version 0 alone, our address, and the port that was asked for.
fn nat_pmp(outside: Ipv4Addr, port: u16) -> impl Fn(&[u8]) -> Vec<u8> + Send + 'static {
    move |request| match request {
        [0, 0] => [&[0, 128, 0, 0, 0, 0, 1, 0][..], &outside.octets()].concat(),
        [0, 1, ..] if request.len() == 12 => [
            &[0, 129, 0, 0, 0, 0, 1, 0][..],
            &request[4..6],
            &port.to_be_bytes(),
            &request[8..12],
        ]
        .concat(),
        // Unsupported version: PCP is told to go back to version 0.
        _ => vec![0, 128, 0, 1, 0, 0, 1, 0],
    }
}

#[test]
fn a_port_that_the_gateway_opens_makes_two_symmetric_nats_direct() {
    let Some(mut internet) = Internet::new(2) else {
        return;
    };
    let _alone = heavy();
    let places = [Site::Random, Site::Random].map(|site| internet.place(site));
    let nat = &places[0].nats[0];
    const OUTER: u16 = 20_001;
    gateway(nat, nat_pmp(nat.address(), OUTER));
    let mut nft = anode_tests::lab::command(programs::need("nft"));
    nft.arg(format!(
        "add rule ip nat inbound iifname eth0 udp dport {OUTER} dnat to 10.1.0.2:8737"
    ));
    nat.ns().finish(nft, SOON).expect_ok();
    let a = internet.node(&places[0], "mapped").no_lan().start();
    let b = internet.node(&places[1], "other").no_lan().start();
    a.trust(&b, "b");
    b.trust(&a, "a");
    for node in [&a, &b] {
        internet.registered(node);
    }
    a.wait("the gateway's port", SOON, || {
        !a.json(&["netcheck"])["portmap"].is_null()
    });
    let found = a.json(&["netcheck"]);
    assert_eq!(found["portmap"]["protocol"], "nat-pmp", "{found}");
    assert_eq!(
        found["portmap"]["external"],
        format!("udp://{}:{OUTER}", nat.address())
    );
    let pinging = Pinging::start(&a, b.ipv6().into());
    pinging.first(SOON);
    b.wait("a direct path", SOON, || kind(&b, &a).0 == "direct");
    assert_eq!(kind(&a, &b).0, "direct");
}

#[test]
fn a_hostile_gateway_changes_nothing() {
    // S16
    let Some(mut internet) = Internet::new(2) else {
        return;
    };
    let _alone = heavy();
    type Answer = Box<dyn Fn(&[u8]) -> Vec<u8> + Send>;
    let hostile: [(&str, Answer); 4] = [
        ("noise", Box::new(|request| vec![0xa5; request.len() + 900])),
        ("empty", Box::new(|_| Vec::new())),
        ("loopback", Box::new(nat_pmp(Ipv4Addr::LOCALHOST, 8737))),
        (
            "group",
            Box::new(nat_pmp(Ipv4Addr::new(224, 0, 0, 1), 8737)),
        ),
    ];
    for (name, answer) in hostile {
        let place = internet.place(Site::Port);
        gateway(&place.nats[0], answer);
        let mut node = internet.node(&place, name).no_lan().start();
        internet.registered(&node);
        thread::sleep(Duration::from_millis(1500));
        assert!(node.json(&["netcheck"])["portmap"].is_null(), "{name}");
        node.terminate().expect_ok();
    }
}
