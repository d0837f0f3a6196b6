//! WireGuard in userspace: three programs with one way to configure them, `wg`.

use super::{End, PATIENCE, Site, await_up, configure, run, tool, write};
use crate::lab::Host;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};

const PORT: u16 = 51_820;
/// What `wg-quick` sets on a link of 1,500 bytes.
const MTU: u32 = 1_420;

/// wireguard-go, of Go.
pub fn go(site: &Site<'_>) -> [End; 2] {
    wire(site, "wireguard-go", &["-f"])
}

/// boringtun-cli, of Rust.
pub fn boringtun(site: &Site<'_>) -> [End; 2] {
    wire(
        site,
        "boringtun-cli",
        &["--foreground", "--disable-drop-privileges"],
    )
}

/// gotatun, Mullvad's successor of boringtun.
pub fn gotatun(site: &Site<'_>) -> [End; 2] {
    wire(
        site,
        "gotatun",
        &["--foreground", "--disable-drop-privileges"],
    )
}

fn wire(site: &Site<'_>, name: &'static str, arguments: &'static [&str]) -> [End; 2] {
    // Control sockets lie in one directory for all network namespaces.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let keys = site.hosts.map(|host| {
        let private = tool(host, "wg", &["genkey"]);
        let public = public_key(host, &private);
        (private, public)
    });
    [0, 1].map(|at| {
        let (own, other) = (&keys[at], &keys[1 - at]);
        let (host, peer) = (site.hosts[at], site.hosts[1 - at]);
        let text = format!(
            "[Interface]\nPrivateKey = {}\nListenPort = {PORT}\n\n[Peer]\nPublicKey = {}\nAllowedIPs = {}/32\n\
             Endpoint = {}:{PORT}\n",
            own.0,
            other.1,
            address(1 - at),
            peer.ip_address()
        );
        let file = site.directory.join(format!("wireguard{at}.conf"));
        write(&file, &text);
        let link = format!("wgc{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let socket = PathBuf::from(format!("/var/run/wireguard/{link}.sock"));
        let left = socket.clone();
        let start = move |host: &Host| {
            let mut daemon = run(name);
            daemon.args(arguments).arg(&link);
            // gotatun writes its log to a file in /tmp unless told otherwise.
            daemon.env("WG_LOG_FILE", "/dev/null").env("WG_LOG_LEVEL", "error");
            let mut process = host.start(daemon);
            await_up(&mut process, "control socket", || UnixStream::connect(&socket).is_ok());
            let mut wg = run("wg");
            wg.args(["setconf", &link]).arg(&file);
            host.finish(wg, PATIENCE).expect_ok();
            configure(host, &link, address(at), 24, Some(MTU));
            vec![process]
        };
        End::new(host, address(at), start).cleaned_by(move || {
            let _ = std::fs::remove_file(&left);
        })
    })
}

fn address(at: usize) -> IpAddr {
    Ipv4Addr::new(198, 18, 1, at as u8 + 1).into()
}

fn public_key(host: &Host, private: &str) -> String {
    let mut wg = run("wg");
    wg.arg("pubkey").stdin(Stdio::piped());
    let mut process = host.start(wg);
    let mut pipe = process.stdin().expect("piped");
    writeln!(pipe, "{private}").expect("wg reads");
    drop(pipe);
    process
        .finish(PATIENCE)
        .expect_ok()
        .stdout()
        .trim()
        .to_owned()
}
