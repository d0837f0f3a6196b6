//! Which interface a node uses: one that it makes, one that is given to it (U4), or none.

use std::fmt;
use std::os::fd::RawFd;
use std::str::FromStr;

use anode_platform::PlatformError;
use anode_platform::tun::Tun;
use serde::Deserialize;

use super::Config;
use crate::Error;
use crate::cli::args::Up;
use crate::node::Interface;
use crate::value::{InterfaceName, ValueError};

/// `tun = "anode0"`, `tun = "fd:3"`: an interface that somebody else has made, and whose settings stay theirs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GivenTun {
    /// A persistent one.
    Named(InterfaceName),
    /// A descriptor that the process was started with.
    Inherited(RawFd),
}

impl FromStr for GivenTun {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let Some(number) = text.strip_prefix("fd:") else {
            return text.parse().map(Self::Named);
        };
        match number.parse::<RawFd>() {
            // Below are the standard streams.
            Ok(number) if number >= 3 => Ok(Self::Inherited(number)),
            _ => Err(ValueError::new(format!(
                "tun {text:?}: write the name of an interface, or fd:N with a number from 3"
            ))),
        }
    }
}

impl fmt::Display for GivenTun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => f.write_str(&name.0),
            Self::Inherited(number) => write!(f, "fd:{number}"),
        }
    }
}

impl GivenTun {
    /// Takes it.
    pub fn open(&self) -> Result<Tun, PlatformError> {
        match self {
            Self::Named(name) => Tun::attach(&name.0),
            Self::Inherited(number) => Tun::inherited(*number),
        }
    }
}

/// `routes`: what goes over the interface when other nodes run on the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Routes {
    /// The whole overlay, unless another node has it already.
    #[default]
    All,
    /// What comes from the node's own address, and what goes to the peers that it knows.
    Peers,
}

/// Flags over configuration.
pub(crate) fn choose(flags: &Up, config: &Config) -> Result<Interface, Error> {
    if flags.no_tun {
        return Ok(Interface::None);
    }
    if let Some(given) = &flags.tun {
        return Ok(Interface::Given(given.clone()));
    }
    if let Some(name) = &flags.name {
        return Ok(Interface::Named(name.0.clone()));
    }
    let wanted = (config.no_tun == Some(true), &config.tun, &config.name);
    match wanted {
        (true, None, _) => Ok(Interface::None),
        (false, Some(given), None) => Ok(Interface::Given(given.0.clone())),
        (false, None, Some(name)) => Ok(Interface::Named(name.0.0.clone())),
        (false, None, None) => Ok(Interface::FirstFree),
        (_, Some(given), _) => Err(Error::invalid(
            "tun",
            format!(
                "\"{}\" is used as it is: leave name and no-tun out",
                given.0
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn name(text: &str) -> InterfaceName {
        text.parse().unwrap()
    }

    // U4
    #[test]
    fn an_interface_is_given_by_its_name_or_by_a_descriptor() {
        let cases = [
            ("net0", Some(GivenTun::Named(name("net0")))),
            ("fd:3", Some(GivenTun::Inherited(3))),
            ("fd:2", None),
            ("fd:-1", None),
            ("fd:", None),
            ("sixteenbyteslong", None),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<GivenTun>().ok(), expected, "{text}");
            if let Some(given) = expected {
                assert_eq!(given.to_string(), text);
            }
        }
    }

    #[test]
    fn flags_win_over_the_configuration_and_a_contradiction_in_it_is_refused() {
        let chosen = |flags: &Up, text: &str| {
            let config = Config::parse(text, Path::new("x")).unwrap();
            choose(flags, &config)
        };
        let none = Up::default();
        let given = Interface::Given(GivenTun::Named(name("net0")));
        assert_eq!(chosen(&none, "").unwrap(), Interface::FirstFree);
        assert_eq!(chosen(&none, "no-tun = true").unwrap(), Interface::None);
        assert_eq!(chosen(&none, "tun = \"net0\"").unwrap(), given);
        let flags = Up {
            tun: Some("net0".parse().unwrap()),
            ..Up::default()
        };
        assert_eq!(chosen(&flags, "name = \"other\"").unwrap(), given);
        let flags = Up {
            name: Some(name("other")),
            ..Up::default()
        };
        let named = Interface::Named("other".into());
        assert_eq!(chosen(&flags, "tun = \"net0\"").unwrap(), named);
        for text in ["tun = \"a\"\nname = \"b\"", "tun = \"a\"\nno-tun = true"] {
            let error = chosen(&none, text).unwrap_err();
            assert!(error.to_string().starts_with("tun: \"a\""), "{error}");
            assert_eq!(error.exit_status(), 2);
        }
    }
}
