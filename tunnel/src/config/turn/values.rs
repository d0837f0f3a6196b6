//! Values of TURN sections, with messages that name them and the fix.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use anode_turn::policy::Prefix;
use serde::Deserialize;

use crate::value::{Number, ValueError};

/// The longest drain: a day.
const MAX_DRAIN: i64 = 86_400;

/// Defines a value that is read by a function.
macro_rules! parsed {
    ($name:ident, $inner:ty, $what:literal, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub struct $name(pub $inner);

        impl FromStr for $name {
            type Err = ValueError;

            fn from_str(text: &str) -> Result<Self, ValueError> {
                text.parse()
                    .map(Self)
                    .map_err(|_| ValueError::new(format!("{text:?}: write {}", $what)))
            }
        }
    };
}
parsed!(
    Place,
    SocketAddr,
    "IP:PORT, such as 192.0.2.1:3478 or [2001:db8::1]:3478",
    "An address and a port."
);
parsed!(Ip, IpAddr, "an IP address", "An address.");

/// A network.
#[derive(Clone, PartialEq, Debug)]
pub struct Cidr(pub Prefix);

impl FromStr for Cidr {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        text.parse().map(Self).map_err(|_| {
            ValueError::new(format!(
                "{text:?}: write IP or IP/LENGTH, such as 10.0.0.0/8"
            ))
        })
    }
}

/// Defines a number of a range.
macro_rules! ranged {
    ($name:ident, $inner:ty, $range:expr, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct $name(pub $inner);

        impl TryFrom<i64> for $name {
            type Error = ValueError;

            fn try_from(number: i64) -> Result<Self, ValueError> {
                let range = $range;
                let fits = range.contains(&number);
                fits.then_some(Self(number as $inner)).ok_or_else(|| {
                    ValueError::new(format!(
                        "{number}: use {} to {}",
                        range.start(),
                        range.end()
                    ))
                })
            }
        }
    };
}
pub(in crate::config) use ranged;

ranged!(
    Count,
    u32,
    0..=i64::from(u32::MAX),
    "A number that is no limit when it is 0."
);
ranged!(
    NonceTtl,
    u64,
    1..=3600,
    "Seconds that a nonce is good (RFC 8656 §5: at most an hour)."
);
ranged!(Drain, u64, 0..=MAX_DRAIN, "Seconds that a drain takes.");

impl Default for Number<Count> {
    fn default() -> Self {
        Self(Count::default())
    }
}

/// `[FIRST, LAST]`, above the ports that need a right.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "(i64, i64)")]
pub struct PortRange(pub u16, pub u16);

impl TryFrom<(i64, i64)> for PortRange {
    type Error = ValueError;

    fn try_from((first, last): (i64, i64)) -> Result<Self, ValueError> {
        match (u16::try_from(first), u16::try_from(last)) {
            (Ok(first), Ok(last)) if first >= 1024 && first <= last => Ok(Self(first, last)),
            _ => Err(ValueError::new(format!(
                "port-range [{first}, {last}]: write [FIRST, LAST] with 1024 <= FIRST <= LAST <= 65535"
            ))),
        }
    }
}
