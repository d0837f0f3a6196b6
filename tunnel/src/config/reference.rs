//! docs/anode.toml, which people copy from, tells the truth: every key stands there, is taken as it stands, and what is called
//! a default is one.

use std::path::Path;

use super::Config;
use crate::value::{Mtu, Number};

const REFERENCE: &str = include_str!("../../../docs/anode.toml");

/// What stands commented out.
fn lines() -> impl Iterator<Item = &'static str> {
    let out = REFERENCE.lines().filter_map(|line| line.strip_prefix('#'));
    out.filter(|line| !line.is_empty() && !line.starts_with(' '))
}

fn parse(text: &str) -> Config {
    Config::parse(text, Path::new("/x/anode.toml"))
        .unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// A table's header, without brackets and comment.
fn header(line: &str) -> Option<&str> {
    let inner = line.strip_prefix('[')?.trim_start_matches('[');
    inner.split(']').next()
}

#[test]
fn every_line_of_it_is_taken() {
    // U19
    // A router that is asked over TLS is known by one of the two; who issues an overlay's certificates is not issued any.
    let server = ["tls-ca", "[dht.credential-server]", "users-file", "days"];
    let member = [
        "tls-fingerprint",
        "config = ",
        "user = \"alice\"  ",
        "password-file = \"dht",
        "shared-key-file",
    ];
    for (others, listen) in [(&server[..], "[]"), (&member[..], "[\"192.0.2.1:6084\"]")] {
        let lines = lines().filter(|line| !others.iter().any(|other| line.starts_with(other)));
        // Of the server's table nothing is left, either.
        let lines =
            lines.filter(|line| listen != "[]" || !line.starts_with("listen = [\"[::]:6085"));
        let text: String = lines.map(|line| format!("{line}\n")).collect();
        let text = text.replace("\nlisten = []", &format!("\nlisten = {listen}"));
        let config = parse(&text.replace("\ntls = false", "\ntls = true"));
        assert_eq!(config.turn_client.server.len(), 2);
        assert_eq!(config.dht[0].forward.len(), 1);
    }
}

/// The keys that an unknown one is told of.
fn known(table: &str) -> Vec<String> {
    let mut text = String::new();
    if let Some((parent, _)) = table.split_once('.') {
        let array = lines().any(|line| line.starts_with(&format!("[[{parent}]]")));
        text += &if array {
            format!("[[{parent}]]\n")
        } else {
            String::new()
        };
    }
    let array = lines().any(|line| line.starts_with(&format!("[[{table}]]")));
    text += &match (table, array) {
        ("", _) => String::new(),
        (_, true) => format!("[[{table}]]\n"),
        (_, false) => format!("[{table}]\n"),
    };
    text += "zzz = 1\n";
    let error = Config::parse(&text, Path::new("x"))
        .expect_err(&text)
        .to_string();
    let (_, expected) = error
        .split_once("expected")
        .unwrap_or_else(|| panic!("{error}"));
    let words = expected.split('`').skip(1).step_by(2);
    words.map(str::to_owned).collect()
}

#[test]
fn it_names_every_key() {
    // U19
    let mut named = vec![(String::new(), Vec::new())];
    for line in lines() {
        match (header(line), line.split_once(" = ")) {
            (Some(table), _) => named.push((table.to_owned(), Vec::new())),
            (None, Some((key, _))) => named.last_mut().unwrap().1.push(key.to_owned()),
            (None, None) => panic!("neither table nor key: {line}"),
        }
    }
    let tables: Vec<String> = named.iter().map(|(table, _)| table.clone()).collect();
    assert!(tables.len() > 25, "{tables:?}");
    for (table, keys) in named.iter().filter(|(table, _)| table != "names") {
        let all = known(table);
        assert!(!all.is_empty());
        for key in all {
            let below = [table.as_str(), &key]
                .into_iter()
                .filter(|it| !it.is_empty());
            let below = below.collect::<Vec<_>>().join(".");
            let elsewhere = named
                .iter()
                .any(|(other, keys)| other == table && keys.contains(&key));
            assert!(
                keys.contains(&key) || elsewhere || tables.contains(&below),
                "[{table}] {key} is not in docs/anode.toml"
            );
        }
    }
}

#[test]
fn its_defaults_are_the_defaults() {
    // U19
    let mut given = String::new();
    let mut none = String::new();
    let mut is_example = false;
    for line in lines() {
        let example = line.contains("# example");
        if header(line).is_some() {
            is_example = example;
            if !is_example {
                given += &format!("{line}\n");
                none += &format!("{line}\n");
            }
        } else if line.starts_with("listen = [\"192.0.2.10:3478\"]") {
            // Nothing is a TURN server's default.
            given += &format!("{line}\n");
            none += &format!("{line}\n");
        } else if !is_example && !example {
            given += &format!("{line}\n");
        }
    }
    let (given, none) = (parse(&given), parse(&none));
    assert_eq!(given.mtu, Some(Number(Mtu::default())));
    assert_eq!(given.inbound, none.inbound);
    assert_eq!(given.security, none.security);
    assert_eq!(given.lan, none.lan);
    assert_eq!(given.portmap, none.portmap);
    assert_eq!(given.dns.enabled, none.dns.enabled);
    assert_eq!(given.rendezvous, none.rendezvous);
    assert_eq!(given.dht, none.dht);
    assert_eq!(given.turn_client.rto(), none.turn_client.rto());
    let i2p = |config: &Config| {
        let i2p = config.i2p.as_ref().map(|it| it.get_ref());
        i2p.map(|it| (it.router.clone(), it.tls))
    };
    assert!(i2p(&given).is_some());
    assert_eq!(i2p(&given), i2p(&none));
    let relay = |config: &Config| format!("{:?}", config.relay.as_ref().map(|it| it.config()));
    assert_ne!(relay(&given), "None");
    assert_eq!(relay(&given), relay(&none));
    let tracker = |config: &Config| {
        let tracker = config.tracker.as_ref().expect("it is there");
        format!("{:?} {:?}", tracker.addresses(), tracker.server())
    };
    assert_eq!(tracker(&given), tracker(&none));
    let turn = |config: &Config| {
        let turn = config.turn.as_ref().expect("it is there");
        format!("{:?}", turn.config().expect("it is a whole one"))
    };
    assert_eq!(turn(&given), turn(&none));
}
