//! One session against a strict router in memory.
mod hostile;

use super::lookup::MOST_LOOKUPS;
use super::*;
use crate::message::{BandwidthLimits, Query};
use crate::router::{Router, Wired, frame, start};
use crate::vectors::{hex, keys};

fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

// I1, I2, I10, I11, I12, I13, I14, I15
#[test]
fn the_handshake_runs_in_order_and_ends_ready() {
    let mut wired = Wired::new(keys("A"), &[("inbound.length", "0")]);
    assert_eq!(wired.client.phase(), Phase::Connecting);
    let b = keys("B").destination().clone();
    let early = wired.client.send(&b, b"x", 0, true, secs(10), wired.now);
    assert_eq!(early, Err(Error::NotReady));
    assert_eq!(wired.settle(), []);
    assert_eq!(wired.client.phase(), Phase::Building);
    assert_eq!(wired.router.connections[0].kinds, [32, 1]);
    assert_eq!(
        wired.router.connections[0].options.get("inbound.length"),
        Some("0")
    );
    let early = wired
        .client
        .lookup(Query::Name("a.i2p".into()), false, wired.now);
    assert_eq!(early, Err(Error::NotReady));
    wired.router.request_leases(0, wired.now);
    assert_eq!(wired.settle(), [Event::Ready]);
    assert_eq!(wired.client.phase(), Phase::Ready);
    assert_eq!(wired.client.router_version(), "0.9.66");
    assert_eq!(wired.router.connections[0].kinds, [32, 1, 41]);
}

// I11
#[test]
fn the_routers_clock_counts_and_may_be_corrected() {
    let mut wired = Wired::new(keys("A"), &[]);
    wired.router.clock_ahead_ms = -3_600_000;
    wired.settle();
    wired.router.request_leases(0, wired.now);
    assert_eq!(wired.settle(), [Event::Ready]);
    wired.router.clock_ahead_ms = 7_200_000;
    let date = (wired.now.unix_ms + 7_200_000).to_be_bytes();
    wired
        .router
        .say(0, 33, &[&date[..], b"\x060.9.66"].concat());
    wired.router.request_leases(0, wired.now);
    assert_eq!(wired.settle(), []);
    assert_eq!(wired.router.connections[0].published.len(), 2);
}

// I14
#[test]
fn every_lease_request_is_answered_and_the_first_set_is_sent_again() {
    let mut wired = Wired::ready(keys("A"), &[]);
    for (seconds, published) in [(6, 2), (10, 3), (15, 4), (60, 4)] {
        wired.pass(secs(seconds));
        assert_eq!(wired.settle(), []);
        assert_eq!(wired.router.connections[0].published.len(), published);
    }
    for _ in 0..5 {
        // three requests within one second: each set must be a second younger than the last
        wired.router.request_leases(0, wired.now);
        assert_eq!(wired.settle(), []);
    }
    assert_eq!(wired.router.connections[0].published.len(), 9);
    assert_eq!(wired.client.counters().lease_sets, 9);
}

// I13, S37
#[test]
fn wrong_lease_requests_are_counted_and_not_answered() {
    let mut wired = Wired::ready(keys("A"), &[]);
    let end = |ms: u64| [&[7; 32][..], &[0, 0, 0, 1], &ms.to_be_bytes()].concat();
    let now = wired.now.unix_ms;
    let session = [0, 100];
    wired.router.say(0, 37, &[&session[..], &[0]].concat());
    wired
        .router
        .say(0, 37, &[&session[..], &[1], &end(now - 1)].concat());
    wired
        .router
        .say(0, 37, &[&[0, 99][..], &[1], &end(now + 9000)].concat());
    assert_eq!(wired.settle(), []);
    let counters = wired.client.counters();
    assert_eq!(
        (counters.bad_lease_requests, counters.foreign_session),
        (2, 1)
    );
    assert_eq!(wired.router.connections[0].published.len(), 1);
    // of many leases, sixteen are used; of those that are over, none
    let many = end(now + 500_000).repeat(40);
    wired
        .router
        .say(0, 37, &[&session[..], &[41], &end(now), &many].concat());
    wired.settle();
    assert_eq!(wired.router.connections[0].published.len(), 2);
}

// I33
#[test]
fn a_wrong_password_is_final_and_never_shown() {
    for (password, good) in [("secret", true), ("wrong", false)] {
        let mut router = Router::default();
        router.password = Some(("joe", "secret"));
        router.accept();
        let now = start();
        let credentials = Credentials {
            user: "joe".into(),
            password: Zeroizing::new(password.into()),
        };
        assert!(!format!("{credentials:?}").contains(password));
        let client = Client::new(
            keys("A"),
            SessionOptions::default(),
            Some(&credentials),
            [0; 32],
            now,
        )
        .unwrap();
        assert!(!format!("{:?}", client.options).contains(password));
        let mut wired = Wired::with(router, client, now);
        let events = wired.settle();
        if good {
            assert_eq!(events, []);
            assert_eq!(wired.client.phase(), Phase::Building);
        } else {
            let [Event::Closed(reason)] = &events[..] else {
                panic!("{events:?}")
            };
            assert!(reason.is_permanent() && !reason.to_string().contains(password));
        }
    }
}

#[test]
fn lookups_find_by_hash_and_name_and_check_the_answer() {
    let mut wired = Wired::ready(keys("A"), &[]);
    let b = keys("B").destination().clone();
    wired.router.hosts.insert("b.i2p".into(), b.clone());
    let unknown = crate::destination::Hash([9; 32]);
    let now = wired.now;
    let ask = |client: &mut Client, query, with| client.lookup(query, with, now).unwrap();
    let ids = [
        ask(&mut wired.client, Query::Hash(b.hash()), false),
        ask(&mut wired.client, Query::Name("b.i2p".into()), false),
        ask(&mut wired.client, Query::Name("b.i2p".into()), true),
        ask(&mut wired.client, Query::Hash(unknown), false),
    ];
    let events = wired.settle();
    assert_eq!(events.len(), 4);
    for (event, id) in events.iter().zip(ids) {
        let Event::Lookup(got, result) = event else {
            panic!("{event:?}")
        };
        assert_eq!(*got, id);
        match result {
            Ok(found) => {
                assert_eq!(found.destination, b);
                assert_eq!(found.options.is_empty(), id != ids[2]);
            }
            Err(error) => assert_eq!((id, *error), (ids[3], LookupError::NotFound)),
        }
    }
    // a router that answers with another destination is not believed; unasked answers are counted
    let id = wired
        .client
        .lookup(Query::Hash(unknown), false, wired.now)
        .unwrap();
    while wired.client.poll_transmit().is_some() {}
    let reply = [&[0, 100][..], &id.0.to_be_bytes(), &[0], b.as_bytes()].concat();
    wired.router.say(0, 39, &reply);
    wired.router.say(0, 39, &reply);
    assert_eq!(
        wired.settle(),
        [Event::Lookup(id, Err(LookupError::Mismatch))]
    );
    assert_eq!(wired.client.counters().unasked_replies, 1);
}

#[test]
fn lookups_are_bounded_and_end_when_nobody_answers() {
    let mut wired = Wired::ready(keys("A"), &[]);
    let query = || Query::Name("x.i2p".into());
    for _ in 0..MOST_LOOKUPS {
        wired.client.lookup(query(), false, wired.now).unwrap();
    }
    assert!(matches!(
        wired.client.lookup(query(), false, wired.now),
        Err(Error::Full(_))
    ));
    while wired.client.poll_transmit().is_some() {}
    wired.pass(secs(51));
    let events = wired.settle();
    assert_eq!(events.len(), MOST_LOOKUPS);
    assert!(
        events
            .iter()
            .all(|e| matches!(e, Event::Lookup(_, Err(LookupError::TimedOut))))
    );
}

#[test]
fn the_state_of_a_message_comes_back_with_its_nonce() {
    let mut wired = Wired::ready(keys("A"), &[]);
    let b = keys("B").destination().clone();
    wired
        .client
        .send(
            &b,
            &hex("/gzip_stored/payload"),
            7,
            false,
            secs(60),
            wired.now,
        )
        .unwrap();
    wired
        .client
        .send(
            &b,
            &hex("/gzip_stored/payload"),
            0,
            true,
            secs(60),
            wired.now,
        )
        .unwrap();
    wired.settle();
    let sent = std::mem::take(&mut wired.router.sent);
    assert_eq!(sent.len(), 2);
    for one in &sent {
        wired.router.deliver(one);
    }
    assert_eq!(wired.settle(), [Event::Status(7, MessageStatus(21))]);
    assert!(MessageStatus(21).is_final_failure());
    assert!(MessageStatus(21).to_string().contains("no lease set"));
}

#[test]
fn statuses_are_told_apart() {
    for code in 0..=255 {
        let status = MessageStatus(code);
        let kinds = [
            status.is_success(),
            status.is_interim(),
            status.is_final_failure(),
        ];
        assert!(kinds.iter().filter(|k| **k).count() <= 1, "{code}");
    }
}

// I23, I51
#[test]
fn messages_arrive_with_and_without_fast_receive() {
    for (fast, kinds) in [("true", &[][..]), ("false", &[6, 7][..])] {
        let mut wired = Wired::ready(keys("A"), &[("i2cp.fastReceive", fast)]);
        let own = keys("A").destination().clone();
        wired
            .client
            .send(&own, b"payload", 0, true, secs(60), wired.now)
            .unwrap();
        wired.settle();
        wired.router.connections[0].kinds.clear();
        let sent = wired.router.sent.remove(0);
        wired.router.deliver(&sent);
        assert_eq!(wired.settle(), [Event::Payload(b"payload".to_vec())]);
        assert_eq!(wired.router.connections[0].kinds, kinds);
    }
}

#[test]
fn sending_is_bounded_by_what_the_socket_takes() {
    let mut wired = Wired::ready(keys("A"), &[]);
    let b = keys("B").destination().clone();
    let (mut taken, mut with_room) = (0, 0);
    let full = loop {
        with_room += usize::from(wired.client.has_room());
        let sent = wired
            .client
            .send(&b, &[0; 60_000], 0, true, secs(60), wired.now);
        match sent {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
    };
    // streams stop at 128 KiB, datagrams are taken up to 1 MiB
    assert_eq!((with_room, taken), (3, 18));
    assert!(matches!(full, Error::Full(_)), "{full}");
    assert_eq!(wired.client.counters().queue_full, 1);
    wired.settle();
    assert!(wired.client.has_room());
    let long = wired
        .client
        .send(&b, &[0; 65_200], 0, true, secs(60), wired.now);
    assert!(matches!(long, Err(Error::TooLong { .. })));
}

// I47
#[test]
fn an_idle_session_gets_fewer_tunnels_and_its_own_again_with_traffic() {
    let mut wired = Wired::ready(
        keys("A"),
        &[
            ("i2cp.reduceOnIdle", "true"),
            ("i2cp.reduceIdleTime", "300000"),
            ("inbound.quantity", "3"),
        ],
    );
    wired.pass(secs(299));
    wired.settle();
    assert!(wired.router.connections[0].reconfigured.is_empty());
    wired.pass(secs(2));
    assert_eq!(wired.settle(), [Event::Reconfigured]);
    let reduced = &wired.router.connections[0].reconfigured[0];
    assert_eq!(reduced.get("inbound.quantity"), Some("1"));
    assert_eq!(reduced.get("outbound.backupQuantity"), Some("0"));
    wired.pass(secs(2000));
    assert_eq!(wired.settle(), []);
    let b = keys("B").destination().clone();
    wired
        .client
        .send(&b, b"x", 0, true, secs(60), wired.now)
        .unwrap();
    assert_eq!(wired.settle(), [Event::Reconfigured]);
    let restored = &wired.router.connections[0].reconfigured[1];
    assert_eq!(restored.get("inbound.quantity"), Some("3"));
    assert_eq!(restored.get("outbound.quantity"), Some("2"));
}

// I46
#[test]
fn an_idle_session_closes_when_it_shall() {
    let mut wired = Wired::ready(
        keys("A"),
        &[
            ("i2cp.closeOnIdle", "true"),
            ("i2cp.closeIdleTime", "300000"),
        ],
    );
    wired.pass(secs(200));
    let b = keys("B").destination().clone();
    wired
        .client
        .send(&b, b"x", 0, true, secs(60), wired.now)
        .unwrap();
    wired.settle();
    wired.pass(secs(200));
    wired.settle();
    assert_eq!(wired.client.phase(), Phase::Ready);
    wired.pass(secs(101));
    assert_eq!(wired.settle(), [Event::Closed(CloseReason::Idle)]);
    assert_eq!(wired.router.connections[0].session, None);
    assert_eq!(wired.client.deadline(), None);
}

#[test]
fn options_change_in_a_running_session() {
    let mut wired = Wired::ready(keys("A"), &[("inbound.length", "2")]);
    let record = ("i2cp.leaseSetOption.0", "_smtp._tcp=0 86400 25");
    let options = SessionOptions::parse([("inbound.length", "1"), record]).unwrap();
    wired.client.reconfigure(options, wired.now).unwrap();
    assert_eq!(wired.settle(), [Event::Reconfigured]);
    let all: Vec<_> = wired.router.connections[0].reconfigured[0]
        .iter()
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect();
    assert_eq!(all, [("inbound.length".to_owned(), "1".to_owned())]);
    assert_eq!(wired.router.connections[0].published.len(), 2);
}

#[test]
fn the_bandwidth_limits_are_read() {
    let mut wired = Wired::ready(keys("A"), &[]);
    wired.client.ask_bandwidth_limits().unwrap();
    let limits = BandwidthLimits {
        client_in: 1,
        client_out: 2,
        router_in: 3,
        router_in_burst: 4,
        router_out: 5,
        router_out_burst: 6,
        burst_seconds: 7,
    };
    assert_eq!(wired.settle(), [Event::BandwidthLimits(limits)]);
}

#[test]
fn closing_destroys_the_session_and_open_lookups_end() {
    let mut wired = Wired::ready(keys("A"), &[]);
    let id = wired
        .client
        .lookup(Query::Name("x.i2p".into()), false, wired.now)
        .unwrap();
    wired.client.close(wired.now);
    assert_eq!(
        wired.settle(),
        [
            Event::Lookup(id, Err(LookupError::Closed)),
            Event::Closed(CloseReason::Local)
        ]
    );
    // a router that does not answer DestroySession does not hold us up
    let mut wired = Wired::ready(keys("A"), &[]);
    wired.client.close(wired.now);
    while wired.client.poll_transmit().is_some() {}
    wired.pass(secs(3));
    assert_eq!(wired.settle(), [Event::Closed(CloseReason::Local)]);
}
