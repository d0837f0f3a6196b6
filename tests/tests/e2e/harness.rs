//! The lab itself, proven on plain links without any anode.

use anode_tests::capture::{Capture, Datagram, Forger};
use anode_tests::lab::delay::{Bottleneck, Conditions, long_line};
use anode_tests::lab::{Family, Host, Lab, Lan, Ns, command};
use anode_tests::{programs, traffic};
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

#[test]
fn hosts_of_a_lan_reach_each_other_over_both_families() {
    let Some(lab) = Lab::open() else { return };
    let lan = Lan::new(&lab, Family::Both);
    let (a, b) = (lan.host("a"), lan.host("b"));
    for target in [IpAddr::V4(b.v4()), IpAddr::V6(b.v6())] {
        assert_eq!(programs::ping(&a, target, 56, 3).received, 3, "{target}");
    }
    lan.unplug(&b);
    assert_eq!(programs::ping(&a, b.v4().into(), 56, 1).received, 0);
    lan.plug(&b);
    programs::first_ping(&a, b.v4().into(), Duration::from_secs(5));
}

#[test]
fn a_lan_of_one_family_has_no_address_of_the_other() {
    let Some(lab) = Lab::open() else { return };
    let addresses = |host: &Host| -> Vec<IpAddr> {
        let index = host.index("eth0");
        let found = host.netlink(|netlink| netlink.addresses(Some(index)));
        found.iter().map(|a| a.prefix.address()).collect()
    };
    let (four, local) = (
        Lan::new(&lab, Family::V4),
        Lan::new(&lab, Family::LinkLocal),
    );
    assert_eq!(
        addresses(&four.host("four")),
        [IpAddr::V4([192, 0, 2, 1].into())]
    );
    let found = addresses(&local.host("local"));
    assert!(
        matches!(found[..], [IpAddr::V6(one)] if one.is_unicast_link_local()),
        "{found:?}"
    );
}

#[test]
fn namespaces_are_apart_and_end_with_what_runs_in_them() {
    let Some(_lab) = Lab::open() else { return };
    let pid = {
        let ns = Ns::new("short");
        assert_eq!(ns.interfaces(), ["lo"]);
        let mut shell = command("sh");
        // A grandchild in a session of its own, out of reach of the process group.
        shell.args(["-c", "setsid sleep 1000 & echo $!; wait"]);
        let mut process = ns.start(shell);
        let line = process
            .wait_stdout_line("", Duration::from_secs(5))
            .expect("the shell prints a process id");
        assert!(process.running());
        line.trim().parse::<u32>().expect("a process id")
    };
    let deadline = Instant::now() + Duration::from_secs(2);
    while std::fs::read_to_string(format!("/proc/{pid}/cmdline"))
        .is_ok_and(|line| line.contains("sleep"))
    {
        assert!(
            Instant::now() < deadline,
            "the grandchild survived its namespace"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn ordinary_programs_work_over_a_plain_link() {
    let Some(lab) = Lab::open() else { return };
    let lan = Lan::new(&lab, Family::Both);
    let (a, b) = (lan.host("a"), lan.host("b"));
    let at = |port| SocketAddr::new(b.v6().into(), port);

    std::fs::write(lab.directory().join("file"), "hello").expect("a file");
    let _http = programs::http_server(&b, at(80), lab.directory());
    assert_eq!(
        programs::curl(
            &a,
            &format!("http://{}/file", at(80)),
            Duration::from_secs(5)
        )
        .expect_ok()
        .out,
        b"hello"
    );

    let sshd = programs::Sshd::start(&b, at(22), lab.directory());
    let done = a.finish(sshd.client("echo over ssh"), Duration::from_secs(15));
    assert_eq!(done.stdout(), "over ssh\n", "{done}\n{}", sshd.log());

    let _iperf = programs::iperf3_server(&b, at(5201));
    assert!(programs::iperf3(&a, at(5201), 1, &[]).bits_per_second > 1e7);
    let udp = programs::iperf3(
        &a,
        at(5201),
        1,
        &["--udp", "--bitrate", "10M", "--length", "1000"],
    );
    assert!(udp.packets > 500 && udp.lost_percent < 50.0, "{udp:?}");

    let answer = "2001:db8::53".parse().expect("an address");
    let _dns = programs::dns_server(&b, at(53), "host.test", answer);
    assert_eq!(programs::dig(&a, at(53), "host.test"), [answer]);
}

#[test]
fn sockets_of_a_namespace_carry_streams_and_datagrams() {
    let Some(lab) = Lab::open() else { return };
    let lan = Lan::new(&lab, Family::V4);
    let (a, b) = (lan.host("a"), lan.host("b"));
    let address = SocketAddr::new(b.v4().into(), 9000);

    let (near, far) = traffic::pair(&a, &b, address);
    let receiver = std::thread::spawn(move || traffic::receive_all(far));
    let sent = traffic::send_noise(&near, 1, 10_000_000).expect("sent");
    drop(near);
    assert_eq!(
        receiver.join().expect("no panic").expect("received"),
        (10_000_000, sent)
    );

    let _echo = traffic::UdpEcho::start(&b, address);
    let socket = traffic::udp(&a, SocketAddr::new(a.v4().into(), 0));
    socket.send_to(b"abc", address).expect("sent");
    let mut buffer = [0; 10];
    assert_eq!(socket.recv_from(&mut buffer).expect("echoed"), (3, address));
}

#[test]
fn the_switch_sees_datagrams_and_a_forged_one_arrives() {
    let Some(lab) = Lab::open() else { return };
    let lan = Lan::new(&lab, Family::V4);
    let (a, b, attacker) = (lan.host("a"), lan.host("b"), lan.host("attacker"));
    a.offload_off();
    let server = traffic::udp(&b, SocketAddr::new(b.v4().into(), 7));
    let capture = Capture::start(lan.switch());
    let client = traffic::udp(&a, SocketAddr::new(a.v4().into(), 1000));
    client
        .send_to(b"real", server.local_addr().expect("bound"))
        .expect("sent");
    let mut buffer = [0; 10];
    server.recv_from(&mut buffer).expect("received");

    let expected = Datagram {
        from: SocketAddrV4::new(a.v4(), 1000),
        to: SocketAddrV4::new(b.v4(), 7),
        payload: b"real".to_vec(),
    };
    let seen = capture.datagrams(1, Duration::from_secs(2));
    assert_eq!(seen.first(), Some(&expected));

    let forged = Datagram {
        payload: b"false".to_vec(),
        ..expected
    };
    Forger::new(&attacker).send(&forged).expect("sent");
    let (size, from) = server.recv_from(&mut buffer).expect("received");
    assert_eq!(
        (&buffer[..size], from),
        (&b"false"[..], SocketAddr::V4(forged.from))
    );
}

#[test]
fn a_long_line_delays_loses_and_damages_nothing() {
    let Some(_lab) = Lab::open() else { return };
    let (near, far, line) = long_line(7);
    let ms = Duration::from_millis;
    line.set(Conditions {
        delay: ms(15),
        ..Conditions::default()
    });
    let pinged = programs::ping(&near, far.v4().into(), 56, 5);
    assert_eq!(pinged.received, 5);
    assert!(
        pinged.rtt_ms.iter().all(|rtt| *rtt >= 30.0),
        "{:?}",
        pinged.rtt_ms
    );

    // Loss takes segments out of super-packets, which makes new ones of the rest: every byte has to arrive all the same.
    line.set(Conditions {
        delay: ms(1),
        loss: 0.01,
        bottleneck: Some(Bottleneck {
            rate: 400e6,
            queue: 1 << 20,
        }),
    });
    let (sender, receiver) = traffic::pair(&near, &far, SocketAddr::new(far.v4().into(), 5_000));
    const SIZE: u64 = 16 << 20;
    let sending = std::thread::spawn(move || traffic::send_noise(sender, 3, SIZE));
    let received = traffic::receive_all(receiver).expect("the stream ends in order");
    let sent = sending.join().expect("the sender does not panic");
    assert_eq!(received, (SIZE, sent.expect("all was sent")));
    let snmp = far.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp"));
    let snmp = snmp.expect("Linux counts");
    let tcp: Vec<Vec<&str>> = snmp
        .lines()
        .filter(|line| line.starts_with("Tcp:"))
        .map(|line| line.split(' ').collect())
        .collect();
    let column = tcp[0].iter().position(|name| *name == "InCsumErrors");
    assert_eq!(tcp[1][column.expect("Linux counts bad checksums")], "0");

    std::thread::sleep(ms(200));
    let counts = line.counts()[0];
    let share = counts.lost as f64 / counts.arrived as f64;
    assert!((0.005..0.02).contains(&share), "{counts:?}");
    assert_eq!(line.refused(), 0);
}
