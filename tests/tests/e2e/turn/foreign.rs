//! Against coturn: its client on our server, our client on its server.

use super::*;
use anode_tests::traffic;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use std::io::{Read, Write};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;

/// What each of coturn's clients sends: two sessions, or one and its second beside it ("RTCP", a port above); 20 messages each.
const MESSAGES: u64 = 2 * 20;

/// coturn's client against our server, to the echo: nothing may be lost. All ways side by side: each takes some seconds,
/// most of them waiting.
#[track_caller]
fn uclients(world: &World, ways: &[Vec<&str>]) {
    let start = |arguments: &Vec<&str>| {
        let mut client = command(programs::need("turnutils_uclient"));
        let peer = world.peer.ip_address().to_string();
        client
            .args([
                "-u",
                "alice",
                "-w",
                "secret",
                "-e",
                &peer,
                "-r",
                &ECHO.to_string(),
            ])
            .args(["-n", "20", "-m", "2", "-z", "5"])
            .args(arguments)
            .arg(world.ip().to_string());
        world.client.start(client)
    };
    let running: Vec<Proc> = ways.iter().map(start).collect();
    for (client, arguments) in running.into_iter().zip(ways) {
        let done = client.finish(Duration::from_secs(60));
        let said = format!("{}{}", done.stdout(), done.stderr);
        // On a TLS connection to a peer it takes each record for one message, and a stream has no messages: bytes count.
        let (unit, all) = match arguments.contains(&"-T") && arguments.contains(&"-S") {
            true => ("bytes ~ ", None),
            false => ("msgs=", Some(MESSAGES)),
        };
        let counted = |what: &str| number_behind(&said, &format!("tot_{what}_{unit}"));
        let (sent, received) = (counted("send"), counted("recv"));
        let fine = sent == received && sent > Some(0) && all.is_none_or(|all| sent == Some(all));
        assert!(fine, "turnutils_uclient {arguments:?}:\n{said}");
    }
}

/// The number behind the last of these words.
fn number_behind(said: &str, words: &str) -> Option<u64> {
    let (_, behind) = said.rsplit_once(words)?;
    let digits = behind.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// A machine so busy that the server runs for a few milliseconds now and then, and finds much waiting each time.
fn hold_up(server: &Proc, meanwhile: impl FnOnce()) {
    let pid = Pid::from_raw(server.pid().cast_signed());
    let (over, is_over) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            while is_over.recv_timeout(Duration::from_millis(5)) == Err(RecvTimeoutError::Timeout) {
                kill(pid, Signal::SIGSTOP).expect("it runs");
                thread::sleep(Duration::from_millis(60));
                kill(pid, Signal::SIGCONT).expect("it runs");
            }
        });
        meanwhile();
        drop(over);
    });
}

// T4, T13, T17: channels and Sends, sizes that need padding, over every transport
#[test]
fn coturns_client_loses_nothing_on_our_server() {
    let Some(world) = World::start(Family::V4, "") else {
        return;
    };
    let (plain, tls) = (PORT.to_string(), TLS_PORT.to_string());
    uclients(
        &world,
        &[
            vec!["-p", &plain],
            vec!["-p", &plain, "-l", "101"],
            vec!["-p", &plain, "-s", "-l", "203"],
            vec!["-p", &plain, "-t"],
            vec!["-p", &plain, "-t", "-l", "101"],
            vec!["-p", &plain, "-t", "-s", "-l", "203"],
            vec!["-p", &tls, "-t", "-S"],
            vec!["-p", &tls, "-t", "-S", "-s", "-l", "101"],
            vec!["-p", &tls, "-S"],
            vec!["-p", &tls, "-S", "-l", "101"],
            vec!["-p", &plain, "-g"],
        ],
    );
}

// Several datagrams come back in one turn of the server: over TLS, each needs a record of its own
#[test]
fn coturns_client_loses_nothing_although_our_server_is_held_up() {
    let Some(world) = World::start(Family::V4, "") else {
        return;
    };
    let (plain, tls) = (PORT.to_string(), TLS_PORT.to_string());
    hold_up(&world.server, || {
        uclients(
            &world,
            &[
                vec!["-p", &plain, "-l", "101"],
                vec!["-p", &plain, "-t", "-l", "101"],
                vec!["-p", &tls, "-t", "-S"],
                vec!["-p", &tls, "-t", "-S", "-s", "-l", "101"],
                vec!["-p", &tls, "-S", "-l", "101"],
            ],
        );
    });
}

#[test]
fn coturns_client_reaches_our_server_over_ipv6() {
    let Some(world) = World::start(Family::V6, "") else {
        return;
    };
    tcp_echo(&world);
    let (plain, tls) = (PORT.to_string(), TLS_PORT.to_string());
    uclients(
        &world,
        &[
            vec!["-x", "-p", &plain, "-l", "101"],
            vec!["-x", "-p", &plain, "-t", "-s", "-l", "203"],
            vec!["-x", "-p", &tls, "-t", "-S"],
            vec!["-x", "-p", &tls, "-S", "-l", "101"],
            vec!["-x", "-T", "-c", "-p", &plain, "-l", "101"],
        ],
    );
}

/// A TCP server that sends back what it hears.
fn tcp_echo(world: &World) {
    let listener = traffic::listen(&world.peer, world.peer_at());
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let (mut from, mut to) = (stream.try_clone().expect("a handle"), stream);
                let mut buffer = [0; 4096];
                while let Ok(length @ 1..) = from.read(&mut buffer) {
                    if to.write_all(&buffer[..length]).is_err() {
                        break;
                    }
                }
            });
        }
    });
}

// T9
#[test]
fn coturns_client_relays_tcp_through_our_server() {
    let Some(world) = World::start(Family::V4, "") else {
        return;
    };
    tcp_echo(&world);
    let (plain, tls) = (PORT.to_string(), TLS_PORT.to_string());
    uclients(
        &world,
        &[
            vec!["-T", "-c", "-p", &plain],
            vec!["-T", "-c", "-p", &plain, "-l", "101"],
            vec!["-T", "-c", "-S", "-p", &tls],
            vec!["-T", "-c", "-S", "-p", &tls, "-l", "203"],
        ],
    );
}

/// coturn's server on the host of ours, on other ports.
fn coturn(world: &World) -> Proc {
    let leaf = world
        .authority
        .leaf("coturn", &format!("IP:{}", world.ip()), 2, &EC);
    let mut server = command(programs::need("turnserver"));
    server
        .args([
            "-n",
            "--log-file",
            "stdout",
            "--no-cli",
            "--lt-cred-mech",
            "--fingerprint",
        ])
        .args(["--user", "alice:secret", "--realm", "example.org"])
        .args(["--listening-port", "13478", "--tls-listening-port", "15349"])
        .args([
            "--listening-ip",
            &world.ip().to_string(),
            "--relay-ip",
            &world.ip().to_string(),
        ])
        .args(["--cert", text(&leaf.certificate), "--pkey", text(&leaf.key)])
        .arg("--pidfile")
        .arg(world.lab.directory().join("coturn.pid"))
        .arg("--userdb")
        .arg(world.lab.directory().join("coturn.db"));
    world.at.start(server)
}

// T40: our client lets a peer in before anything is sent, and binds a channel the same way
#[test]
fn our_client_works_on_coturn() {
    let Some(world) = World::start(Family::V4, "") else {
        return;
    };
    let mut server = coturn(&world);
    let deadline = Instant::now() + LIMIT;
    let ip = world.ip();
    let ca = &world.authority.certificate;
    let plain = format!("turn:{ip}:13478");
    while check(&world.client, &plain, ca)["ok"] != true {
        assert!(
            server.running() && Instant::now() < deadline,
            "{}",
            server.stdout()
        );
        thread::sleep(Duration::from_millis(100));
    }
    for uri in [
        plain.clone(),
        format!("{plain}?transport=tcp"),
        format!("turns:{ip}:15349"),
        format!("turns:{ip}:15349?transport=udp"),
    ] {
        let report = check(&world.client, &uri, ca);
        assert_eq!(report["ok"], true, "{report}");
        for how in [
            &["--via", "channel", "--size", "101"],
            &["--via", "send", "--size", "999"],
        ] {
            expect_all(&send(&world.client, &uri, world.peer_at(), text(ca), how));
        }
    }
}
