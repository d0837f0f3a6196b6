//! What the workspace stands on: crates from the registry, under licences that deny.toml allows.

use serde_json::Value;
use std::path::Path;
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ lies in the workspace")
}

/// Every crate of the lock file, as `cargo metadata` shows it.
fn crates() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .current_dir(root())
        .args(["metadata", "--format-version", "1", "--locked"])
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    metadata["packages"].as_array().expect("a list").clone()
}

fn allowed() -> Vec<String> {
    let text = std::fs::read_to_string(root().join("deny.toml")).expect("deny.toml");
    let list = text
        .split_once("allow = [")
        .and_then(|(_, rest)| rest.split_once(']'))
        .expect("a list of licences")
        .0;
    list.split(',')
        .map(|entry| entry.trim().trim_matches('"').to_owned())
        .filter(|entry| !entry.is_empty())
        .collect()
}

/// Whether an SPDX expression can be satisfied with `allowed` alone.
fn satisfied(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = &words[..];
    either(&mut rest, allowed) && rest.is_empty()
}

fn either(words: &mut &[&str], allowed: &[String]) -> bool {
    let mut good = both(words, allowed);
    while words.first() == Some(&"OR") {
        *words = &words[1..];
        good |= both(words, allowed);
    }
    good
}

fn both(words: &mut &[&str], allowed: &[String]) -> bool {
    let mut good = one(words, allowed);
    while words.first() == Some(&"AND") {
        *words = &words[1..];
        good &= one(words, allowed);
    }
    good
}

fn one(words: &mut &[&str], allowed: &[String]) -> bool {
    let Some((first, rest)) = words.split_first() else {
        return false;
    };
    *words = rest;
    if *first == "(" {
        let good = either(words, allowed);
        *words = words.get(1..).unwrap_or_default();
        return good;
    }
    if words.first() == Some(&"WITH") {
        // An exception only gives more freedom.
        *words = words.get(2..).unwrap_or_default();
    }
    allowed.iter().any(|licence| licence == first)
}

#[test]
fn every_crate_has_an_allowed_licence() {
    let allowed = allowed();
    let bad: Vec<String> = crates()
        .iter()
        .filter(|found| !satisfied(found["license"].as_str().unwrap_or_default(), &allowed))
        .map(|found| {
            format!(
                "{} {}: {}",
                found["name"], found["version"], found["license"]
            )
        })
        .collect();
    assert!(
        bad.is_empty(),
        "not allowed by deny.toml:\n{}",
        bad.join("\n")
    );
}

#[test]
fn every_crate_comes_from_the_registry_or_this_workspace() {
    for found in crates() {
        let source = found["source"].as_str();
        assert!(
            source.is_none_or(|source| source.starts_with("registry+")),
            "{} comes from {source:?}",
            found["name"]
        );
    }
}

#[test]
fn licence_expressions_are_understood() {
    let allowed = ["MIT".to_owned(), "Apache-2.0".to_owned()];
    let cases = [
        ("MIT", true),
        ("GPL-3.0", false),
        ("MIT OR GPL-3.0", true),
        ("MIT/GPL-3.0", true),
        ("MIT AND GPL-3.0", false),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", false),
        ("(GPL-3.0 OR Apache-2.0) AND MIT", true),
        ("Apache-2.0 WITH LLVM-exception OR GPL-3.0", true),
        ("", false),
        ("MIT MIT", false),
    ];
    for (expression, expected) in cases {
        assert_eq!(satisfied(expression, &allowed), expected, "{expression}");
    }
}

/// Everything that a crate of ours stands on, of the workspace and of the registry, without what only its tests need.
fn stands_on(krate: &str) -> Vec<String> {
    let output = Command::new(env!("CARGO"))
        .current_dir(root())
        .args(["tree", "--locked", "--package", krate, "--edges", "normal"])
        .args(["--prefix", "none", "--format", "{p}"])
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let name = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(name)
        .collect()
}

// T1: the core of STUN and TURN needs no framework for sockets, no TLS, no clock and no resolver; client and server are
// one crate, of which a program links what it calls
#[test]
fn the_turn_core_knows_no_sockets() {
    let all = stands_on("anode-turn");
    assert!(all.iter().any(|krate| krate == "stun-types"), "{all:?}");
    for forbidden in [
        "tokio",
        "mio",
        "socket2",
        "nix",
        "quinn-udp",
        "rustls",
        "dimpl",
        "aws-lc-rs",
        "anode-routing",
    ] {
        assert!(
            !all.iter().any(|krate| krate == forbidden),
            "anode-turn stands on {forbidden}"
        );
    }
}
