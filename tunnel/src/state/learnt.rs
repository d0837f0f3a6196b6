//! `learnt.toml`: where peers were last met. Hints for the next start, written by the node alone; losing it costs nothing
//! but time, so a damaged one is left out with a warning.

use std::io;

use anode_platform::files::write_atomic;
use anode_routing::overlay::PathKind;
use serde::{Deserialize, Serialize};

use super::{LockedState, StateDir};
use crate::Error;
use crate::command::PeerReport;
use crate::value::{EndpointText, PeerEndpoint};
use anode_routing::anode::Place;

/// Entries that are kept; the node reports the peers in use first.
pub const MAX_ENTRIES: usize = 1024;

/// One line for each peer and endpoint is less than 200 bytes.
const MAX_BYTES: u64 = 200 * MAX_ENTRIES as u64;

#[derive(Serialize, Deserialize)]
struct File {
    #[serde(default)]
    peer: Vec<String>,
}

/// What was learnt before; empty, with a warning in the log, when the file is of no use.
pub fn load(dir: &StateDir) -> Vec<PeerEndpoint> {
    let path = dir.file("learnt.toml");
    let text = match read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            tracing::warn!("{}: {error}: starting without learnt peers", path.display());
            return Vec::new();
        }
    };
    match toml::from_str::<File>(&text) {
        Ok(file) => file
            .peer
            .iter()
            .take(MAX_ENTRIES)
            .filter_map(|line| line.parse().ok())
            .collect(),
        Err(error) => {
            tracing::warn!(
                "{}: {}: starting without learnt peers",
                path.display(),
                error.message()
            );
            Vec::new()
        }
    }
}

fn read(path: &std::path::Path) -> io::Result<String> {
    if path.metadata()?.len() > MAX_BYTES {
        return Err(io::Error::other(format!("more than {MAX_BYTES} bytes")));
    }
    std::fs::read_to_string(path)
}

/// Where the peers of `reports` are met without a relay.
pub fn from_reports(reports: &[PeerReport]) -> Vec<PeerEndpoint> {
    let mut peers = Vec::new();
    for report in reports {
        let direct = report
            .paths
            .iter()
            .filter(|path| path.via.kind == PathKind::Direct && path.via.hops == 0);
        for path in direct {
            // The other end of a connection may be a port that only lived as long as that.
            if let Ok(EndpointText::Udp(endpoint)) = path.via.endpoint.to_string().parse() {
                let endpoint = Place::Udp(endpoint);
                peers.push(PeerEndpoint {
                    address: report.address,
                    endpoint,
                });
            }
        }
    }
    peers.truncate(MAX_ENTRIES);
    peers
}

/// Replaces the file.
pub fn save(state: &LockedState, peers: &[PeerEndpoint]) -> Result<(), Error> {
    let lines = peers.iter().take(MAX_ENTRIES);
    let file = File {
        peer: lines
            .map(|peer| format!("{}@{}", peer.address, peer.endpoint))
            .collect(),
    };
    let text = toml::to_string(&file)
        .map_err(|error| Error::refused(format!("cannot write learnt peers: {error}")))?;
    let path = state.dir().file("learnt.toml");
    // An idle node renews its sessions every two minutes, and its peers are where they were: the disk may sleep.
    if std::fs::read_to_string(&path).is_ok_and(|written| written == text) {
        return Ok(());
    }
    write_atomic(&path, text.as_bytes(), 0o600)?;
    Ok(())
}
