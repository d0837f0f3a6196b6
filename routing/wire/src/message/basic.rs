//! The messages of §4, and IPPKT, WHOIS and IAM.
use super::{Reader, StreamMessage, kind};
use crate::address::{is_synthetic, split_digit};
use crate::{Address, Endpoint, Header, MacKey, PeerId, WireError};
use std::net::Ipv6Addr;

/// A parsed message body; payloads are borrowed.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Message<'a> {
    /// §4.2.1; codes in [`error_code`](super::error_code).
    Error {
        /// What went wrong.
        code: u16,
        /// None are defined.
        arguments: &'a [u8],
    },
    /// §4.2.2: any payload, to be echoed.
    Ping(&'a [u8]),
    /// §4.2.3: the payload of the PING.
    Pong(&'a [u8]),
    /// §4.2.4
    EpcReq {
        /// Random, used once (D24).
        id: u32,
    },
    /// §4.2.5
    Epc {
        /// That of the EPC_REQ.
        id: u32,
    },
    /// §4.2.6. Its flags are sent as zero and ignored.
    Epi {
        /// Where the sender says it is.
        endpoint: Endpoint,
        /// 0: none; an unknown mode counts as 0 (D26).
        nat_mode: u8,
        /// Of that mode; to the end of the message.
        options: &'a [u8],
    },
    /// §4.2.7
    NatT {
        /// As in EPI.
        mode: u8,
        /// Of that mode; to the end of the message.
        options: &'a [u8],
    },
    /// §4.2.8
    NetidReq {
        /// To be echoed.
        id: u32,
        /// Where the answer shall go; unspecified: to where the request came from.
        endpoint: Endpoint,
    },
    /// §4.2.9
    Netid {
        /// That of the request.
        id: u32,
        /// Where this message was sent to.
        endpoint: Endpoint,
    },
    /// §4.2.10
    Dgram {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
        /// The datagram.
        payload: &'a [u8],
    },
    /// §5
    Stream(StreamMessage<'a>),
    /// 0x44: an IP protocol that has no message of its own, between two synthetic addresses.
    IpPacket {
        /// IPv6 next header number of the payload.
        next_header: u8,
        /// What follows the IPv6 header.
        payload: &'a [u8],
    },
    /// 0x46: who holds these synthetic addresses (peer digit 0)? At most 255; more are not sent.
    Whois {
        /// What is asked for.
        prefixes: Vec<Ipv6Addr>,
    },
    /// 0x47: full addresses, unchecked bytes. At most 255; more are not sent.
    Iam {
        /// The asker checks every one itself.
        addresses: Vec<[u8; Address::LEN]>,
    },
}

/// Most addresses that one WHOIS can ask for, and one IAM can hold.
pub const WHOIS_MAX: usize = 255;

/// How many addresses an IAM may hold so that it is no larger than the WHOIS with this body that it answers: nobody
/// gets more bytes sent to a third party than it sent itself.
pub fn iam_capacity(whois_body_len: usize) -> usize {
    (whois_body_len.saturating_sub(1) / Address::LEN).min(WHOIS_MAX)
}

impl<'a> Message<'a> {
    /// Reads the body of a message of the given type.
    pub fn parse(kind: u8, body: &'a [u8]) -> Result<Self, WireError> {
        match kind {
            kind::ERROR => {
                let mut reader = Reader::new("ERROR", body);
                Ok(Self::Error {
                    code: reader.u16()?,
                    arguments: reader.remainder(),
                })
            }
            kind::PING => Ok(Self::Ping(body)),
            kind::PONG => Ok(Self::Pong(body)),
            kind::EPC_REQ => Ok(Self::EpcReq {
                id: parse_id("EPC_REQ", body)?,
            }),
            kind::EPC => Ok(Self::Epc {
                id: parse_id("EPC", body)?,
            }),
            kind::EPI => {
                let mut reader = Reader::new("EPI", body);
                let _flags = reader.u8()?;
                let endpoint = reader.endpoint()?;
                Ok(Self::Epi {
                    endpoint,
                    nat_mode: reader.u8()?,
                    options: reader.remainder(),
                })
            }
            kind::NAT_T => {
                let mut reader = Reader::new("NAT_T", body);
                Ok(Self::NatT {
                    mode: reader.u8()?,
                    options: reader.remainder(),
                })
            }
            kind::NETID_REQ => {
                let (id, endpoint) = parse_netid("NETID_REQ", body)?;
                Ok(Self::NetidReq { id, endpoint })
            }
            kind::NETID => {
                let (id, endpoint) = parse_netid("NETID", body)?;
                Ok(Self::Netid { id, endpoint })
            }
            kind::DGRAM => {
                let mut reader = Reader::new("DGRAM", body);
                Ok(Self::Dgram {
                    source: reader.u16()?,
                    destination: reader.u16()?,
                    payload: reader.remainder(),
                })
            }
            kind::S_OPEN..=kind::S_DACK => StreamMessage::parse(kind, body).map(Self::Stream),
            kind::IPPKT => {
                let mut reader = Reader::new("IPPKT", body);
                Ok(Self::IpPacket {
                    next_header: reader.u8()?,
                    payload: reader.remainder(),
                })
            }
            kind::WHOIS => parse_whois(body),
            kind::IAM => parse_iam(body),
            unknown => Err(WireError::MessageType(unknown)),
        }
    }

    /// The type number.
    pub fn kind(&self) -> u8 {
        match self {
            Self::Error { .. } => kind::ERROR,
            Self::Ping(_) => kind::PING,
            Self::Pong(_) => kind::PONG,
            Self::EpcReq { .. } => kind::EPC_REQ,
            Self::Epc { .. } => kind::EPC,
            Self::Epi { .. } => kind::EPI,
            Self::NatT { .. } => kind::NAT_T,
            Self::NetidReq { .. } => kind::NETID_REQ,
            Self::Netid { .. } => kind::NETID,
            Self::Dgram { .. } => kind::DGRAM,
            Self::Stream(message) => message.kind(),
            Self::IpPacket { .. } => kind::IPPKT,
            Self::Whois { .. } => kind::WHOIS,
            Self::Iam { .. } => kind::IAM,
        }
    }

    /// Bytes of the body.
    pub fn body_len(&self) -> usize {
        match self {
            Self::Error { arguments, .. } => 2 + arguments.len(),
            Self::Ping(payload) | Self::Pong(payload) => payload.len(),
            Self::EpcReq { .. } | Self::Epc { .. } => 4,
            Self::Epi {
                endpoint, options, ..
            } => 1 + endpoint.wire_len() + 1 + options.len(),
            Self::NatT { options, .. } => 1 + options.len(),
            Self::NetidReq { endpoint, .. } | Self::Netid { endpoint, .. } => {
                4 + endpoint.wire_len()
            }
            Self::Dgram { payload, .. } => 4 + payload.len(),
            Self::Stream(message) => message.len(),
            Self::IpPacket { payload, .. } => 1 + payload.len(),
            // padded to the size of the largest answer
            Self::Whois { prefixes } => 1 + prefixes.len().min(WHOIS_MAX) * Address::LEN,
            Self::Iam { addresses } => 1 + addresses.len().min(WHOIS_MAX) * Address::LEN,
        }
    }

    /// Appends the body.
    pub fn emit(&self, out: &mut Vec<u8>) {
        let start = out.len();
        match self {
            Self::Error { code, arguments } => {
                out.extend_from_slice(&code.to_be_bytes());
                out.extend_from_slice(arguments);
            }
            Self::Ping(payload) | Self::Pong(payload) => out.extend_from_slice(payload),
            Self::EpcReq { id } | Self::Epc { id } => out.extend_from_slice(&id.to_be_bytes()),
            Self::Epi {
                endpoint,
                nat_mode,
                options,
            } => {
                out.push(0);
                endpoint.emit(out);
                out.push(*nat_mode);
                out.extend_from_slice(options);
            }
            Self::NatT { mode, options } => {
                out.push(*mode);
                out.extend_from_slice(options);
            }
            Self::NetidReq { id, endpoint } | Self::Netid { id, endpoint } => {
                out.extend_from_slice(&id.to_be_bytes());
                endpoint.emit(out);
            }
            Self::Dgram {
                source,
                destination,
                payload,
            } => {
                out.extend_from_slice(&source.to_be_bytes());
                out.extend_from_slice(&destination.to_be_bytes());
                out.extend_from_slice(payload);
            }
            Self::Stream(message) => {
                out.resize(start + message.len(), 0);
                message.emit(&mut out[start..]);
            }
            Self::IpPacket {
                next_header,
                payload,
            } => {
                out.push(*next_header);
                out.extend_from_slice(payload);
            }
            Self::Whois { prefixes } => {
                let asked = &prefixes[..prefixes.len().min(WHOIS_MAX)];
                out.push(asked.len() as u8);
                out.extend(asked.iter().flat_map(|prefix| prefix.octets()));
                out.resize(start + self.body_len(), 0);
            }
            Self::Iam { addresses } => {
                let told = &addresses[..addresses.len().min(WHOIS_MAX)];
                out.push(told.len() as u8);
                out.extend(told.iter().flatten());
            }
        }
    }

    /// Appends a whole packet: the header with this message's type, the body, and the MAC where there is a key.
    /// Nothing is allocated if `out` has room.
    pub fn emit_packet(&self, header: &Header<'_>, key: Option<&MacKey>, out: &mut Vec<u8>) {
        let header = Header {
            kind: self.kind(),
            ..*header
        };
        let start = out.len();
        out.resize(start + header.len(), 0);
        header.emit(&mut out[start..]);
        self.emit(out);
        if let Some(key) = key {
            key.sign(&mut out[start..]);
        }
    }
}

fn parse_id(what: &'static str, body: &[u8]) -> Result<u32, WireError> {
    let mut reader = Reader::new(what, body);
    let id = reader.u32()?;
    reader.end()?;
    Ok(id)
}

fn parse_netid(what: &'static str, body: &[u8]) -> Result<(u32, Endpoint), WireError> {
    let mut reader = Reader::new(what, body);
    let id = reader.u32()?;
    let endpoint = reader.endpoint()?;
    reader.end()?;
    Ok((id, endpoint))
}

fn parse_whois(body: &[u8]) -> Result<Message<'_>, WireError> {
    let mut reader = Reader::new("WHOIS", body);
    let count = reader.u8()?;
    // the whole list must be there before anything is allocated for it
    let (prefixes, _) = reader.take(usize::from(count) * 16)?.as_chunks::<16>();
    let prefixes: Vec<Ipv6Addr> = prefixes
        .iter()
        .map(|octets| Ipv6Addr::from(*octets))
        .collect();
    match prefixes
        .iter()
        .find(|prefix| !is_synthetic(**prefix) || split_digit(**prefix).1 != PeerId::ANY)
    {
        Some(wrong) => Err(WireError::WhoisPrefix(*wrong)),
        // what follows is padding
        None => Ok(Message::Whois { prefixes }),
    }
}

fn parse_iam(body: &[u8]) -> Result<Message<'_>, WireError> {
    let mut reader = Reader::new("IAM", body);
    let count = reader.u8()?;
    let (addresses, _) = reader
        .take(usize::from(count) * Address::LEN)?
        .as_chunks::<{ Address::LEN }>();
    reader.end()?;
    Ok(Message::Iam {
        addresses: addresses.to_vec(),
    })
}
