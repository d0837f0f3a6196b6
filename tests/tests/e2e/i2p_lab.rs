//! I2P for ordinary programs: over an interface, with our strict router.

use crate::names::{RESPONDER, Resolving, curl, dig};
use anode_tests::i2p::{Router, RouterOptions};
use anode_tests::lab::{Family, Host, Lab, Lan, Node};
use anode_tests::programs;
use anode_tests::traffic::{self, UdpEcho};
use serde_json::Value;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

/// i2pd builds tunnels in rounds of 10 to 15 s.
pub(super) const READY: Duration = Duration::from_secs(60);
pub(super) const LIMIT: Duration = Duration::from_secs(20);
/// A node's first destination, once it is ready: name and address.
#[track_caller]
pub(super) fn destination(node: &Node) -> (String, Ipv6Addr) {
    let mut found = Value::Null;
    node.wait("the destination is ready", READY, || {
        found = node.json(&["i2p", "status"])["destinations"][0].clone();
        found["state"] == "ready"
    });
    let text = |key: &str| found[key].as_str().expect("a text").to_owned();
    (text("b32"), text("ipv6").parse().expect("an address"))
}

/// What the responder says of a name makes the address known to the node.
#[track_caller]
pub(super) fn learn(node: &Node, host: &Host, name: &str) -> Ipv6Addr {
    let (status, found) = dig(host, &[name, "AAAA"]);
    assert_eq!(status, "NOERROR", "{name}: {}", node.log());
    found[0].parse().expect("an address")
}

/// Sends noise there and back through an echo server at `to`, half-closing first; true if every byte came back.
pub(super) fn echoed(host: &Host, to: SocketAddr, seed: u64, count: u64) -> io::Result<bool> {
    let stream = traffic::connect(host, to, LIMIT)?;
    let mut writer = stream.try_clone()?;
    let reader = std::thread::spawn(move || traffic::receive_all(stream));
    let sent = traffic::send_noise(&mut writer, seed, count)?;
    writer.shutdown(Shutdown::Write)?;
    let (length, got) = reader.join().expect("no panic")?;
    Ok(length == count && got == sent)
}

/// Answers every connection with its own bytes.
pub(super) fn echo_server(host: &Host, at: SocketAddr) {
    let listener = traffic::listen(host, at);
    serve(listener, |mut stream| {
        let mut copy = stream.try_clone()?;
        io::copy(&mut stream, &mut copy)?;
        copy.shutdown(Shutdown::Write)
    });
}

pub(super) fn serve(
    listener: TcpListener,
    each: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + Copy + 'static,
) {
    // ends with the test process; nobody connects after the test
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || each(stream));
        }
    });
}

/// A GET; the body of the answer, which ends with the connection.
pub(super) fn get(host: &Host, to: SocketAddr, path: &str) -> io::Result<Vec<u8>> {
    body(asked(host, to, path)?)
}

/// A GET that says at once that nothing more will be asked.
pub(super) fn get_half_closed(host: &Host, to: SocketAddr, path: &str) -> io::Result<Vec<u8>> {
    let stream = asked(host, to, path)?;
    stream.shutdown(Shutdown::Write)?;
    body(stream)
}

fn asked(host: &Host, to: SocketAddr, path: &str) -> io::Result<TcpStream> {
    let mut stream = traffic::connect(host, to, LIMIT)?;
    // in one piece, as curl does: i2pd's web tunnels take the end of a packet for the end of a line
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: x\r\n\r\n").as_bytes())?;
    Ok(stream)
}

fn body(mut stream: TcpStream) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let head = answer.windows(4).position(|w| w == b"\r\n\r\n");
    head.map(|at| answer.split_off(at + 4)).ok_or_else(|| {
        let text = format!("{} bytes and no end of the head", answer.len());
        io::Error::new(io::ErrorKind::UnexpectedEof, text)
    })
}

pub(super) fn noise_file(directory: &Path, name: &str, bytes: usize) -> Vec<u8> {
    let noise = traffic::Noise::new(77).bytes(bytes);
    std::fs::write(directory.join(name), &noise).expect("a file");
    noise
}

fn file_error(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(0)
}

#[test]
fn programs_use_destinations_like_any_other_address() {
    let Some(lab) = Lab::open() else { return };
    let lan = Lan::new(&lab, Family::V4);
    let (host_a, host_b) = (lan.host("a"), lan.host("b"));
    let at = SocketAddr::new(host_a.v4().into(), 7654);
    let router = Router::on(traffic::listen(&host_a, at), RouterOptions::default());
    let section = format!("[i2p]\nrouter = \"{at}\"");
    let resolving = Resolving::with(&lab, "a", &format!("nameserver {RESPONDER}\n"));
    let a = Node::on(&host_a, lab.directory(), "a")
        .no_lan()
        .config(&format!(
            "{section}\n[[i2p.destination]]\n[[i2p.destination]]\nname = \"second\"\ntransient = true"
        ))
        .start();
    let b = Node::on(&host_b, lab.directory(), "b")
        .no_lan()
        .config(&format!(
            "{section}\n[inbound]\nallow = [\"any-i2p tcp/80\", \"any-i2p tcp/81\", \"any-i2p udp/53\", \"any-i2p tcp/7\"]"
        ))
        .start();
    let ((_, ip_a), (name, ip_b)) = (destination(&a), destination(&b));
    let noise = noise_file(lab.directory(), "file", 300_000);
    let _web = programs::http_server(&host_b, SocketAddr::new(ip_b.into(), 80), lab.directory());

    // by name, with a program that knows nothing of us
    let done = curl(&resolving, &host_a, &format!("http://{name}/file"));
    assert!(done.expect_ok().out == noise);
    assert_eq!(learn(&a, &host_a, &name), ip_b);
    let (status, names) = dig(&host_a, &["-x", &ip_b.to_string()]);
    assert_eq!(
        (status.as_str(), names.as_slice()),
        ("NOERROR", &[format!("{name}.")][..])
    );
    assert_eq!(dig(&host_a, &[&name, "A"]), ("NOERROR".to_owned(), vec![]));
    assert_eq!(dig(&host_a, &["a_b.i2p", "AAAA"]).0, "NXDOMAIN");
    assert_eq!(dig(&host_a, &["nobody.i2p", "AAAA"]).0, "NXDOMAIN");
    let pinged = programs::ping(&host_a, IpAddr::V6(ip_b), 56, 2);
    assert_eq!(pinged.received, 2);

    // half-closed both ways, and large
    echo_server(&host_b, SocketAddr::new(ip_b.into(), 7));
    assert!(echoed(&host_a, SocketAddr::new(ip_b.into(), 7), 5, 2_000_000).unwrap());
    let got = get_half_closed(&host_a, SocketAddr::new(ip_b.into(), 80), "/file").unwrap();
    assert!(got == noise, "{} bytes", got.len());

    // the truth about who is not there
    let refused = traffic::connect(&host_a, SocketAddr::new(ip_b.into(), 81), LIMIT).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    let denied = traffic::connect(&host_a, SocketAddr::new(ip_b.into(), 22), LIMIT).unwrap_err();
    assert_eq!(denied.kind(), io::ErrorKind::ConnectionRefused, "by policy");
    let stranger = SocketAddr::new("fda1::1".parse().unwrap(), 80);
    let start = Instant::now();
    let nobody = traffic::connect(&host_a, stranger, LIMIT).unwrap_err();
    assert_eq!(file_error(&nobody), nix::libc::EHOSTUNREACH);
    assert!(start.elapsed() < Duration::from_secs(3));

    // datagrams of every size, whole
    let _echo = UdpEcho::start(&host_b, SocketAddr::new(ip_b.into(), 53));
    let socket = traffic::udp(&host_a, SocketAddr::new(ip_a.into(), 5353));
    socket.connect(SocketAddr::new(ip_b.into(), 53)).unwrap();
    for size in [1, 1200, 9000, 60_000] {
        let sent = traffic::Noise::new(size as u64).bytes(size);
        socket.send(&sent).unwrap();
        let mut buffer = vec![0; 65_536];
        let count = socket
            .recv(&mut buffer)
            .unwrap_or_else(|e| panic!("{size}: {e}\n{}", a.log()));
        assert!(buffer[..count] == sent, "{size}");
    }

    // what is too large for a datagram of I2P is told to who sends it, and the next one passes
    socket.send(&[7; 65_000]).unwrap();
    let error = socket.recv(&mut [0; 9]).unwrap_err();
    assert_eq!(file_error(&error), nix::libc::EMSGSIZE);
    socket.send(b"small").unwrap();
    assert_eq!(socket.recv(&mut [0; 9]).unwrap(), 5);

    // programs that bind to nothing use the first destination, others choose
    let second: Ipv6Addr = a.json(&["i2p", "status"])["destinations"][1]["ipv6"]
        .as_str()
        .and_then(|text| text.parse().ok())
        .expect("an address");
    let own = |to| {
        let stream = traffic::connect(&host_a, to, LIMIT).unwrap();
        stream.local_addr().unwrap().ip()
    };
    assert_eq!(own(SocketAddr::new(ip_b.into(), 7)), IpAddr::V6(ip_a));
    let socket = traffic::udp(&host_a, SocketAddr::new(second.into(), 5354));
    socket
        .send_to(b"x", SocketAddr::new(ip_b.into(), 53))
        .unwrap();
    let mut buffer = [0; 8];
    assert_eq!(socket.recv(&mut buffer).unwrap(), 1, "from {second}");

    let peers = a.peers();
    let peer = peers
        .iter()
        .find(|peer| peer["ipv6"] == ip_b.to_string())
        .expect("a peer");
    assert_eq!(peer["paths"][0]["kind"], "i2p");
    assert!(peer["rx_bytes"].as_u64() > Some(2_000_000));
    assert_eq!(router.violations(), [] as [String; 0]);
    assert!(a.metrics().sum("anode_i2p_streams_out_total") >= 4.0);
}
