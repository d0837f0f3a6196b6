//! Who vouches for a zone file: our entries `zone`, `key` and `sig`, and the list of members that rests on them
//! (docs/protocol.md, "Signed zone files"). A reader that knows the draft alone passes them over (A7).
//!
//! A file without `key` and `sig` is what the draft has: not authenticated. A file with one of them must have all three,
//! say everything once, and verify; else it is refused as a whole.
use super::dictionary::Dictionary;
use super::{FaultKind, Faults, MAX_MEMBERS, MEMBER_PREFIX, prefixed, shown};
use crate::{Address, Zone};
use p256::ecdsa::signature::{Signer, Verifier};
use p256::ecdsa::{Signature, SigningKey, VerifyingKey};
use std::fmt;
use std::str::FromStr;
use zeroize::Zeroizing;

/// What is hashed first, so that this signature means nothing elsewhere.
const DOMAIN: &[u8] = b"anode zone file 1";
const KEY_NAME: &str = "ANODE-ZONE-KEY";

/// The public half of a zone's key: a compressed P-256 point. As text 66 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ZoneKey([u8; 33]);

/// Text that is no zone key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ZoneKeyError {
    /// Not 66 hexadecimal digits of a compressed P-256 point.
    #[error("a zone's key is 66 hexadecimal digits of a compressed point on P-256")]
    Public,
    /// Not what [`ZoneSigner::to_text`] writes. What it is is not repeated: it may be a key.
    #[error("a zone's secret key reads {KEY_NAME}:<66 hexadecimal digits>:<64 hexadecimal digits>")]
    Secret,
    /// The two halves do not belong together.
    #[error("the halves of the zone's key do not belong together")]
    Mismatch,
}

impl FromStr for ZoneKey {
    type Err = ZoneKeyError;

    fn from_str(text: &str) -> Result<Self, ZoneKeyError> {
        let bytes: [u8; 33] = from_hex(text.as_bytes()).ok_or(ZoneKeyError::Public)?;
        // the compressed form only: one key, one text
        VerifyingKey::from_sec1_bytes(&bytes).map_err(|_| ZoneKeyError::Public)?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for ZoneKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ZoneKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ZoneKey({self})")
    }
}

impl ZoneKey {
    fn verifies(&self, message: &[u8], signature: &Signature) -> bool {
        // parsed when it was made; a point that does not parse verifies nothing
        VerifyingKey::from_sec1_bytes(&self.0)
            .is_ok_and(|key| key.verify(message, signature).is_ok())
    }
}

/// A zone's key: signs its files. Zeroised on drop.
pub struct ZoneSigner(SigningKey);

impl ZoneSigner {
    /// A new key.
    pub fn generate(rng: &mut dyn rand_core::CryptoRng) -> Self {
        use p256::elliptic_curve::Generate;
        Self(SigningKey::from(p256::SecretKey::generate_from_rng(rng)))
    }

    /// `ANODE-ZONE-KEY:<public, 66 hexadecimal digits>:<secret, 64 hexadecimal digits>` and nothing around it.
    pub fn from_text(text: &str) -> Result<Self, ZoneKeyError> {
        let mut parts = text.split(':');
        let (Some(KEY_NAME), Some(public), Some(secret), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(ZoneKeyError::Secret);
        };
        let scalar: Zeroizing<[u8; 32]> =
            Zeroizing::new(from_hex(secret.as_bytes()).ok_or(ZoneKeyError::Secret)?);
        let key = SigningKey::from_slice(&*scalar).map_err(|_| ZoneKeyError::Secret)?;
        let signer = Self(key);
        match public.parse::<ZoneKey>() {
            Ok(public) if public == signer.public() => Ok(signer),
            Ok(_) => Err(ZoneKeyError::Mismatch),
            Err(_) => Err(ZoneKeyError::Secret),
        }
    }

    /// What [`ZoneSigner::from_text`] reads.
    pub fn to_text(&self) -> Zeroizing<String> {
        // Reserved at full length: a growing string would leave copies of the key behind.
        let mut text = Zeroizing::new(String::with_capacity(KEY_NAME.len() + 66 + 64 + 2));
        text.push_str(KEY_NAME);
        text.push(':');
        text.push_str(&self.public().to_string());
        text.push(':');
        for byte in Zeroizing::new(self.0.to_bytes()).iter() {
            for nibble in [byte >> 4, byte & 15] {
                text.push(
                    char::from_digit(nibble.into(), 16).expect("a nibble is a hexadecimal digit"),
                );
            }
        }
        text
    }

    /// Its public half, by which others know the zone.
    pub fn public(&self) -> ZoneKey {
        use p256::elliptic_curve::group::GroupEncoding;
        let point = self.0.verifying_key().as_affine().to_bytes();
        ZoneKey(point.into())
    }

    /// RFC 6979: the same file has the same signature.
    pub(super) fn sign(&self, dictionary: &Dictionary) -> String {
        let signature: Signature = self.0.sign(&canonical(dictionary));
        let bytes = signature.normalize_s().to_bytes();
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for ZoneSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ZoneSigner").field(&self.public()).finish()
    }
}

/// The bytes that are signed: how the file is escaped, commented and broken into lines does not matter, what it says does.
pub(super) fn canonical(dictionary: &Dictionary) -> Vec<u8> {
    let mut bytes = DOMAIN.to_vec();
    for entry in dictionary.iter() {
        let key = entry.key.to_ascii_lowercase();
        if key == b"sig" {
            continue;
        }
        for part in [&key, &entry.value] {
            // a file has at most 256 KiB
            bytes.extend_from_slice(&(part.len() as u32).to_be_bytes());
            bytes.extend_from_slice(part);
        }
    }
    bytes
}

/// What our entries say. Every fault here is fatal: a list of members that is read in part would let in or keep out the wrong ones.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Signed {
    pub(super) zone: Option<Zone>,
    /// Verified.
    pub(super) signer: Option<ZoneKey>,
    pub(super) members: Option<Vec<Address>>,
}

impl Signed {
    pub(super) fn read(dictionary: &Dictionary, faults: &mut Faults) -> Self {
        let zone = zone(dictionary, faults);
        Self {
            zone,
            signer: signer(dictionary, faults),
            members: members(dictionary, zone, faults),
        }
    }
}

fn zone(dictionary: &Dictionary, faults: &mut Faults) -> Option<Zone> {
    let entry = dictionary.get("zone")?;
    let text = String::from_utf8_lossy(&entry.value);
    let zone = text.parse().ok();
    if zone.is_none() {
        faults.add(Some(entry.line), FaultKind::Zone(shown(&entry.value)));
    }
    zone
}

fn signer(dictionary: &Dictionary, faults: &mut Faults) -> Option<ZoneKey> {
    let (key, signature) = (dictionary.get("key"), dictionary.get("sig"));
    let line = key.or(signature)?.line;
    for needed in ["zone", "key", "sig"] {
        if dictionary.get(needed).is_none() {
            faults.add(Some(line), FaultKind::Unsigned(needed));
        }
    }
    let (key, signature) = (key?, signature?);
    for entry in dictionary.overridden() {
        faults.add(Some(entry.line), FaultKind::Twice(shown(&entry.key)));
    }
    let signer = std::str::from_utf8(&key.value)
        .ok()
        .and_then(|text| text.parse::<ZoneKey>().ok());
    if signer.is_none() {
        faults.add(Some(key.line), FaultKind::Key);
    }
    let parsed = from_hex::<64>(&signature.value)
        .and_then(|bytes| Signature::from_slice(&bytes).ok())
        // of the two forms that every signature has, one counts
        .filter(|parsed| parsed.normalize_s() == *parsed);
    let Some(parsed) = parsed else {
        faults.add(Some(signature.line), FaultKind::Signature);
        return None;
    };
    let signer = signer?;
    if !signer.verifies(&canonical(dictionary), &parsed) {
        faults.add(Some(signature.line), FaultKind::Forged);
        return None;
    }
    Some(signer)
}

fn members(
    dictionary: &Dictionary,
    zone: Option<Zone>,
    faults: &mut Faults,
) -> Option<Vec<Address>> {
    let mut members: Option<Vec<Address>> = None;
    for (label, entry) in prefixed(dictionary, MEMBER_PREFIX) {
        let members = members.get_or_insert_default();
        let text = String::from_utf8_lossy(&entry.value);
        let mut fault = |problem: String| {
            let label = shown(label);
            faults.add(Some(entry.line), FaultKind::Member { label, problem });
        };
        for word in text.split(',').map(str::trim) {
            if members.len() >= MAX_MEMBERS {
                fault(format!("more than {MAX_MEMBERS} members"));
                return Some(Vec::new());
            }
            match word.parse::<Address>() {
                Ok(address) if zone.is_some_and(|zone| zone != address.zone()) => {
                    fault(format!("{address} is of zone {}", address.zone()));
                }
                Ok(address) => members.push(address),
                Err(error) => fault(error.to_string()),
            }
        }
    }
    members
}

fn from_hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *byte = (digit(0)? << 4 | digit(1)?) as u8;
    }
    Some(bytes)
}
