//! `identity.key`: one line, the draft's identity string; mode 0600, written atomically, never overwritten unasked (S31).

use std::io;

use anode_platform::files::{read_secret, write_atomic};
use anode_wire::{Identity, Zone};
use rand::rngs::SysRng;
use zeroize::Zeroizing;

use super::{LockedState, StateDir};
use crate::Error;

/// An identity string has about 142 bytes.
const MAX_BYTES: usize = 4096;

/// The identity of this directory, `None` when there is no file.
pub fn load(dir: &StateDir) -> Result<Option<Identity>, Error> {
    let path = dir.identity_file();
    // A link that leads nowhere is not "no key": it is for `read_secret` to refuse.
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(Error::refused(format!(
                "cannot read {}: permission denied; run as its owner, or give another --state DIR",
                path.display()
            )));
        }
        _ => {}
    }
    let bytes = Zeroizing::new(read_secret(&path, MAX_BYTES)?);
    let wrong = |problem: &str| {
        Error::invalid(
            path.display().to_string(),
            format!(
                "{problem}; restore the file from a backup, or move it away and make a new identity with `anode key new`"
            ),
        )
    };
    let text = std::str::from_utf8(&bytes).map_err(|_| wrong("not an identity: not text"))?;
    Identity::from_identity_string(text.trim())
        .map(Some)
        .map_err(|error| wrong(&format!("not an identity: {error}")))
}

/// The identity of this directory, or an error that says how to make one.
pub fn require(dir: &StateDir) -> Result<Identity, Error> {
    load(dir)?.ok_or_else(|| {
        Error::refused(format!(
            "no identity in {}: make one with `anode key new`, or just `anode up`",
            dir.path().display()
        ))
    })
}

/// A new identity in its file. `replace` allows to lose the one that is there.
pub fn create(state: &LockedState, zone: Zone, replace: bool) -> Result<Identity, Error> {
    let path = state.dir().identity_file();
    if !replace && path.symlink_metadata().is_ok() {
        return Err(Error::refused(format!(
            "{} exists: `anode key new --force` would replace it, and the address would be lost for good",
            path.display()
        )));
    }
    let (identity, unsaved) = generate(zone);
    unsaved.save(state)?;
    Ok(identity)
}

/// A new identity that no file holds yet: a node that cannot start leaves none behind.
pub struct Unsaved(Zeroizing<String>);

impl Unsaved {
    /// Writes it to its file.
    pub fn save(mut self, state: &LockedState) -> Result<(), Error> {
        self.0.push('\n');
        write_atomic(&state.dir().identity_file(), self.0.as_bytes(), 0o600)?;
        Ok(())
    }
}

/// The zone of the identity that is there, else the one that is `wanted` for a new one.
pub fn zone(dir: &StateDir, wanted: Option<Zone>) -> Result<Option<Zone>, Error> {
    match load(dir)? {
        None => Ok(wanted),
        Some(identity) => agree(dir, &identity, wanted).map(Some),
    }
}

/// `wanted`, where given, must be the identity's.
fn agree(dir: &StateDir, identity: &Identity, wanted: Option<Zone>) -> Result<Zone, Error> {
    let own = identity.address().zone();
    match wanted {
        Some(zone) if zone != own => Err(Error::invalid(
            "zone",
            format!(
                "the identity in {} belongs to zone {own}, not {zone}: leave the zone out, or make another identity in another --state DIR",
                dir.path().display()
            ),
        )),
        _ => Ok(own),
    }
}

/// What is there, or a new one that is still to be saved; checks that `zone`, where given, is the identity's.
pub fn load_or_generate(
    dir: &StateDir,
    zone: Option<Zone>,
) -> Result<(Identity, Option<Unsaved>), Error> {
    let Some(identity) = load(dir)? else {
        let (identity, unsaved) = generate(zone.unwrap_or_default());
        return Ok((identity, Some(unsaved)));
    };
    agree(dir, &identity, zone)?;
    Ok((identity, None))
}

fn generate(zone: Zone) -> (Identity, Unsaved) {
    // The system's generator fails only before it is seeded, and getrandom(2) waits for that.
    let identity = Identity::generate(zone, &mut rand::rand_core::UnwrapErr(SysRng));
    let unsaved = Unsaved(identity.identity_string());
    (identity, unsaved)
}
