//! Anode keys as credentials, from a client that computes its password by itself: who may, and who may not.

use super::session::Session;
use super::*;
use anode_tests::lab::Node;
use anode_turn::client::{Event, Why};
use anode_wire::{Address, Identity, Zone};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::thread;

const REALM: &str = "example.org";

/// Somebody with a key of zone 2a.
fn somebody(number: u8) -> Identity {
    let mut scalar = [0; 32];
    scalar[31] = number;
    Identity::from_scalar(Zone(0x2a), &scalar).expect("a key")
}

/// Name and password at the server with this address (docs/operation.md).
fn credentials(of: &Identity, server: &str) -> (String, String) {
    let server: Address = server.parse().expect("an address");
    let name = of.address().to_string();
    let message = ["turn", REALM, &name].concat();
    let tag = of.agree(&server).tag(message.as_bytes());
    (name, STANDARD.encode(tag))
}

/// What an Allocate is answered with; 0: an allocation.
fn answer(client: &Host, at: SocketAddr, (name, password): (String, String)) -> u16 {
    let mut session = Session::of(client, at, &name, &password);
    let event = session.until(|e| matches!(e, Event::Allocated { .. } | Event::Ended { .. }));
    match event {
        Event::Ended {
            why: Why::Refused { code, .. },
            ..
        } => code,
        Event::Ended {
            why: Why::Credentials,
            ..
        } => 401,
        Event::Allocated { .. } => 0,
        other => panic!("{other:?}"),
    }
}

// RD: Anode keys as long-term credentials (docs/spec/reload.md): of members, of the trusted, of nobody
#[test]
fn members_of_the_zone_get_allocations_by_their_keys_and_strangers_do_not() {
    let Some(ground) = Ground::open(Family::V4) else {
        return;
    };
    let (host, at) = (&ground.at, ground.own());
    let [member, trusted, stranger] = [2, 3, 4].map(somebody);
    let zone = ground.lab.directory().join("zone");
    let relay_at = format!("{}:8737", host.v4());
    let new = [
        "zone",
        "new",
        text(&zone),
        "--zone",
        "2a",
        "--relay",
        &relay_at,
    ];
    anode(host, &new).expect_ok();
    let file = zone.join("zone");
    let listed = fs::read_to_string(&file).expect("the zone file")
        + &format!("member.laptop={}\r\n", member.address());
    fs::write(&file, listed).expect("written");
    anode(host, &["zone", "sign", text(&zone)]).expect_ok();
    let turn = |users: &str| {
        format!(
            "zone-file = {file:?}\n[turn]\nlisten = [\"{at}\"]\nrealm = \"{REALM}\"\nanode-users = \"{users}\"\n[relay]\n"
        )
    };
    let mut relay = Node::on(host, ground.lab.directory(), "relay")
        .relay()
        .args(&["--zone", "2a"])
        .args(&["--listen", &format!("udp://{relay_at}")])
        .config(&turn("zone"))
        .start();
    relay
        .cli(&["trust", &trusted.address().to_string(), "friend"])
        .expect_ok();
    let own = relay.address().to_owned();
    let asked = |who: &Identity| answer(&ground.client, at, credentials(who, &own));
    assert_eq!(relay.json(&["zone", "show"])["file"]["members"], 1);
    assert_eq!([&member, &trusted, &stranger].map(asked), [0, 0, 401]);
    // Each with its own key alone: another one's name is no use.
    let stolen = (member.address().to_string(), credentials(&stranger, &own).1);
    assert_eq!(answer(&ground.client, at, stolen), 401);

    let config = relay.state().with_extension("toml");
    let before = fs::read_to_string(&config).expect("the configuration");
    for (users, expected) in [("trusted", [401, 0, 401]), ("off", [401, 401, 401])] {
        let lines = before.replace("\"zone\"", &format!("\"{users}\""));
        fs::write(&config, lines).expect("written");
        relay.process().signal(Signal::SIGHUP);
        let deadline = Instant::now() + LIMIT;
        loop {
            let found = [&member, &trusted, &stranger].map(asked);
            if found == expected {
                break;
            }
            assert!(Instant::now() < deadline, "{users}: {found:?}");
            thread::sleep(Duration::from_millis(200));
        }
    }
}
