//! Where a message goes next (R110, R111, RD50).
use super::{Chord, Stage};
use crate::Id;
use crate::topology::{Hop, Topology};

impl Chord {
    pub(super) fn hop_towards(&self, key: Id, avoid: &[Id]) -> Hop {
        let is_mine = match self.range() {
            Some((after, upto)) => key.in_range(after, upto),
            None => key == self.id,
        };
        if is_mine {
            return Hop::Here;
        }
        let usable = |id: &Id| !avoid.contains(id);
        if self.peers.contains_key(&key) && usable(&key) {
            return Hop::To(key);
        }
        // RD50: the neighbours show who owns a key near this node
        if self.config.shortcut && self.stage == Stage::Joined {
            let whole = |list: &[Id]| list.last().copied();
            if let Some(last) = whole(&self.successors)
                && key.in_range(self.id, last)
            {
                let owner = self
                    .successors
                    .iter()
                    .find(|id| key.in_range(self.id, **id) && usable(id));
                if let Some(owner) = owner {
                    return Hop::To(*owner);
                }
            }
            if let Some(last) = whole(&self.predecessors)
                && key.in_range(last, self.id)
            {
                // the farthest one bounds the stretch and owns none of it
                let mut nearest_last = self.predecessors.iter().rev().skip(1);
                if let Some(owner) = nearest_last.find(|id| key.in_range(last, **id) && usable(id))
                {
                    return Hop::To(*owner);
                }
            }
        }
        let before = self.peers.range(..key).rev();
        let wrapped = self.peers.range(key..).rev();
        let between = before
            .chain(wrapped)
            .take_while(|(id, _)| id.in_range(self.id, key))
            .find(|(id, peer)| peer.routable && usable(id));
        if let Some((id, _)) = between {
            return Hop::To(*id);
        }
        let beyond = self
            .peers
            .range(key..)
            .chain(self.peers.range(..key))
            .find(|(id, peer)| peer.routable && usable(id));
        beyond.map_or(Hop::None, |(id, _)| Hop::To(*id))
    }
}
