//! Payload, and whose it is.

use super::*;
use crate::frame::Transport;
use crate::server::IcmpError;

// T12: queued until the permission stands, flushed in order, bounded
#[test]
fn data_waits_for_its_permission() {
    let mut script = Script::ready(Config {
        queue: 1000,
        ..config()
    });
    for i in 0..3_u8 {
        assert!(matches!(
            script.client.send(script.now, address(PEER), &[i; 100]),
            Outgoing::Queued
        ));
    }
    let asked = script.one(method::CREATE_PERMISSION);
    assert!(
        matches!(
            script.client.send(script.now, address(PEER), &[3; 701]),
            Outgoing::Dropped
        ),
        "the queue is full"
    );
    assert_eq!(script.client.counters().queue_dropped, 1);
    script.pass(secs(3));
    script.sent();
    script.succeed(&asked, |w| w);
    let payloads: Vec<u8> = script
        .sent()
        .iter()
        .map(|b| Message::parse(b).unwrap().raw(attr::DATA).unwrap()[0])
        .collect();
    assert_eq!(payloads, [0, 1, 2], "in order, as Send indications");
    let Outgoing::Now(header) = script.client.send(script.now, address(PEER), &[4; 5]) else {
        panic!()
    };
    assert_eq!(header.bytes()[..2], [0, 0x16]);
    // with a channel: ChannelData, and meanwhile Send
    assert!(script.client.bind(script.now, address(PEER)));
    let asked = script.one(method::CHANNEL_BIND);
    assert!(
        matches!(script.client.send(script.now, address(PEER), b"x"), Outgoing::Now(h) if h.bytes().len() > 4)
    );
    script.succeed(&asked, |w| w);
    assert!(
        matches!(script.client.send(script.now, address(PEER), b"x"), Outgoing::Now(h) if h.bytes().len() == 4)
    );
    // a peer that is refused: what waited is dropped and counted
    script
        .client
        .send(script.now, address("198.51.100.66:1"), b"x");
    let asked = script.one(method::CREATE_PERMISSION);
    script.refuse(&asked, 403, |w| w);
    assert_eq!(script.client.counters().queue_dropped, 2);
    assert!(script.events().contains(&Event::PeerRefused {
        peer: "198.51.100.66".parse().unwrap(),
        code: 403
    }));
}

// T13: over a stream what was queued is padded
#[test]
fn queued_data_is_padded_in_streams() {
    let mut script = Script::ready(Config {
        transport: Transport::Tcp,
        ..config()
    });
    script.bound(PEER);
    let Outgoing::Now(header) = script.client.send(script.now, address(PEER), &[1; 101]) else {
        panic!()
    };
    assert_eq!(header.total(101), 108);
}

// T14, T15, S34: strangers
#[test]
fn data_of_strangers_is_dropped() {
    let mut script = Script::ready(config());
    script.permitted(PEER);
    let heard = data(PEER, b"hello");
    let received = script.hear(&heard).unwrap();
    assert_eq!(
        (received.peer, &heard[received.payload]),
        (address(PEER), &b"hello"[..])
    );
    assert!(
        script.hear(&data("198.51.100.8:9000", b"x")).is_none(),
        "no permission"
    );
    let no_peer = Writer::new(Class::Indication, method::DATA, [1; 12])
        .raw(attr::DATA, b"x")
        .finish();
    assert!(script.hear(&no_peer).is_none());
    let no_data = Writer::new(Class::Indication, method::DATA, [1; 12])
        .xor_address(attr::XOR_PEER_ADDRESS, address(PEER));
    assert!(script.hear(&no_data.finish()).is_none());
    assert_eq!(
        (
            script.client.counters().stranger_data,
            script.client.counters().malformed
        ),
        (1, 2)
    );
    let number = script.bound(PEER);
    let on = |number: u16| [&number.to_be_bytes()[..], &[0, 1, 7]].concat();
    assert_eq!(
        script.hear(&on(number)),
        Some(Received {
            peer: address(PEER),
            payload: 4..5
        })
    );
    for other in [number + 1, 0x4FFF, 0x7FFF, 0x3FFF, 0x8000, 0xFFFF] {
        assert!(script.hear(&on(other)).is_none(), "{other:x}");
    }
    // T15: the channel stands, its permission does not
    script.client.forget(address(PEER).ip());
    script.pass(secs(301));
    assert!(script.hear(&on(number)).is_none());
    assert!(script.hear(&data(PEER, b"x")).is_none());
}

// RFC 8656 §11.6: ICMP, only about permitted peers
#[test]
fn icmp_about_peers() {
    let mut script = Script::ready(config());
    script.permitted(PEER);
    let icmp = |peer: &str| {
        let w = Writer::new(Class::Indication, method::DATA, [1; 12])
            .xor_address(attr::XOR_PEER_ADDRESS, address(peer));
        w.raw(attr::ICMP, &[0, 0, 3, 4, 0, 0, 5, 120]).finish()
    };
    script.hear(&icmp(PEER));
    script.hear(&icmp("198.51.100.8:1"));
    let error = IcmpError {
        kind: 3,
        code: 4,
        data: 1400,
        peer: address(PEER),
    };
    assert_eq!(script.events(), [Event::PeerUnreachable(error)]);
}

// T40: a permission and a channel without data
#[test]
fn permissions_and_channels_without_data() {
    let mut script = Script::ready(config());
    script.permitted(PEER);
    assert!(script.client.bind(script.now, address("198.51.100.9:1")));
    let asked = script.one(method::CHANNEL_BIND);
    script.succeed(&asked, |w| w);
    let peer = address("198.51.100.9:1");
    let events = script.events();
    assert_eq!(
        events,
        [Event::Permitted(peer.ip()), Event::Bound(peer)],
        "it brings its permission"
    );
    // refused for its port: the address may still be let in
    assert!(script.client.bind(script.now, address("198.51.100.10:1")));
    let asked = script.one(method::CHANNEL_BIND);
    script.refuse(&asked, 403, |w| w);
    script.one(method::CREATE_PERMISSION);
}
