//! DTLS sessions of clients.
//!
//! ```text
//!   ClientHello of DTLS 1.2 ─▶ HelloVerifyRequest; nothing is kept ─ the cookie comes back ─▶ stranger ─ an allocation ─▶ known
//!   of DTLS 1.3 alone ──────▶ unanswered ─ the library's cookie comes back ────────────────────▲
//! ```
//!
//! For DTLS 1.3 the library asks for the cookie, and its cookie is made from a secret of the session: there is a session before anybody
//! has answered. Each class is bounded by itself and gives way to its own kind alone: a flood of first datagrams pushes out nobody who
//! has answered one. Who speaks both versions gets DTLS 1.2, and is kept nothing of.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use anode_turn::server::FiveTuple;
use anode_turn::server::hello::{Cookies, Hello, Speaks};
use dimpl::{Dtls, Output};
use slab::Slab;

use super::datagrams::Datagrams;
use super::streams::IDLE;
use crate::anode::source_prefix;
use crate::turn::certificate::{MinVersion, ServerCertificate};

/// Sessions of one shard.
const SESSIONS: usize = 16_384;
/// Of these, so many that nobody has answered from yet, and so many without an allocation.
pub(super) const STRANGERS: usize = 1024;
/// Of each of these, of one source.
pub(super) const STRANGERS_OF_ONE: usize = 64;
/// No DTLS record that we make or take is larger.
const RECORD: usize = 17_000;
/// dimpl gives no deadline when nothing is due; then it is looked at after this time.
const IDLE_POLL: Duration = Duration::from_secs(30);

/// A fatal alert: protocol_version (RFC 6347 §4.2.1, RFC 5246 §7.2.2), in the version of who asks.
const NO_SUCH_VERSION: [u8; 15] = [21, 0xFE, 0xFF, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 70];

/// A record that only asks for the cookie: the ServerHello that is a HelloRetryRequest (RFC 8446 §4.1.3).
fn asks_for_cookie(record: &[u8]) -> bool {
    const RETRY: [u8; 8] = [0xCF, 0x21, 0xAD, 0x74, 0xE5, 0x9A, 0x61, 0x11];
    record.get(13) == Some(&2) && record.get(27..35) == Some(&RETRY)
}

/// What a session has shown of itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Nobody has answered from there.
    Unanswered,
    /// Somebody is there, without an allocation.
    Stranger,
    /// It holds an allocation, as far as was last seen.
    Known,
}

struct Session {
    dtls: Dtls,
    five: FiveTuple,
    network: u64,
    opened: Instant,
    deadline: Instant,
    class: Class,
}

pub(super) struct Sessions {
    cookies: Cookies,
    started: Instant,
    all: Slab<Session>,
    by_client: HashMap<FiveTuple, usize>,
    unanswered: BTreeSet<(Instant, usize)>,
    strangers: BTreeSet<(Instant, usize)>,
    deadlines: BTreeSet<(Instant, usize)>,
    record: Vec<u8>,
    message: Vec<u8>,
    pub refused: u64,
    pub dropped: u64,
}

/// Why a session is gone.
pub(super) struct Gone;

impl Sessions {
    /// `secret` must be random.
    pub fn new(now: Instant, secret: [u8; 32]) -> Self {
        Self {
            cookies: Cookies::new(secret),
            started: now,
            all: Slab::new(),
            by_client: HashMap::new(),
            unanswered: BTreeSet::new(),
            strangers: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            record: vec![0; RECORD],
            message: Vec::new(),
            refused: 0,
            dropped: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// When [`Sessions::due`] has something.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Takes a datagram of a client, and gives the messages inside. A client that is new gets a session if the datagram
    /// begins a handshake.
    pub fn receive(
        &mut self,
        now: Instant,
        five: FiveTuple,
        datagram: &[u8],
        certificate: &ServerCertificate,
        datagrams: &mut Datagrams,
        message: impl FnMut(&mut Datagrams, &[u8]),
    ) -> Result<(), FiveTuple> {
        let (index, fed) = match self.by_client.get(&five) {
            Some(index) => {
                let dtls = &mut self.all[*index].dtls;
                let fed = dtls
                    .handle_timeout(now)
                    .and_then(|()| dtls.handle_packet(datagram));
                (*index, fed)
            }
            None => match self.greet(now, five, datagram, certificate, datagrams) {
                Some(index) => (index, Ok(())),
                None => return Ok(()),
            },
        };
        if fed.is_err() || self.drain(now, index, datagrams, message).is_err() {
            return Err(five);
        }
        Ok(())
    }

    /// The first words of somebody new; `None`: there is no session by them.
    fn greet(
        &mut self,
        now: Instant,
        five: FiveTuple,
        datagram: &[u8],
        certificate: &ServerCertificate,
        datagrams: &mut Datagrams,
    ) -> Option<usize> {
        let Some(hello) = Hello::parse(datagram) else {
            self.refused += 1;
            return None;
        };
        let age = now.saturating_duration_since(self.started);
        let begun = match (hello.speaks(), certificate.min_version()) {
            (Speaks::Old, _) => {
                // Without a word its sender would go on asking.
                datagrams.send_to_client(&five, &[&NO_SUCH_VERSION]);
                None
            }
            (Speaks::Dtls12, MinVersion::V12) => {
                let Some(cookie) = self.cookies.check(age, &five, &hello) else {
                    let cookie = self.cookies.make(age, &five, &hello);
                    datagrams.send_to_client(&five, &[&hello.verify_request(&cookie)]);
                    return None;
                };
                self.begin(now, five, Class::Stranger, || {
                    certificate
                        .accept_dtls12(now, (&hello, cookie, datagram))
                        .ok()
                })
            }
            _ => self.begin(now, five, Class::Unanswered, || {
                let mut dtls = certificate.accept_dtls13(now);
                let fed = dtls
                    .handle_timeout(now)
                    .and_then(|()| dtls.handle_packet(datagram));
                fed.is_ok().then_some(dtls)
            }),
        };
        self.refused += u64::from(begun.is_none());
        begun
    }

    /// Within the bounds, `make` gives the session.
    fn begin(
        &mut self,
        now: Instant,
        five: FiveTuple,
        class: Class,
        make: impl FnOnce() -> Option<Dtls>,
    ) -> Option<usize> {
        if self.all.len() >= SESSIONS {
            return None;
        }
        let network = source_prefix(five.client.ip());
        for class in [&self.unanswered, &self.strangers] {
            let of_one = class
                .iter()
                .filter(|(_, i)| self.all[*i].network == network);
            if of_one.count() >= STRANGERS_OF_ONE {
                return None;
            }
        }
        let dtls = make()?;
        self.make_room(class);
        let index = self.all.insert(Session {
            dtls,
            five,
            network,
            opened: now,
            deadline: now + IDLE_POLL,
            class,
        });
        self.by_client.insert(five, index);
        if let Some(all) = self.of_class(class) {
            all.insert((now, index));
        }
        self.deadlines.insert((now + IDLE_POLL, index));
        Some(index)
    }

    /// Those of a class that is bounded.
    fn of_class(&mut self, class: Class) -> Option<&mut BTreeSet<(Instant, usize)>> {
        match class {
            Class::Unanswered => Some(&mut self.unanswered),
            Class::Stranger => Some(&mut self.strangers),
            Class::Known => None,
        }
    }

    /// One more of a class is to come: the oldest of it goes, if there are enough.
    fn make_room(&mut self, class: Class) {
        let of_class = self.of_class(class);
        let oldest = of_class
            .filter(|all| all.len() >= STRANGERS)
            .and_then(|all| all.first().copied());
        if let Some((_, oldest)) = oldest {
            self.remove(oldest);
        }
    }

    fn set_class(&mut self, index: usize, class: Class) {
        let Some(session) = self.all.get(index).filter(|one| one.class != class) else {
            return;
        };
        let (place, before) = ((session.opened, index), session.class);
        if let Some(all) = self.of_class(before) {
            all.remove(&place);
        }
        self.make_room(class);
        if let Some(all) = self.of_class(class) {
            all.insert(place);
        }
        self.all[index].class = class;
    }

    /// Sends what the session has to send, and hands out what came.
    fn drain(
        &mut self,
        now: Instant,
        index: usize,
        datagrams: &mut Datagrams,
        mut message: impl FnMut(&mut Datagrams, &[u8]),
    ) -> Result<(), Gone> {
        let session = &mut self.all[index];
        let mut answered = false;
        let deadline = loop {
            match session.dtls.poll_output(&mut self.record) {
                Output::Packet(bytes) => {
                    answered |= !asks_for_cookie(bytes);
                    datagrams.send_to_client(&session.five, &[bytes]);
                }
                Output::ApplicationData(bytes) => message(datagrams, bytes),
                Output::CloseNotify => return Err(Gone),
                // A record is never larger than the buffer.
                Output::BufferTooSmall { .. } => return Err(Gone),
                Output::Timeout(at) => break at,
                _ => {}
            }
        };
        let deadline = deadline.clamp(now + Duration::from_millis(10), now + IDLE_POLL);
        self.deadlines.remove(&(session.deadline, index));
        session.deadline = deadline;
        self.deadlines.insert((deadline, index));
        if answered && session.class == Class::Unanswered {
            self.set_class(index, Class::Stranger);
        }
        Ok(())
    }

    /// A client that holds an allocation is no stranger any more, and is not pushed out by one.
    pub fn settle(&mut self, client: &FiveTuple, is_known: impl FnOnce() -> bool) {
        let Some(index) = self.by_client.get(client).copied() else {
            return;
        };
        if self.all[index].class == Class::Stranger && is_known() {
            self.set_class(index, Class::Known);
        }
    }

    /// Sends a message to a client.
    pub fn send(
        &mut self,
        now: Instant,
        client: &FiveTuple,
        parts: &[&[u8]],
        datagrams: &mut Datagrams,
    ) {
        let Some(index) = self.by_client.get(client).copied() else {
            self.dropped += 1;
            return;
        };
        self.message.clear();
        parts
            .iter()
            .for_each(|part| self.message.extend_from_slice(part));
        let session = &mut self.all[index];
        let sent = session
            .dtls
            .handle_timeout(now)
            .and_then(|()| session.dtls.send_application_data(&self.message));
        // Its end is found when it is next received from, or due.
        if sent.is_err() || self.drain(now, index, datagrams, |_, _| {}).is_err() {
            self.dropped += 1;
        }
    }

    /// Does what is due; gives the clients whose sessions have ended by it.
    pub fn due(
        &mut self,
        now: Instant,
        datagrams: &mut Datagrams,
        is_known: impl Fn(&FiveTuple) -> bool,
    ) -> Vec<FiveTuple> {
        let mut ended = Vec::new();
        while let Some((at, index)) = self.deadlines.first().copied() {
            if at > now {
                break;
            }
            let session = &mut self.all[index];
            let known = is_known(&session.five);
            match (known, session.class) {
                (true, Class::Stranger) => self.set_class(index, Class::Known),
                (false, Class::Known) => self.set_class(index, Class::Stranger),
                _ => {}
            }
            let session = &mut self.all[index];
            let useless = !known && now.saturating_duration_since(session.opened) > IDLE;
            let (five, failed) = (session.five, session.dtls.handle_timeout(now).is_err());
            if useless || failed || self.drain(now, index, datagrams, |_, _| {}).is_err() {
                self.remove(index);
                ended.push(five);
            }
        }
        ended
    }

    /// Says goodbye and forgets.
    pub fn close(&mut self, client: &FiveTuple, now: Instant, datagrams: &mut Datagrams) {
        if let Some(index) = self.by_client.get(client).copied() {
            if self.all[index].dtls.close().is_ok() {
                let _ = self.drain(now, index, datagrams, |_, _| {});
            }
            self.remove(index);
        }
    }

    fn remove(&mut self, index: usize) {
        if let Some(session) = self.all.try_remove(index) {
            self.by_client.remove(&session.five);
            let place = (session.opened, index);
            self.unanswered.remove(&place);
            self.strangers.remove(&place);
            self.deadlines.remove(&(session.deadline, index));
        }
    }
}
