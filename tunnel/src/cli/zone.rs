//! `anode zone`: making a zone, checking its file, and what the running node knows of its own.

use anode_wire::Zone;
use anode_wire::zonefile::{Dht, Fault, MAX_LEN, Reach, ZoneFile, ZoneKey};
use serde::Serialize;

use super::args::{Common, NewZone, SignZone, Zone as Action};
use super::{Done, block_on};
use crate::Error;
use crate::config::Config;
use crate::control::zone::{AcceptRequest, FileStatus, RefreshRequest, Refreshed, ZoneStatus};
use crate::dht::zone_overlay;
use crate::output::{self, Style};
use crate::state::{StateDir, identity};
use crate::zone::http::{FetchError, Fetched, Fetcher};
use crate::zone::keeper::Keeper;
use crate::zone::store::{self, Store};
use crate::zone::{Members, ZoneFrom, make};

pub(super) fn run(common: &Common, action: Action) -> Result<Done, Error> {
    match action {
        Action::New(wanted) => new(common, &wanted),
        Action::Sign(wanted) => sign(common, &wanted),
        Action::Check { file } => check(common, file),
        Action::Show => show(common),
        Action::Refresh { force } => refresh(common, force),
        Action::Accept { key } => accept(common, key),
    }
}

fn new(common: &Common, wanted: &NewZone) -> Result<Done, Error> {
    let zone = wanted.zone.0;
    let title = match &wanted.title {
        Some(title) => title.clone(),
        None => format!("zone {zone}"),
    };
    let made = make::new_zone(
        &wanted.directory,
        &make::Wanted {
            zone,
            relays: &wanted.relay,
            title: &title,
            contact: &wanted.contact,
            ttl: wanted.ttl,
            hosts: &wanted.host,
            offers: make::Offers {
                turn: &wanted.turn,
                trackers: &wanted.tracker,
                dht: (!wanted.no_dht).then(|| Dht {
                    name: match &wanted.dht {
                        Some(name) => name.clone(),
                        None => zone_overlay(zone),
                    },
                    config: wanted.dht_config.clone(),
                }),
            },
        },
    )?;
    let directory = wanted.directory.display();
    if common.json {
        let relay = |(number, (at, address)): (usize, &(make::RelayAt, anode_wire::Address))| {
            serde_json::json!({
                "config": format!("{directory}/relay-{number}.toml"),
                "endpoint": at.to_string(),
                "address": address.to_string(),
            })
        };
        output::json(&serde_json::json!({
            "zone": zone.to_string(),
            "file": format!("{directory}/zone"),
            "key": made.key,
            "relays": made.relays.iter().enumerate().map(relay).collect::<Vec<_>>(),
        }))?;
        return Ok(Done::Yes);
    }
    let mut rows = vec![
        ("zone", zone.to_string()),
        (
            "file",
            format!("{directory}/zone: for everybody in the zone"),
        ),
        (
            "key",
            format!("{directory}/zone.key: keep it, `anode zone sign` needs it"),
        ),
    ];
    for (number, (at, _)) in made.relays.iter().enumerate() {
        let run = format!("anode relay -c {directory}/relay-{number}.toml");
        rows.push(("relay", format!("{run}  on {at}")));
    }
    rows.push(("node", format!("anode up --zone-file {directory}/zone")));
    output::print(&output::fields(Style::stdout(), &rows))?;
    Ok(Done::Yes)
}

fn sign(common: &Common, wanted: &SignZone) -> Result<Done, Error> {
    let signed = make::sign(&wanted.path, wanted.zone.map(|zone| zone.0))?;
    let file = signed.file.display();
    for fault in &signed.faults {
        eprintln!(
            "{} {}",
            Style::stderr().dim("warning:"),
            place(&file.to_string(), fault)
        );
    }
    if common.json {
        output::json(&serde_json::json!({
            "file": file.to_string(),
            "zone": signed.zone.to_string(),
            "revision": signed.revision,
        }))?;
    } else {
        output::print(&format!(
            "{file}: signed as revision {} of zone {}\n",
            signed.revision, signed.zone
        ))?;
    }
    Ok(Done::Yes)
}

/// `FILE:LINE: what`
fn place(file: &str, fault: &Fault) -> String {
    match fault.line {
        Some(line) => format!("{file}:{line}: {}", fault.kind),
        None => format!("{file}: {}", fault.kind),
    }
}

/// `anode zone check --json`
#[derive(Serialize)]
struct Checked {
    file: String,
    /// Whether a node would take it.
    usable: bool,
    zone: Option<String>,
    revision: Option<u64>,
    signer: Option<String>,
    relays: usize,
    members: Option<usize>,
    faults: Vec<CheckedFault>,
}

#[derive(Serialize)]
struct CheckedFault {
    line: Option<usize>,
    problem: String,
    fatal: bool,
}

fn check(common: &Common, from: ZoneFrom) -> Result<Done, Error> {
    let place_of = from.to_string();
    let (bytes, reach) = load(from)?;
    let mut report = ZoneFile::check(&bytes);
    if let Some(zone) = &mut report.zone {
        report.faults.extend(zone.restrict(reach));
    }
    let zone = report.zone.as_ref();
    let checked = Checked {
        file: place_of.clone(),
        usable: zone.is_some(),
        zone: zone.and_then(ZoneFile::zone).map(|zone| zone.to_string()),
        revision: zone.map(ZoneFile::revision),
        signer: zone.and_then(ZoneFile::signer).map(|key| key.to_string()),
        relays: zone.map_or(0, |zone| zone.relays().count()),
        members: zone.and_then(ZoneFile::members).map(<[_]>::len),
        faults: report
            .faults
            .iter()
            .map(|fault| CheckedFault {
                line: fault.line,
                problem: fault.kind.to_string(),
                fatal: fault.is_fatal(),
            })
            .collect(),
    };
    let done = if report.faults.is_empty() {
        Done::Yes
    } else {
        Done::No
    };
    if common.json {
        output::json(&checked)?;
        return Ok(done);
    }
    let mut text: String = report
        .faults
        .iter()
        .map(|fault| place(&place_of, fault) + "\n")
        .collect();
    let style = Style::stdout();
    let verdict = match (checked.usable, report.faults.is_empty()) {
        (true, true) => style.green("good"),
        (true, false) => "usable in spite of that".to_owned(),
        (false, _) => style.red("refused"),
    };
    text += &format!("{place_of}: {verdict}");
    if checked.usable {
        let or = |value: Option<String>, without: &str| value.unwrap_or(without.to_owned());
        text += &format!(
            ", zone {}, revision {}, {}, {} relays",
            or(checked.zone, "not said"),
            checked.revision.unwrap_or_default(),
            checked
                .signer
                .map_or("not signed".to_owned(), |key| format!("signed by {key}")),
            checked.relays
        );
    }
    output::print(&(text + "\n"))?;
    Ok(done)
}

fn load(from: ZoneFrom) -> Result<(Vec<u8>, Reach), Error> {
    match &from {
        ZoneFrom::Path(path) => {
            let place = path.display().to_string();
            // One byte more than it may have: that is a fault of the file, and told as one.
            match store::read(path, MAX_LEN as u64 + 1) {
                Ok(Some(bytes)) => Ok((bytes, Reach::Local)),
                Ok(None) => Err(Error::invalid(place, "there is no such file")),
                Err(error) => Err(Error::invalid(place, format!("cannot be read: {error}"))),
            }
        }
        ZoneFrom::Url(url) => {
            let fetcher = match from.needs_tls() {
                true => Fetcher::with_tls()?,
                false => Fetcher::plain(),
            };
            let fetched = block_on(async { Ok(fetcher.fetch(url, Reach::Local, None).await) })?;
            match fetched {
                Ok(Fetched::File { bytes, reach, .. }) => Ok((bytes, reach)),
                Ok(Fetched::Unchanged) => {
                    Err(Error::refused(FetchError::UnchangedWithoutCopy.to_string()))
                }
                Err(error) => Err(Error::refused(format!("{url}: {error}"))),
            }
        }
        ZoneFrom::Draft | ZoneFrom::Nowhere => {
            Err(Error::Value("none: give a zone file or its URL".to_owned()))
        }
    }
}

fn show(common: &Common) -> Result<Done, Error> {
    let status: ZoneStatus = block_on(async { common.client().await?.get("/v1/zone").await })?;
    if common.json {
        output::json(&status)?;
        return Ok(Done::Yes);
    }
    let mut rows = vec![("zone", status.zone), ("from", status.from)];
    match status.file {
        Some(file) => rows.extend(file_rows(file, status.key)),
        None => rows.push(("file", "none".to_owned())),
    }
    let next = status.next_look_s.map(output::span);
    rows.extend(next.map(|next| ("next look", format!("in {next}"))));
    rows.extend(status.trouble.map(|trouble| ("trouble", trouble)));
    output::print(&output::fields(Style::stdout(), &rows))?;
    Ok(Done::Yes)
}

fn file_rows(file: FileStatus, pin: Option<String>) -> Vec<(&'static str, String)> {
    let ttl = output::span(file.ttl_s as f64);
    let mut rows = vec![
        ("name", file.name),
        ("revision", file.revision.to_string()),
        ("source", file.source),
        (
            "seen",
            format!("{} ago, good for {ttl}", output::span(file.age_s)),
        ),
        (
            "signed by",
            match (file.signer, pin) {
                (Some(key), _) => key,
                (None, Some(pin)) => format!("nobody; expected: {pin}"),
                (None, None) => "nobody".to_owned(),
            },
        ),
    ];
    for (label, text) in [("about", file.description), ("contact", file.contact)] {
        if !text.is_empty() {
            rows.push((label, text));
        }
    }
    rows.extend(file.members.map(|count| ("members", count.to_string())));
    for relay in file.relays {
        let at = relay.endpoints.join(" ");
        let who = crate::names::short(&relay.address);
        rows.push((
            "relay",
            format!("{:x} of {}: {who} at {at}", relay.index, file.relay_count),
        ));
    }
    rows.extend(file.turn.into_iter().map(|uri| ("turn", uri)));
    rows.extend(file.trackers.into_iter().map(|url| ("tracker", url)));
    rows.extend(file.dht.map(|name| ("dht", name)));
    rows.extend(file.faults.into_iter().map(|fault| ("fault", fault)));
    rows
}

fn refresh(common: &Common, force: bool) -> Result<Done, Error> {
    let request = RefreshRequest { force };
    let asked = block_on(async {
        let mut client = common.client().await?;
        client.post("/v1/zone/refresh", &request).await
    });
    match asked {
        // The next start looks anyway; what it may take is on disk.
        Err(Error::NotRunning { .. }) if force => {
            offline(common, |record| record.revision = 0)?;
            told(common, None)
        }
        answer => told(common, Some(answer?)),
    }
}

fn accept(common: &Common, key: ZoneKey) -> Result<Done, Error> {
    let request = AcceptRequest {
        key: key.to_string(),
    };
    let asked = block_on(async {
        let mut client = common.client().await?;
        client.post("/v1/zone/accept", &request).await
    });
    match asked {
        Err(Error::NotRunning { .. }) => {
            offline(common, |record| record.accept(key))?;
            told(common, None)
        }
        answer => told(common, Some(answer?)),
    }
}

/// Changes what the next start will believe.
fn offline(common: &Common, change: impl FnOnce(&mut store::Record)) -> Result<(), Error> {
    let dir = common.dir()?;
    let zone = own_zone(&dir)?;
    let state = dir.lock()?;
    let store = Store::new(state.dir(), zone);
    let (mut record, _) = store.load()?;
    change(&mut record);
    store.save(&state, &record, None)
}

fn own_zone(dir: &StateDir) -> Result<Zone, Error> {
    Ok(identity::require(dir)?.address().zone())
}

fn told(common: &Common, done: Option<Refreshed>) -> Result<Done, Error> {
    if common.json {
        output::json(&done)?;
        return Ok(Done::Yes);
    }
    let text = match done {
        Some(Refreshed {
            changed: true,
            revision: Some(revision),
        }) => format!("revision {revision} is in use now\n"),
        Some(_) => "the zone file has not changed\n".to_owned(),
        None => "no node runs: it counts from the next start on\n".to_owned(),
    };
    output::print(&text)?;
    Ok(Done::Yes)
}

/// Who belongs to the zone, when no node runs: by the copy that was taken last, and by a path as it is now.
pub(super) fn members(config: &Config, dir: &StateDir) -> Result<Members, Error> {
    let Some(identity) = identity::load(dir)? else {
        return Ok(Members::default());
    };
    let from = match &config.zone_file {
        Some(from) => from.0.clone(),
        None => ZoneFrom::Draft,
    };
    let zone = identity.address().zone();
    let mut keeper = Keeper::new(from, zone, Fetcher::plain(), dir)?;
    keeper.read_path_first()?;
    Ok(keeper.members())
}
