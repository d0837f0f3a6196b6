//! Questions of the control side to the I2P overlay.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anode_routing::i2p::{I2pOverlay, LookupError};
use anode_routing::{AnodeOverlay, i2p};

use crate::adapter::Adapter;
use crate::command::{I2pCommand, News, Reply};

/// What is known of destinations is written no more often than this.
const KEEP_INTERVAL: Duration = Duration::from_secs(5);
/// Questions that wait; the overlay itself takes no more.
const MAX_WAITING: usize = 1024;

type Found = Result<i2p::Destination, LookupError>;

/// What waits for the overlay.
#[derive(Default)]
pub(super) struct I2pDesk {
    waiting: HashMap<u64, Reply<Found>>,
    next_token: u64,
    keep_at: Option<Instant>,
    kept: Option<Instant>,
}

impl I2pDesk {
    /// Carries out one command. Without I2P the way back is dropped, which the asker hears.
    pub(super) fn obey(
        &mut self,
        now: Instant,
        command: I2pCommand,
        adapter: &mut Adapter<AnodeOverlay>,
    ) {
        let Some(overlay) = adapter.other::<I2pOverlay>() else {
            return;
        };
        // An asker that went away is no error: its answer is dropped.
        match command {
            I2pCommand::Status(reply) => {
                let _ = reply.send(overlay.snapshot());
            }
            I2pCommand::Peers(reply) => {
                let _ = reply.send(overlay.peers(now));
            }
            I2pCommand::Learn { hash, reply } => {
                overlay.learn(now, hash);
                let _ = reply.send(());
            }
            I2pCommand::Known { address, reply } => {
                let _ = reply.send(overlay.known(address));
            }
            I2pCommand::Export(reply) => {
                let _ = reply.send(overlay.export());
            }
            I2pCommand::Ask { question, reply } => {
                if self.waiting.len() >= MAX_WAITING {
                    let _ = reply.send(Err(LookupError::TimedOut));
                    return;
                }
                self.next_token += 1;
                self.waiting.insert(self.next_token, reply);
                overlay.ask(now, &question, self.next_token);
            }
        }
    }

    /// Hands on the answers that came; word of what should be on disk.
    pub(super) fn settle(
        &mut self,
        now: Instant,
        adapter: &mut Adapter<AnodeOverlay>,
    ) -> Option<News> {
        let overlay = adapter.other::<I2pOverlay>()?;
        while let Some(answer) = overlay.poll_answer() {
            if let Some(reply) = self.waiting.remove(&answer.token) {
                let _ = reply.send(answer.result);
            }
        }
        if overlay.has_changed() && self.keep_at.is_none() {
            let earliest = self.kept.map_or(now, |at| at + KEEP_INTERVAL);
            self.keep_at = Some(earliest.max(now));
        }
        if self.keep_at.is_none_or(|at| at > now) {
            return None;
        }
        self.keep_at = None;
        self.kept = Some(now);
        overlay.take_changed();
        Some(News::Destinations(overlay.export()))
    }

    pub(super) fn deadline(&self) -> Option<(Instant, &'static str)> {
        self.keep_at.map(|at| (at, "destinations are to be kept"))
    }
}
