//! A TURN server as a part of a process: made from `[turn]`, read again, drained, counted.

use std::collections::HashSet;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anode_routing::anode::Place;
use anode_routing::turn::server::{
    Bound, Door, Listening, ServerError, Settings, SharedPort, Snapshot, TurnServer,
};
use anode_turn::server::Authority;

use super::key_users::KeyUsers;
use crate::Error;
use crate::config::ConfigSource;
use crate::config::turn::Turn;
use crate::zone::Members;

/// How often a draining server is asked whether it is empty.
const POLL: Duration = Duration::from_millis(100);

impl From<ServerError> for Error {
    fn from(error: ServerError) -> Self {
        match error {
            ServerError::Config(_) | ServerError::Certificate(_) => {
                Self::invalid("[turn]", error.to_string())
            }
            _ => Self::refused(format!("TURN: {error}")),
        }
    }
}

/// Sockets are bound; threads come when rights have been given up.
pub struct Prepared {
    bound: Bound,
    drain: Duration,
    directories: Vec<PathBuf>,
    users: Option<Arc<KeyUsers>>,
}

impl Prepared {
    /// Reads certificates and binds. `users`: whose keys are credentials; without them, nobody's. `node`: where the node of this
    /// process listens.
    pub fn new(
        turn: &Turn,
        source: &ConfigSource,
        users: Option<Arc<KeyUsers>>,
        node: &[Place],
    ) -> Result<Self, Error> {
        let path = file(source);
        let mut settings = admit(turn.settings(path)?, turn, users.as_ref());
        settings.shared = shared(&settings.listen_secure, node);
        let target = path.canonicalize().ok();
        let files = [Some(path.to_owned()), target].into_iter().flatten();
        let configurations = files.filter_map(|file| file.parent().map(Path::to_owned));
        let certificates = turn.tls.iter().flat_map(|tls| tls.directories(path));
        Ok(Self {
            drain: settings.turn.drain,
            directories: configurations.chain(certificates).collect(),
            bound: Bound::bind(settings)?,
            users,
        })
    }

    /// What is read again after a hangup.
    pub fn directories(&self) -> &[PathBuf] {
        &self.directories
    }

    /// Starts the threads.
    pub fn start(self, source: ConfigSource) -> Result<Role, Error> {
        Ok(Role {
            server: self.bound.start()?,
            source,
            drain: Mutex::new(self.drain),
            users: self.users,
        })
    }
}

/// Anode keys are credentials as the configuration says.
fn admit(mut settings: Settings, turn: &Turn, users: Option<&Arc<KeyUsers>>) -> Settings {
    if let Some(users) = users {
        users.set_whom(turn.anode_users);
        settings.turn.authority = Some(Arc::clone(users) as Arc<dyn Authority>);
    }
    settings
}

/// Those of the TLS ports that the node takes connections on.
fn shared(secure: &[SocketAddr], node: &[Place]) -> Vec<SharedPort> {
    let is_at = |own: SocketAddr, at: &SocketAddr| {
        own.port() == at.port()
            && own.is_ipv4() == at.is_ipv4()
            && (own.ip() == at.ip() || own.ip().is_unspecified())
    };
    let taken = |at: &SocketAddr, stream: bool| {
        let mut of_kind = node
            .iter()
            .filter(|own| own.transport().is_stream() == stream);
        of_kind.any(|own| own.address().is_some_and(|own| is_at(own, at)))
    };
    let shared = secure.iter().filter(|at| taken(at, true));
    shared
        .map(|at| SharedPort {
            address: *at,
            without_dtls: taken(at, false),
        })
        .collect()
}

fn file(source: &ConfigSource) -> &Path {
    source.path().unwrap_or(Path::new(""))
}

/// A server that runs until this is dropped.
pub struct Role {
    server: TurnServer,
    source: ConfigSource,
    drain: Mutex<Duration>,
    users: Option<Arc<KeyUsers>>,
}

impl Role {
    /// Whom this machine trusts now, and who belongs to its zone.
    pub fn follow(&self, trusted: &HashSet<Ipv6Addr>, members: &Members) {
        if let Some(users) = &self.users {
            users.follow(trusted, members);
        }
    }

    /// For the part that listens on ports of ours.
    pub fn door(&self) -> Option<Door> {
        self.server.door()
    }

    /// Where clients find it.
    pub fn listening(&self) -> &Listening {
        self.server.listening()
    }

    /// What it has counted.
    pub fn snapshot(&self) -> Snapshot {
        self.server.snapshot()
    }

    /// Reads the configuration again; a wrong one changes nothing.
    pub fn reload(&self) -> Result<(), Error> {
        let config = self.source.read()?;
        let path = file(&self.source);
        let turn = config
            .turn
            .ok_or_else(|| Error::invalid(path.display().to_string(), "[turn] is gone"))?;
        let settings = turn.settings(path)?;
        let drain = settings.turn.drain;
        let settings = admit(settings, &turn, self.users.as_ref());
        self.server.reload(settings)?;
        *self.drain.lock().unwrap_or_else(PoisonError::into_inner) = drain;
        Ok(())
    }

    /// Takes no new allocations; comes back when none is left, or when their time is over.
    pub async fn drain(&self) {
        let drain = *self.drain.lock().unwrap_or_else(PoisonError::into_inner);
        tracing::info!("the TURN server drains for at most {} s", drain.as_secs());
        self.server.drain();
        let empty = async {
            while self.server.allocations() > 0 {
                tokio::time::sleep(POLL).await;
            }
        };
        // One poll more, so that the end of the time is the server's and not ours.
        let _ = tokio::time::timeout(drain + POLL, empty).await;
    }

    /// For metrics.
    pub fn counters(&self) -> Vec<(String, u64)> {
        let all = self.server.snapshot();
        let counted = all.turn.each().chain(all.io.each());
        let counted = counted.map(|(name, count)| (format!("anode_turn_{name}_total"), count));
        let standing = [
            ("anode_turn_allocations", all.allocations),
            ("anode_turn_streams", all.streams),
            ("anode_turn_dtls_sessions", all.sessions),
        ];
        let standing = standing.map(|(name, count)| (name.to_owned(), count as u64));
        counted.chain(standing).collect()
    }
}
