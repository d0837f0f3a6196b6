//! Input as a talk: steps of a kind and some bytes, and attributes as they are written into messages.
use anode_turn::stun::{Writer, attr};
use std::net::SocketAddr;

/// A step: its first byte, and as many bytes as the second one says.
pub fn steps(data: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut rest = data;
    std::iter::from_fn(move || {
        let (kind, behind) = rest.split_first()?;
        let (length, behind) = behind.split_first()?;
        let (bytes, next) = behind.split_at(usize::from(*length).min(behind.len()));
        rest = next;
        Some((*kind, bytes))
    })
}

/// Peers that both sides know by a number.
pub fn peer(number: u8) -> SocketAddr {
    match number % 4 {
        0 => ([198, 51, 100, 7], 9000).into(),
        1 => ([198, 51, 100, 8], 9000).into(),
        2 => ([198, 51, 100, 7], 9001).into(),
        _ => SocketAddr::new([0x2001, 0xdb8, 0, 0, 0, 0, 0, 7].into(), 9000),
    }
}

const KINDS: [u16; 24] = [
    attr::MAPPED_ADDRESS,
    attr::USERNAME,
    attr::ERROR_CODE,
    attr::UNKNOWN_ATTRIBUTES,
    attr::CHANNEL_NUMBER,
    attr::LIFETIME,
    attr::XOR_PEER_ADDRESS,
    attr::DATA,
    attr::REALM,
    attr::NONCE,
    attr::XOR_RELAYED_ADDRESS,
    attr::REQUESTED_ADDRESS_FAMILY,
    attr::EVEN_PORT,
    attr::REQUESTED_TRANSPORT,
    attr::DONT_FRAGMENT,
    attr::PASSWORD_ALGORITHM,
    attr::XOR_MAPPED_ADDRESS,
    attr::RESERVATION_TOKEN,
    attr::CONNECTION_ID,
    attr::ADDITIONAL_ADDRESS_FAMILY,
    attr::PASSWORD_ALGORITHMS,
    attr::ALTERNATE_DOMAIN,
    attr::ICMP,
    attr::ALTERNATE_SERVER,
];
/// In place of a kind: a peer's address, the number of the peer follows.
pub const PEER: u8 = 0xFF;
/// In place of a kind: a relayed address.
pub const RELAYED: u8 = 0xFE;
/// In place of a kind: a type of any number, of which two bytes follow.
const ANY: u8 = 0xFD;

/// The number of a kind.
pub fn kind(of: u16) -> u8 {
    let found = KINDS.iter().position(|kind| *kind == of);
    found.expect("one of them") as u8
}

/// Attributes: each a kind, a length, and as many bytes.
pub fn attributes(mut writer: Writer, bytes: &[u8]) -> Writer {
    for (kind, value) in steps(bytes) {
        writer = match (kind, value) {
            (PEER, [number, ..]) => writer.xor_address(attr::XOR_PEER_ADDRESS, peer(*number)),
            (RELAYED, [number, ..]) => {
                let at = SocketAddr::from(([203, 0, 113, 1], 50_000 + u16::from(*number)));
                writer.xor_address(attr::XOR_RELAYED_ADDRESS, at)
            }
            (ANY, [high, low, value @ ..]) => writer.raw(u16::from_be_bytes([*high, *low]), value),
            _ => writer.raw(KINDS[usize::from(kind) % KINDS.len()], value),
        };
    }
    writer
}
