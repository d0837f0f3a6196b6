//! `trust.toml`: the peers that may open connections to this machine, and what it calls them.

use std::io;
use std::path::{Path, PathBuf};

use anode_platform::files::write_atomic;
use anode_wire::address::split_digit;
use anode_wire::{Address, PeerId};
use serde::{Deserialize, Serialize};

use super::{LockedState, StateDir};
use crate::Error;
use crate::config::toml_error;
use crate::names::Named;
use crate::value::{AddressText, PeerName, Text, ValueError};

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
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Book {
    entries: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    peer: Vec<toml::Spanned<FileEntry>>,
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
            let place = || format!("{}:{line}", path.display());
            if book.by_address(&address).is_some() {
                return Err(Error::invalid(
                    place(),
                    format!("{address} stands here twice: remove one"),
                ));
            }
            book.trust(address, name)
                .map_err(|problem| Error::invalid(place(), problem))?;
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
        };
        let text = toml::to_string(&file)
            .map_err(|error| Error::refused(format!("cannot write the trust book: {error}")))?;
        let head =
            "# Peers that may open connections to this machine: `anode trust`, `anode distrust`.\n";
        write_atomic(
            &path(state.dir()),
            format!("{head}\n{text}").as_bytes(),
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
        let target = named.resolve(self)?;
        let ip = split_digit(target.ipv6()).0;
        let found = self
            .entries
            .iter()
            .find(|entry| entry.address.ipv6(PeerId::ANY) == ip);
        found.ok_or_else(|| ValueError::new(format!("{} is not trusted", target.text())))
    }

    /// Lets `address` in. A name replaces the one it had; without one it keeps that. A name of another peer is refused.
    pub fn trust(&mut self, address: Address, name: Option<PeerName>) -> Result<(), String> {
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
        if let Some(entry) = self
            .entries
            .iter_mut()
            .find(|entry| entry.address == address)
        {
            entry.name = name.or(entry.name.take());
            return Ok(());
        }
        if self.entries.len() >= MAX_PEERS {
            return Err(format!("the trust book is full: {MAX_PEERS} peers"));
        }
        self.entries.push(Entry { address, name });
        Ok(())
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
