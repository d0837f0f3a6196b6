//! An address with a prefix length.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::PlatformError;

/// An IP address and how many of its leading bits count.
///
/// The bits behind the prefix are kept: `10.0.0.1/8` is also an interface's address with its net.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// `length` in bits; `None` above 32 or 128.
    pub fn new(address: impl Into<IpAddr>, length: u8) -> Option<Self> {
        let address = address.into();
        (length <= Self::bits(address)).then_some(Self { address, length })
    }

    /// The address alone: /32 or /128.
    pub fn host(address: impl Into<IpAddr>) -> Self {
        let address = address.into();
        Self {
            address,
            length: Self::bits(address),
        }
    }

    /// The address, with the bits behind the prefix as they were given.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The leading bits that count.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// The same prefix with all bits behind it zero.
    pub fn network(&self) -> Self {
        let address = match self.address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX
                    .checked_shl(32 - u32::from(self.length))
                    .unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX
                    .checked_shl(128 - u32::from(self.length))
                    .unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
            }
        };
        Self {
            address,
            length: self.length,
        }
    }

    /// Whether every address of `other` is one of this prefix.
    pub fn covers(&self, other: &Self) -> bool {
        self.length <= other.length
            && Self {
                address: other.address,
                length: self.length,
            }
            .network()
                == self.network()
    }

    /// Whether `address` is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && self.covers(&Self::host(address))
    }

    fn bits(address: IpAddr) -> u8 {
        if address.is_ipv4() { 32 } else { 128 }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl FromStr for Prefix {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let parse = || {
            let (address, length) = text.split_once('/')?;
            Self::new(address.parse::<IpAddr>().ok()?, length.parse().ok()?)
        };
        parse().ok_or_else(|| PlatformError::PrefixInvalid(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn text_goes_both_ways_and_bad_text_is_refused() {
        for text in [
            "fda0::/16",
            "::/0",
            "10.0.0.1/8",
            "0.0.0.0/0",
            "fda0::1/128",
        ] {
            assert_eq!(prefix(text).to_string(), text);
        }
        for text in [
            "",
            "fda0::",
            "fda0::/129",
            "10.0.0.0/33",
            "x/8",
            "::/",
            "::/-1",
        ] {
            assert!(text.parse::<Prefix>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_prefix_covers_what_shares_its_leading_bits() {
        let cases = [
            ("fda0::/16", "fda0::/16", true),
            ("fda0::/16", "fda0:1::/32", true),
            ("fda0::/16", "fd00::/8", false),
            ("fd00::/8", "fda0::/16", true),
            ("::/0", "fda0::/16", true),
            ("0.0.0.0/0", "fda0::/16", false),
            ("0.0.0.0/0", "192.0.2.7/32", true),
            ("fda0:1::5/32", "fda0:1::/64", true),
            ("fda0::1/128", "fda0::2/128", false),
        ];
        for (outer, inner, covers) in cases {
            assert_eq!(
                prefix(outer).covers(&prefix(inner)),
                covers,
                "{outer} {inner}"
            );
        }
        assert!(prefix("192.0.2.0/24").contains("192.0.2.9".parse().unwrap()));
        assert!(!prefix("::/0").contains("192.0.2.9".parse().unwrap()));
    }
}
