//! A router that does as it likes.
use super::*;
use proptest::prelude::*;

/// Every message that a router can send, whole, for the session 100.
fn whole() -> Vec<(u8, Vec<u8>)> {
    let own = keys("A").destination().as_bytes().to_vec();
    vec![
        (20, vec![0, 100, 2]),
        (21, [&[0, 100, 1][..], &[7; 36], &[0xff; 8]].concat()),
        (22, vec![0, 100, 0, 0, 0, 2, 4, 0, 0, 0, 5, 0, 0, 0, 7]),
        (23, vec![1; 64]),
        (30, b"\x03bye".to_vec()),
        (31, [&[0, 100, 0, 0, 0, 9, 0, 0, 0, 3][..], b"abc"].concat()),
        (33, b"\0\0\x01\x8b\xcf\xe5\x68\x00\x060.9.66".to_vec()),
        (35, own.clone()),
        (37, [&[0, 100, 1][..], &[7; 36], &[0xff; 8]].concat()),
        (39, [&[0, 100, 0, 0, 0, 9, 0][..], &own].concat()),
        (99, vec![1; 20]),
    ]
}

/// How far the session is when the message comes.
fn in_phase(phase: Phase) -> Wired {
    let mut wired = match phase {
        Phase::Connecting => Wired::new(keys("A"), &[]),
        Phase::Building => {
            let mut wired = Wired::new(keys("A"), &[]);
            wired.settle();
            wired
        }
        Phase::Ready | Phase::Closed => Wired::ready(keys("A"), &[]),
    };
    if phase == Phase::Closed {
        wired.client.close(wired.now);
    }
    assert_eq!(wired.client.phase(), phase);
    wired.cut = true;
    wired
}

// S37
#[test]
fn every_message_at_every_length_ends_the_session_with_a_reason_or_changes_nothing() {
    let (mut ended, mut borne) = (0, 0);
    for phase in [
        Phase::Connecting,
        Phase::Building,
        Phase::Ready,
        Phase::Closed,
    ] {
        let mut wired = in_phase(phase);
        for (kind, body) in whole() {
            // the long ones have one field of hundreds of bytes
            let lengths = (0..body.len()).filter(|n| *n < 60 || n % 37 == 0);
            for length in lengths.chain([body.len() + 1, body.len() + 300]) {
                let mut cut = body.clone();
                cut.resize(length, 0);
                wired.client.received(&frame(kind, &cut), wired.now);
                let mut events = Vec::new();
                while let Some(event) = wired.client.poll_event() {
                    events.push(event);
                }
                let what = format!("{phase:?} {kind} {length}: {events:?}");
                assert!(events.len() <= 2, "{what}");
                match events.last() {
                    Some(Event::Closed(reason)) => {
                        ended += 1;
                        assert!(!reason.to_string().is_empty(), "{what}");
                        assert_eq!(wired.client.deadline(), None, "{what}");
                        wired = in_phase(phase);
                    }
                    _ => {
                        borne += 1;
                        if wired.client.phase() != phase {
                            wired = in_phase(phase);
                        }
                    }
                }
            }
        }
    }
    assert!(ended > 500 && borne > 50, "{ended} {borne}");
}

// S37
#[test]
fn a_router_that_asks_and_never_reads_costs_no_memory() {
    for (options, kind, body) in [
        (
            &[][..],
            37,
            [&[0, 100, 1][..], &[7; 36], &[0, 0, 1, 0x8c, 0, 0, 0, 0]].concat(),
        ),
        (
            &[("i2cp.fastReceive", "false")][..],
            31,
            vec![0, 100, 0, 0, 0, 9, 0, 0, 0, 1, 7],
        ),
        (
            &[("i2cp.fastReceive", "false")][..],
            22,
            vec![0, 100, 0, 0, 0, 2, 0, 0, 0, 0, 5, 0, 0, 0, 0],
        ),
    ] {
        let mut wired = Wired::ready(keys("A"), options);
        for _ in 0..120_000 {
            wired.client.received(&frame(kind, &body), wired.now);
            while wired.client.poll_event().is_some() {}
            if wired.client.counters().queue_full > 0 {
                break;
            }
        }
        assert!(wired.client.counters().queue_full > 0, "{kind}");
        assert!(wired.client.queued <= MOST_QUEUED + 1000, "{kind}");
    }
}

// S37
#[test]
fn a_session_that_the_router_ends_says_why() {
    for (kind, body, wanted) in [
        (
            30,
            &b"\x08a\x1b[31mzz"[..],
            CloseReason::Disconnected("a·[31mzz".into()),
        ),
        (20, &[0, 100, 0][..], CloseReason::Destroyed),
        (20, &[0, 100, 3][..], CloseReason::Invalid),
    ] {
        let mut wired = Wired::ready(keys("A"), &[]);
        wired.router.say(0, kind, body);
        assert_eq!(wired.settle(), [Event::Closed(wanted)]);
        wired.router.say(0, 31, &[0; 10]);
        assert_eq!(wired.settle(), []);
    }
    let mut wired = Wired::ready(keys("A"), &[]);
    wired.client.connection_lost();
    wired.client.connection_lost();
    assert_eq!(wired.settle(), [Event::Closed(CloseReason::ConnectionLost)]);
}

#[test]
fn the_same_destination_twice_is_refused_by_the_router_and_reported() {
    let mut wired = Wired::ready(keys("A"), &[]);
    let at = wired.router.accept();
    let mut second = Client::new(
        keys("A"),
        SessionOptions::default(),
        None,
        [2; 32],
        wired.now,
    )
    .unwrap();
    for _ in 0..3 {
        while let Some(bytes) = second.poll_transmit() {
            wired.router.received(at, &bytes, wired.now);
        }
        let bytes = std::mem::take(&mut wired.router.connections[at].to_client);
        second.received(&bytes, wired.now);
    }
    assert_eq!(
        second.poll_event(),
        Some(Event::Closed(CloseReason::Invalid))
    );
}

// S37
#[test]
fn a_silent_router_is_given_up_at_every_stage() {
    let mut wired = Wired::new(keys("A"), &[]);
    wired.cut = true;
    wired.pass(secs(31));
    assert_eq!(
        wired.settle(),
        [Event::Closed(CloseReason::TimedOut("GetDate"))]
    );
    let mut wired = Wired::new(keys("A"), &[]);
    wired.cut = true;
    wired
        .client
        .received(&frame(33, b"\0\0\x01\x8b\xcf\xe5\x68\0\x01x"), wired.now);
    wired.pass(secs(31));
    assert_eq!(
        wired.settle(),
        [Event::Closed(CloseReason::TimedOut("CreateSession"))]
    );
    let mut wired = Wired::new(keys("A"), &[]);
    wired.settle();
    wired.pass(secs(300));
    assert_eq!(wired.settle(), []);
    wired.pass(secs(31));
    let events = wired.settle();
    assert!(
        matches!(events[..], [Event::Closed(CloseReason::TimedOut(_))]),
        "{events:?}"
    );
}

// S37
#[test]
fn a_silent_router_does_not_keep_a_session_that_closes_awake() {
    let mut wired = Wired::ready(keys("A"), &[]);
    wired.cut = true;
    // a second before the first lease set would be sent again
    wired.pass(secs(4));
    wired.client.close(wired.now);
    wired.pass(secs(3));
    assert_eq!(wired.settle(), [Event::Closed(CloseReason::Local)]);
}

// S37
#[test]
fn messages_for_another_session_change_nothing() {
    let mut wired = Wired::ready(keys("A"), &[]);
    for (kind, body) in [
        (20, vec![0, 99, 0]),
        (20, vec![0, 99, 3]),
        (31, vec![0, 99, 0, 0, 0, 1, 0, 0, 0, 1, 7]),
        (22, vec![0, 99, 0, 0, 0, 2, 4, 0, 0, 0, 5, 0, 0, 0, 7]),
        // as if the session had another number now, or a second one were there
        (20, vec![0, 99, 1]),
        (20, vec![0, 99, 2]),
        (37, [&[0, 99, 1][..], &[7; 36], &[0xff; 8]].concat()),
        (21, [&[0, 99, 1][..], &[7; 36], &[0xff; 8]].concat()),
    ] {
        wired.router.say(0, kind, &body);
    }
    assert_eq!(wired.settle(), []);
    assert_eq!(wired.client.phase(), Phase::Ready);
    assert_eq!(wired.client.counters().foreign_session, 8);
    assert_eq!(wired.router.connections[0].published.len(), 1);
    // nor does the word that the session was made, once it is
    wired.router.say(0, 20, &[0, 100, 1]);
    assert_eq!(wired.settle(), []);
    assert_eq!(wired.client.counters().misplaced, 1);
}

// S37
#[test]
fn messages_before_their_time_change_nothing() {
    let mut wired = Wired::new(keys("A"), &[]);
    for (kind, body) in [
        (20, vec![0, 100, 1]),
        (31, vec![0, 100, 0, 0, 0, 1, 0, 0, 0, 1, 7]),
        (37, hex("/request_variable_leaseset")[5..].to_vec()),
        (22, vec![0, 100, 0, 0, 0, 2, 4, 0, 0, 0, 5, 0, 0, 0, 7]),
        (99, vec![1, 2, 3]),
    ] {
        wired.client.received(&frame(kind, &body), wired.now);
    }
    assert_eq!(wired.client.poll_event(), None);
    assert_eq!(wired.client.phase(), Phase::Connecting);
    let counters = wired.client.counters();
    assert_eq!((counters.misplaced, counters.unknown), (4, 1));
}

// S37
#[test]
fn a_malformed_message_closes_with_its_name() {
    let mut wired = Wired::ready(keys("A"), &[]);
    wired.router.say(0, 20, &[0, 100]);
    let events = wired.settle();
    let [Event::Closed(reason @ CloseReason::Protocol(_))] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!(
        reason.to_string(),
        "the router broke the protocol: a SessionStatus message is cut short"
    );
    assert_eq!(wired.router.connections[0].said, [reason.to_string()]);
}

proptest! {
    // S37
    #[test]
    fn noise_from_the_router_never_panics_and_never_grows(
        messages in proptest::collection::vec((0u8..45, proptest::collection::vec(any::<u8>(), 0..80)), 0..30),
        ready: bool, cut in 1usize..50,
    ) {
        let mut wired = if ready { Wired::ready(keys("A"), &[]) } else { Wired::new(keys("A"), &[]) };
        let bytes: Vec<u8> = messages.iter().flat_map(|(kind, body)| frame(*kind, body)).collect();
        for piece in bytes.chunks(cut) {
            wired.client.received(piece, wired.now);
        }
        let mut events = 0;
        while wired.client.poll_event().is_some() { events += 1; }
        prop_assert!(events <= messages.len() + 1);
        wired.client.handle_timeout(wired.now + secs(10_000));
    }
}
