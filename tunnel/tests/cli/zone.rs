//! `anode zone`: making, signing and checking without a node, and starting in a zone.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{Node, State};

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// A zone 2a in the state's directory.
fn zone(state: &State) -> String {
    let place = state.0.join("home").to_str().unwrap().to_owned();
    state.ok(&[
        "zone",
        "new",
        &place,
        "--zone",
        "2a",
        "--relay",
        "127.0.0.1:8737",
        "--relay",
        "[2001:db8::1]:9000",
    ]);
    place
}

#[test]
fn a_new_zone_has_a_signed_file_a_key_and_a_relay_for_each_place() {
    let state = State::new();
    let place = state.0.join("home").to_str().unwrap().to_owned();
    let made = state.json(&[
        "zone",
        "new",
        &place,
        "--zone",
        "2A",
        "--relay",
        "192.0.2.1:8737",
        "--title",
        "at home",
        "--contact",
        "a@b",
        "--ttl",
        "5m",
    ]);
    let home = Path::new(&place);
    assert_eq!(made["zone"], "0000002a");
    let file = text(&home.join("zone"));
    let address = made["relays"][0]["address"].as_str().unwrap();
    for line in [
        "n=at home\r\n",
        "c=a@b\r\n",
        "r=1\r\n",
        "ttl=300\r\n",
        "zone=0000002a\r\n",
        &format!("zr.0=192.0.2.1:8737:8737:{address}\r\n"),
    ] {
        assert!(file.contains(line), "{line:?} in {file}");
    }
    assert_eq!(
        (
            mode(home),
            mode(&home.join("zone.key")),
            mode(&home.join("zone"))
        ),
        (0o700, 0o600, 0o644)
    );
    assert_eq!(mode(&home.join("relay-0/identity.key")), 0o600);
    assert!(
        text(&home.join("relay-0/identity.key")).starts_with(&format!("ANODE-256-40:{address}:"))
    );
    let config = text(&home.join("relay-0.toml"));
    for line in [
        "state = \"relay-0\"\n",
        "listen = [\"192.0.2.1:8737\"]\n",
        "zone-file = \"zone\"\n",
        "[relay]\n",
    ] {
        assert!(config.contains(line), "{config}");
    }
    let good = state.ok(&["zone", "check", home.join("zone").to_str().unwrap()]);
    assert!(
        good.contains("good, zone 0000002a, revision 1, signed by"),
        "{good}"
    );
}

#[test]
fn what_is_no_zone_is_refused_in_one_line_and_leaves_nothing() {
    let state = State::new();
    let place = state.0.join("new").to_str().unwrap().to_owned();
    let new = |more: &[&str]| {
        let mut arguments = vec!["zone", "new", &*place];
        arguments.extend(more);
        let error = state.fails(2, &arguments);
        assert_eq!(state.names(), Vec::<String>::new(), "{more:?}");
        error
    };
    for (more, problem) in [
        (
            &["--zone", "0", "--relay", "192.0.2.1:1"][..],
            "zone 0 is local only",
        ),
        (
            &["--zone", "xyz", "--relay", "192.0.2.1:1"],
            "use 1 to 8 hex digits",
        ),
        (&["--zone", "2a"], "--relay"),
        (&["--zone", "2a", "--relay", "192.0.2.1"], "write IP:PORT"),
        (
            &["--zone", "2a", "--relay", "relay.example:1"],
            "write IP:PORT",
        ),
        (
            &["--zone", "2a", "--relay", "192.0.2.1:0"],
            "give one above 0",
        ),
        (
            &["--zone", "2a", "--relay", "192.0.2.1:1,[2001:db8::1]:2"],
            "one port on all its addresses",
        ),
        (
            &[
                "--zone",
                "2a",
                "--relay",
                "192.0.2.1:1,[2001:db8::1]:1",
                "--relay",
                "[2001:db8::1]:1",
            ],
            "named twice",
        ),
        (
            &["--zone", "2a", "--relay", "0.0.0.0:1"],
            "no address that a relay can have",
        ),
        (
            &["--zone", "2a", "--relay", "[ff02::1]:1"],
            "no address that a relay can have",
        ),
        (
            &["--zone", "2a", "--relay", "[fda0::1]:1"],
            "no address that a relay can have",
        ),
        (
            &[
                "--zone",
                "2a",
                "--relay",
                "192.0.2.1:1",
                "--relay",
                "192.0.2.1:1",
            ],
            "named twice",
        ),
        (
            &["--zone", "2a", "--relay", "192.0.2.1:1", "--ttl", "8d"],
            "60s to 7d",
        ),
    ] {
        let error = new(more);
        assert!(error.contains(problem), "{more:?}: {error}");
    }
    fs::create_dir(&place).unwrap();
    fs::write(Path::new(&place).join("mine"), "x").unwrap();
    let again = state.fails_in_one_line(
        2,
        &[
            "zone",
            "new",
            &place,
            "--zone",
            "2a",
            "--relay",
            "192.0.2.1:1",
        ],
    );
    assert!(again.contains("not empty"), "{again}");
    assert_eq!(fs::read_dir(&place).unwrap().count(), 1);
    assert_eq!(state.names(), ["new"]);
}

#[test]
fn sign_raises_the_revision_keeps_comments_and_check_names_the_line() {
    let state = State::new();
    let place = zone(&state);
    let file = format!("{place}/zone");
    // an editor that knows LF alone
    let edited = text(Path::new(&file)).replace("d=\r\n", "; mine\nd=here\n");
    fs::write(&file, edited).unwrap();
    let checked = state.run(&["zone", "check", &file]);
    assert_eq!(checked.status.code(), Some(1));
    let said = String::from_utf8(checked.stdout).unwrap();
    assert!(
        said.contains(&format!("{file}:12: sig= is not")) && said.ends_with("refused\n"),
        "{said}"
    );
    let signed = state.json(&["zone", "sign", &place]);
    assert_eq!(
        (&signed["revision"], &signed["zone"]),
        (&Value::from(2), &Value::from("0000002a"))
    );
    assert!(text(Path::new(&file)).contains("; mine\r\nd=here\r\n"));
    state.ok(&["zone", "check", &file]);
    state.ok(&["zone", "sign", &file]);
    assert!(text(Path::new(&file)).contains("r=3\r\n"));

    let good = text(Path::new(&file));
    for (bad, problem) in [
        (
            good.replace("r=3", "r=x"),
            ":5: r=\"x\" is not a decimal number",
        ),
        (good.replace("c=\r\n", ""), ": the entry c= is missing"),
        (
            good.replace("zone=0000002a", "zone=nowhere"),
            ":10: zone=\"nowhere\" is not a zone",
        ),
        (
            good.replace("r=3", &format!("r={}", u64::MAX)),
            ": no revision is higher",
        ),
        (format!("{good}n=again\r\n"), ":1: \"n\" stands there again"),
        (format!("{good}member.x=me\r\n"), ":13: member.x: "),
    ] {
        fs::write(&file, &bad).unwrap();
        let error = state.fails_in_one_line(2, &["zone", "sign", &place]);
        assert!(
            error.contains(&format!("{file}{problem}")),
            "{problem}: {error}"
        );
        assert_eq!(
            text(Path::new(&file)),
            bad,
            "a file that is not signed is not touched"
        );
    }
    fs::write(&file, &good).unwrap();
    let other = state.fails_in_one_line(2, &["zone", "sign", &place, "--zone", "2b"]);
    assert!(other.contains("says zone=0000002a"), "{other}");
    let key = format!("{place}/zone.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(
        state
            .fails_in_one_line(2, &["zone", "sign", &place])
            .contains("chmod 600")
    );
    fs::remove_file(&key).unwrap();
    assert!(
        state
            .fails_in_one_line(2, &["zone", "sign", &place])
            .contains("the zone's key is not there")
    );
    for (file, problem) in [
        ("nowhere", "there is no such file"),
        ("none", "give a zone file or its URL"),
    ] {
        assert!(
            state
                .fails_in_one_line(2, &["zone", "check", file])
                .contains(problem)
        );
    }
    let dead = state.fails_in_one_line(1, &["zone", "check", "http://127.0.0.1:1/z"]);
    assert!(dead.contains("no connection to 127.0.0.1:1"), "{dead}");
}

#[test]
fn a_node_starts_in_the_zone_of_its_file_or_says_in_one_line_why_not() {
    let home = State::new();
    let place = zone(&home);
    let file = format!("{place}/zone");
    let state = State::new();
    // relative to the configuration, which lies beside the zone
    let config = home.write(
        "home/node.toml",
        "zone-file = \"zone\"\n[lan]\nenabled = false\n",
        0o644,
    );
    let mut node = Node::start_with(&state, config.to_str().unwrap(), &[]);
    assert_eq!(state.json(&["address"])["zone"], "0000002a");
    let shown = state.json(&["zone", "show"]);
    assert_eq!(
        (&shown["file"]["revision"], &shown["from"]),
        (&Value::from(1), &Value::from(&*file))
    );
    assert_eq!(shown["file"]["relays"].as_array().unwrap().len(), 2);
    let metrics = state.metrics();
    assert!(metrics.contains("anode_zone_revision 1"), "{metrics}");

    // a change is seen without being told of
    home.ok(&["zone", "sign", &place]);
    let start = Instant::now();
    while state.json(&["zone", "show"])["file"]["revision"] != 2 {
        assert!(start.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(node.is_running());
    drop(node);

    let up = |state: &State, more: &[&str]| {
        let mut arguments = vec!["up", "--no-tun", "--listen", "127.0.0.1:0"];
        arguments.extend(more);
        state.fails_in_one_line(2, &arguments)
    };
    let other = up(&state, &["--zone", "2b", "--zone-file", &file]);
    assert!(
        other.contains("belongs to zone 0000002a, not 0000002b"),
        "{other}"
    );
    let stranger = State::new();
    stranger.ok(&["key", "new", "--zone", "2b"]);
    let names = stranger.names();
    let wrong = up(&stranger, &["--zone-file", &file]);
    assert!(
        wrong.contains(&format!(
            "{file}: it is for zone 0000002a, and this is zone 0000002b"
        )),
        "{wrong}"
    );
    assert_eq!(stranger.names(), names);
    let fresh = State::new();
    let differ = up(&fresh, &["--zone", "2b", "--zone-file", &file]);
    assert!(differ.contains("it is for zone 0000002a"), "{differ}");
    assert!(
        up(&fresh, &["--zone-file", "nowhere"]).contains("nowhere: there is no such zone file")
    );
    let local = State::with_key();
    assert!(up(&local, &["--zone-file", &file]).contains("zone 0 is local only"));
    let forged = text(Path::new(&file)).replace("r=2", "r=9");
    let forged = home
        .write("forged", &forged, 0o644)
        .to_str()
        .unwrap()
        .to_owned();
    assert!(
        up(&fresh, &["--zone-file", &forged])
            .contains(&format!("{forged}:11: sig= is not by key="))
    );
    let old = text(Path::new(&file));
    assert!(
        !fresh.names().contains(&"identity.key".to_owned()),
        "{:?}",
        fresh.names()
    );

    // an older one is refused, and taken on the operator's word; likewise another key
    home.ok(&["zone", "sign", &place]);
    let start = Node::start_with(&state, config.to_str().unwrap(), &[]);
    drop(start);
    fs::write(&file, old).unwrap();
    let error = up(&state, &["--zone-file", &file]);
    assert!(error.contains("revision 2 is older than 3"), "{error}");
    state.ok(&["zone", "refresh", "--force"]);
    drop(Node::start_with(&state, config.to_str().unwrap(), &[]));
    let second = home.0.join("second").to_str().unwrap().to_owned();
    let made = home.json(&[
        "zone",
        "new",
        &second,
        "--zone",
        "2a",
        "--relay",
        "127.0.0.1:8737",
    ]);
    let second = format!("{second}/zone");
    let error = up(&state, &["--zone-file", &second]);
    let key = made["key"].as_str().unwrap();
    assert!(
        error.contains(&format!("anode zone accept {key}")),
        "{error}"
    );
    state.ok(&["zone", "accept", key]);
    let mut node = Node::start_with(&state, config.to_str().unwrap(), &["--zone-file", &second]);
    assert!(node.is_running());
}

#[test]
fn without_a_node_show_and_refresh_say_so() {
    let state = State::with_key();
    for command in ["show", "refresh"] {
        assert!(
            state
                .fails_in_one_line(1, &["zone", command])
                .contains("anode is not running")
        );
    }
    assert!(
        state
            .fails(2, &["zone", "accept", "03ab"])
            .contains("66 hexadecimal digits")
    );
    let _node = Node::start(&state, &[]);
    let shown = state.json(&["zone", "show"]);
    assert_eq!(
        (&shown["zone"], &shown["from"]),
        (&Value::from("00000000"), &Value::from("none"))
    );
    assert!(
        state
            .fails_in_one_line(1, &["zone", "refresh"])
            .contains("no zone file")
    );
}

#[test]
fn a_new_zone_names_what_it_offers_beside_relays() {
    let state = State::new();
    let place = state.0.join("home").to_str().unwrap().to_owned();
    let new = ["zone", "new", &place, "--zone", "2a", "--relay"];
    let relay = "192.0.2.1:8737,[2001:db8::1]:8737";
    let with = |more: &[&'static str]| [&new[..], &[relay], more].concat();
    for (more, problem) in [
        (&["--turn", "http://x"][..], "turn: or turns:"),
        (&["--turn", "turn:x user"], "<uri>[ <user> <password>]"),
        (&["--tracker", "ftp://x"], "udp: or http: or https:"),
        (&["--dht", "a b"], "the name of a DHT"),
        (&["--dht-config", "http://x/c"], "--dht"),
        (
            &["--dht", "x", "--dht-config", "file:///c"],
            "http: or https:",
        ),
    ] {
        let error = state.fails(2, &with(more));
        assert!(error.contains(problem), "{more:?}: {error}");
        assert_eq!(state.names(), Vec::<String>::new(), "{more:?}");
    }
    state.ok(&with(&[
        "--turn",
        "turn:192.0.2.1:3478?transport=udp",
        "--turn",
        "turns:turn.example:443 us er",
        "--tracker",
        "udp://tracker.example:6969/announce",
        "--dht",
        "home.example",
        "--dht-config",
        "https://home.example/dht.xml",
    ]));
    let file = text(&Path::new(&place).join("zone"));
    let listen = "listen = [\"192.0.2.1:8737\", \"[2001:db8::1]:8737\"]";
    assert!(text(&Path::new(&place).join("relay-0.toml")).contains(listen));
    assert!(file.contains("zr.0=192.0.2.1,"), "{file}");
    for line in [
        "turn.0=turn:192.0.2.1:3478?transport=udp\r\n",
        "turn.1=turns:turn.example:443 us er\r\n",
        "tracker.0=udp://tracker.example:6969/announce\r\n",
        "dht=home.example\r\n",
        "dht.config=https://home.example/dht.xml\r\n",
    ] {
        assert!(file.contains(line), "{line:?} in {file}");
    }
    let good = state.ok(&["zone", "check", &format!("{place}/zone")]);
    assert!(good.contains("good, zone 0000002a"), "{good}");
}
