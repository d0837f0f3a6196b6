//! What the responder did and what it dropped.

use std::sync::atomic::{AtomicU64, Ordering};

/// One number that only grows.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// One more.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How many.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $field:ident => $name:literal,)*) => {
        /// Of one responder.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[$doc])* pub $field: Count,)*
        }

        impl Counters {
            /// As the metrics have them.
            pub fn all(&self) -> Vec<(String, u64)> {
                vec![$(($name.to_owned(), self.$field.get()),)*]
            }
        }
    };
}

counters! {
    /// Questions over UDP.
    udp => "anode_dns_questions_total{transport=\"udp\"}",
    /// Questions over TCP.
    tcp => "anode_dns_questions_total{transport=\"tcp\"}",
    /// Answers with records.
    found => "anode_dns_answers_total{result=\"found\"}",
    /// The name exists and has no such record.
    empty => "anode_dns_answers_total{result=\"empty\"}",
    /// The name does not exist.
    nobody => "anode_dns_answers_total{result=\"nobody\"}",
    /// The system's servers gave no answer.
    failed => "anode_dns_answers_total{result=\"failed\"}",
    /// Not our zones, or not a question that a responder answers.
    refused => "anode_dns_answers_total{result=\"refused\"}",
    /// No DNS message with one question.
    malformed => "anode_dns_dropped_total{why=\"malformed\"}",
    /// Larger than any question of ours.
    oversized => "anode_dns_dropped_total{why=\"oversized\"}",
    /// From elsewhere than this machine.
    strangers => "anode_dns_dropped_total{why=\"stranger\"}",
    /// Too many questions wait for the system's servers.
    busy => "anode_dns_dropped_total{why=\"busy\"}",
    /// Too many TCP connections.
    connections => "anode_dns_dropped_total{why=\"connections\"}",
    /// TCP connections that were too slow or silent.
    slow => "anode_dns_dropped_total{why=\"slow\"}",
    /// The answer could not be sent.
    unsent => "anode_dns_dropped_total{why=\"unsent\"}",
    /// TXT questions to the system's servers.
    asked => "anode_dns_real_asked_total",
    /// Questions that the cache answered.
    cached => "anode_dns_real_cached_total",
    /// Entries that had to make room before their time.
    evicted => "anode_dns_real_evicted_total",
    /// Addresses that the data thread was told of.
    told => "anode_dns_told_total",
    /// Those that it could not be told of.
    untold => "anode_dns_dropped_total{why=\"untold\"}",
}
