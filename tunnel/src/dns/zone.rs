//! What a name in our zones means: `.anode`, and the reverse names of the synthetic prefixes (DESIGN §4). No IO.

use std::net::Ipv6Addr;
use std::sync::LazyLock;

use anode_routing::i2p::{self, Hash};
use anode_wire::Address;
use hickory_proto::rr::Name;

use super::host::HostName;
use crate::value::PeerName;

/// Characters of either half of an address in base32.
const HALF: usize = 32;

/// Nibbles of an IPv6 address.
const NIBBLES: usize = 32;

/// The zones that are answered for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Zone {
    /// `anode.`
    Anode,
    /// `0.a.d.f.ip6.arpa.`: fda0::/16
    Reverse,
    /// `1.a.d.f.ip6.arpa.`: fda1::/16
    ReverseI2p,
    /// `i2p.`
    I2p,
    /// `i2p.alt.`, which means the same (RFC 9476).
    I2pAlt,
}

impl Zone {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Anode,
        Self::Reverse,
        Self::ReverseI2p,
        Self::I2p,
        Self::I2pAlt,
    ];

    /// Whether its names are those of I2P, which not every node has. The reverse names are kept from the servers outside
    /// by all.
    pub fn is_i2p(self) -> bool {
        matches!(self, Self::I2p | Self::I2pAlt)
    }

    /// Its name without the last dot.
    pub fn text(self) -> &'static str {
        match self {
            Self::Anode => "anode",
            Self::Reverse => "0.a.d.f.ip6.arpa",
            Self::ReverseI2p => "1.a.d.f.ip6.arpa",
            Self::I2p => "i2p",
            Self::I2pAlt => "i2p.alt",
        }
    }

    /// Its name.
    pub fn apex(self) -> &'static Name {
        static NAMES: LazyLock<[Name; Zone::ALL.len()]> = LazyLock::new(|| {
            Zone::ALL.map(|zone| {
                Name::from_ascii(format!("{}.", zone.text()))
                    .expect("each is a name of a few short labels")
            })
        });
        &NAMES[self as usize]
    }
}

/// What stands behind a name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Meaning {
    /// The zone's own name.
    Apex,
    /// There are names below this one, and nothing at it: an empty non-terminal (RFC 8020).
    Between,
    /// `<first 32>.<last 32>.anode`
    Address(Box<Address>),
    /// `box.anode`: whoever is called so, and nobody outside is asked.
    Name(PeerName),
    /// `host.example.com.anode`: the TXT record of the real name says.
    Host(HostName),
    /// The reverse name of an address, peer digit and all.
    Reverse(Ipv6Addr),
    /// `….b32.i2p`: the destination itself.
    Destination(Hash),
    /// `site.i2p`, and long base-32 names: somebody has to say who it is.
    I2pName(String),
    /// Nothing can be there.
    Nothing,
}

/// The zone of a name, and what the name means in it; `None` for a name that is not ours.
pub fn meaning(name: &Name) -> Option<(Zone, Meaning)> {
    let zone = Zone::ALL
        .into_iter()
        .find(|zone| zone.apex().zone_of(name))?;
    let labels: Vec<&[u8]> = name.iter().collect();
    let below = &labels[..labels.len() - usize::from(zone.apex().num_labels())];
    let meaning = match zone {
        _ if below.is_empty() => Meaning::Apex,
        Zone::Anode => forward(below),
        Zone::Reverse => reverse(below, 0),
        Zone::ReverseI2p => reverse(below, 1),
        Zone::I2p | Zone::I2pAlt => i2p(below),
    };
    Some((zone, meaning))
}

fn forward(labels: &[&[u8]]) -> Meaning {
    match labels {
        [label] => match std::str::from_utf8(label).map(str::parse::<PeerName>) {
            Ok(Ok(name)) => Meaning::Name(name),
            _ => Meaning::Nothing,
        },
        // What looks like an address and is none goes to nobody outside.
        [first, last] if is_half(first) && is_half(last) => {
            let text = String::from_utf8_lossy(&[*first, *last].concat()).to_ascii_lowercase();
            text.parse().map_or(Meaning::Nothing, |address| {
                Meaning::Address(Box::new(address))
            })
        }
        [.., first, last] if is_half(first) && is_half(last) => Meaning::Nothing,
        _ => HostName::from_labels(labels.iter().copied()).map_or(Meaning::Nothing, Meaning::Host),
    }
}

fn i2p(labels: &[&[u8]]) -> Meaning {
    if labels == [b"b32"] {
        return Meaning::Between;
    }
    let text: Vec<_> = labels
        .iter()
        .map(|label| String::from_utf8_lossy(label))
        .collect();
    match format!("{}.i2p", text.join(".")).parse() {
        Ok(i2p::Name::Hash(hash)) => Meaning::Destination(hash),
        Ok(i2p::Name::Blinded(blinded)) => Meaning::I2pName(blinded.name()),
        // a dot inside a label would make another name of it
        Ok(i2p::Name::Host(host)) if host.split('.').count() == labels.len() + 1 => {
            Meaning::I2pName(host)
        }
        Ok(i2p::Name::Host(_)) | Err(_) => Meaning::Nothing,
    }
}

/// Whether a label may be one half of an address: 32 characters of base32.
pub fn is_half(label: &[u8]) -> bool {
    label.len() == HALF
        && label
            .iter()
            .all(|byte| byte.is_ascii_alphabetic() || (b'2'..=b'7').contains(byte))
}

/// The nibbles below fda0::/16 or fda1::/16, the lowest first (RFC 3596 §2.5).
fn reverse(labels: &[&[u8]], fourth: u128) -> Meaning {
    const ABOVE: usize = 4;
    let nibble = |label: &&[u8]| match label {
        [digit] => char::from(*digit).to_digit(16),
        _ => None,
    };
    let Some(nibbles) = labels.iter().map(nibble).collect::<Option<Vec<u32>>>() else {
        return Meaning::Nothing;
    };
    match nibbles.len() {
        count if count < NIBBLES - ABOVE => Meaning::Between,
        count if count > NIBBLES - ABOVE => Meaning::Nothing,
        _ => {
            let prefix = (0xfda0 | fourth) << 112;
            let low = nibbles
                .iter()
                .rev()
                .fold(0, |bits: u128, nibble| bits << 4 | u128::from(*nibble));
            Meaning::Reverse(Ipv6Addr::from(prefix | low))
        }
    }
}

/// `<first 32>.<last 32>.anode`
pub fn address_name(address: &Address) -> String {
    let text = address.to_string();
    let (first, last) = text.split_at(HALF);
    format!("{first}.{last}.anode")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: &str = "aeaaaaaaaaaag2yx2hzoclcci74lzzxfmoseb4txan6yclplgoqpjijzixmjrquw";

    fn of(text: &str) -> Option<(Zone, Meaning)> {
        meaning(&Name::from_ascii(text).unwrap())
    }

    #[test]
    fn names_below_anode_mean_addresses_names_or_hosts() {
        let address: Address = ADDRESS.parse().unwrap();
        let split = address_name(&address);
        let upper = split.to_ascii_uppercase();
        let half = &ADDRESS[..32];
        // x = 2^256 - 1 is no element of the field, and still nobody outside is asked.
        let broken = format!("aeaaaaaaaaaaf{}.{}.anode", "7".repeat(19), "7".repeat(32));
        let name = |text: &str| Meaning::Name(text.parse().unwrap());
        let host = |text: &str| Meaning::Host(text.parse().unwrap());
        let cases = [
            ("anode.", Meaning::Apex),
            ("ANODE.", Meaning::Apex),
            (&split, Meaning::Address(Box::new(address))),
            (&upper, Meaning::Address(Box::new(address))),
            (&broken, Meaning::Nothing),
            (&format!("www.{split}"), Meaning::Nothing),
            ("box.anode.", name("box")),
            ("Box.Anode.", name("box")),
            (&format!("{half}.anode."), name(half)),
            ("a_b.anode.", Meaning::Nothing),
            ("a-.anode.", Meaning::Nothing),
            ("host.example.com.anode.", host("host.example.com")),
            ("HOST.example.com.anode.", host("host.example.com")),
            ("_x.example.com.anode.", host("_x.example.com")),
            ("a.anode.anode.", Meaning::Nothing),
            ("x.onion.anode.", Meaning::Nothing),
            ("192.0.2.1.anode.", Meaning::Nothing),
            ("a\\.b.com.anode.", Meaning::Nothing),
        ];
        for (text, expected) in cases {
            assert_eq!(of(text), Some((Zone::Anode, expected)), "{text}");
        }
    }

    #[test]
    fn labels_of_any_bytes_mean_nothing() {
        for label in [&[0xff][..], &[0], b"a.b", b" ", b"-"] {
            let labels = [label, b"com", b"anode"];
            let odd = Name::from_labels(labels).unwrap();
            assert_eq!(
                meaning(&odd),
                Some((Zone::Anode, Meaning::Nothing)),
                "{label:?}"
            );
            let odd = Name::from_labels([label, b"anode"]).unwrap();
            assert_eq!(
                meaning(&odd),
                Some((Zone::Anode, Meaning::Nothing)),
                "{label:?}"
            );
        }
    }

    #[test]
    fn reverse_names_mean_the_address_with_its_peer_digit() {
        let nibbles = |ip: &str| {
            let bits = u128::from(ip.parse::<Ipv6Addr>().unwrap());
            let digits: Vec<String> = (0..32)
                .map(|i| format!("{:x}", bits >> (4 * i) & 15))
                .collect();
            digits.join(".") + ".ip6.arpa."
        };
        let full = nibbles("fda0:8ed7:8a43:c2c:b76a:57af:6262:302f");
        let ip = "fda0:8ed7:8a43:c2c:b76a:57af:6262:302f".parse().unwrap();
        let cases = [
            (full.clone(), Some((Zone::Reverse, Meaning::Reverse(ip)))),
            (
                full.to_ascii_uppercase(),
                Some((Zone::Reverse, Meaning::Reverse(ip))),
            ),
            (
                "0.a.d.f.ip6.arpa.".into(),
                Some((Zone::Reverse, Meaning::Apex)),
            ),
            (
                "8.0.a.d.f.ip6.arpa.".into(),
                Some((Zone::Reverse, Meaning::Between)),
            ),
            (format!("0.{full}"), Some((Zone::Reverse, Meaning::Nothing))),
            (
                "xy.0.a.d.f.ip6.arpa.".into(),
                Some((Zone::Reverse, Meaning::Nothing)),
            ),
            (
                "g.0.a.d.f.ip6.arpa.".into(),
                Some((Zone::Reverse, Meaning::Nothing)),
            ),
            (
                nibbles("fda1::1f"),
                Some((
                    Zone::ReverseI2p,
                    Meaning::Reverse("fda1::1f".parse().unwrap()),
                )),
            ),
            (
                "1.a.d.f.ip6.arpa.".into(),
                Some((Zone::ReverseI2p, Meaning::Apex)),
            ),
            ("2.a.d.f.ip6.arpa.".into(), None),
            ("a.d.f.ip6.arpa.".into(), None),
            (nibbles("2001:db8::1"), None),
        ];
        for (text, expected) in cases {
            assert_eq!(of(&text), expected, "{text}");
        }
    }

    #[test]
    fn names_below_i2p_mean_destinations_or_names_of_the_router() {
        let hash = Hash([0x5a; 32]);
        let b32 = hash.b32();
        let host = |text: &str| Meaning::I2pName(text.to_owned());
        let cases = [
            ("i2p.", Zone::I2p, Meaning::Apex),
            ("b32.i2p.", Zone::I2p, Meaning::Between),
            (&format!("{b32}."), Zone::I2p, Meaning::Destination(hash)),
            (
                &format!("{}.alt.", b32.to_ascii_uppercase()),
                Zone::I2pAlt,
                Meaning::Destination(hash),
            ),
            ("Site.I2P.", Zone::I2p, host("site.i2p")),
            ("www.site.i2p.alt.", Zone::I2pAlt, host("www.site.i2p")),
            ("www.b32.i2p.", Zone::I2p, Meaning::Nothing),
            ("a_b.i2p.", Zone::I2p, Meaning::Nothing),
            ("a\\.b.i2p.", Zone::I2p, Meaning::Nothing),
            ("alt.", Zone::I2p, Meaning::Nothing),
        ];
        for (text, zone, expected) in cases {
            let found = of(text);
            match text {
                "alt." => assert_eq!(found, None),
                _ => assert_eq!(found, Some((zone, expected)), "{text}"),
            }
        }
    }

    #[test]
    fn names_of_others_are_not_ours() {
        for text in [".", "example.com.", "anode.example.com.", "xanode.", "alt."] {
            assert_eq!(of(text), None, "{text}");
        }
    }
}
