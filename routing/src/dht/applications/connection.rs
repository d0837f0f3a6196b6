//! A connection of a conversation's own (R100, R106, R133): inside the sealed session of both, where Peer-IDs follow from
//! addresses, or over DTLS on a path that ICE has found, where both have links of RELOAD's own.
//!
//! In a session a unit is a message 0x4B of kind 4: kind (1) ‖ hash of the overlay's name (4) ‖ application (2) ‖ what (1: 0
//! hello, 1 its answer, 2 a unit) ‖ the unit. They are taken only where a CONNECT has agreed on them.
use super::{Connecting, ConversationId, Dht, OPTIONS, Way};
use crate::anode::MAX_RELOAD;
use crate::dht::connect::places_of;
use crate::dht::{End, Output};
use crate::links::{Command, LinkKey, Token};
use anode_reload::body::{ConnectBody, Role};
use anode_reload::node::{Answer, AnswerBody, OfferId};
use anode_reload::security::Signer;
use anode_reload::{Id, Now, ReloadError};
use anode_wire::PeerId;
use std::time::Duration;

/// Kind of a message 0x4B.
pub(in crate::dht) const APPLICATION: u8 = 4;
const HEAD: usize = 8;
const HELLO: u8 = 0;
const WELCOME: u8 = 1;
const UNIT: u8 = 2;
/// Bytes of a unit that a session takes; a longer one is tunnelled.
const MAX_IN_SESSION: usize = MAX_RELOAD - HEAD;
/// The same over DTLS (RD13).
const MAX_OVER_DTLS: usize = 1200;
/// Between two hellos.
const HELLO_EVERY: Duration = Duration::from_millis(500);
/// Who has not been heard by then is not reached.
const PROVE_FOR: Duration = Duration::from_secs(10);
/// ICE has so long, all in all.
const DESCRIBE_FOR: Duration = Duration::from_secs(40);
/// Nothing has come back: ask whether anybody is there …
const ASK_AFTER: Duration = Duration::from_secs(2);
/// … and go back to TUNNELs.
const SILENT_FOR: Duration = Duration::from_secs(5);

/// One message of a conversation inside a session.
pub(in crate::dht) struct Frame<'a> {
    application: u16,
    what: u8,
    unit: &'a [u8],
}

impl<'a> Frame<'a> {
    /// `None`: it is none of these.
    pub fn parse(body: &'a [u8]) -> Option<Self> {
        let (head, unit) = body.split_first_chunk::<HEAD>()?;
        let [APPLICATION, _, _, _, _, high, low, what] = *head else {
            return None;
        };
        let good = matches!(what, HELLO | WELCOME) && unit.is_empty() || what == UNIT;
        good.then_some(Self {
            application: u16::from_be_bytes([high, low]),
            what,
            unit,
        })
    }

    fn emit(&self, overlay: u32) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD + self.unit.len());
        out.push(APPLICATION);
        out.extend_from_slice(&overlay.to_be_bytes());
        out.extend_from_slice(&self.application.to_be_bytes());
        out.push(self.what);
        out.extend_from_slice(self.unit);
        out
    }
}

/// The end of a session that a signer has, if his Peer-ID follows from his address.
fn end_of(signer: &Signer) -> Option<End> {
    let address = signer.address?;
    let digits = (0..16).filter_map(PeerId::new);
    let mut ends = digits.map(|digit| (address, digit));
    ends.find(|(address, digit)| signer.peers().first() == Some(&Id::of_address(address, *digit)))
}

impl Dht {
    fn send_in_session(&mut self, (to, digit): End, application: u16, what: u8, unit: &[u8]) {
        let frame = Frame {
            application,
            what,
            unit,
        };
        let body = frame.emit(self.links.overlay());
        self.out(Output::Send { to, digit, body });
    }

    /// Says a unit over the conversation's connection. It comes back where there is none, or where it is too long for it.
    pub(super) fn say_connected(
        &mut self,
        now: Now,
        id: ConversationId,
        unit: Vec<u8>,
    ) -> Option<Vec<u8>> {
        let it = self.applications.all.get_mut(&id)?;
        let application = it.application;
        match &mut it.way {
            Way::Link(link) if unit.len() <= MAX_OVER_DTLS => {
                let link = *link;
                self.tell_links(Command::Send(link, unit));
            }
            Way::Session(end, silent) if unit.len() <= MAX_IN_SESSION => {
                let (end, since) = (*end, *silent.get_or_insert(now.at));
                if since + SILENT_FOR <= now.at {
                    self.unconnected(now, id);
                    return Some(unit);
                }
                if since + ASK_AFTER <= now.at {
                    self.send_in_session(end, application, HELLO, &[]);
                }
                self.send_in_session(end, application, UNIT, &unit);
            }
            _ => return Some(unit),
        }
        self.applications.counters.connected += 1;
        None
    }

    /// Asks the peer for a connection.
    pub(super) fn begin_connection(&mut self, now: Now, id: ConversationId) {
        let Some(it) = self.applications.all.get(&id) else {
            return;
        };
        let application = it.application;
        if self.own_links.is_enabled() {
            let token = self.own_links.application_token(id, None);
            self.describing(now, id, token);
            self.tell_links(Command::Offer(token, application));
        } else if self.config.is_sealed() {
            let body = self.connect_body(application, Role::Passive);
            self.ask_connection(now, id, &body, None);
        }
    }

    fn describing(&mut self, now: Now, id: ConversationId, token: Token) {
        if let Some(it) = self.applications.all.get_mut(&id) {
            it.way = Way::Connecting(Connecting::Described(token, now.at + DESCRIBE_FOR));
        }
    }

    fn ask_connection(
        &mut self,
        now: Now,
        id: ConversationId,
        body: &ConnectBody,
        token: Option<Token>,
    ) {
        let Some(route) = self
            .applications
            .all
            .get(&id)
            .and_then(|it| it.routes.front())
        else {
            return;
        };
        // R133: only the peer at the route's end may answer; the node sees to that.
        match self.node.connect(now, route.clone(), body, OPTIONS) {
            Ok(request) => {
                if let Some(it) = self.applications.all.get_mut(&id) {
                    it.way = Way::Connecting(Connecting::Asked(request, token));
                }
            }
            Err(_) => self.unconnected(now, id),
        }
    }

    /// ICE has described this side.
    pub(in crate::dht) fn application_described(
        &mut self,
        now: Now,
        id: ConversationId,
        token: Token,
        body: &ConnectBody,
    ) {
        self.ask_connection(now, id, body, Some(token));
    }

    pub(super) fn connection_answered(
        &mut self,
        now: Now,
        id: ConversationId,
        result: Result<Answer, ReloadError>,
    ) {
        let Some(it) = self.applications.all.get_mut(&id) else {
            return;
        };
        let Way::Connecting(Connecting::Asked(_, token)) = it.way else {
            return;
        };
        let peer = it.peer;
        let agreed = match result {
            Ok(Answer {
                from,
                body: AnswerBody::Connect(body),
                ..
            }) => Some((from, body)),
            other => {
                tracing::debug!(error = ?other.err(), "no connection for an application");
                None
            }
        };
        match (token, agreed) {
            (Some(token), Some((_, body))) if !body.ufrag.is_empty() => {
                self.describing(now, id, token);
                self.tell_links(Command::Start(token, body, peer));
            }
            (token, agreed) => {
                if let Some(token) = token {
                    self.forget_connect(token);
                }
                let session = agreed
                    .filter(|_| self.config.is_sealed())
                    .and_then(|(from, body)| Some((end_of(&from)?, body)));
                match session {
                    Some((end, body)) => self.prove(now, id, end, &body),
                    None => self.unconnected(now, id),
                }
            }
        }
    }

    /// Both have agreed: both ask where the other is, which opens their NATs.
    fn prove(&mut self, now: Now, id: ConversationId, end: End, body: &ConnectBody) {
        if let Some(it) = self.applications.all.get_mut(&id) {
            it.way = Way::Connecting(Connecting::Proving {
                end,
                next: now.at,
                until: now.at + PROVE_FOR,
            });
        }
        self.out(Output::Reach {
            who: end.0,
            digit: end.1,
            places: places_of(body),
            configured: false,
        });
        self.run_connections(now);
    }

    /// A peer asks for a connection, and is inside a session. False: not for an application that is served here.
    pub(in crate::dht) fn application_offered(
        &mut self,
        now: Now,
        offer: OfferId,
        end: End,
        body: &ConnectBody,
    ) -> bool {
        let peer = Id::of_address(&end.0, end.1);
        let Some(id) = self.conversation_with(now, body.application, peer, vec![peer]) else {
            return false;
        };
        let answer = self.connect_body(body.application, Role::Active);
        self.node.answer_connect(now, offer, Some(&answer));
        self.prove(now, id, end, body);
        true
    }

    /// The same, by ICE.
    pub(in crate::dht) fn application_offered_by_ice(
        &mut self,
        now: Now,
        offer: OfferId,
        peer: Option<Id>,
        body: &ConnectBody,
    ) -> bool {
        let Some(peer) = peer else {
            return false;
        };
        let Some(id) = self.conversation_with(now, body.application, peer, vec![peer]) else {
            return false;
        };
        if let Some(own) = self.own_offer(id) {
            // Both have asked at once. Each would answer the other's offer and begin none of its own: that of the greater Peer-ID
            // stands.
            if self.node.id() > peer {
                self.node.answer_connect(now, offer, None);
                return true;
            }
            self.forget_connect(own);
        }
        let token = self.own_links.application_token(id, Some(offer));
        self.describing(now, id, token);
        self.tell_links(Command::Answer(token, body.clone(), Some(peer)));
        true
    }

    /// The offer of ICE that this side is making in a conversation.
    fn own_offer(&self, id: ConversationId) -> Option<Token> {
        match self.applications.all.get(&id)?.way {
            Way::Connecting(Connecting::Asked(_, token)) => token,
            Way::Connecting(Connecting::Described(token, _)) => {
                self.own_links.is_offered(token).then_some(token)
            }
            _ => None,
        }
    }

    /// DTLS stands on the path of a conversation.
    pub(in crate::dht) fn application_up(&mut self, id: ConversationId, link: LinkKey) {
        match self.applications.all.get_mut(&id) {
            Some(it) => {
                tracing::debug!(
                    application = it.application,
                    "a connection for an application"
                );
                it.way = Way::Link(link);
            }
            None => self.tell_links(Command::Close(link)),
        }
    }

    pub(in crate::dht) fn application_failed(&mut self, now: Now, id: ConversationId) {
        self.unconnected(now, id);
    }

    /// The conversation that a link is of.
    pub(in crate::dht) fn application_of(&self, link: LinkKey) -> Option<ConversationId> {
        let of = |way: &Way| matches!(way, Way::Link(own) if *own == link);
        let mut all = self.applications.all.iter();
        all.find(|(_, it)| of(&it.way)).map(|(id, _)| *id)
    }

    /// A unit has come over a link of ICE.
    pub(in crate::dht) fn application_said(&mut self, now: Now, id: ConversationId, unit: Vec<u8>) {
        self.applications.counters.connected += 1;
        self.hear_unit(now, id, unit);
    }

    /// A message of an application has come inside a session.
    pub(in crate::dht) fn handle_application(&mut self, now: Now, from: End, frame: &Frame<'_>) {
        let peer = Id::of_address(&from.0, from.1);
        let conversation = self.applications.with(frame.application, peer);
        let it = conversation.and_then(|id| self.applications.all.get_mut(&id));
        let agreed = it.filter(|it| match &it.way {
            Way::Session(end, _) | Way::Connecting(Connecting::Proving { end, .. }) => *end == from,
            _ => false,
        });
        let (Some(id), Some(it)) = (conversation, agreed) else {
            self.counters.ignored += 1;
            return;
        };
        it.way = Way::Session(from, None);
        match frame.what {
            HELLO => self.send_in_session(from, frame.application, WELCOME, &[]),
            UNIT => {
                self.applications.counters.connected += 1;
                self.hear_unit(now, id, frame.unit.to_vec());
            }
            _ => {}
        }
    }

    pub(super) fn run_connections(&mut self, now: Now) {
        let (mut hellos, mut late) = (Vec::new(), Vec::new());
        for (id, it) in &mut self.applications.all {
            match &mut it.way {
                Way::Connecting(Connecting::Proving { end, next, until }) => {
                    if *until <= now.at {
                        late.push((*id, None));
                    } else if *next <= now.at {
                        *next = now.at + HELLO_EVERY;
                        hellos.push((*end, it.application));
                    }
                }
                Way::Connecting(Connecting::Described(token, until)) if *until <= now.at => {
                    late.push((*id, Some(*token)));
                }
                _ => {}
            }
        }
        for (end, application) in hellos {
            self.send_in_session(end, application, HELLO, &[]);
        }
        for (id, token) in late {
            if let Some(token) = token {
                self.forget_connect(token);
            }
            self.unconnected(now, id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_as_they_were_written() {
        let frame = Frame {
            application: 5060,
            what: UNIT,
            unit: b"OPTIONS",
        };
        let bytes = frame.emit(0x0102_0304);
        assert_eq!(
            bytes,
            [&[4, 1, 2, 3, 4, 0x13, 0xC4, 2][..], b"OPTIONS"].concat()
        );
        let read = Frame::parse(&bytes).unwrap();
        assert_eq!(
            (read.application, read.what, read.unit),
            (5060, UNIT, &b"OPTIONS"[..])
        );
        for wrong in [
            &bytes[..7],
            &[3, 1, 2, 3, 4, 0x13, 0xC4, 2],
            &[4, 1, 2, 3, 4, 0x13, 0xC4, 3],
            &[4, 1, 2, 3, 4, 0x13, 0xC4, 0, 9],
        ] {
            assert!(Frame::parse(wrong).is_none(), "{wrong:?}");
        }
    }
}
