//! Networks of the `allow` and `deny` lists.

use std::fmt;
use std::net::IpAddr;

/// An address and how many of its leading bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    ip: IpAddr,
    bits: u8,
}

/// A text that is no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a network is written ADDRESS/BITS, such as 10.0.0.0/8 or fd00::/8")]
pub struct InvalidCidr;

impl Cidr {
    /// Whether the address is inside; one that maps IPv4 into IPv6 is read as IPv4.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.ip, ip.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => {
                same(network.to_bits().into(), ip.to_bits().into(), 32, self.bits)
            }
            (IpAddr::V6(network), IpAddr::V6(ip)) => {
                same(network.to_bits(), ip.to_bits(), 128, self.bits)
            }
            _ => false,
        }
    }
}

/// Whether the first `bits` of two numbers of `width` bits are equal.
fn same(a: u128, b: u128, width: u32, bits: u8) -> bool {
    (a ^ b).checked_shr(width - u32::from(bits)).unwrap_or(0) == 0
}

impl std::str::FromStr for Cidr {
    type Err = InvalidCidr;

    fn from_str(text: &str) -> Result<Self, InvalidCidr> {
        let (ip, bits) = match text.split_once('/') {
            Some((ip, bits)) => (ip, Some(bits)),
            None => (text, None),
        };
        let ip: IpAddr = ip.parse().map_err(|_| InvalidCidr)?;
        let width = if ip.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(width), |bits| bits.parse().map_err(|_| InvalidCidr))?;
        if bits > width {
            Err(InvalidCidr)
        } else {
            Ok(Self { ip, bits })
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_what_they_should() {
        for (network, ip, inside) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.1.1.1", true),
            ("0.0.0.0/0", "255.1.1.1", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "fe80::1", true),
            ("fd00::/8", "fdff::1", true),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7/32", "192.0.2.6", false),
            ("2001:db8::1/128", "2001:db8::2", false),
        ] {
            let network: Cidr = network.parse().unwrap();
            assert_eq!(
                network.contains(ip.parse().unwrap()),
                inside,
                "{network} {ip}"
            );
        }
        for wrong in [
            "",
            "10.0.0.0/33",
            "::/129",
            "10.0.0/8",
            "a/8",
            "10.0.0.0/-1",
            "10.0.0.0/",
        ] {
            assert_eq!(wrong.parse::<Cidr>(), Err(InvalidCidr), "{wrong}");
        }
    }
}
