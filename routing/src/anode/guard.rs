//! The one place per direction where a plain message gets the draft's MAC and where it is checked (Anode 0.8 §3.3). What is
//! sealed goes through `sealing`.
use super::peer::Peer;
use anode_wire::packet::{FULL_SENDER_HEADER, SHORT_HEADER};
use anode_wire::{Address, AddressId, Header, Identity, MacKey, Message, Packet, Party, PeerId};
use std::net::Ipv6Addr;

/// This node's own names.
pub(super) struct Own {
    pub identity: Identity,
    pub address: Address,
    pub id: AddressId,
    /// With peer digit 0.
    pub ipv6: Ipv6Addr,
    pub peer_id: PeerId,
}

impl Own {
    pub fn new(identity: Identity, peer_id: PeerId) -> Self {
        let address = *identity.address();
        Self {
            id: address.id(),
            ipv6: address.ipv6(PeerId::ANY),
            address,
            identity,
            peer_id,
        }
    }

    /// The address a program gets packets on: the digit the sender used if it is one of ours.
    pub fn ipv6_for(&self, recipient: PeerId) -> Ipv6Addr {
        if recipient != PeerId::ANY && recipient == self.peer_id {
            self.address.ipv6(recipient)
        } else {
            self.ipv6
        }
    }
}

/// How a message travels.
#[derive(Clone, Copy)]
pub(super) struct Envelope {
    pub recipient_peer: PeerId,
    /// The whole sender address, or its id (A41).
    pub full_sender: bool,
}

impl Envelope {
    /// Bytes of the header this makes.
    pub fn header_len(self) -> usize {
        if self.full_sender {
            FULL_SENDER_HEADER
        } else {
            SHORT_HEADER
        }
    }
}

/// Appends `message` to `peer` as one packet. `key` is the one agreed with it; without it the MAC is still to be made.
pub(super) fn protect(
    own: &Own,
    peer: &Peer,
    key: Option<&MacKey>,
    envelope: Envelope,
    message: &Message<'_>,
    out: &mut Vec<u8>,
) {
    let header = Header {
        hop_count: 0,
        flags: 0,
        sender: if envelope.full_sender {
            Party::Full(own.address.as_bytes())
        } else {
            Party::Id(own.id)
        },
        recipient: Party::Id(peer.id),
        sender_peer: own.peer_id,
        recipient_peer: envelope.recipient_peer,
        kind: message.kind(),
    };
    message.emit_packet(&header, key, out);
}

/// Whether the packet is what this peer sent.
pub(super) fn is_authentic(key: &MacKey, packet: &Packet<&[u8]>) -> bool {
    key.verify(packet.as_bytes())
}

/// Why a packet is dropped before anybody looks for its sender's key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    HopLimit,
    AuthError,
    OwnSender,
    NotForUs,
}

/// What the header alone decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Recipient {
    /// It is for us, and its sender must prove itself.
    Us,
    /// A packet to nobody in particular: only a beacon may be one (D23).
    Nobody,
}

/// Sorts a packet by its header.
pub(super) fn screen(own: &Own, packet: &Packet<&[u8]>) -> Result<Recipient, Refusal> {
    if packet.hop_count() == u8::MAX {
        return Err(Refusal::HopLimit);
    }
    if packet.is_auth_error() {
        return Err(Refusal::AuthError);
    }
    let recipient = match packet.recipient() {
        Party::Full(bytes) if bytes == own.address.as_bytes() => Recipient::Us,
        Party::Id(id) if id == own.id => Recipient::Us,
        Party::Id(AddressId::EVERYBODY) => return Ok(Recipient::Nobody),
        Party::Full(_) | Party::Id(_) => return Err(Refusal::NotForUs),
    };
    match packet.sender() {
        Party::Full(bytes) if bytes == own.address.as_bytes() => Err(Refusal::OwnSender),
        Party::Full(_) | Party::Id(_) => Ok(recipient),
    }
}
