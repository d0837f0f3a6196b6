//! `anode demo`: two nodes, each behind a NAT of its own, and a relay between them; ordinary programs talk over the overlay.
//!
//! ```text
//!   namespace alice                    namespace internet                        namespace bob
//!   fetch, ping, echo                                                 HTTP and UDP echo server
//!        │ anode0                  anode relay 203.0.113.10                           │ anode0
//!   anode up ── wan0 ── NAT 203.0.113.1 ──┴── NAT 203.0.113.2 ────────────── wan0 ── anode up
//! ```
//!
//! Nothing is configured but mutual trust and the zone's file, which `anode zone new` makes.

mod nat;
mod place;
pub mod programs;
mod steps;

use std::process::ExitStatus;
use std::time::Instant;

use anode_platform::netns::enter_user_namespace;
use anode_platform::privileges::{Capability, has};
use serde::Serialize;

use crate::Error;
use crate::cli::Done;
use crate::control::api::millis;
use crate::output::{self, Style};

/// What one step showed.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct Step {
    name: &'static str,
    ok: bool,
    detail: String,
    seconds: f64,
}

/// `anode demo --json`
#[derive(Serialize)]
struct Report<'a> {
    ok: bool,
    privilege: &'a str,
    steps: &'a [Step],
    seconds: f64,
}

/// Tells the steps as they happen: people on standard output, or on standard error when a JSON document comes there.
pub(crate) struct Teller {
    json: bool,
    style: Style,
    steps: Vec<Step>,
    since: Instant,
    last: Instant,
}

/// With three decimals.
fn seconds_since(start: Instant) -> f64 {
    millis(start.elapsed()).round() / 1e3
}

impl Teller {
    fn new(json: bool) -> Self {
        let style = if json {
            Style::stderr()
        } else {
            Style::stdout()
        };
        Self {
            json,
            style,
            steps: Vec::new(),
            since: Instant::now(),
            last: Instant::now(),
        }
    }

    pub(crate) fn line(&self, text: &str) -> Result<(), Error> {
        if self.json {
            eprintln!("{text}");
            return Ok(());
        }
        output::print(&format!("{text}\n"))
    }

    /// One finished step; its time counts from the one before.
    pub(crate) fn step(
        &mut self,
        name: &'static str,
        result: Result<String, Error>,
    ) -> Result<(), Error> {
        let seconds = seconds_since(self.last);
        self.last = Instant::now();
        let (ok, detail) = match &result {
            Ok(detail) => (true, detail.clone()),
            Err(error) => (false, error.to_string()),
        };
        let mark = if ok {
            self.style.green("ok    ")
        } else {
            self.style.red("FAILED")
        };
        self.line(&format!("{mark}  {name:<9}  {detail}"))?;
        self.steps.push(Step {
            name,
            ok,
            detail,
            seconds,
        });
        result.map(|_| ())
    }
}

/// Runs it; exit status 0 only if everything worked.
pub(crate) fn run(json: bool) -> Result<Done, Error> {
    // A user namespace needs a process of one thread: before the runtime.
    let privilege = acquire()?;
    let mut teller = Teller::new(json);
    teller.line(&format!(
        "two nodes on this machine, each behind a NAT of its own, {privilege}"
    ))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io("cannot start"))?;
    // Whatever ends the steps, dropping them ends the programs, then removes the directory; the kernel removes the
    // namespaces when nobody is left inside.
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = steps::all(&mut teller) => outcome,
            _ = tokio::signal::ctrl_c() => Err(Error::refused("interrupted")),
            () = terminated() => Err(Error::refused("terminated")),
        }
    });
    let seconds = seconds_since(teller.since);
    if json {
        output::json(&Report {
            ok: outcome.is_ok(),
            privilege,
            steps: &teller.steps,
            seconds,
        })?;
    }
    outcome?;
    teller.line(&format!(
        "all of it worked, in {seconds:.1} s, and all of it is removed"
    ))?;
    Ok(Done::Yes)
}

/// The right to make namespaces and interfaces, and what it is called.
fn acquire() -> Result<&'static str, Error> {
    if has(Capability::SysAdmin) && has(Capability::NetAdmin) {
        return Ok("with the rights of root");
    }
    enter_user_namespace()?;
    Ok("in an unprivileged user namespace")
}

async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut signal) => {
            signal.recv().await;
        }
        Err(_) => std::future::pending().await,
    }
}

/// An error for a program that did not end well.
fn failed(program: &str, status: ExitStatus, said: &[u8]) -> Error {
    let said = String::from_utf8_lossy(said);
    let last = said
        .lines()
        .rfind(|line| !line.trim().is_empty())
        .unwrap_or("it said nothing");
    Error::refused(format!("{program} ended with {status}: {last}"))
}
