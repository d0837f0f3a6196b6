//! Yggdrasil over one configured TLS peering.

use super::{End, Site, await_address, run, tool, write};
use serde_json::{Value, json};
use std::net::Ipv6Addr;

const LINK: &str = "ygg0";

/// The second machine listens, the first one calls it.
pub fn wire(site: &Site<'_>) -> [End; 2] {
    let listen = format!("tls://{}:9001", site.hosts[1].ip_address());
    [0, 1].map(|at| {
        let host = site.hosts[at];
        let made = tool(host, "yggdrasil", &["-genconf", "-json"]);
        let mut config: Value = serde_json::from_str(&made).expect("yggdrasil prints JSON");
        config["IfName"] = json!(LINK);
        config["AdminListen"] = json!("none");
        config["MulticastInterfaces"] = json!([]);
        let way = if at == 0 { "Peers" } else { "Listen" };
        config[way] = json!([listen]);
        let file = site.directory.join(format!("yggdrasil{at}.conf"));
        write(&file, &config.to_string());
        let path = file.to_str().expect("paths of the lab are text").to_owned();
        let shown = tool(host, "yggdrasil", &["-useconffile", &path, "-address"]);
        let ip: Ipv6Addr = shown.parse().expect("yggdrasil prints its address");
        End::new(host, ip, move |host| {
            let mut daemon = run("yggdrasil");
            daemon.arg("-useconffile").arg(&path);
            let mut process = host.start(daemon);
            await_address(host, &mut process, ip.into());
            vec![process]
        })
    })
}
