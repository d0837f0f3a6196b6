//! The forwarding header (R15 to R23): what every hop reads, and the only part that a hop changes.
use crate::codec::{Reader, Write};
use crate::route_log::RouteLogEntry;
use crate::{Id, ReloadError};

/// RELO (RD7).
pub const MAGIC: [u8; 4] = *b"RELO";
/// Initial, and highest accepted, TTL in hops (RD9).
pub const MAX_TTL: u8 = 100;
/// EXP bit and version 1: the format with our private choices (RD14).
pub const VERSION_PRIVATE: u8 = 0x81;
/// Version 1 without the EXP bit.
pub const VERSION_PLAIN: u8 = 0x01;
/// Bytes before the lists.
pub const FIXED_LEN: usize = 28;
/// Entries in a route or via list (R22).
pub const MAX_LIST: usize = 255;
/// Bytes of a route log after which no hop appends to it (RD18).
pub const MAX_ROUTE_LOG: usize = 8 * 1024;

const FLAG_ROUTE_LOG: u16 = 1;
const FRAG: u16 = 0x8000;
const LAST_FRAG: u16 = 0x4000;

/// How the requester wants its message to travel (R17).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Routing {
    /// 0: served as recursive (RD10).
    #[default]
    Unspecified,
    /// 1: from hop to hop.
    Recursive,
    /// 2: answered with 302 and the next hop.
    Iterative,
    /// Anything else: 499.
    Unknown(u8),
}

impl From<u8> for Routing {
    fn from(byte: u8) -> Self {
        match byte {
            0 => Self::Unspecified,
            1 => Self::Recursive,
            2 => Self::Iterative,
            other => Self::Unknown(other),
        }
    }
}

impl From<Routing> for u8 {
    fn from(routing: Routing) -> u8 {
        match routing {
            Routing::Unspecified => 0,
            Routing::Recursive => 1,
            Routing::Iterative => 2,
            Routing::Unknown(other) => other,
        }
    }
}

/// Whether the message is whole, and which part it is if not (R18, RD11, RD12).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Fragment {
    /// All of it.
    #[default]
    Whole,
    /// A part of what follows the header.
    Part {
        /// Bytes before this part; a multiple of 8.
        offset: usize,
        /// Whether nothing follows it.
        last: bool,
    },
}

/// The forwarding header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// [`overlay_hash`](crate::overlay_hash) of the overlay's name.
    pub overlay: u32,
    /// Hops that it may still take, 0 to 100.
    pub ttl: u8,
    /// How it travels.
    pub routing: Routing,
    /// Which part it is.
    pub fragment: Fragment,
    /// [`VERSION_PRIVATE`], or [`VERSION_PLAIN`].
    pub version: u8,
    /// The same in a request, its retransmissions, its fragments and its response (R21, R54).
    pub transaction: u64,
    /// Ids to visit, first first.
    pub route: Vec<Id>,
    /// Ids passed, first first.
    pub via: Vec<Id>,
    /// The log, where the ROUTE-LOG flag asks for one (R40).
    pub log: Option<Vec<RouteLogEntry>>,
}

impl Header {
    /// The header of a new request.
    pub fn new(overlay: u32, transaction: u64, route: Vec<Id>) -> Self {
        Self {
            overlay,
            ttl: MAX_TTL,
            routing: Routing::Recursive,
            fragment: Fragment::Whole,
            version: VERSION_PRIVATE,
            transaction,
            route,
            via: Vec::new(),
            log: None,
        }
    }

    /// The header of the response to a request that came from `sender` with this header: the via list and the sender
    /// reversed (R27, RD17), the log copied (R41).
    pub fn response(&self, sender: Option<Id>) -> Self {
        let mut route: Vec<Id> = self.via.iter().copied().chain(sender).collect();
        route.reverse();
        Self {
            route,
            log: self.log.clone(),
            ..Self::new(self.overlay, self.transaction, Vec::new())
        }
    }

    /// Reads a header; the rest are the contents, or a fragment of them. Checks the magic, the length (which must be
    /// that of `bytes`) and the lists, neither overlay nor version nor TTL: those are answered, not dropped (R25).
    pub fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), ReloadError> {
        let mut r = Reader::new(bytes, "the forwarding header");
        let magic = r.array()?;
        if magic != MAGIC {
            return Err(ReloadError::Magic(magic));
        }
        let overlay = r.u32()?;
        let ttl = r.u8()?;
        let routing = r.u8()?.into();
        let fragment = r.u16()?;
        let version = r.u8()?;
        let announced = r.u24()? as usize;
        if announced != bytes.len() {
            return Err(ReloadError::Length {
                announced,
                have: bytes.len(),
            });
        }
        let transaction = r.u64()?;
        let (route_len, via_len) = (r.u8()?, r.u8()?);
        let flags = r.u16()?;
        let mut list = |len: u8| (0..len).map(|_| r.id()).collect::<Result<Vec<_>, _>>();
        let (route, via) = (list(route_len)?, list(via_len)?);
        let log = if flags & FLAG_ROUTE_LOG != 0 {
            let log = Reader::sub(r.vec16()?, "the route log");
            Some(log.each(RouteLogEntry::read)?)
        } else {
            None
        };
        let header = Self {
            overlay,
            ttl,
            routing,
            fragment: match fragment & FRAG {
                0 => Fragment::Whole,
                _ => Fragment::Part {
                    offset: usize::from(fragment & 0x3fff) * 8,
                    last: fragment & LAST_FRAG != 0,
                },
            },
            version,
            transaction,
            route,
            via,
            log,
        };
        Ok((header, r.rest()))
    }

    /// The message of this header and `contents`.
    pub fn emit(&self, contents: &[u8]) -> Result<Vec<u8>, ReloadError> {
        let lists = self.route.len() + self.via.len();
        let mut out = Vec::with_capacity(FIXED_LEN + 16 * lists + contents.len());
        out.raw(&MAGIC);
        out.u32(self.overlay);
        out.u8(self.ttl);
        out.u8(self.routing.into());
        out.u16(match self.fragment {
            Fragment::Whole => 0,
            Fragment::Part { offset, last } => {
                debug_assert!(offset % 8 == 0 && offset / 8 <= 0x3fff);
                FRAG | (offset / 8) as u16 & 0x3fff | if last { LAST_FRAG } else { 0 }
            }
        });
        out.u8(self.version);
        out.u24(0);
        out.u64(self.transaction);
        for list in [&self.route, &self.via] {
            let len = u8::try_from(list.len()).map_err(|_| ReloadError::TooLong {
                what: "a route list",
                len: list.len(),
                limit: MAX_LIST,
            })?;
            out.u8(len);
        }
        out.u16(if self.log.is_some() {
            FLAG_ROUTE_LOG
        } else {
            0
        });
        for id in self.route.iter().chain(&self.via) {
            out.raw(&id.0);
        }
        if let Some(log) = &self.log {
            out.vec16("the route log", |out| {
                log.iter().try_for_each(|entry| entry.write(out))
            })?;
        }
        out.raw(contents);
        set_length(&mut out)?;
        Ok(out)
    }

    /// Bytes of the header on the wire.
    pub fn wire_len(&self) -> usize {
        FIXED_LEN + 16 * (self.route.len() + self.via.len()) + self.log_len()
    }

    fn log_len(&self) -> usize {
        self.log.as_ref().map_or(0, |log| {
            2 + log.iter().map(RouteLogEntry::wire_len).sum::<usize>()
        })
    }

    /// Appends a hop's entry, unless there is no log or it is full (R40, RD18).
    pub fn log_hop(&mut self, entry: &RouteLogEntry) {
        let len = self.log_len();
        if let Some(log) = &mut self.log
            && len + entry.wire_len() <= MAX_ROUTE_LOG
        {
            log.push(entry.clone());
        }
    }
}

fn set_length(message: &mut [u8]) -> Result<(), ReloadError> {
    let len = message.len();
    let length =
        u32::try_from(len)
            .ok()
            .filter(|len| *len < 1 << 24)
            .ok_or(ReloadError::TooLong {
                what: "the message",
                len,
                limit: (1 << 24) - 1,
            })?;
    message[13..16].copy_from_slice(&length.to_be_bytes()[1..]);
    Ok(())
}

/// The length of the message that starts with `bytes`, for streams where messages stand back to back (R9). `None` as
/// long as fewer than 16 bytes are there.
///
/// # Errors
/// Not RELOAD, or longer than `limit`: the stream is of no further use.
pub fn framed_len(bytes: &[u8], limit: usize) -> Result<Option<usize>, ReloadError> {
    let Some(head) = bytes.first_chunk::<16>() else {
        return Ok(None);
    };
    let [m0, m1, m2, m3, .., l0, l1, l2] = *head;
    if [m0, m1, m2, m3] != MAGIC {
        return Err(ReloadError::Magic([m0, m1, m2, m3]));
    }
    let len = u32::from_be_bytes([0, l0, l1, l2]) as usize;
    if !(FIXED_LEN..=limit).contains(&len) {
        return Err(ReloadError::TooLong {
            what: "a message of the stream",
            len,
            limit,
        });
    }
    Ok(Some(len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::bytes;

    // R15 to R23, RD17: the PING on its way from D to E
    #[test]
    fn a_message_in_transit_is_that_of_the_vectors() {
        let bytes = bytes("ping-request-in-transit");
        let (header, contents) = Header::parse(&bytes).unwrap();
        assert_eq!(header.ttl, 97);
        assert_eq!(header.overlay, crate::overlay_hash("a--00000001.net"));
        assert_eq!(header.route, [Id([0x55; 16])]);
        assert_eq!(header.via, [1, 2, 3].map(|n| Id([n * 0x11; 16])));
        assert_eq!(header.fragment, Fragment::Whole);
        assert_eq!(header.emit(contents).unwrap(), bytes);
        // R27: via list and sender reversed
        let response = header.response(Some(Id([0x44; 16])));
        assert_eq!(response.route, [4, 3, 2, 1].map(|n| Id([n * 0x11; 16])));
        assert_eq!(response.transaction, header.transaction);
        assert!(response.via.is_empty());
    }

    // R40, R41, R42, RD18
    #[test]
    fn the_route_log_is_that_of_the_vectors_and_goes_into_the_response() {
        let bytes = bytes("ping-request-with-route-log");
        let (header, contents) = Header::parse(&bytes).unwrap();
        let log = header.log.as_ref().unwrap();
        assert_eq!(log.len(), 1);
        assert_eq!(log[0].version, "anode 0.1");
        assert_eq!(log[0].uptime, 3600);
        assert_eq!(log[0].id, Id([0x11; 16]));
        assert_eq!(log[0].address, "192.0.2.1:6084".parse().unwrap());
        assert_eq!(header.emit(contents).unwrap(), bytes);
        assert_eq!(header.response(None).log, header.log);
    }

    // RD18: 8 KiB
    #[test]
    fn a_route_log_stops_growing() {
        let bytes = bytes("ping-request-with-route-log");
        let (mut header, _) = Header::parse(&bytes).unwrap();
        let entry = header.log.clone().unwrap().remove(0);
        for _ in 0..10_000 {
            header.log_hop(&entry);
        }
        let len = header.emit(&[]).unwrap().len();
        assert!(len <= header.wire_len() && header.log_len() <= MAX_ROUTE_LOG);
        assert!(header.log_len() > MAX_ROUTE_LOG - 64);
    }

    // R20, RD7, RD74: every length but the right one, and RFC 6940's magic
    #[test]
    fn cut_and_grown_headers_are_refused() {
        for name in [
            "ping-request-unsigned",
            "ping-request-in-transit",
            "ping-request-with-route-log",
        ] {
            let bytes = bytes(name);
            for len in 0..bytes.len() {
                assert!(Header::parse(&bytes[..len]).is_err(), "{name}: {len}");
            }
            let mut longer = bytes.clone();
            longer.push(0);
            assert!(Header::parse(&longer).is_err());
            let mut wrong = bytes.clone();
            wrong[0] = 0xd2;
            assert!(matches!(
                Header::parse(&wrong),
                Err(ReloadError::Magic([0xd2, ..]))
            ));
        }
        // lists that reach beyond the end
        let mut lying = bytes("ping-request-unsigned");
        lying[24] = 255;
        assert!(Header::parse(&lying).is_err());
    }

    // R9
    #[test]
    fn a_stream_is_cut_by_the_length_field() {
        let bytes = bytes("ping-request-signed");
        assert_eq!(framed_len(&bytes[..15], 65_535), Ok(None));
        assert_eq!(framed_len(&bytes, 65_535), Ok(Some(bytes.len())));
        assert!(framed_len(&bytes, 100).is_err());
        assert!(framed_len(&[0; 16], 65_535).is_err());
        let mut tiny = bytes.clone();
        tiny[13..16].copy_from_slice(&[0, 0, 27]);
        assert!(framed_len(&tiny, 65_535).is_err());
    }

    // R22: 255 entries each
    #[test]
    fn lists_have_at_most_255_entries() {
        let mut header = Header::new(1, 2, vec![Id([1; 16]); 255]);
        header.via = vec![Id([2; 16]); 255];
        let bytes = header.emit(b"x").unwrap();
        assert_eq!(Header::parse(&bytes).unwrap(), (header.clone(), &b"x"[..]));
        header.via.push(Id([3; 16]));
        assert!(header.emit(b"x").is_err());
    }
}
