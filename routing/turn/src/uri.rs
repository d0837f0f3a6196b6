//! `stun:`, `stuns:`, `turn:` and `turns:` URIs (RFC 7064, RFC 7065).

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::TurnError;
use crate::frame::Transport;

/// What a host is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// An address: nothing is looked up.
    Address(IpAddr),
    /// A name.
    Name(String),
}

/// A server as a person writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uri {
    /// `turn:` and `turns:`, not `stun:` and `stuns:`.
    pub relay: bool,
    /// `turns:` and `stuns:`: TLS or DTLS.
    pub secure: bool,
    /// Where.
    pub host: Host,
    /// The port, if one is given.
    pub port: Option<u16>,
    /// `?transport=`, if given: `udp` or `tcp`, under TLS or DTLS where secure.
    pub transport: Option<Transport>,
}

impl Uri {
    /// The port when nothing else says (RFC 8489 §8, RFC 8656 §3).
    #[must_use]
    pub fn default_port(&self) -> u16 {
        if self.secure { 5349 } else { 3478 }
    }

    /// The transport when nothing else says: UDP, or TLS.
    #[must_use]
    pub fn default_transport(&self) -> Transport {
        if self.secure {
            Transport::Tls
        } else {
            Transport::Udp
        }
    }
}

impl FromStr for Uri {
    type Err = TurnError;

    fn from_str(text: &str) -> Result<Self, TurnError> {
        let error = |reason| TurnError::Uri {
            // What stands before an @ may be a password.
            uri: match text.rsplit_once('@') {
                Some((_, host)) => format!("…@{}", host.chars().take(300).collect::<String>()),
                None => text.chars().take(300).collect(),
            },
            reason,
        };
        let (scheme, rest) = text
            .split_once(':')
            .ok_or_else(|| error("there is no scheme"))?;
        let (relay, secure) = match scheme.to_ascii_lowercase().as_str() {
            "stun" => (false, false),
            "stuns" => (false, true),
            "turn" => (true, false),
            "turns" => (true, true),
            _ => return Err(error("the scheme is none of stun, stuns, turn, turns")),
        };
        if rest.starts_with("//") {
            return Err(error("no // stands behind the scheme"));
        }
        if rest.contains('@') {
            return Err(error("name and password do not belong into it"));
        }
        let (place, query) = rest
            .split_once('?')
            .map_or((rest, None), |(p, q)| (p, Some(q)));
        let transport = match query {
            None => None,
            Some(_) if !relay => return Err(error("stun and stuns take no ?transport")),
            Some(query) => match query.strip_prefix("transport=") {
                Some("udp") if secure => Some(Transport::Dtls),
                Some("udp") => Some(Transport::Udp),
                Some("tcp") if secure => Some(Transport::Tls),
                Some("tcp") => Some(Transport::Tcp),
                _ => {
                    return Err(error(
                        "behind the ? only transport=udp and transport=tcp are known",
                    ));
                }
            },
        };
        let (host, port) =
            split_port(place).ok_or_else(|| error("the address in brackets does not end"))?;
        let port = match port {
            None => None,
            Some(p) if !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()) => Some(
                p.parse()
                    .ok()
                    .filter(|p| *p != 0)
                    .ok_or_else(|| error("the port is none of 1 to 65535"))?,
            ),
            Some(_) => return Err(error("the port is no number")),
        };
        let host =
            parse_host(host).ok_or_else(|| error("the host is neither a name nor an address"))?;
        Ok(Self {
            relay,
            secure,
            host,
            port,
            transport,
        })
    }
}

/// Host and port; IPv6 stands in brackets.
fn split_port(place: &str) -> Option<(&str, Option<&str>)> {
    if place.starts_with('[') {
        let (host, rest) = place.split_once(']')?;
        let port = if rest.is_empty() {
            None
        } else {
            Some(rest.strip_prefix(':')?)
        };
        return Some((host, port));
    }
    Some(
        place
            .split_once(':')
            .map_or((place, None), |(host, port)| (host, Some(port))),
    )
}

fn parse_host(host: &str) -> Option<Host> {
    if let Some(v6) = host.strip_prefix('[') {
        return v6.parse().ok().map(|a| Host::Address(IpAddr::V6(a)));
    }
    if let Ok(v4) = host.parse() {
        return Some(Host::Address(IpAddr::V4(v4)));
    }
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    let name = host.strip_suffix('.').unwrap_or(host);
    // A name whose last label is a number is a mistyped address.
    let number = name
        .rsplit('.')
        .next()
        .is_some_and(|l| l.bytes().all(|b| b.is_ascii_digit()));
    let fine = name.len() <= 253 && !number && name.split('.').all(label);
    fine.then(|| Host::Name(name.to_ascii_lowercase()))
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}{}:",
            if self.relay { "turn" } else { "stun" },
            if self.secure { "s" } else { "" }
        )?;
        match &self.host {
            Host::Address(IpAddr::V6(a)) => write!(f, "[{a}]")?,
            Host::Address(a) => write!(f, "{a}")?,
            Host::Name(name) => f.write_str(name)?,
        }
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        match self.transport {
            Some(Transport::Udp | Transport::Dtls) => f.write_str("?transport=udp"),
            Some(Transport::Tcp | Transport::Tls) => f.write_str("?transport=tcp"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // T36: the examples of RFC 7064 §3.3 and RFC 7065 §3.3, and more
    #[test]
    fn uris_are_read() {
        for (text, relay, secure, port, transport) in [
            ("stun:example.org", false, false, None, None),
            ("stuns:example.org", false, true, None, None),
            ("stun:example.org:8000", false, false, Some(8000), None),
            ("turn:example.org", true, false, None, None),
            ("turns:example.org", true, true, None, None),
            ("turn:example.org:8000", true, false, Some(8000), None),
            (
                "turn:example.org?transport=udp",
                true,
                false,
                None,
                Some(Transport::Udp),
            ),
            (
                "turn:example.org?transport=tcp",
                true,
                false,
                None,
                Some(Transport::Tcp),
            ),
            (
                "turns:example.org?transport=tcp",
                true,
                true,
                None,
                Some(Transport::Tls),
            ),
            (
                "turns:example.org:443?transport=udp",
                true,
                true,
                Some(443),
                Some(Transport::Dtls),
            ),
        ] {
            let uri: Uri = text.parse().unwrap();
            let host = Host::Name("example.org".into());
            assert_eq!(
                uri,
                Uri {
                    relay,
                    secure,
                    host,
                    port,
                    transport
                },
                "{text}"
            );
            assert_eq!(uri.to_string(), text);
        }
        let v6: Uri = "TURN:[2001:db8::1]:3479".parse().unwrap();
        assert_eq!(
            (v6.host, v6.port),
            (Host::Address("2001:db8::1".parse().unwrap()), Some(3479))
        );
        let v4: Uri = "turn:192.0.2.1".parse().unwrap();
        assert_eq!(
            (v4.default_port(), v4.default_transport()),
            (3478, Transport::Udp)
        );
    }

    // T36
    #[test]
    fn what_is_no_uri_is_refused_with_its_reason() {
        for bad in [
            "",
            "turn",
            "turn:",
            "http://example.org",
            "turn://example.org",
            "turn:user@example.org",
            "turn:example.org:0",
            "turn:example.org:65536",
            "turn:example.org:+1",
            "turn:example.org:",
            "turn:[2001:db8::1",
            "turn:[192.0.2.1]",
            "turn:2001:db8::1",
            "turn:example.org?transport=sctp",
            "turn:example.org?x=y",
            "stun:example.org?transport=udp",
            "turn:exa mple.org",
            "turn:-x.org",
            "turn:1.2.3",
            "turn:a..b",
            "turn:\u{20AC}.org",
        ] {
            assert!(bad.parse::<Uri>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(stun|turn)s?:[ -~]{0,40}") {
            if let Ok(uri) = text.parse::<Uri>() {
                prop_assert_eq!(uri.to_string().parse::<Uri>(), Ok(uri));
            }
        }
    }
}
