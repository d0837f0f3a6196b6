//! The layouts of BEP 15, big endian. Sizes are lower bounds: more bytes may follow and are ignored.

use crate::types::{Announce, Event, InfoHash, PeerId, ScrapeEntry};

/// The first 8 bytes of a connect request.
pub const MAGIC: u64 = 0x0417_2710_1980;
/// Bytes of a connect request and of its answer.
pub const CONNECT_SIZE: usize = 16;
/// Bytes of an announce request without options.
pub const ANNOUNCE_SIZE: usize = 98;
/// Bytes of an announce answer without peers.
pub const ANSWER_SIZE: usize = 20;
/// The most hashes of one scrape.
pub const MAX_SCRAPE: usize = 74;
/// Bytes of an error answer before its text.
pub const ERROR_SIZE: usize = 8;

const CONNECT: u32 = 0;
const ANNOUNCE: u32 = 1;
const SCRAPE: u32 = 2;
const ERROR: u32 = 3;

/// A connection id as sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionId(pub [u8; 8]);

/// A transaction id: random, it ties an answer to its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionId(pub u32);

/// What a client may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// Asks for a connection id.
    Connect(TransactionId),
    /// An announce.
    Announce(AnnounceRequest<'a>),
    /// A scrape.
    Scrape(ScrapeRequest<'a>),
}

/// An announce as it arrives. Its IP field is not read (B9, B15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnnounceRequest<'a> {
    /// To be checked before anything else is believed.
    pub connection: ConnectionId,
    /// To be sent back.
    pub transaction: TransactionId,
    /// The swarm.
    pub info_hash: InfoHash,
    /// Opaque (B16).
    pub peer_id: PeerId,
    /// Bytes left.
    pub left: u64,
    /// Unknown events count as none.
    pub event: Option<Event>,
    /// Opaque (B16).
    pub key: [u8; 4],
    /// How many peers are wanted; `None` for -1.
    pub num_want: Option<u32>,
    /// May be 0, which is no port.
    pub port: u16,
    /// What stands behind byte 98 (BEP 41).
    pub options: Options<'a>,
}

/// A scrape as it arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrapeRequest<'a> {
    /// To be checked before anything else is believed.
    pub connection: ConnectionId,
    /// To be sent back.
    pub transaction: TransactionId,
    hashes: &'a [[u8; 20]],
}

impl ScrapeRequest<'_> {
    /// The hashes asked for, at most [`MAX_SCRAPE`].
    pub fn hashes(&self) -> impl ExactSizeIterator<Item = InfoHash> + '_ {
        self.hashes
            .iter()
            .take(MAX_SCRAPE)
            .map(|hash| InfoHash(*hash))
    }
}

impl<'a> Request<'a> {
    /// Reads a datagram; `None` when it is no request at all.
    pub fn parse(datagram: &'a [u8]) -> Option<Self> {
        let mut fields = Fields(datagram);
        let connection = ConnectionId(fields.array()?);
        let action = fields.u32()?;
        let transaction = TransactionId(fields.u32()?);
        match action {
            CONNECT => {
                (u64::from_be_bytes(connection.0) == MAGIC).then_some(Self::Connect(transaction))
            }
            ANNOUNCE => {
                let info_hash = InfoHash(fields.array()?);
                let peer_id = PeerId(fields.array()?);
                let _downloaded = fields.u64()?;
                let left = fields.u64()?;
                let _uploaded = fields.u64()?;
                let event = match fields.u32()? {
                    1 => Some(Event::Completed),
                    2 => Some(Event::Started),
                    3 => Some(Event::Stopped),
                    _ => None,
                };
                let _ip = fields.u32()?;
                let key = fields.array()?;
                let num_want = u32::try_from(fields.u32()?.cast_signed()).ok();
                let port = u16::from_be_bytes(fields.array()?);
                let options = Options(fields.0);
                #[rustfmt::skip]
                let request = AnnounceRequest {
                    connection, transaction, info_hash, peer_id, left, event, key, num_want, port, options,
                };
                Some(Self::Announce(request))
            }
            SCRAPE => {
                let (hashes, _) = fields.0.as_chunks();
                (!hashes.is_empty()).then_some(Self::Scrape(ScrapeRequest {
                    connection,
                    transaction,
                    hashes,
                }))
            }
            _ => None,
        }
    }
}

/// BEP 41 options: what stands behind an announce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options<'a>(&'a [u8]);

impl<'a> Options<'a> {
    const END: u8 = 0;
    const NOP: u8 = 1;
    const TARGET: u8 = 2;

    /// The chunks of path and query in their order; an option that is cut off ends the list.
    pub fn target(self) -> impl Iterator<Item = &'a [u8]> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            loop {
                let (kind, behind) = rest.split_first()?;
                match *kind {
                    Self::END => return None,
                    Self::NOP => rest = behind,
                    kind => {
                        let (length, behind) = behind.split_first()?;
                        let (data, behind) = behind.split_at_checked(usize::from(*length))?;
                        rest = behind;
                        if kind == Self::TARGET {
                            return Some(data);
                        }
                    }
                }
            }
        })
    }
}

/// What a server may send. The bodies are not yet read: their layout depends on what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// A connection id.
    Connect(ConnectionId),
    /// What follows action and transaction of an announce.
    Announce(&'a [u8]),
    /// What follows action and transaction of a scrape.
    Scrape(&'a [u8]),
    /// An error's text; may end in NUL.
    Error(&'a [u8]),
}

impl<'a> Answer<'a> {
    /// Reads a datagram; `None` when it is no answer at all.
    pub fn parse(datagram: &'a [u8]) -> Option<(TransactionId, Self)> {
        let mut fields = Fields(datagram);
        let action = fields.u32()?;
        let transaction = TransactionId(fields.u32()?);
        let answer = match action {
            CONNECT => Self::Connect(ConnectionId(fields.array()?)),
            ANNOUNCE => Self::Announce(fields.0),
            SCRAPE => Self::Scrape(fields.0),
            ERROR => Self::Error(fields.0),
            _ => return None,
        };
        Some((transaction, answer))
    }
}

/// The fixed head of an announce answer, behind action and transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnnounceHead {
    /// Seconds.
    pub interval: u32,
    /// Clients with something left.
    pub leechers: u32,
    /// Clients with nothing left.
    pub seeders: u32,
}

impl AnnounceHead {
    /// The head, and the peers behind it.
    pub fn parse(body: &[u8]) -> Option<(Self, &[u8])> {
        let mut fields = Fields(body);
        let (interval, leechers, seeders) = (fields.u32()?, fields.u32()?, fields.u32()?);
        Some((
            Self {
                interval,
                leechers,
                seeders,
            },
            fields.0,
        ))
    }
}

/// The entries of a scrape answer, in the order of the hashes asked for.
pub fn scrape_entries(body: &[u8]) -> impl Iterator<Item = ScrapeEntry> + '_ {
    let mut fields = Fields(body);
    std::iter::from_fn(move || {
        let (complete, downloaded, incomplete) = (fields.u32()?, fields.u32()?, fields.u32()?);
        Some(ScrapeEntry {
            complete,
            downloaded,
            incomplete,
        })
    })
}

/// Appends a connect request.
pub fn write_connect(transaction: TransactionId, out: &mut Vec<u8>) {
    out.extend_from_slice(&MAGIC.to_be_bytes());
    put(out, &[CONNECT, transaction.0]);
}

/// Appends an announce request with the path and query of the tracker's URL as options, where there is one.
pub fn write_announce(
    connection: ConnectionId,
    transaction: TransactionId,
    announce: &Announce,
    target: &str,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(&connection.0);
    put(out, &[ANNOUNCE, transaction.0]);
    out.extend_from_slice(&announce.info_hash.0);
    out.extend_from_slice(&announce.peer_id.0);
    let (downloaded, uploaded) = (0u64, 0u64);
    for count in [downloaded, announce.left, uploaded] {
        out.extend_from_slice(&count.to_be_bytes());
    }
    let event = match announce.event {
        None => 0,
        Some(Event::Completed) => 1,
        Some(Event::Started) => 2,
        Some(Event::Stopped) => 3,
    };
    let ip = 0;
    put(out, &[event, ip, announce.key.0, announce.num_want]);
    out.extend_from_slice(&announce.port.to_be_bytes());
    for chunk in target.as_bytes().chunks(255) {
        out.extend_from_slice(&[Options::TARGET, chunk.len() as u8]);
        out.extend_from_slice(chunk);
    }
}

/// Appends a scrape request of at most [`MAX_SCRAPE`] hashes.
pub fn write_scrape(
    connection: ConnectionId,
    transaction: TransactionId,
    hashes: &[InfoHash],
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(&connection.0);
    put(out, &[SCRAPE, transaction.0]);
    for hash in hashes.iter().take(MAX_SCRAPE) {
        out.extend_from_slice(&hash.0);
    }
}

/// Appends the answer to a connect.
pub fn write_connected(transaction: TransactionId, connection: ConnectionId, out: &mut Vec<u8>) {
    put(out, &[CONNECT, transaction.0]);
    out.extend_from_slice(&connection.0);
}

/// Appends the head of an announce answer; the entries follow.
pub fn write_announced(transaction: TransactionId, head: AnnounceHead, out: &mut Vec<u8>) {
    put(
        out,
        &[
            ANNOUNCE,
            transaction.0,
            head.interval,
            head.leechers,
            head.seeders,
        ],
    );
}

/// Appends the head of a scrape answer; one [`write_scrape_entry`] per hash follows.
pub fn write_scraped(transaction: TransactionId, out: &mut Vec<u8>) {
    put(out, &[SCRAPE, transaction.0]);
}

/// Appends one entry of a scrape answer.
pub fn write_scrape_entry(entry: ScrapeEntry, out: &mut Vec<u8>) {
    put(out, &[entry.complete, entry.downloaded, entry.incomplete]);
}

/// Appends an error answer.
pub fn write_error(transaction: TransactionId, text: &str, out: &mut Vec<u8>) {
    put(out, &[ERROR, transaction.0]);
    out.extend_from_slice(text.as_bytes());
}

fn put(out: &mut Vec<u8>, words: &[u32]) {
    words
        .iter()
        .for_each(|word| out.extend_from_slice(&word.to_be_bytes()));
}

/// Takes big-endian fields from the front.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }
}
