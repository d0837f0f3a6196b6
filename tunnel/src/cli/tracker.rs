//! `anode tracker announce|scrape`: one question to a tracker from every address of this machine that can ask it, for
//! people who debug. `anode rendezvous hash`: under which info hashes this node meets others.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anode_platform::netlink::Netlink;
use anode_routing::tracker::{
    Announce, Answer, Event, InfoHash, Key, LocalAddress, PeerId, Publish, Question, Reply,
    ScrapeEntry, TlsConfig, TrackerUrl, ask, next_change, pairs,
};
use anode_wire::Zone;
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;

use super::args::{Common, RendezvousCommand, TrackerCommand, TrackerEvent, TrackerQuestion};
use super::{Done, block_on, show};
use crate::Error;
use crate::clock;
use crate::control::rendezvous::Met;
use crate::output::{self, Style};
use crate::state::identity;
use crate::tracker::names;

/// How long a search goes on: trackers allow a question a minute, and both sides must have asked.
const LOOKUP_TIME: Duration = Duration::from_secs(150);
/// How often the node is asked.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(1);
/// How many peers are asked for.
const NUM_WANT: u32 = 200;

/// One local address that an announce was made from.
#[derive(Serialize)]
struct Announced {
    local: IpAddr,
    tracker: String,
    interval: Option<u64>,
    complete: Option<u32>,
    incomplete: Option<u32>,
    peers: Vec<SocketAddr>,
    external_ip: Option<IpAddr>,
    warning: Option<String>,
    error: Option<String>,
}

/// One local address that a scrape was made from.
#[derive(Serialize)]
struct Scraped {
    tracker: String,
    complete: Option<u32>,
    downloaded: Option<u32>,
    incomplete: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// What came of one local address.
struct Outcome {
    local: IpAddr,
    remote: SocketAddr,
    result: Result<Reply, String>,
}

pub(super) fn tracker(common: &Common, command: TrackerCommand) -> Result<Done, Error> {
    match command {
        TrackerCommand::Announce {
            question,
            port,
            event,
            no_compact,
        } => announce(common, &question, port, event, !no_compact),
        TrackerCommand::Scrape { question } => scrape(common, &question),
    }
}

fn announce(
    common: &Common,
    question: &TrackerQuestion,
    port: u16,
    event: Option<TrackerEvent>,
    compact: bool,
) -> Result<Done, Error> {
    let url = &question.url.0;
    let event = event.map(|event| match event {
        TrackerEvent::Started => Event::Started,
        TrackerEvent::Completed => Event::Completed,
        TrackerEvent::Stopped => Event::Stopped,
    });
    let (peer_id, key) = client(port, &question.info_hash.0)?;
    let asked = Question::Announce(Announce {
        info_hash: question.info_hash.0,
        peer_id,
        key,
        port,
        left: u64::from(event != Some(Event::Completed)),
        event,
        num_want: NUM_WANT,
        tracker_id: None,
        compact,
    });
    let outcomes = block_on(ask_from_everywhere(url, port, asked))?;
    let entry = |outcome: &Outcome| {
        let (answer, error) = match &outcome.result {
            Ok(Reply::Announced(answer)) => (answer.clone(), None),
            Ok(Reply::Scraped(_)) => (Answer::default(), None),
            Err(error) => (Answer::default(), Some(error.clone())),
        };
        Announced {
            local: outcome.local,
            tracker: url.to_string(),
            interval: answer.interval.map(|interval| interval.as_secs()),
            complete: answer.complete,
            incomplete: answer.incomplete,
            peers: answer.peers,
            external_ip: answer.external_ip,
            warning: answer.warning,
            error,
        }
    };
    let entries: Vec<Announced> = outcomes.iter().map(entry).collect();
    if common.json {
        output::json(&entries)?;
    } else {
        let mut text = String::new();
        for (outcome, entry) in outcomes.iter().zip(&entries) {
            text += &heading(outcome);
            if let Some(error) = &entry.error {
                text += &rows(&[("error", Some(error.clone()))]);
                continue;
            }
            let peers: Vec<String> = entry.peers.iter().map(ToString::to_string).collect();
            text += &rows(&[
                (
                    "interval",
                    entry.interval.map(|seconds| format!("{seconds} s")),
                ),
                ("complete", entry.complete.map(|count| count.to_string())),
                (
                    "incomplete",
                    entry.incomplete.map(|count| count.to_string()),
                ),
                ("external ip", entry.external_ip.map(|ip| ip.to_string())),
                ("warning", entry.warning.clone()),
                (
                    "peers",
                    Some(peers.join(" ")).filter(|text| !text.is_empty()),
                ),
            ]);
        }
        output::print(&text)?;
    }
    verdict(&outcomes)
}

fn scrape(common: &Common, question: &TrackerQuestion) -> Result<Done, Error> {
    let url = &question.url.0;
    let asked = Question::Scrape(question.info_hash.0);
    let outcomes = block_on(ask_from_everywhere(url, 1, asked))?;
    let entry = |outcome: &Outcome| {
        let (found, error): (Option<ScrapeEntry>, _) = match &outcome.result {
            Ok(Reply::Scraped(found)) => (Some(*found), None),
            Ok(Reply::Announced(_)) => (None, None),
            Err(error) => (None, Some(error.clone())),
        };
        Scraped {
            tracker: url.to_string(),
            complete: found.map(|found| found.complete),
            downloaded: found.map(|found| found.downloaded),
            incomplete: found.map(|found| found.incomplete),
            error,
        }
    };
    let entries: Vec<Scraped> = outcomes.iter().map(entry).collect();
    if common.json {
        output::json(&entries)?;
    } else {
        let mut text = String::new();
        for (outcome, entry) in outcomes.iter().zip(&entries) {
            let count = |count: Option<u32>| count.map(|count| count.to_string());
            text += &heading(outcome);
            text += &rows(&[
                ("complete", count(entry.complete)),
                ("downloaded", count(entry.downloaded)),
                ("incomplete", count(entry.incomplete)),
                ("error", entry.error.clone()),
            ]);
        }
        output::print(&text)?;
    }
    verdict(&outcomes)
}

/// `192.0.2.1 → 198.51.100.1:6969`
fn heading(outcome: &Outcome) -> String {
    let text = format!("{} → {}", outcome.local, outcome.remote);
    Style::stdout().bold(&text) + "\n"
}

fn rows(all: &[(&str, Option<String>)]) -> String {
    let known: Vec<(&str, String)> = all
        .iter()
        .filter_map(|(label, value)| Some((*label, value.clone()?)))
        .collect();
    output::fields(Style::stdout(), &known)
}

/// Good if one was answered; else what the tracker said, each text once.
fn verdict(outcomes: &[Outcome]) -> Result<Done, Error> {
    let mut words = BTreeSet::new();
    for outcome in outcomes {
        match &outcome.result {
            Ok(_) => return Ok(Done::Yes),
            Err(error) => words.insert(error.as_str()),
        };
    }
    let words: Vec<&str> = words.into_iter().collect();
    Err(Error::refused(words.join("; ")))
}

/// Asks from every address of this machine that qualifies, each bound before it connects (B1 to B5), all at once.
async fn ask_from_everywhere(
    url: &TrackerUrl,
    port: u16,
    asked: Question,
) -> Result<Vec<Outcome>, Error> {
    let remotes = resolve(url).await?;
    let locals = local_addresses(port, &remotes)?;
    let tls = names::certificates([url])?;
    let mut asking = JoinSet::new();
    for local in &locals {
        let reachable = remotes.iter().filter(|ip| pairs(local, **ip));
        let reachable: Vec<SocketAddr> = reachable
            .map(|ip| SocketAddr::new(*ip, url.port()))
            .collect();
        if reachable.is_empty() {
            continue;
        }
        let (url, asked, tls, local) = (url.clone(), asked.clone(), tls.clone(), local.ip);
        asking.spawn(async move { ask_from(&url, local, &reachable, &asked, &tls).await });
    }
    if asking.is_empty() {
        let remotes: Vec<String> = remotes.iter().map(ToString::to_string).collect();
        return Err(Error::refused(format!(
            "no address of this machine can be the source of packets to {}",
            remotes.join(", ")
        )));
    }
    let mut outcomes = asking.join_all().await;
    outcomes.sort_by_key(|outcome| outcome.local);
    Ok(outcomes)
}

/// The addresses of the tracker in turn, until one answers, whatever it says; what the last one said or did not say.
async fn ask_from(
    url: &TrackerUrl,
    local: IpAddr,
    remotes: &[SocketAddr],
    asked: &Question,
    tls: &TlsConfig,
) -> Outcome {
    let mut outcome = None;
    for remote in remotes {
        let result = ask(url, local, *remote, asked, tls).await;
        let done = result.is_ok();
        outcome = Some(Outcome {
            local,
            remote: *remote,
            result: result.map_err(|error| error.to_string()),
        });
        if done {
            break;
        }
    }
    outcome.unwrap_or(Outcome {
        local,
        remote: SocketAddr::new(local, 0),
        result: Err("there is nobody to ask".to_owned()),
    })
}

async fn resolve(url: &TrackerUrl) -> Result<Vec<IpAddr>, Error> {
    if let Ok(ip) = url.host().parse::<IpAddr>() {
        return Ok(vec![ip.to_canonical()]);
    }
    let found = names::look_up(url.host().to_owned()).await;
    let found = found.map_err(|error| Error::refused(format!("{}: {error}", url.host())))?;
    let mut distinct = Vec::new();
    for ip in found.iter().map(IpAddr::to_canonical) {
        if !distinct.contains(&ip) {
            distinct.push(ip);
        }
    }
    Ok(distinct)
}

/// Addresses of this machine that may be announced.
fn local_addresses(port: u16, remotes: &[IpAddr]) -> Result<Vec<LocalAddress>, Error> {
    let ways_out: Vec<IpAddr> = remotes
        .iter()
        .filter_map(|ip| crate::tracker::meet::way_out(*ip))
        .collect();
    let mut locals = Vec::new();
    for interface in Netlink::open()?.interfaces()? {
        for address in interface.addresses {
            let ip = address.prefix.address();
            if interface.link.flags.up && !address.tentative {
                locals.push(LocalAddress {
                    ip,
                    port,
                    deprecated: address.deprecated,
                    way_out: ways_out.contains(&ip),
                });
            }
        }
    }
    Ok(Publish::default().select(&locals, |local, why| {
        tracing::debug!(address = %local.ip, %why, "not asked from");
    }))
}

/// Who we are to trackers: the same from every address and in every command (B6, B7) until the machine starts again, so
/// that `--event stopped` takes back what `--event started` has put there. Another one for each port and swarm.
fn client(port: u16, swarm: &InfoHash) -> Result<(PeerId, Key), Error> {
    /// 122 random bits of the kernel.
    const BOOT: &str = "/proc/sys/kernel/random/boot_id";
    let boot = std::fs::read(BOOT).map_err(Error::io(format!("cannot read {BOOT}")))?;
    let mut hash = Sha256::new()
        .chain_update(boot)
        .chain_update(port.to_be_bytes())
        .chain_update(swarm.0);
    // Machines in namespaces have one kernel, and are not one machine.
    for local in local_addresses(port, &[])? {
        hash.update(local.ip.to_string());
    }
    let hash = hash.finalize();
    let mut id = *b"-AN0100-            ";
    id[8..].copy_from_slice(&hash[..12]);
    let key = u32::from_be_bytes([hash[12], hash[13], hash[14], hash[15]]);
    Ok((PeerId(id), Key(key)))
}

/// Asks the node every second whether trackers have led to somebody.
pub(super) fn lookup(common: &Common, text: &str) -> Result<Done, Error> {
    let request = show::request(common, text)?;
    let found = block_on(async {
        let mut client = common.client().await?;
        let deadline = Instant::now() + LOOKUP_TIME;
        loop {
            let met: Met = client.post("/v1/meet", &request).await?;
            if !met.on {
                return Err(Error::refused(
                    "this node meets nobody at trackers: name some in [rendezvous] trackers, and start it again",
                ));
            }
            if let Some(found) = met.found {
                return Ok(found);
            }
            if Instant::now() > deadline {
                return Err(Error::refused(format!(
                    "no tracker has led to {text} within {} s",
                    LOOKUP_TIME.as_secs()
                )));
            }
            tokio::time::sleep(LOOKUP_INTERVAL).await;
        }
    })?;
    show::found_by(common, found)
}

/// `anode rendezvous hash --json`
#[derive(Serialize)]
struct Hashes {
    zone: String,
    rotate: &'static str,
    info_hashes: Vec<String>,
    /// Seconds since 1970.
    next_change: Option<u64>,
}

pub(super) fn rendezvous(common: &Common, command: RendezvousCommand) -> Result<Done, Error> {
    let RendezvousCommand::Hash = command;
    let dir = common.dir()?;
    let config = common.config(&dir)?;
    let configured = config.zone.map(|zone| zone.0.0);
    let zone = identity::zone(&dir, configured)?.unwrap_or(Zone::LOCAL);
    let rendezvous = config.rendezvous.unwrap_or_default();
    let own = rendezvous.hashes(zone);
    let unix = clock::unix();
    let hashes = Hashes {
        zone: zone.to_string(),
        rotate: rendezvous.rotate.as_str(),
        info_hashes: own.in_force(unix).map(|hash| hash.to_string()).collect(),
        next_change: next_change(own.rotation, unix),
    };
    if common.json {
        output::json(&hashes)?;
    } else {
        output::print(&(hashes.info_hashes.join("\n") + "\n"))?;
    }
    Ok(Done::Yes)
}
