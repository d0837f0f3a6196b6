//! Meeting at trackers: a task of the control thread that announces what the data thread has, and hands it what trackers
//! name. It opens sockets to trackers and to nobody else.
//!
//! ```text
//!  [rendezvous], zone file ─▶ trackers, info hashes ─┐
//!  data thread ─ Meeting: own endpoints, searching? ─┴▶ Announcer ─▶ trackers
//!  data thread ◀─ Command::Candidates ◀──────────────── answers
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anode_routing::tracker::{
    Announcer, Cidr, LocalAddress, Names, OwnHashes, Publish, Report, Scope, TlsConfig, TrackerUrl,
    next_change, scope,
};
use anode_wire::Zone;
use rand::TryRng;
use rand::rngs::SysRng;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinHandle;

use super::{Rendezvous, names};
use crate::Error;
use crate::clock::unix;
use crate::command::{Command, DataHandle, Meeting};
use crate::zone::Known;

/// What a confined node needs beyond what it has: `stopped` takes 2 s at most.
const STOP_TIME: Duration = Duration::from_millis(2_500);
/// Addresses of trackers that are remembered, for the choice of what is announced to them.
const MAX_RESOLVED: usize = 256;
/// Addresses to which every default route leads (RFC 5737, RFC 3849). Nothing is ever sent there.
const ANYWHERE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// All that is known before the node stands.
pub struct MeetPlan {
    hashes: OwnHashes,
    trackers: Vec<TrackerUrl>,
    zone_trackers: bool,
    publish: Publish,
    tls: TlsConfig,
}

impl MeetPlan {
    /// `None`: the node meets nobody at trackers. Reads certificates, which a confined node cannot.
    pub fn new(rendezvous: &Rendezvous, zone: Zone) -> Result<Option<Self>, Error> {
        if !rendezvous.is_on() {
            return Ok(None);
        }
        let trackers: Vec<TrackerUrl> = rendezvous
            .trackers
            .iter()
            .map(|url| url.0.0.clone())
            .collect();
        let tls = match names::certificates(&trackers)? {
            // Which ones a later zone file names is not known: it may go without.
            None if rendezvous.zone_trackers => crate::zone::http::trusted_certificates().ok(),
            tls => tls,
        };
        Ok(Some(Self {
            hashes: rendezvous.hashes(zone),
            trackers,
            zone_trackers: rendezvous.zone_trackers,
            publish: Publish {
                allow: Rendezvous::networks(&rendezvous.allow),
                deny: Rendezvous::networks(&rendezvous.deny),
            },
            tls,
        }))
    }

    /// Whether host names are looked up.
    pub fn needs_names(&self) -> bool {
        let is_name = |url: &TrackerUrl| url.host().parse::<IpAddr>().is_err();
        self.zone_trackers || self.trackers.iter().any(is_name)
    }

    /// Starts to announce.
    pub fn start(
        self,
        data: DataHandle,
        meeting: watch::Receiver<Meeting>,
        zone: watch::Receiver<Option<Arc<Known>>>,
    ) -> Result<Meet, Error> {
        let mut secret = [0; 32];
        SysRng
            .try_fill_bytes(&mut secret)
            .map_err(|error| Error::refused(format!("the system gives no randomness: {error}")))?;
        let counters = Arc::new(Counters::default());
        let resolved = Arc::new(Resolved::default());
        let mut task = Task {
            announcer: Announcer::new(secret, resolved.names(), self.tls.clone()),
            plan: self,
            data,
            meeting,
            zone,
            resolved,
            counters: Arc::clone(&counters),
            troubles: BTreeMap::new(),
            probing: false,
        };
        let (stop, stopped) = oneshot::channel();
        let handle = tokio::spawn(async move { task.run(stopped).await });
        Ok(Meet {
            counters,
            stop,
            handle,
        })
    }
}

/// The running task.
pub struct Meet {
    /// For the metrics.
    pub counters: Arc<Counters>,
    stop: oneshot::Sender<()>,
    handle: JoinHandle<()>,
}

impl Meet {
    /// Says `stopped` for every address, within 2 s, and ends.
    pub async fn stop(self) {
        let Self {
            stop, mut handle, ..
        } = self;
        let _ = stop.send(());
        if tokio::time::timeout(STOP_TIME, &mut handle).await.is_err() {
            handle.abort();
        }
    }
}

/// What the task has done.
#[derive(Debug, Default)]
pub struct Counters {
    answers: AtomicU64,
    failures: AtomicU64,
    endpoints: AtomicU64,
    trackers: AtomicU64,
}

impl Counters {
    /// By the names of the metrics.
    pub fn all(&self) -> Vec<(String, u64)> {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let named = [
            ("anode_rendezvous_answers_total", get(&self.answers)),
            ("anode_rendezvous_endpoints_total", get(&self.endpoints)),
            ("anode_rendezvous_failures_total", get(&self.failures)),
            ("anode_rendezvous_trackers", get(&self.trackers)),
        ];
        named.map(|(name, value)| (name.to_owned(), value)).into()
    }
}

/// What the names of trackers were resolved to: routes decide by it which private addresses are worth announcing.
struct Resolved {
    /// Lookups at a time: each is a thread that may wait for long, and others need some, too.
    turns: Semaphore,
    addresses: Mutex<BTreeSet<IpAddr>>,
    changed: watch::Sender<()>,
}

impl Default for Resolved {
    fn default() -> Self {
        Self {
            turns: Semaphore::new(2),
            addresses: Mutex::default(),
            changed: watch::Sender::new(()),
        }
    }
}

impl Resolved {
    fn names(self: &Arc<Self>) -> Names {
        let resolved = Arc::clone(self);
        Arc::new(move |name| {
            let resolved = Arc::clone(&resolved);
            Box::pin(async move {
                // Nobody closes it.
                let _turn = resolved.turns.acquire().await;
                let found = names::look_up(name).await?;
                resolved.add(&found);
                Ok(found)
            })
        })
    }

    fn add(&self, found: &[IpAddr]) {
        let mut addresses = self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let before = addresses.len();
        let room = MAX_RESOLVED.saturating_sub(before);
        addresses.extend(found.iter().map(IpAddr::to_canonical).take(room));
        if addresses.len() > before {
            self.changed.send_replace(());
        }
    }

    fn all(&self) -> Vec<IpAddr> {
        let addresses = self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        addresses.iter().copied().collect()
    }
}

struct Task {
    plan: MeetPlan,
    announcer: Announcer,
    data: DataHandle,
    meeting: watch::Receiver<Meeting>,
    zone: watch::Receiver<Option<Arc<Known>>>,
    resolved: Arc<Resolved>,
    counters: Arc<Counters>,
    /// What people were told of a tracker last: each trouble once.
    troubles: BTreeMap<String, String>,
    /// The data thread probes.
    probing: bool,
}

impl Task {
    async fn run(&mut self, mut stopped: oneshot::Receiver<()>) {
        let mut resolved = self.resolved.changed.subscribe();
        loop {
            let change = self.refresh();
            let turn = tokio::time::sleep(change.unwrap_or(Duration::MAX));
            tokio::select! {
                report = self.announcer.next() => self.take(report),
                // Gone with the data thread: then the node is ending, and says so.
                Ok(()) = self.meeting.changed() => {}
                Ok(()) = self.zone.changed() => {}
                Ok(()) = resolved.changed() => {}
                () = turn => {}
                _ = &mut stopped => break,
            }
        }
        self.announcer.shut_down().await;
    }

    /// Tells the announcer how things are; how long until the info hashes change.
    fn refresh(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let trackers = self.trackers();
        self.counters
            .trackers
            .store(trackers.len() as u64, Ordering::Relaxed);
        self.set_probing(!trackers.is_empty());
        let unix = unix();
        let hashes: Vec<_> = self.plan.hashes.in_force(unix).collect();
        let meeting = self.meeting.borrow_and_update().clone();
        let locals = self.locals(&meeting, &trackers);
        let client = self.announcer.client();
        client.set_eager(meeting.searching, now);
        client.set_locals(&locals, now);
        client.set_swarms(&hashes, now);
        client.set_trackers(&trackers, now);
        let change = next_change(self.plan.hashes.rotation, unix)?;
        Some(Duration::from_secs(change.saturating_sub(unix).max(1)))
    }

    /// Those of the configuration and, where it says so, of the signed zone file.
    fn trackers(&mut self) -> Vec<TrackerUrl> {
        let mut all = self.plan.trackers.clone();
        let known = self.zone.borrow_and_update().clone();
        let signed = known.filter(|known| self.plan.zone_trackers && known.file.signer().is_some());
        for text in signed.iter().flat_map(|known| known.file.trackers()) {
            match text.parse() {
                Ok(url) if !all.contains(&url) => all.push(url),
                Ok(_) => {}
                Err(error) => tracing::debug!(%text, %error, "a tracker of the zone file"),
            }
        }
        all
    }

    fn set_probing(&mut self, probing: bool) {
        if probing != self.probing {
            let deny = probing.then(|| self.plan.publish.deny.clone());
            self.probing = self.data.send(Command::SetRendezvous(deny)).is_ok() == probing;
        }
    }

    /// What is worth announcing of what the node has.
    fn locals(&self, meeting: &Meeting, trackers: &[TrackerUrl]) -> Vec<LocalAddress> {
        let literal = trackers.iter().filter_map(|url| url.host().parse().ok());
        let remotes = literal.chain(self.resolved.all()).chain(ANYWHERE);
        let ways_out: BTreeSet<IpAddr> = remotes.filter_map(way_out).collect();
        let own: Vec<LocalAddress> = meeting
            .own
            .iter()
            .map(|own| LocalAddress {
                ip: own.ip(),
                port: announced_port(own, meeting),
                deprecated: meeting.deprecated.contains(&own.ip()),
                way_out: ways_out.contains(&own.ip()),
            })
            .collect();
        self.plan.publish.select(&own, |local, why| {
            tracing::debug!(address = %local.ip, %why, "not announced");
        })
    }

    fn take(&mut self, report: Report) {
        let count = |counter: &AtomicU64, more: usize| {
            counter.fetch_add(more as u64, Ordering::Relaxed);
        };
        match report {
            Report::Answered {
                about,
                remote,
                answer,
            } => {
                count(&self.counters.answers, 1);
                count(&self.counters.endpoints, answer.peers.len());
                let url = self.name(about.tracker);
                self.troubles.remove(&url);
                if let Some(warning) = &answer.warning {
                    tracing::info!(tracker = %url, %warning, "a tracker warns");
                }
                tracing::debug!(tracker = %url, local = %about.local, peers = answer.peers.len(), "announced");
                let candidates = Command::Candidates {
                    endpoints: answer.peers,
                    tracker: remote.ip(),
                };
                // A thread that is busy loses them; the next answer has them again.
                let _ = self.data.send(candidates);
            }
            Report::Failed { about, error, .. } => {
                let url = self.name(about.tracker);
                self.trouble(url, error);
            }
            Report::Unresolved { tracker, error, .. } => {
                let url = self.name(tracker);
                self.trouble(url, error);
            }
        }
    }

    fn trouble(&mut self, url: String, error: String) {
        self.counters.failures.fetch_add(1, Ordering::Relaxed);
        if self.troubles.get(&url) != Some(&error) {
            tracing::warn!("tracker {url}: {error}");
            self.troubles.insert(url, error);
        }
    }

    fn name(&mut self, id: anode_routing::tracker::TrackerId) -> String {
        let url = self.announcer.client().tracker(id);
        url.map(ToString::to_string).unwrap_or_default()
    }
}

/// The own port, or that of a NAT which others see this address behind (discovery.md §3).
fn announced_port(own: &SocketAddr, meeting: &Meeting) -> u16 {
    if scope(own.ip()) != Scope::Private {
        return own.port();
    }
    let is_own = |ip: IpAddr| meeting.own.iter().any(|own| own.ip() == ip);
    let mut mapped = meeting.external.iter().rev().filter(|seen| {
        seen.is_ipv4() == own.is_ipv4() && !is_own(seen.ip()) && scope(seen.ip()) != Scope::Loopback
    });
    mapped.next().map_or(own.port(), SocketAddr::port)
}

/// The address of ours from which packets to `remote` leave, by the routes of the machine. Nothing is sent.
pub fn way_out(remote: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = match remote {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
    // The port does not matter: connecting chooses a route.
    socket.connect(SocketAddr::new(remote, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// `[rendezvous] deny`, for the data thread.
pub type Deny = Option<Vec<Cidr>>;

#[cfg(test)]
mod tests {
    use super::*;

    fn meeting(own: &[&str], external: &[&str]) -> Meeting {
        let parse = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect();
        Meeting {
            own: parse(own),
            external: parse(external),
            ..Meeting::default()
        }
    }

    // discovery.md §3: what is announced is where the NAT lets others in.
    #[test]
    fn behind_a_nat_the_mapped_port_is_announced() {
        for (own, external, port) in [
            (&["10.0.0.2:8737"][..], &[][..], 8737),
            (&["10.0.0.2:8737"], &["192.0.2.1:40000"], 40000),
            (
                &["10.0.0.2:8737"],
                &["192.0.2.1:40000", "192.0.2.1:40001"],
                40001,
            ),
            (&["10.0.0.2:8737"], &["[2001:db8::1]:9"], 8737),
            (&["198.51.100.7:8737"], &["192.0.2.1:40000"], 8737),
            (
                &["10.0.0.2:8737", "192.0.2.1:8737"],
                &["192.0.2.1:40000"],
                8737,
            ),
        ] {
            let meeting = meeting(own, external);
            assert_eq!(
                announced_port(&meeting.own[0], &meeting),
                port,
                "{own:?} {external:?}"
            );
        }
    }

    #[test]
    fn the_way_out_is_the_routes_choice() {
        let loopback: IpAddr = "127.0.0.1".parse().unwrap();
        assert_eq!(way_out(loopback), Some(loopback));
    }
}
