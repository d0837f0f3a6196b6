//! The task that drives the DHTs: messages and wishes of the data thread, questions of people, timers.

use std::collections::HashMap;
use std::future::pending;
use std::time::{Duration, Instant};

use anode_routing::dht::reload::config::OverlayConfig;
use anode_routing::dht::reload::security::Certificate;
use anode_routing::dht::reload::{Id, Now, TypeId};
use anode_routing::dht::{Dht, DhtConfig, FoundTurn, OwnPlaces};
use anode_routing::links::{Command as LinkCommand, LinkEvent};
use rand::CryptoRng;
use rand::rand_core::UnwrapErr;
use rand::rngs::SysRng;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use super::applications::{Applications, Said};
use super::document::{self, Chosen, DocumentFrom};
use super::enroll::client;
use super::links::OwnLinks;
use super::migration::{self, Ways};
use super::{Answer, Ask, DhtNews, DhtPlan, NoOverlay, Output, Question};
use crate::clock;
use crate::command::{Command, DataHandle};
use crate::state::dht::{CachedAt, CachedPeer};
use crate::value::Text;

/// Who leaves gives his peers so long to take what he stores.
const LEAVE_FOR: Duration = Duration::from_millis(400);

/// Configuration documents that wait.
const DOCUMENTS: usize = 4;

/// Batches of the data thread that may wait; more are lost and counted there.
pub const NEWS: usize = 256;

type Waiting = oneshot::Sender<Result<Answer, NoOverlay>>;

/// See the module.
pub struct Task {
    plan: DhtPlan,
    dhts: Vec<Dht>,
    links: OwnLinks,
    applications: Applications,
    data: DataHandle,
    epoch: Instant,
    places: Option<OwnPlaces>,
    waiting: HashMap<u64, Waiting>,
    /// Questions to the next overlay, for the old one if nothing is found there.
    then: HashMap<u64, (String, Question)>,
    /// Who reads the documents, and from where, by the place of their `[[dht]]`.
    readers: HashMap<usize, (DocumentFrom, AbortHandle)>,
    next_token: u64,
    /// What the data thread was told of being in a DHT.
    told_in: bool,
    /// Who waits for a certificate is told of newer documents.
    enrolled: HashMap<usize, watch::Sender<OverlayConfig>>,
    /// TURN servers, for whoever makes paths over them, and those of each overlay by its hash.
    turn: watch::Sender<Vec<FoundTurn>>,
    turn_found: HashMap<u32, Vec<FoundTurn>>,
    /// Batches that the data thread was too busy to take.
    lost: u64,
}

impl Task {
    /// In the overlays of the plan.
    pub fn new(mut plan: DhtPlan, data: DataHandle, turn: watch::Sender<Vec<FoundTurn>>) -> Self {
        let mut task = Self {
            applications: Applications::new(std::mem::take(&mut plan.forwards)),
            plan,
            dhts: Vec::new(),
            links: OwnLinks::new(),
            data,
            epoch: Instant::now(),
            places: None,
            waiting: HashMap::new(),
            then: HashMap::new(),
            readers: HashMap::new(),
            next_token: 0,
            told_in: false,
            enrolled: HashMap::new(),
            turn,
            turn_found: HashMap::new(),
            lost: 0,
        };
        task.follow_plan();
        task
    }

    /// Runs until the node ends.
    pub(crate) async fn run(
        mut self,
        mut news: mpsc::Receiver<Vec<DhtNews>>,
        mut asks: mpsc::Receiver<Ask>,
    ) {
        let (tell_document, mut documents) = mpsc::channel(DOCUMENTS);
        self.keep_documents(&tell_document);
        let (tell_certificate, mut certificates) = mpsc::channel(DOCUMENTS);
        for (place, server) in std::mem::take(&mut self.plan.servers) {
            server.start(place, tell_certificate.clone());
        }
        self.keep_certificates(&tell_certificate);
        loop {
            self.flush();
            let due = self.deadline();
            let timer = async move {
                match due {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                batch = news.recv() => match batch {
                    Some(batch) => batch.into_iter().for_each(|word| self.hear(word)),
                    None => return,
                },
                Some((overlay, event)) = self.links.next_event() => self.hear_link(overlay, event),
                Some(said) = self.applications.next() => self.say(said),
                Some((place, certificate)) = certificates.recv() => self.certify(place, certificate),
                Some((place, document)) = documents.recv() => {
                    if let Some(known) = self.plan.documents.get_mut(place) {
                        *known = Some(document);
                    }
                    self.keep_certificates(&tell_certificate);
                    self.follow_plan();
                }
                ask = asks.recv() => match ask {
                    Some(Ask::Leave(done)) => return self.leave(&mut news, done).await,
                    Some(Ask::Zone(zone)) => {
                        self.plan.zone = zone;
                        self.keep_documents(&tell_document);
                        self.follow_plan();
                    }
                    Some(ask) => self.answer(ask),
                    None => return,
                },
                () = timer => {
                    let now = self.now();
                    self.dhts.iter_mut().for_each(|dht| dht.handle_timeout(now));
                }
            }
        }
    }

    /// Configuration documents, as they come and as they change, from where they are now.
    fn keep_documents(&mut self, tell: &mpsc::Sender<(usize, Chosen)>) {
        let wanted: HashMap<usize, (DocumentFrom, Option<String>, bool)> = self
            .plan
            .wanted()
            .iter()
            .filter_map(|(place, entry)| {
                let from = self.plan.source(entry)?;
                let own = entry.overlay.as_ref().map(|Text(name)| name.0.clone());
                let of_zone = || {
                    self.plan
                        .zone
                        .name
                        .clone()
                        .filter(|_| entry.config.is_none())
                };
                Some((*place, (from, own.or_else(of_zone), entry.user.is_some())))
            })
            .collect();
        let (plan, readers) = (&mut self.plan, &mut self.readers);
        readers.retain(|place, (from, reader)| {
            let stays = wanted.get(place).is_some_and(|(now, ..)| now == from);
            if !stays {
                reader.abort();
                if let Some(known) = plan.documents.get_mut(*place) {
                    *known = None;
                }
            }
            stays
        });
        for (place, (from, overlay, enrolls)) in wanted {
            if readers.contains_key(&place) {
                continue;
            }
            let (fetcher, tell) = (plan.fetcher.clone(), tell.clone());
            let keep = document::keep(from.clone(), overlay, enrolls, fetcher, place, tell);
            readers.insert(place, (from, tokio::spawn(keep).abort_handle()));
        }
    }

    /// Asks for certificates where documents are there; who has one already is told of a newer document.
    fn keep_certificates(&mut self, tell: &mpsc::Sender<(usize, Certificate)>) {
        for place in 0..self.plan.enrolling.len() {
            let document = self.plan.document(place).cloned();
            let document = document.filter(OverlayConfig::needs_certificate);
            let enrolling = self.plan.enrolling[place].clone();
            let (Some(document), Some(enrolling)) = (document, enrolling) else {
                continue;
            };
            if let Some(told) = self.enrolled.get(&place) {
                told.send_if_modified(|known| {
                    let is_news = *known != document;
                    *known = document;
                    is_news
                });
                continue;
            }
            // Of an earlier run, where the document has come only now.
            let known = &mut self.plan.certificates[place];
            *known = known.take().or_else(|| enrolling.known(&document));
            let (told, document) = watch::channel(document);
            self.enrolled.insert(place, told);
            let current = self.plan.certificates[place].clone();
            tokio::spawn(client::keep(
                enrolling,
                document,
                current,
                place,
                tell.clone(),
            ));
        }
    }

    /// A new certificate: for the place that this node has, it is shown from now on. With one for another place the node
    /// leaves, and comes back there.
    fn certify(&mut self, place: usize, certificate: Certificate) {
        let name = self
            .plan
            .document(place)
            .map(|document| document.name.to_ascii_lowercase());
        self.plan.certificates[place] = Some(certificate.clone());
        let now = self.now();
        let mut dhts = self.dhts.iter_mut();
        if let Some(dht) = dhts.find(|dht| name.as_deref() == Some(dht.overlay())) {
            match dht.renew(now, &certificate) {
                Ok(()) => return,
                Err(error) => tracing::info!("DHT {}: {error}: entering anew", dht.overlay()),
            }
        }
        self.dhts.retain_mut(|dht| {
            let stays = name.as_deref() != Some(dht.overlay());
            if !stays {
                dht.leave(now);
                self.links.stop(dht.overlay_hash());
            }
            stays
        });
        self.follow_plan();
    }

    fn now(&self) -> Now {
        Now {
            at: self.epoch.elapsed(),
            unix: clock::unix(),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let due = self.dhts.iter().filter_map(Dht::deadline).min();
        due.and_then(|at| self.epoch.checked_add(at))
    }

    /// Enters the overlays that the plan has and leaves the others.
    fn follow_plan(&mut self) {
        let wanted = self.plan.overlays();
        let now = self.now();
        self.dhts.retain_mut(|dht| {
            let stays = wanted.iter().any(|one| one.overlay == dht.overlay());
            if !stays {
                dht.leave(now);
                self.links.stop(dht.overlay_hash());
            }
            stays
        });
        for config in wanted {
            let targets = config.own_links.clone();
            let known = self
                .dhts
                .iter()
                .position(|dht| dht.overlay() == config.overlay);
            let place = known.or_else(|| self.enter(config));
            if let Some(dht) = place.and_then(|place| self.dhts.get_mut(place)) {
                let bootstrap = self.plan.bootstrap(dht.overlay());
                dht.set_bootstrap(now, &bootstrap);
                if let Some(targets) = targets {
                    dht.set_targets(now, &targets);
                }
            }
        }
    }

    fn enter(&mut self, config: DhtConfig) -> Option<usize> {
        let name = config.overlay.clone();
        let rng = || -> Box<dyn CryptoRng + Send> { Box::new(UnwrapErr(SysRng)) };
        let now = self.now();
        let own = config
            .own_links
            .is_some()
            .then(|| self.plan.own_links(&config));
        let made = Dht::new(
            &self.plan.identity,
            self.plan.digit,
            config,
            [rng(), rng()],
            now,
        );
        match made {
            Ok(mut dht) => {
                if let Some(places) = &self.places {
                    dht.set_places(now, places.clone());
                }
                if let Some(own) = own
                    && let Err(error) =
                        own.and_then(|own| self.links.start(dht.overlay_hash(), own))
                {
                    tracing::error!("DHT {name}: {error}");
                }
                self.dhts.push(dht);
                Some(self.dhts.len() - 1)
            }
            Err(error) => {
                tracing::error!("DHT {name}: {error}");
                None
            }
        }
    }

    fn hear(&mut self, word: DhtNews) {
        let now = self.now();
        match word {
            DhtNews::Message {
                from,
                digit,
                network,
                body,
            } => {
                let overlay = Dht::overlay_of(&body);
                let mut dhts = self.dhts.iter_mut();
                if let Some(dht) = dhts.find(|dht| Some(dht.overlay_hash()) == overlay) {
                    dht.handle_message(now, (from, digit), network, &body);
                }
            }
            DhtNews::Wanted(target) => {
                let plan = &self.plan;
                let read = self.dhts.iter_mut();
                let read = read.filter(|dht| !plan.is_only_written(dht.overlay()));
                read.for_each(|dht| dht.search(now, target));
            }
            DhtNews::Places(endpoints) => {
                let places = OwnPlaces { endpoints };
                for dht in &self.dhts {
                    if let Ok(own) = self.plan.own_places(dht.overlay()) {
                        self.links
                            .tell(dht.overlay_hash(), LinkCommand::Follow(own));
                    }
                }
                for dht in &mut self.dhts {
                    dht.set_places(now, places.clone());
                }
                self.places = Some(places);
            }
        }
    }

    /// What a local program says: to its peer, with whom a conversation is begun where there is none.
    fn say(&mut self, said: Said) {
        let now = self.now();
        let name = match self.applications.conversation(&said) {
            Ok(name) => Some(name),
            Err(None) => None,
            Err(Some((place, application, callee))) => {
                let entry = &self.plan.entries[place];
                let overlay = self.plan.overlay_of(place, entry);
                let dht = self.dhts.iter_mut().find(|dht| dht.overlay() == overlay);
                dht.filter(|dht| dht.is_in()).and_then(|dht| {
                    let id = dht.open(now, application, &callee)?;
                    Some((dht.overlay_hash(), id))
                })
            }
        };
        let dht = name.and_then(|(overlay, _)| {
            let mut dhts = self.dhts.iter_mut();
            dhts.find(|dht| dht.overlay_hash() == overlay)
        });
        match (name, dht) {
            (Some(name), Some(dht)) => {
                if let Some(unit) = self.applications.opened(said, name) {
                    dht.say(now, name.1, unit);
                }
            }
            _ => self.applications.note_lost(),
        }
    }

    fn hear_link(&mut self, overlay: u32, event: LinkEvent) {
        let now = self.now();
        let mut dhts = self.dhts.iter_mut();
        if let Some(dht) = dhts.find(|dht| dht.overlay_hash() == overlay) {
            dht.handle_link(now, event);
        }
    }

    fn answer(&mut self, ask: Ask) {
        match ask {
            Ask::Status(reply) => {
                let _ = reply.send(self.dhts.iter().map(Dht::status).collect());
            }
            Ask::Counters(reply) => {
                let _ = reply.send(self.counters());
            }
            Ask::Cacheable(reply) => {
                let _ = reply.send(self.cacheable());
            }
            Ask::Question {
                overlay,
                question,
                reply,
            } => self.ask(overlay, question, reply),
            Ask::Zone(_) | Ask::Leave(_) => {}
        }
    }

    fn ask(&mut self, overlay: Option<String>, question: Question, reply: Waiting) {
        let asked = overlay.clone().or_else(|| {
            let first = self.dhts.first();
            first.map(|dht| dht.overlay().to_owned())
        });
        let is_there = |name: &str| self.dhts.iter().any(|dht| dht.overlay() == name);
        let Some(name) = asked.filter(|name| is_there(name)) else {
            let none = overlay.map_or(NoOverlay::None, NoOverlay::Named);
            // Who asked may have gone.
            let _ = reply.send(Err(none));
            return;
        };
        let token = self.token();
        self.waiting.insert(token, reply);
        match self.plan.ways(&name, &question) {
            Ways::Also(next) => {
                // What the old overlay says is the answer; nobody waits for the next one.
                let unheard = self.token();
                self.ask_overlay(&next, question.clone(), unheard);
                self.ask_overlay(&name, question, token);
            }
            Ways::First(next) if self.dhts.iter().any(|dht| dht.overlay() == next) => {
                self.then.insert(token, (name, question.clone()));
                self.ask_overlay(&next, question, token);
            }
            Ways::Alone | Ways::First(_) => self.ask_overlay(&name, question, token),
        }
    }

    fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    fn ask_overlay(&mut self, overlay: &str, question: Question, token: u64) {
        let now = self.now();
        let mut dhts = self.dhts.iter_mut();
        let Some(dht) = dhts.find(|dht| dht.overlay() == overlay) else {
            return;
        };
        match question {
            Question::Get { kind, resource } => dht.get(now, TypeId(kind), Id(resource), token),
            Question::Put(put) => dht.put(now, *put, token),
            Question::Find { kind, resource } => dht.find(now, TypeId(kind), Id(resource), token),
            Question::Route { to } => dht.route(now, Id(to), token),
            Question::Lookup(target) => dht.lookup(now, target, token),
        }
    }

    /// Carries outputs to where they count.
    fn flush(&mut self) {
        let mut batch = Vec::new();
        let mut again = Vec::new();
        for dht in &mut self.dhts {
            while let Some(output) = dht.poll_output() {
                match output {
                    Output::Answer { token, answer } => {
                        let then = self.then.remove(&token);
                        if let Some((old, question)) = then.filter(|_| migration::is_empty(&answer))
                        {
                            again.push((old, question, token));
                        } else if let Some(reply) = self.waiting.remove(&token) {
                            let _ = reply.send(Ok(answer));
                        }
                    }
                    Output::TurnServers(found) => {
                        self.turn_found.insert(dht.overlay_hash(), found);
                        let all = self.turn_found.values().flatten().copied();
                        self.turn.send_replace(all.collect());
                    }
                    Output::Links(command) => self.links.tell(dht.overlay_hash(), command),
                    Output::Application {
                        conversation,
                        heard,
                    } => {
                        let name = (dht.overlay_hash(), conversation);
                        let program = |port| self.plan.program(dht.overlay(), port);
                        self.applications.hear(name, heard, program);
                    }
                    output => batch.push(output),
                }
            }
        }
        if !again.is_empty() {
            for (old, question, token) in again {
                self.ask_overlay(&old, question, token);
            }
            return self.flush_with(batch);
        }
        self.flush_with(batch);
    }

    fn flush_with(&mut self, batch: Vec<Output>) {
        let is_in = self.dhts.iter().any(Dht::is_in);
        if is_in != self.told_in && self.data.send(Command::InDht(is_in)).is_ok() {
            self.told_in = is_in;
        }
        // Messages are datagrams: what is lost here is sent again like any other.
        if !batch.is_empty() && self.data.send(Command::Dht(batch)).is_err() {
            self.lost += 1;
        }
    }

    fn cacheable(&self) -> Vec<CachedPeer> {
        let of = |dht: &Dht| {
            let overlay = dht.overlay().to_owned();
            let peer = move |at| CachedPeer {
                overlay: overlay.clone(),
                at,
            };
            let sealed = dht.cacheable().into_iter().map(CachedAt::Address);
            let own = dht.cacheable_targets().into_iter().map(CachedAt::Own);
            sealed.chain(own).map(peer).collect::<Vec<_>>()
        };
        self.dhts.iter().flat_map(of).collect()
    }

    fn counters(&self) -> Vec<(String, u64)> {
        let lost = |name: &str, count| (format!("anode_dht_{name}_lost_total"), count);
        let mut all = vec![
            lost("batches", self.lost),
            lost("datagrams", self.applications.lost()),
        ];
        for dht in &self.dhts {
            let (here, node, status) = (dht.counters(), dht.node_counters(), dht.status());
            let overlay = dht.overlay();
            let mut add = |name: &str, value: u64| {
                all.push((format!("anode_dht_{name}{{overlay=\"{overlay}\"}}"), value));
            };
            let own = self.links.counters(dht.overlay_hash());
            add("own_links_refused_total", own.refused);
            add("own_links_failed_total", own.handshakes_failed);
            add("own_links_ignored_total", own.ignored);
            add("own_links_unsent_total", own.unsent + own.events_dropped);
            let application = dht.application_counters();
            add("applications_tunnelled_total", application.tunnelled);
            add("applications_connected_total", application.connected);
            add("applications_lost_total", application.lost);
            add("applications_refused_total", application.refused);
            add("joined", status.joined.into());
            add("links", status.links as u64);
            add("stored_values", status.stored as u64);
            add("stored_bytes", status.stored_bytes as u64);
            add("links_lost_total", here.links_lost);
            add(
                "links_refused_total",
                here.links_refused + node.links_refused,
            );
            add("ignored_total", here.ignored);
            add("searches_total", here.searches);
            add("searches_refused_total", here.searches_refused);
            add("found_total", here.found);
            add("published_total", here.published);
            add("publish_failed_total", here.publish_failed);
            add("outputs_dropped_total", here.outputs_dropped);
            add("received_total", node.received);
            add("sent_total", node.sent);
            add("sent_bytes_total", node.sent_bytes);
            add("forwarded_total", node.forwarded);
            add("retransmitted_total", node.retransmitted);
            add("timeouts_total", node.timeouts);
            add("malformed_total", node.malformed);
            add("unverified_total", node.unverified);
            add("rate_limited_total", node.rate_limited);
        }
        all
    }

    /// Says good-bye, and still passes on what comes back for a moment: others take over what is stored here.
    async fn leave(mut self, news: &mut mpsc::Receiver<Vec<DhtNews>>, done: oneshot::Sender<()>) {
        let now = self.now();
        let alone = self.dhts.iter().all(|dht| dht.status().links == 0);
        self.dhts.iter_mut().for_each(|dht| dht.leave(now));
        self.flush();
        let until = tokio::time::Instant::now() + LEAVE_FOR;
        while !alone && !self.dhts.iter().all(Dht::has_left) {
            tokio::select! {
                batch = news.recv() => match batch {
                    Some(batch) => batch.into_iter().for_each(|word| self.hear(word)),
                    None => break,
                },
                Some((overlay, event)) = self.links.next_event() => self.hear_link(overlay, event),
                () = tokio::time::sleep_until(until) => break,
            }
            self.flush();
        }
        let _ = done.send(());
    }
}
