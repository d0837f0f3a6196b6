//! A running node: what it is made of, and its life from start to clean end.

use std::net::SocketAddr;
use std::path::PathBuf;

use anode_wire::{Address, Identity, PeerId};

pub use crate::value::PeerEndpoint;

/// What the data thread needs to know: flags over config over defaults, all checked.
pub struct Settings {
    /// Who this node is.
    pub identity: Identity,
    /// Which of the peers that share the address; [`PeerId::ANY`] when not configured.
    pub peer_id: PeerId,
    /// The virtual interface.
    pub interface: Interface,
    /// Its MTU in bytes, at least 1,280.
    pub mtu: u16,
    /// Where to listen. Empty: `[::]` and `0.0.0.0` on 8737 if that is free, else on any port. A port given here that is busy is an error.
    pub listen: Vec<SocketAddr>,
    /// Peers of flags and config, one entry per endpoint.
    pub peers: Vec<PeerEndpoint>,
    /// Peers learnt in earlier runs: hints only, tried when traffic wants them.
    pub learnt: Vec<PeerEndpoint>,
    /// Announce on the LAN and listen there.
    pub lan: bool,
    /// Who may open connections to this machine.
    pub trusted: Vec<Address>,
    /// The state directory; locked by this process.
    pub state_dir: PathBuf,
}

/// Which interface to bring up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Interface {
    /// None (`--no-tun`): control, ping and lookup only.
    None,
    /// The first of anode0, anode1, … that does not exist.
    FirstFree,
    /// Just this one; an error if it is taken.
    Named(String),
}

/// What stands once traffic can flow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadyInfo {
    /// The interface's name, `None` without one.
    pub interface: Option<String>,
    /// The UDP sockets' own addresses.
    pub listen: Vec<SocketAddr>,
    /// Names of the interfaces that are announced on.
    pub lan: Vec<String>,
}
