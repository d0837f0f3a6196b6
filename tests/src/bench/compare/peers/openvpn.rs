//! OpenVPN over UDP: TLS with two self-signed certificates that know each other, AES-256-GCM, without the kernel's offload.

use super::{End, Site, await_address, run, tool};
use std::net::{IpAddr, Ipv4Addr};

const LINK: &str = "tun0";

/// The second machine is the TLS server.
pub fn wire(site: &Site<'_>) -> [End; 2] {
    let certificates = [0, 1].map(|at| {
        let file = |end: &str| {
            let path = site.directory.join(format!("openvpn{at}.{end}"));
            path.to_str().expect("paths of the lab are text").to_owned()
        };
        let (key, crt) = (file("key"), file("crt"));
        let name = format!("/CN=machine{at}");
        let curve = "ec_paramgen_curve:P-256";
        tool(
            site.hosts[at],
            "openssl",
            &[
                "req", "-x509", "-newkey", "ec", "-pkeyopt", curve, "-nodes", "-days", "30",
                "-subj", &name, "-keyout", &key, "-out", &crt,
            ],
        );
        let shown = tool(
            site.hosts[at],
            "openssl",
            &["x509", "-in", &crt, "-noout", "-fingerprint", "-sha256"],
        );
        let fingerprint = shown.split('=').next_back().unwrap_or_default().to_owned();
        (key, crt, fingerprint)
    });
    [0, 1].map(|at| {
        let (key, crt, _) = certificates[at].clone();
        let other = certificates[1 - at].2.clone();
        let remote = site.hosts[1 - at].ip_address().to_string();
        End::new(site.hosts[at], address(at), move |host| {
            let mut daemon = run("openvpn");
            daemon.args([
                "--dev",
                LINK,
                "--dev-type",
                "tun",
                "--proto",
                "udp",
                "--disable-dco",
                "--verb",
                "1",
            ]);
            daemon.args([
                "--ifconfig",
                &address(at).to_string(),
                &address(1 - at).to_string(),
            ]);
            daemon.args([
                "--remote",
                &remote,
                "--key",
                &key,
                "--cert",
                &crt,
                "--peer-fingerprint",
                &other,
            ]);
            daemon.args(["--data-ciphers", "AES-256-GCM", "--cipher", "AES-256-GCM"]);
            match at {
                0 => daemon.arg("--tls-client"),
                _ => daemon.args(["--tls-server", "--dh", "none"]),
            };
            let mut process = host.start(daemon);
            await_address(host, &mut process, address(at));
            vec![process]
        })
    })
}

fn address(at: usize) -> IpAddr {
    Ipv4Addr::new(198, 18, 5, at as u8 + 1).into()
}
