//! Bytes of a local TCP connection in the units of a conversation.
//!
//! Units are datagrams, in TUNNELs as over DTLS: they may be lost, and overtake each other. So a connection is a stream of Anode
//! 0.8 §5, which needs no more than that, and each unit is one of its messages: type (1) ‖ body. The side whose program has
//! connected opens; its number for the connection is `sender`, the application's number `receiver`. A unit of the one byte 0
//! keeps the conversation while nobody has anything to say.
//!
//! Sans-IO as everything here: [`Bytes`] is one end of one connection.
use anode_stream::{CloseReason, Config, Pool, Stream, refusal_for, reset_for};
use anode_wire::message::{Links, StreamMessage};
use std::time::{Duration, Instant};

pub use anode_stream::Event;

/// Bytes of a message's body in one unit: a unit fits into a session's message, and into a datagram of DTLS.
const MAX_BODY: usize = 1100;
/// Bytes that one connection holds in each direction.
const WINDOW: usize = 1 << 20;
/// Bytes that all connections hold together.
const BUDGET: usize = 32 << 20;
/// A connection that both sides have closed answers repeats for so long.
const LINGER: Duration = Duration::from_secs(10);

/// The unit that keeps a conversation.
pub const KEEP: [u8; 1] = [0];

/// What connections share: their memory.
#[derive(Clone, Debug)]
pub struct Shared(Config);

impl Default for Shared {
    fn default() -> Self {
        Self(Config {
            max_window: WINDOW,
            max_send_buffer: WINDOW,
            linger: LINGER,
            pool: Pool::new(BUDGET),
            ..Config::default()
        })
    }
}

/// Names a connection within a conversation: the number that its opener has given it, and whether that is this side.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Number {
    /// This side has opened it.
    pub ours: bool,
    /// The opener's number.
    pub number: u16,
}

/// Which connection a unit is of, and whether it begins one. `None`: it is of none.
pub fn connection(application: u16, unit: &[u8]) -> Option<(Number, bool)> {
    let message = parse(unit)?;
    let Links { sender, receiver } = message.links();
    let ours = receiver != application;
    let number = if ours { receiver } else { sender };
    let begins = matches!(message, StreamMessage::Open { .. }) && !ours;
    Some((Number { ours, number }, begins))
}

/// What is answered to a unit of a connection that is not there, or not taken.
pub fn refuse(unit: &[u8]) -> Option<Vec<u8>> {
    let message = parse(unit)?;
    let answer = refusal_for(&message, CloseReason::Refused).or_else(|| reset_for(&message))?;
    Some(emit(&answer))
}

fn parse(unit: &[u8]) -> Option<StreamMessage<'_>> {
    let (kind, body) = unit.split_first()?;
    StreamMessage::parse(*kind, body).ok()
}

fn emit(message: &StreamMessage<'_>) -> Vec<u8> {
    let mut unit = vec![0; 1 + message.len()];
    unit[0] = message.kind();
    message.emit(&mut unit[1..]);
    unit
}

/// One end of a connection. After a batch of calls drain [`Bytes::event`] and [`Bytes::unit`], then wait until
/// [`Bytes::deadline`].
#[derive(Debug)]
pub struct Bytes(Stream);

impl Bytes {
    /// A local program has connected. `number` is this side's for it, and not the application's; `isn` is random.
    pub fn open(shared: &Shared, now: Instant, application: u16, number: u16, isn: u32) -> Self {
        let links = Links {
            sender: number,
            receiver: application,
        };
        Self(Stream::open(&shared.0, now, links, 0, isn))
    }

    /// The peer's program has connected: nothing is answered before [`Bytes::accept`] or [`Bytes::abort`]. `None`: the unit
    /// begins no connection.
    pub fn incoming(shared: &Shared, now: Instant, unit: &[u8], isn: u32) -> Option<Self> {
        let StreamMessage::Open {
            links,
            window,
            isn: theirs,
            ..
        } = parse(unit)?
        else {
            return None;
        };
        let links = Links {
            sender: links.receiver,
            receiver: links.sender,
        };
        Some(Self(Stream::incoming(
            &shared.0, now, links, window, theirs, isn,
        )))
    }

    /// The local program takes it.
    pub fn accept(&mut self, now: Instant) {
        self.0.accept(now);
    }

    /// Ends it: the local program does not take it, or has reset its connection.
    pub fn abort(&mut self, now: Instant, refused: bool) {
        let reason = match refused {
            true => CloseReason::Refused,
            false => CloseReason::Reset,
        };
        self.0.abort(now, reason);
    }

    /// A unit has come for it.
    pub fn handle(&mut self, now: Instant, unit: &[u8]) {
        if let Some(message) = parse(unit) {
            self.0.handle(now, &message);
        }
    }

    /// Timers.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.0.handle_timeout(now);
    }

    /// When [`Bytes::handle_timeout`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.0.deadline().map(|(at, _)| at)
    }

    /// What has come of it.
    pub fn event(&mut self) -> Option<Event> {
        self.0.poll_event()
    }

    /// The next unit for the peer.
    pub fn unit(&mut self, now: Instant) -> Option<Vec<u8>> {
        let transmit = self.0.poll_transmit(now, MAX_BODY)?;
        Some(emit(transmit.message()))
    }

    /// Bytes that may be written.
    pub fn room(&self) -> usize {
        self.0.write_capacity()
    }

    /// Takes bytes of the local program; how many.
    pub fn write(&mut self, now: Instant, bytes: &[u8]) -> usize {
        self.0.write(now, bytes)
    }

    /// The local program writes no more.
    pub fn finish(&mut self, now: Instant) {
        self.0.finish(now);
    }

    /// Adds what is there for the local program to `out`, until that holds `limit` bytes.
    pub fn read(&mut self, now: Instant, out: &mut Vec<u8>, limit: usize) {
        self.0.read(now, &mut |bytes| {
            let len = bytes.len().min(limit.saturating_sub(out.len()));
            out.extend_from_slice(&bytes[..len]);
            len
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};
    use std::collections::VecDeque;

    const APPLICATION: u16 = 5060;

    /// Two ends, and units between them of which some are lost and some overtake others.
    struct Line {
        now: Instant,
        rng: StdRng,
        wire: VecDeque<(Instant, usize, Vec<u8>)>,
        lost: usize,
    }

    impl Line {
        fn carry(&mut self, ends: &mut [Bytes; 2]) {
            for (to, end) in [(1, 0), (0, 1)] {
                while let Some(unit) = ends[end].unit(self.now) {
                    assert!(unit.len() <= 1 + MAX_BODY);
                    match self.rng.next_u32() % 20 {
                        0 => self.lost += 1,
                        random => {
                            let delay = Duration::from_millis(20 + u64::from(random));
                            self.wire.push_back((self.now + delay, to, unit));
                        }
                    }
                }
            }
            let timers = ends.iter().filter_map(Bytes::deadline);
            let next = self.wire.iter().map(|(at, ..)| *at).chain(timers).min();
            self.now = next.map_or(self.now, |at| at.max(self.now));
            let due: Vec<_> = (0..self.wire.len())
                .filter(|place| self.wire[*place].0 <= self.now)
                .collect();
            for place in due.into_iter().rev() {
                if let Some((_, to, unit)) = self.wire.remove(place) {
                    ends[to].handle(self.now, &unit);
                }
            }
            ends.iter_mut().for_each(|end| end.handle_timeout(self.now));
        }
    }

    // R61, R134: what a program writes comes out at the other one, whole and in order, although units are lost
    #[test]
    fn bytes_pass_through_units_that_are_lost_and_overtake_each_other() {
        let (shared, now) = (Shared::default(), Instant::now());
        let mut opener = Bytes::open(&shared, now, APPLICATION, 7, 1);
        let first = opener.unit(now).expect("it opens");
        let number = Number {
            ours: false,
            number: 7,
        };
        assert_eq!(connection(APPLICATION, &first), Some((number, true)));
        let mut server = Bytes::incoming(&shared, now, &first, 2).expect("it begins one");
        server.accept(now);
        let back = server.unit(now).expect("an answer");
        let number = Number {
            ours: true,
            number: 7,
        };
        assert_eq!(connection(APPLICATION, &back), Some((number, false)));
        opener.handle(now, &back);
        let sent: [Vec<u8>; 2] = [
            (0..300_000u32).map(|n| (n % 251) as u8).collect(),
            (0..50_000u32).map(|n| (n % 13) as u8).collect(),
        ];
        let (mut written, mut got) = ([0; 2], [Vec::new(), Vec::new()]);
        let mut ends = [opener, server];
        let mut line = Line {
            now,
            rng: StdRng::seed_from_u64(5),
            wire: VecDeque::new(),
            lost: 0,
        };
        let mut finished = [false; 2];
        for _ in 0..100_000 {
            for (n, end) in ends.iter_mut().enumerate() {
                if written[n] < sent[n].len() {
                    written[n] += end.write(line.now, &sent[n][written[n]..]);
                    if written[n] == sent[n].len() {
                        end.finish(line.now);
                    }
                }
                end.read(line.now, &mut got[n], usize::MAX);
                while let Some(event) = end.event() {
                    assert!(!matches!(event, Event::Aborted { .. }), "{event:?}");
                    finished[n] |= event == Event::Finished;
                }
            }
            if finished == [true; 2] {
                break;
            }
            line.carry(&mut ends);
        }
        assert_eq!(finished, [true; 2]);
        assert!(got[1] == sent[0] && got[0] == sent[1]);
        assert!(line.lost > 5, "{}", line.lost);
    }

    // S35: what is of no connection is refused, or has no effect
    #[test]
    fn units_of_no_connection_are_answered_with_a_reset_or_not_at_all() {
        let (shared, now) = (Shared::default(), Instant::now());
        for unit in [&[][..], &KEEP, &[0xFF; 30], b"OPTIONS"] {
            assert_eq!(connection(APPLICATION, unit), None);
            assert_eq!(refuse(unit), None);
            assert!(Bytes::incoming(&shared, now, unit, 1).is_none());
        }
        let mut opener = Bytes::open(&shared, now, APPLICATION, 7, 1);
        let first = opener.unit(now).expect("it opens");
        let refusal = refuse(&first).expect("a refusal");
        opener.handle(now, &refusal);
        let aborted = |event| matches!(event, Event::Aborted { by_peer: true, .. });
        assert!(opener.event().is_some_and(aborted));
        // Nobody answers a refusal.
        assert_eq!(refuse(&refusal), None);
        for len in 0..first.len() {
            assert!(Bytes::incoming(&shared, now, &first[..len], 1).is_none());
        }
    }
}
