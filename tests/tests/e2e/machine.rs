//! A machine as people have it: interfaces that somebody else made, two nodes, a file that says everything.

use crate::common::Pair;
use anode_tests::lab::{Family, Host, Lab, Lan, Node, anode_binary, command};
use anode_tests::{programs, traffic};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10);

/// No capability at all, whatever it executes.
const NO_RIGHTS: [&str; 3] = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];

fn ip(host: &Host, line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let mut ip = command(programs::need("ip"));
    ip.args(&words[1..]);
    host.finish(ip, LIMIT).expect_ok();
}

/// The commands that a node has printed for what its interface lacks.
fn missing(log: &str) -> Vec<String> {
    let lines = log.lines().filter_map(|line| line.strip_prefix("missing"));
    lines.map(|line| line.trim().to_owned()).collect()
}

#[test]
fn a_persistent_interface_is_used_as_it_is_and_without_any_right() {
    // U4
    let Some(lab) = Lab::open() else { return };
    let lan = Lan::new(&lab, Family::V4);
    let (host_a, host_b) = (lan.host("a"), lan.host("b"));
    let b = Node::on(&host_b, lab.directory(), "b").start();
    ip(&host_a, "ip tuntap add dev net0 mode tun user root");
    ip(&host_a, "ip link set net0 mtu 1400");
    let mut a = Node::on(&host_a, lab.directory(), "a")
        .args(&["--tun", "net0"])
        .wrapper(&NO_RIGHTS)
        .start();
    let status = a.json(&["status"]);
    assert_eq!(
        (&status["interface"], &status["mtu"]),
        (&"net0".into(), &1400.into())
    );

    // It has touched nothing, and says what is to be done; that done, every program reaches the others.
    let routes = host_a.routes6();
    assert!(
        routes
            .iter()
            .all(|route| route.device.as_deref() != Some("net0")),
        "{routes:?}"
    );
    let commands = missing(&a.log());
    assert_eq!(commands.len(), 3, "{}", a.log());
    for command in &commands {
        ip(&host_a, command);
    }
    a.trust(&b, "b");
    b.trust(&a, "a");
    programs::first_ping(&host_a, b.ipv6().into(), LIMIT);
    let server = SocketAddr::new(a.ipv6().into(), 80);
    let (_near, far) = traffic::pair(&host_b, &host_a, server);
    assert_eq!(
        far.peer_addr().expect("a peer").ip(),
        IpAddr::from(b.ipv6())
    );

    // It goes on with what it finds, and leaves it behind.
    a.terminate().expect_ok();
    assert!(host_a.interfaces().contains(&"net0".to_owned()));
    a.start();
    assert_eq!(missing(&a.log()), [""; 0]);
    programs::first_ping(&host_a, b.ipv6().into(), LIMIT);
}

#[test]
fn an_inherited_descriptor_is_an_interface() {
    // U4: a launcher with more rights makes the interface, and hands over nothing but the descriptor
    let Some(lab) = Lab::open() else { return };
    let lan = Lan::new(&lab, Family::V4);
    let (host_a, host_b) = (lan.host("a"), lan.host("b"));
    let b = Node::on(&host_b, lab.directory(), "b").start();
    let launcher = "import fcntl, os, struct, sys\n\
        tun = os.open('/dev/net/tun', os.O_RDWR)\n\
        fcntl.ioctl(tun, 0x400454ca, struct.pack('16sH22x', b'given0', 0x1001))\n\
        os.dup2(tun, 7)\n\
        os.execvp(sys.argv[1], sys.argv[1:])\n";
    let mut wrapper = vec!["python3", "-c", launcher];
    wrapper.extend(NO_RIGHTS);
    let a = Node::on(&host_a, lab.directory(), "a")
        .args(&["--tun", "fd:7"])
        .wrapper(&wrapper)
        .start();
    assert_eq!(a.json(&["status"])["interface"], "given0");
    for command in missing(&a.log()) {
        ip(&host_a, &command);
    }
    a.trust(&b, "b");
    programs::first_ping(&host_a, b.ipv6().into(), LIMIT);
}

#[test]
fn what_is_no_interface_to_be_used_is_named() {
    // U4
    let Some(lab) = Lab::open() else { return };
    let lan = Lan::new(&lab, Family::V4);
    let host = lan.host("a");
    ip(&host, "ip tuntap add dev many0 mode tun multi_queue");
    let cases = [
        ("none0", 1, "ip tuntap add dev none0 mode tun"),
        ("eth0", 1, "eth0 cannot be used"),
        ("many0", 1, "many0 cannot be used"),
        ("fd:77", 1, "descriptor 77"),
        ("fd:1", 2, "fd:N"),
    ];
    for (given, status, part) in cases {
        let node = Node::on(&host, lab.directory(), "a").args(&["--tun", given]);
        let done = host.finish(node.command(), LIMIT);
        assert_eq!(done.code(), status, "{given}: {done}");
        assert!(done.stderr.contains(part), "{given}: {done}");
    }
}

#[test]
fn two_nodes_of_one_machine_are_in_two_networks_at_once() {
    // U11, U12
    let Some(lab) = Lab::open() else { return };
    let lan = Lan::new(&lab, Family::V4);
    let (machine, home, work) = (lan.host("machine"), lan.host("home"), lan.host("work"));
    let theirs = "zone = \"2a\"\nzone-file = \"none\"";
    let home = (Node::on(&home, lab.directory(), "home").start(), home);
    let work = (
        Node::on(&work, lab.directory(), "work")
            .config(theirs)
            .start(),
        work,
    );
    let mut first = Node::on(&machine, lab.directory(), "first").start();
    let at = format!("udp://{}:8737", work.1.v4());
    let second = Node::on(&machine, lab.directory(), "second")
        .peer(&work.0, &at)
        .config(theirs)
        .config("[dns]\nlisten = \"127.8.7.38\"")
        .start();
    assert!(second.log().contains("beside anode0"), "{}", second.log());
    assert_eq!(first.json(&["status"])["interface"], "anode0");
    assert_eq!(second.json(&["status"])["interface"], "anode1");
    for (one, other) in [(&first, &home.0), (&second, &work.0)] {
        one.trust(other, "other");
        other.trust(one, "machine");
    }

    // Each peer sees the node that belongs to it, whoever asks first; a server's answers leave as they came.
    let both = |first: &Node| {
        for (node, (peer, host)) in [(first, &home), (&second, &work)] {
            programs::first_ping(&machine, peer.ipv6().into(), LIMIT);
            let there = SocketAddr::new(peer.ipv6().into(), 80);
            let (_near, far) = traffic::pair(&machine, host, there);
            assert_eq!(
                far.peer_addr().expect("a peer").ip(),
                IpAddr::from(node.ipv6())
            );
            let here = SocketAddr::new(node.ipv6().into(), 80);
            let (_near, far) = traffic::pair(host, &machine, here);
            assert_eq!(
                far.peer_addr().expect("a peer").ip(),
                IpAddr::from(peer.ipv6())
            );
        }
    };
    both(&first);
    // One ends and comes back, and the other goes on.
    first.terminate().expect_ok();
    assert_eq!(second.ping(work.0.address(), 1), 1);
    first.start();
    assert!(!first.log().contains("beside"), "{}", first.log());
    both(&first);
}

/// What a process's status says under a name.
fn status_of(pid: u32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mut lines = status.lines().filter_map(|line| line.split_once(':'));
    let found = lines.find_map(|(key, value)| (key == name).then(|| value.trim().to_owned()));
    found.unwrap_or_default()
}

/// The processes that keep the routes of `node`.
fn keepers(node: &Node) -> Vec<u32> {
    let words = format!("keep-routes\0anode1\0{}\0", node.ipv6());
    let all = fs::read_dir("/proc").expect("processes").flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).ends_with(&words)
        })
        .collect()
}

#[test]
fn routes_of_a_second_node_follow_the_peers_that_it_comes_to_know() {
    // U11, S27
    let Some(lab) = Lab::open() else { return };
    let lan = Lan::new(&lab, Family::V4);
    let machine = lan.host("machine");
    let others = ["work", "guest", "member"].map(|name| {
        let host = lan.host(name);
        let node = Node::on(&host, lab.directory(), name);
        let node = node.config("zone = \"2a\"\nzone-file = \"none\"");
        (node.start(), host)
    });
    let [(work, work_host), (guest, _), (member, _)] = &others;
    let zone = lab.directory().join("zone");
    let place = zone.to_str().expect("a path");
    let anode = |words: &[&str]| {
        let mut anode = command(anode_binary());
        anode.args(words);
        machine.finish(anode, LIMIT).expect_ok();
    };
    let relay = ["--relay", "192.0.2.99:8737", "--no-dht"];
    anode(&[&["zone", "new", place, "--zone", "2a"][..], &relay].concat());

    let _first = Node::on(&machine, lab.directory(), "first").start();
    let file = zone.join("zone");
    let config = format!("zone = \"2a\"\nzone-file = {file:?}\n[dns]\nlisten = \"127.8.7.38\"");
    let mut second = Node::on(&machine, lab.directory(), "second")
        .config(&config)
        .start();
    assert!(second.log().contains("beside anode0"), "{}", second.log());
    let to_peers = || {
        let routes = machine.routes6().into_iter();
        let routes = routes.filter(|route| {
            let has_no_source = route
                .from
                .is_some_and(|from| from.address().is_unspecified());
            has_no_source && route.device.as_deref() == Some("anode1")
        });
        let mut to: Vec<IpAddr> = routes.map(|route| route.destination.address()).collect();
        to.sort_unstable();
        to
    };
    let all = |peers: &[&Node]| {
        let mut all: Vec<IpAddr> = peers.iter().map(|peer| peer.ipv6().into()).collect();
        all.sort_unstable();
        all
    };
    assert!(to_peers().is_empty());

    second.trust(work, "work");
    assert_eq!(to_peers(), all(&[work]));
    work.trust(&second, "machine");
    programs::first_ping(&machine, work.ipv6().into(), LIMIT);
    let there = SocketAddr::new(work.ipv6().into(), 80);
    let (_near, far) = traffic::pair(&machine, work_host, there);
    assert_eq!(
        far.peer_addr().expect("a peer").ip(),
        IpAddr::from(second.ipv6())
    );

    let ticket = guest.cli(&["invite"]).expect_ok().stdout();
    second.cli(&["join", ticket.trim_end()]).expect_ok();
    assert_eq!(to_peers(), all(&[work, guest]));

    // Members of the zone come and go with its file.
    let before = fs::read_to_string(&file).expect("the zone file");
    let joined = format!("{before}member.one={}\r\n", member.address());
    fs::write(&file, joined).expect("written");
    anode(&["zone", "sign", place]);
    second.cli(&["zone", "refresh"]).expect_ok();
    assert_eq!(to_peers(), all(&[work, guest, member]));
    second.cli(&["distrust", "work"]).expect_ok();
    assert_eq!(to_peers(), all(&[guest, member]));

    // The node itself has no rights, and what keeps its routes no other one; it ends with the node, however that does.
    let pid = second.process().pid();
    assert_eq!(status_of(pid, "CapEff"), "0000000000000000");
    let [keeper] = keepers(&second)[..] else {
        panic!("{:?}", keepers(&second));
    };
    assert_eq!(status_of(keeper, "CapPrm"), "0000000000001000");
    assert_eq!(status_of(keeper, "Seccomp"), "2");
    second.terminate().expect_ok();
    second.wait("its end", LIMIT, || keepers(&second).is_empty());
    second.start();
    assert_eq!(to_peers(), all(&[guest, member]));
    second.kill();
    second.wait("its end", LIMIT, || keepers(&second).is_empty());
}

#[test]
fn flags_hold_for_one_run_and_saved_ones_from_then_on() {
    // U19
    let Some(lab) = Lab::open() else { return };
    let lan = Lan::new(&lab, Family::V4);
    let host = lan.host("a");
    let file = lab.directory().join("anode.toml");
    let before = "# by hand\nname = \"net7\" # ours\n";
    fs::write(&file, before).expect("written");
    let config = file.to_str().expect("a path");
    let interface = |flags: &[&str]| {
        let node = Node::on(&host, lab.directory(), "a");
        let mut node = node.args(&["--config", config]).args(flags).start();
        let status = node.json(&["status"]);
        node.terminate().expect_ok();
        (status["interface"].clone(), status["mtu"].clone())
    };
    assert_eq!(interface(&["--mtu", "1400"]), ("net7".into(), 1400.into()));
    assert_eq!(fs::read_to_string(&file).expect("read"), before);
    assert_eq!(interface(&[]), ("net7".into(), 1280.into()));

    assert_eq!(
        interface(&["--mtu", "1400", "--save"]),
        ("net7".into(), 1400.into())
    );
    assert_eq!(interface(&[]), ("net7".into(), 1400.into()));
    let after = fs::read_to_string(&file).expect("read");
    assert!(after.starts_with(before), "{after}");

    // A start that fails changes no file, and makes none.
    let fresh = lab.directory().join("etc/anode.toml");
    let elsewhere = "udp://192.0.2.99:1";
    for (file, flags) in [
        (&file, ["--mtu", "1500", "--name", "eth0"]),
        (&file, ["--mtu", "1500", "--listen", elsewhere]),
        (&fresh, ["--mtu", "1500", "--listen", elsewhere]),
    ] {
        let mut up = command(anode_binary());
        up.args(["up", "--save", "--state"]);
        up.arg(lab.directory().join("a"))
            .arg("--config")
            .arg(file)
            .args(flags);
        let done = host.finish(up, LIMIT);
        assert_eq!(done.code(), 1, "{flags:?}: {done}");
    }
    assert_eq!(fs::read_to_string(&file).expect("read"), after);
    assert!(!lab.directory().join("etc").exists());
    let mut new = Node::on(&host, lab.directory(), "a")
        .args(&["--config", fresh.to_str().expect("a path")])
        .args(&["--save", "--name", "net8"])
        .start();
    assert_eq!(new.json(&["status"])["interface"], "net8");
    new.terminate().expect_ok();
    let made = fs::read_to_string(&fresh).expect("read");
    assert_eq!(made, "name = \"net8\"\n");

    // Nothing says where to write: not a file of another node.
    let mut up = command(anode_binary());
    up.args(["up", "--save", "--no-tun", "--state"]);
    let done = host.finish(
        {
            up.arg(lab.directory().join("b"));
            up
        },
        LIMIT,
    );
    assert_eq!(done.code(), 2, "{done}");
    assert!(done.stderr.contains("--config"), "{done}");
}

#[test]
fn one_file_lets_a_peer_in_and_names_it_as_the_commands_would() {
    // U19, U14
    let Some(pair) = Pair::start(Family::V4) else {
        return;
    };
    let Pair {
        a,
        host_a,
        lan,
        lab,
        ..
    } = &pair;
    let host = lan.host("c");
    let lines = format!(
        "peer = [\"{0}@udp://{1}:8737\"]\n[names]\nbox = \"{0}\"\n[inbound]\nallow = [\"box tcp/80\"]\n[lan]\nenabled = false",
        a.address(),
        host_a.v4()
    );
    let c = Node::on(&host, lab.directory(), "c").config(&lines).start();
    assert_eq!(c.ping("box", 1), 1);
    a.trust(&c, "c");
    let there = SocketAddr::new(c.ipv6().into(), 80);
    traffic::pair(host_a, &host, there);
    let closed = SocketAddr::new(c.ipv6().into(), 81);
    let _service = traffic::listen(&host, closed);
    traffic::connect(host_a, closed, LIMIT).expect_err("no rule lets it in");
}
