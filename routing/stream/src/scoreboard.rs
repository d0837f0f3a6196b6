//! What was sent and what became of it: one entry for each packet from the oldest unacknowledged on.
use crate::ranges::RangeSet;
use crate::rate::{Sampler, Snapshot};
use crate::recovery::THIN;
use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

/// Positions that may be in flight or out of order at once: 64 MiB in packets of 1,024 bytes. Bounds the memory that
/// tiny packets cost both ends.
pub(crate) const MAX_SPAN: u64 = 65_536;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    InFlight,
    Lost,
    Acked,
}

/// One packet that was sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet {
    /// When it was last sent.
    pub(crate) sent: Instant,
    /// Where its payload starts in the stream.
    pub(crate) offset: u64,
    pub(crate) len: u32,
    /// What had been delivered when it was last sent.
    pub(crate) snapshot: Snapshot,
    pub(crate) transmissions: u8,
    pub(crate) fate: Fate,
}

/// What one message's acknowledgements brought.
#[derive(Default, Debug)]
pub(crate) struct Acked {
    pub(crate) packets: u64,
    pub(crate) bytes: usize,
    /// The newest packet that RACK may believe: when it was last sent, its position.
    pub(crate) newest: Option<(Instant, u64)>,
    /// What that packet remembers of its departure.
    pub(crate) snapshot: Snapshot,
    /// Send time of the newest packet that was sent once (Karn).
    pub(crate) sample_of: Option<Instant>,
    /// The same of a packet that was deemed lost: a measure only if the timeout was too short.
    pub(crate) late: Option<Instant>,
    /// A packet sent once arrived after a later one.
    pub(crate) reordered: bool,
    /// Retransmitted packets whose acknowledgement came too soon to be the retransmission's.
    pub(crate) spurious: u32,
    /// Retransmitted packets acknowledged in good time.
    pub(crate) repaired: u32,
    /// Packets deemed lost, and not sent again yet, that had arrived after all.
    pub(crate) revived: u32,
    /// The highest position newly acknowledged.
    pub(crate) highest: Option<u64>,
}

/// The packets from `una` on.
#[derive(Debug)]
pub(crate) struct Scoreboard {
    packets: VecDeque<Packet>,
    una: u64,
    /// Acknowledged above `una`, to skip what is acknowledged again and again.
    acked: RangeSet,
    in_flight: usize,
    in_flight_packets: usize,
    lost: VecDeque<u64>,
    lost_packets: usize,
    /// How many at the end of `lost` congestion control has not heard of.
    unheard: usize,
    /// Retransmissions in the order they were sent: position and which transmission.
    resent: VecDeque<(u64, u8)>,
    /// The first packet whose first transmission has not been judged yet.
    unjudged: u64,
    /// Highest position ever acknowledged.
    highest_acked: u64,
    /// The packet before `una`.
    last: Option<Packet>,
}

impl Scoreboard {
    pub(crate) fn new(first: u64) -> Self {
        Self {
            packets: VecDeque::new(),
            una: first,
            acked: RangeSet::default(),
            in_flight: 0,
            in_flight_packets: 0,
            lost: VecDeque::new(),
            lost_packets: 0,
            unheard: 0,
            resent: VecDeque::new(),
            unjudged: first,
            highest_acked: first - 1,
            last: None,
        }
    }

    /// The oldest unacknowledged position.
    pub(crate) fn una(&self) -> u64 {
        self.una
    }

    /// The next position to be used.
    pub(crate) fn next(&self) -> u64 {
        self.una + self.packets.len() as u64
    }

    /// Bytes sent, neither acknowledged nor deemed lost.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(crate) fn in_flight_packets(&self) -> usize {
        self.in_flight_packets
    }

    pub(crate) fn highest_acked(&self) -> u64 {
        self.highest_acked
    }

    /// Whether anything waits for an acknowledgement.
    pub(crate) fn is_outstanding(&self) -> bool {
        !self.packets.is_empty()
    }

    pub(crate) fn has_lost(&self) -> bool {
        self.lost_packets > 0
    }

    pub(crate) fn is_full(&self) -> bool {
        self.packets.len() as u64 >= MAX_SPAN
    }

    /// Few packets with data wait for an acknowledgement; not the close alone, whose tries are few.
    pub(crate) fn is_thin(&self) -> bool {
        let waiting = self.in_flight_packets + self.lost_packets;
        let close_alone =
            self.packets.len() == 1 && self.packets.front().is_some_and(|p| p.len == 0);
        waiting < THIN && !close_alone
    }

    /// Whether three later packets have arrived than some that has not (the classic threshold).
    pub(crate) fn has_dup_threshold(&self) -> bool {
        !self.acked.is_empty() && self.highest_acked >= self.una + 3
    }

    pub(crate) fn get(&self, position: u64) -> Option<&Packet> {
        self.packets
            .get(usize::try_from(position.checked_sub(self.una)?).ok()?)
    }

    fn get_mut(&mut self, position: u64) -> Option<&mut Packet> {
        self.packets
            .get_mut(usize::try_from(position.checked_sub(self.una)?).ok()?)
    }

    /// The oldest packet.
    pub(crate) fn first(&self) -> Option<&Packet> {
        self.packets.front()
    }

    /// The newest packet below `una`.
    pub(crate) fn last_acked(&self) -> Option<&Packet> {
        self.last.as_ref()
    }

    /// Enters a packet that is sent for the first time; returns its position.
    pub(crate) fn sent(
        &mut self,
        now: Instant,
        offset: u64,
        len: u32,
        sampler: &mut Sampler,
    ) -> u64 {
        let position = self.next();
        self.packets.push_back(Packet {
            sent: now,
            offset,
            len,
            snapshot: sampler.sent(now, self.in_flight, len as usize),
            transmissions: 1,
            fate: Fate::InFlight,
        });
        self.in_flight += len as usize;
        self.in_flight_packets += 1;
        position
    }

    /// Notes that a packet is sent again.
    pub(crate) fn resent(&mut self, now: Instant, position: u64, sampler: &mut Sampler) {
        let in_flight = self.in_flight;
        let Some(packet) = self.get_mut(position) else {
            return;
        };
        let was = packet.fate;
        packet.sent = now;
        packet.snapshot = sampler.sent(now, in_flight, packet.len as usize);
        packet.transmissions = packet.transmissions.saturating_add(1);
        packet.fate = Fate::InFlight;
        let (len, transmission) = (packet.len as usize, packet.transmissions);
        if was == Fate::Lost {
            self.lost_packets -= 1;
            self.in_flight += len;
            self.in_flight_packets += 1;
        }
        self.resent.push_back((position, transmission));
    }

    /// The next lost packet to be sent again.
    pub(crate) fn next_lost(&mut self) -> Option<(u64, Packet)> {
        while let Some(&position) = self.lost.front() {
            match self.get(position) {
                Some(packet) if packet.fate == Fate::Lost => return Some((position, *packet)),
                _ => {
                    self.lost.pop_front();
                }
            }
        }
        None
    }

    /// The newest packet not yet acknowledged (what a tail-loss probe repeats).
    pub(crate) fn newest_unacked(&self) -> Option<u64> {
        let index = self.packets.iter().rposition(|p| p.fate != Fate::Acked)?;
        Some(self.una + index as u64)
    }

    /// Acknowledges `range`, clipped to what was sent. A retransmitted packet acknowledged within `soonest` of its
    /// last transmission was not lost: that is the acknowledgement of an earlier one.
    pub(crate) fn ack(
        &mut self,
        now: Instant,
        range: Range<u64>,
        soonest: Duration,
        out: &mut Acked,
    ) {
        let end = range.end.min(self.next());
        let mut at = range.start.max(self.una);
        if at >= end {
            return;
        }
        if self.acked.is_empty() {
            self.ack_run(now, at..end, soonest, out);
        } else {
            while let Some(gap) = self.acked.first_gap(at..end) {
                at = gap.end;
                self.ack_run(now, gap, soonest, out);
            }
        }
        if range.start <= self.una {
            self.una_to(end);
        } else {
            self.acked.insert(range.start.max(self.una)..end);
        }
    }

    /// Acknowledges packets none of which is acknowledged yet.
    fn ack_run(&mut self, now: Instant, run: Range<u64>, soonest: Duration, out: &mut Acked) {
        let base = self.una;
        let highest_before = self.highest_acked;
        for position in run.clone() {
            let Some(packet) = self.packets.get_mut((position - base) as usize) else {
                return;
            };
            match packet.fate {
                Fate::InFlight => {
                    self.in_flight -= packet.len as usize;
                    self.in_flight_packets -= 1;
                }
                Fate::Lost => self.lost_packets -= 1,
                Fate::Acked => continue,
            }
            let was_lost = packet.fate == Fate::Lost;
            packet.fate = Fate::Acked;
            out.packets += 1;
            out.bytes += packet.len as usize;
            let mut believed = true;
            if packet.transmissions == 1 {
                if was_lost {
                    out.late = out.late.max(Some(packet.sent));
                } else {
                    // What a timeout gave up and then turns out to have arrived long ago is no measure of the path: its
                    // acknowledgement was lost.
                    out.sample_of = out.sample_of.max(Some(packet.sent));
                }
                out.reordered |= position < highest_before || was_lost;
                out.revived += u32::from(was_lost);
            } else if was_lost || now.saturating_duration_since(packet.sent) < soonest {
                out.spurious += 1;
                believed = false;
            } else {
                out.repaired += 1;
            }
            if believed && out.newest < Some((packet.sent, position)) {
                out.newest = Some((packet.sent, position));
                out.snapshot = packet.snapshot;
            }
        }
        out.highest = out.highest.max(Some(run.end - 1));
        self.highest_acked = self.highest_acked.max(run.end - 1);
    }

    /// Everything below `end` is acknowledged; moves on over what was acknowledged out of order behind it.
    fn una_to(&mut self, end: u64) {
        let end = self.acked.containing(end).map_or(end, |r| r.end);
        let count = (end - self.una) as usize;
        self.last = count
            .checked_sub(1)
            .and_then(|last| self.packets.get(last))
            .copied();
        self.packets.drain(..count.min(self.packets.len()));
        self.una = end;
        self.unjudged = self.unjudged.max(end);
        self.acked.remove_below(end);
    }

    fn mark_lost(&mut self, position: u64) {
        let Some(packet) = self.get_mut(position) else {
            return;
        };
        if packet.fate != Fate::InFlight {
            return;
        }
        packet.fate = Fate::Lost;
        let len = packet.len as usize;
        self.in_flight -= len;
        self.in_flight_packets -= 1;
        self.lost_packets += 1;
        self.lost.push_back(position);
        self.unheard += 1;
    }

    /// The packets deemed lost since this was last asked, with their positions, in the order of the verdicts.
    pub(crate) fn take_losses(&mut self) -> impl Iterator<Item = (u64, &Packet)> {
        let first = self.lost.len() - std::mem::take(&mut self.unheard).min(self.lost.len());
        self.lost
            .range(first..)
            .filter_map(|&position| Some((position, self.get(position)?)))
    }

    /// RACK (RFC 8985 §6.2 step 5): what was sent before the newest delivered packet, `(sent, position)`, and is older
    /// than `patience`, is lost. Returns how many were, and when to look again. Every packet is passed once.
    pub(crate) fn detect_lost(
        &mut self,
        now: Instant,
        newest: (Instant, u64),
        patience: Duration,
    ) -> (usize, Option<Instant>) {
        let before = self.lost_packets;
        let mut again: Option<Instant> = None;
        while let Some(packet) = self.get(self.unjudged) {
            if packet.fate == Fate::InFlight && packet.transmissions == 1 {
                if (packet.sent, self.unjudged) >= newest {
                    break;
                }
                if packet.sent + patience > now {
                    again = Some(packet.sent + patience);
                    break;
                }
                self.mark_lost(self.unjudged);
            }
            self.unjudged += 1;
        }
        while let Some(&(position, transmission)) = self.resent.front() {
            match self.get(position) {
                Some(p) if p.fate == Fate::InFlight && p.transmissions == transmission => {
                    if (p.sent, position) >= newest {
                        break;
                    }
                    if p.sent + patience > now {
                        again = Some(again.map_or(p.sent + patience, |a| a.min(p.sent + patience)));
                        break;
                    }
                    self.mark_lost(position);
                }
                _ => {}
            }
            self.resent.pop_front();
        }
        (self.lost_packets - before, again)
    }

    /// The retransmission timer ran out: all that is in flight counts as lost, oldest first.
    pub(crate) fn all_lost(&mut self) {
        self.lost.clear();
        self.resent.clear();
        self.lost_packets = 0;
        self.in_flight = 0;
        self.in_flight_packets = 0;
        for (index, packet) in self.packets.iter_mut().enumerate() {
            if packet.fate != Fate::Acked {
                packet.fate = Fate::Lost;
                self.lost_packets += 1;
                self.lost.push_back(self.una + index as u64);
            }
        }
        self.unheard = self.lost.len();
        self.unjudged = self.next();
    }

    /// The losses were a mistake: what was not sent again yet is in flight after all.
    pub(crate) fn unlose(&mut self) {
        self.lost.clear();
        self.unheard = 0;
        for packet in &mut self.packets {
            if packet.fate == Fate::Lost {
                packet.fate = Fate::InFlight;
                self.in_flight += packet.len as usize;
                self.in_flight_packets += 1;
            }
        }
        self.lost_packets = 0;
        self.unjudged = self.una;
    }

    /// Bytes allocated, about.
    pub(crate) fn memory(&self) -> usize {
        self.packets.capacity() * size_of::<Packet>()
            + self.lost.capacity() * size_of::<u64>()
            + self.resent.capacity() * size_of::<(u64, u8)>()
    }

    /// Gives memory back when nothing is outstanding.
    pub(crate) fn release(&mut self) {
        if self.packets.is_empty() {
            self.packets = VecDeque::new();
            self.lost = VecDeque::new();
            self.resent = VecDeque::new();
            self.acked.clear();
        }
    }
}
