//! One direction of a long line: loses, queues for the bottleneck, and holds for the delay. Time comes in as an argument.
//!
//! ```text
//!   packet ─▶ loss, each segment ─▶ bottleneck: rate, queue in bytes ─▶ delay ─▶ due
//! ```

use super::segments::Super;
use crate::traffic::Noise;
use anode_platform::tun::VnetHeader;
use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

/// No line holds more bytes than this; what comes beyond is dropped and counted. 16 Gbit/s for 100 ms.
const HOLD_AT_MOST: usize = 256 << 20;
/// A super-packet passes a bottleneck in pieces that take no longer.
const LONGEST_BURST: Duration = Duration::from_millis(1);

/// What a line does to packets. The default lets them pass at once.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Conditions {
    /// One way.
    pub delay: Duration,
    /// The chance of each packet to be lost, 0 to 1.
    pub loss: f64,
    /// The bottleneck, if there is one.
    pub bottleneck: Option<Bottleneck>,
}

/// The slowest part of a line and the queue before it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Bottleneck {
    /// Bits per second.
    pub rate: f64,
    /// Bytes that may wait.
    pub queue: usize,
}

/// What became of packets; a super-packet counts as its segments.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Taken over from the sender.
    pub arrived: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Dropped before the bottleneck.
    pub queue_full: u64,
    /// Dropped because the line held all it may.
    pub memory_full: u64,
}

/// A packet on its way.
pub struct Held {
    due: Instant,
    /// Its virtio-net header.
    pub header: VnetHeader,
    /// Itself.
    pub packet: Vec<u8>,
}

/// One direction.
pub struct Line {
    conditions: Conditions,
    noise: Noise,
    held: VecDeque<Held>,
    held_bytes: usize,
    /// When the bottleneck has sent what it took.
    free_at: Option<Instant>,
    /// Buffers to be used again.
    spare: Vec<Vec<u8>>,
    counts: Counts,
}

impl Line {
    /// A line that loses the same packets for the same seed and the same traffic.
    pub fn new(seed: u64) -> Self {
        Self {
            conditions: Conditions::default(),
            noise: Noise::new(seed),
            held: VecDeque::new(),
            held_bytes: 0,
            free_at: None,
            spare: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// Changes what happens to packets from now on; those under way keep their time, and order is kept.
    pub fn set(&mut self, conditions: Conditions) {
        self.conditions = conditions;
    }

    /// What became of packets so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Takes a packet over.
    pub fn take(&mut self, now: Instant, header: VnetHeader, packet: &[u8]) {
        let whole = Super::new(header, packet);
        let segments = whole.segments();
        self.counts.arrived += segments as u64;
        let longest = self.longest_piece(&whole);
        let mut first = 0;
        while first < segments {
            if self.is_lost() {
                self.counts.lost += 1;
                first += 1;
                continue;
            }
            let mut end = first + 1;
            while end < segments && end - first < longest {
                if self.is_lost() {
                    self.counts.lost += 1;
                    self.hold(now, &whole, first..end);
                    (first, end) = (end + 1, end + 1);
                    break;
                }
                end += 1;
            }
            if end > first {
                self.hold(now, &whole, first..end);
                first = end;
            }
        }
    }

    fn is_lost(&mut self) -> bool {
        // The 53 bits that a double holds.
        self.conditions.loss > 0.0
            && (self.noise.word() >> 11) as f64 / ((1u64 << 53) as f64) < self.conditions.loss
    }

    fn longest_piece(&self, whole: &Super<'_>) -> usize {
        self.conditions.bottleneck.map_or(usize::MAX, |bottleneck| {
            let bytes = bottleneck.rate / 8.0 * LONGEST_BURST.as_secs_f64();
            ((bytes / whole.segment_size().max(1) as f64) as usize).max(1)
        })
    }

    fn hold(&mut self, now: Instant, whole: &Super<'_>, range: Range<usize>) {
        let segments = range.len() as u64;
        let mut buffer = self.spare.pop().unwrap_or_default();
        let header = whole.part(range, &mut buffer);
        let mut leaves = now;
        if let Some(bottleneck) = self.conditions.bottleneck {
            let starts = self.free_at.map_or(now, |free| free.max(now));
            let waiting = (starts - now).as_secs_f64() * bottleneck.rate / 8.0;
            if waiting + buffer.len() as f64 > bottleneck.queue as f64 {
                self.counts.queue_full += segments;
                return self.spare.push(buffer);
            }
            leaves = starts + Duration::from_secs_f64(buffer.len() as f64 * 8.0 / bottleneck.rate);
            self.free_at = Some(leaves);
        }
        if self.held_bytes + buffer.len() > HOLD_AT_MOST {
            self.counts.memory_full += segments;
            return self.spare.push(buffer);
        }
        let due = leaves + self.conditions.delay;
        self.held_bytes += buffer.len();
        self.held.push_back(Held {
            due: self.held.back().map_or(due, |last| last.due.max(due)),
            header,
            packet: buffer,
        });
    }

    /// The next packet whose time has come.
    pub fn due(&mut self, now: Instant) -> Option<Held> {
        if self.held.front()?.due > now {
            return None;
        }
        let held = self.held.pop_front()?;
        self.held_bytes -= held.packet.len();
        Some(held)
    }

    /// When the next packet's time comes.
    pub fn next_due(&self) -> Option<Instant> {
        self.held.front().map(|held| held.due)
    }

    /// Gives a buffer back.
    pub fn recycle(&mut self, held: Held) {
        if self.spare.len() < 1_024 {
            self.spare.push(held.packet);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn line(conditions: Conditions) -> Line {
        let mut line = Line::new(1);
        line.set(conditions);
        line
    }

    fn send(line: &mut Line, now: Instant, size: usize) {
        line.take(now, VnetHeader::default(), &vec![0; size]);
    }

    #[test]
    fn a_packet_is_due_after_the_delay_and_not_before() {
        let mut line = line(Conditions {
            delay: 50 * MS,
            ..Conditions::default()
        });
        let start = Instant::now();
        send(&mut line, start, 100);
        assert_eq!(line.next_due(), Some(start + 50 * MS));
        assert!(line.due(start + 49 * MS).is_none());
        assert!(line.due(start + 50 * MS).is_some());
        assert_eq!(line.next_due(), None);
    }

    #[test]
    fn a_shorter_delay_does_not_overtake() {
        let start = Instant::now();
        let mut line = line(Conditions {
            delay: 50 * MS,
            ..Conditions::default()
        });
        send(&mut line, start, 1);
        line.set(Conditions::default());
        send(&mut line, start, 2);
        assert!(line.due(start + 49 * MS).is_none());
        let sizes = [(); 2].map(|()| line.due(start + 50 * MS).map(|held| held.packet.len()));
        assert_eq!(sizes, [Some(1), Some(2)]);
    }

    #[test]
    fn a_bottleneck_spaces_packets_and_drops_what_its_queue_does_not_hold() {
        let mut line = line(Conditions {
            bottleneck: Some(Bottleneck {
                rate: 8e6,
                queue: 3_000,
            }),
            ..Conditions::default()
        });
        let start = Instant::now();
        for _ in 0..5 {
            send(&mut line, start, 1_000);
        }
        assert_eq!(line.counts().queue_full, 2);
        let left: Vec<Duration> =
            std::iter::from_fn(|| line.due(start + 10 * MS).map(|held| held.due - start)).collect();
        assert_eq!(left, [MS, 2 * MS, 3 * MS]);
    }

    #[test]
    fn loss_takes_its_share_of_packets_and_of_segments() {
        let conditions = Conditions {
            loss: 0.1,
            ..Conditions::default()
        };
        let (mut single, mut cut) = (line(conditions), line(conditions));
        let start = Instant::now();
        let mut packet = vec![0; 48];
        packet[0] = 0x60;
        packet[6] = 17;
        packet.extend([7; 40 * 100]);
        let header = VnetHeader {
            flags: 1,
            gso_type: 5,
            gso_size: 100,
            header_len: 48,
            csum_start: 40,
            csum_offset: 6,
        };
        for _ in 0..500 {
            send(&mut single, start, 100);
            cut.take(start, header, &packet);
        }
        assert!(
            (30..=70).contains(&single.counts().lost),
            "{:?}",
            single.counts()
        );
        let counts = cut.counts();
        assert_eq!(counts.arrived, 20_000);
        assert!((1_800..=2_200).contains(&counts.lost), "{counts:?}");
        let left: usize = std::iter::from_fn(|| cut.due(start))
            .map(|held| Super::new(held.header, &held.packet).segments())
            .sum();
        assert_eq!(left as u64, counts.arrived - counts.lost);
    }

    #[test]
    fn a_line_does_not_hold_more_than_its_bound() {
        let mut line = line(Conditions {
            delay: 50 * MS,
            ..Conditions::default()
        });
        let start = Instant::now();
        let packet = vec![0; 60_000];
        for _ in 0..HOLD_AT_MOST / packet.len() + 3 {
            line.take(start, VnetHeader::default(), &packet);
        }
        assert_eq!(line.counts().memory_full, 3);
    }
}
