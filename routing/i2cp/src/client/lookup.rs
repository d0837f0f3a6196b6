//! Lookups of destinations by hash or name (i2cp.md §2.9).
use super::{Client, Event, MOST_QUEUED, State};
use crate::codec::Mapping;
use crate::destination::Destination;
use crate::error::{Error, Result};
use crate::message::{self as wire, Query};
use crate::time::Now;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// Most lookups that wait for an answer.
pub(super) const MOST_LOOKUPS: usize = 256;
/// What a router is given for one lookup; less than 10 s is not allowed.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(45);
/// After that a silent router has failed to answer a lookup.
const LOOKUP_GRACE: Duration = Duration::from_secs(5);

/// Names one lookup.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LookupId(pub(super) u32);

/// Why a lookup found nothing (i2cp.md §2.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LookupError {
    /// 1: unknown, or offline.
    #[error("not found")]
    NotFound,
    /// 2 to 4: an encrypted lease set needs more.
    #[error("its lease set is encrypted and needs a password or key")]
    NeedsSecret,
    /// 5
    #[error("its lease set could not be decrypted")]
    Decryption,
    /// 6
    #[error("its lease set was not found: it is offline")]
    Offline,
    /// 7
    #[error("the router cannot look this up")]
    Unsupported,
    /// Another code.
    #[error("failed with code {0}")]
    Other(u8),
    /// The router answered with another destination than the one whose hash was asked for.
    #[error("the router answered with a wrong destination")]
    Mismatch,
    /// No answer.
    #[error("the router did not answer")]
    TimedOut,
    /// The session ended before the answer.
    #[error("the session ended")]
    Closed,
}

/// What a lookup found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// It hashes to what was asked for, if a hash was.
    pub destination: Destination,
    /// The options of its lease set, if they were asked for (I57).
    pub options: Mapping,
}

#[derive(Debug)]
pub(super) struct Lookup {
    pub(super) query: Query,
    pub(super) until: Instant,
}

impl Client {
    /// Looks a destination up; with its lease set's options if `with_options` (Java routers since 0.9.66 only).
    ///
    /// # Errors
    /// [`Error::NotReady`]: i2pd answers "not found" before it is. [`Error::Full`], [`Error::TooLong`].
    pub fn lookup(&mut self, query: Query, with_options: bool, now: Now) -> Result<LookupId> {
        let State::Ready { session } = self.state else {
            return Err(Error::NotReady);
        };
        if self.lookups.len() >= MOST_LOOKUPS || self.queued >= MOST_QUEUED {
            return Err(Error::Full("the table of lookups"));
        }
        if let Query::Name(name) = &query
            && name.len() > 255
        {
            return Err(Error::TooLong {
                what: "a name",
                length: name.len(),
                limit: 255,
            });
        }
        let id = self.next_lookup;
        self.next_lookup = self.next_lookup.wrapping_add(1);
        let timeout = LOOKUP_TIMEOUT.as_millis() as u32;
        let message = wire::host_lookup(session, id, timeout, &query, with_options);
        self.push(Zeroizing::new(message));
        let until = now.instant + LOOKUP_TIMEOUT + LOOKUP_GRACE;
        self.lookups.insert(id, Lookup { query, until });
        Ok(LookupId(id))
    }

    pub(super) fn drop_lookups(&mut self) {
        for (id, _) in self.lookups.drain() {
            let event = Event::Lookup(LookupId(id), Err(LookupError::Closed));
            self.events.push_back(event);
        }
    }

    pub(super) fn host_reply(
        &mut self,
        request: u32,
        answer: std::result::Result<(Destination, Mapping), u8>,
    ) {
        let Some(lookup) = self.lookups.remove(&request) else {
            self.counters.unasked_replies += 1;
            return;
        };
        let result = match (answer, lookup.query) {
            (Ok((destination, _)), Query::Hash(hash)) if destination.hash() != hash => {
                Err(LookupError::Mismatch)
            }
            (Ok((destination, options)), _) => Ok(Found {
                destination,
                options,
            }),
            (Err(1), _) => Err(LookupError::NotFound),
            (Err(2..=4), _) => Err(LookupError::NeedsSecret),
            (Err(5), _) => Err(LookupError::Decryption),
            (Err(6), _) => Err(LookupError::Offline),
            (Err(7), _) => Err(LookupError::Unsupported),
            (Err(code), _) => Err(LookupError::Other(code)),
        };
        self.events
            .push_back(Event::Lookup(LookupId(request), result));
    }

    /// Those that the router has not answered in time.
    pub(super) fn give_up_lookups(&mut self, now: Now) {
        let expired: Vec<u32> = self
            .lookups
            .iter()
            .filter(|(_, lookup)| lookup.until <= now.instant)
            .map(|(&id, _)| id)
            .collect();
        for id in expired {
            self.lookups.remove(&id);
            let event = Event::Lookup(LookupId(id), Err(LookupError::TimedOut));
            self.events.push_back(event);
        }
    }
}
