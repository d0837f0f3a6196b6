//! One way to reach a peer: an underlay endpoint, and what is known of it (Anode 0.8 §4.2.4 and §4.2.5, D24).
use super::mtu::PacketSize;
use super::peers::PeerRef;
use super::{Place, Transport};
use anode_wire::PeerId;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Largest packet on a path before anything larger was proven: the smallest IPv6 MTU less 48 (D36).
pub const INITIAL_PACKET: u16 = 1232;
/// Times of the EPC_REQs to a candidate, after the first: a candidate that was silent for all of them has failed.
const PROBE_GAPS_MS: [u64; 6] = [250, 250, 500, 1000, 1000, 2000];
/// A path in use is checked this long after its last proof (NAT bindings live 30 s).
pub(super) const CHECK_AFTER: Duration = Duration::from_secs(25);
/// Unanswered checks after which a path is no path any more.
const MAX_MISSES: u8 = 3;
/// A path that is doubted has at least so long for its answer before another one is used: machines that are busy wake late.
const PROMPT: Duration = Duration::from_millis(100);
/// Beyond what relays can be between two peers (16).
const TURN_DISTANCE: u8 = 64;
/// Credit that an unproven endpoint can gather: a proof is due long before.
const MAX_CREDIT: usize = 1 << 20;

/// Where a path was learned.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Origin {
    /// The operator named it.
    Configured,
    /// Proven in an earlier life of this node.
    Pin,
    /// A beacon on the LAN.
    Lan,
    /// Its record in a DHT, or its CONNECT.
    Dht,
    /// An EPI of the peer.
    Hint,
    /// The source of an authentic packet.
    Nominated,
    /// A place that it named over a relay, and that has answered (Q28).
    Punched,
    /// A relay of its zone that stands for it (A22).
    Relay,
    /// A tracker named the place, and the peer has answered from there.
    Tracker,
    /// One of its UDP addresses, from where our TURN server sends.
    Turn,
}

impl Origin {
    /// Unproven paths that one peer may have of it.
    pub fn places(self) -> usize {
        match self {
            Self::Configured => usize::MAX,
            // A record names the places of both families, outside of the NAT and behind it; its owner has signed it.
            Self::Dht => 4,
            _ => 2,
        }
    }
}

/// What is at the endpoint of a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Through {
    /// The peer itself.
    Direct,
    /// A relay, which may be known to us (A16).
    Relay(Option<PeerRef>),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// Known, and nobody asks.
    Candidate,
    /// EPC_REQs are going out; nothing has come back.
    Probing { attempt: u8, next: Instant },
    /// An EPC came back: traffic may use it.
    Proven { at: Instant, check: Check },
}

/// The re-check of a proven path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Check {
    /// None under way.
    Quiet,
    /// EPC_REQs since `since` have not been answered; `misses` of them are overdue, and `next` is when this one will be.
    /// `again`: there is a reason to ask once more before that.
    Asking {
        since: Instant,
        misses: u8,
        next: Instant,
        again: bool,
    },
}

/// What a path wants when its time has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Action {
    /// Send an EPC_REQ there.
    Ask,
    /// It was proven and no longer answers.
    Lost,
    /// It never answered.
    Failed,
}

/// Where a path leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Spot {
    pub endpoint: Place,
    pub socket: usize,
    pub through: Through,
}

impl Spot {
    /// Whether that is one path: over a known relay wherever that is, else by the place.
    pub fn is_same(&self, path: &Path) -> bool {
        match self.through {
            Through::Relay(Some(_)) => self.through == path.through,
            Through::Relay(None) | Through::Direct => {
                self.endpoint == path.endpoint
                    && path.is_relayed() == (self.through != Through::Direct)
            }
        }
    }
}

pub(super) struct Path {
    pub endpoint: Place,
    pub through: Through,
    /// Index of the own socket that reaches it.
    pub socket: usize,
    pub origin: Origin,
    pub state: State,
    /// Relays passed by what comes this way.
    pub hops: u8,
    pub rtt: Option<Duration>,
    /// How large its packets may be.
    pub size: PacketSize,
    /// The peer id that was last seen on it.
    pub peer_id: PeerId,
    /// When it was last of use, for the choice of which to forget.
    pub touched: Instant,
    /// The proof was sealed, not only the draft's MAC (Q27).
    pub proven_sealed: bool,
    /// Bytes that may still go there before it is proven: three times what came from it sealed (Q25). `None`: nothing came.
    pub credit: Option<usize>,
    /// The peer says that it is there through a TURN server of its own.
    pub turned: bool,
    /// When an EPC_REQ last went there.
    pub asked: Option<Instant>,
    /// When the last HELLO went there.
    pub greeted: Option<Instant>,
}

impl Path {
    pub fn new(now: Instant, endpoint: Place, socket: usize, origin: Origin) -> Self {
        Self {
            endpoint,
            through: Through::Direct,
            socket,
            origin,
            state: State::Candidate,
            hops: 0,
            rtt: None,
            size: PacketSize::of(&endpoint),
            peer_id: PeerId::ANY,
            touched: now,
            proven_sealed: false,
            credit: None,
            turned: false,
            asked: None,
            greeted: None,
        }
    }

    /// Where it leads, for a question that is to be asked there.
    pub fn spot(&self) -> Spot {
        Spot {
            endpoint: self.endpoint,
            socket: self.socket,
            through: self.through,
        }
    }

    /// A relay is on the way.
    pub fn is_relayed(&self) -> bool {
        self.through != Through::Direct
    }

    /// A TURN server is on the way: ours, or the peer's.
    pub fn is_turned(&self) -> bool {
        self.turned || self.endpoint.transport() == Transport::Turn
    }

    /// Somebody else carries the packets: a direct path is worth looking for.
    pub fn is_indirect(&self) -> bool {
        self.is_relayed() || self.is_turned()
    }

    /// Asked only where plain datagrams have no answer: it must be dialled, or others pay for it.
    pub fn is_fallback(&self) -> bool {
        self.is_turned() || self.endpoint.transport().is_stream()
    }

    /// How far it is by what stands on the way: relays, and behind all of these a TURN server (DESIGN §7).
    pub fn distance(&self) -> u8 {
        match self.is_turned() {
            true => self.hops.saturating_add(TURN_DISTANCE),
            false => self.hops,
        }
    }

    /// The relay on the way, where it is known.
    pub fn relay(&self) -> Option<PeerRef> {
        match self.through {
            Through::Relay(relay) => relay,
            Through::Direct => None,
        }
    }

    pub fn is_proven(&self) -> bool {
        matches!(self.state, State::Proven { .. })
    }

    /// The last proof is older than this.
    pub fn proven_before(&self, now: Instant, age: Duration) -> bool {
        matches!(self.state, State::Proven { at, .. } if now.duration_since(at) > age)
    }

    /// The last proof is younger than this time.
    pub fn is_proven_since(&self, since: Instant) -> bool {
        matches!(self.state, State::Proven { at, .. } if at > since)
    }

    /// It was asked and an answer is overdue.
    pub fn is_suspect(&self) -> bool {
        matches!(self.state, State::Proven { check: Check::Asking { misses, .. }, .. } if misses > 0)
    }

    /// Since when a question is unanswered.
    pub fn asked_since(&self) -> Option<Instant> {
        match self.state {
            State::Proven {
                check: Check::Asking { since, .. },
                ..
            } => Some(since),
            _ => None,
        }
    }

    /// Starts to ask a candidate, or asks at once one that is being asked slowly.
    pub fn probe(&mut self, now: Instant) {
        match &mut self.state {
            State::Candidate => {
                self.state = State::Probing {
                    attempt: 0,
                    next: now,
                }
            }
            State::Probing { attempt, next } => {
                *attempt = (*attempt).min(1);
                *next = now;
            }
            State::Proven { .. } => self.check(now),
        }
    }

    /// Starts to ask a candidate, but not before `at`: others have the first word until then.
    pub fn probe_from(&mut self, now: Instant, at: Instant) {
        match &mut self.state {
            State::Candidate => {
                self.state = State::Probing {
                    attempt: 0,
                    next: at,
                }
            }
            State::Probing { attempt: 0, next } => *next = (*next).min(at),
            State::Probing { .. } => {}
            State::Proven { .. } => self.check(now),
        }
    }

    /// Nobody asks here any more: a better path works.
    pub fn stand_down(&mut self) {
        self.state = State::Candidate;
    }

    /// There is a reason to ask now: also where a question was asked already, if its answer could be here. False: it could not.
    pub fn question(&mut self, now: Instant) -> bool {
        let spacing = self.rtt.unwrap_or_default().max(PROMPT);
        if self.asked.is_some_and(|at| now < at + spacing) {
            return false;
        }
        match &mut self.state {
            State::Proven {
                check: Check::Asking { again, .. },
                ..
            } => *again = true,
            _ => self.probe(now),
        }
        true
    }

    /// A question under way is asked once more, now.
    pub fn ask_again(&mut self) {
        match &mut self.state {
            State::Candidate => {}
            State::Probing { next, .. } => *next = (*next).min(self.asked.unwrap_or(*next)),
            State::Proven { check, .. } => {
                if let Check::Asking { again, .. } = check {
                    *again = true;
                }
            }
        }
    }

    /// Asks a proven path whether it still is one.
    pub fn check(&mut self, now: Instant) {
        if let State::Proven { check, .. } = &mut self.state
            && *check == Check::Quiet
        {
            *check = Check::Asking {
                since: now,
                misses: 0,
                next: now,
                again: false,
            };
        }
    }

    /// An EPC has come back from it.
    pub fn prove(&mut self, now: Instant, rtt: Duration) {
        if !self.is_proven() {
            // What passed the way that was here before says nothing of this one.
            self.size = PacketSize::of(&self.endpoint);
        }
        self.rtt = Some(match self.rtt {
            Some(old) if self.is_proven() => (old * 7 + rtt) / 8,
            _ => rtt,
        });
        self.state = State::Proven {
            at: now,
            check: Check::Quiet,
        };
        self.credit = None;
        self.touched = now;
    }

    /// Something sent there was answered: the next check may wait as after a proof.
    pub fn confirm(&mut self, now: Instant, rtt: Duration) {
        if let State::Proven {
            check: Check::Quiet,
            ..
        } = self.state
        {
            self.prove(now, rtt);
        }
    }

    /// What led there is gone.
    pub fn lose(&mut self) {
        self.state = State::Candidate;
        self.credit = None;
        self.greeted = None;
    }

    /// A session begins: what only the draft's MAC has proven must prove itself again (Q27).
    pub fn demote(&mut self, now: Instant) {
        if self.is_proven() && !self.proven_sealed {
            self.state = State::Candidate;
            self.probe(now);
        }
    }

    /// Something sealed came from it, not proven as it is.
    pub fn earn(&mut self, bytes: usize) {
        let credit = self.credit.unwrap_or_default() + 3 * bytes;
        self.credit = Some(credit.min(MAX_CREDIT));
    }

    /// Whether `bytes` more may go there.
    pub fn affords(&self, bytes: usize) -> bool {
        self.is_proven() || self.credit.is_some_and(|credit| credit >= bytes)
    }

    /// `bytes` go there.
    pub fn spend(&mut self, bytes: usize) {
        self.credit = self.credit.map(|credit| credit.saturating_sub(bytes));
    }

    /// Whether the peer is being asked for there, for the first time or again.
    pub fn is_probed(&self) -> bool {
        matches!(self.state, State::Probing { .. })
    }

    /// It was asked twice and more without an answer, or once where it had always answered.
    pub fn is_unanswered(&self) -> bool {
        match self.state {
            State::Candidate => false,
            State::Probing { attempt, .. } => attempt >= 2,
            State::Proven { .. } => self.is_suspect(),
        }
    }

    /// When it wants `act`. `in_use`: the peer has traffic.
    pub fn deadline(&self, in_use: bool) -> Option<Instant> {
        match self.state {
            State::Candidate => None,
            State::Proven {
                check: Check::Asking {
                    since, again: true, ..
                },
                ..
            } => Some(since),
            State::Probing { next, .. }
            | State::Proven {
                check: Check::Asking { next, .. },
                ..
            } => Some(next),
            State::Proven {
                at,
                check: Check::Quiet,
            } => (in_use || self.is_held_open()).then_some(at + CHECK_AFTER),
        }
    }

    /// Nobody but a tracker could lead the two together again: both ends' NATs are kept open, idle or not.
    fn is_held_open(&self) -> bool {
        self.origin == Origin::Tracker
    }

    /// Its deadline has passed.
    pub fn act(&mut self, now: Instant, in_use: bool) -> Option<Action> {
        if self.deadline(in_use).is_none_or(|at| at > now) {
            return None;
        }
        let (patience, promptly) = (self.patience(), self.promptly());
        match &mut self.state {
            State::Candidate => None,
            State::Probing { attempt, next } => match PROBE_GAPS_MS.get(usize::from(*attempt)) {
                Some(gap) => {
                    *attempt += 1;
                    *next = now + Duration::from_millis(*gap);
                    Some(Action::Ask)
                }
                None => {
                    self.state = State::Candidate;
                    Some(Action::Failed)
                }
            },
            State::Proven {
                check: check @ Check::Quiet,
                ..
            } => {
                *check = Check::Asking {
                    since: now,
                    misses: 0,
                    next: now + patience,
                    again: false,
                };
                Some(Action::Ask)
            }
            State::Proven {
                check:
                    Check::Asking {
                        since,
                        misses,
                        next,
                        again,
                    },
                ..
            } => {
                if std::mem::take(again) && *next > now {
                    return Some(Action::Ask);
                }
                // The first question goes out when `next` is still the time of its beginning.
                if *next == *since {
                    *next = now + promptly;
                    return Some(Action::Ask);
                }
                *misses += 1;
                if *misses >= MAX_MISSES {
                    self.state = State::Candidate;
                    return Some(Action::Lost);
                }
                *next = now + patience;
                Some(Action::Ask)
            }
        }
    }

    /// How long the first answer may take on a path that was good until now, and is doubted: others are asked at the same
    /// time, over the same lines as far as they are ours, and have answered by then.
    pub fn promptly(&self) -> Duration {
        let rtt = self.rtt.unwrap_or(Duration::from_millis(333));
        (rtt * 3 / 2 + PROMPT / 2).clamp(PROMPT, Duration::from_millis(500))
    }

    /// How long an answer may take before it counts as missed.
    pub fn patience(&self) -> Duration {
        let rtt = self.rtt.unwrap_or(Duration::from_millis(333));
        (rtt * 3).clamp(Duration::from_millis(250), Duration::from_secs(1))
    }
}

/// Whether an endpoint that somebody else names may be dialled (S16). `own_source`: it is where a packet really came from,
/// so loopback is this machine itself (the kernel drops such packets from outside).
pub(super) fn is_dialable(place: &Place, own_source: bool) -> bool {
    let endpoint = match place {
        // One machine of that link, not a group of them.
        Place::Ethernet { mac, .. } => return mac[0] & 1 == 0 && *mac != [0; 6],
        Place::Udp(at)
        | Place::Tcp(at)
        | Place::Tls(at)
        | Place::Http(at)
        | Place::Https(at)
        | Place::Turn(at) => at,
    };
    if endpoint.port() == 0 {
        return false;
    }
    match endpoint.ip() {
        IpAddr::V4(ip) => {
            let reserved = ip.is_unspecified()
                || ip.is_multicast()
                || ip.is_broadcast()
                || ip.octets()[0] == 0
                || ip.octets()[0] >= 240;
            !reserved && (own_source || !ip.is_loopback())
        }
        IpAddr::V6(ip) => {
            let overlay = matches!(ip.segments()[0], 0xfda0 | 0xfda1);
            let reserved = ip.is_unspecified()
                || ip.is_multicast()
                || ip.to_ipv4_mapped().is_some()
                || overlay;
            !reserved && (own_source || !ip.is_loopback())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    fn udp(text: &str) -> Place {
        Place::Udp(text.parse::<SocketAddr>().unwrap())
    }

    fn path(now: Instant) -> Path {
        Path::new(now, udp("192.0.2.1:8737"), 0, Origin::Configured)
    }

    #[test]
    fn a_silent_candidate_is_asked_for_five_seconds_and_then_left() {
        // D24
        let start = Instant::now();
        let mut path = path(start);
        assert_eq!(
            path.deadline(true),
            None,
            "nobody asks a candidate unless traffic wants it"
        );
        path.probe(start);
        let (mut now, mut asked) = (start, Vec::new());
        loop {
            match path.act(now, true) {
                Some(Action::Ask) => asked.push(now.duration_since(start).as_millis()),
                other => {
                    assert_eq!(other, Some(Action::Failed));
                    break;
                }
            }
            now = path.deadline(true).unwrap();
        }
        assert_eq!(asked, [0, 250, 500, 1000, 2000, 3000]);
        assert_eq!(now.duration_since(start), Duration::from_secs(5));
    }

    #[test]
    fn a_proven_path_is_checked_only_in_use_and_lost_after_three_misses() {
        // D24
        let start = Instant::now();
        let mut path = path(start);
        path.prove(start, Duration::from_millis(20));
        assert_eq!(path.deadline(false), None, "idle: no timer at all");
        let due = path.deadline(true).unwrap();
        assert_eq!(due.duration_since(start), Duration::from_secs(25));
        let mut now = due;
        for _ in 0..3 {
            assert_eq!(path.act(now, true), Some(Action::Ask));
            now = path.deadline(true).unwrap();
        }
        assert_eq!(path.act(now, true), Some(Action::Lost));
        assert_eq!(now.duration_since(due), Duration::from_millis(750));
    }

    #[test]
    fn what_must_not_be_dialled_is_refused() {
        // S16
        let refused = [
            "0.0.0.0:1",
            "255.255.255.255:8737",
            "224.0.0.1:1",
            "240.0.0.1:1",
            "127.0.0.1:8737",
            "192.0.2.1:0",
            "[::]:1",
            "[::1]:1",
            "[ff02::1]:8737",
            "[fda0::1]:8737",
            "[fda1:2::1]:8737",
            "[::ffff:192.0.2.1]:1",
        ];
        for text in refused {
            assert!(!is_dialable(&udp(text), false), "{text}");
        }
        for text in [
            "192.0.2.1:8737",
            "10.0.0.1:1",
            "[2001:db8::1]:8737",
            "[fe80::1]:8737",
            "[fd00::1]:8737",
        ] {
            assert!(is_dialable(&udp(text), false), "{text}");
        }
        assert!(
            is_dialable(&udp("127.0.0.1:1"), true),
            "a packet from this machine itself"
        );
    }
}
