//! How many round trips the first reply of two nodes takes that have never talked: counted on a line so long that nothing else matters.

use anode_platform::Prefix;
use anode_tests::lab::delay::{Conditions, long_line};
use anode_tests::lab::{Host, Lab, Node, Ns, cable, command, default_route, heavy};
use anode_tests::programs;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// One way over the line. A packet over the relay crosses it twice, its answer twice more.
const ONE_WAY: Duration = Duration::from_millis(25);
const ROUND_TRIP: Duration = Duration::from_millis(100);
/// WHOIS, handshake, KEM, echo.
const ROUND_TRIPS: f64 = 4.0;
/// For the work of a shared machine, all four together: half a round trip.
const SLACK: f64 = 0.5;

/// A machine behind the near end of the line, in 10.`number`.0.0/24.
fn machine(near: &Host, number: u8) -> Ns {
    let ns = Ns::new(&format!("near{number}"));
    let port = format!("to{number}");
    cable(near, &port, &ns, "eth0");
    let gateway = Ipv4Addr::new(10, number, 0, 1);
    let address = |ns: &Ns, link: &str, ip: Ipv4Addr| {
        let prefix = Prefix::new(ip, 24).expect("a prefix");
        let index = ns.index(link);
        ns.netlink(|netlink| netlink.address_add(index, prefix));
    };
    address(near, &port, gateway);
    address(&ns, "eth0", Ipv4Addr::new(10, number, 0, 2));
    default_route(&ns, gateway.into());
    ns
}

#[test]
fn the_first_reply_takes_four_round_trips_of_the_relay_path_at_most() {
    let Some(lab) = Lab::open() else { return };
    let _alone = heavy();
    let (near, far, line) = long_line(7);
    near.sysctl("net/ipv4/ip_forward", "1");
    let machines = [1, 2].map(|number| machine(&near, number));
    default_route(&far, near.v4().into());
    // The two meet at the relay, and nowhere else.
    let mut nft = command(programs::need("nft"));
    nft.arg(
        "table inet apart { chain forward { type filter hook forward priority 0; \
         iifname \"to*\" oifname \"to*\" drop; }; }",
    );
    near.finish(nft, Duration::from_secs(10)).expect_ok();
    line.set(Conditions {
        delay: ONE_WAY,
        ..Conditions::default()
    });
    let at = format!("udp://{}:8737", far.v4());
    let relay = Node::on(&far, lab.directory(), "relay").relay();
    let relay = relay.args(&["--listen", &at]).start();
    let entry = format!(
        "[[relays]]\naddress = \"{}\"\nendpoints = [\"{at}\"]",
        relay.address()
    );
    let [a, b] = [0, 1].map(|index| {
        let node = Node::on(&machines[index], lab.directory(), &format!("node{index}"));
        node.config(&entry).no_lan().start()
    });
    for node in [&a, &b] {
        node.wait("registration", Duration::from_secs(15), || {
            node.json(&["status"])["relays"][0]["registered"] == true
        });
    }
    // Neither knows more of the other than the address that it pings.
    let first = |from: &Node, to: &Node| {
        let to = IpAddr::from(to.ipv6());
        let pinged = programs::ping(from.ns(), to, 56, 1);
        assert_eq!(pinged.received, 1);
        pinged.rtt_ms[0] / (ROUND_TRIP.as_secs_f64() * 1e3)
    };
    let (fresh, known) = (first(&a, &b), first(&b, &a));
    println!(
        "first reply after {fresh:.2} round trips of the relay path, the next after {known:.2}"
    );
    assert!(fresh < ROUND_TRIPS + SLACK, "{fresh:.2} round trips");
    assert!(
        (1.0..1.0 + SLACK).contains(&known),
        "{known:.2} round trips"
    );
}
