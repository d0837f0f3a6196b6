//! The messages of the stream protocol (§5.2).
use super::{Reader, kind};
use crate::WireError;

/// The two ids in front of every stream message: (sender's link id, receiver's), D28.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Links {
    /// The sender's link id (a source port where S_OPEN had flag 01).
    pub sender: u16,
    /// The receiver's link id or port ("destination port").
    pub receiver: u16,
}

/// §5.2
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StreamMessage<'a> {
    /// §5.2.1
    Open {
        /// Whose link this is.
        links: Links,
        /// Receive window in 1,024-byte units.
        window: u16,
        /// Random initial sequence number.
        isn: u32,
        /// 01: `links.sender` is a source port (A62).
        flags: u8,
    },
    /// §5.2.2
    Close {
        /// Whose link this is.
        links: Links,
        /// None are defined.
        flags: u8,
        /// 0 application, 1 refused, 2 protocol error, 3 timed out; 0x10 reset, 0x11 policy.
        reason: u8,
        /// The closer's ISN; that of the refused S_OPEN in a refusal.
        initial: u32,
        /// The number that the close takes; equal to `initial` in a refusal.
        sequence: u32,
    },
    /// §5.2.3
    Data {
        /// Whose link this is.
        links: Links,
        /// Counts packets, wraps.
        sequence: u32,
        /// The bytes.
        payload: &'a [u8],
    },
    /// §5.2.4
    Ack {
        /// Whose link this is.
        links: Links,
        /// Receive window in 1,024-byte units.
        window: u16,
        /// What was received.
        acks: Acks<'a>,
    },
    /// §5.2.5 with D32: the sequence number stands between the acks and the payload.
    Dack {
        /// Whose link this is.
        links: Links,
        /// Receive window in 1,024-byte units.
        window: u16,
        /// What was received.
        acks: Acks<'a>,
        /// Counts packets, wraps.
        sequence: u32,
        /// The bytes.
        payload: &'a [u8],
    },
}

const LINKS_LEN: usize = 4;

impl<'a> StreamMessage<'a> {
    /// Reads the body of a stream message.
    pub fn parse(kind: u8, body: &'a [u8]) -> Result<Self, WireError> {
        let what = match kind {
            kind::S_OPEN => "S_OPEN",
            kind::S_CLOSE => "S_CLOSE",
            kind::S_DATA => "S_DATA",
            kind::S_ACK => "S_ACK",
            kind::S_DACK => "S_DACK",
            unknown => return Err(WireError::MessageType(unknown)),
        };
        let mut reader = Reader::new(what, body);
        let links = Links {
            sender: reader.u16()?,
            receiver: reader.u16()?,
        };
        match kind {
            kind::S_OPEN => {
                let (window, isn, flags) = (reader.u16()?, reader.u32()?, reader.u8()?);
                reader.end()?;
                Ok(Self::Open {
                    links,
                    window,
                    isn,
                    flags,
                })
            }
            kind::S_CLOSE => {
                let (flags, reason) = (reader.u8()?, reader.u8()?);
                let (initial, sequence) = (reader.u32()?, reader.u32()?);
                reader.end()?;
                Ok(Self::Close {
                    links,
                    flags,
                    reason,
                    initial,
                    sequence,
                })
            }
            kind::S_DATA => Ok(Self::Data {
                links,
                sequence: reader.u32()?,
                payload: reader.remainder(),
            }),
            kind::S_ACK => {
                let window = reader.u16()?;
                Ok(Self::Ack {
                    links,
                    window,
                    acks: Acks::from_bytes(reader.remainder())?,
                })
            }
            _ => {
                let window = reader.u16()?;
                let count = reader.u8()?;
                let acks = Acks::from_bytes(reader.take(usize::from(count) * ACK_LEN)?)?;
                Ok(Self::Dack {
                    links,
                    window,
                    acks,
                    sequence: reader.u32()?,
                    payload: reader.remainder(),
                })
            }
        }
    }

    /// The link ids.
    pub fn links(&self) -> Links {
        match self {
            Self::Open { links, .. }
            | Self::Close { links, .. }
            | Self::Data { links, .. }
            | Self::Ack { links, .. }
            | Self::Dack { links, .. } => *links,
        }
    }

    /// The type number.
    pub fn kind(&self) -> u8 {
        match self {
            Self::Open { .. } => kind::S_OPEN,
            Self::Close { .. } => kind::S_CLOSE,
            Self::Data { .. } => kind::S_DATA,
            Self::Ack { .. } => kind::S_ACK,
            Self::Dack { .. } => kind::S_DACK,
        }
    }

    /// Bytes of the body.
    pub fn len(&self) -> usize {
        LINKS_LEN
            + match self {
                Self::Open { .. } => 7,
                Self::Close { .. } => 10,
                Self::Data { payload, .. } => 4 + payload.len(),
                Self::Ack { acks, .. } => 2 + acks.0.len(),
                Self::Dack { acks, payload, .. } => 3 + acks.0.len() + 4 + payload.len(),
            }
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Writes the body into `out[..self.len()]`.
    ///
    /// # Panics
    /// If `out` is shorter than that.
    pub fn emit(&self, out: &mut [u8]) {
        let links = self.links();
        let mut writer = Writer { out, at: 0 };
        writer.put(&links.sender.to_be_bytes());
        writer.put(&links.receiver.to_be_bytes());
        match self {
            Self::Open {
                window, isn, flags, ..
            } => {
                writer.put(&window.to_be_bytes());
                writer.put(&isn.to_be_bytes());
                writer.put(&[*flags]);
            }
            Self::Close {
                flags,
                reason,
                initial,
                sequence,
                ..
            } => {
                writer.put(&[*flags, *reason]);
                writer.put(&initial.to_be_bytes());
                writer.put(&sequence.to_be_bytes());
            }
            Self::Data {
                sequence, payload, ..
            } => {
                writer.put(&sequence.to_be_bytes());
                writer.put(payload);
            }
            Self::Ack { window, acks, .. } => {
                writer.put(&window.to_be_bytes());
                writer.put(acks.0);
            }
            Self::Dack {
                window,
                acks,
                sequence,
                payload,
                ..
            } => {
                writer.put(&window.to_be_bytes());
                // `Acks` holds at most 255 ranges
                writer.put(&[acks.count() as u8]);
                writer.put(acks.0);
                writer.put(&sequence.to_be_bytes());
                writer.put(payload);
            }
        }
    }
}

struct Writer<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) {
        self.out[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }
}

/// Bytes of one range.
const ACK_LEN: usize = 5;
/// Most ranges that one message may hold (D31).
pub const MAX_ACKS: usize = 255;

/// Ack ranges on the wire: a multiple of 5 bytes, each (first sequence number, count including the first), D31.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Acks<'a>(&'a [u8]);

impl<'a> Acks<'a> {
    /// From wire bytes; the length must be a multiple of 5, 1 to 255 ranges.
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self, WireError> {
        let whole = bytes.len().is_multiple_of(ACK_LEN);
        if whole && (1..=MAX_ACKS).contains(&(bytes.len() / ACK_LEN)) {
            Ok(Self(bytes))
        } else {
            Err(WireError::Acks(bytes.len()))
        }
    }

    /// (first, count) in the order of the wire; count 0 acknowledges nothing.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u8)> + 'a {
        let (ranges, _) = self.0.as_chunks::<ACK_LEN>();
        ranges
            .iter()
            .map(|&[a, b, c, d, count]| (u32::from_be_bytes([a, b, c, d]), count))
    }

    /// Number of ranges, 1 to 255.
    pub fn count(&self) -> usize {
        self.0.len() / ACK_LEN
    }

    /// The wire bytes.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.0
    }
}

/// One range for [`Acks::from_bytes`]: `count` sequence numbers from `first` on.
pub fn encode_ack(first: u32, count: u8) -> [u8; 5] {
    let [a, b, c, d] = first.to_be_bytes();
    [a, b, c, d, count]
}
