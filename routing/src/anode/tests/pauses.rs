//! How long a running transfer pauses when something on its way dies or moves: less than a second, whatever it is (DESIGN §7).
use super::direct::{moves, time_to_direct, two_before};
use super::relay::*;
use super::transports::everything;
use super::*;
use std::net::IpAddr;

/// One-way delays of the underlay: a city, a country, an ocean.
pub(super) const DELAYS: [Duration; 3] = [ms(1), ms(10), ms(40)];
/// Bytes a second that each line carries.
const RATE: u64 = 500_000;
/// DESIGN §7.
const LIMIT: Duration = secs(1);

/// The longest time between two arrivals of a transfer from `from` to `to` (its host, its number), in which something happens.
pub(super) fn pause(
    sim: &mut Sim,
    from: usize,
    (to, number): (usize, u16),
    time: Duration,
    happens: impl FnOnce(&mut Sim),
) -> Duration {
    sim.link.rate = RATE;
    let bytes = (RATE * (time.as_secs() + 4)) as usize;
    transfer(sim, from, number, bytes);
    sim.until(secs(5), "the transfer", |sim| {
        received(sim, to) > RATE as usize
    });
    happens(sim);
    let until = sim.now + time;
    let (mut seen, mut last, mut longest) = (received(sim, to), sim.now, Duration::ZERO);
    while sim.now < until {
        sim.run(ms(5));
        let now = received(sim, to);
        if now > seen {
            longest = longest.max(sim.now - last);
            (seen, last) = (now, sim.now);
        }
    }
    longest.max(until - last)
}

/// A pair behind two port-restricted NATs that has become direct.
pub(super) fn direct_pair(seed: u64, delay: Duration) -> (Sim, usize, usize) {
    let mut sim = relays(seed, 2);
    sim.link.delay = delay;
    let kinds = [Some(Kind::PortRestricted); 2];
    let (mut sim, a, b) = two_before(sim, 2, kinds, quiet);
    assert!(time_to_direct(&mut sim, a, b, secs(5)).is_some());
    (sim, a, b)
}

pub(super) fn judge(what: &str, delay: Duration, took: Duration, late: &mut Vec<String>) {
    println!("{what}, {delay:?} one way: longest pause {took:?}");
    if took >= LIMIT {
        late.push(format!("{what}, {delay:?}: {took:?}"));
    }
}

#[test]
fn a_transfer_pauses_less_than_a_second_whatever_dies_on_its_direct_path() {
    type Happens = fn(&mut Sim, [usize; 2]);
    let events: [(&str, Happens); 7] = [
        ("the direct path dies", |sim, _| {
            sim.outside_cut = Some((
                IpAddr::from([198, 51, 100, 1]),
                IpAddr::from([198, 51, 100, 2]),
            ));
        }),
        ("it dies there alone", |sim, _| {
            sim.meddler = Some(|packet| !from_nat_to_nat(packet, 1, 2));
        }),
        ("it dies back alone", |sim, _| {
            sim.meddler = Some(|packet| !from_nat_to_nat(packet, 2, 1));
        }),
        ("the sender's NAT forgets", |sim, _| sim.nats[0].forget()),
        ("the receiver's NAT forgets", |sim, _| sim.nats[1].forget()),
        ("both NATs forget", |sim, _| {
            sim.nats.iter_mut().for_each(Nat::forget)
        }),
        ("all relays die", |sim, _| {
            sim.hosts[0].up = false;
            sim.hosts[1].up = false;
        }),
    ];
    let mut late = Vec::new();
    for delay in DELAYS {
        for (what, happens) in events {
            let (mut sim, a, b) = direct_pair(101, delay);
            let took = pause(&mut sim, a, (b, 2), secs(6), |sim| happens(sim, [a, b]));
            judge(what, delay, took, &mut late);
        }
    }
    assert!(late.is_empty(), "{late:#?}");
}

#[test]
fn a_transfer_pauses_less_than_a_second_whoever_moves() {
    // A2, D24
    let mut late = Vec::new();
    for delay in DELAYS {
        for (what, movers) in [
            ("the sender moves", [true, false]),
            ("the receiver moves", [false, true]),
            ("both move", [true, true]),
        ] {
            let (mut sim, a, b) = direct_pair(103, delay);
            let took = pause(&mut sim, a, (b, 2), secs(6), |sim| {
                if movers[0] {
                    moves(sim, a, 1, 11);
                }
                if movers[1] {
                    moves(sim, b, 2, 12);
                }
            });
            judge(what, delay, took, &mut late);
        }
    }
    assert!(late.is_empty(), "{late:#?}");
}

#[test]
fn a_transfer_pauses_less_than_a_second_when_its_relay_dies() {
    // D40
    let mut late = Vec::new();
    for delay in DELAYS {
        for count in [2, 5] {
            for whose in [0, 1] {
                let mut sim = relays(107 + u64::from(count), count);
                sim.link.delay = delay;
                let (mut sim, a, b) = behind_nats(sim, count);
                learn(&mut sim, a, 2);
                for _ in 0..3 {
                    sim.ping(a, ipv6(2)).unwrap();
                }
                let took = pause(&mut sim, a, (b, 2), secs(6), |sim| {
                    let (end, other) = [(a, 2), (b, 1)][whose];
                    let dead = used_relay(sim, end, other);
                    sim.hosts[dead].up = false;
                });
                let whose = ["sender", "receiver"][whose];
                let what = format!("the relay of the {whose} dies, one of {count}");
                judge(&what, delay, took, &mut late);
            }
        }
    }
    assert!(late.is_empty(), "{late:#?}");
}

#[test]
fn a_transfer_pauses_less_than_a_second_when_datagrams_stop_being_carried() {
    // A25
    let mut late = Vec::new();
    for delay in DELAYS {
        let mut sim = everything(109);
        sim.link.delay = delay;
        let took = pause(&mut sim, 0, (1, 2), secs(6), |sim| sim.no_datagrams = true);
        assert_eq!(sim.used(0, 2), Some("tcp://192.0.2.2:8737".into()));
        judge("datagrams stop", delay, took, &mut late);
    }
    for delay in DELAYS {
        for whose in [0, 1] {
            let (mut sim, a, b) = direct_pair(113, delay);
            for host in [a, b] {
                let now = sim.now;
                let node = &mut sim.hosts[host].node;
                node.set_relays(now, anode_wire::Zone(0), 2, zone_over_tcp(2));
            }
            sim.run(secs(1));
            let took = pause(&mut sim, a, (b, 2), secs(6), |sim| {
                sim.nats[whose].kind = Kind::NoDatagrams;
            });
            let whose = ["sender", "receiver"][whose];
            judge(
                &format!("datagrams of the {whose} stop"),
                delay,
                took,
                &mut late,
            );
        }
    }
    assert!(late.is_empty(), "{late:#?}");
}

#[test]
fn a_machine_that_sleeps_in_a_transfer_goes_on_within_a_second_of_waking() {
    // Q17, U10: its clocks have jumped apart, its NAT has forgotten it, and its peer has asked in vain
    let mut late = Vec::new();
    for delay in DELAYS {
        for asleep in [secs(8), secs(20), secs(45)] {
            for whose in [0, 1] {
                let (mut sim, a, b) = direct_pair(117, delay);
                let sleeper = [a, b][whose];
                let mut woken = secs(10);
                let _ = pause(&mut sim, a, (b, 2), secs(4), |sim| {
                    sim.sleep(sleeper, asleep);
                    sim.nats[whose].forget();
                    let before = received(sim, b);
                    let more = |sim: &Sim| received(sim, b) > before;
                    woken = sim.until(secs(10), "more of the transfer", more);
                });
                assert_eq!(sim.counters(sleeper).clock_jumps, 1);
                let whose = ["sender", "receiver"][whose];
                let what = format!("the {whose} has slept for {asleep:?}");
                judge(&what, delay, woken, &mut late);
            }
        }
    }
    assert!(late.is_empty(), "{late:#?}");
}

#[test]
fn a_transfer_pauses_less_than_a_second_when_a_wall_clock_jumps() {
    // Q17
    const MINUTE: i64 = 60_000_000;
    let mut late = Vec::new();
    for delay in DELAYS {
        for (what, jump) in [
            ("set ahead by a minute", MINUTE),
            ("set back by an hour", -60 * MINUTE),
        ] {
            for whose in [0, 1] {
                let (mut sim, a, b) = direct_pair(119, delay);
                let host = [a, b][whose];
                let took = pause(&mut sim, a, (b, 2), secs(6), |sim| {
                    let mut clock = sim.clock();
                    clock.wall.0 = clock.wall.0.saturating_add_signed(jump);
                    sim.hosts[host].node.set_clock(clock);
                });
                assert_eq!(sim.counters(host).clock_jumps, 1);
                let whose = ["sender", "receiver"][whose];
                judge(&format!("the {whose} is {what}"), delay, took, &mut late);
            }
        }
    }
    assert!(late.is_empty(), "{late:#?}");
}

/// Whether a packet goes from the outside of one NAT to that of another.
fn from_nat_to_nat(packet: &Flying, from: u8, to: u8) -> bool {
    let outside = |number: u8| IpAddr::from([198, 51, 100, number]);
    packet.from.ip() == outside(from) && packet.to.ip() == outside(to)
}
