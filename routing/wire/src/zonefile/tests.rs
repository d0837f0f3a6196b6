mod signatures;

use super::*;
use crate::vectors::{identity, vectors};
use proptest::prelude::*;

const MINIMAL: &str = "n=test\rd=desc\rc=a@b\rr=7\rttl=3600\r";

fn address() -> String {
    identity("relay").address().to_string()
}

fn with(more: &str) -> String {
    MINIMAL.to_owned() + &more.replace("ADDR", &address())
}

fn zone(more: &str) -> ZoneFile {
    ZoneFile::parse(with(more).as_bytes()).unwrap()
}

fn faults(text: &str) -> Vec<String> {
    ZoneFile::check(text.as_bytes())
        .faults
        .iter()
        .map(Fault::to_string)
        .collect()
}

// A5, A6, A7, D4
#[test]
fn the_five_entries_and_unknown_ones_are_read() {
    let zone = zone("zz.future=kept\rx=\\\r\r");
    assert_eq!(
        (zone.name(), zone.description(), zone.contact()),
        ("test".into(), "desc".into(), "a@b".into())
    );
    assert_eq!(
        (zone.revision(), zone.ttl()),
        (7, Duration::from_secs(3600))
    );
    assert_eq!(zone.dictionary().get("ZZ.future").unwrap().value, b"kept");
    let again = ZoneFile::parse(&zone.emit()).unwrap();
    assert_eq!(again.dictionary().get("x").unwrap().value, b"\r");
    assert_eq!(again.emit(), zone.emit());
    assert!(faults(&with("")).is_empty());
}

// A6, D4
#[test]
fn a_file_without_one_of_the_five_is_refused() {
    for (key, line) in [
        ("n", "n=test\r"),
        ("d", "d=desc\r"),
        ("c", "c=a@b\r"),
        ("r", "r=7\r"),
        ("ttl", "ttl=3600\r"),
    ] {
        let text = MINIMAL.replace(line, "");
        let Err(WireError::ZoneFile(fault)) = ZoneFile::parse(text.as_bytes()) else {
            panic!("{key} is not missed")
        };
        assert!(fault.is_fatal());
        assert!(
            matches!(fault.kind, FaultKind::Missing { key: missing, .. } if missing == key),
            "{fault}"
        );
    }
    assert_eq!(faults("").len(), 5);
}

// D4
#[test]
fn numbers_that_are_none_are_refused_with_their_line() {
    for wrong in [
        "",
        "-1",
        "+1",
        "0x10",
        "1.5",
        "7 7",
        "seven",
        "99999999999999999999999",
        "７",
    ] {
        for (key, line) in [("r", 4), ("ttl", 5)] {
            let old = if key == "r" { "r=7" } else { "ttl=3600" };
            let text = MINIMAL.replace(old, &format!("{key}={wrong}"));
            let Err(WireError::ZoneFile(fault)) = ZoneFile::parse(text.as_bytes()) else {
                panic!("{key}={wrong} passed")
            };
            assert_eq!(
                fault,
                Fault {
                    line: Some(line),
                    kind: FaultKind::NotDecimal {
                        key,
                        value: wrong.into()
                    }
                }
            );
        }
    }
}

// D4
#[test]
fn ttl_is_clamped_and_said_so() {
    for (given, used) in [
        (0, 60),
        (59, 60),
        (60, 60),
        (604_800, 604_800),
        (604_801, 604_800),
        (u64::MAX, 604_800),
    ] {
        let text = MINIMAL.replace("3600", &given.to_string());
        assert_eq!(
            ZoneFile::parse(text.as_bytes()).unwrap().ttl().as_secs(),
            used
        );
        assert_eq!(faults(&text).len(), usize::from(given != used));
    }
}

// D4, S27
#[test]
fn size_is_bounded() {
    let padding = |len: usize| MINIMAL.to_owned() + &";".repeat(len - MINIMAL.len());
    assert!(ZoneFile::parse(padding(MAX_LEN).as_bytes()).is_ok());
    let Err(WireError::ZoneFile(fault)) = ZoneFile::parse(padding(MAX_LEN + 1).as_bytes()) else {
        panic!()
    };
    assert_eq!(fault.kind, FaultKind::TooLarge(MAX_LEN + 1));
    assert!(fault.is_fatal());
}

// D4
#[test]
fn a_lower_revision_is_a_rollback() {
    let (old, new) = (
        zone(""),
        ZoneFile::parse(MINIMAL.replace("r=7", "r=8").as_bytes()).unwrap(),
    );
    assert!(old.is_rollback_of(&new));
    assert!(!new.is_rollback_of(&old));
    assert!(!old.is_rollback_of(&old));
}

// A22
#[test]
fn choice_is_that_of_the_vectors() {
    for vector in vectors("relay_choice") {
        let number = |field: &str| vector[field].as_u64().unwrap() as u32;
        let index = designated(number("sum"), number("entries")).unwrap();
        assert_eq!(format!("zr.{index:x}"), vector["key"].as_str().unwrap());
    }
    assert_eq!(designated(5081, 0), None);
}

// A20, A21, A22, D6, D7
#[test]
fn an_address_finds_its_relay_and_the_next_one() {
    let entry = |number: &str, port: u32| format!("zr.{number}=1.2.3.4:{port}:0:ADDR\r");
    // sum 4456: zr.0 of four, zr.1 of three, zr.0 of one
    let alice = identity("alice");
    let chosen = |zone: &ZoneFile| {
        let port = |relay: &Relay| relay.udp_port.unwrap().get();
        zone.relays_for(alice.address())
            .map(|(i, r)| (i, port(r)))
            .collect::<Vec<_>>()
    };
    let four = [entry("0", 1), entry("1", 2), entry("02", 3), entry("3", 4)].concat();
    assert_eq!(chosen(&zone(&four)), [(0, 1), (1, 2)]);
    let three = [entry("0", 1), entry("1", 2), entry("2", 3)].concat();
    assert_eq!(chosen(&zone(&three)), [(1, 2), (2, 3)]);
    assert_eq!(chosen(&zone(&entry("0", 1))), [(0, 1)]);
    assert_eq!(chosen(&zone("")), []);
    // the next of the last is the first
    let (bob, two) = (
        identity("bob"),
        zone(&[entry("0", 1), entry("1", 2)].concat()),
    );
    assert_eq!(bob.address().byte_sum() % 2, 1);
    assert_eq!(
        two.relays_for(bob.address())
            .map(|(i, _)| i)
            .collect::<Vec<_>>(),
        [1, 0]
    );
}

// D7: what is there and broken counts, so that all readers divide by the same number
#[test]
fn a_broken_or_missing_relay_leaves_its_addresses_without_and_the_others_alone() {
    let text = with("zr.0=oops\rzr.1=1.2.3.4:1:2:ADDR\rZR.0A=1.2.3.4:1:2:ADDR\rzr.x=1\r");
    let zone = ZoneFile::parse(text.as_bytes()).unwrap();
    assert_eq!(zone.relay_count(), 3);
    assert_eq!(zone.relays().map(|(i, _)| i).collect::<Vec<_>>(), [1, 10]);
    assert_eq!(
        faults(&text),
        [
            "line 6: zr.0 cannot be used: it reads <ip>[,<ip>]:<udp port>:<tcp port>:<anode addresses>",
            "line 9: \"zr.x\" is not a relay entry: zr. and a hexadecimal number, counted from 0",
            "zr.2 is missing: of 3 relays, the numbers are 0 to 2",
            "line 8: zr.a is never used: of 3 relays, the numbers are 0 to 2",
        ]
    );
    assert!(
        ZoneFile::check(text.as_bytes())
            .faults
            .iter()
            .all(|fault| !fault.is_fatal())
    );
}

// D3, D6
#[test]
fn two_spellings_of_a_number_are_one_relay_and_the_last_wins() {
    let text = with("zr.0=1.2.3.4:1:2:ADDR\rzr.00=5.6.7.8:1:2:ADDR\rjust words\r");
    let zone = ZoneFile::parse(text.as_bytes()).unwrap();
    assert_eq!(zone.relay_count(), 1);
    assert_eq!(
        zone.relays().next().unwrap().1.ips,
        ["5.6.7.8".parse::<std::net::IpAddr>().unwrap()]
    );
    assert_eq!(
        faults(&text),
        [
            "line 8: \"just words\" has no = and counts as an entry without value",
            "line 6: \"zr.0\" is overridden by a later line",
        ]
    );
}

// A21: escaped colons, as the shared vectors write them
#[test]
fn escaped_colons_in_a_relay_are_read() {
    let zone = zone("zr.0=2.3.4.5,2001\\:db8\\:\\:1:4343:4344:ADDR\r");
    assert_eq!(zone.relays().next().unwrap().1.ips.len(), 2);
}

#[test]
fn a_new_file_can_be_written_and_read() {
    let mut zone = ZoneFile::new(
        " my zone;",
        "with = and \\",
        "a@b",
        1,
        Duration::from_secs(300),
    );
    for _ in 0..17 {
        zone.add_relay(
            Relay::parse(format!("1.2.3.4,2001:db8::1:1:2:{}", address()).as_bytes()).unwrap(),
        );
    }
    let again = ZoneFile::parse(&zone.emit()).unwrap();
    assert_eq!(again.name(), " my zone;");
    assert_eq!(again.description(), "with = and \\");
    assert_eq!(again.relay_count(), 17);
    assert!(again.dictionary().get("zr.10").is_some());
    assert!(again.relays().eq(zone.relays()));
}

// S27
#[test]
fn a_hostile_file_makes_a_short_report_in_bounded_time() {
    // every line its own fault; and far too many relays
    let lines: String = (0..25_000).map(|i| format!("xx.{i:x}\r")).collect();
    let report = ZoneFile::check(with(&lines).as_bytes());
    assert_eq!(report.faults.len(), MAX_FAULTS);
    assert!(report.zone.is_some());
    let relays: String = (0..25_000).map(|i| format!("zr.{i:x}=\r")).collect();
    let report = ZoneFile::check(with(&relays).as_bytes());
    assert_eq!(report.faults[0].kind, FaultKind::TooManyRelays(25_000));
    assert!(report.zone.is_none() && report.faults.len() == MAX_FAULTS);
}

proptest! {
    // S1, S27
    #[test]
    fn any_bytes_after_the_five_are_read_and_mean_the_same_when_written(
        pieces in proptest::collection::vec(
            prop_oneof![
                Just(b"zr.0=1.2.3.4:1:2:".to_vec()), Just(b"\r".to_vec()), Just(b"\\".to_vec()), Just(b"zr.".to_vec()),
                Just(b"ttl=".to_vec()), Just(address().into_bytes()), proptest::collection::vec(any::<u8>(), 0..20),
            ],
            0..12,
        ),
    ) {
        let bytes = [MINIMAL.as_bytes(), &pieces.concat()].concat();
        if let Ok(zone) = ZoneFile::parse(&bytes) {
            let again = ZoneFile::parse(&zone.emit()).unwrap();
            prop_assert!(again.relays().eq(zone.relays()));
            prop_assert_eq!(again.relay_count(), zone.relay_count());
            prop_assert_eq!((again.revision(), again.ttl()), (zone.revision(), zone.ttl()));
            prop_assert_eq!(again.emit(), zone.emit());
        }
    }

    #[test]
    fn no_bytes_make_check_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let report = ZoneFile::check(&bytes);
        prop_assert_eq!(report.zone.is_none(), report.faults.iter().any(Fault::is_fatal));
        prop_assert_eq!(report.faults.first().is_some_and(Fault::is_fatal), report.zone.is_none());
    }
}

/// A signed file of zone 2a with one relay of it, and its signer.
fn signed_with(more: &str) -> (Vec<u8>, ZoneSigner) {
    let signer = signer();
    let text = with(&format!("zr.0=192.0.2.1:1:2:ADDR\r{more}"));
    (
        ZoneFile::resign(text.as_bytes(), Zone(0x2a), 8, &signer),
        signer,
    )
}

/// Secret scalar 1.
fn signer() -> ZoneSigner {
    let public = "036b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296";
    ZoneSigner::from_text(&format!("ANODE-ZONE-KEY:{public}:{:064x}", 1)).unwrap()
}

fn member(zone: u32, key: u8) -> Address {
    *crate::Identity::from_scalar(Zone(zone), &[key; 32])
        .unwrap()
        .address()
}

// S16, S27
#[test]
fn relays_further_inside_than_where_the_file_came_from_keep_their_number_and_are_not_used() {
    let mut zone = zone(
        "zr.0=192.0.2.1:1:2:ADDR\rzr.1=192.0.2.1,10.0.0.1:1:2:ADDR\rzr.2=127.0.0.1:1:2:ADDR\rzr.0003=ff02::1:1:2:ADDR\r",
    );
    let told = |faults: Vec<Fault>| faults.iter().map(Fault::to_string).collect::<Vec<_>>();
    assert_eq!(
        told(zone.clone().restrict(Reach::Local)),
        ["line 9: zr.3 is refused: ff02::1 is no address that a relay can have"]
    );
    let mut private = zone.clone();
    assert_eq!(private.restrict(Reach::Private).len(), 2);
    assert_eq!(
        private.relays().map(|(index, _)| index).collect::<Vec<_>>(),
        [0, 1]
    );
    let faults = told(zone.restrict(Reach::Public));
    assert_eq!(
        faults[0],
        "line 7: zr.1 is refused: 10.0.0.1 is not public, and this file came from a public server"
    );
    assert_eq!(faults.len(), 3);
    assert_eq!((zone.relays().count(), zone.relay_count()), (1, 4));
}

// S27
#[test]
fn too_many_relays_are_refused() {
    let lines = |count: usize| {
        (0..count)
            .map(|n| format!("zr.{n:x}=\r"))
            .collect::<String>()
    };
    assert!(ZoneFile::parse(with(&lines(MAX_RELAYS)).as_bytes()).is_ok());
    let faults = ZoneFile::check(with(&lines(MAX_RELAYS + 1)).as_bytes()).faults;
    assert_eq!(faults[0].kind, FaultKind::TooManyRelays(MAX_RELAYS + 1));
}

proptest! {
    // S27: one flipped bit anywhere is noticed, or changes nothing that the file says
    #[test]
    fn no_single_bit_of_a_signed_file_can_be_changed_unnoticed(at in 0usize..10_000, bit in 0u8..8) {
        let (mut text, signer) = signed_with("x=y\r");
        let before = ZoneFile::parse(&text).unwrap();
        let at = at % text.len();
        text[at] ^= 1 << bit;
        if let Ok(after) = ZoneFile::parse(&text) && after.signer() == Some(signer.public()) {
            let said = |zone: &ZoneFile| signed::canonical(zone.dictionary());
            prop_assert_eq!(said(&after), said(&before));
        }
    }

    #[test]
    fn what_was_signed_verifies_whatever_else_stands_in_it(
        rest in proptest::collection::vec(proptest::sample::select(b"\\\r\n=; .akx1".to_vec()), 0..60),
        revision: u64,
    ) {
        let text = [MINIMAL.as_bytes(), &rest].concat();
        let signer = signer();
        let signed = ZoneFile::resign(&text, Zone(5), revision, &signer);
        // what is ambiguous is not signed, it is told
        if let Ok(zone) = ZoneFile::parse(&signed) {
            prop_assert_eq!((zone.signer(), zone.revision()), (Some(signer.public()), revision));
        } else {
            let faults = ZoneFile::check(&signed).faults;
            prop_assert!(faults.iter().all(|fault| fault.kind != FaultKind::Forged), "{:?}", faults);
        }
    }
}
