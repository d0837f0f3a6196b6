//! One line of `[inbound]`: `WHO PROTO/PORTS`.

use std::collections::HashSet;
use std::fmt;
use std::net::Ipv6Addr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;

use anode_routing::i2p::{Hash, is_i2p};
use anode_wire::Zone;
use anode_wire::address::split_digit;

use crate::command::Target;
use crate::names::{Given, Named};
use crate::state::book::Book;
use crate::value::{ValueError, parse_zone};
use crate::zone::Members;

/// What a packet is, as far as the policy cares.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Protocol {
    /// Streams.
    Tcp,
    /// Datagrams.
    Udp,
    /// Echo requests.
    Icmp,
    /// Another IP protocol, by number.
    Ip(u8),
}

impl Protocol {
    fn number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            other => carried(other).then_some(Self::Ip(other)),
        }
    }
}

/// Whether packets of this next header may cross the overlay by an inbound rule (DESIGN §6): no extension headers, and
/// ICMPv6 (58) has its own ways, echo and errors. 253 and 254 are for experiments (RFC 3692), which somebody may want to make.
pub fn carried(next_header: u8) -> bool {
    !matches!(
        next_header,
        0 | 6 | 17 | 43 | 44 | 58 | 60 | 135 | 139..=252 | 255
    )
}

/// The right half of a line: `tcp/22`, `udp/5000-5010`, `icmp`, `ip/132`, `any`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct What {
    /// `None`: any.
    protocol: Option<Protocol>,
    /// Local ports; all where the protocol has none.
    ports: RangeInclusive<u16>,
}

impl What {
    fn matches(&self, protocol: Protocol, port: u16) -> bool {
        self.protocol.is_none_or(|own| own == protocol) && self.ports.contains(&port)
    }

    /// One protocol and one port (0 where it has none), as `anode policy check` asks for.
    pub fn single(&self) -> Option<(Protocol, u16)> {
        let protocol = self.protocol?;
        let (first, last) = (*self.ports.start(), *self.ports.end());
        match protocol {
            Protocol::Tcp | Protocol::Udp if first != last => None,
            Protocol::Tcp | Protocol::Udp => Some((protocol, first)),
            Protocol::Icmp | Protocol::Ip(_) => Some((protocol, 0)),
        }
    }

    /// Nothing but echo.
    pub fn is_echo(&self) -> bool {
        self.protocol == Some(Protocol::Icmp)
    }
}

impl FromStr for What {
    type Err = ValueError;

    fn from_str(word: &str) -> Result<Self, ValueError> {
        let every = 0..=u16::MAX;
        let bad = || {
            ValueError::new(format!(
                "\"{word}\" is no protocol: use tcp/PORT, udp/PORT, tcp/FIRST-LAST, icmp, ip/NUMBER or any"
            ))
        };
        let (protocol, ports) = match word.split_once('/') {
            None => match word {
                "any" => (None, every),
                "icmp" => (Some(Protocol::Icmp), every),
                "tcp" => (Some(Protocol::Tcp), every),
                "udp" => (Some(Protocol::Udp), every),
                _ => return Err(bad()),
            },
            Some(("tcp", ports)) => (Some(Protocol::Tcp), parse_ports(ports)?),
            Some(("udp", ports)) => (Some(Protocol::Udp), parse_ports(ports)?),
            Some(("ip", number)) => {
                let number = parse_number::<u8>(number).ok_or_else(bad)?;
                let protocol = Protocol::number(number).ok_or_else(|| not_carried(number))?;
                (Some(protocol), every)
            }
            Some(_) => return Err(bad()),
        };
        Ok(What { protocol, ports })
    }
}

fn not_carried(number: u8) -> ValueError {
    ValueError::new(match number {
        58 => "ip/58 is ICMPv6, which no rule can open: echo requests are always answered, and errors pass with the flow that they are about".to_owned(),
        _ => format!("ip/{number} is no protocol that the overlay carries: it is an IPv6 extension header or reserved"),
    })
}

/// `from_str` of integers takes a sign, which no port has.
fn parse_number<T: FromStr>(text: &str) -> Option<T> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}

fn parse_ports(text: &str) -> Result<RangeInclusive<u16>, ValueError> {
    let bad = || {
        ValueError::new(format!(
            "\"{text}\" is no port (0 to 65535) and no range FIRST-LAST"
        ))
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let first = parse_number(first).ok_or_else(bad)?;
    let last = parse_number(last).ok_or_else(bad)?;
    if first > last {
        return Err(bad());
    }
    Ok(first..=last)
}

/// The left half of a line as it was written; a name is not looked up yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WhoText {
    /// Everybody who can prove any key.
    Any,
    /// `any-i2p`: every destination of I2P.
    AnyI2p,
    /// One peer.
    Peer(Named),
    /// `zone:HEX`: the members that the zone's signed file lists.
    Zone(Zone),
}

impl FromStr for WhoText {
    type Err = ValueError;

    fn from_str(word: &str) -> Result<Self, ValueError> {
        if word == "any" {
            return Ok(Self::Any);
        }
        if word == "any-i2p" {
            return Ok(Self::AnyI2p);
        }
        if let Some(zone) = word.strip_prefix("zone:") {
            return parse_zone(zone).map(Self::Zone);
        }
        word.parse().map(Self::Peer)
    }
}

impl WhoText {
    /// Looks a name up in `book` and `names`, and a zone in `members`.
    pub fn resolve(
        &self,
        book: &Book,
        names: &Given,
        members: &Members,
    ) -> Result<Who, ValueError> {
        match self {
            Self::Any => Ok(Who::Any),
            Self::AnyI2p => Ok(Who::AnyI2p),
            Self::Zone(zone) => match members.of(*zone) {
                Some(members) => Ok(Who::Members(Arc::clone(members))),
                // any key may claim any zone: without a list that somebody vouches for, the rule would let in everybody
                None => Err(ValueError::new(format!(
                    "no signed list of members of zone {zone} is known: give its zone file (zone-file) and list them there (member.NAME=ADDRESS, `anode zone sign`), or name addresses"
                ))),
            },
            Self::Peer(Named::Target(Target::Ipv6(ip))) if is_i2p(*ip) => {
                // 112 bits of a hash are no name of anybody (i2cp.md §5.2)
                Err(ValueError::new(format!(
                    "{ip}: write the destination itself (….b32.i2p), an address of I2P is not enough for a rule"
                )))
            }
            Self::Peer(named) => Ok(Who::Peer(split_digit(named.resolve(book, names)?.ipv6()).0)),
        }
    }
}

/// Whom a rule is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Who {
    /// Everybody.
    Any,
    /// Every destination of I2P.
    AnyI2p,
    /// One address: its synthetic IPv6 with digit 0.
    Peer(Ipv6Addr),
    /// Those of a zone, likewise.
    Members(Arc<HashSet<Ipv6Addr>>),
}

/// A line as it was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RuleText {
    /// Whom it is about.
    pub who: WhoText,
    /// What it is about.
    pub what: What,
    text: String,
}

impl FromStr for RuleText {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let mut words = text.split_whitespace();
        let (Some(who), Some(what), None) = (words.next(), words.next(), words.next()) else {
            return Err(ValueError::new(format!(
                "\"{text}\" is no rule: write \"WHO PROTO/PORTS\", as in \"laptop tcp/22\""
            )));
        };
        Ok(RuleText {
            who: who.parse()?,
            what: what.parse()?,
            text: text.to_owned(),
        })
    }
}

impl RuleText {
    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The destination of I2P that it is about.
    pub fn destination(&self, book: &Book, names: &Given) -> Option<Hash> {
        let WhoText::Peer(named) = &self.who else {
            return None;
        };
        match named.resolve(book, names) {
            Ok(Target::I2p(hash)) => Some(hash),
            _ => None,
        }
    }

    /// The rule, with its name looked up in `book` and `names`, and its zone in `members`.
    pub fn resolve(
        &self,
        book: &Book,
        names: &Given,
        members: &Members,
    ) -> Result<Rule, ValueError> {
        Ok(Rule {
            who: self.who.resolve(book, names, members)?,
            what: self.what.clone(),
            text: self.text.clone(),
        })
    }
}

impl fmt::Display for RuleText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A rule in force.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    who: Who,
    what: What,
    text: String,
}

impl Rule {
    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it speaks of this. `from` has digit 0; `port` is local.
    pub fn matches(&self, from: Ipv6Addr, protocol: Protocol, port: u16) -> bool {
        let who = match &self.who {
            Who::Any => true,
            Who::AnyI2p => is_i2p(from),
            Who::Peer(peer) => *peer == from,
            Who::Members(members) => members.contains(&from),
        };
        who && self.what.matches(protocol, port)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: &str = "aeaaaaaaaaaag2yx2hzoclcci74lzzxfmoseb4txan6yclplgoqpjijzixmjrquw";

    fn book() -> Book {
        let mut book = Book::default();
        book.trust(ADDRESS.parse().unwrap(), Some("laptop".parse().unwrap()))
            .unwrap();
        book
    }

    fn resolve(text: &str) -> Result<Rule, String> {
        let rule: RuleText = text.parse().map_err(|e: ValueError| e.to_string())?;
        rule.resolve(&book(), &Given::default(), &Members::default())
            .map_err(|e| e.to_string())
    }

    #[test]
    fn what_is_no_rule_is_told_with_its_word_and_the_fix() {
        let cases = [
            ("", "\"\" is no rule: write \"WHO PROTO/PORTS\""),
            ("any", "is no rule"),
            ("any tcp/22 please", "is no rule"),
            ("stranger tcp/22", "nobody is called \"stranger\""),
            ("2001:db8::1 tcp/22", "outside of the overlay"),
            ("fda0:::1 tcp/22", "no IPv6 address"),
            ("aeaaaaaaaaaag2yx tcp/22", "nobody is called"),
            ("no_name tcp/22", "is no address"),
            (
                "zone:c0000201 tcp/22",
                "no signed list of members of zone c0000201",
            ),
            ("zone: tcp/22", "zone \"\": use 1 to 8 hex digits"),
            ("zone:123456789 tcp/22", "use 1 to 8 hex digits"),
            ("any ssh", "\"ssh\" is no protocol"),
            ("any sctp/5", "is no protocol"),
            ("any TCP/22", "is no protocol"),
            ("any ip", "is no protocol"),
            ("any ip/256", "is no protocol"),
            ("any ip/-1", "is no protocol"),
            ("any ip/58", "ICMPv6"),
            ("any ip/0", "extension header"),
            ("any ip/139", "extension header"),
            ("any tcp/", "\"\" is no port"),
            ("any tcp/65536", "\"65536\" is no port"),
            ("any tcp/+22", "is no port"),
            ("any tcp/9-5", "\"9-5\" is no port"),
            ("any udp/1-2-3", "is no port"),
            ("any udp/-5", "is no port"),
            ("any tcp/22,80", "is no port"),
        ];
        for (text, message) in cases {
            let error = resolve(text).unwrap_err();
            assert!(error.contains(message), "{text:?}: {error}");
            assert!(!error.contains('\n'), "{error:?}");
        }
        for good in [
            "laptop tcp/22",
            "any any",
            "any icmp",
            "any tcp",
            "fda0::15 udp/1-65535",
            "any ip/47",
        ] {
            assert_eq!(resolve(good).unwrap().to_string(), good);
        }
    }

    #[test]
    fn an_address_its_name_and_its_ipv6_mean_the_same_peer_whatever_the_digit() {
        let rules = [
            format!("{ADDRESS} tcp/22"),
            "laptop tcp/22".to_owned(),
            "laptop.anode tcp/22".to_owned(),
            "fda0:8ed7:8a43:c2c:b76a:57af:6262:3025 tcp/22".to_owned(),
        ];
        let who = rules.map(|rule| resolve(&rule).unwrap().who);
        let expected = Who::Peer("fda0:8ed7:8a43:c2c:b76a:57af:6262:3020".parse().unwrap());
        assert_eq!(who, [(); 4].map(|()| expected.clone()));
    }

    #[test]
    fn a_zone_means_the_members_that_its_signed_file_lists() {
        let [member, other]: [Ipv6Addr; 2] =
            ["fda0::a0", "fda0::b0"].map(|text| text.parse().unwrap());
        let members = Members(Some((Zone(0x2a), Arc::new(HashSet::from([member])))));
        let text: RuleText = "zone:2A tcp/22".parse().unwrap();
        let rule = text.resolve(&book(), &Given::default(), &members).unwrap();
        assert!(rule.matches(member, Protocol::Tcp, 22));
        assert!(!rule.matches(member, Protocol::Tcp, 23));
        assert!(!rule.matches(other, Protocol::Tcp, 22));
        let text: RuleText = "zone:2b tcp/22".parse().unwrap();
        assert!(text.resolve(&book(), &Given::default(), &members).is_err());
    }

    #[test]
    fn a_question_is_about_one_port() {
        let single = |text: &str| text.parse::<What>().unwrap().single();
        assert_eq!(single("tcp/22"), Some((Protocol::Tcp, 22)));
        assert_eq!(single("ip/17"), None);
        assert_eq!(single("ip/132"), Some((Protocol::Ip(132), 0)));
        assert_eq!(single("icmp"), Some((Protocol::Icmp, 0)));
        for many in ["any", "tcp", "udp/1-2"] {
            assert_eq!(single(many), None, "{many}");
        }
    }
}
