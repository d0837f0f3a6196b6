//! `anode netcheck`: what lies between this machine and the others.

use super::args::Common;
use super::{Done, block_on};
use crate::Error;
use crate::control::netcheck::Netcheck;
use crate::names::short;
use crate::output::{self, Style};

pub(super) fn run(common: &Common) -> Result<Done, Error> {
    let empty = serde_json::json!({});
    let found: Netcheck =
        block_on(async { common.client().await?.post("/v1/netcheck", &empty).await })?;
    if common.json {
        output::json(&found)?;
        return Ok(Done::Yes);
    }
    let style = Style::stdout();
    let yes = |value: bool| if value { "yes" } else { "no" };
    let list = match found.external.as_slice() {
        [] => "unknown".to_owned(),
        some => some.join(" "),
    };
    let mapping = match found.sequential {
        true => format!("{}, ports in sequence", found.mapping),
        false => found.mapping.clone(),
    };
    let rows = [
        ("udp", yes(found.udp).to_owned()),
        ("mapping", mapping),
        ("filtering", found.filtering.clone()),
        ("hairpin", found.hairpin.map_or("unknown", yes).to_owned()),
        ("external", list),
        (
            "port mapping",
            match &found.portmap {
                Some(mapped) => format!("{} by {}", mapped.external, mapped.protocol),
                None => "none".to_owned(),
            },
        ),
    ];
    output::print(&output::fields(style, &rows))?;
    let rows: Vec<Vec<String>> = found
        .relays
        .iter()
        .map(|place| {
            vec![
                short(&place.relay),
                place.transport.clone(),
                place.endpoint.clone(),
                place.rtt_ms.map_or("no answer".to_owned(), output::rtt),
            ]
        })
        .collect();
    if !rows.is_empty() {
        let head = ["RELAY", "TRANSPORT", "ENDPOINT", "RTT"];
        output::print(&format!("\n{}", output::table(style, &head, &rows)))?;
    }
    output::print(&format!("\n{}\n", found.verdict))?;
    Ok(Done::Yes)
}
