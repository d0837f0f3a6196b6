//! Our own destinations: keys, their file, signing (i2cp.md §2.3).
use crate::destination::{Destination, SignatureType};
use crate::error::{Error, Result};
use crate::names;
use aws_lc_rs::agreement;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use rand_core::CryptoRng;
use std::fmt;
use zeroize::Zeroizing;

/// The certificate of an Ed25519 destination with the unused crypto type 0.
const CERTIFICATE: [u8; 7] = [5, 0, 4, 0, 7, 0, 0];
/// Bytes of the unused crypto private key in a key file.
const CRYPTO_PRIVATE: usize = 256;
const DESTINATION: usize = 391;
/// Bytes of a key file: destination, unused crypto key, Ed25519 seed.
const KEY_FILE: usize = DESTINATION + CRYPTO_PRIVATE + 32;

/// A destination of this node with the key that signs for it, which the router never gets (I4). The X25519 key with which
/// the router decrypts belongs to a session, not to the destination: see `client`.
pub struct LocalDestination {
    destination: Destination,
    seed: Zeroizing<[u8; 32]>,
    signer: Ed25519KeyPair,
}

impl LocalDestination {
    /// A new one. The padding repeats 32 random bytes, so that it compresses (proposal 161, I65).
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        let mut padding = [0; 32];
        rng.fill_bytes(&mut *seed);
        rng.fill_bytes(&mut padding);
        let signer =
            Ed25519KeyPair::from_seed_unchecked(&*seed).expect("any 32 bytes are an Ed25519 seed");
        let mut bytes = padding.repeat(11);
        bytes.extend_from_slice(signer.public_key().as_ref());
        bytes.extend_from_slice(&CERTIFICATE);
        let destination = Destination::decode(&bytes).expect("it was made as it must be");
        Self::from_parts(destination, &seed).expect("the keys belong together")
    }

    /// From its parts.
    ///
    /// # Errors
    /// [`Error::Key`] when the seed is not the destination's, or the destination does not sign with Ed25519.
    pub fn from_parts(destination: Destination, seed: &[u8; 32]) -> Result<Self> {
        if destination.signature_type() != Ok(SignatureType::Ed25519) {
            return Err(Error::Key("only Ed25519 destinations can be local"));
        }
        let public = &destination.as_bytes()[352..384];
        let signer = Ed25519KeyPair::from_seed_and_public_key(seed, public)
            .map_err(|_| Error::Key("the signing key does not belong to the destination"))?;
        Ok(Self {
            destination,
            seed: Zeroizing::new(*seed),
            signer,
        })
    }

    /// Reads a key file as i2pd and Java write it (`.dat`), or its I2P base 64 (as SAM shows it).
    ///
    /// # Errors
    /// [`Error::Key`] for anything else, offline keys among them.
    pub fn from_file(file: &[u8]) -> Result<Self> {
        let decoded;
        let bytes = match std::str::from_utf8(file).map(str::trim_ascii) {
            Ok(text) if text.len() == KEY_FILE.div_ceil(3) * 4 => {
                decoded = Zeroizing::new(names::decode_base64("a key file", text)?);
                &decoded[..]
            }
            _ => file,
        };
        let destination = bytes
            .get(..DESTINATION)
            .ok_or(Error::Key("it is cut short"))?;
        let destination = Destination::decode(destination)?;
        if destination.signature_type() != Ok(SignatureType::Ed25519) {
            return Err(Error::Key("only Ed25519 destinations can be local"));
        }
        let seed = &bytes[DESTINATION..];
        // a destination of crypto type 4 has a private key of 32 bytes
        let crypto = match &destination.as_bytes()[389..391] {
            [0, 4] => 32,
            _ => CRYPTO_PRIVATE,
        };
        let seed = seed.get(crypto..).ok_or(Error::Key("it is cut short"))?;
        if seed.len() > 32 && seed[..32] == [0; 32] {
            return Err(Error::Key("offline keys cannot be used"));
        }
        let seed: &[u8; 32] = seed
            .try_into()
            .map_err(|_| Error::Key("its length is wrong"))?;
        Self::from_parts(destination, seed)
    }

    /// The key file, `KEY_FILE` bytes.
    pub fn to_file(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Vec::with_capacity(KEY_FILE);
        bytes.extend_from_slice(self.destination.as_bytes());
        bytes.resize(bytes.len() + CRYPTO_PRIVATE, 0);
        bytes.extend_from_slice(&*self.seed);
        Zeroizing::new(bytes)
    }

    /// The key file as one line of I2P base 64.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(names::base64(&self.to_file()))
    }

    /// The public half.
    pub fn destination(&self) -> &Destination {
        &self.destination
    }

    /// The seed of the signing key, for blinding.
    pub(crate) fn seed(&self) -> &[u8; 32] {
        &self.seed
    }

    /// The public signing key.
    pub(crate) fn public(&self) -> &[u8] {
        &self.destination.as_bytes()[352..384]
    }

    /// The long base-32 name under which an encrypted lease set is found.
    pub fn blinded_name(&self, needs_secret: bool, needs_key: bool) -> String {
        let blinded = names::Blinded {
            signature_type: SignatureType::Ed25519.code(),
            blinded_type: SignatureType::RedDsa.code(),
            needs_secret,
            needs_key,
            public_key: self.public().to_vec(),
        };
        blinded.name()
    }

    /// An Ed25519 signature.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        let signature = self.signer.sign(message);
        signature
            .as_ref()
            .try_into()
            .expect("an Ed25519 signature has 64 bytes")
    }
}

impl fmt::Debug for LocalDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalDestination({})", self.destination.hash())
    }
}

pub(crate) fn x25519_public(private: &[u8; 32]) -> Result<[u8; 32]> {
    let bad = Error::Key("no X25519 key");
    let key = agreement::PrivateKey::from_private_key(&agreement::X25519, private)
        .map_err(|_| bad.clone())?;
    let public = key.compute_public_key().map_err(|_| bad.clone())?;
    public.as_ref().try_into().map_err(|_| bad)
}

/// The shared secret of two X25519 keys; `None` for a public key that is none.
pub(crate) fn x25519(private: &[u8; 32], public: &[u8; 32]) -> Option<Zeroizing<[u8; 32]>> {
    let key = agreement::PrivateKey::from_private_key(&agreement::X25519, private).ok()?;
    let public = agreement::UnparsedPublicKey::new(&agreement::X25519, public);
    agreement::agree(&key, public, (), |secret| {
        secret.try_into().map(Zeroizing::new).map_err(|_| ())
    })
    .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{array, hex, keys};
    use rand::{SeedableRng as _, rngs::StdRng};

    // I4
    #[test]
    fn the_keys_of_the_vectors_sign_and_derive() {
        for who in ["A", "B"] {
            let keys = keys(who);
            let lease = x25519_public(&array(&format!("/{who}/x25519_private"))).unwrap();
            assert_eq!(lease.to_vec(), hex(&format!("/{who}/x25519_public")));
            let signature = keys.sign(b"it");
            keys.destination().verify("it", b"it", &signature).unwrap();
            assert!(keys.destination().verify("it", b"It", &signature).is_err());
        }
    }

    // I65
    #[test]
    fn a_new_destination_has_391_bytes_and_compresses() {
        let mut rng = StdRng::seed_from_u64(1);
        let one = LocalDestination::generate(&mut rng);
        let two = LocalDestination::generate(&mut rng);
        assert_ne!(one.destination(), two.destination());
        let bytes = one.destination().as_bytes();
        assert_eq!(bytes.len(), 391);
        assert_eq!(bytes[..320], bytes[32..352]);
    }

    #[test]
    fn key_files_are_read_as_bytes_and_as_text() {
        let a = keys("A");
        for file in [
            a.to_file().to_vec(),
            a.to_text().as_bytes().to_vec(),
            format!("{}\n", *a.to_text()).into_bytes(),
        ] {
            let read = LocalDestination::from_file(&file).unwrap();
            assert_eq!(read.destination(), a.destination());
            assert_eq!(read.sign(b"it"), a.sign(b"it"));
        }
        assert_eq!(a.to_file().len(), 679);
    }

    #[test]
    fn broken_key_files_are_refused_at_every_length() {
        let a = keys("A");
        let file = a.to_file();
        for length in 0..file.len() {
            assert!(
                LocalDestination::from_file(&file[..length]).is_err(),
                "{length}"
            );
        }
        assert!(LocalDestination::from_file(&[&file[..], b"x"].concat()).is_err());
        let mut foreign = file.to_vec();
        foreign[650] ^= 1;
        assert_eq!(
            LocalDestination::from_file(&foreign).unwrap_err(),
            Error::Key("the signing key does not belong to the destination")
        );
        let mut offline = file.to_vec();
        offline[647..].fill(0);
        offline.extend_from_slice(&[0; 100]);
        assert_eq!(
            LocalDestination::from_file(&offline).unwrap_err(),
            Error::Key("offline keys cannot be used")
        );
    }

    #[test]
    fn a_key_never_shows_in_debug_output() {
        assert_eq!(
            format!("{:?}", keys("A")),
            "LocalDestination(g4vcl4pssctax7ykbmoi5h6ota5rvjykpstuahr7lbw2b5vysk4q.b32.i2p)"
        );
    }
}
