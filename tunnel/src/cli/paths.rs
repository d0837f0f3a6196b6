//! `anode paths`: every proven path, which one is used, and why a peer stays relayed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::Done;
use super::args::Common;
use super::show::{ask_peers, name, path_text};
use crate::Error;
use crate::control::api::{Path, Peer};
use crate::control::netcheck::relayed_text;
use crate::names::short;
use crate::output::{self, Style};

/// The node is asked so often for changes.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// One path of one peer, for scripts that want no nesting.
#[derive(Serialize)]
struct PeerPath<'a> {
    address: &'a str,
    name: Option<&'a str>,
    #[serde(flatten)]
    path: &'a Path,
}

pub(super) fn run(common: &Common, watched: bool) -> Result<Done, Error> {
    let peers = ask_peers(common)?;
    if watched {
        return watch(common, peers);
    }
    if common.json {
        output::json(&documents(&peers))?;
        return Ok(Done::Yes);
    }
    let all = peers
        .iter()
        .flat_map(|peer| peer.paths.iter().map(move |path| (peer, path)));
    let row = |(peer, path): (&Peer, &Path)| {
        vec![
            name(peer),
            path.kind.as_str().to_owned(),
            path.endpoint.clone(),
            path.relay.as_deref().map_or("-".to_owned(), short),
            path.hops.to_string(),
            path.rtt_ms.map_or("-".to_owned(), output::rtt),
            if path.active { "active" } else { "standby" }.to_owned(),
        ]
    };
    let rows: Vec<Vec<String>> = all.map(row).collect();
    if rows.is_empty() {
        output::print("no paths yet\n")?;
        return Ok(Done::Yes);
    }
    let head = ["NAME", "KIND", "ENDPOINT", "RELAY", "HOPS", "RTT", "STATE"];
    output::print(&output::table(Style::stdout(), &head, &rows))?;
    for peer in &peers {
        if let Some(why) = reason(peer) {
            output::print(&format!(
                "{} is relayed: {}\n",
                name(peer),
                relayed_text(why)
            ))?;
        }
    }
    Ok(Done::Yes)
}

fn documents(peers: &[Peer]) -> Vec<PeerPath<'_>> {
    let mut all = Vec::new();
    for peer in peers {
        all.extend(peer.paths.iter().map(|path| PeerPath {
            address: &peer.address,
            name: peer.name.as_deref(),
            path,
        }));
    }
    all
}

fn reason(peer: &Peer) -> Option<&str> {
    let active = peer.paths.iter().find(|path| path.active)?;
    active.reason.as_deref()
}

/// One line for each peer whose way has changed; with `--json`, one document a line.
fn watch(common: &Common, first: Vec<Peer>) -> Result<Done, Error> {
    let start = Instant::now();
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    let mut peers = first;
    loop {
        for peer in &peers {
            let way = way(peer);
            let before = known.insert(peer.address.clone(), way.clone());
            if before.as_ref() == Some(&way) || before.is_none() && peer.paths.is_empty() {
                continue;
            }
            let seconds = start.elapsed().as_secs_f64();
            match common.json {
                true => {
                    let active = peer.paths.iter().find(|path| path.active);
                    let line = serde_json::json!({
                        "after_s": (seconds * 1e3).round() / 1e3,
                        "address": peer.address,
                        "name": peer.name,
                        "path": active,
                    });
                    output::print(&format!("{line}\n"))?;
                }
                false => output::print(&format!("{seconds:8.1} s  {}  {way}\n", name(peer)))?,
            }
        }
        std::thread::sleep(LOOK_EVERY);
        peers = ask_peers(common)?;
    }
}

/// How packets get there, in words.
fn way(peer: &Peer) -> String {
    let Some(active) = peer.paths.iter().find(|path| path.active) else {
        return "no path".to_owned();
    };
    match &active.reason {
        Some(why) => format!("{} ({})", path_text(active), relayed_text(why)),
        None => path_text(active),
    }
}
