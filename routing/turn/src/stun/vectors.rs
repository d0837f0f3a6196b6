//! The samples of RFC 5769 and of RFC 8489 appendix B.1.

use super::*;
use crate::stun::integrity::userhash;
use crate::stun::text::Text;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|p| u8::from_str_radix(std::str::from_utf8(p).unwrap(), 16).unwrap())
        .collect()
}

const ID: TransactionId = [
    0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae,
];

// RFC 5769 §2.1
const REQUEST: &str = "
    00010058 2112a442 b7e7a701 bc34d686 fa87dfae
    80220010 5354554e 20746573 7420636c 69656e74
    00240004 6e0001ff
    80290008 932ff9b1 51263b36
    00060009 6576746a 3a683676 59202020
    00080014 9aeaa70c bfd8cb56 781ef2b5 b2d3f249 c1b571a2
    80280004 e57a3bcf";

// RFC 5769 §2.2
const RESPONSE_V4: &str = "
    0101003c 2112a442 b7e7a701 bc34d686 fa87dfae
    8022000b 74657374 20766563 746f7220
    00200008 0001a147 e112a643
    00080014 2b91f599 fd9e90c3 8c7489f9 2af9ba53 f06be7d7
    80280004 c07d4c96";

// RFC 5769 §2.3
const RESPONSE_V6: &str = "
    01010048 2112a442 b7e7a701 bc34d686 fa87dfae
    8022000b 74657374 20766563 746f7220
    00200014 0002a147 0113a9fa a5d3f179 bc25f4b5 bed2b9d9
    00080014 a382954e 4be67bf1 1784c97c 8292c275 bfe3ed41
    80280004 c8fb0b4c";

// RFC 5769 §2.4
const LONG_TERM: &str = "
    00010060 2112a442 78ad3433 c6ad72c0 29da412e
    00060012 e3839ee3 8388e383 aae38383 e382af e382b9 0000
    0015001c 662f2f34 39396b39 35346436 4f4c3334 6f4c3946 53547679 3634734 1
    0014000b 6578616d 706c652e 6f726700
    00080014 f6702465 6dd64a3e 02b8e071 2e85c9a2 8ca89666";

// T5, T10: short-term credentials
#[test]
fn rfc_5769_request() {
    let bytes = hex(REQUEST);
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(
        (message.class(), message.method(), message.transaction()),
        (Class::Request, method::BINDING, ID)
    );
    assert_eq!(message.text(Text::Software), Ok(Some("STUN test client")));
    assert_eq!(message.text(Text::Username), Ok(Some("evtj:h6vY")));
    let key = Key::short_term("VOkJxbRl1RmTxUk/WvJxBt").unwrap();
    assert_eq!(key.verifies_any(&message), Some(Mac::Sha1));
    assert!(
        Key::short_term("wrong")
            .unwrap()
            .verifies_any(&message)
            .is_none()
    );
    // unknown attributes are kept (T5)
    assert_eq!(message.raw(0x0024), Some(&[0x6e, 0, 1, 0xff][..]));
    assert_eq!(message.unknown(&[attr::USERNAME]), [0x0024]);
}

// T5
#[test]
fn rfc_5769_responses() {
    let key = Key::short_term("VOkJxbRl1RmTxUk/WvJxBt").unwrap();
    for (text, address) in [
        (RESPONSE_V4, "192.0.2.1:32853"),
        (RESPONSE_V6, "[2001:db8:1234:5678:11:2233:4455:6677]:32853"),
    ] {
        let bytes = hex(text);
        let message = Message::parse(&bytes).unwrap();
        assert_eq!(message.class(), Class::Success);
        assert_eq!(message.text(Text::Software), Ok(Some("test vector")));
        assert_eq!(
            message.xor_address(attr::XOR_MAPPED_ADDRESS),
            Ok(Some(address.parse().unwrap()))
        );
        assert_eq!(key.verifies_any(&message), Some(Mac::Sha1));
    }
}

// T26: the key goes through SASLprep
#[test]
fn rfc_5769_long_term() {
    let bytes = hex(LONG_TERM);
    let message = Message::parse(&bytes).unwrap();
    let name = message.text(Text::Username).unwrap().unwrap();
    assert_eq!(name, "\u{30DE}\u{30C8}\u{30EA}\u{30C3}\u{30AF}\u{30B9}");
    let key = Key::long_term(
        KeyDigest::Md5,
        name,
        "example.org",
        "The\u{AD}M\u{AA}tr\u{2168}",
    )
    .unwrap();
    assert!(key.verifies(Mac::Sha1, &message));
    assert!(!key.verifies(Mac::Sha256, &message));
}

// RFC 8489 B.1 (with the corrected values of its erratum, T44): user name by hash, both HMACs
#[test]
fn rfc_8489_userhash() {
    let hash = userhash(
        "\u{30DE}\u{30C8}\u{30EA}\u{30C3}\u{30AF}\u{30B9}",
        "example.org",
    );
    assert_eq!(
        hash.to_vec(),
        hex("4a3cf38f ef6992bd a952c678 0417da0f 24819415 569e60b2 05c46e41 407f1704")
    );
}

// What is written reads back, whole message compared byte for byte
#[test]
fn what_is_written_is_the_sample() {
    let key = Key::short_term("VOkJxbRl1RmTxUk/WvJxBt").unwrap();
    let mut sample = hex(RESPONSE_V4);
    let written = Writer::new(Class::Success, method::BINDING, ID)
        .raw(attr::SOFTWARE, b"test vector")
        .xor_address(attr::XOR_MAPPED_ADDRESS, "192.0.2.1:32853".parse().unwrap())
        .sign(&key, Mac::Sha1)
        .fingerprint()
        .finish();
    // the sample pads with a blank where we pad with zero; the two trailers cover it
    sample[35] = 0;
    assert_eq!(written[..52], sample[..52]);
    let message = Message::parse(&written).unwrap();
    assert!(message.has_fingerprint());
    assert_eq!(key.verifies_any(&message), Some(Mac::Sha1));
}

// T44: the key's digest and the message's HMAC are chosen apart
#[test]
fn both_hmacs_work_with_both_key_digests() {
    for digest in [KeyDigest::Md5, KeyDigest::Sha256] {
        let key = Key::long_term(digest, "user", "realm", "pass").unwrap();
        for mac in [Mac::Sha1, Mac::Sha256] {
            let bytes = Writer::new(Class::Request, method::ALLOCATE, ID)
                .number(attr::LIFETIME, 600)
                .sign(&key, mac);
            let bytes = bytes.fingerprint().finish();
            let message = Message::parse(&bytes).unwrap();
            assert_eq!(key.verifies_any(&message), Some(mac));
            // any bit flipped in front of the integrity is seen
            for at in 0..message.bytes().len() - 8 {
                let mut touched = bytes.clone();
                touched[at] ^= 4;
                let fine = Message::parse(&touched).is_ok_and(|m| key.verifies_any(&m).is_some());
                assert!(!fine, "byte {at}");
            }
        }
    }
    assert_eq!(
        format!("{:?}", Key::from_bytes(b"secret")),
        "Key(…)",
        "a key is never printed"
    );
    assert!(Key::from_hex(KeyDigest::Md5, "8493fbc53ba582fb4c044c456bdc40eb").is_ok());
    for bad in [
        "",
        "zz93fbc53ba582fb4c044c456bdc40eb",
        "8493",
        "8493fbc53ba582fb4c044c456bdc40é",
    ] {
        assert!(Key::from_hex(KeyDigest::Md5, bad).is_err());
    }
}

// T44: MESSAGE-INTEGRITY-SHA256 may be cut to 16 bytes and not shorter
#[test]
fn short_sha256_integrity_is_held_to_its_limit() {
    let key = Key::from_bytes(b"key");
    let full = Writer::new(Class::Request, method::REFRESH, ID);
    let whole = full.sign(&key, Mac::Sha256).finish();
    for (size, fine) in [(32, true), (16, false), (12, false), (0, false)] {
        // cutting without signing anew changes the length the HMAC covers, so only the full one verifies
        let mut cut = whole[..24 + size].to_vec();
        cut[2..4].copy_from_slice(&(4 + size as u16).to_be_bytes());
        cut[22..24].copy_from_slice(&(size as u16).to_be_bytes());
        assert_eq!(
            Message::parse(&cut).is_ok_and(|m| key.verifies(Mac::Sha256, &m)),
            fine,
            "{size} bytes"
        );
    }
}

// Attributes behind the integrity do not count (RFC 8489 §14.5)
#[test]
fn what_stands_behind_the_integrity_is_ignored() {
    let key = Key::from_bytes(b"key");
    let bytes = Writer::new(Class::Request, method::REFRESH, ID)
        .sign(&key, Mac::Sha1)
        .number(attr::LIFETIME, 7)
        .sign(&key, Mac::Sha256)
        .fingerprint()
        .finish();
    let message = Message::parse(&bytes).unwrap();
    assert!(!message.has(attr::LIFETIME));
    assert!(message.is_signed_sha256());
    assert!(message.unknown(&[]).is_empty());
}
