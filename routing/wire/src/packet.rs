//! The common packet format (Anode 0.8 §3).
//!
//! ```text
//! hop count 1 │ flags 1 │ MAC 8 │ sender 8 or 40 │ recipient 8 or 40 │ peer ids 1 │ type 1 │ body
//! ```
use crate::address::TYPE_ANODE_256_40;
use crate::{Address, AddressId, PeerId, WireError};
use std::ops::Range;

/// Bytes of the smallest packet.
pub const MIN_PACKET: usize = 28;
/// Bytes of the largest packet: what a frame's size field can say (A33, D14).
pub const MAX_PACKET: usize = 65_535;
/// Header bytes with a full sender and a short recipient.
pub const FULL_SENDER_HEADER: usize = 60;
/// Header bytes with two short ids.
pub const SHORT_HEADER: usize = 28;
/// Flag: the sender is a full address.
pub const FLAG_FULL_SENDER: u8 = 1;
/// Flag: the recipient is a full address.
pub const FLAG_FULL_RECIPIENT: u8 = 2;
/// Flag: an authentication error, which must have no effect (A42).
pub const FLAG_AUTH_ERROR: u8 = 4;
/// Relays that a packet may pass before the next one drops it, unless configured otherwise (D18).
pub const DEFAULT_HOP_LIMIT: u8 = 16;

/// Where the MAC stands.
pub(crate) const MAC_RANGE: Range<usize> = 2..10;
const PARTIES: usize = MAC_RANGE.end;
const ID_LEN: usize = 8;

/// Sender or recipient as it stands in a packet. A full one is raw bytes, not yet checked (D9): look it up before you
/// check it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Party<'a> {
    /// 40 bytes whose first is 1.
    Full(&'a [u8; 40]),
    /// A short id.
    Id(AddressId),
}

impl<'a> Party<'a> {
    fn as_bytes(&self) -> &[u8] {
        match self {
            Party::Full(bytes) => *bytes,
            Party::Id(id) => &id.0,
        }
    }

    /// The short id; that of a full address is computed (three AES key schedules).
    pub fn id(&self) -> AddressId {
        match self {
            Party::Full(bytes) => AddressId::of_bytes(bytes),
            Party::Id(id) => *id,
        }
    }
}

/// Everything of a header but the MAC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header<'a> {
    /// Relays passed.
    pub hop_count: u8,
    /// Only `FLAG_AUTH_ERROR` is taken from here; the address flags follow from the parties.
    pub flags: u8,
    /// Who sends.
    pub sender: Party<'a>,
    /// Who shall get it.
    pub recipient: Party<'a>,
    /// High nibble (D17).
    pub sender_peer: PeerId,
    /// Low nibble.
    pub recipient_peer: PeerId,
    /// Message type.
    pub kind: u8,
}

impl Header<'_> {
    /// Bytes of the header, 28 to 92.
    pub fn len(&self) -> usize {
        PARTIES + self.sender.as_bytes().len() + self.recipient.as_bytes().len() + 2
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Writes the header with a zero MAC into `out[..self.len()]`.
    ///
    /// # Panics
    /// If `out` is shorter than that.
    pub fn emit(&self, out: &mut [u8]) {
        let mut flags = self.flags & FLAG_AUTH_ERROR;
        if let Party::Full(_) = self.sender {
            flags |= FLAG_FULL_SENDER;
        }
        if let Party::Full(_) = self.recipient {
            flags |= FLAG_FULL_RECIPIENT;
        }
        let (sender, recipient) = (self.sender.as_bytes(), self.recipient.as_bytes());
        let peers = PARTIES + sender.len() + recipient.len();

        out[0] = self.hop_count;
        out[1] = flags;
        out[MAC_RANGE].fill(0);
        out[PARTIES..PARTIES + sender.len()].copy_from_slice(sender);
        out[PARTIES + sender.len()..peers].copy_from_slice(recipient);
        out[peers] = self.sender_peer.get() << 4 | self.recipient_peer.get();
        out[peers + 1] = self.kind;
    }
}

/// A checked view of a packet's bytes: no accessor panics.
///
/// Trust nothing of it before [`MacKey::verify`](crate::MacKey::verify) has said yes, and the hop count not even then.
#[derive(Clone, Copy, Debug)]
pub struct Packet<T: AsRef<[u8]>> {
    buffer: T,
    /// Where the recipient stands: behind 8 or 40 bytes of sender.
    recipient: usize,
    /// Where the peer ids stand; the type and the body follow. `new_checked` saw that the type is there.
    peers: usize,
}

impl<T: AsRef<[u8]>> Packet<T> {
    /// Checks lengths and address types; not the MAC, not the points.
    pub fn new_checked(buffer: T) -> Result<Self, WireError> {
        let bytes = buffer.as_ref();
        if bytes.len() > MAX_PACKET {
            return Err(WireError::PacketTooLong(bytes.len()));
        }
        let truncated = |need| WireError::Truncated {
            what: "the packet",
            need,
            have: bytes.len(),
        };
        let flags = *bytes.get(1).ok_or_else(|| truncated(MIN_PACKET))?;
        let recipient = PARTIES + party_len(flags, FLAG_FULL_SENDER);
        let peers = recipient + party_len(flags, FLAG_FULL_RECIPIENT);
        if bytes.len() < peers + 2 {
            return Err(truncated(peers + 2));
        }
        for (flag, start) in [
            (FLAG_FULL_SENDER, PARTIES),
            (FLAG_FULL_RECIPIENT, recipient),
        ] {
            if flags & flag != 0 && bytes[start] != TYPE_ANODE_256_40 {
                return Err(WireError::AddressType(bytes[start]));
            }
        }
        Ok(Self {
            buffer,
            recipient,
            peers,
        })
    }

    /// Relays passed.
    pub fn hop_count(&self) -> u8 {
        self.as_bytes()[0]
    }

    /// The flags byte; undefined bits are as received, and to be ignored (D17).
    pub fn flags(&self) -> u8 {
        self.as_bytes()[1]
    }

    /// Whether this only tells of an authentication error and must have no effect (A42).
    pub fn is_auth_error(&self) -> bool {
        self.flags() & FLAG_AUTH_ERROR != 0
    }

    /// The MAC field.
    pub fn mac(&self) -> [u8; 8] {
        array(self.as_bytes(), MAC_RANGE.start)
    }

    /// The sender.
    pub fn sender(&self) -> Party<'_> {
        self.party(PARTIES..self.recipient)
    }

    /// The recipient.
    pub fn recipient(&self) -> Party<'_> {
        self.party(self.recipient..self.peers)
    }

    /// Sender's peer id.
    pub fn sender_peer(&self) -> PeerId {
        PeerId::from_nibble(self.as_bytes()[self.peers] >> 4)
    }

    /// Recipient's peer id.
    pub fn recipient_peer(&self) -> PeerId {
        PeerId::from_nibble(self.as_bytes()[self.peers])
    }

    /// Message type.
    pub fn kind(&self) -> u8 {
        self.as_bytes()[self.peers + 1]
    }

    /// The message's body.
    pub fn body(&self) -> &[u8] {
        &self.as_bytes()[self.peers + 2..]
    }

    /// The whole packet.
    pub fn as_bytes(&self) -> &[u8] {
        self.buffer.as_ref()
    }

    /// The header, as it would have to be emitted to get these bytes (less the MAC and undefined flags).
    pub fn header(&self) -> Header<'_> {
        Header {
            hop_count: self.hop_count(),
            flags: self.flags() & FLAG_AUTH_ERROR,
            sender: self.sender(),
            recipient: self.recipient(),
            sender_peer: self.sender_peer(),
            recipient_peer: self.recipient_peer(),
            kind: self.kind(),
        }
    }

    fn party(&self, range: Range<usize>) -> Party<'_> {
        let bytes = &self.as_bytes()[range];
        match bytes.try_into() {
            Ok(address) => Party::Full(address),
            Err(_) => Party::Id(AddressId(array(bytes, 0))),
        }
    }
}

fn party_len(flags: u8, full: u8) -> usize {
    if flags & full != 0 {
        Address::LEN
    } else {
        ID_LEN
    }
}

fn array(bytes: &[u8], start: usize) -> [u8; 8] {
    std::array::from_fn(|i| bytes[start + i])
}

/// Counts one more relay into a packet's bytes, in place; the MAC stays right, as it does not cover the hop count.
///
/// `None`, and nothing changed: the packet must be dropped, since it has already passed more than `limit` relays, or its
/// count is 255 and would wrap (A39, D18), or it is empty. Otherwise the new count.
pub fn raise_hop_count(packet: &mut [u8], limit: u8) -> Option<u8> {
    let count = packet.first_mut()?;
    if *count > limit {
        return None;
    }
    *count = count.checked_add(1)?;
    Some(*count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{hex, identity, vectors};
    use crate::{MacKey, Message};
    use proptest::prelude::*;

    // A1, A36, A38 to A41, A43, A44, D17, D19, D23, D27 to D32: every packet of the vectors, byte for byte
    #[test]
    fn vectors_are_read_verified_and_written_again() {
        for vector in vectors("packets") {
            let name = vector["name"].as_str().unwrap();
            let bytes = hex(&vector["packet"]);
            let packet = Packet::new_checked(&bytes).unwrap();
            let key = vector["to"].as_str().map(|to| {
                let from = identity(vector["from"].as_str().unwrap());
                from.agree(identity(to).address())
            });
            if let Some(key) = &key {
                assert!(key.verify(&bytes), "{name}");
                assert_eq!(packet.mac().as_slice(), hex(&vector["mac"]), "{name}");
                assert_eq!(
                    bytes.len() as u64,
                    vector["size"].as_u64().unwrap(),
                    "{name}"
                );
                for (reading, wrong) in vector["wrong_macs"].as_object().unwrap() {
                    assert_ne!(packet.mac().as_slice(), hex(wrong), "{name} {reading}");
                }
            }
            let message = Message::parse(packet.kind(), packet.body()).unwrap();
            let mut again = Vec::new();
            message.emit_packet(&packet.header(), key.as_ref(), &mut again);
            assert_eq!(again, bytes, "{name}");
        }
    }

    // A38, A40
    #[test]
    fn the_sizes_of_the_four_headers() {
        let (alice, bob) = (identity("alice"), identity("bob"));
        let (alice, bob) = (alice.address(), bob.address());
        for (sender, recipient, len, flags) in [
            (Party::Id(alice.id()), Party::Id(bob.id()), SHORT_HEADER, 0),
            (
                Party::Full(alice.as_bytes()),
                Party::Id(bob.id()),
                FULL_SENDER_HEADER,
                1,
            ),
            (Party::Id(alice.id()), Party::Full(bob.as_bytes()), 60, 2),
            (
                Party::Full(alice.as_bytes()),
                Party::Full(bob.as_bytes()),
                92,
                3,
            ),
        ] {
            // address flags in `flags` are not taken over
            let header = Header {
                flags: 3,
                ..header(sender, recipient)
            };
            let mut bytes = vec![0xff; len];
            assert_eq!(header.len(), len);
            header.emit(&mut bytes);
            let packet = Packet::new_checked(&bytes).unwrap();
            assert_eq!(packet.flags(), flags);
            assert_eq!(packet.header(), Header { flags: 0, ..header });
            assert_eq!(packet.mac(), [0; 8]);
            assert!(packet.body().is_empty());
            for short in 0..len {
                let error = Packet::new_checked(&bytes[..short]).unwrap_err();
                assert!(
                    matches!(error, WireError::Truncated { have, .. } if have == short),
                    "{error}"
                );
            }
        }
    }

    fn header<'a>(sender: Party<'a>, recipient: Party<'a>) -> Header<'a> {
        let (sender_peer, recipient_peer) = (PeerId::from_nibble(0xa), PeerId::from_nibble(0x5));
        Header {
            hop_count: 9,
            flags: 0,
            sender,
            recipient,
            sender_peer,
            recipient_peer,
            kind: 1,
        }
    }

    // A44, D17
    #[test]
    fn the_senders_peer_id_is_the_high_nibble() {
        let mut bytes = [0; MIN_PACKET];
        let id = Party::Id(AddressId([1; 8]));
        header(id, id).emit(&mut bytes);
        assert_eq!(bytes[26], 0xa5);
        let packet = Packet::new_checked(bytes).unwrap();
        assert_eq!(
            (packet.sender_peer().get(), packet.recipient_peer().get()),
            (0xa, 0x5)
        );
    }

    // A40, D17
    #[test]
    fn undefined_flags_are_ignored() {
        let mut bytes = [0; MIN_PACKET];
        bytes[1] = 0xf8;
        let packet = Packet::new_checked(bytes).unwrap();
        assert_eq!((packet.flags(), packet.header().flags), (0xf8, 0));
        assert!(!packet.is_auth_error());
    }

    // A15, S2
    #[test]
    fn a_full_address_of_an_unknown_type_is_refused_in_both_places() {
        let mut bytes = [1; 92];
        bytes[1] = 3;
        assert!(Packet::new_checked(bytes).is_ok());
        for (at, kind) in [(10, 0), (10, 2), (50, 0), (50, 255)] {
            let mut bytes = bytes;
            bytes[at] = kind;
            assert_eq!(
                Packet::new_checked(bytes).unwrap_err(),
                WireError::AddressType(kind)
            );
        }
    }

    // S3
    #[test]
    fn no_packet_is_larger_than_a_frame() {
        assert!(Packet::new_checked(vec![0; MAX_PACKET]).is_ok());
        assert_eq!(
            Packet::new_checked(vec![0; MAX_PACKET + 1]).unwrap_err(),
            WireError::PacketTooLong(65_536)
        );
    }

    // A39, D18
    #[test]
    fn relays_raise_the_hop_count_and_never_wrap_it() {
        let key = MacKey::new(&[1; 32]);
        let mut packet = [7; 40];
        packet[0] = 0;
        key.sign(&mut packet);
        for count in 1..=DEFAULT_HOP_LIMIT + 1 {
            assert_eq!(raise_hop_count(&mut packet, DEFAULT_HOP_LIMIT), Some(count));
            assert!(key.verify(&packet));
        }
        assert_eq!(raise_hop_count(&mut packet, DEFAULT_HOP_LIMIT), None);
        assert_eq!(packet[0], DEFAULT_HOP_LIMIT + 1);
        packet[0] = 254;
        assert_eq!(raise_hop_count(&mut packet, 255), Some(255));
        assert_eq!(raise_hop_count(&mut packet, 255), None);
        assert_eq!(packet[0], 255);
        assert_eq!(raise_hop_count(&mut [], 255), None);
    }

    // A48, D12: an id in the header claims, the MAC decides
    #[test]
    fn a_packet_that_bears_anothers_id_fails_its_mac() {
        let [alice, bob, carol] = ["alice", "bob", "carol"].map(identity);
        let ids = (
            Party::Id(alice.address().id()),
            Party::Id(bob.address().id()),
        );
        let mut packet = Vec::new();
        let carols_key = carol.agree(bob.address());
        Message::Ping(b"it is me, alice").emit_packet(
            &header(ids.0, ids.1),
            Some(&carols_key),
            &mut packet,
        );
        assert!(!bob.agree(alice.address()).verify(&packet));
        assert!(bob.agree(carol.address()).verify(&packet));
    }

    // A30: the id of a full party is the address's
    #[test]
    fn both_forms_of_a_party_have_the_same_id() {
        let alice = identity("alice");
        let id = alice.address().id();
        assert_eq!(Party::Full(alice.address().as_bytes()).id(), id);
        assert_eq!(Party::Id(id).id(), id);
    }

    proptest! {
        // S1
        #[test]
        fn what_is_read_from_any_bytes_writes_the_same_bytes(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), flags in 0u8..8) {
            if let Some(byte) = bytes.get_mut(1) {
                *byte = flags;
            }
            if let Ok(packet) = Packet::new_checked(&bytes) {
                let mut again = vec![0; packet.header().len()];
                packet.header().emit(&mut again);
                again[MAC_RANGE].copy_from_slice(&packet.mac());
                again.extend_from_slice(packet.body());
                prop_assert_eq!(again, bytes);
            }
        }
    }
}
