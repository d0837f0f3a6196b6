//! Loss recovery: RACK and tail-loss probes (RFC 8985), proportional rate reduction (RFC 9937), the retransmission
//! timer (RFC 6298), and taking a reduction back that reordering or a delay spike had caused.
use crate::rtt::Rtt;
use crate::scoreboard::{Acked, Scoreboard};
use std::time::{Duration, Instant};

/// The longest time by which a receiver of ours holds an acknowledgement back.
pub(crate) const MAX_ACK_DELAY: Duration = Duration::from_millis(25);
/// Widest reordering window, in quarters of the smallest round trip; the smoothed round trip bounds it as well.
const LARGEST_REORDERING: u32 = 16;
/// Recoveries without a spurious retransmission after which the window narrows again (RFC 8985 §6.2 step 4).
const REORDERING_PERSISTS: u8 = 16;

/// Timeouts in a row that do not double the next one while fewer than `THIN` packets wait, as Linux does for thin
/// streams: with a loss of 30 % both ways doubling alone would leave some streams silent until they are given up.
const LINEAR_TIMEOUTS: u32 = 6;
/// See `LINEAR_TIMEOUTS`.
pub(crate) const THIN: usize = 4;

/// Without progress for so long, another path counts as the end of a silence (DESIGN §7).
const SILENCE: Duration = Duration::from_millis(100);

/// What recovery is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cause {
    Loss,
    Timeout,
}

/// One recovery, from the first loss until everything sent before it is acknowledged.
#[derive(Clone, Copy, Debug)]
struct Episode {
    cause: Cause,
    /// It ends when all below this is acknowledged.
    end: u64,
    /// Retransmissions sent, and how many of them proved needless.
    resent: u32,
    spurious: u32,
    /// Messages that acknowledged something since.
    acks: u32,
    /// Proportional rate reduction: bytes in flight at the start, delivered since, sent since, and the window.
    flight: usize,
    delivered: usize,
    out: usize,
    window: usize,
}

/// What the sender has to do after an acknowledgement or a timer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    Nothing,
    /// Loss begins: tell congestion control.
    Reduce,
    /// It had not been loss: take the reduction back.
    Undo,
}

/// A tail-loss probe under way.
#[derive(Clone, Copy, Debug)]
struct Probe {
    /// Answered when this position is acknowledged.
    end: u64,
    repeated: bool,
}

/// Which timer of the sender ran out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Timer {
    /// Look for losses again.
    Reordering,
    /// Send a tail-loss probe.
    Probe,
    /// The retransmission timeout.
    Retransmit,
}

/// Loss recovery of one stream.
#[derive(Debug)]
pub(crate) struct Recovery {
    newest: Option<(Instant, u64)>,
    newest_rtt: Duration,
    reordering_seen: bool,
    reordering: u32,
    reordering_persists: u8,
    look_again: Option<Instant>,
    episode: Option<Episode>,
    probe: Option<Probe>,
    backoff: u32,
    /// Timeouts of these that were another path's, and double nothing on this one.
    forgiven: u32,
    /// What the retransmission timer counts from: the last progress or timeout.
    since: Instant,
    last_sent: Instant,
}

impl Recovery {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            newest: None,
            newest_rtt: Duration::ZERO,
            reordering_seen: false,
            reordering: 1,
            reordering_persists: 0,
            look_again: None,
            episode: None,
            probe: None,
            backoff: 0,
            forgiven: 0,
            since: now,
            last_sent: now,
        }
    }

    pub(crate) fn backoff(&self) -> u32 {
        self.backoff
    }

    /// The peer has only now begun to listen: what was sent before says nothing of the path.
    pub(crate) fn peer_listens(&mut self, now: Instant) {
        self.backoff = 0;
        self.forgiven = 0;
        self.since = now;
    }

    pub(crate) fn last_sent(&self) -> Instant {
        self.last_sent
    }

    pub(crate) fn in_recovery(&self) -> bool {
        self.episode.is_some()
    }

    /// The window in a recovery from loss; after a timeout congestion control's own counts.
    pub(crate) fn window(&self) -> Option<usize> {
        self.episode
            .as_ref()
            .filter(|e| e.cause == Cause::Loss)
            .map(|e| e.window)
    }

    /// Whether congestion control hears of acknowledgements: not while a loss is repaired.
    pub(crate) fn may_grow(&self) -> bool {
        self.window().is_none()
    }

    /// A packet left. `was_idle`: nothing was outstanding before.
    pub(crate) fn on_sent(&mut self, now: Instant, bytes: usize, again: bool, was_idle: bool) {
        self.last_sent = now;
        if was_idle {
            self.since = now;
        }
        if let Some(episode) = &mut self.episode {
            episode.out += bytes;
            episode.resent += u32::from(again);
        }
    }

    fn reordering_window(&self, board: &Scoreboard, rtt: &Rtt) -> Duration {
        // RFC 8985 §6.2 step 4
        if !self.reordering_seen && (self.in_recovery() || board.has_dup_threshold()) {
            return Duration::ZERO;
        }
        let minimum = rtt.minimum().unwrap_or_default();
        (minimum * self.reordering / 4).min(rtt.smoothed().unwrap_or(minimum))
    }

    /// Acknowledgements were entered into the scoreboard.
    pub(crate) fn on_ack(
        &mut self,
        now: Instant,
        acked: &Acked,
        board: &mut Scoreboard,
        rtt: &Rtt,
    ) -> Verdict {
        self.since = now;
        self.backoff = 0;
        self.forgiven = 0;
        if acked.newest > self.newest {
            self.newest = acked.newest;
            if let Some((sent, _)) = acked.newest {
                self.newest_rtt = now.saturating_duration_since(sent);
            }
        }
        self.reordering_seen |= acked.reordered;
        if acked.spurious > 0 {
            self.reordering_seen = true;
            self.reordering = (self.reordering + 1).min(LARGEST_REORDERING);
            self.reordering_persists = REORDERING_PERSISTS;
        }
        let mut verdict = Verdict::Nothing;
        if let Some(probe) = self.probe
            && acked.highest >= Some(probe.end)
        {
            self.probe = None;
            // RFC 8985 §7.4: the probe repaired a loss that nothing else would have shown.
            if probe.repeated && acked.repaired > 0 && !self.in_recovery() {
                verdict = Verdict::Reduce;
            }
        }
        if let Some(episode) = &mut self.episode {
            episode.spurious += acked.spurious;
            // RFC 3522: an answer that comes too soon after a timeout's retransmission is that of the first one. And as
            // RFC 5682 §3: the first acknowledgement after a timeout names all that had arrived; when a later one names
            // a packet that was not sent again, the first transmissions were only late.
            let revived = episode.acks > 0 && acked.revived > 0;
            let late = episode.cause == Cause::Timeout && (acked.spurious > 0 || revived);
            episode.acks += 1;
            if late || (episode.resent > 0 && episode.spurious >= episode.resent) {
                self.episode = None;
                board.unlose();
                verdict = Verdict::Undo;
            } else if board.una() >= episode.end {
                let cause = episode.cause;
                self.episode = None;
                if cause == Cause::Loss && acked.spurious == 0 {
                    self.reordering_persists = self.reordering_persists.saturating_sub(1);
                    if self.reordering_persists == 0 {
                        self.reordering = 1;
                    }
                }
            }
        }
        if self.detect(now, board, rtt) > 0 && self.episode.is_none() {
            verdict = Verdict::Reduce;
        }
        verdict
    }

    /// Looks for losses; returns how many there were.
    pub(crate) fn detect(&mut self, now: Instant, board: &mut Scoreboard, rtt: &Rtt) -> usize {
        let Some(newest) = self.newest else { return 0 };
        let patience = self.newest_rtt + self.reordering_window(board, rtt);
        let (lost, again) = board.detect_lost(now, newest, patience);
        self.look_again = again;
        lost
    }

    /// Recovery from loss begins; congestion control has reduced its window.
    pub(crate) fn begin(&mut self, board: &Scoreboard, flight: usize) {
        self.episode = Some(Episode {
            cause: Cause::Loss,
            end: board.next(),
            resent: 0,
            spurious: 0,
            acks: 0,
            flight: flight.max(1),
            delivered: 0,
            out: 0,
            window: 0,
        });
    }

    /// Sets the window of a recovery after an acknowledgement of `delivered` bytes (RFC 9937 §6.2).
    pub(crate) fn reduce_proportionally(
        &mut self,
        delivered: usize,
        advanced: bool,
        board: &Scoreboard,
        threshold: usize,
        mss: usize,
    ) {
        let Some(episode) = self.episode.as_mut().filter(|e| e.cause == Cause::Loss) else {
            return;
        };
        episode.delivered += delivered;
        let pipe = board.in_flight();
        let quota = if pipe > threshold {
            let share = (episode.delivered as u64 * threshold as u64)
                .div_ceil(episode.flight as u64) as usize;
            share.saturating_sub(episode.out)
        } else {
            let mut limit = episode.delivered.saturating_sub(episode.out).max(delivered);
            if advanced {
                limit += mss;
            }
            threshold.saturating_sub(pipe).min(limit)
        };
        // The first retransmission always leaves.
        let quota = if episode.out == 0 {
            quota.max(mss)
        } else {
            quota
        };
        episode.window = pipe + quota;
    }

    /// When which timer runs out.
    pub(crate) fn timer(&self, board: &Scoreboard, rtt: &Rtt) -> Option<(Instant, Timer)> {
        if !board.is_outstanding() {
            return None;
        }
        let retransmit = (
            self.since + rtt.rto_after(self.doublings(board)),
            Timer::Retransmit,
        );
        if let Some(at) = self.look_again {
            return Some((at, Timer::Reordering).min_by_time(retransmit));
        }
        if self.probe.is_none()
            && self.episode.is_none()
            && self.backoff == 0
            && board.in_flight_packets() > 0
        {
            let Some(smoothed) = rtt.smoothed() else {
                return Some(retransmit);
            };
            let mut wait = smoothed * 2;
            // RFC 8985 §7.2: a lone packet's acknowledgement may be held back.
            if board.in_flight_packets() == 1 {
                wait += MAX_ACK_DELAY;
            }
            let probe = self.last_sent.max(self.since) + wait.max(Duration::from_millis(1));
            return Some((probe, Timer::Probe).min_by_time(retransmit));
        }
        Some(retransmit)
    }

    /// A tail-loss probe leaves: new data, or the newest packet repeated.
    pub(crate) fn on_probe(&mut self, board: &Scoreboard, repeated: bool) {
        self.probe = Some(Probe {
            end: board.next().saturating_sub(1),
            repeated,
        });
    }

    fn doublings(&self, board: &Scoreboard) -> u32 {
        let on_this_path = self.backoff.saturating_sub(self.forgiven);
        match board.is_thin() {
            true => on_this_path.saturating_sub(LINEAR_TIMEOUTS),
            false => on_this_path,
        }
    }

    /// There is a way again after a silence: the timer runs out at once, and what follows is not doubled for the silence.
    /// Nothing else is forgotten: whoever calls this at every whim makes one packet leave, no more.
    pub(crate) fn resume(&mut self, now: Instant, rtt: &Rtt) {
        if self.backoff > 0 || now.saturating_duration_since(self.since) >= SILENCE {
            self.forgiven = self.backoff;
            self.since = now.checked_sub(rtt.rto_after(0)).unwrap_or(now);
            // That it runs out now is not this path's fault either.
            self.forgiven += 1;
        }
    }

    /// The retransmission timer ran out. True: the first time in a row, congestion control is to hear of it.
    pub(crate) fn on_timeout(&mut self, now: Instant, board: &mut Scoreboard) -> bool {
        let first = self.backoff == 0;
        self.backoff += 1;
        self.since = now;
        self.look_again = None;
        self.probe = None;
        board.all_lost();
        self.episode = Some(Episode {
            cause: Cause::Timeout,
            end: board.next(),
            resent: 0,
            spurious: 0,
            acks: 0,
            flight: 1,
            delivered: 0,
            out: 0,
            window: 0,
        });
        first
    }
}

trait MinByTime {
    fn min_by_time(self, other: Self) -> Self;
}

impl MinByTime for (Instant, Timer) {
    fn min_by_time(self, other: Self) -> Self {
        if other.0 < self.0 { other } else { self }
    }
}
