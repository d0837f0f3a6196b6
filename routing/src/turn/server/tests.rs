use super::*;
use crate::turn::client::Blocking;
use anode_turn::Transport;
use anode_turn::client::{Config as ClientConfig, Credentials};
use anode_turn::resolve::Server as At;
use anode_turn::server::RelayAddress;
use std::net::UdpSocket as StdSocket;

fn settings(shards: usize) -> Settings {
    let ip: IpAddr = "127.0.0.1".parse().unwrap();
    let relay = RelayAddress {
        local: ip,
        external: ip,
    };
    let mut turn = Config::new("example.org", vec![relay]);
    turn.users
        .add_password("example.org", "alice", "secret")
        .unwrap();
    turn.policy.allow = vec!["127.0.0.0/8".parse().unwrap()];
    Settings {
        turn,
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        listen_secure: Vec::new(),
        shared: Vec::new(),
        certificate: None,
        shards,
        // DF is the platform's; without it datagrams leave as quinn-udp has them.
        set_dont_fragment: |_, _| Ok(()),
    }
}

fn client(server: &TurnServer, transport: Transport) -> Blocking {
    let config = ClientConfig {
        credentials: Some(Credentials {
            name: "alice".into(),
            password: "secret".to_owned().into(),
        }),
        ..ClientConfig::default()
    };
    let at = At {
        address: server.listening().plain[0],
        transport,
    };
    Blocking::allocate(at, config, None).unwrap().0
}

// T7: clients are spread over the threads, and each thread serves its own alone; T37: through the waiting client
#[test]
fn every_thread_has_clients_of_its_own() {
    let server = Bound::bind(settings(2)).unwrap().start().unwrap();
    let echo = StdSocket::bind("127.0.0.1:0").unwrap();
    let peer = echo.local_addr().unwrap();
    let mut clients: Vec<Blocking> = (0..24).map(|_| client(&server, Transport::Udp)).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.admit(peer, number % 2 == 0).unwrap();
        assert!(client.send(peer, &[number as u8; 100]));
        let mut buffer = [0; 200];
        let (length, from) = echo.recv_from(&mut buffer).unwrap();
        echo.send_to(&buffer[..length], from).unwrap();
        let until = Instant::now() + Duration::from_secs(5);
        let back = client.receive(until).unwrap();
        assert_eq!(back, Some((peer, vec![number as u8; 100])));
    }
    let shares: Vec<usize> = server
        .each_snapshot()
        .iter()
        .map(|one| one.allocations)
        .collect();
    assert_eq!((shares.len(), shares.iter().sum::<usize>()), (2, 24));
    assert!(shares.iter().all(|share| *share > 0), "{shares:?}");
    for client in clients {
        client.close().unwrap();
    }
    assert_eq!(server.allocations(), 0);
}

// T7: streams go to the thread that their address says, all of one address to one
#[test]
fn streams_of_one_address_meet_in_one_thread() {
    let server = Bound::bind(settings(3)).unwrap().start().unwrap();
    let clients: Vec<Blocking> = (0..6).map(|_| client(&server, Transport::Tcp)).collect();
    let mut shares: Vec<usize> = server
        .each_snapshot()
        .iter()
        .map(|one| one.streams)
        .collect();
    shares.sort_unstable();
    assert_eq!(shares, [0, 0, 6]);
    drop(clients);
    // Their ends take the allocations along.
    let until = Instant::now() + Duration::from_secs(5);
    while server.allocations() > 0 {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_taken_port_and_a_foreign_address_are_named() {
    let first = Bound::bind(settings(1)).unwrap();
    let mut second = settings(1);
    second.listen = first.listening().plain.clone();
    assert!(matches!(Bound::bind(second), Err(ServerError::PortBusy(_))));
    let mut foreign = settings(1);
    foreign.turn.relays[0].local = "192.0.2.1".parse().unwrap();
    foreign.turn.relays[0].external = "192.0.2.1".parse().unwrap();
    assert!(matches!(
        Bound::bind(foreign),
        Err(ServerError::Relay { .. })
    ));
}
