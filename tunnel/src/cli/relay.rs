//! `anode relay`: a node that only relays for others, and what it has to say of itself.

use super::args::{Common, Relay, RelayAction, Up};
use super::{Done, block_on, up};
use crate::Error;
use crate::control::api::RelayStatus;
use crate::names::short;
use crate::output::{self, Style};

pub(super) fn run(common: &Common, flags: Relay) -> Result<Done, Error> {
    let with = |file: Option<std::path::PathBuf>| Common {
        config: file.or_else(|| common.config.clone()),
        ..common.clone()
    };
    match flags.action {
        Some(RelayAction::Status { file }) => status(&with(file)),
        None => up::relay(
            &with(flags.file),
            Up {
                no_tun: true,
                listen: flags.run.listen,
                zone: flags.run.zone,
                log: flags.run.log,
                verbose: flags.run.verbose,
                die_with_parent: flags.run.die_with_parent,
                ..Up::default()
            },
        ),
    }
}

fn status(common: &Common) -> Result<Done, Error> {
    let status: RelayStatus = block_on(async { common.client().await?.get("/v1/relay").await })?;
    if common.json {
        output::json(&status)?;
        return Ok(Done::Yes);
    }
    let style = Style::stdout();
    let dropped: Vec<String> = status
        .dropped
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(why, count)| format!("{why} {count}"))
        .collect();
    let dropped = match dropped.as_slice() {
        [] => "nothing".to_owned(),
        some => some.join(", "),
    };
    let rows = [
        ("address", status.address),
        (
            "registered",
            format!("{} of at most {}", status.registered, status.peers_max),
        ),
        (
            "relayed",
            format!(
                "{} packets, {}",
                status.relayed_packets,
                output::bytes(status.relayed_bytes)
            ),
        ),
        ("dropped", dropped),
    ];
    let mut text = output::fields(style, &rows);
    if !status.peers.is_empty() {
        let row = |peer: &crate::control::api::RelayPeer| {
            vec![
                short(&peer.address),
                peer.peer_id.to_string(),
                peer.endpoint.clone(),
                format!("{:.0} s", peer.expires_s),
            ]
        };
        let rows: Vec<Vec<String>> = status.peers.iter().map(row).collect();
        text.push('\n');
        text.push_str(&output::table(
            style,
            &["ADDRESS", "PEER", "ENDPOINT", "EXPIRES"],
            &rows,
        ));
    }
    output::print(&text)?;
    Ok(Done::Yes)
}
