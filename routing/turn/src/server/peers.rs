//! CreatePermission and ChannelBind.

use std::net::IpAddr;
use std::time::Instant;

use turn_types::attribute::ChannelNumber;

use super::auth::Caller;
use super::request::required;
use super::table::{Binding, CHANNEL_LIFETIME};
use super::{FiveTuple, Server};
use crate::frame::Channel;
use crate::policy::Verdict;
use crate::stun::{Message, Writer, attr};

impl Server {
    /// RFC 8656 §10.2: every address of the request gets its permission, or none does (T11).
    pub(super) fn create_permission(
        &mut self,
        now: Instant,
        from: &FiveTuple,
        message: &Message<'_>,
        caller: &Caller,
    ) -> Result<Option<Writer>, u16> {
        let index = self.owned(from, caller)?;
        let limit = self.config.bounds.permissions;
        let mut peers: Vec<(IpAddr, Verdict)> = Vec::new();
        for peer in message
            .xor_addresses(attr::XOR_PEER_ADDRESS)
            .take(limit + 1)
        {
            let peer = peer.map_err(|_| 400_u16)?.ip();
            peers.push((peer, self.verdict(index, peer)?));
        }
        if peers.is_empty() {
            return Err(400);
        }
        let addresses: Vec<IpAddr> = peers.iter().map(|(ip, _)| *ip).collect();
        let allocation = &mut self.allocations[index];
        if peers.len() > limit || !allocation.has_room(now, &addresses, limit) {
            return Err(508);
        }
        for (peer, verdict) in peers {
            allocation.permit(now, peer, verdict);
        }
        Ok(Some(Writer::success(message)))
    }

    /// RFC 8656 §12.2.
    pub(super) fn channel_bind(
        &mut self,
        now: Instant,
        from: &FiveTuple,
        message: &Message<'_>,
        caller: &Caller,
    ) -> Result<Option<Writer>, u16> {
        let index = self.owned(from, caller)?;
        let number = required(message.get::<ChannelNumber>())?;
        let channel = Channel::new(number.channel()).ok_or(400_u16)?;
        if !channel.is_current() && !self.config.old_channels {
            return Err(400);
        }
        let peer = required(message.xor_address(attr::XOR_PEER_ADDRESS))?;
        let verdict = self.verdict(index, peer.ip())?;
        // RFC 6062 §4.5: a TCP allocation has no channels.
        if self.allocations[index].tcp
            || !self.config.policy.port(verdict, peer, &self.config.ports)
        {
            return Err(403);
        }
        let bounds = self.config.bounds;
        let allocation = &mut self.allocations[index];
        allocation.sweep_channels(now);
        let bound_to = allocation.channels.get(&channel).map(|b| b.peer);
        let bound_by = allocation.peers.get(&peer).copied();
        // One channel, one peer, both ways (T16).
        if bound_to.is_some_and(|p| p != peer) || bound_by.is_some_and(|c| c != channel) {
            return Err(400);
        }
        let full = bound_to.is_none() && allocation.channels.len() >= bounds.channels;
        if full || !allocation.has_room(now, &[peer.ip()], bounds.permissions) {
            return Err(508);
        }
        allocation.channels.insert(
            channel,
            Binding {
                peer,
                expires: now + CHANNEL_LIFETIME,
            },
        );
        allocation.peers.insert(peer, channel);
        allocation.permit(now, peer.ip(), verdict);
        Ok(Some(Writer::success(message)))
    }
}
