//! AES-DIGEST, key folding and the packet MAC (Anode 0.8 §2.4 to §2.6, §3.3).
use crate::packet::{MAC_RANGE, MIN_PACKET};
use aes::Aes256Enc;
use aes::cipher::consts::U16;
use aes::cipher::{
    BlockCipherEncBackend, BlockCipherEncClosure, BlockCipherEncrypt, BlockSizeUser, KeyInit,
};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A prepared CMAC-AES-256 key of a pair of addresses: key schedule and subkeys are kept, nothing is allocated per
/// packet. Zeroised on drop.
pub struct MacKey {
    cipher: Aes256Enc,
    /// For a last block that is whole.
    subkey_whole: Zeroizing<Block>,
    /// For a last block that is padded.
    subkey_padded: Zeroizing<Block>,
}

type Block = [u8; 16];

/// Packets whose chains run side by side. One chain waits for the cipher's latency at each block; sixteen keep it busy.
const LANES: usize = 16;

/// In a packet less its hop count, the first CMAC block ends here.
const FIRST_BLOCK_END: usize = 17;

impl MacKey {
    /// From the 32 derived bytes (A28).
    pub fn new(key: &[u8; 32]) -> Self {
        let cipher = Aes256Enc::new(key.into());
        let zero = Zeroizing::new(chain(&cipher, [&[[0; 16]], &[], &[]]));
        let subkey_whole = Zeroizing::new(double(&zero));
        let subkey_padded = Zeroizing::new(double(&subkey_whole));
        Self {
            cipher,
            subkey_whole,
            subkey_padded,
        }
    }

    /// The folded 8-byte MAC of a whole packet (A43). The MAC field's present content does not matter, and neither
    /// does the hop count. Bytes too few for a packet have the MAC of nothing: zeros, which `verify` never takes.
    pub fn packet_mac(&self, packet: &[u8]) -> [u8; 8] {
        if packet.len() < MIN_PACKET {
            return [0; 8];
        }
        fold_mac(self.cmac(&[first_block(packet)], &packet[FIRST_BLOCK_END..]))
    }

    /// Writes the MAC into the packet.
    pub fn sign(&self, packet: &mut [u8]) {
        let mac = self.packet_mac(packet);
        if let Some(field) = packet.get_mut(MAC_RANGE) {
            field.copy_from_slice(&mac);
        }
    }

    /// Whether the packet's MAC is right; compares in constant time.
    pub fn verify(&self, packet: &[u8]) -> bool {
        packet.len() >= MIN_PACKET && bool::from(self.packet_mac(packet).ct_eq(&packet[MAC_RANGE]))
    }

    /// Signs packets that lie one behind the other, all of `size` bytes but the last, which may be shorter: what one
    /// call to the kernel carries (UDP GSO). Four times as fast as one by one: see `LANES`.
    pub fn sign_each(&self, packets: &mut [u8], size: usize) {
        let mut groups = packets.chunks_mut(size.max(1).saturating_mul(LANES));
        for group in &mut groups {
            let macs = self.macs(group, size);
            for (packet, mac) in group.chunks_mut(size.max(1)).zip(macs) {
                if let Some(field) = packet.get_mut(MAC_RANGE) {
                    field.copy_from_slice(&mac);
                }
            }
        }
    }

    /// Checks packets that lie one behind the other, as [`MacKey::sign_each`] takes them; calls `verdict` for each in turn.
    pub fn verify_each(&self, packets: &[u8], size: usize, mut verdict: impl FnMut(bool)) {
        for group in packets.chunks(size.max(1).saturating_mul(LANES)) {
            let macs = self.macs(group, size);
            for (packet, mac) in group.chunks(size.max(1)).zip(macs) {
                verdict(packet.len() >= MIN_PACKET && bool::from(mac.ct_eq(&packet[MAC_RANGE])));
            }
        }
    }

    /// The MACs of at most [`LANES`] packets.
    fn macs(&self, group: &[u8], size: usize) -> [[u8; 8]; LANES] {
        let mut macs = [[0; 8]; LANES];
        let whole = group.len() / size.max(1);
        if size >= MIN_PACKET && whole > 1 {
            let (equal, last) = group.split_at(whole * size);
            self.lanes(equal, size, &mut macs[..whole]);
            if let Some(mac) = macs.get_mut(whole) {
                *mac = self.packet_mac(last);
            }
        } else {
            for (packet, mac) in group.chunks(size.max(1)).zip(&mut macs) {
                *mac = self.packet_mac(packet);
            }
        }
        macs
    }

    /// The MACs of packets of equal size, a block of each at a time.
    fn lanes(&self, packets: &[u8], size: usize, macs: &mut [[u8; 8]]) {
        let mut states = [aes::Block::default(); LANES];
        let states = &mut states[..macs.len()];
        for (state, packet) in states.iter_mut().zip(packets.chunks_exact(size)) {
            *state = first_block(packet).into();
        }
        // What follows the first block: whole ones, and a last one that is not empty (a packet has 28 bytes at least).
        let rest = size - FIRST_BLOCK_END;
        let blocks = (rest - 1) / 16;
        for block in 0..blocks {
            self.cipher.encrypt_blocks(states);
            let at = FIRST_BLOCK_END + 16 * block;
            for (state, packet) in states.iter_mut().zip(packets.chunks_exact(size)) {
                absorb_block(state, &packet[at..at + 16]);
            }
        }
        self.cipher.encrypt_blocks(states);
        let at = FIRST_BLOCK_END + 16 * blocks;
        for (state, packet) in states.iter_mut().zip(packets.chunks_exact(size)) {
            let last = self.last_block(&packet[at..]);
            absorb_block(state, &last);
        }
        self.cipher.encrypt_blocks(states);
        for (state, mac) in states.iter().zip(macs) {
            *mac = fold_mac((*state).into());
        }
    }

    /// The last 1 to 16 bytes of a message (or none, of an empty one), padded and under their subkey.
    fn last_block(&self, end: &[u8]) -> Block {
        let mut last = [0; 16];
        last[..end.len()].copy_from_slice(end);
        let subkey = if end.len() == 16 {
            &self.subkey_whole
        } else {
            last[end.len()] = 0x80;
            &self.subkey_padded
        };
        xor(&last, subkey)
    }

    /// CMAC of any message, whole: not the MAC of a packet, which leaves bytes out and is shorter.
    pub fn tag(&self, message: &[u8]) -> [u8; 16] {
        self.cmac(&[], message)
    }

    /// CMAC (RFC 4493 §2.4) of `first` and `rest`, which is empty only if `first` is.
    fn cmac(&self, first: &[Block], rest: &[u8]) -> Block {
        let (blocks, end) = rest.split_at(rest.len().saturating_sub(1) / 16 * 16);
        let last = self.last_block(end);
        chain(
            &self.cipher,
            [first, blocks.as_chunks().0, std::slice::from_ref(&last)],
        )
    }
}

/// Encrypts what is the state XOR the next block, again and again; the state starts with zeros.
///
/// Written out over `aes`, because every packet passes here twice: with the state in a register all along it runs as fast
/// as the cipher can. The `cmac` crate takes 1.8 times as long; the tests compare with it.
fn chain(cipher: &Aes256Enc, parts: [&[Block]; 3]) -> Block {
    let mut state = [0; 16];
    cipher.encrypt_with_backend(Chain {
        parts,
        state: &mut state,
    });
    state
}

struct Chain<'a> {
    parts: [&'a [Block]; 3],
    state: &'a mut Block,
}

impl BlockSizeUser for Chain<'_> {
    type BlockSize = U16;
}

impl BlockCipherEncClosure for Chain<'_> {
    // inlined into code that is compiled for the processor's AES instructions
    #[inline(always)]
    fn call<B: BlockCipherEncBackend<BlockSize = U16>>(self, backend: &B) {
        let mut state = [0; 16];
        for block in self.parts.into_iter().flatten() {
            let mut mixed = aes::Block::from(xor(&state, block));
            backend.encrypt_block((&mut mixed).into());
            state = mixed.into();
        }
        *self.state = state;
    }
}

/// What CMAC sees first of a packet of at least [`MIN_PACKET`] bytes.
fn first_block(packet: &[u8]) -> Block {
    let mut first = [0; 16];
    first[0] = packet[1];
    // D19: the size of the whole packet, the hop count too
    first[1..9].copy_from_slice(&(packet.len() as u64).to_be_bytes());
    first[9..].copy_from_slice(&packet[MAC_RANGE.end..FIRST_BLOCK_END]);
    first
}

fn absorb_block(state: &mut aes::Block, block: &[u8]) {
    for (state, byte) in state.iter_mut().zip(block) {
        *state ^= byte;
    }
}

#[inline(always)]
fn xor(a: &Block, b: &Block) -> Block {
    std::array::from_fn(|i| a[i] ^ b[i])
}

/// Multiplication by x in GF(2^128), in constant time (RFC 4493 §2.3).
fn double(block: &Block) -> Block {
    let value = u128::from_be_bytes(*block);
    (value << 1 ^ 0x87 & 0u128.wrapping_sub(value >> 127)).to_be_bytes()
}

impl std::fmt::Debug for MacKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MacKey(…)")
    }
}

/// First half XOR second half (§2.7, §3.3).
pub(crate) fn fold_mac(full: [u8; 16]) -> [u8; 8] {
    std::array::from_fn(|i| full[i] ^ full[i + 8])
}

/// AES-DIGEST of the draft (A29) with the readings of D11: Davies-Meyer over AES-256 with 32-byte message blocks.
///
/// 128 bits of a construction that nobody has reviewed: it names addresses inside packets and proves nothing (D12).
pub fn aes_digest(message: &[u8]) -> [u8; 16] {
    let mut digest = [0u8; 16];
    let (blocks, rest) = message.as_chunks::<32>();
    for block in blocks {
        absorb(&mut digest, block);
    }

    // D11a: the end marker is followed by zeros up to byte 31.
    let mut block = [0; 32];
    block[..rest.len()].copy_from_slice(rest);
    block[rest.len()] = 0x80;
    absorb(&mut digest, &block);

    // D11b and d: the length in bytes stands in bytes 8 to 15; bytes 16 to 31 stay as the end block left them.
    block[..8].fill(0);
    block[8..16].copy_from_slice(&(message.len() as u64).to_be_bytes());
    absorb(&mut digest, &block);
    digest
}

fn absorb(digest: &mut [u8; 16], block: &[u8; 32]) {
    let mut encrypted = (*digest).into();
    Aes256Enc::new(block.into()).encrypt_block(&mut encrypted);
    for (byte, encrypted) in digest.iter_mut().zip(encrypted) {
        *byte ^= encrypted;
    }
}

/// The draft's key folding (A27): `derived` is overwritten; the loop ends before the larger length (D10).
/// An empty `raw` gives zeros.
pub fn fold_key(raw: &[u8], derived: &mut [u8]) {
    derived.fill(0);
    if raw.is_empty() || derived.is_empty() {
        return;
    }
    let (raw_len, derived_len) = (raw.len(), derived.len());
    for i in 0..raw_len.max(derived_len) {
        derived[i % derived_len] ^= raw[i % raw_len];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{hex, identity, vector, vectors};
    use proptest::prelude::*;

    // A29, D11
    #[test]
    fn digests_are_those_of_the_vectors_and_of_no_wrong_reading() {
        for vector in vectors("aes_digest") {
            let message = hex(&vector["message"]);
            assert_eq!(message.len() as u64, vector["len"].as_u64().unwrap());
            let digest = aes_digest(&message);
            assert_eq!(digest, *hex(&vector["digest"]), "{}", vector["name"]);
        }
    }

    /// The vectors say for which lengths a wrong reading changes the digest; there it must differ from ours.
    // D11
    #[test]
    fn wrong_variants_differ_where_the_vectors_say_so() {
        let mut told_apart = 0;
        for vector in vectors("aes_digest")
            .iter()
            .filter(|v| v["wrong_variants"].is_object())
        {
            let digest = aes_digest(&hex(&vector["message"]));
            for (variant, wrong) in vector["wrong_variants"].as_object().unwrap() {
                let differs = wrong != &vector["digest"];
                assert_eq!(
                    digest != *hex(wrong),
                    differs,
                    "{} {variant}",
                    vector["name"]
                );
                told_apart += usize::from(differs);
            }
        }
        assert!(told_apart > 50);
    }

    // A28, A43
    #[test]
    fn cmac_and_its_folding_are_those_of_the_vectors() {
        for vector in vectors("cmac_aes256") {
            let key: [u8; 32] = hex(&vector["key"]).try_into().unwrap();
            let full = MacKey::new(&key).cmac(&[], &hex(&vector["message"]));
            assert_eq!(full, *hex(&vector["mac"]));
            assert_eq!(fold_mac(full), *hex(&vector["mac8_xor_folded"]));
        }
    }

    // A27, D10
    #[test]
    fn folding_is_that_of_the_vectors() {
        for vector in vectors("key_folding") {
            let mut derived = vec![0xff; vector["len"].as_u64().unwrap() as usize];
            fold_key(&hex(&vector["raw"]), &mut derived);
            assert_eq!(derived, hex(&vector["derived"]));
        }
    }

    // A27
    #[test]
    fn folding_from_or_to_nothing_is_harmless() {
        let mut derived = [0xff; 4];
        fold_key(&[], &mut derived);
        assert_eq!(derived, [0; 4]);
        fold_key(&[1, 2, 3], &mut []);
    }

    // A43, D19
    #[test]
    fn the_mac_covers_size_and_everything_but_the_hop_count() {
        for vector in vectors("packets").iter().filter(|v| v["key"].is_string()) {
            let key = MacKey::new(&hex(&vector["key"]).try_into().unwrap());
            let packet = hex(&vector["packet"]);
            let input = hex(&vector["mac_input"]);
            assert_eq!(input[1..9], (packet.len() as u64).to_be_bytes());
            assert_eq!(fold_mac(key.cmac(&[], &input)), key.packet_mac(&packet));
        }
    }

    // S6: the size-field trick, and a MAC for another recipient
    #[test]
    fn neither_the_size_nor_another_pairs_mac_verifies() {
        let alice_bob = identity("alice").agree(identity("bob").address());
        let alice_carol = identity("alice").agree(identity("carol").address());
        let mut packet = hex(&vector("packets", "name", "DGRAM")["packet"]);
        assert!(alice_bob.verify(&packet));
        assert!(!alice_carol.verify(&packet));
        let size = (packet.len() as u64).to_be_bytes();
        packet[MAC_RANGE].copy_from_slice(&size);
        assert!(!alice_bob.verify(&packet));
    }

    #[test]
    fn too_few_bytes_neither_verify_nor_panic() {
        let key = MacKey::new(&[7; 32]);
        for len in 0..MIN_PACKET {
            let mut bytes = vec![0; len];
            key.sign(&mut bytes);
            assert!(!key.verify(&bytes), "{len} bytes");
        }
    }

    proptest! {
        #[test]
        fn cmac_is_that_of_the_cmac_crate(
            key in any::<[u8; 32]>(),
            message in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            use cmac::Mac;
            let theirs = cmac::Cmac::<aes::Aes256>::new(&key.into()).chain_update(&message).finalize();
            prop_assert_eq!(MacKey::new(&key).cmac(&[], &message), <[u8; 16]>::from(theirs.into_bytes()));
        }

        // S1, S6, A39
        #[test]
        fn any_flipped_bit_but_the_hop_counts_breaks_the_mac(
            key in any::<[u8; 32]>(),
            mut packet in proptest::collection::vec(any::<u8>(), MIN_PACKET..200),
            bit in any::<proptest::sample::Index>(),
        ) {
            let key = MacKey::new(&key);
            key.sign(&mut packet);
            prop_assert!(key.verify(&packet));
            let bit = bit.index(packet.len() * 8);
            packet[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(key.verify(&packet), bit < 8);
        }

        #[test]
        fn cutting_or_extending_breaks_the_mac(
            key in any::<[u8; 32]>(),
            mut packet in proptest::collection::vec(any::<u8>(), MIN_PACKET + 1..200),
            extra in any::<u8>(),
        ) {
            let key = MacKey::new(&key);
            key.sign(&mut packet);
            prop_assert!(!key.verify(&packet[..packet.len() - 1]));
            packet.push(extra);
            prop_assert!(!key.verify(&packet));
        }
    }

    proptest! {
        // A43
        #[test]
        fn packets_signed_together_are_as_those_signed_alone(
            key in any::<[u8; 32]>(),
            size in 1usize..300,
            bytes in proptest::collection::vec(any::<u8>(), 0..12_000),
            flip in any::<proptest::sample::Index>(),
        ) {
            let key = MacKey::new(&key);
            let mut together = bytes.clone();
            key.sign_each(&mut together, size);
            let mut alone = bytes;
            alone.chunks_mut(size).for_each(|packet| key.sign(packet));
            prop_assert_eq!(&together, &alone);

            if !together.is_empty() {
                let at = flip.index(together.len());
                together[at] ^= 1;
            }
            let mut verdicts = Vec::new();
            key.verify_each(&together, size, |authentic| verdicts.push(authentic));
            let expected: Vec<_> = together.chunks(size).map(|packet| key.verify(packet)).collect();
            prop_assert_eq!(verdicts, expected);
        }
    }

    // S31: no key in a log
    #[test]
    fn debug_does_not_show_the_key() {
        assert_eq!(format!("{:?}", MacKey::new(&[0x41; 32])), "MacKey(…)");
    }
}
