//! The overlay's configuration document (R122 to R125): `config = "PATH|URL"`, read again as it expires.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anode_routing::dht::reload::config::{ENROLL_PATH, MAX_DOCUMENT, OverlayConfig, parse};
use anode_wire::zonefile::Reach;
use tokio::sync::mpsc;

use super::discover;
use crate::Error;
use crate::value::ValueError;
use crate::zone::http::{FetchError, Fetched, Fetcher};
use crate::zone::source::{Host, Url};

/// A document is asked for no more often, whatever it says of itself.
const EVERY: Duration = Duration::from_secs(60);
/// After a failure it is tried again, twice as late each time.
const RETRY: Duration = Duration::from_secs(10);
const MAX_RETRY: Duration = Duration::from_secs(600);

/// What a document says of an overlay.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chosen {
    /// Its part about the overlay.
    pub own: OverlayConfig,
    /// Its part about the overlay that this one moves to, if it has one (RD70).
    pub next: Option<OverlayConfig>,
}

/// Where it is to be had.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DocumentFrom {
    /// A file of this machine.
    Path(PathBuf),
    /// A server.
    Url(Url),
    /// By the overlay's name (R122); nobody has to write this.
    Discover,
}

impl FromStr for DocumentFrom {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text.split_once("://") {
            Some(_) => text.parse().map(Self::Url),
            None if text == "discover" => Ok(Self::Discover),
            None if text.is_empty() => {
                Err(ValueError::new("config is empty: give a path or a URL"))
            }
            None => Ok(Self::Path(text.into())),
        }
    }
}

impl fmt::Display for DocumentFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Url(url) => url.fmt(f),
            Self::Discover => f.write_str("by the overlay's name"),
        }
    }
}

impl DocumentFrom {
    /// The file, if it is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Path(path) => Some(path),
            Self::Url(_) | Self::Discover => None,
        }
    }

    /// Whether a host's name must be looked up for it.
    pub fn needs_names(&self) -> bool {
        match self {
            Self::Path(_) => false,
            Self::Url(url) => matches!(url.host, Host::Name(_)),
            Self::Discover => true,
        }
    }

    /// Whether it takes the certificates that this machine trusts.
    pub fn needs_tls(&self) -> bool {
        match self {
            Self::Path(_) => false,
            Self::Url(url) => url.tls,
            Self::Discover => true,
        }
    }

    /// A path is from where the configuration is.
    pub fn relative_to(self, directory: &Path) -> Self {
        match self {
            Self::Path(path) => Self::Path(directory.join(path)),
            other => other,
        }
    }

    /// What a file says now. `None`: it is no file.
    ///
    /// # Errors
    /// It cannot be read, or says nothing of the overlay.
    pub fn read(&self, overlay: Option<&str>, enrolls: bool) -> Option<Result<Chosen, Error>> {
        let Self::Path(path) = self else {
            return None;
        };
        let refused = |why: String| Error::refused(format!("{}: {why}", path.display()));
        let bytes = fs::read(path).map_err(|error| refused(error.to_string()));
        Some(bytes.and_then(|bytes| choose(&bytes, overlay, enrolls).map_err(refused)))
    }

    async fn fetch(
        &self,
        fetcher: &Fetcher,
        overlay: Option<&str>,
        enrolls: bool,
    ) -> Result<Chosen, String> {
        let url = match self {
            Self::Path(path) => {
                let bytes = fs::read(path).map_err(|error| error.to_string())?;
                return choose(&bytes, overlay, enrolls);
            }
            Self::Url(url) => url,
            Self::Discover => {
                let name = overlay.ok_or("the overlay has no name")?;
                let bytes = discovered(fetcher, name).await?;
                return choose(&bytes, overlay, enrolls);
            }
        };
        let fetched = fetcher.fetch(url, Reach::Local, None).await;
        choose(&body(fetched)?, overlay, enrolls)
    }
}

fn body(fetched: Result<Fetched, FetchError>) -> Result<Vec<u8>, String> {
    match fetched.map_err(|error| error.to_string())? {
        Fetched::File { bytes, .. } => Ok(bytes),
        Fetched::Unchanged => Err("the server sends nothing".to_owned()),
    }
}

/// R123: from wherever the name leads to, but only if the certificate there is the name's.
async fn discovered(fetcher: &Fetcher, overlay: &str) -> Result<Vec<u8>, String> {
    let name = overlay.to_owned();
    let places = tokio::task::spawn_blocking(move || discover::places(&name)).await;
    let places = places.map_err(|_| "the lookup has panicked".to_owned())??;
    let mut last = String::new();
    for (host, port) in places {
        let at = match host.contains(':') {
            true => format!("https://[{host}]:{port}{ENROLL_PATH}"),
            false => format!("https://{host}:{port}{ENROLL_PATH}"),
        };
        let fetched = match at.parse() {
            Ok(url) => body(fetcher.fetch_of(&url, overlay, Reach::Local).await),
            Err(error) => Err(format!("{error}")),
        };
        match fetched {
            Ok(bytes) => return Ok(bytes),
            Err(error) => last = format!("{at}: {error}"),
        }
    }
    Err(last)
}

/// The part about one overlay, or the first. `enrolls`: this node can ask for a certificate.
fn choose(bytes: &[u8], overlay: Option<&str>, enrolls: bool) -> Result<Chosen, String> {
    if bytes.len() > MAX_DOCUMENT {
        return Err("it has more than 256 KiB".to_owned());
    }
    let text = str::from_utf8(bytes).map_err(|_| "it is not in UTF-8".to_owned())?;
    let all = parse(text).map_err(|error| error.to_string())?;
    let about = |name: &str| all.iter().find(|one| one.name.eq_ignore_ascii_case(name));
    let found = match overlay {
        Some(name) => about(name),
        None => all.first(),
    };
    let found = found.cloned().ok_or_else(|| {
        let names: Vec<&str> = all.iter().map(|one| one.name.as_str()).collect();
        format!("it is about {}", names.join(", "))
    })?;
    let next = found.migration.as_ref().and_then(|(next, _)| about(next));
    let next = next
        .cloned()
        .map(|next| usable(next, enrolls))
        .transpose()?;
    let own = usable(found, enrolls)?;
    Ok(Chosen { own, next })
}

/// Whether this node can be a member at all.
fn usable(document: OverlayConfig, enrolls: bool) -> Result<OverlayConfig, String> {
    if document.dht != "chord-128-2-8" {
        let other = document.dht;
        return Err(format!(
            "its DHT is {other:?}, and only chord-128-2-8 is known"
        ));
    }
    let issued = !document.credential_servers.is_empty() && !document.roots.is_empty();
    match (document.needs_certificate(), issued, enrolls) {
        (true, false, _) => Err(
            "it permits no self-made ids and no shared key, and names no credential server with its root"
                .to_owned(),
        ),
        (true, true, false) => Err(
            "its members have certificates of a credential server: add user and password-file"
                .to_owned(),
        ),
        _ => Ok(document),
    }
}

/// Tells of a document as it comes, and again as it changes, until nobody listens.
pub async fn keep(
    from: DocumentFrom,
    overlay: Option<String>,
    enrolls: bool,
    fetcher: Fetcher,
    place: usize,
    tell: mpsc::Sender<(usize, Chosen)>,
) {
    let mut retry = RETRY;
    loop {
        let wait = match from.fetch(&fetcher, overlay.as_deref(), enrolls).await {
            Ok(document) => {
                retry = RETRY;
                let wait = document.own.expiration.max(EVERY);
                if tell.send((place, document)).await.is_err() {
                    return;
                }
                wait
            }
            Err(error) => {
                tracing::warn!("the DHT's configuration document {from}: {error}");
                let wait = retry;
                retry = (retry * 2).min(MAX_RETRY);
                wait
            }
        };
        tokio::time::sleep(wait).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // R122 to R125, RD58
    #[test]
    fn the_part_of_the_own_overlay_is_taken() {
        let text = "<overlays><overlay name=\"a.example\"><self-signed-permitted>true</self-signed-permitted></overlay>\
             <overlay name=\"b.example\"><bootstrap-peer address=\"192.0.2.1\" port=\"6084\"/>\
             <self-signed-permitted>true</self-signed-permitted></overlay><overlay name=\"c.example\"/></overlays>";
        let of = |name| choose(text.as_bytes(), name, false);
        assert_eq!(of(None).unwrap().own.name, "a.example");
        assert_eq!(of(Some("B.example")).unwrap().own.bootstrap.len(), 1);
        assert!(
            of(Some("c.example"))
                .unwrap_err()
                .contains("credential server")
        );
        assert!(
            of(Some("d.example"))
                .unwrap_err()
                .contains("a.example, b.example")
        );
        let other = "<overlay name=\"a\"><dht name=\"kademlia\"/></overlay>";
        assert!(
            choose(other.as_bytes(), None, false)
                .unwrap_err()
                .contains("kademlia")
        );
        assert!(choose(b"\xff", None, true).is_err() && choose(b"<x/>", None, true).is_err());
    }

    // R14, RD70
    #[test]
    fn a_migration_names_the_next_overlay() {
        let text = |next: &str| {
            format!(
                "<overlays><overlay name=\"a\"><self-signed-permitted>true</self-signed-permitted>\
                 <migration overlay=\"B\" stage=\"1\"/></overlay>{next}</overlays>"
            )
        };
        let chosen = choose(text("").as_bytes(), Some("a"), false).unwrap();
        assert_eq!(chosen.next, None);
        let own = "<overlay name=\"b\"><self-signed-permitted>1</self-signed-permitted></overlay>";
        let chosen = choose(text(own).as_bytes(), Some("a"), false).unwrap();
        assert_eq!(chosen.next.unwrap().name, "b");
        assert!(choose(text("<overlay name=\"b\"/>").as_bytes(), Some("a"), false).is_err());
    }

    #[test]
    fn a_document_is_a_file_or_a_url() {
        let path: DocumentFrom = "dht.xml".parse().unwrap();
        let path = path.relative_to(Path::new("/etc/anode"));
        assert_eq!(path, DocumentFrom::Path("/etc/anode/dht.xml".into()));
        let url: DocumentFrom = "https://overlay.example/p2psip/enroll".parse().unwrap();
        assert!(matches!(url, DocumentFrom::Url(_)));
        assert!("".parse::<DocumentFrom>().is_err() && "ftp://x/".parse::<DocumentFrom>().is_err());
    }
}
