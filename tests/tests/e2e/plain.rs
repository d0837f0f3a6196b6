//! Nothing but the draft: nodes that seal nothing, and what an independent decoder says about their packets.

use anode_tests::capture::{self, Capture};
use anode_tests::lab::{Done, Family, Host, Lab, Lan, Node, command};
use anode_tests::programs;
use anode_tests::traffic::{self, UdpEcho, udp};
use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(10);
/// Who does not seal and who does not speak in plain find out within this time.
const TOLD: Duration = Duration::from_millis(5_500);
/// The decoder is slow on purpose: it is written to be read.
const DECODING: Duration = Duration::from_secs(60);

struct Mixed {
    a: Node,
    b: Node,
    host_a: Host,
    host_b: Host,
    cable: Capture,
    _lan: Lan,
    lab: Lab,
}

impl Mixed {
    /// `a` speaks nothing but the draft, `b` as it is told. Looked at from the first packet on.
    fn start(plain_of_b: &str) -> Option<Self> {
        let lab = Lab::open()?;
        let lan = Lan::new(&lab, Family::V4);
        let (host_a, host_b) = (lan.host("a"), lan.host("b"));
        for host in [&host_a, &host_b] {
            // Frames as they are, not several in one.
            host.offload_off();
        }
        let cable = Capture::start(lan.switch());
        let node = |host, name, plain| {
            Node::on(host, lab.directory(), name)
                .config(&format!("[security]\nplain = \"{plain}\""))
                .start()
        };
        let (a, b) = (node(&host_a, "a", "only"), node(&host_b, "b", plain_of_b));
        a.trust(&b, "b");
        b.trust(&a, "a");
        Some(Self {
            a,
            b,
            host_a,
            host_b,
            cable,
            _lan: lan,
            lab,
        })
    }

    fn b_at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.b.ipv6().into(), port)
    }

    /// The packets that `host` sent, each once.
    fn sent_by(frames: &[Vec<u8>], host: &Host) -> Vec<Vec<u8>> {
        let mut packets: Vec<_> = frames
            .iter()
            .filter_map(|frame| capture::datagram(frame))
            .filter(|datagram| *datagram.from.ip() == host.v4())
            .map(|datagram| datagram.payload)
            .collect();
        // The bridge and its ports show the same frame more than once.
        packets.sort_unstable();
        packets.dedup();
        packets
    }

    /// What the decoder, which knows the draft alone, says of them.
    fn decode(&self, packets: &[Vec<u8>]) -> Done {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
        let file = self.lab.directory().join("capture");
        let mut lines = String::new();
        for packet in packets {
            for byte in packet {
                write!(lines, "{byte:02x}").expect("memory");
            }
            lines.push('\n');
        }
        fs::write(&file, lines).expect("a file");
        let mut decoder = command(programs::need("python3"));
        decoder
            .arg(tests.join("independent/draft.py"))
            .arg(tests.join("../docs/spec/anode-vectors.json"))
            .arg(file)
            .arg(self.a.state().join("identity.key"))
            .arg(self.b.state().join("identity.key"));
        self.host_a.finish(decoder, DECODING)
    }
}

#[test]
fn the_decoder_agrees_with_the_vectors() {
    // A27, A28, A29, A30, A43, D11, D19
    let Some(lab) = Lab::open() else { return };
    let lan = Lan::new(&lab, Family::V4);
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut decoder = command(programs::need("python3"));
    decoder
        .arg(tests.join("independent/draft.py"))
        .arg(tests.join("../docs/spec/anode-vectors.json"));
    let done = lan.host("a").finish(decoder, DECODING).expect_ok();
    assert!(done.stdout().contains("values right"), "{done}");
}

#[test]
fn a_node_that_speaks_the_draft_alone_and_one_that_allows_it_are_understood_by_a_stranger_to_both()
{
    // A3 (whoever listens reads it), A38, A40, A43, A51, A53, A59, A61, A63, A64, A65, D19, Q23
    let Some(lab) = Mixed::start("allow") else {
        return;
    };
    programs::first_ping(&lab.host_a, lab.b.ipv6().into(), LIMIT);
    // `b` tries to seal first, and speaks the draft when that is not answered.
    let tried = programs::first_ping(&lab.host_b, lab.a.ipv6().into(), LIMIT);
    println!("b speaks the draft after {tried:?}");
    assert_eq!(
        programs::ping(&lab.host_b, lab.a.ipv6().into(), 56, 3).received,
        3
    );
    assert_eq!(lab.a.ping(lab.b.address(), 2), 2);
    let files = lab.lab.directory().join("files");
    fs::create_dir(&files).expect("a directory");
    let body = b"in the open, as the draft has it\n".repeat(600);
    fs::write(files.join("file"), &body).expect("a file");
    let _server = programs::http_server(&lab.host_b, lab.b_at(8080), &files);
    let url = format!("http://{}/file", lab.b_at(8080));
    let got = programs::curl(&lab.host_a, &url, LIMIT).expect_ok();
    assert!(got.out == body);
    let _echo = UdpEcho::start(&lab.host_b, lab.b_at(7));
    let socket = udp(&lab.host_a, SocketAddr::new(lab.a.ipv6().into(), 0));
    for size in [1, 100, 1_000] {
        let sent = vec![7; size];
        socket.send_to(&sent, lab.b_at(7)).expect("sent");
        let mut buffer = [0; 2_000];
        let (count, _) = socket.recv_from(&mut buffer).expect("echoed");
        assert!(buffer[..count] == sent);
    }
    let refused = traffic::connect(&lab.host_a, lab.b_at(9), LIMIT).expect_err("nobody listens");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{refused}");
    for (node, other) in [(&lab.a, &lab.b), (&lab.b, &lab.a)] {
        let peer = node.peer(other).expect("the peer is listed");
        assert_eq!(peer["sealed"], false, "{peer}");
        assert_eq!(peer["pq"], false, "{peer}");
    }

    let frames = lab.cable.frames();
    let (from_a, from_b) = (
        Mixed::sent_by(&frames, &lab.host_a),
        Mixed::sent_by(&frames, &lab.host_b),
    );
    let kind = |packet: &Vec<u8>| capture::message_type(packet).expect("an Anode packet");
    // What is not the draft's: finding addresses (ours) from both; from `b` also its attempts to seal.
    let (more_a, draft_a): (Vec<_>, Vec<_>) = from_a.into_iter().partition(|p| kind(p) >= 0x40);
    let (more_b, draft_b): (Vec<_>, Vec<_>) = from_b.into_iter().partition(|p| kind(p) >= 0x40);
    for packet in &more_a {
        assert!(matches!(kind(packet), 0x46 | 0x47), "{packet:02x?}");
    }
    for packet in &more_b {
        assert!(matches!(kind(packet), 0x40 | 0x46 | 0x47), "{packet:02x?}");
    }
    let draft = [draft_a, draft_b].concat();
    assert!(draft.len() >= 60, "only {} packets seen", draft.len());
    let done = lab.decode(&draft).expect_ok();
    println!(
        "{} and {} packets that are not the draft's\n{}",
        more_a.len(),
        more_b.len(),
        done.stdout()
    );
    for name in [
        "PING", "PONG", "EPC_REQ", "EPC", "DGRAM", "S_OPEN", "S_CLOSE", "S_DATA", "S_ACK",
    ] {
        let line = format!(" {name}");
        assert!(done.stdout().lines().any(|l| l.ends_with(&line)), "{name}");
    }

    // The decoder is no rubber stamp: one bit anywhere behind the hop count, and it says so.
    let mut altered = draft;
    altered.truncate(3);
    for packet in &mut altered {
        let last = packet.len() - 1;
        packet[last] ^= 1;
    }
    let done = lab.decode(&altered);
    assert_eq!(done.code(), 1, "{done}");
    assert!(done.stdout().contains("wrong: 3"), "{done}");
}

#[test]
fn a_node_that_denies_plain_and_one_that_speaks_nothing_else_do_not_talk_and_the_program_is_told() {
    // Q23, Q26, Q27
    let Some(lab) = Mixed::start("deny") else {
        return;
    };
    let marker = b"nobody shall hear this";
    for (from, to) in [(&lab.a, &lab.b), (&lab.b, &lab.a)] {
        let _service = traffic::listen(to.ns(), SocketAddr::new(to.ipv6().into(), 8080));
        let echo = SocketAddr::new(to.ipv6().into(), 7);
        let _echo = UdpEcho::start(to.ns(), echo);
        let socket = udp(from.ns(), SocketAddr::new(from.ipv6().into(), 0));
        socket.connect(echo).expect("connected");
        socket.set_read_timeout(Some(TOLD)).expect("a timeout");
        let (start, address) = (Instant::now(), SocketAddr::new(to.ipv6().into(), 8080));
        socket.send(marker).expect("sent");
        let of_udp = socket.recv(&mut [0; 100]).expect_err("they do not talk");
        let udp_after = start.elapsed();
        // The failure just told is not repeated from memory.
        std::thread::sleep(Duration::from_secs(3));
        let start = Instant::now();
        let of_tcp = traffic::connect(from.ns(), address, Duration::from_secs(60))
            .expect_err("they do not talk");
        println!(
            "{} to {}: UDP {of_udp} after {udp_after:?}, TCP {of_tcp} after {:?}",
            from.ns().name(),
            to.ns().name(),
            start.elapsed()
        );
        for (error, after) in [(of_udp, udp_after), (of_tcp, start.elapsed())] {
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
            assert!(after < TOLD, "{after:?}");
        }
    }
    // Echo from `a` is the draft's own probe, a hint that is answered as long as there is no session; `b` sends none in plain.
    let answered = |host: &Host, to: &Node| programs::ping(host, to.ipv6().into(), 56, 2).received;
    assert_eq!(answered(&lab.host_a, &lab.b), 2);
    assert_eq!(answered(&lab.host_b, &lab.a), 0);
    // What the denying side was given stays with it.
    let frames = lab.cable.frames();
    let from_b = Mixed::sent_by(&frames, &lab.host_b);
    let leaked = |packet: &&Vec<u8>| packet.windows(marker.len()).any(|part| part == marker);
    assert_eq!(from_b.iter().find(leaked), None);
}
