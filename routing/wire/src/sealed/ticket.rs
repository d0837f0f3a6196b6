//! Tickets: how two machines come to trust each other once (Q29, Q30).
//!
//! The ticket's text goes from one machine to the other by hand. The joiner proves inside a session that it has the
//! secret; [`Tickets`] on the inviting side decides, and hands out what has to be on disk before the answer goes.
use super::crypto::{hmac, hmac_key};
use super::timestamps::Timestamp;
use crate::{Address, Endpoint, WireError, base32};
use rand_core::CryptoRng;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

const PREFIX: &str = "anode-ticket-";
const FORMAT: u8 = 1;
/// Most endpoints, and most relays, that a ticket carries.
pub const MAX_ENTRIES: usize = 8;
const CHECKSUM: usize = 4;

/// Names a ticket; not secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct TicketId(pub [u8; 8]);

/// What `anode invite` prints. `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket {
    /// Who invites; its zone is in it.
    pub address: Address,
    /// Where the inviting machine is now.
    pub endpoints: Vec<Endpoint>,
    /// Relays that know it, each with where it is.
    pub relays: Vec<(Address, Endpoint)>,
    /// Good until then.
    pub expires: Timestamp,
    /// Its name.
    pub id: TicketId,
    secret: [u8; 32],
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("address", &self.address)
            .field("id", &self.id)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// Why text is no ticket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TicketError {
    /// Something else.
    #[error(
        "a ticket starts with anode-ticket-; copy the whole line that `anode invite` has printed"
    )]
    Prefix,
    /// `place` counts characters of the whole text from 1.
    #[error("{character:?} at place {place} does not belong into a ticket; copy it again")]
    Character {
        /// The first that is wrong.
        character: char,
        /// Its place.
        place: usize,
    },
    /// Characters are missing, or too many.
    #[error(
        "the ticket is not complete ({0} characters); copy the whole line that `anode invite` has printed"
    )]
    Length(usize),
    /// All characters are possible, but some are wrong.
    #[error("the ticket is damaged: its checksum is wrong; copy it again")]
    Checksum,
    /// Made by a later version.
    #[error("the ticket has format {0}, this program knows format 1; update it")]
    Format(u8),
    /// The checksum is right, and what it covers is not.
    #[error("the ticket holds something that cannot be: {0}")]
    Content(#[from] WireError),
    /// More than it may hold.
    #[error("a ticket holds at most {MAX_ENTRIES} endpoints and as many relays")]
    TooMany,
}

impl Ticket {
    /// A new ticket with a random name and secret.
    pub fn new(address: Address, expires: Timestamp, rng: &mut dyn CryptoRng) -> Self {
        let (mut id, mut secret) = ([0; 8], [0; 32]);
        rng.fill_bytes(&mut id);
        rng.fill_bytes(&mut secret);
        Self {
            address,
            endpoints: Vec::new(),
            relays: Vec::new(),
            expires,
            id: TicketId(id),
            secret,
        }
    }

    /// The proof that the joiner has the ticket, good for one handshake and one address (Q29).
    pub fn proof(&self, handshake_hash: &[u8; 32], joiner: &Address) -> [u8; 32] {
        proof(&self.secret, handshake_hash, joiner)
    }

    /// The text. `TooMany` if there are more entries than a reader takes.
    pub fn to_text(&self) -> Result<Zeroizing<String>, TicketError> {
        if self.endpoints.len() > MAX_ENTRIES || self.relays.len() > MAX_ENTRIES {
            return Err(TicketError::TooMany);
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(512));
        bytes.extend_from_slice(&[0; CHECKSUM]);
        bytes.push(FORMAT);
        bytes.extend_from_slice(self.address.as_bytes());
        bytes.extend_from_slice(&self.id.0);
        bytes.extend_from_slice(&self.secret);
        bytes.extend_from_slice(&self.expires.0.to_be_bytes());
        bytes.push(self.endpoints.len() as u8);
        for endpoint in &self.endpoints {
            endpoint.emit(&mut bytes);
        }
        bytes.push(self.relays.len() as u8);
        for (address, endpoint) in &self.relays {
            bytes.extend_from_slice(address.as_bytes());
            endpoint.emit(&mut bytes);
        }
        // Whole groups of 5 bytes; a reader ignores what follows the last relay.
        while bytes.len() % 5 != 0 {
            bytes.push(0);
        }
        let checksum = checksum(&bytes);
        bytes[..CHECKSUM].copy_from_slice(&checksum);

        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + bytes.len() / 5 * 8));
        text.push_str(PREFIX);
        for group in bytes.chunks_exact(5) {
            let characters: [u8; 8] = base32::encode(group);
            text.extend(characters.iter().map(|c| char::from(*c)));
        }
        Ok(text)
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Self, TicketError> {
        let text = text.trim();
        let data = match text.get(..PREFIX.len()) {
            Some(prefix) if prefix.eq_ignore_ascii_case(PREFIX) => &text[PREFIX.len()..],
            _ => return Err(TicketError::Prefix),
        };
        let mut bytes = Zeroizing::new(vec![0; data.chars().count() / 8 * 5]);
        base32::decode(data, &mut bytes).map_err(|error| match error {
            WireError::NotBase32 { character, place } => TicketError::Character {
                character,
                place: place + PREFIX.len(),
            },
            _ => TicketError::Length(text.chars().count()),
        })?;
        let Some((given, _)) = bytes.split_first_chunk::<CHECKSUM>() else {
            return Err(TicketError::Length(text.chars().count()));
        };
        if *given != checksum(&bytes) {
            return Err(TicketError::Checksum);
        }
        Self::parse(&bytes[CHECKSUM..])
    }
}

impl Ticket {
    fn parse(bytes: &[u8]) -> Result<Self, TicketError> {
        let mut reader = Reader(bytes);
        let [format] = reader.take()?;
        if format != FORMAT {
            return Err(TicketError::Format(format));
        }
        let address = Address::from_bytes(&reader.take::<{ Address::LEN }>()?)?;
        let mut ticket = Self {
            address,
            endpoints: Vec::new(),
            relays: Vec::new(),
            id: TicketId(reader.take()?),
            secret: reader.take()?,
            expires: Timestamp(u64::from_be_bytes(reader.take()?)),
        };
        for _ in 0..reader.count()? {
            ticket.endpoints.push(reader.endpoint()?);
        }
        for _ in 0..reader.count()? {
            let address = Address::from_bytes(&reader.take::<{ Address::LEN }>()?)?;
            ticket.relays.push((address, reader.endpoint()?));
        }
        Ok(ticket)
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], TicketError> {
        let (taken, rest) =
            self.0
                .split_first_chunk()
                .ok_or(TicketError::Content(WireError::Truncated {
                    what: "the ticket",
                    need: N,
                    have: self.0.len(),
                }))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn count(&mut self) -> Result<usize, TicketError> {
        let [count] = self.take()?;
        let count = usize::from(count);
        (count <= MAX_ENTRIES)
            .then_some(count)
            .ok_or(TicketError::TooMany)
    }

    fn endpoint(&mut self) -> Result<Endpoint, TicketError> {
        let (endpoint, rest) = Endpoint::parse(self.0)?;
        self.0 = rest;
        Ok(endpoint)
    }
}

/// Over everything behind it, with a name of its own: finds mistakes of copying, proves nothing.
fn checksum(bytes: &[u8]) -> [u8; CHECKSUM] {
    let digest = Sha256::new()
        .chain_update(b"anode ticket 1")
        .chain_update(&bytes[CHECKSUM..])
        .finalize();
    std::array::from_fn(|i| digest[i])
}

fn proof(secret: &[u8; 32], handshake_hash: &[u8; 32], joiner: &Address) -> [u8; 32] {
    hmac(
        &hmac_key(secret),
        &[b"anode join 1", handshake_hash, joiner.as_bytes()],
    )
}

/// The body of JOIN (0x49).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Join {
    /// Which ticket.
    pub id: TicketId,
    /// See [`Ticket::proof`].
    pub proof: [u8; 32],
}

impl Join {
    /// Bytes of the body.
    pub const LEN: usize = 40;

    /// `None` if the length is wrong.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let (id, rest) = body.split_first_chunk()?;
        Some(Self {
            id: TicketId(*id),
            proof: rest.try_into().ok()?,
        })
    }

    /// The body.
    pub fn emit(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[..8].copy_from_slice(&self.id.0);
        out[8..].copy_from_slice(&self.proof);
        out
    }
}

/// What became of a JOIN.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Status {
    /// The joiner is trusted now.
    Taken,
    /// No such ticket, another has used it, or the proof is wrong: nobody learns which.
    Unknown,
    /// Too late.
    Expired,
}

/// The body of JOINED (0x4A).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Joined {
    /// Which ticket.
    pub id: TicketId,
    /// The answer.
    pub status: Status,
}

impl Joined {
    /// Bytes of the body.
    pub const LEN: usize = 9;

    /// `None` if the length or the status is wrong.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let (id, rest) = body.split_first_chunk()?;
        let status = match rest {
            [0] => Status::Taken,
            [1] => Status::Unknown,
            [2] => Status::Expired,
            _ => return None,
        };
        Some(Self {
            id: TicketId(*id),
            status,
        })
    }

    /// The body.
    pub fn emit(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[..8].copy_from_slice(&self.id.0);
        out[8] = match self.status {
            Status::Taken => 0,
            Status::Unknown => 1,
            Status::Expired => 2,
        };
        out
    }
}

/// What the inviting side keeps of a ticket, on disk too.
#[derive(Clone)]
pub struct Issued {
    /// Which.
    pub id: TicketId,
    /// Good until then.
    pub expires: Timestamp,
    /// Who has used it.
    pub taken_by: Option<Address>,
    /// The secret.
    pub secret: Zeroizing<[u8; 32]>,
}

impl From<&Ticket> for Issued {
    fn from(ticket: &Ticket) -> Self {
        Self {
            id: ticket.id,
            expires: ticket.expires,
            taken_by: None,
            secret: Zeroizing::new(ticket.secret),
        }
    }
}

/// What to do about a JOIN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Answer with this.
    Answer(Joined),
    /// In one write put on disk that the ticket is used and its joiner trusted, then call [`Tickets::commit`] and
    /// answer with [`Status::Taken`]; if the write fails, answer nothing (Q30).
    Take(TicketId),
    /// Too many wrong ones from there.
    Silence,
}

/// The tickets that a node has issued.
#[derive(Default)]
pub struct Tickets {
    issued: HashMap<TicketId, Issued>,
    wrong: HashMap<u64, (Instant, u32)>,
}

/// Wrong tickets that a source may show in a minute (Q30).
const WRONG: u32 = 10;
const MINUTE: Duration = Duration::from_secs(60);
/// Sources that are remembered for it.
const SOURCES: usize = 1024;
/// Tickets that are open at once.
pub const MAX_ISSUED: usize = 1024;

impl Tickets {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one, new or from disk. False if there are too many that have not expired.
    pub fn add(&mut self, wall: Timestamp, ticket: Issued) -> bool {
        if self.issued.len() >= MAX_ISSUED {
            self.issued.retain(|_, issued| wall <= issued.expires);
        }
        let room = self.issued.len() < MAX_ISSUED;
        if room {
            self.issued.insert(ticket.id, ticket);
        }
        room
    }

    /// Takes one back.
    pub fn revoke(&mut self, id: TicketId) -> bool {
        self.issued.remove(&id).is_some()
    }

    /// What has to be on disk.
    pub fn iter(&self) -> impl Iterator<Item = &Issued> {
        self.issued.values()
    }

    /// A JOIN has come from `joiner` in the session with this handshake hash; `source` stands for where from.
    pub fn judge(
        &mut self,
        now: Instant,
        wall: Timestamp,
        source: u64,
        joiner: &Address,
        handshake_hash: &[u8; 32],
        join: &Join,
    ) -> Verdict {
        if self.is_silenced(now, source) {
            return Verdict::Silence;
        }
        let answer = |status| {
            Verdict::Answer(Joined {
                id: join.id,
                status,
            })
        };
        let proven = self.issued.get(&join.id).filter(|issued| {
            let expected = proof(&issued.secret, handshake_hash, joiner);
            bool::from(expected.ct_eq(&join.proof))
        });
        let Some(issued) = proven else {
            self.note_wrong(now, source);
            return answer(Status::Unknown);
        };
        match issued.taken_by {
            _ if wall > issued.expires => answer(Status::Expired),
            Some(by) if by == *joiner => answer(Status::Taken),
            Some(_) => answer(Status::Unknown),
            None => Verdict::Take(join.id),
        }
    }

    /// The write that [`Verdict::Take`] asked for is on disk.
    pub fn commit(&mut self, id: TicketId, joiner: &Address) {
        if let Some(issued) = self.issued.get_mut(&id) {
            issued.taken_by.get_or_insert(*joiner);
        }
    }

    fn is_silenced(&self, now: Instant, source: u64) -> bool {
        self.wrong.get(&source).is_some_and(|(since, count)| {
            *count >= WRONG && now.saturating_duration_since(*since) < MINUTE
        })
    }

    fn note_wrong(&mut self, now: Instant, source: u64) {
        let old = |since: Instant| now.saturating_duration_since(since) >= MINUTE;
        if self.wrong.len() >= SOURCES {
            self.wrong.retain(|_, (since, _)| !old(*since));
        }
        if self.wrong.len() >= SOURCES && !self.wrong.contains_key(&source) {
            // Somebody has very many addresses: the oldest entry makes room.
            let oldest = self.wrong.iter().min_by_key(|(_, (since, _))| *since);
            if let Some(oldest) = oldest.map(|(source, _)| *source) {
                self.wrong.remove(&oldest);
            }
        }
        let entry = self.wrong.entry(source).or_insert((now, 0));
        if old(entry.0) {
            *entry = (now, 0);
        }
        entry.1 += 1;
    }
}

#[cfg(test)]
mod tests;
