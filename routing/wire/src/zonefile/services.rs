//! What a zone offers beside relays: our entries `turn.*`, `tracker.*`, `dht` and `dht.config` (docs/protocol.md). One that
//! cannot be used is left out and told: a later version may know more kinds.
use super::dictionary::{Dictionary, Entry};
use super::{FaultKind, Faults, MAX_RELAYS, MAX_SERVICES, prefixed, relay_index, shown};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Bytes of a URI.
const MAX_URI: usize = 512;
/// Bytes of the name of a DHT: a host name's.
const MAX_NAME: usize = 253;
/// Bytes of a user name or password.
const MAX_CREDENTIAL: usize = 256;

/// A TURN server: `turn.<n>=<uri>[ <user> <password>]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TurnServer {
    /// `turn:host:port?transport=udp` (RFC 7065); its scheme is checked here, the rest where it is used.
    pub uri: String,
    /// User and password; without them, those that a node makes with its own key.
    pub credentials: Option<(String, String)>,
}

/// Why an entry cannot be used, in words that end a sentence about it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct ServiceFault(pub(super) String);

impl FromStr for TurnServer {
    type Err = ServiceFault;

    fn from_str(text: &str) -> Result<Self, ServiceFault> {
        turn_server(text).map_err(ServiceFault)
    }
}

impl fmt::Display for TurnServer {
    /// As in a zone file, password and all.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)?;
        match &self.credentials {
            Some((user, password)) => write!(f, " {user} {password}"),
            None => Ok(()),
        }
    }
}

/// URL of a tracker, if it can stand in a zone file.
pub fn tracker_url(text: &str) -> Result<String, ServiceFault> {
    tracker(text).map_err(ServiceFault)
}

/// Name of a DHT, if it can stand in a zone file.
pub fn dht_name(text: &str) -> Result<String, ServiceFault> {
    name(text).map_err(ServiceFault)
}

/// URL of a DHT's configuration document, if it can stand in a zone file.
pub fn dht_config_url(text: &str) -> Result<String, ServiceFault> {
    document(text).map_err(ServiceFault)
}

/// The zone's DHT.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dht {
    /// Name of the RELOAD overlay.
    pub name: String,
    /// Where its configuration document is: http or https.
    pub config: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Services {
    pub(super) turn: Vec<TurnServer>,
    pub(super) trackers: Vec<String>,
    pub(super) dht: Option<Dht>,
    /// By number of the relay.
    pub(super) hosts: BTreeMap<u32, String>,
}

impl Services {
    pub(super) fn read(dictionary: &Dictionary, faults: &mut Faults) -> Self {
        Self {
            turn: list(dictionary, "turn.", faults, turn_server),
            trackers: list(dictionary, "tracker.", faults, tracker),
            dht: dht(dictionary, faults),
            hosts: hosts(dictionary, faults),
        }
    }
}

/// The entries with this prefix, as far as they can be read; [`MAX_SERVICES`] at most.
fn list<T>(
    dictionary: &Dictionary,
    prefix: &'static str,
    faults: &mut Faults,
    read: impl Fn(&str) -> Result<T, String>,
) -> Vec<T> {
    let mut list = Vec::new();
    for (_, entry) in prefixed(dictionary, prefix) {
        let value = if list.len() < MAX_SERVICES {
            text(entry).and_then(&read)
        } else {
            Err(format!("there are more than {MAX_SERVICES} of them"))
        };
        match value {
            Ok(value) => list.push(value),
            Err(problem) => tell(entry, problem, faults),
        }
    }
    list
}

/// Host names of relays: `host.<n>`, which makes TLS there worth a look at the certificate.
fn hosts(dictionary: &Dictionary, faults: &mut Faults) -> BTreeMap<u32, String> {
    let mut hosts = BTreeMap::new();
    for (number, entry) in prefixed(dictionary, "host.") {
        let index = relay_index(number).ok_or_else(|| {
            "its key is host. and the hexadecimal number of a relay, as in zr.".to_owned()
        });
        let host = text(entry).and_then(host);
        match index.and_then(|index| Ok((index, host?))) {
            Ok((index, _)) if hosts.len() >= MAX_RELAYS => {
                tell(entry, format!("host {index:x} is one too many"), faults);
            }
            Ok((index, host)) => {
                hosts.insert(index, host);
            }
            Err(problem) => tell(entry, problem, faults),
        }
    }
    hosts
}

fn host(text: &str) -> Result<String, String> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    match text.len() <= MAX_NAME && text.split('.').all(label) {
        true => Ok(text.to_ascii_lowercase()),
        false => Err(
            "a host name has labels of letters, digits and '-' with dots between them".to_owned(),
        ),
    }
}

/// A host name, if it can stand in a zone file.
pub fn relay_host(text: &str) -> Result<String, ServiceFault> {
    host(text).map_err(ServiceFault)
}

fn dht(dictionary: &Dictionary, faults: &mut Faults) -> Option<Dht> {
    let mut read = |key: &str, read: fn(&str) -> Result<String, String>| {
        let entry = dictionary.get(key)?;
        let value = text(entry).and_then(read);
        value.map_err(|problem| tell(entry, problem, faults)).ok()
    };
    let (named, config) = (read("dht", name), read("dht.config", document));
    Some(Dht {
        name: named?,
        config,
    })
}

fn name(text: &str) -> Result<String, String> {
    let letters = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    match (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(letters) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "the name of a DHT has 1 to {MAX_NAME} letters, digits, '-', '_' and '.'"
        )),
    }
}

fn tracker(text: &str) -> Result<String, String> {
    uri(text, &["udp", "http", "https"]).map(str::to_owned)
}

fn document(text: &str) -> Result<String, String> {
    uri(text, &["http", "https"]).map(str::to_owned)
}

fn tell(entry: &Entry, problem: String, faults: &mut Faults) {
    let key = shown(&entry.key);
    faults.add(Some(entry.line), FaultKind::Service { key, problem });
}

fn text(entry: &Entry) -> Result<&str, String> {
    std::str::from_utf8(&entry.value).map_err(|_| "it is not UTF-8".to_owned())
}

fn turn_server(text: &str) -> Result<TurnServer, String> {
    let mut words = text.split_ascii_whitespace();
    let found = uri(words.next().unwrap_or_default(), &["turn", "turns"])?;
    let credentials = match (words.next(), words.next(), words.next()) {
        (None, ..) => None,
        (Some(user), Some(password), None) if user.len().max(password.len()) <= MAX_CREDENTIAL => {
            Some((user.to_owned(), password.to_owned()))
        }
        _ => return Err("it reads <uri>[ <user> <password>]".to_owned()),
    };
    Ok(TurnServer {
        uri: found.to_owned(),
        credentials,
    })
}

fn uri<'a>(text: &'a str, schemes: &[&str]) -> Result<&'a str, String> {
    let known = text
        .split_once(':')
        .is_some_and(|(scheme, rest)| !rest.is_empty() && schemes.contains(&scheme));
    match known && text.len() <= MAX_URI && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(text),
        false => Err(format!(
            "it is not a URI of at most {MAX_URI} characters that starts with {}:",
            schemes.join(": or ")
        )),
    }
}
