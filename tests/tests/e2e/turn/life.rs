//! A server's life: started by anybody, changed while it runs, ended without cutting anybody off.

use super::session::Session;
use super::*;
use anode_turn::client::{Event, Why};
use std::thread;

fn refusal(event: &Event) -> Option<u16> {
    match event {
        Event::Ended {
            why: Why::Refused { code, .. },
            ..
        } => Some(*code),
        _ => None,
    }
}

// T4, T6: a reload changes users and limits, and touches no allocation; a wrong file changes nothing
#[test]
fn a_reload_keeps_allocations() {
    let Some(mut world) = World::start(Family::V4, "") else {
        return;
    };
    let mut session = Session::allocated(&world.client, world.own());
    let peer = world.peer_at();
    session.permit(peer.ip());
    assert!(session.echoes(peer, b"before"));

    let leaf = world
        .authority
        .leaf("second", &format!("IP:{}", world.ip()), 2, &EC);
    world.reload(&leaf, "quota = { allocations-per-user = 1 }");
    let reloaded = world.server.wait_stderr_line("", LIMIT);
    reloaded.unwrap_or_else(|why| panic!("{why}"));
    let deadline = Instant::now() + LIMIT;
    loop {
        let mut second = Session::start(&world.client, world.own(), "alice");
        let event = second.until(|e| matches!(e, Event::Allocated { .. } | Event::Ended { .. }));
        // T3: the second allocation of one name
        if refusal(&event) == Some(486) {
            break;
        }
        assert!(Instant::now() < deadline, "{event:?}");
    }
    assert!(session.echoes(peer, b"after"));

    fs::write(&world.config, "[turn]\nlisten = [\"nowhere\"]\n").expect("written");
    world.server.signal(Signal::SIGHUP);
    thread::sleep(Duration::from_millis(500));
    assert!(world.server.running() && session.echoes(peer, b"still"));
    assert!(
        world.server.stderr().contains("stays as it was"),
        "{}",
        world.server.stderr()
    );
}

#[test]
fn a_server_drains_before_it_ends() {
    let Some(mut world) = World::start(Family::V4, "drain-s = 3") else {
        return;
    };
    let mut session = Session::allocated(&world.client, world.own());
    let peer = world.peer_at();
    session.permit(peer.ip());
    let asked = Instant::now();
    world.server.signal(Signal::SIGTERM);
    thread::sleep(Duration::from_millis(300));
    let mut second = Session::start(&world.client, world.own(), "alice");
    let event = second.until(|e| matches!(e, Event::Ended { .. }));
    assert_eq!(refusal(&event), Some(508));
    assert!(session.echoes(peer, b"while it drains"));
    let status = world.server.wait(Duration::from_secs(10)).expect("it ends");
    let took = asked.elapsed();
    assert!(status.success(), "{}", world.server.stderr());
    assert!(took > Duration::from_secs(2), "{took:?}");
}

#[test]
fn a_server_without_clients_ends_at_once() {
    let Some(mut world) = World::start(Family::V4, "") else {
        return;
    };
    world.server.signal(Signal::SIGTERM);
    let status = world.server.wait(Duration::from_secs(5)).expect("it ends");
    assert!(status.success());
}

// U3, U13: an ordinary user with no rights, no home and no state directory; one line is all that is said
#[test]
fn anybody_may_run_a_server() {
    let Some(ground) = Ground::open(Family::V4) else {
        return;
    };
    let Ground { at, client, .. } = &ground;
    let config = ground.file(&format!(
        "[turn]\nlisten = [\"{}\"]\nusers = {{ alice = \"secret\" }}\n",
        ground.own()
    ));
    let mut relay = command("setpriv");
    relay
        .args([
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            "--inh-caps=-all",
        ])
        .args(["--bounding-set=-all", "env", "-i"])
        .arg(anode_binary())
        .args(["relay", "-c", text(&config)]);
    let mut server = at.start(relay);
    let line = server.wait_stderr_line("ready", LIMIT);
    line.unwrap_or_else(|why| panic!("{why}"));
    assert_eq!(server.stderr().lines().count(), 1, "{}", server.stderr());
    let uri = format!("turn:{}:{PORT}", at.ip_address());
    let mut arguments = vec!["turn", "check", &uri, "--json"];
    arguments.extend(ALICE);
    assert_eq!(json(&anode(client, &arguments))["ok"], true);
    // T2: the port is taken now, and that is said with the address
    let second = anode(at, &["relay", "-c", text(&config)]);
    assert_eq!(second.code(), 1);
    assert!(
        second
            .stderr
            .contains(&format!("{}:{PORT}", at.ip_address())),
        "{}",
        second.stderr
    );
}

// No line of a log and no message holds a password or a secret
#[test]
fn passwords_are_never_written() {
    let Some(ground) = Ground::open(Family::V4) else {
        return;
    };
    let Ground { at, client, .. } = &ground;
    let own = ground.own();
    let lines =
        |users: &str| format!("[turn]\nlisten = [\"{own}\"]\nrest-secret = \"hunter1\"\n{users}\n");
    let config = ground.file(&lines("users = { alice = \"hunter2\" }"));
    let mut relay = command(anode_binary());
    relay.args(["relay", "-c", text(&config), "--log", "trace"]);
    let mut server = at.start(relay);
    let ready = server.wait_stderr_line("ready", LIMIT);
    ready.unwrap_or_else(|why| panic!("{why}"));
    let uri = format!("turn:{}:{PORT}", at.ip_address());
    let mut said = String::new();
    for (user, password) in [
        ("alice", "hunter2"),
        ("alice", "hunter3"),
        ("bob", "hunter4"),
    ] {
        for form in [&["--json"][..], &[]] {
            let mut arguments = vec![
                "turn",
                "check",
                &uri,
                "--user",
                user,
                "--password",
                password,
            ];
            arguments.extend(form);
            let done = anode(client, &arguments);
            said += &(done.stdout() + &done.stderr);
        }
    }
    let with_password = format!("turn:alice:hunter5@{}", at.ip_address());
    let done = anode(client, &["turn", "check", &with_password]);
    assert_eq!(done.code(), 2, "{}", done.stderr);
    said += &done.stderr;
    // A reload that fails tells of it.
    fs::write(&config, lines("users = { alice = [\"hunter6\"] }")).expect("written");
    server.signal(Signal::SIGHUP);
    thread::sleep(Duration::from_millis(500));
    said += &server.stderr();
    assert!(said.contains("stays as it was"), "{said}");
    assert!(!said.contains("hunter"), "{said}");
}
