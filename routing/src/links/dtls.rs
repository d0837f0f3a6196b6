//! One DTLS connection on a path, and whether its other side is still there (RD67, RD73).

use super::secret::{Begun, LinkSecurity, Named};
use super::{HANDSHAKE, LinkKey, Made};
use crate::ice::{Path, SessionId};
use anode_reload::Id;
use anode_reload::security::fingerprint;
use anode_turn::stun::{Class, Message, Writer, is_stun, method};
use dimpl::{Dtls, Output};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A silent link is asked after this time (RD73: Tr) …
const ASK_AFTER: Duration = Duration::from_secs(15);
/// … and is gone after this (three missed).
const DEAD_AFTER: Duration = Duration::from_secs(45);
/// Bytes of a record, and of what it carries.
const RECORD: usize = 2048;
/// What stands before a record's contents: type, version, epoch, number, length.
const RECORD_HEADER: usize = 13;
/// Messages that wait for the handshake.
const MAX_WAITING: usize = 32;

/// Whether a datagram begins a handshake: a record of type 22, DTLS 1.0 or 1.2, epoch 0.
pub(super) fn begins(bytes: &[u8]) -> bool {
    matches!(bytes, [22, 0xFE, 0xFD | 0xFF, 0, 0, ..])
}

/// Whether it is the first message of a client: a handshake record that begins with a ClientHello.
fn is_client_hello(bytes: &[u8]) -> bool {
    begins(bytes) && bytes.get(RECORD_HEADER) == Some(&1)
}

/// Whom a CONNECT has announced.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Expected {
    /// His Peer-ID, if the CONNECT said it.
    pub peer: Option<Id>,
    /// Of his certificate; empty with a shared key.
    pub fingerprint: String,
}

/// What a conversation wants, or says.
pub(super) enum Said {
    Send(Path, Vec<u8>),
    Up(Option<Id>),
    Message(Vec<u8>),
    Over(String),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Handshake,
    Up,
    Over,
}

/// See the module.
pub(super) struct Conversation {
    pub key: LinkKey,
    pub path: Path,
    pub made: Made,
    pub session: Option<SessionId>,
    pub expect: Option<Expected>,
    pub since: Instant,
    dtls: Dtls,
    named: Option<Arc<Named>>,
    is_client: bool,
    stage: Stage,
    /// Who has shown a certificate that is believed.
    peer: Option<Id>,
    timer: Instant,
    heard: Instant,
    asked: Instant,
    asks: u64,
    said: VecDeque<Said>,
    waiting: Vec<Vec<u8>>,
    record: Vec<u8>,
}

impl Conversation {
    pub fn new(
        now: Instant,
        key: LinkKey,
        path: Path,
        made: Made,
        begun: Begun,
        is_client: bool,
    ) -> Self {
        let mut new = Self {
            key,
            path,
            made,
            session: None,
            expect: None,
            since: now,
            dtls: begun.dtls,
            named: begun.named,
            is_client,
            stage: Stage::Handshake,
            peer: None,
            timer: now,
            heard: now,
            asked: now,
            asks: 0,
            said: VecDeque::new(),
            waiting: Vec::new(),
            record: vec![0; RECORD],
        };
        new.handle_timeout(now);
        new
    }

    pub fn is_up(&self) -> bool {
        self.stage == Stage::Up
    }

    /// The other side has dialled this node from where this node has dialled it: both are clients.
    pub fn collides(&self, bytes: &[u8]) -> bool {
        let dialling = matches!(self.made, Made::Dialled(_)) && self.stage == Stage::Handshake;
        dialling && self.is_client && is_client_hello(bytes)
    }

    /// Goes on as the server.
    pub fn yield_to(&mut self, begun: Begun) {
        (self.dtls, self.named) = (begun.dtls, begun.named);
        self.is_client = false;
    }

    /// A stranger who has proven nothing yet.
    pub fn is_half_open(&self) -> bool {
        self.stage == Stage::Handshake && self.made == Made::Accepted
    }

    pub fn deadline(&self) -> Instant {
        let own = match self.stage {
            Stage::Handshake => self.since + HANDSHAKE,
            Stage::Up if self.session.is_none() => {
                (self.heard.max(self.asked) + ASK_AFTER).min(self.heard + DEAD_AFTER)
            }
            // ICE asks for consent.
            Stage::Up | Stage::Over => return self.timer,
        };
        own.min(self.timer)
    }

    pub fn handle(&mut self, now: Instant, bytes: &[u8]) {
        if is_stun(bytes) {
            // The answer to what we have asked: it comes from there, and has its number.
            let id = self.transaction();
            let answer = Message::parse(bytes).ok();
            if answer.is_some_and(|it| it.class() == Class::Success && it.transaction() == id) {
                self.heard = now;
            }
            return;
        }
        // What is no record of this connection is dropped there; anybody can send it.
        if let Err(error) = self.dtls.handle_packet(bytes)
            && self.stage == Stage::Handshake
        {
            self.said.push_back(Said::Over(error.to_string()));
        }
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        if let Err(error) = self.dtls.handle_timeout(now) {
            self.said.push_back(Said::Over(error.to_string()));
        }
        match self.stage {
            Stage::Handshake if self.since + HANDSHAKE <= now => {
                let why = "no answer, or none that fits".to_owned();
                self.said.push_back(Said::Over(why));
            }
            Stage::Up if self.session.is_none() => {
                if self.heard + DEAD_AFTER <= now {
                    self.said.push_back(Said::Over("it is silent".to_owned()));
                } else if self.heard.max(self.asked) + ASK_AFTER <= now {
                    self.asked = now;
                    self.asks += 1;
                    let id = self.transaction();
                    let ask = Writer::new(Class::Request, method::BINDING, id);
                    let ask = ask.fingerprint().finish();
                    self.said.push_back(Said::Send(self.path, ask));
                }
            }
            _ => {}
        }
    }

    /// Numbers our questions: whoever sits on the path could forge answers to them anyway.
    fn transaction(&self) -> [u8; 12] {
        let mut id = [0; 12];
        id[..4].copy_from_slice(&(self.key as u32).to_be_bytes());
        id[4..].copy_from_slice(&self.asks.to_be_bytes());
        id
    }

    /// False: there is no room for it.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        match self.stage {
            Stage::Up => self.dtls.send_application_data(bytes).is_ok(),
            Stage::Handshake if self.waiting.len() < MAX_WAITING => {
                self.waiting.push(bytes.to_vec());
                true
            }
            Stage::Handshake | Stage::Over => false,
        }
    }

    pub fn close(&mut self, now: Instant) {
        // It is over whether the other side hears of it or not.
        let _ = self.dtls.close();
        self.timer = now;
        self.stage = Stage::Over;
    }

    /// What it wants or says next. `None`: nothing more, until something comes or is due.
    pub fn poll(&mut self, now: Instant, security: &LinkSecurity) -> Option<Said> {
        if let Some(said) = self.said.pop_front() {
            return Some(said);
        }
        loop {
            let output = self.dtls.poll_output(&mut self.record);
            match output {
                Output::Packet(bytes) => return Some(Said::Send(self.path, bytes.to_vec())),
                Output::PeerCert(leaf) => {
                    let checked = security.check(leaf).map_err(|error| error.to_string());
                    let checked = checked.and_then(|peer| {
                        let expect = self.expect.as_ref();
                        let fits = expect.is_none_or(|it| {
                            it.fingerprint == fingerprint(leaf)
                                && it.peer.is_none_or(|id| id == peer)
                        });
                        // R106, R146: this defeats whoever sits between, a TURN server too
                        let wrong = "the certificate is not the one that the CONNECT announced";
                        if fits {
                            Ok(peer)
                        } else {
                            Err(wrong.to_owned())
                        }
                    });
                    match checked {
                        Ok(peer) => self.peer = Some(peer),
                        Err(why) => return Some(Said::Over(why)),
                    }
                }
                Output::Connected => {
                    let announced = self.expect.as_ref().and_then(|it| it.peer);
                    if !security.has_certificates() {
                        let said = self.named.as_ref().and_then(|named| named.peer());
                        if let (Some(said), Some(announced)) = (said, announced)
                            && said != announced
                        {
                            let why = "the peer is not the one that the CONNECT announced";
                            return Some(Said::Over(why.to_owned()));
                        }
                        self.peer = said.or(announced);
                    } else if self.peer.is_none() {
                        return Some(Said::Over("the peer shows no certificate".to_owned()));
                    }
                    self.stage = Stage::Up;
                    self.heard = now;
                    for bytes in std::mem::take(&mut self.waiting) {
                        // No room for it: the loss of that message.
                        let _ = self.dtls.send_application_data(&bytes);
                    }
                    return Some(Said::Up(self.peer));
                }
                Output::ApplicationData(bytes) if self.stage == Stage::Up => {
                    self.heard = now;
                    return Some(Said::Message(bytes.to_vec()));
                }
                Output::CloseNotify if self.stage != Stage::Over => {
                    return Some(Said::Over("the peer has ended it".to_owned()));
                }
                Output::BufferTooSmall { needed } => self.record.resize(needed, 0),
                Output::Timeout(at) => {
                    self.timer = at.max(now + Duration::from_millis(1));
                    return None;
                }
                _ => {}
            }
        }
    }
}
