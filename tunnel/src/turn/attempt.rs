//! `anode turn check` and `anode turn send`: whether a server works and why not, and datagrams through it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anode_routing::turn::client::{Blocking, BlockingError, Check, ProbeStep, probe};
use anode_turn::Transport;
use anode_turn::client::{Config, Why};
use anode_turn::resolve::Server;
use anode_turn::rto::RtoConfig;
use serde::Serialize;

use super::access::Access;
use super::resolve::resolve;

/// A person waits: five sendings, and 9.5 s instead of RFC 8489's 39.5 until a server counts as silent.
const RTO: RtoConfig = RtoConfig {
    initial: Duration::from_millis(500),
    rc: 5,
    rm: 4,
};
/// The last datagram has this long to come back.
const PATIENCE: Duration = Duration::from_secs(2);
/// Datagrams under way at a time.
const WINDOW: u32 = 16;

/// What `anode turn check` found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was asked for.
    pub uri: String,
    /// Whether it works.
    pub ok: bool,
    /// How the server sees us.
    pub mapped: Option<SocketAddr>,
    /// The relay's address.
    pub relayed: Option<SocketAddr>,
    /// In order.
    pub steps: Vec<Step>,
}

/// One step.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// resolve, connect, tls, dtls, binding, allocate, release
    pub step: &'static str,
    /// Whether it worked.
    pub ok: bool,
    /// How long it took.
    pub ms: f64,
    /// Why not.
    pub error: Option<String>,
}

fn config(access: &Access) -> Config {
    Config {
        credentials: access.credentials.clone(),
        rto: RTO,
        ..Config::default()
    }
}

fn ms(since: Duration) -> f64 {
    (since.as_secs_f64() * 1e6).round() / 1e3
}

/// Tries a server, step by step.
pub fn check(attempt: &Access) -> Report {
    let mut report = Report {
        uri: attempt.uri.to_string(),
        ok: false,
        mapped: None,
        relayed: None,
        steps: Vec::new(),
    };
    let start = Instant::now();
    let prepared = resolve(&attempt.uri).and_then(|servers| Ok((servers, attempt.check()?)));
    let (servers, check) = match prepared {
        Ok(prepared) => {
            report.done("resolve", start.elapsed());
            prepared
        }
        Err(error) => {
            report.failed("resolve", start, error);
            return report;
        }
    };
    // The next one counts when one does not work; what was wrong with it stays in the report.
    report.ok = servers
        .iter()
        .any(|server| report.try_server(attempt, server, check.clone()));
    report
}

impl Report {
    fn done(&mut self, step: &'static str, took: Duration) {
        self.steps.push(Step {
            step,
            ok: true,
            ms: ms(took),
            error: None,
        });
    }

    fn failed(&mut self, step: &'static str, since: Instant, error: String) {
        self.steps.push(Step {
            step,
            ok: false,
            ms: ms(since.elapsed()),
            error: Some(error),
        });
    }

    fn try_server(&mut self, attempt: &Access, server: &Server, check: Option<Check>) -> bool {
        let secured = match server.transport {
            Transport::Dtls => "dtls",
            Transport::Tls => "tls",
            Transport::Udp | Transport::Tcp => "connect",
        };
        let start = Instant::now();
        match probe(server, RTO, check.clone()) {
            Ok(reached) => {
                if let Some(tcp) = reached.tcp {
                    self.done("connect", tcp);
                }
                if let Some(took) = reached.secured {
                    self.done(secured, took);
                }
                self.done("binding", reached.mapped.1);
                self.mapped = Some(reached.mapped.0);
            }
            Err((step, error)) => {
                let step = match step {
                    ProbeStep::Connect => "connect",
                    ProbeStep::Secure => secured,
                    ProbeStep::Binding => "binding",
                };
                self.failed(step, start, explain(&error, server, attempt));
                return false;
            }
        }
        if !attempt.uri.relay {
            return true;
        }
        let start = Instant::now();
        let (client, allocated) = match Blocking::allocate(server.clone(), config(attempt), check) {
            Ok(allocated) => allocated,
            Err(error) => {
                self.failed("allocate", start, explain(&error, server, attempt));
                return false;
            }
        };
        self.done("allocate", start.elapsed());
        self.mapped = allocated.mapped.or(self.mapped);
        self.relayed = allocated.relayed.first().copied();
        let start = Instant::now();
        match client.close() {
            Ok(()) => self.done("release", start.elapsed()),
            Err(error) => {
                self.failed("release", start, explain(&error, server, attempt));
                return false;
            }
        }
        true
    }
}

/// What is wrong, with the server and, where it is known, the fix. Never a password.
fn explain(error: &BlockingError, server: &Server, attempt: &Access) -> String {
    let transport = match server.transport {
        Transport::Udp => "udp",
        Transport::Tcp => "tcp",
        Transport::Tls => "tls",
        Transport::Dtls => "dtls",
    };
    let fix = match error {
        BlockingError::Ended(Why::Credentials) if attempt.credentials.is_none() => {
            ": give --user and --password"
        }
        BlockingError::Ended(Why::Credentials) => ": look at --user and the password",
        BlockingError::Ended(Why::Silence) => ": a firewall, or no server there",
        _ => "",
    };
    format!("{} ({transport}): {error}{fix}", server.address)
}

/// What to send through a server.
pub struct Load {
    /// To whom.
    pub peer: SocketAddr,
    /// How many datagrams.
    pub count: u32,
    /// Of how many bytes.
    pub size: usize,
    /// Over a channel, not by Send indications.
    pub channel: bool,
    /// With DF.
    pub dont_fragment: bool,
}

/// What `anode turn send` saw.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Sent {
    /// Datagrams sent.
    pub sent: u32,
    /// Datagrams that came back.
    pub received: u32,
    /// The mean round trip of these.
    pub rtt_ms: Option<f64>,
    /// Why not all came, where that is known.
    pub error: Option<String>,
}

/// Sends datagrams through a server; `payload` is told each that comes back.
pub fn send(attempt: &Access, load: &Load, mut payload: impl FnMut(&[u8])) -> Sent {
    let mut sent = Sent::default();
    if let Err(error) = try_send(attempt, load, &mut sent, &mut payload) {
        sent.error = Some(error);
    } else if sent.received < sent.sent {
        let lost = sent.sent - sent.received;
        sent.error = Some(format!("{lost} of {} did not come back", sent.sent));
    }
    sent
}

fn try_send(
    attempt: &Access,
    load: &Load,
    sent: &mut Sent,
    payload: &mut impl FnMut(&[u8]),
) -> Result<(), String> {
    let (servers, check) = (resolve(&attempt.uri)?, attempt.check()?);
    let mut config = config(attempt);
    config.dont_fragment = load.dont_fragment;
    if load.peer.is_ipv6() {
        config.families = anode_turn::client::Families::V6;
    }
    let mut last = None;
    let mut found = None;
    for server in servers {
        match Blocking::allocate(server.clone(), config.clone(), check.clone()) {
            Ok((client, _)) => {
                found = Some((client, server));
                break;
            }
            Err(error) => last = Some(explain(&error, &server, attempt)),
        }
    }
    let (mut client, server) = found.ok_or(last.unwrap_or_default())?;
    let told = |error: &BlockingError| explain(error, &server, attempt);
    client
        .admit(load.peer, load.channel)
        .map_err(|error| told(&error))?;
    let exchanged = exchange(&mut client, load, sent, payload).map_err(|error| told(&error));
    // What was asked for is done; that the server keeps an allocation for ten minutes is not this command's failure.
    let _ = client.close();
    exchanged
}

fn exchange(
    client: &mut Blocking,
    load: &Load,
    sent: &mut Sent,
    payload: &mut impl FnMut(&[u8]),
) -> Result<(), BlockingError> {
    let mut at: Vec<Option<Instant>> = vec![None; load.count as usize];
    // `given_up`: sent, and not waited for any more, so that losses do not close the window.
    let (mut total, mut given_up) = (Duration::ZERO, 0);
    let mut quiet_at = Instant::now() + PATIENCE;
    loop {
        while sent.sent < load.count && sent.sent < sent.received + given_up + WINDOW {
            let datagram = numbered(sent.sent, load.size);
            at[sent.sent as usize] = Some(Instant::now());
            client.send(load.peer, &datagram);
            sent.sent += 1;
            quiet_at = Instant::now() + PATIENCE;
        }
        if sent.received >= load.count {
            break;
        }
        let Some((from, bytes)) = client.receive(quiet_at)? else {
            if sent.sent == load.count {
                break;
            }
            given_up = sent.sent - sent.received;
            continue;
        };
        if from != load.peer {
            continue;
        }
        payload(&bytes);
        // A number is counted once; empty datagrams, and those too short for one, in the order they were sent in.
        let number = match bytes.first_chunk::<4>() {
            Some(number) if load.size >= 4 => u32::from_be_bytes(*number),
            _ => sent.received,
        };
        if let Some(start) = at.get_mut(number as usize).and_then(Option::take) {
            sent.received += 1;
            total += start.elapsed();
            sent.rtt_ms = Some(ms(total / sent.received));
        }
    }
    Ok(())
}

/// A datagram that can be told from the others: its number, and then its own pattern.
fn numbered(number: u32, size: usize) -> Vec<u8> {
    let mut datagram: Vec<u8> = (0..size).map(|at| (at as u32 ^ number) as u8).collect();
    let head = number.to_be_bytes();
    let length = size.min(head.len());
    datagram[..length].copy_from_slice(&head[..length]);
    datagram
}
