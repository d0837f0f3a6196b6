//! `anode relay`: a node that only relays for others, and what it has to say of itself.

use std::time::Instant;

use anode_platform::notify;

use super::args::{Common, Relay, RelayAction, Up};
use super::{Done, block_on, up};
use crate::Error;
use crate::config::{Config, ConfigSource};
use crate::control::api::RelayStatus;
use crate::names::short;
use crate::output::{self, Style};
use crate::tracker::role;

pub(super) fn run(common: &Common, flags: Relay) -> Result<Done, Error> {
    let with = |file: Option<std::path::PathBuf>| Common {
        config: file.or_else(|| common.config.clone()),
        ..common.clone()
    };
    match flags.action {
        Some(RelayAction::Status { file }) => status(&with(file)),
        None => {
            let common = with(flags.file);
            let up = Up {
                no_tun: true,
                listen: flags.run.listen,
                zone: flags.run.zone,
                log: flags.run.log,
                verbose: flags.run.verbose,
                die_with_parent: flags.run.die_with_parent,
                ..Up::default()
            };
            let source = common.named_config();
            let config = source.read()?;
            if config.relay.is_none() && config.tracker.is_some() {
                tracker_alone(&up, &config, &source, common.json)
            } else {
                up::relay(&common, up)
            }
        }
    }
}

/// A file with `[tracker]` and without `[relay]`: a tracker and nothing else.
fn tracker_alone(
    flags: &Up,
    config: &Config,
    source: &ConfigSource,
    json: bool,
) -> Result<Done, Error> {
    let start = Instant::now();
    if flags.die_with_parent {
        super::die_with_parent()?;
    }
    up::start_log(flags, config)?;
    role::run(config, source, |serving| {
        if json {
            output::json(&serde_json::json!({ "tracker": serving.addresses() }))?;
        }
        let (style, spent) = (Style::stderr(), start.elapsed().as_secs_f64() * 1e3);
        eprintln!(
            "{} in {}: tracker at {}, udp and http",
            style.green("ready"),
            output::rtt(spent),
            serving.listen()
        );
        notify::ready(&format!("tracker at {}", serving.listen()));
        Ok(())
    })?;
    Ok(Done::Yes)
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
