use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};

use anode_wire::{Address, Identity, Zone};

use super::book::{Book, MAX_PEERS};
use super::testing::TestDir;
use super::{LockedState, StateDir, identity, learnt};
use crate::value::{PeerEndpoint, PeerName};

const KEY_1: &str = "ANODE-256-40:aeaaaaaaaaaag2yx2hzoclcci74lzzxfmoseb4txan6yclplgoqpjijzixmjrquw:0000000000000000000000000000000000000000000000000000000000000001";
const ADDRESS_1: &str = "aeaaaaaaaaaag2yx2hzoclcci74lzzxfmoseb4txan6yclplgoqpjijzixmjrquw";
const ADDRESS_2: &str = "aeaaaaaaaaaag7hspmmi2a2pp2ffeoadas2rvq6arfu6e57sdm22mc2i7rdwngly";

fn address(text: &str) -> Address {
    text.parse().unwrap()
}

fn name(text: &str) -> PeerName {
    text.parse().unwrap()
}

fn locked(test: &TestDir) -> LockedState {
    StateDir::find(Some(test.path())).unwrap().lock().unwrap()
}

fn mode(path: &std::path::Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

// S31
#[test]
fn a_new_directory_and_its_key_are_for_their_owner_only() {
    let test = TestDir::new();
    let dir = StateDir::find(Some(&test.path().join("a/b"))).unwrap();
    let state = dir.clone().lock().unwrap();
    identity::create(&state, Zone(0x2a), false).unwrap();
    assert_eq!(mode(dir.path()), 0o700);
    assert_eq!(mode(&dir.identity_file()), 0o600);
    let loaded = identity::load(&dir).unwrap().unwrap();
    assert_eq!(loaded.address().zone(), Zone(0x2a));
}

#[test]
fn a_key_is_never_overwritten_unasked() {
    let test = TestDir::new();
    let state = locked(&test);
    let first = *identity::create(&state, Zone(0), false).unwrap().address();
    let error = identity::create(&state, Zone(0), false).err().unwrap();
    assert_eq!(error.exit_status(), 1);
    assert!(error.to_string().contains("--force"), "{error}");
    assert_eq!(
        *identity::load(state.dir()).unwrap().unwrap().address(),
        first
    );
    let second = *identity::create(&state, Zone(0), true).unwrap().address();
    assert_ne!(second, first);
    assert_eq!(
        *identity::load(state.dir()).unwrap().unwrap().address(),
        second
    );
}

// S31
#[test]
fn a_key_file_that_is_not_as_it_should_be_is_refused_with_its_path_and_the_fix() {
    let wrong_key = KEY_1.replace("0001", "0002");
    let cases: &[(&str, &[u8], u32, &str)] = &[
        ("readable by others", KEY_1.as_bytes(), 0o644, "chmod 600"),
        (
            "readable by the group",
            KEY_1.as_bytes(),
            0o640,
            "chmod 600",
        ),
        ("empty", b"", 0o600, "not an identity"),
        (
            "truncated",
            &KEY_1.as_bytes()[..100],
            0o600,
            "not an identity",
        ),
        ("not text", b"\xff\xfe\x00", 0o600, "not text"),
        (
            "another format",
            b"-----BEGIN OPENSSH PRIVATE KEY-----\n",
            0o600,
            "not an identity",
        ),
        (
            "key of another address",
            wrong_key.as_bytes(),
            0o600,
            "not an identity",
        ),
        ("too large", &[b'a'; 5000], 0o600, "larger than"),
    ];
    for (what, content, mode, part) in cases {
        let test = TestDir::new();
        let state = locked(&test);
        let path = state.dir().identity_file();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(*mode)).unwrap();
        for result in [
            identity::load(state.dir()).map(drop),
            identity::load_or_generate(state.dir(), None).map(drop),
        ] {
            let error = result.expect_err(what);
            assert_eq!(error.exit_status(), 2, "{what}: {error}");
            let text = error.to_string();
            assert!(
                text.starts_with(&path.display().to_string()),
                "{what}: {text}"
            );
            assert!(text.contains(part), "{what}: {text}");
            // The message must not give the key away.
            assert!(!text.contains("00000001"), "{what}: {text}");
        }
        assert_eq!(
            fs::read(&path).unwrap(),
            *content,
            "{what}: the file is left as it was"
        );
    }
}

// S31
#[test]
fn a_key_behind_a_symbolic_link_is_refused_not_followed() {
    let test = TestDir::new();
    let state = locked(&test);
    let real = test.path().join("elsewhere");
    fs::write(&real, KEY_1).unwrap();
    fs::set_permissions(&real, Permissions::from_mode(0o600)).unwrap();
    for target in [real, test.path().join("nowhere")] {
        let path = state.dir().identity_file();
        symlink(&target, &path).unwrap();
        assert!(
            identity::load(state.dir())
                .err()
                .unwrap()
                .to_string()
                .contains("symbolic link")
        );
        assert!(identity::load_or_generate(state.dir(), None).is_err());
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn an_identity_string_with_or_without_a_line_end_is_read() {
    for end in ["", "\n", "\r\n"] {
        let test = TestDir::new();
        let state = locked(&test);
        let path = state.dir().identity_file();
        fs::write(&path, format!("{KEY_1}{end}")).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let loaded = identity::load(state.dir()).unwrap().unwrap();
        assert_eq!(*loaded.address(), address(ADDRESS_1));
    }
}

#[test]
fn the_zone_of_an_identity_stays() {
    let test = TestDir::new();
    let state = locked(&test);
    let (made, unsaved) = identity::load_or_generate(state.dir(), Some(Zone(7))).unwrap();
    assert_eq!(made.address().zone(), Zone(7));
    assert!(
        identity::load(state.dir()).unwrap().is_none(),
        "not before it is saved"
    );
    unsaved.unwrap().save(&state).unwrap();
    for zone in [None, Some(Zone(7))] {
        let (again, unsaved) = identity::load_or_generate(state.dir(), zone).unwrap();
        assert_eq!(again.address(), made.address());
        assert!(unsaved.is_none());
    }
    let error = identity::load_or_generate(state.dir(), Some(Zone(8)))
        .err()
        .unwrap();
    assert_eq!(error.exit_status(), 2);
    let text = error.to_string();
    assert!(
        text.contains("00000007") && text.contains("00000008"),
        "{text}"
    );
}

#[test]
fn two_nodes_do_not_share_a_directory() {
    let test = TestDir::new();
    let dir = StateDir::find(Some(test.path())).unwrap();
    let first = dir.clone().lock().unwrap();
    let error = dir.clone().lock().unwrap_err();
    assert_eq!(error.exit_status(), 1);
    let pid = std::process::id().to_string();
    assert!(error.to_string().contains(&pid), "{error}");
    drop(first);
    dir.lock().unwrap();
}

#[test]
fn a_directory_in_which_others_may_write_is_refused() {
    let test = TestDir::new();
    fs::set_permissions(test.path(), Permissions::from_mode(0o777)).unwrap();
    let error = StateDir::find(Some(test.path()))
        .unwrap()
        .lock()
        .unwrap_err();
    assert!(error.to_string().contains("chmod"), "{error}");
}

#[test]
fn the_book_survives_a_restart_and_names_are_unique() {
    let test = TestDir::new();
    let state = locked(&test);
    let (one, two) = (address(ADDRESS_1), address(ADDRESS_2));
    let mut book = Book::load(state.dir()).unwrap();
    assert!(book.entries().is_empty());
    book.trust(one, Some(name("Box.anode"))).unwrap();
    book.trust(two, None).unwrap();
    let refused = book.trust(two, Some(name("box"))).unwrap_err();
    assert!(refused.contains(ADDRESS_1), "{refused}");
    book.save(&state).unwrap();
    assert_eq!(mode(&state.dir().file("trust.toml")), 0o600);

    let mut book = Book::load(state.dir()).unwrap();
    assert_eq!(book.by_name(&name("box")).unwrap().address, one);
    // Trusting again keeps the name, a new name replaces it.
    book.trust(one, None).unwrap();
    assert_eq!(book.by_address(&one).unwrap().name, Some(name("box")));
    book.trust(one, Some(name("server"))).unwrap();
    assert!(book.by_name(&name("box")).is_none());
    assert_eq!(book.distrust(&one).unwrap().address, one);
    assert!(book.distrust(&one).is_none());
    assert_eq!(book.entries().len(), 1);
}

#[test]
fn an_entry_is_found_by_address_name_and_ipv6() {
    let mut book = Book::default();
    let one = address(ADDRESS_1);
    book.trust(one, Some(name("box"))).unwrap();
    // The last one is peer 3 of the same address.
    let ways = [
        ADDRESS_1,
        "box",
        "BOX.anode",
        "fda0:8ed7:8a43:c2c:b76a:57af:6262:3020",
        "fda0:8ed7:8a43:c2c:b76a:57af:6262:3023",
    ];
    for way in ways {
        assert_eq!(
            book.find(&way.parse().unwrap()).unwrap().address,
            one,
            "{way}"
        );
    }
    for stranger in [ADDRESS_2, "other", "fda0::1"] {
        assert!(book.find(&stranger.parse().unwrap()).is_err(), "{stranger}");
    }
}

#[test]
fn a_bad_book_is_refused_with_its_line() {
    let entry = format!("[[peer]]\naddress = \"{ADDRESS_1}\"\n");
    let other = format!("[[peer]]\naddress = \"{ADDRESS_2}\"\n");
    let cases = [
        (
            format!("{entry}colour = \"red\"\n"),
            3,
            "unknown key `colour`",
        ),
        (
            "[[peer]]\nname = \"x\"\n".to_owned(),
            1,
            "missing key `address`",
        ),
        (
            "[[peer]]\naddress = \"nobody\"\n".to_owned(),
            2,
            "\"nobody\"",
        ),
        (format!("{entry}name = \"a b\"\n"), 3, "name \"a b\""),
        (format!("{entry}\n{entry}"), 4, "twice"),
        (
            format!("{entry}name = \"x\"\n{other}name = \"x\"\n"),
            4,
            "choose another",
        ),
    ];
    for (text, line, part) in cases {
        let error = Book::parse(&text, "/s/trust.toml".as_ref()).expect_err(&text);
        assert_eq!(error.exit_status(), 2);
        let message = error.to_string();
        assert!(
            message.starts_with(&format!("/s/trust.toml:{line}: ")),
            "{message}\n{text}"
        );
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn the_book_has_a_bound() {
    let address = |number: u32| {
        let mut scalar = [0; 32];
        scalar[28..].copy_from_slice(&number.to_be_bytes());
        *Identity::from_scalar(Zone(0), &scalar).unwrap().address()
    };
    let mut book = Book::default();
    let bound = u32::try_from(MAX_PEERS).unwrap();
    for number in 1..=bound {
        book.trust(address(number), None).unwrap();
    }
    let full = book.trust(address(bound + 1), None).unwrap_err();
    assert!(full.contains("full"), "{full}");
    // Whoever is in it may still be named.
    book.trust(address(1), Some(name("box"))).unwrap();
}

#[test]
fn learnt_peers_are_hints_and_damage_is_no_obstacle() {
    let test = TestDir::new();
    let state = locked(&test);
    assert!(learnt::load(state.dir()).is_empty());
    let peers = [
        ("192.0.2.1:8737", ADDRESS_1),
        ("[2001:db8::1]:1", ADDRESS_2),
    ]
    .map(|(endpoint, text)| PeerEndpoint {
        address: address(text),
        endpoint: anode_routing::anode::Place::Udp(endpoint.parse().unwrap()),
    });
    learnt::save(&state, &peers).unwrap();
    assert_eq!(learnt::load(state.dir()), peers);
    let path = state.dir().file("learnt.toml");
    assert_eq!(mode(&path), 0o600);
    for damage in ["peer = [", "peer = \"x\"", "\u{0}"] {
        fs::write(&path, damage).unwrap();
        assert!(learnt::load(state.dir()).is_empty(), "{damage:?}");
    }
    fs::write(
        &path,
        format!("peer = [\"nonsense\", \"{ADDRESS_1}@udp://192.0.2.1:8737\"]"),
    )
    .unwrap();
    assert_eq!(learnt::load(state.dir()), peers[..1]);
    fs::write(&path, vec![b' '; 1 << 20]).unwrap();
    assert!(learnt::load(state.dir()).is_empty());
}
