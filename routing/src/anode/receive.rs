//! The way of a datagram in: cheap checks first, then whose it is, then what it says.
use super::guard::{self, Recipient, Refusal};
use super::limits::Rate;
use super::peer::Standing;
use super::peers::PeerRef;
use super::{Node, Place, Plain, Received, Way};
use crate::overlay::OverlaySink;
use anode_wire::message::{error_code, kind};
use anode_wire::sealed::{self, PeerKey};
use anode_wire::{Address, Message, Packet, Party, PeerId};
use std::net::Ipv6Addr;
use std::time::Instant;

/// ERRORs of ours, all together (A50: sending is optional and throttled).
const ERROR_RATE: Rate = Rate::per_second(1, 1);

impl Node {
    /// Datagrams have come from the underlay, all from one place. They are decrypted where they stand; those for others wait
    /// for `poll_transmit` if we relay ([`Node::receive`] has them sent from where they stand).
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        received: Received<'_>,
        sink: &mut dyn OverlaySink,
    ) {
        self.receive(now, received, sink, &mut |_| false);
    }

    /// Datagrams of which none is for others.
    pub(super) fn handle_own(
        &mut self,
        now: Instant,
        received: Received<'_>,
        sink: &mut dyn OverlaySink,
    ) {
        let Received {
            from,
            socket,
            local_ip,
            ecn,
            bytes,
            segment_size,
        } = received;
        let way = |bytes: &[u8]| Way {
            from,
            socket,
            local_ip,
            ecn,
            len: bytes.len(),
            hops: bytes.first().copied().unwrap_or_default(),
        };
        if bytes.is_empty() {
            self.counters.rx_packets += 1;
            self.counters.dropped_malformed += 1;
            return;
        }
        let vouched = self.verify_group(&from, bytes, segment_size);
        for (place, bytes) in bytes.chunks_mut(segment_size.max(1)).enumerate() {
            self.counters.rx_packets += 1;
            self.counters.rx_bytes += bytes.len() as u64;
            let way = way(bytes);
            if !self.is_admitted(&way, bytes) {
                self.counters.dropped_policy += 1;
                continue;
            }
            if self.config.security.plain != Plain::Only
                && self.handle_session_packet(now, &way, bytes, sink)
            {
                continue;
            }
            let vouched = vouched
                .as_ref()
                .filter(|group| group.verdicts.get(place) == Some(&true));
            self.handle_plain(now, &way, bytes, vouched.map(|group| group.sender), sink);
        }
    }

    /// Whether a packet may come through its socket at all: some are there for one purpose.
    fn is_admitted(&self, way: &Way, bytes: &[u8]) -> bool {
        match self.role(way.socket) {
            Some(role) if role.leads_to_peers() => true,
            Some(role) => Packet::new_checked(bytes).is_ok_and(|packet| role.admits(packet.kind())),
            None => false,
        }
    }

    /// Datagrams that came together from a proven path of a known peer are checked side by side: one after the other they
    /// wait for the cipher's latency at every block. `None`, and false verdicts: to be judged one by one.
    fn verify_group(&self, from: &Place, bytes: &[u8], size: usize) -> Option<Vouched> {
        if bytes.len() <= size || self.config.security.plain == Plain::Deny {
            return None;
        }
        let first = Packet::new_checked(&bytes[..size]).ok()?;
        if first.kind() == sealed::kind::SEALED
            || guard::screen(&self.own, &first) != Ok(Recipient::Us)
        {
            return None;
        }
        let sender = match first.sender() {
            Party::Full(bytes) => self.peers.find(bytes),
            Party::Id(id) => self.peers.with_id(&id)[0],
        }?;
        let peer = self.peers.get(sender)?;
        let key = peer.key().filter(|_| peer.is_proven_at(from))?;
        let mut verdicts = [false; MAX_GROUP];
        let mut place = verdicts.iter_mut();
        key.verify_each(bytes, size, |verdict| {
            if let Some(place) = place.next() {
                *place = verdict;
            }
        });
        Some(Vouched { sender, verdicts })
    }

    /// A packet that is not of the sessions. `vouched`: its MAC was found to be this peer's.
    fn handle_plain(
        &mut self,
        now: Instant,
        way: &Way,
        bytes: &[u8],
        vouched: Option<PeerRef>,
        sink: &mut dyn OverlaySink,
    ) {
        let Ok(packet) = Packet::new_checked(bytes) else {
            self.counters.dropped_malformed += 1;
            return;
        };
        match guard::screen(&self.own, &packet) {
            Ok(Recipient::Us) => {}
            Ok(Recipient::Nobody) => return self.handle_beacon(now, way, &packet),
            Err(refusal) => return self.count_refusal(refusal),
        }
        if self.config.security.plain == Plain::Deny && carries_traffic(packet.kind()) {
            // Not worth a key agreement.
            self.counters.dropped_policy += 1;
            self.refuse_plain(now, way, &packet);
            return;
        }
        let vouched = vouched.filter(|vouched| {
            self.peers
                .get(*vouched)
                .is_some_and(|peer| match packet.sender() {
                    Party::Full(bytes) => bytes == peer.address.as_bytes(),
                    Party::Id(id) => id == peer.id,
                })
        });
        let Some(sender) = vouched.or_else(|| self.identify(now, way, &packet)) else {
            return;
        };
        if !self.is_heard_in_plain(sender, packet.kind()) {
            self.counters.dropped_policy += 1;
            return;
        }
        let repeated = self.note_authentic(now, sender, way, &packet);
        let proven = self
            .peers
            .get(sender)
            .is_some_and(|peer| peer.is_proven_way(way));
        let arrival = Arrival {
            proven,
            repeated,
            ..Arrival::plain(way, &packet)
        };
        // Not on the word of a recorded packet: it must come from where the peer has just answered.
        if carries_traffic(packet.kind()) && proven && !repeated {
            self.speak_draft(now, sender);
        }
        self.handle_message(now, sender, arrival, packet.kind(), packet.body(), sink);
    }

    /// Whether this message may come without a session (Q23, Q26).
    fn is_heard_in_plain(&self, sender: PeerRef, kind: u8) -> bool {
        if self.config.security.plain == Plain::Only {
            return true;
        }
        self.peers
            .get(sender)
            .is_some_and(|peer| self.sessions.plain_permitted(&peer.address, kind, false))
    }

    /// An authentic message, sealed or plain.
    pub(super) fn handle_message(
        &mut self,
        now: Instant,
        sender: PeerRef,
        arrival: Arrival,
        kind: u8,
        body: &[u8],
        sink: &mut dyn OverlaySink,
    ) {
        self.note_socket(now, arrival.way.socket);
        if !self
            .role(arrival.way.socket)
            .is_some_and(|role| role.hears(kind))
        {
            self.counters.ignored_messages += 1;
            return;
        }
        let Ok(message) = Message::parse(kind, body) else {
            self.counters.dropped_bad_message += 1;
            self.send_error(now, sender, &arrival, kind);
            return;
        };
        if arrival.repeated && !arrival.proven {
            self.counters.dropped_replay += 1;
            return;
        }
        self.dispatch(now, sender, arrival, message, sink);
    }

    fn count_refusal(&mut self, refusal: Refusal) {
        let counter = match refusal {
            Refusal::HopLimit => &mut self.counters.dropped_hop_limit,
            Refusal::AuthError => &mut self.counters.dropped_auth_error,
            Refusal::OwnSender => &mut self.counters.dropped_own_sender,
            Refusal::NotForUs => &mut self.counters.dropped_not_for_us,
        };
        *counter += 1;
    }

    /// Whose packet it is. Known senders are found by their bytes before any point is checked or key agreed.
    fn identify(&mut self, now: Instant, way: &Way, packet: &Packet<&[u8]>) -> Option<PeerRef> {
        match packet.sender() {
            Party::Full(bytes) => match self.peers.find(bytes) {
                Some(known) => match self.verify(now, known, way, packet) {
                    Verdict::Authentic => Some(known),
                    Verdict::Forged => self.note_forged(now, way, Some(known)),
                    Verdict::Unread => None,
                },
                None => self.verify_stranger(now, bytes, way, packet),
            },
            Party::Id(id) => {
                let (mut forged, mut known) = (None, false);
                for candidate in self.peers.with_id(&id).into_iter().flatten() {
                    known = true;
                    match self.verify(now, candidate, way, packet) {
                        Verdict::Authentic => return Some(candidate),
                        Verdict::Forged => forged = Some(candidate),
                        Verdict::Unread => {}
                    }
                }
                if forged.is_some() {
                    return self.note_forged(now, way, forged);
                }
                if !known {
                    self.counters.dropped_unknown_sender += 1;
                }
                None
            }
        }
    }

    /// Checks the MAC with the key of a known peer.
    fn verify(
        &mut self,
        now: Instant,
        candidate: PeerRef,
        way: &Way,
        packet: &Packet<&[u8]>,
    ) -> Verdict {
        let source = way.from.ip();
        let limits = &self.config.limits;
        let Some(peer) = self.peers.get_mut(candidate) else {
            return Verdict::Unread;
        };
        let suspicious = self.budgets.mac_failure_sources.is_empty(now, source)
            || peer
                .mac_failures
                .is_empty(now, limits.mac_failures_per_peer);
        // Whoever forges the source of a proven path costs us MACs, but cannot silence the peer.
        if suspicious && !peer.is_proven_at(&way.from) {
            self.counters.dropped_blocked_source += 1;
            return Verdict::Unread;
        }
        if peer.key().is_none() {
            let expected = peer.standing == Standing::Kept || peer.is_in_use(now);
            let affordable = expected
                || self.budgets.first_contact_sources.take(now, source)
                    && self.budgets.first_contacts.take(now, limits.first_contacts);
            if !affordable {
                self.counters.dropped_first_contact += 1;
                return Verdict::Unread;
            }
        }
        self.counters.key_agreements += u64::from(peer.key().is_none());
        if guard::is_authentic(peer.agree(&self.own.identity), packet) {
            Verdict::Authentic
        } else {
            Verdict::Forged
        }
    }

    /// A sender nobody has heard of: one key agreement within the budget, and a place in the table only if its MAC is right.
    fn verify_stranger(
        &mut self,
        now: Instant,
        bytes: &[u8; Address::LEN],
        way: &Way,
        packet: &Packet<&[u8]>,
    ) -> Option<PeerRef> {
        let source = way.from.ip();
        if self.budgets.mac_failure_sources.is_empty(now, source) {
            self.counters.dropped_blocked_source += 1;
            return None;
        }
        let affordable = self.budgets.first_contact_sources.take(now, source)
            && self
                .budgets
                .first_contacts
                .take(now, self.config.limits.first_contacts);
        if !affordable {
            self.counters.dropped_first_contact += 1;
            return None;
        }
        let Ok(address) = Address::from_bytes(bytes) else {
            self.counters.dropped_bad_address += 1;
            return None;
        };
        self.counters.key_agreements += 1;
        let key = self.own.identity.agree(&address);
        if !guard::is_authentic(&key, packet) {
            return self.note_forged(now, way, None);
        }
        let found = self.learn_peer(now, address, Standing::Met)?;
        let peer = self.peers.get_mut(found)?;
        peer.set_key(key);
        peer.sources.peer = true;
        Some(found)
    }

    fn note_forged(
        &mut self,
        now: Instant,
        way: &Way,
        claimed: Option<PeerRef>,
    ) -> Option<PeerRef> {
        self.counters.dropped_bad_mac += 1;
        self.budgets.mac_failure_sources.take(now, way.from.ip());
        if let Some(peer) = claimed.and_then(|claimed| self.peers.get_mut(claimed)) {
            peer.mac_failures
                .take(now, self.config.limits.mac_failures_per_peer);
        }
        None
    }

    /// What every authentic packet does, whatever it says. True: these very bytes have come before.
    pub(super) fn note_authentic(
        &mut self,
        now: Instant,
        sender: PeerRef,
        way: &Way,
        packet: &Packet<&[u8]>,
    ) -> bool {
        let limit = self.config.limits.strangers;
        self.peers.promote(now, sender, Standing::Met, limit);
        let Some(peer) = self.peers.get_mut(sender) else {
            return false;
        };
        // Streams guard themselves by their sequence numbers, and EPC by its ids: only the rest needs the memory (D38).
        let guarded = matches!(
            packet.kind(),
            kind::S_DATA | kind::S_ACK | kind::S_DACK | kind::S_CLOSE | kind::EPC | kind::PONG
        );
        let repeated = !guarded && !peer.is_fresh(packet.mac());
        if repeated && !peer.is_proven_at(&way.from) {
            return true;
        }
        let ipv6 = peer.ipv6;
        peer.note_heard(now, way.len);
        let on_used_path = peer.is_used_way(way, packet.sender_peer());
        // A new place is of use where the draft is spoken, or for a HELLO that somebody waits for (Q27). An EPC from a place
        // that was asked needs no other question.
        let of_use = self.config.security.plain != Plain::Deny || self.contacts.is_open(&ipv6);
        let answers = packet.kind() == kind::EPC
            && self
                .peers
                .get_mut(sender)
                .is_some_and(|peer| peer.path_mut(&way.from).is_some() || way.hops > 0);
        if !on_used_path && of_use && !answers {
            self.nominate(now, sender, way, packet.sender_peer(), 0);
        }
        if !on_used_path {
            self.contact_known(now, sender, ipv6);
        }
        repeated
    }

    fn dispatch(
        &mut self,
        now: Instant,
        sender: PeerRef,
        arrival: Arrival,
        message: Message<'_>,
        sink: &mut dyn OverlaySink,
    ) {
        match message {
            Message::Error { code, .. } => {
                self.counters.rx_errors += 1;
                if code == error_code::SEALED_ONLY {
                    self.handle_sealed_only(now, sender, &arrival);
                }
            }
            Message::Ping(payload) => self.handle_ping(now, sender, arrival, payload),
            Message::Pong(payload) => self.handle_pong(now, sender, arrival, payload),
            Message::EpcReq { id } => self.handle_epc_req(now, sender, arrival, id),
            Message::Epc { id } => self.handle_epc(now, sender, arrival, id),
            Message::Epi {
                endpoint, nat_mode, ..
            } => self.handle_epi(now, sender, arrival, endpoint, nat_mode),
            Message::NetidReq { id, endpoint } => {
                self.handle_netid_req(now, sender, arrival, id, endpoint)
            }
            Message::Netid { id, endpoint } => {
                self.handle_netid(now, sender, &arrival, id, endpoint)
            }
            Message::NatT { mode, options } => {
                self.handle_nat_t(now, sender, &arrival, mode, options)
            }
            Message::Dgram {
                source,
                destination,
                payload,
            } => {
                if let Some((from, to)) = self.program_ends(now, sender, &arrival) {
                    sink.datagram(from, source, to, destination, payload);
                }
            }
            Message::IpPacket {
                next_header,
                payload,
            } => {
                if let Some((from, to)) = self.program_ends(now, sender, &arrival) {
                    sink.other(from, to, next_header, payload);
                }
            }
            Message::Stream(message) => self.handle_stream(now, sender, arrival, &message),
            Message::Whois { prefixes } => self.handle_whois(now, sender, arrival, &prefixes),
            Message::Iam { addresses } => self.handle_iam(now, sender, &addresses),
            _ => self.counters.ignored_messages += 1,
        }
    }

    /// Between whom a packet for a program passes: its source and its destination. The peer is in use.
    fn program_ends(
        &mut self,
        now: Instant,
        sender: PeerRef,
        arrival: &Arrival,
    ) -> Option<(Ipv6Addr, Ipv6Addr)> {
        let from = self.program_source(sender, arrival.sender_peer)?;
        self.note_use(now, sender, false);
        Some((from, self.own.ipv6_for(arrival.recipient_peer)))
    }

    /// The address that a program sees as source: always that of the key which authenticated the packet (S14).
    pub(super) fn program_source(&self, sender: PeerRef, peer_id: PeerId) -> Option<Ipv6Addr> {
        let peer = self.peers.get(sender)?;
        Some(if peer_id == PeerId::ANY {
            peer.ipv6
        } else {
            peer.address.ipv6(peer_id)
        })
    }

    /// Whether a reply may go to where this packet came from: a proven path, or within the rate for others (S20).
    pub(super) fn may_reply(
        &mut self,
        now: Instant,
        arrival: &Arrival,
        reply: &Message<'_>,
    ) -> bool {
        if arrival.proven {
            return true;
        }
        let overhead = match arrival.session {
            Some(_) => sealed::SEALED_BODY + sealed::SEALED_TAIL,
            None => anode_wire::packet::SHORT_HEADER,
        };
        let no_larger = reply.body_len() + overhead <= arrival.way.len;
        let allowed = no_larger && self.budgets.reply_sources.take(now, arrival.way.from.ip());
        if !allowed {
            self.counters.dropped_reply_limit += 1;
        }
        allowed
    }

    fn send_error(&mut self, now: Instant, sender: PeerRef, arrival: &Arrival, kind: u8) {
        // Never an ERROR for an ERROR, and only to who has authenticated itself (S1).
        if kind != kind::ERROR && self.budgets.errors.take(now, ERROR_RATE) {
            self.counters.tx_errors += 1;
            let error = Message::Error {
                code: error_code::INVALID_MESSAGE,
                arguments: &[],
            };
            self.reply(now, sender, arrival, &error);
        }
    }
}

/// What programs have written, in the messages of the draft and ours.
pub(super) fn carries_traffic(kind: u8) -> bool {
    matches!(
        kind,
        kind::DGRAM
            | kind::IPPKT
            | kind::S_OPEN
            | kind::S_CLOSE
            | kind::S_DATA
            | kind::S_ACK
            | kind::S_DACK
    )
}

/// Datagrams of one group whose MACs are checked together.
const MAX_GROUP: usize = 64;

/// What checking a group together has shown.
struct Vouched {
    sender: PeerRef,
    /// This peer's MAC, each in its place.
    verdicts: [bool; MAX_GROUP],
}

/// An authentic packet and how it came.
#[derive(Clone, Copy)]
pub(super) struct Arrival {
    pub way: Way,
    /// Relays passed.
    pub hop_count: u8,
    pub sender_peer: PeerId,
    pub recipient_peer: PeerId,
    /// Bytes of the message's body.
    pub body_len: usize,
    /// The session it came in; `None`: in plain.
    pub session: Option<PeerKey>,
    /// It names its sender in full.
    pub full_sender: bool,
    /// It came over a path that an EPC has proven.
    pub proven: bool,
    /// The same bytes have come before.
    pub repeated: bool,
}

impl Arrival {
    /// Of a packet in plain, over a path that nothing has proven.
    pub fn plain(way: &Way, packet: &Packet<&[u8]>) -> Self {
        Self {
            way: *way,
            hop_count: packet.hop_count(),
            sender_peer: packet.sender_peer(),
            recipient_peer: packet.recipient_peer(),
            body_len: packet.body().len(),
            session: None,
            full_sender: matches!(packet.sender(), Party::Full(_)),
            proven: false,
            repeated: false,
        }
    }
}

enum Verdict {
    Authentic,
    Forged,
    /// Dropped before its MAC was looked at.
    Unread,
}
