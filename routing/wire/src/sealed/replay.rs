//! The replay window (Q20, RFC 6479): a ring of bit words that is cleared as it moves on, never shifted.

const WORDS: usize = 64;
const BITS: u64 = u64::BITS as u64;

/// Counters that lie this far behind the highest are refused: 4,032.
pub const WINDOW: u64 = (WORDS as u64 - 1) * BITS;

/// Which counters have been seen.
#[derive(Clone, Debug)]
pub(super) struct ReplayWindow {
    seen: [u64; WORDS],
    /// One more than the highest counter; 0 before the first.
    next: u64,
}

impl ReplayWindow {
    pub fn new() -> Self {
        Self {
            seen: [0; WORDS],
            next: 0,
        }
    }

    /// Whether `counter` is neither seen nor too old. Changes nothing: the tag is not checked yet.
    pub fn is_fresh(&self, counter: u64) -> bool {
        if counter >= self.next {
            return counter != u64::MAX;
        }
        self.next - 1 - counter < WINDOW && self.seen[word(counter)] & bit(counter) == 0
    }

    /// Marks a counter whose packet was authentic; `true` if it is the highest so far.
    pub fn mark(&mut self, counter: u64) -> bool {
        let newest = counter >= self.next;
        if newest {
            // Words between the old and the new highest have not been used in this turn of the ring.
            let current = self.next.checked_sub(1).map_or(0, |highest| highest / BITS);
            let steps = (counter / BITS - current).min(WORDS as u64);
            for step in 1..=steps {
                self.seen[(current + step) as usize % WORDS] = 0;
            }
            self.next = counter + 1;
        }
        self.seen[word(counter)] |= bit(counter);
        newest
    }

    /// Whether anything was received.
    pub fn is_empty(&self) -> bool {
        self.next == 0
    }
}

fn word(counter: u64) -> usize {
    (counter / BITS) as usize % WORDS
}

fn bit(counter: u64) -> u64 {
    1 << (counter % BITS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn accept(window: &mut ReplayWindow, counter: u64) -> bool {
        let fresh = window.is_fresh(counter);
        if fresh {
            window.mark(counter);
        }
        fresh
    }

    // Q20, S8
    #[test]
    fn the_window_has_at_least_2048_places() {
        const { assert!(WINDOW >= 2048) };
        let mut window = ReplayWindow::new();
        assert!(accept(&mut window, WINDOW));
        assert!(accept(&mut window, 1));
        assert!(!window.is_fresh(0), "just outside");
        assert!(!accept(&mut window, 1), "seen");
        assert!(accept(&mut window, WINDOW + 1));
        assert!(!window.is_fresh(1));
        assert!(accept(&mut window, 2));
    }

    // Q20
    #[test]
    fn the_last_counter_is_never_taken() {
        assert!(!ReplayWindow::new().is_fresh(u64::MAX));
    }

    proptest! {
        // Q20, S8: against a model that remembers everything
        #[test]
        fn it_agrees_with_a_set(steps in prop::collection::vec((0u64..3, 0u64..9000), 1..400)) {
            let mut window = ReplayWindow::new();
            let mut seen = BTreeSet::new();
            let mut highest: Option<u64> = None;
            for (kind, step) in steps {
                let base = highest.unwrap_or(0);
                let counter = match kind {
                    0 => base + step % 70,
                    1 => base.saturating_sub(step),
                    _ => base + step,
                };
                let expected = !seen.contains(&counter)
                    && highest.is_none_or(|h| counter > h || h - counter < WINDOW);
                prop_assert_eq!(accept(&mut window, counter), expected);
                if expected {
                    seen.insert(counter);
                    highest = highest.max(Some(counter));
                }
            }
        }
    }
}
