//! tinc 1.0 in router mode.

use super::{End, Site, await_link, configure, make_directory, run, tool, write};
use std::fs;
use std::net::{IpAddr, Ipv4Addr};

const LINK: &str = "tinc0";

/// The first machine connects to the second.
pub fn wire(site: &Site<'_>) -> [End; 2] {
    let names = ["near", "far"];
    let directories = names.map(|name| make_directory(site.directory.join(name)));
    for (at, directory) in directories.iter().enumerate() {
        let mut config = format!(
            "Name = {}\nInterface = {LINK}\nDeviceType = tun\nMode = router\n",
            names[at]
        );
        if at == 0 {
            config.push_str("ConnectTo = far\n");
        }
        write(&directory.join("tinc.conf"), &config);
        let hosts = make_directory(directory.join("hosts"));
        let card = format!(
            "Address = {}\nSubnet = {}/32\n",
            site.hosts[at].ip_address(),
            address(at)
        );
        write(&hosts.join(names[at]), &card);
        let path = directory.to_str().expect("paths of the lab are text");
        tool(site.hosts[at], "tincd", &["-c", path, "-K", "2048"]);
    }
    for (at, name) in names.iter().enumerate() {
        let card = directories[at].join("hosts").join(name);
        let copy = directories[1 - at].join("hosts").join(name);
        fs::copy(&card, &copy).unwrap_or_else(|e| panic!("{}: {e}", copy.display()));
    }
    [0, 1].map(|at| {
        let directory = directories[at].clone();
        End::new(site.hosts[at], address(at), move |host| {
            let mut daemon = run("tincd");
            daemon
                .arg("-c")
                .arg(&directory)
                .args(["-D", "--pidfile"])
                .arg(directory.join("pid"));
            let mut process = host.start(daemon);
            await_link(host, &mut process, LINK);
            configure(host, LINK, address(at), 24, None);
            vec![process]
        })
    })
}

fn address(at: usize) -> IpAddr {
    Ipv4Addr::new(198, 18, 3, at as u8 + 1).into()
}
