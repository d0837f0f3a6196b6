//! HELLO, WELCOME, COOKIE and the ERROR for an unknown index, to the byte (Q2 to Q4, Q8, Q24).
use super::cookie::{Cookie, NO_COOKIE};
use super::crypto::{HmacKey, hmac, hmac_key};
use super::{Pair, Timestamp, kind, noise};
use crate::packet::FLAG_AUTH_ERROR;
use crate::{Address, AddressId, Header, Packet, Party, PeerId};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// The version of the handshake that this program speaks.
pub const VERSION: u8 = 1;

/// What a node can do, as the Noise payloads tell it: bits, unknown ones ignored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Capabilities(u32);

impl Capabilities {
    /// ML-KEM-768 after Noise (Q13).
    pub const KEM: Capabilities = Capabilities(1);
    const LEN: usize = 4;

    pub fn new(kem: bool) -> Self {
        if kem { Self::KEM } else { Self(0) }
    }

    pub fn has_kem(self) -> bool {
        self.0 & Self::KEM.0 != 0
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        bytes
            .first_chunk()
            .map(|bits| Self(u32::from_be_bytes(*bits)))
    }
}

/// HELLO's Noise payload. What follows the capabilities is for later versions.
pub(super) fn hello_payload(capabilities: Capabilities) -> [u8; Capabilities::LEN] {
    capabilities.0.to_be_bytes()
}

pub(super) fn parse_hello_payload(payload: &[u8]) -> Option<Capabilities> {
    Capabilities::parse(payload)
}

/// WELCOME's Noise payload (Q2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct WelcomePayload {
    pub index: u32,
    pub peer: PeerId,
    pub capabilities: Capabilities,
}

impl WelcomePayload {
    pub const LEN: usize = 5 + Capabilities::LEN;

    pub fn emit(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[..4].copy_from_slice(&self.index.to_be_bytes());
        out[4] = self.peer.get();
        out[5..].copy_from_slice(&self.capabilities.0.to_be_bytes());
        out
    }

    pub fn parse(payload: &[u8]) -> Option<Self> {
        let (index, rest) = payload.split_first_chunk()?;
        let (peer, rest) = rest.split_first()?;
        Some(Self {
            index: u32::from_be_bytes(*index),
            peer: PeerId::new(*peer)?,
            capabilities: Capabilities::parse(rest)?,
        })
    }
}

/// What both sides mix into the handshake before its first message (Q2).
pub(super) fn prologue(
    index: u32,
    timestamp: Timestamp,
    initiator: &Pair,
    responder: &Address,
    recipient_peer: PeerId,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(109);
    out.extend_from_slice(b"anode sealed 1");
    out.push(VERSION);
    out.extend_from_slice(&index.to_be_bytes());
    out.extend_from_slice(&timestamp.0.to_be_bytes());
    out.extend_from_slice(initiator.address.as_bytes());
    out.push(initiator.peer.get());
    out.extend_from_slice(responder.as_bytes());
    out.push(recipient_peer.get());
    out
}

/// Where a packet goes and from whom, for every message here.
#[derive(Clone, Copy)]
pub(super) struct Envelope<'a> {
    pub flags: u8,
    pub sender: Party<'a>,
    pub recipient: AddressId,
    pub sender_peer: PeerId,
    pub recipient_peer: PeerId,
}

impl Envelope<'_> {
    /// The header with a zero MAC.
    pub fn start(&self, kind: u8) -> Vec<u8> {
        let header = Header {
            hop_count: 0,
            flags: self.flags,
            sender: self.sender,
            recipient: Party::Id(self.recipient),
            sender_peer: self.sender_peer,
            recipient_peer: self.recipient_peer,
            kind,
        };
        let mut out = Vec::with_capacity(256);
        out.resize(header.len(), 0);
        header.emit(&mut out);
        out
    }
}

const MAC1: std::ops::Range<usize> = 13..29;
const COOKIE: std::ops::Range<usize> = 29..45;
const HELLO_FIXED: usize = COOKIE.end;
const WELCOME_FIXED: usize = 9;
const COOKIE_LEN: usize = 28;
const ERROR_LEN: usize = 14;

/// The ERROR code of an index that the receiver does not know (Q24; A50 "authentication or decryption failed").
pub(super) const ERROR_UNKNOWN_INDEX: u16 = 2;

/// The body of a HELLO (Q3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Hello<'a> {
    pub version: u8,
    pub index: u32,
    pub timestamp: Timestamp,
    pub mac1: [u8; 16],
    pub cookie: Cookie,
    pub noise: &'a [u8],
}

impl<'a> Hello<'a> {
    pub fn parse(body: &'a [u8]) -> Option<Self> {
        let (fixed, noise) = body.split_first_chunk::<HELLO_FIXED>()?;
        (noise.len() >= noise::message_len(Capabilities::LEN)).then_some(Self {
            version: fixed[0],
            index: be32(fixed, 1),
            timestamp: Timestamp(be64(fixed, 5)),
            mac1: chunk(fixed, MAC1.start),
            cookie: chunk(fixed, COOKIE.start),
            noise,
        })
    }

    /// Appends everything but the Noise message; mac1 and cookie are zero.
    pub fn emit_fixed(out: &mut Vec<u8>, index: u32, timestamp: Timestamp) {
        out.push(VERSION);
        out.extend_from_slice(&index.to_be_bytes());
        out.extend_from_slice(&timestamp.0.to_be_bytes());
        out.extend_from_slice(&[0; 32]);
    }
}

/// Puts a cookie into a whole HELLO packet whose body starts at `body`. mac1 does not cover it (Q4).
pub(super) fn set_cookie(packet: &mut [u8], body: usize, cookie: &Cookie) {
    packet[body + COOKIE.start..body + COOKIE.end].copy_from_slice(cookie);
}

/// mac1 under one recipient's address (Q4).
pub(super) struct Mac1Key(HmacKey);

impl Mac1Key {
    pub fn new(recipient: &Address) -> Self {
        let key = Sha256::new()
            .chain_update(b"anode mac1")
            .chain_update(recipient.as_bytes())
            .finalize();
        Self(hmac_key(&key))
    }

    /// Writes mac1 into a HELLO packet.
    pub fn sign(&self, packet: &mut [u8], body: usize) {
        let mac1 = self.compute(packet, body);
        packet[body + MAC1.start..body + MAC1.end].copy_from_slice(&mac1);
    }

    /// In constant time. `packet` has parsed as a HELLO with `body` bytes of header.
    pub fn verify(&self, packet: &[u8], body: usize) -> bool {
        let given = &packet[body + MAC1.start..body + MAC1.end];
        self.compute(packet, body).ct_eq(given).into()
    }

    /// From flags to the end, with the MAC field, mac1 and the cookie zero.
    fn compute(&self, packet: &[u8], body: usize) -> [u8; 16] {
        let full = hmac(
            &self.0,
            &[
                &packet[1..2],
                &[0; 8],
                &packet[10..body + MAC1.start],
                &[0; 32],
                &packet[body + COOKIE.end..],
            ],
        );
        std::array::from_fn(|i| full[i])
    }
}

/// The body of a WELCOME (Q3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Welcome<'a> {
    pub version: u8,
    pub index: u32,
    pub receiver: u32,
    pub noise: &'a [u8],
}

impl<'a> Welcome<'a> {
    pub fn parse(body: &'a [u8]) -> Option<Self> {
        let (fixed, noise) = body.split_first_chunk::<WELCOME_FIXED>()?;
        (noise.len() >= noise::message_len(WelcomePayload::LEN)).then_some(Self {
            version: fixed[0],
            index: be32(fixed, 1),
            receiver: be32(fixed, 5),
            noise,
        })
    }

    pub fn emit_fixed(out: &mut Vec<u8>, index: u32, receiver: u32) {
        out.push(VERSION);
        out.extend_from_slice(&index.to_be_bytes());
        out.extend_from_slice(&receiver.to_be_bytes());
    }
}

/// The body of a COOKIE (Q5, Q8).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct CookieReply {
    pub index: u32,
    pub cookie: Cookie,
    pub stored: Timestamp,
}

impl CookieReply {
    pub fn parse(body: &[u8]) -> Option<Self> {
        let body: &[u8; COOKIE_LEN] = body.try_into().ok()?;
        Some(Self {
            index: be32(body, 0),
            cookie: chunk(body, 4),
            stored: Timestamp(be64(body, 20)),
        })
    }

    /// A whole packet; the MAC is zero.
    pub fn packet(&self, envelope: &Envelope<'_>) -> Vec<u8> {
        let mut out = envelope.start(kind::COOKIE);
        out.extend_from_slice(&self.index.to_be_bytes());
        out.extend_from_slice(&self.cookie);
        out.extend_from_slice(&self.stored.0.to_be_bytes());
        out
    }

    pub fn has_cookie(&self) -> bool {
        self.cookie != NO_COOKIE
    }
}

/// The body of an ERROR that says "I do not know this index" (Q24).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct UnknownIndex {
    pub index: u32,
    pub counter: u64,
}

impl UnknownIndex {
    pub fn parse(body: &[u8]) -> Option<Self> {
        let body: &[u8; ERROR_LEN] = body.try_into().ok()?;
        (body[..2] == ERROR_UNKNOWN_INDEX.to_be_bytes()).then_some(Self {
            index: be32(body, 2),
            counter: be64(body, 6),
        })
    }

    /// The answer to a SEALED packet: its ids and peer ids turned round, no MAC.
    pub fn answer(&self, cause: &Packet<&[u8]>) -> Vec<u8> {
        let envelope = Envelope {
            flags: FLAG_AUTH_ERROR,
            sender: cause.recipient(),
            recipient: cause.sender().id(),
            sender_peer: cause.recipient_peer(),
            recipient_peer: cause.sender_peer(),
        };
        let mut out = envelope.start(crate::message::kind::ERROR);
        out.extend_from_slice(&ERROR_UNKNOWN_INDEX.to_be_bytes());
        out.extend_from_slice(&self.index.to_be_bytes());
        out.extend_from_slice(&self.counter.to_be_bytes());
        out
    }
}

fn chunk<const N: usize>(bytes: &[u8], start: usize) -> [u8; N] {
    std::array::from_fn(|i| bytes[start + i])
}

pub(super) fn be32(bytes: &[u8], start: usize) -> u32 {
    u32::from_be_bytes(chunk(bytes, start))
}

pub(super) fn be64(bytes: &[u8], start: usize) -> u64 {
    u64::from_be_bytes(chunk(bytes, start))
}
