//! Whatever messages come and whatever the program calls: no panic, bounded memory, bounded answers.
mod sim;

use anode_stream::{Algorithm, CloseReason, Config, Event, Stream};
use anode_wire::message::{Acks, Links, StreamMessage};
use proptest::prelude::*;
use sim::LINKS;
use std::time::{Duration, Instant};

const WINDOW: usize = 64 * 1024;
const BACK: Links = Links {
    sender: LINKS.receiver,
    receiver: LINKS.sender,
};
const ISN: u32 = u32::MAX - 3;
const PEER_ISN: u32 = u32::MAX - 40;

/// A number near one of the two sequences, or anything.
fn number() -> impl Strategy<Value = u32> {
    prop_oneof![
        4 => (-3i32..80).prop_map(|d| PEER_ISN.wrapping_add_signed(d)),
        4 => (-3i32..80).prop_map(|d| ISN.wrapping_add_signed(d)),
        1 => any::<u32>(),
    ]
}

#[derive(Clone, Debug)]
enum Op {
    Open(u16, u32, u8),
    Close(u8, u32, u32),
    Data(u32, usize),
    Acks(u16, Vec<(u32, u8)>),
    Dack(u16, u32, u8, u32, usize),
    Reset(u32),
    Ecn,
    Write(usize),
    Read(usize),
    Finish,
    Abort,
    Accept,
    Wait(u64),
    NextDeadline,
    Transmit(usize),
    Resume,
    Limits(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        1 => (any::<u16>(), number(), any::<u8>()).prop_map(|(w, n, f)| Op::Open(w, n, f)),
        2 => (prop_oneof![4 => Just(0u8), 1 => any::<u8>()], number(), number()).prop_map(|(r, i, n)| Op::Close(r, i, n)),
        8 => (number(), 0usize..3000).prop_map(|(n, l)| Op::Data(n, l)),
        8 => (0u16..80, prop::collection::vec((number(), any::<u8>()), 1..12)).prop_map(|(w, a)| Op::Acks(w, a)),
        3 => (any::<u16>(), number(), any::<u8>(), number(), 0usize..1500).prop_map(|(w, a, c, n, l)| Op::Dack(w, a, c, n, l)),
        1 => number().prop_map(Op::Reset),
        1 => Just(Op::Ecn),
        5 => (0usize..20_000).prop_map(Op::Write),
        5 => (0usize..20_000).prop_map(Op::Read),
        1 => Just(Op::Finish),
        1 => Just(Op::Abort),
        2 => Just(Op::Accept),
        4 => (0u64..3_000).prop_map(Op::Wait),
        4 => Just(Op::NextDeadline),
        8 => (0usize..1500).prop_map(Op::Transmit),
        1 => Just(Op::Resume),
        1 => (0usize..200_000).prop_map(Op::Limits),
    ]
}

fn config() -> Config {
    Config {
        initial_window: 16 * 1024,
        max_window: WINDOW,
        max_send_buffer: WINDOW,
        ..Config::default()
    }
}

fn apply(stream: &mut Stream, now: &mut Instant, op: &Op) {
    let bytes = [0x5a; 20_000];
    match op {
        Op::Open(window, isn, flags) => {
            stream.handle(
                *now,
                &StreamMessage::Open {
                    links: BACK,
                    window: *window,
                    isn: *isn,
                    flags: *flags,
                },
            );
        }
        Op::Close(reason, initial, sequence) => {
            let (initial, sequence) = (*initial, *sequence);
            stream.handle(
                *now,
                &StreamMessage::Close {
                    links: BACK,
                    flags: 0,
                    reason: *reason,
                    initial,
                    sequence,
                },
            );
        }
        Op::Data(sequence, len) => {
            stream.handle(
                *now,
                &StreamMessage::Data {
                    links: BACK,
                    sequence: *sequence,
                    payload: &bytes[..*len],
                },
            );
        }
        Op::Acks(window, ranges) => {
            let wire: Vec<u8> = ranges
                .iter()
                .flat_map(|(n, c)| anode_wire::message::encode_ack(*n, *c))
                .collect();
            let acks = Acks::from_bytes(&wire).expect("whole entries");
            stream.handle(
                *now,
                &StreamMessage::Ack {
                    links: BACK,
                    window: *window,
                    acks,
                },
            );
        }
        Op::Dack(window, first, count, sequence, len) => {
            let wire = anode_wire::message::encode_ack(*first, *count);
            let acks = Acks::from_bytes(&wire).expect("whole entries");
            let (window, sequence, payload) = (*window, *sequence, &bytes[..*len]);
            stream.handle(
                *now,
                &StreamMessage::Dack {
                    links: BACK,
                    window,
                    acks,
                    sequence,
                    payload,
                },
            );
        }
        Op::Reset(n) => {
            let reset = StreamMessage::Close {
                links: BACK,
                flags: 0,
                reason: 0x10,
                initial: *n,
                sequence: *n,
            };
            stream.handle_reset(*now, &reset);
        }
        Op::Ecn => stream.handle_ecn(*now),
        Op::Write(len) => {
            stream.write(*now, &bytes[..*len]);
        }
        Op::Read(len) => {
            let mut left = *len;
            stream.read(*now, &mut |b| {
                let take = left.min(b.len());
                left -= take;
                take
            });
        }
        Op::Finish => stream.finish(*now),
        Op::Abort => stream.abort(*now, CloseReason::Reset),
        Op::Accept => stream.accept(*now),
        Op::Wait(ms) => {
            *now += Duration::from_millis(*ms);
            stream.handle_timeout(*now);
        }
        Op::NextDeadline => {
            if let Some((at, _)) = stream.deadline() {
                *now = at.max(*now);
                stream.handle_timeout(*now);
            }
        }
        Op::Transmit(max) => {
            let mut messages = 0;
            while let Some(transmit) = stream.poll_transmit(*now, *max) {
                let message = transmit.message();
                let mut out = vec![0; message.len()];
                message.emit(&mut out);
                assert_eq!(
                    StreamMessage::parse(message.kind(), &out).as_ref(),
                    Ok(message)
                );
                messages += 1;
                assert!(messages < 20_000, "poll_transmit does not end");
            }
        }
        Op::Resume => stream.resume(*now),
        Op::Limits(bytes) => stream.set_limits(*bytes, *bytes),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_messages_and_calls_never_panic_and_memory_stays_bounded(
        start in 0u8..4,
        newreno in any::<bool>(),
        ops in prop::collection::vec(op(), 1..150),
    ) {
        // S24
        let mut now = Instant::now();
        let congestion = if newreno { Algorithm::NewReno } else { Algorithm::Cubic };
        let config = Config { congestion, ..config() };
        let mut stream = match start {
            0 => Stream::open(&config, now, LINKS, 1, ISN),
            1 => Stream::incoming(&config, now, LINKS, 20, PEER_ISN, ISN),
            _ => {
                let mut stream = Stream::open(&config, now, LINKS, 1, ISN);
                apply(&mut stream, &mut now, &Op::Transmit(1200));
                apply(&mut stream, &mut now, &Op::Open(64, PEER_ISN, 1));
                stream
            }
        };
        let mut ended = false;
        for op in &ops {
            apply(&mut stream, &mut now, op);
            // Both rings, what is out of order, the tables of packets; a power of two each.
            prop_assert!(stream.memory() < 12 * 200_000, "{} bytes after {op:?}", stream.memory());
            while let Some(event) = stream.poll_event() {
                prop_assert!(!ended, "{event:?} after Closed");
                ended = event == Event::Closed;
            }
        }
    }
}

#[test]
fn a_flood_beyond_the_window_is_dropped_and_counted() {
    // S24, D33
    let now = Instant::now();
    let config = config();
    let mut stream = Stream::incoming(&config, now, LINKS, 64, 100, 500);
    stream.accept(now);
    for i in 0..200_000u32 {
        stream.handle(
            now,
            &StreamMessage::Data {
                links: BACK,
                sequence: 102 + i,
                payload: &[0; 1000],
            },
        );
    }
    let counters = stream.counters();
    assert!(
        counters.out_of_order <= 16 && counters.beyond_window >= 199_984,
        "{counters:?}"
    );
    assert!(stream.memory() < 100_000, "{}", stream.memory());
    // Empty packets use no window; the span bounds them.
    for i in 0..200_000u32 {
        stream.handle(
            now,
            &StreamMessage::Data {
                links: BACK,
                sequence: 102 + 2 * i,
                payload: &[],
            },
        );
    }
    assert!(stream.memory() < 3_000_000, "{}", stream.memory());
    let mut messages = 0;
    while stream.poll_transmit(now, 1204).is_some() {
        messages += 1;
    }
    assert!(messages < 20, "{messages} answers to one batch");
}

#[test]
fn a_sender_of_single_bytes_is_bounded() {
    let now = Instant::now();
    let mut stream = Stream::open(&Config::default(), now, LINKS, 1, 1);
    assert!(stream.poll_transmit(now, 1204).is_some());
    stream.handle(
        now,
        &StreamMessage::Open {
            links: BACK,
            window: 65_535,
            isn: 9,
            flags: 1,
        },
    );
    for _ in 0..100_000 {
        stream.write(now, b"x");
        while stream.poll_transmit(now, 1204).is_some() {}
    }
    assert!(stream.memory() < 4_000_000, "{}", stream.memory());
}
