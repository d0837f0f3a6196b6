//! What carries payload: ChannelData, the headers of Send and Data indications, and the cutting of streams.
//!
//! Payload is never copied here. [`Header`] is what goes in front of it and how many zero bytes go behind; it is sent
//! with scattered buffers, or written around the payload where it lies ([`Header::wrap`]).

use std::net::SocketAddr;
use std::ops::Range;

use stun_types::attribute::XorSocketAddr;

use crate::TurnError;
use crate::stun::{TransactionId, attr, is_stun, method};

/// Room that [`Header::wrap`] needs in front of a payload.
pub const HEADROOM: usize = 52;
/// Room that it needs behind.
pub const TAILROOM: usize = 3;

const CHANNEL_HEADER: usize = 4;

/// How a client talks to a server. Only this much of it matters here: whether messages come in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// A stream.
    Tcp,
    /// A stream, encrypted.
    Tls,
    /// Datagrams, encrypted.
    Dtls,
}

impl Transport {
    /// Whether nothing is lost or cut: no retransmission, and ChannelData must be padded.
    #[must_use]
    pub const fn is_stream(self) -> bool {
        matches!(self, Self::Tcp | Self::Tls)
    }

    /// Whether TLS or DTLS is spoken.
    #[must_use]
    pub const fn is_secure(self) -> bool {
        matches!(self, Self::Tls | Self::Dtls)
    }
}

/// A channel's number, 0x4000 to 0x7FFF; RFC 8656 hands out only those up to 0x4FFF (T16).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Channel(u16);

impl Channel {
    /// The number, if its first two bits are 01.
    #[must_use]
    pub const fn new(number: u16) -> Option<Self> {
        if number >> 14 == 1 {
            Some(Self(number))
        } else {
            None
        }
    }

    /// The number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }

    /// Whether RFC 8656 still hands it out (0x4000 to 0x4FFF).
    #[must_use]
    pub const fn is_current(self) -> bool {
        self.0 < 0x5000
    }
}

/// ChannelData in a datagram: its channel and where its payload lies. `None` for another first two bits, and for a
/// datagram shorter than the length it gives (T13, T16). What stands behind the length is padding.
#[must_use]
pub fn channel_data(bytes: &[u8]) -> Option<(Channel, Range<usize>)> {
    let (number, length) = channel_header(bytes)?;
    let end = CHANNEL_HEADER + length;
    (end <= bytes.len()).then_some((number, CHANNEL_HEADER..end))
}

fn channel_header(bytes: &[u8]) -> Option<(Channel, usize)> {
    let header = bytes.first_chunk::<4>()?;
    let channel = Channel::new(u16::from_be_bytes([header[0], header[1]]))?;
    Some((
        channel,
        usize::from(u16::from_be_bytes([header[2], header[3]])),
    ))
}

/// What goes in front of a payload, and the padding behind.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    bytes: [u8; HEADROOM],
    length: u8,
    padding: u8,
}

impl Header {
    /// Of ChannelData; in a stream it is padded to a multiple of four, and the padding is not in its length (T13).
    /// `None` if the payload is longer than 65,535 bytes.
    #[must_use]
    pub fn channel(channel: Channel, payload: usize, transport: Transport) -> Option<Self> {
        let mut header = Self {
            bytes: [0; HEADROOM],
            length: CHANNEL_HEADER as u8,
            padding: 0,
        };
        header.bytes[..2].copy_from_slice(&channel.0.to_be_bytes());
        header.bytes[2..4].copy_from_slice(&u16::try_from(payload).ok()?.to_be_bytes());
        if transport.is_stream() {
            header.padding = padding(payload);
        }
        Some(header)
    }

    /// Of a Send indication. `None` if the message would be longer than STUN can say.
    #[must_use]
    pub fn send(
        id: TransactionId,
        peer: SocketAddr,
        payload: usize,
        dont_fragment: bool,
    ) -> Option<Self> {
        Self::indication(method::SEND, id, peer, payload, dont_fragment)
    }

    /// Of a Data indication. `None` if the message would be longer than STUN can say.
    #[must_use]
    pub fn data(id: TransactionId, peer: SocketAddr, payload: usize) -> Option<Self> {
        Self::indication(method::DATA, id, peer, payload, false)
    }

    fn indication(
        method: u16,
        id: TransactionId,
        peer: SocketAddr,
        payload: usize,
        df: bool,
    ) -> Option<Self> {
        let address = XorSocketAddr::new(peer, crate::stun_id(&id).into());
        let address_length = usize::from(address.length());
        let df_length = if df { 4 } else { 0 };
        let length = 20 + df_length + 4 + address_length + 4;
        let total = length - 20 + payload.next_multiple_of(4);
        let mut header = Self {
            bytes: [0; HEADROOM],
            length: length as u8,
            padding: padding(payload),
        };
        let b = &mut header.bytes;
        b[..2].copy_from_slice(&(method | 0x10).to_be_bytes());
        b[2..4].copy_from_slice(&u16::try_from(total).ok()?.to_be_bytes());
        b[4..8].copy_from_slice(&0x2112_A442_u32.to_be_bytes());
        b[8..20].copy_from_slice(&id);
        let mut at = 20;
        if df {
            b[at..at + 2].copy_from_slice(&attr::DONT_FRAGMENT.to_be_bytes());
            at += 4;
        }
        b[at..at + 2].copy_from_slice(&attr::XOR_PEER_ADDRESS.to_be_bytes());
        b[at + 2..at + 4].copy_from_slice(&address.length().to_be_bytes());
        address.write_into_unchecked(&mut b[at + 4..at + 4 + address_length]);
        at += 4 + address_length;
        b[at..at + 2].copy_from_slice(&attr::DATA.to_be_bytes());
        b[at + 2..at + 4].copy_from_slice(&(payload as u16).to_be_bytes()); // smaller than total, which fits
        Some(header)
    }

    /// The bytes that go in front.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// How many zero bytes go behind, 0 to 3.
    #[must_use]
    pub fn padding(&self) -> usize {
        usize::from(self.padding)
    }

    /// Bytes on the wire for a payload of this size.
    #[must_use]
    pub fn total(&self, payload: usize) -> usize {
        self.bytes().len() + payload + self.padding()
    }

    /// Writes header and padding around the payload in `buffer` and gives the range of the whole message. `None` if
    /// less than [`HEADROOM`] is in front or less than [`TAILROOM`] behind.
    #[must_use]
    pub fn wrap(&self, buffer: &mut [u8], payload: Range<usize>) -> Option<Range<usize>> {
        let start = payload.start.checked_sub(self.bytes().len())?;
        let end = payload.end + self.padding();
        buffer.get_mut(payload.end..end)?.fill(0);
        buffer
            .get_mut(start..payload.start)?
            .copy_from_slice(self.bytes());
        Some(start..end)
    }
}

fn padding(payload: usize) -> u8 {
    (payload.next_multiple_of(4) - payload) as u8
}

/// How the next message in a stream is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Bytes of the message, without padding: what the state machines want.
    pub message: usize,
    /// Bytes until the next message.
    pub total: usize,
}

/// Looks at the start of a stream: `None` while too little is there to tell.
///
/// # Errors
/// [`TurnError::Framing`] if it is neither STUN nor ChannelData: the stream must be closed.
pub fn cut(bytes: &[u8]) -> Result<Option<Cut>, TurnError> {
    let Some(first) = bytes.first() else {
        return Ok(None);
    };
    match first >> 6 {
        0 if bytes.len() < 20 => Ok(None),
        0 if is_stun(bytes) => {
            let total = 20 + usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
            if total % 4 != 0 {
                return Err(TurnError::Framing);
            }
            Ok(Some(Cut {
                message: total,
                total,
            }))
        }
        1 if bytes.len() < CHANNEL_HEADER => Ok(None),
        1 => {
            let message = CHANNEL_HEADER + usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
            Ok(Some(Cut {
                message,
                total: message.next_multiple_of(4),
            }))
        }
        _ => Err(TurnError::Framing),
    }
}

/// Cuts a stream into messages. It holds one message and what came with it, and never more than it is allowed.
#[derive(Debug)]
pub struct Deframer {
    buffer: Vec<u8>,
    start: usize,
    limit: usize,
}

impl Deframer {
    /// Holds at most `limit` bytes; a message that is longer closes the stream. 65,556 takes every message.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            buffer: Vec::new(),
            start: 0,
            limit,
        }
    }

    /// How many bytes may be pushed now: read no more than this.
    #[must_use]
    pub fn room(&self) -> usize {
        self.limit - (self.buffer.len() - self.start)
    }

    /// Adds what was read. What exceeds [`Deframer::room`] is not taken; the number taken is given back.
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.room());
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(&bytes[..taken]);
        taken
    }

    /// The next whole message, without its padding.
    ///
    /// # Errors
    /// [`TurnError::Framing`]: close the stream.
    pub fn next_message(&mut self) -> Result<Option<&[u8]>, TurnError> {
        let rest = &self.buffer[self.start..];
        let Some(cut) = cut(rest)? else {
            return Ok(None);
        };
        if cut.total > self.limit {
            return Err(TurnError::Framing);
        }
        if cut.total > rest.len() {
            return Ok(None);
        }
        let message = self.start..self.start + cut.message;
        self.start += cut.total;
        Ok(Some(&self.buffer[message]))
    }

    /// What has been read and is not a message any more: bytes of the peer behind a ConnectionBind's success.
    #[must_use]
    pub fn into_rest(mut self) -> Vec<u8> {
        self.buffer.split_off(self.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stun::Message;
    use proptest::prelude::*;

    const CHANNEL: Channel = Channel(0x4000);

    // T13
    #[test]
    fn streams_pad_and_datagrams_need_not() {
        for (payload, stream) in [
            (0, 4),
            (1, 8),
            (2, 8),
            (3, 8),
            (4, 8),
            (101, 108),
            (203, 208),
        ] {
            for (transport, total) in [
                (Transport::Udp, 4 + payload),
                (Transport::Dtls, 4 + payload),
                (Transport::Tcp, stream),
                (Transport::Tls, stream),
            ] {
                let header = Header::channel(CHANNEL, payload, transport).unwrap();
                assert_eq!(header.total(payload), total);
                assert_eq!(
                    header.bytes()[2..],
                    (payload as u16).to_be_bytes(),
                    "the padding is not in the length"
                );
            }
        }
        assert!(Header::channel(CHANNEL, 65_536, Transport::Udp).is_none());
    }

    // T13, T16
    #[test]
    fn channel_data_in_datagrams() {
        assert_eq!(
            channel_data(b"\x40\0\0\0"),
            Some((CHANNEL, 4..4)),
            "length 0 is legal"
        );
        assert_eq!(
            channel_data(b"\x40\0\0\x02abcd"),
            Some((CHANNEL, 4..6)),
            "what stands behind is padding"
        );
        assert_eq!(
            channel_data(b"\x40\0\0\x03ab"),
            None,
            "shorter than its length"
        );
        assert!(channel_data(b"\x7f\xff\0\0").is_some());
        for other in [
            &b"\x80\0\0\0"[..],
            b"\xc0\0\0\0",
            b"\0\x01\0\0",
            b"\x40\0\0",
            b"",
        ] {
            assert_eq!(channel_data(other), None, "{other:?}");
        }
    }

    // T13: odd sizes one after the other, in pieces of every size
    #[test]
    fn a_stream_is_cut_where_the_padding_ends() {
        let mut stream = Vec::new();
        let payloads = [0_usize, 1, 101, 203, 4, 3];
        for payload in payloads {
            let header = Header::channel(CHANNEL, payload, Transport::Tcp).unwrap();
            stream.extend_from_slice(header.bytes());
            stream.resize(stream.len() + payload, 7);
            stream.resize(stream.len() + header.padding(), 0);
        }
        for piece in 1..30 {
            let mut deframer = Deframer::new(300);
            let mut seen = Vec::new();
            for bytes in stream.chunks(piece) {
                assert_eq!(deframer.push(bytes), bytes.len());
                while let Some(message) = deframer.next_message().unwrap() {
                    seen.push(message.len() - 4);
                }
            }
            assert_eq!(seen, payloads, "in pieces of {piece}");
        }
    }

    #[test]
    fn what_is_no_turn_stream_is_refused() {
        for bytes in [
            &b"\x80\0\0\0"[..],
            b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03aaaaaaaaaaaa",
            &[0; 20],
        ] {
            let mut deframer = Deframer::new(100);
            deframer.push(bytes);
            assert_eq!(
                deframer.next_message(),
                Err(TurnError::Framing),
                "{bytes:?}"
            );
        }
        let mut small = Deframer::new(100);
        small.push(b"\x40\0\0\xff");
        assert_eq!(
            small.next_message(),
            Err(TurnError::Framing),
            "longer than the limit"
        );
        assert_eq!(small.push(&[0; 200]), 96, "never holds more than its limit");
    }

    #[test]
    fn indications_read_back_around_the_payload() {
        for peer in ["192.0.2.1:99", "[2001:db8::1]:99"].map(|a| a.parse::<SocketAddr>().unwrap()) {
            for df in [false, true] {
                let mut buffer = [7; HEADROOM + 5 + TAILROOM];
                let header = Header::send([9; 12], peer, 5, df).unwrap();
                let range = header.wrap(&mut buffer, HEADROOM..HEADROOM + 5).unwrap();
                let message = Message::parse(&buffer[range]).unwrap();
                assert_eq!(message.method(), method::SEND);
                assert_eq!(message.xor_address(attr::XOR_PEER_ADDRESS), Ok(Some(peer)));
                assert_eq!(message.raw(attr::DATA), Some(&[7; 5][..]));
                assert_eq!(message.has(attr::DONT_FRAGMENT), df);
            }
        }
        let peer = "192.0.2.1:99".parse().unwrap();
        assert!(Header::data([0; 12], peer, 65_516).is_some());
        assert!(
            Header::data([0; 12], peer, 65_517).is_none(),
            "longer than STUN can say"
        );
        let header = Header::data([0; 12], peer, 1).unwrap();
        assert_eq!(header.wrap(&mut [0; 30], 10..11), None, "no room in front");
        assert_eq!(header.wrap(&mut [0; 50], 49..50), None, "no room behind");
    }

    proptest! {
        // No bytes make a parser panic, and no message leads outside of its bytes.
        #[test]
        fn hostile_bytes(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), stunlike in any::<bool>()) {
            if stunlike && bytes.len() >= 20 {
                bytes[0] &= 0x3F;
                let length = (bytes.len() as u16 - 20).to_be_bytes();
                bytes[2..4].copy_from_slice(&length);
                bytes[4..8].copy_from_slice(&0x2112_A442_u32.to_be_bytes());
            }
            if let Some((_, range)) = channel_data(&bytes) {
                prop_assert!(range.end <= bytes.len());
            }
            if let Ok(message) = Message::parse(&bytes) {
                for (kind, value) in message.attributes() {
                    prop_assert!(value.len() < bytes.len());
                    let _ = message.xor_address(kind);
                    let _ = message.address(kind);
                }
                let _ = message.error_code();
                let _ = message.unknown(&[]);
            }
            let mut deframer = Deframer::new(100);
            deframer.push(&bytes);
            while let Ok(Some(message)) = deframer.next_message() {
                prop_assert!(message.len() <= 100);
            }
        }
    }
}
