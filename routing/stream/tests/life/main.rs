//! Opening, closing, refusing, resetting, stalling: the life of a stream as its program sees it.
mod closing;
mod opening;
#[path = "../sim/mod.rs"]
mod sim;
mod windows;

use anode_stream::{CloseReason, Config, Event, Stream, refusal_for, reset_for};
use anode_wire::message::{Acks, Links, StreamMessage, encode_ack};
use sim::{Answer, LINKS, Link, Sim};
use std::time::{Duration, Instant};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const fn s(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn lan() -> Link {
    Link::new(100_000_000, ms(5))
}

/// What `poll_transmit` says next, in words.
fn next(stream: &mut Stream, now: Instant) -> Option<String> {
    stream
        .poll_transmit(now, 1204)
        .map(|t| sim::describe(t.message()))
}

fn all(stream: &mut Stream, now: Instant) -> Vec<String> {
    std::iter::from_fn(|| next(stream, now)).collect()
}

fn events(stream: &mut Stream) -> Vec<Event> {
    std::iter::from_fn(|| stream.poll_event()).collect()
}

const BACK: Links = Links {
    sender: LINKS.receiver,
    receiver: LINKS.sender,
};

/// An opened stream, ISN 100, whose peer has ISN 500 and a window of `window` KiB; the handshake is over.
fn opened(now: Instant, window: u16) -> Stream {
    let mut stream = Stream::open(&Config::default(), now, LINKS, 1, 100);
    assert_eq!(all(&mut stream, now), ["OPEN 100 window 256"]);
    stream.handle(
        now,
        &StreamMessage::Open {
            links: BACK,
            window,
            isn: 500,
            flags: 1,
        },
    );
    assert_eq!(
        all(&mut stream, now),
        [""; 0],
        "it waits for the first data"
    );
    stream.hurry(now);
    assert_eq!(all(&mut stream, now), ["ACK [(500, 1)] window 256"]);
    assert_eq!(events(&mut stream), [Event::Opened]);
    stream
}

fn ack(stream: &mut Stream, now: Instant, window: u16, ranges: &[(u32, u8)]) {
    let bytes: Vec<u8> = ranges
        .iter()
        .flat_map(|&(first, count)| encode_ack(first, count))
        .collect();
    let acks = Acks::from_bytes(&bytes).expect("whole entries");
    stream.handle(
        now,
        &StreamMessage::Ack {
            links: BACK,
            window,
            acks,
        },
    );
}

fn data(stream: &mut Stream, now: Instant, sequence: u32, payload: &[u8]) {
    stream.handle(
        now,
        &StreamMessage::Data {
            links: BACK,
            sequence,
            payload,
        },
    );
}

fn close(stream: &mut Stream, now: Instant, reason: u8, initial: u32, sequence: u32) {
    stream.handle(
        now,
        &StreamMessage::Close {
            links: BACK,
            flags: 0,
            reason,
            initial,
            sequence,
        },
    );
}
