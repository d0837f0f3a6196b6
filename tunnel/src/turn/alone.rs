//! `anode relay -c FILE` with nothing but `[turn]`: a TURN server that needs no root, no zone, no interface and no state.
//!
//! ```text
//!   sockets ─▶ rights given up ─▶ threads ─▶ "ready …" ─▶ SIGHUP: read again │ SIGTERM: drain │ SIGINT: end
//! ```

use std::path::Path;
use std::time::{Duration, Instant};

use anode_platform::notify;
use anode_platform::privileges::{self, Places};
use anode_routing::turn::server::{Bound, Listening, ServerError, Settings, TurnServer};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::Error;
use crate::config::turn::Turn;
use crate::config::{Config, ConfigSource};
use crate::output::{self, Style};

/// How often a draining server is asked whether it is empty.
const POLL: Duration = Duration::from_millis(100);
/// How often counters are logged.
const REPORT: Duration = Duration::from_secs(60);

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

/// Whether a configuration is about a TURN server and nothing else.
pub fn is_all(config: &Config) -> bool {
    let rest = Config {
        turn: None,
        log: None,
        ..config.clone()
    };
    config.turn.is_some() && rest == Config::default()
}

/// Runs until a signal ends it.
pub fn run(turn: &Turn, source: &ConfigSource, start: Instant) -> Result<(), Error> {
    let path = source.path().unwrap_or(Path::new(""));
    let settings = turn.settings(path)?;
    let (range, relays) = (settings.turn.ports.clone(), settings.turn.relays.clone());
    let drain = settings.turn.drain;
    let bound = Bound::bind(settings)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io("cannot start the control thread"))?;
    runtime.block_on(async {
        let mut signals = Signals::install()?;
        // The last moment with one thread: all that are started from here on are as confined as this one.
        let confined = privileges::confine(&places(turn, path), &[], false)?;
        tracing::info!(?confined, "rights given up");
        let server = bound.start()?;
        let relays: Vec<String> = relays.iter().map(|r| r.external.to_string()).collect();
        let from = format!(
            "{} ports {}-{}",
            relays.join(" "),
            range.start(),
            range.end()
        );
        let style = Style::stderr();
        let spent = output::rtt(start.elapsed().as_secs_f64() * 1e3);
        let listening = show(server.listening());
        eprintln!(
            "{} in {spent}: turn on {listening}, relaying from {from}",
            style.green("ready")
        );
        notify::ready(&format!("turn on {listening}"));
        live(&server, source, &mut signals, drain).await;
        Ok(())
    })
}

/// Where clients find it.
fn show(listening: &Listening) -> String {
    let plain = listening.plain.iter().map(|at| format!("{at} (udp, tcp)"));
    let secure = listening
        .secure
        .iter()
        .map(|at| format!("{at} (tls, dtls)"));
    plain.chain(secure).collect::<Vec<_>>().join(", ")
}

/// What a running server reads: the configuration and the certificate, again after a hangup.
fn places(turn: &Turn, path: &Path) -> Places {
    let target = path.canonicalize().ok();
    let files = [Some(path.to_owned()), target].into_iter().flatten();
    let directories = files.filter_map(|file| file.parent().map(Path::to_owned));
    let certificates = turn.tls.iter().flat_map(|tls| tls.directories(path));
    Places {
        write: Vec::new(),
        remove: Vec::new(),
        read: directories.chain(certificates).collect(),
        read_files: Vec::new(),
        names: false,
    }
}

async fn live(
    server: &TurnServer,
    source: &ConfigSource,
    signals: &mut Signals,
    mut drain: Duration,
) {
    let mut report = tokio::time::interval(REPORT);
    loop {
        tokio::select! {
            asked = signals.next() => match asked {
                Asked::Reload => match reload(server, source) {
                    Ok(settings) => drain = settings,
                    Err(error) => tracing::error!("the TURN server stays as it was: {error}"),
                },
                Asked::Drain => break,
                Asked::End => return,
            },
            _ = report.tick() => log(server),
        }
    }
    notify::stopping();
    tracing::info!("draining for {} s", drain.as_secs());
    server.drain();
    let until = tokio::time::sleep(drain + POLL);
    tokio::pin!(until);
    while server.allocations() > 0 {
        tokio::select! {
            () = &mut until => break,
            asked = signals.next() => if !matches!(asked, Asked::Reload) { break },
            () = tokio::time::sleep(POLL) => {}
        }
    }
    log(server);
}

/// Reads the configuration again; a wrong one changes nothing. Gives the new drain time.
fn reload(server: &TurnServer, source: &ConfigSource) -> Result<Duration, Error> {
    let config = source.read()?;
    let turn = config.turn.ok_or_else(|| {
        let path = source.path().unwrap_or(Path::new(""));
        Error::invalid(path.display().to_string(), "[turn] is gone")
    })?;
    let settings: Settings = turn.settings(source.path().unwrap_or(Path::new("")))?;
    let drain = settings.turn.drain;
    server.reload(settings)?;
    tracing::info!("configuration reloaded");
    Ok(drain)
}

fn log(server: &TurnServer) {
    let all = server.snapshot();
    let counted = all.turn.each().chain(all.io.each());
    let counted: Vec<String> = counted
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    tracing::info!(
        allocations = all.allocations,
        streams = all.streams,
        dtls = all.sessions,
        "turn: {}",
        counted.join(", ")
    );
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

enum Asked {
    Reload,
    Drain,
    End,
}

impl Signals {
    fn install() -> Result<Self, Error> {
        let install = |kind| signal(kind).map_err(Error::io("cannot handle signals"));
        Ok(Self {
            interrupt: install(SignalKind::interrupt())?,
            terminate: install(SignalKind::terminate())?,
            hangup: install(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.interrupt.recv() => Asked::End,
            _ = self.terminate.recv() => Asked::Drain,
            _ = self.hangup.recv() => Asked::Reload,
        }
    }
}
