//! `anode status`, `peers`, `paths`, `lookup`, `resolve`: questions to a node, and their answers for people.

use std::sync::Arc;

use super::args::Common;
use super::{Done, block_on};
use crate::Error;
use crate::command::Target;
use crate::control::api::{
    Lookup, LookupRequest, OwnRelay, Path, Peer, Resolved, Source, Status, TargetRequest,
};
use crate::dns::first_address;
use crate::dns::host::HostName;
use crate::dns::real::Real;
use crate::names::{Given, Named, short};
use crate::output::{self, Style};
use crate::state::book::Book;

pub(super) fn status(common: &Common) -> Result<Done, Error> {
    let status: Status = block_on(async { common.client().await?.get("/v1/status").await })?;
    if common.json {
        output::json(&status)?;
        return Ok(Done::Yes);
    }
    let interface = match &status.interface {
        Some(name) => format!("{name} (mtu {})", status.mtu),
        None => "none".to_owned(),
    };
    let relays: Vec<String> = status.relays.iter().map(relay_text).collect();
    let style = Style::stdout();
    let rows = [
        (
            "anode",
            format!(
                "{} for {}",
                style.green("up"),
                output::span(status.uptime_s)
            ),
        ),
        ("address", status.address),
        ("ipv6", status.ipv6.to_string()),
        ("interface", interface),
        ("listen", status.listen.join(" ")),
        (
            "lan",
            if status.lan.is_empty() {
                "none".to_owned()
            } else {
                status.lan.join(" ")
            },
        ),
        (
            "peers",
            match status.tunnelled {
                0 => format!("{} known, {} reachable", status.peers, status.reachable),
                tunnelled => format!(
                    "{} known, {} reachable, {tunnelled} tunnelled (UDP does not get there)",
                    status.peers, status.reachable
                ),
            },
        ),
        (
            "relays",
            match relays.as_slice() {
                [] => "none".to_owned(),
                some => some.join(", "),
            },
        ),
        ("streams", status.streams.to_string()),
        (
            "security",
            format!(
                "plain {}, post-quantum {}",
                status.security.plain, status.security.pq
            ),
        ),
        ("dns", status.dns.text()),
    ];
    output::print(&output::fields(style, &rows))?;
    Ok(Done::Yes)
}

pub(super) fn ask_peers(common: &Common) -> Result<Vec<Peer>, Error> {
    block_on(async { common.client().await?.get("/v1/peers").await })
}

pub(super) fn peers(common: &Common) -> Result<Done, Error> {
    let peers = ask_peers(common)?;
    if common.json {
        output::json(&peers)?;
        return Ok(Done::Yes);
    }
    if peers.is_empty() {
        output::print("no peers yet\n")?;
        return Ok(Done::Yes);
    }
    let row = |peer: &Peer| {
        let active = peer.paths.iter().find(|path| path.active);
        vec![
            name(peer),
            peer.ipv6.to_string(),
            active.map_or("-".to_owned(), path_text),
            active
                .and_then(|path| path.rtt_ms)
                .map_or("-".to_owned(), output::rtt),
            output::bytes(peer.rx_bytes),
            output::bytes(peer.tx_bytes),
            state(peer),
        ]
    };
    let rows: Vec<Vec<String>> = peers.iter().map(row).collect();
    let head = ["NAME", "IPV6", "PATH", "RTT", "RX", "TX", "STATE"];
    output::print(&output::table(Style::stdout(), &head, &rows))?;
    Ok(Done::Yes)
}

/// A relay of ours, and whether it knows us.
fn relay_text(relay: &OwnRelay) -> String {
    let place = relay.endpoint.as_deref().unwrap_or("not reached");
    let state = match relay.registered {
        true => "registered",
        false => "not registered",
    };
    format!("{} ({place}, {state})", short(&relay.address))
}

pub(super) fn name(peer: &Peer) -> String {
    peer.name.clone().unwrap_or_else(|| short(&peer.address))
}

pub(super) fn path_text(path: &Path) -> String {
    format!("{} {}", path.kind.as_str(), path.endpoint)
}

fn state(peer: &Peer) -> String {
    let trusted = if peer.trusted { "trusted" } else { "stranger" };
    let sealed = match (peer.sealed, peer.pq) {
        (true, true) => "sealed, post-quantum",
        (true, false) => "sealed",
        (false, _) => "plain",
    };
    format!("{trusted}, {sealed}")
}

pub(super) fn lookup(common: &Common, text: &str, via: Option<Source>) -> Result<Done, Error> {
    let TargetRequest { target } = request(common, text)?;
    let request = LookupRequest { target, via };
    let found: Lookup =
        block_on(async { common.client().await?.post("/v1/lookup", &request).await })?;
    found_by(common, found)
}

/// Where somebody is.
pub(super) fn found_by(common: &Common, found: Lookup) -> Result<Done, Error> {
    if common.json {
        output::json(&found)?;
        return Ok(Done::Yes);
    }
    let list = |items: Vec<String>| {
        if items.is_empty() {
            "-".to_owned()
        } else {
            items.join(" ")
        }
    };
    let rows = [
        ("address", found.address),
        ("ipv6", found.ipv6.to_string()),
        ("sources", list(found.sources)),
        ("endpoints", list(found.endpoints)),
    ];
    output::print(&output::fields(Style::stdout(), &rows))?;
    Ok(Done::Yes)
}

/// What the node is asked; what it could only refuse is refused here, also when none runs.
pub(super) fn request(common: &Common, text: &str) -> Result<TargetRequest, Error> {
    let named: Named = text.parse()?;
    let target = match local(common, &named) {
        Ok(target) => target.text(),
        // Another node (the service's) may know a name that this directory does not.
        Err(_) if block_on(common.client()).is_ok() => text.to_owned(),
        // Without a node there is nobody to ask, and that is what is wrong.
        Err(_) if matches!(named, Named::Host(_) | Named::I2p(_)) => text.to_owned(),
        Err(error) => return Err(error),
    };
    Ok(TargetRequest { target })
}

/// By the trust book of the state directory and the configuration.
fn local(common: &Common, named: &Named) -> Result<Target, Error> {
    let (book, given) = match named {
        Named::Target(_) | Named::Host(_) => (Book::default(), Given::default()),
        Named::Name(_) | Named::I2p(_) => {
            let dir = common.dir()?;
            let given = Given::others(common.config(&dir)?.given_names());
            (Book::load(&dir)?, given)
        }
    };
    Ok(named.resolve(&book, &given)?)
}

/// A real host's TXT record, without a node.
fn from_dns(common: &Common, host: &HostName) -> Result<Target, Error> {
    let configured = common.config(&common.dir()?)?.dns.servers;
    let real = Real::new(
        configured.into_iter().map(|server| server.0.0).collect(),
        None,
        Arc::default(),
    );
    let outcome = block_on(async { Ok(real.lookup(host).await) })?;
    Ok(Target::Address(first_address(host, outcome)?))
}

pub(super) fn resolve(common: &Common, text: &str) -> Result<Done, Error> {
    let named: Named = text.parse()?;
    let resolved = match local(common, &named) {
        Ok(target) => Resolved::new(&target),
        Err(error) => match (block_on(common.client()), &named) {
            (Ok(_), _) => ask_resolve(common, text)?,
            (Err(_), Named::Host(host)) => Resolved::new(&from_dns(common, host)?),
            (Err(_), _) => return Err(error),
        },
    };
    if common.json {
        output::json(&resolved)?;
    } else {
        output::print(&format!("{}\n", resolved.ipv6))?;
    }
    Ok(Done::Yes)
}

fn ask_resolve(common: &Common, text: &str) -> Result<Resolved, Error> {
    let request = TargetRequest {
        target: text.to_owned(),
    };
    block_on(async { common.client().await?.post("/v1/resolve", &request).await })
}
