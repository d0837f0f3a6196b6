//! Real BitTorrent software: its trackers read by `anode tracker`, our tracker read by its clients.

use crate::tracker::{self, HASH, ask, peers};
use anode_tests::lab::{Family, Host, Lab, Lan, Ns, Proc, command};
use anode_tests::programs;
use anode_tests::tracker::AnodeTracker;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(20);
const OTHER: &str = "bb6c5ad699f4f549df3fa37df67ea8857b0d2d2a";

/// `anode tracker announce`, which must succeed.
#[track_caller]
fn announce(ns: &Ns, directory: &Path, url: &str, port: u16, more: &[&str]) -> Vec<Value> {
    let port = port.to_string();
    tracker::announce(ns, directory, url, &[&["--port", &port], more].concat())
}

fn endpoints(host: &Host, port: u16) -> BTreeSet<String> {
    [
        format!("{}:{port}", host.v4()),
        format!("[{}]:{port}", host.v6()),
    ]
    .into()
}

/// Waits until somebody listens there.
fn listening(ns: &Ns, process: &mut Proc, at: &str) {
    let deadline = Instant::now() + LIMIT;
    let at: std::net::SocketAddr = at.parse().expect("an address");
    while ns.run(|| std::net::TcpStream::connect(at)).is_err() {
        assert!(
            Instant::now() < deadline,
            "{at}: {}\n{}",
            process.stdout(),
            process.stderr()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A tracker of IPv4 alone with a white list, over HTTP and UDP; it says no in two ways.
#[test]
fn opentracker_is_read_and_its_no_is_understood() {
    let Some(lab) = Lab::open() else { return };
    let lan = Lan::new(&lab, Family::V4);
    let (server, host, other) = (lan.host("tracker"), lan.host("a"), lan.host("b"));
    let home = lab.directory().join("opentracker");
    fs::create_dir(&home).unwrap();
    fs::write(home.join("list"), format!("{HASH}\n")).unwrap();
    for path in [lab.directory(), &home] {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let at = format!("{}:6969", server.v4());
    let mut start = command(programs::need("opentracker"));
    start.args([
        "-i",
        &server.v4().to_string(),
        "-p",
        "6969",
        "-P",
        "6969",
        "-u",
        "nobody",
        "-w",
        "list",
        "-d",
    ]);
    let mut process = server.start({
        start.arg(&home);
        start
    });
    listening(&server, &mut process, &at);
    for (scheme, path, port) in [("http", "/announce", 9_001), ("udp", "", 9_002)] {
        let url = format!("{scheme}://{at}{path}");
        let list = announce(&host, lab.directory(), &url, port, &["--event", "started"]);
        assert!(
            list[0]["interval"]
                .as_u64()
                .is_some_and(|seconds| (1_600..=1_960).contains(&seconds)),
            "{list:?}"
        );
        let heard = peers(&announce(&other, lab.directory(), &url, port, &[]));
        assert!(
            heard.contains(&format!("{}:{port}", host.v4())),
            "{heard:?}"
        );
        let (code, list, said) = ask(
            &host,
            lab.directory(),
            &["scrape", &url, "--info-hash", HASH],
        );
        assert_eq!(code, 0, "{said}");
        assert!(list[0]["incomplete"].as_u64() >= Some(2), "{list}");
        let (code, _, said) = ask(
            &host,
            lab.directory(),
            &["announce", &url, "--info-hash", OTHER],
        );
        assert_eq!(code, 1);
        let words = match scheme {
            "http" => "not authorized for use with this tracker",
            _ => "it may not accept this info hash",
        };
        assert!(said.contains(words), "{said}");
    }
}

/// qBittorrent's own tracker, with its files in a directory.
fn qbittorrent(server: &Host, directory: &Path) -> Proc {
    let config = directory.join("qbt/qBittorrent/config");
    fs::create_dir_all(&config).expect("a directory");
    let text = "[LegalNotice]\nAccepted=true\n[BitTorrent]\nTrackerEnabled=true\nSession\\DHTEnabled=false\n\
        Session\\LSDEnabled=false\nSession\\PeXEnabled=false\n[Preferences]\nAdvanced\\trackerPort=9000\nWebUI\\Port=8080\n";
    fs::write(config.join("qBittorrent.conf"), text).expect("the configuration");
    let mut start = command(programs::need("qbittorrent-nox"));
    start
        .arg(format!("--profile={}", directory.join("qbt").display()))
        .env("HOME", directory)
        .env("QT_QPA_PLATFORM", "offscreen");
    let mut process = server.start(start);
    listening(server, &mut process, &format!("{}:9000", server.v4()));
    process
}

// B2, B5, B10, B11, B12: both families of peers to either, compact and as a list, and our own address.
#[test]
fn the_tracker_of_qbittorrent_is_read_compact_and_not() {
    let Some(lab) = Lab::open() else { return };
    let lan = Lan::new(&lab, Family::Both);
    let (server, host, other) = (lan.host("tracker"), lan.host("a"), lan.host("b"));
    let _process = qbittorrent(&server, lab.directory());
    let urls = [
        format!("http://{}:9000/announce", server.v4()),
        format!("http://[{}]:9000/announce", server.v6()),
    ];
    for url in &urls {
        announce(&host, lab.directory(), url, 9_001, &["--event", "started"]);
    }
    for url in &urls {
        for form in [&[][..], &["--no-compact"]] {
            let list = announce(&other, lab.directory(), url, 9_002, form);
            let heard = peers(&list);
            assert!(
                heard.is_superset(&endpoints(&host, 9_001)),
                "{url} {form:?}: {heard:?}"
            );
            assert_eq!(list[0]["external_ip"], list[0]["local"], "{list:?}");
        }
    }
    let (code, _, said) = ask(
        &other,
        lab.directory(),
        &["scrape", &urls[0], "--info-hash", HASH],
    );
    assert_eq!(code, 1);
    assert!(said.contains("404"), "it has no scrape: {said}");
}

const LIBTORRENT: &str = r#"
import json, sys, time
import libtorrent as lt
listen, trackers, info_hash = sys.argv[1], sys.argv[2].split(","), sys.argv[3]
session = lt.session({
    "listen_interfaces": listen, "enable_dht": False, "enable_lsd": False, "enable_upnp": False, "enable_natpmp": False,
    "announce_to_all_trackers": True, "announce_to_all_tiers": True,
    "alert_mask": lt.alert.category_t.all_categories,
})
listening = set()
def alerts():
    for alert in session.pop_alerts():
        name = type(alert).__name__
        if name == "listen_succeeded_alert":
            listening.add((alert.address, str(alert.socket_type)))
            print("listening", alert.message(), flush=True)
        if name == "listen_failed_alert":
            print("not listening", alert.message(), flush=True)
        if name == "tracker_reply_alert":
            print("reply", json.dumps([alert.url, str(alert.local_endpoint[0]), alert.num_peers]), flush=True)
        if name == "tracker_error_alert":
            print("error", alert.message(), flush=True)
end = time.time() + float(sys.argv[4])
# It announces itself from the sockets that are open when it is told of the torrent, and not again for half an hour.
while len(listening) < 2 * len(listen.split(",")) and time.time() < end:
    session.wait_for_alert(100)
    alerts()
params = lt.add_torrent_params()
params.info_hashes = lt.info_hash_t(lt.sha1_hash(bytes.fromhex(info_hash)))
params.trackers = trackers
params.save_path = "/nonexistent"
handle = session.add_torrent(params)
handle.resume()
while time.time() < end:
    session.wait_for_alert(100)
    alerts()
"#;

/// The reference client of BEP 7: two addresses of each family, each announced from itself, over UDP and HTTP.
// B14, B15, B16
#[test]
fn libtorrent_reads_our_tracker_from_four_addresses() {
    let Some(lab) = Lab::open() else { return };
    let lan = Lan::new(&lab, Family::Both);
    let (server, host, other) = (lan.host("tracker"), lan.host("a"), lan.host("b"));
    host.address_add("192.0.2.77".parse().unwrap(), 24);
    host.address_add("2001:db8:1::77".parse().unwrap(), 64);
    let text = "[tracker]\nlisten = [\"0.0.0.0:6969\", \"[::]:6969\"]\nopen = true\n";
    let _tracker = AnodeTracker::start(&server, lab.directory(), text);
    let at = [
        format!("{}:6969", server.v4()),
        format!("[{}]:6969", server.v6()),
    ];
    // Somebody who is there already, in both families.
    for at in &at {
        announce(
            &other,
            lab.directory(),
            &format!("http://{at}/announce"),
            9_009,
            &["--event", "started"],
        );
    }
    let own = [
        format!("{}:6881", host.v4()),
        "192.0.2.77:6881".to_owned(),
        format!("[{}]:6881", host.v6()),
        "[2001:db8:1::77]:6881".to_owned(),
    ];
    let trackers = at.iter().flat_map(|at| {
        [
            format!("http://{at}/announce"),
            format!("udp://{at}/announce"),
        ]
    });
    let script = lab.directory().join("client.py");
    fs::write(&script, LIBTORRENT).unwrap();
    let mut start = command("/usr/bin/python3");
    start.arg(&script).args([
        &own.join(","),
        &trackers.collect::<Vec<_>>().join(","),
        HASH,
        "60",
    ]);
    let process = host.start(start);
    let deadline = Instant::now() + Duration::from_secs(40);
    let replies = loop {
        let said = process.stdout();
        let lines = said.lines().filter_map(|line| line.strip_prefix("reply "));
        let replies: BTreeSet<(String, String)> = lines
            .filter_map(|line| {
                let [url, local, peers] = serde_json::from_str::<[Value; 3]>(line).ok()?;
                // It is told of the other and of itself by its other addresses.
                assert!(peers.as_u64() >= Some(1), "{line}");
                Some((url.as_str()?.to_owned(), local.as_str()?.to_owned()))
            })
            .collect();
        // Four trackers, two addresses of the right family each.
        if replies.len() >= 8 {
            break replies;
        }
        assert!(
            Instant::now() < deadline,
            "{replies:?}\n{said}\n{}",
            process.stderr()
        );
        std::thread::sleep(Duration::from_millis(100));
    };
    println!("libtorrent: {} announces answered", replies.len());
    for at in &at {
        let heard = peers(&announce(
            &other,
            lab.directory(),
            &format!("http://{at}/announce"),
            9_009,
            &[],
        ));
        for endpoint in &own {
            assert!(heard.contains(endpoint), "{endpoint} in {heard:?}");
        }
    }
    let (_, list, _) = ask(
        &other,
        lab.directory(),
        &["scrape", &format!("udp://{}", at[0]), "--info-hash", HASH],
    );
    println!("{list}");
}

/// aria2 has one address and a key of raw bytes.
#[test]
fn aria2_reads_our_tracker() {
    let Some(lab) = Lab::open() else { return };
    let lan = Lan::new(&lab, Family::V4);
    let (server, host, other) = (lan.host("tracker"), lan.host("a"), lan.host("b"));
    let text = "[tracker]\nlisten = [\"0.0.0.0:6969\"]\nopen = true\n";
    let _tracker = AnodeTracker::start(&server, lab.directory(), text);
    let url = format!("http://{}:6969/announce", server.v4());
    announce(
        &other,
        lab.directory(),
        &url,
        9_009,
        &["--event", "started"],
    );
    let directory: PathBuf = lab.directory().join("aria2");
    let mut start = command(programs::need("aria2c"));
    start
        .args([
            "--no-conf",
            "--enable-dht=false",
            "--enable-dht6=false",
            "--bt-enable-lpd=false",
            "--listen-port=6999",
        ])
        .args(["--console-log-level=debug", "--summary-interval=0"])
        .arg(format!("--dir={}", directory.display()))
        .arg(format!("magnet:?xt=urn:btih:{HASH}&tr={url}"));
    let process = host.start(start);
    let deadline = Instant::now() + LIMIT;
    let own = format!("{}:6999", host.v4());
    loop {
        let heard = peers(&announce(&other, lab.directory(), &url, 9_009, &[]));
        // It was told of the other, and has tried it.
        let tried = process.stdout().contains(&format!("{}:9009", other.v4()));
        if heard.contains(&own) && tried {
            return;
        }
        assert!(Instant::now() < deadline, "{heard:?}\n{}", process.stdout());
        std::thread::sleep(Duration::from_millis(300));
    }
}
