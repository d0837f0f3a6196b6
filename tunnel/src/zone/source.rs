//! Where a zone file is to be had: `zone-file` and `--zone-file`.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anode_wire::Zone;
use hyper::Uri;
use hyper::http::uri::Scheme;

use crate::value::ValueError;

/// Characters of a URL (D16).
const URL_MAX: usize = 2048;

/// Where the file of the own zone comes from.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum ZoneFrom {
    /// As the draft has it: by the zone's host name, then by the zone as an IPv4 address (A8, A9). Zone 0 has no file.
    #[default]
    Draft,
    /// A file of this machine, read again when it changes.
    Path(PathBuf),
    /// A server.
    Url(Url),
    /// `none`: no zone file.
    Nowhere,
}

impl FromStr for ZoneFrom {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text.split_once("://") {
            Some(_) => text.parse().map(Self::Url),
            None if text == "none" => Ok(Self::Nowhere),
            None if text.is_empty() => Err(ValueError::new(
                "zone-file is empty: give a path, a URL, or none",
            )),
            None => Ok(Self::Path(text.into())),
        }
    }
}

impl fmt::Display for ZoneFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Draft => f.write_str("the zone's name and IP"),
            Self::Path(path) => path.display().fmt(f),
            Self::Url(url) => url.fmt(f),
            Self::Nowhere => f.write_str("none"),
        }
    }
}

impl ZoneFrom {
    /// A path is relative to `directory`: that of the configuration file, or the working one.
    pub fn relative_to(self, directory: &Path) -> Self {
        match self {
            Self::Path(path) => {
                let joined = directory.join(path);
                Self::Path(std::path::absolute(&joined).unwrap_or(joined))
            }
            other => other,
        }
    }

    /// Where a path lies: a file there may be replaced by another one of its name.
    pub fn directory(&self) -> Option<PathBuf> {
        match self {
            Self::Path(path) => path.parent().map(Path::to_owned),
            _ => None,
        }
    }

    /// Whether a host's name must be looked up for it.
    pub fn needs_names(&self) -> bool {
        match self {
            Self::Draft => true,
            Self::Url(url) => matches!(url.host, Host::Name(_)),
            Self::Path(_) | Self::Nowhere => false,
        }
    }

    /// Whether it needs the certificates that this machine trusts.
    pub fn needs_tls(&self) -> bool {
        matches!(self, Self::Url(url) if url.tls)
    }
}

/// What stands between `://` and the port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Host {
    /// Looked up.
    Name(String),
    /// Itself.
    Ip(IpAddr),
}

/// `http://…` or `https://…`, without user, password and fragment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Url {
    /// https
    pub tls: bool,
    /// The server.
    pub host: Host,
    /// Its port.
    pub port: u16,
    /// Path and query.
    pub path: String,
    /// As a Host header has it: with the port, unless it is the scheme's.
    pub authority: String,
}

impl FromStr for Url {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong = |problem: &str| {
            let shown: String = text.chars().take(200).collect();
            ValueError::new(format!(
                "URL {shown:?}: {problem}, such as http://zone.example/z"
            ))
        };
        if text.len() > URL_MAX {
            return Err(wrong("use at most 2048 characters"));
        }
        let uri: Uri = text
            .parse()
            .map_err(|_| wrong("write http://HOST[:PORT]/PATH or https://…"))?;
        let tls = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            _ => return Err(wrong("use http or https")),
        };
        let authority = uri
            .authority()
            .ok_or_else(|| wrong("the host is missing"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("user and password are not supported: leave them out"));
        }
        let name = authority.host();
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        let host = match bare.parse() {
            Ok(ip) => Host::Ip(ip),
            Err(_) if name.is_empty() || name.starts_with('[') => {
                return Err(wrong("the host is missing or no address"));
            }
            Err(_) => Host::Name(name.to_owned()),
        };
        let port = match authority.port_u16() {
            Some(0) => return Err(wrong("port 0 is none")),
            Some(port) => port,
            // `host:` and `host:70000` have a port that is no number
            None if authority.as_str() != name => return Err(wrong("the port is no number")),
            None if tls => 443,
            None => 80,
        };
        Ok(Self {
            tls,
            host,
            port,
            path: uri
                .path_and_query()
                .map_or("/", |path| path.as_str())
                .to_owned(),
            authority: authority.as_str().to_owned(),
        })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.path)
    }
}

impl Url {
    /// Where the draft looks for the file of a zone, in this order (A8, A9, D5).
    pub fn of_zone(zone: Zone) -> [Self; 2] {
        let name = format!("a--{zone}.net");
        let ip = std::net::Ipv4Addr::from(zone.0);
        let url = |host, authority| Self {
            tls: false,
            host,
            port: 80,
            path: "/z".to_owned(),
            authority,
        };
        [
            url(Host::Name(name.clone()), name),
            url(Host::Ip(ip.into()), ip.to_string()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_a_url_and_none_are_told_apart() {
        let from = |text: &str| text.parse::<ZoneFrom>().unwrap();
        assert_eq!(from("none"), ZoneFrom::Nowhere);
        assert_eq!(from("./none"), ZoneFrom::Path("./none".into()));
        assert_eq!(from("zone"), ZoneFrom::Path("zone".into()));
        let url = "http://192.0.2.1:8080/z?x";
        assert_eq!(from(url).to_string(), url);
        let relative = from("../z/zone").relative_to(Path::new("/etc/anode"));
        assert_eq!(relative, ZoneFrom::Path("/etc/anode/../z/zone".into()));
        assert_eq!(
            from("/zone").relative_to(Path::new("/etc")),
            ZoneFrom::Path("/zone".into())
        );
    }

    #[test]
    fn urls_have_a_host_a_port_and_a_path() {
        for (text, tls, port, path) in [
            ("http://zone.example/z", false, 80, "/z"),
            ("http://zone.example", false, 80, "/"),
            ("https://zone.example/a/b?c=d", true, 443, "/a/b?c=d"),
            ("https://[2001:db8::1]:8443/z", true, 8443, "/z"),
            ("HTTP://10.0.0.1:1/z", false, 1, "/z"),
        ] {
            let url: Url = text.parse().unwrap();
            assert_eq!((url.tls, url.port, url.path.as_str()), (tls, port, path));
        }
        for (text, problem) in [
            ("ftp://zone.example/z", "use http or https"),
            ("file:///etc/passwd", "write http://HOST"),
            ("http:///z", "write http://HOST"),
            ("http://joe:secret@host/", "user and password"),
            ("http://host:0/", "port 0"),
            ("http://host:70000/", "the port is no number"),
            ("http://host:/", "the port is no number"),
            ("http://ho st/", "write http://HOST"),
            ("http://[::1/", "write http://HOST"),
            ("http://[zone]/", "no address"),
        ] {
            let error = text.parse::<ZoneFrom>().unwrap_err().to_string();
            assert!(error.contains(problem), "{text}: {error}");
        }
        let long = format!("http://host/{}", "x".repeat(URL_MAX));
        assert!(long.parse::<Url>().is_err());
    }

    // A8, A9, D5, D6
    #[test]
    fn the_draft_looks_by_name_and_then_by_ip() {
        let [name, ip] = Url::of_zone(Zone(0x0a4d_0001));
        assert_eq!(name.to_string(), "http://a--0a4d0001.net/z");
        assert_eq!(ip.to_string(), "http://10.77.0.1/z");
    }
}
