//! Pairs of sites from open to hardly any network: relayed from the first packet on, direct where anything can be done.
//!
//! Twelve telling cells; `tests/bench matrix` runs all of them, and those that guess ports twenty times.

use anode_tests::lab::{Internet, Site};
use anode_tests::matrix::{Expected, Pair, expected, judge, kind, try_pair};
use std::time::Duration;

/// Relays, as most zones have: two, so that the mapping can be told.
const RELAYS: usize = 2;
/// A loaded machine may take longer, in the same order.
const SLACK: u32 = 4;
/// The first reply needs four round trips of the relay path; here they are below a millisecond, and the machine is shared.
const FIRST_REPLY: Duration = Duration::from_secs(1);

#[track_caller]
fn cells(cells: &[[Site; 2]]) {
    let Some((mut internet, _alone)) = Internet::alone(RELAYS) else {
        return;
    };
    for sites in cells {
        let [a, b] = sites.map(Site::as_str);
        // Where ports are guessed one try may miss; two never should.
        let tries = match expected(sites[0], sites[1]) {
            Expected::Mostly(..) => 2,
            _ => 1,
        };
        let mut last = Ok(());
        for _ in 0..tries {
            let outcome = try_pair(&mut internet, *sites);
            println!("{a} - {b}: {outcome}");
            assert!(
                outcome.first_reply < FIRST_REPLY,
                "{a} - {b}: traffic flows from the first second on: {outcome}"
            );
            last = judge(*sites, &outcome, SLACK);
            if last.is_ok() {
                break;
            }
        }
        if let Err(why) = last {
            panic!("{a} - {b}: {why}");
        }
    }
}

#[test]
fn cones_and_open_machines_are_direct() {
    // A54, A56, A57, D24, D26
    use Site::{Address, Double, Full, Open, Port};
    cells(&[[Port, Port], [Full, Address], [Open, Double]]);
}

#[test]
fn a_symmetric_nat_is_direct_with_whoever_filters_by_address_at_most() {
    use Site::{Address, DoubleRandom, Full, Open, Random};
    cells(&[[Random, Address], [Full, Random], [DoubleRandom, Open]]);
}

#[test]
fn ports_of_symmetric_nats_are_guessed_where_that_can_be_done() {
    // Q28, U6
    use Site::{Port, Random, Sequence};
    cells(&[[Sequence, Port], [Sequence, Sequence], [Port, Random]]);
}

#[test]
fn who_can_only_be_relayed_is_told_why() {
    // U5, U6
    use Site::{NoUdp, Open, Port, Proxy, Random};
    cells(&[[Random, Random], [NoUdp, Open], [Proxy, Port]]);
}

#[test]
fn firewalls_of_ipv6_are_opened_like_nats() {
    use Site::{Firewall6, Open, Port};
    cells(&[[Firewall6, Firewall6], [Open, Firewall6], [Firewall6, Port]]);
}

#[test]
fn no_ports_are_guessed_where_one_side_has_ipv4_alone_and_the_other_ipv6() {
    // Q28
    let Some((mut internet, _alone)) = Internet::alone(RELAYS) else {
        return;
    };
    let pair = Pair::start(&mut internet, [Site::Firewall6, Site::Random]);
    let pinging = pair.pinging();
    pinging.first(Duration::from_secs(10));
    let told = || {
        let shown = pair.a.cli(&["paths"]).expect_ok().stdout();
        shown.contains("is relayed: the one has IPv4 alone, the other IPv6 alone")
    };
    pair.a.wait("the reason", Duration::from_secs(20), told);
    let (kind, reason) = kind(&pair.a, &pair.b);
    assert_eq!(
        (kind.as_str(), reason.as_deref()),
        ("relay", Some("no-common-ip"))
    );
    // Five rounds of both, to the places that each has named; a search would be a thousand packets.
    let packets = pair.punches();
    println!("{packets} packets to places that peers had named");
    assert!(packets <= 60, "{packets}");
}
