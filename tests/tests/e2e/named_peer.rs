//! A peer whose machine is known by its name alone.

use anode_tests::lab::{Family, Lab, Lan, Node};
use anode_tests::programs;
use std::fs;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

#[test]
fn a_peer_is_reached_by_the_name_of_its_host() {
    let Some(lab) = Lab::open() else {
        return;
    };
    let lan = Lan::new(&lab, Family::V4);
    let (host_a, host_b) = (lan.host("a"), lan.host("b"));
    let hosts = lab.directory().join("hosts");
    fs::write(&hosts, format!("{} machine-b.lab\n", host_b.v4())).expect("written");
    // The node's own view of /etc/hosts; the test's machine keeps its own.
    let mount = format!("mount --bind {} /etc/hosts && exec \"$@\"", hosts.display());
    let b = Node::on(&host_b, lab.directory(), "b")
        .no_lan()
        .args(&["--listen", &format!("{}:8737", host_b.v4())])
        .args(&["--listen", &format!("tcp://{}:8737", host_b.v4())])
        .start();
    for transport in ["udp", "tls"] {
        let named = format!("{}@{transport}://Machine-B.lab:8737", b.address());
        let builder = Node::on(&host_a, lab.directory(), transport)
            .no_lan()
            .args(&["--peer", &named])
            .wrapper(&["unshare", "--mount", "sh", "-c", &mount, "sh"]);
        let prepared = builder.clone().prepare();
        prepared.trust(&b, "b");
        b.trust(&prepared, transport);
        let a = builder.start();
        let took = programs::first_ping(&host_a, b.ipv6().into(), SOON);
        println!("{transport} by name: first reply after {took:?}");
        let paths = a.json(&["paths"]);
        let endpoint = format!("{transport}://{}:8737", host_b.v4());
        let found = paths.as_array().expect("a list").iter();
        let found: Vec<_> = found.filter(|path| path["endpoint"] == endpoint).collect();
        assert!(!found.is_empty(), "{paths}");
    }
}
