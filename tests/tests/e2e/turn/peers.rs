//! Whom a server relays to, and from where it says it does.

use super::*;

/// Why a datagram to this peer did not come back; `None`: it did.
fn refusal(ground: &Ground, peer: SocketAddr) -> Option<String> {
    let (uri, peer) = (format!("turn:{}", ground.own()), peer.to_string());
    let mut arguments = vec!["turn", "send", &uri, &peer, "-n", "1", "--json"];
    arguments.extend(ALICE);
    let report = json(&anode(&ground.client, &arguments));
    report["error"].as_str().map(str::to_owned)
}

// S33: what is denied is denied before what is allowed, and that before the list that is built in
#[test]
fn denied_comes_before_allowed_and_allowed_before_what_is_built_in() {
    let Some(ground) = Ground::open(Family::V4) else {
        return;
    };
    let peer = ground.lan.host("peer");
    let outside = SocketAddr::new(peer.ip_address(), ECHO);
    let loopback = SocketAddr::from(([127, 0, 0, 1], ECHO));
    let _echoes = [
        UdpEcho::start(&peer, outside),
        UdpEcho::start(&ground.at, loopback),
    ];
    let mut server = ground.serve("");
    let ip = outside.ip();
    for (lines, refused) in [
        (String::new(), [false, true]),
        (format!("deny-peers = [\"{ip}\"]"), [true, true]),
        (
            format!("deny-peers = [\"{ip}/32\"]\nallow-peers = [\"0.0.0.0/0\"]"),
            [true, false],
        ),
        (
            "allow-peers = [\"127.0.0.0/8\"]\ndeny-peers = [\"127.0.0.1\"]".into(),
            [false, true],
        ),
    ] {
        server.reread(&lines);
        for (peer, refused) in [outside, loopback].into_iter().zip(refused) {
            let why = refusal(&ground, peer);
            assert_eq!(why.is_some(), refused, "{lines}: {peer}: {why:?}");
            assert!(why.is_none_or(|why| why.contains("403")), "{lines}: {peer}");
        }
    }
    // The port that clients come to is never a peer, whatever is allowed.
    server.reread("allow-peers = [\"0.0.0.0/0\"]");
    let why = refusal(&ground, ground.own());
    assert!(
        why.as_ref().is_some_and(|why| why.contains("403")),
        "{why:?}"
    );
}

// Behind a NAT of one to one, others are told the address outside
#[test]
fn an_address_outside_is_told_in_place_of_the_own() {
    let Some(ground) = Ground::open(Family::V4) else {
        return;
    };
    let _server = ground.serve(&format!(
        "external = {{ \"{}\" = \"203.0.113.5\" }}",
        ground.ip()
    ));
    let uri = format!("turn:{}", ground.own());
    let mut arguments = vec!["turn", "check", &uri, "--json"];
    arguments.extend(ALICE);
    let report = json(&anode(&ground.client, &arguments));
    let relayed = report["relayed"].as_str().expect("an address");
    assert!(relayed.starts_with("203.0.113.5:"), "{report}");
}
