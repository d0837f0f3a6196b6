//! A certificate that ends: renewed in time its node stays who it is, else it is not believed any more (R126, R138).
use super::*;
use crate::body::TunnelRequest;
use crate::security::{
    Certificate, CredentialServer, Credentials, Policy, SigningRequest, certificate_request,
};

const START: u64 = 1_700_000_000;
const HOUR: u64 = 3600;

fn server() -> CredentialServer {
    let valid = (START - HOUR, START + 1000 * HOUR);
    CredentialServer::new(&[7; 32], OVERLAY, valid).unwrap()
}

/// For the key and the place of this number.
fn certificate(server: &CredentialServer, n: u8, place: u8, until: u64) -> Certificate {
    let request = certificate_request(&[n; 32], &[]).unwrap();
    let request = SigningRequest::from_der(&request).unwrap();
    let mut rng = StdRng::seed_from_u64(until);
    let valid = (START - HOUR, until);
    server
        .renew(&request, &[], id(place), valid, &mut rng)
        .unwrap()
}

fn member(server: &CredentialServer, n: u8, until: u64) -> Node {
    let policy = Policy {
        overlay: OVERLAY.into(),
        roots: vec![server.root().clone()],
        ..Policy::default()
    };
    let own = certificate(server, n, n, until);
    let security = Credentials::certified(&[n; 32], own, policy).unwrap();
    let mut config = NodeConfig::new(OVERLAY);
    config.tunnels.insert(5060);
    let mut node = Node::new(
        config,
        Box::new(security),
        Box::new(Chord::new(id(n), crate::chord::Config::default(), 1)),
        Box::new(StdRng::seed_from_u64(n.into())),
    );
    node.create(at(0));
    node
}

/// Carries what two nodes say to each other until both are silent; what has come of it for the first.
fn talk(now: Now, a: &mut Node, b: &mut Node) -> Vec<Event> {
    loop {
        let mut silent = true;
        while let Some(transmit) = a.poll_transmit() {
            silent = false;
            b.handle(now, LinkId(1), &transmit.bytes);
        }
        while let Some(transmit) = b.poll_transmit() {
            silent = false;
            a.handle(now, LinkId(1), &transmit.bytes);
        }
        if silent {
            return std::iter::from_fn(|| a.poll_event()).collect();
        }
    }
}

/// Whether the second takes what the first says.
fn said(now: Now, a: &mut Node, b: &mut Node) -> Result<(), ReloadError> {
    let body = TunnelRequest {
        application: 5060,
        dialog: "x".into(),
        pdu: vec![1],
    };
    let to = vec![b.id()];
    let asked = a
        .tunnel(now, to, None, &body, RequestOptions::default())
        .unwrap();
    let events = talk(now, a, b);
    let answer = events.into_iter().find_map(|event| match event {
        Event::Answered { request, result } if request == asked => Some(result.map(drop)),
        _ => None,
    });
    answer.expect("an answer")
}

#[test]
fn whoever_renews_in_time_is_believed_and_whose_certificate_has_ended_is_not() {
    let server = server();
    let hours = |n: u64| at(n * HOUR * 1000);
    for renews in [true, false] {
        let mut a = member(&server, 0x50, START + HOUR);
        let mut b = member(&server, 0x90, START + 100 * HOUR);
        link(&mut a, 1, 0x90);
        link(&mut b, 1, 0x50);
        talk(at(0), &mut a, &mut b);
        assert_eq!(said(at(1), &mut a, &mut b), Ok(()));
        if renews {
            let renewed = certificate(&server, 0x50, 0x50, START + 50 * HOUR);
            a.renew(at(HOUR * 500), renewed).unwrap();
            talk(at(HOUR * 500), &mut a, &mut b);
            assert_eq!((a.id(), a.links().count()), (id(0x50), 1));
        }
        let late = match renews {
            true => Ok(()),
            false => Err(ReloadError::Refused(Code::UNAUTHORIZED)),
        };
        let unverified = b.counters().unverified;
        assert_eq!(said(hours(2), &mut a, &mut b), late);
        // The new one was shown before the old one had ended: nobody had to ask for it.
        assert_eq!(b.counters().unverified == unverified, renews);
        if renews {
            let ended = Err(ReloadError::Refused(Code::UNAUTHORIZED));
            assert_eq!(said(hours(51), &mut a, &mut b), ended);
        }
    }
}

#[test]
fn a_certificate_for_another_key_or_place_renews_nothing() {
    let server = server();
    let mut node = member(&server, 0x50, START + HOUR);
    let before = node.security().identity(true);
    for (key, place) in [(0x51, 0x50), (0x50, 0x51)] {
        let other = certificate(&server, key, place, START + 50 * HOUR);
        assert!(node.renew(at(1), other).is_err(), "{key:x} {place:x}");
        assert_eq!(node.security().identity(true), before);
    }
    let good = certificate(&server, 0x50, 0x50, START + 50 * HOUR);
    // Where a key is shared, there are no certificates.
    assert!(bench().renew(at(1), good.clone()).is_err());
    node.renew(at(1), good).unwrap();
    assert_ne!(node.security().identity(true), before);
}
