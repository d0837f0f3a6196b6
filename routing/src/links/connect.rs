//! CONNECT over ICE (R58, R93 to R107, RD33): both sides describe themselves, check, and the responder opens DTLS.

use super::dtls::{Conversation, Expected};
use super::{LinkEvent, Links, Made, Target, Token};
use crate::ice::{
    Candidate, Description, Kind, Path, Preference, Protocol, Role, SessionId, TcpRole,
};
use anode_reload::Id;
use anode_reload::body::{ConnectBody, Role as TlsRole};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// CONNECTs at a time.
const MAX_CONNECTS: usize = 256;
/// So long a description waits for server-reflexive and relayed candidates.
const GATHER_FOR: Duration = Duration::from_millis(1500);
/// What was gathered is good for so long.
const GATHERED_FOR: Duration = Duration::from_secs(60);
/// A CONNECT that has not come to a link by then never will.
const BUDGET: Duration = Duration::from_secs(30);

struct Connect {
    role: Role,
    application: u16,
    /// The other side, if it is known.
    remote: Option<(ConnectBody, Option<Id>)>,
    session: Option<SessionId>,
    until: Instant,
}

/// CONNECTs that have not come to a link yet.
#[derive(Default)]
pub(super) struct Connects {
    all: BTreeMap<Token, Connect>,
    gathered: Option<Instant>,
    /// Until then descriptions wait.
    waiting: Option<Instant>,
}

impl Connects {
    pub fn deadline(&self) -> Option<Instant> {
        let all = self.all.values().map(|it| it.until);
        all.chain(self.waiting).min()
    }

    /// What was gathered is not true any more.
    pub fn gather_again(&mut self) {
        self.gathered = None;
    }

    pub fn token_of(&self, session: SessionId) -> Option<Token> {
        let mut all = self.all.iter();
        all.find(|(_, it)| it.session == Some(session))
            .map(|(token, _)| *token)
    }

    pub fn expected(&self, session: SessionId) -> Option<Expected> {
        let connect = self.all.get(&self.token_of(session)?)?;
        let (body, peer) = connect.remote.as_ref()?;
        Some(Expected {
            peer: *peer,
            fingerprint: body.fingerprint.clone(),
        })
    }

    /// Where the other side of a CONNECT listens for anybody, as its candidates say (R129): a pair that works may have ports
    /// that are for this connection alone. `tls`: it takes TLS as well.
    pub fn listening(&self, token: Token, path: Path, tls: bool) -> Option<Target> {
        let (body, _) = self.all.get(&token)?.remote.as_ref()?;
        let candidates = describe(body).candidates;
        let ip = path.remote.ip();
        let udp = |kind: Kind| {
            let of = |it: &&Candidate| it.protocol == Protocol::Udp && it.kind == kind;
            let mut there = candidates.iter().filter(of).map(|it| it.address);
            there.find(|at| at.ip() == ip).map(Target::Dtls)
        };
        let tcp = || {
            let passive = |it: &&Candidate| {
                it.tcp == Some(TcpRole::Passive) && it.kind == Kind::Host && it.address.ip() == ip
            };
            let found = candidates.iter().find(passive).filter(|_| tls);
            found.map(|it| Target::Tls(it.address))
        };
        // Behind a NAT a port that is still open is the best there is.
        let mapped = || udp(Kind::ServerReflexive);
        udp(Kind::Host).or_else(tcp).or_else(mapped)
    }

    /// It has come to a link, or to nothing.
    pub fn done(&mut self, token: Token) {
        self.all.remove(&token);
    }

    pub fn take(&mut self, session: SessionId) -> Option<Token> {
        let token = self.token_of(session)?;
        self.all.remove(&token);
        Some(token)
    }
}

impl Links {
    /// Our side of a CONNECT that we send: [`LinkEvent::Described`] follows, then [`Links::start`] with the answer.
    pub fn offer(&mut self, now: Instant, token: Token, application: u16) {
        self.begin_connect(now, token, Role::Controlling, application, None);
    }

    /// Our side of a CONNECT that has come: [`LinkEvent::Described`] follows, and checks begin (R60). `peer` is whom its
    /// signature proves.
    pub fn answer(&mut self, now: Instant, token: Token, body: ConnectBody, peer: Option<Id>) {
        let application = body.application;
        let remote = Some((body, peer));
        self.begin_connect(now, token, Role::Controlled, application, remote);
    }

    /// The answer to our CONNECT has come.
    pub fn start(&mut self, now: Instant, token: Token, body: ConnectBody, peer: Option<Id>) {
        let Some(connect) = self.connects.all.get_mut(&token) else {
            return self.connect_failed(token, "it has taken too long");
        };
        let session = connect.session;
        let remote = describe(&body);
        connect.remote = Some((body, peer));
        let Some(session) = session else {
            return self.connect_failed(token, "the answer came before the offer was sent");
        };
        if let Err(error) = self.ice.start(now, session, &remote) {
            self.connects.all.remove(&token);
            self.connect_failed(token, &error.to_string());
        }
    }

    /// Forgets a CONNECT that comes to nothing.
    pub fn forget(&mut self, token: Token) {
        if let Some(session) = self.connects.all.remove(&token).and_then(|it| it.session) {
            self.ice.end(session);
        }
    }

    fn begin_connect(
        &mut self,
        now: Instant,
        token: Token,
        role: Role,
        application: u16,
        remote: Option<(ConnectBody, Option<Id>)>,
    ) {
        if self.connects.all.len() >= MAX_CONNECTS || self.is_full() {
            self.counters.refused += 1;
            return self.connect_failed(token, "there are too many links");
        }
        let fresh = self
            .connects
            .gathered
            .is_some_and(|at| now < at + GATHERED_FOR);
        if !fresh {
            self.connects.gathered = Some(now);
            self.connects.waiting = Some(now + GATHER_FOR);
            self.gather(now);
        }
        let connect = Connect {
            role,
            application,
            remote,
            session: None,
            until: now + BUDGET,
        };
        self.connects.all.insert(token, connect);
        self.run_connects(now);
    }

    pub(super) fn run_connects(&mut self, now: Instant) {
        if let Some(until) = self.connects.waiting {
            if now < until && !self.ice.endpoint().is_gathered() {
                return self.expire_connects(now);
            }
            self.connects.waiting = None;
        }
        let mut waiting = self.connects.all.iter();
        while let Some((token, _)) = waiting.find(|(_, it)| it.session.is_none()) {
            let token = *token;
            self.describe(now, token);
            waiting = self.connects.all.iter();
        }
        self.expire_connects(now);
    }

    fn expire_connects(&mut self, now: Instant) {
        let late = self.connects.all.iter().filter(|(_, it)| it.until <= now);
        let late: Vec<Token> = late.map(|(token, _)| *token).collect();
        for token in late {
            self.forget(token);
            self.connect_failed(token, "it has taken too long");
        }
    }

    fn describe(&mut self, now: Instant, token: Token) {
        let Some(connect) = self.connects.all.get(&token) else {
            return;
        };
        let (role, application) = (connect.role, connect.application);
        let session = match self.ice.begin(role, Preference::Tcp) {
            Ok(session) => session,
            Err(error) => {
                self.connects.all.remove(&token);
                return self.connect_failed(token, &error.to_string());
            }
        };
        let Some(own) = self.ice.describe(session).cloned() else {
            return;
        };
        let remote = self.connects.all.get_mut(&token).and_then(|connect| {
            connect.session = Some(session);
            connect.remote.as_ref().map(|(body, _)| describe(body))
        });
        let body = ConnectBody {
            ufrag: own.ufrag,
            password: own.password,
            application,
            fingerprint: self.security.fingerprint(),
            // RD33: whoever asks is the server
            role: match role {
                Role::Controlling => TlsRole::Passive,
                Role::Controlled => TlsRole::Active,
            },
            candidates: own.candidates.iter().map(Candidate::to_string).collect(),
        };
        self.event(LinkEvent::Described { token, body });
        if let Some(remote) = remote
            && let Err(error) = self.ice.start(now, session, &remote)
        {
            self.connects.all.remove(&token);
            self.connect_failed(token, &error.to_string());
        }
    }

    /// A pair works: the side that is to open DTLS does.
    pub(super) fn selected(&mut self, now: Instant, session: SessionId, path: Path) {
        let Some(token) = self.connects.token_of(session) else {
            return;
        };
        let expect = self.connects.expected(session);
        let controlled = |it: &Connect| it.role == Role::Controlled;
        if !self.connects.all.get(&token).is_some_and(controlled) {
            return;
        }
        match self.security.dtls(now, true) {
            Ok(dtls) => {
                let key = self.key();
                let made = Made::Connected(token);
                let mut new = Conversation::new(now, key, path, made, dtls, true);
                new.session = Some(session);
                new.expect = expect;
                self.insert(now, new);
            }
            Err(error) => self.connect_failed(token, &error.to_string()),
        }
    }

    pub(super) fn connect_failed(&mut self, token: Token, why: &str) {
        let why = why.to_owned();
        self.event(LinkEvent::ConnectFailed { token, why });
    }
}

/// Candidates that cannot be read are passed over: there may be kinds that are not known here.
fn describe(body: &ConnectBody) -> Description {
    Description {
        ufrag: body.ufrag.clone(),
        password: body.password.clone(),
        candidates: body
            .candidates
            .iter()
            .filter_map(|it| it.parse().ok())
            .collect(),
    }
}
