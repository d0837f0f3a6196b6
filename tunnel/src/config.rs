//! The configuration file: TOML, every key optional and named like its flag, unknown keys refused with their line.

use std::io;
use std::path::Path;

use serde::Deserialize;

use crate::Error;
use crate::value::{
    AbsolutePath, InterfaceName, Listen, Mtu, Number, PeerDigit, PeerEndpoint, Text, ZoneText,
};

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
    /// `listen = ["192.0.2.1:8737"]`
    pub listen: Vec<Text<Listen>>,
    /// `peer = ["ADDRESS@192.0.2.1:8737"]`
    pub peer: Vec<Text<PeerEndpoint>>,
    /// `zone = "2a"`
    pub zone: Option<Text<ZoneText>>,
    /// `peer-id = 1`
    pub peer_id: Option<Number<PeerDigit>>,
    /// `control = "/run/anode/control.sock"`
    pub control: Option<Text<AbsolutePath>>,
    /// `log = "info"`: a level, or `target=level,…`
    pub log: Option<String>,
    /// `[lan]`
    pub lan: Lan,
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
        toml::from_str(text).map_err(|error| toml_error(&error, text, path))
    }

    /// The configuration of a command: `explicit` (`--config`), or the system's file where `system` says that it counts.
    /// Whoever may not read the system's file goes without it: the node itself runs with a user who may.
    pub fn find(explicit: Option<&Path>, system: bool) -> Result<Self, Error> {
        match explicit {
            Some(path) => Self::load(path),
            None if system => Self::system(Path::new(SYSTEM_CONFIG)),
            None => Ok(Self::default()),
        }
    }

    fn system(path: &Path) -> Result<Self, Error> {
        match std::fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            _ => Self::load(path),
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

/// One line for an error of the TOML reader, with file and line.
pub(crate) fn toml_error(error: &toml::de::Error, text: &str, path: &Path) -> Error {
    let place = match error.span() {
        Some(span) => {
            let before = &text.as_bytes()[..span.start.min(text.len())];
            let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
            format!("{}:{line}", path.display())
        }
        None => path.display().to_string(),
    };
    // serde says "field" for what a reader of TOML calls a key.
    let message = error
        .message()
        .replace("unknown field", "unknown key")
        .replace('\n', " ");
    Error::invalid(place, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> String {
        let error = Config::parse(text, Path::new("/x/anode.toml")).expect_err(text);
        assert_eq!(error.exit_status(), 2, "{text}");
        error.to_string()
    }

    #[test]
    fn every_key_is_optional_and_lan_is_on() {
        let config = Config::parse("", Path::new("x")).unwrap();
        assert_eq!(config, Config::default());
        assert!(config.lan.enabled);
    }

    #[test]
    fn keys_are_named_like_the_flags() {
        let text = r#"
            name = "net7"
            mtu = 1400
            no-tun = true
            listen = ["192.0.2.1:8737", "udp://[::]:0"]
            zone = "2a"
            peer-id = 3
            control = "/run/anode/c.sock"
            log = "debug"
            [lan]
            enabled = false
        "#;
        let config = Config::parse(text, Path::new("x")).unwrap();
        assert_eq!(config.name.unwrap().0.0, "net7");
        assert_eq!(config.mtu.unwrap().0, Mtu(1400));
        assert_eq!(config.no_tun, Some(true));
        assert_eq!(config.listen[1].0.0, "[::]:0".parse().unwrap());
        assert_eq!(config.zone.unwrap().0.0, anode_wire::Zone(0x2a));
        assert_eq!(config.peer_id.unwrap().0.0.get(), 3);
        assert_eq!(config.control.unwrap().0.0, Path::new("/run/anode/c.sock"));
        assert_eq!(config.log.as_deref(), Some("debug"));
        assert!(!config.lan.enabled);
    }

    #[test]
    fn a_bad_file_is_refused_with_its_line_and_the_value() {
        let cases: &[(&str, &str, &str)] = &[
            ("nmae = \"x\"", ":1: ", "unknown key `nmae`"),
            ("\n\nmtu = 1280\nfoo = 1\n", ":4: ", "unknown key `foo`"),
            ("[lan]\nenabeld = true\n", ":2: ", "unknown key `enabeld`"),
            (
                "[security]\nplain = \"allow\"\n",
                ":1: ",
                "unknown key `security`",
            ),
            ("mtu = 1279\n", ":1: ", "mtu 1279: use 1280 to 65535"),
            ("mtu = 65536\n", ":1: ", "mtu 65536"),
            ("mtu = \"1280\"\n", ":1: ", "invalid type: string \"1280\""),
            ("\nname = \"averylonginterface\"\n", ":2: ", "has 18 bytes"),
            ("name = \"a/b\"\n", ":1: ", "\"a/b\""),
            ("peer-id = 16\n", ":1: ", "peer id 16: use 1 to 15"),
            ("zone = \"123456789\"\n", ":1: ", "zone \"123456789\""),
            ("zone = 42\n", ":1: ", "expected a text in quotes"),
            (
                "listen = [\n  \"192.0.2.1:1\",\n  \"192.0.2.1\",\n]\n",
                ":3: ",
                "the port is missing",
            ),
            (
                "listen = [\"tcp://192.0.2.1:1\"]\n",
                ":1: ",
                "transport tcp is not supported yet: use udp://",
            ),
            ("peer = [\"nobody\"]\n", ":1: ", "write ADDRESS@ENDPOINT"),
            (
                "control = \"run/x\"\n",
                ":1: ",
                "write a path from the root",
            ),
            ("mtu = \n", ":1: ", ""),
            ("[lan\nenabled = true\n", ":1: ", ""),
            ("log = \"a\"\nlog = \"b\"\n", ":2: ", "duplicate key"),
        ];
        for (text, line, part) in cases {
            let message = message(text);
            let place = format!("/x/anode.toml{line}");
            assert!(message.starts_with(&place), "{text:?} gave {message:?}");
            assert!(message.contains(part), "{text:?} gave {message:?}");
            assert!(!message.contains('\n'), "{message:?}");
        }
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
