//! RFC 4648 base32 in lower case without padding, for whole groups of 5 bytes (Anode 0.8 §2.2.1, D8).
use crate::WireError;

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Writes 8 characters for every 5 bytes.
pub(crate) fn encode<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut text = [0; N];
    for (group, out) in bytes.chunks_exact(5).zip(text.chunks_exact_mut(8)) {
        let bits = group
            .iter()
            .fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
        for (i, character) in out.iter_mut().enumerate() {
            *character = ALPHABET[(bits >> (35 - 5 * i)) as usize & 31];
        }
    }
    text
}

/// Reads either case; every other character is an error (the historic library took it for zero).
pub(crate) fn decode(text: &str, bytes: &mut [u8]) -> Result<(), WireError> {
    if let Some((place, character)) = text.chars().enumerate().find(|(_, c)| value(*c).is_none()) {
        return Err(WireError::NotBase32 {
            character,
            place: place + 1,
        });
    }
    if text.len() != bytes.len() / 5 * 8 {
        return Err(WireError::AddressTextLength(text.len()));
    }
    let mut values = text.chars().filter_map(value);
    for group in bytes.chunks_exact_mut(5) {
        let bits = values
            .by_ref()
            .take(8)
            .fold(0u64, |bits, v| bits << 5 | u64::from(v));
        group.copy_from_slice(&bits.to_be_bytes()[3..]);
    }
    Ok(())
}

fn value(character: char) -> Option<u8> {
    match character {
        'a'..='z' => Some(character as u8 - b'a'),
        'A'..='Z' => Some(character as u8 - b'A'),
        '2'..='7' => Some(character as u8 - b'2' + 26),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{hex, vectors};

    // D8
    #[test]
    fn vectors_pass_in_both_cases() {
        for vector in vectors("base32") {
            let bytes = hex(&vector["bytes"]);
            let text = vector["base32"].as_str().unwrap();
            assert_eq!(encode::<8>(&bytes), text.as_bytes());
            for text in [text.to_owned(), text.to_ascii_uppercase()] {
                let mut decoded = [0; 5];
                decode(&text, &mut decoded).unwrap();
                assert_eq!(decoded, *bytes);
            }
        }
    }

    // D8: the samples of §2.3.1 hold 0, 1 and 9
    #[test]
    fn foreign_characters_are_refused_with_their_place() {
        for (text, character, place) in [
            ("aaaaaaa0", '0', 8),
            ("1j42zzaa", '1', 1),
            ("aa8aaaaa", '8', 3),
            ("aaa9aaaa", '9', 4),
            ("aaaaaaa=", '=', 8),
            ("aaaa aaa", ' ', 5),
            ("aaéaaaaa", 'é', 3),
        ] {
            let mut bytes = [0; 5];
            assert_eq!(
                decode(text, &mut bytes),
                Err(WireError::NotBase32 { character, place }),
                "{text}"
            );
        }
    }
}
