//! The messages of I2CP and their frames (i2cp.md §2.4). What goes to the router is written, what comes from it is
//! read; the other two directions exist in the router of the tests only.
mod to_router;

use crate::codec::{Mapping, Reader};
use crate::destination::Destination;
use crate::error::{Error, Result};
pub use to_router::{Delivery, Query};
pub(crate) use to_router::{
    create_lease_set, create_session, destroy_session, disconnect, get_bandwidth_limits, get_date,
    host_lookup, receive_begin, receive_end, reconfigure_session, send_message_expires,
};

/// The first byte of a connection (I10).
pub const PROTOCOL: u8 = 0x2a;
/// What this client calls itself in GetDate.
pub const API_VERSION: &str = "0.9.66";
/// Longest body that is read. Routers keep below 65,535 bytes, but a payload of 64 KiB has its frame besides.
pub const MAX_BODY: usize = 80 * 1024;
/// Longest body that is written: i2pd closes the connection beyond it.
pub const MAX_SENT_BODY: usize = 65_535;
const HEADER: usize = 5;

/// A session on one connection; 0xFFFF is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionId(pub u16);

impl SessionId {
    /// Before a session exists.
    pub const NONE: Self = Self(0xffff);
}

/// Cuts a byte stream into frames.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    buffer: Vec<u8>,
    start: usize,
}

impl Frames {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame: its type and body.
    pub(crate) fn next(&mut self) -> Result<Option<(u8, &[u8])>> {
        let Some(&[a, b, c, d, kind]) = self.buffer[self.start..].first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > MAX_BODY {
            return Err(Error::TooLong {
                what: "an I2CP message",
                length,
                limit: MAX_BODY,
            });
        }
        let body = self.start + HEADER;
        let Some(bytes) = self.buffer.get(body..body + length) else {
            return Ok(None);
        };
        self.start = body + length;
        Ok(Some((kind, bytes)))
    }
}

/// SessionStatus.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SessionState {
    Destroyed,
    Created,
    Updated,
    Invalid,
    Refused,
}

/// What became of a message (i2cp.md §2.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MessageStatus(pub u8);

impl MessageStatus {
    /// Delivered, as far as the router can know.
    pub fn is_success(self) -> bool {
        matches!(self.0, 2 | 4 | 6)
    }

    /// Only the first word: another status follows.
    pub fn is_interim(self) -> bool {
        self.0 == 1
    }

    /// Trying again within seconds will not help: the far side has no (usable) lease set, or we are not allowed.
    pub fn is_final_failure(self) -> bool {
        matches!(self.0, 9 | 10 | 11 | 12 | 15..=23)
    }
}

impl std::fmt::Display for MessageStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            0 => "message available",
            1 => "accepted",
            2 | 4 | 6 => "sent",
            3 | 5 => "not delivered",
            7 => "failed in the router",
            8 => "the router failed",
            9 => "the router has no network",
            10 => "unknown session",
            11 => "bad message",
            12 => "bad options",
            13 => "the router's queue is full",
            14 => "expired in the router",
            15 => "our lease set is bad",
            16 => "we have no tunnels",
            17 => "unsupported encryption",
            18 => "bad destination",
            19 => "the destination's lease set is bad",
            20 => "the destination's lease set has expired",
            21 => "no lease set found: the destination is offline or does not exist",
            22 => "the destination has a meta lease set",
            23 => "the destination is our own",
            code => return write!(f, "status {code}"),
        })
    }
}

/// One way into us: a tunnel's gateway (i2cp.md §2.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Lease {
    pub(crate) gateway: [u8; 32],
    pub(crate) tunnel: u32,
    pub(crate) end_ms: u64,
}

/// Rates of the router, in KBps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BandwidthLimits {
    /// From the network to this client.
    pub client_in: u32,
    /// From this client to the network.
    pub client_out: u32,
    /// Of the whole router, in.
    pub router_in: u32,
    /// Of the whole router, in, for a short time.
    pub router_in_burst: u32,
    /// Of the whole router, out.
    pub router_out: u32,
    /// Of the whole router, out, for a short time.
    pub router_out_burst: u32,
    /// How long that short time is, in seconds.
    pub burst_seconds: u32,
}

/// What a router says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FromRouter<'a> {
    SetDate {
        date_ms: u64,
        version: String,
    },
    SessionStatus(SessionId, SessionState),
    RequestLeaseSet(SessionId, Vec<Lease>),
    Payload {
        session: SessionId,
        message: u32,
        payload: &'a [u8],
    },
    Status {
        session: SessionId,
        message: u32,
        status: MessageStatus,
        nonce: u32,
    },
    HostReply {
        session: SessionId,
        request: u32,
        /// The destination and, if asked for, the options of its lease set; or the code of the failure.
        answer: std::result::Result<(Destination, Mapping), u8>,
    },
    BandwidthLimits(BandwidthLimits),
    Disconnect(String),
    /// A type that this client has no use for.
    Unknown,
}

impl<'a> FromRouter<'a> {
    pub(crate) fn decode(kind: u8, body: &'a [u8]) -> Result<Self> {
        let mut reader = Reader::new(name(kind), body);
        let message = match kind {
            33 => Self::SetDate {
                date_ms: reader.u64()?,
                version: reader.string()?,
            },
            20 => {
                let session = SessionId(reader.u16()?);
                Self::SessionStatus(session, session_state(&mut reader)?)
            }
            37 => {
                let session = SessionId(reader.u16()?);
                let count = reader.u8()?;
                let leases = (0..count).map(|_| lease(&mut reader));
                Self::RequestLeaseSet(session, leases.collect::<Result<_>>()?)
            }
            21 => old_request(&mut reader)?,
            31 => {
                let session = SessionId(reader.u16()?);
                let message = reader.u32()?;
                let length = reader.u32()? as usize;
                Self::Payload {
                    session,
                    message,
                    payload: reader.take(length)?,
                }
            }
            22 => {
                let session = SessionId(reader.u16()?);
                let message = reader.u32()?;
                let status = MessageStatus(reader.u8()?);
                let _size = reader.u32()?;
                Self::Status {
                    session,
                    message,
                    status,
                    nonce: reader.u32()?,
                }
            }
            39 => return host_reply(reader),
            23 => bandwidth(&mut reader)?,
            30 => Self::Disconnect(reader.string()?),
            _ => return Ok(Self::Unknown),
        };
        // a later version may say more in SetDate; all others are exact
        if kind != 33 {
            reader.finish()?;
        }
        Ok(message)
    }
}

fn name(kind: u8) -> &'static str {
    match kind {
        20 => "a SessionStatus message",
        21 | 37 => "a lease request",
        22 => "a MessageStatus message",
        23 => "a BandwidthLimits message",
        30 => "a Disconnect message",
        31 => "a MessagePayload message",
        33 => "a SetDate message",
        39 => "a HostReply message",
        _ => "an I2CP message",
    }
}

fn session_state(reader: &mut Reader<'_>) -> Result<SessionState> {
    Ok(match reader.u8()? {
        0 => SessionState::Destroyed,
        1 => SessionState::Created,
        2 => SessionState::Updated,
        3 => SessionState::Invalid,
        4 => SessionState::Refused,
        _ => return Err(reader.malformed("a status that does not exist")),
    })
}

fn lease(reader: &mut Reader<'_>) -> Result<Lease> {
    Ok(Lease {
        gateway: reader.array()?,
        tunnel: reader.u32()?,
        end_ms: reader.u64()?,
    })
}

/// The request of old routers: all leases end together.
fn old_request<'a>(reader: &mut Reader<'_>) -> Result<FromRouter<'a>> {
    let session = SessionId(reader.u16()?);
    let count = reader.u8()?;
    let tunnels = (0..count).map(|_| Ok((reader.array()?, reader.u32()?)));
    let tunnels = tunnels.collect::<Result<Vec<_>>>()?;
    let end_ms = reader.u64()?;
    let leases = tunnels.into_iter().map(|(gateway, tunnel)| Lease {
        gateway,
        tunnel,
        end_ms,
    });
    Ok(FromRouter::RequestLeaseSet(session, leases.collect()))
}

/// Behind a failure's code there may be a destination or not (code 6): it is not read.
fn host_reply(mut reader: Reader<'_>) -> Result<FromRouter<'_>> {
    let session = SessionId(reader.u16()?);
    let request = reader.u32()?;
    let code = reader.u8()?;
    let answer = if code == 0 {
        let destination = Destination::read(&mut reader)?;
        let options = match reader.remaining() {
            0 => Mapping::new(),
            _ => Mapping::read(&mut reader)?,
        };
        reader.finish()?;
        Ok((destination, options))
    } else {
        Err(code)
    };
    Ok(FromRouter::HostReply {
        session,
        request,
        answer,
    })
}

fn bandwidth<'a>(reader: &mut Reader<'_>) -> Result<FromRouter<'a>> {
    let limits = BandwidthLimits {
        client_in: reader.u32()?,
        client_out: reader.u32()?,
        router_in: reader.u32()?,
        router_in_burst: reader.u32()?,
        router_out: reader.u32()?,
        router_out_burst: reader.u32()?,
        burst_seconds: reader.u32()?,
    };
    // nine numbers without a meaning
    reader.take(36)?;
    Ok(FromRouter::BandwidthLimits(limits))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{hex, keys, vector};
    use proptest::prelude::*;

    fn options() -> Mapping {
        let mut mapping = Mapping::new();
        for (key, value) in vector("/mapping/input").as_object().unwrap() {
            mapping.set(key, value.as_str().unwrap()).unwrap();
        }
        mapping
    }

    // I10, I11, I33
    #[test]
    fn the_first_message_carries_the_credentials() {
        let mut bytes = vec![PROTOCOL];
        bytes.extend_from_slice(&get_date(Some(("joe", "secret"))).unwrap());
        assert_eq!(bytes, hex("/get_date_with_auth"));
        assert_eq!(get_date(None).unwrap()[..], *b"\0\0\0\x07\x20\x060.9.66");
        assert!(get_date(Some(("joe", &"x".repeat(256)))).is_err());
    }

    // I4, I12
    #[test]
    fn create_session_is_signed_as_in_the_vectors() {
        assert_eq!(
            create_session(&keys("A"), &options(), 1_700_000_000_000),
            hex("/session_config/create_session_message")
        );
    }

    #[test]
    fn a_message_with_an_expiry_is_that_of_the_vectors() {
        let how = Delivery {
            nonce: 7,
            bundle: false,
            expires_ms: 1_700_000_060_000,
        };
        let to = keys("B").destination().clone();
        assert_eq!(
            send_message_expires(SessionId(0x1234), &to, &hex("/gzip_stored/payload"), how),
            hex("/send_message_expires/message")
        );
    }

    // I13
    #[test]
    fn a_lease_request_of_the_vectors_is_read() {
        let mut frames = Frames::default();
        frames.push(&hex("/request_variable_leaseset"));
        let (kind, body) = frames.next().unwrap().unwrap();
        let leases = vec![
            Lease {
                gateway: [0x11; 32],
                tunnel: 0x0102_0304,
                end_ms: 1_700_000_500_999,
            },
            Lease {
                gateway: [0x22; 32],
                tunnel: 0x0506_0708,
                end_ms: 1_700_000_600_999,
            },
        ];
        assert_eq!(
            FromRouter::decode(kind, body),
            Ok(FromRouter::RequestLeaseSet(SessionId(0x1234), leases))
        );
    }

    #[test]
    fn frames_come_out_whole_however_the_bytes_are_cut() {
        let bytes = [
            &b"\0\0\0\x03\x63abc"[..],
            b"\0\0\0\0\x08",
            b"\0\0\0\x01\x1ex",
        ]
        .concat();
        for step in 1..=bytes.len() {
            let mut frames = Frames::default();
            let mut got = Vec::new();
            for piece in bytes.chunks(step) {
                frames.push(piece);
                while let Some((kind, body)) = frames.next().unwrap() {
                    got.push((kind, body.to_vec()));
                }
            }
            assert_eq!(
                got,
                [(0x63, b"abc".to_vec()), (8, vec![]), (30, b"x".to_vec())]
            );
        }
    }

    // S37
    #[test]
    fn a_frame_beyond_the_limit_is_refused_before_it_is_stored() {
        let mut frames = Frames::default();
        frames.push(&[0xff, 0xff, 0xff, 0xff, 31]);
        assert!(matches!(frames.next(), Err(Error::TooLong { .. })));
    }

    fn good() -> Vec<(u8, Vec<u8>)> {
        let a = keys("A").destination().as_bytes().to_vec();
        vec![
            (33, b"\0\0\x01\x8b\xcf\xe5\x68\x00\x060.9.66".to_vec()),
            (20, vec![0, 1, 1]),
            (37, hex("/request_variable_leaseset")[5..].to_vec()),
            (21, [&[0, 1, 1][..], &[7; 36], &[0; 8]].concat()),
            (31, [&[0, 1, 0, 0, 0, 9, 0, 0, 0, 3][..], b"abc"].concat()),
            (22, vec![0, 1, 0, 0, 0, 2, 4, 0, 0, 0, 5, 0, 0, 0, 7]),
            (39, [&[0, 1, 0, 0, 0, 9, 0][..], &a].concat()),
            (
                39,
                [&[0, 1, 0, 0, 0, 9, 0][..], &a, b"\0\x06\x01a=\x01b;"].concat(),
            ),
            (23, vec![1; 64]),
            (30, b"\x03bye".to_vec()),
        ]
    }

    // S37
    #[test]
    fn every_message_cut_short_or_too_long_is_refused() {
        for (kind, body) in good() {
            assert!(FromRouter::decode(kind, &body).is_ok(), "{kind}");
            for length in 0..body.len() {
                // a HostReply without the optional mapping is whole
                let whole = kind == 39 && length == 7 + 391;
                let read = FromRouter::decode(kind, &body[..length]);
                assert_eq!(read.is_ok(), whole, "{kind} {length}");
            }
            let long = [&body[..], b"x"].concat();
            assert_eq!(
                FromRouter::decode(kind, &long).is_ok(),
                kind == 33,
                "{kind}"
            );
        }
    }

    #[test]
    fn a_failed_lookup_is_read_whatever_stands_behind_its_code() {
        for rest in [&b""[..], b"x", &[0; 500]] {
            let body = [&[0, 1, 0, 0, 0, 9, 6][..], rest].concat();
            let wanted = FromRouter::HostReply {
                session: SessionId(1),
                request: 9,
                answer: Err(6),
            };
            assert_eq!(FromRouter::decode(39, &body), Ok(wanted));
        }
    }

    proptest! {
        // S37
        #[test]
        fn noise_never_panics(kind in 0u8..45, body in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = FromRouter::decode(kind, &body);
        }

        // S37
        #[test]
        fn damaged_messages_never_panic(which in 0usize..10, at in 0usize..500, value: u8) {
            let (kind, mut body) = good().swap_remove(which);
            let at = at % body.len();
            body[at] = value;
            let _ = FromRouter::decode(kind, &body);
        }
    }
}
