//! Questions of people and of the DNS responder: who stands behind a name.
use anode_i2cp::client::{LookupError, LookupId};
use anode_i2cp::destination::{Destination, Hash};
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Questions that are open.
const MOST: usize = 256;
/// Nobody waits for longer for a session.
const PATIENCE: Duration = Duration::from_secs(50);
/// A failure is believed for so long: lease sets come and go.
const FAILURE_LIFE: Duration = Duration::from_secs(10);
/// An address-book name is asked for again after this.
pub(super) const NAME_LIFE: Duration = Duration::from_secs(3600);

/// What is asked.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Question {
    /// Whether this destination is there.
    Hash(Hash),
    /// Whom the router knows by this name, in lower case.
    Name(String),
}

/// An answer to [`ask`](super::I2pOverlay::ask).
#[derive(Clone, Debug)]
pub struct Answer {
    /// As it was given.
    pub token: u64,
    /// Who it is, or why that cannot be told.
    pub result: Result<Destination, LookupError>,
}

#[derive(Debug)]
struct Open {
    tokens: Vec<u64>,
    until: Instant,
    /// Which of our destinations has asked the router.
    asked: Option<(usize, LookupId)>,
}

#[derive(Debug, Default)]
pub(super) struct Questions {
    open: HashMap<Question, Open>,
    /// When a name was last confirmed, or was not found.
    confirmed: HashMap<String, Instant>,
    failed: HashMap<Question, (Instant, LookupError)>,
    answers: VecDeque<Answer>,
    pub(super) dropped: u64,
}

impl Questions {
    /// Takes a question; false if it has to be put to the router.
    pub(super) fn add(&mut self, question: &Question, token: u64, now: Instant) -> bool {
        if let Some((at, why)) = self.failed.get(question)
            && now < *at + FAILURE_LIFE
        {
            self.answers.push_back(Answer {
                token,
                result: Err(*why),
            });
            return true;
        }
        if let Some(open) = self.open.get_mut(question) {
            if open.tokens.len() < MOST {
                open.tokens.push(token);
            } else {
                self.dropped += 1;
                self.refuse(token);
            }
            return true;
        }
        if self.open.len() >= MOST {
            self.dropped += 1;
            self.refuse(token);
            return true;
        }
        let open = Open {
            tokens: vec![token],
            until: now + PATIENCE,
            asked: None,
        };
        self.open.insert(question.clone(), open);
        false
    }

    fn refuse(&mut self, token: u64) {
        self.answers.push_back(Answer {
            token,
            result: Err(LookupError::TimedOut),
        });
    }

    pub(super) fn answer(&mut self, token: u64, destination: &Destination) {
        self.answers.push_back(Answer {
            token,
            result: Ok(destination.clone()),
        });
    }

    /// Questions that no router was asked yet.
    pub(super) fn unasked(&self) -> Vec<Question> {
        let waiting = self.open.iter().filter(|(_, open)| open.asked.is_none());
        waiting.map(|(question, _)| question.clone()).collect()
    }

    pub(super) fn asked(&mut self, question: &Question, local: usize, lookup: LookupId) {
        if let Some(open) = self.open.get_mut(question) {
            open.asked = Some((local, lookup));
        }
    }

    /// The session is gone: what it was asked, another one is.
    pub(super) fn lost(&mut self, local: usize) {
        for open in self.open.values_mut() {
            if open.asked.is_some_and(|(index, _)| index == local) {
                open.asked = None;
            }
        }
    }

    pub(super) fn by_lookup(&self, local: usize, lookup: LookupId) -> Option<Question> {
        let mut open = self.open.iter();
        open.find(|(_, open)| open.asked == Some((local, lookup)))
            .map(|(question, _)| question.clone())
    }

    /// Everybody who asked is answered.
    pub(super) fn close(
        &mut self,
        question: &Question,
        result: Result<Destination, LookupError>,
        now: Instant,
    ) {
        let Some(open) = self.open.remove(question) else {
            return;
        };
        match (&result, question) {
            (Ok(_), Question::Name(name)) => {
                if self.confirmed.len() >= MOST * 4 {
                    self.confirmed.clear();
                }
                self.confirmed.insert(name.clone(), now);
            }
            (Err(why), _) => {
                if self.failed.len() >= MOST {
                    self.failed.retain(|_, (at, _)| now < *at + FAILURE_LIFE);
                }
                if self.failed.len() < MOST {
                    self.failed.insert(question.clone(), (now, *why));
                }
            }
            (Ok(_), Question::Hash(_)) => {}
        }
        for token in open.tokens {
            self.answers.push_back(Answer {
                token,
                result: result.clone(),
            });
        }
    }

    /// Whether the router confirmed a name not long ago.
    pub(super) fn is_confirmed(&self, name: &str, now: Instant) -> bool {
        let at = self.confirmed.get(name);
        at.is_some_and(|at| now < *at + NAME_LIFE)
    }

    pub(super) fn poll(&mut self) -> Option<Answer> {
        self.answers.pop_front()
    }

    pub(super) fn overdue(&self, now: Instant) -> Vec<Question> {
        let late = self.open.iter().filter(|(_, open)| open.until <= now);
        late.map(|(question, _)| question.clone()).collect()
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.open.values().map(|open| open.until).min()
    }
}
