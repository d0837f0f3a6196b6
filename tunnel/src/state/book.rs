//! `trust.toml`: the peers that may open connections to this machine, what it calls them, and the tickets that it issued:
//! a ticket that is used up and the trust in its joiner are one atomic write (Q30).

use std::io;
use std::path::{Path, PathBuf};

use anode_platform::files::write_atomic;
use anode_wire::address::split_digit;
use anode_wire::sealed::Timestamp;
use anode_wire::sealed::ticket::{Issued, MAX_ISSUED, TicketId};
use anode_wire::{Address, PeerId};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::destinations::{Destinations, FileDestination, FileDestinationOut};
use super::{LockedState, StateDir};
use crate::Error;
use crate::config::{place, toml_error};
use crate::names::{Given, Held, Named};
use crate::value::{AddressText, PeerName, Text, ValueError, parse_address};

/// Peers in a book. More than a person names; a bound for what one client can fill the disk with.
pub const MAX_PEERS: usize = 4096;

/// One trusted peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Who.
    pub address: Address,
    /// What this machine calls it.
    pub name: Option<PeerName>,
}

/// Whom this machine trusts. In the order in which they were added.
#[derive(Clone, Default)]
pub struct Book {
    entries: Vec<Entry>,
    tickets: Vec<Issued>,
    /// Destinations of I2P.
    pub destinations: Destinations,
}

/// Without the tickets' secrets.
impl std::fmt::Debug for Book {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Book")
            .field("entries", &self.entries)
            .field("destinations", &self.destinations)
            .field("tickets", &self.tickets.len())
            .finish()
    }
}

impl PartialEq for Book {
    fn eq(&self, other: &Self) -> bool {
        let key = |ticket: &Issued| (ticket.id, ticket.expires, ticket.taken_by);
        self.entries == other.entries
            && self.destinations == other.destinations
            && self
                .tickets
                .iter()
                .map(key)
                .eq(other.tickets.iter().map(key))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    peer: Vec<toml::Spanned<FileEntry>>,
    #[serde(default)]
    destination: Vec<toml::Spanned<FileDestination>>,
    #[serde(default)]
    ticket: Vec<toml::Spanned<FileTicket>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FileTicket {
    /// 16 hex digits.
    id: String,
    /// 64 hex digits.
    secret: String,
    /// Seconds since 1970.
    expires: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    taken_by: Option<String>,
}

impl From<&Issued> for FileTicket {
    fn from(issued: &Issued) -> Self {
        Self {
            id: hex(&issued.id.0),
            secret: hex(&*issued.secret),
            // Rounded up: a ticket does not end before its time by being written.
            expires: issued.expires.0.div_ceil(MICROS),
            taken_by: issued.taken_by.map(|address| address.to_string()),
        }
    }
}

impl FileTicket {
    fn issued(&self) -> Result<Issued, String> {
        let wrong = |what| move || format!("ticket {:?}: {what}: remove this ticket", self.id);
        let taken_by = self.taken_by.as_deref().map(parse_address).transpose();
        Ok(Issued {
            id: TicketId(unhex(&self.id).ok_or_else(wrong("its id has not 16 hex digits"))?),
            secret: Zeroizing::new(
                unhex(&self.secret).ok_or_else(wrong("its secret has not 64 hex digits"))?,
            ),
            expires: Timestamp(self.expires.saturating_mul(MICROS)),
            taken_by: taken_by.map_err(|error| error.to_string())?,
        })
    }
}

const MICROS: u64 = 1_000_000;

/// Bytes as lowercase hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `N` bytes from as many pairs of hex digits, and nothing else.
pub(crate) fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).ok()?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(bytes)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileEntry {
    address: Text<AddressText>,
    name: Option<Text<PeerName>>,
}

#[derive(Serialize)]
struct FileOut {
    peer: Vec<FileEntryOut>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    destination: Vec<FileDestinationOut>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ticket: Vec<FileTicket>,
}

#[derive(Serialize)]
struct FileEntryOut {
    address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

impl Book {
    /// The book of `dir`; an empty one when there is no file.
    pub fn load(dir: &StateDir) -> Result<Self, Error> {
        let path = path(dir);
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text, &path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(Error::io(format!("cannot read {}", path.display()))(error)),
        }
    }

    /// Reads `text`; `path` stands in messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Error> {
        let file: File = toml::from_str(text).map_err(|error| toml_error(&error, text, path))?;
        let mut book = Self::default();
        for entry in file.peer {
            let line = 1 + text[..entry.span().start].matches('\n').count();
            let entry = entry.into_inner();
            let (address, name) = (entry.address.0.0, entry.name.map(|name| name.0));
            let here = || format!("{}:{line}", path.display());
            if book.by_address(&address).is_some() {
                return Err(Error::invalid(
                    here(),
                    format!("{address} stands here twice: remove one"),
                ));
            }
            book.trust(address, name)
                .map_err(|problem| Error::invalid(here(), problem))?;
        }
        for destination in file.destination {
            let place = place(text, destination.span().start, path);
            let read = book.destinations.read(destination.into_inner());
            read.map_err(|problem| Error::invalid(place, problem))?;
        }
        for ticket in file.ticket {
            let place = place(text, ticket.span().start, path);
            let issued = ticket.into_inner().issued();
            book.tickets
                .push(issued.map_err(|problem| Error::invalid(place, problem))?);
        }
        Ok(book)
    }

    /// Replaces the file.
    pub fn save(&self, state: &LockedState) -> Result<(), Error> {
        let peer = self.entries.iter().map(|entry| FileEntryOut {
            address: entry.address.to_string(),
            name: entry.name.as_ref().map(PeerName::to_string),
        });
        let file = FileOut {
            peer: peer.collect(),
            destination: self.destinations.write(),
            ticket: self.tickets.iter().map(FileTicket::from).collect(),
        };
        let text = toml::to_string(&file)
            .map(Zeroizing::new)
            .map_err(|error| Error::refused(format!("cannot write the trust book: {error}")))?;
        let head =
            "# Peers that may open connections to this machine: `anode trust`, `anode distrust`.\n";
        write_atomic(
            &path(state.dir()),
            Zeroizing::new(format!("{head}\n{}", *text)).as_bytes(),
            0o600,
        )?;
        Ok(())
    }

    /// All entries.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Who has this name.
    pub fn by_name(&self, name: &PeerName) -> Option<&Entry> {
        self.entries
            .iter()
            .find(|entry| entry.name.as_ref() == Some(name))
    }

    /// The entry of an address.
    pub fn by_address(&self, address: &Address) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.address == *address)
    }

    /// The entry that `named` means; an IPv6 stands for the address that makes it, whatever its peer digit.
    pub fn find(&self, named: &Named) -> Result<&Entry, ValueError> {
        let target = named.resolve(self, &Given::default())?;
        let ip = split_digit(target.ipv6()).0;
        let found = self
            .entries
            .iter()
            .find(|entry| entry.address.ipv6(PeerId::ANY) == ip);
        found.ok_or_else(|| ValueError::new(format!("{} is not trusted", target.text())))
    }

    /// Lets `address` in. A name replaces the one it had; without one it keeps that. A name of another peer is refused.
    pub fn trust(&mut self, address: Address, name: Option<PeerName>) -> Result<&Entry, String> {
        if let Some(name) = &name
            && let Some(other) = self.by_name(name)
            && other.address != address
        {
            return Err(format!(
                "name {:?} is {} already: choose another, or `anode distrust {name}` first",
                name.as_str(),
                other.address
            ));
        }
        let mut known = self.entries.iter();
        let place = match known.position(|entry| entry.address == address) {
            Some(place) => place,
            None => self.add(address)?,
        };
        let entry = &mut self.entries[place];
        entry.name = name.or(entry.name.take());
        Ok(entry)
    }

    /// The place of a new entry.
    fn add(&mut self, address: Address) -> Result<usize, String> {
        let mut held = Held::default();
        let known = self.entries.iter().map(|entry| entry.address);
        for known in known.chain([address]) {
            held.claim(known, known.ipv6(PeerId::ANY))?;
        }
        if self.entries.len() >= MAX_PEERS {
            return Err(format!("the trust book is full: {MAX_PEERS} peers"));
        }
        let name = None;
        self.entries.push(Entry { address, name });
        Ok(self.entries.len() - 1)
    }

    /// The tickets that were issued, the used ones too: their joiner may ask again.
    pub fn tickets(&self) -> &[Issued] {
        &self.tickets
    }

    /// Adds one; those that have expired by `now` go.
    pub fn add_ticket(&mut self, now: Timestamp, ticket: Issued) -> Result<(), String> {
        self.tickets.retain(|issued| now <= issued.expires);
        if self.tickets.len() >= MAX_ISSUED {
            return Err(format!(
                "{MAX_ISSUED} tickets are open: wait until some expire"
            ));
        }
        self.tickets.push(ticket);
        Ok(())
    }

    /// Takes one back; what it was.
    pub fn remove_ticket(&mut self, id: TicketId) -> Option<Issued> {
        let index = self.tickets.iter().position(|issued| issued.id == id)?;
        Some(self.tickets.remove(index))
    }

    /// It is used up.
    pub fn take_ticket(&mut self, id: TicketId, joiner: Address) {
        if let Some(issued) = self.tickets.iter_mut().find(|issued| issued.id == id) {
            issued.taken_by = Some(joiner);
        }
    }

    /// Takes it back; the entry that was there.
    pub fn distrust(&mut self, address: &Address) -> Option<Entry> {
        let index = self
            .entries
            .iter()
            .position(|entry| entry.address == *address)?;
        Some(self.entries.remove(index))
    }
}

fn path(dir: &StateDir) -> PathBuf {
    dir.file("trust.toml")
}
