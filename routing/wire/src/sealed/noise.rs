//! `Noise_KK_P256_AESGCM_SHA256` (Q1): `snow` with a resolver of ours.
//!
//! The resolver brings the fastest P-256 and AES-GCM that were measured, a static-static agreement that is cached with
//! the pair's MAC key, and an ephemeral scalar from the caller's randomness.
use super::crypto::{Aead, Agreed, PUBLIC, PrivateScalar, StaticKey, TAG};
use rand_core::CryptoRng;
use sha2::{Digest, Sha256};
use snow::params::{CipherChoice, DHChoice, HashChoice, NoiseParams};
use snow::resolvers::CryptoResolver;
use snow::types::{Cipher, Dh, Hash, Random};
use std::sync::Arc;
use zeroize::Zeroizing;

const NAME: &str = "Noise_KK_P256_AESGCM_SHA256";

/// A Noise message did not do: wrong bytes, or out of order. Nothing more is to be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoiseFailed;

impl From<snow::Error> for NoiseFailed {
    fn from(_: snow::Error) -> Self {
        NoiseFailed
    }
}

/// What a completed handshake leaves: the hash that names it and the keys that nobody else has.
pub(super) struct Split {
    pub hash: [u8; 32],
    pub keys: Zeroizing<[u8; 64]>,
}

/// One run of the handshake. Its chaining key is cleared when it is dropped; what `snow` leaves on the stack on the way
/// is not in our hands.
///
/// Boxed before the first secret goes in, so that no move leaves a copy behind.
pub(super) struct Handshake(Box<snow::HandshakeState>);

impl Handshake {
    pub fn initiator(
        own: &Arc<StaticKey>,
        peer: &Arc<Agreed>,
        prologue: &[u8],
        rng: &mut dyn CryptoRng,
    ) -> Result<Self, NoiseFailed> {
        Self::new(own, peer, prologue, rng, true)
    }

    pub fn responder(
        own: &Arc<StaticKey>,
        peer: &Arc<Agreed>,
        prologue: &[u8],
        rng: &mut dyn CryptoRng,
    ) -> Result<Self, NoiseFailed> {
        Self::new(own, peer, prologue, rng, false)
    }

    fn new(
        own: &Arc<StaticKey>,
        peer: &Arc<Agreed>,
        prologue: &[u8],
        rng: &mut dyn CryptoRng,
        initiator: bool,
    ) -> Result<Self, NoiseFailed> {
        let resolver = Resolver {
            own: own.clone(),
            peer: peer.clone(),
            seed: seed(rng),
        };
        let builder = snow::Builder::with_resolver(params()?, Box::new(resolver))
            .local_private_key(&PLACEHOLDER)?
            .remote_public_key(&peer.public)?
            .prologue(prologue)?;
        let state = if initiator {
            builder.build_initiator()?
        } else {
            builder.build_responder()?
        };
        Ok(Self(Box::new(state)))
    }

    /// Appends the next message to `out`.
    pub fn write(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), NoiseFailed> {
        let start = out.len();
        out.resize(start + message_len(payload.len()), 0);
        let written = self.0.write_message(payload, &mut out[start..])?;
        out.truncate(start + written);
        Ok(())
    }

    /// The next message's payload. After an error the state is as before.
    pub fn read(&mut self, message: &[u8]) -> Result<Vec<u8>, NoiseFailed> {
        let mut payload = vec![0; message.len()];
        let read = self.0.read_message(message, &mut payload)?;
        payload.truncate(read);
        Ok(payload)
    }

    pub fn split(mut self) -> Result<Split, NoiseFailed> {
        if !self.0.is_handshake_finished() {
            return Err(NoiseFailed);
        }
        let hash = self
            .0
            .get_handshake_hash()
            .try_into()
            .map_err(|_| NoiseFailed)?;
        let (first, second) = self.0.dangerously_get_raw_split();
        let (first, second) = (Zeroizing::new(first), Zeroizing::new(second));
        let mut keys = Zeroizing::new([0; 64]);
        keys[..32].copy_from_slice(&*first);
        keys[32..].copy_from_slice(&*second);
        Ok(Split { hash, keys })
    }
}

impl Drop for Handshake {
    /// `snow` does not clear its chaining key. Overwriting the whole state in place with one that has no secrets does,
    /// without unsafe code; `black_box` keeps the write from being optimised away (Q16).
    fn drop(&mut self) {
        if let Some(blank) = blank() {
            *self.0 = blank;
            std::hint::black_box(&mut self.0);
        }
    }
}

/// Bytes of a Noise message of this handshake: ephemeral key, payload, tag.
pub(super) const fn message_len(payload: usize) -> usize {
    PUBLIC + payload + TAG
}

fn params() -> Result<NoiseParams, NoiseFailed> {
    Ok(NAME.parse()?)
}

/// `snow` hands the private key through; ours stays in `StaticKey`, which the resolver knows.
const PLACEHOLDER: [u8; 32] = [0; 32];

/// A state of the same type with nothing in it.
fn blank() -> Option<snow::HandshakeState> {
    snow::Builder::with_resolver(params().ok()?, Box::new(BlankResolver))
        .local_private_key(&PLACEHOLDER)
        .ok()?
        .remote_public_key(&[0; PUBLIC])
        .ok()?
        .build_responder()
        .ok()
}

/// Two tries for an ephemeral scalar; each fails with a probability of 2^-32.
type Seed = Zeroizing<[u8; 64]>;

fn seed(rng: &mut dyn CryptoRng) -> Seed {
    let mut seed = Zeroizing::new([0; 64]);
    rng.fill_bytes(&mut *seed);
    seed
}

struct Resolver {
    own: Arc<StaticKey>,
    peer: Arc<Agreed>,
    seed: Seed,
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Seeded {
            seed: self.seed.clone(),
            used: 0,
        }))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        match choice {
            DHChoice::P256 => Some(Box::new(P256 {
                own: self.own.clone(),
                peer: self.peer.clone(),
                ephemeral: None,
            })),
            _ => None,
        }
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        resolve_cipher(choice)
    }
}

fn resolve_hash(choice: &HashChoice) -> Option<Box<dyn Hash>> {
    match choice {
        HashChoice::SHA256 => Some(Box::new(Sha(Sha256::new()))),
        _ => None,
    }
}

fn resolve_cipher(choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
    match choice {
        CipherChoice::AESGCM => Some(Box::new(AesGcm(None))),
        _ => None,
    }
}

/// The caller's randomness, drawn before: `snow` wants to own its source.
struct Seeded {
    seed: Seed,
    used: usize,
}

impl Random for Seeded {
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), snow::Error> {
        let end = self.used + out.len();
        let bytes = self.seed.get(self.used..end).ok_or(snow::Error::Rng)?;
        out.copy_from_slice(bytes);
        self.used = end;
        Ok(())
    }
}

/// `snow` makes two of these and tells them apart by what it calls: `set` on the static key, `generate` on the other.
struct P256 {
    own: Arc<StaticKey>,
    peer: Arc<Agreed>,
    ephemeral: Option<PrivateScalar>,
}

impl Dh for P256 {
    fn name(&self) -> &'static str {
        "P256"
    }

    fn pub_len(&self) -> usize {
        PUBLIC
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn dh_len(&self) -> usize {
        32
    }

    fn set(&mut self, _placeholder: &[u8]) {
        self.ephemeral = None;
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), snow::Error> {
        let mut scalar = Zeroizing::new([0; 32]);
        loop {
            rng.try_fill_bytes(&mut *scalar)?;
            self.own.count();
            if let Some(scalar) = PrivateScalar::new(&scalar) {
                self.ephemeral = Some(scalar);
                return Ok(());
            }
        }
    }

    fn pubkey(&self) -> &[u8] {
        match &self.ephemeral {
            Some(scalar) => scalar.public(),
            None => self.own.public(),
        }
    }

    fn privkey(&self) -> &[u8] {
        // Only `Builder::generate_keypair` asks, which nothing here calls.
        &[]
    }

    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        let public = public.first_chunk().ok_or(snow::Error::Dh)?;
        let shared = match &self.ephemeral {
            Some(scalar) => {
                self.own.count();
                scalar.agree(public)
            }
            None if *public == self.peer.public => Some(self.peer.shared.clone()),
            None => self.own.agree(public),
        };
        let shared = shared.ok_or(snow::Error::Dh)?;
        out.get_mut(..32)
            .ok_or(snow::Error::Dh)?
            .copy_from_slice(&*shared);
        Ok(())
    }
}

/// Cleared on drop by `sha2`.
struct Sha(Sha256);

impl Hash for Sha {
    fn name(&self) -> &'static str {
        "SHA256"
    }

    fn block_len(&self) -> usize {
        64
    }

    fn hash_len(&self) -> usize {
        32
    }

    fn reset(&mut self) {
        self.0 = Sha256::new();
    }

    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        let digest = std::mem::take(&mut self.0).finalize();
        out[..32].copy_from_slice(&digest);
    }
}

struct AesGcm(Option<Aead>);

impl Cipher for AesGcm {
    fn name(&self) -> &'static str {
        "AESGCM"
    }

    fn set(&mut self, key: &[u8; 32]) {
        self.0 = Some(Aead::new(key));
    }

    fn encrypt(&self, nonce: u64, ad: &[u8], text: &[u8], out: &mut [u8]) -> usize {
        let (body, tag) = out.split_at_mut(text.len());
        body.copy_from_slice(text);
        let sealed = self.0.as_ref().and_then(|key| key.seal(nonce, ad, body));
        // Sealing a message this short fails only without a key, and `snow` checks for that before it calls.
        tag[..TAG].copy_from_slice(&sealed.expect("snow encrypts only after it has set a key"));
        text.len() + TAG
    }

    fn decrypt(
        &self,
        nonce: u64,
        ad: &[u8],
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<usize, snow::Error> {
        let (text, tag) = sealed
            .split_last_chunk::<TAG>()
            .ok_or(snow::Error::Decrypt)?;
        let out = out.get_mut(..text.len()).ok_or(snow::Error::Decrypt)?;
        out.copy_from_slice(text);
        let key = self.0.as_ref().ok_or(snow::Error::Decrypt)?;
        if !key.open(nonce, ad, tag, out) {
            return Err(snow::Error::Decrypt);
        }
        Ok(text.len())
    }
}

/// Resolves to primitives without a key, for `blank`.
struct BlankResolver;

impl CryptoResolver for BlankResolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Seeded {
            seed: Zeroizing::new([0; 64]),
            used: 64,
        }))
    }

    fn resolve_dh(&self, _: &DHChoice) -> Option<Box<dyn Dh>> {
        Some(Box::new(NoKey))
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        resolve_cipher(choice)
    }
}

struct NoKey;

impl Dh for NoKey {
    fn name(&self) -> &'static str {
        "P256"
    }

    fn pub_len(&self) -> usize {
        PUBLIC
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn dh_len(&self) -> usize {
        32
    }

    fn set(&mut self, _: &[u8]) {}

    fn generate(&mut self, _: &mut dyn Random) -> Result<(), snow::Error> {
        Err(snow::Error::Rng)
    }

    fn pubkey(&self) -> &[u8] {
        &[0; PUBLIC]
    }

    fn privkey(&self) -> &[u8] {
        &[]
    }

    fn dh(&self, _: &[u8], _: &mut [u8]) -> Result<(), snow::Error> {
        Err(snow::Error::Dh)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Identity, Zone};
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    type Party = (Arc<StaticKey>, Identity);

    fn party(seed: u8) -> Party {
        let identity = Identity::from_scalar(Zone(1), &[seed; 32]).unwrap();
        (Arc::new(StaticKey::new(&identity)), identity)
    }

    fn agreed(own: &Party, other: &Party) -> Arc<Agreed> {
        Arc::new(Agreed::new(&own.0, other.1.address()).unwrap())
    }

    // Q1
    #[test]
    fn both_sides_end_with_the_same_keys_and_count_their_work() {
        let mut rng = StdRng::seed_from_u64(1);
        let (a, b) = (party(1), party(2));
        let (with_b, with_a) = (agreed(&a, &b), agreed(&b, &a));
        assert_eq!(with_a.shared, with_b.shared);
        let mut initiator = Handshake::initiator(&a.0, &with_b, b"p", &mut rng).unwrap();
        let mut responder = Handshake::responder(&b.0, &with_a, b"p", &mut rng).unwrap();
        let (mut first, mut second) = (Vec::new(), Vec::new());
        initiator.write(b"one", &mut first).unwrap();
        assert_eq!(first.len(), message_len(3));
        assert_eq!(responder.read(&first).unwrap(), b"one");
        responder.write(b"two", &mut second).unwrap();
        assert_eq!(initiator.read(&second).unwrap(), b"two");
        let (a_split, b_split) = (initiator.split().unwrap(), responder.split().unwrap());
        assert_eq!(a_split.hash, b_split.hash);
        assert_eq!(a_split.keys, b_split.keys);
        // The static agreement, an ephemeral key, es, ee, se.
        assert_eq!((a.0.counted(), b.0.counted()), (5, 5));
    }

    // Q1, S5: other keys, another prologue, changed bytes, other forms of the point
    #[test]
    fn nothing_but_the_right_message_is_read_and_the_right_one_still_is() {
        let mut rng = StdRng::seed_from_u64(2);
        let (a, b, c) = (party(1), party(2), party(3));
        let mut message = Vec::new();
        Handshake::initiator(&a.0, &agreed(&a, &b), b"p", &mut rng)
            .unwrap()
            .write(b"one", &mut message)
            .unwrap();
        let mut read = |own: &Party, peer: &Party, prologue: &[u8], message: &[u8]| {
            Handshake::responder(&own.0, &agreed(own, peer), prologue, &mut rng)
                .unwrap()
                .read(message)
        };
        assert_eq!(read(&c, &a, b"p", &message), Err(NoiseFailed));
        assert_eq!(read(&b, &c, b"p", &message), Err(NoiseFailed));
        assert_eq!(read(&b, &a, b"q", &message), Err(NoiseFailed));
        for len in 0..message.len() {
            assert_eq!(read(&b, &a, b"p", &message[..len]), Err(NoiseFailed));
        }
        for at in 0..message.len() {
            let mut changed = message.clone();
            changed[at] ^= 2;
            assert_eq!(read(&b, &a, b"p", &changed), Err(NoiseFailed), "byte {at}");
        }
        let mut responder = Handshake::responder(&b.0, &agreed(&b, &a), b"p", &mut rng).unwrap();
        let mut changed = message.clone();
        changed[80] ^= 1;
        assert_eq!(responder.read(&changed), Err(NoiseFailed));
        assert_eq!(responder.read(&message).unwrap(), b"one");
    }

    // Q16: what `drop` writes over the secrets can be made
    #[test]
    fn there_is_a_blank_state() {
        assert!(blank().is_some());
    }
}
