//! What requests have in common: whose allocation it is, what an attribute holds, what the policy says of a peer.

use std::net::IpAddr;

use super::auth::Caller;
use super::{FiveTuple, Server};
use crate::TurnError;
use crate::policy::Verdict;

/// An attribute that must be there: 400 without it, and for one that cannot be read.
pub(super) fn required<T>(attribute: Result<Option<T>, TurnError>) -> Result<T, u16> {
    optional(attribute)?.ok_or(400)
}

/// An attribute that may be missing: 400 for one that cannot be read.
pub(super) fn optional<T>(attribute: Result<Option<T>, TurnError>) -> Result<Option<T>, u16> {
    attribute.map_err(|_| 400)
}

impl Server {
    /// The allocation of this client, if it is this caller's and open.
    pub(super) fn owned(&self, from: &FiveTuple, caller: &Caller) -> Result<usize, u16> {
        let index = self.clients.get(from).copied().ok_or(437_u16)?;
        let allocation = &self.allocations[index];
        if allocation.name != caller.name {
            return Err(441);
        }
        if allocation.opening.is_some() {
            Err(437)
        } else {
            Ok(index)
        }
    }

    /// What the policy says of a peer of this allocation: 443 for another family, 403 for a refusal.
    pub(super) fn verdict(&self, index: usize, peer: IpAddr) -> Result<Verdict, u16> {
        self.allocations[index].relay_for(peer).ok_or(443_u16)?;
        match self.config.policy.address(peer, &self.relay_ips) {
            Verdict::Refused => Err(403),
            verdict => Ok(verdict),
        }
    }
}
