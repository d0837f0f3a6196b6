use super::*;
use crate::names::base64;

fn parse(given: &[(&str, &str)]) -> Result<SessionOptions> {
    SessionOptions::parse(given.iter().copied())
}

fn sent(given: &[(&str, &str)]) -> Mapping {
    parse(given).unwrap().session_config().unwrap()
}

// I22, I23, I25, I31, I32, I37, I39, I41, I51, I53, I58
#[test]
fn every_default_that_matters_is_sent() {
    let mapping = sent(&[]);
    let all: Vec<_> = mapping.iter().collect();
    assert_eq!(
        all,
        [
            ("i2cp.dontPublishLeaseSet", "false"),
            ("i2cp.fastReceive", "true"),
            ("i2cp.leaseSetEncType", "4"),
            ("i2cp.leaseSetType", "3"),
            ("i2cp.messageReliability", "none"),
            ("inbound.length", "3"),
            ("inbound.nickname", "anode"),
            ("inbound.quantity", "2"),
            ("outbound.length", "3"),
            ("outbound.nickname", "anode"),
            ("outbound.quantity", "2"),
        ]
    );
}

// I17, I18, I19, I20, I21, I34, I35, I36, I37, I38, I39, I40, I41, I42, I44
#[test]
fn router_options_are_passed_on_and_their_ranges_checked() {
    let key = base64(&[7; 32]);
    for (name, good, bad) in [
        (
            "crypto.lowTagThreshold",
            vec!["1", "128"],
            vec!["0", "129", "x"],
        ),
        ("crypto.tagsToSend", vec!["1", "128"], vec!["0", "129"]),
        (
            "crypto.ratchet.inboundTags",
            vec!["1", "160"],
            vec!["0", "-1"],
        ),
        (
            "crypto.ratchet.outboundTags",
            vec!["1", "160"],
            vec!["0", ""],
        ),
        ("explicitPeers", vec!["a,b"], vec![]),
        (
            "inbound.allowZeroHop",
            vec!["true", "FALSE"],
            vec!["yes", "1", ""],
        ),
        ("outbound.allowZeroHop", vec!["true", "False"], vec!["no"]),
        ("inbound.backupQuantity", vec!["0", "99"], vec!["-1"]),
        ("outbound.backupQuantity", vec!["0", "99"], vec!["-1"]),
        ("inbound.IPRestriction", vec!["0", "4"], vec!["5", "-1"]),
        ("outbound.IPRestriction", vec!["0", "4"], vec!["5", "-1"]),
        ("inbound.length", vec!["0", "7"], vec!["8", "-1", "2.5"]),
        ("outbound.length", vec!["0", "7"], vec!["8", "-1"]),
        ("inbound.lengthVariance", vec!["-7", "7"], vec!["-8", "8"]),
        ("outbound.lengthVariance", vec!["-7", "7"], vec!["-8", "8"]),
        ("inbound.nickname", vec!["नोड", ""], vec![]),
        ("outbound.nickname", vec!["नोड"], vec![]),
        ("outbound.priority", vec!["-25", "25"], vec!["-26", "26"]),
        ("inbound.quantity", vec!["1", "16"], vec!["0", "17"]),
        ("outbound.quantity", vec!["1", "17"], vec!["0"]),
        ("inbound.randomKey", vec![&key], vec!["AAAA", "x"]),
        ("outbound.randomKey", vec![&key], vec!["AAAA", "+"]),
        (
            "shouldBundleReplyInfo",
            vec!["true", "false"],
            vec!["maybe"],
        ),
    ] {
        for value in good {
            assert_eq!(sent(&[(name, value)]).get(name), Some(value), "{name}");
        }
        for value in bad {
            let error = parse(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}

// I43
#[test]
fn unknown_options_pass_through() {
    let mapping = sent(&[
        ("inbound.whatever", "1"),
        ("outbound.x", "é"),
        ("future.one", "y"),
    ]);
    assert_eq!(mapping.get("inbound.whatever"), Some("1"));
    assert_eq!(mapping.get("outbound.x"), Some("é"));
    assert_eq!(mapping.get("future.one"), Some("y"));
}

// I45
#[test]
fn names_and_values_beyond_255_bytes_are_errors_and_never_cut() {
    let long = "न".repeat(86);
    assert!(parse(&[("inbound.nickname", &long)]).is_err());
    assert!(parse(&[(&long, "x")]).is_err());
    let fits = "न".repeat(85);
    assert_eq!(
        sent(&[("inbound.nickname", &fits)]).get("inbound.nickname"),
        Some(&*fits)
    );
}

// I16, I46, I47, I49, I50, I52
#[test]
fn what_the_client_interprets_or_nobody_is_not_sent() {
    for (name, value) in [
        ("clientMessageTimeout", "60000"),
        ("i2cp.closeOnIdle", "true"),
        ("i2cp.closeIdleTime", "1800000"),
        ("i2cp.reduceOnIdle", "true"),
        ("i2cp.reduceIdleTime", "1200000"),
        ("i2cp.reduceQuantity", "2"),
        ("i2cp.gzip", "false"),
        ("i2cp.encryptLeaseSet", "true"),
        ("i2cp.leaseSetKey", "x"),
        ("i2cp.leaseSetSigningPrivateKey", "x"),
        ("i2cp.leaseSetBlindedType", "11"),
        ("i2cp.leaseSetOption.0", "_smtp._tcp=0 86400 25"),
    ] {
        assert_eq!(sent(&[(name, value)]).get(name), None, "{name}");
    }
    assert!(parse(&[]).unwrap().gzip);
    assert!(!parse(&[("i2cp.gzip", "false")]).unwrap().gzip);
}

// I46, I47
#[test]
fn idle_times_are_raised_to_five_minutes_and_reducing_yields_to_closing() {
    let options = parse(&[
        ("i2cp.closeOnIdle", "TRUE"),
        ("i2cp.closeIdleTime", "1"),
        ("i2cp.reduceOnIdle", "true"),
    ])
    .unwrap();
    assert_eq!(options.close_on_idle, Some(Duration::from_secs(300)));
    assert_eq!(options.reduce_on_idle, None);
    let options = parse(&[
        ("i2cp.closeOnIdle", "true"),
        ("i2cp.reduceOnIdle", "true"),
        ("i2cp.reduceQuantity", "3"),
    ])
    .unwrap();
    assert_eq!(options.close_on_idle, Some(Duration::from_secs(1800)));
    let reduce = Reduce {
        after: Duration::from_secs(1200),
        quantity: 3,
    };
    assert_eq!(options.reduce_on_idle, Some(reduce));
    assert!(parse(&[("i2cp.reduceQuantity", "6")]).is_err());
    let none = parse(&[]).unwrap();
    assert_eq!((none.close_on_idle, none.reduce_on_idle), (None, None));
}

// I5, I7, I33, I59, I60
#[test]
fn the_routers_address_and_credentials_are_refused_without_showing_them() {
    for name in [
        "i2cp.tcp.host",
        "i2cp.tcp.port",
        "i2cp.SSL",
        "i2cp.username",
        "i2cp.password",
        "i2cp.domainSocket",
    ] {
        let error = parse(&[(name, "hunter2")]).unwrap_err().to_string();
        assert!(
            error.contains(name) && !error.contains("hunter2"),
            "{error}"
        );
    }
    let default = |name| lookup(name).unwrap().default;
    assert_eq!(default("i2cp.tcp.host"), Some("127.0.0.1"));
    assert_eq!(default("i2cp.tcp.port"), Some("7654"));
    assert_eq!(default("i2cp.SSL"), Some("false"));
}

// I26, I27, I30, I31
#[test]
fn what_cannot_be_made_is_refused_with_the_reason() {
    for (name, value) in [
        ("i2cp.leaseSetType", "1"),
        ("i2cp.leaseSetType", "7"),
        ("i2cp.leaseSetType", "256"),
        ("i2cp.leaseSetEncType", "0"),
        ("i2cp.leaseSetEncType", "4,0"),
        ("i2cp.leaseSetAuthType", "3"),
        ("i2cp.leaseSetAuthType", "1"),
        ("i2cp.leaseSetOfflineExpiration", "1700000000"),
        ("i2cp.leaseSetOfflineSignature", "AAAA"),
        ("i2cp.leaseSetTransientPublicKey", "AAAA"),
        ("i2cp.leaseSetSecret", "+"),
        ("i2cp.leaseSetOption.0", "no equals sign"),
        ("i2cp.leaseSetOption.1", "_a._tcp=gap before it"),
        ("", "x"),
    ] {
        assert!(parse(&[(name, value)]).is_err(), "{name} {value}");
    }
    assert!(parse(&[("a", "1"), ("a", "2")]).is_err());
}

// I32, I58
#[test]
fn reliability_is_sent_in_lower_case() {
    let mapping = sent(&[("i2cp.messageReliability", "None")]);
    assert_eq!(mapping.get("i2cp.messageReliability"), Some("none"));
    let mapping = sent(&[("i2cp.messageReliability", "besteffort")]);
    assert_eq!(mapping.get("i2cp.messageReliability"), Some("BestEffort"));
    assert!(parse(&[("i2cp.messageReliability", "Guaranteed")]).is_err());
}

// I57
#[test]
fn service_records_go_into_the_lease_set() {
    let options = parse(&[
        (
            "i2cp.leaseSetOption.0",
            "_smtp._tcp=1 86400 0 0 25 x.b32.i2p",
        ),
        ("i2cp.leaseSetOption.1", "_dns._udp=0 86400 53"),
    ])
    .unwrap();
    let all: Vec<_> = options.lease_set_options.iter().collect();
    assert_eq!(
        all,
        [
            ("_dns._udp", "0 86400 53"),
            ("_smtp._tcp", "1 86400 0 0 25 x.b32.i2p")
        ]
    );
}

// I48
#[test]
fn a_lease_key_can_be_given_and_never_leaves() {
    let value = format!("ECIES_X25519:{}", base64(&[5; 32]));
    let options = parse(&[("i2cp.leaseSetPrivateKey", &value)]).unwrap();
    assert_eq!(options.lease_private.as_deref(), Some(&[5; 32]));
    assert_eq!(
        options
            .session_config()
            .unwrap()
            .get("i2cp.leaseSetPrivateKey"),
        None
    );
    assert!(!format!("{options:?}").contains(&value));
    for bad in ["4:AAAA", "0:AAAA", &base64(&[5; 32])] {
        let error = parse(&[("i2cp.leaseSetPrivateKey", bad)])
            .unwrap_err()
            .to_string();
        assert!(!error.contains(bad), "{error}");
    }
}

// I48: logs show the values of options that are known to be no secrets
#[test]
fn a_misspelt_secret_is_not_shown() {
    let options = parse(&[
        ("i2cp.leaseSetPrivateKye", "hunter2"),
        ("i2cp.leaseSetOption.0", "_smtp._tcp=0 86400 25 1 host.i2p"),
        ("inbound.length", "2"),
    ])
    .unwrap();
    let shown = format!("{options:?}");
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(shown.contains("PrivateKye") && shown.contains("_smtp") && shown.contains("\"2\""));
}

// I24, I28, I29, I53, I54, I55, I56
#[test]
fn client_authorisation_is_read_and_its_keys_stay_here() {
    let entry = |key: u8| format!("{}:{}", base64(b"joe"), base64(&[key; 32]));
    for (kind, prefix) in [("1", DH), ("2", PSK)] {
        let options = parse(&[
            ("i2cp.leaseSetType", "5"),
            ("i2cp.leaseSetAuthType", kind),
            (&format!("{prefix}0"), &entry(1)),
            (&format!("{prefix}1"), &entry(2)),
            ("i2cp.leaseSetSecret", &base64("秘密".as_bytes())),
            ("i2cp.leaseSetPrivKey", &base64(&[9; 32])),
        ])
        .unwrap();
        match (&options.client_auth, kind) {
            (ClientAuth::Dh(keys), "1") => assert_eq!(keys[..], [[1; 32], [2; 32]]),
            (ClientAuth::Psk(keys), "2") => assert_eq!(*keys[1], [2; 32]),
            other => panic!("{other:?}"),
        }
        assert_eq!(options.secret[..], *"秘密".as_bytes());
        let mapping = options.session_config().unwrap();
        assert!(mapping.get("i2cp.leaseSetPrivKey").is_some());
        assert!(mapping.iter().all(|(name, _)| !name.starts_with(prefix)));
        assert!(!format!("{options:?}").contains(&base64(&[1; 32])));
        let missing = parse(&[("i2cp.leaseSetType", "5"), ("i2cp.leaseSetAuthType", kind)]);
        assert!(missing.is_err());
        let wrong = parse(&[
            ("i2cp.leaseSetType", "5"),
            ("i2cp.leaseSetAuthType", kind),
            (&format!("{prefix}0"), "no key"),
        ]);
        assert!(wrong.is_err());
    }
    let unasked = parse(&[("i2cp.leaseSetClient.dh.0", &entry(1))]);
    assert!(unasked.is_err());
}

// I47
#[test]
fn only_what_changed_is_sent_again_and_what_was_unset_gets_its_default() {
    let old = parse(&[("inbound.length", "2"), ("outbound.priority", "5")]).unwrap();
    let new = parse(&[("inbound.length", "1")]).unwrap();
    let changes = old.changes_to(&new).unwrap();
    let all: Vec<_> = changes.iter().collect();
    assert_eq!(all, [("inbound.length", "1"), ("outbound.priority", "0")]);
    let other = parse(&[("i2cp.leaseSetType", "5")]).unwrap();
    assert!(old.changes_to(&other).is_err());
}
