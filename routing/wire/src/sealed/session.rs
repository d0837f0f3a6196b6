//! One session: two keys, two indices, a replay window, and packets sealed and opened in place (Q18 to Q20).
use super::crypto::{Aead, KeyPair, TAG};
use super::fragment::Reassembly;
use super::kem;
use super::replay::ReplayWindow;
use super::{PeerKey, SEALED_OVERHEAD, SealError, kind};
use crate::{AddressId, Header, Party, PeerId};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// Nothing is sealed in a session older than this (Q16).
pub(super) const SEAL_LIMIT: Duration = Duration::from_secs(180);
/// What was sealed just before may arrive this much later.
const GRACE: Duration = Duration::from_secs(10);
/// Packets after which a new handshake starts (Q16).
pub(super) const REKEY_PACKETS: u64 = 1 << 48;
/// Packets after which nothing more is sealed.
const SEAL_PACKETS: u64 = REKEY_PACKETS + (1 << 40);

/// Where the index stands; before it the header with two short ids.
pub(super) const INDEX: usize = 28;
pub(super) const COUNTER: usize = 32;
/// Where the ciphertext starts.
pub(super) const TEXT: usize = 40;
/// The last 8 bytes of the tag.
const TAIL: usize = 8;
const MAC: std::ops::Range<usize> = 2..10;

/// Who sent the HELLO.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    Initiator,
    Responder,
}

/// How far a session is.
pub(super) enum Stage {
    /// The responder's: nothing was opened in it yet (Q11).
    Unconfirmed(Unconfirmed),
    /// Only KEM, its FRAGMENTs and empty packets (Q14).
    Kem,
    /// Carries traffic; the pair's current one, or one that the far side may still use.
    Live,
}

/// What a responder keeps of the way a session came about.
pub(super) enum Unconfirmed {
    /// From a HELLO; the WELCOME is repeated for a repeated HELLO.
    Noise {
        hello_index: u32,
        timestamp: super::Timestamp,
        welcome: Box<[u8]>,
    },
    /// From the KEM inside another session.
    Kem,
}

/// The KEM of a session, and the split keys that it needs.
pub(super) enum KemState {
    Offered {
        offer: kem::Offer,
        split: Zeroizing<[u8; 64]>,
        fragment_id: u32,
        repeat: Repeat,
    },
    Awaited {
        split: Zeroizing<[u8; 64]>,
    },
    /// Byte-identical for a repeated key (Q13).
    Answered {
        step1: Box<[u8]>,
        step2: Box<[u8]>,
        fragment_id: Option<u32>,
    },
}

/// Something that is sent again after 250 ms, doubling, to 10 s.
pub(super) struct Repeat {
    pub at: Instant,
    interval: Duration,
}

impl Repeat {
    const FIRST: Duration = Duration::from_millis(250);
    const LAST: Duration = Duration::from_secs(10);

    pub fn new(now: Instant) -> Self {
        Self {
            at: now + Self::FIRST,
            interval: Self::FIRST,
        }
    }

    pub fn again(&mut self, now: Instant) {
        self.interval = (self.interval * 2).min(Self::LAST);
        self.at = now + self.interval;
    }
}

/// See the module.
pub(super) struct Session {
    pub peer: PeerKey,
    pub local: u32,
    pub remote: u32,
    pub role: Role,
    pub stage: Stage,
    /// ML-KEM took part in the keys.
    pub pq: bool,
    /// The Noise handshake's hash: the name of everything that came of it.
    pub hash: [u8; 32],
    pub created: Instant,
    /// Last sealed or opened.
    pub used: Instant,
    pub rekey_at: Instant,
    /// A new handshake was asked for on its account.
    pub rekey_asked: bool,
    /// No longer the pair's current session: dropped then, unless something still opens in it.
    pub retire_at: Option<Instant>,
    pub kem: Option<Box<KemState>>,
    /// Its HELLO was sent by somebody who knew the session before it: it follows that one, and does not cross it.
    pub successor: bool,
    /// What `start` was called with, where that was not this very pair.
    pub requested: Option<super::Pair>,
    /// The initiator's empty packet, until something of the far side has opened (Q11).
    pub confirm: Option<(Repeat, u8)>,
    /// The responder's last empty packet.
    pub last_empty: Option<Instant>,
    pub reassembly: Reassembly,
    seal_key: Aead,
    open_key: Aead,
    /// Header (less the hop count) and index of what is sent and of what is received.
    sends: [u8; 31],
    receives: [u8; 31],
    next: u64,
    marks: SentMarks,
    window: ReplayWindow,
}

/// Both ends of a session as packets name them.
#[derive(Clone, Copy)]
pub(super) struct Ends {
    pub own: (AddressId, PeerId),
    pub far: (AddressId, PeerId),
}

impl Session {
    #[allow(clippy::too_many_arguments)] // the parts of one thing, in one place
    pub fn new(
        now: Instant,
        peer: PeerKey,
        ends: Ends,
        (local, remote): (u32, u32),
        role: Role,
        stage: Stage,
        hash: [u8; 32],
        keys: &KeyPair,
        lifetime: (Instant, Instant),
    ) -> Self {
        let (seal, open) = match role {
            Role::Initiator => (&keys.initiator_to_responder, &keys.responder_to_initiator),
            Role::Responder => (&keys.responder_to_initiator, &keys.initiator_to_responder),
        };
        Self {
            peer,
            local,
            remote,
            role,
            stage,
            pq: false,
            hash,
            created: lifetime.0,
            used: now,
            rekey_at: lifetime.1,
            rekey_asked: false,
            retire_at: None,
            kem: None,
            successor: false,
            requested: None,
            confirm: None,
            last_empty: None,
            reassembly: Reassembly::default(),
            seal_key: Aead::new(seal),
            open_key: Aead::new(open),
            sends: template(ends.own, ends.far, remote),
            receives: template(ends.far, ends.own, local),
            next: 0,
            marks: SentMarks::new(now),
            window: ReplayWindow::new(),
        }
    }

    /// Seals `packet` in place: its text stands between `TEXT` and the last 8 bytes, everything else is written here.
    /// Neither locks nor allocates.
    pub fn seal(&mut self, now: Instant, packet: &mut [u8]) -> Result<u64, SealError> {
        if packet.len() < SEALED_OVERHEAD {
            return Err(SealError::TooShort);
        }
        if self.next >= SEAL_PACKETS || now.saturating_duration_since(self.created) >= SEAL_LIMIT {
            return Err(SealError::Expired);
        }
        let counter = self.next;
        let (head, rest) = packet.split_at_mut(TEXT);
        let (text, tail) = rest.split_at_mut(rest.len() - TAIL);
        head[0] = 0;
        head[1..COUNTER].copy_from_slice(&self.sends);
        head[COUNTER..].copy_from_slice(&counter.to_be_bytes());
        // The MAC field is still zero, as the associated data has it.
        let tag = self
            .seal_key
            .seal(counter, &head[1..], text)
            .ok_or(SealError::TooLong)?;
        head[MAC].copy_from_slice(&tag[..TAIL]);
        tail.copy_from_slice(&tag[TAIL..]);
        self.next += 1;
        self.marks.note(now, counter);
        Ok(counter)
    }

    /// Opens `packet` in place; its text is left between `TEXT` and the last 8 bytes. Afterwards the MAC field is zero.
    pub fn open(&mut self, packet: &mut [u8]) -> Result<Opening, super::Drop> {
        let (head, rest) = packet.split_at_mut(TEXT);
        // Everything but flags and MAC: ids, peer ids, type, index (Q19).
        if head[MAC.end..COUNTER] != self.receives[MAC.end - 1..] {
            return Err(super::Drop::WrongParty);
        }
        let counter = super::hello::be64(head, COUNTER);
        if !self.window.is_fresh(counter) {
            return Err(super::Drop::Replay);
        }
        let (text, tail) = rest.split_at_mut(rest.len() - TAIL);
        let mut tag = [0; TAG];
        tag[..TAIL].copy_from_slice(&head[MAC]);
        tag[TAIL..].copy_from_slice(tail);
        head[MAC].fill(0);
        if !self.open_key.open(counter, &head[1..], &tag, text) {
            return Err(super::Drop::Tag);
        }
        let first = self.window.is_empty();
        Ok(Opening {
            counter,
            newest: self.window.mark(counter),
            first,
        })
    }

    /// Whether the packet with this counter was sent within the last 3 s (Q24).
    pub fn sent_lately(&self, now: Instant, counter: u64) -> bool {
        counter < self.next && self.marks.is_recent(now, counter)
    }

    /// How many packets were sealed.
    pub fn sealed(&self) -> u64 {
        self.next
    }

    pub fn expires_at(&self) -> Instant {
        self.created + SEAL_LIMIT + GRACE
    }

    #[cfg(test)]
    pub fn skip_to(&mut self, counter: u64) {
        self.next = counter;
    }
}

/// An authentic packet.
pub(super) struct Opening {
    pub counter: u64,
    /// The highest counter so far.
    pub newest: bool,
    /// The first packet of the session.
    pub first: bool,
}

fn template(from: (AddressId, PeerId), to: (AddressId, PeerId), index: u32) -> [u8; 31] {
    let header = Header {
        hop_count: 0,
        flags: 0,
        sender: Party::Id(from.0),
        recipient: Party::Id(to.0),
        sender_peer: from.1,
        recipient_peer: to.1,
        kind: kind::SEALED,
    };
    let mut bytes = [0; COUNTER];
    header.emit(&mut bytes);
    bytes[INDEX..].copy_from_slice(&index.to_be_bytes());
    std::array::from_fn(|i| bytes[i + 1])
}

/// Which counters were sent within the last seconds: the counter at every half second, for 4 s.
struct SentMarks {
    marks: [(Instant, u64); 8],
    newest: usize,
}

impl SentMarks {
    const SPACING: Duration = Duration::from_millis(500);
    const RECENT: Duration = Duration::from_secs(3);

    fn new(now: Instant) -> Self {
        Self {
            marks: [(now, 0); 8],
            newest: 0,
        }
    }

    fn note(&mut self, now: Instant, counter: u64) {
        if now.saturating_duration_since(self.marks[self.newest].0) >= Self::SPACING {
            self.newest = (self.newest + 1) % self.marks.len();
            self.marks[self.newest] = (now, counter);
        }
    }

    /// Whether `counter` was sent at or after a mark that is at most 3 s old. Up to half a second too strict.
    fn is_recent(&self, now: Instant, counter: u64) -> bool {
        self.marks.iter().any(|(at, first)| {
            counter >= *first && now.saturating_duration_since(*at) <= Self::RECENT
        })
    }
}
