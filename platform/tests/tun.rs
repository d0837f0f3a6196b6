//! The TUN device against the real kernel, each test in a network namespace of its own.

mod common;

use anode_platform::netlink::{Netlink, TABLE_MAIN};
use anode_platform::tun::{Tun, TunConfig};
use common::in_netns;

fn config(name: &str) -> TunConfig {
    TunConfig {
        name: name.into(),
        mtu: 1280,
        offload: true,
        addresses: vec![("fda0::a0".parse().unwrap(), 128)],
        routes: vec![("fda0::".parse().unwrap(), 16)],
    }
}

#[test]
fn a_new_interface_has_what_was_asked_for_and_nothing_else() {
    in_netns(|| {
        let tun = Tun::create(&config("anode0")).unwrap();
        assert_eq!(tun.name(), "anode0");
        assert!(tun.offload());

        let mut netlink = Netlink::open().unwrap();
        let link = netlink.link("anode0").unwrap().unwrap();
        assert_eq!(link.index, tun.index());
        assert_eq!(link.mtu, 1280);
        assert_eq!(link.queue_length, 1000);
        assert!(link.flags.up && link.flags.point_to_point);
        assert!(!link.flags.multicast && !link.flags.broadcast);

        let addresses = netlink.addresses(Some(link.index)).unwrap();
        assert_eq!(addresses.len(), 1, "{addresses:?}");
        assert_eq!(addresses[0].prefix, "fda0::a0/128".parse().unwrap());
        assert!(!addresses[0].tentative);

        let routes: Vec<_> = netlink
            .routes(true)
            .unwrap()
            .into_iter()
            .filter(|route| route.index == Some(link.index) && route.table == TABLE_MAIN)
            .collect();
        let texts: Vec<_> = routes.iter().map(ToString::to_string).collect();
        assert!(
            texts.contains(&"fda0::/16 dev anode0".to_string()),
            "{texts:?}"
        );
    });
}
