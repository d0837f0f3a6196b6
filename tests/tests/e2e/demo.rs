//! `anode demo`: what a newcomer runs first.

use anode_tests::lab::{Lab, Ns, anode_binary, command};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

/// For places where the kernel allows no user namespaces, a chroot for example.
const SKIP_USER_NAMESPACE: &str = "ANODE_TEST_SKIP_USER_NAMESPACE";

/// What stands in `/run/netns` and on `ns`.
fn traces(ns: &Ns) -> (usize, Vec<String>) {
    let named = Path::new("/run/netns").read_dir();
    let demo = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().contains("demo");
    let named = named.map_or(0, |all| all.flatten().filter(demo).count());
    (named, ns.interfaces())
}

#[test]
fn the_demo_does_the_main_job_and_leaves_nothing() {
    let Some(_lab) = Lab::open() else {
        return;
    };
    let ns = Ns::new("demo");
    let before = traces(&ns);
    let mut demo = command(anode_binary());
    demo.args(["demo", "--json"]);
    let done = ns.finish(demo, Duration::from_secs(60)).expect_ok();
    let report: Value = serde_json::from_str(&done.stdout()).expect("one JSON document");
    assert_eq!(report["ok"], true, "{report}");
    let steps = report["steps"].as_array().expect("a list");
    for name in [
        "nat", "relay", "anode up", "meet", "direct", "ping", "http", "udp", "relayed",
    ] {
        let found = steps.iter().find(|step| step["name"] == name);
        assert!(
            found.is_some_and(|step| step["ok"] == true),
            "{name}: {report}"
        );
    }
    let told = |name: &str| {
        let found = steps.iter().find(|step| step["name"] == name);
        found
            .and_then(|step| step["detail"].as_str())
            .expect("a text")
    };
    // Each of the two has an address of its own NAT outside, and they met over the relay.
    assert!(told("relayed").contains("203.0.113.1:"), "{report}");
    assert!(told("relayed").contains("203.0.113.2:"), "{report}");
    // The first answer may already come past the relay.
    assert!(told("direct").contains("203.0.113.2:"), "{report}");
    // Both with their times.
    assert!(told("meet").contains("s after the start"), "{report}");
    assert!(told("direct").contains("after the first echo"), "{report}");
    assert_eq!(traces(&ns), before, "it removed all that it made");
}

#[test]
fn the_demo_runs_in_a_user_namespace_too_and_says_so() {
    let Some(lab) = Lab::open() else {
        return;
    };
    if std::env::var_os(SKIP_USER_NAMESPACE).is_some_and(|value| value == "1") {
        eprintln!("skipped: {SKIP_USER_NAMESPACE}=1");
        return;
    }
    let ns = Ns::new("demo");
    // Somebody without any right, who may only open the TUN device, as udev lets everybody: the kernel gives the rights in
    // a user namespace of its own. The program lies where that user may read it.
    let place = std::env::temp_dir().join(format!("anode-demo-{}", std::process::id()));
    let script = "set -e; mkdir -m 755 $PLACE; cp $ANODE $PLACE/anode; \
        mknod $DIRECTORY/tun c 10 200; chmod 666 $DIRECTORY/tun; mount --bind $DIRECTORY/tun /dev/net/tun; \
        exec setpriv --reuid=65534 --regid=65534 --clear-groups -- $PLACE/anode demo";
    let mut demo = command("unshare");
    demo.args(["--mount", "sh", "-c", script])
        .env("PLACE", &place)
        .env("ANODE", anode_binary())
        .env("DIRECTORY", lab.directory());
    let done = ns.finish(demo, Duration::from_secs(60));
    let _ = std::fs::remove_dir_all(&place);
    let done = done.expect_ok();
    let told = done.stdout() + &done.stderr;
    assert!(told.contains("user namespace"), "{told}");
    assert!(told.contains("all of it worked"), "{told}");
}
