//! One heap of deadlines for everything that waits. An entry may be stale (its owner has moved on): the owner is asked when it fires.
use super::peers::PeerRef;
use crate::overlay::StreamId;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

/// A deadline so near that its owner, who has moved on, will hardly want one by then.
const SOON: Duration = Duration::from_millis(30);
/// Stale entries that are not worth a search.
const FEW: usize = 64;

/// Whose deadline it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) enum Timer {
    /// Probes and checks of a peer's paths.
    Peer(PeerRef),
    /// A stream's own timers.
    Stream(StreamId),
    /// A lookup or first contact.
    Contact(Ipv6Addr),
    /// LAN beacons.
    Lan,
    /// Changes of our own interfaces that came too fast.
    Links,
    /// Registrations of others with this node.
    Relay,
    /// Our own registrations with relays.
    Registration,
    /// The search for a direct path to a peer.
    Hole(PeerRef),
    /// The look at the network that somebody has asked for.
    Netcheck,
    /// Sockets beside the main ones that nobody may need.
    Sockets,
    /// Probes of what trackers have named.
    Rendezvous,
    /// Peers that only a TURN server may lead to.
    Turn,
    /// Another uplink is used than the kernel's.
    Uplinks,
}

#[derive(Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, Timer, &'static str)>>,
    scheduled: HashMap<Timer, Instant, foldhash::quality::RandomState>,
}

impl Timers {
    /// Wakes `timer` at `at` or earlier. A later time than the one scheduled is taken up when that one fires,
    /// so that a deadline which is pushed back with every packet costs nothing.
    pub fn set(&mut self, timer: Timer, at: Instant, reason: &'static str) {
        let earlier = self
            .scheduled
            .get(&timer)
            .is_none_or(|scheduled| at < *scheduled);
        if earlier {
            self.scheduled.insert(timer, at);
            self.heap.push(Reverse((at, timer, reason)));
            self.bound();
        }
    }

    /// As [`Timers::set`], but for one that would fire soon: an acknowledgement that has left with data must not wake
    /// anybody, so a later time (or none) is taken up at once.
    pub fn replace(&mut self, now: Instant, timer: Timer, wanted: Option<(Instant, &'static str)>) {
        if let Some(scheduled) = self.scheduled.get(&timer)
            && *scheduled <= now + SOON
            && wanted.is_none_or(|(at, _)| at > *scheduled)
        {
            self.cancel(timer);
        }
        if let Some((at, reason)) = wanted {
            self.set(timer, at, reason);
        }
    }

    /// Forgets a timer whose owner is gone.
    pub fn cancel(&mut self, timer: Timer) {
        self.scheduled.remove(&timer);
        self.drop_stale();
    }

    /// The next one that is due, or `None`.
    pub fn pop(&mut self, now: Instant) -> Option<Timer> {
        self.drop_stale();
        let Reverse((at, timer, _)) = *self.heap.peek()?;
        if at > now {
            return None;
        }
        self.heap.pop();
        self.scheduled.remove(&timer);
        self.drop_stale();
        Some(timer)
    }

    /// The earliest deadline and its reason.
    pub fn next(&self) -> Option<(Instant, &'static str)> {
        self.heap
            .peek()
            .map(|Reverse((at, _, reason))| (*at, *reason))
    }

    /// Entries that mean nothing any more are at most as many as those that do.
    fn bound(&mut self) {
        if self.heap.len() > 2 * self.scheduled.len() + FEW {
            let scheduled = &self.scheduled;
            self.heap
                .retain(|Reverse((at, timer, _))| scheduled.get(timer) == Some(at));
        }
    }

    fn drop_stale(&mut self) {
        while let Some(Reverse((at, timer, _))) = self.heap.peek() {
            if self.scheduled.get(timer) == Some(at) {
                return;
            }
            self.heap.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fires_in_order_and_forgets_what_was_cancelled() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let (a, b) = (Timer::Stream(StreamId(1)), Timer::Stream(StreamId(2)));
        let mut timers = Timers::default();
        timers.set(a, at(30), "a");
        timers.set(b, at(20), "b");
        timers.set(a, at(10), "a sooner");
        timers.set(a, at(40), "a later: taken up when it fires");
        assert_eq!(timers.next(), Some((at(10), "a sooner")));
        assert_eq!(timers.pop(at(5)), None);
        assert_eq!(timers.pop(at(10)), Some(a));
        timers.cancel(b);
        assert_eq!(timers.next(), None, "nothing stale is left to wake for");
        assert_eq!(timers.pop(at(100)), None);
    }

    #[test]
    fn nobody_wakes_for_what_is_no_longer_wanted() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let stream = Timer::Stream(StreamId(1));
        let mut timers = Timers::default();
        timers.set(stream, at(1), "an acknowledgement");
        timers.replace(start, stream, Some((at(200), "a tail-loss probe")));
        assert_eq!(timers.next(), Some((at(200), "a tail-loss probe")));
        timers.replace(
            start,
            stream,
            Some((at(300), "later: taken up when it fires")),
        );
        assert_eq!(timers.next(), Some((at(200), "a tail-loss probe")));
        timers.replace(at(190), stream, None);
        assert_eq!(timers.next(), None);
        for ms in 0..10_000 {
            timers.replace(at(ms), stream, Some((at(ms + 20), "again and again")));
        }
        assert!(timers.heap.len() <= 2 + FEW, "{}", timers.heap.len());
    }
}
