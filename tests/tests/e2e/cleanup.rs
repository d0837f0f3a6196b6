//! What a node leaves behind: nothing, however it ends. And what it needs: little.

use crate::common::Pair;
use anode_platform::Prefix;
use anode_platform::netlink::Route;
use anode_tests::lab::{Done, Family, Host, Lab, Lan, Node, NodeBuilder};
use anode_tests::{programs, traffic};
use nix::sys::signal::Signal;
use std::net::Ipv6Addr;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10);

fn one_host() -> Option<(Lab, Lan, Host)> {
    let lab = Lab::open()?;
    let lan = Lan::new(&lab, Family::V4);
    let host = lan.host("a");
    Some((lab, lan, host))
}

/// Where the overlay lies.
fn overlay() -> Prefix {
    Prefix::new(Ipv6Addr::new(0xfda0, 0, 0, 0, 0, 0, 0, 0), 16).expect("a prefix")
}

/// Neither interface nor route of the overlay.
#[track_caller]
fn assert_clean(host: &Host) {
    assert_eq!(host.interfaces(), ["eth0", "lo"]);
    let routes: Vec<Route> = host
        .routes6()
        .into_iter()
        .filter(|route| overlay().covers(&route.destination))
        .collect();
    assert!(routes.is_empty(), "{routes:?}");
}

/// Runs `anode up` that is expected to give up.
fn refused(builder: &NodeBuilder, host: &Host) -> Done {
    host.finish(builder.command(), LIMIT)
}

fn nothing_is_left_after(signal: Signal) {
    let Some((lab, _lan, host)) = one_host() else {
        return;
    };
    let mut node = Node::on(&host, lab.directory(), "a").start();
    let interface = node.json(&["status"])["interface"]
        .as_str()
        .expect("a name")
        .to_owned();
    assert!(host.interfaces().contains(&interface));
    let route = host
        .routes6()
        .into_iter()
        .find(|route| route.destination == overlay());
    assert_eq!(route.and_then(|route| route.device), Some(interface));
    node.process().signal(signal);
    let status = node.process().wait(LIMIT).expect("it ends");
    if signal != Signal::SIGKILL {
        assert_eq!(status.code(), Some(0), "{}", node.log());
        assert!(!node.state().join("control.sock").exists());
    }
    assert_clean(&host);
    // And what a crash may leave in the state directory does not stop the next start.
    node.start();
    assert_eq!(node.json(&["status"])["ipv6"], node.ipv6().to_string());
}

#[test]
fn nothing_is_left_after_sigterm() {
    nothing_is_left_after(Signal::SIGTERM);
}

#[test]
fn nothing_is_left_after_sigint() {
    nothing_is_left_after(Signal::SIGINT);
}

#[test]
fn nothing_is_left_after_sigkill() {
    // S38, U20
    nothing_is_left_after(Signal::SIGKILL);
}

#[test]
fn a_node_killed_at_any_moment_of_its_start_starts_again() {
    // S38, S31
    let Some((lab, _lan, host)) = one_host() else {
        return;
    };
    let node = Node::on(&host, lab.directory(), "a");
    let mut noise = traffic::Noise::new(38);
    for _ in 0..30 {
        let process = host.start(node.command());
        std::thread::sleep(Duration::from_micros(noise.word() % 100_000));
        drop(process);
        assert_clean(&host);
    }
    node.start();
}

#[test]
fn a_second_start_on_the_same_state_is_refused_and_the_first_goes_on() {
    // S31, U20
    let Some((lab, _lan, host)) = one_host() else {
        return;
    };
    let mut first = Node::on(&host, lab.directory(), "a").start();
    let done = refused(
        &Node::on(&host, lab.directory(), "a").args(&["--name", "other0"]),
        &host,
    );
    assert_eq!(done.code(), 1, "{done}");
    assert!(
        done.stderr.contains(&first.state().display().to_string()),
        "{done}"
    );
    assert!(first.process().running());
    assert_eq!(first.json(&["status"])["ipv6"], first.ipv6().to_string());
    assert!(!host.interfaces().contains(&"other0".to_owned()));
}

#[test]
fn a_route_of_somebody_else_is_not_taken() {
    // U12
    let Some((lab, _lan, host)) = one_host() else {
        return;
    };
    let route = Route::to_link(overlay(), host.index("lo"));
    host.netlink(|netlink| netlink.route_add(&route));
    let done = refused(&Node::on(&host, lab.directory(), "a"), &host);
    assert_eq!(done.code(), 1, "{done}");
    assert!(done.stderr.contains("fda0::/16"), "{done}");
    let kept = host
        .routes6()
        .into_iter()
        .find(|route| route.destination == overlay());
    assert_eq!(kept.and_then(|route| route.device).as_deref(), Some("lo"));
    assert_eq!(host.interfaces().len(), 2);
}

/// Everything but CAP_NET_ADMIN is taken away, for good.
const ONLY_NET_ADMIN: [&str; 3] = [
    "setpriv",
    "--bounding-set=-all,+net_admin",
    "--inh-caps=-all,+net_admin",
];

#[test]
fn only_cap_net_admin_is_needed() {
    let Some((lab, lan, host_a)) = one_host() else {
        return;
    };
    let host_b = lan.host("b");
    let a = Node::on(&host_a, lab.directory(), "a")
        .wrapper(&ONLY_NET_ADMIN)
        .start();
    let b = Node::on(&host_b, lab.directory(), "b")
        .wrapper(&ONLY_NET_ADMIN)
        .start();
    a.trust(&b, "b");
    b.trust(&a, "a");
    programs::first_ping(&host_a, b.ipv6().into(), LIMIT);
    let mut node = a;
    assert_eq!(node.terminate().code(), 0);
    assert_clean(&host_a);
}

#[test]
fn without_any_capability_it_says_which_is_missing() {
    let Some((lab, _lan, host)) = one_host() else {
        return;
    };
    let none = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];
    let done = refused(&Node::on(&host, lab.directory(), "a").wrapper(&none), &host);
    assert_eq!(done.code(), 1, "{done}");
    assert!(done.stderr.contains("CAP_NET_ADMIN"), "{done}");
    assert!(!lab.directory().join("a/control.sock").exists());
    assert_clean(&host);
}

#[test]
fn without_dev_net_tun_it_says_so() {
    let Some((lab, _lan, host)) = one_host() else {
        return;
    };
    let hidden = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        "mount -t tmpfs none /dev/net && exec \"$@\"",
        "sh",
    ];
    let done = refused(
        &Node::on(&host, lab.directory(), "a").wrapper(&hidden),
        &host,
    );
    assert_eq!(done.code(), 1, "{done}");
    assert!(done.stderr.contains("/dev/net/tun"), "{done}");
    assert_clean(&host);
}

#[test]
fn without_an_interface_a_node_needs_no_capability_and_answers_pings_of_peers() {
    // U3
    let Some((lab, lan, host_a)) = one_host() else {
        return;
    };
    let host_b = lan.host("b");
    let none = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];
    let a = Node::on(&host_a, lab.directory(), "a")
        .args(&["--no-tun"])
        .wrapper(&none)
        .start();
    let b = Node::on(&host_b, lab.directory(), "b").start();
    a.trust(&b, "b");
    b.trust(&a, "a");
    assert_clean(&host_a);
    b.wait("the node without an interface answers", LIMIT, || {
        b.ping(a.address(), 1) == 1
    });
}

#[test]
fn a_link_that_goes_and_comes_back_carries_on() {
    // U10
    let Some(pair) = Pair::start(Family::V4) else {
        return;
    };
    pair.lan.unplug(&pair.host_b);
    assert_eq!(programs::ping(&pair.host_a, pair.b_ip(), 56, 1).received, 0);
    pair.lan.plug(&pair.host_b);
    let gap = programs::first_ping(&pair.host_a, pair.b_ip(), Duration::from_secs(30));
    println!("reachable {gap:?} after the link came back");
}
