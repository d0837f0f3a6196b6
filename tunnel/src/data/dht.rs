//! The DHT's line between the control side and the sessions: what has come goes there in one batch a turn, what it wants sent
//! goes out.

use std::time::Instant;

use anode_routing::AnodeOverlay;
use anode_routing::dht::Output;
use anode_wire::Endpoint;
use tokio::sync::mpsc;

use crate::dht::DhtNews;

/// See the module.
pub struct DhtLine {
    /// `None`: this node is in no DHT.
    news: Option<mpsc::Sender<Vec<DhtNews>>>,
    /// State of the places that were told last.
    told: Option<u64>,
    /// Batches that the control side was too busy to hear.
    pub unheard: u64,
}

impl DhtLine {
    /// With the way to the task.
    pub fn new(news: Option<mpsc::Sender<Vec<DhtNews>>>) -> Self {
        Self {
            news,
            told: None,
            unheard: 0,
        }
    }

    /// Does what the DHT wants.
    pub fn obey(&mut self, now: Instant, outputs: Vec<Output>, overlay: &mut AnodeOverlay) {
        for output in outputs {
            match output {
                Output::Send { to, digit, body } => {
                    // Lost like any other packet, and begins a session if there is none.
                    if let Err(failure) = overlay.send_reload(now, &to, digit, &body) {
                        tracing::trace!(?failure, "a RELOAD message");
                    }
                }
                Output::Reach {
                    who,
                    digit,
                    places,
                    configured,
                } => {
                    match configured {
                        true => overlay.add_peer(now, who, &places, false),
                        false => overlay.add_found(now, who, &places),
                    }
                    if let Err(failure) = overlay.reach_peer(now, &who, digit) {
                        tracing::trace!(?failure, "a session for the DHT");
                    }
                }
                Output::Found { who, places } => overlay.add_found(now, who, &places),
                Output::Answer { .. }
                | Output::Application { .. }
                | Output::Links(_)
                | Output::TurnServers(_) => {}
            }
        }
    }

    /// Hands on what has come. `places` are where others may reach this node, best first.
    pub fn tell(
        &mut self,
        mut batch: Vec<DhtNews>,
        overlay: &AnodeOverlay,
        places: impl FnOnce(&AnodeOverlay) -> Vec<Endpoint>,
    ) {
        let Some(news) = &self.news else {
            return;
        };
        let state = overlay.places_changed();
        let moved = self.told != Some(state);
        if moved {
            batch.push(DhtNews::Places(places(overlay)));
        }
        if batch.is_empty() {
            return;
        }
        match news.try_send(batch) {
            Ok(()) => self.told = Some(state),
            Err(_) => self.unheard += 1,
        }
    }
}
