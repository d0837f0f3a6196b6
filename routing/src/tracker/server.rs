//! A tracker with sockets: UDP and HTTP on one port, in a thread of its own, so that a flood of it slows nothing else.
//!
//! ```text
//!   UDP sockets ─ batches, answered from the address that was asked ─┐
//!                                                                    ├─▶ anode_tracker::server::Server
//!   TCP listeners ─ connections, limited in number and time ─ GET ───┘
//! ```
mod sockets;
mod web;

use anode_tracker::InfoHash;
use anode_tracker::rendezvous::{Rotation, epochs_in_force, info_hash};
use anode_tracker::server::{Access, Config, Server};
use rand::SeedableRng;
use rand::rngs::{StdRng, SysRng};
use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::oneshot;

pub use sockets::Listeners;
pub use web::ConnectionLimits;

/// Which swarms are served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// All of them.
    pub open: bool,
    /// These.
    pub listed: Vec<InfoHash>,
    /// And those under which a zone's own nodes meet.
    pub own: Vec<OwnHashes>,
}

/// What makes a zone's info hashes.
#[derive(Clone, PartialEq, Eq)]
pub struct OwnHashes {
    /// The rendezvous' secret; empty: the zone's public rendezvous.
    pub secret: Vec<u8>,
    /// The zone.
    pub zone: [u8; 4],
    /// Whether the hashes change.
    pub rotation: Rotation,
}

impl std::fmt::Debug for OwnHashes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OwnHashes")
            .field("zone", &self.zone)
            .field("rotation", &self.rotation)
            .finish_non_exhaustive()
    }
}

impl OwnHashes {
    /// Those in force at `unix` seconds.
    pub fn in_force(&self, unix: u64) -> impl Iterator<Item = InfoHash> + '_ {
        epochs_in_force(self.rotation, unix).map(|epoch| info_hash(&self.secret, self.zone, epoch))
    }
}

impl Served {
    fn access(&self, unix: u64) -> Access {
        if self.open {
            return Access::Open;
        }
        let own = self.own.iter().flat_map(|own| own.in_force(unix));
        Access::Listed(
            self.listed
                .iter()
                .copied()
                .chain(own)
                .collect::<HashSet<_>>(),
        )
    }
}

/// A tracker's memory, shared by its sockets and whoever asks how it does.
pub struct Tracker {
    state: Mutex<State>,
    connections: ConnectionLimits,
    counters: IoCounters,
}

struct State {
    server: Server,
    served: Served,
    access: Access,
    rng: StdRng,
}

/// What the sockets did and did not do.
#[derive(Debug, Default)]
struct IoCounters {
    rx_datagrams: AtomicU64,
    tx_datagrams: AtomicU64,
    /// Answers that the system did not take.
    tx_refused: AtomicU64,
    connections: AtomicU64,
    /// Connections past a limit.
    connections_refused: AtomicU64,
    /// Connections that took too long or spoke no HTTP.
    connections_broken: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Tracker {
    /// Starts empty.
    pub fn new(config: Config, served: Served, connections: ConnectionLimits) -> io::Result<Self> {
        let mut rng = StdRng::try_from_rng(&mut SysRng)
            .map_err(|error| io::Error::other(format!("no randomness: {error}")))?;
        let access = served.access(unix());
        let server = Server::new(config, access.clone(), Instant::now(), &mut rng);
        let state = State {
            server,
            served,
            access,
            rng,
        };
        Ok(Self {
            state: Mutex::new(state),
            connections,
            counters: IoCounters::default(),
        })
    }

    /// Serves these from now on; what is not among them is forgotten.
    pub fn set_served(&self, served: Served) {
        let mut state = self.state();
        state.served = served;
        state.refresh();
    }

    /// Everything that is counted, by the names of the metrics.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        let (server, entries, swarms) = {
            let state = self.state();
            let server = &state.server;
            (server.counters(), server.entries(), server.swarms())
        };
        let io = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        vec![
            ("anode_tracker_announces_total", server.announces),
            ("anode_tracker_connects_total", server.connects),
            (
                "anode_tracker_connections_broken_total",
                io(&counters.connections_broken),
            ),
            (
                "anode_tracker_connections_refused_total",
                io(&counters.connections_refused),
            ),
            ("anode_tracker_connections_total", io(&counters.connections)),
            ("anode_tracker_entries", entries as u64),
            ("anode_tracker_expired_total", server.expired),
            ("anode_tracker_full_total", server.full),
            ("anode_tracker_invalid_total", server.invalid),
            ("anode_tracker_limited_total", server.limited),
            ("anode_tracker_malformed_total", server.malformed),
            ("anode_tracker_not_listed_total", server.not_listed),
            (
                "anode_tracker_rx_datagrams_total",
                io(&counters.rx_datagrams),
            ),
            ("anode_tracker_scrapes_total", server.scrapes),
            ("anode_tracker_swarms", swarms as u64),
            (
                "anode_tracker_too_many_entries_total",
                server.too_many_entries,
            ),
            (
                "anode_tracker_tx_datagrams_total",
                io(&counters.tx_datagrams),
            ),
            ("anode_tracker_tx_refused_total", io(&counters.tx_refused)),
            (
                "anode_tracker_wrong_connection_total",
                server.wrong_connection,
            ),
        ]
    }

    /// No code that holds the state can panic halfway, so a poisoned one is as good as any.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what has expired, and takes over the info hashes of a new day, every minute.
    async fn keep(&self) {
        loop {
            let deadline = self.state().server.deadline();
            tokio::time::sleep_until(deadline.into()).await;
            let mut state = self.state();
            state.server.handle_timeout(Instant::now());
            state.refresh();
        }
    }
}

impl State {
    fn refresh(&mut self) {
        let access = self.served.access(unix());
        if access != self.access {
            self.access = access.clone();
            self.server.set_access(access);
        }
    }
}

/// Seconds since 1970; 0 where the clock says that it is earlier.
fn unix() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.as_ref().map_or(0, Duration::as_secs)
}

/// A tracker that serves; it ends when this is dropped.
pub struct RunningTracker {
    listen: Vec<SocketAddr>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl RunningTracker {
    /// Where it serves: each address for UDP and for TCP.
    pub fn listen(&self) -> &[SocketAddr] {
        &self.listen
    }
}

impl Drop for RunningTracker {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Tracker {
    /// Serves at these sockets, in a thread of its own.
    pub fn start(self: &Arc<Self>, listeners: Listeners) -> io::Result<RunningTracker> {
        let listen = listeners.addresses().to_vec();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let tracker = Arc::clone(self);
        let thread = std::thread::Builder::new().name("anode-tracker".into());
        let thread = thread.spawn(move || {
            runtime.block_on(async {
                if let Err(error) = tracker.serve(listeners) {
                    tracing::error!(%error, "the tracker's sockets");
                }
                tokio::select! {
                    _ = stopped => {}
                    () = tracker.keep() => {}
                }
            });
        })?;
        Ok(RunningTracker {
            listen,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    fn serve(self: &Arc<Self>, listeners: Listeners) -> io::Result<()> {
        let places = Arc::new(web::Places::default());
        let (udp, tcp) = listeners.into_sockets()?;
        for socket in udp {
            tokio::spawn(sockets::serve(Arc::clone(self), socket));
        }
        for listener in tcp {
            tokio::spawn(web::serve(Arc::clone(self), listener, Arc::clone(&places)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
