//! CUBIC (RFC 9438), with HyStart++ for its slow start. The arithmetic is in packets, as the RFC's.
use super::hystart::{CSS_GROWTH_DIVISOR, HyStart};
use super::{
    AckSample, Congestion, CongestionControl, INITIAL_WINDOW_PACKETS, SMALLEST_WINDOW_PACKETS,
    decayed,
};
use std::time::{Duration, Instant};

/// Multiplicative decrease (RFC 9438 §4.6).
const BETA: f64 = 0.7;
/// Decrease on an ECN mark (RFC 8511: the queue was short).
const BETA_ECN: f64 = 0.85;
/// Aggressiveness, packets/s³ (RFC 9438 §5).
const C: f64 = 0.4;
/// Slope of the Reno-friendly window (RFC 9438 §4.3).
const ALPHA: f64 = 3.0 * (1.0 - BETA) / (1.0 + BETA);

/// What an undo restores.
#[derive(Clone, Copy, Debug)]
struct Saved {
    window: f64,
    threshold: f64,
    w_max: f64,
}

/// One epoch of congestion avoidance.
#[derive(Clone, Copy, Debug)]
struct Epoch {
    start: Instant,
    /// Seconds until the cubic reaches `origin` again.
    k: f64,
    origin: f64,
    /// The window that Reno would have.
    reno: f64,
    /// When growth was last possible; time in which the program sent too little does not count.
    active: Instant,
}

/// CUBIC's state; windows in packets.
#[derive(Debug)]
pub struct Cubic {
    mss: f64,
    window: f64,
    threshold: f64,
    w_max: f64,
    epoch: Option<Epoch>,
    hystart: Option<HyStart>,
    before: Option<Saved>,
}

impl Cubic {
    /// With the initial window.
    pub fn new(mss: usize) -> Self {
        Self {
            mss: mss.max(1) as f64,
            window: INITIAL_WINDOW_PACKETS as f64,
            threshold: f64::INFINITY,
            w_max: 0.0,
            epoch: None,
            hystart: Some(HyStart::new()),
            before: None,
        }
    }

    fn slow_start(&mut self, ack: &AckSample) {
        let mut grown = ack.bytes as f64 / self.mss;
        if let Some(hystart) = &mut self.hystart {
            if hystart.on_ack(ack.round_start, ack.sample) {
                self.hystart = None;
                self.threshold = self.window;
                return;
            }
            if hystart.is_conservative() {
                grown /= CSS_GROWTH_DIVISOR as f64;
            }
        }
        self.window = (self.window + grown).min(self.threshold);
    }

    fn avoidance(&mut self, ack: &AckSample) {
        let rtt = ack
            .smoothed
            .or(ack.minimum)
            .unwrap_or(Duration::from_millis(100))
            .as_secs_f64();
        let (window, w_max) = (self.window, self.w_max);
        let epoch = self.epoch.get_or_insert_with(|| {
            // §4.2: after a reduction the cubic climbs back to W_max; after slow start it starts from here.
            let below = w_max > window;
            let k = if below {
                ((w_max - window) / C).cbrt()
            } else {
                0.0
            };
            Epoch {
                start: ack.now,
                k,
                origin: w_max.max(window),
                reno: window,
                active: ack.now,
            }
        });
        epoch.active = ack.now;
        let acked = ack.bytes as f64 / self.mss;
        let t = ack.now.saturating_duration_since(epoch.start).as_secs_f64();
        let cubic = |t: f64| C * (t - epoch.k).powi(3) + epoch.origin;
        let target = cubic(t + rtt).clamp(window, window * 1.5);
        // §4.3: α is 1 once Reno would have reached W_max.
        let alpha = if epoch.reno >= w_max { 1.0 } else { ALPHA };
        epoch.reno += alpha * acked / window;
        if cubic(t) < epoch.reno {
            self.window = window.max(epoch.reno);
        } else {
            self.window += (target - window) / window * acked;
        }
    }
}

impl CongestionControl for Cubic {
    fn window(&self) -> usize {
        (self.window * self.mss) as usize
    }

    fn slow_start_threshold(&self) -> usize {
        // An infinite threshold saturates.
        (self.threshold * self.mss) as usize
    }

    fn in_slow_start(&self) -> bool {
        self.window < self.threshold
    }

    fn on_ack(&mut self, ack: &AckSample) {
        if !ack.window_limited {
            // §5.8: shift the epoch by the time in which the window was not the limit.
            if let Some(epoch) = &mut self.epoch {
                epoch.start += ack.now.saturating_duration_since(epoch.active);
                epoch.active = ack.now;
            }
            return;
        }
        if self.in_slow_start() {
            self.slow_start(ack)
        } else {
            self.avoidance(ack)
        }
    }

    fn on_congestion(&mut self, _now: Instant, kind: Congestion, in_flight: usize) {
        self.before = Some(Saved {
            window: self.window,
            threshold: self.threshold,
            w_max: self.w_max,
        });
        // §4.7, fast convergence: give room to newcomers.
        self.w_max = if self.window < self.w_max {
            self.window * (1.0 + BETA) / 2.0
        } else {
            self.window
        };
        let smallest = SMALLEST_WINDOW_PACKETS as f64;
        let reduced = match kind {
            Congestion::Loss => self.window * BETA,
            Congestion::Ecn => self.window * BETA_ECN,
            // §4.8: as RFC 5681, from what was really in flight.
            Congestion::Timeout => self.window.min(in_flight as f64 / self.mss) * BETA,
        };
        self.threshold = reduced.max(smallest);
        self.window = if kind == Congestion::Timeout {
            smallest
        } else {
            self.threshold
        };
        self.epoch = None;
        // RFC 9406 §4.3: only the first slow start of a connection.
        self.hystart = None;
    }

    fn undo(&mut self, _now: Instant) {
        if let Some(saved) = self.before.take() {
            self.window = self.window.max(saved.window);
            self.threshold = saved.threshold;
            self.w_max = saved.w_max;
            self.epoch = None;
        }
    }

    fn on_idle(&mut self, _now: Instant, idle: Duration, rto: Duration) {
        self.threshold = self.threshold.max(self.window * 0.75);
        self.window = decayed(self.window(), self.mss as usize, idle, rto) as f64 / self.mss;
        self.epoch = None;
    }

    fn set_mss(&mut self, mss: usize) {
        self.mss = mss.max(1) as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(now: Instant, bytes: usize, rtt: Duration, limited: bool) -> AckSample {
        AckSample {
            now,
            bytes,
            sample: Some(rtt),
            smoothed: Some(rtt),
            minimum: Some(rtt),
            round_start: true,
            window_limited: limited,
            window_bound: limited,
            in_flight: 0,
            rate: None,
        }
    }

    /// Runs `rounds` round trips of a full window each.
    fn run(cubic: &mut Cubic, now: &mut Instant, rtt: Duration, rounds: usize) {
        for _ in 0..rounds {
            *now += rtt;
            let window = cubic.window();
            cubic.on_ack(&ack(*now, window, rtt, true));
        }
    }

    #[test]
    fn the_window_climbs_back_to_w_max_after_k_seconds() {
        let mut now = Instant::now();
        let mut cubic = Cubic::new(1000);
        cubic.window = 1000.0;
        cubic.on_congestion(now, Congestion::Loss, 1_000_000);
        assert_eq!(cubic.window(), 700_000, "β is 0.7");
        // K = cbrt(1000 * 0.3 / 0.4) = 9.09 s
        let rtt = Duration::from_millis(100);
        run(&mut cubic, &mut now, rtt, 60);
        let plateau = cubic.window();
        assert!((930_000..1_000_000).contains(&plateau), "{plateau}");
        run(&mut cubic, &mut now, rtt, 31);
        let at_k = cubic.window();
        assert!((985_000..1_015_000).contains(&at_k), "{at_k}");
        run(&mut cubic, &mut now, rtt, 60);
        assert!(
            cubic.window() > 1_080_000,
            "convex again: {}",
            cubic.window()
        );
    }

    #[test]
    fn short_round_trips_grow_like_reno() {
        let mut now = Instant::now();
        let mut cubic = Cubic::new(1000);
        cubic.window = 20.0;
        cubic.on_congestion(now, Congestion::Loss, 20_000);
        run(&mut cubic, &mut now, Duration::from_millis(1), 100);
        // 14 + 6 packets with α = 0.53, then one a round trip.
        assert!(
            (95_000..125_000).contains(&cubic.window()),
            "{}",
            cubic.window()
        );
    }

    #[test]
    fn fast_convergence_and_undo() {
        let now = Instant::now();
        let mut cubic = Cubic::new(1000);
        cubic.window = 100.0;
        cubic.on_congestion(now, Congestion::Loss, 0);
        cubic.on_congestion(now, Congestion::Loss, 0);
        assert!((cubic.w_max - 59.5).abs() < 1e-9, "{}", cubic.w_max);
        cubic.undo(now);
        assert_eq!(cubic.window(), 70_000);
        assert!((cubic.w_max - 100.0).abs() < 1e-9);
    }

    #[test]
    fn a_program_that_sends_little_does_not_grow_the_window() {
        let mut now = Instant::now();
        let mut cubic = Cubic::new(1000);
        for _ in 0..100 {
            now += Duration::from_millis(10);
            cubic.on_ack(&ack(now, 1000, Duration::from_millis(10), false));
        }
        assert_eq!(cubic.window(), 10_000);
    }
}
