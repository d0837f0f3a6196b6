//! `learnt.toml`: where peers were last met. Hints for the next start, written by the node alone; losing it costs nothing
//! but time, so a damaged one is left out with a warning.

use anode_routing::overlay::PathKind;
use serde::{Deserialize, Serialize};

use super::{LockedState, StateDir, notes};
use crate::Error;
use crate::command::PeerReport;
use crate::value::{EndpointText, PeerEndpoint};
use anode_routing::anode::Place;

const NAME: &str = "learnt.toml";

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
    let file: Option<File> = notes::load(dir, NAME, MAX_BYTES, "learnt peers");
    let lines = file.into_iter().flat_map(|file| file.peer);
    lines
        .take(MAX_ENTRIES)
        .filter_map(|line| line.parse().ok())
        .collect()
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
    notes::save(state, NAME, &file)
}
