//! The Landlock domain: the few directories that a running node reads and writes.

use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use crate::PlatformError;

/// The directories that stay open.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Places {
    /// Files in them may be made, replaced and removed: the state directory.
    pub write: Vec<PathBuf>,
    /// Files in them may be removed: where the control socket is.
    pub remove: Vec<PathBuf>,
    /// Files in them may be read: the configuration's. Those that do not exist are left out.
    pub read: Vec<PathBuf>,
    /// These files may be read, and no others beside them; as they are now: one that replaces them is another file.
    pub read_files: Vec<PathBuf>,
}

/// How much the kernel could do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Landlock {
    /// All that was asked.
    Full,
    /// An older kernel does some of it.
    Partly,
    /// The kernel has none, or it is switched off.
    Missing,
}

/// What files of the state directory need: written beside, synced, renamed; sockets.
fn writing(abi: ABI) -> BitFlags<AccessFs> {
    AccessFs::from_read(abi) & !AccessFs::Execute
        | AccessFs::WriteFile
        | AccessFs::RemoveFile
        | AccessFs::MakeReg
        | AccessFs::MakeSock
        | AccessFs::Truncate
}

/// Confines the calling thread to `places`; threads that it starts inherit it. Not to be undone.
pub(super) fn restrict(places: &Places) -> Result<Landlock, PlatformError> {
    let status = apply(places).map_err(|error| {
        PlatformError::io("confine to directories", std::io::Error::other(error))
    })?;
    Ok(match status {
        RulesetStatus::FullyEnforced => Landlock::Full,
        RulesetStatus::PartiallyEnforced => Landlock::Partly,
        RulesetStatus::NotEnforced => Landlock::Missing,
    })
}

fn apply(places: &Places) -> Result<RulesetStatus, RulesetError> {
    let abi = ABI::V6;
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))?
        // No signal reaches a process outside of this one.
        .scope(Scope::Signal)?
        .create()?;
    let reading = AccessFs::ReadFile | AccessFs::ReadDir;
    let removing = AccessFs::RemoveFile.into();
    let all = [
        (&places.write, writing(abi)),
        (&places.remove, removing),
        (&places.read, reading),
        (&places.read_files, AccessFs::ReadFile.into()),
    ];
    for (paths, access) in all {
        for path in paths {
            // What does not exist cannot be opened to anybody either.
            if let Ok(directory) = PathFd::new(path) {
                rules = rules.add_rule(PathBeneath::new(directory, access))?;
            }
        }
    }
    Ok(rules.restrict_self()?.ruleset)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_the_named_directories_stay_open() {
        let base = std::env::temp_dir().join(format!("anode-places-{}", std::process::id()));
        let path = |name: &str| base.join(name);
        for name in ["state", "config", "other", "single"] {
            fs::create_dir_all(path(name)).unwrap();
            fs::write(path(name).join("file"), "x").unwrap();
        }
        let places = Places {
            write: vec![path("state")],
            remove: vec![path("socket that is not there")],
            read: vec![path("config")],
            read_files: vec![path("single/file")],
        };
        let outcome = std::thread::scope(|scope| {
            let work = || {
                let landlock = restrict(&places).unwrap();
                let replaced = crate::files::write_atomic(&path("state/new"), b"y", 0o600);
                let read = fs::read(path("config/file")).map(drop);
                let written = fs::write(path("config/file"), "y");
                let foreign = fs::read(path("other/file")).map(drop);
                let single = fs::read(path("single/file")).map(drop);
                let beside = fs::read_dir(path("single")).map(drop);
                (
                    landlock,
                    replaced,
                    read.and(single),
                    written,
                    foreign.and(beside),
                )
            };
            scope.spawn(work).join().unwrap()
        });
        let (landlock, replaced, read, written, foreign) = outcome;
        replaced.unwrap();
        read.unwrap();
        if landlock != Landlock::Missing {
            assert!(written.is_err() && foreign.is_err(), "{landlock:?}");
        }
        fs::remove_dir_all(&base).unwrap();
    }
}
