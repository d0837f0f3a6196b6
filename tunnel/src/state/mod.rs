//! The state directory: who this machine is, whom it trusts, whom it met.
//!
//! ```text
//! DIR/                0700 (0710 with group `anode` for the system's, so that its members reach the socket)
//!   lock              held by the node, or by a command that changes something while none runs
//!   identity.key      the identity string, 0600
//!   trust.toml        peers that are let in, with their names, and the tickets that were issued
//!   dht.toml          peers of each DHT: asked first at the next start
//!   learnt.toml       where peers were last met: hints for the next start
//!   sessions.toml     what sessions have taught about peers: timestamps, pins
//!   registered.toml   of a relay: who is registered, so that a restart costs nobody more than its time
//!   i2p.key           of the I2P destination; i2p-NAME.key of one with a name; 0600
//!   i2p-destinations  destinations of I2P that have been met: an address alone does not lead to one
//!   control.sock      the running node's control socket
//! ```

pub mod book;
pub mod destinations;
pub mod dht;
pub mod i2p;
pub mod identity;
pub mod learnt;
mod notes;
pub mod registered;
pub mod sessions;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anode_platform::files::{StateLock, create_dir_private};
use nix::unistd::{Gid, Group, Uid, chown};

use crate::Error;

/// The state directory of root and of the service.
pub const SYSTEM_STATE: &str = "/var/lib/anode";

/// Members of this group may use the service's control socket, where the group exists.
pub const SERVICE_GROUP: &str = "anode";

/// A state directory by its path; it need not exist yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StateDir {
    path: PathBuf,
}

impl StateDir {
    /// `explicit` (`--state`), else `/var/lib/anode` for root, else `$XDG_STATE_HOME/anode`, else `~/.local/state/anode`.
    pub fn find(explicit: Option<&Path>) -> Result<Self, Error> {
        if let Some(path) = explicit {
            let path = std::path::absolute(path).map_err(|error| {
                Error::invalid(
                    "--state",
                    format!("{:?}: {error}", path.display().to_string()),
                )
            })?;
            return Ok(Self { path });
        }
        if Uid::effective().is_root() {
            return Ok(Self {
                path: SYSTEM_STATE.into(),
            });
        }
        // The XDG base directory specification: relative paths are to be ignored.
        let from = |name| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let base =
            from("XDG_STATE_HOME").or_else(|| from("HOME").map(|home| home.join(".local/state")));
        match base {
            Some(base) => Ok(Self {
                path: base.join("anode"),
            }),
            None => Err(Error::invalid(
                "--state",
                "no state directory: neither XDG_STATE_HOME nor HOME is set, give --state DIR",
            )),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this is the system's, for which the system's configuration counts.
    pub fn is_system(&self) -> bool {
        self.path == Path::new(SYSTEM_STATE)
    }

    /// The group that may use the control socket: only the system's directory has one, and only where it exists.
    pub fn service_group(&self) -> Option<Gid> {
        if !self.is_system() {
            return None;
        }
        Group::from_name(SERVICE_GROUP)
            .ok()
            .flatten()
            .map(|group| group.gid)
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The key.
    pub fn identity_file(&self) -> PathBuf {
        self.file("identity.key")
    }

    /// Where the node's control socket is unless the configuration says otherwise.
    pub fn socket(&self) -> PathBuf {
        self.file("control.sock")
    }

    /// Makes it if it is missing, and takes the lock. Refuses a directory in which others may write: they could replace the key.
    pub fn lock(self) -> Result<LockedState, Error> {
        let missing = !self.path.exists();
        create_dir_private(&self.path)?;
        if missing && let Some(group) = self.service_group() {
            let opened = chown(&self.path, None, Some(group))
                .map_err(io::Error::from)
                .and_then(|()| fs::set_permissions(&self.path, fs::Permissions::from_mode(0o710)));
            opened.map_err(Error::io(format!(
                "cannot open {} to group {SERVICE_GROUP}",
                self.path.display()
            )))?;
        }
        let lock = StateLock::take(&self.path)?;
        Ok(LockedState {
            dir: self,
            _lock: lock,
        })
    }
}

/// A state directory that exists and that no other process changes while this value lives.
#[derive(Debug)]
pub struct LockedState {
    dir: StateDir,
    _lock: StateLock,
}

impl LockedState {
    /// The directory.
    pub fn dir(&self) -> &StateDir {
        &self.dir
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
