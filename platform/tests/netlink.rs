//! Links, addresses, routes and namespaces against the real kernel.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod common;

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anode_platform::netlink::{LinkEvent, Monitor, Netlink, Route};
use anode_platform::netns::{NamedNetNs, NetNs};
use anode_platform::wake::{PollFd, PollFlags, poll};
use anode_platform::{PlatformError, Prefix};
use common::{in_netns, in_netns_and_mounts};
use std::os::fd::AsFd;

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

/// Gives a link addresses and switches it on.
fn bring_up(name: &str, addresses: &[&str]) -> u32 {
    let mut netlink = Netlink::open().unwrap();
    let index = netlink.link(name).unwrap().unwrap().index;
    netlink.set_up(index, true).unwrap();
    for address in addresses {
        netlink.address_add(index, prefix(address)).unwrap();
    }
    index
}

#[test]
fn udp_crosses_a_veth_pair_between_two_namespaces() {
    in_netns(|| {
        let there = NetNs::new().unwrap();
        let mut netlink = Netlink::open().unwrap();
        netlink.veth_add("here", "there", Some(&there)).unwrap();
        bring_up("here", &["192.0.2.1/24", "2001:db8::1/64"]);
        let far: [IpAddr; 2] = [
            Ipv4Addr::new(192, 0, 2, 2).into(),
            "2001:db8::2".parse().unwrap(),
        ];
        let sockets = there
            .run(|| {
                bring_up("there", &["192.0.2.2/24", "2001:db8::2/64"]);
                far.map(|address| UdpSocket::bind((address, 7)).unwrap())
            })
            .unwrap();
        for (address, socket) in far.into_iter().zip(sockets) {
            let unspecified: IpAddr = match address {
                IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            let sender = UdpSocket::bind((unspecified, 0)).unwrap();
            sender.send_to(b"hello", (address, 7)).unwrap();
            socket
                .set_read_timeout(Some(Duration::from_secs(5)))
                .unwrap();
            let mut data = [0; 16];
            let length = socket.recv(&mut data).unwrap();
            assert_eq!(&data[..length], b"hello");
        }
    });
}

#[test]
fn interfaces_show_their_flags_and_addresses() {
    in_netns(|| {
        let mut netlink = Netlink::open().unwrap();
        netlink.veth_add("a", "b", None).unwrap();
        bring_up("a", &["198.51.100.5/24", "198.51.100.64/31", "fda1::5/64"]);
        let interfaces = netlink.interfaces().unwrap();
        let named = |name: &str| {
            interfaces
                .iter()
                .find(|interface| interface.link.name == name)
                .unwrap()
        };

        let lo = named("lo");
        assert!(lo.link.flags.loopback && lo.link.flags.up && !lo.link.flags.broadcast);
        let list = |name: &str| -> Vec<_> {
            named(name)
                .addresses
                .iter()
                .map(|address| (address.prefix.to_string(), address.broadcast))
                .collect()
        };
        assert_eq!(
            list("lo"),
            [("127.0.0.1/8".into(), None), ("::1/128".into(), None)]
        );
        let a = named("a");
        assert!(a.link.flags.broadcast && a.link.flags.multicast && !a.link.flags.point_to_point);
        // Up, but the other end is down.
        assert!(a.link.flags.up && !a.link.flags.running);
        assert_eq!(a.link.hardware_address.len(), 6);
        let addresses = list("a");
        let broadcast = Some(Ipv4Addr::new(198, 51, 100, 255));
        assert!(addresses.contains(&("198.51.100.5/24".into(), broadcast)));
        assert!(addresses.contains(&("198.51.100.64/31".into(), None)));
        assert!(addresses.contains(&("fda1::5/64".into(), None)));
        assert!(a.addresses.iter().all(|address| !address.tentative));

        bring_up("b", &[]);
        common::eventually("the link-local address", || {
            let b = netlink.link("b").unwrap().unwrap();
            assert!(b.flags.running);
            let addresses = netlink.addresses(Some(b.index)).unwrap();
            addresses.iter().any(|address| address.link_local)
        });
    });
}

#[test]
fn links_change_move_and_go() {
    in_netns(|| {
        let there = NetNs::new().unwrap();
        let mut netlink = Netlink::open().unwrap();
        netlink.veth_add("a", "b", None).unwrap();
        let error = netlink.veth_add("a", "c", None).unwrap_err();
        assert!(
            matches!(error, PlatformError::NameTaken { .. }),
            "{error:?}"
        );

        let a = netlink.link("a").unwrap().unwrap();
        assert!(!a.flags.up);
        netlink.set_mtu(a.index, 1400).unwrap();
        netlink.set_queue_length(a.index, 77).unwrap();
        netlink.set_up(a.index, true).unwrap();
        let a = netlink.link_by_index(a.index).unwrap().unwrap();
        assert_eq!((a.mtu, a.queue_length, a.flags.up), (1400, 77, true));

        netlink.move_link(a.index, &there).unwrap();
        assert_eq!(netlink.link("a").unwrap(), None);
        assert!(
            there
                .run(|| Netlink::open().unwrap().link("a").unwrap().is_some())
                .unwrap()
        );
        let b = netlink.link("b").unwrap().unwrap();
        netlink.link_delete(b.index).unwrap();
        assert_eq!(netlink.link("b").unwrap(), None);
        assert!(netlink.link_delete(b.index).is_err());
    });
}

#[test]
fn a_bridge_joins_two_namespaces() {
    in_netns(|| {
        let mut netlink = Netlink::open().unwrap();
        netlink.bridge_add("lan").unwrap();
        let bridge = bring_up("lan", &[]);
        let address =
            |netlink: &mut Netlink| netlink.link("lan").unwrap().unwrap().hardware_address;
        let own = address(&mut netlink);
        let hosts = [("a", "192.0.2.1/24"), ("b", "192.0.2.2/24")].map(|(name, address)| {
            let host = NetNs::new().unwrap();
            netlink.veth_add(name, "eth0", Some(&host)).unwrap();
            let port = bring_up(name, &[]);
            netlink.set_master(port, Some(bridge)).unwrap();
            host.run(|| bring_up("eth0", &[address])).unwrap();
            host
        });
        let receiver = hosts[1]
            .run(|| UdpSocket::bind("192.0.2.2:7").unwrap())
            .unwrap();
        receiver
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        let sender = hosts[0]
            .run(|| UdpSocket::bind("192.0.2.1:0").unwrap())
            .unwrap();
        // A bridge port forwards once its state has settled.
        common::eventually("a packet crosses", || {
            sender.send_to(b"hello", "192.0.2.2:7").unwrap();
            receiver.recv(&mut [0; 16]).is_ok()
        });
        assert_eq!(address(&mut netlink), own, "ports do not change it");
    });
}

#[test]
fn routes_are_added_found_and_removed() {
    in_netns(|| {
        let mut netlink = Netlink::open().unwrap();
        netlink.veth_add("a", "b", None).unwrap();
        bring_up("b", &[]);
        bring_up("a", &["192.0.2.1/24", "2001:db8::1/64"]);
        let gateways: [(IpAddr, &str, &str); 2] = [
            ("192.0.2.9".parse().unwrap(), "0.0.0.0/0", "203.0.113.1"),
            ("2001:db8::9".parse().unwrap(), "::/0", "2001:db8:ff::1"),
        ];
        for (gateway, everything, far) in gateways {
            let far: IpAddr = far.parse().unwrap();
            assert_eq!(netlink.route_to(far).unwrap(), None);
            let route = Route::via(prefix(everything), gateway);
            netlink.route_add(&route).unwrap();
            let error = netlink.route_add(&route).unwrap_err();
            assert_eq!(error.io_kind(), Some(ErrorKind::AlreadyExists));

            let used = netlink.route_to(far).unwrap().unwrap();
            assert_eq!(used.gateway, Some(gateway));
            let own = if far.is_ipv4() {
                "192.0.2.1"
            } else {
                "2001:db8::1"
            };
            assert_eq!(used.source, Some(own.parse().unwrap()));

            let listed = netlink.routes(far.is_ipv6()).unwrap();
            let text = format!("{everything} via {gateway} dev a");
            assert!(
                listed.iter().any(|route| route.to_string() == text),
                "{listed:?}"
            );

            netlink.route_delete(&route).unwrap();
            assert_eq!(netlink.route_to(far).unwrap(), None);
        }
    });
}

#[test]
fn a_monitor_tells_of_links_addresses_and_routes() {
    in_netns(|| {
        let mut monitor = Monitor::open().unwrap();
        assert!(monitor.events().unwrap().is_empty());
        let mut netlink = Netlink::open().unwrap();
        netlink.veth_add("a", "b", None).unwrap();
        let index = bring_up("a", &["192.0.2.1/24"]);
        netlink.link_delete(index).unwrap();

        let mut fds = [PollFd::new(monitor.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, Some(Duration::from_secs(5))).unwrap(), 1);
        let mut seen = Vec::new();
        loop {
            let events = monitor.events().unwrap();
            if events.is_empty() {
                break;
            }
            seen.extend(events);
        }
        let up = |event: &LinkEvent| matches!(event, LinkEvent::Link(link) if link.name == "a" && link.flags.up);
        assert!(seen.iter().any(up), "{seen:?}");
        assert!(seen.contains(&LinkEvent::Addresses { index }), "{seen:?}");
        assert!(seen.contains(&LinkEvent::Routes), "{seen:?}");
        let gone = LinkEvent::LinkGone {
            index,
            name: "a".into(),
        };
        assert!(seen.contains(&gone), "{seen:?}");
    });
}

#[test]
fn a_monitor_that_was_not_read_says_that_events_are_lost() {
    in_netns(|| {
        let mut monitor = Monitor::open().unwrap();
        let mut netlink = Netlink::open().unwrap();
        netlink.veth_add("a", "b", None).unwrap();
        let index = netlink.link("a").unwrap().unwrap().index;
        // Each makes an event of 1 to 2 KiB; the socket's buffer holds about 200 KiB.
        for round in 0..1000 {
            netlink.set_mtu(index, 1300 + round).unwrap();
        }
        let mut seen = Vec::new();
        loop {
            let events = monitor.events().unwrap();
            if events.is_empty() {
                break;
            }
            seen.extend(events);
        }
        assert!(seen.contains(&LinkEvent::Overrun), "{} events", seen.len());
    });
}

#[test]
fn a_named_namespace_is_found_by_its_name_and_goes_with_the_value() {
    in_netns_and_mounts(|| {
        let name = format!("anode-test-{}", std::process::id());
        let path = Path::new("/run/netns").join(&name);
        let named = NamedNetNs::create(&name).unwrap();
        named
            .netns()
            .run(|| Netlink::open().unwrap().bridge_add("mark").unwrap())
            .unwrap();
        let found = NetNs::named(&name).unwrap();
        let has_mark = || Netlink::open().unwrap().link("mark").unwrap().is_some();
        assert!(found.run(has_mark).unwrap());
        assert!(!has_mark());

        let error = NamedNetNs::create(&name).unwrap_err();
        assert!(
            matches!(error, PlatformError::NamespaceTaken(_)),
            "{error:?}"
        );
        drop(named);
        assert!(!path.exists());
        NamedNetNs::create(&name).unwrap();
        for bad in ["", "..", "a/b"] {
            assert!(NamedNetNs::create(bad).is_err(), "{bad}");
            assert!(NetNs::named(bad).is_err(), "{bad}");
        }
    });
}

#[test]
fn a_name_that_a_crashed_run_left_can_be_removed() {
    in_netns_and_mounts(|| {
        let name = format!("anode-left-{}", std::process::id());
        std::mem::forget(NamedNetNs::create(&name).unwrap());
        NamedNetNs::remove(&name).unwrap();
        NamedNetNs::create(&name).unwrap();
    });
}

#[test]
fn commands_and_threads_run_inside_and_the_caller_stays_where_it_is() {
    in_netns(|| {
        let netns = NetNs::new().unwrap();
        let id = || std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let before = id();
        let inside = netns.run(id).unwrap();
        assert_ne!(inside, before);
        assert_eq!(id(), before);
        let mut command = Command::new("readlink");
        let command = netns.command(command.arg("/proc/self/ns/net")).unwrap();
        let output = String::from_utf8(command.output().unwrap().stdout).unwrap();
        assert_eq!(Path::new(output.trim()), inside);
        assert_eq!(NetNs::current().unwrap().run(id).unwrap(), before);
        let mut sleep = Command::new("sleep");
        let mut process = netns.command(sleep.arg("60")).unwrap().spawn().unwrap();
        let of_process = NetNs::of_process(process.id()).unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
        assert_eq!(of_process.run(id).unwrap(), inside);
    });
}
