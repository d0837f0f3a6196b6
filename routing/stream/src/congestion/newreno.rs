//! NewReno: RFC 5681 with byte counting (RFC 3465).
use super::{
    AckSample, Congestion, CongestionControl, INITIAL_WINDOW_PACKETS, SMALLEST_WINDOW_PACKETS,
    decayed,
};
use std::time::{Duration, Instant};

/// Additive increase, halving on loss.
#[derive(Debug)]
pub struct NewReno {
    mss: usize,
    window: usize,
    threshold: usize,
    /// Bytes acknowledged towards the next increase.
    counted: usize,
    /// Window and threshold before the last reduction.
    before: Option<(usize, usize)>,
}

impl NewReno {
    /// With the initial window.
    pub fn new(mss: usize) -> Self {
        Self {
            mss,
            window: INITIAL_WINDOW_PACKETS * mss,
            threshold: usize::MAX,
            counted: 0,
            before: None,
        }
    }
}

impl CongestionControl for NewReno {
    fn window(&self) -> usize {
        self.window
    }

    fn slow_start_threshold(&self) -> usize {
        self.threshold
    }

    fn on_ack(&mut self, ack: &AckSample) {
        if !ack.window_limited {
            return;
        }
        if self.in_slow_start() {
            self.window = (self.window + ack.bytes).min(self.threshold.max(self.window));
        } else {
            self.counted += ack.bytes;
            if self.counted >= self.window {
                self.counted -= self.window;
                self.window += self.mss;
            }
        }
    }

    fn on_congestion(&mut self, _now: Instant, kind: Congestion, in_flight: usize) {
        self.before = Some((self.window, self.threshold));
        let base = if kind == Congestion::Timeout {
            in_flight.min(self.window)
        } else {
            self.window
        };
        self.threshold = (base / 2).max(SMALLEST_WINDOW_PACKETS * self.mss);
        let smallest = SMALLEST_WINDOW_PACKETS * self.mss;
        self.window = if kind == Congestion::Timeout {
            smallest
        } else {
            self.threshold
        };
        self.counted = 0;
    }

    fn undo(&mut self, _now: Instant) {
        if let Some((window, threshold)) = self.before.take() {
            self.window = self.window.max(window);
            self.threshold = threshold;
        }
    }

    fn on_idle(&mut self, _now: Instant, idle: Duration, rto: Duration) {
        self.threshold = self.threshold.max(self.window / 4 * 3);
        self.window = decayed(self.window, self.mss, idle, rto);
    }

    fn set_mss(&mut self, mss: usize) {
        self.window = (self.window as u64 * mss as u64 / self.mss.max(1) as u64) as usize;
        self.mss = mss;
    }
}
