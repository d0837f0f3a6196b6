//! n2n with AES; its supernode runs on the second machine.

use super::{End, Site, await_address, run};
use std::net::{IpAddr, Ipv4Addr};

const PORT: u16 = 7_654;
const LINK: &str = "n2n0";

/// Two edges of one community.
pub fn wire(site: &Site<'_>) -> [End; 2] {
    let supernode = format!("{}:{PORT}", site.hosts[1].ip_address());
    [0, 1].map(|at| {
        let (own, supernode) = (address(at), supernode.clone());
        End::new(site.hosts[at], own, move |host| {
            let mut processes = Vec::new();
            if at == 1 {
                let mut daemon = run("supernode");
                daemon.args(["-f", "-p", &PORT.to_string()]);
                processes.push(host.start(daemon));
            }
            let mut edge = run("edge");
            edge.args([
                "-f", "-d", LINK, "-c", "lab", "-k", "secret", "-A3", "-l", &supernode,
            ]);
            edge.args(["-a", &format!("static:{own}/24")]);
            let mut process = host.start(edge);
            await_address(host, &mut process, own);
            processes.push(process);
            processes
        })
    })
}

fn address(at: usize) -> IpAddr {
    Ipv4Addr::new(198, 18, 4, at as u8 + 1).into()
}
