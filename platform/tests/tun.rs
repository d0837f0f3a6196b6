//! The TUN device against the real kernel, each test in a network namespace of its own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod common;

use std::fs::File;
use std::io::ErrorKind;
use std::net::{Ipv6Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Duration;

use anode_platform::netlink::{Netlink, Route, TABLE_MAIN, guard_add, guard_remove};
use anode_platform::netns::NetNs;
use anode_platform::privileges::{self, Capability};
use anode_platform::tun::{
    PeerRoutes, RECEIVE_BUFFER, Sharing, Tun, TunConfig, VnetHeader, is_gone,
};
use anode_platform::wake::{PollFd, PollFlags, poll};
use anode_platform::{PlatformError, Prefix};
use common::packet::{ICMPV6, ICMPV6_CHECKSUM, Packet, UDP, UDP_CHECKSUM, udp};
use common::{
    become_nobody, child, driver_for_everybody, eventually, in_netns, in_netns_and_mounts,
    is_child, make_driver, over_driver, private_mounts, privileged, succeeds,
};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;
use tun::AbstractDevice;

/// Ours, and a peer's.
const HERE: Ipv6Addr = Ipv6Addr::new(0xfda0, 0, 0, 0, 0, 0, 0, 0xa0);
const THERE: Ipv6Addr = Ipv6Addr::new(0xfda0, 0, 0, 0, 0, 0, 0, 0xb0);

/// virtio_net_hdr: the checksum is still to be computed; a UDP super-packet.
const NEEDS_CHECKSUM: u8 = 1;
const GSO_UDP: u8 = 5;

fn config(name: &str) -> TunConfig {
    TunConfig {
        name: name.into(),
        mtu: 1280,
        offload: true,
        addresses: vec![(HERE, 128)],
        routes: vec![("fda0::".parse().unwrap(), 16)],
    }
}

fn plain(name: &str) -> TunConfig {
    TunConfig {
        offload: false,
        ..config(name)
    }
}

fn bind(path: &str) {
    mount(
        Some(path),
        path,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .unwrap();
}

fn remount(path: &str, flags: MsFlags) {
    let flags = flags | MsFlags::MS_BIND | MsFlags::MS_REMOUNT;
    mount(None::<&str>, path, None::<&str>, flags, None::<&str>).unwrap();
}

fn read_only(path: &str) {
    bind(path);
    remount(path, MsFlags::MS_RDONLY);
}

fn exists(name: &str) -> bool {
    Netlink::open().unwrap().link(name).unwrap().is_some()
}

/// The next packet, within five seconds.
fn receive(tun: &Tun) -> (VnetHeader, Packet) {
    let mut buffer = vec![0; RECEIVE_BUFFER];
    let mut fds = [PollFd::new(tun.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut fds, Some(Duration::from_secs(5))).unwrap(), 1);
    let (header, length) = tun.recv(&mut buffer).unwrap();
    (header, Packet::parse(&buffer[..length]))
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind((HERE, 0)).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    socket
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
        assert_eq!(texts, ["fda0::a0/128 dev anode0", "fda0::/16 dev anode0"]);
        assert_eq!(routes[1].source, Some(HERE.into()));
    });
}

#[test]
fn udp_crosses_both_ways_without_offload() {
    in_netns(|| {
        let tun = Tun::create(&plain("anode0")).unwrap();
        assert!(!tun.offload());
        let socket = socket();
        socket.send_to(b"hello", (THERE, 7)).unwrap();
        let (header, packet) = receive(&tun);
        assert_eq!(header, VnetHeader::default());
        assert_eq!((packet.source, packet.destination), (HERE, THERE));
        assert_eq!(packet.next_header, UDP);
        assert_eq!(&packet.payload[8..], b"hello");
        assert!(packet.checksum_is_right());

        let port = socket.local_addr().unwrap().port();
        let reply = Packet {
            source: THERE,
            destination: HERE,
            next_header: UDP,
            payload: udp(7, port, b"world"),
        }
        .with_checksum(UDP_CHECKSUM);
        tun.send(VnetHeader::default(), &reply.to_bytes()).unwrap();
        let mut data = [0; 16];
        let (length, from) = socket.recv_from(&mut data).unwrap();
        assert_eq!(&data[..length], b"world");
        assert_eq!(from, (THERE, 7).into());

        let wrong = VnetHeader {
            flags: NEEDS_CHECKSUM,
            ..VnetHeader::default()
        };
        let error = tun.send(wrong, &reply.to_bytes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    });
}

#[test]
fn udp_crosses_both_ways_with_the_checksum_left_to_the_other_side() {
    in_netns(|| {
        let tun = Tun::create(&config("anode0")).unwrap();
        let socket = socket();
        socket.send_to(b"hello", (THERE, 7)).unwrap();
        let (header, packet) = receive(&tun);
        assert_eq!(header.flags, NEEDS_CHECKSUM);
        assert_eq!(usize::from(header.csum_start), 40);
        assert_eq!(usize::from(header.csum_offset), UDP_CHECKSUM);
        assert_eq!(&packet.payload[8..], b"hello");
        assert!(!packet.checksum_is_right());

        let port = socket.local_addr().unwrap().port();
        let reply = Packet {
            source: THERE,
            destination: HERE,
            next_header: UDP,
            payload: udp(7, port, b"world"),
        }
        .with_partial_checksum(UDP_CHECKSUM);
        tun.send(header, &reply.to_bytes()).unwrap();
        let mut data = [0; 16];
        let length = socket.recv(&mut data).unwrap();
        assert_eq!(&data[..length], b"world");
    });
}

#[test]
fn udp_super_packets_cross_both_ways_in_one_call() {
    in_netns(|| {
        let tun = Tun::create(&config("anode0")).unwrap();
        assert!(
            tun.offloads().udp,
            "this kernel (before 6.2?) has no USO: {:?}",
            tun.offloads()
        );
        let socket = socket();
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::UdpGsoSegment, &1000)
            .unwrap();
        let data: Vec<u8> = (0..4500u32).map(|byte| byte as u8).collect();
        socket.send_to(&data, (THERE, 7)).unwrap();
        let (header, packet) = receive(&tun);
        assert_eq!((header.gso_type, header.gso_size), (GSO_UDP, 1000));
        assert_eq!(packet.payload[8..], data);

        let port = socket.local_addr().unwrap().port();
        let reply = Packet {
            source: THERE,
            destination: HERE,
            next_header: UDP,
            payload: udp(7, port, &data),
        }
        .with_partial_checksum(UDP_CHECKSUM);
        tun.send(header, &reply.to_bytes()).unwrap();
        let mut part = [0; 2000];
        for expected in data.chunks(1000) {
            let length = socket.recv(&mut part).unwrap();
            assert_eq!(part[..length], *expected);
        }
    });
}

#[test]
fn the_kernel_answers_an_echo_request_that_comes_from_the_interface() {
    for config in [config("anode0"), plain("anode0")] {
        in_netns(|| {
            let tun = Tun::create(&config).unwrap();
            let request = Packet {
                source: THERE,
                destination: HERE,
                next_header: ICMPV6,
                payload: [&[128, 0, 0, 0, 0x12, 0x34, 0, 1][..], b"ping"].concat(),
            }
            .with_checksum(ICMPV6_CHECKSUM);
            tun.send(VnetHeader::default(), &request.to_bytes())
                .unwrap();
            let (_, reply) = receive(&tun);
            assert_eq!((reply.source, reply.destination), (HERE, THERE));
            assert_eq!(reply.payload[0], 129);
            assert_eq!(reply.payload[4..], request.payload[4..]);
            assert!(reply.checksum_is_right());
        });
    }
}

#[test]
fn the_kernel_sends_nothing_over_the_interface_on_its_own() {
    in_netns(|| {
        // A router joins more multicast groups and would report them.
        std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        let tun = Tun::create(&config("anode0")).unwrap();
        let mut fds = [PollFd::new(tun.as_fd(), PollFlags::POLLIN)];
        // Router solicitations and multicast reports come within a second (RFC 4861 §6.3.7, RFC 3810 §9.11).
        let ready = poll(&mut fds, Some(Duration::from_millis(1500))).unwrap();
        assert_eq!(ready, 0, "{:?}", receive(&tun));
        let error = tun.recv(&mut [0; 2000]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    });
}

#[test]
fn a_name_in_use_is_refused_whatever_holds_it() {
    in_netns(|| {
        let taken = |name: &str| {
            let error = Tun::create(&plain(name)).unwrap_err();
            assert!(
                matches!(error, PlatformError::NameTaken { .. }),
                "{error:?}"
            );
            assert!(
                error.to_string().contains(name) && !error.is_usage(),
                "{error}"
            );
        };
        let mut netlink = Netlink::open().unwrap();
        netlink.veth_add("veth0", "veth1", None).unwrap();
        taken("veth0");

        let mut unattached = tun::Configuration::default();
        unattached.tun_name("waiting");
        let mut unattached = tun::create(&unattached).unwrap();
        unattached.persist().unwrap();
        taken("waiting");
        drop(unattached);
        taken("waiting");
        assert!(exists("waiting"));

        let _tun = Tun::create(&config("anode0")).unwrap();
        taken("anode0");
    });
}

#[test]
fn bad_names_and_sizes_are_usage_errors_and_leave_nothing() {
    in_netns(|| {
        let before = Netlink::open().unwrap().links().unwrap();
        let too_small = TunConfig {
            mtu: 1279,
            ..config("anode0")
        };
        for bad in [config("a-name-of-16-byt"), config("a b"), too_small] {
            let error = Tun::create(&bad).unwrap_err();
            assert!(error.is_usage(), "{error}");
        }
        assert_eq!(Netlink::open().unwrap().links().unwrap(), before);
    });
}

#[test]
fn a_failure_half_way_leaves_nothing_behind() {
    in_netns(|| {
        let mut twice = config("anode0");
        twice.addresses.push((HERE, 128));
        let error = Tun::create(&twice).unwrap_err();
        assert!(error.to_string().contains("fda0::a0/128"), "{error}");
        assert!(!exists("anode0"));
    });
}

#[test]
fn a_dropped_interface_is_gone_with_its_routes() {
    in_netns(|| {
        drop(Tun::create(&config("anode0")).unwrap());
        assert!(!exists("anode0"));
        let routes = Netlink::open().unwrap().routes(true).unwrap();
        let net = "fda0::/16".parse().unwrap();
        assert!(routes.iter().all(|route| route.destination != net));
    });
}

#[test]
fn the_interface_of_a_killed_process_is_gone() {
    if is_child("killed") {
        let _tun = Tun::create(&config("anode0")).unwrap();
        std::thread::sleep(Duration::from_secs(60));
        panic!("not killed");
    }
    if !privileged() {
        return;
    }
    let netns = NetNs::new().unwrap();
    let present = || netns.run(|| exists("anode0")).unwrap();
    let mut command = child("the_interface_of_a_killed_process_is_gone", "killed");
    let mut process = netns
        .command(&mut command)
        .unwrap()
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("the interface is there", present);
    process.kill().unwrap();
    assert_eq!(process.wait().unwrap().signal(), Some(9));
    eventually("the interface is gone", || !present());
}

#[test]
fn removal_from_outside_is_noticed() {
    in_netns(|| {
        let tun = Tun::create(&config("anode0")).unwrap();
        Netlink::open().unwrap().link_delete(tun.index()).unwrap();
        let mut fds = [PollFd::new(tun.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, Some(Duration::from_secs(5))).unwrap(), 1);
        assert!(is_gone(&tun.recv(&mut [0; 2000]).unwrap_err()));
        assert!(is_gone(
            &tun.send(VnetHeader::default(), &[0; 40]).unwrap_err()
        ));
        assert_eq!(tun.link().unwrap(), None);
    });
}

#[test]
fn a_route_in_the_way_is_refused_by_its_text() {
    let cases = [
        ("fda0::/16", "fda0::/16 dev tailscale0"),
        ("fda0:1::/32", "fda0:1::/32 dev tailscale0"),
        ("fd00::/8", "fd00::/8 dev tailscale0"),
    ];
    for (destination, text) in cases {
        in_netns(|| {
            let other = TunConfig {
                addresses: vec![("2001:db8::1".parse().unwrap(), 64)],
                routes: Vec::new(),
                ..config("tailscale0")
            };
            let other = Tun::create(&other).unwrap();
            let route = Route::to_link(destination.parse().unwrap(), other.index());
            Netlink::open().unwrap().route_add(&route).unwrap();
            let error = Tun::create(&config("anode0")).unwrap_err();
            assert!(
                matches!(&error, PlatformError::RouteConflict { route, .. } if route == text),
                "{error:?}"
            );
            assert!(error.to_string().contains(text), "{error}");
            assert!(!exists("anode0"));
        });
    }
}

// U11
#[test]
fn a_second_node_takes_what_comes_from_its_address_and_new_flows_to_its_peers() {
    in_netns(|| {
        const OTHER: Ipv6Addr = Ipv6Addr::new(0xfda0, 2, 0, 0, 0, 0, 0, 0xc0);
        const ITS_PEER: Ipv6Addr = Ipv6Addr::new(0xfda0, 9, 0, 0, 0, 0, 0, 0xd0);
        let first = Tun::create(&config("anode0")).unwrap();
        let second = TunConfig {
            addresses: vec![(OTHER, 128)],
            ..config("anode1")
        };
        let sharing = Sharing {
            leave: false,
            peers: vec!["fda0:9::/112".parse().unwrap()],
        };
        let second = Tun::create_beside(&second, &sharing).unwrap();
        assert_eq!((first.beside(), second.beside()), (None, Some("anode0")));
        let any = Ipv6Addr::UNSPECIFIED;
        let cases = [
            (any, THERE, &first, HERE),
            (HERE, THERE, &first, HERE),
            (OTHER, THERE, &second, OTHER),
            (any, ITS_PEER, &second, OTHER),
            (HERE, ITS_PEER, &first, HERE),
            (OTHER, ITS_PEER, &second, OTHER),
        ];
        for (from, to, tun, source) in cases {
            let socket = UdpSocket::bind((from, 0)).unwrap();
            socket.send_to(b"hello", (to, 7)).unwrap();
            let packet = receive(tun).1;
            assert_eq!((packet.source, packet.destination), (source, to));
        }
        // Peers come and go: their routes with them, and no others.
        let mut routes = PeerRoutes::open("anode1", OTHER).unwrap();
        let there = Prefix::new(THERE, 124).unwrap().network();
        let its_own = "fda0:9::/112".parse().unwrap();
        let steps = [
            (&[there, its_own][..], &second, &second),
            (&[there, its_own], &second, &second),
            (&[there], &second, &first),
            (&[], &first, &first),
        ];
        for (peers, to_there, to_its_peer) in steps {
            routes.follow(&peers.iter().copied().collect()).unwrap();
            for (to, tun) in [(THERE, to_there), (ITS_PEER, to_its_peer)] {
                let socket = UdpSocket::bind((any, 0)).unwrap();
                socket.send_to(b"hello", (to, 7)).unwrap();
                assert_eq!(receive(tun).1.destination, to, "{peers:?}");
            }
            let socket = UdpSocket::bind((OTHER, 0)).unwrap();
            socket.send_to(b"hello", (THERE, 7)).unwrap();
            assert_eq!(receive(&second).1.source, OTHER, "{peers:?}");
        }
        // The first ends and comes back, and takes its routes again.
        drop(first);
        let first = Tun::create(&config("anode0")).unwrap();
        assert_eq!(first.beside(), None);
    });
}

#[test]
fn default_routes_other_nets_and_refused_supernets_are_no_conflict() {
    in_netns(|| {
        let uplink = TunConfig {
            addresses: vec![("2001:db8::1".parse().unwrap(), 64)],
            routes: vec![("::".parse().unwrap(), 0), ("fda1::".parse().unwrap(), 16)],
            ..config("uplink")
        };
        let _uplink = Tun::create(&uplink).unwrap();
        let mut refused = Route::guard("fc00::/7".parse().unwrap());
        refused.metric = 1024;
        Netlink::open().unwrap().route_add(&refused).unwrap();
        Tun::create(&config("anode0")).unwrap();
    });
}

#[test]
fn the_guard_refuses_what_would_leave_by_the_default_route_and_makes_way_for_the_interface() {
    in_netns(|| {
        let uplink = TunConfig {
            addresses: vec![("2001:db8::1".parse().unwrap(), 64)],
            routes: vec![("::".parse().unwrap(), 0)],
            ..config("uplink")
        };
        let uplink = Tun::create(&uplink).unwrap();
        let socket = UdpSocket::bind(("::", 0)).unwrap();
        socket.send_to(b"leak", (THERE, 7)).unwrap();
        assert_eq!(receive(&uplink).1.destination, THERE);

        let both = ["fda0::/16".parse().unwrap(), "fda1::/16".parse().unwrap()];
        guard_add(&both).unwrap();
        guard_add(&both).unwrap();
        for to in [THERE, "fda1::1".parse().unwrap()] {
            let error = socket.send_to(b"leak", (to, 7)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::HostUnreachable, "{error}");
        }

        let tun = Tun::create(&config("anode0")).unwrap();
        socket.send_to(b"hello", (THERE, 7)).unwrap();
        assert_eq!(receive(&tun).1.destination, THERE);
        drop(tun);
        assert!(socket.send_to(b"leak", (THERE, 7)).is_err());

        guard_remove(&both).unwrap();
        guard_remove(&both).unwrap();
        socket.send_to(b"leak", (THERE, 7)).unwrap();
        assert_eq!(receive(&uplink).1.destination, THERE);
    });
}

#[test]
fn ipv6_is_switched_on_where_the_host_has_it_off_for_new_interfaces() {
    in_netns(|| {
        std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        let tun = Tun::create(&config("anode0")).unwrap();
        socket().send_to(b"hello", (THERE, 7)).unwrap();
        assert_eq!(receive(&tun).1.source, HERE);
    });
}

#[test]
fn where_ipv6_cannot_be_switched_on_the_error_says_how() {
    in_netns_and_mounts(|| {
        std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        read_only("/proc/sys");
        let error = Tun::create(&config("anode0")).unwrap_err();
        assert!(
            matches!(error, PlatformError::Ipv6Disabled { .. }),
            "{error:?}"
        );
        assert!(error.to_string().contains("disable_ipv6=0"), "{error}");
        assert!(!exists("anode0"));
    });
}

#[test]
fn a_missing_and_a_forbidden_driver_are_told_apart() {
    in_netns_and_mounts(|| {
        over_driver(MsFlags::empty());
        let error = Tun::create(&config("anode0")).unwrap_err();
        assert!(matches!(error, PlatformError::TunMissing), "{error:?}");
        assert!(error.to_string().contains("modprobe tun"), "{error}");

        // As where a container's runtime does not pass devices in.
        over_driver(MsFlags::MS_NODEV);
        make_driver(Mode::from_bits_retain(0o666));
        let error = Tun::create(&config("anode0")).unwrap_err();
        assert!(
            matches!(error, PlatformError::TunDenied { .. }),
            "{error:?}"
        );
        assert!(
            error.to_string().contains("/dev/net/tun may not be opened"),
            "{error}"
        );
    });
}

#[test]
fn without_cap_net_admin_the_error_names_it() {
    in_netns(|| {
        privileges::keep_only(&[Capability::SysAdmin, Capability::NetRaw]).unwrap();
        let error = Tun::create(&config("anode0")).unwrap_err();
        assert!(
            matches!(error, PlatformError::NoPermission { .. }),
            "{error:?}"
        );
        assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
    });
}

/// Everything that `anode up` and `anode guard` do with the machine, as an ordinary user with just one capability: what
/// the systemd unit gives.
#[test]
fn cap_net_admin_alone_is_enough() {
    const TEST: &str = "cap_net_admin_alone_is_enough";
    if is_child(TEST) {
        private_mounts();
        driver_for_everybody();
        // ProtectKernelTunables=yes and ReadWritePaths=/proc/sys/net/ipv6/conf.
        read_only("/proc/sys");
        let conf = "/proc/sys/net/ipv6/conf";
        bind(conf);
        remount(conf, MsFlags::empty());
        nix::sys::prctl::set_keepcaps(true).unwrap();
        become_nobody();
        privileges::keep_only(&[Capability::NetAdmin]).unwrap();
        assert!(privileges::has(Capability::NetAdmin) && !privileges::has(Capability::SysAdmin));
        privileges::no_new_privileges().unwrap();
        privileges::no_core_dumps().unwrap();

        let net = ["fda0::/16".parse().unwrap()];
        guard_add(&net).unwrap();
        assert!(std::fs::write("/proc/sys/net/ipv6/bindv6only", "0").is_err());
        std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        let tun = Tun::create(&config("anode0")).unwrap();
        socket().send_to(b"hello", (THERE, 7)).unwrap();
        assert_eq!(receive(&tun).1.source, HERE);
        guard_remove(&net).unwrap();
        return;
    }
    if privileged() {
        let netns = NetNs::new().unwrap();
        succeeds(netns.command(&mut child(TEST, TEST)).unwrap());
    }
}

#[test]
fn a_device_that_was_opened_elsewhere_works_and_what_is_none_is_refused() {
    in_netns(|| {
        let open = |layer, header| {
            let mut inherited = tun::Configuration::default();
            inherited.tun_name("given").layer(layer);
            inherited.platform_config(|platform| {
                platform.vnet_hdr(header);
            });
            let device = tun::create(&inherited).unwrap();
            assert_eq!(device.tun_name().unwrap(), "given");
            // SAFETY: `into_raw_fd` gives the descriptor up to us.
            unsafe { OwnedFd::from_raw_fd(device.into_raw_fd()) }
        };
        for header in [true, false] {
            let mut tun = Tun::from_fd(open(tun::Layer::L3, header)).unwrap();
            assert_eq!((tun.name(), tun.offload()), ("given", header));
            tun.configure(&config("given")).unwrap();
            socket().send_to(b"hello", (THERE, 7)).unwrap();
            assert_eq!(receive(&tun).1.source, HERE);
        }
        let tap = Tun::from_fd(open(tun::Layer::L2, true)).unwrap_err();
        assert!(matches!(tap, PlatformError::NotATun { .. }), "{tap:?}");
        let file = File::open("/dev/null").unwrap();
        let number = file.as_raw_fd();
        let error = Tun::from_fd(file.into()).unwrap_err();
        assert!(error.to_string().contains(&number.to_string()), "{error}");
    });
}
