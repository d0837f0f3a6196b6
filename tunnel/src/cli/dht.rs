//! `anode dht`: what the DHT is like, what is stored there, and the way to it.

use super::args::{Common, Dht as Action, InOverlay};
use super::{Done, block_on};
use crate::Error;
use crate::control::dht::{
    KeyRequest, Nearest, OverlayStatus, PlaceRequest, PutRequest, Route, Stored,
};
use crate::dht::text::{BytesText, KindText, MAX_VALUE, ValueDocument, resource_id};
use crate::names::short;
use crate::output::{self, Style};
use crate::state::book::hex;
use anode_routing::dht::reload::TypeId;

pub(super) fn run(common: &Common, action: Action) -> Result<Done, Error> {
    match action {
        Action::Status(overlay) => status(common, overlay),
        Action::Get { kind, key, overlay } => get(common, &kind, key, overlay),
        Action::Put {
            kind,
            key,
            value,
            overlay,
        } => put(common, &kind, key, &value, overlay),
        Action::Find {
            kind,
            target,
            overlay,
        } => find(common, &kind, &target, overlay),
        Action::Route { target, overlay } => route(common, &target, overlay),
    }
}

impl InOverlay {
    fn text(self) -> Option<String> {
        self.name.map(|name| name.0)
    }
}

fn status(common: &Common, overlay: InOverlay) -> Result<Done, Error> {
    let mut all: Vec<OverlayStatus> =
        block_on(async { common.client().await?.get("/v1/dht").await })?;
    if let Some(name) = overlay.text() {
        all.retain(|one| one.overlay == name);
        if all.is_empty() {
            return Err(Error::Value(format!("this node is in no overlay {name:?}")));
        }
    }
    if common.json {
        output::json(&all)?;
        return Ok(Done::Yes);
    }
    if all.is_empty() {
        output::print(
            "no DHT: add [[dht]] to the configuration, or use a zone whose file names one\n",
        )?;
        return Ok(Done::Yes);
    }
    let style = Style::stdout();
    let mut text = String::new();
    for one in &all {
        let joined = match (one.joined, one.role.as_str()) {
            (true, _) => style.green("part of the ring"),
            (false, "client") => "a client".to_owned(),
            (false, _) => "not in the ring yet".to_owned(),
        };
        let neighbours: Vec<&str> = one.neighbours.iter().map(|id| &id[..8]).collect();
        let rows = [
            ("overlay", one.overlay.clone()),
            ("node", format!("{}, {joined}", one.node)),
            (
                "peers",
                format!(
                    "{} links, {} neighbours, {} fingers",
                    one.links,
                    neighbours.len(),
                    one.fingers
                ),
            ),
            ("near", neighbours.join(" ")),
            (
                "stored",
                format!(
                    "{} values, {}",
                    one.stored,
                    output::bytes(one.stored_bytes as u64)
                ),
            ),
            (
                "record",
                if one.published { "published" } else { "none" }.to_owned(),
            ),
        ];
        let anonymous = one.anonymous_gruu.clone().map(|gr| ("gruu", gr));
        let rows: Vec<_> = rows.into_iter().chain(anonymous).collect();
        if !text.is_empty() {
            text.push('\n');
        }
        text += &output::fields(style, &rows);
    }
    output::print(&text)?;
    Ok(Done::Yes)
}

/// A name that only this machine knows is looked up here, as everywhere.
fn target(common: &Common, text: &str) -> Result<String, Error> {
    match resource_id(text) {
        Some(id) => {
            id?;
            Ok(text.to_owned())
        }
        None => Ok(super::show::request(common, text)?.target),
    }
}

fn get(common: &Common, kind: &KindText, key: String, overlay: InOverlay) -> Result<Done, Error> {
    let key = match kind.0 == TypeId::ANODE_RECORD && !key.starts_with("hex:") {
        true => super::show::request(common, &key)?.target,
        false => key,
    };
    let request = KeyRequest {
        overlay: overlay.text(),
        kind: kind.0.0,
        key,
    };
    let values: Vec<ValueDocument> =
        block_on(async { common.client().await?.post("/v1/dht/get", &request).await })?;
    if common.json {
        output::json(&values)?;
        return Ok(Done::Yes);
    }
    let row = |value: &ValueDocument| {
        let owner = value.owner.as_deref().map_or("-".to_owned(), short);
        let shown = match &value.text {
            Some(text) => text.clone(),
            None => format!("hex:{}", value.hex),
        };
        vec![owner, value.expires.to_string(), shown]
    };
    let rows: Vec<Vec<String>> = values.iter().map(row).collect();
    let head = ["OWNER", "EXPIRES", "VALUE"];
    output::print(&output::table(Style::stdout(), &head, &rows))?;
    Ok(Done::Yes)
}

/// Text, `hex:…` or `@FILE`.
fn value_bytes(text: &str) -> Result<Vec<u8>, Error> {
    let bytes = match text.strip_prefix('@') {
        Some(path) => {
            use std::io::Read as _;
            let file = std::fs::File::open(path)
                .map_err(|error| Error::invalid(path, format!("cannot read the value: {error}")))?;
            let mut bytes = Vec::new();
            file.take(MAX_VALUE as u64 + 1)
                .read_to_end(&mut bytes)
                .map_err(|error| Error::invalid(path, format!("cannot read the value: {error}")))?;
            bytes
        }
        None => text.parse::<BytesText>()?.0,
    };
    match bytes.len() {
        0 => Err(Error::Value("the value is empty".to_owned())),
        1..=MAX_VALUE => Ok(bytes),
        _ => Err(Error::Value(format!(
            "the value has more than {MAX_VALUE} bytes"
        ))),
    }
}

fn put(
    common: &Common,
    kind: &KindText,
    key: String,
    value: &str,
    overlay: InOverlay,
) -> Result<Done, Error> {
    let request = PutRequest {
        overlay: overlay.text(),
        kind: kind.0.0,
        key,
        value: hex(&value_bytes(value)?),
    };
    let stored: Stored =
        block_on(async { common.client().await?.post("/v1/dht/put", &request).await })?;
    if common.json {
        output::json(&stored)?;
    } else {
        output::print(&format!(
            "stored at {} as generation {}\n",
            stored.resource, stored.generation
        ))?;
    }
    Ok(Done::Yes)
}

fn find(common: &Common, kind: &KindText, text: &str, overlay: InOverlay) -> Result<Done, Error> {
    let request = PlaceRequest {
        overlay: overlay.text(),
        kind: kind.0.0,
        target: target(common, text)?,
    };
    let nearest: Nearest =
        block_on(async { common.client().await?.post("/v1/dht/find", &request).await })?;
    let done = match nearest.resource {
        Some(_) => Done::Yes,
        None => Done::No,
    };
    if common.json {
        output::json(&nearest)?;
        return Ok(done);
    }
    let or = |value: Option<String>, without: &str| value.unwrap_or(without.to_owned());
    let rows = [
        ("from", nearest.from),
        ("resource", or(nearest.resource, "none there")),
        ("keeper", or(nearest.node, "-")),
    ];
    output::print(&output::fields(Style::stdout(), &rows))?;
    Ok(done)
}

fn route(common: &Common, text: &str, overlay: InOverlay) -> Result<Done, Error> {
    let request = PlaceRequest {
        overlay: overlay.text(),
        kind: 0,
        target: target(common, text)?,
    };
    let route: Route =
        block_on(async { common.client().await?.post("/v1/dht/route", &request).await })?;
    if common.json {
        output::json(&route)?;
        return Ok(Done::Yes);
    }
    if route.hops.is_empty() {
        output::print("this node keeps it itself\n")?;
        return Ok(Done::Yes);
    }
    let row = |(place, hop): (usize, &crate::control::dht::RouteHop)| {
        let endpoint = hop.endpoint.clone();
        vec![
            (place + 1).to_string(),
            hop.node.clone(),
            endpoint.unwrap_or("-".to_owned()),
        ]
    };
    let rows: Vec<Vec<String>> = route.hops.iter().enumerate().map(row).collect();
    let table = output::table(Style::stdout(), &["HOP", "NODE", "ENDPOINT"], &rows);
    output::print(&format!(
        "{table}there and back in {}\n",
        output::rtt(route.rtt_ms)
    ))?;
    Ok(Done::Yes)
}
