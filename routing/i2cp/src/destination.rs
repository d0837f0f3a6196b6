//! Destinations: who is spoken to (i2cp.md §2.3), and the verification of what they signed (§2.2).
use crate::codec::Reader;
use crate::error::{Error, Result};
use crate::names;
use aws_lc_rs::signature as sig;
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::net::Ipv6Addr;
use std::sync::Arc;

/// Bytes of the two keys and the padding before the certificate.
const KEYS: usize = 384;
const CERTIFICATE_KEY: u8 = 5;
/// Longest payload of a key certificate taken. The largest one in use has 8 bytes (P-521); the rest is for types that
/// are not known yet and whose destinations can still be named and looked up.
const LONGEST_CERTIFICATE: usize = 1024;

/// The SHA-256 of a destination: its identity in names, access lists and logs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// `<52 characters>.b32.i2p`.
    pub fn b32(&self) -> String {
        format!("{}.b32.i2p", names::base32(&self.0))
    }

    /// The address of the interface: fda1::/16, then the first 112 bits (DESIGN §4). Never authorise by it.
    pub fn synthetic_address(&self) -> Ipv6Addr {
        let mut octets = [0; 16];
        octets[..2].copy_from_slice(&[0xfd, 0xa1]);
        octets[2..].copy_from_slice(&self.0[..14]);
        octets.into()
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.b32())
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How a destination signs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SignatureType {
    /// 0; cannot be verified here.
    DsaSha1,
    /// 1
    EcdsaP256,
    /// 2
    EcdsaP384,
    /// 3
    EcdsaP521,
    /// 7: what everybody uses.
    Ed25519,
    /// 11: blinded keys; verified as Ed25519.
    RedDsa,
}

impl SignatureType {
    /// # Errors
    /// [`Error::SignatureType`] for any other number.
    pub fn from_code(code: u16) -> Result<Self> {
        Ok(match code {
            0 => Self::DsaSha1,
            1 => Self::EcdsaP256,
            2 => Self::EcdsaP384,
            3 => Self::EcdsaP521,
            7 => Self::Ed25519,
            11 => Self::RedDsa,
            _ => return Err(Error::SignatureType(code)),
        })
    }

    /// The number in certificates.
    pub fn code(self) -> u16 {
        match self {
            Self::DsaSha1 => 0,
            Self::EcdsaP256 => 1,
            Self::EcdsaP384 => 2,
            Self::EcdsaP521 => 3,
            Self::Ed25519 => 7,
            Self::RedDsa => 11,
        }
    }

    /// Bytes of a public key.
    pub fn public_length(self) -> usize {
        match self {
            Self::DsaSha1 => 128,
            Self::EcdsaP256 => 64,
            Self::EcdsaP384 => 96,
            Self::EcdsaP521 => 132,
            Self::Ed25519 | Self::RedDsa => 32,
        }
    }

    /// Bytes of a signature.
    pub fn signature_length(self) -> usize {
        match self {
            Self::DsaSha1 => 40,
            Self::EcdsaP256 | Self::Ed25519 | Self::RedDsa => 64,
            Self::EcdsaP384 => 96,
            Self::EcdsaP521 => 132,
        }
    }
}

/// A public key with its type.
#[derive(Clone, Copy, Debug)]
pub(crate) struct VerifyingKey<'a> {
    pub(crate) kind: SignatureType,
    pub(crate) key: &'a [u8],
}

impl VerifyingKey<'_> {
    /// Whether `signature` over `message` is of this key. DSA never verifies: nobody makes such destinations any more,
    /// and SHA-1 is not worth a dependency.
    pub(crate) fn verify(
        &self,
        what: &'static str,
        message: &[u8],
        signature: &[u8],
    ) -> Result<()> {
        let uncompressed = |key: &[u8]| [&[4], key].concat();
        let result = match self.kind {
            SignatureType::DsaSha1 => return Err(Error::SignatureType(0)),
            SignatureType::Ed25519 | SignatureType::RedDsa => {
                sig::UnparsedPublicKey::new(&sig::ED25519, self.key).verify(message, signature)
            }
            SignatureType::EcdsaP256 => {
                sig::UnparsedPublicKey::new(&sig::ECDSA_P256_SHA256_FIXED, uncompressed(self.key))
                    .verify(message, signature)
            }
            SignatureType::EcdsaP384 => {
                sig::UnparsedPublicKey::new(&sig::ECDSA_P384_SHA384_FIXED, uncompressed(self.key))
                    .verify(message, signature)
            }
            SignatureType::EcdsaP521 => {
                sig::UnparsedPublicKey::new(&sig::ECDSA_P521_SHA512_FIXED, uncompressed(self.key))
                    .verify(message, signature)
            }
        };
        result.map_err(|_| Error::BadSignature(what))
    }
}

/// A Destination (KeysAndCert): cheap to clone, its hash is known.
#[derive(Clone)]
pub struct Destination {
    bytes: Arc<[u8]>,
    hash: Hash,
    signature: std::result::Result<SignatureType, u16>,
}

impl Destination {
    /// Reads one that fills `bytes`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new("a destination", bytes);
        let destination = Self::read(&mut reader)?;
        reader.finish()?;
        Ok(destination)
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let mut ahead = reader.clone();
        ahead.take(KEYS)?;
        let kind = ahead.u8()?;
        let length = usize::from(ahead.u16()?);
        let signature = match kind {
            0 if length == 0 => Ok(SignatureType::DsaSha1),
            CERTIFICATE_KEY if (4..=LONGEST_CERTIFICATE).contains(&length) => {
                let code = ahead.u16()?;
                let crypto = ahead.u16()?;
                ahead.take(length - 4)?;
                let signature = SignatureType::from_code(code).map_err(|_| code);
                if let (Ok(kind), 0 | 4) = (signature, crypto)
                    && length - 4 != kind.public_length().saturating_sub(128)
                {
                    return Err(reader.malformed("the certificate's length does not fit its types"));
                }
                signature
            }
            _ => return Err(reader.malformed("a certificate of no known kind")),
        };
        let bytes: Arc<[u8]> = reader.take(KEYS + 3 + length)?.into();
        Ok(Self {
            hash: Hash(Sha256::digest(&bytes).into()),
            bytes,
            signature,
        })
    }

    /// From the I2P base 64 of address books.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_base64(text: &str) -> Result<Self> {
        Self::decode(&names::decode_base64("a destination", text)?)
    }

    /// In the I2P base 64.
    pub fn base64(&self) -> String {
        names::base64(&self.bytes)
    }

    /// The bytes, 387 or more.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Its SHA-256.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// How it signs.
    ///
    /// # Errors
    /// [`Error::SignatureType`] when this program does not know the type.
    pub fn signature_type(&self) -> Result<SignatureType> {
        self.signature.map_err(Error::SignatureType)
    }

    /// Whether `signature` over `message` is this destination's.
    ///
    /// # Errors
    /// [`Error::BadSignature`] naming `what`, [`Error::SignatureType`].
    pub fn verify(&self, what: &'static str, message: &[u8], signature: &[u8]) -> Result<()> {
        let kind = self.signature_type()?;
        let excess;
        let key = match kind {
            // four of its bytes stand in the certificate, behind the types
            SignatureType::EcdsaP521 => {
                excess = [&self.bytes[256..KEYS], &self.bytes[391..395]].concat();
                &excess[..]
            }
            _ => &self.bytes[KEYS - kind.public_length()..KEYS],
        };
        VerifyingKey { kind, key }.verify(what, message, signature)
    }
}

impl PartialEq for Destination {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

impl Eq for Destination {}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Destination({})", self.hash)
    }
}

/// An offline signature: the destination's key lets a transient one sign for a while (i2cp.md §2.5).
#[derive(Clone, Debug)]
pub(crate) struct Offline<'a> {
    expires_s: u32,
    key: VerifyingKey<'a>,
    signed: Vec<u8>,
    signature: &'a [u8],
}

impl<'a> Offline<'a> {
    pub(crate) fn read(reader: &mut Reader<'a>, by: &Destination) -> Result<Self> {
        let expires_s = reader.u32()?;
        let code = reader.u16()?;
        let kind = SignatureType::from_code(code)?;
        let key = reader.take(kind.public_length())?;
        let signature = reader.take(by.signature_type()?.signature_length())?;
        let mut signed = Vec::with_capacity(6 + key.len());
        signed.extend_from_slice(&expires_s.to_be_bytes());
        signed.extend_from_slice(&code.to_be_bytes());
        signed.extend_from_slice(key);
        Ok(Self {
            expires_s,
            key: VerifyingKey { kind, key },
            signed,
            signature,
        })
    }

    /// The transient key's signature type, for the length of what it signed.
    pub(crate) fn kind(&self) -> SignatureType {
        self.key.kind
    }

    /// The transient key, if the destination let it sign and still does.
    pub(crate) fn verified(&self, by: &Destination, unix_ms: u64) -> Result<VerifyingKey<'a>> {
        if unix_ms / 1000 >= u64::from(self.expires_s) {
            return Err(Error::BadSignature("an expired offline key"));
        }
        by.verify("an offline key", &self.signed, self.signature)?;
        Ok(self.key)
    }
}
