//! From a name to a server: NAPTR, SRV and addresses of a real DNS server.

use super::*;
use std::process::Command;

/// The C library and our own lookups, as if the machine had this resolv.conf.
fn resolving(world: &World, dns: SocketAddr, arguments: &[&str]) -> Command {
    let file = world.lab.directory().join("resolv.conf");
    fs::write(&file, format!("nameserver {}\n", dns.ip())).expect("written");
    let hosts = world.lab.directory().join("nsswitch.conf");
    fs::write(&hosts, "hosts: files dns\n").expect("written");
    let script = "mount --bind \"$1\" /etc/resolv.conf && mount --bind \"$2\" /etc/nsswitch.conf && shift 2 && exec \"$@\"";
    let mut made = command("unshare");
    made.args([
        "--mount",
        "sh",
        "-c",
        script,
        "sh",
        text(&file),
        text(&hosts),
    ])
    .arg(anode_binary())
    .args(arguments);
    made
}

// T36: S-NAPTR, then SRV, then addresses; without NAPTR, SRV of each transport; without SRV, the host
#[test]
fn a_name_leads_to_its_servers() {
    let Some(world) = World::start(Family::V4, "") else {
        return;
    };
    let ip = world.ip();
    let at = SocketAddr::new(world.peer.ip_address(), 53);
    let records = [
        format!("--host-record=box.test,{ip}"),
        format!("--host-record=turn.test,{ip}"),
        // naptr.test: TLS first, then UDP
        "--naptr-record=naptr.test,10,0,s,RELAY:turn.tls,,_turns._tcp.naptr.test".into(),
        "--naptr-record=naptr.test,20,0,s,RELAY:turn.udp,,_turn._udp.naptr.test".into(),
        "--srv-host=_turns._tcp.naptr.test,turn.test,1,0,0".into(),
        format!("--srv-host=_turn._udp.naptr.test,box.test,{PORT},0,0"),
        // srv.test: a server that is not there first
        "--srv-host=_turn._udp.srv.test,box.test,9,1,0".into(),
        format!("--srv-host=_turn._udp.srv.test,box.test,{PORT},2,0"),
        format!("--srv-host=_turn._tcp.srv.test,box.test,{PORT},0,0"),
        format!("--srv-host=_turns._tcp.turn.test,turn.test,{TLS_PORT},0,0"),
        format!("--srv-host=_stun._udp.srv.test,box.test,{PORT},0,0"),
    ];
    let dns = programs::dnsmasq(&world.peer, at, &records);
    let ca = text(&world.authority.certificate);
    let check = |uri: &str| {
        let mut arguments = vec!["turn", "check", uri, "--json", "--ca", ca];
        arguments.extend(ALICE);
        json(
            &world
                .client
                .finish(resolving(&world, at, &arguments), LIMIT),
        )
    };
    let steps = |report: &Value| -> Vec<String> {
        let steps = report["steps"].as_array().expect("steps");
        let show = |step: &Value| {
            let mark = if step["ok"] == true { "" } else { "!" };
            format!("{mark}{}", step["step"].as_str().expect("a name"))
        };
        steps.iter().map(show).collect()
    };
    for (uri, expected) in [
        (
            "turn:box.test",
            vec!["resolve", "binding", "allocate", "release"],
        ),
        (
            "turn:srv.test",
            vec!["resolve", "!binding", "binding", "allocate", "release"],
        ),
        (
            "turn:srv.test?transport=tcp",
            vec!["resolve", "connect", "binding", "allocate", "release"],
        ),
        (
            "turn:naptr.test",
            vec!["resolve", "binding", "allocate", "release"],
        ),
        (
            "turns:turn.test",
            vec![
                "resolve", "connect", "tls", "binding", "allocate", "release",
            ],
        ),
        ("stun:srv.test", vec!["resolve", "binding"]),
        ("turn:nobody.test", vec!["!resolve"]),
    ] {
        let report = check(uri);
        assert_eq!(steps(&report), expected, "{uri}: {report}");
        assert_eq!(report["ok"], uri != "turn:nobody.test", "{report}");
    }
    // An explicit port: no SRV is asked for.
    let with_port = format!("turn:box.test:{PORT}");
    assert_eq!(check(&with_port)["ok"], true);
    let log = dns.stderr();
    let asked = |kind: &str, name: &str| log.contains(&format!("query[{kind}] {name} "));
    for (kind, name) in [
        ("NAPTR", "naptr.test"),
        ("SRV", "_turn._udp.naptr.test"),
        ("NAPTR", "srv.test"),
        ("SRV", "_turn._udp.srv.test"),
        ("SRV", "_turn._tcp.srv.test"),
        ("SRV", "_turns._tcp.turn.test"),
        ("SRV", "_stun._udp.srv.test"),
    ] {
        assert!(asked(kind, name), "{kind} {name} was not asked:\n{log}");
    }
    // `turn:` speaks no TLS, whatever the NAPTR offers.
    assert!(!asked("SRV", "_turns._tcp.naptr.test"), "{log}");
}
