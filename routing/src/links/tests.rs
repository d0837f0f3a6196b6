use super::*;
use crate::ice::{Endpoint, RelayServer};
use anode_reload::security::{Certificate, certificate_request};
use anode_reload::security::{CredentialServer, LinkCredentials, Policy, SigningRequest};
use anode_wire::{Identity, PeerId, Zone};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use secret::unix;
use zeroize::Zeroizing;

const OVERLAY: &str = "a--0000002a.net";

fn identity(number: u8) -> Identity {
    Identity::from_scalar(Zone::default(), &scalar(number)).unwrap()
}

fn scalar(number: u8) -> [u8; 32] {
    let mut scalar = [0; 32];
    scalar[31] = number;
    scalar
}

fn policy(overlay: &str) -> Policy {
    Policy {
        overlay: overlay.to_owned(),
        self_signed: true,
        ..Policy::default()
    }
}

fn self_made(number: u8, overlay: &str) -> LinkSecurity {
    let made = LinkCredentials::self_made(
        &identity(number),
        PeerId::ANY,
        policy(overlay),
        [number; 16],
        unix(),
    );
    LinkSecurity::certificates(made.unwrap()).unwrap()
}

/// With a certificate that `server` issues, and believing `roots`.
fn issued(number: u8, server: &CredentialServer, roots: Vec<Certificate>) -> LinkSecurity {
    let valid = (unix() - 10, unix() + 1000);
    certified(number, certificate(number, number, server, valid), roots)
}

/// The certificate of a machine: `serial` is for the numbers in it, the place on the ring is always the same.
fn certificate(
    number: u8,
    serial: u8,
    server: &CredentialServer,
    valid: (u64, u64),
) -> Certificate {
    let request = certificate_request(&scalar(number), &[]).unwrap();
    let request = SigningRequest::from_der(&request).unwrap();
    let mut rng = StdRng::seed_from_u64(serial.into());
    let peer = Id::of_seed(&[number]);
    server.renew(&request, &[], peer, valid, &mut rng).unwrap()
}

fn certified(number: u8, certificate: Certificate, roots: Vec<Certificate>) -> LinkSecurity {
    let policy = Policy {
        overlay: OVERLAY.to_owned(),
        roots,
        ..Policy::default()
    };
    let made = LinkCredentials::certified(&identity(number), certificate, policy);
    LinkSecurity::certificates(made.unwrap()).unwrap()
}

fn server(number: u8) -> CredentialServer {
    let valid = (unix() - 1000, unix() + 10_000);
    CredentialServer::new(&scalar(number), OVERLAY, valid).unwrap()
}

fn shared(own: u128, key: &[u8]) -> LinkSecurity {
    LinkSecurity::shared_key(Id::from_number(own), Zeroizing::new(key.to_vec()))
}

fn links(seed: u64, security: LinkSecurity) -> Links {
    let endpoint = Endpoint::open(&["127.0.0.1:0".parse().unwrap()]).unwrap();
    let ice = Sessions::new(endpoint, Box::new(StdRng::seed_from_u64(seed)));
    Links::new(
        Instant::now(),
        ice,
        security,
        Vec::new(),
        Vec::<RelayServer>::new(),
    )
}

fn at(links: &Links) -> SocketAddr {
    links.addresses()[0]
}

/// Lets all work for a turn, and takes what has come.
fn turn(all: &mut [&mut Links], events: &mut [Vec<LinkEvent>]) {
    for (links, events) in all.iter_mut().zip(events) {
        let mut fds = Vec::new();
        links.fds(&mut fds);
        let _ = nix::poll::poll(&mut fds, nix::poll::PollTimeout::from(2u8));
        drop(fds);
        links.work(Instant::now());
        events.extend(std::iter::from_fn(|| links.poll_event()));
    }
}

#[track_caller]
fn until(
    a: &mut Links,
    b: &mut Links,
    events: &mut [Vec<LinkEvent>; 2],
    so: impl Fn(&[Vec<LinkEvent>; 2]) -> bool,
) {
    let end = Instant::now() + Duration::from_secs(20);
    while !so(events) {
        turn(&mut [a, b], events);
        assert!(Instant::now() < end, "{events:?}");
    }
}

fn up(events: &[LinkEvent]) -> Option<(LinkKey, Option<Id>)> {
    events.iter().find_map(|event| match event {
        LinkEvent::Up { link, peer, .. } => Some((*link, *peer)),
        _ => None,
    })
}

fn message(events: &[LinkEvent]) -> Option<&[u8]> {
    events.iter().find_map(|event| match event {
        LinkEvent::Message { bytes, .. } => Some(&bytes[..]),
        _ => None,
    })
}

/// A message as far as links look at it.
fn reload(body: &[u8]) -> Vec<u8> {
    let mut bytes = b"RELO\0\0\0\0\x64\0\0\0\x81".to_vec();
    let length = (28 + body.len()) as u32;
    bytes.extend(&length.to_be_bytes()[1..]);
    bytes.extend([0; 12]);
    bytes.extend(body);
    bytes
}

/// Sends both ways, and closes.
fn talk(a: &mut Links, b: &mut Links, events: &mut [Vec<LinkEvent>; 2]) {
    let (of_a, of_b) = (up(&events[0]).unwrap().0, up(&events[1]).unwrap().0);
    let now = Instant::now();
    assert!(a.send(now, of_a, &reload(&[7; 1172])));
    assert!(b.send(now, of_b, &reload(b"short")));
    until(a, b, events, |all| {
        message(&all[0]).is_some() && message(&all[1]).is_some()
    });
    assert_eq!(message(&events[0]), Some(&reload(b"short")[..]));
    assert_eq!(message(&events[1]), Some(&reload(&[7; 1172])[..]));
    a.close(now, of_a);
    until(a, b, events, |all| {
        all[1].contains(&LinkEvent::Down { link: of_b })
    });
}

fn failed(events: &[LinkEvent]) -> bool {
    let is = |it: &LinkEvent| matches!(it, LinkEvent::DialFailed { .. });
    events.iter().any(is)
}

// R2, R9, R12, R100, R138, RD62, RD67: mutual certificates over both transports
#[test]
fn members_meet_over_dtls_and_tls() {
    for target in [Target::Dtls as fn(SocketAddr) -> Target, Target::Tls] {
        let (mut a, mut b) = (
            links(1, self_made(1, OVERLAY)),
            links(2, self_made(2, OVERLAY)),
        );
        let mut events = [Vec::new(), Vec::new()];
        a.dial(Instant::now(), target(at(&b)));
        until(&mut a, &mut b, &mut events, |all| {
            up(&all[0]).is_some() && up(&all[1]).is_some()
        });
        let id = |number| Id::of_address(identity(number).address(), PeerId::ANY);
        assert_eq!(up(&events[0]).unwrap().1, Some(id(2)));
        assert_eq!(up(&events[1]).unwrap().1, Some(id(1)));
        talk(&mut a, &mut b, &mut events);
    }
}

// Whose address has gone has its links again from another one, at once
#[test]
fn links_follow_the_addresses_of_the_machine() {
    let (mut a, mut b) = (
        links(1, self_made(1, OVERLAY)),
        links(2, self_made(2, OVERLAY)),
    );
    let mut events = [Vec::new(), Vec::new()];
    a.dial(Instant::now(), Target::Dtls(at(&b)));
    until(&mut a, &mut b, &mut events, |all| {
        up(&all[0]).is_some() && up(&all[1]).is_some()
    });
    let (first, before) = (up(&events[0]).unwrap().0, a.addresses());
    a.follow(Instant::now(), &["127.0.0.1:0".parse().unwrap()]);
    assert_eq!(a.addresses(), before, "nothing has changed");
    a.follow(Instant::now(), &["127.0.0.2:0".parse().unwrap()]);
    let own = a.addresses();
    assert!(own.len() == 1 && own[0].ip().to_string() == "127.0.0.2");
    events[0].clear();
    until(&mut a, &mut b, &mut events, |all| {
        all[0].contains(&LinkEvent::Down { link: first })
    });
    events = [Vec::new(), Vec::new()];
    a.dial(Instant::now(), Target::Dtls(at(&b)));
    until(&mut a, &mut b, &mut events, |all| {
        up(&all[0]).is_some() && up(&all[1]).is_some()
    });
    let from = events[1].iter().find_map(|event| match event {
        LinkEvent::Up { at, .. } => Some(*at),
        _ => None,
    });
    assert_eq!(from, Some(own[0]));
    talk(&mut a, &mut b, &mut events);
}

// Both dial at once, from where they listen: one of them yields
#[test]
fn two_who_dial_each_other_have_one_link() {
    let (mut a, mut b) = (
        links(1, self_made(1, OVERLAY)),
        links(2, self_made(2, OVERLAY)),
    );
    let mut events = [Vec::new(), Vec::new()];
    a.dial(Instant::now(), Target::Dtls(at(&b)));
    b.dial(Instant::now(), Target::Dtls(at(&a)));
    until(&mut a, &mut b, &mut events, |all| {
        up(&all[0]).is_some() && up(&all[1]).is_some()
    });
    assert_eq!((a.conversations.len(), b.conversations.len()), (1, 1));
    talk(&mut a, &mut b, &mut events);
}

// R126, R138: certificates of the credential server
#[test]
fn members_with_issued_certificates_meet() {
    let server = server(9);
    let roots = || vec![server.root().clone()];
    for target in [Target::Dtls as fn(SocketAddr) -> Target, Target::Tls] {
        let mut a = links(1, issued(1, &server, roots()));
        let mut b = links(2, issued(2, &server, roots()));
        let mut events = [Vec::new(), Vec::new()];
        a.dial(Instant::now(), target(at(&b)));
        until(&mut a, &mut b, &mut events, |all| {
            up(&all[0]).is_some() && up(&all[1]).is_some()
        });
        talk(&mut a, &mut b, &mut events);
    }
}

/// Where the other side listens, as a link says.
fn listens(events: &[LinkEvent]) -> Option<Target> {
    events.iter().find_map(|event| match event {
        LinkEvent::Up { listens, .. } => *listens,
        _ => None,
    })
}

// R126, R138: whoever renews keeps its links, and shows the new certificate to those who come; an expired one is refused
#[test]
fn a_renewed_certificate_keeps_links_and_an_expired_one_makes_none() {
    let server = server(9);
    let roots = || vec![server.root().clone()];
    let now = unix();
    let (old, new) = ((now - 100, now + 60), (now - 10, now + 1000));
    for target in [Target::Dtls as fn(SocketAddr) -> Target, Target::Tls] {
        let mut a = links(1, certified(1, certificate(1, 1, &server, old), roots()));
        let mut b = links(2, issued(2, &server, roots()));
        let mut events = [Vec::new(), Vec::new()];
        a.dial(Instant::now(), target(at(&b)));
        until(&mut a, &mut b, &mut events, |all| {
            up(&all[0]).is_some() && up(&all[1]).is_some()
        });
        let place = up(&events[1]).unwrap().1;
        a.renew(certificate(1, 7, &server, new));
        talk(&mut a, &mut b, &mut events);
        // For another place, or another key, it is none.
        let before = a.security.fingerprint();
        a.renew(certificate(2, 8, &server, new));
        assert_eq!(a.security.fingerprint(), before);
        let mut c = links(3, issued(3, &server, roots()));
        let mut events = [Vec::new(), Vec::new()];
        a.dial(Instant::now(), target(at(&c)));
        until(&mut a, &mut c, &mut events, |all| up(&all[1]).is_some());
        assert_eq!(up(&events[1]).unwrap().1, place);
    }
    // Nobody takes what has expired, whatever it was before.
    for target in [Target::Dtls as fn(SocketAddr) -> Target, Target::Tls] {
        let past = (now - 1000, now - 1);
        let mut a = links(1, certified(1, certificate(1, 1, &server, past), roots()));
        let mut b = links(2, issued(2, &server, roots()));
        let mut events = [Vec::new(), Vec::new()];
        a.dial(Instant::now(), target(at(&b)));
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end && b.counters().handshakes_failed == 0 {
            turn(&mut [&mut a, &mut b], &mut events);
        }
        assert!(b.counters().handshakes_failed > 0, "{events:?}");
        assert_eq!(up(&events[1]), None);
    }
}

// R138, S35: whoever shows a certificate of another overlay, of another server, or one of his own where that is not
// permitted, has no link
#[test]
fn strangers_are_refused() {
    let (ours, theirs) = (server(9), server(8));
    let roots = |server: &CredentialServer| vec![server.root().clone()];
    type Stranger = fn(&CredentialServer, &CredentialServer) -> LinkSecurity;
    let cases: [(&str, Stranger); 3] = [
        ("another overlay", |_, _| self_made(1, "other.example")),
        ("self-made", |_, _| self_made(1, OVERLAY)),
        ("another server", |ours, theirs| {
            issued(1, theirs, vec![ours.root().clone(), theirs.root().clone()])
        }),
    ];
    for (what, stranger) in cases {
        for target in [Target::Dtls as fn(SocketAddr) -> Target, Target::Tls] {
            let mut a = links(1, stranger(&ours, &theirs));
            let mut b = links(2, issued(2, &ours, roots(&ours)));
            let mut events = [Vec::new(), Vec::new()];
            a.dial(Instant::now(), target(at(&b)));
            let end = Instant::now() + Duration::from_secs(2);
            while Instant::now() < end && b.counters().handshakes_failed == 0 {
                turn(&mut [&mut a, &mut b], &mut events);
            }
            assert_eq!(up(&events[1]), None, "{what} over {:?}", target(at(&b)));
            assert!(
                failed(&events[0]) || b.counters().handshakes_failed > 0,
                "{what}: {events:?}"
            );
        }
    }
}

// R13, RD61: a shared key over DTLS; TLS has none
#[test]
fn members_with_the_shared_key_meet_and_others_do_not() {
    let (mut a, mut b) = (
        links(1, shared(5, b"secret")),
        links(2, shared(6, b"secret")),
    );
    let mut events = [Vec::new(), Vec::new()];
    a.dial(Instant::now(), Target::Dtls(at(&b)));
    until(&mut a, &mut b, &mut events, |all| {
        up(&all[0]).is_some() && up(&all[1]).is_some()
    });
    assert_eq!(up(&events[0]).unwrap().1, None, "nobody has said it");
    assert_eq!(up(&events[1]).unwrap().1, Some(Id::from_number(5)));
    talk(&mut a, &mut b, &mut events);
    a.dial(Instant::now(), Target::Tls(at(&b)));
    events[0].clear();
    until(&mut a, &mut b, &mut events, |all| failed(&all[0]));

    let mut stranger = links(3, shared(7, b"guessed"));
    let mut events = [Vec::new(), Vec::new()];
    stranger.dial(Instant::now(), Target::Dtls(at(&b)));
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        turn(&mut [&mut stranger, &mut b], &mut events);
    }
    assert_eq!((up(&events[0]), up(&events[1])), (None, None));
}

fn described(events: &[LinkEvent]) -> Option<ConnectBody> {
    events.iter().find_map(|event| match event {
        LinkEvent::Described { body, .. } => Some(body.clone()),
        _ => None,
    })
}

/// A CONNECT from one to the other, whose words `bend` may change on the way: those of the offer, and of the answer.
fn connect(
    a: &mut Links,
    b: &mut Links,
    bend: impl Fn(&mut ConnectBody, bool),
) -> [Vec<LinkEvent>; 2] {
    let (id_a, id_b) = (a.security.peer(), b.security.peer());
    let mut events = [Vec::new(), Vec::new()];
    a.offer(Instant::now(), 1, ConnectBody::RELOAD);
    until(a, b, &mut events, |all| described(&all[0]).is_some());
    let mut offer = described(&events[0]).unwrap();
    assert_eq!(offer.role, anode_reload::body::Role::Passive);
    bend(&mut offer, true);
    b.answer(Instant::now(), 2, offer, Some(id_a));
    until(a, b, &mut events, |all| described(&all[1]).is_some());
    let mut answer = described(&events[1]).unwrap();
    assert_eq!(answer.role, anode_reload::body::Role::Active);
    bend(&mut answer, false);
    a.start(Instant::now(), 1, answer, Some(id_b));
    events
}

// R58, R60, R93 to R96, R99, R106, RD33: ICE, then DTLS, over UDP and over TCP
#[test]
fn a_connect_leads_to_a_link() {
    let all: fn(&str) -> bool = |_| true;
    let udp: fn(&str) -> bool = |text| text.contains(" UDP ");
    for keep in [all, udp] {
        let (mut a, mut b) = (
            links(1, self_made(1, OVERLAY)),
            links(2, self_made(2, OVERLAY)),
        );
        let only = |body: &mut ConnectBody, _| body.candidates.retain(|it| keep(it));
        let tcp = keep(" TCP ");
        let mut events = connect(&mut a, &mut b, only);
        until(&mut a, &mut b, &mut events, |all| {
            up(&all[0]).is_some() && up(&all[1]).is_some()
        });
        assert_eq!(up(&events[0]).unwrap().1, Some(b.security.peer()));
        assert_eq!(up(&events[1]).unwrap().1, Some(a.security.peer()));
        let over = b.conversations.iter().next().unwrap().1.path.protocol;
        assert_eq!(over == Protocol::Tcp, tcp, "what is preferred (R96)");
        // R129: where the other may be dialled another time is not where this pair has its ports.
        assert_eq!(listens(&events[0]), Some(Target::Dtls(at(&b))));
        assert_eq!(listens(&events[1]), Some(Target::Dtls(at(&a))));
        talk(&mut a, &mut b, &mut events);
    }
}

// R99, R106, R146, RD68: somebody else's certificate at the other end of the pair
#[test]
fn another_certificate_than_announced_is_refused() {
    let (mut a, mut b) = (
        links(1, self_made(1, OVERLAY)),
        links(2, self_made(2, OVERLAY)),
    );
    let mut events = connect(&mut a, &mut b, |answer, is_offer| {
        if is_offer {
            return;
        }
        answer.fingerprint = answer.fingerprint.replace('A', "B");
        answer.fingerprint.push('0');
    });
    until(&mut a, &mut b, &mut events, |all| {
        let is = |it: &LinkEvent| matches!(it, LinkEvent::ConnectFailed { token: 1, .. });
        all[0].iter().any(is)
    });
    assert_eq!(up(&events[0]), None);
}

// S35: what is no handshake has no effect, and handshakes that go nowhere make room for others
#[test]
fn strangers_bytes_cost_little() {
    let mut a = links(1, self_made(1, OVERLAY));
    let to = at(&a);
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for length in 0..600 {
        socket.send_to(&vec![length as u8; length], to).unwrap();
        socket
            .send_to(
                &[&[22, 0xFE, 0xFD, 0, 0][..], &vec![0; length]].concat(),
                to,
            )
            .unwrap();
        turn(&mut [&mut a], &mut [Vec::new()]);
    }
    for _ in 0..2 * MAX_HALF_OPEN {
        let other = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let hello = [
            &[22, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12][..],
            &[1; 12],
        ]
        .concat();
        other.send_to(&hello, to).unwrap();
        turn(&mut [&mut a], &mut [Vec::new()]);
    }
    assert!(a.conversations.len() <= MAX_HALF_OPEN);
    let mut b = links(2, self_made(2, OVERLAY));
    let mut events = [Vec::new(), Vec::new()];
    b.dial(Instant::now(), Target::Dtls(to));
    until(&mut b, &mut a, &mut events, |all| up(&all[0]).is_some());
}
