//! Wrong flags, files and machines: one clear message with the place and the fix, nothing left behind.

use anode_tests::lab::{Done, Family, Host, Lab, Lan, Node, NodeBuilder};
use std::fs::{self, Permissions};
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// A valid address: zone 0, the curve's base point (private key 1).
const GENERATOR: &str = "aeaaaaaaaaaag2yx2hzoclcci74lzzxfmoseb4txan6yclplgoqpjijzixmjrquw";

fn decode(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (mut bits, mut held) = (0_u32, 0);
    for letter in text.bytes() {
        let value = ALPHABET.iter().position(|l| *l == letter).expect("base32") as u32;
        bits = (bits << 5 | value) & 0xfff;
        held += 5;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    bytes
}

fn encode(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(5) {
        let value = chunk
            .iter()
            .fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
        text.extend(
            (0..8)
                .rev()
                .map(|digit| char::from(ALPHABET[(value >> (5 * digit) & 31) as usize])),
        );
    }
    text
}

/// The valid address with some bytes changed.
fn changed(change: impl FnOnce(&mut [u8])) -> String {
    let mut bytes = decode(GENERATOR);
    change(&mut bytes);
    encode(&bytes)
}

struct Machine {
    host: Host,
    _lan: Lan,
    lab: Lab,
    number: std::cell::Cell<u32>,
}

impl Machine {
    fn new() -> Option<Self> {
        let lab = Lab::open()?;
        let lan = Lan::new(&lab, Family::V4);
        Some(Self {
            host: lan.host("a"),
            _lan: lan,
            lab,
            number: 0.into(),
        })
    }

    /// A node with a new state directory and an identity in it.
    fn node(&self) -> NodeBuilder {
        self.number.set(self.number.get() + 1);
        let name = format!("state{}", self.number.get());
        Node::on(&self.host, self.lab.directory(), &name).prepare();
        Node::on(&self.host, self.lab.directory(), &name)
    }

    fn state(&self) -> std::path::PathBuf {
        self.lab
            .directory()
            .join(format!("state{}", self.number.get()))
    }

    /// Runs `anode up`, which must refuse with `status`, say all `parts` on few lines, and leave everything as it was.
    #[track_caller]
    fn refuses(&self, builder: &NodeBuilder, status: i32, parts: &[&str]) {
        let (interfaces, files) = (self.host.interfaces(), listing(&self.state()));
        let done: Done = self.host.finish(builder.command(), Duration::from_secs(10));
        assert_eq!(done.code(), status, "{done}");
        for part in parts {
            assert!(done.stderr.contains(part), "`{part}` is not said: {done}");
        }
        assert!(
            done.stderr.trim().lines().count() <= 6 && !done.stderr.contains("panicked"),
            "{done}"
        );
        assert!(done.out.is_empty(), "{done}");
        assert_eq!(self.host.interfaces(), interfaces, "{done}");
        assert_eq!(listing(&self.state()), files, "{done}");
    }
}

/// Names and contents.
fn listing(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut all: Vec<_> = entries
        .map(|entry| {
            (
                entry.file_name().to_string_lossy().into_owned(),
                fs::read(entry.path()).unwrap_or_default(),
            )
        })
        // The lock stays: removing it would race with the next owner.
        .filter(|(name, _)| name != "lock")
        .collect();
    all.sort();
    all
}

#[test]
fn the_base32_of_these_tests_is_right() {
    let bytes = decode(GENERATOR);
    assert_eq!((bytes.len(), bytes[0], bytes[7]), (40, 1, 3));
    assert_eq!(encode(&bytes), GENERATOR);
}

#[test]
fn wrong_values_in_flags_are_usage_errors() {
    // A13, A15, D8, D9, D6
    let Some(machine) = Machine::new() else {
        return;
    };
    let at = |address: &str| format!("{address}@192.0.2.9:8737");
    let digit_one = GENERATOR.replacen("ae", "a1", 1);
    let wrong_type = changed(|b| b[0] = 2);
    let unused = changed(|b| b[5] = 1);
    let infinity = changed(|b| b[7] = 0);
    let uncompressed = changed(|b| b[7] = 4);
    let too_large = changed(|b| b[8..].fill(0xff));
    // x = 1 has no point on P-256.
    let off_curve = changed(|b| {
        b[8..].fill(0);
        b[39] = 1;
    });
    let bad_addresses = [
        &digit_one,
        &wrong_type,
        &unused,
        &infinity,
        &uncompressed,
        &too_large,
        &off_curve,
        &GENERATOR[1..].to_owned(),
    ];
    for address in bad_addresses {
        let peer = at(address);
        machine.refuses(&machine.node().args(&["--peer", &peer]), 2, &["--peer"]);
    }
    let cases: &[(&[&str], &[&str])] = &[
        (&["--peer", GENERATOR], &["--peer", "@"]),
        (
            &["--peer", &format!("{GENERATOR}@192.0.2.9")],
            &["--peer", "192.0.2.9"],
        ),
        (
            &["--peer", &format!("{GENERATOR}@192.0.2.9:0")],
            &["--peer"],
        ),
        (
            &["--peer", &format!("{GENERATOR}@192.0.2.9:70000")],
            &["--peer", "70000"],
        ),
        (
            &["--peer", &format!("{GENERATOR}@gopher://192.0.2.9:70")],
            &["--peer", "gopher"],
        ),
        (&["--listen", "here"], &["--listen", "here"]),
        (&["--listen", "192.0.2.1"], &["--listen", "192.0.2.1"]),
        (
            &["--name", "sixteen-letters-"],
            &["--name", "sixteen-letters-", "15"],
        ),
        (&["--name", "a/b"], &["--name", "a/b"]),
        (&["--name", ""], &["--name"]),
        (&["--name", ".."], &["--name"]),
        (&["--zone", "xyz"], &["--zone", "xyz"]),
        (&["--zone", "123456789"], &["--zone", "123456789"]),
        (&["--zone", "7"], &["zone", "00000000"]),
        (&["--peer-id", "16"], &["--peer-id", "16"]),
        (&["--colour", "red"], &["--colour"]),
        (
            &["--config", "/nonexistent/anode.toml"],
            &["/nonexistent/anode.toml"],
        ),
        (&["--config", "/"], &["/"]),
    ];
    for (arguments, parts) in cases {
        machine.refuses(&machine.node().args(arguments), 2, parts);
    }
}

#[test]
fn wrong_configurations_are_refused_with_their_line() {
    let Some(machine) = Machine::new() else {
        return;
    };
    let cases: &[(&str, &[&str])] = &[
        (
            "name = \"anode7\"\ncolour = \"red\"",
            &[".toml:2", "colour"],
        ),
        ("[lan]\nenabled = \"yes\"", &[".toml:2", "yes"]),
        ("[lan]\n\nspeed = 3", &[".toml:3", "speed"]),
        ("name = ", &[".toml:1"]),
        (
            "\nname = \"sixteen-letters-\"",
            &[".toml:2", "sixteen-letters-", "15"],
        ),
        ("listen = [\"nowhere\"]", &[".toml:1", "nowhere"]),
        ("peer = [\"abc@192.0.2.1:1\"]", &[".toml:1", "abc"]),
        ("zone = \"q\"", &[".toml:1", "q"]),
    ];
    for (text, parts) in cases {
        machine.refuses(&machine.node().config(text), 2, parts);
    }
}

#[test]
fn wrong_key_files_are_refused_and_left_alone() {
    // S31, D9
    let Some(machine) = Machine::new() else {
        return;
    };
    let secret = format!("{}1", "0".repeat(63));
    let right = format!("ANODE-256-40:{GENERATOR}:{secret}");
    let cases = [
        ("empty", String::new()),
        ("garbage", "hello\n".to_owned()),
        ("binary", "\u{0}\u{1}\u{fffd}".to_owned()),
        ("truncated", right[..100].to_owned()),
        ("another type", right.replace("256-40", "512-80")),
        (
            "another key's address",
            right.replace(&secret, &format!("{}2", "0".repeat(63))),
        ),
        ("zero", right.replace(&secret, &"0".repeat(64))),
        (
            "not below the order",
            right.replace(&secret, &"f".repeat(64)),
        ),
        ("huge", "x".repeat(1 << 20)),
    ];
    for (what, content) in cases {
        println!("{what}");
        let node = machine.node();
        let file = machine.state().join("identity.key");
        fs::write(&file, content).expect("written");
        machine.refuses(&node, 2, &[&file.display().to_string()]);
    }

    let node = machine.node();
    let file = machine.state().join("identity.key");
    fs::set_permissions(&file, Permissions::from_mode(0o644)).expect("its mode");
    machine.refuses(&node, 2, &[&file.display().to_string(), "600"]);

    let node = machine.node();
    let file = machine.state().join("identity.key");
    fs::remove_file(&file).expect("removed");
    fs::create_dir(&file).expect("a directory instead");
    machine.refuses(&node, 2, &[&file.display().to_string()]);
}

#[test]
fn what_the_machine_refuses_is_named() {
    let Some(machine) = Machine::new() else {
        return;
    };
    let taken = machine
        .host
        .run(|| UdpSocket::bind("192.0.2.1:5000"))
        .expect("a port");
    machine.refuses(
        &machine.node().args(&["--listen", "192.0.2.1:5000"]),
        1,
        &["192.0.2.1:5000"],
    );
    drop(taken);
    machine.refuses(
        &machine.node().args(&["--listen", "203.0.113.9:5000"]),
        1,
        &["203.0.113.9:5000"],
    );
    machine.refuses(&machine.node().args(&["--name", "eth0"]), 1, &["eth0"]);
    let none = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];
    machine.refuses(&machine.node().wrapper(&none), 1, &["CAP_NET_ADMIN"]);
    let hidden = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        "mount -t tmpfs none /dev/net && exec \"$@\"",
        "sh",
    ];
    machine.refuses(&machine.node().wrapper(&hidden), 1, &["/dev/net/tun"]);
}

#[test]
fn a_state_directory_that_cannot_be_made_is_named() {
    let Some(machine) = Machine::new() else {
        return;
    };
    fs::write(machine.lab.directory().join("file"), "").expect("a file");
    let node = Node::on(
        &machine.host,
        &machine.lab.directory().join("file"),
        "below",
    );
    let done = machine.host.finish(node.command(), Duration::from_secs(10));
    assert_eq!(done.code(), 1, "{done}");
    assert!(done.stderr.contains("file/below"), "{done}");
    assert_eq!(machine.host.interfaces().len(), 2);
}

#[test]
fn a_port_of_somebody_else_is_not_taken_and_any_other_serves() {
    let Some(machine) = Machine::new() else {
        return;
    };
    let taken = machine
        .host
        .run(|| UdpSocket::bind("0.0.0.0:8737"))
        .expect("the port is free");
    taken
        .set_read_timeout(Some(Duration::from_millis(300)))
        .expect("a timeout");
    let node = machine.node().start();
    let listen = node.json(&["status"])["listen"].to_string();
    assert!(!listen.contains("0.0.0.0:8737"), "{listen}");
    // Unicast to the port still reaches its owner.
    let sender = machine
        .host
        .run(|| UdpSocket::bind("192.0.2.1:0"))
        .expect("a port");
    sender.send_to(b"mine", "192.0.2.1:8737").expect("sent");
    // The node's announcements reach everybody on the port; among them stands what was sent to its owner.
    let mut buffer = [0; 200];
    let heard = (0..20).any(|_| {
        taken
            .recv(&mut buffer)
            .is_ok_and(|size| &buffer[..size] == b"mine")
    });
    assert!(
        heard,
        "the node took what was sent to the owner of the port"
    );
}
