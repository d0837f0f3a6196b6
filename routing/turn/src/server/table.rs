//! An allocation and what hangs on it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::allocate::Opening;
use super::hash::Seed;
use super::shared::{Rate, Usage};
use super::{ConnectionId, FiveTuple, RelayId};
use crate::frame::Channel;
use crate::policy::{PeerPolicy, Verdict};
use crate::stun::TransactionId;

/// RFC 8656 §9: exactly this long, whatever is sent.
pub(super) const PERMISSION_LIFETIME: Duration = Duration::from_secs(300);
/// RFC 8656 §12.
pub(super) const CHANNEL_LIFETIME: Duration = Duration::from_secs(600);

/// A relay socket of an allocation.
#[derive(Debug)]
pub(super) struct Relay {
    pub generation: u32,
    pub allocation: usize,
    pub local: SocketAddr,
    pub external: SocketAddr,
    /// When it is closed unless refreshed; its timer stands there. While it opens: never.
    pub expires: Option<Instant>,
}

impl Relay {
    pub fn id(&self, index: usize) -> RelayId {
        RelayId {
            index: index as u32,
            generation: self.generation,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Permission {
    pub expires: Instant,
    pub verdict: Verdict,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Binding {
    pub peer: SocketAddr,
    pub expires: Instant,
}

/// One allocation: up to two relays (IPv4, IPv6), permissions, channels.
pub(super) struct Allocation {
    pub client: FiveTuple,
    /// Of the Allocate that made it: its retransmission gets the same answer.
    pub transaction: TransactionId,
    /// The caller's name: nobody else may touch it (441).
    pub name: String,
    pub account: String,
    pub usage: Arc<Usage>,
    pub rate: Rate,
    pub tcp: bool,
    /// By family: IPv4, IPv6.
    pub relays: [Option<RelayId>; 2],
    pub permissions: HashMap<IpAddr, Permission, Seed>,
    pub channels: HashMap<Channel, Binding, Seed>,
    pub peers: HashMap<SocketAddr, Channel, Seed>,
    pub connections: Vec<ConnectionId>,
    /// What is left to do before the Allocate is answered.
    pub opening: Option<Box<Opening>>,
    /// The token given out with it, and the family that failed, for the answer to a retransmission.
    pub token: Option<u64>,
    pub missing: Option<(u8, u16)>,
}

impl Allocation {
    /// The relay of this address's family.
    pub fn relay_for(&self, address: IpAddr) -> Option<RelayId> {
        self.relays[usize::from(address.is_ipv6())]
    }

    /// Whether a peer has a permission now.
    pub fn permits(&self, now: Instant, peer: IpAddr) -> Option<Verdict> {
        self.permissions
            .get(&peer)
            .filter(|p| now < p.expires)
            .map(|p| p.verdict)
    }

    /// The channel that is bound to a peer now.
    pub fn channel_of(&self, now: Instant, peer: &SocketAddr) -> Option<Channel> {
        let channel = *self.peers.get(peer)?;
        self.channels
            .get(&channel)
            .is_some_and(|b| now < b.expires)
            .then_some(channel)
    }

    /// Whether `more` permissions fit; expired ones are dropped first if they are in the way.
    pub fn has_room(&mut self, now: Instant, peers: &[IpAddr], limit: usize) -> bool {
        let new = peers
            .iter()
            .filter(|p| !self.permissions.contains_key(p))
            .count();
        if self.permissions.len() + new > limit {
            self.permissions.retain(|_, p| now < p.expires);
        }
        let new = peers
            .iter()
            .filter(|p| !self.permissions.contains_key(p))
            .count();
        self.permissions.len() + new <= limit
    }

    pub fn permit(&mut self, now: Instant, peer: IpAddr, verdict: Verdict) {
        self.permissions.insert(
            peer,
            Permission {
                expires: now + PERMISSION_LIFETIME,
                verdict,
            },
        );
    }

    /// Drops channels that have expired.
    pub fn sweep_channels(&mut self, now: Instant) {
        let peers = &mut self.peers;
        self.channels.retain(|_, b| {
            let live = now < b.expires;
            if !live {
                peers.remove(&b.peer);
            }
            live
        });
    }

    /// Drops what a new policy refuses.
    pub fn hold_to(&mut self, policy: &PeerPolicy, relays: &[IpAddr], ports: &RangeInclusive<u16>) {
        self.permissions.retain(|peer, p| {
            p.verdict = policy.address(*peer, relays);
            p.verdict != Verdict::Refused
        });
        let peers = &mut self.peers;
        self.channels.retain(|_, b| {
            let fine = policy.port(policy.address(b.peer.ip(), relays), b.peer, ports);
            if !fine {
                peers.remove(&b.peer);
            }
            fine
        });
    }
}
