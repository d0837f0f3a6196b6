//! Tickets on their way: JOINs that this machine sends until they are answered, and those of others, which the control side
//! judges (Q29, Q30).

use std::time::{Duration, Instant};

use anode_routing::AnodeOverlay;
use anode_routing::anode::Place;
use anode_routing::overlay::Failure;
use anode_wire::Address;
use anode_wire::sealed::kind;
use anode_wire::sealed::ticket::{Join, Joined, Status, Ticket};
use tokio::sync::mpsc;

use crate::adapter::ControlMessage;
use crate::command::{JoinNews, News, Reply};

/// JOINs under way at most.
const MAX_JOINS: usize = 16;
/// No answer is waited for longer.
const JOIN_TIMEOUT: Duration = Duration::from_secs(15);
/// How often a session that is still to come is asked for.
const ASK_INTERVAL: Duration = Duration::from_millis(100);
/// A lost JOIN or answer is repeated after this time: the inviting side gives the same answer again (Q30).
const REPEAT: Duration = Duration::from_secs(1);

struct Joining {
    ticket: Box<Ticket>,
    deadline: Instant,
    next: Instant,
    /// Why the last step failed.
    failure: Failure,
    reply: Reply<Result<Status, Failure>>,
}

/// See the module.
pub struct Joins {
    own: Address,
    under_way: Vec<Joining>,
    news: mpsc::Sender<News>,
    /// What the control side was too busy to hear.
    pub unheard: u64,
}

impl Joins {
    /// `own` is this machine's address, `news` the way to the control side.
    pub fn new(own: Address, news: mpsc::Sender<News>) -> Self {
        Joins {
            own,
            under_way: Vec::new(),
            news,
            unheard: 0,
        }
    }

    /// Begins to use a ticket.
    pub fn start(
        &mut self,
        now: Instant,
        ticket: Box<Ticket>,
        reply: Reply<Result<Status, Failure>>,
        overlay: &mut AnodeOverlay,
    ) {
        if self.under_way.len() >= MAX_JOINS {
            let _ = reply.send(Err(Failure::Busy));
            return;
        }
        // This machine's operator has put in where the other is, as with `--peer`.
        let places: Vec<Place> = ticket.endpoints.iter().flat_map(Place::accepted).collect();
        overlay.add_peer(now, ticket.address, &places, false);
        self.under_way.push(Joining {
            ticket,
            deadline: now + JOIN_TIMEOUT,
            next: now,
            failure: Failure::TimedOut,
            reply,
        });
    }

    /// Does what is due.
    pub fn poll(&mut self, now: Instant, overlay: &mut AnodeOverlay) {
        let own = self.own;
        for joining in std::mem::take(&mut self.under_way) {
            if joining.deadline <= now {
                let _ = joining.reply.send(Err(joining.failure));
            } else if joining.next <= now {
                self.under_way.push(joining.step(now, &own, overlay));
            } else {
                self.under_way.push(joining);
            }
        }
    }

    /// A message out of a session; its sender may be a stranger.
    pub fn heard(&mut self, message: &ControlMessage) {
        match message.kind {
            kind::JOIN => {
                let Some(join) = Join::parse(&message.body) else {
                    return;
                };
                self.tell(News::Join(JoinNews {
                    from: message.from,
                    network: message.network,
                    handshake_hash: message.handshake_hash,
                    join,
                }));
            }
            kind::JOINED => {
                let Some(joined) = Joined::parse(&message.body) else {
                    return;
                };
                let answered = |joining: &Joining| {
                    joining.ticket.address == message.from && joining.ticket.id == joined.id
                };
                if let Some(index) = self.under_way.iter().position(answered) {
                    let joining = self.under_way.swap_remove(index);
                    let _ = joining.reply.send(Ok(joined.status));
                }
            }
            _ => {}
        }
    }

    /// Word to the control side; lost when it is too busy, and counted.
    pub fn tell(&mut self, news: News) {
        if self.news.try_send(news).is_err() {
            self.unheard += 1;
        }
    }

    /// When [`Joins::poll`] has something to do.
    pub fn deadline(&self) -> Option<(Instant, &'static str)> {
        let next = self
            .under_way
            .iter()
            .map(|joining| joining.next.min(joining.deadline));
        next.min().map(|at| (at, "a ticket to use"))
    }
}

impl Joining {
    fn step(mut self, now: Instant, own: &Address, overlay: &mut AnodeOverlay) -> Self {
        let address = self.ticket.address;
        let sent = match overlay.connect(now, &address) {
            Ok(false) => Ok(ASK_INTERVAL),
            Ok(true) => match overlay.session_hash(&address) {
                Some(hash) => {
                    let join = Join {
                        id: self.ticket.id,
                        proof: self.ticket.proof(&hash, own),
                    };
                    overlay
                        .send_sealed(now, &address, kind::JOIN, &join.emit())
                        .map(|()| REPEAT)
                }
                None => Ok(ASK_INTERVAL),
            },
            Err(failure) => Err(failure),
        };
        self.next = now
            + sent.unwrap_or_else(|failure| {
                self.failure = failure;
                REPEAT
            });
        self
    }
}
