//! The gzip payload whose header carries the ports and the protocol (I61 to I66, i2cp.md §2.6).
use crate::codec::Reader;
use crate::error::{Error, Result};
use flate2::{Compress, Compression, Crc, Decompress, FlushCompress, FlushDecompress, Status};

/// Most bytes of data (a datagram with its header, a streaming packet) that are sent in one message. i2pd copies a
/// payload into a buffer of 62,708 bytes without a check; with the gzip frame this stays below it.
pub const MAX_MESSAGE: usize = 61_000;
/// Most bytes that a received payload may inflate to.
pub const MAX_INFLATED: usize = 65_536;
/// What Java does not compress.
const NOT_WORTH_IT: usize = 66;
/// Most bytes of one stored block.
const BLOCK: usize = 65_535;

const FHCRC: u8 = 2;
const FEXTRA: u8 = 4;
const FNAME: u8 = 8;
const FCOMMENT: u8 = 16;
const RESERVED: u8 = 0xe0;

/// Protocol numbers in the gzip header (I62).
pub mod protocol {
    /// Streaming.
    pub const STREAMING: u8 = 6;
    /// Repliable datagram, first form.
    pub const DATAGRAM1: u8 = 17;
    /// Raw datagram: no sender.
    pub const RAW: u8 = 18;
    /// Repliable datagram bound to its receiver.
    pub const DATAGRAM2: u8 = 19;
    /// Unsigned datagram with the sender's hash.
    pub const DATAGRAM3: u8 = 20;
}

/// What the header says besides.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Ports {
    /// See [`protocol`]; 0 is "any" and never sent (I72).
    pub protocol: u8,
    /// The sender's I2CP port; 0 is "unspecified".
    pub from: u16,
    /// The receiver's I2CP port; 0 is "any".
    pub to: u16,
}

/// How hard to compress.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effort {
    /// Effort 0: stored blocks, without a compressor.
    Stored,
    /// Deflate, unless that makes it longer.
    Deflate,
}

/// Compressor and decompressor, kept because their tables are larger than most messages.
pub struct Gzip {
    deflate: Compress,
    inflate: Decompress,
}

impl Default for Gzip {
    fn default() -> Self {
        Self {
            deflate: Compress::new(Compression::default(), false),
            inflate: Decompress::new(false),
        }
    }
}

impl std::fmt::Debug for Gzip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gzip")
    }
}

impl Gzip {
    /// Wraps `data`.
    ///
    /// # Errors
    /// [`Error::TooLong`] beyond [`MAX_MESSAGE`]; [`Error::Malformed`] for protocol 0.
    pub fn seal(&mut self, ports: Ports, data: &[u8], effort: Effort) -> Result<Vec<u8>> {
        if data.len() > MAX_MESSAGE {
            return Err(Error::TooLong {
                what: "a message",
                length: data.len(),
                limit: MAX_MESSAGE,
            });
        }
        if ports.protocol == 0 {
            return Err(Error::Malformed {
                what: "a message",
                why: "protocol 0 is not for sending",
            });
        }
        let mut out = Vec::with_capacity(data.len() + 23);
        header(ports, &mut out);
        if effort == Effort::Stored || data.len() <= NOT_WORTH_IT || !self.deflated(data, &mut out)
        {
            stored(data, &mut out);
        }
        let mut crc = Crc::new();
        crc.update(data);
        out.extend_from_slice(&crc.sum().to_le_bytes());
        out.extend_from_slice(&(data.len() as u32).to_le_bytes());
        Ok(out)
    }

    /// Appends the deflated data if that is shorter than the stored form; `out` is as before if not.
    fn deflated(&mut self, data: &[u8], out: &mut Vec<u8>) -> bool {
        let start = out.len();
        out.reserve(data.len() + 5);
        self.deflate.reset();
        match self.deflate.compress_vec(data, out, FlushCompress::Finish) {
            Ok(Status::StreamEnd) if out.len() - start < data.len() + 5 => true,
            _ => {
                out.truncate(start);
                false
            }
        }
    }

    /// Unwraps a payload and verifies its checksum (I63).
    ///
    /// # Errors
    /// Anything that is no gzip, inflates beyond [`MAX_INFLATED`], has a wrong checksum or bytes behind its end.
    pub fn open(&mut self, payload: &[u8]) -> Result<(Ports, Vec<u8>)> {
        let mut reader = Reader::new("a gzip payload", payload);
        let ports = read_header(&mut reader)?;
        let body = reader.rest();
        let (data, trailer) = match read_stored(body)? {
            Some((data, trailer)) => (data.to_vec(), trailer),
            None => self.inflated(body)?,
        };
        let trailer: [u8; 8] = trailer.try_into().map_err(|_| Error::Malformed {
            what: "a gzip payload",
            why: "it does not end with its checksum",
        })?;
        let mut crc = Crc::new();
        crc.update(&data);
        let [a, b, c, d, length @ ..] = trailer;
        if crc.sum() != u32::from_le_bytes([a, b, c, d])
            || data.len() as u32 != u32::from_le_bytes(length)
        {
            return Err(Error::Checksum);
        }
        Ok((ports, data))
    }

    fn inflated<'a>(&mut self, body: &'a [u8]) -> Result<(Vec<u8>, &'a [u8])> {
        let bad = |why| Error::Malformed {
            what: "a gzip payload",
            why,
        };
        self.inflate.reset(false);
        let mut data = Vec::with_capacity((body.len() * 4).clamp(512, MAX_INFLATED + 1));
        // room for one byte more than allowed: an exact fit can end without asking for more
        loop {
            let before = (self.inflate.total_in(), self.inflate.total_out());
            let status = self
                .inflate
                .decompress_vec(&body[before.0 as usize..], &mut data, FlushDecompress::None)
                .map_err(|_| bad("it does not inflate"))?;
            if data.len() > MAX_INFLATED {
                return Err(Error::TooLong {
                    what: "an inflated payload",
                    length: data.len(),
                    limit: MAX_INFLATED,
                });
            }
            if status == Status::StreamEnd {
                break;
            }
            if data.len() == data.capacity() {
                let more = data.capacity().min(MAX_INFLATED + 1 - data.len());
                data.reserve_exact(more);
            } else if before == (self.inflate.total_in(), self.inflate.total_out()) {
                return Err(bad("it is cut short"));
            }
        }
        Ok((data, &body[self.inflate.total_in() as usize..]))
    }
}

fn header(ports: Ports, out: &mut Vec<u8>) {
    out.extend_from_slice(&[0x1f, 0x8b, 8, 0]);
    out.extend_from_slice(&ports.from.to_be_bytes());
    out.extend_from_slice(&ports.to.to_be_bytes());
    // 2: what Java's deflater sets (I62)
    out.extend_from_slice(&[2, ports.protocol]);
}

fn read_header(reader: &mut Reader<'_>) -> Result<Ports> {
    if reader.array()? != [0x1f, 0x8b, 8] {
        return Err(reader.malformed("it does not start like gzip"));
    }
    let flags = reader.u8()?;
    let (from, to) = (reader.u16()?, reader.u16()?);
    let _level = reader.u8()?;
    let protocol = reader.u8()?;
    if flags & RESERVED != 0 {
        return Err(reader.malformed("reserved flags are set"));
    }
    if flags & FEXTRA != 0 {
        let length = u16::from_le_bytes(reader.array()?);
        reader.take(usize::from(length))?;
    }
    for text in [FNAME, FCOMMENT] {
        while flags & text != 0 && reader.u8()? != 0 {}
    }
    if flags & FHCRC != 0 {
        reader.take(2)?;
    }
    Ok(Ports { protocol, from, to })
}

/// Stored blocks, the last one marked. Empty data is one empty block.
fn stored(data: &[u8], out: &mut Vec<u8>) {
    let mut blocks = data.chunks(BLOCK).peekable();
    loop {
        let block = blocks.next().unwrap_or_default();
        let last = blocks.peek().is_none();
        let length = block.len() as u16;
        out.push(u8::from(last));
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend_from_slice(block);
        if last {
            return;
        }
    }
}

/// One stored block that is the last: no decompressor is needed (I66). `None`: something else.
fn read_stored(body: &[u8]) -> Result<Option<(&[u8], &[u8])>> {
    let [1, a, b, c, d, rest @ ..] = body else {
        return Ok(None);
    };
    let length = u16::from_le_bytes([*a, *b]);
    if !length != u16::from_le_bytes([*c, *d]) {
        return Err(Error::Malformed {
            what: "a gzip payload",
            why: "the length of a stored block contradicts itself",
        });
    }
    rest.split_at_checked(usize::from(length))
        .map(Some)
        .ok_or(Error::Truncated("a gzip payload"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::hex;
    use proptest::prelude::*;

    const P: Ports = Ports {
        protocol: 18,
        from: 1,
        to: 2,
    };

    // I61, I62, I64, I66
    #[test]
    fn the_stored_form_is_that_of_the_vectors() {
        let mut gzip = Gzip::default();
        let payload = gzip.seal(P, b"hello", Effort::Stored).unwrap();
        assert_eq!(payload, hex("/gzip_stored/payload"));
        assert_eq!(gzip.open(&payload).unwrap(), (P, b"hello".to_vec()));
        let empty = Ports {
            protocol: 17,
            from: 0,
            to: 0,
        };
        let payload = gzip.seal(empty, b"", Effort::Deflate).unwrap();
        assert_eq!(payload, hex("/gzip_stored_empty/payload"));
        assert_eq!(gzip.open(&payload).unwrap(), (empty, vec![]));
    }

    // I61, I62
    #[test]
    fn a_deflated_payload_of_the_vectors_is_read() {
        let (ports, data) = Gzip::default()
            .open(&hex("/gzip_deflate_decode_only/payload"))
            .unwrap();
        assert_eq!(
            ports,
            Ports {
                protocol: 6,
                from: 65535,
                to: 80
            }
        );
        assert_eq!(data, hex("/gzip_deflate_decode_only/data"));
    }

    // I63
    #[test]
    fn a_wrong_checksum_or_length_is_dropped() {
        let mut gzip = Gzip::default();
        assert_eq!(
            gzip.open(&hex("/gzip_bad_crc_must_be_dropped")),
            Err(Error::Checksum)
        );
        for effort in [Effort::Stored, Effort::Deflate] {
            let good = gzip.seal(P, &[7; 300], effort).unwrap();
            for back in 1..=8 {
                let mut bad = good.clone();
                let at = bad.len() - back;
                bad[at] ^= 1;
                assert_eq!(gzip.open(&bad), Err(Error::Checksum));
            }
        }
    }

    // I65
    #[test]
    fn repeated_padding_compresses_and_noise_is_stored() {
        let mut gzip = Gzip::default();
        let syn = hex("/streaming/syn_A_to_B/bytes");
        let packed = gzip.seal(P, &syn, Effort::Deflate).unwrap();
        assert!(packed.len() < 300, "{} of {}", packed.len(), syn.len());
        assert_eq!(gzip.open(&packed).unwrap().1, syn);
        let noise: Vec<u8> = (0..1000u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        assert!(gzip.seal(P, &noise, Effort::Deflate).unwrap().len() <= noise.len() + 23);
    }

    // I72
    #[test]
    fn protocol_0_and_messages_beyond_the_limit_are_not_sent() {
        let mut gzip = Gzip::default();
        assert!(
            gzip.seal(Ports { protocol: 0, ..P }, b"", Effort::Stored)
                .is_err()
        );
        let largest = gzip.seal(P, &[1; MAX_MESSAGE], Effort::Stored).unwrap();
        assert!(largest.len() < 62_708);
        assert!(matches!(
            gzip.seal(P, &[1; MAX_MESSAGE + 1], Effort::Deflate),
            Err(Error::TooLong { length: 61_001, .. })
        ));
    }

    // I61
    #[test]
    fn optional_header_fields_are_skipped_and_reserved_ones_refused() {
        let mut gzip = Gzip::default();
        let plain = gzip.seal(P, &[7; 100], Effort::Deflate).unwrap();
        let mut full = plain[..10].to_vec();
        full[3] = FEXTRA | FNAME | FCOMMENT | FHCRC | 1;
        full.extend_from_slice(b"\x03\x00abcname\0comment\0cc");
        full.extend_from_slice(&plain[10..]);
        assert_eq!(gzip.open(&full).unwrap().1, [7; 100]);
        for bit in 5..8 {
            let mut bad = plain.clone();
            bad[3] = 1 << bit;
            assert!(gzip.open(&bad).is_err());
        }
    }

    #[test]
    fn several_stored_blocks_are_read() {
        let mut gzip = Gzip::default();
        let mut out = Vec::new();
        header(P, &mut out);
        out.extend_from_slice(b"\0\x02\0\xfd\xffab\x01\x01\0\xfe\xffc");
        let mut crc = Crc::new();
        crc.update(b"abc");
        out.extend_from_slice(&crc.sum().to_le_bytes());
        out.extend_from_slice(&3u32.to_le_bytes());
        assert_eq!(gzip.open(&out).unwrap().1, b"abc");
    }

    // S37
    #[test]
    fn a_bomb_stops_at_the_limit_and_the_limit_itself_passes() {
        let pack = |length: usize| {
            let data = vec![0; length];
            let mut out = Vec::new();
            header(P, &mut out);
            let mut compress = Compress::new(Compression::best(), false);
            out.reserve(length / 100 + 100);
            compress
                .compress_vec(&data, &mut out, FlushCompress::Finish)
                .unwrap();
            let mut crc = Crc::new();
            crc.update(&data);
            out.extend_from_slice(&crc.sum().to_le_bytes());
            out.extend_from_slice(&(length as u32).to_le_bytes());
            out
        };
        let mut gzip = Gzip::default();
        assert_eq!(
            gzip.open(&pack(MAX_INFLATED)).unwrap().1.len(),
            MAX_INFLATED
        );
        for length in [MAX_INFLATED + 1, 50_000_000] {
            assert!(matches!(
                gzip.open(&pack(length)),
                Err(Error::TooLong { .. })
            ));
        }
    }

    // S37, I63
    #[test]
    fn payloads_cut_short_or_too_long_are_refused_at_every_length() {
        let mut gzip = Gzip::default();
        for effort in [Effort::Stored, Effort::Deflate] {
            let good = gzip
                .seal(P, &b"some words and some words".repeat(20), effort)
                .unwrap();
            for length in 0..good.len() {
                assert!(gzip.open(&good[..length]).is_err(), "{effort:?} {length}");
            }
            assert!(gzip.open(&[&good[..], b"x"].concat()).is_err());
        }
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens(data in proptest::collection::vec(any::<u8>(), 0..3000), from: u16, to: u16, protocol in 1u8.., deflate: bool) {
            let mut gzip = Gzip::default();
            let ports = Ports { protocol, from, to };
            let effort = if deflate { Effort::Deflate } else { Effort::Stored };
            let payload = gzip.seal(ports, &data, effort).unwrap();
            prop_assert!(payload.len() <= data.len() + 23);
            prop_assert_eq!(gzip.open(&payload).unwrap(), (ports, data));
        }

        // S37
        #[test]
        fn noise_behind_a_header_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..300), flags in 0u8..32) {
            let mut payload = vec![0x1f, 0x8b, 8, flags, 0, 0, 0, 0, 2, 6];
            payload.extend_from_slice(&noise);
            if let Ok((_, data)) = Gzip::default().open(&payload) {
                prop_assert!(data.len() <= MAX_INFLATED);
            }
        }
    }
}
