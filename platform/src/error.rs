//! What the machine refused, in words that name the fix.

use std::io;
use std::path::{Path, PathBuf};

use crate::prefix::Prefix;

/// What the machine refused, in words that name the fix.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlatformError {
    /// Anything of the system, with what was tried.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What came back.
        source: io::Error,
    },
    /// The name cannot be that of a Linux interface.
    #[error("interface name \"{name}\": {why}")]
    NameInvalid {
        /// The name as given.
        name: String,
        /// Which rule it breaks.
        why: &'static str,
    },
    /// There is already an interface of that name.
    #[error("an interface named {name} exists already; choose another name or remove it")]
    NameTaken {
        /// The name as given.
        name: String,
    },
    /// IPv6 does not work below 1280 bytes (RFC 8200 §5).
    #[error("MTU {mtu} is too small: IPv6 needs at least 1280 bytes")]
    MtuTooSmall {
        /// The MTU as given, in bytes.
        mtu: u16,
    },
    /// The TUN driver is not there.
    #[error(
        "/dev/net/tun is missing; run `modprobe tun`, or pass the device in if this is a container"
    )]
    TunMissing,
    /// The TUN driver is there, but this process may not open it.
    #[error("/dev/net/tun may not be opened ({source}); {fix}")]
    TunDenied {
        /// What came back.
        source: io::Error,
        /// What to do.
        fix: &'static str,
    },
    /// A descriptor that was handed in is no usable TUN device.
    #[error("descriptor {fd} is not a usable TUN device: {why}")]
    NotATun {
        /// The descriptor's number.
        fd: i32,
        /// What is wrong with it.
        why: String,
    },
    /// An interface that was to be used as it is cannot be.
    #[error("interface {name} cannot be used: {why}")]
    NotGiven {
        /// Its name.
        name: String,
        /// Why not.
        why: String,
    },
    /// A capability is missing.
    #[error("{what}: no permission, this needs {capability}; run as root or through the service")]
    NoPermission {
        /// What was tried.
        what: String,
        /// The missing capability's name.
        capability: &'static str,
    },
    /// The kernel has no IPv6, or it is switched off and cannot be switched on.
    #[error("IPv6 is switched off on {interface}: {fix}")]
    Ipv6Disabled {
        /// The interface.
        interface: String,
        /// How to switch it on.
        fix: String,
    },
    /// A route that is not ours overlaps one that the interface needs.
    #[error("{prefix} is in use here: a route \"{route}\" overlaps it; remove that route first")]
    RouteConflict {
        /// The prefix that is needed.
        prefix: Prefix,
        /// The route in the way, as `ip route` prints it.
        route: String,
    },
    /// Text that is no prefix.
    #[error("\"{0}\" is not an IP prefix like fda0::/16")]
    PrefixInvalid(String),
    /// A network namespace of that name exists.
    #[error("a network namespace named {0} exists already")]
    NamespaceTaken(String),
    /// The machine does not let this user make namespaces.
    #[error("no namespaces for this user ({source}); {fix}")]
    NamespaceDenied {
        /// What came back.
        source: io::Error,
        /// What to do.
        fix: &'static str,
    },
    /// A file that holds a secret is not kept like one.
    #[error("{path}: {why}")]
    Secret {
        /// The file.
        path: PathBuf,
        /// What is wrong and how to put it right.
        why: String,
    },
    /// Another node uses the state directory.
    #[error("already running{} on {directory}", pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    AlreadyRunning {
        /// The process, where the lock file tells.
        pid: Option<i32>,
        /// The state directory.
        directory: PathBuf,
    },
}

impl PlatformError {
    /// Whether the cause is what the user wrote (exit status 2) and not what the machine refused (1).
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::NameInvalid { .. } | Self::MtuTooSmall { .. } | Self::PrefixInvalid(_)
        )
    }

    /// Whether an interface of the wanted name exists.
    pub fn is_name_taken(&self) -> bool {
        matches!(self, Self::NameTaken { .. })
    }

    /// The system's error, where there is one.
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Io { source, .. }
            | Self::TunDenied { source, .. }
            | Self::NamespaceDenied { source, .. } => Some(source.kind()),
            _ => None,
        }
    }

    /// The system's error number, where there is one.
    pub(crate) fn raw_os_error(&self) -> Option<i32> {
        match self {
            Self::Io { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// An error of the system and what was tried.
    pub fn io(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io {
            what: what.into(),
            source: source.into(),
        }
    }

    pub(crate) fn at(what: &str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::io(format!("{what} {}", path.display()), source)
    }
}
