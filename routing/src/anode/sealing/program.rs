//! What the program asks of sessions: trust, what must survive a restart, and messages of its own inside them.
use super::Channel;
use super::inbound::MAX_CONTROL;
use crate::anode::Node;
use crate::anode::peer::Standing;
use crate::overlay::Failure;
use anode_wire::sealed::{self, Pair, Plain, Record, SEALED_BODY, SEALED_TAIL};
use anode_wire::{Address, PeerId};
use std::time::Instant;

impl Node {
    /// Gives an address places of its own in tables and budgets (Q7).
    pub fn trust(&mut self, address: &Address) {
        self.sessions.trust(address);
    }

    /// The opposite.
    pub fn distrust(&mut self, address: &Address) {
        self.sessions.distrust(address);
    }

    pub(in crate::anode) fn drop_sessions_of(&mut self, now: Instant, address: &Address) {
        self.sessions.distrust(address);
        for digit in (0..16).filter_map(PeerId::new) {
            let pair = Pair {
                address: *address,
                peer: digit,
            };
            if let Some(key) = self.sessions.lookup(&pair) {
                self.sessions.drop_peer(key);
            }
        }
        self.settle_sessions(now);
    }

    /// What has to survive a restart, of every peer: timestamps and pins (Q5, Q13, Q23).
    pub fn export_records(&mut self) -> Vec<Record> {
        self.sealing.persist_told = false;
        self.sessions.records().collect()
    }

    /// What an earlier run exported. Nothing goes back by it.
    pub fn import_records(&mut self, now: Instant, records: &[Record]) {
        let clock = self.sealing.clock(now);
        for record in records {
            self.sessions.restore(clock, record);
        }
    }

    /// By an operator's word: an address that was seen sealed may be spoken to in plain again, and without ML-KEM (Q23).
    pub fn forget_pins(&mut self, address: &Address) {
        for digit in (0..16).filter_map(PeerId::new) {
            self.sessions.forget(&Pair {
                address: *address,
                peer: digit,
            });
        }
    }

    /// What the sessions have counted.
    pub fn session_counters(&self) -> &sealed::Counters {
        self.sessions.counters()
    }

    /// The name of the handshake that the present session with an address came of, the same on both sides (Q29).
    pub fn session_hash(&self, address: &Address) -> Option<[u8; 32]> {
        let found = self.peers.find(address.as_bytes())?;
        let tunnel = self.peers.get(found)?.tunnel(PeerId::ANY)?;
        self.sessions.state(tunnel.key).map(|up| up.handshake_hash)
    }

    /// Wants a session with an address. True: there is one; false: ask again. The failure of a try is told for a moment.
    pub fn connect(&mut self, now: Instant, address: &Address) -> Result<bool, Failure> {
        if self.config.security.plain == Plain::Only {
            return Err(Failure::Policy);
        }
        let found = self
            .learn_peer(now, *address, Standing::Heard)
            .ok_or(Failure::Busy)?;
        let ready = matches!(self.channel(found, PeerId::ANY), Some(Channel::Sealed(_)))
            && self.can_carry(found, PeerId::ANY, MAX_CONTROL);
        if !ready {
            self.reach(now, address.ipv6(PeerId::ANY), MAX_CONTROL)?;
        }
        Ok(ready)
    }

    /// Sends a message of the program itself (JOIN, JOINED) inside the present session with an address.
    pub fn send_sealed(
        &mut self,
        now: Instant,
        address: &Address,
        message_kind: u8,
        body: &[u8],
    ) -> Result<(), Failure> {
        self.send_in_session(now, address, PeerId::ANY, message_kind, body)
    }

    /// The same, to just this peer of the address.
    pub(in crate::anode) fn send_in_session(
        &mut self,
        now: Instant,
        address: &Address,
        digit: PeerId,
        message_kind: u8,
        body: &[u8],
    ) -> Result<(), Failure> {
        let found = self
            .peers
            .find(address.as_bytes())
            .ok_or(Failure::NoSuchPeer)?;
        let peer = self.peers.get(found).ok_or(Failure::NoSuchPeer)?;
        let key = peer.tunnel(digit).ok_or(Failure::Unreachable)?.key;
        let route = peer.route(digit).ok_or(Failure::Unreachable)?;
        let len = SEALED_BODY + body.len() + SEALED_TAIL;
        if len > route.max_packet {
            return Err(Failure::TooBig {
                max: route.max_packet - SEALED_BODY - SEALED_TAIL,
            });
        }
        if !route.affords(len) {
            self.counters.dropped_unproven += 1;
            return Err(Failure::Busy);
        }
        let clock = self.sealing.clock(now);
        let packet = match self.sessions.seal_copy(clock, key, message_kind, body) {
            Ok(packet) => packet,
            Err(_) => return Err(self.lose_tunnel(now, found, key)),
        };
        if let Some(peer) = self.peers.get_mut(found) {
            peer.spend(&route.destination.to, len);
            peer.tx_bytes += len as u64;
        }
        self.counters.tx_sealed += 1;
        self.push_raw(route.destination, &packet);
        self.note_use(now, found, false);
        Ok(())
    }
}
