//! First packets of nobody: well formed, with senders that are points of the curve, and wrong where it is found out.

use crate::lab::Node;
use crate::traffic::Noise;
use anode_wire::address::Zone;
use anode_wire::{Address, AddressId, Header, Identity, Party, PeerId};
use sha2::{Digest, Sha256};

/// Another packet each, of so many.
const PACKETS: usize = 65_536;
/// Keys among the senders; each stands in many zones, which makes another address.
const KEYS: usize = 256;
/// What a HELLO has before the Noise message, and where mac1 stands in it (Q3).
const HELLO_FIXED: usize = 45;
const MAC1: usize = 13;
/// Ephemeral key, capabilities, tag.
const NOISE: usize = 65 + 4 + 16;

/// What is wrong with a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A HELLO to somebody else: refused by one hash.
    WrongMac1,
    /// A HELLO by somebody who knows whom it calls: only a key agreement would tell, so budgets and cookies.
    WrongCmac,
    /// A plain S_OPEN.
    PlainOpen,
    /// A plain EPC_REQ, which asks for an answer.
    PlainCheck,
}

impl Kind {
    pub const ALL: [Kind; 4] = [
        Kind::WrongMac1,
        Kind::WrongCmac,
        Kind::PlainOpen,
        Kind::PlainCheck,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Kind::WrongMac1 => "HELLO, mac1 wrong",
            Kind::WrongCmac => "HELLO, mac1 right, CMAC wrong",
            Kind::PlainOpen => "plain S_OPEN, MAC wrong",
            Kind::PlainCheck => "plain EPC_REQ, MAC wrong",
        }
    }
}

/// The node under attack, and who seems to attack it.
pub struct Target {
    address: Address,
    id: AddressId,
    keys: Vec<Address>,
}

impl Target {
    pub fn of(node: &Node) -> Self {
        let address: Address = node.address().parse().expect("a node knows its address");
        let keys = (1..=KEYS).map(|number| {
            let mut scalar = [0x51; 32];
            scalar[30..].copy_from_slice(&(number as u16).to_be_bytes());
            let identity = Identity::from_scalar(Zone(1), &scalar);
            *identity.expect("below the curve's order").address()
        });
        Self {
            id: address.id(),
            address,
            keys: keys.collect(),
        }
    }

    /// Packets of one kind, no two with the same sender.
    pub fn forge(&self, kind: Kind) -> Vec<Vec<u8>> {
        let mut noise = Noise::new(kind as u64 + 7);
        (0..PACKETS)
            .map(|number| self.packet(kind, number, &mut noise))
            .collect()
    }

    fn packet(&self, kind: Kind, number: usize, noise: &mut Noise) -> Vec<u8> {
        let mut sender = *self.keys[number % KEYS].as_bytes();
        sender[1..5].copy_from_slice(&(number as u32 | 0x4000_0000).to_be_bytes());
        let header = Header {
            hop_count: 0,
            flags: 0,
            sender: Party::Full(&sender),
            recipient: Party::Id(self.id),
            sender_peer: PeerId::ANY,
            recipient_peer: PeerId::ANY,
            kind: match kind {
                Kind::WrongMac1 | Kind::WrongCmac => anode_wire::sealed::kind::HELLO,
                Kind::PlainOpen => anode_wire::message::kind::S_OPEN,
                Kind::PlainCheck => anode_wire::message::kind::EPC_REQ,
            },
        };
        let start = header.len();
        let mut packet = vec![0; start];
        header.emit(&mut packet);
        match kind {
            Kind::WrongMac1 | Kind::WrongCmac => {
                packet.push(anode_wire::sealed::VERSION);
                packet.extend(noise.bytes(4)); // index
                packet.extend((1_900_000_000_000_000 + number as u64).to_be_bytes());
                packet.resize(start + HELLO_FIXED, 0);
                packet.push(4);
                packet.extend(noise.bytes(NOISE - 1));
            }
            Kind::PlainOpen | Kind::PlainCheck => packet.extend(noise.bytes(32)),
        }
        if kind == Kind::WrongCmac {
            // Over flags to end; the MAC, mac1 and the cookie are zero at this time (Q4).
            let mac1 = self.mac1(&packet[1..]);
            packet[start + MAC1..start + MAC1 + 16].copy_from_slice(&mac1);
        }
        packet[2..10].copy_from_slice(&noise.bytes(8));
        packet
    }

    /// HMAC-SHA-256 (RFC 2104) under SHA-256("anode mac1" ‖ address), its first half.
    fn mac1(&self, message: &[u8]) -> [u8; 16] {
        let mut key = [0; 64];
        key[..32].copy_from_slice(
            &Sha256::new()
                .chain_update(b"anode mac1")
                .chain_update(self.address.as_bytes())
                .finalize(),
        );
        let inner = Sha256::new()
            .chain_update(key.map(|byte| byte ^ 0x36))
            .chain_update(message)
            .finalize();
        let outer = Sha256::new()
            .chain_update(key.map(|byte| byte ^ 0x5c))
            .chain_update(inner)
            .finalize();
        std::array::from_fn(|i| outer[i])
    }
}
