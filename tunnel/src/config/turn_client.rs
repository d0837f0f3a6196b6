//! The section `[turn-client]`: TURN servers that this node may use when nothing else leads to a peer.
//!
//! ```toml
//! [turn-client]
//! rto-ms = 500
//! rc = 7
//! rm = 16
//! require-integrity = true
//!
//! [[turn-client.server]]
//! uri = "turns:turn.example.org:443"
//! user = "alice"
//! password-file = "turn.password"   # or password = "…"
//! ca = "ca.pem"                     # the machine's own authorities without
//! ```

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anode_turn::client::Credentials;
use anode_turn::rto::RtoConfig;
use anode_turn::uri::Uri;
use serde::Deserialize;

use super::turn::Secret;
use super::turn::values::ranged;
use crate::Error;
use crate::turn::access::{self, Access};
use crate::value::{Number, Text, ValueError};

/// The section; `None` and empty where it says nothing.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct TurnClient {
    /// The servers, in the order in which they are tried.
    pub server: Vec<Server>,
    /// The first wait for an answer, in milliseconds.
    pub rto_ms: Option<Number<RtoMs>>,
    /// How often a request is sent.
    pub rc: Option<Number<Sends>>,
    /// How many first waits pass after the last one.
    pub rm: Option<Number<LastWaits>>,
    /// Answers must be signed.
    pub require_integrity: Option<bool>,
}

/// `[[turn-client.server]]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Server {
    /// Where.
    pub uri: Text<TurnUri>,
    /// Who we are there.
    pub user: Option<String>,
    /// The password.
    pub password: Option<Secret>,
    /// The file whose first line it is, from where the configuration is.
    pub password_file: Option<PathBuf>,
    /// Whom to believe there, PEM, from where the configuration is.
    pub ca: Option<PathBuf>,
}

/// A URI of a server that relays.
#[derive(Clone, Debug, PartialEq)]
pub struct TurnUri(pub Uri);

impl FromStr for TurnUri {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let uri: Uri = text
            .parse()
            .map_err(|error: anode_turn::TurnError| ValueError::new(error.to_string()))?;
        match uri.relay {
            true => Ok(Self(uri)),
            false => Err(ValueError::new(format!(
                "{uri} names a STUN server, which does not relay: use turn: or turns:"
            ))),
        }
    }
}

ranged!(RtoMs, u32, 1..=60_000, "Milliseconds of a first wait.");
ranged!(Sends, u32, 1..=16, "How often a request is sent.");
ranged!(
    LastWaits,
    u32,
    1..=256,
    "First waits that pass after the last sending."
);

impl TurnClient {
    /// What can be told without opening anything; `path` stands in messages.
    pub fn check(&self, path: &Path) -> Result<(), Error> {
        for server in &self.server {
            server
                .check()
                .map_err(|problem| server.wrong(path, &problem))?;
        }
        Ok(())
    }

    /// Where the files of the servers are, which a reload reads again; `path` is the configuration's.
    pub fn directories(&self, path: &Path) -> Vec<PathBuf> {
        let directory = path.parent().unwrap_or(Path::new(""));
        let files = self
            .server
            .iter()
            .flat_map(|server| [&server.password_file, &server.ca]);
        let files = files.flatten().map(|file| directory.join(file));
        files
            .filter_map(|file| file.parent().map(Path::to_owned))
            .collect()
    }

    /// Whether a server is believed by the authorities of this machine.
    pub fn believes_the_system(&self) -> bool {
        let mut servers = self.server.iter();
        servers.any(|server| server.uri.0.0.secure && server.ca.is_none())
    }

    /// Timers of requests.
    pub fn rto(&self) -> RtoConfig {
        let default = RtoConfig::default();
        RtoConfig {
            initial: self
                .rto_ms
                .map_or(default.initial, |ms| Duration::from_millis(ms.0.0.into())),
            rc: self.rc.map_or(default.rc, |rc| rc.0.0),
            rm: self.rm.map_or(default.rm, |rm| rm.0.0),
        }
    }
}

impl Server {
    fn wrong(&self, path: &Path, problem: &str) -> Error {
        let place = format!(
            "{}: [[turn-client.server]] {}",
            path.display(),
            self.uri.0.0
        );
        Error::invalid(place, problem)
    }

    fn check(&self) -> Result<(), String> {
        match (&self.user, &self.password, &self.password_file) {
            (_, Some(_), Some(_)) => {
                Err("has a password and a password-file: keep one of them".to_owned())
            }
            (Some(_), None, None) => {
                Err("has a user and no password: write password or password-file".to_owned())
            }
            (None, Some(_), None) | (None, None, Some(_)) => {
                Err("has a password and no user: write user = \"NAME\"".to_owned())
            }
            (Some(name), Some(password), None) => {
                let credentials = Credentials {
                    name: name.clone(),
                    password: password.0.clone(),
                };
                credentials.check().map_err(|error| error.to_string())
            }
            (None, None, None) | (Some(_), None, Some(_)) => Ok(()),
        }
    }

    /// With what its files say; `path` is the configuration's, from where they are looked for.
    pub fn access(&self, path: &Path) -> Result<Access, Error> {
        let directory = path.parent().unwrap_or(Path::new(""));
        let wrong = |problem: String| self.wrong(path, &problem);
        let from_file = self.password_file.as_ref().map(|file| {
            access::read_password(&directory.join(file))
                .map_err(|problem| wrong(format!("password-file: {problem}")))
        });
        let password = match &self.password {
            Some(password) => Some(password.0.clone()),
            None => from_file.transpose()?,
        };
        let credentials = match (&self.user, password) {
            (Some(name), Some(password)) => Some(Credentials {
                name: name.clone(),
                password,
            }),
            _ => None,
        };
        if let Some(credentials) = &credentials {
            credentials
                .check()
                .map_err(|error| wrong(error.to_string()))?;
        }
        let uri = self.uri.0.0.clone();
        let authorities = match &self.ca {
            Some(file) => Some(
                access::read_authorities(&directory.join(file))
                    .map_err(|problem| wrong(format!("ca: {problem}")))?,
            ),
            // Now, while every file may be read.
            None if uri.secure => Some(access::system_authorities().map_err(wrong)?),
            None => None,
        };
        Ok(Access {
            uri,
            credentials,
            authorities,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::cases::{Case, refused};

    fn parse(text: &str) -> Result<TurnClient, Error> {
        let config = crate::config::Config::parse(text, Path::new("/x/anode.toml"))?;
        Ok(config.turn_client)
    }

    // T30, T31, T32, T39: by configuration
    #[test]
    fn every_key_arrives_at_the_client() {
        let text = r#"
            [turn-client]
            rto-ms = 250
            rc = 5
            rm = 8
            require-integrity = false
            [[turn-client.server]]
            uri = "turn:192.0.2.1"
            user = "alice"
            password = "secret"
            [[turn-client.server]]
            uri = "turns:turn.example.org:443?transport=tcp"
        "#;
        let client = parse(text).unwrap();
        let rto = client.rto();
        assert_eq!(
            (rto.initial.as_millis(), rto.rc, rto.rm),
            (250, 5, 8),
            "{rto:?}"
        );
        assert_eq!(client.require_integrity, Some(false));
        let first = client.server[0].access(Path::new("/x/anode.toml")).unwrap();
        assert_eq!(first.credentials.unwrap().password.as_str(), "secret");
        assert_eq!(
            client.server[1].uri.0.0.to_string(),
            "turns:turn.example.org:443?transport=tcp"
        );
        assert_eq!(parse("").unwrap(), TurnClient::default());
        assert_eq!(parse("").unwrap().rto(), RtoConfig::default());
    }

    #[test]
    fn wrong_values_are_refused_with_their_place() {
        let server = "[[turn-client.server]]\nuri = \"turn:192.0.2.1\"\n";
        let with = |line: &str| format!("{server}{line}\n");
        let cases: Vec<(String, &str, &str)> = vec![
            ("[turn-client]\nrto-ms = 0".into(), ":2:", "use 1 to 60000"),
            ("[turn-client]\nrc = 17".into(), ":2:", "use 1 to 16"),
            ("[turn-client]\nrm = 0".into(), ":2:", "use 1 to 256"),
            (
                "[turn-client]\nrequire-integrity = 1".into(),
                ":2:",
                "boolean",
            ),
            (
                "[turn-client]\nservers = []".into(),
                ":2:",
                "unknown key `servers`",
            ),
            (
                "[[turn-client.server]]\nuser = \"a\"".into(),
                ":1:",
                "missing key `uri`",
            ),
            (
                "[[turn-client.server]]\nuri = \"stun:192.0.2.1\"".into(),
                ":2:",
                "does not relay",
            ),
            (
                "[[turn-client.server]]\nuri = \"http://x\"".into(),
                ":2:",
                "",
            ),
            (with("user = \"alice\""), "turn:192.0.2.1", "no password"),
            (with("password = \"hunter2\""), "turn:192.0.2.1", "no user"),
            (
                with("user = \"\"\npassword = \"hunter2\""),
                "turn:192.0.2.1",
                "USERNAME is empty",
            ),
            (
                with("user = \"a\"\npassword = \"\""),
                "turn:192.0.2.1",
                "the password is empty",
            ),
            (
                "[turn-client]\nrto-ms = \"80\"".into(),
                ":2:",
                "expected a whole number",
            ),
            (
                with("user = \"a\"\npassword = \"hunter2\"\npassword-file = \"x\""),
                "turn:192.0.2.1",
                "keep one of them",
            ),
            (
                with("user = \"a\"\npassword = \"hunter2\\u0007\""),
                "turn:192.0.2.1",
                "forbids",
            ),
            (
                with("user = \"a\"\npassword = 87654321"),
                ":4:",
                "a text in quotes",
            ),
            (with("usr = \"a\""), ":3:", "unknown key `usr`"),
        ];
        let cases: Vec<Case<'_>> = cases
            .iter()
            .map(|(text, place, part)| (text.as_str(), *place, *part))
            .collect();
        refused(&cases);
    }

    #[test]
    fn files_that_cannot_be_read_are_named() {
        let text = "[[turn-client.server]]\nuri = \"turn:192.0.2.1\"\nuser = \"a\"\npassword-file = \"nowhere\"\n";
        let client = parse(text).unwrap();
        let error = client.server[0].access(Path::new("/nonexistent/anode.toml"));
        let message = error.err().unwrap().to_string();
        assert!(
            message.contains("password-file") && message.contains("/nonexistent/nowhere"),
            "{message}"
        );
    }
}
