//! The name of a real host, whose TXT record may name an Anode address (A31).

use std::fmt;
use std::str::FromStr;

use crate::value::ValueError;

/// A name of 255 bytes on the wire, less the `.anode` that it is asked with here.
const MAX_LENGTH: usize = 253 - ".anode".len();

/// Ends of names that are never asked for in the DNS: ours, and those that RFC 6761, 6762, 7686 and 9476 keep to the
/// machine, its LAN or another network.
const NEVER_ASKED: [&str; 8] = [
    "anode",
    "alt",
    "arpa",
    "i2p",
    "invalid",
    "local",
    "localhost",
    "onion",
];

/// `host.example.com`: at least two labels, in lower case, without a dot at the end.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HostName(String);

impl HostName {
    /// From labels, the leftmost first; `None` if they cannot be a host's name.
    pub fn from_labels<'a>(labels: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        let mut text = String::new();
        for label in labels {
            if !text.is_empty() {
                text.push('.');
            }
            text.push_str(
                std::str::from_utf8(label)
                    .ok()
                    .filter(|label| is_label(label))?,
            );
        }
        text.make_ascii_lowercase();
        let (_, rest) = text.split_once('.')?;
        let last = rest.rsplit('.').next().unwrap_or(rest);
        // All digits: an IPv4 address, and no domain is called so.
        let is_number = last.bytes().all(|byte| byte.is_ascii_digit());
        (text.len() <= MAX_LENGTH && !is_number && !NEVER_ASKED.contains(&last))
            .then_some(Self(text))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its last label.
    pub fn top(&self) -> &str {
        self.0.rsplit('.').next().unwrap_or(&self.0)
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for HostName {
    type Err = ValueError;

    /// Takes `host.example.com.anode`, as people write it, and `host.example.com`.
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let lower = text.to_ascii_lowercase();
        let name = lower.strip_suffix('.').unwrap_or(&lower);
        let name = name.strip_suffix(".anode").unwrap_or(name);
        Self::from_labels(name.split('.').map(str::as_bytes)).ok_or_else(|| {
            ValueError::new(format!(
                "{text:?} is no host name that a TXT record can stand at, such as host.example.com.anode"
            ))
        })
    }
}

/// Underscores are for services, and hosts have them too.
fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_brought_to_one_form() {
        for text in [
            "host.example.com",
            "Host.Example.COM.anode",
            "host.example.com.anode.",
        ] {
            let name: HostName = text.parse().unwrap();
            assert_eq!(name.as_str(), "host.example.com", "{text}");
            assert_eq!(name.top(), "com");
        }
    }

    #[test]
    fn what_no_server_must_be_asked_for_is_no_host_name() {
        let long = format!("{}.com", ["a"; 130].join("."));
        let cases = [
            "",
            ".",
            "com",
            "a..com",
            ".com",
            "-a.com",
            "a-.com",
            "ä.com",
            "a b.com",
            "192.0.2.1",
            "x.anode.anode",
            "host.onion",
            "x.i2p",
            "printer.local",
            "1.0.0.127.in-addr.arpa",
            "x.localhost",
            &long,
        ];
        for text in cases {
            assert!(text.parse::<HostName>().is_err(), "{text:?}");
        }
        assert_eq!(
            HostName::from_labels([&b"a.b"[..], b"com"].into_iter()),
            None
        );
        assert_eq!(
            HostName::from_labels([&[0xff][..], b"com"].into_iter()),
            None
        );
    }
}
