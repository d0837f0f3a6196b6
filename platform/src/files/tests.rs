use std::os::unix::fs::symlink;

use super::*;

/// A directory that goes away with the value.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("anode-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(&self.0)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn a_file_is_replaced_with_its_mode_and_nothing_stays_beside() {
    let scratch = Scratch::new("replace");
    let path = scratch.path("key");
    write_atomic(&path, b"one", 0o644).unwrap();
    write_atomic(&path, b"two", 0o600).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"two");
    assert_eq!(mode(&path), 0o600);
    assert_eq!(scratch.names(), ["key"]);
}

#[test]
fn a_failed_write_leaves_the_old_content_and_nothing_beside() {
    let scratch = Scratch::new("failed");
    // A directory cannot be replaced by a file: the last step fails.
    let path = scratch.path("target");
    std::fs::create_dir(&path).unwrap();
    let error = write_atomic(&path, b"x", 0o600).unwrap_err();
    assert!(error.to_string().contains("target"), "{error}");
    assert_eq!(scratch.names(), ["target"]);
    assert!(write_atomic(&scratch.path("no/such"), b"x", 0o600).is_err());
}

#[test]
fn a_link_is_replaced_and_not_followed() {
    let scratch = Scratch::new("link");
    let (target, link) = (scratch.path("target"), scratch.path("link"));
    std::fs::write(&target, "old").unwrap();
    symlink(&target, &link).unwrap();
    write_atomic(&link, b"new", 0o600).unwrap();
    assert_eq!(std::fs::read(&target).unwrap(), b"old");
    assert!(std::fs::symlink_metadata(&link).unwrap().is_file());
}

#[test]
fn readers_see_the_old_or_the_new_content_and_never_less() {
    let scratch = Scratch::new("readers");
    let path = scratch.path("state");
    let versions: Vec<_> = (b'a'..=b'e').map(|byte| vec![byte; 50_000]).collect();
    write_atomic(&path, &versions[0], 0o600).unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for round in 0..50 {
                write_atomic(&path, &versions[round % versions.len()], 0o600).unwrap();
            }
        });
        while !writer.is_finished() {
            let seen = std::fs::read(&path).unwrap();
            assert!(versions.contains(&seen), "{} bytes", seen.len());
        }
    });
}

#[test]
fn a_secret_is_read_when_only_its_owner_can_and_refused_with_the_reason_otherwise() {
    let scratch = Scratch::new("secret");
    let path = scratch.path("key");
    write_atomic(&path, b"secret", 0o600).unwrap();
    assert_eq!(read_secret(&path, 6).unwrap(), b"secret");

    let refused = |path: &Path, why: &str| {
        let error = read_secret(path, 100).unwrap_err();
        assert!(matches!(error, PlatformError::Secret { .. }), "{error:?}");
        assert!(error.to_string().contains(why), "{error}");
    };
    for bits in [0o640, 0o604, 0o620, 0o601] {
        std::fs::set_permissions(&path, Permissions::from_mode(bits)).unwrap();
        refused(&path, "chmod 600");
    }
    std::fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
    assert!(read_secret(&path, 100).is_ok());
    let error = read_secret(&path, 5).unwrap_err();
    assert!(error.to_string().contains("larger than 5 bytes"), "{error}");

    let link = scratch.path("link");
    symlink(&path, &link).unwrap();
    refused(&link, "symbolic link");
    refused(&scratch.0, "regular file");
    let pipe = scratch.path("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    refused(&pipe, "regular file");
    let missing = read_secret(&scratch.path("missing"), 100).unwrap_err();
    assert_eq!(missing.io_kind(), Some(io::ErrorKind::NotFound));
}

#[test]
fn a_new_directory_is_private_and_one_open_to_writers_is_refused() {
    let scratch = Scratch::new("directory");
    let path = scratch.path("a/b");
    create_dir_private(&path).unwrap();
    assert_eq!(mode(&path), 0o700);
    assert_eq!(mode(&scratch.path("a")), 0o700);
    create_dir_private(&path).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    create_dir_private(&path).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
    let error = create_dir_private(&path).unwrap_err();
    assert!(error.to_string().contains("chmod 700"), "{error}");
}

#[test]
fn one_node_holds_a_state_directory_and_the_second_is_told_who() {
    let scratch = Scratch::new("lock");
    let lock = StateLock::take(&scratch.0).unwrap();
    let error = StateLock::take(&scratch.0).unwrap_err();
    assert!(
        matches!(error, PlatformError::AlreadyRunning { pid: Some(pid), .. } if pid == std::process::id() as i32),
        "{error:?}"
    );
    assert!(
        error.to_string().starts_with("already running (pid "),
        "{error}"
    );
    drop(lock);
    StateLock::take(&scratch.0).unwrap();
}

#[test]
fn only_ones_own_files_and_those_of_root_are_trusted() {
    let cases = [
        (1000, 1000, true),
        (0, 1000, true),
        (1001, 1000, false),
        (1000, 0, true),
        (0, 0, true),
    ];
    for (owner, user, trusted) in cases {
        let why = foreign(Uid::from_raw(owner), Uid::from_raw(user));
        assert_eq!(why.is_none(), trusted, "{owner} {user} {why:?}");
    }
}

/// `sudo anode key new` in the service's state directory.
#[test]
fn what_root_writes_in_the_directory_of_another_user_belongs_to_that_user() {
    if std::env::var("ANODE_TEST_NO_ROOT").is_ok_and(|value| value == "1") {
        eprintln!("SKIPPED because ANODE_TEST_NO_ROOT=1");
        return;
    }
    assert!(
        geteuid().is_root(),
        "this test changes owners and needs root; set ANODE_TEST_NO_ROOT=1 to skip it"
    );
    const NOBODY: u32 = 65534;
    let scratch = Scratch::new("owner");
    let path = scratch.path("key");
    std::os::unix::fs::chown(&scratch.0, Some(NOBODY), Some(NOBODY)).unwrap();
    create_dir_private(&scratch.0).unwrap();
    write_atomic(&path, b"key", 0o600).unwrap();
    drop(StateLock::take(&scratch.0).unwrap());
    for name in ["key", "lock"] {
        let metadata = std::fs::metadata(scratch.path(name)).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (NOBODY, NOBODY), "{name}");
    }
    assert_eq!(read_secret(&path, 100).unwrap(), b"key");
}
