//! Base 64 with the I2P alphabet, base 32, and names of destinations (i2cp.md §2.1, §2.3).
use crate::destination::Hash;
use crate::error::{Error, Result};
use data_encoding::{BASE64, Encoding, Specification};
use std::sync::LazyLock;

static BASE32: LazyLock<Encoding> = LazyLock::new(|| {
    let mut specification = Specification::new();
    specification
        .symbols
        .push_str("abcdefghijklmnopqrstuvwxyz234567");
    specification
        .encoding()
        .expect("32 different symbols are an alphabet")
});

/// Longest host name (i2cp.md §2.3).
const LONGEST_HOST: usize = 67;

/// `bytes` in the I2P alphabet: `-` for `+`, `~` for `/`, padded.
pub fn base64(bytes: &[u8]) -> String {
    BASE64.encode(bytes).replace('+', "-").replace('/', "~")
}

/// The bytes of I2P base 64; `what` names them in the error.
///
/// # Errors
/// [`Error::Malformed`].
pub fn decode_base64(what: &'static str, text: &str) -> Result<Vec<u8>> {
    let bad = Error::Malformed {
        what,
        why: "no base 64 in the alphabet of I2P",
    };
    // Padding inside is where two texts were put together: the decoder would take them for one.
    let is_joined = text.trim_end_matches('=').contains('=');
    if text.contains(['+', '/']) || is_joined {
        return Err(bad);
    }
    let standard = text.replace('-', "+").replace('~', "/");
    BASE64.decode(standard.as_bytes()).map_err(|_| bad)
}

pub(crate) fn base32(bytes: &[u8]) -> String {
    BASE32.encode(bytes)
}

/// What a name of I2P says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// `<52 characters>.b32.i2p`: the hash itself.
    Hash(Hash),
    /// `<56 or more>.b32.i2p`: an encrypted lease set.
    Blinded(Blinded),
    /// An entry of the router's address book, in lower case, without `.alt`.
    Host(String),
}

/// What a long base-32 name holds: how to find an encrypted lease set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blinded {
    /// The signature type of the destination's key.
    pub signature_type: u16,
    /// The signature type of the blinded key.
    pub blinded_type: u16,
    /// A secret is needed besides.
    pub needs_secret: bool,
    /// A key of the client is needed besides.
    pub needs_key: bool,
    /// The destination's public signing key.
    pub public_key: Vec<u8>,
}

const TWO_BYTE_TYPES: u8 = 1;
const NEEDS_SECRET: u8 = 2;
const NEEDS_KEY: u8 = 4;

impl Blinded {
    /// The name, `<56 or more characters>.b32.i2p`.
    pub fn name(&self) -> String {
        let wide = self.signature_type > 255 || self.blinded_type > 255;
        let flags = [
            (wide, TWO_BYTE_TYPES),
            (self.needs_secret, NEEDS_SECRET),
            (self.needs_key, NEEDS_KEY),
        ]
        .iter()
        .fold(
            0,
            |flags, (set, bit)| if *set { flags | bit } else { flags },
        );
        let mut data = vec![flags];
        for kind in [self.signature_type, self.blinded_type] {
            let bytes = kind.to_be_bytes();
            data.extend_from_slice(if wide { &bytes } else { &bytes[1..] });
        }
        data.extend_from_slice(&self.public_key);
        mask(&mut data);
        format!("{}.b32.i2p", base32(&data))
    }

    fn decode(mut data: Vec<u8>) -> Option<Self> {
        mask(&mut data);
        let (&flags, rest) = data.split_first()?;
        if flags & !(TWO_BYTE_TYPES | NEEDS_SECRET | NEEDS_KEY) != 0 {
            return None;
        }
        let (signature_type, blinded_type, key) = if flags & TWO_BYTE_TYPES != 0 {
            let (types, key) = rest.split_first_chunk::<4>()?;
            let types = types.map(u16::from);
            ((types[0] << 8) | types[1], (types[2] << 8) | types[3], key)
        } else {
            let (types, key) = rest.split_first_chunk::<2>()?;
            (types[0].into(), types[1].into(), key)
        };
        Some(Self {
            signature_type,
            blinded_type,
            needs_secret: flags & NEEDS_SECRET != 0,
            needs_key: flags & NEEDS_KEY != 0,
            public_key: key.to_vec(),
        })
    }
}

/// XORs the checksum of what follows into the first three bytes, little endian: a typing error shows in the flags.
fn mask(data: &mut [u8]) {
    let Some((head, tail)) = data.split_at_mut_checked(3) else {
        return;
    };
    let mut crc = flate2::Crc::new();
    crc.update(tail);
    for (byte, mask) in head.iter_mut().zip(crc.sum().to_le_bytes()) {
        *byte ^= mask;
    }
}

impl std::str::FromStr for Name {
    type Err = Error;

    /// Any case; a final dot and `.alt` are taken off.
    fn from_str(text: &str) -> Result<Self> {
        let bad = |why| Error::Name {
            name: text.chars().take(80).collect(),
            why,
        };
        let lower = text.to_ascii_lowercase();
        let name = lower.strip_suffix('.').unwrap_or(&lower);
        let name = name.strip_suffix(".alt").unwrap_or(name);
        let Some(host) = name.strip_suffix(".i2p") else {
            return Err(bad("it does not end in .i2p"));
        };
        if let Some(label) = host.strip_suffix(".b32") {
            return b32(label).ok_or_else(|| bad("its base 32 does not decode"));
        }
        if host.is_empty() || name.len() > LONGEST_HOST {
            return Err(bad("it has no host part, or more than 67 characters"));
        }
        let good = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
        };
        if !host.split('.').all(good) {
            return Err(bad("labels are letters, digits and hyphens inside"));
        }
        Ok(Self::Host(name.to_owned()))
    }
}

fn b32(label: &str) -> Option<Name> {
    if label.len() > 128 {
        return None;
    }
    // a long name may come with dots inside, because a DNS label holds 63 characters
    let label = label.replace('.', "");
    let data = BASE32.decode(label.as_bytes()).ok()?;
    match label.len() {
        52 => Some(Name::Hash(Hash(data.try_into().ok()?))),
        56.. => Blinded::decode(data).map(Name::Blinded),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::Destination;
    use crate::vectors::{hex, text, vector};

    #[test]
    fn destinations_read_and_write_as_bytes_base64_and_name() {
        for who in ["A", "B"] {
            let bytes = hex(&format!("/{who}/destination"));
            let destination = Destination::decode(&bytes).unwrap();
            assert_eq!(destination.as_bytes(), bytes);
            let hash = destination.hash();
            assert_eq!(hash.0.to_vec(), hex(&format!("/{who}/sha256")));
            assert_eq!(hash.b32(), text(&format!("/{who}/b32")));
            assert_eq!(hash.b32().parse(), Ok(Name::Hash(hash)));
            assert_eq!(destination.base64(), text(&format!("/{who}/base64")));
            assert_eq!(
                Destination::from_base64(&destination.base64()),
                Ok(destination)
            );
            assert_eq!(
                hash.synthetic_address().to_string(),
                vector("/synthetic_ipv6/fda1_first_112_bits_of_hash")[who]
            );
        }
    }

    // S37
    #[test]
    fn destinations_of_every_wrong_length_are_refused() {
        let bytes = hex("/A/destination");
        for length in 0..bytes.len() {
            assert!(Destination::decode(&bytes[..length]).is_err(), "{length}");
        }
        assert!(Destination::decode(&[&bytes[..], &[0]].concat()).is_err());
        for (at, value) in [(384, 1), (384, 3), (386, 3), (386, 5), (385, 255)] {
            let mut bad = bytes.clone();
            bad[at] = value;
            bad.resize(bad.len().max(70_000), 0);
            assert!(Destination::decode(&bad).is_err(), "{at} {value}");
        }
    }

    #[test]
    fn an_unknown_signature_type_can_be_named_but_not_verified() {
        let mut bytes = hex("/A/destination");
        bytes[388] = 99;
        let destination = Destination::decode(&bytes).unwrap();
        assert_eq!(destination.signature_type(), Err(Error::SignatureType(99)));
        assert_eq!(
            destination.verify("it", b"", &[0; 64]),
            Err(Error::SignatureType(99))
        );
    }

    #[test]
    fn names_are_told_apart() {
        let a = Destination::decode(&hex("/A/destination")).unwrap().hash();
        for (given, wanted) in [
            ("Example.I2P", Name::Host("example.i2p".into())),
            ("a.b-c.i2p.alt", Name::Host("a.b-c.i2p".into())),
            ("example.i2p.", Name::Host("example.i2p".into())),
            (&a.b32().to_uppercase(), Name::Hash(a)),
        ] {
            assert_eq!(given.parse(), Ok(wanted));
        }
        let long = format!("{}.i2p", "a".repeat(64));
        let many = format!("{}.i2p", "a.".repeat(40));
        for bad in [
            "",
            ".i2p",
            "i2p",
            "example.com",
            "-a.i2p",
            "a_b.i2p",
            "a..b.i2p",
            "é.i2p",
            &long,
            &many,
            "abc.b32.i2p",
            "1.b32.i2p",
            // 53 characters; the last one with bits that are no part of the hash
            &format!("{}a.b32.i2p", "a".repeat(52)),
            &format!("{}b.b32.i2p", "a".repeat(51)),
        ] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_of_encrypted_lease_sets_go_there_and_back_and_show_typing_errors() {
        for (signature_type, blinded_type, needs_secret, needs_key) in [
            (7, 11, false, false),
            (11, 11, true, true),
            (7, 300, true, false),
        ] {
            let blinded = Blinded {
                signature_type,
                blinded_type,
                needs_secret,
                needs_key,
                public_key: (0..32).collect(),
            };
            let name = blinded.name();
            assert!(name.len() >= 56 + 8);
            assert_eq!(name.parse(), Ok(Name::Blinded(blinded.clone())));
            let mut typo = name.into_bytes();
            typo[20] = if typo[20] == b'a' { b'b' } else { b'a' };
            let typo = String::from_utf8(typo).unwrap().parse::<Name>();
            assert_ne!(typo, Ok(Name::Blinded(blinded)));
        }
    }

    #[test]
    fn base64_uses_the_alphabet_of_i2p_only() {
        assert_eq!(base64(&[0xfb, 0xff]), "-~8=");
        assert_eq!(decode_base64("it", "-~8=").unwrap(), [0xfb, 0xff]);
        for bad in [
            "+~8=", "-/8=", "-~8", "-~9=", "-", "é", "-~8=-~8=", "-~8====",
        ] {
            assert!(decode_base64("it", bad).is_err(), "{bad}");
        }
    }
}
