//! `anode address`, `anode key`: what works without a node.

use anode_wire::{Identity, PeerId};
use serde::Serialize;

use super::Done;
use super::args::{Common, Key};
use crate::Error;
use crate::output::{self, Style};
use crate::state::{StateDir, identity};

/// `anode address --json`; `key` adds the rest.
#[derive(Serialize)]
struct Document {
    address: String,
    ipv6: String,
    id: String,
    zone: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<String>,
}

impl Document {
    fn new(identity: &Identity) -> Self {
        let address = identity.address();
        Self {
            address: address.to_string(),
            ipv6: address.ipv6(PeerId::ANY).to_string(),
            id: address.id().to_string(),
            zone: address.zone().to_string(),
            file: None,
            identity: None,
        }
    }

    fn with_file(self, dir: &StateDir) -> Self {
        Self {
            file: Some(dir.identity_file().display().to_string()),
            ..self
        }
    }

    fn print(self, common: &Common) -> Result<Done, Error> {
        if common.json {
            output::json(&self)?;
            return Ok(Done::Yes);
        }
        let mut rows = vec![
            ("address", self.address),
            ("ipv6", self.ipv6),
            ("id", self.id),
            ("zone", self.zone),
        ];
        rows.extend(self.file.map(|file| ("file", file)));
        rows.extend(self.identity.map(|secret| ("identity", secret)));
        output::print(&output::fields(Style::stdout(), &rows))?;
        Ok(Done::Yes)
    }
}

pub(super) fn address(common: &Common) -> Result<Done, Error> {
    Document::new(&identity::require(&common.dir()?)?).print(common)
}

pub(super) fn key(common: &Common, key: Key) -> Result<Done, Error> {
    let dir = common.dir()?;
    match key {
        Key::New { zone, force } => {
            let configured = common.config(&dir)?.zone.map(|zone| zone.0);
            let zone = zone.or(configured).map(|zone| zone.0).unwrap_or_default();
            let made = identity::create(&dir.clone().lock()?, zone, force)?;
            Document::new(&made).with_file(&dir).print(common)
        }
        Key::Show { secret } => {
            let found = identity::require(&dir)?;
            let mut document = Document::new(&found).with_file(&dir);
            if secret {
                document.identity = Some(found.identity_string().to_string());
            }
            document.print(common)
        }
    }
}
