//! The URL of a tracker: `http`, `https` or `udp`, and nothing that could smuggle a header or a password.

use std::fmt;

/// The longest URL in bytes that is taken.
pub const MAX_URL: usize = 1_024;

/// How a tracker is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// HTTP over TCP.
    Http,
    /// HTTP over TLS.
    Https,
    /// BEP 15.
    Udp,
}

impl Scheme {
    fn default_port(self) -> Option<u16> {
        match self {
            Self::Http => Some(80),
            Self::Https => Some(443),
            Self::Udp => None,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Udp => "udp",
        }
    }
}

/// Why a text is no tracker URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUrl {
    /// Longer than [`MAX_URL`].
    #[error("a tracker URL has at most {MAX_URL} bytes")]
    TooLong,
    /// None of ours.
    #[error("a tracker URL starts with http://, https:// or udp://")]
    Scheme,
    /// Spaces, control characters or bytes past ASCII.
    #[error("a tracker URL holds printable ASCII only; write other characters as %XX")]
    Character,
    /// `user:password@`.
    #[error("a tracker URL has no user name or password")]
    UserInfo,
    /// Empty or malformed host.
    #[error("the tracker URL has no valid host; an IPv6 address stands in brackets")]
    Host,
    /// Missing or malformed port.
    #[error("the tracker URL has no valid port (1 to 65535); udp:// has no default")]
    Port,
}

/// A tracker URL in its parts.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrackerUrl {
    scheme: Scheme,
    host: String,
    port: u16,
    /// Path and query, for `http` at least `/`, for `udp` possibly nothing.
    target: String,
}

impl TrackerUrl {
    /// How it is spoken to.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Name or address, without brackets: what a resolver and TLS want.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, in host order.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Path and query as written.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The value of the `Host` header: brackets around IPv6, no default port.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        if self.scheme.default_port() == Some(self.port) {
            host
        } else {
            format!("{host}:{}", self.port)
        }
    }

    /// Path and query for a scrape (BEP 48): what follows the last slash must begin with `announce`. UDP needs none.
    pub fn scrape_target(&self) -> Option<String> {
        let (path, query) = match self.target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (self.target.as_str(), None),
        };
        let (folder, page) = path.rsplit_once('/')?;
        let rest = page.strip_prefix("announce")?;
        let query = query.map(|query| format!("?{query}")).unwrap_or_default();
        Some(format!("{folder}/scrape{rest}{query}"))
    }
}

impl fmt::Display for TrackerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}://{}{}",
            self.scheme.name(),
            self.authority(),
            self.target
        )
    }
}

impl fmt::Debug for TrackerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for TrackerUrl {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUrl> {
        if text.len() > MAX_URL {
            return Err(InvalidUrl::TooLong);
        }
        // a space or a line break here would end up in a request line
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidUrl::Character);
        }
        let (scheme, rest) = text.split_once("://").ok_or(InvalidUrl::Scheme)?;
        let scheme = [Scheme::Http, Scheme::Https, Scheme::Udp]
            .into_iter()
            .find(|known| known.name().eq_ignore_ascii_case(scheme))
            .ok_or(InvalidUrl::Scheme)?;
        let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
        let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(InvalidUrl::UserInfo);
        }
        let (host, port) = split_authority(authority)?;
        let port = match port {
            Some(port) => port
                .parse()
                .ok()
                .filter(|port| *port != 0)
                .ok_or(InvalidUrl::Port)?,
            None => scheme.default_port().ok_or(InvalidUrl::Port)?,
        };
        let slash = if scheme != Scheme::Udp && !target.starts_with('/') {
            "/"
        } else {
            ""
        };
        Ok(Self {
            scheme,
            host: host.to_ascii_lowercase(),
            port,
            target: format!("{slash}{target}"),
        })
    }
}

/// `host`, `host:port`, `[v6]`, `[v6]:port`.
fn split_authority(authority: &str) -> Result<(&str, Option<&str>), InvalidUrl> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or(InvalidUrl::Host)?;
        host.parse::<std::net::Ipv6Addr>()
            .map_err(|_| InvalidUrl::Host)?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(InvalidUrl::Host),
        };
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if host.is_empty() || host.len() > 253 || !host.bytes().all(valid) {
        return Err(InvalidUrl::Host);
    }
    Ok((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        for (text, host, port, target, shown) in [
            (
                "http://t.example/announce",
                "t.example",
                80,
                "/announce",
                "http://t.example/announce",
            ),
            (
                "HTTPS://T.Example",
                "t.example",
                443,
                "/",
                "https://t.example/",
            ),
            (
                "http://[2001:db8::1]:6969/a?k=1#x",
                "2001:db8::1",
                6969,
                "/a?k=1",
                "http://[2001:db8::1]:6969/a?k=1",
            ),
            (
                "http://t.example?pass=1",
                "t.example",
                80,
                "/?pass=1",
                "http://t.example/?pass=1",
            ),
            ("udp://10.0.0.1:80", "10.0.0.1", 80, "", "udp://10.0.0.1:80"),
            (
                "udp://t:1/announce",
                "t",
                1,
                "/announce",
                "udp://t:1/announce",
            ),
        ] {
            let url: TrackerUrl = text.parse().unwrap();
            assert_eq!(
                (url.host(), url.port(), url.target()),
                (host, port, target),
                "{text}"
            );
            assert_eq!(url.to_string(), shown);
        }
    }

    #[test]
    fn wrong_urls_are_refused_with_their_reason() {
        use InvalidUrl::*;
        let long = format!("http://t/{}", "a".repeat(MAX_URL));
        for (text, error) in [
            ("", Scheme),
            ("t.example/announce", Scheme),
            ("wss://t.example/announce", Scheme),
            ("http://u:p@t/", UserInfo),
            ("http:///announce", Host),
            ("http://a,b/announce", Host),
            ("http://::1/announce", Host),
            ("http://[::1/announce", Host),
            ("http://[t]/announce", Host),
            ("http://[::1]x/announce", Host),
            ("http://t:/announce", Port),
            ("http://t:0/announce", Port),
            ("http://t:65536/announce", Port),
            ("udp://t/announce", Port),
            ("http://t/a b", Character),
            ("http://t/a\r\nX: y", Character),
            ("http://t/ä", Character),
            (&long, TooLong),
        ] {
            assert_eq!(text.parse::<TrackerUrl>(), Err(error), "{text}");
        }
    }

    #[test]
    fn scrape_replaces_announce_after_the_last_slash() {
        // the examples of BEP 48
        for (announce, scrape) in [
            ("/announce", Some("/scrape")),
            ("/x/announce", Some("/x/scrape")),
            ("/announce.php", Some("/scrape.php")),
            ("/a", None),
            ("/announce?x2%0644", Some("/scrape?x2%0644")),
            ("/announce?x=2/4", Some("/scrape?x=2/4")),
            ("/x%064announce", None),
        ] {
            let url: TrackerUrl = format!("http://example.com{announce}").parse().unwrap();
            assert_eq!(url.scrape_target().as_deref(), scrape, "{announce}");
        }
    }
}
