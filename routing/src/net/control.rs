//! What the program asks of sealed sessions. Until the node has them, there is none to have.
use super::AnodeOverlay;
use crate::overlay::Failure;
use anode_wire::Address;
use anode_wire::sealed::Record;
use std::time::Instant;

impl AnodeOverlay {
    /// Wants a session with an address. True: there is one; false: ask again.
    pub fn connect(&mut self, _now: Instant, _address: &Address) -> Result<bool, Failure> {
        Err(Failure::Busy)
    }

    /// The name of the handshake that the present session with an address came of, the same on both sides (Q29).
    pub fn session_hash(&self, _address: &Address) -> Option<[u8; 32]> {
        None
    }

    /// Sends a message of the program itself (JOIN, JOINED) inside the present session with an address.
    pub fn send_sealed(
        &mut self,
        _now: Instant,
        _address: &Address,
        _kind: u8,
        _body: &[u8],
    ) -> Result<(), Failure> {
        Err(Failure::Busy)
    }

    /// What of the sessions has to survive a restart.
    pub fn export_records(&mut self) -> Vec<Record> {
        Vec::new()
    }

    /// What an earlier run exported.
    pub fn import_records(&mut self, _now: Instant, _records: &[Record]) {}
}
