//! A key pair and its address (Anode 0.8 §2.2, §2.4).
use crate::{Address, MacKey, WireError, Zone, mac};
use p256::{FieldBytes, SecretKey};
use std::fmt;
use zeroize::Zeroizing;

const NAME: &str = "ANODE-256-40";

/// The private scalar and the address it makes. Zeroised on drop; `Debug` shows the address only.
#[derive(Clone)]
pub struct Identity {
    secret: SecretKey,
    address: Address,
}

impl Identity {
    /// A new key in the given zone.
    pub fn generate(zone: Zone, rng: &mut dyn rand_core::CryptoRng) -> Self {
        use p256::elliptic_curve::Generate;
        Self::from_secret(zone, SecretKey::generate_from_rng(rng))
    }

    /// From 32 big-endian bytes of the scalar: 1 to the order of the curve less 1.
    pub fn from_scalar(zone: Zone, scalar: &[u8; 32]) -> Result<Self, WireError> {
        let scalar: &FieldBytes = scalar.into();
        let secret = SecretKey::from_bytes(scalar).map_err(|_| WireError::IdentityScalar)?;
        Ok(Self::from_secret(zone, secret))
    }

    fn from_secret(zone: Zone, secret: SecretKey) -> Self {
        let address = Address::from_public_key(zone, &secret.public_key());
        Self { secret, address }
    }

    /// From `ANODE-256-40:<base32>:<64 hex digits>` and nothing around it; refused where address and key do not
    /// belong together. No error repeats a part of the key.
    pub fn from_identity_string(text: &str) -> Result<Self, WireError> {
        let mut parts = text.split(':');
        let (Some(name), Some(address), Some(hex), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(WireError::IdentityForm(
                "this has not three parts with a colon between them",
            ));
        };
        if name != NAME {
            return Err(WireError::IdentityForm(
                "this does not start with ANODE-256-40",
            ));
        }
        let address: Address = address.parse()?;
        let identity = Self::from_scalar(address.zone(), &*scalar_from_hex(hex)?)?;
        if identity.address != address {
            return Err(WireError::IdentityMismatch);
        }
        Ok(identity)
    }

    /// `ANODE-256-40:<base32>:<64 hex digits>`.
    pub fn identity_string(&self) -> Zeroizing<String> {
        // Reserved at full length: a growing string would leave copies of the key behind.
        let mut text = Zeroizing::new(String::with_capacity(
            NAME.len() + Address::TEXT_LEN + 64 + 2,
        ));
        text.push_str(NAME);
        text.push(':');
        text.push_str(&self.address.to_string());
        text.push(':');
        for byte in Zeroizing::new(self.secret.to_bytes()).iter() {
            for nibble in [byte >> 4, byte & 15] {
                text.push(
                    char::from_digit(nibble.into(), 16).expect("a nibble is a hexadecimal digit"),
                );
            }
        }
        text
    }

    /// The address.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The scalar, for the sealed sessions' handshakes.
    pub(crate) fn scalar(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.secret.to_bytes().into())
    }

    /// ECDH with `other` and the draft's derivation to 32 bytes, ready for CMAC (A27, A28); about 0.3 ms.
    pub fn agree(&self, other: &Address) -> MacKey {
        let mut key = Zeroizing::new([0; 32]);
        self.derive(other, &mut *key);
        MacKey::new(&key)
    }

    /// ECDH with `other` and the draft's derivation to any length (A27).
    pub fn derive(&self, other: &Address, derived: &mut [u8]) {
        let shared = self.secret.diffie_hellman(&other.public_key());
        mac::fold_key(shared.raw_secret_bytes(), derived);
    }
}

fn scalar_from_hex(hex: &str) -> Result<Zeroizing<[u8; 32]>, WireError> {
    let mut scalar = Zeroizing::new([0; 32]);
    if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(WireError::IdentityForm(
            "the private key is not 64 hexadecimal digits",
        ));
    }
    let nibbles = hex.chars().filter_map(|c| c.to_digit(16));
    for (i, nibble) in nibbles.enumerate() {
        scalar[i / 2] = scalar[i / 2] << 4 | nibble as u8;
    }
    Ok(scalar)
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{hex, identity, vector, vectors};
    use rand::SeedableRng;

    // A12
    #[test]
    fn public_keys_are_those_of_the_vectors() {
        for vector in vectors("keys") {
            let scalar = hex(&vector["private"]).try_into().unwrap();
            let identity = Identity::from_scalar(Zone(5), &scalar).unwrap();
            assert_eq!(
                identity.address().public_key_bytes().as_slice(),
                hex(&vector["public_compressed"])
            );
            assert_eq!(identity.address().zone(), Zone(5));
        }
    }

    #[test]
    fn identity_strings_are_those_of_the_vectors_and_round_trip() {
        for vector in vectors("addresses") {
            let text = vector["identity_string"].as_str().unwrap();
            let identity = Identity::from_identity_string(text).unwrap();
            assert_eq!(
                identity.address().as_bytes().as_slice(),
                hex(&vector["address"])
            );
            assert_eq!(*identity.identity_string(), text);
        }
    }

    // A27, A28, D10: `leading_zero` is a pair whose shared X starts with a zero byte
    #[test]
    fn agreement_is_that_of_the_vectors_in_both_directions() {
        for vector in vectors("key_agreement") {
            let (ours, theirs) = (
                by_name(&vector["private_of"]),
                by_name(&vector["public_of"]),
            );
            for (len, derived) in vector["derived"].as_object().unwrap() {
                let mut key = vec![0; len.parse().unwrap()];
                ours.derive(theirs.address(), &mut key);
                assert_eq!(key, hex(derived), "{len} bytes");
                theirs.derive(ours.address(), &mut key);
                assert_eq!(key, hex(derived), "{len} bytes, the other way");
            }
        }
    }

    fn by_name(name: &serde_json::Value) -> Identity {
        let scalar = hex(&vector("keys", "name", name.as_str().unwrap())["private"]);
        Identity::from_scalar(Zone::LOCAL, &scalar.try_into().unwrap()).unwrap()
    }

    // A28: the zone has no part in the key, both sides get the same MAC
    #[test]
    fn both_sides_make_the_same_mac() {
        let (alice, bob) = (identity("alice"), identity("bob"));
        let packet = [3; 40];
        assert_eq!(
            alice.agree(bob.address()).packet_mac(&packet),
            bob.agree(alice.address()).packet_mac(&packet)
        );
    }

    #[test]
    fn a_generated_identity_survives_its_string() {
        let mut rng = rand::rngs::StdRng::seed_from_u64(1);
        let identity = Identity::generate(Zone(7), &mut rng);
        let again = Identity::from_identity_string(&identity.identity_string()).unwrap();
        assert_eq!(identity.address(), again.address());
        assert_eq!(identity.address().zone(), Zone(7));
        assert_ne!(
            identity.address(),
            Identity::generate(Zone(7), &mut rng).address()
        );
    }

    #[test]
    fn scalars_out_of_range_are_refused() {
        let order = hex(&"ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551".into());
        for scalar in [vec![0; 32], order, vec![0xff; 32]] {
            let scalar = scalar.try_into().unwrap();
            assert_eq!(
                Identity::from_scalar(Zone(0), &scalar).unwrap_err(),
                WireError::IdentityScalar
            );
        }
    }

    #[test]
    fn identity_strings_that_are_not_exact_are_refused() {
        let good = identity("one").identity_string();
        let (one, two) = (
            identity("one").address().to_string(),
            identity("two").address().to_string(),
        );
        let refused = |text: &str| Identity::from_identity_string(text).unwrap_err();
        let form = |text: &str| {
            assert!(
                matches!(refused(text), WireError::IdentityForm(_)),
                "{text}"
            )
        };
        for text in [
            "",
            "ANODE-256-40",
            &format!("{}:", *good),
            &format!(" {}", *good),
            &good[..good.len() - 1],
        ] {
            form(text);
        }
        form(&format!("{}\n", *good));
        form(&good.replace("ANODE-256-40", "anode-256-40"));
        form(&good.replace("ANODE-256-40", "ANODE-256-41"));
        form(&format!("{}g", &good[..good.len() - 1]));
        form(&format!("{}é", &good[..good.len() - 2]));
        assert_eq!(
            refused(&good.replace(&one, &two)),
            WireError::IdentityMismatch
        );
        assert_eq!(
            refused(&good.replace(&one, &one[..63])),
            WireError::AddressTextLength(63)
        );
        let other_zone =
            Identity::from_scalar(Zone(1), &scalar_from_hex(&good[good.len() - 64..]).unwrap())
                .unwrap();
        assert_ne!(other_zone.address().to_string(), one);
        // hexadecimal digits are read in either case
        let shouted = format!(
            "{}{}",
            &good[..good.len() - 64],
            good[good.len() - 64..].to_uppercase()
        );
        assert_eq!(
            *Identity::from_identity_string(&shouted)
                .unwrap()
                .identity_string(),
            *good
        );
    }

    // S31: no key in a log, whatever goes wrong
    #[test]
    fn neither_debug_nor_errors_show_the_key() {
        let identity = identity("alice");
        let text = identity.identity_string();
        let key = &text[text.len() - 64..];
        assert!(!format!("{identity:?}").contains(&key[..8]));
        let broken = [
            text[..text.len() - 1].to_owned(),
            format!("{}x", &text[..text.len() - 1]),
            format!("{}:", *text),
            text.replace("ntoh:", "ntog:"),
        ];
        for broken in broken {
            let error = Identity::from_identity_string(&broken).unwrap_err();
            assert!(!format!("{error} {error:?}").contains(&key[..8]), "{error}");
        }
    }

    #[test]
    fn secrets_are_zeroised_on_drop() {
        fn is_zeroised_on_drop<T: zeroize::ZeroizeOnDrop>() {}
        is_zeroised_on_drop::<SecretKey>();
        is_zeroised_on_drop::<aes::Aes256Enc>();
    }
}
