//! Signed files: their keys, members and services.
use super::*;

#[test]
fn a_signed_file_is_read_with_its_zone_key_members_and_services() {
    let [one, two, three] = [1, 2, 3].map(|key| member(0x2a, key));
    let more = format!(
        "member.laptop={one}\rmember.servers={two} , {three}\r\
         turn.0=turn:turn.example:3478?transport=udp\rturn.1=turns:192.0.2.9 joe secret\r\
         tracker.0=udp://tracker.example:6969/announce\rdht=a--0000002a.net\rdht.config=https://example/enroll\r"
    );
    let (text, signer) = signed_with(&more);
    let report = ZoneFile::check(&text);
    assert_eq!(report.faults, []);
    let zone = report.zone.unwrap();
    assert_eq!(zone.zone(), Some(Zone(0x2a)));
    assert_eq!((zone.revision(), zone.signer()), (8, Some(signer.public())));
    assert_eq!(zone.members(), Some([one, two, three].as_slice()));
    let turn: Vec<_> = zone
        .turn_servers()
        .iter()
        .map(|server| server.uri.as_str())
        .collect();
    assert_eq!(
        turn,
        ["turn:turn.example:3478?transport=udp", "turns:192.0.2.9"]
    );
    assert_eq!(
        zone.turn_servers()[1].credentials,
        Some(("joe".into(), "secret".into()))
    );
    assert_eq!(zone.trackers(), ["udp://tracker.example:6969/announce"]);
    let dht = Dht {
        name: "a--0000002a.net".into(),
        config: Some("https://example/enroll".into()),
    };
    assert_eq!(zone.dht(), Some(&dht));
    // a reader that knows the draft alone finds what it looks for
    assert_eq!((zone.name(), zone.relay_count()), ("test".into(), 1));
    // written by a program it is still signed
    assert_eq!(
        ZoneFile::parse(&zone.emit()).unwrap().signer(),
        Some(signer.public())
    );
    let mut made = ZoneFile::new("n", "d", "c", 1, MIN_TTL);
    made.sign(Zone(7), &signer);
    let read = ZoneFile::parse(&made.emit()).unwrap();
    assert_eq!((read.zone(), read.signer()), (Some(Zone(7)), made.signer()));
}

// S27: what a signature covers is what the file says, not how it is written
#[test]
fn how_a_signed_file_is_written_does_not_matter_and_what_it_says_does() {
    let (text, signer) = signed_with("d2=x y\r");
    let text = String::from_utf8(text).unwrap();
    for same in [
        text.replace('\r', "\n"),
        text.replace('\r', "\r\n"),
        text.replace('\r', "\r; a comment\r\r"),
        text.replace("d2=x y", " D2 = \\x\\ y "),
        text.replace("key=03", "KEY=03"),
        format!("\r\r{text}"),
    ] {
        let read = ZoneFile::parse(same.as_bytes()).map(|zone| zone.signer());
        assert_eq!(read, Ok(Some(signer.public())), "{same:?}");
    }
    let forged = |text: &str| ZoneFile::check(text.as_bytes()).faults;
    let (first, rest) = text.split_once('\r').unwrap();
    for other in [
        text.replace("r=8", "r=9"),
        text.replace("192.0.2.1", "192.0.2.2"),
        text.replace("zone=0000002a", "zone=0000002b"),
        text.replace("x y", "x  y"),
        text.replace("d2=x y\r", ""),
        format!("{text}zr.1=\r"),
        format!("{text}unknown\r"),
        // the order of entries decides which of two spellings of a relay's number counts
        format!("{rest}{first}\r"),
        // the bare LF vanishes from a file with CRs, and a file without them has other entries
        text.replace('\r', "\\\r"),
    ] {
        let faults = forged(&other);
        assert!(faults.iter().any(Fault::is_fatal), "{other:?}: {faults:?}");
    }
}

// S27
#[test]
fn half_signed_forged_and_ambiguous_files_are_refused_with_their_line() {
    let (text, _) = signed_with("");
    let text = String::from_utf8(text).unwrap().replace("\r\n", "\r");
    let value = |key: &str| {
        let line = text
            .split('\r')
            .find(|line| line.starts_with(&format!("{key}=")));
        line.unwrap().split_once('=').unwrap().1.to_owned()
    };
    let (key, sig) = (value("key"), value("sig"));
    // n - s: the other form of the same signature
    let high = {
        let parsed =
            p256::ecdsa::Signature::from_slice(&crate::vectors::hex(&sig.clone().into())).unwrap();
        let (r, s) = parsed.split_scalars();
        let other = p256::ecdsa::Signature::from_scalars(r, -s).unwrap();
        other
            .to_bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    let other_key = {
        let public = crate::vectors::identity("alice")
            .address()
            .public_key_bytes()
            .to_owned();
        public
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    let zero = "0".repeat(128);
    let uncompressed = format!("04{}", &key[2..]);
    for (changed, message) in [
        (
            text.replace("zone=0000002a\r", ""),
            "line 7: the entry zone= is missing",
        ),
        (
            text.replace(&format!("key={key}\r"), ""),
            "line 8: the entry key= is missing",
        ),
        (
            text.replace(&format!("sig={sig}\r"), ""),
            "line 8: the entry sig= is missing",
        ),
        (
            format!("{text}n=test\r"),
            "line 1: \"n\" stands there again",
        ),
        (
            format!("{text}SIG={sig}\r"),
            "line 9: \"sig\" stands there again",
        ),
        (
            text.replace("zone=0000002a", "zone=123456789"),
            "line 7: zone=\"123456789\" is not a zone",
        ),
        (text.replace(&key, &key[1..]), "line 8: key= is not"),
        (text.replace(&key, &uncompressed), "line 8: key= is not"),
        (text.replace(&key, &"f".repeat(66)), "line 8: key= is not"),
        (
            text.replace(&key, &other_key),
            "line 9: sig= is not by key=",
        ),
        (
            text.replace(&sig, &sig[2..]),
            "line 9: sig= is not a signature",
        ),
        (text.replace(&sig, &zero), "line 9: sig= is not a signature"),
        (
            text.replace(&sig, &"f".repeat(128)),
            "line 9: sig= is not a signature",
        ),
        (text.replace(&sig, &high), "line 9: sig= is not a signature"),
        (
            text.replace(&sig, &format!("{}zz", &sig[2..])),
            "line 9: sig= is not a signature",
        ),
        (text.replace("r=8", "r=7"), "line 9: sig= is not by key="),
    ] {
        let report = ZoneFile::check(changed.as_bytes());
        assert!(
            report.zone.is_none() && report.faults[0].is_fatal(),
            "{changed:?}"
        );
        assert!(
            report.faults[0].to_string().starts_with(message),
            "{message}: {:?}",
            report.faults
        );
    }
    assert!(matches!(
        ZoneFile::parse(format!("{MINIMAL}zone=x\r").as_bytes()),
        Err(WireError::ZoneFile(Fault {
            line: Some(6),
            kind: FaultKind::Zone(_)
        }))
    ));
    // edited: as a draft file
    let edited = ZoneFile::check_edited(text.replace("r=8", "r=9").as_bytes());
    assert_eq!(
        edited.zone.map(|zone| (zone.revision(), zone.signer())),
        Some((9, None))
    );
}

// S27
#[test]
fn a_list_of_members_counts_whole_and_signed_or_not_at_all() {
    let good = member(0x2a, 1);
    let stranger = member(0x2b, 1);
    let many = format!(
        "member.many={}\r",
        vec![good.to_string(); MAX_MEMBERS / 2].join(",")
    );
    for (more, message) in [
        (
            "member.a=\r".to_owned(),
            "line 7: member.a: an Anode address has 64",
        ),
        (
            format!("member.a={good},\r"),
            "line 7: member.a: an Anode address has 64",
        ),
        (
            format!("member.a={good}\rmember.b={stranger}\r"),
            "line 8: member.b: ",
        ),
        (format!("member.a={good} {good}\r"), "line 7: member.a: "),
        (
            format!("{many}{}member.last={good}\r", many.replace("many", "more")),
            "line 9: member.last: more than 3000 members",
        ),
    ] {
        let (text, _) = signed_with(&more);
        let report = ZoneFile::check(&text);
        assert!(report.zone.is_none(), "{message}");
        assert!(
            report.faults[0].to_string().starts_with(message),
            "{:?}",
            report.faults[0]
        );
    }
    let unsigned = with(&format!("zone=2a\rmember.a={good}\r"));
    let report = ZoneFile::check(unsigned.as_bytes());
    assert_eq!(report.zone.unwrap().members(), None);
    assert_eq!(report.faults[0].kind, FaultKind::MembersUnsigned);
    let (text, _) = signed_with("");
    assert_eq!(ZoneFile::parse(&text).unwrap().members(), None);
}

#[test]
fn a_service_that_cannot_be_used_is_left_out_and_told() {
    for (line, problem) in [
        ("turn.0=stun:x", "turn.0 cannot be used: it is not a URI"),
        ("turn.0=", "turn.0 cannot be used: it is not a URI"),
        (
            "turn.0=turn:x user",
            "turn.0 cannot be used: it reads <uri>",
        ),
        (
            "turn.0=turn:x a b c",
            "turn.0 cannot be used: it reads <uri>",
        ),
        ("turn.0=turn:", "turn.0 cannot be used: it is not a URI"),
        ("tracker.0=file:///etc/passwd", "tracker.0 cannot be used"),
        ("tracker.0=udp://a b", "tracker.0 cannot be used"),
        ("dht=a b", "dht cannot be used: the name of a DHT"),
        ("dht=", "dht cannot be used: the name of a DHT"),
        ("dht.config=ftp://x", "dht.config cannot be used"),
    ] {
        let report = ZoneFile::check(with(&format!("{line}\r")).as_bytes());
        let zone = report.zone.unwrap();
        assert!(
            zone.turn_servers().is_empty() && zone.trackers().is_empty() && zone.dht().is_none()
        );
        let text = report.faults[0].to_string();
        assert!(text.starts_with(&format!("line 6: {problem}")), "{text}");
    }
    let lines: String = (0..20).map(|n| format!("turn.{n}=turn:x\r")).collect();
    let report = ZoneFile::check(with(&lines).as_bytes());
    assert_eq!(
        (
            report.zone.unwrap().turn_servers().len(),
            report.faults.len()
        ),
        (16, 4)
    );
    let long = format!("tracker.0=udp://{}\r", "x".repeat(600));
    assert_eq!(faults(&with(&long)).len(), 1);
}

#[test]
fn a_zone_key_survives_its_text_and_others_are_refused_without_a_word_of_it() {
    use rand::SeedableRng;
    let signer = ZoneSigner::generate(&mut rand::rngs::StdRng::seed_from_u64(3));
    let text = signer.to_text();
    assert_eq!(
        ZoneSigner::from_text(&text).unwrap().public(),
        signer.public()
    );
    let secret = &text[text.len() - 64..];
    let public = &text[15..81];
    for (wrong, error) in [
        (String::new(), ZoneKeyError::Secret),
        (format!("{}\n", *text), ZoneKeyError::Secret),
        (format!("x{}", *text), ZoneKeyError::Secret),
        (format!("{}:", *text), ZoneKeyError::Secret),
        (text.replace(secret, &secret[1..]), ZoneKeyError::Secret),
        (text.replace(secret, &"0".repeat(64)), ZoneKeyError::Secret),
        (text.replace(secret, &"f".repeat(64)), ZoneKeyError::Secret),
        (
            text.replace(secret, &format!("{:064x}", 5)),
            ZoneKeyError::Mismatch,
        ),
        (text.replace(public, &public[1..]), ZoneKeyError::Secret),
    ] {
        let found = ZoneSigner::from_text(&wrong).unwrap_err();
        assert_eq!(found, error, "{wrong}");
        assert!(!format!("{found} {found:?} {signer:?}").contains(&secret[..8]));
    }
}

// docs/vectors/zonefile.json was made by another program, from docs/protocol.md
#[test]
fn the_stored_vector_is_reproduced_to_the_byte() {
    let vector = include_str!("../../../../../docs/vectors/zonefile.json");
    let vector: serde_json::Value = serde_json::from_str(vector).unwrap();
    let text = |key: &str| vector[key].as_str().unwrap();
    let signer = ZoneSigner::from_text(text("secret")).unwrap();
    let zone = text("zone").parse().unwrap();
    let revision = vector["revision"].as_u64().unwrap();
    let signed = ZoneFile::resign(text("unsigned").as_bytes(), zone, revision, &signer);
    assert_eq!(String::from_utf8(signed).unwrap(), text("signed"));
    let file = ZoneFile::parse(text("signed").as_bytes()).unwrap();
    assert_eq!(
        signed::canonical(file.dictionary()),
        crate::vectors::hex(&vector["canonical"])
    );
    assert_eq!(file.signer(), Some(signer.public()));
    assert_eq!(file.members().map(<[_]>::len), Some(3));
    assert_eq!(
        (
            file.relay_count(),
            file.turn_servers().len(),
            file.trackers().len()
        ),
        (2, 1, 1)
    );
}
