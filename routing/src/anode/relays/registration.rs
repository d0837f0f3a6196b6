//! Being reachable: this node registers with the relay that its address designates and with the next one, and stays
//! registered (A26, D40, DESIGN §7).
use crate::anode::peers::PeerRef;
use crate::anode::sealing::{Channel, Lane};
use crate::anode::{Node, Sender, Timer};
use anode_wire::{Address, Endpoint, Message, PeerId};
use rand_core::Rng as _;
use std::time::{Duration, Instant};

/// A relay hears of us this often: NAT bindings live 30 s (D40). With two, and nobody else, each is asked every other time.
const RENEW_EVERY: Duration = Duration::from_secs(25);
/// The same while peers talk to us over relays: one that has lost its memory must not cost them more than seconds.
const RENEW_IN_USE: Duration = Duration::from_secs(3);
/// Peers talk to us over relays if one did so lately.
const IN_USE_FOR: Duration = Duration::from_secs(10);
/// How long each PING is waited for; then the relay is dead (D40).
const WAITS: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];
/// A relay that cannot be reached is tried again after this time, doubling up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(16);
/// Registrations that are due so soon are renewed along with the one that is due: a machine wakes once for both.
const TOGETHER: Duration = Duration::from_secs(5);
/// Doubts about a relay lead to no more than one PING in this time.
const DOUBT_SPACING: Duration = Duration::from_secs(1);

/// Where a registration stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// No session with the relay, or no way to it.
    Away { next: Instant, wait: Duration },
    /// A PING is under way; `tries` of them so far.
    Asking {
        token: u64,
        tries: usize,
        next: Instant,
        /// The relay answered the last time, too.
        renewal: bool,
    },
    /// The relay has answered, when it was last asked; `at`: when it last heard of us.
    Registered { at: Instant, answered: Instant },
}

impl State {
    /// `heard`: when a packet last came over a relay.
    fn deadline(&self, heard: Option<Instant>) -> Instant {
        match self {
            Self::Away { next, .. } | Self::Asking { next, .. } => *next,
            Self::Registered { at, .. } => match heard {
                Some(heard) if *at < heard + IN_USE_FOR => *at + RENEW_IN_USE,
                _ => *at + RENEW_EVERY,
            },
        }
    }

    fn is_registered(&self) -> bool {
        matches!(
            self,
            Self::Registered { .. } | Self::Asking { renewal: true, .. }
        )
    }
}

struct Registration {
    relay: PeerRef,
    address: Address,
    state: State,
    doubted: Option<Instant>,
}

/// Our registrations; two at most.
#[derive(Default)]
pub(in crate::anode) struct Registrations {
    wanted: Vec<Registration>,
    /// When a packet last came over a relay, to a second.
    heard: Option<Instant>,
}

impl Registrations {
    /// Peers talk to us over relays.
    fn is_in_use(&self, now: Instant) -> bool {
        self.heard.is_some_and(|at| now < at + IN_USE_FOR)
    }

    fn deadline(&self) -> Option<Instant> {
        let all = self.wanted.iter();
        all.map(|one| one.state.deadline(self.heard)).min()
    }
}

/// A relay through which this node is reachable, or should be.
#[derive(Clone, PartialEq, Debug)]
pub struct RelaySnapshot {
    /// Its address.
    pub address: Address,
    /// It has answered our last PING.
    pub registered: bool,
    /// Where it is reached, as `udp://192.0.2.1:8737`, if anywhere.
    pub endpoint: Option<String>,
    /// Round trip to it.
    pub rtt: Option<Duration>,
}

impl Node {
    /// The relays through which others reach this node.
    pub fn relays(&self) -> Vec<RelaySnapshot> {
        let snapshot = |one: &Registration| {
            let path = self
                .peers
                .get(one.relay)
                .and_then(|peer| peer.active_path());
            RelaySnapshot {
                address: one.address,
                registered: one.state.is_registered(),
                endpoint: path.map(|path| path.endpoint.to_string()),
                rtt: path.and_then(|path| path.rtt),
            }
        };
        self.registrations.wanted.iter().map(snapshot).collect()
    }

    /// The relays with which this node registers.
    pub(in crate::anode) fn relays_in_use(&self) -> Vec<PeerRef> {
        let wanted = self.registrations.wanted.iter();
        wanted.map(|one| one.relay).collect()
    }

    /// The zone's relays have changed: which ones stand for us now?
    pub(super) fn choose_registrations(&mut self, now: Instant) {
        let own = self.own.address;
        let wanted: Vec<Address> = self
            .relays_for(own.as_bytes())
            .map(|relay| relay.address)
            .collect();
        self.registrations
            .wanted
            .retain(|known| wanted.contains(&known.address));
        for address in wanted {
            let known = |one: &Registration| one.address == address;
            if self.registrations.wanted.iter().any(known) {
                continue;
            }
            let Some(relay) = self.peers.find(address.as_bytes()) else {
                continue;
            };
            self.registrations.wanted.push(Registration {
                relay,
                address,
                state: State::Away {
                    next: now,
                    wait: FIRST_WAIT,
                },
                doubted: None,
            });
        }
        self.schedule_registrations(now);
    }

    fn schedule_registrations(&mut self, now: Instant) {
        if let Some(at) = self.registrations.deadline() {
            self.timers
                .set(Timer::Registration, at.max(now), "relay registration");
        }
    }

    pub(in crate::anode) fn handle_registration_timer(&mut self, now: Instant) {
        let heard = self.registrations.heard;
        let all = self.registrations.wanted.iter();
        let due =
            |within: Duration| move |one: &Registration| one.state.deadline(heard) <= now + within;
        let renewing = all
            .clone()
            .any(|one| matches!(one.state, State::Registered { .. }) && due(Duration::ZERO)(one));
        let within = match renewing {
            true if !self.registrations.is_in_use(now) => TOGETHER,
            _ => Duration::ZERO,
        };
        // Idle, the relays are asked in turn: the others hear that we are there, and answer nothing that we would wake for.
        let answered = |(index, one): (usize, &Registration)| match one.state {
            State::Registered { answered, .. } if due(within)(one) => Some((answered, index)),
            _ => None,
        };
        let idle = within > Duration::ZERO;
        let next = all.enumerate().filter_map(answered).min();
        let turn = next.filter(|_| idle).map(|(_, index)| index);
        for index in 0..self.registrations.wanted.len() {
            let one = &self.registrations.wanted[index];
            let soon = matches!(one.state, State::Registered { .. }) && due(within)(one);
            if soon && turn.is_some_and(|turn| turn != index) && self.keep_open(now, index) {
                continue;
            }
            let one = &self.registrations.wanted[index];
            if soon || due(Duration::ZERO)(one) {
                self.drive_registration(now, index);
            }
        }
        self.schedule_registrations(now);
    }

    /// Sends a relay a packet that wants no answer, for the NATs and firewalls in between. False: it could not be sent.
    fn keep_open(&mut self, now: Instant, index: usize) -> bool {
        let Registration { relay, state, .. } = self.registrations.wanted[index];
        let presence = Message::Epi {
            endpoint: Endpoint::Unspecified,
            nat_mode: 0,
            options: &[],
        };
        let Some(Channel::Sealed(key)) = self.channel(relay, PeerId::ANY) else {
            return false;
        };
        let route = self
            .peers
            .get(relay)
            .and_then(|peer| peer.route(PeerId::ANY));
        let sent = route.is_some_and(|route| {
            let destination = route.destination;
            self.push_sealed(now, relay, key, destination, Lane::Control, &presence)
                .is_ok()
        });
        if let State::Registered { answered, .. } = state
            && sent
        {
            self.registrations.wanted[index].state = State::Registered { at: now, answered };
        }
        sent
    }

    /// The next step of one registration.
    fn drive_registration(&mut self, now: Instant, index: usize) {
        let Registration { relay, state, .. } = self.registrations.wanted[index];
        let next = match state {
            State::Away { wait, .. } => match self.ping_relay(now, relay) {
                Some(token) => State::Asking {
                    token,
                    tries: 1,
                    next: now + WAITS[0],
                    renewal: false,
                },
                None => {
                    self.contact_relay(now, relay);
                    State::Away {
                        next: now + wait,
                        wait: (wait * 2).min(LONGEST_WAIT),
                    }
                }
            },
            State::Registered { .. } => self.ask_relay(now, relay, 0, true),
            State::Asking { tries, renewal, .. } if tries < WAITS.len() => {
                self.ask_relay(now, relay, tries, renewal)
            }
            State::Asking { .. } => {
                // Dead where it was: it may be alive at another of its places (A25).
                self.counters.relays_lost += 1;
                if let Some(peer) = self.peers.get_mut(relay) {
                    peer.paths.iter_mut().for_each(|path| path.probe(now));
                }
                self.contact_relay(now, relay);
                State::Away {
                    next: now + FIRST_WAIT,
                    wait: FIRST_WAIT,
                }
            }
        };
        self.registrations.wanted[index].state = next;
    }

    /// Sends the PING number `tries`; without a session the relay is looked for anew.
    fn ask_relay(&mut self, now: Instant, relay: PeerRef, tries: usize, renewal: bool) -> State {
        match self.ping_relay(now, relay) {
            Some(token) => State::Asking {
                token,
                tries: tries + 1,
                next: now + WAITS[tries],
                renewal,
            },
            None => {
                self.contact_relay(now, relay);
                State::Away {
                    next: now + FIRST_WAIT,
                    wait: FIRST_WAIT,
                }
            }
        }
    }

    /// Has somebody look for the relay: session and path.
    pub(super) fn contact_relay(&mut self, now: Instant, relay: PeerRef) {
        if let Some(ipv6) = self.peers.get(relay).map(|peer| peer.ipv6) {
            self.start_contact(now, ipv6, PeerId::ANY);
        }
    }

    /// The PING that registers, if there is a session and a way; its token.
    fn ping_relay(&mut self, now: Instant, relay: PeerRef) -> Option<u64> {
        let token = self.rng.next_u64();
        let body = token.to_be_bytes();
        let channel = match self.channel(relay, PeerId::ANY) {
            Some(channel) if self.can_carry(relay, PeerId::ANY, body.len()) => channel,
            None if self.is_draft_relay(relay) => {
                // It may have learnt to seal since.
                self.offer_session(now, relay, PeerId::ANY);
                Channel::Plain
            }
            Some(_) | None => return None,
        };
        let destination = self.peers.get(relay)?.route(PeerId::ANY)?.destination;
        let message = Message::Ping(&body);
        match channel {
            Channel::Plain => {
                self.send_control(now, relay, destination, Sender::Full, &message);
            }
            Channel::Sealed(key) => {
                self.push_sealed(now, relay, key, destination, Lane::Control, &message)
                    .ok()?;
            }
        }
        Some(token)
    }

    /// A session or a path has come to be: if it is to one of our relays, that one is asked at once.
    pub(in crate::anode) fn relay_reached(&mut self, now: Instant, found: PeerRef) {
        let waiting = |one: &Registration| {
            one.relay == found && !matches!(one.state, State::Registered { .. })
        };
        let Some(index) = self.registrations.wanted.iter().position(waiting) else {
            return;
        };
        match self.registrations.wanted[index].state {
            // Whatever was asked before was asked in vain.
            State::Asking { renewal, .. } => {
                let state = self.ask_relay(now, found, 0, renewal);
                self.registrations.wanted[index].state = state;
            }
            State::Away { .. } | State::Registered { .. } => self.drive_registration(now, index),
        }
        self.schedule_registrations(now);
        if matches!(self.registrations.wanted[index].state, State::Asking { .. }) {
            // Answers to what follows the PING find us.
            self.greet_contacts_over_relays(now);
        }
    }

    /// A packet has come over a relay: from now on registrations are renewed more often.
    pub(in crate::anode) fn note_relayed(&mut self, now: Instant) {
        let fresh = |at: Instant| now < at + Duration::from_secs(1);
        if !self.registrations.heard.is_some_and(fresh) {
            self.registrations.heard = Some(now);
            self.schedule_registrations(now);
        }
    }

    /// A PONG has come. True: it was the answer of a relay with which we register.
    pub(in crate::anode) fn handle_registered(
        &mut self,
        now: Instant,
        sender: PeerRef,
        payload: &[u8],
    ) -> bool {
        let answers = |one: &Registration| match one.state {
            State::Asking { token, .. } => {
                one.relay == sender && payload == token.to_be_bytes().as_slice()
            }
            State::Away { .. } | State::Registered { .. } => false,
        };
        let found = self
            .registrations
            .wanted
            .iter_mut()
            .find(|one| answers(one));
        let Some(registration) = found else {
            return false;
        };
        let renewal = registration.state.is_registered();
        let rtt = match registration.state {
            State::Asking { tries, next, .. } => {
                let sent = next.checked_sub(WAITS[tries.saturating_sub(1)]);
                sent.map(|sent| now.duration_since(sent))
            }
            State::Away { .. } | State::Registered { .. } => None,
        };
        registration.state = State::Registered {
            at: now,
            answered: now,
        };
        // Nobody waits for this answer any more.
        self.timers.cancel(Timer::Registration);
        // It says of the path what an EPC would, too: that one needs no question of its own.
        let peer = self.peers.get_mut(sender);
        if let Some(path) = peer.and_then(|peer| peer.active_path_mut())
            && let Some(rtt) = rtt
        {
            path.confirm(now, rtt);
        }
        self.schedule_registrations(now);
        if !renewal {
            self.survey_relay(now, sender);
            // What we have sent so far could not be answered.
            self.use_relays_for_contacts(now);
        }
        true
    }

    /// Something says that a relay may have forgotten us, or that we are elsewhere now: ask it, not too often.
    pub(in crate::anode) fn doubt_registrations(&mut self, now: Instant) {
        for index in 0..self.registrations.wanted.len() {
            let registration = &mut self.registrations.wanted[index];
            let lately = registration
                .doubted
                .is_some_and(|at| now < at + DOUBT_SPACING);
            if lately || !matches!(registration.state, State::Registered { .. }) {
                continue;
            }
            registration.doubted = Some(now);
            self.drive_registration(now, index);
        }
        self.schedule_registrations(now);
    }
}
