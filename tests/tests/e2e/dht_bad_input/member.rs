//! Inside a link: each message that should not be gets its code or nothing; cut and changed ones do no harm.

use super::intruder::{Intruder, resign, sign, signer, store, unix, value};
use super::{OPEN, SOON, World, status};
use anode_routing::dht::reload::body::{
    ChordUpdate, ConnectBody, FindRequest, Membership, PingRequest, Role, TunnelRequest, TypeId,
};
use anode_routing::dht::reload::header::MAX_TTL;
use anode_routing::dht::reload::{Header, Id, Method};
use anode_routing::links::{LinkEvent, Target};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use std::time::Instant;

/// What a member may say, and the code that it gets for it; none where nothing is to be said.
type Case = (&'static str, u64, Vec<u8>, Option<u16>);

fn cases(it: &mut Intruder, other: Id) -> Vec<Case> {
    let mut all: Vec<Case> = Vec::new();
    let (own, stranger) = (signer(it.number), signer(21));
    let node = it.node;
    let now = unix();
    // Stores beside the node's own place, so that it is the one who judges.
    let at = Id::from_number(node.number() - 1);
    let mut case = |it: &mut Intruder, what, to, method, payload: &[u8], code| {
        let (transaction, message) = it.message(to, method, payload);
        all.push((what, transaction, message, code));
    };
    let open = |data| store(at, OPEN, data);
    let good = value(at, &own, &own, b"good".to_vec(), now);
    case(
        it,
        "a good value",
        at,
        Method::Store,
        &open(good.clone()),
        Some(200),
    );
    let old = value(at, &own, &own, b"old".to_vec(), now - 60);
    case(
        it,
        "an older value",
        at,
        Method::Store,
        &open(old),
        Some(412),
    );
    let ahead = value(at, &own, &own, b"ahead".to_vec(), now + 3600);
    case(
        it,
        "a value of the future",
        at,
        Method::Store,
        &open(ahead),
        Some(403),
    );
    let beside = Id::from_number(node.number() - 2);
    let past = value(beside, &own, &own, b"past".to_vec(), now - 7200);
    let past = store(beside, OPEN, past);
    case(
        it,
        "a value that is over",
        beside,
        Method::Store,
        &past,
        Some(403),
    );
    let mut long = value(at, &own, &own, b"long".to_vec(), now + 1);
    long.lifetime = u32::MAX;
    resign(at, &own, &mut long);
    case(
        it,
        "a value for ever",
        at,
        Method::Store,
        &open(long),
        Some(413),
    );
    let large = value(at, &own, &own, vec![b'x'; 4097], now + 1);
    case(
        it,
        "a value of 4,097 bytes",
        at,
        Method::Store,
        &open(large),
        Some(413),
    );
    let foreign = value(at, &own, &stranger, b"mine".to_vec(), now + 1);
    case(
        it,
        "in another's name",
        at,
        Method::Store,
        &open(foreign),
        Some(403),
    );
    let mut forged = value(at, &own, &own, b"mine".to_vec(), now + 1);
    forged.storage_time += 1;
    case(
        it,
        "a broken signature",
        at,
        Method::Store,
        &open(forged),
        Some(401),
    );
    let mut bare = value(at, &own, &own, b"mine".to_vec(), now + 1);
    bare.signature = None;
    case(
        it,
        "no signature",
        at,
        Method::Store,
        &open(bare),
        Some(401),
    );
    let unknown = store(at, TypeId(0x77), good.clone());
    case(
        it,
        "a kind that nobody knows",
        at,
        Method::Store,
        &unknown,
        Some(415),
    );
    let body = Membership {
        peer: other,
        data: Vec::new(),
    };
    case(
        it,
        "JOIN for another",
        node,
        Method::Join,
        &body.emit(),
        Some(403),
    );
    case(
        it,
        "LEAVE for another",
        node,
        Method::Leave,
        &body.emit(),
        Some(403),
    );
    let tunnel = TunnelRequest {
        application: 1,
        dialog: "d".into(),
        pdu: vec![1; 300],
    };
    let tunnel = tunnel.emit().expect("short");
    case(
        it,
        "TUNNEL to nobody",
        node,
        Method::Tunnel,
        &tunnel,
        Some(404),
    );
    case(it, "FETCH of nothing", node, Method::Fetch, &[], Some(400));
    case(
        it,
        "FIND in pieces",
        node,
        Method::Find,
        &[9; 19],
        Some(400),
    );
    case(
        it,
        "UPDATE in pieces",
        node,
        Method::Update,
        &[9; 19],
        Some(400),
    );
    let header = it.header(node);
    let contents = it.signed(header.transaction, 21, &[]);
    let message = header.emit(&contents).expect("short");
    all.push(("a method 21", header.transaction, message, Some(400)));
    for (what, change, code) in special() {
        let mut header = it.header(node);
        let ping = PingRequest::default().emit().expect("short");
        let contents = it.signed(header.transaction, Method::Ping as u16, &ping);
        change(&mut header, other);
        let message = header.emit(&contents).expect("lists");
        all.push((what, header.transaction, message, code));
    }
    all
}

/// What is done to a header, and with what code it is answered.
type Special = (&'static str, fn(&mut Header, Id), Option<u16>);

/// PINGs with headers that nobody should write.
fn special() -> Vec<Special> {
    vec![
        (
            "another transaction than is signed",
            |it, _| it.transaction += 1 << 60,
            Some(401),
        ),
        ("another overlay", |it, _| it.overlay += 1, Some(498)),
        ("another version", |it, _| it.version = 0x7f, Some(498)),
        ("a TTL above all", |it, _| it.ttl = 255, None),
        ("a TTL one above", |it, _| it.ttl = MAX_TTL + 1, None),
        (
            "a TTL that is over",
            |it, other| (it.ttl, it.route) = (0, vec![other]),
            Some(483),
        ),
        (
            "a full via list",
            |it, _| it.via = vec![Id::from_number(5); 255],
            None,
        ),
        // The answer takes the way that the request has come, whatever that says of itself.
        (
            "a forged via list",
            |it, other| it.via = vec![other; 9],
            Some(200),
        ),
        (
            "a route through itself",
            |it, _| it.route = vec![it.route[0]; 255],
            Some(200),
        ),
    ]
}

/// A message with the length that it has, so that the link delivers it.
fn lengthen(bytes: &mut [u8]) {
    let length = (bytes.len() as u32).to_be_bytes();
    if let Some(place) = bytes.get_mut(13..16) {
        place.copy_from_slice(&length[1..]);
    }
}

// S35, R25, R49, R75, R139, RD9, RD39, RD47, RD48, RD74: each gets its code or nothing, over DTLS and over TLS; then every
// message is cut at every length and changed at every place
#[test]
fn a_member_that_says_what_it_should_not() {
    let Some(mut world) = World::start() else {
        return;
    };
    let before = world.keep();
    let target = world.target();
    let other = status(&world.nodes[1])["node"].as_str().map(str::to_owned);
    let other = u128::from_str_radix(&other.expect("an id"), 16).expect("hex");
    let mut rng = StdRng::seed_from_u64(2);
    for (number, target) in [(20, Target::Dtls(target)), (30, Target::Tls(target))] {
        let mut intruder = Intruder::new(&world, number, target);
        let cases = cases(&mut intruder, Id::from_number(other));
        let mut wrong = Vec::new();
        for (what, transaction, message, code) in &cases {
            intruder.say(message);
            let said = match code {
                Some(_) => intruder.answer_within(*transaction, SOON),
                None => {
                    intruder.pings();
                    intruder.answers.get(transaction).copied()
                }
            };
            if said != *code {
                wrong.push((what, said, code));
            }
        }
        assert!(wrong.is_empty(), "{wrong:?}");
        let connect = ConnectBody::sealed(Role::Passive).emit().expect("short");
        let update = ChordUpdate {
            predecessors: vec![Id::from_number(3); 15],
            successors: vec![Id::from_number(4); 15],
        };
        let find = FindRequest {
            resource: intruder.node,
            kinds: vec![OPEN],
        };
        let mut samples: Vec<Vec<u8>> = [0, 10, 12]
            .map(|place: usize| cases[place].2.clone())
            .into();
        let node = intruder.node;
        for (method, body) in [
            (Method::Connect, connect),
            (Method::Find, find.emit().expect("short")),
        ] {
            samples.push(intruder.message(node, method, &body).1);
        }
        // Whoever this is, it is not he whose link this is: the ring stays what it is.
        let header = intruder.header(node);
        let update = update.emit().expect("short");
        let method = Method::Update as u16;
        let contents = sign(&signer(21), header.transaction, method, &update);
        samples.push(header.emit(&contents).expect("short"));
        let mut said = 0;
        for sample in &samples {
            for length in 0..sample.len() {
                let mut cut = sample[..length].to_vec();
                lengthen(&mut cut);
                // A stream must be RELOAD to go on: over it, whoever says less than a head is not understood at all.
                let sendable = length >= 28 || matches!(target, Target::Dtls(_));
                let mut changed = sample.clone();
                changed[length] ^= rng.random_range(1..=255u8);
                if sendable {
                    intruder.say(&cut);
                }
                // Each of these costs the node a signature to check: over TLS, where all is the same above the link, a few do.
                let often = matches!(target, Target::Dtls(_)) || length % 5 == 0;
                if often && !(0..4).contains(&length) && !(13..16).contains(&length) {
                    intruder.say(&changed);
                }
                said += 2;
                if said % 256 == 0 {
                    intruder.pings();
                }
            }
        }
        intruder.pings();
        println!(
            "{said} cut and changed messages, {} answers",
            intruder.heard
        );
        assert!(intruder.heard < 2 * said, "nobody is answered twice");
        if matches!(target, Target::Tls(_)) {
            // What is not RELOAD ends a stream.
            intruder.say(b"GET / HTTP/1.1\r\nHost: node\r\n\r\n");
            let end = Instant::now() + SOON;
            let down = |event: &LinkEvent| matches!(event, LinkEvent::Down { .. });
            while !intruder.turn().iter().any(down) {
                assert!(Instant::now() < end, "the link stands");
            }
        }
    }
    world.unharmed(before);
}
