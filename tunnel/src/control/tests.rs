//! The whole way of a command: client, socket, server, and a data thread that answers from a script.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anode_platform::privileges::{Capability, Confined, Landlock};
use anode_platform::wake::Wake;
use anode_routing::anode::Place;
use anode_routing::overlay::{Failure, PathKind, Via, ViaEndpoint};
use anode_wire::sealed::ticket::Status;
use anode_wire::{Address, Identity, PeerId, Zone};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::client::Client;
use super::listener::{Access, ControlSocket};
use super::server::{Control, InForce, router};
use super::tickets::Desk;
use super::zone::ZoneDesk;
use crate::Error;
use crate::command::{
    Command, DataHandle, LookupReport, MeetReport, PathReport, PeerReport, PingReport,
    StatusReport, Target,
};
use crate::config::{ConfigSource, Security};
use crate::dht::DhtDesk;
use crate::dns::{Names, State};
use crate::names::Given;
use crate::node::ReadyInfo;
use crate::policy::{Inbound, Policy};
use crate::portmap::Portmap;
use crate::state::StateDir;
use crate::state::book::Book;
use crate::state::testing::TestDir;
use crate::tracker::role::Services;
use crate::turn::paths::{TurnDesk, TurnPlan};
use crate::zone::http::Fetcher;
use crate::zone::keeper::Keeper;
use crate::zone::{Members, ZoneFrom};

fn address(number: u8) -> Address {
    let mut scalar = [0; 32];
    scalar[31] = number;
    *Identity::from_scalar(Zone(0), &scalar).unwrap().address()
}

fn via() -> Via {
    Via {
        kind: PathKind::Direct,
        endpoint: ViaEndpoint::Text("udp://192.0.2.1:8737".into()),
        hops: 0,
    }
}

/// What a data thread was told.
#[derive(Debug, PartialEq)]
enum Told {
    Trust(Address),
    /// And how many peers it trusts.
    Policy(usize),
}

/// Answers as a data thread that knows peer 2 and nobody else; returns what it was told of trust.
fn data_thread(commands: Receiver<Command>) -> Vec<Told> {
    let mut told = Vec::new();
    for command in commands {
        match command {
            Command::Status(reply) => {
                let listen = Place::Udp("[::]:8737".parse().unwrap());
                let _ = reply.send(StatusReport {
                    relays: Vec::new(),
                    peers: 3,
                    reachable: 1,
                    streams: 2,
                    listen: vec![listen],
                    tunnelled: 1,
                });
            }
            Command::Peers(reply) => {
                let path = PathReport {
                    relay: None,
                    mtu: 1232,
                    via: via(),
                    rtt: Some(Duration::from_nanos(310_400)),
                    active: true,
                };
                let _ = reply.send(vec![PeerReport {
                    address: address(2),
                    paths: vec![path],
                    sealed: true,
                    pq: true,
                    relayed: None,
                    rx_bytes: 10,
                    tx_bytes: 20,
                }]);
            }
            Command::Ping {
                to, payload, reply, ..
            } => {
                let answer = if to == Target::Address(address(2)) && payload.len() == 56 {
                    Ok(PingReport {
                        rtt: Duration::from_micros(310),
                        via: via(),
                    })
                } else {
                    Err(Failure::NoSuchPeer)
                };
                let _ = reply.send(answer);
            }
            Command::Lookup { target, reply } => {
                let known = target == Target::Address(address(2));
                let _ = reply.send(known.then(|| LookupReport {
                    address: address(2),
                    sources: vec!["lan".into()],
                    endpoints: vec!["udp://192.0.2.1:8737".into()],
                }));
            }
            Command::AddPeer { reply, .. } => drop(reply),
            Command::Trust { address, reply } => {
                told.push(Told::Trust(address));
                let _ = reply.send(());
            }
            Command::SetRelays { reply, .. } => reply.send(()).unwrap(),
            Command::SetPolicy { policy, reply } => {
                told.push(Told::Policy(policy.trusted.len()));
                let _ = reply.send(());
            }
            Command::Relay(reply) => {
                let _ = reply.send(None);
            }
            Command::Counters(reply) => {
                let _ = reply.send(vec![("anode_rx_bytes_total".into(), 7)]);
            }
            Command::Endpoints(reply) => {
                let _ = reply.send(vec![Place::Udp("192.0.2.1:8737".parse().unwrap())]);
            }
            // Nobody asks in these tests; how it is carried out is shown in the lab.
            Command::Netcheck(reply) => drop(reply),
            Command::SetPortMapping(_) => {}
            // Off: the way back is dropped.
            Command::I2p(_) => {}
            Command::Join { ticket, reply } => {
                let status = match ticket.endpoints.is_empty() {
                    true => Status::Unknown,
                    false => Status::Taken,
                };
                let _ = reply.send(Ok(status));
            }
            Command::Meet {
                address: whom,
                reply,
            } => {
                let found = (whom == address(2)).then(|| LookupReport {
                    address: whom,
                    sources: vec!["tracker".into()],
                    endpoints: vec!["udp://192.0.2.1:8737".into()],
                });
                let _ = reply.send(MeetReport { on: true, found });
            }
            Command::Dht(_) | Command::InDht(_) => {}
            Command::Joined { .. }
            | Command::SetRendezvous(_)
            | Command::SetTurnServers(_)
            | Command::ShareTls(_)
            | Command::Candidates { .. } => {}
            Command::Shutdown => break,
        }
    }
    told
}

struct Node {
    test: TestDir,
    socket: PathBuf,
    data: DataHandle,
    thread: std::thread::JoinHandle<Vec<Told>>,
    server: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Node {
    fn start() -> Self {
        Self::start_as(address(1))
    }

    fn start_as(own: Address) -> Self {
        let test = TestDir::new();
        let socket = test.path().join("control.sock");
        let (data, commands) = DataHandle::new(Arc::new(Wake::new().unwrap()));
        let thread = std::thread::spawn(move || data_thread(commands));
        let state = StateDir::find(Some(test.path())).unwrap().lock().unwrap();
        let keeper = Keeper::new(
            ZoneFrom::Nowhere,
            Zone::LOCAL,
            Fetcher::plain(),
            state.dir(),
        )
        .unwrap();
        let (zone, _) = ZoneDesk::new(&keeper);
        let control = Control {
            data: data.clone(),
            address: own,
            digit: PeerId::ANY,
            ready: ReadyInfo {
                interface: Some("anode0".into()),
                mtu: 1280,
                lacks: None,
                beside: None,
                listen: vec![],
                lan: vec!["eth0".into()],
            },
            since: Instant::now(),
            names: Arc::new(Names::new(
                Arc::default(),
                Given::default(),
                vec!["127.0.0.1:1".parse().unwrap()],
                State::Off,
                data.clone(),
            )),
            desk: Desk::new(&Book::default()),
            services: Services::default(),
            zone,
            dht: DhtDesk::new().0,
            access: Mutex::new(InForce {
                inbound: Inbound::default(),
                policy: Policy::default(),
                members: Members::default(),
            }),
            routes: None,
            source: ConfigSource::File(test.path().join("anode.toml")),
            security: Security::default(),
            confined: Confined {
                capabilities: vec![Capability::NetAdmin],
                seccomp: true,
                landlock: Landlock::Partly,
                memory_locked: false,
            },
            portmap: Portmap::default(),
            state,
            turn: None,
            turn_servers: TurnDesk::new(TurnPlan::default()).0,
        };
        let listener = ControlSocket::bind(&socket, Access::Owner).unwrap();
        let server = tokio::spawn(axum::serve(listener, router(Arc::new(control))).into_future());
        Self {
            test,
            socket,
            data,
            thread,
            server,
        }
    }

    async fn client(&self) -> Client {
        Client::connect(std::slice::from_ref(&self.socket))
            .await
            .unwrap()
    }

    /// Ends both sides; what the data thread was told of trust.
    async fn stop(self) -> Vec<Told> {
        self.server.abort();
        let _ = self.server.await;
        self.data.send(Command::Shutdown).unwrap();
        self.thread.join().unwrap()
    }
}

#[tokio::test]
async fn documents_have_the_shapes_that_scripts_rely_on() {
    let node = Node::start();
    let mut client = node.client().await;

    let mut status: Value = client.get("/v1/status").await.unwrap();
    assert!(status["uptime_s"].take().as_f64().unwrap() >= 0.0);
    assert!(status["pid"].take().is_number());
    assert!(status["version"].take().is_string());
    let expected = json!({
        "address": address(1).to_string(), "ipv6": "fda0:8ed7:8a43:c2c:b76a:57af:6262:3020",
        "interface": "anode0", "mtu": 1280, "listen": ["udp://[::]:8737"], "lan": ["eth0"],
        "peers": 3, "reachable": 1, "tunnelled": 1, "streams": 2, "security": {"plain": "deny", "pq": "prefer"},
        "relays": [],
        "dns": {"listen": null, "name": null, "resolved": null, "problem": null},
        "confined": {
            "capabilities": ["CAP_NET_ADMIN"], "no_new_privileges": true, "seccomp": true,
            "landlock": "partly", "core_dumps_off": true, "memory_locked": false,
        },
        "uptime_s": null, "pid": null, "version": null,
    });
    assert_eq!(status, expected);

    let request = json!({"address": address(2).to_string(), "name": "box"});
    let _: Value = client.post("/v1/trust", &request).await.unwrap();
    let peers: Value = client.get("/v1/peers").await.unwrap();
    let expected = json!([{
        "address": address(2).to_string(), "ipv6": "fda0:cd00:8989:4303:c3ee:44a0:16e:9720",
        "name": "box", "trusted": true, "sealed": true, "pq": true, "rx_bytes": 10, "tx_bytes": 20,
        "paths": [{
            "kind": "direct", "transport": "udp", "endpoint": "udp://192.0.2.1:8737",
            "relay": null, "hops": 0, "rtt_ms": 0.31, "mtu": 1232, "active": true, "reason": null,
        }],
    }]);
    assert_eq!(peers, expected);

    let request = json!({"target": "box", "size": 56, "timeout_ms": 1000});
    let answer: Value = client.post("/v1/ping", &request).await.unwrap();
    let expected = json!({
        "result": "reply", "rtt_ms": 0.31, "path": "direct", "via": "udp://192.0.2.1:8737", "hops": 0,
    });
    assert_eq!(answer, expected);
    let request = json!({"target": "fda0::5"});
    let answer: Value = client.post("/v1/ping", &request).await.unwrap();
    let expected =
        json!({"result": "failed", "reason": "nobody knows this address", "timeout": false});
    assert_eq!(answer, expected);

    let request = json!({"target": "box"});
    let met: Value = client.post("/v1/meet", &request).await.unwrap();
    assert_eq!(met["on"], true);
    assert_eq!(met["found"]["sources"], json!(["tracker"]));
    let unknown = json!({"target": "fda0::5"});
    let refused = client.post::<_, Value>("/v1/meet", &unknown).await;
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .contains("by address or name")
    );

    let found: Value = client
        .post("/v1/lookup", &json!({"target": "box.anode"}))
        .await
        .unwrap();
    let expected = json!({
        "address": address(2).to_string(), "ipv6": "fda0:cd00:8989:4303:c3ee:44a0:16e:9720",
        "sources": ["lan"], "endpoints": ["udp://192.0.2.1:8737"],
    });
    assert_eq!(found, expected);
    node.stop().await;
}

#[tokio::test]
async fn trust_reaches_the_file_and_the_data_thread_and_is_taken_back() {
    let node = Node::start();
    let mut client = node.client().await;
    let request = json!({"address": address(2).to_string(), "name": "box"});
    let trusted: Value = client.post("/v1/trust", &request).await.unwrap();
    assert_eq!(trusted["trusted"], true);
    let book = Book::load(&StateDir::find(Some(node.test.path())).unwrap()).unwrap();
    assert_eq!(book.entries()[0].address, address(2));

    // A name that another has: nothing changes, on disk or in the data thread.
    let request = json!({"address": address(3).to_string(), "name": "box"});
    let error = client
        .post::<_, Value>("/v1/trust", &request)
        .await
        .unwrap_err();
    assert_eq!(error.exit_status(), 2);
    let request = json!({"address": address(1).to_string()});
    let error = client
        .post::<_, Value>("/v1/trust", &request)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("own address"), "{error}");

    let gone: Value = client
        .post("/v1/distrust", &json!({"target": "box"}))
        .await
        .unwrap();
    assert_eq!(gone["trusted"], false);
    let book = Book::load(&StateDir::find(Some(node.test.path())).unwrap()).unwrap();
    assert!(book.entries().is_empty());
    let told = [Told::Trust(address(2)), Told::Policy(1), Told::Policy(0)];
    assert_eq!(node.stop().await, told);
}

#[tokio::test]
async fn the_policy_is_read_again_and_a_bad_file_changes_nothing() {
    let node = Node::start();
    let mut client = node.client().await;
    let path = node.test.path().join("anode.toml");
    let question = json!({"who": "box", "what": "tcp/22"});
    let trust = json!({"address": address(2).to_string(), "name": "box"});
    let _: Value = client.post("/v1/trust", &trust).await.unwrap();

    fs::write(
        &path,
        "[inbound]\ndefault = \"drop\"\nallow = [\"box tcp/22\"]\n",
    )
    .unwrap();
    let done: Value = client.post("/v1/policy/reload", &json!({})).await.unwrap();
    assert_eq!(done, json!({"allow": 1, "deny": 0, "default": "drop"}));
    let answer: Value = client.post("/v1/policy/check", &question).await.unwrap();
    assert_eq!(
        (&answer["verdict"], &answer["rule"]),
        (&json!("allow"), &json!("trust"))
    );

    let bad = [
        (
            "[inbound]\nallow = [\"box tcp/x\"]\n",
            "anode.toml:2: \"x\" is no port",
        ),
        (
            "[inbound]\n\nallow = [\"laptop tcp/1\"]\n",
            "anode.toml:3: nobody is called \"laptop\"",
        ),
        ("[inbuond]\n", "anode.toml:1: unknown key `inbuond`"),
    ];
    for (text, message) in bad {
        fs::write(&path, text).unwrap();
        let error = client
            .post::<_, Value>("/v1/policy/reload", &json!({}))
            .await
            .unwrap_err();
        assert_eq!(error.exit_status(), 2);
        assert!(error.to_string().contains(message), "{error}");
    }
    let stranger = json!({"who": "any", "what": "tcp/22"});
    let answer: Value = client.post("/v1/policy/check", &stranger).await.unwrap();
    assert_eq!(answer["verdict"], "drop", "the old policy is in force");

    // The rule that names the peer is told when its name goes.
    let gone: Value = client
        .post("/v1/distrust", &json!({"target": "box"}))
        .await
        .unwrap();
    assert!(
        gone["note"]
            .as_str()
            .unwrap()
            .contains("anode.toml:3: nobody is called"),
        "{gone}"
    );
    let by_ip = json!({"who": address(2).to_string(), "what": "tcp/22"});
    let answer: Value = client.post("/v1/policy/check", &by_ip).await.unwrap();
    assert_eq!(answer["verdict"], "drop");
    node.stop().await;
}

#[tokio::test]
async fn bad_requests_are_told_apart_from_bad_luck() {
    let node = Node::start();
    let mut client = node.client().await;
    let usage = [
        ("/v1/ping", json!({"target": "nobody"})),
        ("/v1/ping", json!({"target": "2001:db8::1"})),
        ("/v1/ping", json!({"target": "fda0::1", "size": 1101})),
        ("/v1/ping", json!({"target": "fda0::1", "timeout_ms": 0})),
        (
            "/v1/ping",
            json!({"target": "fda0::1", "timeout_ms": 10_001}),
        ),
        ("/v1/trust", json!({"address": "xyz"})),
        (
            "/v1/trust",
            json!({"address": address(2).to_string(), "name": "a b"}),
        ),
        ("/v1/distrust", json!({"target": "nobody"})),
    ];
    for (path, body) in usage {
        let error = client.post::<_, Value>(path, &body).await.unwrap_err();
        assert!(matches!(error, Error::Value(_)), "{path} {body}: {error:?}");
    }
    let failed = [
        ("/v1/lookup", json!({"target": "fda0::1"})),
        ("/v1/nothing", json!({})),
        ("/v1/ping", json!({"goal": "fda0::1"})),
        ("/v1/trust", json!({"address": "x".repeat(32 * 1024)})),
    ];
    for (path, body) in failed {
        let error = client.post::<_, Value>(path, &body).await.unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{path}: {error:?}");
    }
    // The connection and the node survived all of it.
    let _: Value = client.get("/v1/status").await.unwrap();
    node.stop().await;
}

// S30
#[tokio::test]
async fn metrics_count_and_name_no_peer() {
    let node = Node::start();
    let mut stream = UnixStream::connect(&node.socket).await.unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    assert!(
        text.contains("# TYPE anode_rx_bytes_total counter\nanode_rx_bytes_total 7\n"),
        "{text}"
    );
    assert!(text.contains("anode_uptime_seconds "), "{text}");
    assert!(
        !text.contains("aeaaaa") && !text.contains("fda0:"),
        "{text}"
    );
    node.stop().await;
}

#[tokio::test]
async fn a_data_thread_that_is_gone_is_an_error_not_a_wait() {
    let node = Node::start();
    let mut client = node.client().await;
    node.data.send(Command::Shutdown).unwrap();
    while node.data.send(Command::Shutdown).is_ok() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let error = client.get::<Value>("/v1/status").await.unwrap_err();
    assert_eq!(error.to_string(), "the data thread has stopped");
}

#[test]
fn a_full_queue_is_busy_and_a_dropped_question_is_stopped() {
    let (data, commands) = DataHandle::new(Arc::new(Wake::new().unwrap()));
    for _ in 0..crate::command::QUEUE {
        data.send(Command::Shutdown).unwrap();
    }
    let full = data.send(Command::Shutdown).unwrap_err();
    assert_eq!(full, crate::command::CommandError::Busy);
    drop(commands);
    let gone = data.send(Command::Shutdown).unwrap_err();
    assert_eq!(gone, crate::command::CommandError::Stopped);
}

// S29
#[tokio::test]
async fn the_socket_is_its_owners_and_goes_with_the_node() {
    let test = TestDir::new();
    let path = test.path().join("s");
    let socket = ControlSocket::bind(&path, Access::Owner).unwrap();
    assert_eq!(mode(&path), 0o600);
    assert_eq!(socket.path(), path);
    drop(socket);
    assert!(!path.exists());

    let group = Access::Group(nix::unistd::getegid());
    let socket = ControlSocket::bind(&path, group).unwrap();
    assert_eq!(mode(&path), 0o660);
    // Somebody else's socket at the same place stays.
    fs::remove_file(&path).unwrap();
    let other = UnixListener::bind(&path).unwrap();
    drop(socket);
    assert!(path.exists());
    drop(other);
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn a_dead_nodes_socket_is_taken_over_and_a_live_ones_is_not() {
    let test = TestDir::new();
    let path = test.path().join("s");
    // Bound and dropped: the file stays, as after a crash.
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let live = ControlSocket::bind(&path, Access::Owner).unwrap();
    let error = ControlSocket::bind(&path, Access::Owner).unwrap_err();
    assert!(
        error.to_string().contains("another anode answers"),
        "{error}"
    );
    assert_eq!(error.exit_status(), 1);
    drop(live);

    fs::write(&path, "mine").unwrap();
    let error = ControlSocket::bind(&path, Access::Owner).unwrap_err();
    assert!(error.to_string().contains("in the way"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
}

#[tokio::test]
async fn no_node_is_said_with_the_place_and_the_fix() {
    let test = TestDir::new();
    let path = test.path().join("control.sock");
    let dead = test.path().join("dead.sock");
    drop(UnixListener::bind(&dead).unwrap());
    for socket in [path, dead] {
        let error = Client::connect(std::slice::from_ref(&socket))
            .await
            .err()
            .unwrap();
        let expected = format!(
            "anode is not running (no socket at {}): start it with `anode up`",
            socket.display()
        );
        assert_eq!(error.to_string(), expected);
        assert_eq!(error.exit_status(), 1);
    }
}

#[tokio::test]
async fn a_ticket_of_one_node_is_used_at_another_and_both_write_it_down() {
    // Q29
    let (one, two) = (Node::start(), Node::start_as(address(2)));
    let (mut inviter, mut joiner) = (one.client().await, two.client().await);
    let made: Value = inviter
        .post("/v1/invite", &json!({"lifetime_s": 60}))
        .await
        .unwrap();
    assert_eq!(made["endpoints"], json!(["udp://192.0.2.1:8737"]));
    let book = Book::load(&StateDir::find(Some(one.test.path())).unwrap()).unwrap();
    assert_eq!(book.tickets().len(), 1);

    let request = json!({"ticket": made["ticket"], "name": "box"});
    let own = inviter.post::<_, Value>("/v1/join", &request).await;
    assert!(own.unwrap_err().to_string().contains("this machine's own"));
    let trusted: Value = joiner.post("/v1/join", &request).await.unwrap();
    assert_eq!(trusted["address"], address(1).to_string());
    assert_eq!(
        (&trusted["trusted"], &trusted["name"]),
        (&json!(true), &json!("box"))
    );
    let book = Book::load(&StateDir::find(Some(two.test.path())).unwrap()).unwrap();
    assert_eq!(book.entries()[0].address, address(1));

    for lifetime in [0, 30 * 86400 + 1] {
        let request = json!({"lifetime_s": lifetime});
        let error = inviter.post::<_, Value>("/v1/invite", &request).await;
        assert_eq!(error.unwrap_err().exit_status(), 2);
    }
    one.stop().await;
    two.stop().await;
}
