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
use crate::stun::{KeyDigest, TransactionId};

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

/// A peer with a permission, and the channel bound to it, as they stood when a datagram was last relayed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Latest {
    peer: SocketAddr,
    channel: Channel,
    /// When the first of the two expires. Both may be refreshed meanwhile; neither changes before.
    until: Instant,
}

/// One allocation: up to two relays (IPv4, IPv6), permissions, channels.
///
/// In this order in memory: with thousands of allocations each datagram finds its own in no cache, and pays for each line
/// that it reads. Those in front are all that is read while one peer is talked to.
#[repr(C)]
pub(super) struct Allocation {
    pub client: FiveTuple,
    pub latest: Option<Latest>,
    /// By family: IPv4, IPv6.
    pub relays: [Option<RelayId>; 2],
    pub tcp: bool,
    /// What is left to do before the Allocate is answered.
    pub opening: Option<Box<Opening>>,
    pub usage: Arc<Usage>,
    pub rate: Rate,
    pub permissions: HashMap<IpAddr, Permission, Seed>,
    pub channels: HashMap<Channel, Binding, Seed>,
    pub peers: HashMap<SocketAddr, Channel, Seed>,
    /// Of the Allocate that made it: its retransmission gets the same answer.
    pub transaction: TransactionId,
    /// The caller's name: nobody else may touch it (441).
    pub name: String,
    pub account: String,
    /// The digest that its user chose from our offer: offered again as long as that user has the key.
    pub chosen: Option<KeyDigest>,
    pub connections: Vec<ConnectionId>,
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

    /// The peer that a channel is bound to now.
    pub fn peer_of(&mut self, now: Instant, channel: Channel) -> Option<SocketAddr> {
        if let Some(latest) = self
            .latest
            .filter(|l| l.channel == channel && now < l.until)
        {
            return Some(latest.peer);
        }
        let binding = *self.channels.get(&channel).filter(|b| now < b.expires)?;
        if let Some(permission) = self.permissions.get(&binding.peer.ip()) {
            self.latest = Some(Latest {
                peer: binding.peer,
                channel,
                until: binding.expires.min(permission.expires),
            });
        }
        Some(binding.peer)
    }

    /// Whether a peer may be heard now, and the channel that is bound to it.
    pub fn hears(&mut self, now: Instant, peer: &SocketAddr) -> Option<Option<Channel>> {
        if let Some(latest) = self.latest.filter(|l| l.peer == *peer && now < l.until) {
            return Some(Some(latest.channel));
        }
        self.permits(now, peer.ip())?;
        let channel = self.peers.get(peer).copied();
        Some(channel.filter(|channel| self.peer_of(now, *channel) == Some(*peer)))
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
        self.latest = None;
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
