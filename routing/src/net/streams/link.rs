//! What is known of one place, and what carries its packets.
use super::conn::IDLE;
use super::outbox::Outbox;
use std::time::{Duration, Instant};

/// An HTTP session without a connection is forgotten after this time.
const SESSION_FOR: Duration = Duration::from_secs(30);

/// One place that packets go to or come from.
pub(super) struct Link {
    pub outbox: Outbox,
    pub carrier: Carrier,
    /// The other side has dialled: when its connection ends, nobody is there any more.
    pub accepted: bool,
    /// When a packet last came or went.
    pub active: Instant,
    pub failures: u32,
    pub retry_at: Option<Instant>,
    /// It stands in the list of those that have something to send.
    pub listed: bool,
}

/// What carries the packets of a link.
pub(super) enum Carrier {
    /// Nothing at the moment.
    Nothing,
    /// One connection with frames.
    Frames(usize),
    /// We ask: a connection for our packets, and one that is held.
    Asking(Asks),
    /// The other side asks, over these connections.
    Serving(Vec<usize>),
}

#[derive(Default)]
pub(super) struct Asks {
    pub post: Option<usize>,
    pub poll: Option<usize>,
    /// What stands in the requests; it names the session.
    pub target: String,
    pub host: String,
}

impl Link {
    pub fn new(now: Instant, carrier: Carrier, accepted: bool) -> Self {
        Self {
            outbox: Outbox::default(),
            carrier,
            accepted,
            active: now,
            failures: 0,
            retry_at: None,
            listed: false,
        }
    }

    /// When it is forgotten, if no packet comes or goes until then.
    pub fn due(&self) -> Instant {
        let abandoned = matches!(&self.carrier, Carrier::Serving(ids) if ids.is_empty());
        self.active + if abandoned { SESSION_FOR } else { IDLE }
    }
}
