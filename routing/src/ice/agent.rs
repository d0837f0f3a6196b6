//! One session's checks, by the crate `is`; what it leaves to its user: bounds, candidates that lead nowhere, and when a
//! pair is good enough.

use super::candidate::{MAX_CANDIDATES, TcpRole};
use super::{Candidate, Description, IceError, Kind, Path, Protocol, Role};
use is::stun::{StunMessage, StunPacket};
use is::{CandidateKind, IceAgent, IceAgentEvent, IceConnectionState, IceCreds};
use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

/// Addresses that one session's checks may reveal beside the candidates; a peer that shows more is not heard.
const MAX_REVEALED: usize = 64;
/// Checks that `is` keeps until the other side's description is there.
const MAX_EARLY: usize = 100;
/// Pairs of one session (RFC 8445 §6.1.2.5).
const MAX_PAIRS: usize = 100;
/// After the first nomination a better one is waited for so long, unless all checks are through (reload.md §3).
const SETTLE: Duration = Duration::from_millis(500);
/// A session without a pair ends after this.
const PATIENCE: Duration = Duration::from_secs(15);
/// Consent is asked for so often once a pair is chosen (reload.md RD73: Tr).
const CONSENT: Duration = Duration::from_secs(15);
/// And is gone when it was not given so many times.
const CONSENT_TRIES: usize = 4;

/// What came of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AgentEvent {
    /// This pair works, and stays.
    Selected(Path),
    /// No pair works.
    Failed,
    /// The chosen pair does no longer.
    Lost,
}

#[derive(Clone, Copy)]
enum Stage {
    /// The other side's description is not known.
    Waiting,
    Checking {
        until: Instant,
    },
    Nominated {
        path: Path,
        since: Instant,
    },
    Chosen,
    Over,
}

/// One session, sans-IO.
pub struct Agent {
    ice: IceAgent,
    stage: Stage,
    locals: Vec<SocketAddr>,
    /// Ways on which the other side has proven itself.
    proven: BTreeSet<Path>,
    events: VecDeque<AgentEvent>,
    ignored: u64,
}

fn wire(protocol: Protocol) -> is::Protocol {
    match protocol {
        Protocol::Udp => is::Protocol::Udp,
        Protocol::Tcp => is::Protocol::Tcp,
    }
}

fn unwire(protocol: is::Protocol) -> Protocol {
    match protocol {
        is::Protocol::Udp => Protocol::Udp,
        _ => Protocol::Tcp,
    }
}

/// `is` ranks TCP below UDP always, so the priorities are given. Of a candidate without a base its address is taken for
/// one: right for those that it is told here.
fn told(candidate: &Candidate, at: SocketAddr) -> is::Candidate {
    let kind = match candidate.kind {
        Kind::Host => CandidateKind::Host,
        Kind::PeerReflexive => CandidateKind::PeerReflexive,
        Kind::ServerReflexive => CandidateKind::ServerReflexive,
        Kind::Relayed => CandidateKind::Relayed,
    };
    is::Candidate::from_parts(
        candidate.foundation.clone(),
        1,
        wire(candidate.protocol),
        candidate.priority,
        at,
        kind,
        None,
        None,
        None,
    )
}

impl Agent {
    /// A session with these local candidates, each with the address that packets of it are sent from. Server-reflexive
    /// ones are for the other side only: their base is a candidate of its own (RFC 8445 §6.1.2.4).
    pub fn new(
        role: Role,
        ufrag: String,
        password: String,
        tie_breaker: u64,
        locals: &[(Candidate, SocketAddr)],
    ) -> Self {
        let pass = password;
        let mut ice = IceAgent::new(IceCreds { ufrag, pass });
        ice.set_control_tie_breaker(tie_breaker);
        ice.set_controlling(role == Role::Controlling);
        ice.set_max_candidate_pairs(MAX_PAIRS);
        let bases: Vec<_> = locals
            .iter()
            .filter(|(candidate, _)| candidate.kind != Kind::ServerReflexive)
            .collect();
        for (candidate, base) in &bases {
            ice.add_local_candidate(told(candidate, *base));
        }
        Self {
            ice,
            stage: Stage::Waiting,
            locals: bases.iter().map(|(_, base)| *base).collect(),
            proven: BTreeSet::new(),
            events: VecDeque::new(),
            ignored: 0,
        }
    }

    /// The other side's description is here: checks begin.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn start(&mut self, now: Instant, remote: &Description) -> Result<(), IceError> {
        let lengths = (remote.ufrag.len(), remote.password.len());
        if !(4..=256).contains(&lengths.0) || !(22..=256).contains(&lengths.1) {
            return Err(IceError::Credentials);
        }
        self.ice.set_remote_credentials(IceCreds {
            ufrag: remote.ufrag.clone(),
            pass: remote.password.clone(),
        });
        let usable = remote.candidates.iter().take(MAX_CANDIDATES);
        // An active one has no port to be reached at: its connection reveals it (RFC 6544 §5.2).
        let usable = usable.filter(|it| it.tcp.is_none_or(|role| role == TcpRole::Passive));
        let usable: Vec<_> = usable.filter(|it| self.may_ask(it.address)).collect();
        if usable.is_empty() && !remote.candidates.iter().any(|it| it.tcp.is_some()) {
            return Err(IceError::NoCandidate);
        }
        for candidate in usable {
            self.ice
                .add_remote_candidate(told(candidate, candidate.address));
        }
        let until = now + PATIENCE;
        self.stage = Stage::Checking { until };
        // Checks of the other side that came before its description are answered one at a time, and until then `is` names
        // no time for more. It keeps 100.
        for _ in 0..=MAX_EARLY {
            self.handle_timeout(now);
            if self.ice.poll_timeout().is_some() {
                break;
            }
        }
        Ok(())
    }

    /// Nobody is asked at addresses that no peer can have, or inside the overlay itself.
    fn may_ask(&self, at: SocketAddr) -> bool {
        let family = |local: &SocketAddr| local.is_ipv4() == at.is_ipv4();
        let among_own = |local: &SocketAddr| local.ip().is_loopback();
        let overlay = |ip: Ipv6Addr| ip.octets()[0] == 0xfd && ip.octets()[1] & 0xfe == 0xa0;
        let usable = match at.ip() {
            IpAddr::V4(ip) => !ip.is_multicast() && !ip.is_broadcast() && !ip.is_unspecified(),
            IpAddr::V6(ip) => {
                let plain = ip.to_ipv4_mapped().is_none() && !overlay(ip);
                plain && !ip.is_multicast() && !ip.is_unspecified() && !ip.is_unicast_link_local()
            }
        };
        usable
            && at.port() != 0
            && self.locals.iter().any(family)
            && (!at.ip().is_loopback() || self.locals.iter().any(among_own))
    }

    /// Whether a STUN message is for this session.
    pub fn accepts(&self, message: &StunMessage<'_>) -> bool {
        self.ice.accepts_message(message)
    }

    /// Takes a STUN message that [`Agent::accepts`].
    pub fn handle(&mut self, now: Instant, path: Path, message: StunMessage<'_>) {
        if matches!(self.stage, Stage::Over) {
            return;
        }
        // Whoever knows the password could have any number of addresses remembered here.
        let known = self.proven.contains(&path) || self.proven.len() < MAX_REVEALED;
        if !known || self.grows(&message) {
            self.ignored += 1;
            return;
        }
        let packet = StunPacket {
            proto: wire(path.protocol),
            source: path.remote,
            destination: path.local,
            message,
        };
        if self.ice.handle_packet(now, packet) {
            self.proven.insert(path);
        }
        self.take_events(now);
    }

    /// Whether an answer would have one more address of ours remembered than is reasonable.
    fn grows(&self, message: &StunMessage<'_>) -> bool {
        let Some(mapped) = message.mapped_address() else {
            return false;
        };
        let mut locals = self.ice.local_candidates();
        locals.clone().count() >= MAX_REVEALED && !locals.any(|it| it.addr() == mapped)
    }

    /// Whether the other side has proven itself on this way.
    pub fn knows(&self, path: &Path) -> bool {
        self.proven.contains(path)
    }

    /// Timers.
    pub fn handle_timeout(&mut self, now: Instant) {
        if matches!(self.stage, Stage::Over) {
            return;
        }
        self.ice.handle_timeout(now);
        self.take_events(now);
        match self.stage {
            Stage::Checking { until } if until <= now => self.end(AgentEvent::Failed),
            Stage::Nominated { path, since } => {
                let all = self.ice.state() == IceConnectionState::Completed;
                if all || since + SETTLE <= now {
                    self.stage = Stage::Chosen;
                    self.ice.set_max_stun_rto(CONSENT);
                    self.ice.set_max_stun_retransmits(CONSENT_TRIES);
                    self.events.push_back(AgentEvent::Selected(path));
                }
            }
            _ => {}
        }
    }

    /// When [`Agent::handle_timeout`] has something to do. `None`: never.
    pub fn deadline(&mut self) -> Option<Instant> {
        let own = match self.stage {
            Stage::Over => return None,
            Stage::Checking { until } => Some(until),
            Stage::Nominated { since, .. } => Some(since + SETTLE),
            Stage::Waiting | Stage::Chosen => None,
        };
        [own, self.ice.poll_timeout()].into_iter().flatten().min()
    }

    /// The next message to send.
    pub fn poll_transmit(&mut self) -> Option<(Path, Vec<u8>)> {
        let transmit = self.ice.poll_transmit()?;
        let path = Path {
            protocol: unwire(transmit.proto),
            local: transmit.source,
            remote: transmit.destination,
        };
        Some((path, Vec::from(transmit.contents)))
    }

    /// What has come of it.
    pub fn poll_event(&mut self) -> Option<AgentEvent> {
        self.events.pop_front()
    }

    /// Messages that were not heard, because the other side shows too many addresses.
    pub fn ignored(&self) -> u64 {
        self.ignored
    }

    fn end(&mut self, event: AgentEvent) {
        self.stage = Stage::Over;
        self.events.push_back(event);
    }

    fn take_events(&mut self, now: Instant) {
        while let Some(event) = self.ice.poll_event() {
            match event {
                IceAgentEvent::NominatedSend {
                    proto,
                    source,
                    destination,
                } => {
                    let path = Path {
                        protocol: unwire(proto),
                        local: source,
                        remote: destination,
                    };
                    self.stage = match self.stage {
                        Stage::Checking { .. } => Stage::Nominated { path, since: now },
                        // It may move up while it settles; then the pair stays.
                        Stage::Nominated { since, .. } => Stage::Nominated { path, since },
                        other => other,
                    };
                }
                // Before that, who has no pair yet may still be asked by the other side.
                IceAgentEvent::IceConnectionStateChange(IceConnectionState::Disconnected)
                    if matches!(self.stage, Stage::Chosen) =>
                {
                    self.end(AgentEvent::Lost);
                }
                _ => {}
            }
        }
    }
}
