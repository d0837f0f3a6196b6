//! One stream: opening, both halves, closing (i2cp.md §2.8).
use super::packet::{
    CHOKE, CLOSE, DELAY, FROM, INTERACTIVE, LONGEST_DELAY, MAX_SIZE, NO_ACK, Packet, RESET,
    SIGNATURE, SYN, hash_as_nacks,
};
use super::recv::{Arrival, Receiver};
use super::rtt::Rtt;
use super::send::{Finish, Sender};
use super::{Config, Failure, HalfClose, Profile};
use crate::destination::Destination;
use crate::keys::LocalDestination;
use std::time::{Duration, Instant};

/// Payload bytes of a SYN of ours: the peer's maximum is not known yet.
const SYN_PAYLOAD: usize = 1730;
/// What we announce (X25519, proposal 155).
pub(crate) const OUR_MTU: u16 = 1812;
const SMALLEST_MTU: usize = 512;
const SHORTEST_ACK_DELAY: Duration = Duration::from_millis(2);
const LONGEST_ACK_DELAY: Duration = Duration::from_millis(120);
/// The delay that a SYN of ours asks for says that we know half-closed streams. Nobody else asks for one of 3 ms there, and
/// whoever does not know what it means acknowledges soon.
const HALF_CLOSE_HINT: u16 = 3;
/// How long the expiry of a message is ahead of its resend.
const EXPIRY_MARGIN: Duration = Duration::from_millis(500);

/// Where a stream stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// Our SYN is out.
    Connecting {
        until: Instant,
    },
    /// A SYN came; the program has not said yet whether it takes it.
    Pending {
        until: Instant,
    },
    Open,
}

/// What a packet or the time brought about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Change {
    Connected,
    Readable,
    Writable,
    Finished,
    /// The stream is over and was reset or failed.
    Ended(Failure),
    /// The stream is over in order.
    Done,
}

/// A packet for the wire.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) bytes: Vec<u8>,
    /// It carries a destination (I65), and the first of these wants a status.
    pub(crate) syn: bool,
    pub(crate) first: bool,
    pub(crate) ttl: Duration,
}

#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) resent: u64,
    pub(crate) timeouts: u64,
    pub(crate) duplicates: u64,
    pub(crate) refused: u64,
    pub(crate) unsent_acked: u64,
}

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) peer: Destination,
    pub(crate) local_port: u16,
    pub(crate) remote_port: u16,
    pub(crate) local_id: u32,
    /// 0: not known yet.
    pub(crate) peer_id: u32,
    pub(crate) phase: Phase,
    outgoing: bool,
    pub(crate) send: Sender,
    pub(crate) recv: Receiver,
    pub(crate) rtt: Rtt,
    mtu: usize,
    last_received: Instant,
    last_sent: Instant,
    /// With something at random added: keep-alives of many streams must not coincide.
    pub(crate) keep_alive_after: Duration,
    /// Our window opened or closed and the peer does not know.
    choke_news: bool,
    data_packets: u32,
    /// The program was told that there is no room.
    blocked: bool,
    finished_told: bool,
    pub(crate) closed_first: bool,
    /// Its SYN said so.
    peer_half_closes: bool,
    /// Data came after the last that was written.
    answered: bool,
    /// The program has written.
    wrote: bool,
    pub(crate) tally: Tally,
}

impl Connection {
    pub(crate) fn new(
        peer: Destination,
        ports: (u16, u16),
        ids: (u32, u32),
        phase: Phase,
        config: &Config,
        profile: Option<super::profile::Profile>,
        now: Instant,
    ) -> Self {
        Self {
            peer,
            local_port: ports.0,
            remote_port: ports.1,
            local_id: ids.0,
            peer_id: ids.1,
            outgoing: matches!(phase, Phase::Connecting { .. }),
            phase,
            send: Sender::new(config.send_buffer, profile.map(|p| p.window), now),
            recv: Receiver::default(),
            rtt: profile.map(|p| p.rtt).unwrap_or_default(),
            mtu: usize::from(OUR_MTU),
            last_received: now,
            last_sent: now,
            keep_alive_after: config.keep_alive,
            choke_news: false,
            data_packets: 0,
            blocked: false,
            finished_told: false,
            closed_first: false,
            peer_half_closes: false,
            answered: false,
            wrote: false,
            tally: Tally::default(),
        }
    }

    /// The peer's SYN, verified: its id, its limit, what it knows.
    pub(crate) fn syn_received(&mut self, syn: &Packet<'_>) {
        self.peer_id = syn.from_id;
        self.peer_half_closes = syn.has(DELAY) && syn.delay == HALF_CLOSE_HINT;
        if self.peer_half_closes && self.send.finish == Finish::Held {
            self.send.finish = Finish::Wanted;
        }
        if syn.has(MAX_SIZE) {
            self.mtu = usize::from(syn.max_size).clamp(SMALLEST_MTU, usize::from(OUR_MTU));
        }
    }

    /// The program takes the stream: the reply goes out.
    pub(crate) fn accept(&mut self, now: Instant) {
        self.phase = Phase::Open;
        self.last_received = now;
        self.recv.ack_sent();
    }

    pub(crate) fn write(&mut self, data: &[u8], now: Instant) -> usize {
        let count = self.send.write(data, now);
        self.blocked = count < data.len();
        if count > 0 {
            self.wrote = true;
            self.answered = false;
        }
        count
    }

    pub(crate) fn read(&mut self, sink: &mut dyn FnMut(&[u8]) -> usize, now: Instant) -> usize {
        let count = self.recv.read_with(sink);
        self.refresh_choke(now);
        count
    }

    fn refresh_choke(&mut self, now: Instant) {
        if self.recv.update_choke() {
            self.choke_news = true;
            self.recv.want_ack(Duration::ZERO, now);
        }
    }

    /// Nothing more will be written.
    pub(crate) fn finish(&mut self, config: &Config) {
        if self.send.finish == Finish::No {
            let answering = !self.outgoing && self.wrote;
            let harmless = self.peer_half_closes || answering || self.recv.peer_closed();
            self.send.finish = match config.half_close {
                HalfClose::Held { .. } if !harmless => Finish::Held,
                _ => Finish::Wanted,
            };
            self.closed_first = !self.recv.peer_closed();
        }
    }

    /// When a CLOSE that is held back goes out, unless something comes before.
    fn held_until(&self, config: &Config) -> Option<Instant> {
        let HalfClose::Held { pause, answer } = config.half_close else {
            return None;
        };
        let silence = match self.answered {
            true => (self.rtt.rto() * 3).clamp(pause.min(answer), answer),
            false => answer,
        };
        (self.send.finish == Finish::Held && self.send.is_idle())
            .then(|| self.last_received + silence)
    }

    /// Takes a packet of the peer whose signature, where it must have one, was verified.
    pub(crate) fn handle(&mut self, packet: &Packet<'_>, now: Instant, changes: &mut Vec<Change>) {
        self.last_received = now;
        self.send.heard(now);
        if packet.has(DELAY) {
            self.send.set_choked(packet.delay > LONGEST_DELAY, now);
        }
        if packet.has(SYN) && matches!(self.phase, Phase::Connecting { .. }) {
            self.syn_received(packet);
            self.phase = Phase::Open;
            changes.push(Change::Connected);
        }
        if !packet.has(NO_ACK) {
            self.acknowledged(packet, now, changes);
        }
        if packet.sequence > 0 || packet.has(SYN) {
            self.arrived(packet, now, changes);
        }
        self.settle(changes);
    }

    fn acknowledged(&mut self, packet: &Packet<'_>, now: Instant, changes: &mut Vec<Change>) {
        // the NACKs of a SYN are a hash
        let nacks = if packet.has(SYN) {
            &[][..]
        } else {
            &packet.nacks
        };
        let Some(acked) = self.send.acked(packet.ack_through, nacks, now) else {
            self.tally.unsent_acked += 1;
            return;
        };
        if let Some(sample) = acked.sample {
            self.rtt.sample(sample);
        }
        if self.blocked && self.send.room() > 0 {
            self.blocked = false;
            changes.push(Change::Writable);
        }
    }

    fn arrived(&mut self, packet: &Packet<'_>, now: Instant, changes: &mut Vec<Change>) {
        let was_empty = self.recv.unread() == 0;
        let was_closed = self.recv.peer_closed();
        let close = packet.has(CLOSE);
        let delay = match self.recv.accept(packet.sequence, packet.payload, close) {
            Arrival::Refused => {
                self.tally.refused += 1;
                // it learns what we have; the choke, if that is the reason, rides on it
                Duration::ZERO
            }
            Arrival::Duplicate => {
                self.tally.duplicates += 1;
                Duration::ZERO
            }
            Arrival::Held => Duration::ZERO,
            Arrival::InOrder if self.recv.has_gap() || close || packet.has(SYN) => Duration::ZERO,
            Arrival::InOrder => self.ack_delay(packet),
        };
        self.answered |= !packet.payload.is_empty();
        self.recv.want_ack(delay, now);
        self.refresh_choke(now);
        if was_empty && self.recv.unread() > 0 {
            changes.push(Change::Readable);
        }
        if !was_closed && self.recv.peer_closed() && self.send.finish == Finish::Held {
            self.send.finish = Finish::Wanted;
            self.closed_first = false;
        }
    }

    /// A fraction of the RTT: i2pd resends after 1.5 of it, without a floor.
    fn ack_delay(&self, packet: &Packet<'_>) -> Duration {
        let eighth = self.rtt.smoothed.unwrap_or(LONGEST_ACK_DELAY * 8) / 8;
        let ours = eighth.clamp(SHORTEST_ACK_DELAY, LONGEST_ACK_DELAY);
        match packet.delay {
            // 0 is "now"; a batch of packets that came together still shares one
            1..=LONGEST_DELAY => ours.min(Duration::from_millis(packet.delay.into())),
            _ => ours,
        }
    }

    /// Says what the program must know of how the stream stands.
    pub(crate) fn settle(&mut self, changes: &mut Vec<Change>) {
        if self.recv.is_finished() && !self.finished_told {
            self.finished_told = true;
            changes.push(Change::Finished);
        }
        let over = self.send.finish == Finish::Sent && self.send.is_idle();
        if over && self.recv.is_finished() {
            changes.push(Change::Done);
        }
    }

    pub(crate) fn deadline(&self, config: &Config) -> Instant {
        let send = self.send.deadline(&self.rtt, config.flush());
        match self.phase {
            Phase::Pending { until } => until,
            Phase::Connecting { until } => send.map_or(until, |send| send.min(until)),
            Phase::Open => {
                let keep_alive = self.last_received.max(self.last_sent) + self.patience();
                [self.recv.ack_due(), send, self.held_until(config)]
                    .into_iter()
                    .flatten()
                    .fold(keep_alive, Instant::min)
            }
        }
    }

    pub(crate) fn handle_timeout(
        &mut self,
        config: &Config,
        now: Instant,
        changes: &mut Vec<Change>,
    ) {
        match self.phase {
            Phase::Connecting { until } if until <= now => {
                return changes.push(Change::Ended(Failure::ConnectTimedOut));
            }
            Phase::Pending { until } if until <= now => {
                return changes.push(Change::Ended(Failure::NotAccepted));
            }
            _ => {}
        }
        let (lost, gone) = self.send.handle_timeout(&self.rtt, now);
        self.tally.timeouts += u64::from(lost);
        if gone {
            return changes.push(Change::Ended(Failure::TimedOut));
        }
        if self.held_until(config).is_some_and(|until| until <= now) {
            self.send.finish = Finish::Wanted;
        }
        let quiet = now.saturating_duration_since(self.last_received.max(self.last_sent));
        if self.phase == Phase::Open && quiet >= self.patience() {
            if self.send.finish == Finish::Sent {
                return changes.push(Change::Ended(Failure::TimedOut));
            }
            self.send.keep_alive(now);
        }
    }

    /// Silence after which something is done. Behind our CLOSE nothing can be sent that asks for life: then it is the
    /// peer's own keep-alives and resends that must come, and a few of them may be lost before the stream is.
    fn patience(&self) -> Duration {
        match self.send.finish {
            Finish::Sent => self.keep_alive_after * 3,
            _ => self.keep_alive_after,
        }
    }

    /// The next packet to send now.
    pub(crate) fn next_packet(
        &mut self,
        keys: &LocalDestination,
        config: &Config,
        now: Instant,
    ) -> Option<Ready> {
        if matches!(self.phase, Phase::Pending { .. }) {
            return None;
        }
        let mtu = match self.phase {
            Phase::Open => self.mtu,
            _ => SYN_PAYLOAD,
        };
        if !self.send.is_started() {
            self.send.start(mtu.min(SYN_PAYLOAD), now);
        }
        match self.send.next_packet(mtu, config.flush(), now) {
            Some((sequence, first)) => {
                self.tally.resent += u64::from(!first);
                Some(self.data_packet(keys, config, sequence, first, now))
            }
            None => self.plain_ack(keys, now),
        }
    }

    fn base_packet(&mut self) -> Packet<'static> {
        let mut packet = Packet {
            to_id: self.peer_id,
            from_id: self.local_id,
            resend_delay: self.rtt.rto().as_secs().min(255) as u8,
            ..Packet::default()
        };
        // before the reply has come there is nothing to acknowledge to (and no id to name)
        if self.peer_id != 0 && self.recv.has_any() {
            (packet.ack_through, packet.nacks) = self.recv.acknowledgement();
            self.recv.ack_sent();
        } else {
            packet.flags |= NO_ACK;
        }
        if self.recv.is_choking() || self.choke_news {
            packet.flags |= DELAY;
            packet.delay = if self.recv.is_choking() { CHOKE } else { 0 };
            self.choke_news = false;
        }
        packet
    }

    fn data_packet(
        &mut self,
        keys: &LocalDestination,
        config: &Config,
        sequence: u32,
        first: bool,
        now: Instant,
    ) -> Ready {
        self.last_sent = now;
        let packet = self.base_packet();
        let delay = self.requested_delay();
        let (payload, kind, sends) = self
            .send
            .packet(sequence)
            .expect("next_packet names packets in flight only");
        let mut packet = Packet {
            sequence,
            payload,
            ..packet
        };
        packet.flags |= kind;
        if config.profile == Profile::Interactive {
            packet.flags |= INTERACTIVE;
        }
        let syn = kind & SYN != 0;
        if syn {
            packet.flags |= SIGNATURE | FROM | MAX_SIZE;
            packet.max_size = OUR_MTU;
            if config.says_half_close {
                packet.flags |= DELAY;
                packet.delay = HALF_CLOSE_HINT;
            }
            if self.outgoing {
                // also when sent again: the first SYN tells whom it is for
                packet.to_id = 0;
                packet.flags |= NO_ACK;
                packet.ack_through = 0;
                packet.nacks = hash_as_nacks(&self.peer.hash());
            } else {
                packet.nacks.clear();
                packet.ack_through = 0;
            }
        } else {
            if kind & CLOSE != 0 {
                packet.flags |= SIGNATURE;
            }
            if !packet.has(DELAY) {
                packet.flags |= DELAY;
                packet.delay = if kind & CLOSE != 0 { 0 } else { delay };
            }
        }
        let back_off = self.rtt.rto() * (1 << (sends - 1).min(9));
        Ready {
            bytes: packet.write(keys),
            syn,
            first,
            ttl: back_off
                .min(super::rtt::LARGEST)
                .saturating_sub(EXPIRY_MARGIN)
                .max(EXPIRY_MARGIN),
        }
    }

    /// Java's way: half an RTT, but at once when the window runs out, and for every eighth packet.
    fn requested_delay(&mut self) -> u16 {
        self.data_packets = self.data_packets.wrapping_add(1);
        let left = self.send.window_left();
        let urgent = left < 3.0 || left < (self.send.window() + 2.0) / 3.0;
        match self.rtt.smoothed {
            Some(rtt) if !urgent && !self.data_packets.is_multiple_of(8) => {
                (rtt.as_millis() / 2).min(2000) as u16
            }
            _ => 0,
        }
    }

    fn plain_ack(&mut self, keys: &LocalDestination, now: Instant) -> Option<Ready> {
        let due = self.recv.ack_due().is_some_and(|due| due <= now);
        if !due || self.phase != Phase::Open || self.peer_id == 0 {
            return None;
        }
        Some(Ready {
            bytes: self.base_packet().write(keys),
            syn: false,
            first: false,
            ttl: Duration::from_secs(10),
        })
    }

    /// RESET, and behind it CLOSE with the next number: i2pd takes a RESET for an acknowledgement.
    pub(crate) fn reset_packets(&self, keys: &LocalDestination) -> [Vec<u8>; 2] {
        reset_packets(self.peer_id, self.local_id, self.send.next_sequence(), keys)
    }
}

pub(crate) fn reset_packets(
    peer_id: u32,
    local_id: u32,
    next: u32,
    keys: &LocalDestination,
) -> [Vec<u8>; 2] {
    let base = Packet {
        to_id: peer_id,
        from_id: local_id,
        ..Packet::default()
    };
    let reset = Packet {
        flags: RESET | SIGNATURE | FROM | NO_ACK,
        ..base.clone()
    };
    let close = Packet {
        sequence: next.max(1),
        flags: CLOSE | SIGNATURE | NO_ACK,
        ..base
    };
    [reset.write(keys), close.write(keys)]
}
