//! Keys, MESSAGE-INTEGRITY and MESSAGE-INTEGRITY-SHA256.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac as _};
use md5::{Digest, Md5};
use sha1::Sha1;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::text::{sasl_prep, unquote};
use super::{Message, attr};
use crate::TurnError;

/// Which HMAC signs a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mac {
    /// MESSAGE-INTEGRITY: HMAC-SHA1, 20 bytes.
    Sha1,
    /// MESSAGE-INTEGRITY-SHA256: HMAC-SHA256, 32 bytes (16 to 32 are taken).
    Sha256,
}

/// The digest that makes a key from name, realm and password: PASSWORD-ALGORITHM of RFC 8489 §18.5.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyDigest {
    /// 0x0001, and what everybody used before RFC 8489.
    Md5,
    /// 0x0002.
    Sha256,
}

impl KeyDigest {
    pub(crate) const fn number(self) -> u16 {
        match self {
            Self::Md5 => 1,
            Self::Sha256 => 2,
        }
    }

    pub(crate) const fn from_number(number: u16) -> Option<Self> {
        match number {
            1 => Some(Self::Md5),
            2 => Some(Self::Sha256),
            _ => None,
        }
    }
}

/// A key that signs messages. It is wiped when dropped and never printed.
#[derive(Clone)]
pub struct Key(Zeroizing<Vec<u8>>);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

impl Key {
    /// The key of long-term credentials: digest of `name:realm:password`, the quotes and trailing NULs taken off, the
    /// password through SASLprep (RFC 5389 §15.4; T26, T27). Name and realm are taken as they are on the wire, where
    /// they have been through SASLprep already.
    ///
    /// # Errors
    /// [`TurnError::Prepare`] for a password with prohibited characters.
    pub fn long_term(
        digest: KeyDigest,
        name: &str,
        realm: &str,
        password: &str,
    ) -> Result<Self, TurnError> {
        let password = Zeroizing::new(sasl_prep("password", password.trim_end_matches('\0'))?);
        Ok(Self::long_term_prepared(digest, name, realm, &password))
    }

    /// As [`Key::long_term`], of a password that is prepared already.
    #[must_use]
    pub fn long_term_prepared(digest: KeyDigest, name: &str, realm: &str, password: &str) -> Self {
        let (name, realm) = (unquote(name), unquote(realm));
        let text = Zeroizing::new(format!("{name}:{realm}:{password}"));
        let bytes = match digest {
            KeyDigest::Md5 => Md5::digest(text.as_bytes()).to_vec(),
            KeyDigest::Sha256 => Sha256::digest(text.as_bytes()).to_vec(),
        };
        Self(Zeroizing::new(bytes))
    }

    /// The key of short-term credentials, for ICE checks (T10): the password itself, through SASLprep.
    ///
    /// # Errors
    /// [`TurnError::Prepare`] for a password with prohibited characters.
    pub fn short_term(password: &str) -> Result<Self, TurnError> {
        Ok(Self(Zeroizing::new(
            sasl_prep("password", password)?.into_bytes(),
        )))
    }

    /// A key given as bytes: 16 for MD5, 32 for SHA-256.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(bytes.to_vec()))
    }

    /// A key given as hexadecimal digits.
    ///
    /// # Errors
    /// [`TurnError::Key`] if it is anything else or of the wrong length.
    pub fn from_hex(digest: KeyDigest, hex: &str) -> Result<Self, TurnError> {
        let length = if digest == KeyDigest::Md5 { 16 } else { 32 };
        let error = TurnError::Key(length * 2);
        if hex.len() != length * 2 || !hex.is_ascii() {
            return Err(error);
        }
        let byte = |i: usize| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16);
        let bytes: Result<Vec<u8>, _> = (0..length).map(byte).collect();
        bytes.map(|b| Self(Zeroizing::new(b))).map_err(|_| error)
    }

    /// The HMAC over everything in front of offset `at`, with a length field that reaches to the end of the integrity
    /// attribute of `padded` bytes there (RFC 8489 §14.5).
    fn hmac(&self, mac: Mac, bytes: &[u8], at: usize, padded: usize) -> [u8; 32] {
        let length = (at + padded - 20) as u16; // within a message whose length field has 16 bits
        let mut header = [bytes[0], bytes[1], 0, 0];
        header[2..].copy_from_slice(&length.to_be_bytes());
        let mut out = [0; 32];
        // HMAC takes a key of any length, so `new_from_slice` cannot fail.
        match mac {
            Mac::Sha1 => {
                let Ok(mut hmac) = Hmac::<Sha1>::new_from_slice(&self.0) else {
                    return out;
                };
                hmac.update(&header);
                hmac.update(&bytes[4..at]);
                out[..20].copy_from_slice(&hmac.finalize().into_bytes());
            }
            Mac::Sha256 => {
                let Ok(mut hmac) = Hmac::<Sha256>::new_from_slice(&self.0) else {
                    return out;
                };
                hmac.update(&header);
                hmac.update(&bytes[4..at]);
                out.copy_from_slice(&hmac.finalize().into_bytes());
            }
        }
        out
    }

    /// The value of an integrity attribute that will stand at the end of `bytes`.
    pub(crate) fn sign(&self, mac: Mac, bytes: &[u8]) -> Vec<u8> {
        let size = if mac == Mac::Sha1 { 20 } else { 32 };
        self.hmac(mac, bytes, bytes.len(), 4 + size)[..size].to_vec()
    }

    /// Whether the message carries this integrity attribute and it is right. Constant time in the value.
    #[must_use]
    pub fn verifies(&self, mac: Mac, message: &Message<'_>) -> bool {
        let (sha1, sha256) = message.integrity();
        let Some(at) = (if mac == Mac::Sha1 { sha1 } else { sha256 }) else {
            return false;
        };
        let bytes = message.bytes();
        let size = usize::from(u16::from_be_bytes([bytes[at + 2], bytes[at + 3]]));
        let fits = match mac {
            Mac::Sha1 => size == 20,
            Mac::Sha256 => (16..=32).contains(&size) && size % 4 == 0,
        };
        fits && bool::from(
            self.hmac(mac, bytes, at, 4 + size)[..size].ct_eq(&bytes[at + 4..at + 4 + size]),
        )
    }

    /// The integrity that a message carries, the stronger one if it has both, if it verifies.
    #[must_use]
    pub fn verifies_any(&self, message: &Message<'_>) -> Option<Mac> {
        let mac = if message.is_signed_sha256() {
            Mac::Sha256
        } else {
            Mac::Sha1
        };
        self.verifies(mac, message).then_some(mac)
    }
}

/// USERHASH (RFC 8489 §14.4): SHA-256 of `name:realm`, both prepared.
#[must_use]
pub fn userhash(name: &str, realm: &str) -> [u8; 32] {
    Sha256::digest(format!("{}:{}", unquote(name), unquote(realm)).as_bytes()).into()
}

/// Stands for an attribute's type in the writer.
pub(super) const fn attribute(mac: Mac) -> u16 {
    match mac {
        Mac::Sha1 => attr::MESSAGE_INTEGRITY,
        Mac::Sha256 => attr::MESSAGE_INTEGRITY_SHA256,
    }
}
