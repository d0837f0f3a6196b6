use super::super::{Kind, Protocol, TcpRole};
use super::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use std::net::TcpListener;
use std::time::Duration;

fn side(seed: u64) -> Sessions {
    let endpoint = Endpoint::open(&["127.0.0.1:0".parse().unwrap()]).unwrap();
    Sessions::new(endpoint, Box::new(StdRng::seed_from_u64(seed)))
}

// Connections of others take ports for TCP alone: of the kernel's choice for UDP, some are no choice.
#[test]
fn any_port_is_one_that_is_free_for_both() {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let taken: Vec<_> = (0..600).map(|_| TcpListener::bind(any).unwrap()).collect();
    for _ in 0..600 {
        let endpoint = Endpoint::open(&[any]).unwrap();
        let at = endpoint.addresses().next().unwrap();
        let is_taken = taken.iter().any(|tcp| tcp.local_addr().unwrap() == at);
        assert!(!is_taken, "{at} is somebody else's for TCP");
    }
}

/// Lets both work until it is so, or 20 s are over.
fn until(
    a: &mut Sessions,
    b: &mut Sessions,
    mut so: impl FnMut(&mut Sessions, &mut Sessions) -> bool,
) -> bool {
    let end = Instant::now() + Duration::from_secs(20);
    while Instant::now() < end {
        let soon = Instant::now() + Duration::from_millis(5);
        a.wait(soon);
        b.wait(soon);
        if so(a, b) {
            return true;
        }
    }
    false
}

fn selected(sessions: &mut Sessions, into: &mut Option<(SessionId, Path)>) -> bool {
    while let Some(event) = sessions.poll_event() {
        match event {
            Event::Selected { session, path } => *into = Some((session, path)),
            other => panic!("{other:?}"),
        }
    }
    into.is_some()
}

fn connect(preference: Preference) -> (Sessions, Sessions, (SessionId, Path), (SessionId, Path)) {
    let (mut a, mut b) = (side(1), side(2));
    let (of_a, of_b) = (
        a.begin(Role::Controlling, preference).unwrap(),
        b.begin(Role::Controlled, preference).unwrap(),
    );
    let offer = a.describe(of_a).unwrap().clone();
    let answer = b.describe(of_b).unwrap().clone();
    b.start(Instant::now(), of_b, &offer).unwrap();
    a.start(Instant::now(), of_a, &answer).unwrap();
    let (mut at_a, mut at_b) = (None, None);
    let both = |a: &mut Sessions, b: &mut Sessions| selected(a, &mut at_a) & selected(b, &mut at_b);
    assert!(until(&mut a, &mut b, both));
    (a, b, at_a.unwrap(), at_b.unwrap())
}

// R93, R95, R96, R103: full ICE over UDP and TCP; what is preferred is chosen
#[test]
fn two_sessions_find_the_pair_that_they_prefer() {
    for (preference, protocol) in [
        (Preference::Udp, Protocol::Udp),
        (Preference::Tcp, Protocol::Tcp),
    ] {
        let (mut a, mut b, (_, at_a), (session, at_b)) = connect(preference);
        assert_eq!((at_a.protocol, at_b.protocol), (protocol, protocol));
        // R107: what comes after belongs to the session
        assert!(a.send(Instant::now(), at_a, b"\x80 hello"));
        let mut heard = None;
        assert!(until(&mut a, &mut b, |_, b| {
            heard = heard.take().or_else(|| b.poll_data());
            heard.is_some()
        }));
        let heard = heard.unwrap();
        assert_eq!(heard.session, Some(session));
        assert_eq!(heard.bytes, b"\x80 hello");
        assert!(b.send(Instant::now(), heard.path, b"\x80 and back"));
        let mut heard = None;
        assert!(until(&mut a, &mut b, |a, _| {
            heard = heard.take().or_else(|| a.poll_data());
            heard.is_some()
        }));
        assert_eq!(heard.unwrap().bytes, b"\x80 and back");
    }
}

// Whoever answers begins at once: its checks are there before its answer is
#[test]
fn checks_that_come_before_the_answer_are_no_loss() {
    let (mut a, mut b) = (side(1), side(2));
    let of_a = a.begin(Role::Controlling, Preference::Udp).unwrap();
    let of_b = b.begin(Role::Controlled, Preference::Udp).unwrap();
    let offer = a.describe(of_a).unwrap().clone();
    b.start(Instant::now(), of_b, &offer).unwrap();
    let soon = Instant::now() + Duration::from_millis(500);
    until(&mut a, &mut b, |_, _| Instant::now() >= soon);
    let answer = b.describe(of_b).unwrap().clone();
    a.start(Instant::now(), of_a, &answer).unwrap();
    let (mut at_a, mut at_b) = (None, None);
    let begun = Instant::now();
    assert!(until(&mut a, &mut b, |a, b| {
        selected(a, &mut at_a) & selected(b, &mut at_b)
    }));
    assert!(begun.elapsed() < Duration::from_secs(10));
}

// R95: at least one UDP and one TCP host candidate
#[test]
fn both_kinds_of_host_candidates_are_told() {
    let side = side(1);
    let all = side.candidates(Preference::Tcp);
    let has = |protocol, tcp| {
        let fits =
            |it: &&Candidate| it.kind == Kind::Host && it.protocol == protocol && it.tcp == tcp;
        all.iter().any(|it| fits(&it))
    };
    assert!(has(Protocol::Udp, None));
    assert!(has(Protocol::Tcp, Some(TcpRole::Passive)));
    assert!(has(Protocol::Tcp, Some(TcpRole::Active)));
}

#[test]
fn who_does_not_know_the_passwords_proves_nothing() {
    let (mut a, mut b) = (side(1), side(2));
    let of_a = a.begin(Role::Controlling, Preference::Udp).unwrap();
    let of_b = b.begin(Role::Controlled, Preference::Udp).unwrap();
    let mut offer = a.describe(of_a).unwrap().clone();
    let mut answer = b.describe(of_b).unwrap().clone();
    (offer.password, answer.password) = ("y".repeat(24), "x".repeat(24));
    b.start(Instant::now(), of_b, &offer).unwrap();
    a.start(Instant::now(), of_a, &answer).unwrap();
    let end = Instant::now() + Duration::from_secs(1);
    while Instant::now() < end {
        a.wait(end);
        b.wait(Instant::now() + Duration::from_millis(5));
        assert_eq!(b.poll_event(), None);
    }
    let at_b = b.endpoint().addresses().next().unwrap();
    let at_a = a.endpoint().addresses().next().unwrap();
    let path = Path {
        protocol: Protocol::Udp,
        local: at_a,
        remote: at_b,
    };
    a.send(Instant::now(), path, b"\x80 a stranger's");
    let mut heard = None;
    assert!(until(&mut a, &mut b, |_, b| {
        heard = heard.take().or_else(|| b.poll_data());
        heard.is_some()
    }));
    assert_eq!(heard.unwrap().session, None);
}

#[test]
fn descriptions_that_lead_nowhere_are_refused() {
    let mut side = side(1);
    let good = Description {
        ufrag: "four".into(),
        password: "x".repeat(22),
        candidates: vec!["candidate:1 1 UDP 1 127.0.0.1 9 typ host".parse().unwrap()],
    };
    let mut cases = Vec::new();
    for (ufrag, password) in [("abc", 22), ("four", 21), ("four", 257)] {
        let bad = Description {
            ufrag: ufrag.into(),
            password: "x".repeat(password),
            ..good.clone()
        };
        cases.push((bad, IceError::Credentials));
    }
    for at in [
        "224.0.0.1 9",
        "255.255.255.255 9",
        "0.0.0.0 9",
        "fda0::1 9",
        "fe80::1 9",
        "::ffff:127.0.0.1 9",
        "2001:db8::1 9",
    ] {
        let bad = Description {
            candidates: vec![
                format!("candidate:1 1 UDP 1 {at} typ host")
                    .parse()
                    .unwrap(),
            ],
            ..good.clone()
        };
        cases.push((bad, IceError::NoCandidate));
    }
    for (bad, why) in cases {
        let session = side.begin(Role::Controlled, Preference::Udp).unwrap();
        assert_eq!(
            side.start(Instant::now(), session, &bad),
            Err(why),
            "{bad:?}"
        );
        assert!(side.describe(session).is_none(), "it is forgotten");
    }
}

#[test]
fn sessions_and_strangers_connections_are_bounded() {
    let mut side = side(1);
    for _ in 0..MAX_SESSIONS {
        side.begin(Role::Controlled, Preference::Udp).unwrap();
    }
    let one_more = side.begin(Role::Controlled, Preference::Udp);
    assert_eq!(one_more, Err(IceError::Full));
    let at = side.endpoint().addresses().next().unwrap();
    let mut open = Vec::new();
    for _ in 0..80 {
        open.push(std::net::TcpStream::connect(at).unwrap());
        side.wait(Instant::now() + Duration::from_millis(1));
    }
    let refused = || side.endpoint().counters().streams_refused;
    assert_eq!(refused(), 80 - 64);
    // The oldest have made room for the others.
    for (number, stream) in open.iter_mut().enumerate() {
        stream.set_nonblocking(true).unwrap();
        let open = std::io::Read::read(stream, &mut [0; 1]).is_err();
        assert_eq!(open, number >= 80 - 64, "{number}");
    }
}

// R97: everybody's sockets answer like a STUN server; the answer is a candidate when it differs
#[test]
fn strangers_learn_how_they_are_seen() {
    let (mut a, mut b) = (side(1), side(2));
    let server = b.endpoint().addresses().next().unwrap();
    a.gather(Instant::now(), &[server], &[]);
    assert!(!a.endpoint().is_gathered());
    assert!(until(&mut a, &mut b, |a, _| a.endpoint().is_gathered()));
    assert_eq!(b.endpoint().counters().bindings_answered, 1);
    let reflexive = |it: &Candidate| it.kind == Kind::ServerReflexive;
    assert!(!a.candidates(Preference::Udp).iter().any(reflexive));
}

#[test]
fn any_bytes_do_no_harm() {
    let mut side = side(1);
    let session = side.begin(Role::Controlled, Preference::Udp).unwrap();
    let ufrag = side.describe(session).unwrap().ufrag.clone();
    let at = side.endpoint().addresses().next().unwrap();
    let path = Path {
        protocol: Protocol::Udp,
        local: at,
        remote: "127.0.0.1:9".parse().unwrap(),
    };
    let header = |kind: u16, body: &[u8]| {
        let length = (body.len() as u16).to_be_bytes();
        let cookie = 0x2112_A442_u32.to_be_bytes();
        [&kind.to_be_bytes()[..], &length, &cookie, &[7; 12], body].concat()
    };
    let name = format!("{ufrag}:abcd");
    let mut rng = StdRng::seed_from_u64(3);
    for round in 0..20_000_u32 {
        let mut body = vec![0; (round % 40) as usize * 4];
        rand::Rng::fill_bytes(&mut rng, &mut body);
        // Attributes that are near to good ones.
        for (place, chunk) in body.chunks_mut(8).enumerate() {
            let kinds = [0x06, 0x08, 0x20, 0x24, 0x25, 0x09, 0x8029, 0x802A, 0x8028];
            let kind: u16 = kinds[(round as usize + place) % kinds.len()];
            if chunk.len() == 8 {
                chunk[..2].copy_from_slice(&kind.to_be_bytes());
                chunk[2..4].copy_from_slice(&(round as u16 % 12).to_be_bytes());
            }
        }
        let kind = [0x001, 0x101, 0x111, 0x011, 0x003, 0x016][round as usize % 6];
        side.handle(Instant::now(), path, header(kind, &body));
    }
    // A request with the right name and no integrity.
    let padded = name.len().next_multiple_of(4);
    let mut body = [
        &[0, 6][..],
        &(name.len() as u16).to_be_bytes(),
        name.as_bytes(),
    ]
    .concat();
    body.resize(4 + padded, 0);
    body.extend([0, 0x24, 0, 4, 0, 0, 0, 1]);
    for cut in 0..body.len() / 4 {
        side.handle(Instant::now(), path, header(0x001, &body[..cut * 4]));
    }
    assert_eq!(side.poll_event(), None);
}
