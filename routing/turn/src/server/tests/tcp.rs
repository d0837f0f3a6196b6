//! TCP relaying (RFC 6062, T9).

use super::*;

const CONTROL: u16 = 1;

fn ready() -> (Lab, FiveTuple, RelayId) {
    let mut lab = Lab::new(config());
    let from = over(Transport::Tcp, CONTROL);
    let answer = lab.ask(&from, method::ALLOCATE, tcp);
    let relay = lab.relays[&answer.relayed()[0]];
    assert!(
        lab.commands
            .iter()
            .any(|c| matches!(c, Command::OpenRelay { tcp: true, .. }))
    );
    (lab, from, relay)
}

/// A Connect request that is sent; the connection it starts, if it was not refused at once.
fn connect(lab: &mut Lab, from: &FiveTuple, peer: &str) -> Result<ConnectionId, u16> {
    let writer = Writer::new(Class::Request, method::CONNECT, lab.id())
        .xor_address(attr::XOR_PEER_ADDRESS, address(peer));
    let bytes = lab.sign(from, writer);
    lab.commands.clear();
    if let Some(answer) = lab.raw(from, &bytes) {
        return Err(answer.code());
    }
    match lab.commands.as_slice() {
        [
            Command::Connect {
                connection,
                peer: to,
                ..
            },
        ] => {
            assert_eq!(*to, address(peer));
            Ok(*connection)
        }
        other => panic!("{other:?}"),
    }
}

fn bind(lab: &mut Lab, from: &FiveTuple, id: ConnectionId) -> u16 {
    lab.ask(from, method::CONNECTION_BIND, |w| {
        w.number(attr::CONNECTION_ID, id.0)
    })
    .code()
}

// T9: what TCP cannot have
#[test]
fn tcp_allocations_take_no_udp_wishes() {
    let mut lab = Lab::new(config());
    let from = over(Transport::Tls, 1);
    let mut code = |build: &dyn Fn(Writer) -> Writer| {
        lab.ask(&from, method::ALLOCATE, |w| build(tcp(w))).code()
    };
    assert_eq!(code(&|w| w.raw(attr::EVEN_PORT, &[0])), 400);
    assert_eq!(code(&|w| w.raw(attr::DONT_FRAGMENT, &[])), 400);
    assert_eq!(code(&|w| w.raw(attr::RESERVATION_TOKEN, &[1; 8])), 400);
    assert_eq!(code(&|w| w), 0);
    let mut off = Lab::new(Config {
        tcp_relay: false,
        ..config()
    });
    assert_eq!(off.ask(&from, method::ALLOCATE, tcp).code(), 442);
    // no channels, no Send
    assert_eq!(lab.bind(&from, 0x4000, PEER), 403);
    assert_eq!(lab.permit(&from, &[PEER]), 0);
    assert!(lab.send(&from, PEER, b"x").is_none());
}

// T9: Connect, ConnectionBind, and the end of either side
#[test]
fn a_connection_is_made_bound_and_closed() {
    let (mut lab, from, _) = ready();
    let id = connect(&mut lab, &from, PEER).unwrap();
    assert_eq!(connect(&mut lab, &from, PEER), Err(446));
    assert_eq!(connect(&mut lab, &from, "127.0.0.1:1"), Err(403));
    assert_eq!(connect(&mut lab, &from, "[2001:db8::1]:1"), Err(443));
    lab.server.peer_connected(lab.now, id, true);
    let (to, answer) = lab.drain().remove(0);
    assert_eq!((to, answer.code()), (from, 0));
    assert_eq!(
        answer.message().raw(attr::CONNECTION_ID),
        Some(&id.0.to_be_bytes()[..])
    );
    let stream = over(Transport::Tcp, 2);
    assert_eq!(
        bind(&mut lab, &over(Transport::Udp, 3), id),
        400,
        "not over UDP"
    );
    assert_eq!(
        bind(&mut lab, &from, id),
        400,
        "not on the control connection"
    );
    assert_eq!(
        bind(&mut lab, &stream, ConnectionId(id.0 ^ 1)),
        400,
        "unknown"
    );
    lab.user = "bob";
    assert_eq!(bind(&mut lab, &stream, id), 441);
    lab.user = "alice";
    assert_eq!(bind(&mut lab, &stream, id), 0);
    assert_eq!(
        lab.commands.last(),
        Some(&Command::Join {
            connection: id,
            client: stream
        })
    );
    assert_eq!(bind(&mut lab, &over(Transport::Tcp, 4), id), 400, "taken");
    assert_eq!(
        lab.ask(&stream, method::ALLOCATE, tcp).code(),
        400,
        "a data connection carries no control"
    );
    lab.pass(100);
    assert!(
        lab.server.may_pass(lab.now, id, 1000),
        "a bound one does not time out"
    );
    lab.server.connection_closed(id);
    lab.drain();
    assert_eq!(
        lab.commands.last(),
        Some(&Command::CloseClient { client: stream })
    );
    // and the other way round
    let id = connect(&mut lab, &from, PEER).unwrap();
    lab.server.peer_connected(lab.now, id, true);
    lab.drain();
    assert_eq!(bind(&mut lab, &stream, id), 0);
    lab.commands.clear();
    lab.server.client_closed(&from);
    lab.drain();
    for expected in [
        Command::CloseConnection { connection: id },
        Command::CloseClient { client: stream },
    ] {
        assert!(
            lab.commands.contains(&expected),
            "the control connection takes all with it: {expected:?}"
        );
    }
    assert_eq!(lab.server.allocations(), 0);
}

// T9: 447 when the peer does not answer, at once or after 30 s; unbound ones end after 30 s
#[test]
fn thirty_seconds() {
    let (mut lab, from, _) = ready();
    let id = connect(&mut lab, &from, PEER).unwrap();
    lab.server.peer_connected(lab.now, id, false);
    assert_eq!(lab.drain()[0].1.code(), 447);
    let id = connect(&mut lab, &from, PEER).unwrap();
    lab.now += Duration::from_secs(29);
    lab.server.handle_timeout(lab.now);
    assert!(lab.drain().is_empty());
    lab.now += Duration::from_secs(1);
    lab.server.handle_timeout(lab.now);
    assert_eq!(lab.drain()[0].1.code(), 447);
    assert!(
        lab.commands
            .contains(&Command::CloseConnection { connection: id })
    );
    let id = connect(&mut lab, &from, PEER).unwrap();
    lab.server.peer_connected(lab.now, id, true);
    lab.drain();
    lab.pass(30);
    assert!(
        lab.commands
            .contains(&Command::CloseConnection { connection: id })
    );
    assert_eq!(bind(&mut lab, &over(Transport::Tcp, 9), id), 400);
}

// T9: peers that connect: only with a permission, announced, bounded
#[test]
fn peers_connect() {
    let (mut lab, from, relay) = ready();
    assert_eq!(
        lab.server.peer_accepted(lab.now, relay, address(PEER)),
        None,
        "no permission"
    );
    assert_eq!(lab.permit(&from, &[PEER]), 0);
    let id = lab
        .server
        .peer_accepted(lab.now, relay, address(PEER))
        .unwrap();
    let (to, attempt) = lab.drain().remove(0);
    let message = attempt.message();
    assert_eq!(
        (to, message.class(), message.method()),
        (from, Class::Indication, method::CONNECTION_ATTEMPT)
    );
    assert_eq!(
        message.xor_address(attr::XOR_PEER_ADDRESS),
        Ok(Some(address(PEER)))
    );
    assert_eq!(bind(&mut lab, &over(Transport::Tcp, 9), id), 0);
    for port in 1..200 {
        let peer = SocketAddr::new(address(PEER).ip(), port);
        lab.server.peer_accepted(lab.now, relay, peer);
    }
    assert_eq!(
        lab.server.counters().dropped_connections,
        1 + 199 - 63,
        "64 at a time"
    );
}
