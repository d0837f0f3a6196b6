//! Fragments (RFC 8200 §4.5): of datagrams from the operating system put together, of datagrams for it made.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use crate::packet::{
    Drop, FragmentHeader, Header, IPV6_HEADER, ipv6_header, protocol, set_payload_length,
};
use crate::{Counters, queue::OutQueue};

/// Bytes of a Fragment header.
pub(crate) const FRAGMENT_HEADER: usize = 8;
/// The largest payload length.
const MAX_PAYLOAD: usize = 65_535;

type Key = (Ipv6Addr, Ipv6Addr, u32);

/// A datagram that is not complete.
#[derive(Debug)]
struct Pending {
    started: Instant,
    /// What stood before the Fragment header of the first fragment, made to look as if there had been none.
    head: Option<Vec<u8>>,
    pieces: BTreeMap<usize, Box<[u8]>>,
    /// Bytes in `pieces`.
    held: usize,
    /// Where the last fragment ends, once it was seen.
    total: Option<usize>,
    /// Fragments overlapped: what still comes is dropped (RFC 5722).
    poisoned: bool,
}

/// Puts datagrams together, bounded in number, bytes and time. When there is no room the oldest has to go.
#[derive(Debug, Default)]
pub(crate) struct Reassembly {
    pending: HashMap<Key, Pending>,
    /// In the order of their first fragment. Entries of datagrams that are done are skipped.
    order: VecDeque<(Instant, Key)>,
    held: usize,
}

impl Reassembly {
    /// A kernel sends the fragments of a datagram in one go, so RFC 8200's 60 s would only serve attackers.
    const TIMEOUT: Duration = Duration::from_secs(8);
    const MAX_DATAGRAMS: usize = 64;
    const MAX_BYTES: usize = 2 * 1024 * 1024;
    /// 65,535 bytes in packets of 1,280 are 54.
    const MAX_PIECES: usize = 128;

    /// Takes a fragment; returns the datagram that it completes.
    pub fn insert(
        &mut self,
        now: Instant,
        header: &Header,
        fragment: &FragmentHeader,
        packet: &[u8],
        counters: &mut Counters,
    ) -> Result<Option<Vec<u8>>, Drop> {
        let payload = &packet[fragment.at + FRAGMENT_HEADER..];
        let end = fragment.offset + payload.len();
        if payload.is_empty()
            || (fragment.more && !payload.len().is_multiple_of(8))
            || fragment.at - IPV6_HEADER + end > MAX_PAYLOAD
        {
            return Err(Drop::Fragment);
        }
        self.expire(now, counters);
        let key = (header.from, header.to, fragment.id);
        if !self.pending.contains_key(&key) {
            if self.pending.len() >= Self::MAX_DATAGRAMS {
                self.evict(counters);
            }
            self.order.push_back((now, key));
        }
        let pending = self.pending.entry(key).or_insert_with(|| Pending {
            started: now,
            head: None,
            pieces: BTreeMap::new(),
            held: 0,
            total: None,
            poisoned: false,
        });
        match pending.place(fragment, packet, payload) {
            Placed::Ignored => return Ok(None),
            Placed::Overlap => {
                self.held -= pending.poison();
                counters.fragment_overlap += 1;
                return Ok(None);
            }
            Placed::Added => self.held += payload.len(),
        }
        if pending.is_complete() {
            counters.reassembled += 1;
            return Ok(self.remove(&key).and_then(Pending::finish));
        }
        if pending.pieces.len() > Self::MAX_PIECES {
            self.remove(&key);
            counters.fragment_no_room += 1;
        }
        while self.held > Self::MAX_BYTES {
            self.evict(counters);
        }
        Ok(None)
    }

    fn remove(&mut self, key: &Key) -> Option<Pending> {
        let pending = self.pending.remove(key)?;
        self.held -= pending.held;
        Some(pending)
    }

    /// Gives up the oldest.
    fn evict(&mut self, counters: &mut Counters) {
        while let Some((started, key)) = self.order.pop_front() {
            if self
                .pending
                .get(&key)
                .is_some_and(|pending| pending.started == started)
            {
                self.remove(&key);
                counters.fragment_no_room += 1;
                return;
            }
        }
    }

    /// Gives up what is too old.
    pub fn expire(&mut self, now: Instant, counters: &mut Counters) {
        while let Some(&(started, key)) = self.order.front() {
            let live = self
                .pending
                .get(&key)
                .filter(|pending| pending.started == started);
            let over = now.saturating_duration_since(started) >= Self::TIMEOUT;
            match live {
                Some(_) if !over => break,
                Some(pending) => {
                    counters.fragment_timeout += u64::from(!pending.poisoned);
                    self.remove(&key);
                }
                None => {}
            }
            self.order.pop_front();
        }
    }

    /// When the oldest is too old.
    pub fn deadline(&self) -> Option<Instant> {
        if self.pending.is_empty() {
            return None;
        }
        self.order
            .front()
            .map(|(started, _)| *started + Self::TIMEOUT)
    }
}

enum Placed {
    Added,
    /// A copy of what is there, or a piece of something poisoned.
    Ignored,
    Overlap,
}

impl Pending {
    fn place(&mut self, fragment: &FragmentHeader, packet: &[u8], payload: &[u8]) -> Placed {
        if self.poisoned {
            return Placed::Ignored;
        }
        let (start, end) = (fragment.offset, fragment.offset + payload.len());
        if self
            .pieces
            .get(&start)
            .is_some_and(|piece| **piece == *payload)
        {
            return Placed::Ignored;
        }
        let before = self.pieces.range(..end).next_back();
        let overlaps = before.is_some_and(|(at, piece)| at + piece.len() > start);
        let last_end = self
            .pieces
            .last_key_value()
            .map_or(0, |(at, piece)| at + piece.len());
        let past_the_end = self
            .total
            .is_some_and(|total| end > total || (!fragment.more && end != total));
        if overlaps || past_the_end || (!fragment.more && end < last_end) {
            return Placed::Overlap;
        }
        if !fragment.more {
            self.total = Some(end);
        }
        if start == 0 {
            let mut head = packet[..fragment.at].to_vec();
            head[fragment.announced_at] = fragment.next_header;
            self.head = Some(head);
        }
        self.pieces.insert(start, payload.into());
        self.held += payload.len();
        Placed::Added
    }

    /// Drops what is held and returns how much it was.
    fn poison(&mut self) -> usize {
        self.poisoned = true;
        self.pieces.clear();
        self.head = None;
        std::mem::take(&mut self.held)
    }

    /// Without overlaps the count of bytes is enough.
    fn is_complete(&self) -> bool {
        self.total == Some(self.held) && self.head.is_some()
    }

    fn finish(self) -> Option<Vec<u8>> {
        let mut packet = self.head?;
        packet.reserve_exact(self.held);
        for piece in self.pieces.values() {
            packet.extend_from_slice(piece);
        }
        set_payload_length(&mut packet);
        Some(packet)
    }
}

/// Takes the header out of a packet that is a fragment only by name (RFC 6946).
pub(crate) fn unwrap_atomic<'a>(packet: &'a mut [u8], fragment: &FragmentHeader) -> &'a mut [u8] {
    packet.copy_within(0..fragment.at, FRAGMENT_HEADER);
    let packet = &mut packet[FRAGMENT_HEADER..];
    packet[fragment.announced_at] = fragment.next_header;
    set_payload_length(packet);
    packet
}

/// Queues a packet without extension headers as fragments. `false`: no room, nothing was queued.
pub(crate) fn push_fragments(
    queue: &mut OutQueue,
    from: Ipv6Addr,
    to: Ipv6Addr,
    next_header: u8,
    payload: &[u8],
    mtu: u16,
    id: u32,
) -> bool {
    let size = (usize::from(mtu) - IPV6_HEADER - FRAGMENT_HEADER) & !7;
    let count = payload.len().div_ceil(size);
    if !queue.has_room(payload.len() + count * (IPV6_HEADER + FRAGMENT_HEADER)) {
        return false;
    }
    for (index, piece) in payload.chunks(size).enumerate() {
        let more = u16::from(index + 1 < count);
        // Offsets are multiples of eight: the lower three bits carry the flags.
        let offset = (index * size) as u16 | more;
        let length = (FRAGMENT_HEADER + piece.len()) as u16;
        let header = ipv6_header(from, to, protocol::FRAGMENT, length);
        let [o1, o2] = offset.to_be_bytes();
        let [i1, i2, i3, i4] = id.to_be_bytes();
        let fragment = [next_header, 0, o1, o2, i1, i2, i3, i4];
        if !queue.push(&[&header, &fragment, piece], crate::Offload::default()) {
            return false;
        }
    }
    true
}
