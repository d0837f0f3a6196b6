//! The packet of the streaming protocol (i2cp.md §2.8).
use crate::codec::{Put as _, Reader};
use crate::destination::{Destination, Hash, Offline, SignatureType};
use crate::error::{Error, Result};
use crate::keys::LocalDestination;
use std::ops::Range;

pub(crate) const SYN: u16 = 1;
pub(crate) const CLOSE: u16 = 1 << 1;
pub(crate) const RESET: u16 = 1 << 2;
pub(crate) const SIGNATURE: u16 = 1 << 3;
pub(crate) const FROM: u16 = 1 << 5;
pub(crate) const DELAY: u16 = 1 << 6;
pub(crate) const MAX_SIZE: u16 = 1 << 7;
pub(crate) const INTERACTIVE: u16 = 1 << 8;
pub(crate) const ECHO: u16 = 1 << 9;
pub(crate) const NO_ACK: u16 = 1 << 10;
pub(crate) const OFFLINE: u16 = 1 << 11;
const UNDEFINED: u16 = 0xf000;

/// A requested delay beyond this says: send nothing (choke).
pub(crate) const LONGEST_DELAY: u16 = 60_000;
/// What Java says for choke.
pub(crate) const CHOKE: u16 = 61_000;
/// Most NACKs that the count can say.
pub(crate) const MOST_NACKS: usize = 255;
/// NACKs of a SYN are the hash of its receiver (since 0.9.58).
const HASH_NACKS: usize = 8;

/// One packet, read or to be written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Packet<'a> {
    /// The receiver's id; 0 until it is known.
    pub(crate) to_id: u32,
    /// The sender's id.
    pub(crate) from_id: u32,
    pub(crate) sequence: u32,
    pub(crate) ack_through: u32,
    pub(crate) nacks: Vec<u32>,
    /// In seconds; nobody heeds it.
    pub(crate) resend_delay: u8,
    pub(crate) flags: u16,
    /// In milliseconds, with [`DELAY`].
    pub(crate) delay: u16,
    /// With [`FROM`].
    pub(crate) from: Option<Destination>,
    /// With [`MAX_SIZE`].
    pub(crate) max_size: u16,
    pub(crate) payload: &'a [u8],
    pub(super) offline: Option<Offline<'a>>,
    /// Where the signature stands in a packet that was read.
    pub(super) signature: Range<usize>,
}

impl<'a> Packet<'a> {
    pub(crate) fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// Reads a packet. `known` is the peer's destination where the packet does not bring it: the signature's length
    /// depends on it.
    pub(crate) fn read(bytes: &'a [u8], known: Option<&Destination>) -> Result<Self> {
        let mut reader = Reader::new("a streaming packet", bytes);
        let (to_id, from_id) = (reader.u32()?, reader.u32()?);
        let (sequence, ack_through) = (reader.u32()?, reader.u32()?);
        let count = reader.u8()?;
        let nacks = (0..count).map(|_| reader.u32());
        let nacks = nacks.collect::<Result<Vec<_>>>()?;
        let resend_delay = reader.u8()?;
        let flags = reader.u16()?;
        if flags & UNDEFINED != 0 {
            return Err(reader.malformed("undefined flags"));
        }
        let size = reader.u16()?;
        let start = bytes.len() - reader.remaining();
        let mut options = Reader::new("a streaming packet", reader.take(usize::from(size))?);
        let mut packet = Packet {
            to_id,
            from_id,
            sequence,
            ack_through,
            nacks,
            resend_delay,
            flags,
            payload: reader.rest(),
            ..Packet::default()
        };
        if packet.has(DELAY) {
            packet.delay = options.u16()?;
        }
        if packet.has(FROM) {
            packet.from = Some(Destination::read(&mut options)?);
        }
        if packet.has(MAX_SIZE) {
            packet.max_size = options.u16()?;
        }
        if packet.flags & (OFFLINE | SIGNATURE) != 0 {
            let signer = packet.from.as_ref().or(known);
            let signer = signer.ok_or_else(|| options.malformed("signed by nobody knows whom"))?;
            let mut kind = signer.signature_type()?;
            if packet.flags & OFFLINE != 0 {
                let offline = Offline::read(&mut options, signer)?;
                kind = offline.kind();
                packet.offline = Some(offline);
            }
            if packet.flags & SIGNATURE != 0 {
                let at = start + usize::from(size) - options.remaining();
                options.take(kind.signature_length())?;
                packet.signature = at..at + kind.signature_length();
            }
        }
        options.finish()?;
        Ok(packet)
    }

    /// Whether `signer` signed this packet, whose bytes are `bytes`.
    pub(crate) fn verify(&self, bytes: &[u8], signer: &Destination, unix_ms: u64) -> Result<()> {
        const WHAT: &str = "a streaming packet";
        if !self.has(SIGNATURE) {
            return Err(Error::BadSignature(WHAT));
        }
        let mut signed = bytes.to_vec();
        signed[self.signature.clone()].fill(0);
        let signature = &bytes[self.signature.clone()];
        match &self.offline {
            Some(offline) => {
                let key = offline.verified(signer, unix_ms)?;
                key.verify(WHAT, &signed, signature)
            }
            None => signer.verify(WHAT, &signed, signature),
        }
    }

    /// Writes the packet; with [`SIGNATURE`], `keys` sign it, with [`FROM`], they are its sender.
    pub(crate) fn write(&self, keys: &LocalDestination) -> Vec<u8> {
        let own = keys.destination().as_bytes();
        let signature_length = SignatureType::Ed25519.signature_length();
        let mut size = 0;
        for (flag, length) in [
            (DELAY, 2),
            (FROM, own.len()),
            (MAX_SIZE, 2),
            (SIGNATURE, signature_length),
        ] {
            size += if self.has(flag) { length } else { 0 };
        }
        let mut out = Vec::with_capacity(22 + 4 * self.nacks.len() + size + self.payload.len());
        for word in [self.to_id, self.from_id, self.sequence, self.ack_through] {
            out.put_u32(word);
        }
        debug_assert!(self.nacks.len() <= MOST_NACKS);
        out.put_u8(self.nacks.len() as u8);
        for nack in &self.nacks {
            out.put_u32(*nack);
        }
        out.put_u8(self.resend_delay);
        out.put_u16(self.flags);
        out.put_u16(size as u16);
        if self.has(DELAY) {
            out.put_u16(self.delay);
        }
        if self.has(FROM) {
            out.put(own);
        }
        if self.has(MAX_SIZE) {
            out.put_u16(self.max_size);
        }
        let at = out.len();
        if self.has(SIGNATURE) {
            out.resize(at + signature_length, 0);
        }
        out.put(self.payload);
        if self.has(SIGNATURE) {
            let signature = keys.sign(&out);
            out[at..at + signature_length].copy_from_slice(&signature);
        }
        out
    }
}

/// The NACK field of a SYN to `hash`.
pub(crate) fn hash_as_nacks(hash: &Hash) -> Vec<u32> {
    let words = hash.0.as_chunks::<4>().0;
    words.iter().copied().map(u32::from_be_bytes).collect()
}

/// Whether a SYN is for `own`, or for whomever it reaches (before 0.9.58).
pub(crate) fn is_for(nacks: &[u32], own: &Hash) -> bool {
    nacks.len() != HASH_NACKS || nacks == hash_as_nacks(own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{hex, keys};
    use proptest::prelude::*;

    const NOW: u64 = crate::router::START_MS;

    /// Every packet of the vectors, how it is made, and who signs it.
    fn vectors() -> Vec<(&'static str, Packet<'static>, &'static str)> {
        let to_b = hash_as_nacks(&keys("B").destination().hash());
        let base = Packet {
            to_id: 0x0a0b_0c0d,
            from_id: 0x0102_0304,
            ..Packet::default()
        };
        vec![
            (
                "syn_A_to_B/bytes",
                Packet {
                    from_id: 0x0102_0304,
                    nacks: to_b,
                    resend_delay: 9,
                    max_size: 1812,
                    payload: b"GET",
                    flags: SYN | SIGNATURE | FROM | MAX_SIZE | NO_ACK,
                    ..Packet::default()
                },
                "A",
            ),
            (
                "syn_reply_B_to_A/bytes",
                Packet {
                    to_id: 0x0102_0304,
                    from_id: 0x0a0b_0c0d,
                    resend_delay: 9,
                    max_size: 1730,
                    flags: SYN | SIGNATURE | FROM | MAX_SIZE,
                    ..Packet::default()
                },
                "B",
            ),
            (
                "data_seq_5_with_delay_0",
                Packet {
                    sequence: 5,
                    ack_through: 3,
                    resend_delay: 1,
                    flags: DELAY,
                    payload: b"data",
                    ..base.clone()
                },
                "A",
            ),
            (
                "plain_ack_through_9_nack_6_7",
                Packet {
                    ack_through: 9,
                    nacks: vec![6, 7],
                    ..base.clone()
                },
                "A",
            ),
            (
                "choke",
                Packet {
                    ack_through: 9,
                    flags: DELAY,
                    delay: CHOKE,
                    ..base.clone()
                },
                "A",
            ),
            (
                "close_seq_6",
                Packet {
                    sequence: 6,
                    ack_through: 9,
                    flags: CLOSE | SIGNATURE,
                    ..base.clone()
                },
                "A",
            ),
            (
                "reset",
                Packet {
                    flags: RESET | SIGNATURE | FROM,
                    ..base.clone()
                },
                "A",
            ),
            (
                "ping",
                Packet {
                    to_id: 0x7777_7777,
                    from_id: 0,
                    flags: ECHO | SIGNATURE | FROM,
                    payload: b"abc",
                    ..Packet::default()
                },
                "A",
            ),
            (
                "pong",
                Packet {
                    to_id: 0,
                    from_id: 0x7777_7777,
                    flags: ECHO,
                    payload: b"abc",
                    ..Packet::default()
                },
                "A",
            ),
        ]
    }

    /// The vectors agree about the layout, but some fields are free; they are taken over and must come out the same.
    #[test]
    fn the_packets_of_the_vectors_are_written_and_read() {
        for (name, made, who) in vectors() {
            let keys = keys(who);
            let bytes = hex(&format!("/streaming/{name}"));
            let read = Packet::read(&bytes, Some(keys.destination())).unwrap();
            assert_eq!(
                (read.to_id, read.from_id),
                (made.to_id, made.from_id),
                "{name}"
            );
            assert_eq!(
                (read.sequence, read.ack_through),
                (made.sequence, made.ack_through),
                "{name}"
            );
            assert_eq!(read.nacks, made.nacks, "{name}");
            assert_eq!(read.payload, made.payload, "{name}");
            assert_eq!(read.delay, made.delay, "{name}");
            let signed = read.has(SIGNATURE);
            assert_eq!(
                read.verify(&bytes, keys.destination(), NOW).is_ok(),
                signed,
                "{name}"
            );
            if signed {
                let other = crate::vectors::keys(if who == "A" { "B" } else { "A" });
                assert!(read.verify(&bytes, other.destination(), NOW).is_err());
            }
            assert_eq!(read.write(&keys), bytes, "{name}");
        }
    }

    #[test]
    fn a_syn_is_for_us_for_anybody_or_for_another() {
        let (a, b) = (
            keys("A").destination().hash(),
            keys("B").destination().hash(),
        );
        let bytes = hex("/streaming/syn_A_to_B/bytes");
        let syn = Packet::read(&bytes, None).unwrap();
        assert!(is_for(&syn.nacks, &b));
        assert!(!is_for(&syn.nacks, &a));
        assert!(is_for(&[], &a));
    }

    // S37
    #[test]
    fn a_signed_packet_is_refused_when_any_byte_changes() {
        for (name, _, who) in vectors() {
            let keys = keys(who);
            let bytes = hex(&format!("/streaming/{name}"));
            if !Packet::read(&bytes, Some(keys.destination()))
                .unwrap()
                .has(SIGNATURE)
            {
                continue;
            }
            for at in 0..bytes.len() {
                let mut bad = bytes.clone();
                bad[at] ^= 0x10;
                let good = Packet::read(&bad, Some(keys.destination()))
                    .and_then(|packet| packet.verify(&bad, keys.destination(), NOW));
                assert!(good.is_err(), "{name} {at}");
            }
        }
    }

    // S37
    #[test]
    fn headers_cut_short_at_every_length_are_refused() {
        for (name, made, who) in vectors() {
            let keys = keys(who);
            let bytes = hex(&format!("/streaming/{name}"));
            for length in 0..bytes.len() - made.payload.len() {
                assert!(
                    Packet::read(&bytes[..length], Some(keys.destination())).is_err(),
                    "{name} {length}"
                );
            }
        }
    }

    proptest! {
        // S37
        #[test]
        fn noise_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..700), known: bool) {
            let keys = keys("A");
            if let Ok(packet) = Packet::read(&bytes, known.then_some(keys.destination())) {
                let _ = packet.verify(&bytes, keys.destination(), NOW);
            }
        }
    }
}
