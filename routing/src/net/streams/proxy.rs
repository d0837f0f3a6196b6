//! What is dialled without the HTTP proxy, as `NO_PROXY` of the environment says it.
use std::convert::Infallible;
use std::net::IpAddr;
use std::str::FromStr;

/// A list of exceptions: IP addresses, networks (`10.0.0.0/8`), host names with all below them (`example.com`, also as
/// `.example.com`), or `*` for everything.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct ProxyExcept {
    everything: bool,
    networks: Vec<(IpAddr, u8)>,
    domains: Vec<String>,
}

impl FromStr for ProxyExcept {
    type Err = Infallible;

    /// Words with commas or blanks between them. What is neither address nor network is taken for a name.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        let mut except = Self::default();
        let words = text.split(|letter: char| letter == ',' || letter.is_whitespace());
        for word in words.filter(|word| !word.is_empty()) {
            if word == "*" {
                except.everything = true;
            } else if let Some(network) = network(word) {
                except.networks.push(network);
            } else {
                let name = word.trim_start_matches("*.").trim_start_matches('.');
                except.domains.push(name.to_ascii_lowercase());
            }
        }
        Ok(except)
    }
}

impl ProxyExcept {
    /// Whether this place is dialled without the proxy.
    pub fn covers(&self, ip: IpAddr, host: Option<&str>) -> bool {
        self.everything
            || self.networks.iter().any(|(of, bits)| is_in(ip, *of, *bits))
            || host.is_some_and(|host| {
                let host = host.trim_end_matches('.').to_ascii_lowercase();
                let covered = |domain: &String| {
                    let below = host.strip_suffix(domain.as_str());
                    below.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
                };
                self.domains.iter().any(covered)
            })
    }
}

fn network(word: &str) -> Option<(IpAddr, u8)> {
    let (ip, bits) = match word.split_once('/') {
        Some((ip, bits)) => (ip, Some(bits.parse::<u8>().ok()?)),
        None => (word, None),
    };
    let ip: IpAddr = ip.trim_matches(['[', ']']).parse().ok()?;
    let most = if ip.is_ipv4() { 32 } else { 128 };
    let bits = bits.unwrap_or(most);
    (bits <= most).then_some((ip, bits))
}

fn is_in(ip: IpAddr, network: IpAddr, bits: u8) -> bool {
    let equal = |a: u128, b: u128, width: u32| {
        let rest = width - u32::from(bits);
        a.checked_shr(rest).unwrap_or(0) == b.checked_shr(rest).unwrap_or(0)
    };
    match (ip, network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => equal(a.to_bits().into(), b.to_bits().into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => equal(a.to_bits(), b.to_bits(), 128),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_are_read_as_other_programs_read_them() {
        let cases = [
            ("", "192.0.2.1", None, false),
            ("*", "192.0.2.1", None, true),
            ("192.0.2.1", "192.0.2.1", None, true),
            ("192.0.2.2, 10.0.0.0/8", "10.200.3.4", None, true),
            ("10.0.0.0/8", "11.0.0.1", None, false),
            ("0.0.0.0/0", "11.0.0.1", None, true),
            ("0.0.0.0/0", "2001:db8::1", None, false),
            ("2001:db8::/32", "2001:db8:7::1", None, true),
            ("::/0", "2001:db8::1", None, true),
            ("[2001:db8::1]", "2001:db8::1", None, true),
            ("example.com", "192.0.2.1", Some("relay.example.com"), true),
            (
                ".example.com",
                "192.0.2.1",
                Some("Relay.Example.com."),
                true,
            ),
            ("*.example.com", "192.0.2.1", Some("example.com"), true),
            ("example.com", "192.0.2.1", Some("badexample.com"), false),
            ("example.com", "192.0.2.1", None, false),
            ("10.0.0.0/33", "10.0.0.1", None, false),
        ];
        for (text, ip, host, expected) in cases {
            let except: ProxyExcept = text.parse().unwrap();
            let ip = ip.parse().unwrap();
            assert_eq!(except.covers(ip, host), expected, "{text:?} {ip} {host:?}");
        }
    }
}
