//! What nodes do to each other on a simulated underlay. The harness is `sim`.
use super::sim::*;
use super::*;
use crate::overlay::PathKind;
use anode_wire::message::kind;
use anode_wire::packet::FLAG_FULL_SENDER;
use anode_wire::{AddressId, Endpoint, Header, MacKey, Packet, Party};
use std::time::Duration;

mod contact;
mod direct;
mod hostile;
mod lies;
mod packet_size;
mod path_change;
mod pauses;
mod relay;
mod rendezvous;
mod sealed;
mod soak;
mod streams;
mod transports;
mod turn;
mod uplinks;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A packet as host `from` would send it to host `to`, with a right MAC.
fn packet(from: u16, to: u16, message: &Message<'_>, full_sender: bool) -> Vec<u8> {
    let (own, id) = (address(from), address(from).id());
    let header = Header {
        hop_count: 0,
        flags: 0,
        sender: if full_sender {
            Party::Full(own.as_bytes())
        } else {
            Party::Id(id)
        },
        recipient: Party::Id(address(to).id()),
        sender_peer: PeerId::ANY,
        recipient_peer: PeerId::ANY,
        kind: message.kind(),
    };
    let mut bytes = Vec::new();
    message.emit_packet(
        &header,
        Some(&identity(from).agree(&address(to))),
        &mut bytes,
    );
    bytes
}

fn beacon(number: u16) -> Vec<u8> {
    let own = address(number);
    let header = Header {
        hop_count: 0,
        flags: 0,
        sender: Party::Full(own.as_bytes()),
        recipient: Party::Id(AddressId::EVERYBODY),
        sender_peer: PeerId::ANY,
        recipient_peer: PeerId::ANY,
        kind: kind::EPI,
    };
    let mut bytes = Vec::new();
    Message::Epi {
        endpoint: Endpoint::Unspecified,
        nat_mode: 0,
        options: &[],
    }
    .emit_packet(&header, None, &mut bytes);
    bytes
}

fn elsewhere(last: u8) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, last], 4000))
}

/// What was recorded of one kind, sent by `from`.
fn recorded(sim: &Sim, from: impl Into<Place>, wanted: u8) -> Vec<Vec<u8>> {
    let from = from.into();
    let all = sim.record.iter().flatten();
    all.filter(|(_, flying)| {
        flying.from == from && Packet::new_checked(&flying.bytes[..]).unwrap().kind() == wanted
    })
    .map(|(_, flying)| flying.bytes.clone())
    .collect()
}

/// Bytes that went to an endpoint.
fn sent_to(sim: &Sim, to: impl Into<Place>) -> usize {
    let to = to.into();
    sim.record
        .iter()
        .flatten()
        .filter(|(_, flying)| flying.to == to)
        .map(|(_, flying)| flying.bytes.len())
        .sum()
}
