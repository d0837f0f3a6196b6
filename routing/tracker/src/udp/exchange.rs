//! One question to a UDP tracker, from the connect to the answer, over one connected socket.

use super::packet::{self, AnnounceHead, ConnectionId, TransactionId};
use crate::compact::{self, Family};
use crate::types::{Announce, Answer, InfoHash, MAX_PEERS, Refusal, ScrapeEntry, printable};
use rand_core::CryptoRng;
use std::time::{Duration, Instant};

/// How long a client uses a connection id (BEP 15).
pub const CONNECTION_LIFE: Duration = Duration::from_secs(60);
/// The first wait for an answer; it doubles.
const FIRST_WAIT: Duration = Duration::from_secs(15);
/// The last doubling: 15·2^8 = 3,840 s.
const LAST_DOUBLING: u32 = 8;

/// A connection id and its age. It belongs to one pair of local address and tracker address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    id: ConnectionId,
    since: Instant,
}

impl Connection {
    /// Whether a request may still carry it.
    pub fn usable(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < CONNECTION_LIFE
    }
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// An announce, and path and query of the tracker's URL (BEP 41).
    Announce(Announce, String),
    /// A scrape of at most [`packet::MAX_SCRAPE`] swarms.
    Scrape(Vec<InfoHash>),
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Of an announce.
    Announced(Answer),
    /// Of a scrape, in the order asked; may be fewer.
    Scraped(Vec<ScrapeEntry>),
}

/// Why an answer does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// An error packet.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// An announce answer under 20 bytes; some trackers so refuse a hash that is not on their list.
    #[error("the tracker's answer is too short; it may not accept this info hash")]
    TooShort,
    /// Entries of another family than the socket's.
    #[error("the tracker's answer has {0} bytes of peers, which is no multiple of an entry")]
    PeersLength(usize),
}

/// What [`Exchange::poll`] wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poll {
    /// The datagram that was appended is to be sent.
    Transmit,
    /// Nothing before then.
    Wait(Instant),
    /// No answer to any of the repeats.
    GaveUp,
}

/// What a datagram did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Not an answer to what was asked: dropped.
    Ignored,
    /// A connection id, for other exchanges of the same pair of addresses too; poll again now.
    Connected(Connection),
    /// The connection id that was handed in is refused: forget it; poll again now.
    Reconnect,
    /// The end.
    Done(Result<Outcome, AnswerError>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    Asking {
        connection: Connection,
        borrowed: bool,
    },
}

/// The state of one question.
#[derive(Clone, Debug)]
pub struct Exchange {
    ask: Ask,
    family: Family,
    phase: Phase,
    /// Of the current phase; repeats keep it, so that a late answer counts.
    transaction: Option<TransactionId>,
    /// How often the wait has doubled. It goes on through a renewed connect, so that a tracker that answers only
    /// connects is asked ever more rarely too.
    doublings: u32,
    asked: bool,
    due: Instant,
}

impl Exchange {
    /// Starts now. `family` is that of the socket: it decides the size of entries. A `connection` of an earlier
    /// exchange between the same two addresses saves the connect.
    pub fn new(ask: Ask, family: Family, connection: Option<Connection>, now: Instant) -> Self {
        let phase = match connection {
            Some(connection) if connection.usable(now) => Phase::Asking {
                connection,
                borrowed: true,
            },
            _ => Phase::Connecting,
        };
        Self {
            ask,
            family,
            phase,
            transaction: None,
            doublings: 0,
            asked: false,
            due: now,
        }
    }

    /// When [`Exchange::poll`] wants to be called.
    pub fn deadline(&self) -> Instant {
        self.due
    }

    /// Appends the datagram to send, if it is time for one.
    pub fn poll(&mut self, now: Instant, rng: &mut dyn CryptoRng, out: &mut Vec<u8>) -> Poll {
        if now < self.due {
            return Poll::Wait(self.due);
        }
        if self.doublings > LAST_DOUBLING {
            return Poll::GaveUp;
        }
        if matches!(self.phase, Phase::Asking { connection, .. } if !connection.usable(now)) {
            self.enter(Phase::Connecting);
        }
        let transaction = *self
            .transaction
            .get_or_insert_with(|| TransactionId(rng.next_u32()));
        match (&self.phase, &self.ask) {
            (Phase::Connecting, _) => packet::write_connect(transaction, out),
            (Phase::Asking { connection, .. }, Ask::Announce(announce, target)) => {
                packet::write_announce(connection.id, transaction, announce, target, out);
            }
            (Phase::Asking { connection, .. }, Ask::Scrape(hashes)) => {
                packet::write_scrape(connection.id, transaction, hashes, out);
            }
        }
        self.asked |= matches!(self.phase, Phase::Asking { .. });
        self.due = now + FIRST_WAIT * 2u32.pow(self.doublings);
        self.doublings += 1;
        Poll::Transmit
    }

    /// Reads a datagram from the tracker's address. Whatever does not carry the transaction id and the action of the
    /// open request is ignored.
    pub fn handle(&mut self, datagram: &[u8], now: Instant) -> Step {
        let Some((transaction, answer)) = packet::Answer::parse(datagram) else {
            return Step::Ignored;
        };
        if self.transaction != Some(transaction) {
            return Step::Ignored;
        }
        match (self.phase, &self.ask, answer) {
            (Phase::Connecting, _, packet::Answer::Connect(id)) => {
                let connection = Connection { id, since: now };
                self.enter(Phase::Asking {
                    connection,
                    borrowed: false,
                });
                if !self.asked {
                    self.doublings = 0;
                }
                self.due = now;
                Step::Connected(connection)
            }
            (Phase::Asking { borrowed: true, .. }, _, packet::Answer::Error(_)) => {
                self.enter(Phase::Connecting);
                self.due = now;
                Step::Reconnect
            }
            (_, _, packet::Answer::Error(text)) => {
                let refusal = Refusal {
                    reason: printable(text),
                    retry: None,
                };
                Step::Done(Err(AnswerError::Refused(refusal)))
            }
            (Phase::Asking { .. }, Ask::Announce(..), packet::Answer::Announce(body)) => {
                Step::Done(announced(body, self.family).map(Outcome::Announced))
            }
            (Phase::Asking { .. }, Ask::Scrape(hashes), packet::Answer::Scrape(body)) => {
                let entries = packet::scrape_entries(body).take(hashes.len()).collect();
                Step::Done(Ok(Outcome::Scraped(entries)))
            }
            _ => Step::Ignored,
        }
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.transaction = None;
    }
}

fn announced(body: &[u8], family: Family) -> Result<Answer, AnswerError> {
    let (head, peers) = AnnounceHead::parse(body).ok_or(AnswerError::TooShort)?;
    let entries = compact::entries(peers, family).ok_or(AnswerError::PeersLength(peers.len()))?;
    let surplus = entries.len().saturating_sub(MAX_PEERS);
    Ok(Answer {
        interval: Some(Duration::from_secs(u64::from(head.interval))),
        complete: Some(head.seeders),
        incomplete: Some(head.leechers),
        peers: entries.take(MAX_PEERS).collect(),
        surplus,
        ..Answer::default()
    })
}
