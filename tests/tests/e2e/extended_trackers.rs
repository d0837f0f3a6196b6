//! Trackers that no Debian package brings. `tests/trackers` fetches them and runs these tests; without them they are shown
//! as ignored.

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

/// Below target/trackers.
fn fetched(path: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../target/trackers")
        .join(path);
    assert!(
        path.exists(),
        "{} is missing: run tests/trackers",
        path.display()
    );
    path.canonicalize().expect("it exists")
}

#[track_caller]
fn announce(ns: &Ns, directory: &Path, url: &str, port: u16) -> Vec<Value> {
    tracker::announce(ns, directory, url, &["--port", &port.to_string()])
}

/// Waits until an announce is answered.
fn answering(host: &Host, directory: &Path, url: &str, process: &Proc) {
    let deadline = Instant::now() + LIMIT;
    while ask(host, directory, &["announce", url, "--info-hash", HASH]).0 != 0 {
        assert!(
            Instant::now() < deadline,
            "{url}: {}\n{}",
            process.stdout(),
            process.stderr()
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

struct Place {
    server: Host,
    host: Host,
    other: Host,
    _lan: Lan,
    lab: Lab,
}

impl Place {
    fn new() -> Option<Self> {
        let lab = Lab::open()?;
        let lan = Lan::new(&lab, Family::Both);
        Some(Self {
            server: lan.host("tracker"),
            host: lan.host("a"),
            other: lan.host("b"),
            _lan: lan,
            lab,
        })
    }
}

/// A strict UDP tracker of both families: ids of the source alone, the asker never listed.
#[test]
#[ignore = "needs what tests/trackers fetches"]
fn aquatic_is_read_over_udp_in_both_families() {
    let Some(place) = Place::new() else { return };
    let directory = place.lab.directory();
    let config = directory.join("aquatic.toml");
    fs::write(&config, "[network]\naddress = \"[::]:3000\"\n").unwrap();
    let mut start = command(fetched("bin/aquatic_udp"));
    start.arg("-c").arg(&config);
    let process = place.server.start(start);
    for (url, own) in [
        (
            format!("udp://{}:3000", place.server.v4()),
            format!("{}:9001", place.host.v4()),
        ),
        (
            format!("udp://[{}]:3000", place.server.v6()),
            format!("[{}]:9001", place.host.v6()),
        ),
    ] {
        answering(&place.other, directory, &url, &process);
        announce(&place.host, directory, &url, 9_001);
        let heard = peers(&announce(&place.other, directory, &url, 9_002));
        assert!(heard.contains(&own), "{url}: {heard:?}");
        let (code, list, said) = ask(
            &place.other,
            directory,
            &["scrape", &url, "--info-hash", HASH],
        );
        assert_eq!(code, 0, "{said}");
        assert!(list[0]["incomplete"].as_u64() >= Some(2), "{list}");
        println!("aquatic_udp, {url}: {heard:?}");
    }
}

/// The npm tracker gives both families to either over HTTP, and IPv4 entries over UDP on IPv6: that answer is refused whole.
#[test]
#[ignore = "needs what tests/trackers fetches"]
fn the_npm_tracker_is_read_where_it_is_right_and_refused_where_it_is_wrong() {
    let Some(place) = Place::new() else { return };
    let directory = place.lab.directory();
    let module = fetched("node_modules/bittorrent-tracker/server.js");
    let script = directory.join("server.mjs");
    let text = format!(
        "import Server from '{}'\nconst server = new Server({{ udp: true, http: true, ws: false, stats: false }})\n\
         server.on('error', error => console.error(error))\nserver.on('warning', error => console.error(error))\n\
         server.listen(8000, {{ http: '::', udp: '0.0.0.0', udp6: '::' }}, () => console.log('ready'))\n",
        module.display()
    );
    fs::write(&script, text).unwrap();
    let mut start = command(programs::need("node"));
    start.arg(&script);
    let process = place.server.start(start);
    let http = [
        format!("http://{}:8000/announce", place.server.v4()),
        format!("http://[{}]:8000/announce", place.server.v6()),
    ];
    for url in &http {
        answering(&place.other, directory, url, &process);
        announce(&place.host, directory, url, 9_001);
    }
    let expected: BTreeSet<String> = [
        format!("{}:9001", place.host.v4()),
        format!("[{}]:9001", place.host.v6()),
    ]
    .into();
    for url in &http {
        let heard = peers(&announce(&place.other, directory, url, 9_002));
        assert!(heard.is_superset(&expected), "{url}: {heard:?}");
    }
    let heard = peers(&announce(
        &place.other,
        directory,
        &format!("udp://{}:8000", place.server.v4()),
        9_002,
    ));
    assert!(
        heard.contains(&format!("{}:9001", place.host.v4())),
        "{heard:?}"
    );
    // One IPv4 peer in a swarm of its own: of three, and of every multiple, 18 bytes would look like an IPv6 one, and nobody
    // could tell. Such candidates are probed within the limits like any others.
    let six = format!("udp://[{}]:8000", place.server.v6());
    let alone = "bb6c5ad699f4f549df3fa37df67ea8857b0d2d2a";
    let (code, _, said) = ask(
        &place.host,
        directory,
        &["announce", &http[0], "--info-hash", alone],
    );
    assert_eq!(code, 0, "{said}");
    let (code, list, said) = ask(
        &place.other,
        directory,
        &["announce", &six, "--info-hash", alone],
    );
    println!("the npm tracker over UDP and IPv6: {code}, {said}");
    assert_eq!(code, 1, "{list}");
    assert!(said.contains("no multiple of an entry"), "{said}");
    assert_eq!(list[0]["peers"], Value::Array(Vec::new()));
}

/// Its client asks our tracker, over HTTP in both families and over UDP in IPv4, which is all that it can.
#[test]
#[ignore = "needs what tests/trackers fetches"]
fn the_npm_client_reads_our_tracker() {
    let Some(place) = Place::new() else { return };
    let directory = place.lab.directory();
    let text = "[tracker]\nlisten = [\"0.0.0.0:6969\", \"[::]:6969\"]\nopen = true\n";
    let _tracker = AnodeTracker::start(&place.server, directory, text);
    let (four, six) = (place.server.v4(), place.server.v6());
    for at in [format!("{four}:6969"), format!("[{six}]:6969")] {
        announce(
            &place.other,
            directory,
            &format!("http://{at}/announce"),
            9_009,
        );
    }
    let classes = fetched("node_modules/bittorrent-tracker/lib/client");
    let script = directory.join("client.mjs");
    let text = format!(
        "import EventEmitter from 'events'\n\
         import HTTPTracker from '{0}/http-tracker.js'\nimport UDPTracker from '{0}/udp-tracker.js'\n\
         const hash = Buffer.from('{HASH}', 'hex'), id = Buffer.from('-NP0001-abcdefghijkl')\n\
         class Client extends EventEmitter {{\n\
           constructor (url) {{ super(); this.url = url; this.infoHash = '{HASH}'; this._infoHashBuffer = hash\n\
             this._infoHashBinary = hash.toString('latin1'); this.peerId = id.toString('hex'); this._peerIdBuffer = id\n\
             this._peerIdBinary = id.toString('latin1'); this._port = 9010; this._proxyOpts = undefined\n\
             this.on('warning', error => console.log('warning', url, error.message))\n\
             this.on('error', error => console.log('error', url, error.message))\n\
             this.on('peer', peer => console.log('peer', url, peer))\n\
             this.on('update', data => console.log('update', url, data.incomplete)) }}\n\
           _defaultAnnounceOpts (opts = {{}}) {{ return {{ numwant: 50, uploaded: 0, downloaded: 0, left: 1, ...opts }} }}\n\
         }}\n\
         for (const [Kind, url] of [[HTTPTracker, 'http://{four}:6969/announce'], [HTTPTracker, 'http://[{six}]:6969/announce'], [UDPTracker, 'udp://{four}:6969']]) {{\n\
           const client = new Client(url); const tracker = new Kind(client, url)\n\
           tracker.announce(client._defaultAnnounceOpts({{ event: 'started' }}))\n\
         }}\nsetTimeout(() => process.exit(0), 4000)\n",
        classes.display()
    );
    fs::write(&script, text).unwrap();
    let mut start = command(programs::need("node"));
    start.arg(&script);
    let said = place.host.finish(start, LIMIT).expect_ok().stdout();
    println!("{said}");
    for (url, endpoints) in [
        (
            format!("http://{four}:6969"),
            vec![
                format!("{}:9009", place.other.v4()),
                format!("[{}]:9009", place.other.v6()),
            ],
        ),
        (
            format!("http://[{six}]:6969"),
            vec![
                format!("{}:9009", place.other.v4()),
                format!("[{}]:9009", place.other.v6()),
            ],
        ),
        (
            format!("udp://{four}:6969"),
            vec![format!("{}:9009", place.other.v4())],
        ),
    ] {
        for endpoint in endpoints {
            let heard = said
                .lines()
                .any(|line| line.starts_with(&format!("peer {url}")) && line.ends_with(&endpoint));
            assert!(heard, "{endpoint} from {url}:\n{said}");
        }
    }
    for at in [format!("{four}:6969"), format!("[{six}]:6969")] {
        let heard = peers(&announce(
            &place.other,
            directory,
            &format!("http://{at}/announce"),
            9_009,
        ));
        for own in [
            format!("{}:9010", place.host.v4()),
            format!("[{}]:9010", place.host.v6()),
        ] {
            assert!(heard.contains(&own), "{own}: {heard:?}");
        }
    }
}
