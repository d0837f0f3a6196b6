//! The tracker of a relay, alone or beside one.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anode_platform::privileges::{self, Places};
use anode_routing::tracker::{Listeners, RunningTracker, Tracker};
use anode_wire::Zone;

use super::TrackerRole;
use super::meet::Counters;
use crate::Error;
use crate::config::{Config, ConfigSource};
use crate::node::{Asked, Signals};

/// A tracker that is bound and does not serve yet: threads come after rights are given up.
pub struct Prepared {
    tracker: Arc<Tracker>,
    listeners: Listeners,
}

/// A tracker that serves.
pub struct Serving {
    /// For its counters.
    pub tracker: Arc<Tracker>,
    running: RunningTracker,
}

/// What the configuration makes the zone of info hashes: in a node the identity's, alone the configured one.
fn zone_of(config: &Config) -> Option<Zone> {
    let configured = config.zone.as_ref().map(|zone| zone.0.0);
    configured.or(config.rendezvous.as_ref().map(|_| Zone::LOCAL))
}

/// Binds the sockets. `zone`: of the node that it belongs to.
pub fn prepare(role: &TrackerRole, config: &Config, zone: Option<Zone>) -> Result<Prepared, Error> {
    let (server, connections) = role.server();
    let served = role.served(config.rendezvous.as_ref(), zone.or_else(|| zone_of(config)));
    let tracker =
        Tracker::new(server, served, connections).map_err(Error::io("cannot start the tracker"))?;
    let listeners = Listeners::bind(&role.addresses()).map_err(|(address, error)| {
        let what = format!("the tracker cannot listen at {address}");
        match error.kind() {
            std::io::ErrorKind::AddrInUse => Error::refused(format!(
                "{what}: the port is in use; give another one in [tracker] listen"
            )),
            _ => Error::io(what)(error),
        }
    })?;
    Ok(Prepared {
        tracker: Arc::new(tracker),
        listeners,
    })
}

impl Prepared {
    /// Where it will serve.
    pub fn listen(&self) -> String {
        listed(self.listeners.addresses())
    }

    /// Serves from now on.
    pub fn start(self) -> Result<Serving, Error> {
        let running = self
            .tracker
            .start(self.listeners)
            .map_err(Error::io("cannot start the tracker"))?;
        Ok(Serving {
            tracker: self.tracker,
            running,
        })
    }
}

impl Serving {
    /// Which info hashes are served is read again; the rest stays until the next start.
    pub fn reload(&self, config: &Config, zone: Option<Zone>) -> Result<(), Error> {
        let Some(role) = &config.tracker else {
            return Err(Error::refused("[tracker] is gone from the configuration"));
        };
        let zone = zone.or_else(|| zone_of(config));
        self.tracker
            .set_served(role.served(config.rendezvous.as_ref(), zone));
        Ok(())
    }

    /// Where it serves.
    pub fn addresses(&self) -> &[SocketAddr] {
        self.running.listen()
    }

    /// `127.0.0.1:6969 [::1]:6969`
    pub fn listen(&self) -> String {
        listed(self.running.listen())
    }
}

fn listed(addresses: &[SocketAddr]) -> String {
    let all = addresses.iter().map(ToString::to_string);
    all.collect::<Vec<_>>().join(" ")
}

/// What a node does with trackers, for its metrics.
#[derive(Default)]
pub struct Services {
    /// It meets others there.
    pub meet: Option<Arc<Counters>>,
    /// It is one.
    pub tracker: Option<Serving>,
}

impl Services {
    /// By the names of the metrics.
    pub fn counters(&self) -> Vec<(String, u64)> {
        let met = self.meet.iter().flat_map(|meet| meet.all());
        let serving = self.tracker.iter();
        let served = serving.flat_map(|serving| serving.tracker.counters());
        let served = served.map(|(name, value)| (name.to_owned(), value));
        met.chain(served).collect()
    }
}

/// A tracker and nothing else, in the foreground, until a signal ends it: no identity, no state, no root.
pub fn run(
    config: &Config,
    source: &ConfigSource,
    ready: impl FnOnce(&Serving) -> Result<(), Error>,
) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io("cannot start"))?;
    runtime.block_on(live(config, source, ready))
}

async fn live(
    config: &Config,
    source: &ConfigSource,
    ready: impl FnOnce(&Serving) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut signals = Signals::install()?;
    let role = config.tracker.clone().unwrap_or_default();
    let prepared = prepare(&role, config, None)?;
    let memory_locked = privileges::protect_memory()?;
    let directory = source.path().and_then(Path::parent).map(Path::to_owned);
    let places = Places {
        read: directory.into_iter().collect(),
        ..Places::default()
    };
    let confined = privileges::confine(&places, &[], memory_locked)?;
    tracing::info!(?confined, "rights given up");
    let serving = prepared.start()?;
    ready(&serving)?;
    while let Asked::Reload = signals.next().await {
        let reloaded = source
            .read()
            .and_then(|config| serving.reload(&config, None));
        match reloaded {
            Ok(()) => tracing::info!("the tracker's info hashes are read again"),
            Err(error) => tracing::error!("the tracker stays as it was: {error}"),
        }
    }
    Ok(())
}
