//! `anode i2p`: how the I2P overlay stands, names for destinations, lookups.

use super::args::{Common, I2p};
use super::{Done, block_on};
use crate::Error;
use crate::control::api::TargetRequest;
use crate::control::i2p::{I2pAddRequest, I2pFound, I2pNamed, I2pStatus};
use crate::names::Named;
use crate::output::{self, Style};
use crate::state::book::Book;

pub(super) fn run(common: &Common, action: I2p) -> Result<Done, Error> {
    match action {
        I2p::Status => status(common),
        I2p::Add { name, b32 } => {
            let request = I2pAddRequest {
                name: name.to_string(),
                b32: b32.0.b32(),
            };
            let asked =
                block_on(async { common.client().await?.post("/v1/i2p/add", &request).await });
            let named = match asked {
                Err(Error::NotRunning { .. }) => {
                    // the node is the book's only writer while it runs; without one, the lock keeps others out
                    let state = common.dir()?.lock()?;
                    let mut book = Book::load(state.dir())?;
                    let added = book.destinations.add(b32.0, Some(name), false);
                    let entry = added.map_err(Error::Value)?;
                    book.save(&state)?;
                    I2pNamed::new(&entry)
                }
                answer => answer?,
            };
            if common.json {
                output::json(&named)?;
            } else {
                let name = named.name.unwrap_or_default();
                output::print(&format!("{name} is {} ({})\n", named.b32, named.ipv6))?;
            }
            Ok(Done::Yes)
        }
        I2p::Lookup { target } => lookup(common, target),
    }
}

fn status(common: &Common) -> Result<Done, Error> {
    let status: I2pStatus = block_on(async { common.client().await?.get("/v1/i2p").await })?;
    if common.json {
        output::json(&status)?;
        return Ok(Done::Yes);
    }
    let style = Style::stdout();
    let tls = if status.tls { ", TLS" } else { "" };
    let state = match (status.connected, &status.router_version) {
        (true, Some(version)) => format!("connected, version {version}"),
        (true, None) => "connected".to_owned(),
        (false, _) => "not connected".to_owned(),
    };
    let rows = [
        ("router", format!("{}{tls}, {state}", status.router)),
        ("streams", status.streams.to_string()),
        ("known", format!("{} destinations", status.known)),
    ];
    let mut text = output::fields(style, &rows);
    let row = |one: &crate::control::i2p::OwnDestination| {
        let state = match &one.problem {
            Some(problem) => format!("{}: {problem}", one.state),
            None => one.state.clone(),
        };
        vec![
            one.name.clone().unwrap_or_else(|| "-".to_owned()),
            one.b32.clone(),
            one.ipv6.to_string(),
            one.streams.to_string(),
            state,
        ]
    };
    let rows: Vec<Vec<String>> = status.destinations.iter().map(row).collect();
    let head = ["NAME", "DESTINATION", "IPV6", "STREAMS", "STATE"];
    text.push('\n');
    text.push_str(&output::table(style, &head, &rows));
    output::print(&text)?;
    Ok(Done::Yes)
}

fn lookup(common: &Common, target: String) -> Result<Done, Error> {
    // what no router could find is refused here
    let _: Named = target.parse()?;
    let request = TargetRequest { target };
    let found: I2pFound = block_on(async {
        common
            .client()
            .await?
            .post("/v1/i2p/lookup", &request)
            .await
    })?;
    if common.json {
        output::json(&found)?;
        return Ok(Done::Yes);
    }
    let rows = [
        ("name", found.name.unwrap_or_else(|| "-".to_owned())),
        ("b32", found.b32),
        ("ipv6", found.ipv6.to_string()),
        ("destination", found.destination),
    ];
    output::print(&output::fields(Style::stdout(), &rows))?;
    Ok(Done::Yes)
}
