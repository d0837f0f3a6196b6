//! Beacons: EPI without recipient and MAC, by broadcast and multicast, so that machines on one LAN need no configuration (D23, A55).
//!
//! A beacon proves nothing. It makes an address known and names a candidate endpoint; no key is agreed and nothing is
//! asked there before traffic wants that peer (S32).
use super::limits::{Bucket, SourceBuckets};
use super::path::{Origin, is_dialable};
use super::peer::Standing;
use super::{Destination, Interface, Limits, Node, Place, Timer, Way};
use anode_wire::message::kind;
use anode_wire::{Address, AddressId, Endpoint, Header, Message, Packet, Party, PeerId};
use rand_core::Rng as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::{Duration, Instant};

/// The UDP port of beacons (A55).
pub const PORT: u16 = 8737;
/// Beacons that follow each other quickly after the start or a change.
const QUICK_ROUNDS: u8 = 3;
const QUICK_EVERY: Duration = Duration::from_secs(1);
/// The second one comes sooner: who has heard of us before, and takes the first for one of the slow rhythm, answers this one.
const QUICK_FIRST: Duration = Duration::from_millis(200);
/// Mean time between beacons after that; each is drawn from ±10 %.
const SLOW_EVERY_MS: u64 = 30_000;
/// A new neighbour gets its answer within this time, at random, so that a LAN that boots does not answer all at once.
const REPLY_WITHIN_MS: u64 = 50;
/// A beacon that follows its predecessor so soon is a copy (another interface), or part of the same round.
const SAME_ROUND: Duration = Duration::from_millis(150);
/// One that comes sooner than the slow rhythm allows tells of a start or a change: its sender may have forgotten us.
const OUT_OF_RHYTHM: Duration = Duration::from_secs(25);
/// What comes so soon after a round of ours may be the answer to it, and says nothing of its sender's rhythm.
const ANSWERS_WITHIN: Duration = Duration::from_millis(150);
/// One neighbour is answered no more often than this.
const ANSWER_EVERY: Duration = Duration::from_secs(5);
/// Answers that wait for their time.
const MAX_REPLIES: usize = 32;

pub(super) struct Lan {
    /// Quick beacons still to come.
    quick: u8,
    next: Option<Instant>,
    /// When our latest round went out.
    sent: Option<Instant>,
    replies: Vec<(Instant, Destination)>,
    new_nodes: Bucket,
    new_node_sources: SourceBuckets,
    replies_in_all: Bucket,
    reply_sources: SourceBuckets,
}

impl Lan {
    pub fn new(limits: &Limits, key: (u64, u64)) -> Self {
        Self {
            quick: 0,
            next: None,
            sent: None,
            replies: Vec::new(),
            new_nodes: Bucket::default(),
            new_node_sources: SourceBuckets::new(limits.new_beacons_per_source, key),
            replies_in_all: Bucket::default(),
            reply_sources: SourceBuckets::new(limits.beacon_replies_per_source, key),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.replies
            .iter()
            .map(|(at, _)| *at)
            .chain(self.next)
            .min()
    }
}

/// What was heard of one neighbour's beacons.
#[derive(Default)]
pub(super) struct Heard {
    /// The latest over IPv6 and over IPv4.
    latest: [Option<Instant>; 2],
    answered: Option<Instant>,
}

impl Heard {
    /// A beacon has come. True: its sender does not know us, or may have forgotten us, and is told at once (D23).
    fn wants_answer(&mut self, now: Instant, ipv4: bool, may_be_answer: bool) -> bool {
        let is_new = self.latest == [None; 2];
        let latest = &mut self.latest[usize::from(ipv4)];
        let gap = latest.map(|at| now.duration_since(at));
        if is_new || !may_be_answer && gap.is_none_or(|gap| gap >= SAME_ROUND) {
            *latest = Some(now);
        }
        let out_of_rhythm = gap.is_some_and(|gap| gap >= SAME_ROUND && gap < OUT_OF_RHYTHM);
        let lately = self
            .answered
            .is_some_and(|at| now.duration_since(at) < ANSWER_EVERY);
        let wanted = is_new || out_of_rhythm && !may_be_answer && !lately;
        if wanted {
            self.answered = Some(now);
        }
        wanted
    }
}

impl Node {
    /// Starts a round of beacons: at the start, and when addresses have changed.
    pub(super) fn announce(&mut self, now: Instant) {
        if self.config.lan && self.links.now.iter().any(|interface| interface.broadcast) {
            self.lan.quick = QUICK_ROUNDS;
            self.lan.next = Some(now);
            self.timers.set(Timer::Lan, now, "beacon");
        } else {
            self.lan.next = None;
        }
    }

    pub(super) fn handle_lan_timer(&mut self, now: Instant) {
        let due: Vec<Destination> = self
            .lan
            .replies
            .iter()
            .filter(|(at, _)| *at <= now)
            .map(|(_, to)| *to)
            .collect();
        self.lan.replies.retain(|(at, _)| *at > now);
        for to in due {
            self.send_beacon(to);
        }
        if self.lan.next.is_some_and(|at| at <= now) {
            self.send_beacons();
            self.lan.sent = Some(now);
            self.lan.quick = self.lan.quick.saturating_sub(1);
            let pause = match self.lan.quick {
                0 => Duration::from_millis(
                    SLOW_EVERY_MS * 9 / 10 + self.rng.next_u64() % (SLOW_EVERY_MS / 5),
                ),
                left if left + 1 == QUICK_ROUNDS => QUICK_FIRST,
                _ => QUICK_EVERY,
            };
            self.lan.next = Some(now + pause);
        }
        if let Some(at) = self.lan.deadline() {
            self.timers.set(Timer::Lan, at, "beacon");
        }
    }

    /// One beacon out of every interface. The source address chooses the interface for IPv4, the scope for IPv6.
    fn send_beacons(&mut self) {
        let mut targets = Vec::new();
        for interface in self
            .links
            .now
            .iter()
            .filter(|interface| interface.broadcast)
        {
            for (address, _) in &interface.addresses {
                if address.is_ipv4() {
                    targets.push((
                        Place::Udp(SocketAddr::from((Ipv4Addr::BROADCAST, PORT))),
                        Some(*address),
                    ));
                }
            }
            if interface
                .addresses
                .iter()
                .any(|(address, _)| matches!(address, IpAddr::V6(ip) if ip.is_unicast_link_local()))
            {
                let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
                targets.push((
                    Place::Udp(SocketAddrV6::new(all_nodes, PORT, 0, interface.index).into()),
                    None,
                ));
            }
        }
        for (to, source) in targets {
            let usable = self
                .sockets
                .iter()
                .position(|own| own.is_ipv4() == to.ip().is_ipv4() && !own.ip().is_loopback());
            if let Some(socket) = usable {
                self.send_beacon(Destination { to, socket, source });
            }
        }
    }

    pub(super) fn send_beacon(&mut self, destination: Destination) {
        self.counters.tx_beacons += u64::from(self.push_beacon(destination));
    }

    /// False: there was no room for it.
    pub(super) fn push_beacon(&mut self, destination: Destination) -> bool {
        let header = Header {
            hop_count: 0,
            flags: 0,
            sender: Party::Full(self.own.address.as_bytes()),
            recipient: Party::Id(AddressId::EVERYBODY),
            sender_peer: self.own.peer_id,
            recipient_peer: PeerId::ANY,
            kind: kind::EPI,
        };
        let beacon = Message::Epi {
            endpoint: Endpoint::Unspecified,
            nat_mode: 0,
            options: &[],
        };
        let pushed = self
            .control
            .push(destination, |out| beacon.emit_packet(&header, None, out));
        self.counters.dropped_output += u64::from(!pushed);
        pushed
    }

    /// A packet to nobody in particular has come. Only a beacon may be one, and only from a neighbour.
    pub(super) fn handle_beacon(&mut self, now: Instant, way: &Way, packet: &Packet<&[u8]>) {
        let Party::Full(sender) = packet.sender() else {
            self.counters.dropped_beacons += 1;
            return;
        };
        if sender == self.own.address.as_bytes() {
            self.counters.rx_own_beacons += 1;
            self.note_turned(way);
            return;
        }
        let is_beacon = packet.kind() == kind::EPI
            && packet.hop_count() == 0
            && packet.mac() == [0; 8]
            && matches!(
                Message::parse(kind::EPI, packet.body()),
                Ok(Message::Epi {
                    endpoint: Endpoint::Unspecified,
                    ..
                })
            );
        if is_beacon && self.is_presence(&way.from) {
            return self.handle_presence(now, way, sender);
        }
        if !self.config.lan
            || !is_beacon
            || !self.is_neighbour(&way.from)
            || !is_dialable(&way.from, false)
        {
            self.counters.dropped_beacons += 1;
            return;
        }
        self.counters.rx_beacons += 1;
        let found = match self.peers.find(sender) {
            Some(known) => Some(known),
            None => self.learn_neighbour(now, sender, way),
        };
        let Some(found) = found else {
            self.counters.dropped_beacons += 1;
            return;
        };
        let Some(peer) = self.peers.get_mut(found) else {
            return;
        };
        peer.sources.lan = true;
        if peer.standing == Standing::Heard {
            peer.touched = now;
        }
        if let Some(path) = peer.add_path(now, way.from, way.socket, Origin::Lan) {
            path.touched = now;
        }
        let sent = self.lan.sent;
        let may_be_answer = sent.is_some_and(|at| now.duration_since(at) < ANSWERS_WITHIN);
        if peer
            .beacons
            .wants_answer(now, way.from.ip().is_ipv4(), may_be_answer)
        {
            self.answer_beacon(now, way);
        }
        self.probe_if_wanted(now, found);
    }

    /// A neighbour nobody has heard of: one point check within the budget, and not too many from one machine.
    fn learn_neighbour(
        &mut self,
        now: Instant,
        sender: &[u8; Address::LEN],
        way: &Way,
    ) -> Option<super::PeerRef> {
        let source = way.from.ip();
        let limits = &self.config.limits;
        let affordable = self.lan.new_node_sources.take(now, source)
            && self.lan.new_nodes.take(now, limits.new_beacons);
        if !affordable {
            return None;
        }
        let heard = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.standing == Standing::Heard);
        let from_source = heard
            .filter(|(_, peer)| peer.heard_at == Some(source))
            .count();
        if from_source >= limits.heard_per_source {
            return None;
        }
        let address = Address::from_bytes(sender).ok()?;
        let found = self.learn_peer(now, address, Standing::Heard)?;
        if let Some(peer) = self.peers.get_mut(found) {
            peer.heard_at = Some(source);
        }
        Some(found)
    }

    /// A late comer must not wait for our next round (DESIGN §5).
    fn answer_beacon(&mut self, now: Instant, way: &Way) {
        let limits = &self.config.limits;
        if self.lan.replies.len() >= MAX_REPLIES
            || !self.lan.reply_sources.take(now, way.from.ip())
            || !self.lan.replies_in_all.take(now, limits.beacon_replies)
        {
            return;
        }
        let at = now + Duration::from_millis(self.rng.next_u64() % (REPLY_WITHIN_MS + 1));
        let to = Destination {
            to: way.from,
            socket: way.socket,
            source: None,
        };
        self.lan.replies.push((at, to));
        self.timers.set(Timer::Lan, at, "beacon");
    }

    /// Not of a neighbour: then it may be of somebody who has found us at a tracker.
    fn is_presence(&self, from: &Place) -> bool {
        self.meets() && !(self.config.lan && self.is_neighbour(from))
    }

    fn is_neighbour(&self, from: &Place) -> bool {
        let scope = match from {
            Place::Udp(SocketAddr::V6(v6)) => v6.scope_id(),
            Place::Udp(SocketAddr::V4(_)) => 0,
            // Beacons are datagrams.
            _ => return false,
        };
        self.links
            .now
            .iter()
            .any(|interface: &Interface| interface.is_on_link(from.ip(), scope))
    }
}
