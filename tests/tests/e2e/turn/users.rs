//! Who may use a server: passwords, keys of passwords, names that end.

use super::*;
use std::process::Stdio;
use std::time::SystemTime;

/// What openssl makes of these bytes.
pub fn digest(arguments: &[&str], input: &str) -> Vec<u8> {
    use std::io::Write as _;
    let mut openssl = command(programs::need("openssl"));
    openssl
        .args(["dgst", "-binary"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut running = openssl.spawn().expect("openssl runs");
    let mut stdin = running.stdin.take().expect("a pipe");
    stdin.write_all(input.as_bytes()).expect("written");
    drop(stdin);
    running.wait_with_output().expect("it ends").stdout
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a check with this name and password works; if not, it must be for them.
pub fn gets_in(ground: &Ground, name: &str, password: &str) -> bool {
    let uri = format!("turn:{}", ground.own());
    let done = anode(
        &ground.client,
        &[
            "turn",
            "check",
            &uri,
            "--json",
            "--user",
            name,
            "--password",
            password,
        ],
    );
    let report = json(&done);
    if report["ok"] != true {
        let last = report["steps"].as_array().and_then(|steps| steps.last());
        assert_eq!(last.expect("a step")["step"], "allocate", "{report}");
    }
    report["ok"] == true
}

// T26, T44: the file holds keys in place of passwords, of either digest or of both
#[test]
fn users_are_known_by_the_keys_of_their_passwords() {
    let Some(ground) = Ground::open(Family::V4) else {
        return;
    };
    let key = |kind: &str, name: &str| hex(&digest(&[kind], &format!("{name}:lab:a word")));
    let keys = |name: &str, kinds: &[&str]| {
        let pairs = kinds.iter().map(|kind| {
            let hex = key(&format!("-{kind}"), name);
            format!("{kind} = \"{hex}\"")
        });
        let pairs: Vec<String> = pairs.collect();
        format!("{name} = {{ {} }}\n", pairs.join(", "))
    };
    let head = format!(
        "[turn]\nlisten = [\"{}\"]\nrealm = \"lab\"\n[turn.users]\n{}",
        ground.own(),
        keys("both", &["md5", "sha256"])
    );
    let (old, new) = (keys("old", &["md5"]), keys("new", &["sha256"]));
    let mut server = ground.serve_with(head, "");
    for (name, lines) in [("old", &old), ("new", &new)] {
        server.reread(lines);
        for name in [name, "both"] {
            assert!(gets_in(&ground, name, "a word"), "{name}");
            assert!(!gets_in(&ground, name, "another word"), "{name}");
        }
    }
    assert!(!gets_in(&ground, "old", "a word"), "no user any more");
    // The two of one digest each cannot be served at once.
    fs::write(&server.config, format!("{}{old}{new}", server.head)).expect("written");
    let second = anode(&ground.at, &["relay", "-c", text(&server.config)]);
    assert_eq!(second.code(), 2, "{}", second.stderr);
    let named = ["[turn] users", "\"old\"", "\"new\""];
    assert!(
        named.iter().all(|part| second.stderr.contains(part)),
        "{}",
        second.stderr
    );
}

// Time-limited credentials, made by whoever has the secret
#[test]
fn names_that_end_are_good_until_then() {
    let Some(ground) = Ground::open(Family::V4) else {
        return;
    };
    let _server = ground.serve("rest-secret = \"north\"");
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = unix.expect("after 1970").as_secs();
    let password = |name: &str, secret: &str| {
        use base64::Engine as _;
        let tag = digest(&["-sha1", "-hmac", secret], name);
        base64::engine::general_purpose::STANDARD.encode(tag)
    };
    for (until, secret, expected) in [
        (now + 600, "north", true),
        (now - 60, "north", false),
        (now + 600, "south", false),
    ] {
        let name = format!("{until}:carol");
        let found = gets_in(&ground, &name, &password(&name, secret));
        assert_eq!(found, expected, "{until}, {secret}");
    }
    assert!(
        gets_in(&ground, "alice", "secret"),
        "and the others as before"
    );
}
