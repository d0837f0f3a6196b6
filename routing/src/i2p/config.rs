//! What the overlay is started with, all of it checked before.
use anode_i2cp::client::Credentials;
use anode_i2cp::datagram::Kind;
use anode_i2cp::destination::Hash;
use anode_i2cp::keys::LocalDestination;
use anode_i2cp::options::SessionOptions;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use super::tls::Trust;

/// Where the router takes I2CP connections (I5, I8).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RouterPlace {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl RouterPlace {
    /// Whether what is sent there stays on this machine.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

/// As it is written in the configuration: `127.0.0.1:7654`, `unix:/run/i2p.sock`.
impl fmt::Display for RouterPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The router, and how it is spoken to. All destinations have one, each over a connection of its own: several sessions on
/// one connection break i2pd.
#[derive(Clone, Debug)]
pub struct RouterConfig {
    /// Where.
    pub place: RouterPlace,
    /// Whose certificate is believed; `None`: in the clear (I7).
    pub tls: Option<Trust>,
    /// User and password (I33).
    pub credentials: Option<Credentials>,
}

/// One destination of this machine.
#[derive(Clone, Debug)]
pub struct DestinationConfig {
    /// What people call it.
    pub name: Option<String>,
    /// Its keys; who has them is this destination.
    pub keys: Arc<LocalDestination>,
    /// For the router and the session.
    pub options: SessionOptions,
    /// The local port of streams and datagrams that peers send to port 0 (I70, I71); without it they are refused.
    pub default_port: Option<u16>,
    /// The form of datagrams to or from a port; [`Kind::Datagram1`] where nothing is said. [`Kind::Datagram3`] names a
    /// sender that proves nothing, so that such datagrams come in only at ports that stand here, or as answers.
    pub udp: BTreeMap<u16, Kind>,
}

/// What [`I2pOverlay::new`](super::I2pOverlay::new) takes.
#[derive(Clone, Debug)]
pub struct I2pConfig {
    /// The router.
    pub router: RouterConfig,
    /// Destinations of this machine, at least one. Programs that bind to no address use the first.
    pub destinations: Vec<DestinationConfig>,
    /// Destinations that are known from before.
    pub known: Vec<Known>,
    /// Of these, the ones that are never forgotten: in rules, trusted, named by people.
    pub kept: Vec<Hash>,
}

/// A destination as it is written down between two runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Known {
    /// Its hash, of which its synthetic address is made.
    pub hash: Hash,
    /// The address-book name that led to it.
    pub name: Option<String>,
}
