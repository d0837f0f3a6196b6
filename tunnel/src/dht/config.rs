//! `[[dht]]`: one table for each overlay.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anode_routing::dht::{Bootstrap, Role};
use anode_routing::links::Target;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use super::applications::config::{ApplicationEntry, ForwardEntry};
use super::document::DocumentFrom;
use super::enroll::{CredentialServerEntry, is_user};
use crate::Error;
use crate::config::place;
use crate::value::{PeerEndpoint, Text, ValueError};

/// Bytes of an overlay's name: a host name's.
const MAX_NAME: usize = 253;
/// Bootstrap peers of one overlay.
const MAX_BOOTSTRAP: usize = 64;

/// One of `[[dht]]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct DhtEntry {
    /// `enabled = false`: not in this overlay, also where the zone's file names it.
    pub enabled: bool,
    /// `overlay = "a--0000002a.net"`: its name; the zone's when not given.
    pub overlay: Option<Text<OverlayName>>,
    /// `role = "peer"`, or `"client"`: one that stores nothing.
    #[serde(deserialize_with = "role")]
    pub role: RoleName,
    /// `bootstrap = ["ADDRESS@192.0.2.1:8737", "dtls://192.0.2.2:6084", "tls://192.0.2.2:6084"]`: whom to ask first,
    /// beside the zone's relays.
    #[serde(deserialize_with = "bootstrap_list")]
    pub bootstrap: Vec<Text<BootstrapAt>>,
    /// `create = true`: begin the overlay where nobody else has.
    pub create: bool,
    /// `listen = ["0.0.0.0:6084"]`: where peers are heard that come over DTLS and TLS.
    #[serde(deserialize_with = "listen_list")]
    pub listen: Vec<SocketAddr>,
    /// `shared-key-file = "FILE"`: all members know this key; links are of DTLS alone.
    pub shared_key_file: Option<PathBuf>,
    /// `config = "overlay.xml"`, a URL, or `"discover"` by the overlay's name: its configuration document, read again as it
    /// expires.
    pub config: Option<Text<DocumentFrom>>,
    /// `user = "NAME"`: for overlays whose credential server issues certificates.
    pub user: Option<Text<UserName>>,
    /// `password-file = "FILE"`: the user's password, one line.
    pub password_file: Option<PathBuf>,
    /// `[dht.credential-server]`: this node issues the overlay's certificates.
    pub credential_server: Option<CredentialServerEntry>,
    /// `[[dht.application]]`: programs of this machine that peers speak to.
    pub application: Vec<ApplicationEntry>,
    /// `[[dht.forward]]`: peers that programs of this machine speak to.
    pub forward: Vec<ForwardEntry>,
    /// `publish = false`: store no record of where this node is.
    pub publish: bool,
    /// Where the table stands.
    #[serde(skip)]
    pub place: TablePlace,
}

/// Where a table stands, for messages; no part of what it says.
#[derive(Clone, Debug, Default)]
pub struct TablePlace {
    start: usize,
    text: String,
}

impl PartialEq for TablePlace {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl fmt::Display for TablePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.text.as_str() {
            "" => f.write_str("[[dht]]"),
            text => f.write_str(text),
        }
    }
}

impl Default for DhtEntry {
    fn default() -> Self {
        Self {
            enabled: true,
            overlay: None,
            role: RoleName::Peer,
            bootstrap: Vec::new(),
            create: false,
            listen: Vec::new(),
            shared_key_file: None,
            config: None,
            user: None,
            password_file: None,
            credential_server: None,
            application: Vec::new(),
            forward: Vec::new(),
            publish: true,
            place: TablePlace::default(),
        }
    }
}

fn bootstrap_list<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<Text<BootstrapAt>>, D::Error> {
    let list: Vec<Text<BootstrapAt>> = Vec::deserialize(deserializer)?;
    match list.len() <= MAX_BOOTSTRAP {
        true => Ok(list),
        false => Err(D::Error::custom(format!(
            "more than {MAX_BOOTSTRAP} bootstrap peers"
        ))),
    }
}

/// All tables, each of which can be meant as it stands; what cannot be is told with the place of its table.
pub fn tables<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<DhtEntry>, D::Error> {
    struct Checked(DhtEntry);
    struct Table;

    impl<'de> Visitor<'de> for Table {
        type Value = Checked;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a table")
        }

        // Inside the table: an error from here has its place.
        fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Checked, M::Error> {
            let entry = DhtEntry::deserialize(MapAccessDeserializer::new(map))?;
            entry.check().map_err(M::Error::custom)?;
            Ok(Checked(entry))
        }
    }

    impl<'de> Deserialize<'de> for Checked {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_map(Table)
        }
    }

    let all: Vec<Spanned<Checked>> = Vec::deserialize(deserializer)?;
    let placed = |table: Spanned<Checked>| {
        let start = table.span().start;
        let Checked(mut entry) = table.into_inner();
        entry.place.start = start;
        entry
    };
    Ok(all.into_iter().map(placed).collect())
}

/// Gives every table its place in `text`, the file at `path`, and its files theirs.
///
/// # Errors
/// Two tables are of one overlay, as far as the file alone says it.
pub fn locate(entries: &mut [DhtEntry], text: &str, path: &Path) -> Result<(), Error> {
    let directory = path.parent().unwrap_or(Path::new(""));
    for entry in entries.iter_mut() {
        entry.place.text = place(text, entry.place.start, path);
        entry.locate(directory);
    }
    let named = |entry: &DhtEntry| entry.overlay.as_ref().map(|Text(name)| name.0.clone());
    // Without a name it is the one of its document, or else of the zone.
    let same = |one: &DhtEntry, other: &DhtEntry| match (named(one), named(other)) {
        (None, None) => one.config == other.config,
        (one, other) => one == other,
    };
    let enabled: Vec<&DhtEntry> = entries.iter().filter(|it| it.enabled).collect();
    for (number, entry) in enabled.iter().enumerate() {
        if let Some(first) = enabled[..number].iter().find(|it| same(it, entry)) {
            return Err(twice(entry, first, named(entry).as_deref()));
        }
    }
    Ok(())
}

/// A node is in each overlay once.
pub(super) fn twice(entry: &DhtEntry, first: &DhtEntry, overlay: Option<&str>) -> Error {
    let overlay = match overlay {
        Some(name) => format!("overlay {name:?}"),
        None => "the overlay of the zone, or of this document,".to_owned(),
    };
    let problem = format!(
        "[[dht]]: {overlay} stands at {} already: write one table for it, or give this one another overlay",
        first.place
    );
    Error::invalid(entry.place.to_string(), problem)
}

fn role<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RoleName, D::Error> {
    Ok(Text::deserialize(deserializer)?.0)
}

impl DhtEntry {
    /// Whom to ask first, with all places of each.
    pub fn bootstrap(&self) -> Vec<Bootstrap> {
        let mut all: Vec<Bootstrap> = Vec::new();
        for Text(at) in &self.bootstrap {
            let BootstrapAt::Anode(at) = at else {
                continue;
            };
            match all.iter_mut().find(|known| known.address == at.address) {
                Some(known) => known.places.push(at.endpoint),
                None => all.push(Bootstrap {
                    address: at.address,
                    places: vec![at.endpoint],
                }),
            }
        }
        all
    }
}

impl DhtEntry {
    /// Files are named from where the configuration is.
    fn locate(&mut self, directory: &Path) {
        let key = self.shared_key_file.take();
        self.shared_key_file = key.map(|key| directory.join(key));
        let password = self.password_file.take();
        self.password_file = password.map(|file| directory.join(file));
        if let Some(server) = &mut self.credential_server {
            server.locate(directory);
        }
        let document = self.config.take();
        self.config = document.map(|Text(from)| Text(from.relative_to(directory)));
    }

    /// A user is for an overlay's credential server, which its document names: it is looked for by the overlay's name
    /// where nothing else is said (R122).
    pub fn discover(&mut self) {
        if self.user.is_some() && self.overlay.is_some() {
            self.config.get_or_insert(Text(DocumentFrom::Discover));
        }
    }

    /// What cannot be meant, however each key is written.
    ///
    /// # Errors
    /// In words.
    pub fn check(&self) -> Result<(), &'static str> {
        self.check_applications()?;
        let empty =
            |file: &Option<PathBuf>| file.as_ref().is_some_and(|it| it.as_os_str().is_empty());
        if empty(&self.shared_key_file) {
            return Err("shared-key-file is empty: name a file");
        }
        if empty(&self.password_file) {
            return Err("password-file is empty: name a file");
        }
        let users = self
            .credential_server
            .as_ref()
            .map(|it| it.users_file.clone());
        if empty(&users) {
            return Err("users-file is empty: name a file");
        }
        let server = self.credential_server.is_some();
        match (&self.user, &self.password_file) {
            (Some(_), None) => Err("user needs a password-file"),
            (None, Some(_)) => Err("password-file needs a user"),
            (Some(_), _) if self.overlay.is_none() && self.config.is_none() => {
                Err("user needs the overlay's name, or its config")
            }
            (Some(_), Some(_)) if server => {
                Err("the credential server needs no user: it has a certificate of its own")
            }
            _ if server && self.shared_key_file.is_some() => {
                Err("with a shared key nobody needs certificates: leave out one of the two")
            }
            _ if server && self.config.is_some() => {
                Err("the credential server makes the overlay's document itself: leave out config")
            }
            _ if server && self.listen.is_empty() => Err(
                "a credential server's overlay has links of its own: add listen = [\"IP:6084\"]",
            ),
            _ => Ok(()),
        }
    }

    /// Whether it has links of RELOAD's own, beside sealed sessions.
    pub fn has_own_links(&self) -> bool {
        !self.listen.is_empty() || self.shared_key_file.is_some() || !self.targets().is_empty()
    }

    /// Bootstrap peers that are asked over DTLS and TLS.
    pub fn targets(&self) -> Vec<Target> {
        let all = self.bootstrap.iter().filter_map(|Text(at)| match at {
            BootstrapAt::Own(target) => Some(*target),
            BootstrapAt::Anode(_) => None,
        });
        all.collect()
    }
}

/// Addresses to listen at.
const MAX_LISTEN: usize = 8;

pub(super) fn listen_list<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<SocketAddr>, D::Error> {
    let list: Vec<Text<At>> = Vec::deserialize(deserializer)?;
    let list: Vec<SocketAddr> = list.into_iter().map(|Text(At(at))| at).collect();
    if let Some(at) = list.iter().find(|at| at.ip().is_multicast()) {
        return Err(D::Error::custom(format!(
            "listen \"{at}\": name an address of this machine, not a group"
        )));
    }
    match list.len() <= MAX_LISTEN {
        true => Ok(list),
        false => Err(D::Error::custom(format!(
            "more than {MAX_LISTEN} addresses to listen at"
        ))),
    }
}

/// `IP:PORT`.
pub(super) struct At(pub SocketAddr);

impl FromStr for At {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        text.parse().map(Self).map_err(|_| {
            ValueError::new(format!(
                "{text:?}: write IP:PORT, such as 192.0.2.1:6084 or [2001:db8::1]:6084"
            ))
        })
    }
}

/// `peer` or `client`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RoleName {
    /// It stores and routes.
    #[default]
    Peer,
    /// It only asks.
    Client,
}

impl FromStr for RoleName {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text {
            "peer" => Ok(Self::Peer),
            "client" => Ok(Self::Client),
            _ => Err(ValueError::new(format!(
                "role {text:?}: write \"peer\" or \"client\""
            ))),
        }
    }
}

impl From<RoleName> for Role {
    fn from(role: RoleName) -> Self {
        match role {
            RoleName::Peer => Self::Peer,
            RoleName::Client => Self::Client,
        }
    }
}

/// Name of a user of a credential server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UserName(pub String);

impl FromStr for UserName {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match is_user(text) {
            true => Ok(Self(text.to_owned())),
            false => Err(ValueError::new(format!(
                "user {text:?}: a name has 1 to 64 letters, digits, '-', '.', '_' and '+'"
            ))),
        }
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Name of an overlay.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OverlayName(pub String);

impl FromStr for OverlayName {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let letters = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        match (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(letters) {
            true => Ok(Self(name)),
            false => Err(ValueError::new(format!(
                "overlay {text:?}: a name has 1 to {MAX_NAME} letters, digits, '-', '_' and '.'"
            ))),
        }
    }
}

/// A bootstrap peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BootstrapAt {
    /// `ADDRESS@ENDPOINT`: inside a sealed session.
    Anode(PeerEndpoint),
    /// `dtls://IP:PORT`, `tls://IP:PORT`.
    Own(Target),
}

impl FromStr for BootstrapAt {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        type At = fn(SocketAddr) -> Target;
        for (scheme, target) in [
            ("dtls://", Target::Dtls as At),
            ("tls://", Target::Tls as At),
        ] {
            let Some(at) = text.strip_prefix(scheme) else {
                continue;
            };
            let at = at.parse().ok().filter(|at: &SocketAddr| at.port() != 0);
            let wrong = || ValueError::new(format!("bootstrap {text:?}: write {scheme}IP:PORT"));
            return at.map(|at| Self::Own(target(at))).ok_or_else(wrong);
        }
        if text.contains("://") {
            return Err(ValueError::new(format!(
                "bootstrap {text:?}: write ADDRESS@ENDPOINT, dtls://IP:PORT or tls://IP:PORT"
            )));
        }
        text.parse().map(Self::Anode)
    }
}

impl fmt::Display for BootstrapAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anode(at) => write!(f, "{}@{}", at.address, at.endpoint),
            Self::Own(Target::Dtls(at)) => write!(f, "dtls://{at}"),
            Self::Own(Target::Tls(at)) => write!(f, "tls://{at}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::config::cases::refused;
    use std::path::Path;

    const ADDRESS: &str = "aeaaaaaaaaaag2yx2hzoclcci74lzzxfmoseb4txan6yclplgoqpjijzixmjrquw";

    #[test]
    fn a_table_says_all_and_nothing_must_be_said() {
        let config = Config::parse("[[dht]]\n", Path::new("x")).unwrap();
        assert_eq!(config.dht, [DhtEntry::default()]);
        assert!(config.dht[0].enabled && config.dht[0].publish && !config.dht[0].create);
        let text = format!(
            "[[dht]]\nenabled = false\noverlay = \"Home.Example.\"\nrole = \"client\"\n\
             bootstrap = [\"{ADDRESS}@192.0.2.1:8737\", \"{ADDRESS}@[2001:db8::1]:8737\"]\n\
             create = true\npublish = false\n[[dht]]\n[[dht]]\noverlay = \"home.example\"\n\
             [[dht]]\noverlay = \"work.example\"\n[[dht]]\nconfig = \"other.xml\"\n"
        );
        // An overlay stands once, but for tables that are switched off.
        let config = Config::parse(&text, Path::new("x")).unwrap();
        assert_eq!(config.dht.len(), 5);
        assert_eq!(config.dht[4].place.to_string(), "x:13");
        let first = &config.dht[0];
        assert!(!first.enabled && first.create && !first.publish);
        assert_eq!(first.overlay.as_ref().unwrap().0.0, "home.example");
        assert_eq!(first.role, RoleName::Client);
        let bootstrap = first.bootstrap();
        assert_eq!((bootstrap.len(), bootstrap[0].places.len()), (1, 2));
        assert!(!first.has_own_links());
    }

    #[test]
    fn links_of_its_own_are_asked_for() {
        let text = "[[dht]]\nlisten = [\"192.0.2.1:6084\", \"[2001:db8::1]:6084\"]\n\
             bootstrap = [\"dtls://192.0.2.2:1\", \"tls://[2001:db8::2]:2\"]\nshared-key-file = \"key\"\n";
        let config = Config::parse(text, Path::new("/etc/anode/anode.toml")).unwrap();
        let entry = &config.dht[0];
        assert_eq!((entry.listen.len(), entry.bootstrap().len()), (2, 0));
        let at = |text: &str| text.parse().unwrap();
        let expected = [
            Target::Dtls(at("192.0.2.2:1")),
            Target::Tls(at("[2001:db8::2]:2")),
        ];
        assert_eq!(entry.targets(), expected);
        let key = entry.shared_key_file.as_deref();
        assert_eq!(key, Some(Path::new("/etc/anode/key")));
        assert_eq!(entry.bootstrap[0].0.to_string(), "dtls://192.0.2.2:1");
    }

    #[test]
    fn a_wrong_table_is_refused_with_its_line() {
        let many = format!(
            "[[dht]]\nbootstrap = [{}]\n",
            format!("\"{ADDRESS}@192.0.2.1:1\",").repeat(65)
        );
        let cases = [
            (
                "[[dht]]\nrole = \"server\"\n",
                ":2: ",
                "write \"peer\" or \"client\"",
            ),
            ("[[dht]]\nrole = true\n", ":2: ", "text in quotes"),
            ("[[dht]]\nenabled = \"yes\"\n", ":2: ", "boolean"),
            ("[[dht]]\ncreate = 1\n", ":2: ", "boolean"),
            ("[[dht]]\npublish = \"no\"\n", ":2: ", "boolean"),
            ("[[dht]]\nconfig = \"\"\n", ":2: ", "empty"),
            ("[[dht]]\nconfig = \"ftp://x/y\"\n", ":2: ", "http"),
            (
                "[[dht]]\nlisten = [\"host:1\"]\n",
                ":2: ",
                "\"host:1\": write IP:PORT",
            ),
            (
                "[[dht]]\nlisten = [\"224.0.0.1:5\"]\n",
                ":2: ",
                "of this machine",
            ),
            ("[[dht]]\nlisten = \"192.0.2.1:5\"\n", ":2: ", "a list"),
            (
                "[[dht]]\nbootstrap = [\"http://192.0.2.1:5\"]\n",
                ":2: ",
                "dtls://IP:PORT or",
            ),
            (
                "[[dht]]\nbootstrap = [\"dtls://192.0.2.1:0\"]\n",
                ":2: ",
                "dtls://IP:PORT",
            ),
            ("[[dht]]\nuser = \"a b\"\n", ":2: ", "letters"),
            // What does not go together is told with the place of its table.
            (
                "[[dht]]\n[[dht]]\nuser = \"a\"\n",
                ":2: ",
                "needs a password-file",
            ),
            ("[[dht]]\npassword-file = \"x\"\n", ":1: ", "needs a user"),
            (
                "[[dht]]\nshared-key-file = \"\"\n",
                ":1: ",
                "shared-key-file is empty",
            ),
            (
                "[[dht]]\n[dht.credential-server]\nusers-file = \"\"\n",
                ":1: ",
                "users-file is empty",
            ),
            (
                "[[dht]]\n[dht.credential-server]\nusers-file = \"u\"\ndays = 0\n",
                ":4: ",
                "0.0001 to 3650",
            ),
            (
                "[[dht]]\n[dht.credential-server]\nusers-file = \"u\"\nlisten = [\"x\"]\n",
                ":4: ",
                "IP:PORT",
            ),
            ("[[dht]]\noverlay = \"a b\"\n", ":2: ", "\"a b\""),
            ("[[dht]]\noverlay = \"\"\n", ":2: ", "1 to 253"),
            (
                "[[dht]]\n\nbootstrap = [\"x\"]\n",
                ":3: ",
                "ADDRESS@ENDPOINT",
            ),
            (
                "[[dht]]\nbootstrap = [\"dtls://peer.example:1\"]\n",
                ":2: ",
                "dtls://IP:PORT",
            ),
            (
                "[[dht]]\noverlay = \"a\"\n[[dht]]\noverlay = \"b\"\n\n[[dht]]\noverlay = \"A.\"\n",
                ":6: ",
                "overlay \"a\" stands at /x/anode.toml:1 already",
            ),
            (
                "[[dht]]\n[[dht]]\ncreate = true\n",
                ":2: ",
                "the overlay of the zone, or of this document, stands at /x/anode.toml:1 already",
            ),
            (
                "mtu = 1280\n[[dht]]\nconfig = \"a.xml\"\n[[dht]]\nconfig = \"a.xml\"\n",
                ":4: ",
                "stands at /x/anode.toml:2 already",
            ),
            ("[[dht]]\nfoo = 1\n", ":2: ", "unknown key `foo`"),
            ("[dht]\nenabled = true\n", ":1: ", "a list"),
            (many.as_str(), ":2: ", "more than 64"),
        ];
        refused(&cases);
    }
}
