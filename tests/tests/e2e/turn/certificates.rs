//! Whose certificate is believed, and which is served.

use super::*;

/// What a check of `uri` says about TLS; `None`: it worked.
fn complaint(world: &World, uri: &str, ca: &Path) -> Option<String> {
    let report = check(&world.client, uri, ca);
    let steps = report["steps"].as_array().expect("steps").clone();
    let failed = steps.iter().find(|step| step["ok"] == false)?;
    let step = failed["step"].as_str().expect("a name");
    match step {
        "tls" | "dtls" => Some(failed["error"].as_str().expect("why").to_owned()),
        // A later connection of the same check has met the next certificate.
        _ => Some(format!("no TLS at the step {step}")),
    }
}

// T35: nine certificates, each over TLS and DTLS; T4: changed while the server runs
#[test]
fn only_the_right_certificate_is_believed() {
    let Some(world) = World::start(Family::V4, "") else {
        return;
    };
    let ip = world.ip();
    let other = Authority::new(world.lab.directory(), "other");
    let named = |name: &str| format!("turns:{name}:{TLS_PORT}");
    let right = format!("IP:{ip}");
    let cases: &[(&str, &Authority, &str, i32, Option<&str>)] = &[
        ("right", &world.authority, &right, 2, None),
        (
            "among-others",
            &world.authority,
            &format!("DNS:x.test,{right}"),
            2,
            None,
        ),
        (
            "wrong-address",
            &world.authority,
            "IP:203.0.113.1",
            2,
            Some("not valid for"),
        ),
        (
            "name-only",
            &world.authority,
            "DNS:turn.test",
            2,
            Some("not valid for"),
        ),
        (
            "common-name",
            &world.authority,
            "",
            2,
            Some("not valid for"),
        ),
        ("expired", &world.authority, &right, -1, Some("expired")),
        ("unknown", &other, &right, 2, Some("unknownissuer")),
    ];
    for (name, authority, names, days, expected) in cases {
        world.reload(&authority.leaf(name, names, *days, &EC), "");
        for uri in [
            named(&ip.to_string()),
            format!("{}?transport=udp", named(&ip.to_string())),
        ] {
            let ca = &world.authority.certificate;
            // The reload takes a moment.
            let deadline = Instant::now() + LIMIT;
            let said = loop {
                let said = complaint(&world, &uri, ca);
                let fits = match (expected, &said) {
                    (None, None) => true,
                    (Some(part), Some(said)) => said.to_lowercase().contains(part),
                    _ => false,
                };
                if fits || Instant::now() > deadline {
                    break said;
                }
                std::thread::sleep(Duration::from_millis(50));
            };
            match (expected, said) {
                (None, None) => {}
                (Some(part), Some(said)) => {
                    assert!(said.to_lowercase().contains(part), "{name}: {uri}: {said}")
                }
                (_, said) => panic!("{name}: {uri}: {said:?}"),
            }
        }
    }
}

// T35: a self-signed certificate is believed where it stands among the authorities itself, and only for its names
#[test]
fn a_self_signed_certificate_is_believed_when_it_is_named() {
    let Some(world) = World::start(Family::V4, "") else {
        return;
    };
    let file = |end: &str| world.lab.directory().join(format!("self.{end}"));
    let make = |names: &str| {
        let (certificate, key) = (file("pem"), file("key"));
        let names = format!("subjectAltName={names}");
        let mut arguments = vec!["req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=x"];
        arguments.extend(EC);
        arguments.extend(["-addext", &names]);
        arguments.extend(["-keyout", text(&key), "-out", text(&certificate)]);
        openssl(&arguments);
        Leaf { certificate, key }
    };
    for (names, believed) in [
        (format!("IP:{}", world.ip()), true),
        ("DNS:x".into(), false),
    ] {
        let leaf = make(&names);
        world.reload(&leaf, "");
        std::thread::sleep(Duration::from_millis(500));
        for transport in ["tls", "dtls"] {
            let said = complaint(&world, &world.uri(transport), &leaf.certificate);
            assert_eq!(said.is_none(), believed, "{transport}, {names}: {said:?}");
        }
    }
}

// T4: what DTLS cannot serve is refused at the start, in one line with the fix
#[test]
fn a_certificate_that_cannot_be_served_is_refused() {
    let Some(world) = World::start(Family::V4, "") else {
        return;
    };
    let rsa = world.authority.leaf("rsa", "DNS:x", 2, &RSA);
    let good = world.authority.leaf("good", "DNS:x", 2, &EC);
    let mixed = Leaf {
        certificate: good.certificate.clone(),
        key: world.authority.key.clone(),
    };
    let missing = Leaf {
        certificate: "/nonexistent/x.pem".into(),
        key: good.key.clone(),
    };
    for (leaf, part) in [
        (&rsa, "prime256v1"),
        (&mixed, "cert"),
        (&missing, "cannot read it"),
    ] {
        let config = world.lab.directory().join("bad.toml");
        fs::write(&config, World::config(world.client.ip_address(), leaf, "")).expect("written");
        let done = world.anode(&["relay", "-c", text(&config)]);
        assert_eq!(done.code(), 2, "{}", done.stderr);
        let lines: Vec<&str> = done.stderr.lines().collect();
        assert!(
            lines.len() == 1 && lines[0].contains(part),
            "{}",
            done.stderr
        );
        assert!(lines[0].contains("[turn] tls"), "{}", done.stderr);
    }
}
