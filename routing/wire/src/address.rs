//! Addresses, their short ids, zones and peer ids (Anode 0.8 §2.1, §2.2, §2.7, §3.4).
use crate::{WireError, base32, mac};
use p256::PublicKey;
use sha2::{Digest, Sha256};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The type byte of ANODE-256-40, the only address type there is (A12).
pub(crate) const TYPE_ANODE_256_40: u8 = 1;
const ZONE: std::ops::Range<usize> = 1..5;
const KEY: usize = 7;

/// A full ANODE-256-40 address, checked: type 1, zero bytes zero, a point on the curve (D9).
///
/// Text form: 64 base32 characters, lower case out, either case in (A14, D8).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address([u8; 40]);

impl Address {
    /// Bytes of an address.
    pub const LEN: usize = 40;
    /// Characters of its text form.
    pub const TEXT_LEN: usize = 64;

    /// Checks all of D9; costs a point decompression (about 12 µs).
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, WireError> {
        match bytes.first() {
            // A15: the type comes first and gives the length
            Some(&TYPE_ANODE_256_40) | None => {}
            Some(&kind) => return Err(WireError::AddressType(kind)),
        }
        let bytes: [u8; 40] = bytes
            .try_into()
            .map_err(|_| WireError::AddressLength(bytes.len()))?;
        if bytes[5..KEY] != [0, 0] {
            return Err(WireError::AddressUnused(bytes[5], bytes[6]));
        }
        if !matches!(bytes[KEY], 2 | 3) {
            return Err(WireError::KeyForm(bytes[KEY]));
        }
        PublicKey::from_sec1_bytes(&bytes[KEY..]).map_err(|_| WireError::NotOnCurve)?;
        Ok(Self(bytes))
    }

    /// The address of a public key in a zone.
    pub(crate) fn from_public_key(zone: Zone, key: &PublicKey) -> Self {
        use p256::elliptic_curve::group::GroupEncoding;
        let mut bytes = [0; 40];
        bytes[0] = TYPE_ANODE_256_40;
        bytes[ZONE].copy_from_slice(&zone.0.to_be_bytes());
        bytes[KEY..].copy_from_slice(&key.as_affine().to_bytes());
        Self(bytes)
    }

    /// Reads one TXT record of a host name (A31, D13): its character-strings are joined and trimmed.
    /// `None` if it is about something else than Anode.
    pub fn from_txt<S: AsRef<[u8]>>(strings: &[S]) -> Option<Result<Self, WireError>> {
        let joined = strings
            .iter()
            .map(AsRef::as_ref)
            .collect::<Vec<_>>()
            .concat();
        let joined = String::from_utf8_lossy(&joined);
        let (prefix, address) = joined.trim().split_once(':')?;
        prefix
            .eq_ignore_ascii_case("anode")
            .then(|| address.parse())
    }

    /// The 40 bytes.
    pub fn as_bytes(&self) -> &[u8; 40] {
        &self.0
    }

    /// The 33 bytes of the compressed public key.
    pub fn public_key_bytes(&self) -> &[u8; 33] {
        let (_, key) = self.0.split_at(KEY);
        key.try_into().expect("40 less 7 is 33")
    }

    /// The point. Decompressed anew at each call (about 12 µs).
    pub(crate) fn public_key(&self) -> PublicKey {
        PublicKey::from_sec1_bytes(self.public_key_bytes())
            .expect("checked when the address was made")
    }

    /// The zone it claims; any key may claim any zone.
    pub fn zone(&self) -> Zone {
        Zone(u32::from_be_bytes([
            self.0[1], self.0[2], self.0[3], self.0[4],
        ]))
    }

    /// The draft's 8-byte id (A30); computed at each call (three AES key schedules): keep it.
    pub fn id(&self) -> AddressId {
        AddressId::of_bytes(&self.0)
    }

    /// The synthetic IPv6 with the given peer digit: fda0, 108 bits of SHA-256("anode ipv6 1" ‖ address), digit.
    pub fn ipv6(&self, peer: PeerId) -> Ipv6Addr {
        let digest = Sha256::new()
            .chain_update(b"anode ipv6 1")
            .chain_update(self.0)
            .finalize();
        let mut octets = [0; 16];
        octets[..2].copy_from_slice(&SYNTHETIC_PREFIX);
        octets[2..].copy_from_slice(&digest[..14]);
        octets[15] = octets[15] & 0xf0 | peer.0;
        octets.into()
    }

    /// Sum of the bytes, for the choice of a zone relay (A22).
    pub fn byte_sum(&self) -> u32 {
        self.0.iter().map(|byte| u32::from(*byte)).sum()
    }
}

impl FromStr for Address {
    type Err = WireError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 40];
        base32::decode(text, &mut bytes)?;
        Self::from_bytes(&bytes)
    }
}

/// 64 lower-case base32 characters.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text: [u8; Address::TEXT_LEN] = base32::encode(&self.0);
        f.pad(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

/// The 8-byte short id: a name inside packets, never proof of anything (D12).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct AddressId(pub [u8; 8]);

impl AddressId {
    /// The recipient of a presence EPI, which is for everybody on the link (D23).
    pub const EVERYBODY: AddressId = AddressId([0; 8]);

    /// The id of 40 address bytes that need not be checked yet.
    pub fn of_bytes(address: &[u8; 40]) -> Self {
        Self(mac::fold_mac(mac::aes_digest(address)))
    }
}

/// 16 hex digits.
impl fmt::Display for AddressId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

/// A zone number; 0 means "local only" (D5). Text: up to 8 hex digits in, 8 out.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Zone(pub u32);

impl Zone {
    /// No zone file, no relays: peers find each other on the LAN or by configuration (D5).
    pub const LOCAL: Zone = Zone(0);

    /// Host name of the preferred way to fetch the zone file (A8, D6): `a--XXXXXXXX.net`.
    pub fn host_name(self) -> String {
        format!("a--{self}.net")
    }

    /// Where the zone file is, by DNS (A8).
    pub fn dns_url(self) -> String {
        format!("http://{}/z", self.host_name())
    }

    /// The zone number read as an IPv4 address (A9).
    pub fn ipv4(self) -> Ipv4Addr {
        Ipv4Addr::from(self.0)
    }

    /// Where the zone file is without DNS (A9): over IPv4, then over the mapped IPv6 form. `None` where that address
    /// is this host or network (0/8) or multicast and reserved (224/3), and, unless `allow_local`, where it is loopback or
    /// link-local (D5).
    pub fn ip_urls(self, allow_local: bool) -> Option<[String; 2]> {
        let ip = self.ipv4();
        let never = ip.octets()[0] == 0 || ip.octets()[0] >= 224;
        let local = ip.is_loopback() || ip.is_link_local();
        (!never && (allow_local || !local)).then(|| {
            [
                format!("http://{ip}/z"),
                format!("http://[{}]/z", ip.to_ipv6_mapped()),
            ]
        })
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl FromStr for Zone {
    type Err = WireError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = (1..=8).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
        match u32::from_str_radix(text, 16) {
            Ok(zone) if digits => Ok(Self(zone)),
            _ => Err(WireError::ZoneText(text.chars().take(32).collect())),
        }
    }
}

/// One of the up to 15 peers that share an address; 0 = any (A44).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct PeerId(u8);

impl PeerId {
    /// No particular peer.
    pub const ANY: PeerId = PeerId(0);

    /// 0 to 15, else `None`.
    pub fn new(id: u8) -> Option<Self> {
        (id < 16).then_some(PeerId(id))
    }

    /// The low four bits.
    pub(crate) fn from_nibble(byte: u8) -> Self {
        PeerId(byte & 15)
    }

    /// 0 to 15.
    pub fn get(self) -> u8 {
        self.0
    }
}

const SYNTHETIC_PREFIX: [u8; 2] = [0xfd, 0xa0];

/// Whether `ip` lies in fda0::/16.
pub fn is_synthetic(ip: Ipv6Addr) -> bool {
    ip.octets()[..2] == SYNTHETIC_PREFIX
}

/// `ip` with peer digit 0, and its digit. Addresses of other overlays have none: all their digits name the peer.
pub fn split_digit(ip: Ipv6Addr) -> (Ipv6Addr, PeerId) {
    if !is_synthetic(ip) {
        return (ip, PeerId::ANY);
    }
    let mut octets = ip.octets();
    let digit = PeerId::from_nibble(octets[15]);
    octets[15] &= 0xf0;
    (octets.into(), digit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{hex, identity, vectors};
    use proptest::prelude::*;

    // A12, A14, A22, A30, D8, D11
    #[test]
    fn vectors_pass() {
        for vector in vectors("addresses") {
            let name = &vector["key"];
            let address = Address::from_bytes(&hex(&vector["address"])).unwrap();
            let text = vector["base32"].as_str().unwrap();
            assert_eq!(address.to_string(), text, "{name}");
            assert_eq!(text.parse(), Ok(address), "{name}");
            assert_eq!(text.to_uppercase().parse(), Ok(address), "{name}");
            assert_eq!(aes(&address), hex(&vector["aes_digest"]), "{name}");
            assert_eq!(
                address.id().to_string(),
                vector["short_id"].as_str().unwrap(),
                "{name}"
            );
            for (reading, wrong) in vector["wrong_short_ids"].as_object().unwrap() {
                assert_ne!(
                    address.id().to_string(),
                    wrong.as_str().unwrap(),
                    "{name} {reading}"
                );
            }
            assert_eq!(
                u64::from(address.byte_sum()),
                vector["byte_sum"].as_u64().unwrap(),
                "{name}"
            );
            assert_eq!(
                address,
                *identity(name.as_str().unwrap()).address(),
                "{name}"
            );
        }
    }

    fn aes(address: &Address) -> Vec<u8> {
        mac::aes_digest(address.as_bytes()).to_vec()
    }

    // A4, A8, A9, D6
    #[test]
    fn zones_and_their_urls_are_those_of_the_vectors() {
        for vector in vectors("addresses") {
            let zone = Address::from_bytes(&hex(&vector["address"]))
                .unwrap()
                .zone();
            assert_eq!(zone.to_string(), vector["zone"].as_str().unwrap());
            assert_eq!(vector["zone"].as_str().unwrap().parse(), Ok(zone));
            assert_eq!(zone.dns_url(), vector["zone_url_dns"].as_str().unwrap());
            assert_eq!(
                zone.ipv4().to_string(),
                vector["zone_ipv4"].as_str().unwrap()
            );
        }
    }

    // A9, D5
    #[test]
    fn the_ip_method_spares_this_host_and_multicast() {
        let urls = |ip: [u8; 4], allow_local| Zone(u32::from_be_bytes(ip)).ip_urls(allow_local);
        assert_eq!(
            urls([192, 0, 2, 1], false),
            Some([
                "http://192.0.2.1/z".into(),
                "http://[::ffff:192.0.2.1]/z".into()
            ])
        );
        for (ip, allowed_for_tests) in [
            ([0, 0, 0, 0], false),
            ([0, 1, 2, 3], false),
            ([224, 0, 0, 1], false),
            ([240, 0, 0, 1], false),
            ([255, 255, 255, 255], false),
            ([127, 0, 0, 1], true),
            ([169, 254, 169, 254], true),
        ] {
            assert_eq!(urls(ip, false), None, "{ip:?}");
            assert_eq!(urls(ip, true).is_some(), allowed_for_tests, "{ip:?}");
        }
    }

    // A31, D13
    #[test]
    fn txt_records_are_joined_trimmed_and_told_from_others() {
        for vector in vectors("addresses") {
            let txt = vector["dns_txt"].as_str().unwrap();
            let address = Address::from_bytes(&hex(&vector["address"])).unwrap();
            assert_eq!(Address::from_txt(&[txt]), Some(Ok(address)));
            let (left, right) = txt.split_at(30);
            assert_eq!(
                Address::from_txt(&[" ", left, right, "\n"]),
                Some(Ok(address))
            );
            assert_eq!(
                Address::from_txt(&[txt.replace("anode:", "ANODE:")]),
                Some(Ok(address))
            );
        }
        for other in ["v=spf1 -all", "anodes:aaaa", "", "anode"] {
            assert_eq!(Address::from_txt(&[other]), None, "{other}");
        }
        assert_eq!(
            Address::from_txt(&["anode:aaaa"]),
            Some(Err(WireError::AddressTextLength(4)))
        );
    }

    // A13, A15, D9, S5
    #[test]
    fn every_address_that_is_not_canonical_is_refused() {
        let good = *identity("alice").address().as_bytes();
        let with = |change: &dyn Fn(&mut [u8; 40])| {
            let mut bytes = good;
            change(&mut bytes);
            Address::from_bytes(&bytes)
        };
        assert!(with(&|_| {}).is_ok());
        assert_eq!(with(&|b| b[0] = 0), Err(WireError::AddressType(0)));
        assert_eq!(with(&|b| b[0] = 2), Err(WireError::AddressType(2)));
        assert_eq!(with(&|b| b[5] = 1), Err(WireError::AddressUnused(1, 0)));
        assert_eq!(
            with(&|b| b[6] = 0x80),
            Err(WireError::AddressUnused(0, 0x80))
        );
        for form in [0, 1, 4, 5, 6, 7, 0xff] {
            assert_eq!(with(&|b| b[7] = form), Err(WireError::KeyForm(form)));
        }
        // x = p, x = p + 1, x = all ones: not below the prime
        let p = hex(&"ffffffff00000001000000000000000000000000ffffffffffffffffffffffff".into());
        let mut p_plus_1 = p.clone();
        for byte in &mut p_plus_1[20..] {
            *byte = 0;
        }
        p_plus_1[19] = 1;
        for x in [p, p_plus_1, vec![0xff; 32]] {
            assert_eq!(
                with(&|b| b[8..].copy_from_slice(&x)),
                Err(WireError::NotOnCurve),
                "{x:x?}"
            );
        }
        // x = 1: 1 - 3 + b is no square
        let mut one = [0; 32];
        one[31] = 1;
        assert_eq!(
            with(&|b| b[8..].copy_from_slice(&one)),
            Err(WireError::NotOnCurve)
        );
        for len in [0, 1, 39] {
            assert_eq!(
                Address::from_bytes(&good[..len]),
                Err(WireError::AddressLength(len))
            );
        }
        assert_eq!(
            Address::from_bytes(&[good.as_slice(), &[0]].concat()),
            Err(WireError::AddressLength(41))
        );
    }

    // D8: illustrations of §2.3.1, which are not base32
    #[test]
    fn the_samples_of_the_draft_are_refused() {
        for (text, character, place) in [
            ("klj4j3...", '.', 7),
            ("00194j...", '0', 1),
            ("1j42zz...", '1', 1),
            ("z94j1q...", '9', 2),
        ] {
            assert_eq!(
                text.parse::<Address>(),
                Err(WireError::NotBase32 { character, place })
            );
        }
    }

    #[test]
    fn errors_speak_to_people() {
        let text = identity("one").address().to_string();
        for (text, message) in [
            (
                "laptop".to_owned(),
                "an Anode address has 64 base32 characters, this has 6",
            ),
            (
                text[..63].to_owned(),
                "an Anode address has 64 base32 characters, this has 63",
            ),
            (
                format!("{text}a"),
                "an Anode address has 64 base32 characters, this has 65",
            ),
            (
                text.replacen('x', "1", 1),
                "'1' at place 16 is not base32 (letters a to z, digits 2 to 7)",
            ),
            (
                format!("ai{}", &text[2..]),
                "address type 2 is unknown: this program knows type 1 (ANODE-256-40) only",
            ),
        ] {
            assert_eq!(text.parse::<Address>().unwrap_err().to_string(), message);
        }
    }

    /// The two vectors of the architecture document.
    #[test]
    fn synthetic_ipv6_is_stable() {
        for (text, ip) in [
            (
                "aeaaaaaaaaaag2yx2hzoclcci74lzzxfmoseb4txan6yclplgoqpjijzixmjrquw",
                "fda0:8ed7:8a43:c2c:b76a:57af:6262:3020",
            ),
            (
                "aeaaaaaaaaaag7hspmmi2a2pp2ffeoadas2rvq6arfu6e57sdm22mc2i7rdwngly",
                "fda0:cd00:8989:4303:c3ee:44a0:16e:9720",
            ),
        ] {
            let address: Address = text.parse().unwrap();
            let ip: Ipv6Addr = ip.parse().unwrap();
            assert_eq!(address.ipv6(PeerId::ANY), ip);
            assert!(is_synthetic(ip));
            // A44: the digit is the peer id
            for digit in 0..16 {
                let peer = PeerId::new(digit).unwrap();
                let with_digit = address.ipv6(peer);
                assert_eq!(with_digit.octets()[15] & 15, digit);
                assert_eq!(split_digit(with_digit), (ip, peer));
            }
        }
        assert!(!is_synthetic("fda1::1".parse().unwrap()));
        assert!(!is_synthetic("fd00:fda0::1".parse().unwrap()));
    }

    // A44
    #[test]
    fn peer_ids_are_four_bits() {
        assert_eq!(PeerId::new(0), Some(PeerId::ANY));
        assert_eq!(PeerId::new(15).map(PeerId::get), Some(15));
        assert_eq!(PeerId::new(16), None);
    }

    // A4
    #[test]
    fn zone_text_is_up_to_eight_hex_digits() {
        assert_eq!("0".parse(), Ok(Zone::LOCAL));
        assert_eq!("C0000201".parse(), Ok(Zone(0xc000_0201)));
        assert_eq!("1f".parse::<Zone>().unwrap().to_string(), "0000001f");
        for wrong in ["", "123456789", "+1", "-1", "0x1", "g", " 1"] {
            assert_eq!(
                wrong.parse::<Zone>(),
                Err(WireError::ZoneText(wrong.into())),
                "{wrong}"
            );
        }
    }

    proptest! {
        // S5
        #[test]
        fn no_bytes_make_from_bytes_panic_and_all_that_pass_round_trip(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(address) = Address::from_bytes(&bytes) {
                prop_assert_eq!(address.as_bytes().as_slice(), bytes);
            }
        }

        #[test]
        fn keys_in_any_zone_round_trip(zone in any::<u32>(), form in 2u8..4, x in any::<[u8; 32]>()) {
            let mut bytes = [0; 40];
            bytes[0] = 1;
            bytes[1..5].copy_from_slice(&zone.to_be_bytes());
            bytes[7] = form;
            bytes[8..].copy_from_slice(&x);
            // half of all x are on the curve
            if let Ok(address) = Address::from_bytes(&bytes) {
                prop_assert_eq!(address.as_bytes(), &bytes);
                prop_assert_eq!(address.zone(), Zone(zone));
                prop_assert_eq!(address.to_string().parse(), Ok(address));
                prop_assert_eq!(address.id(), AddressId::of_bytes(&bytes));
            }
        }

        #[test]
        fn no_text_makes_from_str_panic(text in any::<String>()) {
            prop_assert!(text.parse::<Address>().is_err());
            prop_assert_eq!(text.parse::<Zone>().is_ok(), (1..=8).contains(&text.len()) && text.chars().all(|c| c.is_ascii_hexdigit()));
        }

        #[test]
        fn one_wrong_character_is_found(place in 0usize..64, character in proptest::char::any()) {
            let text = identity("one").address().to_string();
            prop_assume!(!character.is_ascii_alphabetic() && !('2'..='7').contains(&character));
            let wrong: String = text.chars().enumerate().map(|(i, c)| if i == place { character } else { c }).collect();
            prop_assert_eq!(wrong.parse::<Address>(), Err(WireError::NotBase32 { character, place: place + 1 }));
        }
    }
}
