//! Nebula: one authority, two certificates, each machine in the other's static host map, no lighthouse.

use super::{End, Site, await_address, run, tool, write};
use std::net::{IpAddr, Ipv4Addr};

const PORT: u16 = 4_242;
const LINK: &str = "nebula0";

/// AES, its default; anybody may connect.
pub fn wire(site: &Site<'_>) -> [End; 2] {
    let path = |name: &str| {
        let path = site.directory.join(name);
        path.to_str().expect("paths of the lab are text").to_owned()
    };
    let (ca, ca_key) = (path("ca.crt"), path("ca.key"));
    let first = site.hosts[0];
    tool(
        first,
        "nebula-cert",
        &["ca", "-name", "lab", "-out-crt", &ca, "-out-key", &ca_key],
    );
    [0, 1].map(|at| {
        let (crt, key) = (path(&format!("{at}.crt")), path(&format!("{at}.key")));
        let (own, other) = (address(at), address(1 - at));
        let (name, network) = (format!("machine{at}"), format!("{own}/24"));
        tool(
            first,
            "nebula-cert",
            &[
                "sign", "-ca-crt", &ca, "-ca-key", &ca_key, "-name", &name, "-ip", &network, "-out-crt", &crt,
                "-out-key", &key,
            ],
        );
        let config = format!(
            "pki: {{ca: {ca}, cert: {crt}, key: {key}}}\n\
             static_host_map: {{\"{other}\": [\"{}:{PORT}\"]}}\n\
             lighthouse: {{am_lighthouse: false, hosts: []}}\n\
             listen: {{host: 0.0.0.0, port: {PORT}}}\n\
             tun: {{dev: {LINK}, tx_queue: 500}}\n\
             logging: {{level: error, format: text}}\n\
             firewall: {{outbound: [{{port: any, proto: any, host: any}}], inbound: [{{port: any, proto: any, host: any}}]}}\n",
            site.hosts[1 - at].ip_address()
        );
        let file = site.directory.join(format!("nebula{at}.yml"));
        write(&file, &config);
        End::new(site.hosts[at], own, move |host| {
            let mut daemon = run("nebula");
            daemon.arg("-config").arg(&file);
            let mut process = host.start(daemon);
            await_address(host, &mut process, own);
            vec![process]
        })
    })
}

fn address(at: usize) -> IpAddr {
    Ipv4Addr::new(198, 18, 2, at as u8 + 1).into()
}
