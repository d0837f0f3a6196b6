//! What the tests share: the check for root, a namespace per test, children with less rights.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod packet;

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anode_platform::netns::NetNs;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, makedev, mknod};

/// Set to 1 where there is no root: the tests that need it say so and pass.
const NO_ROOT: &str = "ANODE_TEST_NO_ROOT";

/// Set in a child that runs a test's second half.
const CHILD: &str = "ANODE_TEST_CHILD";

/// Whether the machine lets the tests make interfaces. Panics when it does not and nobody said that this is fine.
pub fn privileged() -> bool {
    if std::env::var(NO_ROOT).is_ok_and(|value| value == "1") {
        eprintln!("SKIPPED because {NO_ROOT}=1");
        return false;
    }
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test makes network interfaces and needs root; set {NO_ROOT}=1 to skip it"
    );
    assert!(
        std::path::Path::new("/dev/net/tun").exists(),
        "this test needs /dev/net/tun (`modprobe tun`); set {NO_ROOT}=1 to skip it"
    );
    true
}

/// Runs a test in a network namespace of its own.
pub fn in_netns(test: impl FnOnce() + Send) {
    if privileged() {
        NetNs::new().unwrap().run(test).unwrap();
    }
}

/// Whether this process is the child that [`child`] started, in the role `role`.
pub fn is_child(role: &str) -> bool {
    std::env::var(CHILD).is_ok_and(|value| value == role)
}

/// The same test once more, in a process of its own: prepare and run it.
pub fn child(test: &str, role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CHILD, role);
    command
}

/// Runs a child to its end; panics with its output when it fails, or when it ran no test.
pub fn succeeds(command: &mut Command) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let text = String::from_utf8_lossy(&stdout);
    assert!(
        status.success() && text.contains("1 passed"),
        "{status}\n{text}\n{}",
        String::from_utf8_lossy(&stderr)
    );
}

/// Waits until `condition` holds; panics after five seconds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 5 s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs a test in network and mount namespaces of its own.
pub fn in_netns_and_mounts(test: impl FnOnce() + Send) {
    in_netns(|| {
        private_mounts();
        test();
    });
}

/// What the calling thread mounts from now on, nobody else sees.
pub fn private_mounts() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    let flags = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).unwrap();
}

/// /dev/net/tun with the mode that udev gives it, where the machine has no udev. Ends with the mount namespace.
pub fn driver_for_everybody() {
    over_driver(MsFlags::empty());
    make_driver(Mode::from_bits_retain(0o666));
}

/// Hides the machine's /dev/net/tun in the calling thread's mount namespace.
pub fn over_driver(flags: MsFlags) {
    mount(Some("none"), "/dev/net", Some("tmpfs"), flags, None::<&str>).unwrap();
}

/// Makes the device where [`over_driver`] made room.
pub fn make_driver(mode: Mode) {
    let path = "/dev/net/tun";
    mknod(path, SFlag::S_IFCHR, mode, makedev(10, 200)).unwrap();
    nix::sys::stat::fchmodat(
        nix::fcntl::AT_FDCWD,
        path,
        mode,
        FchmodatFlags::FollowSymlink,
    )
    .unwrap();
}

/// An ordinary user, as in a process that such a user started.
pub fn become_nobody() {
    let nobody = 65534;
    nix::unistd::setresgid(nobody.into(), nobody.into(), nobody.into()).unwrap();
    nix::unistd::setresuid(nobody.into(), nobody.into(), nobody.into()).unwrap();
    // Else /proc/self stays root's.
    nix::sys::prctl::set_dumpable(true).unwrap();
}
