//! Sessions on one endpoint: whose a message is, and what is due.

use super::agent::{Agent, AgentEvent};
use super::candidate::{Candidate, Preference};
use super::endpoint::{Endpoint, RelayServer};
use super::{Description, IceError, Path, Role};
use anode_turn::stun::is_stun;
use is::stun::StunMessage;
use nix::poll::{PollFd, PollTimeout, poll};
use rand_core::CryptoRng;
use slab::Slab;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

/// Sessions at a time.
const MAX_SESSIONS: usize = 256;
/// Messages that wait to be taken.
const MAX_DATA: usize = 4096;
/// RFC 8445 §5.3: letters, digits, `+` and `/`, six bits each.
const ICE_CHARS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Names a session.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionId(u64);

/// What has come of sessions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A session has its pair, which stays.
    Selected {
        /// Whose.
        session: SessionId,
        /// The pair.
        path: Path,
    },
    /// No pair works; the session is forgotten.
    Failed(SessionId),
    /// The pair works no longer; the session is forgotten.
    Lost(SessionId),
}

/// A message that is no check of a session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Data {
    /// The session whose peer has proven to be there. `None`: a stranger's.
    pub session: Option<SessionId>,
    /// Its way.
    pub path: Path,
    /// It.
    pub bytes: Vec<u8>,
}

struct Session {
    id: SessionId,
    agent: Agent,
    /// What its own connections are opened from.
    active: u16,
    told: Description,
}

/// ICE on sockets: see the module's picture.
pub struct Sessions {
    endpoint: Endpoint,
    rng: Box<dyn CryptoRng + Send>,
    sessions: Slab<Session>,
    next: u64,
    events: VecDeque<Event>,
    data: VecDeque<Data>,
    data_dropped: u64,
}

impl Sessions {
    /// On these sockets. `rng` makes passwords: it must be unpredictable.
    pub fn new(endpoint: Endpoint, rng: Box<dyn CryptoRng + Send>) -> Self {
        Self {
            endpoint,
            rng,
            sessions: Slab::new(),
            next: 0,
            events: VecDeque::new(),
            data: VecDeque::new(),
            data_dropped: 0,
        }
    }

    /// The sockets.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The sockets, for what is no ICE.
    pub fn endpoint_mut(&mut self) -> &mut Endpoint {
        &mut self.endpoint
    }

    /// See [`Endpoint::gather`].
    pub fn gather(&mut self, now: Instant, stun: &[SocketAddr], relays: &[RelayServer]) {
        self.endpoint.gather(now, &mut self.rng, stun, relays);
    }

    /// A session with what is gathered by now.
    ///
    /// # Errors
    /// [`IceError::Full`]
    pub fn begin(&mut self, role: Role, preference: Preference) -> Result<SessionId, IceError> {
        if self.sessions.len() >= MAX_SESSIONS {
            return Err(IceError::Full);
        }
        let id = SessionId(self.next);
        self.next += 1;
        // No port of a listener: these stand for ports that the system chooses when a connection is opened.
        let entry = self.sessions.vacant_entry();
        let active = 1 + entry.key() as u16;
        let locals = self.endpoint.candidates(preference, active);
        let mut text = |length: usize| -> String {
            let mut bytes = vec![0; length];
            self.rng.fill_bytes(&mut bytes);
            let letter = |byte: u8| char::from(ICE_CHARS[usize::from(byte & 63)]);
            bytes.into_iter().map(letter).collect()
        };
        let (ufrag, password) = (text(8), text(24));
        let told = Description {
            ufrag: ufrag.clone(),
            password: password.clone(),
            candidates: locals.iter().map(|(it, _)| it.clone()).collect(),
        };
        let agent = Agent::new(role, ufrag, password, self.rng.next_u64(), &locals);
        entry.insert(Session {
            id,
            agent,
            active,
            told,
        });
        Ok(id)
    }

    /// What to tell the other side.
    pub fn describe(&self, session: SessionId) -> Option<&Description> {
        self.find(session).map(|(_, session)| &session.told)
    }

    /// The other side's description is here: checks begin.
    ///
    /// # Errors
    /// It cannot be used; the session is forgotten.
    pub fn start(
        &mut self,
        now: Instant,
        session: SessionId,
        remote: &Description,
    ) -> Result<(), IceError> {
        let Some((key, _)) = self.find(session) else {
            return Err(IceError::NoCandidate);
        };
        let started = self.sessions[key].agent.start(now, remote);
        if started.is_err() {
            self.forget(key);
        }
        self.transmit(now);
        started
    }

    /// Forgets a session.
    pub fn end(&mut self, session: SessionId) {
        if let Some((key, _)) = self.find(session) {
            self.forget(key);
        }
    }

    /// Sends a message over a way. False: it is lost.
    pub fn send(&mut self, now: Instant, path: Path, bytes: &[u8]) -> bool {
        self.endpoint.send(now, path, bytes)
    }

    /// What to wait for.
    pub fn fds<'a>(&'a self, all: &mut Vec<PollFd<'a>>) {
        self.endpoint.fds(all);
    }

    /// When [`Sessions::work`] wants to be called although nothing came.
    pub fn deadline(&mut self) -> Option<Instant> {
        let own = self.endpoint.deadline();
        let agents = self.sessions.iter_mut();
        let agents = agents.filter_map(|(_, session)| session.agent.deadline());
        agents.chain(own).min()
    }

    /// Takes what has come and does what is due.
    pub fn work(&mut self, now: Instant) {
        self.endpoint.work(now);
        while let Some((path, bytes)) = self.endpoint.poll_arrived() {
            self.handle(now, path, bytes);
        }
        for (_, session) in &mut self.sessions {
            if session.agent.deadline().is_some_and(|at| at <= now) {
                session.agent.handle_timeout(now);
            }
        }
        self.transmit(now);
        self.take_events();
    }

    /// Waits for something to do, until then, and does it: for whoever has nothing else to wait for.
    pub fn wait(&mut self, until: Instant) {
        let now = Instant::now();
        let due = self.deadline().map_or(until, |at| at.min(until));
        let mut fds = Vec::new();
        self.endpoint.fds(&mut fds);
        let wait = due.saturating_duration_since(now);
        let wait = u16::try_from(wait.as_millis() + 1).unwrap_or(u16::MAX);
        // An interrupted wait is a short one.
        let _ = poll(&mut fds, PollTimeout::from(wait));
        drop(fds);
        self.work(Instant::now());
    }

    /// What has come of sessions.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next message that is no check.
    pub fn poll_data(&mut self) -> Option<Data> {
        self.data.pop_front()
    }

    /// Messages that nobody took in time.
    pub fn data_dropped(&self) -> u64 {
        self.data_dropped
    }

    /// Candidates that a new session would tell.
    pub fn candidates(&self, preference: Preference) -> Vec<Candidate> {
        let all = self.endpoint.candidates(preference, 1);
        all.into_iter().map(|(candidate, _)| candidate).collect()
    }

    fn find(&self, id: SessionId) -> Option<(usize, &Session)> {
        self.sessions.iter().find(|(_, session)| session.id == id)
    }

    fn forget(&mut self, key: usize) {
        let gone = self.sessions.remove(key);
        let bases: Vec<_> = self.endpoint.addresses().collect();
        for base in bases {
            self.endpoint
                .close(SocketAddr::new(base.ip(), gone.active), None);
        }
    }

    fn handle(&mut self, now: Instant, path: Path, bytes: Vec<u8>) {
        if is_stun(&bytes) {
            let mut sessions = self.sessions.iter_mut();
            if let Ok(message) = StunMessage::parse(&bytes)
                && let Some((_, session)) = sessions.find(|(_, it)| it.agent.accepts(&message))
            {
                session.agent.handle(now, path, message);
                self.endpoint.prove(&path);
                return;
            }
        }
        let mut sessions = self.sessions.iter();
        let session = sessions.find(|(_, session)| session.agent.knows(&path));
        let session = session.map(|(_, session)| session.id);
        match self.data.len() < MAX_DATA {
            true => self.data.push_back(Data {
                session,
                path,
                bytes,
            }),
            false => self.data_dropped += 1,
        }
    }

    fn transmit(&mut self, now: Instant) {
        for (_, session) in &mut self.sessions {
            while let Some((path, bytes)) = session.agent.poll_transmit() {
                self.endpoint.send(now, path, &bytes);
            }
        }
    }

    fn take_events(&mut self) {
        let mut over = Vec::new();
        for (key, session) in &mut self.sessions {
            while let Some(event) = session.agent.poll_event() {
                let id = session.id;
                self.events.push_back(match event {
                    AgentEvent::Selected(path) => Event::Selected { session: id, path },
                    AgentEvent::Failed => Event::Failed(id),
                    AgentEvent::Lost => Event::Lost(id),
                });
                if !matches!(event, AgentEvent::Selected(_)) {
                    over.push(key);
                }
            }
        }
        over.into_iter().for_each(|key| self.forget(key));
    }
}

#[cfg(test)]
mod tests;
