//! Paths of a peer that lead over relays: one for each relay of its zone, and the one that a stranger was heard through.
use super::{Peer, route_over};
use crate::anode::Place;
use crate::anode::output::{Destination, Way};
use crate::anode::path::{Origin, Path, Through};
use crate::anode::peers::PeerRef;
use std::time::Instant;

impl Peer {
    /// The paths over its relays are these; others, of an earlier zone file, go.
    pub fn drop_relay_paths_except(&mut self, now: Instant, relays: &[PeerRef]) {
        let stale = |path: &Path| {
            path.origin == Origin::Relay
                && path.relay().is_none_or(|relay| !relays.contains(&relay))
        };
        while let Some(index) = self.paths.iter().position(stale) {
            self.remove_path(index);
            self.choose_path(now);
        }
    }

    /// A path over one of its relays, if there is none yet. It is no better than any candidate until the peer has answered.
    pub fn add_relay_path(&mut self, now: Instant, relay: PeerRef, at: Place, socket: usize) {
        if self.paths.iter().any(|path| path.relay() == Some(relay)) {
            return;
        }
        // The relay that packets came through before it was known as one of the peer's.
        let anonymous = |path: &Path| path.through == Through::Relay(None) && path.endpoint == at;
        if let Some(index) = self.paths.iter().position(anonymous) {
            self.paths[index].through = Through::Relay(Some(relay));
            self.paths[index].origin = Origin::Relay;
            return;
        }
        if let Some(path) = self.add_path(now, at, socket, Origin::Relay)
            && path.origin == Origin::Relay
        {
            path.through = Through::Relay(Some(relay));
            path.hops = 1;
        }
    }

    pub fn has_relay_path(&self) -> bool {
        self.paths.iter().any(Path::is_relayed)
    }

    /// Whether a path over this relay goes elsewhere than to this place, or through another socket.
    pub fn strays_from(&self, relay: PeerRef, at: &Place, socket: usize) -> bool {
        let mut over = self.paths.iter().filter(|p| p.relay() == Some(relay));
        over.any(|path| path.endpoint != *at || path.socket != socket)
    }

    /// The relay is reached elsewhere now.
    pub fn move_relay_path(&mut self, relay: PeerRef, at: Place, socket: usize) {
        for path in &mut self.paths {
            if path.relay() == Some(relay) {
                path.endpoint = at;
                path.socket = socket;
                // What was asked where the relay was is asked where it is.
                path.ask_again();
            }
        }
    }

    /// The relay path that a packet from this place stands for: the one that leads there, else the best.
    fn relay_path_index(&self, at: &Place) -> Option<usize> {
        let relayed = (0..self.paths.len()).filter(|index| self.paths[*index].is_relayed());
        relayed.min_by_key(|index| {
            let path = &self.paths[*index];
            (path.endpoint != *at, !path.is_proven(), path.rtt)
        })
    }

    /// See [`Self::relay_path_index`].
    pub fn relay_path_mut(&mut self, at: &Place) -> Option<&mut Path> {
        let index = self.relay_path_index(at)?;
        self.paths.get_mut(index)
    }

    /// The path that a packet took.
    pub fn path_taken(&mut self, way: &Way) -> Option<&mut Path> {
        match way.hops {
            0 => self.path_mut(&way.from),
            _ => self.relay_path_mut(&way.from),
        }
    }

    /// Where an answer to a relayed packet goes: over the relay that it came through if that is one of the peer's, as it is
    /// alive; else over the used path, if that is proven; else over the best.
    pub fn relay_destination(&self, at: &Place) -> Option<Destination> {
        let proven = |path: &&Path| path.is_relayed() && path.is_proven();
        let path = &self.paths[self.relay_path_index(at)?];
        let path = match path.endpoint == *at {
            true => path,
            false => self.active_path().filter(proven).unwrap_or(path),
        };
        Some(route_over(path, None).destination)
    }

    /// A sealed packet has come over a relay (`at`), or by another way; `None` as well: by the one that we use.
    pub fn note_heard_over(&mut self, at: Option<Place>) {
        self.heard_over = at;
    }

    /// Where an answer goes to who was last heard over a relay, while a path is in use that may be dead for it.
    pub fn heard_over_relay(&self) -> Option<Destination> {
        self.relay_destination(self.heard_over.as_ref()?)
    }

    /// The handshake that is complete now has come and gone over a relay of the peer: as good an answer as any.
    pub fn vouch_for_relay(&mut self, now: Instant) {
        let Some(at) = self.heard_over else { return };
        if let Some(path) = self
            .relay_path_mut(&at)
            .filter(|path| path.relay().is_some())
            && let Some(rtt) = path.rtt
        {
            path.prove(now, rtt);
            path.proven_sealed = true;
        }
    }

    /// All relays of the peer, for what must come through while one of them is dead.
    pub fn relay_destinations(&self) -> impl Iterator<Item = Destination> {
        let relayed = self.paths.iter().filter(|path| path.is_relayed());
        relayed.map(|path| route_over(path, None).destination)
    }
}
