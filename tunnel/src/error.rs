//! Everything that can go wrong, in the user's words, and the exit status it leads to.

use std::path::PathBuf;

use anode_platform::PlatformError;
use anode_routing::i2p::I2pError;
use anode_routing::net::NetError;

use crate::command::CommandError;
use crate::value::ValueError;

/// One clear line: what is wrong, with which value, at which place, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A value in a flag or a file is wrong; exit status 2.
    #[error("{place}: {problem}")]
    Invalid {
        /// `--peer` or `/etc/anode/anode.toml:3`.
        place: String,
        /// What is wrong, with which value, and the fix.
        problem: String,
    },
    /// A value on the command line is wrong and says so itself; exit status 2.
    #[error("{0}")]
    Value(String),
    /// The machine refuses, and the fix is known; exit status 1.
    #[error("{problem}")]
    Refused {
        /// What was refused, with which value, and the fix.
        problem: String,
    },
    /// The machine refuses; exit status 1.
    #[error(transparent)]
    Platform(#[from] PlatformError),
    /// The sockets could not be had; exit status 1.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The I2P overlay could not be had; exit status 1.
    #[error(transparent)]
    I2p(#[from] I2pError),
    /// The machine refuses; exit status 1.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What came back.
        source: std::io::Error,
    },
    /// No node to talk to; exit status 1.
    #[error("anode is not running (no socket at {}): start it with `anode up`", socket.display())]
    NotRunning {
        /// Where it would be.
        socket: PathBuf,
    },
    /// The data thread does not answer; exit status 1.
    #[error(transparent)]
    Command(#[from] CommandError),
}

impl From<ValueError> for Error {
    fn from(error: ValueError) -> Self {
        Error::Value(error.to_string())
    }
}

impl Error {
    /// 2 for what stands in flags and files, 1 for what the machine refuses.
    pub fn exit_status(&self) -> u8 {
        match self {
            Error::Invalid { .. }
            | Error::Value(_)
            | Error::Platform(PlatformError::Secret { .. }) => 2,
            Error::Platform(error) if error.is_usage() => 2,
            _ => 1,
        }
    }

    /// A wrong value at a place.
    pub fn invalid(place: impl Into<String>, problem: impl Into<String>) -> Self {
        Error::Invalid {
            place: place.into(),
            problem: problem.into(),
        }
    }

    /// Something that the machine refuses, with the fix.
    pub fn refused(problem: impl Into<String>) -> Self {
        Error::Refused {
            problem: problem.into(),
        }
    }

    /// For `map_err`: an error of the system and what was tried.
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Error::Io { what, source }
    }
}
