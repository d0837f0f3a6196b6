use super::*;
use crate::tracker::{
    ConnectionLimits, InfoHash, Listeners, LocalAddress, Served, Tracker, TrackerUrl,
};
use anode_tracker::server::Config;

const HASH: InfoHash = InfoHash([7; 20]);

fn tracker() -> (Arc<Tracker>, crate::tracker::RunningTracker) {
    let addresses = ["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()];
    let served = Served {
        open: true,
        ..Served::default()
    };
    let tracker = Tracker::new(Config::default(), served, ConnectionLimits::default()).unwrap();
    let tracker = Arc::new(tracker);
    let running = tracker.start(Listeners::bind(&addresses).unwrap()).unwrap();
    (tracker, running)
}

fn entries(tracker: &Tracker) -> u64 {
    let all = tracker.counters();
    let found = all
        .iter()
        .find(|(name, _)| *name == "anode_tracker_entries");
    found.unwrap().1
}

fn local(ip: &str) -> LocalAddress {
    LocalAddress {
        ip: ip.parse().unwrap(),
        port: 9_000,
        deprecated: false,
        way_out: false,
    }
}

/// Every name is this machine, in both families.
fn names() -> Names {
    Arc::new(|_| {
        Box::pin(async {
            let both = ["127.0.0.1", "::1"];
            Ok(both.iter().map(|ip| ip.parse().unwrap()).collect())
        })
    })
}

// B1 to B5, B7: a name of both families, announced from both, over both protocols; `stopped` from both.
#[tokio::test]
async fn a_name_is_announced_to_in_both_families_at_once_and_left_at_the_end() {
    for scheme in ["udp", "http"] {
        let (tracker, running) = tracker();
        // One port for both families would need luck: two names, each of which leads to both.
        let urls: Vec<TrackerUrl> = running
            .listen()
            .iter()
            .map(|at| {
                format!("{scheme}://name.example:{}/announce", at.port())
                    .parse()
                    .unwrap()
            })
            .collect();
        let mut announcer = Announcer::new([1; 32], names(), None);
        let now = Instant::now();
        let client = announcer.client();
        client.set_locals(&[local("127.0.0.1"), local("::1")], now);
        client.set_swarms(&[HASH], now);
        client.set_trackers(&urls, now);
        let mut answered = 0;
        let mut refused = 0;
        while answered + refused < 4 {
            let report = tokio::time::timeout(Duration::from_secs(5), announcer.next()).await;
            match report.expect("at once, not after the first repeat") {
                Report::Answered { remote, answer, .. } => {
                    assert!(running.listen().contains(&remote));
                    assert!(answer.peers.iter().all(|peer| peer.port() == 9_000));
                    answered += 1;
                }
                // The port of the other family, where nobody listens.
                Report::Failed { error, .. } => {
                    assert!(error.contains("refused"), "{error}");
                    refused += 1;
                }
                Report::Unresolved { error, .. } => panic!("{error}"),
            }
        }
        assert_eq!((answered, refused), (2, 2), "{scheme}");
        assert_eq!(entries(&tracker), 2);
        let start = Instant::now();
        announcer.shut_down().await;
        assert!(start.elapsed() < Duration::from_millis(2_500));
        assert_eq!(entries(&tracker), 0, "{scheme}: both have left");
    }
}

#[tokio::test]
async fn a_tracker_that_is_silent_holds_up_neither_others_nor_the_end() {
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().map(|at| (silent, at)).unwrap();
    let (tracker, running) = tracker();
    let urls: Vec<TrackerUrl> = [silent.1, running.listen()[0]]
        .iter()
        .map(|at| format!("udp://{at}").parse().unwrap())
        .collect();
    let mut announcer = Announcer::new([1; 32], names(), None);
    let now = Instant::now();
    let client = announcer.client();
    client.set_locals(&[local("127.0.0.1")], now);
    client.set_swarms(&[HASH], now);
    client.set_trackers(&urls, now);
    let report = tokio::time::timeout(Duration::from_secs(5), announcer.next()).await;
    assert!(matches!(report, Ok(Report::Answered { .. })), "{report:?}");
    let start = Instant::now();
    announcer.shut_down().await;
    let took = start.elapsed();
    assert!(took < Duration::from_millis(2_500), "{took:?}");
    assert_eq!(entries(&tracker), 0);
}
