//! Files of what a node notes down for its next start. Losing one costs time: a damaged one is left out with a warning.

use std::fmt::Display;
use std::io;

use anode_platform::files::write_atomic;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{LockedState, StateDir};
use crate::Error;

/// What is in the file; `None`, with a warning in the log, when it is of no use. `without`: what the node starts without then.
pub(super) fn load<T: DeserializeOwned>(
    dir: &StateDir,
    name: &str,
    max_bytes: u64,
    without: &str,
) -> Option<T> {
    let path = dir.file(name);
    let warn = |why: &dyn Display| {
        tracing::warn!("{}: {why}: starting without {without}", path.display());
    };
    let text = path.metadata().and_then(|found| match found.len() {
        length if length > max_bytes => {
            Err(io::Error::other(format!("more than {max_bytes} bytes")))
        }
        _ => std::fs::read_to_string(&path),
    });
    match text {
        Ok(text) => toml::from_str(&text)
            .map_err(|error| warn(&error.message()))
            .ok(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            warn(&error);
            None
        }
    }
}

/// Replaces the file.
pub(super) fn save(state: &LockedState, name: &str, content: &impl Serialize) -> Result<(), Error> {
    let text = toml::to_string(content)
        .map_err(|error| Error::refused(format!("cannot write {name}: {error}")))?;
    let path = state.dir().file(name);
    // An idle node renews its sessions every two minutes, and its peers are where they were: the disk may sleep.
    if std::fs::read_to_string(&path).is_ok_and(|written| written == text) {
        return Ok(());
    }
    write_atomic(&path, text.as_bytes(), 0o600)?;
    Ok(())
}
