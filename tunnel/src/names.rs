//! What people may write for a peer: its address, its synthetic IPv6, a name that this machine gives, or the name of a real
//! host whose TXT record says.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv6Addr;

use anode_routing::i2p::{Name, is_i2p};
use anode_wire::address::is_synthetic;
use anode_wire::{Address, PeerId};

use crate::command::Target;
use crate::dns::host::HostName;
use crate::state::book::Book;
use crate::value::{PeerName, ValueError, parse_address};

/// Base32 characters of an address.
const ADDRESS_CHARS: usize = 64;

/// A peer as it was written; a name is not looked up yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Named {
    /// Stands for itself.
    Target(Target),
    /// Needs the trust book, or the configuration.
    Name(PeerName),
    /// Needs the DNS.
    Host(HostName),
    /// `site.i2p`: needs the trust book, or the router's address book.
    I2p(String),
}

impl std::str::FromStr for Named {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if let Some(named) = i2p_name(text) {
            return named;
        }
        if text.contains(':') {
            return parse_ipv6(text).map(|ip| Self::Target(Target::Ipv6(ip)));
        }
        if let Some(address) = split_name(text) {
            return parse_address(&address).map(|address| Self::Target(Target::Address(address)));
        }
        // A label holds 63 characters: whatever is longer was meant to be an address.
        if text.len() >= ADDRESS_CHARS && !text.contains('.') {
            return parse_address(text).map(|address| Self::Target(Target::Address(address)));
        }
        if is_below_anode(text) {
            return text.parse().map(Self::Host);
        }
        text.parse().map(Self::Name).map_err(|_| {
            ValueError::new(format!(
                "{text:?} is no address (64 characters), no overlay IPv6 (fda0:…) and no name (box, box.anode, host.example.com.anode)"
            ))
        })
    }
}

impl Named {
    /// Looks a name up among those that this machine gives.
    pub fn resolve(&self, book: &Book, given: &Given) -> Result<Target, ValueError> {
        match self {
            Self::Target(target) => Ok(*target),
            Self::I2p(name) => match book.destinations.by_name(name) {
                Some(known) => Ok(Target::I2p(known.hash)),
                None => Err(ValueError::new(format!(
                    "{name} has to be looked up by the I2P router: write the destination (….b32.i2p) here, or name it with `anode i2p add {name} B32`"
                ))),
            },
            Self::Host(host) => Err(ValueError::new(format!(
                "{host}.anode has to be looked up in the DNS: write the address or a name of the trust book here"
            ))),
            Self::Name(name) => match given.find(book, name) {
                Some(address) => Ok(Target::Address(address)),
                None => Err(ValueError::new(format!(
                    "nobody is called {name:?}: give an address, or name one with `anode trust ADDRESS {name}`",
                    name = name.as_str()
                ))),
            },
        }
    }
}

impl Target {
    /// The synthetic IPv6; an address gets peer digit 0.
    pub fn ipv6(&self) -> Ipv6Addr {
        match self {
            Self::Address(address) => address.ipv6(PeerId::ANY),
            Self::Ipv6(ip) => *ip,
            Self::I2p(hash) => hash.synthetic_address(),
        }
    }

    /// The text that parses to this.
    pub fn text(&self) -> String {
        match self {
            Self::Address(address) => address.to_string(),
            Self::Ipv6(ip) => ip.to_string(),
            Self::I2p(hash) => hash.b32(),
        }
    }
}

/// What ends in `.i2p` (or `.i2p.alt`) means a destination of I2P and nothing else.
fn i2p_name(text: &str) -> Option<Result<Named, ValueError>> {
    let lower = text.to_ascii_lowercase();
    let name = lower.strip_suffix('.').unwrap_or(&lower);
    if !name.ends_with(".i2p") && !name.ends_with(".i2p.alt") {
        return None;
    }
    Some(match name.parse() {
        Ok(Name::Hash(hash)) => Ok(Named::Target(Target::I2p(hash))),
        Ok(Name::Host(host)) => Ok(Named::I2p(host)),
        // an encrypted lease set: only the router can tell whose it is
        Ok(Name::Blinded(blinded)) => Ok(Named::I2p(blinded.name())),
        Err(error) => Err(ValueError::new(error.to_string())),
    })
}

fn parse_ipv6(text: &str) -> Result<Ipv6Addr, ValueError> {
    let ip: Ipv6Addr = text.parse().map_err(|_| {
        ValueError::new(format!(
            "{text:?} is no IPv6 address and no other name of a peer"
        ))
    })?;
    if is_synthetic(ip) || is_i2p(ip) {
        Ok(ip)
    } else {
        Err(ValueError::new(format!(
            "{ip} is outside of the overlay, whose addresses start with fda0: (or fda1: for I2P)"
        )))
    }
}

/// `<first 32>.<last 32>.anode`, the DNS form of an address, as one text again.
fn split_name(text: &str) -> Option<String> {
    let (first, rest) = text.split_once('.')?;
    let last = rest.strip_suffix(".anode")?;
    (first.len() == ADDRESS_CHARS / 2 && last.len() == ADDRESS_CHARS / 2)
        .then(|| format!("{first}{last}"))
}

/// `host.example.com.anode`: more than one label below the zone.
fn is_below_anode(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    text.len()
        .checked_sub(".anode".len())
        .and_then(|end| text.split_at_checked(end))
        .is_some_and(|(name, zone)| name.contains('.') && zone.eq_ignore_ascii_case(".anode"))
}

/// The names that this machine gives beside those of the trust book.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Given {
    own: Option<Address>,
    own_name: Option<PeerName>,
    others: BTreeMap<PeerName, Address>,
}

impl Given {
    /// `own_name` is this machine, `own`; `others` is `[names]`.
    pub fn new(
        own: Address,
        own_name: Option<PeerName>,
        others: BTreeMap<PeerName, Address>,
    ) -> Self {
        Self {
            own: Some(own),
            own_name,
            others,
        }
    }

    /// Names of others alone, where it is not known who this machine is.
    pub fn others(others: BTreeMap<PeerName, Address>) -> Self {
        Self {
            others,
            ..Self::default()
        }
    }

    /// What this machine calls itself.
    pub fn own_name(&self) -> Option<&PeerName> {
        self.own_name.as_ref()
    }

    /// Whether it is this machine's.
    pub fn is_own(&self, address: &Address) -> bool {
        self.own.as_ref() == Some(address)
    }

    /// Who is called so: whom people named with `anode trust` comes first, this machine itself last.
    pub fn find(&self, book: &Book, name: &PeerName) -> Option<Address> {
        let trusted = book.by_name(name).map(|entry| entry.address);
        let own = || self.own.filter(|_| self.own_name.as_ref() == Some(name));
        trusted
            .or_else(|| self.others.get(name).copied())
            .or_else(own)
    }

    /// What the address that `is_there` means is called, by a name that leads back to it.
    pub fn name_of(&self, book: &Book, is_there: impl Fn(&Address) -> bool) -> Option<PeerName> {
        let trusted = book
            .entries()
            .iter()
            .filter(|entry| entry.name.is_some() && is_there(&entry.address))
            .find_map(|entry| entry.name.clone());
        let given = || {
            let mut others = self.others.iter();
            others
                .find(|(name, address)| is_there(address) && book.by_name(name).is_none())
                .map(|(name, _)| name.clone())
        };
        let own = || {
            let name = self
                .own_name
                .clone()
                .filter(|_| self.own.as_ref().is_some_and(&is_there))?;
            self.find(book, &name).filter(|found| is_there(found))?;
            Some(name)
        };
        trusted.or_else(given).or_else(own)
    }
}

/// Which full address holds which synthetic IPv6. Two that make the same one cannot both be reached: the second is refused
/// (DESIGN §4; finding one takes some 2^54 keys for any two of one's own, 2^108 for a given one).
#[derive(Default)]
pub struct Held(HashMap<Ipv6Addr, Address>);

impl Held {
    /// `address` makes `ipv6`; an error names both addresses.
    pub fn claim(&mut self, address: Address, ipv6: Ipv6Addr) -> Result<(), String> {
        match self.0.insert(ipv6, address) {
            Some(other) if other != address => {
                self.0.insert(ipv6, other);
                Err(format!(
                    "{address} and {other} both make {ipv6}: only one of them can be used, remove the other"
                ))
            }
            _ => Ok(()),
        }
    }
}

/// The short form of an address for people: what all addresses begin with is no help, so it shows both ends.
pub fn short(address: &str) -> String {
    match (
        address.get(..16),
        address
            .len()
            .checked_sub(6)
            .and_then(|start| address.get(start..)),
    ) {
        (Some(first), Some(last)) if address.len() == ADDRESS_CHARS => format!("{first}…{last}"),
        _ => address.to_owned(),
    }
}

/// What people call a peer: its name, else its short address.
pub fn peer_label(book: &Book, address: &Address) -> String {
    match book
        .by_address(address)
        .and_then(|entry| entry.name.as_ref())
    {
        Some(name) => name.to_string(),
        None => short(&address.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: &str = "aeaaaaaaaaaag2yx2hzoclcci74lzzxfmoseb4txan6yclplgoqpjijzixmjrquw";

    fn resolve(text: &str, book: &Book) -> Result<String, String> {
        let named: Named = text
            .parse()
            .map_err(|error: ValueError| error.to_string())?;
        let target = named
            .resolve(book, &Given::default())
            .map_err(|error| error.to_string())?;
        Ok(target.ipv6().to_string())
    }

    #[test]
    fn every_way_to_write_a_peer_leads_to_its_ipv6() {
        let mut book = Book::default();
        book.trust(ADDRESS.parse().unwrap(), Some("box".parse().unwrap()))
            .unwrap();
        let other = "aeaaaaaaaaaag7hspmmi2a2pp2ffeoadas2rvq6arfu6e57sdm22mc2i7rdwngly";
        let split = format!("{}.{}.anode", &ADDRESS[..32], &ADDRESS[32..]);
        let expected = "fda0:8ed7:8a43:c2c:b76a:57af:6262:3020";
        for text in [ADDRESS, &split, "box", "box.anode", "Box", expected] {
            assert_eq!(resolve(text, &book).as_deref(), Ok(expected), "{text}");
        }
        assert_eq!(
            resolve(other, &book).as_deref(),
            Ok("fda0:cd00:8989:4303:c3ee:44a0:16e:9720")
        );
        assert_eq!(resolve("fda0::1", &book).as_deref(), Ok("fda0::1"));
    }

    #[test]
    fn what_cannot_be_a_peer_is_refused_with_the_reason() {
        let bad_char = ADDRESS.replace('g', "1");
        let bad_type = format!("b{}", &ADDRESS[1..]);
        // x = 2^256 - 1 is no element of the field.
        let bad_point = "aeaaaaaaaaaaf777777777777777777777777777777777777777777777777777";
        let cases = [
            ("2001:db8::1", "outside of the overlay"),
            ("fda2::1", "outside of the overlay"),
            ("site.i2p", "looked up by the I2P router"),
            ("a_b.i2p", "no I2P name"),
            ("abc.b32.i2p", "does not decode"),
            ("fda0::zz", "no IPv6 address"),
            ("", "no address"),
            ("no such thing", "no address"),
            ("nobody", "nobody is called \"nobody\""),
            (&format!("{ADDRESS}a"), "address"),
            (&bad_char, "address"),
            (&bad_type, "address"),
            (bad_point, "address"),
            ("192.0.2.1", "no address"),
            ("host.example.com", "no address"),
            ("host.example.com.anode", "looked up in the DNS"),
            ("x.onion.anode", "no host name"),
            ("a..anode", "no host name"),
        ];
        for (text, part) in cases {
            let error = resolve(text, &Book::default()).expect_err(text);
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }

    #[test]
    fn short_addresses_show_both_ends() {
        assert_eq!(short(ADDRESS), "aeaaaaaaaaaag2yx…mjrquw");
        assert_eq!(short("what"), "what");
    }

    // U21
    #[test]
    fn of_two_addresses_for_one_ipv6_the_second_is_refused_and_both_are_named() {
        let other = "aeaaaaaaaaaag7hspmmi2a2pp2ffeoadas2rvq6arfu6e57sdm22mc2i7rdwngly";
        let [one, two]: [Address; 2] = [ADDRESS, other].map(|text| text.parse().unwrap());
        let ip = one.ipv6(PeerId::ANY);
        let mut held = Held::default();
        held.claim(one, ip).unwrap();
        held.claim(one, ip).unwrap();
        // No two keys are known that really do: the second claim is made up.
        let error = held.claim(two, ip).unwrap_err();
        assert!(error.contains(ADDRESS) && error.contains(other), "{error}");
        held.claim(one, ip).unwrap();
        held.claim(two, two.ipv6(PeerId::ANY)).unwrap();
    }
}
