//! What waits for a session, or for the destination behind a hash: connects, datagrams, pings.
use anode_i2cp::client::LookupId;
use anode_i2cp::destination::Hash;
use std::collections::HashMap;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use crate::overlay::{Failure, StreamId};

/// Things that wait, and the bytes of datagrams among them.
const MOST: usize = 1024;
const MOST_BYTES: usize = 1 << 20;
/// Datagrams and pings that wait for one destination.
const MOST_PACKETS: usize = 16;
/// Nothing waits for longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// One thing that waits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Waiter {
    /// A stream of a program.
    Stream(StreamId),
    /// A datagram.
    Datagram {
        from_port: u16,
        to_port: u16,
        payload: Vec<u8>,
    },
    /// An echo request, by the caller's token.
    Ping { token: u64, payload: Vec<u8> },
}

impl Waiter {
    fn bytes(&self) -> usize {
        match self {
            Self::Stream(_) => 0,
            Self::Datagram { payload, .. } | Self::Ping { payload, .. } => payload.len(),
        }
    }
}

/// By which of our destinations, and to whom.
pub(super) type Way = (usize, Hash);

#[derive(Debug)]
struct Line {
    address: Ipv6Addr,
    until: Instant,
    lookup: Option<LookupId>,
    waiters: Vec<Waiter>,
}

#[derive(Debug, Default)]
pub(super) struct Waiting {
    lines: HashMap<Way, Line>,
    count: usize,
    bytes: usize,
    /// What found no place.
    pub(super) dropped: u64,
}

impl Waiting {
    pub(super) fn add(&mut self, way: Way, waiter: Waiter, now: Instant) -> Result<(), Failure> {
        let bytes = waiter.bytes();
        let line = self.lines.get(&way);
        let packets = line.map_or(0, |line| {
            let is_packet = |one: &&Waiter| !matches!(one, Waiter::Stream(_));
            line.waiters.iter().filter(is_packet).count()
        });
        let is_stream = matches!(waiter, Waiter::Stream(_));
        if self.count >= MOST
            || self.bytes + bytes > MOST_BYTES
            || (!is_stream && packets >= MOST_PACKETS)
        {
            self.dropped += 1;
            return Err(Failure::Busy);
        }
        self.count += 1;
        self.bytes += bytes;
        self.lines
            .entry(way)
            .or_insert_with(|| Line {
                address: way.1.synthetic_address(),
                until: now + PATIENCE,
                lookup: None,
                waiters: Vec::new(),
            })
            .waiters
            .push(waiter);
        Ok(())
    }

    /// Everybody who waits there.
    pub(super) fn take(&mut self, way: &Way) -> Vec<Waiter> {
        let Some(line) = self.lines.remove(way) else {
            return Vec::new();
        };
        self.count -= line.waiters.len();
        self.bytes -= line.waiters.iter().map(Waiter::bytes).sum::<usize>();
        line.waiters
    }

    /// A stream that nobody wants any more.
    pub(super) fn forget(&mut self, way: &Way, stream: StreamId) {
        if let Some(line) = self.lines.get_mut(way) {
            let before = line.waiters.len();
            line.waiters
                .retain(|waiter| *waiter != Waiter::Stream(stream));
            self.count -= before - line.waiters.len();
        }
    }

    /// All ways of one of our destinations, with whether a lookup is under way.
    pub(super) fn of(&self, local: usize) -> Vec<(Way, bool)> {
        let own = self.lines.iter().filter(|((index, _), _)| *index == local);
        own.map(|(way, line)| (*way, line.lookup.is_some()))
            .collect()
    }

    pub(super) fn is_asked(&self, way: &Way) -> bool {
        self.lines
            .get(way)
            .is_some_and(|line| line.lookup.is_some())
    }

    pub(super) fn asked(&mut self, way: &Way, lookup: LookupId) {
        if let Some(line) = self.lines.get_mut(way) {
            line.lookup = Some(lookup);
        }
    }

    /// The session is gone, and with it what it was asked.
    pub(super) fn unasked(&mut self, local: usize) {
        for ((index, _), line) in &mut self.lines {
            if *index == local {
                line.lookup = None;
            }
        }
    }

    /// Who asked this.
    pub(super) fn by_lookup(&self, local: usize, lookup: LookupId) -> Option<Way> {
        let mut lines = self.lines.iter();
        lines
            .find(|((index, _), line)| *index == local && line.lookup == Some(lookup))
            .map(|(way, _)| *way)
    }

    /// Ways on which it has taken too long.
    pub(super) fn overdue(&self, now: Instant) -> Vec<Way> {
        let late = self.lines.iter().filter(|(_, line)| line.until <= now);
        late.map(|(way, _)| *way).collect()
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.lines.values().map(|line| line.until).min()
    }

    pub(super) fn address(&self, way: &Way) -> Option<Ipv6Addr> {
        self.lines.get(way).map(|line| line.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_in_number_and_bytes_and_leaves_together() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        let way = (0, Hash([1; 32]));
        let datagram = |bytes| Waiter::Datagram {
            from_port: 1,
            to_port: 2,
            payload: vec![0; bytes],
        };
        waiting.add(way, Waiter::Stream(StreamId(1)), now).unwrap();
        for _ in 0..MOST_PACKETS {
            waiting.add(way, datagram(10), now).unwrap();
        }
        assert_eq!(waiting.add(way, datagram(10), now), Err(Failure::Busy));
        waiting.add(way, Waiter::Stream(StreamId(2)), now).unwrap();
        waiting.forget(&way, StreamId(1));
        assert_eq!(waiting.take(&way).len(), MOST_PACKETS + 1);
        assert_eq!((waiting.count, waiting.bytes), (0, 0));
        assert!(waiting.take(&way).is_empty());
        let mut added = 0;
        for n in 0..200u8 {
            let way = (0, Hash([n; 32]));
            added += usize::from(waiting.add(way, datagram(60_000), now).is_ok());
        }
        assert_eq!(added, MOST_BYTES / 60_000);
        assert!(waiting.dropped > 100);
        assert_eq!(waiting.deadline(), Some(now + PATIENCE));
        assert_eq!(waiting.overdue(now + PATIENCE).len(), added);
    }
}
