//! Relay entries of a zone file: `zr.<index>=<ip>[,<ip>]:<udp port>:<tcp port>:<anode addresses>` (A21, D7).
use crate::{Address, WireError};
use rand_core::Rng;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;

/// One zone relay.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Relay {
    /// At least one.
    pub ips: Vec<IpAddr>,
    /// `None`: UDP is not offered.
    pub udp_port: Option<NonZeroU16>,
    /// `None`: TCP is not offered.
    pub tcp_port: Option<NonZeroU16>,
    /// One for each address type of the zone (A24); at least one. There is only one type yet.
    pub addresses: Vec<Address>,
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

/// What is wrong with a relay entry.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RelayFault {
    /// Fewer than three colons, or not UTF-8.
    #[error("it reads <ip>[,<ip>]:<udp port>:<tcp port>:<anode addresses>")]
    Form,
    /// An element of the list of IPs.
    #[error("{0:?} is not an IP address")]
    Ip(String),
    /// Neither empty nor 0 to 65535.
    #[error("{0:?} is not a port")]
    Port(String),
    /// A relay that cannot be reached.
    #[error("it offers neither a UDP nor a TCP port")]
    NoPort,
    /// No address of a known type.
    #[error("it has no usable Anode address: {0}")]
    Address(Box<WireError>),
}

impl Relay {
    /// Reads an unescaped value. An address of a type that this program does not know is passed over if there is another.
    pub fn parse(value: &[u8]) -> Result<Self, RelayFault> {
        let text = std::str::from_utf8(value).map_err(|_| RelayFault::Form)?;
        // D7: the last three colons; those before belong to IPv6 addresses
        let mut parts = text.rsplitn(4, ':');
        let (Some(addresses), Some(tcp), Some(udp), Some(ips)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(RelayFault::Form);
        };
        let relay = Self {
            ips: ips.split(',').map(parse_ip).collect::<Result<_, _>>()?,
            udp_port: parse_port(udp)?,
            tcp_port: parse_port(tcp)?,
            addresses: parse_addresses(addresses)?,
        };
        if relay.udp_port.is_none() && relay.tcp_port.is_none() {
            return Err(RelayFault::NoPort);
        }
        Ok(relay)
    }

    /// One of the IPs of the wanted family, at random (A23).
    pub fn pick_ip(&self, family: Family, rng: &mut dyn Rng) -> Option<IpAddr> {
        let of_family = || {
            self.ips
                .iter()
                .filter(|ip| ip.is_ipv4() == (family == Family::V4))
        };
        let count = of_family().count() as u64;
        // Below 2^32 ips, so the product fits and the quotient is below `count`; the bias is 2^-32.
        let pick = (u64::from(rng.next_u32()) * count) >> 32;
        of_family().nth(pick as usize).copied()
    }
}

fn parse_ip(text: &str) -> Result<IpAddr, RelayFault> {
    let text = text.trim();
    let ip = match text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
    {
        Some(v6) => v6.parse().map(IpAddr::V6),
        None => text.parse(),
    };
    ip.map_err(|_| RelayFault::Ip(shown(text)))
}

fn parse_port(text: &str) -> Result<Option<NonZeroU16>, RelayFault> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    match text.parse() {
        Ok(port) if text.bytes().all(|b| b.is_ascii_digit()) => Ok(NonZeroU16::new(port)),
        _ => Err(RelayFault::Port(shown(text))),
    }
}

fn parse_addresses(text: &str) -> Result<Vec<Address>, RelayFault> {
    let parsed: Vec<Result<Address, WireError>> =
        text.split(',').map(|text| text.trim().parse()).collect();
    let addresses: Vec<Address> = parsed
        .iter()
        .filter_map(|address| address.as_ref().ok().copied())
        .collect();
    match parsed.into_iter().find_map(Result::err) {
        Some(error) if addresses.is_empty() => Err(RelayFault::Address(Box::new(error))),
        _ => Ok(addresses),
    }
}

/// Enough of a text to recognise it.
fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

/// The value of the entry, before escaping.
impl fmt::Display for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = |port: Option<NonZeroU16>| port.map_or(0, NonZeroU16::get);
        write_list(f, &self.ips)?;
        write!(f, ":{}:{}:", port(self.udp_port), port(self.tcp_port))?;
        write_list(f, &self.addresses)
    }
}

fn write_list(f: &mut fmt::Formatter<'_>, list: &[impl fmt::Display]) -> fmt::Result {
    for (i, element) in list.iter().enumerate() {
        write!(f, "{}{element}", if i > 0 { "," } else { "" })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::identity;
    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use std::collections::HashMap;

    fn address() -> Address {
        *identity("relay").address()
    }

    fn parse(value: &str) -> Result<Relay, RelayFault> {
        Relay::parse(value.replace("ADDR", &address().to_string()).as_bytes())
    }

    // A21, D7
    #[test]
    fn every_form_of_an_entry_is_read() {
        for (value, ips, udp, tcp) in [
            ("1.2.3.4:4343:4344:ADDR", vec!["1.2.3.4"], 4343, 4344),
            (
                "1.2.3.4,5.6.7.8:4343:0:ADDR",
                vec!["1.2.3.4", "5.6.7.8"],
                4343,
                0,
            ),
            ("2001:db8::1::4344:ADDR", vec!["2001:db8::1"], 0, 4344),
            ("::1:1:2:ADDR", vec!["::1"], 1, 2),
            (
                "1.2.3.4,2001:db8::1:65535:1:ADDR",
                vec!["1.2.3.4", "2001:db8::1"],
                65535,
                1,
            ),
            (
                "[2001:db8::1],1.2.3.4:1::ADDR",
                vec!["2001:db8::1", "1.2.3.4"],
                1,
                0,
            ),
            (
                " 1.2.3.4 , 5.6.7.8 : 1 : 2 : ADDR ",
                vec!["1.2.3.4", "5.6.7.8"],
                1,
                2,
            ),
        ] {
            let relay = parse(value).unwrap();
            assert_eq!(
                relay.ips,
                ips.iter()
                    .map(|ip| ip.parse().unwrap())
                    .collect::<Vec<IpAddr>>(),
                "{value}"
            );
            assert_eq!(relay.udp_port, NonZeroU16::new(udp), "{value}");
            assert_eq!(relay.tcp_port, NonZeroU16::new(tcp), "{value}");
            assert_eq!(relay.addresses, [address()], "{value}");
            assert_eq!(
                Relay::parse(relay.to_string().as_bytes()),
                Ok(relay),
                "{value}"
            );
        }
    }

    // A24, D7
    #[test]
    fn addresses_of_unknown_types_are_passed_over_if_one_is_known() {
        let unknown = "aiaaaaaaaaaaaaaaaa";
        for value in [
            format!("1.2.3.4:1:2:{unknown},ADDR"),
            format!("1.2.3.4:1:2:ADDR,{unknown}"),
        ] {
            assert_eq!(parse(&value).unwrap().addresses, [address()]);
        }
        assert!(matches!(
            parse(&format!("1.2.3.4:1:2:{unknown}")),
            Err(RelayFault::Address(_))
        ));
    }

    #[test]
    fn broken_entries_say_what_is_wrong() {
        for (value, fault) in [
            ("", RelayFault::Form),
            ("1.2.3.4:1:ADDR", RelayFault::Form),
            (":1:2:ADDR", RelayFault::Ip("".into())),
            (
                "relay.example:1:2:ADDR",
                RelayFault::Ip("relay.example".into()),
            ),
            ("1.2.3.4,:1:2:ADDR", RelayFault::Ip("".into())),
            ("[1.2.3.4]:1:2:ADDR", RelayFault::Ip("[1.2.3.4]".into())),
            ("1.2.3.4:65536:2:ADDR", RelayFault::Port("65536".into())),
            ("1.2.3.4:+1:2:ADDR", RelayFault::Port("+1".into())),
            ("1.2.3.4:1:x:ADDR", RelayFault::Port("x".into())),
            ("1.2.3.4:0::ADDR", RelayFault::NoPort),
            (
                "1.2.3.4:1:2:",
                RelayFault::Address(Box::new(WireError::AddressTextLength(0))),
            ),
        ] {
            assert_eq!(parse(value), Err(fault), "{value}");
        }
        assert_eq!(Relay::parse(b"\xff:1:2:a"), Err(RelayFault::Form));
    }

    // A23
    #[test]
    fn every_ip_of_the_wanted_family_is_picked_about_as_often() {
        let relay = parse("1.1.1.1,2001:db8::1,2.2.2.2,3.3.3.3:1:2:ADDR").unwrap();
        let mut rng = StdRng::seed_from_u64(7);
        let mut picked: HashMap<IpAddr, u32> = HashMap::new();
        for _ in 0..3000 {
            *picked
                .entry(relay.pick_ip(Family::V4, &mut rng).unwrap())
                .or_default() += 1;
        }
        assert_eq!(picked.len(), 3);
        assert!(
            picked
                .iter()
                .all(|(ip, n)| ip.is_ipv4() && (800..1200).contains(n)),
            "{picked:?}"
        );
        assert_eq!(
            relay.pick_ip(Family::V6, &mut rng),
            Some("2001:db8::1".parse().unwrap())
        );
        assert_eq!(
            parse("1.1.1.1:1:2:ADDR")
                .unwrap()
                .pick_ip(Family::V6, &mut rng),
            None
        );
    }
}
