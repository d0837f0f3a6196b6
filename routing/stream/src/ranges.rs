//! A set of positions kept as disjoint ranges: what arrived out of order, what was acknowledged out of order.
use std::collections::BTreeMap;
use std::ops::Range;

/// Disjoint, non-touching half-open ranges. Every operation is O(log n) and what it removes.
#[derive(Default, Debug)]
pub(crate) struct RangeSet(BTreeMap<u64, u64>);

impl RangeSet {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn insert(&mut self, range: Range<u64>) {
        let Range { mut start, mut end } = range;
        if start >= end {
            return;
        }
        if let Some((&s, e)) = self.0.range_mut(..=start).next_back()
            && *e >= start
        {
            if *e >= end {
                return;
            }
            // The usual case in a run of packets behind a hole: the range grows at its end.
            let joins_next = self.0.range(start + 1..=end).next().is_some();
            if !joins_next {
                self.0.insert(s, end);
                return;
            }
            start = s;
        }
        while let Some((&s, &e)) = self.0.range(start..=end).next() {
            end = end.max(e);
            self.0.remove(&s);
        }
        self.0.insert(start, end);
    }

    /// The range that holds `x`.
    pub(crate) fn containing(&self, x: u64) -> Option<Range<u64>> {
        let (&start, &end) = self.0.range(..=x).next_back()?;
        (x < end).then_some(start..end)
    }

    /// The first part of `range` that is not in the set.
    pub(crate) fn first_gap(&self, range: Range<u64>) -> Option<Range<u64>> {
        let start = self.containing(range.start).map_or(range.start, |r| r.end);
        if start >= range.end {
            return None;
        }
        let end = self
            .0
            .range(start..range.end)
            .next()
            .map_or(range.end, |(&s, _)| s);
        Some(start..end)
    }

    pub(crate) fn last(&self) -> Option<Range<u64>> {
        self.0.last_key_value().map(|(&s, &e)| s..e)
    }

    /// Forgets everything below `x`.
    pub(crate) fn remove_below(&mut self, x: u64) {
        while let Some(mut first) = self.0.first_entry() {
            let (start, end) = (*first.key(), *first.get_mut());
            if start >= x {
                return;
            }
            first.remove();
            if end > x {
                self.0.insert(x, end);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn behaves_like_a_set_of_numbers(ops in prop::collection::vec((0u64..60, 0u64..12, any::<bool>()), 1..60)) {
            let (mut ranges, mut model) = (RangeSet::default(), BTreeSet::new());
            for (start, len, cut) in ops {
                if cut {
                    ranges.remove_below(start);
                    model.retain(|&x| x >= start);
                } else {
                    ranges.insert(start..start + len);
                    model.extend(start..start + len);
                }
                let held: Vec<u64> = ranges.0.iter().flat_map(|(&s, &e)| s..e).collect();
                prop_assert_eq!(&held, &model.iter().copied().collect::<Vec<_>>());
                let pairs: Vec<_> = ranges.0.iter().collect();
                prop_assert!(pairs.windows(2).all(|w| w[0].1 < w[1].0), "ranges touch: {:?}", ranges);
                let gap = ranges.first_gap(10..50);
                let first = (10..50).find(|x| !model.contains(x));
                prop_assert_eq!(gap.as_ref().map(|g| g.start), first);
                if let Some(gap) = gap {
                    prop_assert!(gap.clone().all(|x| !model.contains(&x)));
                    prop_assert!(gap.end == 50 || model.contains(&gap.end));
                }
                prop_assert_eq!(ranges.containing(30).is_some(), model.contains(&30));
            }
        }
    }
}
