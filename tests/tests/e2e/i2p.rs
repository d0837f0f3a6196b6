//! I2P destinations as a second overlay, with a strict router of our own: without root, without an interface.

use anode_routing::i2p::{DatagramKind, Question, State, Trust};
use anode_routing::overlay::{Failure, Overlay as _, OverlayEvent};
use anode_tests::i2p::end::{End, EndOptions, open, pass, ready, until};
use anode_tests::i2p::lease_set::{ClientKey, Opener};
use anode_tests::i2p::{Password, Router, RouterOptions};
use anode_tests::traffic::Noise;
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn two(router: &Router) -> [End; 2] {
    let mut ends = [(); 2].map(|()| EndOptions::new(router.place()).start());
    ready(&mut ends);
    ends
}

/// A directory of this test, gone with it.
pub(super) struct Directory(pub(super) PathBuf);

impl Directory {
    pub(super) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("anode-i2p-{}-{name}", std::process::id()));
        // left by a process of the same number
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).expect("a directory");
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

// I1, I2, I9, I10, I11, I12, I13, I14, I15, I22, I23, I51, I62, I67, I68
#[test]
fn streams_go_both_ways_end_one_way_first_and_keep_every_byte() {
    for fast in ["true", "false"] {
        let router = Router::tcp(RouterOptions::default());
        let end = || {
            EndOptions::new(router.place())
                .option("i2cp.fastReceive", fast)
                .start()
        };
        let mut ends = [end(), end()];
        ready(&mut ends);
        let (near, far) = open(&mut ends, 80);
        let [there, back] = [1, 2].map(|seed| Noise::new(seed).bytes(300_000));
        ends[0].write(near, &there);
        ends[1].write(far, &back);
        let has =
            |end: &End, stream, data: &[u8]| end.read.get(&stream).is_some_and(|got| got == data);
        until(&mut ends, "all bytes", |ends| {
            (has(&ends[1], far, &there) && has(&ends[0], near, &back)).then_some(())
        });
        // half-closed: what the other side says still comes
        ends[0].overlay.finish(Instant::now(), near);
        ends[1].write(far, b"more");
        until(&mut ends, "more", |ends| {
            ends[0].read[&near].ends_with(b"more").then_some(())
        });
        ends[1].overlay.finish(Instant::now(), far);
        until(&mut ends, "the end on both sides", |ends| {
            let closed =
                |end: &mut End, stream| end.events.contains(&OverlayEvent::StreamClosed { stream });
            (closed(&mut ends[0], near) && closed(&mut ends[1], far)).then_some(())
        });
        assert_eq!(router.violations(), [] as [String; 0]);
        let peers = ends[0].overlay.peers(Instant::now());
        assert_eq!((peers[0].tx_bytes, peers[0].rx_bytes), (300_000, 300_004));
        assert_eq!(ends[0].overlay.snapshot().streams, 0);
    }
}

#[test]
fn a_stream_survives_a_network_that_loses_messages() {
    let router = Router::tcp(RouterOptions {
        loses_one_of: Some(20),
        leases_every: Some(Duration::from_millis(300)),
        ..RouterOptions::default()
    });
    let mut ends = two(&router);
    let (near, far) = open(&mut ends, 80);
    let data = Noise::new(3).bytes(200_000);
    ends[0].write(near, &data);
    until(&mut ends, "all bytes", |ends| {
        (ends[1]
            .read
            .get(&far)
            .is_some_and(|got| got.len() == data.len()))
        .then_some(())
    });
    assert!(ends[1].read[&far] == data);
    assert!(ends[0].overlay.counters().resent > 0);
    // more lease sets than one, each younger than the last, or the router would complain
    until(&mut ends, "another lease set", |_| {
        let sessions = router.sessions();
        (sessions.iter().all(|one| one.lease_sets > 1)).then_some(())
    });
    assert_eq!(router.violations(), [] as [String; 0]);
}

// I73
#[test]
fn connects_tell_the_truth() {
    let router = Router::tcp(RouterOptions::default());
    let mut ends = two(&router);
    let (own, other) = (ends[0].address(), ends[1].address());
    let failed = |ends: &mut [End; 2], stream| {
        until(ends, "a failure", |ends| {
            ends[0].take(|event| match event {
                OverlayEvent::StreamFailed { stream: s, failure } if *s == stream => Some(*failure),
                _ => None,
            })
        })
    };
    // nobody has told of this address
    let stranger = "fda1::1".parse().unwrap();
    let now = Instant::now();
    assert_eq!(
        ends[0].overlay.open(now, own, 1, stranger, 80),
        Err(Failure::NoSuchPeer)
    );
    // the other side refuses
    let stream = ends[0].overlay.open(now, own, 1, other, 81).unwrap();
    let incoming = until(&mut ends, "it arrives", |ends| {
        ends[1].take(|event| match event {
            OverlayEvent::StreamIncoming { stream, .. } => Some(*stream),
            _ => None,
        })
    });
    ends[1].overlay.abort(now, incoming, Failure::Refused);
    assert_eq!(failed(&mut ends, stream), Failure::Refused);
    // known, and offline: at once, by the router's word
    let gone = anode_i2cp::destination::Hash([9; 32]);
    let at = ends[0].overlay.learn(now, gone).unwrap();
    let start = Instant::now();
    let stream = ends[0].overlay.open(now, own, 1, at, 80).unwrap();
    assert_eq!(failed(&mut ends, stream), Failure::Unreachable);
    assert!(start.elapsed() < Duration::from_secs(2));
    // streams may share their ports: connections of programs do not
    let streams = [(); 2].map(|()| ends[0].overlay.open(now, own, 7, other, 80).unwrap());
    let mut shown = Vec::new();
    until(&mut ends, "both arrive", |ends| {
        shown.extend(ends[1].take(|event| match event {
            OverlayEvent::StreamIncoming { from_port, .. } => Some(*from_port),
            _ => None,
        }));
        (shown.len() == 2).then_some(())
    });
    assert!(shown[0] == 7 && shown[1] != 7, "{shown:?}");
    for stream in streams {
        ends[0]
            .overlay
            .abort(Instant::now(), stream, Failure::Reset);
    }
    assert_eq!(router.violations(), [] as [String; 0]);
}

// I68, I69, I70, I71
#[test]
fn datagrams_of_every_kind_find_their_way_and_only_proven_ones_begin() {
    let router = Router::tcp(RouterOptions::default());
    let kinds = [
        (17, DatagramKind::Datagram1),
        (18, DatagramKind::Raw),
        (19, DatagramKind::Datagram2),
        (20, DatagramKind::Datagram3),
    ];
    let mut ends = [(); 2].map(|()| {
        let mut options = EndOptions::new(router.place());
        options.udp = kinds.into();
        options.default_port = Some(9);
        options.start()
    });
    ready(&mut ends);
    let (a, b) = (ends[0].address(), ends[1].address());
    for (port, kind) in kinds {
        for size in [0, 1, 1000, 60_000] {
            let payload = Noise::new(size as u64).bytes(size);
            ends[0]
                .overlay
                .send_datagram(Instant::now(), a, 5000, b, port, &payload)
                .unwrap();
            // raw datagrams name no sender: they pass as answers alone, to who has sent from these ports before
            if kind == DatagramKind::Raw && size == 0 {
                pass(&mut ends, Duration::from_millis(50));
                assert_eq!(ends[1].came, []);
                ends[1]
                    .overlay
                    .send_datagram(Instant::now(), b, port, a, 5000, &payload)
                    .unwrap();
                let came = until(&mut ends, "the answer", |ends| ends[0].came.pop());
                assert_eq!(came, (b, port, a, 5000, payload));
                continue;
            }
            let came = until(&mut ends, "a datagram", |ends| ends[1].came.pop());
            assert_eq!(came, (a, 5000, b, port, payload.clone()), "{kind:?} {size}");
            ends[1]
                .overlay
                .send_datagram(Instant::now(), b, port, a, 5000, &payload)
                .unwrap();
            let came = until(&mut ends, "an answer", |ends| ends[0].came.pop());
            assert_eq!(came, (b, port, a, 5000, payload), "{kind:?} {size}");
        }
        let max = kind.max_payload();
        let sent =
            ends[0]
                .overlay
                .send_datagram(Instant::now(), a, 5000, b, port, &vec![0; max + 1]);
        assert_eq!(sent, Err(Failure::TooBig { max }));
    }
    assert!(ends[1].overlay.counters().raw_unasked > 0);
    // to nobody: the program is told by whom the router cannot reach
    let gone = anode_i2cp::destination::Hash([9; 32]);
    let at = ends[0].overlay.learn(Instant::now(), gone).unwrap();
    ends[0]
        .overlay
        .send_datagram(Instant::now(), a, 5000, at, 17, b"x")
        .unwrap();
    let undeliverable = OverlayEvent::Undeliverable {
        to: at,
        failure: Failure::Unreachable,
    };
    until(&mut ends, "an error", |ends| {
        ends[0].take(|event| (*event == undeliverable).then_some(()))
    });
    assert_eq!(router.violations(), [] as [String; 0]);
}

#[test]
fn pings_are_answered_with_all_of_their_payload() {
    let router = Router::tcp(RouterOptions::default());
    let mut ends = two(&router);
    let to = ends[1].address();
    let payload = Noise::new(5).bytes(1100);
    ends[0]
        .overlay
        .ping(Instant::now(), None, to, 42, &payload)
        .unwrap();
    let (token, back, via) = until(&mut ends, "a pong", |ends| {
        ends[0].take(|event| match event {
            OverlayEvent::Pong {
                token,
                payload,
                via,
                ..
            } => Some((*token, payload.clone(), via.endpoint.clone())),
            _ => None,
        })
    });
    assert_eq!((token, back), (42, payload));
    assert_eq!(via.to_string(), format!("i2p://{}", router.place()));
}

#[test]
fn each_destination_has_its_own_address_and_they_reach_each_other() {
    let router = Router::tcp(RouterOptions::default());
    let mut options = EndOptions::new(router.place());
    options.destinations = 3;
    let mut ends = [options.start(), EndOptions::new(router.place()).start()];
    ready(&mut ends);
    let own = ends[0].overlay.local();
    let to = ends[1].address();
    for from in &own {
        ends[0]
            .overlay
            .send_datagram(Instant::now(), *from, 1, to, 2, b"x")
            .unwrap();
        let came = until(&mut ends, "a datagram", |ends| ends[1].came.pop());
        assert_eq!(came.0, *from);
    }
    ends[0]
        .overlay
        .send_datagram(Instant::now(), own[1], 1, own[2], 2, b"x")
        .unwrap();
    let came = until(&mut ends, "a datagram", |ends| ends[0].came.pop());
    assert_eq!((came.0, came.2), (own[1], own[2]));
    router.wait_sessions(4);
    assert_eq!(router.connections(), 4, "one session on a connection");
}

/// A certificate of a router, as Java makes them: signed by itself, CA and all.
pub(super) fn certificate() -> (Arc<ServerConfig>, CertificateDer<'static>, String) {
    let mut parameters =
        rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name");
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().expect("a key");
    let made = parameters.self_signed(&key).expect("a certificate");
    let private = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider can do it")
        .with_no_client_auth()
        .with_single_cert(vec![made.der().clone()], private)
        .expect("certificate and key belong together");
    // the alphabet of I2P differs in two characters
    let text = anode_i2cp::names::base64(made.der())
        .replace('-', "+")
        .replace('~', "/");
    let pem = format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
    (Arc::new(config), made.der().clone(), pem)
}

// I7, I8, I59, I60
#[test]
fn tls_is_believed_by_certificate_or_fingerprint_and_unix_sockets_work() {
    let (config, der, _) = certificate();
    let router = Router::tcp(RouterOptions {
        tls: Some(config),
        ..RouterOptions::default()
    });
    let fingerprint = Sha256::digest(&der).into();
    let good = [
        Trust::Fingerprint(fingerprint),
        Trust::Certificates(vec![der.clone()]),
    ];
    let mut ends = good.map(|trust| {
        let mut options = EndOptions::new(router.place());
        options.tls = Some(trust);
        options.start()
    });
    ready(&mut ends);
    let (near, far) = open(&mut ends, 80);
    let data = Noise::new(8).bytes(200_000);
    ends[0].write(near, &data);
    until(&mut ends, "all bytes", |ends| {
        (ends[1].read.get(&far) == Some(&data)).then_some(())
    });
    let (_, other, _) = certificate();
    for wrong in [
        Trust::Fingerprint([1; 32]),
        Trust::Certificates(vec![other]),
    ] {
        let mut options = EndOptions::new(router.place());
        options.tls = Some(wrong);
        let mut ends = [options.start()];
        let problem = until(&mut ends, "a refusal", |ends| {
            ends[0].overlay.snapshot().destinations[0].problem.clone()
        });
        assert!(problem.contains("certificate"), "{problem}");
        assert!(!ends[0].overlay.snapshot().connected);
    }
    // in the clear to a router that speaks TLS
    let mut ends = [EndOptions::new(router.place()).start()];
    until(&mut ends, "a refusal", |ends| {
        ends[0].overlay.snapshot().destinations[0].problem.clone()
    });

    let directory = Directory::new("unix");
    let router = Router::unix(&directory.0.join("i2cp.sock"), RouterOptions::default());
    let mut ends = two(&router);
    open(&mut ends, 80);
    assert_eq!(router.violations(), [] as [String; 0]);
}

// I33; it goes as it is, for hashed ones are not defined (I74)
#[test]
fn a_password_is_shown_and_a_wrong_one_is_not_tried_again() {
    let router = Router::tcp(RouterOptions {
        password: Some(Password {
            user: "joe",
            password: "secret",
        }),
        ..RouterOptions::default()
    });
    let end = |credentials: Option<(&str, &str)>| {
        let mut options = EndOptions::new(router.place());
        options.credentials = credentials.map(|(u, p)| (u.to_owned(), p.to_owned()));
        options.start()
    };
    let mut ends = [end(Some(("joe", "secret")))];
    ready(&mut ends);
    let before = router.connections();
    let mut ends = [end(Some(("joe", "wrong"))), end(None)];
    until(&mut ends, "both are given up", |ends| {
        let failed = |end: &mut End| matches!(end.state(), State::Failed(_));
        ends.iter_mut().all(failed).then_some(())
    });
    pass(&mut ends, Duration::from_millis(1500));
    assert_eq!(router.connections(), before + 2, "no second try");
    let snapshot = ends[0].overlay.snapshot();
    let problem = snapshot.destinations[0].problem.clone().unwrap();
    assert!(
        problem.contains("Authorization failed") && !problem.contains("wrong"),
        "{problem}"
    );
    let (own, to) = (ends[0].address(), ends[1].address());
    ends[0]
        .overlay
        .learn(Instant::now(), snapshot.destinations[0].hash);
    let opened = ends[0].overlay.open(Instant::now(), own, 1, to, 80);
    assert!(matches!(
        opened,
        Err(Failure::NoSuchPeer | Failure::Unreachable)
    ));
}

#[test]
fn a_router_that_dies_resets_streams_and_everything_comes_back() {
    let router = Router::tcp(RouterOptions::default());
    let mut ends = two(&router);
    let (a, b) = (ends[0].address(), ends[1].address());
    let (near, far) = open(&mut ends, 80);
    ends[0].write(near, &[0; 1_000_000]);
    pass(&mut ends, Duration::from_millis(30));
    router.drop_all();
    until(&mut ends, "both sides hear of it", |ends| {
        let gone = |end: &End, stream| {
            let failure = Failure::Reset;
            end.events
                .contains(&OverlayEvent::StreamFailed { stream, failure })
        };
        (gone(&ends[0], near) && gone(&ends[1], far)).then_some(())
    });
    // while there is none, programs are told at once
    let opened = ends[0].overlay.open(Instant::now(), a, 1, b, 80);
    assert_eq!(opened, Err(Failure::Unreachable));
    ready(&mut ends);
    assert_eq!(ends[0].overlay.snapshot().destinations[0].sessions, 2);
    ends[0]
        .overlay
        .send_datagram(Instant::now(), a, 5000, b, 53, b"again")
        .unwrap();
    until(&mut ends, "a datagram", |ends| ends[1].came.pop());
    open(&mut ends, 80);
    assert_eq!(router.violations(), [] as [String; 0]);
}

#[test]
fn a_router_that_is_not_there_fails_connects_and_is_found_when_it_comes() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let place = listener.local_addr().unwrap();
    drop(listener);
    let mut ends = [EndOptions::new(&place.to_string()).start()];
    until(&mut ends, "a problem", |ends| {
        ends[0].overlay.snapshot().destinations[0].problem.clone()
    });
    let own = ends[0].address();
    let hash = anode_i2cp::destination::Hash([3; 32]);
    let to = ends[0].overlay.learn(Instant::now(), hash).unwrap();
    let opened = ends[0].overlay.open(Instant::now(), own, 1, to, 80);
    assert_eq!(opened, Err(Failure::Unreachable));
    let _router = Router::on(
        std::net::TcpListener::bind(place).unwrap(),
        RouterOptions::default(),
    );
    ready(&mut ends);
}

// S37, I76
#[test]
fn whatever_a_router_sends_nothing_panics_and_the_destination_comes_back() {
    let router = Router::tcp(RouterOptions::default());
    let mut ends = [EndOptions::new(router.place()).start()];
    ready(&mut ends);
    let mut noise = Noise::new(11);
    for kind in 0..=50u8 {
        for length in [0, 1, 2, 3, 4, 7, 8, 20, 45, 100, 400] {
            let body = noise.bytes(length);
            router.say(kind, |session| {
                let mut body = body.clone();
                // for our session as far as it names one
                for (to, from) in body.iter_mut().zip(session.to_be_bytes()) {
                    *to = from;
                }
                body
            });
            pass(&mut ends, Duration::from_millis(1));
            if ends[0].state() != State::Ready {
                // it says why it left, and comes back by itself
                assert!(ends[0].overlay.snapshot().destinations[0].problem.is_some());
                ends[0] = EndOptions::new(router.place()).start();
                ready(&mut ends);
            }
        }
    }
    // messages that are almost right
    let destination = ends[0].overlay.snapshot().destinations[0].hash.0;
    for (kind, rest) in [
        (20, vec![2]),
        (21, [&[1][..], &[7; 36], &[0xff; 8]].concat()),
        (22, vec![0, 0, 0, 2, 4, 0, 0, 0, 5, 0, 0, 0, 7]),
        (31, [&[0, 0, 0, 9, 0, 0, 0, 3][..], b"abc"].concat()),
        (37, [&[1][..], &[7; 36], &[0xff; 8]].concat()),
        (39, [&[0, 0, 0, 9, 0][..], &destination, &[5; 400]].concat()),
    ] {
        for length in [0, rest.len() / 2, rest.len() - 1, rest.len() + 1] {
            router.say(kind, |session| {
                let mut body = [&session.to_be_bytes()[..], &rest].concat();
                body.resize(2 + length, 0);
                body
            });
            until(&mut ends, "it leaves", |ends| {
                ends[0].overlay.snapshot().destinations[0].problem.clone()
            });
            ends[0] = EndOptions::new(router.place()).start();
            ready(&mut ends);
        }
    }
    // and for a session that is not ours: they change nothing
    for kind in [20, 22, 31, 37] {
        router.say(kind, |session| {
            let body = [&(session ^ 1).to_be_bytes()[..], &[0; 8]].concat();
            match kind {
                20 => body[..3].to_vec(),
                22 => [&body[..], &[0; 5]].concat(),
                31 => body,
                _ => [&body[..2], &[1], &[7; 36], &[0xff; 8]].concat(),
            }
        });
    }
    pass(&mut ends, Duration::from_millis(50));
    assert_eq!(ends[0].state(), State::Ready);
    let counters = ends[0].overlay.counters();
    assert!(counters.router_misplaced >= 4, "{counters:?}");
    // what the router did was wrong; what we answered was not
    assert_eq!(router.violations(), [] as [String; 0]);
}

#[test]
fn names_are_asked_of_the_router_once_and_failures_for_a_moment() {
    let router = Router::tcp(RouterOptions::default());
    let mut ends = two(&router);
    let other = ends[1].overlay.snapshot().destinations[0].hash;
    let destination = router
        .wait_sessions(2)
        .into_iter()
        .map(|session| session.destination)
        .find(|one| one.hash() == other)
        .unwrap();
    router.name("site.i2p", &destination);
    let ask = |ends: &mut [End; 2], question: Question| {
        ends[0].overlay.ask(Instant::now(), &question, 1);
        until(ends, "an answer", |ends| ends[0].overlay.poll_answer()).result
    };
    let found = ask(&mut ends, Question::Name("site.i2p".into())).unwrap();
    assert_eq!(found.hash(), other);
    assert_eq!(ask(&mut ends, Question::Hash(other)).unwrap().hash(), other);
    assert!(ask(&mut ends, Question::Name("nobody.i2p".into())).is_err());
    let known = ends[0].overlay.known(other.synthetic_address()).unwrap();
    assert_eq!(
        (known.hash, known.name.as_deref()),
        (other, Some("site.i2p"))
    );
    assert!(ends[0].overlay.export().contains(&known));
}

// I24, I28, I29, I31, I53, I54, I55, I56
#[test]
fn encrypted_lease_sets_are_opened_by_those_who_may_and_by_nobody_else() {
    let mine = [5; 32];
    let public = {
        use aws_lc_rs::agreement::{PrivateKey, X25519};
        let key = PrivateKey::from_private_key(&X25519, &mine).unwrap();
        key.compute_public_key().unwrap().as_ref().to_vec()
    };
    let base64 = anode_i2cp::names::base64;
    let entry = |key: &[u8]| format!("{}:{}", base64(b"joe"), base64(key));
    let (auth, dh, psk) = (
        "i2cp.leaseSetAuthType",
        "i2cp.leaseSetClient.dh.0",
        "i2cp.leaseSetClient.psk.0",
    );
    let secret = base64(b"secret");
    let cases = [
        (
            vec![("i2cp.leaseSetSecret", secret)],
            b"secret".to_vec(),
            ClientKey::None,
            None,
        ),
        (
            vec![(auth, "1".to_owned()), (dh, entry(&public))],
            Vec::new(),
            ClientKey::Dh(mine),
            Some(ClientKey::Dh([6; 32])),
        ),
        (
            vec![(auth, "2".to_owned()), (psk, entry(&mine))],
            Vec::new(),
            ClientKey::Psk(mine),
            Some(ClientKey::Psk([6; 32])),
        ),
    ];
    for (options, secret, key, stranger) in cases {
        let router = |key: ClientKey, secret: &[u8]| {
            Router::tcp(RouterOptions {
                opener: Some(Opener {
                    secret: secret.to_vec(),
                    key,
                }),
                ..RouterOptions::default()
            })
        };
        let start = |router: &Router| {
            let mut end = EndOptions::new(router.place()).option("i2cp.leaseSetType", "5");
            for (name, value) in &options {
                end = end.option(name, value);
            }
            end.start()
        };
        let good = router(key.clone(), &secret);
        let mut ends = [start(&good), start(&good)];
        ready(&mut ends);
        open(&mut ends, 80);
        assert!(
            good.wait_sessions(2)
                .iter()
                .all(|one| one.lease_set_kind == 5)
        );
        assert_eq!(good.violations(), [] as [String; 0]);
        let wrong_secret = (key, b"another".to_vec());
        let strangers = stranger.map(|key| (key, secret.clone()));
        for (key, secret) in [Some(wrong_secret), strangers].into_iter().flatten() {
            let bad = router(key, &secret);
            let mut ends = [start(&bad)];
            until(&mut ends, "it cannot be opened", |_| bad.violations().pop());
        }
    }
}
