//! What a zone says of its DHT, and a machine of it with a peer digit.

use super::dht::{Ring, status, wait_in};
use anode_routing::dht::reload::Id;
use anode_tests::lab::Host;
use anode_wire::{Address, PeerId};
use serde_json::json;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

/// A server whose document is handed out as soon as it is told.
struct Server(Arc<(Mutex<Option<String>>, Condvar)>);

impl Server {
    fn new(host: &Host, at: SocketAddr) -> Self {
        let listener = host.run(|| TcpListener::bind(at)).expect("a listener");
        let shared = Arc::new((Mutex::new(None::<String>), Condvar::new()));
        let of_thread = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let shared = Arc::clone(&of_thread);
                std::thread::spawn(move || {
                    let _ = stream.read(&mut [0; 4096]);
                    let waiting = shared.0.lock().expect("no panic");
                    let document = shared.1.wait_while(waiting, |it| it.is_none());
                    let document = document.expect("no panic").clone().unwrap_or_default();
                    let length = document.len();
                    let _ = write!(
                        stream,
                        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{document}"
                    );
                });
            }
        });
        Self(shared)
    }

    fn hand_out(&self, document: &str) {
        *self.0.0.lock().expect("no panic") = Some(document.to_owned());
        self.0.1.notify_all();
    }
}

// R123, R124, DESIGN §7: `dht.config` in the zone's file: machines that say nothing of a DHT enter it by the document that is
// there, and not before they have it
#[test]
fn the_document_that_a_zone_file_names_leads_into_its_overlay() {
    // The first address of the network is the relay's.
    let at: SocketAddr = ([192, 0, 2, 1], 8080).into();
    let url = format!("http://{at}/p2psip/enroll");
    let Some(mut ring) = Ring::start(&["--dht", "home.example", "--dht-config", &url]) else {
        return;
    };
    assert_eq!(ring.relay_host.v4(), at.ip());
    let server = Server::new(&ring.relay_host, at);
    for name in ["a", "b"] {
        ring.node(name, "");
    }
    std::thread::sleep(Duration::from_millis(500));
    for node in &ring.nodes {
        assert_eq!(
            node.json(&["dht", "status"]),
            json!([]),
            "without a document"
        );
    }
    server.hand_out(
        "<overlay name=\"home.example\"><self-signed-permitted digest=\"sha256\">true</self-signed-permitted></overlay>",
    );
    for node in &ring.nodes {
        node.wait("the overlay", SOON, || {
            status(node)["overlay"] == "home.example"
        });
    }
    wait_in(&ring.nodes);
    let [a, b] = &ring.nodes[..] else {
        panic!("two machines")
    };
    a.cli(&["dht", "put", "0xF00010", "board", "hello"])
        .expect_ok();
    let got = b.json(&[
        "dht",
        "get",
        "0xF00010",
        "board",
        "--overlay",
        "home.example",
    ]);
    assert_eq!(got[0]["text"], "hello");
}

// R135, R139, RD62: a machine with a peer digit has a place of its own on the ring, and a record of its own; what belongs to
// its Peer-ID nobody else may say
#[test]
fn a_machine_with_a_peer_digit_has_a_place_of_its_own() {
    let Some(mut ring) = Ring::start(&[]) else {
        return;
    };
    ring.node_with("one", "", &["--peer-id", "1"]);
    ring.node("other", "");
    wait_in(&ring.nodes);
    let [one, other] = &ring.nodes[..] else {
        panic!("two machines")
    };
    let address: Address = one.address().parse().expect("an address");
    let digit = PeerId::new(1).expect("a digit");
    let id = Id::of_address(&address, digit);
    assert_eq!(status(one)["node"], format!("{:032x}", id.number()));

    let pointer = "hex:0101c63364010d96";
    let put = ["dht", "put", "TURN-SERVICE", "1", pointer];
    one.cli(&put).expect_ok();
    let place = format!("hex:{:032x}01", id.number());
    let got = other.json(&["dht", "get", "TURN-SERVICE", &place]);
    let hex = got[0]["hex"].as_str().expect("hex");
    assert_eq!(format!("hex:{hex}"), pointer);
    assert_eq!(got[0]["owner"], one.address());
    let second = ["dht", "put", "TURN-SERVICE", "1", "hex:0201c63364010d96"];
    assert_eq!(one.cli(&second).code(), 1, "that stands at another place");

    let ip = address.ipv6(digit);
    let record = other.json(&["lookup", &ip.to_string(), "--via", "dht"]);
    let endpoints = record["endpoints"].as_array().cloned().unwrap_or_default();
    let endpoint = format!("udp://{}:8737", ring.hosts[0].v4());
    assert!(endpoints.contains(&endpoint.into()), "{record}");
}
