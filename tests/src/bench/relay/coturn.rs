//! coturn passing on what the relay passes on: single datagrams of 1,000 bytes, ten clients, each to a peer that echoes.

use crate::lab::{Host, Lab, Proc, command};
use crate::programs;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

const PORT: u16 = 3478;
const PEER_PORT: u16 = 3480;
const CLIENTS: u32 = 10;
/// One each millisecond and client.
const MESSAGES: u32 = 3000;
const SIZE: usize = 1000;

/// Starts it for one user, `lab` with the password `lab`.
///
/// # Panics
/// If it is missing.
pub fn start(directory: &Path, host: &Host, at: SocketAddr) -> Proc {
    let ip = at.ip().to_string();
    let mut turn = command(programs::need("turnserver"));
    turn.args(["-n", "--lt-cred-mech", "--user", "lab:lab"])
        .args(["--realm", "lab"])
        .args(["--listening-ip", &ip, "--relay-ip", &ip])
        .args(["--listening-port", &at.port().to_string()])
        .args(["--no-tls", "--no-dtls", "--no-cli", "--log-file", "stdout"])
        .arg("--pidfile")
        .arg(directory.join("turnserver.pid"))
        .current_dir(directory);
    host.start(turn)
}

/// Datagrams a second that it passed on, and the processor time of each in µs. The load is paced by coturn's own client,
/// which cannot say more than one a millisecond.
///
/// # Panics
/// If a program is missing or fails.
pub fn measure(lab: &Lab, server: &Host, sender: &Host, receiver: &Host) -> (f64, f64) {
    let at = server.v4().to_string();
    let turn = start(lab.directory(), server, (server.v4(), PORT).into());
    let peer_at = receiver.v4().to_string();
    let mut peer = command(programs::need("turnutils_peer"));
    peer.args(["-L", &peer_at, "-p", &PEER_PORT.to_string()]);
    let _peer = receiver.start(peer);
    for port in [PORT, PEER_PORT] {
        let at = if port == PORT {
            server.v4()
        } else {
            receiver.v4()
        };
        wait_for(sender, SocketAddrV4::new(at, port));
    }
    let (before, start) = (turn.cpu_seconds(), Instant::now());
    let mut client = command(programs::need("turnutils_uclient"));
    client
        .args(["-u", "lab", "-w", "lab", "-e", &peer_at])
        .args(["-r", &PEER_PORT.to_string(), "-p", &PORT.to_string(), "-c"])
        .args(["-m", &CLIENTS.to_string(), "-n", &MESSAGES.to_string()])
        .args(["-l", &SIZE.to_string(), "-z", "1", &at]);
    sender.finish(client, Duration::from_secs(120)).expect_ok();
    let (cpu, wall) = (turn.cpu_seconds() - before, start.elapsed().as_secs_f64());
    // There and back.
    let packets = f64::from(2 * CLIENTS * MESSAGES);
    (packets / wall, cpu * 1e6 / packets)
}

/// Waits until who listens there answers a Binding request (RFC 8489 §3), or echoes it.
fn wait_for(from: &Host, at: SocketAddrV4) {
    let mut request = [0; 20];
    request[1] = 1;
    request[4..8].copy_from_slice(&0x2112_a442u32.to_be_bytes());
    let socket = from.run(|| UdpSocket::bind("0.0.0.0:0").expect("a socket"));
    let wait = Some(Duration::from_millis(100));
    socket.set_read_timeout(wait).expect("a timeout");
    let mut answer = [0; 128];
    let answered = (0..100).any(|_| {
        let _ = socket.send_to(&request, at);
        socket.recv_from(&mut answer).is_ok()
    });
    assert!(answered, "nobody answers at {at}");
}
