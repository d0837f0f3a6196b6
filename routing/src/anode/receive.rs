//! The way of a datagram in: cheap checks first, then whose it is, then what it says.
use super::guard::{self, Recipient, Refusal};
use super::limits::Rate;
use super::peer::Standing;
use super::peers::PeerRef;
use super::{Destination, Node, PlainPolicy, Received, Sender};
use crate::overlay::OverlaySink;
use anode_wire::message::{error_code, kind};
use anode_wire::{Address, Message, Packet, Party};
use std::time::Instant;

/// ERRORs of ours, all together (A50: sending is optional and throttled).
const ERROR_RATE: Rate = Rate::per_second(1, 1);

impl Node {
    /// A datagram has come from the underlay.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        received: Received<'_>,
        sink: &mut dyn OverlaySink,
    ) {
        self.counters.rx_packets += 1;
        self.counters.rx_bytes += received.bytes.len() as u64;
        let Ok(packet) = Packet::new_checked(received.bytes) else {
            self.counters.dropped_malformed += 1;
            return;
        };
        match guard::screen(&self.own, &packet) {
            Ok(Recipient::Us) => {}
            Ok(Recipient::Nobody) => return self.handle_beacon(now, &received, &packet),
            Err(refusal) => return self.count_refusal(refusal),
        }
        let Some(sender) = self.identify(now, &received, &packet) else {
            return;
        };
        let repeated = self.note_authentic(now, sender, &received, &packet);
        let Ok(message) = Message::parse(packet.kind(), packet.body()) else {
            self.counters.dropped_bad_message += 1;
            self.send_error(now, sender, received.reply_to(), packet.kind());
            return;
        };
        let proven = self
            .peers
            .get(sender)
            .is_some_and(|peer| peer.is_proven_at(&received.from));
        if repeated && !proven {
            self.counters.dropped_replay += 1;
            return;
        }
        self.dispatch(
            now,
            sender,
            Arrival {
                received: &received,
                packet: &packet,
                proven,
                repeated,
            },
            message,
            sink,
        );
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
    fn identify(
        &mut self,
        now: Instant,
        received: &Received<'_>,
        packet: &Packet<&[u8]>,
    ) -> Option<PeerRef> {
        match packet.sender() {
            Party::Full(bytes) => match self.peers.find(bytes) {
                Some(known) => match self.verify(now, known, received, packet) {
                    Verdict::Authentic => Some(known),
                    Verdict::Forged => self.note_forged(now, received, Some(known)),
                    Verdict::Unread => None,
                },
                None => self.verify_stranger(now, bytes, received, packet),
            },
            Party::Id(id) => {
                let (mut forged, mut known) = (None, false);
                for candidate in self.peers.with_id(&id).into_iter().flatten() {
                    known = true;
                    match self.verify(now, candidate, received, packet) {
                        Verdict::Authentic => return Some(candidate),
                        Verdict::Forged => forged = Some(candidate),
                        Verdict::Unread => {}
                    }
                }
                if forged.is_some() {
                    return self.note_forged(now, received, forged);
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
        received: &Received<'_>,
        packet: &Packet<&[u8]>,
    ) -> Verdict {
        let source = received.from.ip();
        let limits = &self.config.limits;
        let Some(peer) = self.peers.get_mut(candidate) else {
            return Verdict::Unread;
        };
        let suspicious = self.budgets.mac_failure_sources.is_empty(now, source)
            || peer
                .mac_failures
                .is_empty(now, limits.mac_failures_per_peer);
        // Whoever forges the source of a proven path costs us MACs, but cannot silence the peer.
        if suspicious && !peer.is_proven_at(&received.from) {
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
        received: &Received<'_>,
        packet: &Packet<&[u8]>,
    ) -> Option<PeerRef> {
        let source = received.from.ip();
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
        let key = self.own.identity.agree(&address);
        if !guard::is_authentic(&key, packet) {
            return self.note_forged(now, received, None);
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
        received: &Received<'_>,
        claimed: Option<PeerRef>,
    ) -> Option<PeerRef> {
        self.counters.dropped_bad_mac += 1;
        self.budgets
            .mac_failure_sources
            .take(now, received.from.ip());
        if let Some(peer) = claimed.and_then(|claimed| self.peers.get_mut(claimed)) {
            peer.mac_failures
                .take(now, self.config.limits.mac_failures_per_peer);
        }
        None
    }

    /// What every authentic packet does, whatever it says. True: these very bytes have come before.
    fn note_authentic(
        &mut self,
        now: Instant,
        sender: PeerRef,
        received: &Received<'_>,
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
        if repeated && !peer.is_proven_at(&received.from) {
            return true;
        }
        let ipv6 = peer.ipv6;
        peer.note_heard(now, received.bytes.len());
        let on_used_path = peer.active_path().is_some_and(|path| {
            path.endpoint == received.from && path.peer_id == packet.sender_peer()
        });
        if !on_used_path {
            self.nominate(
                now,
                sender,
                received,
                packet.hop_count(),
                packet.sender_peer(),
            );
            self.contact_known(now, sender, ipv6);
        }
        repeated
    }

    fn dispatch(
        &mut self,
        now: Instant,
        sender: PeerRef,
        arrival: Arrival<'_>,
        message: Message<'_>,
        sink: &mut dyn OverlaySink,
    ) {
        let carries_traffic = matches!(
            message,
            Message::Dgram { .. } | Message::Stream(_) | Message::IpPacket { .. }
        );
        if carries_traffic && self.config.plain == PlainPolicy::Deny {
            self.counters.dropped_policy += 1;
            return;
        }
        match message {
            Message::Error { .. } => self.counters.rx_errors += 1,
            Message::Ping(payload) => self.handle_ping(now, sender, arrival, payload),
            Message::Pong(payload) => self.handle_pong(now, sender, arrival, payload),
            Message::EpcReq { id } => self.handle_epc_req(now, sender, arrival, id),
            Message::Epc { id } => self.handle_epc(now, sender, arrival, id),
            Message::Epi { endpoint, .. } => self.handle_epi(now, sender, arrival, endpoint),
            Message::NetidReq { id, endpoint } => {
                self.handle_netid_req(now, sender, arrival, id, endpoint)
            }
            Message::Netid { id, endpoint } => self.handle_netid(now, sender, id, endpoint),
            Message::Dgram {
                source,
                destination,
                payload,
            } => {
                let from = self.program_source(sender, arrival.packet.sender_peer());
                let to = self.own.ipv6_for(arrival.packet.recipient_peer());
                if let Some(from) = from {
                    self.note_use(now, sender, false);
                    sink.datagram(from, source, to, destination, payload);
                }
            }
            Message::IpPacket {
                next_header,
                payload,
            } => {
                let from = self.program_source(sender, arrival.packet.sender_peer());
                let to = self.own.ipv6_for(arrival.packet.recipient_peer());
                if let Some(from) = from {
                    self.note_use(now, sender, false);
                    sink.other(from, to, next_header, payload);
                }
            }
            Message::Stream(message) => self.handle_stream(now, sender, arrival, &message),
            Message::Whois { prefixes } => self.handle_whois(now, sender, arrival, &prefixes),
            Message::Iam { addresses } => self.handle_iam(now, sender, &addresses),
            _ => self.counters.ignored_messages += 1,
        }
    }

    /// The address that a program sees as source: always that of the key which authenticated the packet (S14).
    pub(super) fn program_source(
        &self,
        sender: PeerRef,
        peer_id: anode_wire::PeerId,
    ) -> Option<std::net::Ipv6Addr> {
        let peer = self.peers.get(sender)?;
        Some(if peer_id == anode_wire::PeerId::ANY {
            peer.ipv6
        } else {
            peer.address.ipv6(peer_id)
        })
    }

    /// Whether a reply may go to where this packet came from: a proven path, or within the rate for others (S20).
    pub(super) fn may_reply(
        &mut self,
        now: Instant,
        arrival: &Arrival<'_>,
        reply: &Message<'_>,
    ) -> bool {
        if arrival.proven {
            return true;
        }
        let no_larger =
            reply.body_len() + anode_wire::packet::SHORT_HEADER <= arrival.received.bytes.len();
        let allowed = no_larger
            && self
                .budgets
                .reply_sources
                .take(now, arrival.received.from.ip());
        if !allowed {
            self.counters.dropped_reply_limit += 1;
        }
        allowed
    }

    fn send_error(&mut self, now: Instant, sender: PeerRef, to: Destination, kind: u8) {
        // Never an ERROR for an ERROR, and only to who has authenticated itself (S1).
        if kind != kind::ERROR && self.budgets.errors.take(now, ERROR_RATE) {
            self.counters.tx_errors += 1;
            self.send_control(
                now,
                sender,
                to,
                Sender::Short,
                &Message::Error {
                    code: error_code::INVALID_MESSAGE,
                    arguments: &[],
                },
            );
        }
    }
}

/// An authentic packet and how it came.
pub(super) struct Arrival<'a> {
    pub received: &'a Received<'a>,
    pub packet: &'a Packet<&'a [u8]>,
    /// It came over a path that an EPC has proven.
    pub proven: bool,
    /// The same bytes have come before.
    pub repeated: bool,
}

enum Verdict {
    Authentic,
    Forged,
    /// Dropped before its MAC was looked at.
    Unread,
}
