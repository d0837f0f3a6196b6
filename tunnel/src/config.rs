//! The configuration file: TOML, every key optional and named like its flag, unknown keys refused with their line.

#[cfg(test)]
pub(crate) mod cases;
pub mod i2p;
pub mod interface;
#[cfg(test)]
mod reference;
pub mod turn;
pub mod turn_client;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use crate::Error;
use crate::dht::config::DhtEntry;
use crate::named::PeerText;
use crate::names::Given;
use crate::policy::Inbound;
use crate::relay::{Relay, RelayEntry};
use crate::tracker::{Rendezvous, TrackerRole};
use crate::value::{
    AbsolutePath, AddressText, DnsServer, InterfaceName, Listen, Loopback, Mtu, Number, PeerDigit,
    PeerName, Text, ZoneText,
};
use crate::zone::ZoneFrom;
use crate::zone::others::OtherZone;
use interface::{GivenTun, Routes};

/// Read when it exists and no `--config` is given, for the system's state directory only.
pub const SYSTEM_CONFIG: &str = "/etc/anode/anode.toml";

/// A file of more bytes than this is none of ours.
const MAX_BYTES: u64 = 1 << 20;

/// What a configuration file says; `None` and empty where it says nothing.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// `name = "anode0"`: the interface.
    pub name: Option<Text<InterfaceName>>,
    /// `mtu = 1280`
    pub mtu: Option<Number<Mtu>>,
    /// `no-tun = true`
    pub no_tun: Option<bool>,
    /// `tun = "net0"`, `tun = "fd:3"`: an interface that is used as it is
    pub tun: Option<Text<GivenTun>>,
    /// `routes = "peers"`: another node of this machine has the rest
    pub routes: Option<Routes>,
    /// `listen = ["192.0.2.1:8737"]`
    pub listen: Vec<Text<Listen>>,
    /// `peer = ["ADDRESS@192.0.2.1:8737"]`
    pub peer: Vec<Text<PeerText>>,
    /// `zone = "2a"`
    pub zone: Option<Text<ZoneText>>,
    /// `zone-file = "zone"`: a path from the configuration's directory, a URL, or `none`
    pub zone_file: Option<Text<ZoneFrom>>,
    /// `peer-id = 1`
    pub peer_id: Option<Number<PeerDigit>>,
    /// `state = "relay-0"`: the state directory, from where the file is. Only in a file that `--config` names.
    pub state: Option<PathBuf>,
    /// `control = "/run/anode/control.sock"`
    pub control: Option<Text<AbsolutePath>>,
    /// `log = "info"`: a level, or `target=level,…`
    pub log: Option<String>,
    /// `[lan]`
    pub lan: Lan,
    /// `[inbound]`
    pub inbound: Inbound,
    /// `[security]`
    pub security: Security,
    /// `[dns]`
    pub dns: Dns,
    /// `[names]`: `box = "ADDRESS"`, for peers that are not trusted
    pub names: BTreeMap<Text<PeerName>, Text<AddressText>>,
    /// `[relay]`: relay for others
    pub relay: Option<Relay>,
    /// `[[dht]]`: overlays of RELOAD
    #[serde(deserialize_with = "crate::dht::config::tables")]
    pub dht: Vec<DhtEntry>,
    /// `[[relays]]`: relays of our zone, where no zone file names them
    pub relays: Vec<RelayEntry>,
    /// `[[zones]]`: other zones, whose relays lead to their machines
    pub zones: Vec<OtherZone>,
    /// `[i2p]`: off when it is not there
    pub i2p: Option<Spanned<i2p::I2p>>,
    /// `[rendezvous]`: meet peers at trackers
    pub rendezvous: Option<Rendezvous>,
    /// `[tracker]`: be one
    pub tracker: Option<TrackerRole>,
    /// `[proxy]`
    pub proxy: Proxy,
    /// `[turn]`: a TURN server
    pub turn: Option<turn::Turn>,
    /// `[turn-client]`: TURN servers that are used
    pub turn_client: turn_client::TurnClient,
    /// `[ethernet]`
    pub ethernet: Ethernet,
    /// `[portmap]`
    pub portmap: Portmap,
}

/// The section `[portmap]`: a port that the gateway keeps open (PCP, NAT-PMP, UPnP IGD).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Portmap {
    /// `enabled = false`: the gateway is not asked.
    pub enabled: bool,
}

impl Default for Portmap {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// The section `[dns]`: names for every program on this machine.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Dns {
    /// `enabled = false`: nobody answers.
    pub enabled: bool,
    /// `listen = "127.8.7.37:53"`: a loopback address.
    pub listen: Option<Text<Loopback>>,
    /// `name = "laptop"`: what this machine calls itself; its host name when not given.
    pub name: Option<Text<PeerName>>,
    /// `servers = ["192.0.2.53"]`: asked for TXT records instead of the system's.
    pub servers: Vec<Text<DnsServer>>,
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            enabled: true,
            listen: None,
            name: None,
            servers: Vec::new(),
        }
    }
}

impl Config {
    /// `[names]`.
    pub fn given_names(&self) -> BTreeMap<PeerName, anode_wire::Address> {
        let entry =
            |(name, address): (&Text<PeerName>, &Text<AddressText>)| (name.0.clone(), address.0.0);
        self.names.iter().map(entry).collect()
    }
}

/// The section `[ethernet]`: packets in raw frames, between machines of one link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Ethernet {
    /// `interfaces = ["eth0"]`: where frames are taken; those of `eth://` peers are without being named
    pub interfaces: Vec<Text<InterfaceName>>,
}

/// The section `[proxy]`: how connections get out of a network that lets nothing else out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Proxy {
    /// `http = "http://192.0.2.1:3128"`; `"off"`: none, whatever the environment says
    pub http: Option<String>,
    /// `except = ["192.0.2.0/24", "example.com"]`: dialled without it
    pub except: Option<Vec<String>>,
}

/// The section `[security]` (docs/protocol.md): what may go unsealed, and whether keys must be post-quantum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Security {
    /// `plain = "deny"`
    pub plain: Plain,
    /// `pq = "prefer"`
    pub pq: PostQuantum,
}

/// `[security] plain`: traffic without a sealed session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Plain {
    /// None.
    #[default]
    Deny,
    /// With peers that speak nothing but the draft.
    Allow,
    /// With everybody: never seals. For measuring, and for conformance with the draft.
    Only,
}

impl Plain {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Allow => "allow",
            Self::Only => "only",
        }
    }
}

/// `[security] pq`: ML-KEM-768 beside the curve (Q13, Q14).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PostQuantum {
    /// With every peer that can.
    #[default]
    Prefer,
    /// Nothing goes to a peer that cannot.
    Require,
    /// Never.
    Off,
}

impl PostQuantum {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::Off => "off",
        }
    }
}

/// The section `[lan]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Lan {
    /// Announce this node on the LAN, and listen to others.
    pub enabled: bool,
}

impl Default for Lan {
    fn default() -> Self {
        Self { enabled: true }
    }
}

impl Config {
    /// Reads `path`; the error says the line.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let text = read(path).map_err(|error| {
            Error::invalid(
                path.display().to_string(),
                format!("cannot read the configuration: {error}"),
            )
        })?;
        Self::parse(&text, path)
    }

    /// Reads `text`; `path` stands in messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Error> {
        let mut config: Self =
            toml::from_str(text).map_err(|error| toml_error(&error, text, path))?;
        config.inbound.locate(text, path)?;
        if let Some(i2p) = &mut config.i2p {
            let span = i2p.span();
            i2p.get_mut().locate(span, text, path)?;
        }
        if let Some(turn) = &config.turn {
            turn.check(path)?;
        }
        config.turn_client.check(path)?;
        let directory = path.parent().unwrap_or(Path::new(""));
        config.zone_file = config
            .zone_file
            .map(|from| Text(from.0.relative_to(directory)));
        if let Some(relay) = &mut config.relay {
            relay.tls = relay.tls.take().map(|tls| tls.relative_to(directory));
        }
        crate::dht::config::locate(&mut config.dht, text, path)?;
        for zone in &mut config.zones {
            zone.locate(directory);
        }
        config.inbound.names = Given::others(config.given_names());
        Ok(config)
    }
}

/// Where the configuration is, to be read again when the policy is reloaded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ConfigSource {
    /// `--config`
    File(PathBuf),
    /// The system's file, if it exists.
    System(PathBuf),
    /// None: another state directory than the system's.
    Nothing,
}

impl ConfigSource {
    /// `explicit` (`--config`), or the system's file where `system` says that it counts. Absolute, for later reads.
    pub fn new(explicit: Option<&Path>, system: bool) -> Self {
        match explicit {
            Some(path) => Self::File(std::path::absolute(path).unwrap_or_else(|_| path.into())),
            None if system => Self::System(SYSTEM_CONFIG.into()),
            None => Self::Nothing,
        }
    }

    /// Reads it.
    pub fn read(&self) -> Result<Config, Error> {
        match self {
            Self::File(path) => Config::load(path),
            Self::System(path) => match std::fs::metadata(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Config::default()),
                _ => Config::load(path),
            },
            Self::Nothing => Ok(Config::default()),
        }
    }

    /// The state directory that the file names: only one that was named itself may do so, since the system's file is read
    /// because of the state directory.
    pub fn state(&self) -> Result<Option<PathBuf>, Error> {
        let Self::File(path) = self else {
            return Ok(None);
        };
        let directory = path.parent().unwrap_or(path);
        Ok(Config::load(path)?.state.map(|state| directory.join(state)))
    }

    /// The file, if there is to be one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path) | Self::System(path) => Some(path),
            Self::Nothing => None,
        }
    }
}

fn read(path: &Path) -> io::Result<String> {
    let length = std::fs::metadata(path)?.len();
    if length > MAX_BYTES {
        return Err(io::Error::other(format!(
            "{length} bytes: at most {MAX_BYTES}"
        )));
    }
    std::fs::read_to_string(path)
}

/// `FILE:LINE` of the byte at `start` of `text`.
pub(crate) fn place(text: &str, start: usize, path: &Path) -> String {
    let before = &text.as_bytes()[..start.min(text.len())];
    let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
    format!("{}:{line}", path.display())
}

/// One line for an error of the TOML reader, with file and line.
pub(crate) fn toml_error(error: &toml::de::Error, text: &str, path: &Path) -> Error {
    let place = match error.span() {
        Some(span) => place(text, span.start, path),
        None => path.display().to_string(),
    };
    let message = error.message().replace('\n', " ");
    Error::invalid(place, in_words(&message))
}

/// What serde says of keys and types, in the words of a reader of TOML.
fn in_words(message: &str) -> String {
    let message = message
        .replace("unknown field", "unknown key")
        .replace("missing field", "missing key");
    let message = message.replace("wanted string or table", "expected a text in quotes");
    let Some((before, wanted)) = message.rsplit_once("expected ") else {
        return message;
    };
    let wanted = match wanted {
        "a sequence" => "a list in [ ]",
        "a map" => "a table in { }",
        "a string" | "path string" => "a text in quotes",
        "i64" | "u64" | "u32" | "u16" | "u8" => "a whole number",
        "a tuple of size 2" => "[FIRST, LAST]",
        _ if wanted.starts_with("struct ") => "a table in { }",
        other => other,
    };
    format!("{before}expected {wanted}")
}

#[cfg(test)]
mod tests {
    use super::cases::{Case, refused};
    use super::*;
    use crate::policy::Otherwise;

    #[test]
    fn every_key_is_optional_and_lan_is_on() {
        let config = Config::parse("", Path::new("x")).unwrap();
        assert_eq!(config, Config::default());
        assert!(config.lan.enabled && config.dns.enabled);
    }

    #[test]
    fn keys_are_named_like_the_flags() {
        let text = r#"
            name = "net7"
            mtu = 1400
            no-tun = true
            listen = ["192.0.2.1:8737", "udp://[::]:0"]
            zone = "2a"
            zone-file = "../zones/home"
            peer-id = 3
            control = "/run/anode/c.sock"
            log = "debug"
            [lan]
            enabled = false
            [inbound]
            default = "drop"
            allow = ["any tcp/22"]
            [security]
            plain = "only"
            pq = "off"
            [dns]
            enabled = false
            listen = "127.1.2.3"
            name = "laptop"
            servers = ["192.0.2.53", "[2001:db8::53]:5353"]
            [names]
            Box = "aeaaaaaaaaaag2yx2hzoclcci74lzzxfmoseb4txan6yclplgoqpjijzixmjrquw"
        "#;
        let config = Config::parse(text, Path::new("/etc/anode/x")).unwrap();
        let zone_file = ZoneFrom::Path("/etc/anode/../zones/home".into());
        assert_eq!(config.zone_file.as_ref().unwrap().0, zone_file);
        assert!(config.given_names().contains_key(&"box".parse().unwrap()));
        assert_eq!(config.name.unwrap().0.0, "net7");
        assert_eq!(config.mtu.unwrap().0, Mtu(1400));
        assert_eq!(config.no_tun, Some(true));
        assert_eq!(config.listen[1].0.0.to_string(), "udp://[::]:0");
        assert_eq!(config.zone.unwrap().0.0, anode_wire::Zone(0x2a));
        assert_eq!(config.peer_id.unwrap().0.0.get(), 3);
        assert_eq!(config.control.unwrap().0.0, Path::new("/run/anode/c.sock"));
        assert_eq!(config.log.as_deref(), Some("debug"));
        assert!(!config.lan.enabled);
        assert_eq!(config.inbound.default, Otherwise::Drop);
        assert_eq!(config.inbound.allow[0].rule.to_string(), "any tcp/22");
        let security = Security {
            plain: Plain::Only,
            pq: PostQuantum::Off,
        };
        assert_eq!(config.security, security);
        assert!(!config.dns.enabled);
        assert_eq!(
            config.dns.listen.clone().unwrap().0.0,
            "127.1.2.3:53".parse().unwrap()
        );
        assert_eq!(config.dns.name.clone().unwrap().0.as_str(), "laptop");
        assert_eq!(
            config.dns.servers[1].0.0,
            "[2001:db8::53]:5353".parse().unwrap()
        );
    }

    #[test]
    fn a_bad_file_is_refused_with_its_line_and_the_value() {
        let many = format!("[inbound]\nallow = [{}]\n", "\"any tcp/1\",".repeat(1025));
        let cases: &[Case<'_>] = &[
            (&many, ":2: ", "more than 1024 rules"),
            ("nmae = \"x\"", ":1: ", "unknown key `nmae`"),
            ("\n\nmtu = 1280\nfoo = 1\n", ":4: ", "unknown key `foo`"),
            ("[lan]\nenabeld = true\n", ":2: ", "unknown key `enabeld`"),
            (
                "[security]\nplain = \"maybe\"\n",
                ":2: ",
                "unknown variant `maybe`, expected one of `deny`, `allow`, `only`",
            ),
            ("[security]\npq = true\n", ":2: ", ""),
            (
                "[inbound]\ndefault = \"allow\"\n",
                ":2: ",
                "unknown variant `allow`, expected `reject` or `drop`",
            ),
            (
                "[inbound]\nallow = [\n  \"any tcp/22\",\n  \"any tcp/ssh\",\n]\n",
                ":4: ",
                "\"ssh\" is no port",
            ),
            (
                "[inbound]\nallow = [\"any tcp/80\", \"zone:2g tcp/22\"]\n",
                ":2: ",
                "zone \"2g\": use 1 to 8 hex digits",
            ),
            ("zone-file = \"\"\n", ":1: ", "zone-file is empty"),
            ("zone-file = \"ftp://x/z\"\n", ":1: ", "use http or https"),
            (
                "[inbound]\nallow = \"any tcp/22\"\n",
                ":2: ",
                "expected a list in [ ]",
            ),
            ("[inbound]\nallow = [22]\n", ":2: ", "a text in quotes"),
            (
                "[inbound]\n\ndeny = [\"any icmp\"]\n",
                ":3: ",
                "always answered",
            ),
            ("[inbound]\nreject = []\n", ":2: ", "unknown key `reject`"),
            ("mtu = 1279\n", ":1: ", "mtu 1279: use 1280 to 65535"),
            ("mtu = 65536\n", ":1: ", "mtu 65536"),
            ("mtu = \"1280\"\n", ":1: ", "invalid type: string \"1280\""),
            ("\nname = \"averylonginterface\"\n", ":2: ", "has 18 bytes"),
            ("name = \"a/b\"\n", ":1: ", "\"a/b\""),
            ("tun = \"fd:0\"\n", ":1: ", "a number from 3"),
            ("routes = \"some\"\n", ":1: ", "expected `all` or `peers`"),
            ("peer-id = 16\n", ":1: ", "peer id 16: use 1 to 15"),
            ("zone = \"123456789\"\n", ":1: ", "zone \"123456789\""),
            ("zone = 42\n", ":1: ", "expected a text in quotes"),
            (
                "listen = [\n  \"192.0.2.1:1\",\n  \"192.0.2.1\",\n]\n",
                ":3: ",
                "the port is missing",
            ),
            (
                "listen = [\"tls://192.0.2.1:1\"]\n",
                ":1: ",
                "use udp://IP:PORT or tcp://IP:PORT",
            ),
            ("peer = [\"nobody\"]\n", ":1: ", "write ADDRESS@ENDPOINT"),
            (
                "control = \"run/x\"\n",
                ":1: ",
                "write a path from the root",
            ),
            (
                "[dns]\nlisten = \"192.0.2.1:53\"\n",
                ":2: ",
                "only programs of this machine are answered",
            ),
            (
                "[dns]\nlisten = \"127.0.0.1:0\"\n",
                ":2: ",
                "a port above 0",
            ),
            ("[dns]\nlisten = \"localhost\"\n", ":2: ", "127.8.7.37"),
            (
                "[dns]\nservers = [\"dns.example\"]\n",
                ":2: ",
                "IP or IP:PORT",
            ),
            ("[dns]\nname = \"a.b\"\n", ":2: ", "name \"a.b\""),
            ("[names]\n\"a.b\" = \"x\"\n", ":2: ", "name \"a.b\""),
            ("[names]\nbox = \"x\"\n", ":2: ", "address \"x\""),
            (
                "[[zones]]\nzone-file = \"z\"\n",
                ":1: ",
                "missing key `zone`",
            ),
            ("mtu = \n", ":1: ", ""),
            ("[lan\nenabled = true\n", ":1: ", ""),
            ("log = \"a\"\nlog = \"b\"\n", ":2: ", "duplicate key"),
        ];
        refused(cases);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let error = Config::load(Path::new("/nonexistent/anode.toml")).unwrap_err();
        assert_eq!(error.exit_status(), 2);
        assert!(
            error
                .to_string()
                .starts_with("/nonexistent/anode.toml: cannot read"),
            "{error}"
        );
    }
}
