//! A TURN server on loopback: for the tests inside the crate, and for those that count what its threads allocate.
use super::Settings;
use anode_turn::server::{Config, RelayAddress};
use std::net::{IpAddr, SocketAddr};

/// `alice`, whose password is `secret`, may use it.
pub fn settings(shards: usize) -> Settings {
    let ip = IpAddr::from([127, 0, 0, 1]);
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
        listen: vec![SocketAddr::new(ip, 0)],
        listen_secure: Vec::new(),
        shared: Vec::new(),
        certificate: None,
        shards,
        // DF is the platform's; without it datagrams leave as quinn-udp has them.
        set_dont_fragment: |_, _| Ok(()),
    }
}
