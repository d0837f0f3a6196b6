//! Names of I2P: `<52 characters>.b32.i2p` is the destination itself, everything else the router's address book knows, or
//! people have named it (DESIGN §4).

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use anode_routing::i2p::{Hash, LookupError, Question as Lookup};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use tokio::sync::oneshot;

use super::message::{Outcome, Question};
use super::{MAX_TOLD, Names, TELL_AGAIN};
use crate::command::{Command, I2pCommand, Target};
use crate::value::ValueError;

/// How long programs may remember a destination's address: it stays what it is, but the node must hear of it again.
const TTL: Duration = Duration::from_secs(600);
/// A program's question is not held for longer: it asks again, and the router goes on.
const PATIENCE: Duration = Duration::from_millis(4500);

impl Names {
    /// Names of I2P are answered, too.
    pub fn with_i2p(mut self) -> Self {
        self.i2p = true;
        self
    }

    /// Whether names of I2P are answered.
    pub fn has_i2p(&self) -> bool {
        self.i2p
    }

    /// Of `site.i2p`, by the book of this machine.
    pub(super) fn named_destination(&self, name: &str) -> Option<Hash> {
        self.book().destinations.by_name(name).map(|one| one.hash)
    }

    /// The address of a destination, which needs nobody's word. That it is wanted, the overlay hears; and the router, so
    /// that its lease set is there when the first packet comes.
    pub(super) fn destination(&self, question: &Question, hash: Hash) -> Outcome {
        if !question.wants(RecordType::AAAA) {
            return Outcome::Empty;
        }
        self.tell_destination(hash);
        Outcome::Addresses(vec![hash.synthetic_address()], TTL)
    }

    pub(super) fn tell_destination(&self, hash: Hash) {
        let now = Instant::now();
        let mut told = self.told_destinations();
        if told.get(&hash).is_some_and(|at| now < *at + TELL_AGAIN) {
            return;
        }
        // Nobody waits for these answers: the commands are in the queue before the program can send its first packet.
        let (reply, _) = oneshot::channel();
        let learn = Command::I2p(I2pCommand::Learn { hash, reply });
        let (reply, _) = oneshot::channel();
        let question = Lookup::Hash(hash);
        let ask = Command::I2p(I2pCommand::Ask { question, reply });
        if self.data.send(learn).is_err() || self.data.send(ask).is_err() {
            self.counters.untold.add();
            return;
        }
        self.counters.told.add();
        if told.len() >= MAX_TOLD && !told.contains_key(&hash) {
            let oldest = told.iter().min_by_key(|(_, at)| **at);
            if let Some(hash) = oldest.map(|(hash, _)| *hash) {
                told.remove(&hash);
            }
        }
        told.insert(hash, now);
    }

    /// Whom the router knows by a name.
    pub(super) async fn ask_router(&self, name: &str) -> Result<Hash, LookupError> {
        let question = Lookup::Name(name.to_owned());
        let asked = self
            .data
            .ask(|reply| Command::I2p(I2pCommand::Ask { question, reply }));
        match asked.await {
            Ok(Ok(destination)) => Ok(destination.hash()),
            Ok(Err(why)) => Err(why),
            Err(_) => Err(LookupError::Closed),
        }
    }

    /// Answers a question about a name of the router's address book.
    pub(super) async fn answer_i2p_name(&self, question: &Question, name: &str) -> Outcome {
        match tokio::time::timeout(PATIENCE, self.ask_router(name)).await {
            Ok(Ok(hash)) => self.destination(question, hash),
            Ok(Err(LookupError::TimedOut | LookupError::Closed)) | Err(_) => {
                Outcome::Code(ResponseCode::ServFail)
            }
            Ok(Err(_)) => Outcome::Nobody,
        }
    }

    /// Answers a question about an address of the prefix.
    pub(super) async fn answer_i2p_reverse(
        &self,
        question: &Question,
        address: Ipv6Addr,
    ) -> Outcome {
        let asked = self
            .data
            .ask(|reply| Command::I2p(I2pCommand::Known { address, reply }));
        let known = match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok(known)) => known,
            _ => return Outcome::Code(ResponseCode::ServFail),
        };
        let Some(known) = known else {
            return Outcome::Nobody;
        };
        if !question.wants(RecordType::PTR) {
            return Outcome::Empty;
        }
        let given = self.book();
        let given = given.destinations.by_hash(&known.hash);
        let name = given.and_then(|one| one.name.as_ref().map(ToString::to_string));
        Outcome::Pointer(name.or(known.name).unwrap_or_else(|| known.hash.b32()))
    }

    /// Whom people mean by `site.i2p`.
    pub(super) async fn resolve_i2p(&self, name: &str) -> Result<Target, ValueError> {
        if let Some(hash) = self.named_destination(name) {
            return Ok(Target::I2p(hash));
        }
        if !self.i2p {
            return Err(ValueError::new(format!(
                "{name}: I2P is off: add the section [i2p] to the configuration"
            )));
        }
        match self.ask_router(name).await {
            Ok(hash) => Ok(Target::I2p(hash)),
            Err(why) => Err(ValueError::new(format!("{name}: the I2P router: {why}"))),
        }
    }
}
