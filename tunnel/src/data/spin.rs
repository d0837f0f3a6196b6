//! A look around before going to sleep.
//!
//! A thread that sleeps has to be woken, and that costs its waker and itself some 10 µs: while packets come in quick succession,
//! as much as the rest of a turn. So the data thread then polls for a moment before it sleeps, as a kernel polls before it halts
//! a processor. Between two looks it yields, so that whoever has work goes first. Where packets are rare, or others want the
//! processor, it sleeps at once.

use std::io;
use std::time::{Duration, Instant};

/// A sleep that ends within this time was short: the processor was somebody else's for part of it, perhaps.
const SHORT: Duration = Duration::from_micros(300);
/// So long is looked at most, without what others did meanwhile.
const LOOK: Duration = Duration::from_micros(100);
/// A yield that took longer has let somebody else work.
const ALONE: Duration = Duration::from_micros(5);
/// The waits that are remembered. A look that finds nothing wipes the memory.
const LAST: u8 = 0b1111;
/// So many of them have to be short. Not half of them: where questions come one by one, every second wait is short, and a sleeper
/// leaves its processor, with warm caches, to the one who answers.
const MOST: u32 = 3;
/// Who yields and is away for so long has lost its place to somebody who computes, and would miss its packet: a sleeper is
/// woken for it. Programs that send and receive need less.
const AWAY: Duration = Duration::from_millis(1);
/// Waits without a look after that, at first, and as many as they become by doubling: such a loss is some 3 ms, as much as a few
/// hundred looks gain.
const PENANCE: u32 = 256;
const LONGEST_PENANCE: u32 = 16_384;
/// So many looks in a row that found something let the losses be forgotten.
const FORGIVEN: u32 = 1024;

/// Whether looking pays, by the waits of late.
#[derive(Debug, Default)]
struct Habit {
    /// A bit for each of the last waits, the newest lowest: 1 for a short one.
    short: u8,
    /// How many waits the last penance took.
    penance: u32,
    /// How many of them are left.
    left: u32,
    /// Looks that found something since then.
    found: u32,
}

impl Habit {
    /// Whether the wait that begins starts with a look.
    fn looks(&mut self) -> bool {
        if self.left > 0 {
            self.left -= 1;
            return false;
        }
        (self.short & LAST).count_ones() >= MOST
    }

    fn ended(&mut self, short: bool) {
        self.short = self.short << 1 | u8::from(short);
    }

    fn missed(&mut self) {
        self.short = 0;
    }

    fn found(&mut self) {
        self.ended(true);
        self.found = self.found.saturating_add(1);
        if self.found >= FORGIVEN {
            self.penance = 0;
        }
    }

    fn displaced(&mut self) {
        self.penance = (self.penance * 2).clamp(PENANCE, LONGEST_PENANCE);
        self.left = self.penance;
        self.found = 0;
    }
}

/// Waits until something is ready or so much time has passed; how many are. `None` waits for ever, no time only looks.
pub type Poll<'a> = dyn FnMut(Option<Duration>) -> io::Result<usize> + 'a;

/// Waits, with a look around first where that pays.
#[derive(Debug, Default)]
pub struct Spin {
    habit: Habit,
}

impl Spin {
    /// As `poll`, from `start` on.
    pub fn wait(
        &mut self,
        poll: &mut Poll<'_>,
        start: Instant,
        timeout: Option<Duration>,
    ) -> io::Result<usize> {
        if timeout == Some(Duration::ZERO) {
            return poll(timeout);
        }
        if !self.habit.looks() {
            let ready = poll(timeout)?;
            self.habit.ended(ready > 0 && start.elapsed() < SHORT);
            return Ok(ready);
        }
        let ready = self.look(poll, start, timeout)?;
        if ready > 0 {
            return Ok(ready);
        }
        poll(timeout.map(|timeout| timeout.saturating_sub(start.elapsed())))
    }

    fn look(
        &mut self,
        poll: &mut Poll<'_>,
        start: Instant,
        timeout: Option<Duration>,
    ) -> io::Result<usize> {
        let mut spent = Duration::ZERO;
        let mut now = start;
        while spent < LOOK && timeout.is_none_or(|timeout| now - start < timeout) {
            let ready = poll(Some(Duration::ZERO))?;
            if ready > 0 {
                self.habit.found();
                return Ok(ready);
            }
            std::thread::yield_now();
            let back = Instant::now();
            let away = back - now;
            if away > AWAY {
                self.habit.displaced();
                break;
            }
            spent += away.min(ALONE);
            now = back;
        }
        self.habit.missed();
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use anode_platform::wait::WaitSet;
    use anode_platform::wake::Wake;

    use super::*;

    fn looks(habit: &mut Habit, times: usize) -> usize {
        (0..times).filter(|_| habit.looks()).count()
    }

    #[test]
    fn it_looks_where_most_of_the_last_waits_were_short() {
        for (waits, wanted) in [
            (&[][..], false),
            (&[true, true], false),
            (&[true, true, true], true),
            (&[false, true, true, true], true),
            (&[true, true, true, false], true),
            (&[true, true, false, true, false], false),
            (&[true, false, true, false, true, false], false),
        ] {
            let mut habit = Habit::default();
            waits.iter().for_each(|short| habit.ended(*short));
            assert_eq!(habit.looks(), wanted, "{waits:?}");
        }
    }

    #[test]
    fn a_look_that_finds_nothing_is_not_repeated_at_once() {
        let mut habit = Habit {
            short: LAST,
            ..Habit::default()
        };
        assert!(habit.looks());
        habit.missed();
        for _ in 0..MOST {
            assert!(!habit.looks());
            habit.ended(true);
        }
        assert!(habit.looks());
    }

    #[test]
    fn a_busy_processor_keeps_it_from_looking_twice_as_long_each_time() {
        let mut habit = Habit {
            short: LAST,
            ..Habit::default()
        };
        for pause in [256, 512, 1024, 2048, 4096, 8192, 16_384, 16_384] {
            habit.displaced();
            assert_eq!(looks(&mut habit, pause), 0);
            assert!(habit.looks());
            habit.found();
        }
        for _ in 0..FORGIVEN {
            habit.found();
        }
        habit.displaced();
        assert_eq!(looks(&mut habit, 512), 256, "it went well for long");
    }

    #[test]
    fn it_waits_as_long_as_it_is_told_and_ends_when_something_is_ready() {
        let (wake, mut set) = (Wake::new().unwrap(), WaitSet::new().unwrap());
        set.watch(&wake, 0).unwrap();
        let mut spin = Spin::default();
        for habit in [0, LAST] {
            spin.habit.short = habit;
            let mut wait = |micros| {
                let start = Instant::now();
                let timeout = Some(Duration::from_micros(micros));
                let ready = spin.wait(&mut |timeout| set.wait(timeout), start, timeout);
                (ready.unwrap(), start.elapsed())
            };
            for micros in [0, 30, 3_000] {
                let (ready, took) = wait(micros);
                assert_eq!(ready, 0);
                assert!(took >= Duration::from_micros(micros), "{took:?}");
            }
            wake.wake();
            assert_eq!(wait(10_000_000).0, 1);
            wake.drain();
        }
    }
}
