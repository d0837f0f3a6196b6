//! Packets in a byte stream: TCP, and the bodies of HTTP (Anode 0.8 §2.9, A33, A34).
//!
//! Each packet follows its size, 16 bits, big endian; the size does not count itself (D14). HTTP bodies are framed the
//! same way (D15).
use crate::WireError;
use crate::packet::{MAX_PACKET, MIN_PACKET};

/// Bytes of the size in front of a packet.
pub const PREFIX_LEN: usize = 2;

/// The size that goes in front of `packet`: for a vectored write.
pub fn prefix(packet: &[u8]) -> Result<[u8; PREFIX_LEN], WireError> {
    match u16::try_from(packet.len()) {
        Ok(len) if packet.len() >= MIN_PACKET => Ok(len.to_be_bytes()),
        Ok(_) => Err(WireError::FrameTooShort(packet.len())),
        Err(_) => Err(WireError::PacketTooLong(packet.len())),
    }
}

/// Appends `packet` with its size in front.
pub fn encode(packet: &[u8], out: &mut Vec<u8>) -> Result<(), WireError> {
    out.extend_from_slice(&prefix(packet)?);
    out.extend_from_slice(packet);
    Ok(())
}

/// Cuts a stream into packets. Holds at most one packet; what it allocates follows the bytes that came, not the size
/// that was announced.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    /// Size and bytes of a frame that is not complete, or of the one given out last.
    buffer: Vec<u8>,
    state: State,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// `buffer` holds less than a frame.
    #[default]
    Collecting,
    /// `buffer` holds a frame that was given out.
    GivenOut,
    /// A size was impossible: there is no way back into the stream.
    Broken(usize),
}

impl FrameDecoder {
    /// At the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes from the front of `input` up to the end of one packet and gives that out; `None`: all of `input` is
    /// taken, and more is needed. Call it until it says `None`.
    ///
    /// A frame of size 0 is skipped, a keepalive. A size of 1 to 27 is an error that stays: close the connection (D14).
    pub fn next_packet<'s, 'i: 's>(
        &'s mut self,
        input: &mut &'i [u8],
    ) -> Result<Option<&'s [u8]>, WireError> {
        match self.state {
            State::Broken(len) => return Err(WireError::FrameTooShort(len)),
            State::GivenOut => {
                self.buffer.clear();
                self.state = State::Collecting;
            }
            State::Collecting => {}
        }
        loop {
            let (buffered, fresh) = (self.buffer.len(), *input);
            let prefix = self.buffer.iter().chain(fresh).take(PREFIX_LEN);
            let Some(len) = size(prefix) else {
                self.collect(input, fresh.len());
                return Ok(None);
            };
            match len {
                0 => {
                    *input = &fresh[PREFIX_LEN - buffered..];
                    self.buffer.clear();
                }
                1..MIN_PACKET => {
                    self.state = State::Broken(len);
                    self.buffer = Vec::new();
                    return Err(WireError::FrameTooShort(len));
                }
                MIN_PACKET.. => {
                    let missing = PREFIX_LEN + len - buffered;
                    if fresh.len() < missing {
                        self.collect(input, fresh.len());
                        return Ok(None);
                    }
                    if buffered == 0 {
                        // whole in the input: nothing is copied
                        let (frame, rest) = fresh.split_at(missing);
                        *input = rest;
                        return Ok(Some(&frame[PREFIX_LEN..]));
                    }
                    self.collect(input, missing);
                    self.state = State::GivenOut;
                    return Ok(Some(&self.buffer[PREFIX_LEN..]));
                }
            }
        }
    }

    /// Whether the stream may end here: no frame has been begun.
    pub fn is_at_boundary(&self) -> bool {
        match self.state {
            State::Collecting => self.buffer.is_empty(),
            State::GivenOut => true,
            State::Broken(_) => false,
        }
    }

    fn collect(&mut self, input: &mut &[u8], len: usize) {
        let (taken, rest) = input.split_at(len);
        self.buffer.extend_from_slice(taken);
        *input = rest;
        debug_assert!(self.buffer.len() <= PREFIX_LEN + MAX_PACKET);
    }
}

fn size<'b>(mut bytes: impl Iterator<Item = &'b u8>) -> Option<usize> {
    let (high, low) = (bytes.next()?, bytes.next()?);
    Some(u16::from_be_bytes([*high, *low]).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{hex, vectors};
    use proptest::prelude::*;

    fn decode_in_pieces(stream: &[u8], cuts: &[usize]) -> Result<(Vec<Vec<u8>>, bool), WireError> {
        let mut decoder = FrameDecoder::new();
        let mut packets = Vec::new();
        let mut rest = stream;
        for cut in cuts.iter().chain([&usize::MAX]) {
            let (mut piece, tail) = rest.split_at((*cut).min(rest.len()));
            rest = tail;
            while let Some(packet) = decoder.next_packet(&mut piece)? {
                packets.push(packet.to_vec());
            }
            assert!(piece.is_empty());
        }
        Ok((packets, decoder.is_at_boundary()))
    }

    // A33, A34, A36, D14, D15
    #[test]
    fn vectors_pass() {
        for vector in vectors("stream_framing") {
            let packet = hex(&vector["packet"]);
            let mut framed = Vec::new();
            encode(&packet, &mut framed).unwrap();
            assert_eq!(framed, hex(&vector["tcp_frame_16bit_be"]));
            assert_eq!(framed, hex(&vector["http_frame_16bit"]));
            assert_eq!(
                decode_in_pieces(&framed, &[]),
                Ok((vec![packet.clone()], true))
            );
            // D15: the literal 16-byte size reads as keepalives and then the packet
            let literal = hex(&vector["http_frame_literal_16byte_be"]);
            assert_eq!(
                decode_in_pieces(&literal, &[3, 4]),
                Ok((vec![packet], true))
            );
        }
    }

    // D14
    #[test]
    fn sizes_at_the_edges() {
        let frame = |len: u16| [len.to_be_bytes().to_vec(), vec![7; len.into()]].concat();
        assert_eq!(decode_in_pieces(&[0; 8], &[1, 1, 1]), Ok((vec![], true)));
        for len in [28, 65_535] {
            assert_eq!(
                decode_in_pieces(&frame(len), &[1, 1, 1]),
                Ok((vec![vec![7; len.into()]], true))
            );
        }
        for len in [1, 2, 27] {
            let mut decoder = FrameDecoder::new();
            let bytes = frame(len);
            assert_eq!(
                decoder.next_packet(&mut bytes.as_slice()),
                Err(WireError::FrameTooShort(len.into()))
            );
            // and stays so
            assert_eq!(
                decoder.next_packet(&mut frame(28).as_slice()),
                Err(WireError::FrameTooShort(len.into()))
            );
            assert!(!decoder.is_at_boundary());
        }
        assert_eq!(prefix(&[0; 27]), Err(WireError::FrameTooShort(27)));
        assert_eq!(prefix(&[0; 65_536]), Err(WireError::PacketTooLong(65_536)));
    }

    // S2: a frame that is announced and never comes costs nothing
    #[test]
    fn an_announced_size_allocates_nothing() {
        let mut decoder = FrameDecoder::new();
        assert_eq!(
            decoder.next_packet(&mut [0xff, 0xff, 1].as_slice()),
            Ok(None)
        );
        assert!(decoder.buffer.capacity() < 64);
        assert!(!decoder.is_at_boundary());
    }

    proptest! {
        #[test]
        fn any_packets_in_any_pieces_round_trip(
            packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 28..200), 0..8),
            keepalives in any::<bool>(),
            cuts in proptest::collection::vec(0usize..100, 0..40),
        ) {
            let mut stream = Vec::new();
            for packet in &packets {
                if keepalives {
                    stream.extend([0, 0]);
                }
                encode(packet, &mut stream).unwrap();
            }
            prop_assert_eq!(decode_in_pieces(&stream, &cuts), Ok((packets, true)));
        }

        // S1
        #[test]
        fn any_bytes_in_any_pieces_decode_alike(
            stream in proptest::collection::vec(prop_oneof![Just(0u8), Just(30), any::<u8>()], 0..400),
            cuts in proptest::collection::vec(0usize..50, 0..20),
        ) {
            prop_assert_eq!(decode_in_pieces(&stream, &cuts), decode_in_pieces(&stream, &[]));
        }
    }
}
