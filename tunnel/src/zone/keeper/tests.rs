use std::fs;

use anode_wire::zonefile::Relay;

use super::*;
use crate::state::testing::TestDir;
use crate::zone::testing::{Server, signed, signer};

const ZONE: Zone = Zone(0x2a);

struct Place {
    dir: TestDir,
    state: LockedState,
}

impl Place {
    fn new() -> Self {
        let dir = TestDir::new();
        let state = StateDir::find(Some(dir.path())).unwrap().lock().unwrap();
        Self { dir, state }
    }

    fn keeper(&self, from: &str) -> Keeper {
        let from: ZoneFrom = from.parse().unwrap();
        Keeper::new(from, ZONE, Fetcher::plain(), self.state.dir()).unwrap()
    }

    /// Looks and saves, as the task does.
    fn look(&self, keeper: &mut Keeper, force: bool) -> Result<Outcome, String> {
        let looked = crate::cli::block_on(async { Ok(keeper.look(force).await) }).unwrap();
        keeper.save(&self.state).unwrap();
        looked.map_err(|trouble| trouble.to_string())
    }
}

fn revision(keeper: &Keeper) -> Option<u64> {
    keeper.known().map(|known| known.file.revision())
}

// D4, D5, S27
#[test]
fn only_newer_files_of_the_first_key_are_taken_also_after_a_restart() {
    let place = Place::new();
    let (own, other) = (signer(1), signer(2));
    let server = Server::file(&signed(ZONE, 5, &own));
    let mut keeper = place.keeper(&server.url());
    assert_eq!(revision(&keeper), None);
    assert_eq!(place.look(&mut keeper, false), Ok(Outcome::Taken));
    assert_eq!(
        (revision(&keeper), keeper.pin()),
        (Some(5), Some(own.public()))
    );
    assert_eq!(place.look(&mut keeper, false), Ok(Outcome::Unchanged));

    for restarted in [false, true] {
        if restarted {
            keeper = place.keeper(&server.url());
            assert_eq!(
                revision(&keeper),
                Some(5),
                "the copy is in use before the network answers"
            );
        }
        for (file, problem) in [
            (signed(ZONE, 4, &own), "revision 4 is older than 5"),
            (signed(ZONE, 9, &other), "this zone's key is"),
            (signed(Zone(0x2b), 9, &own), "it is for zone 0000002b"),
            (b"n=\rd=\rc=\rr=9\rttl=60\r".to_vec(), "it is not signed"),
            (b"<html>".to_vec(), "the entry n= is missing"),
        ] {
            server.serve(&file);
            let error = place.look(&mut keeper, false).unwrap_err();
            assert!(
                error.contains(problem) && error.starts_with(&server.url()),
                "{error}"
            );
            assert_eq!(revision(&keeper), Some(5));
        }
    }

    // the operator's word
    server.serve(&signed(ZONE, 4, &own));
    assert_eq!(place.look(&mut keeper, true), Ok(Outcome::Taken));
    assert_eq!(revision(&keeper), Some(4));
    server.serve(&signed(ZONE, 1, &other));
    place.look(&mut keeper, true).unwrap_err();
    keeper.accept(other.public(), &place.state).unwrap();
    assert_eq!(place.look(&mut keeper, false), Ok(Outcome::Taken));
    assert_eq!(
        (revision(&keeper), keeper.pin()),
        (Some(1), Some(other.public()))
    );
    server.serve(&signed(ZONE, 6, &own));
    place.look(&mut keeper, false).unwrap_err();
}

#[test]
fn a_forced_look_that_fails_forgets_nothing() {
    let place = Place::new();
    let own = signer(1);
    let server = Server::file(&signed(ZONE, 5, &own));
    let mut keeper = place.keeper(&server.url());
    place.look(&mut keeper, false).unwrap();
    server.answer(|_, _| {});
    place.look(&mut keeper, true).unwrap_err();
    server.serve(&signed(ZONE, 4, &own));
    let error = place.look(&mut keeper, false).unwrap_err();
    assert!(error.contains("older than 5"), "{error}");
}

// D5
#[test]
fn the_copy_is_asked_about_by_its_date_and_only_at_the_server_that_it_came_from() {
    let place = Place::new();
    let server = Server::file(&signed(ZONE, 5, &signer(1)));
    let mut keeper = place.keeper(&server.url());
    place.look(&mut keeper, false).unwrap();
    server.answer(|_, stream| {
        use std::io::Write;
        let _ = stream.write_all(b"HTTP/1.1 304 Not Modified\r\n\r\n");
    });
    let mut keeper = place.keeper(&server.url());
    assert_eq!(place.look(&mut keeper, false), Ok(Outcome::Unchanged));
    assert!(server.requests()[1].contains("if-modified-since: Sat, 21 Nov 2026"));
    let mut elsewhere = place.keeper(&format!("{}/other", server.url()));
    let error = place.look(&mut elsewhere, false).unwrap_err();
    assert!(error.contains("no copy is here"), "{error}");
    // a copy that is gone is not unchanged
    fs::remove_file(place.dir.path().join("zone-0000002a")).unwrap();
    let mut keeper = place.keeper(&server.url());
    assert_eq!(revision(&keeper), None);
    place.look(&mut keeper, false).unwrap_err();
    assert!(!server.requests()[3].contains("if-modified-since"));
    assert_eq!(
        keeper.pin(),
        Some(signer(1).public()),
        "the record still knows the key"
    );
}

// D5
#[test]
fn failures_are_repeated_after_a_minute_doubling_to_an_hour_and_success_after_the_ttl() {
    let place = Place::new();
    let server = Server::new(|_, _| {});
    let mut keeper = place.keeper(&server.url());
    let mut waits = Vec::new();
    for _ in 0..9 {
        place.look(&mut keeper, false).unwrap_err();
        waits.push(keeper.next().as_secs());
    }
    assert_eq!(waits, [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]);
    server.serve(&signed(ZONE, 1, &signer(1)));
    place.look(&mut keeper, false).unwrap();
    // a ttl of 60 s, less or more a tenth
    assert!((54.0..66.0).contains(&keeper.next().as_secs_f64()));
}

#[test]
fn a_path_is_read_at_the_start_and_again_when_it_changes() {
    let place = Place::new();
    let path = place.dir.path().join("mine");
    let own = signer(1);
    let shown = path.display().to_string();
    for (bytes, problem) in [
        (None, format!("{shown}: there is no such zone file")),
        (
            Some(&b"n=x\nr=x\n"[..]),
            format!("{shown}: the entry d= is missing"),
        ),
        (
            Some(b"n=\nd=\nc=\nr=x\nttl=60\n"),
            format!("{shown}:4: r=\"x\" is not a decimal"),
        ),
        (
            Some(b"n=\nd=\nc=\nr=1\nttl=60\nzone=2b\n"),
            format!("{shown}: it is for zone 0000002b"),
        ),
    ] {
        if let Some(bytes) = bytes {
            fs::write(&path, bytes).unwrap();
        }
        let error = place.keeper(&shown).read_path_first().unwrap_err();
        assert_eq!(error.exit_status(), 2);
        assert!(error.to_string().starts_with(&problem), "{error}");
    }
    fs::write(&path, signed(ZONE, 1, &own)).unwrap();
    let mut keeper = place.keeper(&shown);
    keeper.read_path_first().unwrap();
    assert_eq!(revision(&keeper), Some(1));
    assert!(!keeper.is_due());
    // as an editor does it: another file under the name
    fs::write(path.with_extension("new"), signed(ZONE, 2, &own)).unwrap();
    fs::rename(path.with_extension("new"), &path).unwrap();
    assert!(keeper.is_due());
    assert_eq!(place.look(&mut keeper, false), Ok(Outcome::Taken));
    // one that is broken halfway changes nothing, once
    fs::write(&path, "n=").unwrap();
    assert!(keeper.is_due());
    place.look(&mut keeper, false).unwrap_err();
    assert!(!keeper.is_due());
    assert_eq!(revision(&keeper), Some(2));
}

// S16, S27
#[test]
fn relays_that_the_source_may_not_name_are_out_also_in_the_copy() {
    let place = Place::new();
    let relay = |ip: &str| Relay {
        ips: vec![ip.parse().unwrap()],
        udp_port: std::num::NonZeroU16::new(1),
        tcp_port: None,
        addresses: vec![
            *anode_wire::Identity::from_scalar(ZONE, &[1; 32])
                .unwrap()
                .address(),
        ],
    };
    let mut file = ZoneFile::new("n", "d", "c", 1, anode_wire::zonefile::MIN_TTL);
    for ip in ["192.0.2.1", "10.0.0.1", "127.0.0.1", "224.0.0.1"] {
        file.add_relay(relay(ip));
    }
    file.sign(ZONE, &signer(1));
    // as from the Internet: tests have no public server
    let mut keeper = place.keeper("http://192.0.2.1/z");
    keeper
        .take(
            &file.emit(),
            "http://192.0.2.1/z".into(),
            Reach::Public,
            None,
        )
        .unwrap();
    keeper.save(&place.state).unwrap();
    for keeper in [&keeper, &place.keeper("http://192.0.2.1/z")] {
        let known = keeper.known().unwrap();
        assert_eq!(known.relays().relays.len(), 1);
        assert_eq!(known.relays().count, 4);
        assert_eq!(known.faults.len(), 3, "{:?}", known.faults);
    }
}

#[test]
fn the_draft_is_not_asked_for_a_zone_whose_ip_is_no_server() {
    let place = Place::new();
    // 0.0.0.42, and a name that this machine cannot look up: neither is asked
    let mut keeper =
        Keeper::new(ZoneFrom::Draft, ZONE, Fetcher::plain(), place.state.dir()).unwrap();
    let error = place.look(&mut keeper, false).unwrap_err();
    assert!(error.contains("http://a--0000002a.net/z: "), "{error}");
    assert!(
        error.contains("http://0.0.0.42/z: 0.0.0.42 is no address"),
        "{error}"
    );
}
