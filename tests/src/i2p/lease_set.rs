//! Lease sets, checked to the last byte; encrypted ones are opened as one of the authorised clients would.

use super::wire::{Bytes, Read};
use anode_i2cp::destination::Destination;
use aws_lc_rs::agreement::{PrivateKey, X25519, agree};
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit as _, StreamCipher as _, StreamCipherSeek as _};
use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsPoint};
use curve25519_dalek::scalar::Scalar;
use hkdf::Hkdf;
use sha2::{Digest as _, Sha256};

/// What a lease set says.
#[derive(Clone, Debug)]
pub struct LeaseSet {
    /// Seconds since 1970.
    pub published_s: u64,
    /// Of the destination's services.
    pub options: std::collections::BTreeMap<String, String>,
    /// How many ways in.
    pub leases: usize,
    /// Bit 1: unpublished; bit 2: blinded when published.
    pub flags: u64,
}

/// Checks a LeaseSet2 (type 3) of `destination`, whose X25519 private key is `private`.
pub fn check(set: &[u8], destination: &Destination, private: &[u8], now_s: u64) -> Read<LeaseSet> {
    let at = set.len().checked_sub(64).ok_or("no signature")?;
    let (body, signature) = set.split_at(at);
    let signed = [&[3], body].concat();
    destination
        .verify("a lease set", &signed, signature)
        .map_err(|error| error.to_string())?;
    let mut bytes = Bytes(body);
    if bytes.destination()? != *destination {
        return Err("a lease set of another destination".into());
    }
    let published_s = bytes.number(4)?;
    let lifetime = bytes.number(2)?;
    if published_s.abs_diff(now_s) > 30 || !(1..=660).contains(&lifetime) {
        return Err(format!("published at {published_s} for {lifetime} s"));
    }
    let flags = bytes.number(2)?;
    if ![0, 2, 6].contains(&flags) {
        return Err(format!("flags {flags}"));
    }
    let options = bytes.mapping(true)?;
    if bytes.take(5)? != [1, 0, 4, 0, 32] {
        return Err("one X25519 key is wanted".into());
    }
    if bytes.take(32)? != public(private)? {
        return Err("the private key is not that of the lease set".into());
    }
    let leases = bytes.number(1)? as usize;
    if !(1..=16).contains(&leases) {
        return Err(format!("{leases} leases"));
    }
    for _ in 0..leases {
        bytes.take(36)?;
        if bytes.number(4)? <= now_s {
            return Err("a lease that is over".into());
        }
    }
    bytes.end()?;
    Ok(LeaseSet {
        published_s,
        options,
        leases,
        flags,
    })
}

pub(super) fn public(private: &[u8]) -> Read<Vec<u8>> {
    let key = PrivateKey::from_private_key(&X25519, private).map_err(|_| "no X25519 key")?;
    let public = key.compute_public_key().map_err(|_| "no X25519 key")?;
    Ok(public.as_ref().to_vec())
}

/// What a client that may read an encrypted lease set (type 5) has.
#[derive(Clone, Debug)]
pub struct Opener {
    /// Beside the name.
    pub secret: Vec<u8>,
    /// Its key.
    pub key: ClientKey,
}

/// How one client is let in.
#[derive(Clone, Debug)]
pub enum ClientKey {
    /// Not at all: everybody is.
    None,
    /// By its X25519 private key.
    Dh([u8; 32]),
    /// By a key that both have.
    Psk([u8; 32]),
}

/// Signature types of destination and blinded key, as they are hashed.
const TYPES: [u8; 4] = [0, 7, 0, 11];

impl Opener {
    /// Opens both layers, written from the layout alone, and checks what is inside.
    pub fn open(
        &self,
        set: &[u8],
        destination: &Destination,
        private: &[u8],
        now_s: u64,
    ) -> Read<LeaseSet> {
        let own = &destination.as_bytes()[352..384];
        if set.windows(32).any(|part| part == own) {
            return Err("the key of the destination stands in the open".into());
        }
        let at = set.len().checked_sub(64).ok_or("no signature")?;
        let mut bytes = Bytes(&set[..at]);
        if bytes.number(2)? != 11 {
            return Err("the blinded key is no RedDSA key".into());
        }
        let blinded = bytes.take(32)?;
        if blinded != self.blinded(own, now_s)? {
            return Err("the key is not blinded as it must be today".into());
        }
        let signed = [&[5], &set[..at]].concat();
        UnparsedPublicKey::new(&ED25519, blinded)
            .verify(&signed, &set[at..])
            .map_err(|_| "the blinded key has not signed it")?;
        let published = bytes.take(4)?;
        bytes.take(4)?;
        let length = bytes.number(2)? as usize;
        let outer = bytes.take(length)?;
        bytes.end()?;
        let credential = Sha256::digest([b"credential", own, &TYPES].concat());
        let subcredential = Sha256::digest([b"subcredential", &credential[..], blinded].concat());
        let context = [&subcredential[..], published].concat();
        let middle = peel(&context, b"ELS2_L1K", outer)?;
        let mut bytes = Bytes(&middle);
        let cookie = self.cookie(&mut bytes, &context)?;
        let inner = peel(&[&cookie[..], &context].concat(), b"ELS2_L2K", bytes.0)?;
        match inner.split_first() {
            Some((3, set)) => check(set, destination, private, now_s),
            _ => Err("not opened: what is inside is no lease set".into()),
        }
    }

    /// The public key of the day: A + alpha B.
    fn blinded(&self, own: &[u8], now_s: u64) -> Read<[u8; 32]> {
        let salt = Sha256::digest([b"I2PGenerateAlpha", own, &TYPES].concat());
        let input = [today(now_s).as_bytes(), &self.secret].concat();
        let seed: [u8; 64] = derive(&salt, &input, b"i2pblinding1");
        let point = CompressedEdwardsY::from_slice(own)
            .ok()
            .and_then(|compressed| compressed.decompress())
            .ok_or("the destination's key is no point")?;
        let alpha = Scalar::from_bytes_mod_order_wide(&seed);
        Ok((point + EdwardsPoint::mul_base(&alpha))
            .compress()
            .to_bytes())
    }

    /// What opens the inner layer, beside the context; empty where everybody may.
    fn cookie(&self, bytes: &mut Bytes<'_>, context: &[u8]) -> Read<Vec<u8>> {
        let flags = bytes.number(1)?;
        let material: [u8; 52] = match (&self.key, flags) {
            (ClientKey::None, 0) => return Ok(Vec::new()),
            (ClientKey::Dh(private), 1) => {
                let ephemeral = bytes.take(32)?;
                let key =
                    PrivateKey::from_private_key(&X25519, private).map_err(|_| "no X25519 key")?;
                let other = aws_lc_rs::agreement::UnparsedPublicKey::new(&X25519, ephemeral);
                let shared = agree(&key, other, "no key agreement".to_owned(), |secret| {
                    Ok(secret.to_vec())
                })?;
                let input = [&shared[..], &public(private)?, context].concat();
                derive(ephemeral, &input, b"ELS2_XCA")
            }
            (ClientKey::Psk(psk), 3) => {
                let salt = bytes.take(32)?;
                derive(salt, &[&psk[..], context].concat(), b"ELS2PSKA")
            }
            (_, other) => return Err(format!("flags {other} of the middle layer")),
        };
        let mut cookie = None;
        for _ in 0..bytes.number(2)? {
            let id = bytes.take(8)?;
            let mut sealed = bytes.take(32)?.to_vec();
            if *id == material[44..] {
                chacha(&material[..44], &mut sealed);
                cookie = Some(sealed);
            }
        }
        cookie.ok_or_else(|| "not opened: this client is not let in".to_owned())
    }
}

fn peel(input: &[u8], info: &[u8], sealed: &[u8]) -> Read<Vec<u8>> {
    let (salt, cipher) = sealed.split_at_checked(32).ok_or("no salt")?;
    let material: [u8; 44] = derive(salt, input, info);
    let mut plain = cipher.to_vec();
    chacha(&material, &mut plain);
    Ok(plain)
}

fn derive<const N: usize>(salt: &[u8], input: &[u8], info: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    Hkdf::<Sha256>::new(Some(salt), input)
        .expand(info, &mut out)
        .expect("far below 8,160 bytes");
    out
}

/// Key (32) and nonce (12); the first block is number 1.
fn chacha(material: &[u8], data: &mut [u8]) {
    let key: [u8; 32] = material[..32].try_into().expect("32 bytes");
    let nonce: [u8; 12] = material[32..44].try_into().expect("12 bytes");
    let mut cipher = ChaCha20::new(&key.into(), &nonce.into());
    cipher.seek(64u32);
    cipher.apply_keystream(data);
}

/// YYYYMMDD in UTC.
fn today(now_s: u64) -> String {
    let is_leap =
        |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let (mut days, mut year) = (now_s / 86_400, 1970);
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    format!("{year:04}{month:02}{:02}", days + 1)
}

#[cfg(test)]
mod tests {
    use super::today;

    #[test]
    fn days_are_those_of_the_calendar() {
        for (seconds, wanted) in [
            (0, "19700101"),
            (951_782_400, "20000229"),
            (951_868_800, "20000301"),
            (1_735_689_599, "20241231"),
            (1_735_689_600, "20250101"),
        ] {
            assert_eq!(today(seconds), wanted);
        }
    }
}
