//! Encrypted lease sets (type 5): blinded key, two layers, authorisation of single clients (i2cp.md §2.5).
use crate::codec::Put as _;
use crate::keys::{LocalDestination, x25519, x25519_public};
use crate::lease_set::STANDARD;
use crate::options::ClientAuth;
use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit as _, StreamCipher as _, StreamCipherSeek as _};
use curve25519_dalek::edwards::EdwardsPoint;
use curve25519_dalek::scalar::{Scalar, clamp_integer};
use hkdf::Hkdf;
use rand_core::CryptoRng;
use sha2::{Digest as _, Sha256, Sha512};
use zeroize::Zeroizing;

/// The store type of an encrypted lease set.
pub(crate) const ENCRYPTED: u8 = 5;
/// Signature types of the destination (Ed25519) and of the blinded key (RedDSA), as they are hashed.
const TYPES: [u8; 4] = [0, 7, 0, 11];
const UNPUBLISHED: u16 = 2;
const PER_CLIENT: u8 = 1;
const PSK_SCHEME: u8 = 1 << 1;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// How one lease set is encrypted.
pub(crate) struct Encryption<'a> {
    pub(crate) keys: &'a LocalDestination,
    pub(crate) secret: &'a [u8],
    pub(crate) auth: &'a ClientAuth,
    /// The router's time: the blinding changes with the UTC day.
    pub(crate) day_ms: u64,
    pub(crate) published_s: u32,
    pub(crate) lifetime_s: u16,
    pub(crate) unpublished: bool,
}

impl Encryption<'_> {
    /// The encrypted set around `inner`, a standard one.
    pub(crate) fn encrypt(&self, inner: &[u8], rng: &mut impl CryptoRng) -> Vec<u8> {
        let public = self.keys.public();
        let alpha = alpha(public, self.secret, self.day_ms);
        let own = Scalar::from_bytes_mod_order(clamp_integer(
            Sha512::digest(self.keys.seed())[..32]
                .try_into()
                .expect("SHA-512 has 64 bytes"),
        ));
        let blinded = Zeroizing::new(own + alpha);
        let blinded_public = EdwardsPoint::mul_base(&blinded).compress().to_bytes();
        let context = context(public, &blinded_public, self.published_s);

        let (mut middle, cookie) = self.authorise(&context, rng);
        let plain = [&[STANDARD], inner].concat();
        let input = [&cookie[..], &context].concat();
        middle.extend(layer(&input, b"ELS2_L2K", plain, rng));
        let outer = layer(&context, b"ELS2_L1K", middle, rng);

        let mut out = vec![ENCRYPTED];
        out.put(&TYPES[2..]);
        out.put(&blinded_public);
        out.put_u32(self.published_s);
        out.put_u16(self.lifetime_s);
        out.put_u16(if self.unpublished { UNPUBLISHED } else { 0 });
        // at most 64 clients of 40 bytes each around a set of 16 leases: far below 65,535
        out.put_u16(outer.len() as u16);
        out.put(&outer);
        let signature = sign(&blinded, &blinded_public, &out, rng);
        out.put(&signature);
        out.remove(0);
        out
    }

    /// The start of the middle layer, and the cookie that opens the inner one; empty when everybody may.
    fn authorise(&self, context: &[u8], rng: &mut impl CryptoRng) -> (Vec<u8>, Zeroizing<Vec<u8>>) {
        let mut cookie = Zeroizing::new(vec![0; 32]);
        let mut head = vec![PER_CLIENT];
        let clients: Vec<Zeroizing<[u8; 52]>> = match self.auth {
            ClientAuth::Nobody => return (vec![0], Zeroizing::new(Vec::new())),
            ClientAuth::Dh(clients) => {
                let ephemeral = Zeroizing::new(random(rng));
                let public = x25519_public(&ephemeral).expect("any 32 bytes are an X25519 key");
                head.put(&public);
                // a client whose key is no key cannot be let in
                let shared = clients
                    .iter()
                    .filter_map(|client| Some((client, x25519(&ephemeral, client)?)));
                shared
                    .map(|(client, shared)| dh_key(&public, &shared, client, context))
                    .collect()
            }
            ClientAuth::Psk(clients) => {
                let salt = random(rng);
                head[0] |= PSK_SCHEME;
                head.put(&salt);
                clients
                    .iter()
                    .map(|psk| psk_key(&salt, psk, context))
                    .collect()
            }
        };
        rng.fill_bytes(&mut cookie);
        head.put_u16(clients.len() as u16);
        for key in clients {
            let mut sealed: Vec<u8> = cookie.to_vec();
            chacha(&key[..44], &mut sealed);
            head.put(&key[44..]);
            head.put(&sealed);
        }
        (head, cookie)
    }
}

/// The blinding factor of a day.
fn alpha(public: &[u8], secret: &[u8], unix_ms: u64) -> Scalar {
    let salt = Sha256::digest([b"I2PGenerateAlpha", public, &TYPES].concat());
    let mut input = Zeroizing::new(date(unix_ms).into_bytes());
    input.extend_from_slice(secret);
    let seed: Zeroizing<[u8; 64]> = derive(&salt, &input, b"i2pblinding1");
    Scalar::from_bytes_mod_order_wide(&seed)
}

/// YYYYMMDD in UTC.
fn date(unix_ms: u64) -> String {
    // days since 0000-03-01, in eras of 400 years: the leap day comes last in each year
    let days = unix_ms / DAY_MS + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let shifted = (5 * day + 2) / 153;
    let day = day - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = era * 400 + year + u64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}")
}

/// Subcredential and publication time: what every key of one set depends on.
fn context(public: &[u8], blinded: &[u8], published_s: u32) -> Vec<u8> {
    let credential = Sha256::digest([b"credential", public, &TYPES].concat());
    let mut context =
        Sha256::digest([b"subcredential", &credential[..], blinded].concat()).to_vec();
    context.put_u32(published_s);
    context
}

fn derive<const N: usize>(salt: &[u8], input: &[u8], info: &[u8]) -> Zeroizing<[u8; N]> {
    let mut out = Zeroizing::new([0; N]);
    Hkdf::<Sha256>::new(Some(salt), input)
        .expand(info, &mut *out)
        .expect("HKDF-SHA-256 gives up to 8,160 bytes");
    out
}

fn dh_key(epk: &[u8; 32], shared: &[u8; 32], client: &[u8], context: &[u8]) -> Zeroizing<[u8; 52]> {
    let input = Zeroizing::new([&shared[..], client, context].concat());
    derive(epk, &input, b"ELS2_XCA")
}

fn psk_key(salt: &[u8; 32], psk: &[u8; 32], context: &[u8]) -> Zeroizing<[u8; 52]> {
    let input = Zeroizing::new([&psk[..], context].concat());
    derive(salt, &input, b"ELS2PSKA")
}

/// `material`: key (32), nonce (12). The first block is counted 1.
fn chacha(material: &[u8], data: &mut [u8]) {
    let (key, nonce) = material.split_at(32);
    let key: &[u8; 32] = key.try_into().expect("32 bytes");
    let nonce: &[u8; 12] = nonce.try_into().expect("12 bytes");
    let mut cipher = ChaCha20::new(key.into(), nonce.into());
    cipher.seek(64u32);
    cipher.apply_keystream(data);
}

/// One layer: a salt, and `plain` under the key that follows from it.
fn layer(input: &[u8], info: &[u8], mut plain: Vec<u8>, rng: &mut impl CryptoRng) -> Vec<u8> {
    let salt: [u8; 32] = random(rng);
    let material: Zeroizing<[u8; 44]> = derive(&salt, input, info);
    chacha(&*material, &mut plain);
    let mut out = salt.to_vec();
    out.append(&mut plain);
    out
}

fn random<const N: usize>(rng: &mut impl CryptoRng) -> [u8; N] {
    let mut bytes = [0; N];
    rng.fill_bytes(&mut bytes);
    bytes
}

/// Red25519: as Ed25519, but with a random nonce, because the blinded key has no seed.
fn sign(key: &Scalar, public: &[u8; 32], message: &[u8], rng: &mut impl CryptoRng) -> [u8; 64] {
    let wide = |parts: &[&[u8]]| {
        let digest = Sha512::digest(parts.concat());
        Scalar::from_bytes_mod_order_wide(&digest.into())
    };
    let fresh = Zeroizing::new(random::<80>(rng));
    let nonce = Zeroizing::new(wide(&[&fresh[..], public, message]));
    let commitment = EdwardsPoint::mul_base(&nonce).compress().to_bytes();
    let response = *nonce + wide(&[&commitment, public, message]) * key;
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(&commitment);
    signature[32..].copy_from_slice(response.as_bytes());
    signature
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Reader;
    use crate::destination::{SignatureType, VerifyingKey};
    use crate::names::{Name, base64};
    use crate::router::{START_MS, Wired, check_lease_set};
    use crate::vectors::keys;
    use curve25519_dalek::edwards::CompressedEdwardsY;

    /// How a reader of the set tries to get in.
    enum Key {
        None,
        Dh([u8; 32]),
        Psk([u8; 32]),
    }

    /// Opens a set as somebody who knows the destination's public key, the secret, and perhaps a client's key. Written
    /// from the layout, from the other side: nothing but the primitives is shared with the encryption.
    fn open(bytes: &[u8], public: &[u8], secret: &[u8], day_ms: u64, key: &Key) -> Option<Vec<u8>> {
        let mut reader = Reader::new("it", bytes);
        assert_eq!(reader.u16().unwrap(), 11);
        let blinded: [u8; 32] = reader.array().unwrap();
        let point = CompressedEdwardsY::from_slice(public)
            .unwrap()
            .decompress()
            .unwrap();
        let expected = point + EdwardsPoint::mul_base(&alpha(public, secret, day_ms));
        if expected.compress().to_bytes() != blinded {
            return None;
        }
        let signed = [&[5], &bytes[..bytes.len() - 64]].concat();
        let verifier = VerifyingKey {
            kind: SignatureType::RedDsa,
            key: &blinded,
        };
        verifier
            .verify("it", &signed, &bytes[bytes.len() - 64..])
            .unwrap();
        let published = reader.u32().unwrap();
        assert!((1..=660).contains(&reader.u16().unwrap()));
        assert_eq!(reader.u16().unwrap() & !2, 0);
        let length = reader.u16().unwrap();
        let outer = reader.take(length.into()).unwrap();
        assert_eq!(reader.remaining(), 64);
        let context = context(public, &blinded, published);
        let peel = |input: &[u8], info: &[u8], sealed: &[u8]| {
            let (salt, cipher) = sealed.split_at(32);
            let material: Zeroizing<[u8; 44]> = derive(salt, input, info);
            let mut plain = cipher.to_vec();
            chacha(&*material, &mut plain);
            plain
        };
        let middle = peel(&context, b"ELS2_L1K", outer);
        let mut reader = Reader::new("it", &middle);
        let flags = reader.u8().unwrap();
        let mut cookie = Vec::new();
        if flags & 1 != 0 {
            let start: [u8; 32] = reader.array().unwrap();
            let material = match (key, flags) {
                (Key::Dh(private), 1) => {
                    let shared = x25519(private, &start).unwrap();
                    dh_key(&start, &shared, &x25519_public(private).unwrap(), &context)
                }
                (Key::Psk(psk), 3) => psk_key(&start, psk, &context),
                _ => return None,
            };
            for _ in 0..reader.u16().unwrap() {
                let id = reader.take(8).unwrap();
                let mut sealed = reader.take(32).unwrap().to_vec();
                if *id == material[44..] {
                    chacha(&material[..44], &mut sealed);
                    cookie = sealed;
                }
            }
            if cookie.is_empty() {
                return None;
            }
        }
        let input = [&cookie[..], &context].concat();
        let inner = peel(&input, b"ELS2_L2K", reader.rest());
        assert_eq!(inner[0], 3);
        Some(inner[1..].to_vec())
    }

    // I24, I29, I31, I53, I54, I55, I56
    #[test]
    fn a_session_publishes_sets_that_only_those_who_may_can_open() {
        let a = keys("A");
        let day = START_MS;
        let entry = |key: &[u8; 32]| format!("{}:{}", base64(b"joe"), base64(key));
        let client = [5; 32];
        let dh = entry(&x25519_public(&client).unwrap());
        let other = entry(&x25519_public(&[6; 32]).unwrap());
        let psk = entry(&client);
        let secret = base64(b"secret");
        let no_auth = [
            ("i2cp.leaseSetType", "5"),
            ("i2cp.leaseSetSecret", secret.as_str()),
        ];
        let with_dh = [
            ("i2cp.leaseSetType", "5"),
            ("i2cp.leaseSetAuthType", "1"),
            ("i2cp.leaseSetClient.dh.0", other.as_str()),
            ("i2cp.leaseSetClient.dh.1", dh.as_str()),
        ];
        let with_psk = [
            ("i2cp.leaseSetType", "5"),
            ("i2cp.leaseSetAuthType", "2"),
            ("i2cp.leaseSetClient.psk.0", psk.as_str()),
        ];
        for (options, secret, good, bad) in [
            (&no_auth[..], &b"secret"[..], Key::None, None),
            (&with_dh[..], b"", Key::Dh(client), Some(Key::Dh([7; 32]))),
            (
                &with_psk[..],
                b"",
                Key::Psk(client),
                Some(Key::Psk([7; 32])),
            ),
        ] {
            let wired = Wired::ready(a.clone(), options);
            let connection = &wired.router.connections[0];
            assert_eq!(connection.lease_set_kind, 5);
            let set = &connection.lease_set;
            let own = a.destination().as_bytes();
            assert!(
                !set.windows(32).any(|part| part == &own[352..384]),
                "the key itself is hidden"
            );
            let inner = open(set, a.public(), secret, day, &good).unwrap();
            check_lease_set(&inner, a.destination(), None, START_MS / 1000);
            assert_eq!(open(set, a.public(), b"wrong", day, &good), None);
            assert_eq!(open(set, a.public(), secret, day + DAY_MS, &good), None);
            if let Some(bad) = bad {
                assert_eq!(open(set, a.public(), secret, day, &bad), None);
                assert_eq!(open(set, a.public(), secret, day, &Key::None), None);
            }
        }
    }

    #[test]
    fn the_name_holds_what_a_reader_needs() {
        let a = keys("A");
        let name = a.blinded_name(true, false);
        let Ok(Name::Blinded(blinded)) = name.parse() else {
            panic!("{name}")
        };
        assert_eq!((blinded.signature_type, blinded.blinded_type), (7, 11));
        assert_eq!(
            (blinded.public_key.as_slice(), blinded.needs_secret),
            (a.public(), true)
        );
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (ms, wanted) in [
            (0, "19700101"),
            (951_782_400_000, "20000229"),
            (951_868_800_000, "20000301"),
            (1_700_000_000_000, "20231114"),
            (4_107_542_399_999, "21000228"),
            (4_107_542_400_000, "21000301"),
        ] {
            assert_eq!(date(ms), wanted);
        }
    }
}
