use super::*;
use crate::config::cases::{Case, refused};

fn parse(text: &str) -> Result<Turn, Error> {
    let config = crate::config::Config::parse(text, Path::new("/x/anode.toml"))?;
    Ok(config.turn.unwrap())
}

// T6
#[test]
fn every_key_arrives_at_the_server() {
    let turn = parse(
        r#"
        [turn]
        listen = ["192.0.2.1:3478", "[2001:db8::1]:3478"]
        relay = ["10.0.0.5", "2001:db8::1"]
        external = { "10.0.0.5" = "192.0.2.1" }
        port-range = [50000, 50100]
        realm = "example.org"
        users = { alice = "secret", bob = { md5 = "0123456789abcdef0123456789abcdef" } }
        rest-secret = "shared"
        anode-users = "off"
        quota = { allocations-per-user = 5, allocations = 50, kbps-per-user = 1, kbps-per-allocation = 2, kbps = 3 }
        nonce-ttl-s = 600
        allow-peers = ["10.1.0.0/16"]
        deny-peers = ["198.51.100.0/24", "2001:db8:1::/48"]
        alternate = ["192.0.2.9:3478"]
        alternate-tls = ["192.0.2.9:5349"]
        alternate-domain = "turn.example.org"
        alternate-when = "full"
        old-channels = false
        software = "x"
        drain-s = 5
        "#,
    )
    .unwrap();
    let config = turn.config().unwrap();
    let external: IpAddr = "192.0.2.1".parse().unwrap();
    assert_eq!(
        (config.relays.len(), config.relays[0].external),
        (2, external)
    );
    assert_eq!(
        (config.realm.as_str(), config.ports.clone()),
        ("example.org", 50000..=50100)
    );
    assert_eq!(
        (config.quota.allocations_per_user, config.quota.allocations),
        (5, 50)
    );
    assert_eq!(
        [
            config.quota.kbps_per_user,
            config.quota.kbps_per_allocation,
            config.quota.kbps
        ],
        [1, 2, 3]
    );
    assert_eq!(
        (config.nonce_ttl.as_secs(), config.drain.as_secs()),
        (600, 5)
    );
    assert_eq!(
        (config.policy.allow.len(), config.policy.deny.len()),
        (1, 2)
    );
    assert_eq!(config.alternate.domain.as_deref(), Some("turn.example.org"));
    assert!(!config.old_channels && config.software == "x");
    assert_eq!(config.rest_secrets.len(), 1);
}

#[test]
fn relays_are_the_addresses_listened_on_unless_named() {
    let turn =
        parse("[turn]\nlisten = [\"192.0.2.1:3478\", \"0.0.0.0:99\", \"192.0.2.1:1\"]").unwrap();
    assert_eq!(turn.relays(), ["192.0.2.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(turn.config().unwrap().realm, REALM);
}

// T6: one line each, with the place and the fix; and no password in any of them
#[test]
fn wrong_values_are_refused_with_their_place() {
    // "+": below a section that is right.
    let with_base = |text: &str| match text.strip_prefix('+') {
        Some(line) => format!("[turn]\nlisten = [\"127.0.0.1:3478\"]\n{line}\n"),
        None => format!("[turn]\n{text}\n"),
    };
    let mut texts = Vec::new();
    for (text, place, part) in [
        ("listen = []", "[turn] listen", "nowhere to listen"),
        ("listen = [\"127.0.0.1\"]", ":2:", "write IP:PORT"),
        ("listen = [\"127.0.0.1:99999\"]", ":2:", "write IP:PORT"),
        (
            "listen = [\"0.0.0.0:3478\"]",
            "[turn] relay",
            "write relay = ",
        ),
        (
            "listen = [\"1.2.3.4:1\"]\nlisten-tls = [\"1.2.3.4:1\"]",
            "listen-tls",
            "use another port",
        ),
        (
            "listen-tls = [\"127.0.0.1:5349\"]",
            "listen-tls",
            "write tls = ",
        ),
        ("listen = \"127.0.0.1:1\"", ":2:", "expected a list"),
        (
            "listen = [\"127.0.0.1:1\", \"127.0.0.1:1\"]",
            "[turn] listen",
            "127.0.0.1:1 stands there twice",
        ),
        ("+relay = [\"x\"]", ":3:", "write an IP address"),
        (
            "+relay = [\"127.0.0.1\", \"127.0.0.1\"]",
            "[turn] relay",
            "127.0.0.1 stands there twice",
        ),
        (
            "+relay = [\"255.255.255.255\"]",
            "[turn] relay",
            "no address of one machine",
        ),
        (
            "+external = { \"127.0.0.1\" = \"0.0.0.0\" }",
            "[turn] external",
            "no address of one machine",
        ),
        (
            "+relay = [\"0.0.0.0\"]",
            "[turn] relay",
            "no address of one machine",
        ),
        (
            "+external = { \"1.1.1.1\" = \"2.2.2.2\" }",
            "[turn] external",
            "none of the addresses",
        ),
        (
            "+external = { \"127.0.0.1\" = \"::1\" }",
            "[turn] external",
            "two families",
        ),
        ("+port-range = [1, 65535]", ":3:", "1024 <= FIRST"),
        ("+port-range = [60000, 50000]", ":3:", "1024 <= FIRST"),
        ("+port-range = [60000, 70000]", ":3:", "1024 <= FIRST"),
        ("+port-range = [60000]", ":3:", ""),
        ("+realm = \"\"", "[turn] realm", "is empty"),
        ("+realm = \"a\\\"b\"", "[turn] realm", "quotation mark"),
        ("+realm = 5", ":3:", "expected a text in quotes"),
        ("+users = { a = \"\" }", "users \"a\"", "password is empty"),
        ("+users = \"alice:hunter2\"", ":3:", "users must be a table"),
        ("+users = { alice = [\"hunter2\"] }", ":3:", ""),
        (
            "+users = { alice = { md5 = \"hunter2\" } }",
            "users \"alice\"",
            "32 hexadecimal",
        ),
        (
            "+users = { alice = { password = \"hunter2\" } }",
            ":3:",
            "NAME = ",
        ),
        ("+users = { alice = {} }", ":3:", "NAME = "),
        (
            "+users = { alice = \"hunter2\\u0007\" }",
            "users \"alice\"",
            "forbids",
        ),
        ("+users = { \"\" = \"hunter2\" }", "users \"\"", "empty"),
        ("+rest-secret = 87654321", ":3:", "a text in quotes"),
        ("+rest-secret = \"\"", "rest-secret", "is empty"),
        ("+anode-users = \"all\"", ":3:", "`off`, `trusted`, `zone`"),
        ("+quota = { allocations = -1 }", ":3:", "-1: use 0 to"),
        ("+quota = { bits = 1 }", ":3:", "unknown key `bits`"),
        ("+quota = 5", ":3:", "expected a table"),
        (
            "+quota = { kbps = \"5\" }",
            ":3:",
            "expected a whole number",
        ),
        ("+nonce-ttl-s = 0", ":3:", "use 1 to 3600"),
        ("+nonce-ttl-s = 3601", ":3:", "use 1 to 3600"),
        ("+tls = { cert = \"a\" }", ":3:", "missing key `key`"),
        (
            "+tls = { cert = \"a\", key = \"b\", min-version = \"1.1\" }",
            ":3:",
            "`1.2` or `1.3`",
        ),
        (
            "+deny-peers = [\"10.0.0.0/33\"]",
            ":3:",
            "write IP or IP/LENGTH",
        ),
        ("+allow-peers = [\"x\"]", ":3:", "write IP or IP/LENGTH"),
        (
            "+alternate-when = \"always\"",
            "alternate-when",
            "nowhere to send",
        ),
        (
            "+alternate-domain = \"a b\"",
            "alternate-domain",
            "no host name",
        ),
        (
            "+alternate-domain = \"192.0.2.1\"",
            "alternate-domain",
            "no host name",
        ),
        (
            "+alternate = [\"192.0.2.1:0\"]",
            "[turn] alternate",
            "no place of a server",
        ),
        (
            "+alternate-tls = [\"0.0.0.0:1\"]",
            "[turn] alternate-tls",
            "no place of a server",
        ),
        ("+old-channels = 1", ":3:", "boolean"),
        ("+software = \"a\\u0007\"", "[turn] software", "control"),
        ("+drain-s = -1", ":3:", "use 0 to 86400"),
        ("+listenn = []", ":3:", "unknown key `listenn`"),
    ] {
        texts.push((with_base(text), place, part));
    }
    let long = format!("+software = \"{}\"", "x".repeat(128));
    texts.push((with_base(&long), "[turn] software", "127 characters"));
    let cases: Vec<Case<'_>> = texts
        .iter()
        .map(|(text, place, part)| (text.as_str(), *place, *part))
        .collect();
    refused(&cases);
}

#[test]
fn secrets_are_not_printed() {
    let turn = parse("[turn]\nlisten = [\"127.0.0.1:1\"]\nusers = { a = \"hunter2\" }\nrest-secret = \"hunter3\"").unwrap();
    let shown = format!("{turn:?}");
    assert!(!shown.contains("hunter"), "{shown}");
}
