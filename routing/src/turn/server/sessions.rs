//! DTLS sessions of clients.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use anode_turn::server::FiveTuple;
use dimpl::{Dtls, Output};
use slab::Slab;

use super::datagrams::Datagrams;
use super::streams::IDLE;
use crate::anode::source_prefix;
use crate::turn::certificate::ServerCertificate;

/// Sessions of one shard.
const SESSIONS: usize = 16_384;
/// Of these, without an allocation: strangers push out strangers only.
const STRANGERS: usize = 1024;
/// Of these, of one source.
const STRANGERS_OF_ONE: usize = 64;
/// No DTLS record that we make or take is larger.
const RECORD: usize = 17_000;
/// dimpl gives no deadline when nothing is due; then it is looked at after this time.
const IDLE_POLL: Duration = Duration::from_secs(30);

/// A fatal alert: protocol_version (RFC 6347 §4.2.1, RFC 5246 §7.2.2), in the version of who asks.
const NO_SUCH_VERSION: [u8; 15] = [21, 0xFE, 0xFF, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 70];

/// A record of type handshake with a ClientHello: nothing else of a stranger is answered, or kept.
fn is_hello(datagram: &[u8]) -> bool {
    datagram.len() > 27 && datagram[0] == 22 && datagram[1] == 0xFE && datagram[13] == 1
}

/// A ClientHello of somebody who speaks nothing newer than DTLS 1.0. The library says nothing to it, and its sender
/// would go on asking.
fn is_old(datagram: &[u8]) -> bool {
    is_hello(datagram) && datagram[25..27] == [0xFE, 0xFF]
}

struct Session {
    dtls: Dtls,
    five: FiveTuple,
    network: u64,
    opened: Instant,
    deadline: Instant,
    /// It holds an allocation, as far as was last seen.
    known: bool,
}

pub(super) struct Sessions {
    all: Slab<Session>,
    by_client: HashMap<FiveTuple, usize>,
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
    pub fn new() -> Self {
        Self {
            all: Slab::new(),
            by_client: HashMap::new(),
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
        let index = match self.by_client.get(&five) {
            Some(index) => *index,
            None if is_old(datagram) => {
                self.refused += 1;
                datagrams.send_to_client(&five, &[&NO_SUCH_VERSION]);
                return Ok(());
            }
            None => match self.begin(now, five, datagram, certificate) {
                Some(index) => index,
                None => {
                    self.refused += 1;
                    return Ok(());
                }
            },
        };
        let fed = match self.all.get_mut(index) {
            Some(session) => session
                .dtls
                .handle_timeout(now)
                .and_then(|()| session.dtls.handle_packet(datagram)),
            None => return Ok(()),
        };
        if fed.is_err() || self.drain(now, index, datagrams, message).is_err() {
            return Err(five);
        }
        Ok(())
    }

    fn begin(
        &mut self,
        now: Instant,
        five: FiveTuple,
        datagram: &[u8],
        certificate: &ServerCertificate,
    ) -> Option<usize> {
        if !is_hello(datagram) || self.all.len() >= SESSIONS {
            return None;
        }
        let network = source_prefix(five.client.ip());
        let of_one = self
            .strangers
            .iter()
            .filter(|(_, i)| self.all[*i].network == network);
        if of_one.count() >= STRANGERS_OF_ONE {
            return None;
        }
        if self.strangers.len() >= STRANGERS
            && let Some((_, oldest)) = self.strangers.first().copied()
        {
            self.remove(oldest);
        }
        let index = self.all.insert(Session {
            dtls: certificate.accept_dtls(now),
            five,
            network,
            opened: now,
            deadline: now + IDLE_POLL,
            known: false,
        });
        self.by_client.insert(five, index);
        self.strangers.insert((now, index));
        self.deadlines.insert((now + IDLE_POLL, index));
        Some(index)
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
        let deadline = loop {
            match session.dtls.poll_output(&mut self.record) {
                Output::Packet(bytes) => datagrams.send_to_client(&session.five, &[bytes]),
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
        Ok(())
    }

    /// A client that holds an allocation is no stranger any more, and is not pushed out by one.
    pub fn settle(&mut self, client: &FiveTuple, is_known: impl FnOnce() -> bool) {
        let Some(index) = self.by_client.get(client).copied() else {
            return;
        };
        let session = &mut self.all[index];
        if !session.known && is_known() {
            session.known = true;
            self.strangers.remove(&(session.opened, index));
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
            if known != session.known {
                session.known = known;
                let place = (session.opened, index);
                if known {
                    self.strangers.remove(&place);
                } else {
                    self.strangers.insert(place);
                }
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
            self.strangers.remove(&(session.opened, index));
            self.deadlines.remove(&(session.deadline, index));
        }
    }
}
