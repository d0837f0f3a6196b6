//! `anode relay -c FILE` with nothing but `[turn]`: a TURN server that needs no root, no zone, no interface and no state.
//!
//! ```text
//!   sockets ─▶ rights given up ─▶ threads ─▶ "ready …" ─▶ SIGHUP: read again │ SIGTERM: drain │ SIGINT: end
//! ```

use std::time::{Duration, Instant};

use anode_platform::notify;
use anode_platform::privileges::{self, Places};
use anode_routing::turn::server::Listening;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::role::{Prepared, Role};
use crate::Error;
use crate::config::turn::{AnodeUsers, Turn};
use crate::config::{Config, ConfigSource};
use crate::output::{self, Style};

/// How often counters are logged.
const REPORT: Duration = Duration::from_secs(60);

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
    if turn.anode_users != AnodeUsers::Off {
        return Err(Error::invalid(
            "[turn] anode-users",
            "a TURN server alone has no key and trusts nobody: write \"off\", or run it beside a node, such as a [relay]",
        ));
    }
    let prepared = Prepared::new(turn, source, None, &[])?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io("cannot start the control thread"))?;
    runtime.block_on(async {
        let mut signals = Signals::install()?;
        let places = Places {
            write: Vec::new(),
            remove: Vec::new(),
            read: prepared.directories().to_vec(),
            read_files: Vec::new(),
        };
        // The last moment with one thread: all that are started from here on are as confined as this one.
        let confined = privileges::confine(&places, &[], false)?;
        tracing::info!(?confined, "rights given up");
        let role = prepared.start(source.clone())?;
        let listening = show(role.listening());
        eprintln!(
            "{} in {}: turn on {listening}, relaying from {}",
            Style::stderr().green("ready"),
            output::rtt(start.elapsed().as_secs_f64() * 1e3),
            turn.relaying()
        );
        notify::ready(&format!("turn on {listening}"));
        live(&role, &mut signals).await;
        Ok(())
    })
}

/// Where clients find it.
fn show(listening: &Listening) -> String {
    let plain = listening.plain.iter().map(|at| format!("{at} (udp, tcp)"));
    let secure = listening.secure.iter();
    let secure = secure.map(|at| format!("{at} (tls, dtls)"));
    plain.chain(secure).collect::<Vec<_>>().join(", ")
}

async fn live(role: &Role, signals: &mut Signals) {
    let mut report = tokio::time::interval(REPORT);
    loop {
        tokio::select! {
            asked = signals.next() => match asked {
                Asked::Reload => match role.reload() {
                    Ok(()) => tracing::info!("configuration reloaded"),
                    Err(error) => tracing::error!("the TURN server stays as it was: {error}"),
                },
                Asked::Drain => break,
                Asked::End => return,
            },
            _ = report.tick() => log(role),
        }
    }
    notify::stopping();
    let ended = async { while let Asked::Reload = signals.next().await {} };
    tokio::select! {
        () = role.drain() => {}
        () = ended => {}
    }
    log(role);
}

fn log(role: &Role) {
    let all = role.snapshot();
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
