//! Channels, and the five minutes that a number rests after its binding (T43).

use std::collections::HashMap;
use std::collections::hash_map::Entry::Vacant;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::frame::Channel;

/// RFC 8656 §12: how long a binding stands.
const LIFETIME: Duration = Duration::from_secs(600);
/// When it is renewed.
const REFRESH: Duration = Duration::from_secs(540);
/// How long neither number nor peer may take another partner after it expired.
const REST: Duration = Duration::from_secs(300);
const FIRST: u16 = 0x4000;
const LAST: u16 = 0x4FFF;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Has a number, and nothing asked yet.
    Claimed,
    Asked,
    /// Stands; renewed at `refresh_at` unless that is `None`: being renewed, or not wanted any more.
    Bound {
        expires: Instant,
        refresh_at: Option<Instant>,
    },
    /// Refused, or no longer wanted and expired: rests until then.
    Resting {
        until: Instant,
    },
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    channel: Channel,
    state: State,
}

/// All channels of an allocation.
#[derive(Debug, Default)]
pub(super) struct Channels {
    by_peer: HashMap<SocketAddr, Entry>,
    by_number: HashMap<Channel, SocketAddr>,
    next: u16,
}

impl Channels {
    /// The number of this peer: the one it had, while that rests, else a free one. `None`: all are taken.
    pub fn claim(&mut self, now: Instant, peer: SocketAddr) -> Option<Channel> {
        self.sweep(now);
        if let Some(entry) = self.by_peer.get_mut(&peer) {
            if matches!(entry.state, State::Resting { .. }) {
                entry.state = State::Claimed;
            }
            return Some(entry.channel);
        }
        for _ in FIRST..=LAST {
            let number = FIRST + self.next % (LAST - FIRST + 1);
            self.next = self.next.wrapping_add(1);
            let channel = Channel::new(number)?;
            if let Vacant(free) = self.by_number.entry(channel) {
                free.insert(peer);
                let state = State::Claimed;
                self.by_peer.insert(peer, Entry { channel, state });
                return Some(channel);
            }
        }
        None
    }

    fn sweep(&mut self, now: Instant) {
        let numbers = &mut self.by_number;
        self.by_peer.retain(|_, entry| {
            if let State::Bound { expires, .. } = entry.state
                && expires <= now
            {
                entry.state = State::Resting {
                    until: expires + REST,
                };
            }
            let free = matches!(entry.state, State::Resting { until } if until <= now);
            if free {
                numbers.remove(&entry.channel);
            }
            !free
        });
    }

    /// Whether a ChannelBind is to be sent for this peer now; it counts as sent.
    pub fn begin(&mut self, peer: SocketAddr) -> bool {
        match self.by_peer.get_mut(&peer) {
            Some(entry) if entry.state == State::Claimed => {
                entry.state = State::Asked;
                true
            }
            _ => false,
        }
    }

    /// The server has bound it.
    pub fn bound(&mut self, now: Instant, peer: SocketAddr) {
        if let Some(entry) = self.by_peer.get_mut(&peer) {
            entry.state = State::Bound {
                expires: now + LIFETIME,
                refresh_at: Some(now + REFRESH),
            };
        }
    }

    /// The server refuses. It may have bound it all the same, so the number rests.
    pub fn refused(&mut self, now: Instant, peer: SocketAddr) {
        if let Some(entry) = self.by_peer.get_mut(&peer) {
            entry.state = State::Resting {
                until: now + LIFETIME + REST,
            };
        }
    }

    /// Stops renewing.
    pub fn release(&mut self, peer: IpAddr) {
        for (_, entry) in self.by_peer.iter_mut().filter(|(p, _)| p.ip() == peer) {
            if let State::Bound { refresh_at, .. } = &mut entry.state {
                *refresh_at = None;
            }
        }
    }

    /// The channel to send on, if it stands.
    pub fn of(&self, now: Instant, peer: &SocketAddr) -> Option<Channel> {
        let entry = self.by_peer.get(peer)?;
        matches!(entry.state, State::Bound { expires, .. } if now < expires)
            .then_some(entry.channel)
    }

    /// Whose channel this is, if it stands or is being bound: the server may use it before its answer is here.
    pub fn peer(&self, now: Instant, channel: Channel) -> Option<SocketAddr> {
        let peer = *self.by_number.get(&channel)?;
        let live = match self.by_peer.get(&peer)?.state {
            State::Bound { expires, .. } => now < expires,
            State::Asked => true,
            State::Claimed | State::Resting { .. } => false,
        };
        live.then_some(peer)
    }

    /// Those to be renewed now; they count as asked.
    pub fn due(&mut self, now: Instant) -> Vec<(Channel, SocketAddr)> {
        self.sweep(now);
        let mut due = Vec::new();
        for (peer, entry) in &mut self.by_peer {
            if let State::Bound { refresh_at, .. } = &mut entry.state
                && refresh_at.is_some_and(|at| at <= now)
            {
                *refresh_at = None;
                due.push((entry.channel, *peer));
            }
        }
        due
    }

    /// When something is due.
    pub fn deadline(&self) -> Option<Instant> {
        let at = |entry: &Entry| match entry.state {
            State::Bound {
                expires,
                refresh_at,
            } => Some(refresh_at.unwrap_or(expires)),
            State::Resting { until } => Some(until),
            State::Claimed | State::Asked => None,
        };
        self.by_peer.values().filter_map(at).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    // T43
    #[test]
    fn a_number_and_its_peer_rest_five_minutes() {
        let (start, mut channels) = (Instant::now(), Channels::default());
        let number = channels.claim(start, peer(1)).unwrap();
        assert!(
            channels.begin(peer(1)) && !channels.begin(peer(1)),
            "asked once"
        );
        channels.bound(start, peer(1));
        channels.release(peer(1).ip());
        let at = |s| start + Duration::from_secs(s);
        assert_eq!(channels.of(at(599), &peer(1)), Some(number));
        assert_eq!(channels.of(at(600), &peer(1)), None, "expired");
        assert_eq!(channels.peer(at(600), number), None);
        channels.next = 0;
        assert_ne!(
            channels.claim(at(899), peer(2)),
            Some(number),
            "the number rests"
        );
        assert_eq!(
            channels.claim(at(899), peer(1)),
            Some(number),
            "the same pair may be bound again at once"
        );
        channels.refused(at(899), peer(1));
        channels.next = 0;
        assert_eq!(
            channels.claim(at(899 + 900), peer(3)),
            Some(number),
            "free after its lifetime and five minutes"
        );
    }

    // T16: only the range of RFC 8656, and an end to it
    #[test]
    fn numbers_run_out() {
        let (now, mut channels) = (Instant::now(), Channels::default());
        for i in 0..4096 {
            let channel = channels.claim(now, peer(i)).unwrap();
            assert!(channel.is_current());
        }
        assert_eq!(channels.claim(now, peer(5000)), None);
    }
}
