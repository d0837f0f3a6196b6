//! Tiers of trackers (BEP 12), for whoever wants one answer and not a meeting point.

use crate::rendezvous::below;
use crate::url::TrackerUrl;
use rand_core::CryptoRng;

/// Trackers in tiers: each tier is shuffled once, and the tracker that answers moves to the front of its tier. A
/// rendezvous does not use this: it announces to all ([`crate::client`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tiers(Vec<Vec<TrackerUrl>>);

impl Tiers {
    /// Shuffles every tier.
    pub fn new(mut tiers: Vec<Vec<TrackerUrl>>, rng: &mut dyn CryptoRng) -> Self {
        for tier in &mut tiers {
            for at in (1..tier.len()).rev() {
                tier.swap(at, below(at + 1, rng));
            }
        }
        Self(tiers)
    }

    /// The trackers in the order in which they are to be tried, until one answers.
    pub fn order(&self) -> impl Iterator<Item = &TrackerUrl> {
        self.0.iter().flatten()
    }

    /// This one has answered.
    pub fn answered(&mut self, url: &TrackerUrl) {
        for tier in &mut self.0 {
            if let Some(at) = tier.iter().position(|other| other == url) {
                tier[..=at].rotate_right(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use std::collections::BTreeSet;

    fn urls(names: &str) -> Vec<TrackerUrl> {
        names
            .chars()
            .map(|name| format!("http://{name}/").parse().unwrap())
            .collect()
    }

    fn order(tiers: &Tiers) -> String {
        tiers.order().map(TrackerUrl::host).collect()
    }

    #[test]
    fn tiers_keep_their_order_and_are_shuffled_inside() {
        let mut rng = StdRng::seed_from_u64(1);
        let orders: BTreeSet<_> = (0..200)
            .map(|_| order(&Tiers::new(vec![urls("abc"), urls("de"), vec![]], &mut rng)))
            .collect();
        assert_eq!(orders.len(), 6 * 2, "every order of each tier");
        assert!(
            orders
                .iter()
                .all(|order| order[..3].chars().all(|name| "abc".contains(name)))
        );
    }

    #[test]
    fn whoever_answers_moves_to_the_front_of_its_tier() {
        let mut tiers = Tiers(vec![urls("abc"), urls("de")]);
        for (name, expected) in [
            ("c", "cabde"),
            ("e", "cabed"),
            ("a", "acbed"),
            ("a", "acbed"),
            ("x", "acbed"),
        ] {
            tiers.answered(&urls(name)[0]);
            assert_eq!(order(&tiers), expected);
        }
    }
}
