//! What the file says is what clients meet: other servers, limits, the server's name.

use super::session::Session;
use super::*;
use anode_tests::traffic;
use anode_turn::client::Event;
use anode_turn::stun::{Class, Message, Writer, attr, method};

// T29: sent to the server of the family that asks, with the name its certificate carries; at once, or when it is full
#[test]
fn clients_are_sent_elsewhere_in_the_family_in_which_they_ask() {
    let Some(ground) = Ground::open(Family::Both) else {
        return;
    };
    let at = &ground.at;
    let own: [SocketAddr; 2] = [(at.v4(), PORT).into(), (at.v6(), PORT).into()];
    let head = format!(
        "[turn]\nlisten = [\"{}\", \"{}\"]\nusers = {{ alice = \"secret\" }}\nquota = {{ allocations = 1 }}\n\
         alternate = [\"[2001:db8:1::99]:3478\", \"192.0.2.99:3478\"]\nalternate-domain = \"turn.example.net\"\n",
        own[0], own[1]
    );
    let lines = |when: &str| format!("alternate-when = \"{when}\"");
    let elsewhere = |server: &str| Event::Redirect {
        server: server.parse().expect("an address"),
        domain: Some("turn.example.net".to_owned()),
    };
    let meets = |from: SocketAddr| {
        let mut session = Session::start(&ground.client, from, "alice");
        let met = |e: &Event| matches!(e, Event::Redirect { .. } | Event::Allocated { .. });
        (session.until(met), session)
    };
    let mut server = ground.serve_with(head, &lines("always"));
    let expected = ["192.0.2.99:3478", "[2001:db8:1::99]:3478"].map(elsewhere);
    assert_eq!(own.map(|from| meets(from).0), expected);
    server.reread(&lines("full"));
    let (first, _held) = meets(own[0]);
    assert!(matches!(first, Event::Allocated { .. }), "{first:?}");
    assert_eq!(own.map(|from| meets(from).0), expected);
}

// T8: each of the three rates holds what passes, from the moment the file says so, and of an allocation that stands
#[test]
fn rates_of_the_file_hold() {
    const BURST: usize = 60;
    let Some(ground) = Ground::open(Family::V4) else {
        return;
    };
    let (_echo, echo) = ground.echo();
    let mut server = ground.serve("");
    let mut session = Session::allocated(&ground.client, ground.own());
    session.permit(echo.ip());
    // 60 kB out and as much back.
    let mut echoed = || session.count_echoes(echo, BURST, Duration::from_millis(300));
    assert_eq!(echoed(), BURST);
    for rate in ["kbps-per-allocation", "kbps-per-user", "kbps"] {
        server.reread(&format!("quota = {{ {rate} = 400 }}"));
        let passed = echoed();
        assert!((1..BURST / 2).contains(&passed), "{rate}: {passed}");
    }
    server.reread("");
    assert_eq!(echoed(), BURST);
}

// T25: the name of the program is told only if one is configured
#[test]
fn the_name_of_the_program_is_told_as_the_file_says() {
    let Some(ground) = Ground::open(Family::V4) else {
        return;
    };
    let client = &ground.client;
    let told = || {
        let socket = traffic::udp(client, SocketAddr::new(client.ip_address(), 0));
        socket.connect(ground.own()).expect("a way there");
        socket.set_read_timeout(Some(LIMIT)).expect("a timeout");
        let request = Writer::new(Class::Request, method::BINDING, [5; 12]).finish();
        socket.send(&request).expect("sent");
        let mut buffer = [0; 1024];
        let length = socket.recv(&mut buffer).expect("an answer");
        let answer = Message::parse(&buffer[..length]).expect("STUN");
        answer.raw(attr::SOFTWARE).map(<[u8]>::to_vec)
    };
    let mut server = ground.serve("software = \"\"");
    assert_eq!(told(), None);
    server.reread("software = \"somebody 1.0\"");
    assert_eq!(told(), Some(b"somebody 1.0".to_vec()));
}

// T29, T35: our client goes where it is sent, and holds the certificate there to the name that came along
#[test]
fn a_client_goes_where_it_is_sent() {
    let Some(world) = World::start(Family::V4, "") else {
        return;
    };
    let second = world.lan.host("second");
    let there = second.ip_address();
    let leaf = |name: &str, names: &str| world.authority.leaf(name, names, 2, &EC);
    let config = world.lab.directory().join("second.toml");
    let lines = World::config(there, &leaf("there", "DNS:there.test"), "");
    fs::write(&config, lines).expect("written");
    let _second = serve(&second, &config);
    let here = leaf("here", &format!("IP:{}", world.ip()));
    let send_on = |domain: &str| {
        let elsewhere = format!(
            "alternate = [\"{there}:{PORT}\"]\nalternate-tls = [\"{there}:{TLS_PORT}\"]\nalternate-when = \"always\"\n{domain}"
        );
        world.reload(&here, &elsewhere);
    };
    let relayed = |transport: &str| {
        let report = world.check(&world.uri(transport));
        let relayed = report["relayed"].as_str().unwrap_or_default();
        relayed.parse().ok().map(|at: SocketAddr| at.ip())
    };
    send_on("alternate-domain = \"there.test\"");
    let deadline = Instant::now() + LIMIT;
    while relayed("udp") != Some(there) {
        assert!(Instant::now() < deadline, "never sent on");
    }
    for transport in ["tcp", "tls", "dtls"] {
        assert_eq!(relayed(transport), Some(there), "{transport}");
    }
    // Without the name, the one of before is asked for, which is not on that certificate.
    send_on("");
    let deadline = Instant::now() + LIMIT;
    while relayed("tls").is_some() {
        assert!(Instant::now() < deadline, "believed without its name");
    }
    assert_eq!((relayed("dtls"), relayed("udp")), (None, Some(there)));
}

// T4: the lowest version of TLS is the file's
#[test]
fn versions_of_tls_below_the_lowest_are_refused() {
    let Some(world) = World::start(Family::V4, "") else {
        return;
    };
    let agreed = |version: &str| {
        let mut openssl = command(programs::need("openssl"));
        let at = SocketAddr::new(world.ip(), TLS_PORT).to_string();
        openssl
            .args(["s_client", version, "-connect", &at, "-CAfile"])
            .arg(&world.authority.certificate);
        let said = world.client.finish(openssl, LIMIT).stdout();
        said.contains("Verify return code: 0 (ok)") && !said.contains("Cipher is (NONE)")
    };
    assert!(agreed("-tls1_2") && agreed("-tls1_3"));
    let file = fs::read_to_string(&world.config).expect("the file");
    let lines = file.replace(" }\nallow-peers", ", min-version = \"1.3\" }\nallow-peers");
    assert_ne!(lines, file);
    fs::write(&world.config, lines).expect("written");
    world.server.signal(Signal::SIGHUP);
    let deadline = Instant::now() + LIMIT;
    while agreed("-tls1_2") {
        assert!(Instant::now() < deadline, "TLS 1.2 is agreed on still");
    }
    assert!(agreed("-tls1_3"));
    assert_eq!(world.check(&world.uri("dtls"))["ok"], true, "DTLS 1.3");
}
