//! The DHTs of a node: `[[dht]]`, the task that drives them, and what people ask of them.
//!
//! ```text
//!  config ─┐                 cli, control/dht ── text: KIND, KEY, VALUE, X
//!  zone ───┴─▶ plan ─▶ task ◀──── Ask ┘
//!                      │  ▲
//!        Command::Dht  ▼  │ DhtNews
//!                   data thread: sessions
//! ```
//!
//! The protocol is `anode_routing::dht`, without sockets; signatures cost half a millisecond each, so it runs on the control
//! thread and not on the data thread.

pub mod applications;
pub mod config;
mod discover;
pub mod document;
pub mod enroll;
mod links;
mod migration;
pub mod task;
pub mod text;

use anode_routing::anode::Place;
use anode_routing::dht::reload::Id;
use anode_routing::dht::reload::config::OverlayConfig;
use anode_routing::dht::reload::security::Certificate;
use anode_routing::dht::reload::usage::turn::is_candidate;
use anode_routing::dht::{Bootstrap, DhtConfig, DhtSecurity};
use anode_routing::links::Target;
use anode_wire::{Address, Endpoint, Identity, PeerId, Zone};
use tokio::sync::{mpsc, oneshot};

use crate::Error;
use crate::config::turn::{AnodeUsers, Turn};
use crate::state::dht::{CachedAt, CachedPeer};
use crate::value::Text;
use crate::zone::http::Fetcher;
use crate::zone::{Known, Relays};
use config::DhtEntry;
use document::{Chosen, DocumentFrom};
use enroll::client::Enrolling;
use enroll::server;
use std::borrow::Cow;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use anode_routing::dht::{Answer, Output, PutValue, Refusal, Status};

/// Questions of people that wait for the task.
const ASKS: usize = 64;

/// What the data thread has for the DHTs.
#[derive(Debug)]
pub enum DhtNews {
    /// A RELOAD message.
    Message {
        /// Whose key sealed it.
        from: Address,
        /// Which of the peers that share the address.
        digit: PeerId,
        /// What quotas count together.
        network: u64,
        /// Its body.
        body: Vec<u8>,
    },
    /// Somebody is looked for.
    Wanted(std::net::Ipv6Addr),
    /// Others may reach this node here now, best first.
    Places(Vec<Endpoint>),
}

/// All that the task is started with.
pub struct DhtPlan {
    identity: Identity,
    digit: PeerId,
    relays: bool,
    entries: Vec<DhtEntry>,
    zone: ZoneDht,
    /// Of an earlier run.
    cached: Vec<CachedPeer>,
    /// Keys of `shared-key-file`, read before privileges are given up.
    keys: Vec<links::KeyFile>,
    /// This node's name where a key is shared (RD61).
    random_id: Id,
    /// The document of each entry that has one, as it was last read.
    documents: Vec<Option<Chosen>>,
    fetcher: Fetcher,
    /// How each entry gets a certificate, if it does.
    enrolling: Vec<Option<Enrolling>>,
    /// The certificate of each entry that has one by now.
    certificates: Vec<Option<Certificate>>,
    /// Forwards of this node, whose sockets are open.
    forwards: Vec<applications::OpenForward>,
    /// Credential servers of this node, not started yet, by the place of their `[[dht]]`.
    servers: Vec<(usize, server::Prepared)>,
    /// Where this machine's TURN server is reached.
    turn: Option<SocketAddr>,
}

/// What the zone says: the name of its DHT, and whom to ask first.
#[derive(Clone, Default, Debug)]
pub struct ZoneDht {
    name: Option<String>,
    bootstrap: Vec<Bootstrap>,
    /// Where the overlay's document is.
    config: Option<DocumentFrom>,
}

impl ZoneDht {
    /// Of the zone file in use, or of the relays that the configuration names.
    pub fn new(known: Option<&Known>, relays: Option<&Relays>) -> Self {
        let of_file = known.map(Known::relays);
        let relays = of_file.as_ref().or(relays);
        let bootstrap = relays.iter().flat_map(|relays| &relays.relays);
        let dht = known.and_then(|known| known.file.dht());
        let config = dht.and_then(|dht| dht.config.as_ref()?.parse().ok());
        Self {
            name: dht.map(|dht| dht.name.clone()),
            // A zone's file names servers, never files of this machine.
            config: config.filter(|from| matches!(from, DocumentFrom::Url(_))),
            bootstrap: bootstrap
                .map(|relay| Bootstrap {
                    address: relay.address,
                    places: places(&relay.endpoints),
                })
                .collect(),
        }
    }
}

/// Where a TURN server of this configuration is reached by whoever finds it in a DHT: over UDP at a public address, and only
/// if the keys of others are credentials there (R135).
pub fn turn_pointer(turn: &Turn) -> Option<SocketAddr> {
    let seen = |at: SocketAddr| {
        let mut mapped = turn.external.iter();
        let outside = mapped.find(|(local, _)| local.0.0 == at.ip());
        SocketAddr::new(outside.map_or(at.ip(), |(_, ip)| ip.0.0), at.port())
    };
    let mut places = turn.listen.iter().map(|place| seen(place.0.0));
    places
        .find(|at| is_candidate(*at, &[*at]))
        .filter(|_| turn.anode_users != AnodeUsers::Off)
}

fn places(endpoints: &[Endpoint]) -> Vec<Place> {
    endpoints.iter().filter_map(Place::from_endpoint).collect()
}

/// The name of a zone's overlay where its file names none (reload.md §3).
pub fn zone_overlay(zone: Zone) -> String {
    format!("a--{:08x}.net", zone.0)
}

impl DhtPlan {
    /// # Errors
    /// Two `[[dht]]` are of one overlay.
    pub fn new(
        identity: &Identity,
        digit: PeerId,
        relays: bool,
        entries: Vec<DhtEntry>,
        zone: ZoneDht,
        cached: Vec<CachedPeer>,
        state: &Path,
    ) -> Result<Self, Error> {
        let identity = identity.clone();
        let mut entries = entries;
        let mut documents = Vec::new();
        for entry in &mut entries {
            entry.discover();
            let name = entry.overlay.as_ref().map(|Text(name)| name.0.as_str());
            let from = entry.config.as_ref().filter(|_| entry.enabled);
            let enrolls = entry.user.is_some();
            let document = from.and_then(|Text(from)| from.read(name, enrolls));
            let document = document.transpose()?;
            if let Some(key) = document
                .as_ref()
                .and_then(|it| it.own.shared_key_file.clone())
            {
                entry.shared_key_file.get_or_insert(key.into());
            }
            documents.push(document);
        }
        // The entry that a zone's file implies may have a document, too.
        documents.resize(documents.len().max(1), None);
        let secure = |entry: &DhtEntry| {
            let from = entry.config.as_ref().filter(|_| entry.enabled);
            from.is_some_and(|Text(from)| from.needs_tls())
        };
        let of_zone = zone.config.as_ref().is_some_and(DocumentFrom::needs_tls);
        let fetcher = match of_zone || entries.iter().any(secure) {
            true => Fetcher::with_tls()?,
            false => Fetcher::plain(),
        };
        let keys = links::read_keys(&entries)?;
        let random_id = links::random_id();
        let none = entries.len();
        let mut plan = Self {
            enrolling: vec![None; none],
            certificates: vec![None; none],
            forwards: Vec::new(),
            servers: Vec::new(),
            turn: None,
            identity,
            digit,
            relays,
            entries,
            zone,
            cached,
            keys,
            random_id,
            documents,
            fetcher,
        };
        plan.check_names()?;
        plan.forwards = applications::open_forwards(&plan.entries)?;
        plan.prepare_enrollment(state)?;
        Ok(plan)
    }

    /// Each overlay stands once, also where its name is of the zone or of a document. One that comes later is not known yet.
    fn check_names(&self) -> Result<(), Error> {
        let mut known: Vec<(String, &DhtEntry)> = Vec::new();
        for (place, entry) in self.entries.iter().enumerate().filter(|(_, it)| it.enabled) {
            if entry.overlay.is_none() && entry.config.is_some() && self.document(place).is_none() {
                continue;
            }
            let name = self.overlay_of(place, entry);
            match known.iter().find(|(other, _)| *other == name) {
                Some((_, first)) => return Err(config::twice(entry, first, Some(&name))),
                None => known.push((name, entry)),
            }
        }
        Ok(())
    }

    fn enabled(&self) -> impl Iterator<Item = &DhtEntry> {
        self.entries.iter().filter(|entry| entry.enabled)
    }

    /// Whether host names are looked up: of documents, and of the credential servers that they name.
    pub fn needs_names(&self) -> bool {
        let mut entries = self.enabled();
        let of_zone = self.zone.config.as_ref();
        of_zone.is_some_and(DocumentFrom::needs_names)
            || entries.any(|entry| {
                let from = entry.config.as_ref();
                entry.user.is_some() || from.is_some_and(|Text(from)| from.needs_names())
            })
    }

    /// Directories of files that are read again while the node runs.
    pub fn directories(&self) -> Vec<PathBuf> {
        let files = self.enabled().flat_map(|entry| {
            let users = entry.credential_server.as_ref().map(|it| &it.users_file);
            let document = entry.config.as_ref().and_then(|Text(from)| from.path());
            users.map(PathBuf::as_path).into_iter().chain(document)
        });
        files
            .filter_map(|file| Some(file.parent()?.to_owned()))
            .collect()
    }

    /// Where this machine's TURN server is reached, for its pointers (R135).
    pub fn with_turn(mut self, turn: Option<SocketAddr>) -> Self {
        self.turn = turn;
        self
    }

    /// Passwords and keys, read before this node gives up its rights; sockets of credential servers.
    fn prepare_enrollment(&mut self, state: &Path) -> Result<(), Error> {
        for place in 0..self.entries.len() {
            let entry = &self.entries[place];
            if !entry.enabled {
                continue;
            }
            if let (Some(Text(user)), Some(file)) = (&entry.user, &entry.password_file) {
                let identity = Arc::new(self.identity.clone());
                let enrolling = Enrolling::new(&user.0, file, identity, state)?;
                let document = self.document(place);
                self.certificates[place] = document.and_then(|it| enrolling.known(it));
                self.enrolling[place] = Some(enrolling);
            }
            if let Some(server) = &entry.credential_server {
                let overlay = self.overlay_of(place, entry);
                let made =
                    server::Prepared::new(server, &overlay, &entry.listen, &self.identity, state);
                let (server, own) = made?;
                self.servers.push((place, server));
                self.documents[place] = Some(Chosen {
                    own: own.document,
                    next: None,
                });
                self.certificates[place] = Some(own.certificate);
            }
        }
        Ok(())
    }

    /// Whether there is an overlay, or may come one with a zone file.
    pub fn is_wanted(&self, zone_may_come: bool) -> bool {
        match self.entries.is_empty() {
            true => zone_may_come || self.zone.name.is_some(),
            false => self.entries.iter().any(|entry| entry.enabled),
        }
    }

    /// Whom to ask first in an overlay, beside its own configuration: the zone's relays, then peers of an earlier run.
    fn bootstrap(&self, overlay: &str) -> Vec<Bootstrap> {
        let cached = self.cached.iter().filter(|peer| peer.overlay == overlay);
        let cached = cached.filter_map(|peer| match peer.at {
            CachedAt::Address(address) => Some(Bootstrap {
                address,
                places: Vec::new(),
            }),
            CachedAt::Own(_) => None,
        });
        self.zone.bootstrap.iter().cloned().chain(cached).collect()
    }

    fn document(&self, place: usize) -> Option<&OverlayConfig> {
        Some(&self.documents.get(place)?.as_ref()?.own)
    }

    /// The entries of the configuration, or the one that the zone's file implies.
    fn wanted(&self) -> Vec<(usize, Cow<'_, DhtEntry>)> {
        if self.entries.is_empty() && self.zone.name.is_some() {
            return vec![(0, Cow::Owned(DhtEntry::default()))];
        }
        let enabled = self.entries.iter().enumerate();
        let enabled = enabled.filter(|(_, entry)| entry.enabled);
        enabled
            .map(|(place, entry)| (place, Cow::Borrowed(entry)))
            .collect()
    }

    /// Where an entry's document is to be had: as it says itself, else as the zone's file says of the zone's overlay.
    fn source(&self, entry: &DhtEntry) -> Option<DocumentFrom> {
        let zone = self.zone.name.as_deref();
        let name = entry.overlay.as_ref().map(|Text(name)| name.0.as_str());
        let of_zone = name.is_none_or(|name| zone.is_some_and(|it| it.eq_ignore_ascii_case(name)));
        let own = entry.config.as_ref().map(|Text(from)| from);
        let implied = self.zone.config.as_ref();
        let implied = implied.filter(|_| of_zone && entry.credential_server.is_none());
        own.or(implied).cloned()
    }

    /// The program behind an application of an overlay.
    fn program(&self, overlay: &str, application: u16) -> Option<applications::Program> {
        let mut served = self.entry_of(overlay)?.application.iter();
        let served = served.find(|it| it.port == application)?;
        Some(applications::Program {
            to: served.to,
            protocol: served.protocol,
        })
    }

    fn overlay_of(&self, place: usize, entry: &DhtEntry) -> String {
        let of_document = self.document(place).map(|document| &document.name);
        match (&entry.overlay, of_document.or(self.zone.name.as_ref())) {
            (Some(name), _) => name.0.0.clone(),
            (None, Some(name)) => name.to_ascii_lowercase(),
            (None, None) => zone_overlay(self.identity.address().zone()),
        }
    }

    /// Bootstrap peers over links of RELOAD's own. `None`: it has no such links.
    fn targets(&self, place: usize, entry: &DhtEntry) -> Option<Vec<Target>> {
        let of_document = self.document(place).map(|document| &document.bootstrap);
        let of_document = of_document.into_iter().flatten();
        let mut targets = entry.targets();
        targets.extend(of_document.map(|at| Target::Dtls(*at)));
        let grouped = self
            .document(place)
            .is_some_and(|it| !it.multicast.is_empty());
        let needed = self.needs_certificate(place) || grouped || entry.has_own_links();
        if !needed && targets.is_empty() {
            return None;
        }
        let overlay = self.overlay_of(place, entry);
        let cached = self.cached.iter().filter(|peer| peer.overlay == overlay);
        targets.extend(cached.filter_map(|peer| match peer.at {
            CachedAt::Own(target) => Some(target),
            CachedAt::Address(_) => None,
        }));
        // The first peer of an overlay stands in its own document.
        targets.retain(|target| match target {
            Target::Dtls(at) | Target::Tls(at) => !entry.listen.contains(at),
        });
        Some(targets)
    }

    fn needs_certificate(&self, place: usize) -> bool {
        self.document(place)
            .is_some_and(OverlayConfig::needs_certificate)
    }

    fn security(&self, place: usize, entry: &DhtEntry) -> DhtSecurity {
        let certificate = self.certificates.get(place).cloned().flatten();
        match (&entry.shared_key_file, certificate) {
            (Some(_), _) => DhtSecurity::SharedKey(self.random_id),
            (None, Some(certificate)) => DhtSecurity::Certificate(Box::new(certificate)),
            (None, None) => DhtSecurity::Address,
        }
    }

    /// The overlays that this node shall be in.
    fn overlays(&self) -> Vec<DhtConfig> {
        // An overlay whose document or certificate has not come yet is not entered.
        let ready = |place: usize, entry: &DhtEntry| {
            let certified = || matches!(self.certificates.get(place), Some(Some(_)));
            (self.source(entry).is_none() || self.document(place).is_some())
                && (!self.needs_certificate(place) || certified())
        };
        let wanted = self.wanted();
        let mut all: Vec<DhtConfig> = wanted
            .iter()
            .filter(|(place, entry)| ready(*place, entry))
            .map(|(place, entry)| (*place, entry.as_ref()))
            .map(|(place, entry)| DhtConfig {
                overlay: self.overlay_of(place, entry),
                role: entry.role.into(),
                bootstrap: entry.bootstrap(),
                create: entry.create,
                publish: entry.publish,
                relays: self.relays,
                security: self.security(place, entry),
                roots: self
                    .document(place)
                    .map_or(Vec::new(), |it| it.roots.clone()),
                chord: self.document(place).map(OverlayConfig::chord),
                turn: self.turn,
                turn_density: self.document(place).map_or(1, |it| it.turn_density),
                groups: self
                    .document(place)
                    .map_or(Vec::new(), |it| it.multicast.clone()),
                applications: entry.application.iter().map(|it| it.port).collect(),
                users: entry.users(),
                own_links: self.targets(place, entry),
            })
            .collect();
        let moving: Vec<DhtConfig> = all.iter().filter_map(|one| self.next_of(one)).collect();
        for next in moving {
            if !all.iter().any(|one| one.overlay == next.overlay) {
                all.push(next);
            }
        }
        all
    }
}

/// What people want to know of a DHT.
#[derive(Clone, Debug)]
pub enum Question {
    /// Values of a kind.
    Get {
        /// Which kind.
        kind: u32,
        /// Where.
        resource: [u8; 16],
    },
    /// Store a value.
    Put(Box<PutValue>),
    /// The closest place that has a kind.
    Find {
        /// Which kind.
        kind: u32,
        /// From where on.
        resource: [u8; 16],
    },
    /// The way to a resource.
    Route {
        /// Which.
        to: [u8; 16],
    },
    /// The record of a synthetic address.
    Lookup(std::net::Ipv6Addr),
}

/// What the task is asked.
#[derive(Debug)]
pub(crate) enum Ask {
    Status(oneshot::Sender<Vec<Status>>),
    Counters(oneshot::Sender<Vec<(String, u64)>>),
    Cacheable(oneshot::Sender<Vec<CachedPeer>>),
    Question {
        overlay: Option<String>,
        question: Question,
        reply: oneshot::Sender<Result<Answer, NoOverlay>>,
    },
    Zone(ZoneDht),
    Leave(oneshot::Sender<()>),
}

/// There is no overlay to ask.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoOverlay {
    /// None at all.
    #[error(
        "this node is in no DHT: add [[dht]] to its configuration, or use a zone whose file names one"
    )]
    None,
    /// None of this name.
    #[error("this node is in no overlay {0:?}: `anode dht status` lists those that it is in")]
    Named(String),
    /// The task has ended, or hangs.
    #[error("the node ends, or is too busy to ask the DHT")]
    Gone,
}

/// The way to the task.
#[derive(Clone)]
pub struct DhtDesk {
    asks: mpsc::Sender<Ask>,
}

impl DhtDesk {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Ask>) {
        let (asks, receiver) = mpsc::channel(ASKS);
        (Self { asks }, receiver)
    }

    /// What each overlay is like.
    pub async fn status(&self) -> Vec<Status> {
        self.ask(Ask::Status).await.unwrap_or_default()
    }

    /// For the metrics.
    pub async fn counters(&self) -> Vec<(String, u64)> {
        self.ask(Ask::Counters).await.unwrap_or_default()
    }

    /// Whom to ask first at the next start.
    pub async fn cacheable(&self) -> Vec<CachedPeer> {
        self.ask(Ask::Cacheable).await.unwrap_or_default()
    }

    /// Asks an overlay; without a name, the first.
    pub async fn question(
        &self,
        overlay: Option<String>,
        question: Question,
    ) -> Result<Answer, NoOverlay> {
        self.ask(|reply| Ask::Question {
            overlay,
            question,
            reply,
        })
        .await
        .unwrap_or_else(|| {
            Err(match self.asks.is_closed() {
                true => NoOverlay::None,
                false => NoOverlay::Gone,
            })
        })
    }

    /// The zone file is another one.
    pub async fn follow_zone(&self, zone: ZoneDht) {
        // The task ends with the node.
        let _ = self.asks.send(Ask::Zone(zone)).await;
    }

    /// Hands over what is stored here, and says good-bye.
    pub async fn leave(&self) {
        let _ = self.ask(Ask::Leave).await;
    }

    async fn ask<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.asks.send(make(reply)).await.ok()?;
        answer.await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    // R4: one node is in an overlay once, also where only the zone, or the address, says its name
    #[test]
    fn an_overlay_stands_once_whoever_names_it() {
        let text = "[[dht]]\n[[dht]]\noverlay = \"A--00000009.net\"\n";
        let config = Config::parse(text, Path::new("/x/anode.toml")).expect("good by itself");
        let identity = Identity::from_scalar(Zone(9), &[7; 32]).expect("a key");
        let state = Path::new("/nowhere");
        let plan = |zone| {
            let entries = config.dht.clone();
            DhtPlan::new(&identity, PeerId::ANY, false, entries, zone, vec![], state).map(drop)
        };
        let zone = |name: &str| ZoneDht {
            name: Some(name.to_owned()),
            ..ZoneDht::default()
        };
        for twice in [ZoneDht::default(), zone("a--00000009.NET")] {
            let error = plan(twice).expect_err("twice");
            assert_eq!(error.exit_status(), 2);
            let message = error.to_string();
            let expected = "/x/anode.toml:2: [[dht]]: overlay \"a--00000009.net\" stands at /x/anode.toml:1 already";
            assert!(message.starts_with(expected), "{message}");
        }
        assert!(plan(zone("other.example")).is_ok());
    }
}
