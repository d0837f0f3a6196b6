//! Conversations of applications.
use super::*;

/// What a node has heard in its conversations, without who began them.
fn units(net: &Net, n: usize) -> Vec<&[u8]> {
    let of = net.heard.iter().filter(|(node, ..)| *node == n);
    of.filter_map(|(_, _, heard)| match heard {
        Heard::Unit(unit) => Some(unit.as_slice()),
        _ => None,
    })
    .collect()
}

/// A ring of peers, some of which serve applications.
fn serving(count: usize, served: &[(usize, u16)]) -> Net {
    let mut net = Net::new();
    net.served = served.to_vec();
    net.add(true, Role::Peer, &[]);
    for _ in 1..count {
        net.add(false, Role::Peer, &[0]);
        net.run(Duration::from_secs(3));
    }
    net.run(Duration::from_secs(20));
    net
}

// R61 to R63, R133, R134: a short conversation is tunnelled, a long one has a connection, and answers find their way
#[test]
fn an_application_is_tunnelled_and_then_connected() {
    let mut net = serving(5, &[(3, 5060)]);
    let callee = Callee::Route(vec![net.nodes[3].id()]);
    let now = net.now();
    let call = net.nodes[1].open(now, 5060, &callee).unwrap();
    assert_eq!(net.nodes[1].open(now, 5060, &callee), Some(call));
    let mut answered = None;
    for n in 0..12u8 {
        let now = net.now();
        net.nodes[1].say(now, call, vec![n; 10]);
        net.drain(1);
        net.run(Duration::from_millis(500));
        let (_, theirs, _) = net.heard.iter().find(|(node, ..)| *node == 3).unwrap();
        answered = Some(*theirs);
        let (now, theirs) = (net.now(), *theirs);
        net.nodes[3].say(now, theirs, vec![100 + n; 10]);
        net.drain(3);
        net.run(Duration::from_millis(500));
    }
    assert!(matches!(
        net.heard[0],
        (3, _, Heard::Begun { application: 5060, peer }) if peer == net.nodes[1].id()
    ));
    let said: Vec<Vec<u8>> = (0..12).map(|n| vec![n; 10]).collect();
    assert_eq!(units(&net, 3), said);
    assert_eq!(units(&net, 1).len(), 12);
    for node in [1, 3] {
        let counters = net.nodes[node].application_counters();
        assert!(
            counters.tunnelled >= 4 && counters.connected >= 10,
            "{counters:?}"
        );
        assert_eq!(counters.lost, 0);
    }
    // What is too long for a session goes in a tunnel, whole.
    let before = net.nodes[1].application_counters().tunnelled;
    let now = net.now();
    net.nodes[1].say(now, call, vec![7; 30_000]);
    net.drain(1);
    net.run(Duration::from_secs(2));
    assert_eq!(units(&net, 3).last(), Some(&&[7; 30_000][..]));
    assert_eq!(net.nodes[1].application_counters().tunnelled, before + 1);
    // Nobody says anything: both forget it.
    net.run(Duration::from_secs(200));
    let over = (1, call, Heard::Over(Ended::Idle));
    assert!(net.heard.contains(&over));
    let over = (3, answered.unwrap(), Heard::Over(Ended::Idle));
    assert!(net.heard.contains(&over));
}

// RD34: who does not serve an application says so; R8: a client is answered by way of its access
#[test]
fn an_application_that_nobody_serves_is_refused_and_clients_are_answered() {
    let mut net = Net::new();
    net.served.push((2, 9));
    for n in 0..4 {
        let bootstrap: &[usize] = if n == 0 { &[] } else { &[0] };
        net.add(n == 0, Role::Peer, bootstrap);
        net.run(Duration::from_secs(3));
    }
    let client = net.add(false, Role::Client, &[1]);
    net.run(Duration::from_secs(20));
    let to = |n: usize, net: &Net| Callee::Route(vec![net.nodes[n].id()]);
    let (served, other) = (to(2, &net), to(3, &net));
    let now = net.now();
    let good = net.nodes[client].open(now, 9, &served).unwrap();
    let bad = net.nodes[client].open(now, 9, &other).unwrap();
    net.nodes[client].say(now, good, b"there?".to_vec());
    net.nodes[client].say(now, bad, b"there?".to_vec());
    net.drain(client);
    net.run(Duration::from_secs(3));
    assert!(
        net.heard
            .contains(&(client, bad, Heard::Over(Ended::NotServed)))
    );
    assert_eq!(units(&net, 2), [b"there?"]);
    let (_, theirs, _) = net.heard.iter().find(|(node, ..)| *node == 2).unwrap();
    let theirs = *theirs;
    let now = net.now();
    net.nodes[2].say(now, theirs, b"here".to_vec());
    net.drain(2);
    net.run(Duration::from_secs(3));
    assert_eq!(units(&net, client), [b"here"]);
}

// R132: whoever has an anonymous GRUU calls without knowing whom, from anywhere in the ring, and is answered
#[test]
fn an_anonymous_gruu_leads_to_a_conversation() {
    let mut net = serving(8, &[(3, 5060)]);
    net.run(Duration::from_secs(40));
    assert_eq!(net.nodes[2].status().anonymous_gruu, None);
    let gruu = net.nodes[3].status().anonymous_gruu.expect("it serves");
    let route = anode_reload::usage::sip::parse_gruu(&gruu).unwrap();
    assert!(!route.contains(&net.nodes[3].id()));
    for caller in [1, 6] {
        net.heard.clear();
        let now = net.now();
        let callee = Callee::Anonymous(route.clone());
        let call = net.nodes[caller].open(now, 5060, &callee).unwrap();
        net.nodes[caller].say(now, call, b"who is there?".to_vec());
        net.drain(caller);
        net.run(Duration::from_secs(3));
        assert_eq!(units(&net, 3), [b"who is there?"]);
        let (_, theirs, _) = net.heard.iter().find(|(node, ..)| *node == 3).unwrap();
        let (now, theirs) = (net.now(), *theirs);
        net.nodes[3].say(now, theirs, b"nobody".to_vec());
        net.drain(3);
        net.run(Duration::from_secs(3));
        assert_eq!(units(&net, caller), [b"nobody"]);
        // It goes on with a connection, like any other.
        for n in 0..6u8 {
            let now = net.now();
            net.nodes[caller].say(now, call, vec![n]);
            net.drain(caller);
            net.run(Duration::from_secs(2));
        }
        assert_eq!(units(&net, 3).len(), 7);
        assert!(net.nodes[caller].application_counters().connected > 0);
    }
}

/// Eight nodes, of which one serves an application, and the anonymous route to it.
fn anonymous_ring() -> (Net, Vec<Id>) {
    let mut net = serving(8, &[(3, 5060)]);
    net.run(Duration::from_secs(40));
    let gruu = net.nodes[3].status().anonymous_gruu.expect("it serves");
    let route = anode_reload::usage::sip::parse_gruu(&gruu).unwrap();
    (net, route)
}

/// The code of a response, of a message that is whole.
fn is_response(body: &[u8]) -> bool {
    let contents = anode_reload::Header::parse(body).map(|(_, contents)| contents);
    contents.is_ok_and(|contents| contents.first().is_some_and(|byte| byte & 0x80 != 0))
}

// R132, R134: application and peer name a conversation, whatever way the peer was found: what is said along an anonymous route
// goes on in the conversation that there is with whoever is at its end, and the answer comes out there
#[test]
fn an_anonymous_call_to_a_known_peer_goes_on_in_its_conversation() {
    let (mut net, route) = anonymous_ring();
    let now = net.now();
    let named = Callee::Route(vec![net.nodes[3].id()]);
    let named = net.nodes[1].open(now, 5060, &named).unwrap();
    net.nodes[1].say(now, named, b"by name".to_vec());
    let call = net.nodes[1]
        .open(now, 5060, &Callee::Anonymous(route))
        .unwrap();
    assert_ne!(call, named);
    for unit in [b"one", b"two"] {
        net.nodes[1].say(now, call, unit.to_vec());
    }
    net.drain(1);
    net.run(Duration::from_secs(3));
    assert_eq!(units(&net, 3), [&b"by name"[..], b"one", b"two"]);
    let same = net
        .heard
        .iter()
        .filter(|it| **it == (1, call, Heard::Same(named)));
    assert_eq!(same.count(), 1, "{:?}", net.heard);
    let began = |heard: &Heard| matches!(heard, Heard::Begun { .. });
    let theirs: Vec<ConversationId> = net
        .heard
        .iter()
        .filter(|(_, _, it)| began(it))
        .map(|it| it.1)
        .collect();
    assert_eq!(theirs.len(), 1, "the other side has one, too");
    let now = net.now();
    net.nodes[3].say(now, theirs[0], b"to both".to_vec());
    net.drain(3);
    net.run(Duration::from_secs(3));
    assert!(
        net.heard
            .contains(&(1, named, Heard::Unit(b"to both".to_vec())))
    );
    // The other one is no more, and whoever still means it is told.
    let now = net.now();
    net.nodes[1].say(now, call, b"three".to_vec());
    net.drain(1);
    assert!(net.heard.contains(&(1, call, Heard::Over(Ended::Idle))));
}

// R61, R132: the confirmation of the first unit is lost, so that the answer comes before it is known who gives it
#[test]
fn an_answer_before_the_confirmation_waits_for_it() {
    let (mut net, route) = anonymous_ring();
    let now = net.now();
    let call = net.nodes[1]
        .open(now, 5060, &Callee::Anonymous(route))
        .unwrap();
    let mut lost = 0;
    net.loses = Some(Box::new(move |from, _, body| {
        lost += usize::from(from == 3 && is_response(body));
        from == 3 && is_response(body) && lost == 1
    }));
    net.nodes[1].say(now, call, b"who is there?".to_vec());
    net.drain(1);
    net.run(Duration::from_millis(200));
    let (_, theirs, _) = net.heard.iter().find(|(node, ..)| *node == 3).unwrap();
    let (now, theirs) = (net.now(), *theirs);
    net.nodes[3].say(now, theirs, b"nobody".to_vec());
    net.drain(3);
    net.run(Duration::from_millis(200));
    assert!(units(&net, 1).is_empty(), "not known yet");
    net.run(Duration::from_secs(2));
    assert_eq!(units(&net, 1), [b"nobody"]);
    assert_eq!(net.nodes[1].application_counters().lost, 0);
    // A stranger's unit waits for nobody.
    let now = net.now();
    let stranger = Callee::Route(vec![net.nodes[1].id()]);
    let theirs = net.nodes[5].open(now, 5060, &stranger).unwrap();
    net.nodes[5].say(now, theirs, b"hello".to_vec());
    net.drain(5);
    net.run(Duration::from_secs(2));
    assert_eq!(units(&net, 1), [b"nobody"]);
    assert_eq!(net.nodes[1].application_counters().lost, 1);
}

// R132: until somebody has answered, units wait, a bounded number; then they are said, in their order. Where nobody answers,
// each is another attempt, and all are counted
#[test]
fn the_first_units_to_an_anonymous_peer_wait_until_it_is_met() {
    let (mut net, route) = anonymous_ring();
    let callee = Callee::Anonymous(route);
    let now = net.now();
    let call = net.nodes[1].open(now, 5060, &callee).unwrap();
    for n in 0..68u8 {
        net.nodes[1].say(now, call, vec![n]);
    }
    assert_eq!(net.nodes[1].application_counters().tunnelled, 1);
    assert_eq!(net.nodes[1].application_counters().lost, 3);
    net.drain(1);
    net.run(Duration::from_secs(3));
    let said: Vec<Vec<u8>> = (0..65).map(|n| vec![n]).collect();
    assert_eq!(units(&net, 3), said);
    // Nobody is there any more.
    net.dead.insert(3);
    let now = net.now();
    let call = net.nodes[6].open(now, 5060, &callee).unwrap();
    for n in 0..3u8 {
        net.nodes[6].say(now, call, vec![n]);
    }
    net.drain(6);
    net.run(Duration::from_secs(12));
    let counters = net.nodes[6].application_counters();
    assert!((1..=3).contains(&counters.lost), "{counters:?}");
    net.run(Duration::from_secs(60));
    assert_eq!(net.nodes[6].application_counters().lost, 3);
}

// R8, R26, R30, RD15: two that have no link, and can have none, speak by way of others, wherever on the ring they are: as neighbours
// each takes the other's place for its own
#[test]
fn two_that_cannot_reach_each_other_speak_by_way_of_others() {
    let pairs = |count: usize| (1..count).flat_map(move |a| (1..count).map(move |b| (a, b)));
    for (count, (a, b)) in (3..=4).flat_map(|count| pairs(count).map(move |it| (count, it))) {
        if a == b {
            continue;
        }
        let mut net = Net::new();
        net.served.push((b, 5060));
        net.loses = Some(Box::new(move |from, to, _| {
            (from, to) == (a, b) || (from, to) == (b, a)
        }));
        net.add(true, Role::Peer, &[]);
        for _ in 1..count {
            net.add(false, Role::Peer, &[0]);
            net.run(Duration::from_secs(3));
        }
        net.run(Duration::from_secs(120));
        let callee = Callee::Route(vec![net.nodes[b].id()]);
        let now = net.now();
        let call = net.nodes[a].open(now, 5060, &callee).unwrap();
        net.nodes[a].say(now, call, b"there?".to_vec());
        net.drain(a);
        net.run(Duration::from_secs(10));
        assert_eq!(units(&net, b), [b"there?"], "{a} to {b} of {count}");
        let (_, theirs, _) = net.heard.iter().find(|(node, ..)| *node == b).unwrap();
        let (now, theirs) = (net.now(), *theirs);
        net.nodes[b].say(now, theirs, b"here".to_vec());
        net.drain(b);
        net.run(Duration::from_secs(10));
        assert_eq!(units(&net, a), [b"here"], "{b} to {a} of {count}");
    }
}

// RD15, RD34: whoever is not there is not there; what was confirmed once is not over because of a moment in which the ring takes
// another one for it
#[test]
fn a_peer_that_is_gone_ends_only_what_it_never_confirmed() {
    let mut net = serving(5, &[(3, 5060)]);
    let callee = Callee::Route(vec![net.nodes[3].id()]);
    let now = net.now();
    let known = net.nodes[1].open(now, 5060, &callee).unwrap();
    net.nodes[1].say(now, known, b"there?".to_vec());
    net.drain(1);
    net.run(Duration::from_secs(2));
    net.dead.insert(3);
    net.run(Duration::from_secs(60));
    let now = net.now();
    let never = net.nodes[2].open(now, 5060, &callee).unwrap();
    net.nodes[1].say(now, known, b"and now?".to_vec());
    net.nodes[2].say(now, never, b"there?".to_vec());
    net.drain(1);
    net.drain(2);
    net.run(Duration::from_secs(30));
    assert!(
        net.heard
            .contains(&(2, never, Heard::Over(Ended::NotServed)))
    );
    let over = |it: &(usize, ConversationId, Heard)| it.0 == 1 && matches!(it.2, Heard::Over(_));
    assert!(!net.heard.iter().any(over), "{:?}", net.heard);
    assert_eq!(net.nodes[1].application_counters().lost, 1);
}

// R131: units on the way to one place of a user that is gone all reach the next place
#[test]
fn what_was_said_to_a_place_that_is_gone_goes_to_the_next_one() {
    let mut net = serving(6, &[(2, 5060), (4, 5060)]);
    let [gone, next] = [2, 4].map(|n: usize| vec![net.nodes[n].id()]);
    let now = net.now();
    let callee = Callee::Route(gone.clone());
    let call = net.nodes[1].open(now, 5060, &callee).unwrap();
    net.nodes[1].applications.set_routes(call, [gone, next]);
    net.dead.insert(2);
    let said = [b"a", b"b", b"c"];
    for unit in said {
        net.nodes[1].say(now, call, unit.to_vec());
    }
    net.drain(1);
    net.run(Duration::from_secs(60));
    let mut heard = units(&net, 4);
    heard.sort_unstable();
    assert_eq!(heard, said);
    assert_eq!(net.nodes[1].application_counters().lost, 0);
}
