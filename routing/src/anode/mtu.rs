//! How large the packets of a path may be: padded PINGs that come back show what passes (RFC 8899, D36).
//!
//! A path begins at [`INITIAL_PACKET`], which every IPv6 link carries. While traffic uses it, larger sizes are asked for; what was
//! found is asked again from time to time, and given up when a full packet no longer passes while small ones do.
use super::output::Destination;
use super::path::{INITIAL_PACKET, Path};
use super::peers::PeerRef;
use super::sealing::{Channel, Lane};
use super::{Node, Place, Sender, Transport};
use anode_wire::Message;
use anode_wire::packet::FULL_SENDER_HEADER;
use anode_wire::sealed::{SEALED_BODY, SEALED_TAIL};
use rand_core::Rng as _;
use std::time::{Duration, Instant};

/// What a link of 1,500 bytes leaves under IPv6 and UDP.
const ETHERNET: u16 = 1500 - 48;
/// The same for the 9,000 bytes of jumbo frames.
const JUMBO: u16 = 9000 - 48;
/// The same less the largest header of a TURN server's (a Send indication's to IPv6, 60 bytes), so that neither side of it has
/// to cut a packet.
const TURN: u16 = ETHERNET - 60;
/// Sizes closer than this are not told apart.
const RESOLUTION: u16 = 16;
/// Unanswered questions after which a size does not pass (RFC 8899 §5.1.2, MAX_PROBES).
const MAX_TRIES: u8 = 3;
/// What was found is asked again after this time of use (RFC 8899 §5.1.1, CONFIRMATION_TIMER).
const CONFIRM_AFTER: Duration = Duration::from_secs(60);
/// Confirmations after which larger sizes are tried anew (RFC 8899 §5.1.1, PMTU_RAISE_TIMER of 600 s).
const CONFIRMATIONS: u8 = 10;

/// The packet size of one path, and the search for a larger one.
#[derive(Clone, Copy, Debug)]
pub(super) struct PacketSize {
    usable: u16,
    /// Nothing larger is asked for.
    ceiling: u16,
    /// The smallest size that did not pass.
    refused: Option<u16>,
    confirmed: u8,
    search: Search,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Search {
    /// The next question is due when traffic uses the path.
    Due,
    /// PINGs of `size` bytes have gone out.
    Asking {
        size: u16,
        token: u64,
        tries: u8,
        next: Instant,
    },
    /// Nothing larger passes; asked again then.
    Settled { until: Instant },
}

impl Default for PacketSize {
    fn default() -> Self {
        Self {
            usable: INITIAL_PACKET,
            ceiling: u16::MAX,
            refused: None,
            confirmed: 0,
            search: Search::Due,
        }
    }
}

impl PacketSize {
    /// Of a path to this place.
    pub fn of(place: &Place) -> Self {
        let mut size = Self::default();
        if place.transport() == Transport::Turn {
            size.keep_below_turn();
        }
        size
    }

    /// A TURN server is on the way: it would send larger packets in pieces.
    pub fn keep_below_turn(&mut self) {
        self.ceiling = TURN;
    }

    /// Bytes that a packet may have.
    pub fn usable(&self) -> u16 {
        self.usable
    }

    /// When it wants `question`, if traffic uses the path.
    pub fn deadline(&self, now: Instant) -> Instant {
        match self.search {
            Search::Due => now,
            Search::Asking { next, .. } => next,
            Search::Settled { until } => until,
        }
    }

    /// The size to ask for now. `token`: what the PING begins with; `patience`: how long its answer may take.
    fn question(&mut self, now: Instant, token: u64, patience: Duration) -> Option<(u16, u64)> {
        if self.deadline(now) > now {
            return None;
        }
        let size = match &mut self.search {
            Search::Asking {
                size,
                token,
                tries,
                next,
            } if *tries < MAX_TRIES => {
                *tries += 1;
                *next = now + patience;
                return Some((*size, *token));
            }
            Search::Asking { size, .. } => {
                let refused = *size;
                self.note_refused(refused);
                self.next_size()
            }
            Search::Due => self.next_size(),
            Search::Settled { .. } => Some(self.again()),
        };
        let Some(size) = size else {
            self.search = Search::Settled {
                until: now + CONFIRM_AFTER,
            };
            return None;
        };
        self.search = Search::Asking {
            size,
            token,
            tries: 1,
            next: now + patience,
        };
        Some((size, token))
    }

    /// A size does not pass. If it is the one in use, that is over.
    fn note_refused(&mut self, size: u16) {
        if size <= self.usable {
            self.usable = INITIAL_PACKET;
        }
        self.refused = Some(self.refused.map_or(size, |refused| refused.min(size)));
    }

    /// First what links usually carry, then halfway between what passes and what does not.
    fn next_size(&self) -> Option<u16> {
        match self.refused {
            None => [ETHERNET, JUMBO]
                .into_iter()
                .map(|size| size.min(self.ceiling))
                .find(|size| *size > self.usable),
            // Between the two nothing is usual enough for so many questions.
            Some(_) if self.usable >= ETHERNET => None,
            Some(refused) => {
                let room = refused.saturating_sub(self.usable);
                (room > RESOLUTION).then_some(self.usable + room / 2)
            }
        }
    }

    /// What to ask a settled path: whether its size still passes, and every now and then whether more does.
    fn again(&mut self) -> u16 {
        self.confirmed += 1;
        if self.confirmed >= CONFIRMATIONS || self.usable == INITIAL_PACKET {
            self.confirmed = 0;
            self.refused = None;
        }
        match self.refused {
            None => self.next_size().unwrap_or(self.usable),
            Some(_) => self.usable,
        }
    }

    /// An echo of `len` bytes has come back.
    fn answered(&mut self, now: Instant, token: u64, len: usize) -> bool {
        match self.search {
            Search::Asking {
                size, token: asked, ..
            } if asked == token && usize::from(size) == len => {
                self.usable = self.usable.max(size);
                self.search = match self.next_size() {
                    Some(_) => Search::Due,
                    None => Search::Settled {
                        until: now + CONFIRM_AFTER,
                    },
                };
                true
            }
            _ => false,
        }
    }

    /// Whether packets of `len` bytes go there, or are asked for.
    fn is_asked(&self, len: usize) -> bool {
        let asked = matches!(self.search, Search::Asking { size, .. } if usize::from(size) == len);
        asked || (len > usize::from(INITIAL_PACKET) && len <= usize::from(self.usable))
    }

    /// The system says that packets of `len` bytes do not even leave.
    fn refuse(&mut self, len: usize) {
        self.note_refused(u16::try_from(len).unwrap_or(u16::MAX));
        self.search = Search::Due;
    }

    /// Packets of the full size are lost and small ones are not, or may be by now (RFC 8899 §4.3): back to what always passes,
    /// and a new search. False: nothing was found yet that could be doubted.
    pub fn doubt(&mut self) -> bool {
        let found = self.usable > INITIAL_PACKET;
        if found {
            *self = Self {
                ceiling: self.ceiling,
                ..Self::default()
            };
        }
        found
    }
}

impl Node {
    /// Asks for larger packets where traffic goes.
    pub(super) fn search_packet_size(&mut self, now: Instant, found: PeerRef) {
        let token = self.rng.next_u64();
        let Some(peer) = self.peers.get_mut(found) else {
            return;
        };
        if !peer.is_in_use(now) {
            return;
        }
        let Some(path) = peer.active_path_mut().filter(|path| path.is_proven()) else {
            return;
        };
        let patience = path.patience();
        let digit = path.peer_id;
        let destination = Destination {
            to: path.endpoint,
            socket: path.socket,
            source: None,
        };
        let Some((size, token)) = path.size.question(now, token, patience) else {
            return;
        };
        let Some(channel) = self.channel(found, digit) else {
            return;
        };
        self.counters.size_probes += 1;
        let sealed = matches!(channel, Channel::Sealed(_));
        let mut body = std::mem::take(&mut self.scratch);
        body.clear();
        body.extend_from_slice(&token.to_be_bytes());
        body.resize(usize::from(size) - overhead(sealed), 0);
        let message = Message::Ping(&body);
        match channel {
            Channel::Plain => self.send_control(now, found, destination, Sender::Full, &message),
            Channel::Sealed(key) => {
                // What finds no room is asked again like what is lost.
                let _ = self.push_whole(now, found, key, destination, Lane::Control, &message);
            }
        }
        self.scratch = body;
    }

    /// A PONG may be the answer to one of these questions.
    pub(super) fn handle_size_answer(
        &mut self,
        now: Instant,
        sender: PeerRef,
        sealed: bool,
        payload: &[u8],
    ) -> bool {
        let Some((token, _)) = payload.split_first_chunk() else {
            return false;
        };
        let (token, len) = (u64::from_be_bytes(*token), overhead(sealed) + payload.len());
        let Some(peer) = self.peers.get_mut(sender) else {
            return false;
        };
        let asked = |path: &mut Path| path.size.answered(now, token, len);
        let answered = peer.paths.iter_mut().any(asked);
        if answered {
            self.search_packet_size(now, sender);
            self.schedule_peer(now, sender);
        }
        answered
    }

    /// The system refuses packets of this size to a place: they are larger than what its interface carries.
    pub fn note_too_large(&mut self, now: Instant, destination: &Destination, len: usize) {
        let there: Vec<PeerRef> = self
            .peers
            .iter()
            .filter(|(_, peer)| {
                let mut paths = peer.paths.iter();
                paths.any(|path| path.endpoint == destination.to && path.size.is_asked(len))
            })
            .map(|(found, _)| found)
            .collect();
        for found in there {
            let Some(peer) = self.peers.get_mut(found) else {
                continue;
            };
            if let Some(path) = peer.path_mut(&destination.to) {
                path.size.refuse(len);
            }
            self.schedule_peer(now, found);
        }
    }

    /// Full packets to a peer do not arrive any more.
    pub(super) fn doubt_packet_size(&mut self, now: Instant, found: PeerRef) {
        let path = self.peers.get_mut(found).and_then(|p| p.active_path_mut());
        if path.is_some_and(|path| path.size.doubt()) {
            self.counters.black_holes += 1;
            self.schedule_peer(now, found);
        }
    }
}

/// Bytes of a PING beside its payload.
fn overhead(sealed: bool) -> usize {
    match sealed {
        true => SEALED_BODY + SEALED_TAIL,
        false => FULL_SENDER_HEADER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks until nothing more is to be asked for, over a path that carries packets up to `carried` bytes. Returns the sizes
    /// asked for and when the last one was settled.
    fn settle(size: &mut PacketSize, now: &mut Instant, carried: u16) -> Vec<u16> {
        let patience = Duration::from_millis(250);
        let mut asked = Vec::new();
        for token in 0.. {
            if matches!(size.search, Search::Settled { until } if until > *now) {
                break;
            }
            let Some((len, token)) = size.question(*now, token, patience) else {
                continue;
            };
            asked.push(len);
            if len <= carried {
                assert!(!size.answered(*now, token + 1, len.into()), "another token");
                assert!(!size.answered(*now, token, 100), "cut short");
                assert!(size.answered(*now, token, len.into()));
            } else {
                *now += patience;
            }
        }
        asked
    }

    #[test]
    fn the_usual_links_are_found_with_few_questions() {
        // D36
        let cases: [(u16, u16, &[u16]); 4] = [
            (1232, 1232, &[1452, 1452, 1452, 1342, 1342, 1342, 1287]),
            (1452, 1452, &[1452, 8952, 8952, 8952]),
            (9000, 8952, &[1452, 8952]),
            // A tunnel of 1,420 bytes on the way.
            (
                1372,
                1365,
                &[1452, 1452, 1452, 1342, 1397, 1397, 1397, 1369],
            ),
        ];
        for (carried, found, first) in cases {
            let (mut size, mut now) = (PacketSize::default(), Instant::now());
            let asked = settle(&mut size, &mut now, carried);
            assert!(asked.starts_with(first), "{carried}: {asked:?}");
            assert!(
                size.usable() <= carried && size.usable() + RESOLUTION >= found,
                "{carried}: {}",
                size.usable()
            );
            assert!(asked.len() <= 20, "{carried}: {asked:?}");
        }
    }

    #[test]
    fn what_was_found_is_asked_again_and_given_up_when_it_no_longer_passes() {
        // D36
        let (mut size, mut now) = (PacketSize::default(), Instant::now());
        settle(&mut size, &mut now, 1452);
        now += CONFIRM_AFTER;
        assert_eq!(settle(&mut size, &mut now, 1452), [1452], "confirmed");
        now += CONFIRM_AFTER;
        settle(&mut size, &mut now, 1300);
        assert!((1284..=1300).contains(&size.usable()), "{}", size.usable());
    }

    #[test]
    fn a_path_that_has_become_wider_is_found_within_ten_minutes_of_use() {
        // D36
        let (mut size, mut now) = (PacketSize::default(), Instant::now());
        settle(&mut size, &mut now, 1452);
        for _ in 0..CONFIRMATIONS {
            now += CONFIRM_AFTER;
            settle(&mut size, &mut now, 9000);
        }
        assert_eq!(size.usable(), JUMBO);
    }

    #[test]
    fn the_systems_word_is_taken_without_waiting() {
        let (mut size, now) = (PacketSize::default(), Instant::now());
        let patience = Duration::from_secs(1);
        let (first, token) = size.question(now, 1, patience).unwrap();
        size.answered(now, token, first.into());
        let (second, _) = size.question(now, 2, patience).unwrap();
        assert_eq!((first, second), (ETHERNET, JUMBO));
        assert!(size.is_asked(JUMBO.into()) && !size.is_asked(1300 + usize::from(JUMBO)));
        size.refuse(JUMBO.into());
        assert_eq!(size.question(now, 3, patience), None, "nothing more to ask");
        assert_eq!(size.usable(), ETHERNET);
        // The interface is another one now.
        size.refuse(ETHERNET.into());
        assert_eq!(size.usable(), INITIAL_PACKET);
    }
}
