//! What happens to a machine while it is in use: two uplinks, sleep, a link that flaps, networks that stop to carry UDP.

use anode_platform::Prefix;
use anode_platform::netlink::Route;
use anode_tests::flow::{Flow, GAP, short};
use anode_tests::lab::{Internet, Nat, NatKind, Ns, Site, command};
use anode_tests::matrix::{Pair, kind};
use anode_tests::programs;
use nix::sys::signal::Signal;
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);
/// Less than the patience of the sockets that the transfer uses.
const ASLEEP: Duration = Duration::from_secs(8);

fn set_up(machine: &Ns, interface: &str, up: bool) {
    let index = machine.index(interface);
    machine.netlink(|netlink| netlink.set_up(index, up));
}

/// The way out, the better one the lower its metric.
fn way_out(gateway: Ipv4Addr, metric: u32) -> Route {
    let everywhere = Prefix::new(Ipv4Addr::UNSPECIFIED, 0).expect("a prefix");
    Route {
        metric,
        ..Route::via(everywhere, gateway)
    }
}

/// Gives the first machine of a pair a second uplink, behind another NAT: both are up, and the first is preferred, as on a
/// machine with a cable and radio. The gateway of the first.
fn second_uplink(internet: &Internet, pair: &Pair) -> (Ipv4Addr, Nat) {
    let machine = &pair.places[0].ns;
    let first = Ipv4Addr::new(10, pair.places[0].nats[0].number(), 0, 1);
    let second = internet.nat(60, NatKind::Port);
    machine.netlink(|netlink| netlink.route_delete(&way_out(first, 0)));
    machine.netlink(|netlink| netlink.route_add(&way_out(first, 100)));
    second.plug(machine, "eth1");
    let radio = Ipv4Addr::new(10, 60, 0, 1);
    machine.netlink(|netlink| netlink.route_delete(&way_out(radio, 0)));
    machine.netlink(|netlink| netlink.route_add(&way_out(radio, 600)));
    thread::sleep(Duration::from_secs(2));
    assert!(pair.await_direct(SOON).is_some());
    (first, second)
}

#[test]
fn an_uplink_that_dies_without_a_word_is_left_for_the_other_one() {
    // A2, U10: the link stays up and its gateway answers, but nothing comes through
    let Some((mut internet, _alone)) = Internet::alone(2) else {
        return;
    };
    let pair = Pair::direct(&mut internet, [Site::Port, Site::Port]);
    let (_, radio) = second_uplink(&internet, &pair);
    let flow = Flow::start(&pair.a, &pair.b);
    thread::sleep(Duration::from_secs(1));
    let out = radio.packets_out();
    let mut nft = command(programs::need("nft"));
    nft.arg("insert rule inet filter forward drop");
    pair.places[0].nats[0].ns().finish(nft, SOON).expect_ok();
    thread::sleep(Duration::from_secs(3));
    short(flow.finish(), "the preferred uplink falls silent");
    let direct = pair.await_direct(SOON);
    assert!(direct.is_some(), "{:?}", kind(&pair.a, &pair.b));
    assert!(radio.packets_out() > out + 1000, "over the other one");
    assert_eq!(pair.a.ping(pair.b.address(), 3), 3);
}

#[test]
fn of_two_uplinks_one_is_lost_under_a_transfer_and_comes_back() {
    // A2
    let Some((mut internet, _alone)) = Internet::alone(2) else {
        return;
    };
    let pair = Pair::direct(&mut internet, [Site::Port, Site::Port]);
    let (first, _radio) = second_uplink(&internet, &pair);
    let machine = &pair.places[0].ns;
    let flow = Flow::start(&pair.a, &pair.b);
    thread::sleep(Duration::from_secs(1));
    set_up(machine, "eth0", false);
    thread::sleep(Duration::from_secs(2));
    assert!(pair.await_direct(SOON).is_some(), "over the other one");
    short(flow.finish(), "the preferred uplink is lost");

    let flow = Flow::start(&pair.a, &pair.b);
    thread::sleep(Duration::from_secs(1));
    set_up(machine, "eth0", true);
    // As a machine does that asks for its address first: the gateway answers before the route to it is there.
    programs::first_ping(machine, first.into(), SOON);
    machine.netlink(|netlink| netlink.route_add(&way_out(first, 100)));
    thread::sleep(Duration::from_secs(3));
    assert!(pair.await_direct(SOON).is_some());
    short(flow.finish(), "the preferred uplink is back");
}

#[test]
fn a_network_that_no_longer_carries_udp_is_left_for_connections_and_taken_up_again() {
    // A25, U5
    let Some((mut internet, _alone)) = Internet::alone(2) else {
        return;
    };
    let (pair, flow) = Pair::busy(&mut internet, [Site::Port, Site::Port]);
    let mut nft = command(programs::need("nft"));
    nft.arg("insert rule inet filter forward meta l4proto udp drop");
    pair.places[0].nats[0].ns().finish(nft, SOON).expect_ok();
    thread::sleep(Duration::from_secs(4));
    assert_eq!(kind(&pair.a, &pair.b).0, "relay");
    short(flow.finish(), "UDP is no longer carried");
}

#[test]
fn a_machine_that_slept_goes_on_where_it_was() {
    // Q17, U10: its NAT has forgotten it, its peers have asked in vain
    let Some((mut internet, _alone)) = Internet::alone(2) else {
        return;
    };
    let (mut pair, flow) = Pair::busy(&mut internet, [Site::Port, Site::Port]);
    pair.a.process().signal(Signal::SIGSTOP);
    thread::sleep(ASLEEP);
    pair.places[0].nats[0].forget();
    pair.a.process().signal(Signal::SIGCONT);
    let awake = Instant::now();
    pair.a.wait("an answer", SOON, || {
        pair.a.cli(&["ping", pair.b.address(), "-c", "1"]).ok()
    });
    println!(
        "asleep for {ASLEEP:?}: the first answer {:?} after that",
        awake.elapsed()
    );
    assert!(awake.elapsed() < GAP);
    thread::sleep(Duration::from_secs(1));
    assert!(pair.await_direct(SOON).is_some());
    let gap = flow.finish();
    println!("the transfer paused for {gap:?}, {ASLEEP:?} of it asleep");
    assert!(gap < ASLEEP + GAP, "{gap:?}");
}

#[test]
fn a_link_that_flaps_hundreds_of_times_a_second_costs_little() {
    // S20
    let Some((mut internet, _alone)) = Internet::alone(2) else {
        return;
    };
    let mut pair = Pair::direct(&mut internet, [Site::Port, Site::Port]);
    let machine = pair.places[0].ns.clone();
    let other = internet.nat(60, NatKind::Port);
    machine.netlink(|netlink| netlink.set_up(1, true));
    let out = pair.places[0].nats[0].packets_out();
    let (cpu, begin) = (pair.a.cpu_seconds(), Instant::now());
    // An interface that is no way out: only word of it reaches the node.
    anode_tests::lab::cable(&machine, "flap0", other.ns(), "flap1");
    let mut flips = 0;
    while begin.elapsed() < Duration::from_secs(5) {
        set_up(&machine, "flap0", flips % 2 == 1);
        flips += 1;
    }
    let (cpu, out) = (
        pair.a.cpu_seconds() - cpu,
        pair.places[0].nats[0].packets_out() - out,
    );
    let took = begin.elapsed();
    println!("{flips} changes in {took:?}: {cpu:.2} s of processor, {out} packets");
    assert!(flips > 500, "{flips}");
    // Hearing of tens of thousands of changes costs something; it must not fill a processor.
    assert!(cpu < took.as_secs_f64() / 2.0, "{cpu} s");
    assert!(out < 500, "{out} packets");
    assert_eq!(pair.a.ping(pair.b.address(), 3), 3);
}
