//! `anode invite` and `anode join` on the node's side: tickets made, judged and used up (Q29, Q30).

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use anode_wire::sealed::Timestamp;
use anode_wire::sealed::ticket::{
    Issued, Joined, MAX_ENTRIES, Status, Ticket, TicketId, Tickets, Verdict,
};
use anode_wire::{Address, Endpoint};
use rand::rand_core::UnwrapErr;
use rand::rngs::SysRng;

use crate::Error;
use crate::command::JoinNews;
use crate::state::LockedState;
use crate::state::book::{Book, hex, unhex};
use crate::value::ValueError;

/// The clock on the wall, as tickets have it.
pub fn wall() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// A ticket that somebody typed or pasted; the error says which character, or what else is wrong.
pub fn parse(text: &str, own: &Address, wall: Timestamp) -> Result<Ticket, ValueError> {
    let ticket: Ticket = text
        .parse()
        .map_err(|error| ValueError::new(format!("ticket: {error}")))?;
    if ticket.address == *own {
        return Err(ValueError::new(
            "ticket: it is this machine's own: give it to `anode join` on the other machine",
        ));
    }
    if wall > ticket.expires {
        let ago = Duration::from_micros(wall.0 - ticket.expires.0);
        return Err(ValueError::new(format!(
            "ticket: expired {} ago: make a new one with `anode invite`",
            crate::output::span(ago.as_secs_f64())
        )));
    }
    Ok(ticket)
}

/// A ticket's name in words.
pub fn id_text(id: TicketId) -> String {
    hex(&id.0)
}

/// A ticket's name that somebody typed.
pub fn parse_id(text: &str) -> Result<TicketId, ValueError> {
    unhex(text.trim()).map(TicketId).ok_or_else(|| {
        ValueError::new(format!(
            "{text:?} names no ticket: it has 16 hex digits, as `anode invite --list` shows"
        ))
    })
}

/// The tickets that this node has issued, and the judge over JOINs.
pub struct Desk {
    tickets: Mutex<Tickets>,
}

impl Desk {
    /// With the tickets of the trust book.
    pub fn new(book: &Book) -> Self {
        let mut tickets = Tickets::new();
        for issued in book.tickets() {
            // What is beyond the bound is refused later as unknown.
            tickets.add(wall(), issued.clone());
        }
        Desk {
            tickets: Mutex::new(tickets),
        }
    }

    fn tickets(&self) -> MutexGuard<'_, Tickets> {
        self.tickets
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A new ticket, on disk before anybody sees it.
    pub fn issue(
        &self,
        own: Address,
        endpoints: Vec<Endpoint>,
        lifetime: Duration,
        book: &mut Book,
        state: &LockedState,
    ) -> Result<Ticket, Error> {
        let now = wall();
        let lifetime = u64::try_from(lifetime.as_micros()).unwrap_or(u64::MAX);
        let expires = Timestamp(now.0.saturating_add(lifetime));
        let mut ticket = Ticket::new(own, expires, &mut UnwrapErr(SysRng));
        ticket.endpoints = endpoints;
        ticket.endpoints.truncate(MAX_ENTRIES);
        let mut changed = book.clone();
        changed
            .add_ticket(now, Issued::from(&ticket))
            .map_err(Error::refused)?;
        changed.save(state)?;
        *book = changed;
        self.tickets().add(now, Issued::from(&ticket));
        Ok(ticket)
    }

    /// Takes a ticket back, on disk first; what it was, or `None` if there is no such one. Trust that it has brought stays.
    pub fn withdraw(
        &self,
        id: TicketId,
        book: &mut Book,
        state: &LockedState,
    ) -> Result<Option<Issued>, Error> {
        let mut changed = book.clone();
        let Some(issued) = changed.remove_ticket(id) else {
            return Ok(None);
        };
        // Nobody takes it while it is being written.
        let mut tickets = self.tickets();
        changed.save(state)?;
        *book = changed;
        tickets.revoke(id);
        Ok(Some(issued))
    }

    /// What to answer to a JOIN; `None`: nothing. A ticket that is taken now and the trust in its joiner are one write:
    /// when that fails, nothing has happened (Q30). True: the book has changed.
    pub fn judge(
        &self,
        now: Instant,
        shown: &JoinNews,
        book: &mut Book,
        state: &LockedState,
    ) -> Option<(Joined, bool)> {
        let JoinNews {
            from,
            network,
            handshake_hash,
            join,
        } = shown;
        let mut tickets = self.tickets();
        match tickets.judge(now, wall(), *network, from, handshake_hash, join) {
            Verdict::Answer(joined) => Some((joined, false)),
            Verdict::Silence => None,
            Verdict::Take(id) => {
                let mut changed = book.clone();
                let trusted = changed.trust(*from, None).map(drop);
                let taken = trusted.map_err(Error::refused).and_then(|()| {
                    changed.take_ticket(id, *from);
                    changed.save(state)
                });
                if let Err(error) = taken {
                    tracing::error!("a ticket could not be taken: {error}");
                    return None;
                }
                *book = changed;
                tickets.commit(id, from);
                let joined = Joined {
                    id,
                    status: Status::Taken,
                };
                Some((joined, true))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use anode_wire::sealed::ticket::Join;
    use anode_wire::{Identity, Zone};

    use super::*;
    use crate::state::StateDir;
    use crate::state::testing::TestDir;

    fn address(number: u8) -> Address {
        *Identity::from_scalar(Zone(0), &[number; 32])
            .unwrap()
            .address()
    }

    /// `join` as it comes from `who`, whose network has their number.
    fn shown(who: u8, hash: &[u8; 32], join: &Join) -> JoinNews {
        JoinNews {
            from: address(who),
            network: u64::from(who),
            handshake_hash: *hash,
            join: *join,
        }
    }

    fn join(ticket: &Ticket, hash: &[u8; 32], joiner: &Address) -> Join {
        Join {
            id: ticket.id,
            proof: ticket.proof(hash, joiner),
        }
    }

    /// A node that has issued nothing.
    fn fresh(test: &TestDir) -> (LockedState, Book, Desk) {
        let state = StateDir::find(Some(test.path())).unwrap().lock().unwrap();
        let book = Book::default();
        let desk = Desk::new(&book);
        (state, book, desk)
    }

    /// A ticket of machine 1, good for an hour.
    fn issued(desk: &Desk, book: &mut Book, state: &LockedState) -> Ticket {
        let hour = Duration::from_secs(3600);
        desk.issue(address(1), vec![], hour, book, state).unwrap()
    }

    #[test]
    fn one_machine_takes_a_ticket_once_and_for_all_restarts() {
        // Q29, Q30
        let test = TestDir::new();
        let (state, mut book, desk) = fresh(&test);
        let ticket = issued(&desk, &mut book, &state);
        let (hash, now) = ([7; 32], Instant::now());
        let (friend, other) = (address(2), address(3));

        let forged = Join {
            id: ticket.id,
            proof: [0; 32],
        };
        let unknown = Joined {
            id: ticket.id,
            status: Status::Unknown,
        };
        let taken = Joined {
            id: ticket.id,
            status: Status::Taken,
        };
        let mut ask = |desk: &Desk, who: u8, join: &Join| {
            desk.judge(now, &shown(who, &hash, join), &mut book, &state)
        };
        assert_eq!(ask(&desk, 2, &forged), Some((unknown, false)));
        // Another's proof is none.
        let stolen = join(&ticket, &hash, &friend);
        assert_eq!(ask(&desk, 3, &stolen), Some((unknown, false)));
        assert_eq!(ask(&desk, 2, &stolen), Some((taken, true)));
        assert_eq!(ask(&desk, 2, &stolen), Some((taken, false)));
        let second = join(&ticket, &hash, &other);
        assert_eq!(ask(&desk, 3, &second), Some((unknown, false)));

        // The same after a restart, from what is on disk.
        let mut read = Book::load(state.dir()).unwrap();
        assert!(read.by_address(&friend).is_some() && read.by_address(&other).is_none());
        let again = Desk::new(&read);
        let mut ask =
            |who: u8, join: &Join| again.judge(now, &shown(who, &hash, join), &mut read, &state);
        assert_eq!(ask(2, &stolen), Some((taken, false)));
        assert_eq!(ask(3, &second), Some((unknown, false)));
    }

    #[test]
    fn a_write_that_fails_takes_nothing_and_answers_nothing() {
        let test = TestDir::new();
        let (state, mut book, desk) = fresh(&test);
        let ticket = issued(&desk, &mut book, &state);
        let (hash, now, friend) = ([7; 32], Instant::now(), address(2));
        let join = shown(2, &hash, &join(&ticket, &hash, &friend));
        let before = book.clone();
        // A directory in the place of the file cannot be replaced by one.
        let path = state.dir().file("trust.toml");
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("x"), "").unwrap();
        assert_eq!(desk.judge(now, &join, &mut book, &state), None);
        assert_eq!(book, before);
        std::fs::remove_dir_all(&path).unwrap();
        let answer = desk.judge(now, &join, &mut book, &state);
        assert!(matches!(answer, Some((joined, true)) if joined.status == Status::Taken));
    }

    #[test]
    fn a_ticket_that_was_withdrawn_is_unknown_also_after_a_restart() {
        // Q30
        let test = TestDir::new();
        let (state, mut book, desk) = fresh(&test);
        let [kept, gone] = [(); 2].map(|()| issued(&desk, &mut book, &state));
        let id = parse_id(&id_text(gone.id)).unwrap();
        let withdrawn = desk.withdraw(id, &mut book, &state).unwrap();
        assert_eq!(withdrawn.map(|issued| issued.id), Some(gone.id));
        assert!(desk.withdraw(id, &mut book, &state).unwrap().is_none());

        let (hash, now) = ([7; 32], Instant::now());
        let mut read = Book::load(state.dir()).unwrap();
        assert_eq!(read.tickets().len(), 1);
        let again = Desk::new(&read);
        for (desk, book) in [(&desk, &mut book), (&again, &mut read)] {
            let mut ask = |ticket: &Ticket| {
                let join = join(ticket, &hash, &address(2));
                desk.judge(now, &shown(2, &hash, &join), book, &state)
                    .map(|(joined, _)| joined.status)
            };
            assert_eq!(ask(&gone), Some(Status::Unknown));
            assert_eq!(ask(&kept), Some(Status::Taken));
        }
        // What a ticket has brought stays when it is withdrawn afterwards.
        let used = desk.withdraw(kept.id, &mut book, &state).unwrap();
        assert_eq!(used.and_then(|issued| issued.taken_by), Some(address(2)));
        assert!(book.by_address(&address(2)).is_some());
        assert!(parse_id("12").is_err() && parse_id(&"g".repeat(16)).is_err());
    }

    #[test]
    fn after_ten_wrong_tickets_there_is_silence_for_that_network_alone() {
        // Q30
        let test = TestDir::new();
        let (state, mut book, desk) = fresh(&test);
        let ticket = issued(&desk, &mut book, &state);
        let (hash, now) = ([7; 32], Instant::now());
        let mut ask = |now: Instant, network: u8, who: u8, join: &Join| {
            let shown = JoinNews {
                network: u64::from(network),
                ..shown(who, &hash, join)
            };
            desk.judge(now, &shown, &mut book, &state)
                .map(|(joined, _)| joined.status)
        };
        let forged = Join {
            id: ticket.id,
            proof: [1; 32],
        };
        // A key is made in no time: another one does not begin anew.
        for who in 11..21 {
            assert_eq!(ask(now, 9, who, &forged), Some(Status::Unknown));
        }
        assert_eq!(ask(now, 9, 21, &forged), None);
        let good = join(&ticket, &hash, &address(2));
        assert_eq!(ask(now, 9, 2, &good), None);
        assert_eq!(ask(now, 8, 2, &good), Some(Status::Taken));
        let later = now + Duration::from_secs(61);
        assert_eq!(ask(later, 9, 21, &forged), Some(Status::Unknown));
    }

    #[test]
    fn bad_tickets_are_told_with_the_place() {
        let now = wall();
        let ticket = Ticket::new(
            address(1),
            Timestamp(now.0 + 1_000_000),
            &mut UnwrapErr(SysRng),
        );
        let text = ticket.to_text().unwrap();
        assert_eq!(parse(&text, &address(2), now).unwrap(), ticket);
        let error = |text: &str, own: u8, now: Timestamp| {
            parse(text, &address(own), now).unwrap_err().to_string()
        };
        assert!(error(&text, 1, now).contains("this machine's own"));
        let late = Timestamp(now.0 + 61_000_000);
        assert!(error(&text, 2, late).contains("expired 1 min 0 s ago"));
        let mut wrong = text.to_string();
        wrong.replace_range(40..41, "!");
        assert!(error(&wrong, 2, now).contains("'!' at place 41"));
        assert!(error(&text[..60], 2, now).contains("not complete (60 characters)"));
        assert!(error("hello", 2, now).contains("starts with anode-ticket-"));
        let flipped = if text.ends_with('a') { "b" } else { "a" };
        let mut wrong = text.to_string();
        let middle = wrong.len() - 40;
        let other = if &wrong[middle..=middle] == flipped {
            "c"
        } else {
            flipped
        };
        wrong.replace_range(middle..=middle, other);
        assert!(error(&wrong, 2, now).contains("checksum"));
    }
}
