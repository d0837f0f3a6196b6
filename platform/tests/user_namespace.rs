//! What `anode demo` does without root. A program of its own: entering a user namespace takes a process of one thread,
//! and the test harness has more.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod common;

use std::process::Command;

use anode_platform::netlink::Netlink;
use anode_platform::netns::{NetNs, enter_user_namespace};
use anode_platform::privileges::{self, Capability};
use anode_platform::tun::{Tun, TunConfig};
use common::{become_nobody, driver_for_everybody, private_mounts, privileged};

/// For places where the kernel allows no user namespaces, a chroot for example.
const SKIP: &str = "ANODE_TEST_SKIP_USER_NAMESPACE";

fn exists(name: &str) -> bool {
    Netlink::open().unwrap().link(name).unwrap().is_some()
}

fn main() {
    if !privileged() {
        return;
    }
    if std::env::var_os(SKIP).is_some_and(|value| value == "1") {
        eprintln!("skipped: {SKIP}=1");
        return;
    }
    private_mounts();
    driver_for_everybody();
    become_nobody();
    let config = TunConfig {
        name: "anode0".into(),
        mtu: 1280,
        offload: true,
        addresses: vec![("fda0::a0".parse().unwrap(), 128)],
        routes: vec![("fda0::".parse().unwrap(), 16)],
    };
    assert!(!privileges::has(Capability::NetAdmin));
    assert!(Tun::create(&config).is_err());

    enter_user_namespace().unwrap();
    assert!(nix::unistd::geteuid().is_root());
    assert!(privileges::has(Capability::NetAdmin));
    let loopback = Netlink::open().unwrap().link("lo").unwrap().unwrap();
    assert!(loopback.flags.up && loopback.flags.loopback);

    let other = NetNs::new().unwrap();
    let mut netlink = Netlink::open().unwrap();
    netlink.veth_add("here", "there", Some(&other)).unwrap();
    assert!(exists("here") && !exists("there"));
    let tun = other.run(|| {
        assert!(exists("there") && !exists("here"));
        Tun::create(&config).unwrap()
    });
    let tun = tun.unwrap();
    assert!(tun.offload());
    assert!(!exists("anode0"));

    let mut command = Command::new("cat");
    let command = other.command(command.arg("/proc/self/net/dev")).unwrap();
    let seen = String::from_utf8(command.output().unwrap().stdout).unwrap();
    assert!(
        seen.contains("there:") && seen.contains("anode0:"),
        "{seen}"
    );
    println!(
        "test an_ordinary_user_gets_interfaces_links_and_namespaces_in_a_user_namespace ... ok"
    );
}
