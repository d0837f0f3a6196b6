//! What a zone offers beside relays: our entries `turn.*`, `tracker.*`, `dht` and `dht.config` (docs/protocol.md). One that
//! cannot be used is left out and told: a later version may know more kinds.
use super::dictionary::{Dictionary, Entry};
use super::{FaultKind, Faults, MAX_SERVICES, prefixed, shown};

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

/// The zone's DHT.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dht {
    /// Name of the RELOAD overlay.
    pub name: String,
    /// Where its configuration document is: http or https.
    pub config: Option<String>,
}

impl Dht {
    /// `None`: it can be no name of a DHT.
    pub(super) fn named(name: &str) -> Option<Self> {
        let letters = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        let good = (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(letters);
        good.then(|| Self {
            name: name.to_owned(),
            config: None,
        })
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Services {
    pub(super) turn: Vec<TurnServer>,
    pub(super) trackers: Vec<String>,
    pub(super) dht: Option<Dht>,
}

impl Services {
    pub(super) fn read(dictionary: &Dictionary, faults: &mut Faults) -> Self {
        Self {
            turn: list(dictionary, "turn.", faults, turn_server),
            trackers: list(dictionary, "tracker.", faults, |text| {
                uri(text, &["udp", "http", "https"]).map(str::to_owned)
            }),
            dht: dht(dictionary, faults),
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

fn dht(dictionary: &Dictionary, faults: &mut Faults) -> Option<Dht> {
    let named = dictionary.get("dht").and_then(|entry| {
        let name = text(entry).and_then(|name| {
            Dht::named(name).ok_or_else(|| {
                format!("the name of a DHT has 1 to {MAX_NAME} letters, digits, '-', '_' and '.'")
            })
        });
        name.map_err(|problem| tell(entry, problem, faults)).ok()
    });
    let config = dictionary.get("dht.config").and_then(|entry| {
        let found = text(entry).and_then(|text| uri(text, &["http", "https"]));
        found
            .map(str::to_owned)
            .map_err(|problem| tell(entry, problem, faults))
            .ok()
    });
    Some(Dht { config, ..named? })
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
