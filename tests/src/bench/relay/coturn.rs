//! coturn passing on what the relay passes on: single datagrams of 1,000 bytes, ten clients, each to a peer that echoes.

use crate::lab::{Host, Lab, command};
use crate::programs;
use std::time::{Duration, Instant};

const PORT: u16 = 3478;
const PEER_PORT: u16 = 3480;
const CLIENTS: u32 = 10;
/// One each millisecond and client.
const MESSAGES: u32 = 3000;
const SIZE: usize = 1000;

/// Datagrams a second that it passed on, and the processor time of each in µs. The load is paced by coturn's own client,
/// which cannot say more than one a millisecond.
///
/// # Panics
/// If a program is missing or fails.
pub fn measure(lab: &Lab, server: &Host, sender: &Host, receiver: &Host) -> (f64, f64) {
    let at = server.v4().to_string();
    let mut turn = command(programs::need("turnserver"));
    turn.args([
        "-n",
        "--lt-cred-mech",
        "--user",
        "lab:lab",
        "--realm",
        "lab",
    ])
    .args(["--listening-ip", &at, "--relay-ip", &at])
    .args(["--listening-port", &PORT.to_string()])
    .args(["--no-tls", "--no-dtls", "--no-cli", "--log-file", "stdout"])
    .arg("--pidfile")
    .arg(lab.directory().join("turnserver.pid"))
    .current_dir(lab.directory());
    let turn = server.start(turn);
    let peer_at = receiver.v4().to_string();
    let mut peer = command(programs::need("turnutils_peer"));
    peer.args(["-L", &peer_at, "-p", &PEER_PORT.to_string()]);
    let _peer = receiver.start(peer);
    // It binds within milliseconds, and says so nowhere.
    std::thread::sleep(Duration::from_secs(1));
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
