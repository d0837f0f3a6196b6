//! Files that survive a crash (write beside, sync, rename), secrets that only their owner reads, and the lock that keeps
//! two nodes out of one state directory.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use nix::unistd::{Uid, geteuid};

use crate::PlatformError;

/// The permission bits of the group and of others.
const NOT_OWNER: u32 = 0o077;

/// Replaces `path` atomically with `bytes`, mode as given (the umask does not apply).
///
/// Whoever reads sees the old or the new content, also after a power cut: the bytes are on the disk before the name
/// points to them. A link at `path` is replaced, not followed. What root writes belongs to the directory's owner: else
/// `sudo anode key new` would make a key that the service's user cannot read.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<(), PlatformError> {
    let temporary = beside(path)?;
    let written = write_new(&temporary, bytes, mode)
        .and_then(|()| std::fs::rename(&temporary, path))
        .and_then(|()| sync_directory(path));
    written.map_err(|error| {
        // After a successful rename there is none, and that is fine.
        let _ = std::fs::remove_file(&temporary);
        PlatformError::at("write", path, error)
    })
}

/// A name in the same directory that no other process of this machine uses.
fn beside(path: &Path) -> Result<PathBuf, PlatformError> {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let name = path.file_name().ok_or_else(|| {
        PlatformError::at("write", path, io::Error::from(io::ErrorKind::InvalidInput))
    })?;
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(
        ".{}.{}",
        std::process::id(),
        COUNTER.fetch_add(1, Ordering::Relaxed)
    ));
    Ok(path.with_file_name(temporary))
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let open = || {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)
    };
    let mut file = match open() {
        // Left by a process of the same number that died while it wrote.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            std::fs::remove_file(path)?;
            open()?
        }
        result => result?,
    };
    give_to_directory_owner(&file, path)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Where root works in the directory of another user, a new file belongs to that user.
fn give_to_directory_owner(file: &File, path: &Path) -> io::Result<()> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let directory = std::fs::metadata(directory(path))?;
    if directory.uid() != 0 {
        fchown(file, Some(directory.uid()), Some(directory.gid()))?;
    }
    Ok(())
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes a rename in the directory of `path` survive a power cut.
fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(directory(path))?.sync_all()
}

/// Reads a secret: refused when group or others may read it, when it is no regular file, foreign-owned (neither ours nor
/// root's; root reads everybody's), or over `max` bytes.
pub fn read_secret(path: &Path, max: usize) -> Result<Vec<u8>, PlatformError> {
    let refused = |why: String| PlatformError::Secret {
        path: path.into(),
        why,
    };
    let mut file = OpenOptions::new()
        .read(true)
        // Not through a link that somebody laid, and without waiting for the other end of a pipe.
        .custom_flags(O_NOFOLLOW | O_NONBLOCK)
        .open(path)
        .map_err(|error| match error.raw_os_error() {
            Some(nix::libc::ELOOP) => refused("it is a symbolic link; name the file itself".into()),
            _ => PlatformError::at("read", path, error),
        })?;
    // Of the open file: what the name points to may change at any time.
    let metadata = file
        .metadata()
        .map_err(|error| PlatformError::at("read", path, error))?;
    if !metadata.is_file() {
        return Err(refused("it is not a regular file".into()));
    }
    if let Some(why) = foreign(Uid::from_raw(metadata.uid()), geteuid()) {
        return Err(refused(why));
    }
    if metadata.mode() & NOT_OWNER != 0 {
        return Err(refused(format!(
            "others can get at it (mode {:04o}); run `chmod 600 {}`, and make a new key if others were on this machine",
            metadata.mode() & 0o7777,
            path.display()
        )));
    }
    let mut bytes = Vec::new();
    let read = (&mut file).take(max as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| PlatformError::at("read", path, error))?;
    if bytes.len() > max {
        return Err(refused(format!("it is larger than {max} bytes")));
    }
    Ok(bytes)
}

/// Why a file or directory is not to be trusted with secrets: it belongs to somebody who is neither this user nor root.
/// Root may use everybody's.
fn foreign(owner: Uid, user: Uid) -> Option<String> {
    let trusted = user.is_root() || owner == user || owner.is_root();
    (!trusted).then(|| {
        format!("it belongs to user {owner}, not to user {user}; run `chown {user}` on it if it is yours")
    })
}

/// Makes a directory (and those above it) that only its owner enters, or checks that an existing one is ours and that
/// nobody else may write in it. Group and others may look into an existing one: systemd's `StateDirectoryMode` decides.
pub fn create_dir_private(path: &Path) -> Result<(), PlatformError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| PlatformError::at("make directory", path, error))?;
    let metadata =
        std::fs::metadata(path).map_err(|error| PlatformError::at("look at", path, error))?;
    let why = if let Some(why) = foreign(Uid::from_raw(metadata.uid()), geteuid()) {
        why
    } else if metadata.mode() & 0o022 != 0 {
        format!(
            "others may write in it (mode {:04o}); run `chmod 700 {}`",
            metadata.mode() & 0o7777,
            path.display()
        )
    } else {
        return Ok(());
    };
    Err(PlatformError::Secret {
        path: path.into(),
        why,
    })
}

/// Holds a state directory for one node, until it is dropped or the process ends in whatever way.
#[derive(Debug)]
pub struct StateLock {
    _file: Flock<File>,
}

impl StateLock {
    /// Takes `directory`, or tells who has it. The directory must exist; the lock is its file `lock`, which stays.
    pub fn take(directory: &Path) -> Result<Self, PlatformError> {
        let path = directory.join("lock");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(O_NOFOLLOW)
            .open(&path)
            .map_err(|error| PlatformError::at("open", &path, error))?;
        let mut file =
            Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(mut file, errno)| {
                match errno {
                    nix::errno::Errno::EWOULDBLOCK => PlatformError::AlreadyRunning {
                        pid: holder(&mut file),
                        directory: directory.into(),
                    },
                    _ => PlatformError::at("lock", &path, errno),
                }
            })?;
        // The number is for people and for the message above; the lock itself does not rest on it.
        give_to_directory_owner(&file, &path)
            .and_then(|()| file.set_len(0))
            .and_then(|()| writeln!(*file, "{}", std::process::id()))
            .map_err(|error| PlatformError::at("write", &path, error))?;
        Ok(Self { _file: file })
    }
}

fn holder(file: &mut File) -> Option<i32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests;
