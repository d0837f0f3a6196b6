//! Ours: `anode up` with the other one configured as a peer, so that no discovery is measured.

use super::{End, PATIENCE, Site};
use crate::lab::{Node, NodeBuilder};

/// Sealed sessions, the default.
pub fn sealed(site: &Site<'_>) -> [End; 2] {
    wire(site, "")
}

/// Packets that only carry MACs.
pub fn plain(site: &Site<'_>) -> [End; 2] {
    wire(site, "[security]\nplain = \"only\"")
}

fn wire(site: &Site<'_>, security: &str) -> [End; 2] {
    let [near, far] = site.hosts;
    let builder = |host, name| {
        let builder: NodeBuilder = Node::on(host, site.directory, name).no_lan();
        builder.config(security)
    };
    let endpoint = |host: &crate::lab::Host| format!("{}:8737", host.ip_address());
    let identities = [
        builder(near, "near").prepare(),
        builder(far, "far").prepare(),
    ];
    let [a, b] = &identities;
    a.trust(b, "far");
    b.trust(a, "near");
    let builders = [
        builder(near, "near").peer(b, &endpoint(far)),
        builder(far, "far").peer(a, &endpoint(near)),
    ];
    let ips = [a.ipv6(), b.ipv6()];
    let mut ends = builders
        .into_iter()
        .zip(ips)
        .zip(site.hosts)
        .map(|((builder, ip), host)| {
            End::new(host, ip, move |host| {
                let mut process = host.start(builder.command());
                if let Err(why) = process.wait_stderr_line("ready", PATIENCE) {
                    panic!("{why}");
                }
                vec![process]
            })
        });
    [(); 2].map(|()| ends.next().expect("two machines"))
}
