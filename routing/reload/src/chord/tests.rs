use super::*;
use crate::Code;
use crate::body::ChordUpdate;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

fn at(seconds: u64) -> Now {
    Now {
        at: Duration::from_secs(seconds),
        unix: 1_700_000_000 + seconds,
    }
}

fn id(number: u128) -> Id {
    Id::from_number(number)
}

fn ids(count: usize, seed: u64) -> Vec<Id> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut ids: Vec<Id> = (0..count).map(|_| id(rng.random())).collect();
    ids.sort();
    ids
}

/// The parameters of the measured tables: fixed fingers, no shortcut (RD50).
fn fixed(fingers: u8, neighbours: usize) -> Config {
    Config {
        fingers: Some(fingers),
        neighbours: Some(neighbours),
        shortcut: false,
        ..Config::default()
    }
}

struct Walk {
    hops: Vec<usize>,
    wrong: usize,
    stuck: usize,
}

impl Walk {
    fn mean(&self) -> f64 {
        self.hops.iter().sum::<usize>() as f64 / self.hops.len() as f64
    }
    fn p99(&mut self) -> usize {
        self.hops.sort_unstable();
        self.hops[self.hops.len() * 99 / 100]
    }
}

/// Random lookups over nodes that stand still. Each dead hop is taken out of its table when it is met.
fn walk(ring: &[Id], nodes: &mut BTreeMap<Id, Chord>, lookups: usize, seed: u64) -> Walk {
    let mut rng = StdRng::seed_from_u64(seed);
    let live: Vec<Id> = nodes.keys().copied().collect();
    let mut result = Walk {
        hops: Vec::new(),
        wrong: 0,
        stuck: 0,
    };
    assert!(!ring.is_empty());
    for _ in 0..lookups {
        let key = id(rng.random());
        let owner = live[live.partition_point(|other| *other < key) % live.len()];
        let mut here = live[rng.random_range(0..live.len())];
        let (mut hops, mut tries) = (0, 0);
        loop {
            tries += 1;
            let node = nodes.get_mut(&here).unwrap();
            let next = match tries > 2000 || !node.knows_its_range() {
                true => Hop::None,
                false => node.next_hop(key, &[]),
            };
            match next {
                Hop::Here if here == owner => result.hops.push(hops),
                Hop::Here => result.wrong += 1,
                Hop::None => result.stuck += 1,
                Hop::To(next) if nodes.contains_key(&next) => {
                    here = next;
                    hops += 1;
                    continue;
                }
                Hop::To(dead) => {
                    nodes.get_mut(&here).unwrap().freeze_out(dead);
                    continue;
                }
            }
            break;
        }
    }
    result
}

fn frozen(ring: &[Id], config: &Config) -> BTreeMap<Id, Chord> {
    let node = |id: &Id| (*id, Chord::frozen(*id, config.clone(), ring));
    ring.iter().map(node).collect()
}

// R108, R109, R111, RD50, reload.md §4.3: the table's parameters, and the acceptance bounds
#[test]
fn hops_are_those_of_the_tables() {
    let cases = [
        (64, fixed(8, 3), 3.53, 6),
        (256, fixed(8, 3), 4.65, 7),
        (1024, fixed(16, 3), 5.7, 10),
        (1024, fixed(8, 3), 5.77, 10),
        (1024, fixed(127, 1), 5.87, 9),
    ];
    for (count, config, mean, p99) in cases {
        let ring = ids(count, 7);
        let mut walked = walk(&ring, &mut frozen(&ring, &config), 4000, 8);
        assert_eq!((walked.wrong, walked.stuck), (0, 0));
        let found = walked.mean();
        assert!(
            (found - mean).abs() <= 0.2,
            "{count} nodes, {config:?}: {found:.2} hops, expected {mean}"
        );
        assert!(walked.p99() <= p99, "{count} nodes: p99 {}", walked.p99());
    }
}

// RD52, RD53, reload.md §4.3: what is shipped, 5.1 at 1,024 nodes without RD50's shortcut and 4.3 with it
#[test]
fn shipped_parameters_take_fewer_hops() {
    let ring = ids(1024, 7);
    for (shortcut, mean) in [(false, 5.1), (true, 4.3)] {
        let config = Config {
            shortcut,
            ..Config::default()
        };
        let walked = walk(&ring, &mut frozen(&ring, &config), 4000, 8);
        assert_eq!((walked.wrong, walked.stuck), (0, 0));
        let found = walked.mean();
        assert!((found - mean).abs() <= 0.2, "{found:.2}, expected {mean}");
    }
}

// R115, RD52, reload.md §4.3: sudden loss of 30 %, ten neighbours: 99.9 % and more are right
#[test]
fn lookups_survive_the_sudden_loss_of_a_third() {
    let ring = ids(1000, 3);
    let config = Config {
        neighbours: Some(10),
        ..Config::default()
    };
    let mut nodes = frozen(&ring, &config);
    let mut rng = StdRng::seed_from_u64(5);
    nodes.retain(|_, _| !rng.random_bool(0.3));
    let walked = walk(&ring, &mut nodes, 4000, 8);
    let right = walked.hops.len() as f64 / 4000.0;
    assert!(right >= 0.999, "{right}");
}

// R110
#[test]
fn ranges_end_at_the_node_and_begin_after_its_predecessor() {
    let ring = ids(50, 1);
    let nodes = frozen(&ring, &fixed(8, 3));
    for (place, id) in ring.iter().enumerate() {
        let node = &nodes[id];
        let before = ring[(place + 49) % 50];
        assert_eq!(node.range(), Some((before, *id)));
        assert!(node.is_responsible(*id));
        assert!(!node.is_responsible(before));
        assert!(node.is_responsible(before.plus(1)));
        assert_eq!(
            node.replicas(),
            [ring[(place + 1) % 50], ring[(place + 2) % 50]]
        );
    }
}

fn actions(chord: &mut Chord) -> Vec<Action> {
    std::iter::from_fn(|| chord.poll_action()).collect()
}

fn update(predecessors: &[u128], successors: &[u128]) -> Vec<u8> {
    ChordUpdate {
        predecessors: predecessors.iter().copied().map(id).collect(),
        successors: successors.iter().copied().map(id).collect(),
    }
    .emit()
    .unwrap()
}

fn give_update(chord: &mut Chord, seconds: u64, from: u128, body: &[u8]) {
    let update = Input::Update {
        from: id(from),
        body,
    };
    chord.handle(at(seconds), update);
}

// R113, RD47: PING, CONNECT, JOIN, UPDATE, in this order
#[test]
fn a_node_joins_in_the_order_of_the_draft() {
    let mut chord = Chord::new(id(500), Config::default(), 1);
    chord.handle(at(0), Input::Connected(id(900)));
    chord.handle(at(0), Input::Join(id(900)));
    assert_eq!(actions(&mut chord), [Action::Ping(id(501))]);
    assert!(!chord.is_joined() && chord.range().is_none());
    let found = Input::Pinged {
        key: id(501),
        peer: Some(id(600)),
    };
    chord.handle(at(0), found);
    let asked = actions(&mut chord);
    assert_eq!(asked[0], Action::Connect(id(600), None));
    assert!(!asked.iter().any(|action| matches!(action, Action::Join(_))));
    chord.handle(at(1), Input::Connected(id(600)));
    // fingers that nobody answers for do not hold it up for ever
    chord.handle_timeout(at(7));
    assert!(actions(&mut chord).contains(&Action::Join(id(600))));
    let admitted = Input::JoinAnswered {
        peer: id(600),
        admitted: true,
    };
    chord.handle(at(7), admitted);
    assert!(!chord.is_joined(), "only the UPDATE makes it a member");
    give_update(&mut chord, 8, 600, &update(&[500, 400], &[900]));
    let done = actions(&mut chord);
    assert!(chord.is_joined() && done.contains(&Action::Joined));
    assert_eq!(chord.range(), Some((id(400), id(500))), "as it was told");
    let updated = |to: u128| {
        done.iter()
            .any(|action| matches!(action, Action::Update(peer, _) if *peer == id(to)))
    };
    assert!(updated(600) && updated(900), "all of its routing table");
}

// R113, R116: the predecessor that the admitting peer named was dead already, and nobody else would own its range
#[test]
fn a_predecessor_that_was_named_and_is_not_there_bounds_no_range() {
    let joined = || {
        let mut chord = Chord::new(id(500), Config::default(), 1);
        chord.handle(at(0), Input::Connected(id(600)));
        chord.handle(at(0), Input::Join(id(600)));
        let successor = Input::Pinged {
            key: id(501),
            peer: Some(id(600)),
        };
        chord.handle(at(0), successor);
        chord.handle_timeout(at(6));
        chord.handle_timeout(at(7));
        give_update(&mut chord, 8, 600, &update(&[500, 400, 300], &[900]));
        chord.handle(at(8), Input::Connected(id(300)));
        give_update(&mut chord, 8, 300, &update(&[], &[500]));
        actions(&mut chord);
        assert_eq!(chord.range(), Some((id(400), id(500))), "as it was told");
        assert_eq!(chord.next_hop(id(350), &[]), Hop::To(id(300)));
        chord
    };
    let own = |mut chord: Chord| {
        assert_eq!(chord.range(), Some((id(300), id(500))));
        assert_eq!(chord.next_hop(id(350), &[]), Hop::Here);
        let copied =
            |action: &Action| matches!(action, Action::Replicate { to, .. } if *to == id(600));
        assert!(actions(&mut chord).iter().any(copied));
    };
    let mut unreachable = joined();
    unreachable.handle(at(9), Input::Unreachable(id(400)));
    own(unreachable);
    let mut left = joined();
    left.handle(at(9), Input::Lost(id(400)));
    own(left);
    let mut silent = joined();
    assert!(silent.deadline().is_some_and(|due| due <= at(53).at));
    silent.handle_timeout(at(53));
    own(silent);
}

fn member(own: u128, peers: &[u128]) -> Chord {
    member_with(Config::default(), own, peers)
}

fn member_with(config: Config, own: u128, peers: &[u128]) -> Chord {
    let mut chord = Chord::new(id(own), config, 1);
    chord.handle(at(0), Input::Create);
    for peer in peers {
        chord.handle(at(0), Input::Connected(id(*peer)));
        give_update(&mut chord, 0, *peer, &update(&[], &[]));
    }
    actions(&mut chord);
    chord
}

fn connects(chord: &mut Chord) -> Vec<Id> {
    let wanted = |action: Action| match action {
        Action::Connect(peer, _) => Some(peer),
        _ => None,
    };
    let mut peers: Vec<Id> = actions(chord).into_iter().filter_map(wanted).collect();
    peers.sort();
    peers
}

// R113: whoever joins asks his successor who his neighbours are, and those that this one tells of. A thousand others that a
// bootstrap peer and fingers tell of lie elsewhere.
#[test]
fn a_joining_node_does_not_walk_along_the_ring() {
    let mut chord = Chord::new(id(500), Config::default(), 1);
    chord.handle(at(0), Input::Connected(id(900)));
    give_update(&mut chord, 0, 900, &update(&[800, 700], &[950]));
    chord.handle(at(0), Input::Join(id(900)));
    give_update(&mut chord, 0, 900, &update(&[800, 700], &[950]));
    assert_eq!(connects(&mut chord), [], "its place is not known yet");
    let found = |key: u128, peer: u128| Input::Pinged {
        key: id(key),
        peer: Some(id(peer)),
    };
    chord.handle(at(0), found(501, 600));
    assert_eq!(connects(&mut chord), [id(600)]);
    chord.handle(at(0), Input::Connected(id(600)));
    // Those next to it may be heard of before the successor itself.
    chord.handle(at(0), Input::Connected(id(650)));
    give_update(&mut chord, 0, 650, &update(&[600, 450, 430], &[]));
    assert_eq!(connects(&mut chord), []);
    give_update(&mut chord, 0, 600, &update(&[450, 400], &[650]));
    assert_eq!(connects(&mut chord), [id(400), id(430), id(450)]);
    chord.handle(at(0), Input::Connected(id(400)));
    give_update(&mut chord, 0, 400, &update(&[390, 380], &[450]));
    assert_eq!(connects(&mut chord), [id(380), id(390)]);
    // A finger far away, and the neighbour of a neighbour's neighbour.
    for (far, told) in [(7_000, [6_900, 7_100]), (390, [370, 360])] {
        chord.handle(at(1), Input::Connected(id(far)));
        give_update(&mut chord, 1, far, &update(&told, &[]));
        assert_eq!(connects(&mut chord), [], "{far}");
    }
}

// R113: the bootstrap peer is the successor: what it has told before that was known counts
#[test]
fn a_bootstrap_peer_may_be_the_successor() {
    let mut chord = Chord::new(id(500), Config::default(), 1);
    chord.handle(at(0), Input::Connected(id(900)));
    give_update(&mut chord, 0, 900, &update(&[400, 300], &[]));
    chord.handle(at(0), Input::Join(id(900)));
    let found = Input::Pinged {
        key: id(501),
        peer: Some(id(900)),
    };
    assert_eq!(connects(&mut chord), []);
    chord.handle(at(0), found);
    assert_eq!(connects(&mut chord), [id(300), id(400)]);
}

// S35: who tells a joining node much is remembered within a bound
#[test]
fn what_a_joining_node_hears_is_bounded() {
    let mut chord = Chord::new(id(500), Config::default(), 1);
    for peer in 1_000..1_000 + 2 * MAX_WANTED as u128 {
        chord.handle(at(0), Input::Connected(id(peer)));
        give_update(&mut chord, 0, peer, &update(&[peer + 1], &[]));
    }
    assert_eq!(chord.heard.len(), MAX_WANTED);
    chord.handle(at(0), Input::Lost(id(1_000)));
    assert_eq!(chord.heard.len(), MAX_WANTED - 1);
}

// R6, R59, RD49: a connection alone routes nothing
#[test]
fn a_peer_routes_only_after_its_update() {
    let mut chord = member(100, &[]);
    chord.handle(at(0), Input::Connected(id(200)));
    assert_eq!(chord.next_hop(id(150), &[]), Hop::Here);
    assert_eq!(chord.next_hop(id(200), &[]), Hop::Here, "it is alone");
    give_update(&mut chord, 0, 200, &update(&[], &[]));
    assert_eq!(chord.next_hop(id(150), &[]), Hop::To(id(200)));
    // an UPDATE of somebody there is no link to
    give_update(&mut chord, 0, 300, &update(&[], &[]));
    assert_eq!(chord.neighbours().1, [id(200)]);
}

// R117: closer peers are connected, never oneself, never an id that is none
#[test]
fn an_update_that_tells_of_closer_peers_leads_to_connects() {
    let mut chord = member(100, &[50, 200]);
    give_update(
        &mut chord,
        1,
        200,
        &update(&[150, 100, 0, u128::MAX], &[250]),
    );
    let asked = actions(&mut chord);
    let connects: Vec<_> = asked
        .iter()
        .filter(|action| matches!(action, Action::Connect(..)))
        .collect();
    assert_eq!(
        connects,
        [150, 250]
            .map(|peer| Action::Connect(id(peer), Some(id(200))))
            .iter()
            .collect::<Vec<_>>()
    );
    assert!(
        !chord.neighbours().1.contains(&id(150)),
        "not before it answered"
    );
    chord.handle(at(2), Input::Unreachable(id(150)));
    give_update(&mut chord, 3, 200, &update(&[150, 100], &[]));
    let tries_again =
        |action: &Action| matches!(action, Action::Connect(peer, _) if *peer == id(150));
    assert!(!actions(&mut chord).iter().any(tries_again));
}

// R117: who brackets this node and does not know a neighbour makes it doubtful
#[test]
fn a_doubtful_neighbour_is_asked_and_removed_if_it_is_gone() {
    let mut chord = member(100, &[50, 150, 200]);
    give_update(&mut chord, 10, 200, &update(&[100, 50], &[]));
    assert!(actions(&mut chord).contains(&Action::Ping(id(150))));
    let other = Input::Pinged {
        key: id(150),
        peer: Some(id(200)),
    };
    chord.handle(at(11), other);
    assert!(!chord.neighbours().1.contains(&id(150)));
    assert!(actions(&mut chord).contains(&Action::Disconnect(id(150))));
}

// R116, R118, RD51: the next live successor takes over, and gets the copies
#[test]
fn a_lost_successor_is_replaced_and_copies_move() {
    let mut chord = member(100, &[50, 150, 200, 250]);
    assert_eq!(chord.replicas(), [id(150), id(200)]);
    chord.handle(at(10), Input::Lost(id(150)));
    assert_eq!(chord.replicas(), [id(200), id(250)]);
    let copy = Action::Replicate {
        to: id(250),
        after: id(50),
        upto: id(100),
    };
    let done = actions(&mut chord);
    assert!(done.contains(&copy), "{done:?}");
    // R116: the rest is told, a moment later
    chord.handle_timeout(at(11));
    let told = actions(&mut chord);
    assert!(
        told.iter()
            .any(|a| matches!(a, Action::Update(peer, _) if *peer == id(50)))
    );
    // the predecessor goes: its range is ours, and both replicas get it
    chord.handle(at(12), Input::Lost(id(50)));
    let grown = actions(&mut chord);
    let to = |peer: u128| {
        grown
            .iter()
            .any(|a| matches!(a, Action::Replicate { to, .. } if *to == id(peer)))
    };
    assert!(to(200) && to(250), "{grown:?}");
}

// R88, R113, RD47
#[test]
fn one_peer_at_a_time_is_admitted_into_its_own_place() {
    let mut chord = member(100, &[50, 200]);
    assert_eq!(
        chord.admit(at(1), id(150)).unwrap_err().code(),
        Code::NOT_FOUND
    );
    assert_eq!(
        chord.admit(at(1), id(80)).unwrap_err().code(),
        Code::FORBIDDEN
    );
    for joiner in [80, 90] {
        chord.handle(at(1), Input::Connected(id(joiner)));
    }
    actions(&mut chord);
    chord.admit(at(1), id(80)).unwrap();
    let hand_over = Action::HandOver {
        to: id(80),
        after: id(50),
        upto: id(80),
    };
    assert_eq!(actions(&mut chord), [hand_over]);
    assert_eq!(chord.admit(at(2), id(90)).unwrap_err().code(), Code::BUSY);
    assert_eq!(chord.range(), Some((id(50), id(100))), "until it is done");
    chord.handle(at(3), Input::HandedOver(id(80)));
    assert_eq!(chord.range(), Some((id(80), id(100))));
    let told = actions(&mut chord);
    assert!(matches!(&told[..], [.., Action::Update(to, _)] if *to == id(80)));
    // It has not heard of that, and asks again: it is told again, and not as often as it likes
    chord.admit(at(3), id(80)).unwrap();
    let hand_over = Action::HandOver {
        to: id(80),
        after: id(50),
        upto: id(80),
    };
    assert_eq!(actions(&mut chord), [hand_over]);
    chord.handle(at(3), Input::HandedOver(id(80)));
    let told = actions(&mut chord);
    assert!(matches!(&told[..], [.., Action::Update(to, _)] if *to == id(80)));
    assert_eq!(chord.admit(at(4), id(80)).unwrap_err().code(), Code::BUSY);
    // RD47: a joiner that never comes to its end does not block the place
    chord.admit(at(4), id(90)).unwrap();
    chord.handle_timeout(at(35));
    assert!(chord.admitting.is_none());
}

// R112, R118, RD72
#[test]
fn copies_are_taken_from_neighbours_for_their_own_ranges() {
    let chord = member(100, &[10, 20, 30, 40, 200]);
    assert!(chord.may_copy(id(40), id(35)), "my predecessor's own");
    assert!(chord.may_copy(id(30), id(25)));
    assert!(!chord.may_copy(id(40), id(50)), "that is mine");
    assert!(!chord.may_copy(id(10), id(15)), "that is another's");
    assert!(!chord.may_copy(id(999), id(5)), "a stranger");
    assert!(
        chord.may_copy(id(200), id(50)),
        "my successor gives me mine"
    );
    assert!(!chord.may_copy(id(200), id(150)), "but not its own");
    assert!(chord.keeps(id(35)) && chord.keeps(id(21)));
    assert!(!chord.keeps(id(20)), "three predecessors stand between");
}

// R119, R120
#[test]
fn updates_and_finger_checks_are_periodic_and_spread() {
    let mut firsts = BTreeSet::new();
    for seed in 1..20 {
        let mut chord = Chord::new(id(100), Config::default(), seed * 7919);
        chord.handle(at(0), Input::Create);
        let first = chord.deadline().unwrap();
        assert!(first >= Duration::from_secs(300) && first <= Duration::from_secs(600));
        firsts.insert(first);
    }
    assert!(firsts.len() > 10);
    let mut chord = member(100, &[50, 200]);
    for second in (0..7200).step_by(10) {
        chord.handle_timeout(at(second));
    }
    let done = actions(&mut chord);
    let updates = done
        .iter()
        .filter(|a| matches!(a, Action::Update(..)))
        .count();
    assert!(
        (24..=60).contains(&updates),
        "{updates} to two peers in two hours"
    );
    assert!(done.iter().any(|a| matches!(a, Action::Ping(_))));
}

// R8, R90, R121
#[test]
fn clients_own_nothing_and_leavers_hand_over() {
    let config = Config {
        is_client: true,
        ..Config::default()
    };
    let mut client = Chord::new(id(500), config, 1);
    client.handle(at(0), Input::Connected(id(900)));
    client.handle(at(0), Input::Join(id(900)));
    assert_eq!(actions(&mut client), [Action::Joined]);
    assert_eq!(client.range(), None);
    assert_eq!(client.next_hop(id(1), &[]), Hop::To(id(900)));
    assert_eq!(client.next_hop(id(500), &[]), Hop::Here);
    give_update(&mut client, 1, 900, &update(&[500], &[]));
    assert_eq!(actions(&mut client), []);
    assert!(client.admit(at(2), id(900)).is_err());
    // It may attach to several, and asks the others when one is lost.
    client.handle(at(3), Input::Connected(id(700)));
    assert_eq!(client.next_hop(id(701), &[]), Hop::To(id(900)));
    client.handle(at(3), Input::Join(id(700)));
    assert_eq!(actions(&mut client), []);
    client.handle(at(4), Input::Connected(id(600)));
    client.handle(at(4), Input::Lost(id(900)));
    assert!(client.is_joined());
    assert_eq!(client.next_hop(id(1), &[]), Hop::To(id(700)));
    client.handle(at(4), Input::Lost(id(700)));
    assert_eq!(actions(&mut client), [Action::Alone]);
    assert!(!client.is_joined(), "600 never said that it is in the ring");

    let mut leaver = member(100, &[50, 200]);
    leaver.handle(at(5), Input::Leave);
    let push = Action::Replicate {
        to: id(200),
        after: id(50),
        upto: id(100),
    };
    assert_eq!(actions(&mut leaver), [push]);
    let mut other = member(200, &[50, 100]);
    let gone = Membership {
        peer: id(100),
        data: vec![],
    };
    other.handle(at(5), Input::Left(&gone));
    assert_eq!(other.range(), Some((id(50), id(200))));
}

// R6, R8, RD49: a client's link may stand before this node is part of the ring
#[test]
fn whoever_connects_to_a_joining_node_is_no_part_of_its_ring() {
    let mut chord = Chord::new(id(100), Config::default(), 1);
    chord.handle(at(0), Input::Connected(id(300)));
    chord.handle(at(0), Input::Connected(id(900)));
    chord.handle(at(0), Input::Join(id(900)));
    chord.handle(at(0), Input::Connected(id(101)));
    assert_eq!(chord.neighbours().1, [id(900)]);
    // That it answers for a stretch of the ring shows that it is part of it.
    let found = Input::Pinged {
        key: id(101),
        peer: Some(id(300)),
    };
    chord.handle(at(1), found);
    assert_eq!(chord.neighbours().1, [id(300), id(900)]);
}

// R116
#[test]
fn a_node_that_loses_everybody_says_so() {
    let mut chord = member(100, &[50]);
    chord.handle(at(5), Input::Lost(id(50)));
    assert!(actions(&mut chord).contains(&Action::Alone));
    assert_eq!(chord.next_hop(id(7), &[]), Hop::Here);
}

// S35: garbage, and lists that would make a node connect to the whole world
#[test]
fn hostile_updates_are_bounded() {
    let mut chord = member(100, &[50, 200]);
    for seed in 0..2000u64 {
        let far: Vec<u128> = (0..15).map(|n| 1_000 + u128::from(seed * 15 + n)).collect();
        give_update(&mut chord, 1, 200, &update(&far, &far));
        give_update(&mut chord, 1, 200, &seed.to_be_bytes());
        assert_eq!(chord.wanted.len(), MAX_WANTED.min(seed as usize * 15 + 15));
    }
    assert_eq!(connects(&mut chord).len(), MAX_WANTED);
    // Those who cannot be reached make room when they have rested.
    for peer in 1_000..1_000 + MAX_WANTED as u128 {
        chord.handle(at(2), Input::Unreachable(id(peer)));
    }
    give_update(&mut chord, 3, 200, &update(&[90], &[]));
    assert_eq!(connects(&mut chord), []);
    give_update(&mut chord, 40, 200, &update(&[90], &[]));
    assert_eq!(connects(&mut chord), [id(90)]);
}

// R117: whoever is told of is connected to where the neighbour table has room, or holds somebody farther on that side
#[test]
fn only_those_nearer_than_the_table_reaches_are_neighbours() {
    let peers = [970, 980, 990, 1_010, 1_020, 1_030];
    let mut chord = member_with(fixed(8, 3), 1_000, &peers);
    let mut told = |of: u128| {
        give_update(&mut chord, 1, 990, &update(&[of], &[]));
        !connects(&mut chord).is_empty()
    };
    let cases = [
        (1_001, true),
        (1_029, true),
        (1_031, false),
        (500, false),
        (969, false),
        (971, true),
        (999, true),
    ];
    for (of, wanted) in cases {
        assert_eq!(told(of), wanted, "{of}");
    }
}

// RD55: whoever is found in another part of the ring, and is near, is connected to through the one who knows him
#[test]
fn a_stranger_whom_a_probe_finds_is_connected_to() {
    let mut chord = member_with(fixed(8, 3), 100, &[70, 80, 90, 110, 120, 130]);
    let mut probed = |peer: u128| {
        let found = Input::ProbedOutside {
            peer: id(peer),
            through: id(500),
        };
        chord.handle(at(1), found);
        actions(&mut chord)
    };
    let wanted = Action::Connect(id(105), Some(id(500)));
    assert!(probed(105).contains(&wanted));
    assert_eq!(probed(400), [], "he is no neighbour");
    assert_eq!(probed(110), [], "he is known");
    let mut outside = Chord::new(id(100), Config::default(), 1);
    outside.handle(
        at(1),
        Input::ProbedOutside {
            peer: id(105),
            through: id(500),
        },
    );
    assert_eq!(actions(&mut outside), []);
}

// R11, R118, RD55: a nearer predecessor that has not joined here is of another part of the ring, and gets what is his from now on
#[test]
fn two_parts_that_meet_hand_over_what_is_the_others() {
    let mut chord = member(100, &[50, 200]);
    chord.handle(at(1), Input::Connected(id(80)));
    give_update(&mut chord, 1, 80, &update(&[50], &[100]));
    let his = Action::Replicate {
        to: id(80),
        after: id(50),
        upto: id(80),
    };
    assert!(actions(&mut chord).contains(&his));
}

// R118, RD73: copies are sent once more when dead links are known everywhere, and sooner where one has not arrived
#[test]
fn copies_are_sent_once_more() {
    let mut chord = member(100, &[50, 200, 300]);
    let again = Action::Replicate {
        to: id(200),
        after: id(50),
        upto: id(100),
    };
    let sent = |chord: &mut Chord, seconds| {
        chord.handle_timeout(at(seconds));
        let all = actions(chord);
        (all.contains(&again), all.contains(&Action::Prune))
    };
    assert_eq!(sent(&mut chord, 59), (false, false));
    assert_eq!(sent(&mut chord, 60), (true, true));
    assert_eq!(sent(&mut chord, 200), (false, false));
    chord.handle(at(200), Input::CopyFailed);
    assert_eq!(sent(&mut chord, 209), (false, false));
    assert_eq!(sent(&mut chord, 210), (true, true));
}
