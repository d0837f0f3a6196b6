//! `anode zone new` and `anode zone sign`: a working zone in one command, and its next revision in another.

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anode_platform::files::{create_dir_private, read_secret, write_atomic};
use anode_wire::zonefile::{
    Dht, Dictionary, Fault, MAX_LEN, MAX_RELAYS, Reach, Relay, ServiceFault, TurnServer, ZoneFile,
    ZoneSigner,
};
use anode_wire::{Address, Identity, Zone};
use rand::rand_core::UnwrapErr;
use rand::rngs::SysRng;
use zeroize::Zeroizing;

use super::store;
use crate::Error;
use crate::value::ValueError;

/// The zone's file in its directory.
const FILE: &str = "zone";
/// Its key.
const KEY_FILE: &str = "zone.key";
/// A zone key has 146 bytes.
const KEY_MAX: usize = 4096;

/// Where a relay will be: `--relay IP:PORT[,IP:PORT]`. A machine of both families is one relay with two addresses (A23).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RelayAt {
    /// At least one.
    ips: Vec<IpAddr>,
    /// The same on all of them, as the zone file has it (A21).
    port: NonZeroU16,
}

impl RelayAt {
    /// Its places, the first one first.
    pub fn places(&self) -> impl Iterator<Item = SocketAddr> {
        let port = self.port.get();
        self.ips.iter().map(move |ip| SocketAddr::new(*ip, port))
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.places().any(|at| other.places().any(|of| of == at))
    }
}

impl FromStr for RelayAt {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let mut relay: Option<Self> = None;
        for part in text.split(',') {
            let at: SocketAddr = part.parse().map_err(|_| {
                ValueError::new(format!(
                    "relay {text:?}: write IP:PORT, such as 192.0.2.1:8737 or [2001:db8::1]:8737; both with a comma between them are one relay"
                ))
            })?;
            let Some(port) = NonZeroU16::new(at.port()) else {
                return Err(ValueError::new(format!(
                    "relay {text}: others must know its port, give one above 0"
                )));
            };
            Reach::Local
                .check(at.ip())
                .map_err(|error| ValueError::new(format!("relay {text}: {error}")))?;
            let relay = relay.get_or_insert(Self {
                ips: Vec::new(),
                port,
            });
            if relay.port != port {
                return Err(ValueError::new(format!(
                    "relay {text}: one relay has one port on all its addresses"
                )));
            }
            relay.ips.push(at.ip());
        }
        relay.ok_or_else(|| ValueError::new(format!("relay {text:?}: write IP:PORT")))
    }
}

impl fmt::Display for RelayAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, at) in self.places().enumerate() {
            let comma = if number > 0 { "," } else { "" };
            write!(f, "{comma}{at}")?;
        }
        Ok(())
    }
}

/// What a new zone is.
pub struct Wanted<'a> {
    /// Not 0.
    pub zone: Zone,
    /// At least one.
    pub relays: &'a [RelayAt],
    /// `n`
    pub title: &'a str,
    /// `c`
    pub contact: &'a str,
    /// `ttl`
    pub ttl: Duration,
    /// Host names of the relays, in their order; where there are fewer, the last ones have none.
    pub hosts: &'a [String],
    /// What the zone offers beside relays.
    pub offers: Offers<'a>,
}

/// What a zone offers beside relays; where it is, is known to whoever made it.
pub struct Offers<'a> {
    /// `turn.*`
    pub turn: &'a [TurnServer],
    /// `tracker.*`
    pub trackers: &'a [String],
    /// `dht`, `dht.config`; the first relay begins it.
    pub dht: Option<Dht>,
}

impl Offers<'_> {
    fn write(&self, file: &mut ZoneFile) -> Result<(), Error> {
        let refused = |flag: &str| {
            let flag = flag.to_owned();
            move |fault: ServiceFault| Error::invalid(flag, fault.to_string())
        };
        for server in self.turn {
            file.add_turn_server(server.clone())
                .map_err(refused("--turn"))?;
        }
        for url in self.trackers {
            file.add_tracker(url).map_err(refused("--tracker"))?;
        }
        match &self.dht {
            Some(dht) => file.set_dht(dht.clone()).map_err(refused("--dht")),
            None => Ok(()),
        }
    }
}

/// A zone that was made.
pub struct Made {
    /// The key that signs its files.
    pub key: String,
    /// The relays, in the order they were wanted.
    pub relays: Vec<(RelayAt, Address)>,
}

/// Makes `directory` with all that a zone needs, or nothing: what is written first stands beside it under another name.
pub fn new_zone(directory: &Path, wanted: &Wanted) -> Result<Made, Error> {
    let place = directory.display().to_string();
    if wanted.zone == Zone::LOCAL {
        return Err(Error::invalid(
            "--zone",
            "zone 0 is local only and has no file: choose another, for an address of your own its IPv4 in hex (192.0.2.1 is c0000201)",
        ));
    }
    for (at, relay) in wanted.relays.iter().enumerate() {
        if wanted.relays[..at]
            .iter()
            .any(|known| known.overlaps(relay))
        {
            return Err(Error::invalid("--relay", format!("{relay} is named twice")));
        }
    }
    if wanted.relays.len() > MAX_RELAYS {
        return Err(Error::invalid(
            "--relay",
            format!("more than {MAX_RELAYS} relays"),
        ));
    }
    if wanted.hosts.len() > wanted.relays.len() {
        return Err(Error::invalid(
            "--host",
            "there are more host names than relays: each --host belongs to the --relay of its place",
        ));
    }
    match fs::read_dir(directory).map(Iterator::count) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Ok(0) => {}
        Ok(_) => {
            return Err(Error::invalid(
                place,
                "it is not empty: a zone needs a new directory",
            ));
        }
        Err(error) => {
            return Err(Error::invalid(
                place,
                format!("no place for a zone: {error}"),
            ));
        }
    }
    let absolute = std::path::absolute(directory)
        .map_err(|error| Error::invalid(&place, error.to_string()))?;
    let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        return Err(Error::invalid(
            place,
            "no place for a zone: give a directory to make",
        ));
    };
    fs::create_dir_all(parent).map_err(Error::io(format!("cannot make {}", parent.display())))?;
    let draft = parent.join(format!(".{}.{}", name.display(), std::process::id()));
    let made = write_zone(&draft, wanted).and_then(|made| {
        // onto a directory that is empty or not there; the kernel refuses any other
        fs::rename(&draft, &absolute).map_err(Error::io(format!("cannot make {place}")))?;
        Ok(made)
    });
    if made.is_err() {
        let _ = fs::remove_dir_all(&draft);
    }
    made
}

fn write_zone(directory: &Path, wanted: &Wanted) -> Result<Made, Error> {
    create_dir_private(directory)?;
    // The system's generator fails only before it is seeded, and getrandom(2) waits for that.
    let mut rng = UnwrapErr(SysRng);
    let signer = ZoneSigner::generate(&mut rng);
    let mut file = ZoneFile::new(wanted.title, "", wanted.contact, 1, wanted.ttl);
    let mut relays = Vec::new();
    for (number, at) in wanted.relays.iter().enumerate() {
        let identity = Identity::generate(wanted.zone, &mut rng);
        file.add_relay(Relay {
            ips: at.ips.clone(),
            udp_port: Some(at.port),
            tcp_port: Some(at.port),
            addresses: vec![*identity.address()],
        });
        let state = directory.join(format!("relay-{number}"));
        create_dir_private(&state)?;
        let secret = line(identity.identity_string());
        write_atomic(&state.join("identity.key"), secret.as_bytes(), 0o600)?;
        let config = directory.join(format!("relay-{number}.toml"));
        let creates = wanted.offers.dht.is_some() && number == 0;
        let text = relay_config(number, at, creates);
        write_atomic(&config, text.as_bytes(), 0o644)?;
        relays.push((at.clone(), *identity.address()));
    }
    for (number, host) in wanted.hosts.iter().enumerate() {
        // There are at most MAX_RELAYS.
        file.set_relay_host(number as u32, host)
            .map_err(|fault| Error::invalid("--host", fault.to_string()))?;
    }
    wanted.offers.write(&mut file)?;
    file.sign(wanted.zone, &signer);
    write_atomic(&directory.join(FILE), &file.emit(), 0o644)?;
    write_atomic(
        &directory.join(KEY_FILE),
        line(signer.to_text()).as_bytes(),
        0o600,
    )?;
    Ok(Made {
        key: signer.public().to_string(),
        relays,
    })
}

/// A secret as a line of a file; reserved at full length, so that no copy of it stays behind.
fn line(secret: Zeroizing<String>) -> Zeroizing<String> {
    let mut line = Zeroizing::new(String::with_capacity(secret.len() + 1));
    line.push_str(&secret);
    line.push('\n');
    line
}

fn relay_config(number: usize, at: &RelayAt, creates: bool) -> String {
    let listen: Vec<String> = at.places().map(|at| format!("\"{at}\"")).collect();
    let listen = listen.join(", ");
    let dht = match creates {
        true => {
            "\n# the first peer of the zone's DHT: it begins it where nobody else has\n[[dht]]\ncreate = true\n"
        }
        false => "",
    };
    format!(
        "# a relay of the zone beside it: anode relay -c relay-{number}.toml\n\
         state = \"relay-{number}\"\n\
         listen = [{listen}]\n\
         zone-file = \"{FILE}\"\n\
         \n\
         [relay]\n{dht}"
    )
}

/// A zone file that was signed.
pub struct Resigned {
    /// Where it is.
    pub file: PathBuf,
    /// Its zone.
    pub zone: Zone,
    /// Its new revision.
    pub revision: u64,
    /// What is wrong with it all the same.
    pub faults: Vec<Fault>,
}

/// Signs an edited file anew: `path` is the zone's directory, or the file with its key beside it.
pub fn sign(path: &Path, zone: Option<Zone>) -> Result<Resigned, Error> {
    let file = if path.is_dir() {
        path.join(FILE)
    } else {
        path.to_owned()
    };
    let mut key = file.clone().into_os_string();
    key.push(".key");
    let signer = load_key(Path::new(&key))?;

    let place = file.display().to_string();
    let read = store::read(&file, MAX_LEN as u64)
        .map_err(|error| Error::invalid(&place, format!("cannot read the zone file: {error}")))?;
    let text = read.ok_or_else(|| Error::invalid(&place, "there is no zone file"))?;
    // an editor that ends lines with LF means lines, whatever the others end with
    let text = Dictionary::with_crlf(&text);
    let report = ZoneFile::check_edited(&text);
    let Some(mut checked) = report.zone else {
        let fault = report.faults.into_iter().next();
        // a report without a file begins with a fatal fault
        return Err(faulty(&place, &fault.expect("the fault that was fatal")));
    };
    let zone = match (checked.zone(), zone) {
        (Some(own), Some(zone)) if own != zone => {
            return Err(Error::invalid(
                "--zone",
                format!("{place} says zone={own}: leave --zone out, or correct the file"),
            ));
        }
        (own, zone) => own.or(zone).filter(|zone| *zone != Zone::LOCAL),
    };
    let zone = zone.ok_or_else(|| {
        Error::invalid(
            &place,
            "it does not say which zone it is for: give --zone HEX, not 0",
        )
    })?;
    let revision = checked.revision().checked_add(1).ok_or_else(|| {
        Error::invalid(
            &place,
            "no revision is higher than this r=: nothing can follow it",
        )
    })?;
    let mut faults = report.faults;
    faults.retain(|fault| !matches!(fault.kind, anode_wire::zonefile::FaultKind::MembersUnsigned));
    faults.extend(checked.restrict(Reach::Local));

    let signed = ZoneFile::resign(&text, zone, revision, &signer);
    // what only a signed file may not have, duplicates above all, is found now and not by its readers
    if let Some(fault) = ZoneFile::check(&signed)
        .faults
        .into_iter()
        .find(Fault::is_fatal)
    {
        return Err(faulty(&place, &fault));
    }
    let mode = fs::metadata(&file).map_or(0o644, |found| {
        use std::os::unix::fs::PermissionsExt;
        found.permissions().mode() & 0o777
    });
    write_atomic(&file, &signed, mode)?;
    Ok(Resigned {
        file,
        zone,
        revision,
        faults,
    })
}

fn load_key(path: &Path) -> Result<ZoneSigner, Error> {
    let place = path.display().to_string();
    if path.symlink_metadata().is_err() {
        return Err(Error::invalid(
            place,
            "the zone's key is not there: it lies beside the zone file, as `anode zone new` makes it",
        ));
    }
    let bytes = Zeroizing::new(read_secret(path, KEY_MAX)?);
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| Error::invalid(&place, "it is no zone key: not text"))?;
    ZoneSigner::from_text(text.trim()).map_err(|error| Error::invalid(&place, error.to_string()))
}

fn faulty(place: &str, fault: &Fault) -> Error {
    match fault.line {
        Some(line) => Error::invalid(format!("{place}:{line}"), fault.kind.to_string()),
        None => Error::invalid(place, fault.kind.to_string()),
    }
}
