//! The sending half of a stream: buffer, window, what is in flight, loss (i2cp.md §2.8). Windows count packets.
use super::packet::{CLOSE, SYN};
use super::rtt::{LARGEST, Rtt};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

const INITIAL_WINDOW: f64 = 6.0;
pub(crate) const LARGEST_WINDOW: f64 = 128.0;
const INITIAL_THRESHOLD: f64 = 64.0;
/// Resends of one packet before the peer counts as gone.
const MOST_RESENDS: u32 = 8;
/// Times that a packet must be reported missing before it is sent again ahead of its timer.
const NACKS_FOR_LOSS: u8 = 3;
/// Sequence numbers in flight at most, or twice the window.
const SMALLEST_SPAN: u32 = 128;
/// Choked for the first time: ask again after this, then twice that, and so on.
const FIRST_PROBE: Duration = Duration::from_secs(1);
/// How long a peer that chokes may be silent in spite of probes.
const CHOKED_SILENCE: Duration = Duration::from_secs(180);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// On its way, as far as we know.
    Sent,
    /// To be sent again.
    Lost,
    Acked,
}

#[derive(Debug)]
struct Sent {
    payload: Vec<u8>,
    flags: u16,
    at: Instant,
    sends: u32,
    nacks: u8,
    fate: Fate,
}

/// Whether and when the stream ends in this direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Finish {
    /// The program may write more.
    No,
    /// Nothing more will be written; CLOSE is held back (see `Config::half_close`).
    Held,
    /// CLOSE goes out with or behind the last data.
    Wanted,
    /// It is sent, and resent like data.
    Sent,
}

/// How long less than a full packet may wait for more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Flush {
    /// While nothing is in flight.
    pub(crate) idle: Duration,
    /// While other packets are.
    pub(crate) busy: Duration,
}

/// What the peer's choke means now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Choke {
    Open,
    Choked { probe_at: Instant, wait: Duration },
}

/// What an acknowledgement said.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Acked {
    /// Packets acknowledged for the first time.
    pub(crate) packets: u32,
    /// Packets that it shows to be lost.
    pub(crate) lost: u32,
    pub(crate) sample: Option<Duration>,
}

#[derive(Debug)]
pub(crate) struct Sender {
    buffer: VecDeque<u8>,
    limit: usize,
    in_flight: VecDeque<Sent>,
    /// Sequence number of the first in flight.
    base: u32,
    window: f64,
    threshold: f64,
    /// A loss of this or an earlier packet has shrunk the window already.
    recover: Option<u32>,
    choke: Choke,
    pub(crate) finish: Finish,
    /// When the oldest byte of a packet that is not full was written.
    partial_since: Option<Instant>,
    last_progress: Instant,
    last_heard: Instant,
}

impl Sender {
    pub(crate) fn new(limit: usize, window: Option<f64>, now: Instant) -> Self {
        Self {
            buffer: VecDeque::new(),
            limit,
            in_flight: VecDeque::new(),
            base: 0,
            window: window.unwrap_or(INITIAL_WINDOW).clamp(1.0, LARGEST_WINDOW),
            threshold: INITIAL_THRESHOLD,
            recover: None,
            choke: Choke::Open,
            finish: Finish::No,
            partial_since: None,
            last_progress: now,
            last_heard: now,
        }
    }

    pub(crate) fn window(&self) -> f64 {
        self.window
    }

    pub(crate) fn room(&self) -> usize {
        match self.finish {
            Finish::No => self.limit - self.buffer.len(),
            _ => 0,
        }
    }

    /// Takes what fits.
    pub(crate) fn write(&mut self, data: &[u8], now: Instant) -> usize {
        let count = data.len().min(self.room());
        if count > 0 && self.buffer.is_empty() {
            self.partial_since = Some(now);
        }
        self.buffer.extend(&data[..count]);
        count
    }

    /// Everything written, and CLOSE if it was wanted, is acknowledged.
    pub(crate) fn is_idle(&self) -> bool {
        self.buffer.is_empty() && self.in_flight.is_empty()
    }

    pub(crate) fn buffered(&self) -> usize {
        self.buffer.len()
    }

    fn next(&self) -> u32 {
        self.base + self.in_flight.len() as u32
    }

    /// The number behind the last one sent: what a CLOSE beside a RESET carries.
    pub(crate) fn next_sequence(&self) -> u32 {
        self.next()
    }

    pub(crate) fn is_choked(&self) -> bool {
        self.choke != Choke::Open
    }

    /// The peer chokes us, or no longer does.
    pub(crate) fn set_choked(&mut self, choked: bool, now: Instant) {
        self.choke = match (choked, self.choke) {
            (false, _) => Choke::Open,
            (true, Choke::Open) => Choke::Choked {
                probe_at: now + FIRST_PROBE,
                wait: FIRST_PROBE,
            },
            (true, choked) => choked,
        };
    }

    pub(crate) fn heard(&mut self, now: Instant) {
        self.last_heard = now;
    }

    /// The peer has everything up to `through` except `nacks`. `None`: it acknowledges what was never sent.
    pub(crate) fn acked(&mut self, through: u32, nacks: &[u32], now: Instant) -> Option<Acked> {
        if through >= self.next() {
            return None;
        }
        let mut missing = nacks.to_vec();
        missing.sort_unstable();
        let was_full = self.unacked() as f64 >= self.window / 2.0;
        let mut result = Acked::default();
        let mut lost = None;
        let count = (through + 1).saturating_sub(self.base) as usize;
        for (index, sent) in self.in_flight.iter_mut().take(count).enumerate() {
            if sent.fate == Fate::Acked {
                continue;
            }
            let sequence = self.base + index as u32;
            if missing.binary_search(&sequence).is_ok() {
                sent.nacks = sent.nacks.saturating_add(1);
                if sent.nacks == NACKS_FOR_LOSS && sent.sends == 1 && sent.fate == Fate::Sent {
                    sent.fate = Fate::Lost;
                    lost = Some(sequence);
                    result.lost += 1;
                }
                continue;
            }
            if sent.sends == 1 {
                result.sample = Some(now.saturating_duration_since(sent.at));
            }
            sent.fate = Fate::Acked;
            sent.payload = Vec::new();
            result.packets += 1;
        }
        while self
            .in_flight
            .front()
            .is_some_and(|sent| sent.fate == Fate::Acked)
        {
            self.in_flight.pop_front();
            self.base += 1;
        }
        if result.packets > 0 {
            self.last_progress = now;
            if was_full {
                self.grow(result.packets);
            }
        }
        if let Some(sequence) = lost {
            self.shrink(sequence);
        }
        Some(result)
    }

    fn grow(&mut self, packets: u32) {
        let packets = f64::from(packets);
        if self.window < self.threshold {
            self.window = (self.window + packets).min(self.threshold);
        } else {
            self.window += packets / self.window;
        }
        self.window = self.window.min(LARGEST_WINDOW);
    }

    /// Once per window: only the loss of a packet that was sent after the last shrinking counts.
    fn shrink(&mut self, lost: u32) {
        if self.recover.is_none_or(|recover| lost > recover) {
            self.window = (self.window / 2.0).max(1.0);
            self.threshold = self.window;
            self.recover = Some(self.next().saturating_sub(1));
        }
    }

    fn unacked(&self) -> usize {
        self.in_flight
            .iter()
            .filter(|sent| sent.fate != Fate::Acked)
            .count()
    }

    fn due(&self, sent: &Sent, rtt: &Rtt) -> Instant {
        let back_off = rtt.rto() * (1 << (sent.sends - 1).min(9));
        sent.at.max(self.last_progress) + back_off.min(LARGEST)
    }

    /// Marks as lost what was not acknowledged in time; how many, and whether the peer must be given up.
    pub(crate) fn handle_timeout(&mut self, rtt: &Rtt, now: Instant) -> (u32, bool) {
        let due: Vec<usize> = self
            .in_flight
            .iter()
            .enumerate()
            .filter(|(_, sent)| sent.fate == Fate::Sent && self.due(sent, rtt) <= now)
            .map(|(index, _)| index)
            .collect();
        let silent = now.saturating_duration_since(self.last_heard);
        let mut gone = self.next() == u32::MAX;
        for &index in &due {
            let sent = &mut self.in_flight[index];
            sent.fate = Fate::Lost;
            gone |=
                sent.sends > MOST_RESENDS && (self.choke == Choke::Open || silent > CHOKED_SILENCE);
        }
        if let Some(&first) = due.first() {
            self.shrink(self.base + first as u32);
        }
        (due.len() as u32, gone)
    }

    /// When [`Self::handle_timeout`] or [`Self::next_packet`] has something to do.
    pub(crate) fn deadline(&self, rtt: &Rtt, flush: Flush) -> Option<Instant> {
        let resend = self
            .in_flight
            .iter()
            .filter(|sent| sent.fate == Fate::Sent)
            .map(|sent| self.due(sent, rtt))
            .min();
        let flush = match self.choke {
            Choke::Choked { probe_at, .. }
                if !self.buffer.is_empty() && self.in_flight.is_empty() =>
            {
                Some(probe_at)
            }
            Choke::Choked { .. } => None,
            Choke::Open if self.has_window() => {
                self.partial_since.map(|since| since + self.patience(flush))
            }
            Choke::Open => None,
        };
        [resend, flush].into_iter().flatten().min()
    }

    fn has_window(&self) -> bool {
        let span = SMALLEST_SPAN.max((2.0 * self.window) as u32);
        (self.unacked() as f64) < self.window.floor() && (self.in_flight.len() as u32) < span
    }

    pub(crate) fn is_started(&self) -> bool {
        self.base > 0 || !self.in_flight.is_empty()
    }

    /// The first packet of a stream: SYN, with what was written already.
    pub(crate) fn start(&mut self, mtu: usize, now: Instant) {
        debug_assert!(self.in_flight.is_empty() && self.base == 0);
        let length = mtu.min(self.buffer.len());
        let payload = self.buffer.drain(..length).collect();
        self.refresh_partial(now);
        self.in_flight.push_back(Sent {
            payload,
            flags: SYN,
            at: now,
            sends: 0,
            nacks: 0,
            fate: Fate::Lost,
        });
    }

    /// An empty packet that must be acknowledged: asks whether the peer is still there.
    pub(crate) fn keep_alive(&mut self, now: Instant) {
        self.push(Vec::new(), 0, now);
    }

    fn push(&mut self, payload: Vec<u8>, flags: u16, now: Instant) {
        self.in_flight.push_back(Sent {
            payload,
            flags,
            at: now,
            sends: 0,
            nacks: 0,
            fate: Fate::Lost,
        });
    }

    fn refresh_partial(&mut self, now: Instant) {
        self.partial_since = (!self.buffer.is_empty()).then_some(now);
    }

    /// How long less than a packet waits for more now.
    fn patience(&self, flush: Flush) -> Duration {
        match (self.finish, self.unacked()) {
            (Finish::No, 0) => flush.idle,
            (Finish::No, _) => flush.busy,
            _ => Duration::ZERO,
        }
    }

    /// The next packet to send: its number, and whether it goes out for the first time.
    pub(crate) fn next_packet(
        &mut self,
        mtu: usize,
        flush: Flush,
        now: Instant,
    ) -> Option<(u32, bool)> {
        if let Some(index) = self.resend() {
            return Some(self.mark(index, now));
        }
        if !self.may_send_new(mtu, flush, now) {
            return None;
        }
        let length = mtu.min(self.buffer.len());
        let payload = self.buffer.drain(..length).collect();
        self.refresh_partial(now);
        let mut flags = 0;
        if self.finish == Finish::Wanted && self.buffer.is_empty() {
            self.finish = Finish::Sent;
            flags = CLOSE;
        }
        self.push(payload, flags, now);
        Some(self.mark(self.in_flight.len() - 1, now))
    }

    /// The first lost packet, while not more than half a window is being sent again.
    fn resend(&self) -> Option<usize> {
        let first = self
            .in_flight
            .iter()
            .position(|sent| sent.fate == Fate::Lost)?;
        let oldest = self
            .in_flight
            .iter()
            .position(|sent| sent.fate != Fate::Acked);
        if oldest == Some(first) || self.in_flight[first].sends == 0 {
            return Some(first);
        }
        let resending = self
            .in_flight
            .iter()
            .filter(|sent| sent.fate == Fate::Sent && sent.sends > 1)
            .count();
        let allowed = (self.window as usize).div_ceil(2).max(1);
        (!self.is_choked() && resending < allowed).then_some(first)
    }

    fn may_send_new(&mut self, mtu: usize, flush: Flush, now: Instant) -> bool {
        let ends = self.finish == Finish::Wanted;
        if self.buffer.is_empty() && !ends {
            return false;
        }
        // a CLOSE without data is no data: a choke does not hold it
        if ends && self.buffer.is_empty() && self.is_choked() {
            return self.in_flight.is_empty();
        }
        if let Choke::Choked { probe_at, wait } = &mut self.choke {
            if now < *probe_at || !self.in_flight.is_empty() {
                return false;
            }
            *wait = (*wait * 2).min(LARGEST);
            *probe_at = now + *wait;
            return true;
        }
        // 2^32 packets are some 7 TB: such a stream stops, it does not wrap
        if !self.has_window() || self.next() == u32::MAX {
            return false;
        }
        let waited = self
            .partial_since
            .is_some_and(|since| since + self.patience(flush) <= now);
        self.buffer.len() >= mtu || ends || waited
    }

    fn mark(&mut self, index: usize, now: Instant) -> (u32, bool) {
        let sent = &mut self.in_flight[index];
        sent.fate = Fate::Sent;
        sent.at = now;
        sent.sends += 1;
        (self.base + index as u32, sent.sends == 1)
    }

    /// Payload and flags of a packet in flight.
    pub(crate) fn packet(&self, sequence: u32) -> Option<(&[u8], u16, u32)> {
        let sent = self
            .in_flight
            .get(sequence.checked_sub(self.base)? as usize)?;
        Some((&sent.payload, sent.flags, sent.sends))
    }

    /// Packets that the window still takes.
    pub(crate) fn window_left(&self) -> f64 {
        self.window - self.unacked() as f64
    }
}
