//! The primitives: static P-256 agreements, AES-256-GCM in place, and the derivation of session keys (Q12, Q15).
use crate::{Address, AddressId, MacKey, mac};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{ECDH_P256, PrivateKey, UnparsedPublicKey, agree};
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use std::sync::atomic::{AtomicU64, Ordering};
use zeroize::Zeroizing;

/// Bytes of a public key as SEC1 has it uncompressed (Q1).
pub(super) const PUBLIC: usize = 65;
/// Bytes of an AES-256-GCM tag.
pub(super) const TAG: usize = 16;

/// A private scalar, ready for agreements. `aws-lc` clears its copy when it is dropped.
pub(super) struct PrivateScalar {
    key: PrivateKey,
    public: [u8; PUBLIC],
}

impl PrivateScalar {
    /// `None` if the scalar is zero or not below the order of the curve.
    pub fn new(scalar: &[u8; 32]) -> Option<Self> {
        let key = PrivateKey::from_private_key(&ECDH_P256, scalar).ok()?;
        let public = key.compute_public_key().ok()?.as_ref().try_into().ok()?;
        Some(Self { key, public })
    }

    /// SEC1, uncompressed.
    pub fn public(&self) -> &[u8; PUBLIC] {
        &self.public
    }

    /// The x coordinate; `None` if `public` is no point in uncompressed form.
    pub fn agree(&self, public: &[u8; PUBLIC]) -> Option<Zeroizing<[u8; 32]>> {
        // The library also reads compressed and hybrid forms: one key would have several transcripts.
        if public[0] != 4 {
            return None;
        }
        let public = UnparsedPublicKey::new(&ECDH_P256, public);
        agree(&self.key, public, (), |x| {
            let mut shared = Zeroizing::new([0; 32]);
            if x.len() != shared.len() {
                return Err(());
            }
            shared.copy_from_slice(x);
            Ok(shared)
        })
        .ok()
    }
}

/// The node's own key, and a count of what is done with keys: the work that strangers can cause.
pub(super) struct StaticKey {
    scalar: PrivateScalar,
    agreements: AtomicU64,
}

impl StaticKey {
    pub fn new(identity: &crate::Identity) -> Self {
        let scalar = PrivateScalar::new(&identity.scalar())
            .expect("an identity's scalar lies between 1 and the order of the curve less 1");
        Self {
            scalar,
            agreements: AtomicU64::new(0),
        }
    }

    pub fn public(&self) -> &[u8; PUBLIC] {
        self.scalar.public()
    }

    /// With the node's own key.
    pub fn agree(&self, public: &[u8; PUBLIC]) -> Option<Zeroizing<[u8; 32]>> {
        self.count();
        self.scalar.agree(public)
    }

    /// Notes a scalar multiplication that was done elsewhere.
    pub fn count(&self) {
        self.agreements.fetch_add(1, Ordering::Relaxed);
    }

    /// Scalar multiplications so far: agreements and public keys made.
    pub fn counted(&self) -> u64 {
        self.agreements.load(Ordering::Relaxed)
    }
}

/// What two addresses have in common for ever: the draft's MAC key, which is also Noise's static-static agreement.
pub(super) struct Agreed {
    pub address: Address,
    pub id: AddressId,
    pub public: [u8; PUBLIC],
    pub shared: Zeroizing<[u8; 32]>,
    pub mac: MacKey,
}

impl Agreed {
    /// One agreement and one decompression.
    pub fn new(own: &StaticKey, address: &Address) -> Option<Self> {
        use p256::elliptic_curve::sec1::ToSec1Point;
        let public = address.public_key().to_sec1_point(false);
        let public: [u8; PUBLIC] = public.as_bytes().try_into().ok()?;
        let shared = own.agree(&public)?;
        let mut key = Zeroizing::new([0; 32]);
        mac::fold_key(&*shared, &mut *key);
        Some(Self {
            address: *address,
            id: address.id(),
            public,
            mac: MacKey::new(&key),
            shared,
        })
    }
}

/// AES-256-GCM under one key. `aws-lc` clears the key when it is dropped.
pub(super) struct Aead(LessSafeKey);

impl Aead {
    pub fn new(key: &[u8; 32]) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, key).expect("the key has the 32 bytes of AES-256");
        Self(LessSafeKey::new(key))
    }

    /// Encrypts in place; the caller never repeats a counter.
    pub fn seal(&self, counter: u64, aad: &[u8], text: &mut [u8]) -> Option<[u8; TAG]> {
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce(counter), Aad::from(aad), text)
            .ok()?;
        tag.as_ref().try_into().ok()
    }

    /// Decrypts in place; `false` leaves rubbish behind.
    pub fn open(&self, counter: u64, aad: &[u8], tag: &[u8; TAG], text: &mut [u8]) -> bool {
        self.0
            .open_in_place_separate_tag(nonce(counter), Aad::from(aad), tag, text)
            .is_ok()
    }
}

/// 4 zero bytes ‖ counter (Q18; Noise has the same for AESGCM).
fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// Both directions' keys.
pub(super) struct KeyPair {
    pub initiator_to_responder: Zeroizing<[u8; 32]>,
    pub responder_to_initiator: Zeroizing<[u8; 32]>,
}

/// The keys after Noise (Q12).
pub(super) fn first_keys(hash: &[u8; 32], split: &[u8; 64]) -> KeyPair {
    expand(hash, split, b"anode sealed 1")
}

/// The keys after ML-KEM (Q15).
pub(super) fn kem_keys(
    hash: &[u8; 32],
    step1: &[u8],
    step2: &[u8],
    split: &[u8; 64],
    secret: &[u8; 32],
) -> KeyPair {
    let salt: [u8; 32] = Sha256::new()
        .chain_update(hash)
        .chain_update(step1)
        .chain_update(step2)
        .finalize()
        .into();
    let mut input = Zeroizing::new([0; 96]);
    input[..64].copy_from_slice(split);
    input[64..].copy_from_slice(secret);
    expand(&salt, &*input, b"anode kem 1")
}

fn expand(salt: &[u8; 32], input: &[u8], info: &[u8]) -> KeyPair {
    let mut okm = Zeroizing::new([0; 64]);
    Hkdf::<Sha256>::new(Some(salt), input)
        .expand(info, &mut *okm)
        .expect("64 bytes are far below the 8,160 that HKDF-SHA256 gives");
    let mut pair = KeyPair {
        initiator_to_responder: Zeroizing::new([0; 32]),
        responder_to_initiator: Zeroizing::new([0; 32]),
    };
    pair.initiator_to_responder.copy_from_slice(&okm[..32]);
    pair.responder_to_initiator.copy_from_slice(&okm[32..]);
    pair
}

/// A prepared HMAC-SHA256 key.
pub(super) type HmacKey = Hmac<Sha256>;

pub(super) fn hmac_key(key: &[u8]) -> HmacKey {
    <HmacKey as KeyInit>::new_from_slice(key).expect("HMAC takes keys of every length")
}

/// HMAC-SHA256 over the joined parts.
pub(super) fn hmac(key: &HmacKey, parts: &[&[u8]]) -> [u8; 32] {
    let mut hmac = key.clone();
    for part in parts {
        hmac.update(part);
    }
    hmac.finalize().into_bytes().into()
}
