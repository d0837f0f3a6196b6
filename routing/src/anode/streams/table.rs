//! The table of streams: a number leads to a stream for as long as it is the same one.
use std::collections::{HashMap, VecDeque};
use std::net::Ipv6Addr;
use std::time::Instant;

use anode_stream::Stream;
use anode_wire::PeerId;
use slab::Slab;

use crate::anode::peers::PeerRef;
use crate::overlay::StreamId;

/// Where a stream stands between the program and the peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::anode) enum Phase {
    /// Ours, and its peer is not reached yet.
    Waiting {
        target: Ipv6Addr,
        from_port: u16,
        to_port: u16,
    },
    /// Ours, and not answered yet.
    Opening,
    /// The peer's, and the program has not answered yet.
    Pending { since: Instant },
    /// Both know of it.
    Open { finished: bool, flushed: bool },
    /// The program knows that it is over; what is left is between the two ends.
    Over { since: Instant },
}

pub(in crate::anode) struct Entry {
    pub(super) stream: Option<Stream>,
    pub(super) peer: Option<PeerRef>,
    pub(super) phase: Phase,
    /// The other end's peer id: the digit that was called, then the one that answered (D28).
    pub(super) remote_peer: PeerId,
    /// It stands in `ready`.
    pub(super) ready: bool,
}

#[derive(Default)]
pub(in crate::anode) struct StreamTable {
    pub(super) entries: Slab<(u32, Entry)>,
    tenants: u32,
    pub(super) by_key: HashMap<(PeerRef, u16, u16), StreamId, foldhash::quality::RandomState>,
    pub(super) ready: VecDeque<StreamId>,
    /// Those that have an acknowledgement waiting for company; some may be gone, or have sent it since.
    pub(super) in_company: Vec<StreamId>,
    pub(super) lingering: VecDeque<StreamId>,
    pub(in crate::anode) pending: usize,
}

impl StreamTable {
    pub(in crate::anode) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn insert(&mut self, entry: Entry) -> StreamId {
        self.tenants = self.tenants.wrapping_add(1);
        let slot = self.entries.insert((self.tenants, entry));
        StreamId(u64::from(self.tenants) << 32 | slot as u64)
    }

    pub(super) fn get(&self, id: StreamId) -> Option<&Entry> {
        let (tenant, entry) = self.entries.get((id.0 & 0xffff_ffff) as usize)?;
        (u64::from(*tenant) == id.0 >> 32).then_some(entry)
    }

    pub(super) fn get_mut(&mut self, id: StreamId) -> Option<&mut Entry> {
        let (tenant, entry) = self.entries.get_mut((id.0 & 0xffff_ffff) as usize)?;
        (u64::from(*tenant) == id.0 >> 32).then_some(entry)
    }

    /// The protocol's part of a stream, while it is there.
    pub(super) fn live(&mut self, id: StreamId) -> Option<&mut Stream> {
        self.get_mut(id)?.stream.as_mut()
    }

    pub(super) fn mark_ready(&mut self, id: StreamId) {
        if let Some(entry) = self.get_mut(id)
            && !entry.ready
            && entry.stream.is_some()
        {
            entry.ready = true;
            self.ready.push_back(id);
        }
    }

    pub(super) fn ids_of(&self, peer: PeerRef) -> Vec<StreamId> {
        let of_peer = self
            .entries
            .iter()
            .filter(|(_, (_, entry))| entry.peer == Some(peer));
        of_peer
            .map(|(slot, (tenant, _))| StreamId(u64::from(*tenant) << 32 | slot as u64))
            .collect()
    }
}
