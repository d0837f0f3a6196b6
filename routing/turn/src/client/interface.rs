//! What a client is told, and what it tells.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::frame::Transport;
use crate::rto::RtoConfig;
use crate::server::{ConnectionId, IcmpError};

/// Name and password.
#[derive(Clone)]
pub struct Credentials {
    /// The user name.
    pub name: String,
    /// The password; wiped when dropped, never printed.
    pub password: zeroize::Zeroizing<String>,
}

impl Credentials {
    /// Whether they can be sent (T22, T26).
    ///
    /// # Errors
    /// What is wrong; the password is not quoted.
    pub fn check(&self) -> Result<(), crate::TurnError> {
        use crate::TurnError;
        use crate::stun::text::{Text, sasl_prep};
        if Text::Username
            .sent(&sasl_prep("user name", &self.name)?)?
            .is_empty()
        {
            return Err(TurnError::Text(Text::Username, "is empty"));
        }
        if self.password.is_empty() {
            return Err(TurnError::Config("the password is empty"));
        }
        zeroize::Zeroizing::new(sasl_prep("password", &self.password)?);
        Ok(())
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Which addresses the relay is to have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Families {
    /// What the server gives when nothing is asked: IPv4.
    #[default]
    Default,
    /// IPv6.
    V6,
    /// Both, in one allocation (RFC 8656 §7.1, ADDITIONAL-ADDRESS-FAMILY).
    Both,
}

/// A wish about the relay's port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PortWish {
    /// None.
    #[default]
    Any,
    /// Even; with `reserve`, the next one is kept and a token comes with [`Event::Allocated`].
    Even {
        /// Keep the next one.
        reserve: bool,
    },
    /// The one kept for this token.
    Kept([u8; 8]),
}

/// From a realm to a password.
type Make = dyn Fn(&str) -> zeroize::Zeroizing<String> + Send + Sync;

/// Makes the password when the server has told its realm, for credentials that depend on it.
#[derive(Clone)]
pub struct MakePassword(std::sync::Arc<Make>);

impl MakePassword {
    /// By this rule.
    pub fn new(make: impl Fn(&str) -> zeroize::Zeroizing<String> + Send + Sync + 'static) -> Self {
        Self(std::sync::Arc::new(make))
    }

    pub(super) fn make(&self, realm: &str) -> zeroize::Zeroizing<String> {
        (self.0)(realm)
    }
}

impl std::fmt::Debug for MakePassword {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MakePassword")
    }
}

/// What the client is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name and password; without them only a server that asks for none can be used.
    pub credentials: Option<Credentials>,
    /// Instead of the password in `credentials`.
    pub make_password: Option<MakePassword>,
    /// How the server is reached.
    pub transport: Transport,
    /// Timers of requests.
    pub rto: RtoConfig,
    /// Answers to signed requests must be signed (T39). Only 401 and 438 are heard without, as RFC 8489 §9.2.5 asks.
    pub require_integrity: bool,
    /// Send a hash instead of the name, where the server can (T44).
    pub hide_name: bool,
    /// Relay TCP instead of UDP (RFC 6062); needs TCP or TLS.
    pub tcp: bool,
    /// Addresses.
    pub families: Families,
    /// Port.
    pub port: PortWish,
    /// Ask for DONT-FRAGMENT; given up when the server does not know it (T18).
    pub dont_fragment: bool,
    /// The lifetime to ask for.
    pub lifetime: Duration,
    /// After this time without sending, a Binding indication keeps NATs open (T38).
    pub keepalive: Duration,
    /// SOFTWARE; empty: none.
    pub software: String,
    /// Bytes that wait for permissions, in all (T12).
    pub queue: usize,
    /// Peers with a permission or a channel, or waiting for one.
    pub peers: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            credentials: None,
            make_password: None,
            transport: Transport::Udp,
            rto: RtoConfig::default(),
            require_integrity: true,
            hide_name: false,
            tcp: false,
            families: Families::Default,
            port: PortWish::Any,
            dont_fragment: false,
            lifetime: Duration::from_secs(600),
            keepalive: Duration::from_secs(15),
            software: String::new(),
            queue: 64 * 1024,
            peers: 256,
        }
    }
}

/// Why there is no allocation (any more).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Why {
    /// No answer, after all repetitions.
    #[error("the server does not answer")]
    Silence,
    /// A hard ICMP error: nothing listens there (T34).
    #[error("nothing listens at the server's address")]
    Unreachable,
    /// The stream to the server has ended.
    #[error("the connection to the server has ended")]
    StreamEnded,
    /// The server refuses.
    #[error("the server refuses: {code} {reason}")]
    Refused {
        /// Its code.
        code: u16,
        /// Its words; shown and nothing else.
        reason: String,
    },
    /// Name or password are wrong, or there are none and the server wants them.
    #[error("the server does not take these credentials")]
    Credentials,
    /// Sent from server to server in a circle (T29).
    #[error("the server sends us to {0}, which has been tried already")]
    RedirectLoop(SocketAddr),
    /// 437 from three client addresses (T42).
    #[error("the server takes no new allocation from any of three ports of ours")]
    Mismatch,
    /// The server no longer knows the allocation.
    #[error("the server has lost the allocation")]
    Lost,
    /// An answer that makes no sense.
    #[error("the server's answer lacks what it must hold")]
    Nonsense,
    /// [`super::Client::close`].
    #[error("closed")]
    Closed,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The relay is there. After a fresh start it comes again, with other addresses.
    Allocated {
        /// Its addresses.
        relayed: Vec<SocketAddr>,
        /// How the server sees us.
        mapped: Option<SocketAddr>,
        /// The token for the port above.
        reservation: Option<[u8; 8]>,
    },
    /// This peer may be sent to and heard.
    Permitted(IpAddr),
    /// This peer has its channel.
    Bound(SocketAddr),
    /// The server does not let this peer in.
    PeerRefused {
        /// Which one.
        peer: IpAddr,
        /// Its code: 403, 443, 508 …
        code: u16,
    },
    /// Reach this server over the same transport, then [`super::Client::restart`] (T29).
    Redirect {
        /// Where.
        server: SocketAddr,
        /// The name its certificate must carry, if another one.
        domain: Option<String>,
    },
    /// Use another local port, then [`super::Client::restart`] (T42).
    NewSocket,
    /// The server cannot set the DF bit; it goes on without (T18).
    NoDontFragment,
    /// An ICMP error about something sent to a peer.
    PeerUnreachable(IcmpError),
    /// A connection to a peer is there; take it with a [`super::PeerStream`] within 30 s.
    Connected {
        /// To whom.
        peer: SocketAddr,
        /// Its name.
        connection: ConnectionId,
    },
    /// A peer has connected; take it with a [`super::PeerStream`] within 30 s.
    Incoming {
        /// From whom.
        peer: SocketAddr,
        /// Its name.
        connection: ConnectionId,
    },
    /// A connection to a peer did not come about.
    ConnectFailed {
        /// To whom.
        peer: SocketAddr,
        /// The server's code: 447, 403, 446 …
        code: u16,
    },
    /// There is no allocation any more.
    Ended {
        /// Why.
        why: Why,
        /// Not to try this server before.
        not_before: Option<Instant>,
    },
}

/// What was dropped and why. All only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Neither STUN nor ChannelData, or malformed.
    pub malformed: u64,
    /// Answers to nothing that was asked.
    pub strange_answers: u64,
    /// Answers without integrity, or with a wrong one (T39).
    pub bad_integrity: u64,
    /// Data of peers without permission (T14).
    pub stranger_data: u64,
    /// ChannelData on channels that are not bound, or whose peer has no permission (T15).
    pub stranger_channels: u64,
    /// Data that did not fit into the queue, or waited for a peer that was refused (T12).
    pub queue_dropped: u64,
}
