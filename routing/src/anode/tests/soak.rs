//! Long runs on virtual time: what is left behind shows.
use super::*;

#[test]
fn a_day_of_restarts_cut_lines_and_wrong_clocks_leaves_nothing_behind() {
    // S39, as far as virtual time shows it; Q5, Q17: nobody is locked out by a clock that was set back.
    let mut sim = Sim::new(191);
    sim.host(1, knows(&[2]));
    sim.host(2, knows(&[1]));
    let sizes = |sim: &Sim| -> Vec<_> {
        let nodes = sim.hosts.iter().map(|host| &host.node);
        nodes
            .map(|node| {
                (
                    node.sessions.sizes(),
                    node.peers().len(),
                    node.contacts.len(),
                )
            })
            .collect()
    };
    let reached = |sim: &mut Sim, from: usize| {
        let (start, to) = (sim.now, ipv6(2 - from as u16));
        while sim.ping(from, to).is_err() {
            assert!(
                sim.now - start < secs(30),
                "host {from} never reaches the other"
            );
            sim.run(ms(100));
        }
        sim.now - start
    };
    let mut first = None;
    for hour in 0..24u64 {
        let index = (hour % 2) as usize;
        // The machine has crashed; every other time its clock is a day behind afterwards.
        sim.back = secs(if hour % 4 < 2 { 0 } else { 86_400 });
        sim.restart(index, index as u16 + 1, knows(&[2 - index as u16]));
        let own = reached(&mut sim, index);
        let others = reached(&mut sim, 1 - index);
        assert!(
            own < secs(2) && others < secs(2),
            "{own:?}, {others:?} in hour {hour}"
        );
        for _ in 0..5 {
            sim.run(secs(600));
            let idle = reached(&mut sim, 0);
            assert!(idle < secs(2), "{idle:?} after ten silent minutes");
        }
        // The line is cut for a minute, and programs insist.
        sim.cut = vec![(home(1), home(2)), (home(2), home(1))];
        let end = sim.now + secs(60);
        while sim.now < end {
            let _ = sim.ping(index, ipv6(2 - index as u16));
            sim.run(ms(500));
        }
        sim.cut.clear();
        let again = reached(&mut sim, 1 - index);
        assert!(again < secs(2), "{again:?} after the cut of hour {hour}");
        // All that is only kept for a time is gone by then.
        sim.run(secs(400));
        assert_eq!(
            *first.get_or_insert_with(|| sizes(&sim)),
            sizes(&sim),
            "hour {hour}"
        );
        for host in &sim.hosts {
            assert_eq!(host.node.deadline(), None, "nobody is kept awake");
        }
    }
}
