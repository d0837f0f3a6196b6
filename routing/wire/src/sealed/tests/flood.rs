//! Strangers in numbers (Q6 to Q8, S19): work is counted, not timed.
use super::super::hello::{CookieReply, Hello, Mac1Key};
use super::super::*;
use super::net::*;
use crate::packet::FLAG_AUTH_ERROR;
use crate::{Identity, Packet, Zone};
use rand::Rng;

/// HELLOs with a right mac1 from addresses that exist, and nothing else right.
struct Forger {
    addresses: Vec<Address>,
    mac1: Mac1Key,
    victim: crate::AddressId,
}

impl Forger {
    fn new(victim: &Address, addresses: u16) -> Self {
        let address = |i: u16| {
            let mut scalar = [3; 32];
            scalar[..2].copy_from_slice(&i.to_be_bytes());
            *Identity::from_scalar(Zone(1), &scalar).unwrap().address()
        };
        Self {
            addresses: (0..addresses).map(address).collect(),
            mac1: Mac1Key::new(victim),
            victim: victim.id(),
        }
    }

    fn hello(&self, number: usize, rng: &mut impl Rng) -> Vec<u8> {
        let sender = &self.addresses[number % self.addresses.len()];
        self.hello_of(sender, rng)
    }

    fn hello_of(&self, sender: &Address, rng: &mut impl Rng) -> Vec<u8> {
        let envelope = hello::Envelope {
            flags: 0,
            sender: crate::Party::Full(sender.as_bytes()),
            recipient: self.victim,
            sender_peer: crate::PeerId::ANY,
            recipient_peer: crate::PeerId::ANY,
        };
        let mut packet = envelope.start(kind::HELLO);
        Hello::emit_fixed(&mut packet, rng.next_u32(), Timestamp(rng.next_u64()));
        packet.push(4);
        packet.extend((0..84).map(|_| rng.next_u32() as u8));
        self.mac1.sign(&mut packet, 60);
        rng.fill_bytes(&mut packet[2..10]);
        packet
    }
}

fn hand_from(world: &mut World, endpoint: u32, packet: &[u8]) -> Outcome {
    let now = world.clock(B);
    let mut packet = packet.to_vec();
    let source = Source {
        endpoint: &endpoint.to_be_bytes(),
        network: endpoint.into(),
    };
    world.nodes[B].sessions.handle(now, source, &mut packet)
}

// Q6, Q7, Q8, S19
#[test]
fn a_hundred_thousand_forged_hellos_cost_what_the_budget_says() {
    let mut world = World::new(1);
    world.connect();
    world.run(secs(11));
    let forger = Forger::new(&world.pair(B).address, 300);
    let before = world.nodes[B].sessions.key_agreements();
    let sizes = world.nodes[B].sessions.sizes();
    let mut rng = world.another_rng();
    let mut answers = 0;
    for number in 0..100_000usize {
        if number % 10_000 == 0 {
            world.run(secs(1));
        }
        let packet = forger.hello(number, &mut rng);
        let outcome = hand_from(&mut world, rng.next_u32(), &packet);
        assert!(matches!(outcome, Outcome::Dropped(_)), "{outcome:?}");
        while let Some(transmit) = world.nodes[B].sessions.poll_transmit() {
            assert!(transmit.packet.len() < packet.len(), "S20");
            assert_eq!(kind_of(&transmit.packet), kind::COOKIE);
            answers += 1;
        }
    }
    let limits = &world.nodes[B].config.limits;
    let work = world.nodes[B].sessions.key_agreements() - before;
    let allowed = limits.without_cookie.burst + 10 * limits.without_cookie.per_second;
    assert!(work <= allowed.into(), "{work} agreements in 10 s");
    assert!(work > 100, "the budget was used");
    assert_eq!(
        world.nodes[B].sessions.sizes(),
        sizes,
        "nothing of it is kept"
    );
    assert!(answers > 10_000, "{answers} cookies");

    // What was there goes on, and a stranger with a cookie comes through.
    world.say(A, b"undisturbed");
    world.run(ms(100));
    assert_eq!(world.nodes[B].heard, [b"undisturbed".to_vec()]);
    assert!(
        !world.nodes[B]
            .sessions
            .plain_permitted(&world.pair(A).address, 9, false)
    );
    let now = world.clock(B);
    assert!(
        world.nodes[B].sessions.admit_plain(now),
        "Q7: plain first packets"
    );
}

fn always_cookies() -> Config {
    let mut config = Config::default();
    config.limits.without_cookie = Rate::new(0, 0);
    config
}

// Q8
#[test]
fn under_load_a_hello_comes_again_with_a_cookie_and_nothing_else_changed() {
    let mut world = World::with(2, [Config::default(), always_cookies()]);
    let took = world.connect();
    assert!(took <= ms(150), "{took:?}: three round trips and a half");
    let hellos = world.sent(A, kind::HELLO);
    let cookies = world.sent(B, kind::COOKIE);
    assert_eq!((hellos.len(), cookies.len()), (2, 1));
    let cookie = Packet::new_checked(&cookies[0][..]).unwrap();
    assert_ne!(cookie.flags() & FLAG_AUTH_ERROR, 0);
    assert_eq!(cookie.mac(), [0; 8]);
    let reply = CookieReply::parse(cookie.body()).unwrap();
    assert_eq!(reply.index, hello::be32(&hellos[0], 61));
    let mut expected = hellos[0].clone();
    expected[89..105].copy_from_slice(&reply.cookie);
    expected[2..10].copy_from_slice(&hellos[1][2..10]);
    assert_eq!(hellos[1], expected);
}

// Q8: no agreement, no Noise, no state before the cookie is back
#[test]
fn a_cookie_is_demanded_before_any_work() {
    let mut world = World::with(3, [Config::default(), always_cookies()]);
    world.attacker = Box::new(|flight, _| match kind_of(&flight.packet) {
        kind::COOKIE => Verdict::Drop,
        _ => Verdict::Pass,
    });
    world.start(A, Reason::Traffic);
    world.run(secs(60));
    let sessions = &world.nodes[B].sessions;
    assert_eq!(world.dropped(B, Drop::CookieDemanded), 6);
    assert_eq!(sessions.key_agreements(), 0);
    assert_eq!(sessions.sizes(), [0; 4]);
}

// Q8: bound to the source
#[test]
fn a_cookie_is_no_good_from_another_endpoint() {
    let mut world = World::with(4, [Config::default(), always_cookies()]);
    world.connect();
    let with_cookie = world.sent(A, kind::HELLO)[1].clone();
    let mut world = World::with(4, [Config::default(), always_cookies()]);
    world.start(A, Reason::Traffic);
    world.run(ms(30));
    assert_eq!(
        hand_from(&mut world, 77, &with_cookie),
        Outcome::Dropped(Drop::CookieDemanded)
    );
}

// Q8, S11: its effect is one retry of that HELLO
#[test]
fn a_cookie_without_mac_has_the_effect_of_one_retry() {
    let mut world = World::new(5);
    world.attacker = Box::new(|_, _| Verdict::Drop);
    world.start(A, Reason::Traffic);
    let hello = world.sent(A, kind::HELLO)[0].clone();
    let reply = CookieReply {
        index: hello::be32(&hello, 61),
        cookie: [9; 16],
        stored: Timestamp(u64::MAX),
    };
    let (a, b) = (world.pair(A), world.pair(B));
    let envelope = hello::Envelope {
        flags: FLAG_AUTH_ERROR,
        sender: crate::Party::Full(b.address.as_bytes()),
        recipient: a.address.id(),
        sender_peer: b.peer,
        recipient_peer: a.peer,
    };
    let packet = reply.packet(&envelope);
    let record = world.nodes[A].sessions.record(&b);
    assert_eq!(world.hand(A, &packet), Outcome::Consumed { from: None });
    for _ in 0..50 {
        assert_eq!(world.hand(A, &packet), Outcome::Dropped(Drop::NotExpected));
    }
    assert_eq!(world.sent(A, kind::HELLO).len(), 2);
    assert_eq!(world.nodes[A].sessions.record(&b), record);
    let mut other = packet;
    other[60] ^= 1;
    assert_eq!(world.hand(A, &other), Outcome::Dropped(Drop::NotExpected));
}

// Q7: with a cookie or without, known or not: none starves another
#[test]
fn one_kind_of_hello_does_not_use_up_anothers_budget() {
    let mut config = Config::default();
    config.limits.without_cookie = Rate::new(1, 5);
    let mut world = World::with(6, [Config::default(), config]);
    let a = world.pair(A).address;
    world.nodes[B].sessions.trust(&a);
    let forger = Forger::new(&world.pair(B).address, 50);
    let mut rng = world.another_rng();
    for number in 0..200 {
        let packet = forger.hello(number, &mut rng);
        hand_from(&mut world, rng.next_u32(), &packet);
    }
    assert!(world.dropped(B, Drop::CookieDemanded) > 190);
    // Forged in the name of a trusted address: checked by MAC, and no budget spent.
    let spent = world.nodes[B].sessions.key_agreements();
    for _ in 0..1000 {
        let packet = forger.hello_of(&a, &mut rng);
        assert_eq!(
            hand_from(&mut world, 5, &packet),
            Outcome::Dropped(Drop::Cmac)
        );
    }
    assert_eq!(world.nodes[B].sessions.key_agreements(), spent);
    while world.nodes[B].sessions.poll_transmit().is_some() {}
    let took = world.connect();
    assert!(took <= ms(110), "{took:?}: without a cookie");
    assert!(world.sent(B, kind::COOKIE).is_empty());
}

// Q7: a sender whose agreement is cached has a bucket of its own
#[test]
fn a_known_sender_is_limited_too() {
    let mut world = World::new(7);
    world.attacker = Box::new(|flight, _| match flight.from {
        B => Verdict::Drop,
        _ => Verdict::Pass,
    });
    let key = {
        world.start(A, Reason::Traffic);
        world.key(A)
    };
    for _ in 0..100 {
        let now = world.clock(A);
        world.nodes[A].sessions.end_handshake(key);
        world.nodes[A].sessions.reschedule(key);
        world.nodes[A].sessions.start_peer(now, key, Reason::Rekey);
        world.start(A, Reason::Rekey);
    }
    world.run(ms(30));
    let limit = u64::from(world.nodes[B].config.limits.known.burst);
    assert!(world.nodes[B].sessions.counters().welcomes_sent <= limit + 2);
    assert!(world.dropped(B, Drop::Budget) >= 80);
}

// Q7, S10: tables are bounded, trusted ones stay
#[test]
fn tables_are_bounded_and_the_trusted_keep_their_places() {
    let mut config = Config::default();
    config.limits.peers = 20;
    config.limits.agreements = 20;
    config.limits.unconfirmed = 8;
    config.limits.without_cookie = Rate::new(10_000, 10_000);
    let mut world = World::with(8, [Config::default(), config]);
    let a = world.pair(A);
    world.nodes[B].sessions.trust(&a.address);
    world.connect();
    let victim = world.pair(B);
    for i in 10..60 {
        let stranger = identity(i);
        let rng = Box::new(world.another_rng());
        let mut sessions = Sessions::new(&stranger, Config::default(), rng);
        let now = world.clock(B);
        sessions.start(now, victim, Reason::Traffic);
        let hello = sessions.poll_transmit().unwrap().packet;
        assert_eq!(
            hand_from(&mut world, i.into(), &hello),
            Outcome::Consumed { from: None }
        );
    }
    let [peers, agreements, open, _] = world.nodes[B].sessions.sizes();
    assert!(peers <= 20 && agreements <= 21, "{peers} {agreements}");
    assert!(open <= 8 + 3, "{open}");
    let counters = world.nodes[B].sessions.counters();
    assert!(counters.peers_evicted > 0 && counters.sessions_evicted > 0);
    assert!(counters.agreements_evicted > 0);
    assert!(world.up(B).is_some(), "the trusted peer's session");
    assert!(world.nodes[B].sessions.record(&a).is_some());
}
