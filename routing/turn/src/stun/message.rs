//! Reading: one walk over the attributes when a message comes in, no copy, no allocation.

use std::net::SocketAddr;
use std::ops::Range;

use stun_types::attribute::{
    AttributeFromRaw, AttributeStaticType, AttributeType, Fingerprint, RawAttribute,
};
use stun_types::attribute::{MappedSocketAddr, XorSocketAddr};

use super::{attr, text::Text};
use crate::TurnError;

/// The 96 bits that tie an answer to its request.
pub type TransactionId = [u8; 12];

const HEADER: usize = 20;
const COOKIE: [u8; 4] = 0x2112_A442_u32.to_be_bytes();

/// What kind of message it is (RFC 8489 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Wants an answer.
    Request,
    /// Wants none.
    Indication,
    /// An answer: done.
    Success,
    /// An answer: refused.
    Error,
}

/// Whether these bytes look like STUN: what a socket that several protocols share asks first.
#[must_use]
pub fn is_stun(bytes: &[u8]) -> bool {
    bytes.len() >= HEADER && bytes[0] & 0xC0 == 0 && bytes[4..8] == COOKIE
}

/// A STUN message that is well-formed down to its attributes' lengths, and whose FINGERPRINT, if any, is right.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    bytes: &'a [u8],
    /// Where the attributes end that count: at the first of MESSAGE-INTEGRITY(-SHA256) and FINGERPRINT.
    end: usize,
    sha1: Option<usize>,
    sha256: Option<usize>,
    fingerprint: bool,
}

impl<'a> Message<'a> {
    /// Reads one message that fills `bytes` exactly.
    ///
    /// What stands behind MESSAGE-INTEGRITY, MESSAGE-INTEGRITY-SHA256 or FINGERPRINT is ignored, except these three
    /// in this order (RFC 8489 §14.5).
    ///
    /// # Errors
    /// [`TurnError::NotStun`], [`TurnError::Length`], [`TurnError::Truncated`], [`TurnError::Fingerprint`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, TurnError> {
        if !is_stun(bytes) {
            return Err(TurnError::NotStun);
        }
        let length = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
        if length % 4 != 0 || HEADER + length != bytes.len() {
            return Err(TurnError::Length(bytes.len()));
        }
        let mut message = Self {
            bytes,
            end: bytes.len(),
            sha1: None,
            sha256: None,
            fingerprint: false,
        };
        let mut at = HEADER;
        while at < bytes.len() {
            let (kind, value) = tlv(bytes, at)?;
            match kind {
                _ if message.fingerprint => {}
                attr::MESSAGE_INTEGRITY if message.sha1.is_none() && message.sha256.is_none() => {
                    message.sha1 = Some(at);
                    message.end = message.end.min(at);
                }
                attr::MESSAGE_INTEGRITY_SHA256 if message.sha256.is_none() => {
                    message.sha256 = Some(at);
                    message.end = message.end.min(at);
                }
                attr::FINGERPRINT => {
                    message.fingerprint = true;
                    message.end = message.end.min(at);
                    if bytes[value] != fingerprint(bytes, at) {
                        return Err(TurnError::Fingerprint);
                    }
                }
                _ => {}
            }
            at = next(bytes, at);
        }
        Ok(message)
    }

    /// The class.
    #[must_use]
    pub fn class(&self) -> Class {
        match (self.bytes[0] & 1, self.bytes[1] & 0x10) {
            (0, 0) => Class::Request,
            (0, _) => Class::Indication,
            (_, 0) => Class::Success,
            _ => Class::Error,
        }
    }

    /// The method, 12 bits.
    #[must_use]
    pub fn method(&self) -> u16 {
        let t = u16::from_be_bytes([self.bytes[0], self.bytes[1]]);
        t & 0xF | (t & 0xE0) >> 1 | (t & 0x3E00) >> 2
    }

    /// The transaction id.
    #[must_use]
    pub fn transaction(&self) -> TransactionId {
        let mut id = [0; 12];
        id.copy_from_slice(&self.bytes[8..HEADER]);
        id
    }

    /// The whole message.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether it carries a FINGERPRINT (which then is right).
    #[must_use]
    pub fn has_fingerprint(&self) -> bool {
        self.fingerprint
    }

    /// The offsets of MESSAGE-INTEGRITY and of MESSAGE-INTEGRITY-SHA256.
    pub(super) fn integrity(&self) -> (Option<usize>, Option<usize>) {
        (self.sha1, self.sha256)
    }

    /// Whether any of the two integrity attributes is there, right or wrong.
    #[must_use]
    pub fn is_signed(&self) -> bool {
        self.sha1.is_some() || self.sha256.is_some()
    }

    /// Whether MESSAGE-INTEGRITY-SHA256 is there.
    #[must_use]
    pub fn is_signed_sha256(&self) -> bool {
        self.sha256.is_some()
    }

    /// All attributes in front of the integrity, as (type, value).
    pub fn attributes(&self) -> impl Iterator<Item = (u16, &'a [u8])> + use<'a> {
        self.ranges().map({
            let bytes = self.bytes;
            move |(kind, range)| (kind, &bytes[range])
        })
    }

    fn ranges(&self) -> impl Iterator<Item = (u16, Range<usize>)> + use<'a> {
        let (bytes, end) = (self.bytes, self.end);
        let mut at = HEADER;
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let found = tlv(bytes, at).ok()?;
            at = next(bytes, at);
            Some(found)
        })
    }

    /// The value of the first attribute of this type: later ones do not count (RFC 8489 §14).
    #[must_use]
    pub fn raw(&self, kind: u16) -> Option<&'a [u8]> {
        self.attributes()
            .find(|(k, _)| *k == kind)
            .map(|(_, value)| value)
    }

    /// Where in the message's bytes the value of the first attribute of this type lies.
    #[must_use]
    pub fn range(&self, kind: u16) -> Option<Range<usize>> {
        self.ranges()
            .find(|(k, _)| *k == kind)
            .map(|(_, range)| range)
    }

    /// Whether an attribute of this type is there.
    #[must_use]
    pub fn has(&self, kind: u16) -> bool {
        self.raw(kind).is_some()
    }

    /// A typed attribute, if it is there.
    ///
    /// # Errors
    /// [`TurnError::Attribute`] if it is there and malformed.
    pub fn get<A: AttributeFromRaw<'a> + AttributeStaticType>(
        &self,
    ) -> Result<Option<A>, TurnError> {
        let kind = A::TYPE.value();
        let Some(value) = self.raw(kind) else {
            return Ok(None);
        };
        A::from_raw(RawAttribute::new(A::TYPE, value))
            .map(Some)
            .map_err(|_| TurnError::Attribute(kind))
    }

    /// One of the five strings, held to its limits when received.
    ///
    /// # Errors
    /// [`TurnError::Text`].
    pub fn text(&self, text: Text) -> Result<Option<&'a str>, TurnError> {
        self.raw(text.attribute())
            .map(|bytes| text.received(bytes))
            .transpose()
    }

    /// An XORed address, if it is there.
    ///
    /// # Errors
    /// [`TurnError::Attribute`] if its family or length is wrong.
    pub fn xor_address(&self, kind: u16) -> Result<Option<SocketAddr>, TurnError> {
        self.raw(kind)
            .map(|value| self.unxor(kind, value))
            .transpose()
    }

    /// All XORed addresses of one type, for the attributes that may come more than once.
    ///
    /// # Errors
    /// Each item: [`TurnError::Attribute`] if its family or length is wrong.
    pub fn xor_addresses(
        &self,
        kind: u16,
    ) -> impl Iterator<Item = Result<SocketAddr, TurnError>> + use<'a> {
        let message = *self;
        self.attributes()
            .filter(move |(k, _)| *k == kind)
            .map(move |(_, value)| message.unxor(kind, value))
    }

    fn unxor(&self, kind: u16, value: &[u8]) -> Result<SocketAddr, TurnError> {
        let raw = RawAttribute::new(AttributeType::new(kind), value);
        XorSocketAddr::from_raw(&raw)
            .map(|a| a.addr(transaction_number(&self.transaction()).into()))
            .map_err(|_| TurnError::Attribute(kind))
    }

    /// A plain address (MAPPED-ADDRESS, ALTERNATE-SERVER), if it is there.
    ///
    /// # Errors
    /// [`TurnError::Attribute`] if its family or length is wrong.
    pub fn address(&self, kind: u16) -> Result<Option<SocketAddr>, TurnError> {
        let Some(value) = self.raw(kind) else {
            return Ok(None);
        };
        let raw = RawAttribute::new(AttributeType::new(kind), value);
        MappedSocketAddr::from_raw(&raw)
            .map(|a| Some(a.addr()))
            .map_err(|_| TurnError::Attribute(kind))
    }

    /// Code and reason of an error answer. The reason is shown to people and nothing else: what is no UTF-8 in it is
    /// replaced, padding that a server counted in is cut (T28), and it never makes the answer unreadable.
    ///
    /// # Errors
    /// [`TurnError::Attribute`] if ERROR-CODE is missing, too short, too long or not 300 to 699.
    pub fn error_code(&self) -> Result<(u16, String), TurnError> {
        let value = self
            .raw(attr::ERROR_CODE)
            .ok_or(TurnError::Attribute(attr::ERROR_CODE))?;
        if value.len() < 4
            || value.len() > 4 + 763
            || !(3..7).contains(&(value[2] & 7))
            || value[3] > 99
        {
            return Err(TurnError::Attribute(attr::ERROR_CODE));
        }
        let reason: String = String::from_utf8_lossy(&value[4..])
            .trim_end_matches('\0')
            .chars()
            .take(127)
            .collect();
        Ok((u16::from(value[2] & 7) * 100 + u16::from(value[3]), reason))
    }

    /// The types of attributes that must be understood (below 0x8000) and are not in `known`; at most 64 of them, so
    /// that an answer stays small.
    #[must_use]
    pub fn unknown(&self, known: &[u16]) -> Vec<u16> {
        let unknown = self
            .attributes()
            .map(|(kind, _)| kind)
            .filter(|kind| *kind < 0x8000 && !known.contains(kind));
        let mut list = Vec::new();
        for kind in unknown.take(64) {
            if !list.contains(&kind) {
                list.push(kind);
            }
        }
        list
    }
}

/// The transaction id as the number that `stun-types` wants.
pub(crate) fn transaction_number(id: &TransactionId) -> u128 {
    let mut bytes = [0; 16];
    bytes[4..].copy_from_slice(id);
    u128::from_be_bytes(bytes)
}

/// Type and range of the value of the attribute at `at`.
fn tlv(bytes: &[u8], at: usize) -> Result<(u16, Range<usize>), TurnError> {
    let header = bytes.get(at..at + 4).ok_or(TurnError::Truncated(0))?;
    let kind = u16::from_be_bytes([header[0], header[1]]);
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let value = at + 4..at + 4 + length;
    if value.end.next_multiple_of(4) > bytes.len() {
        return Err(TurnError::Truncated(kind));
    }
    Ok((kind, value))
}

/// Where the attribute behind the one at `at` starts; `at` has been read by [`tlv`].
fn next(bytes: &[u8], at: usize) -> usize {
    at + 4 + usize::from(u16::from_be_bytes([bytes[at + 2], bytes[at + 3]])).next_multiple_of(4)
}

/// The FINGERPRINT's value over everything in front of the attribute at `at`, with the length that includes it.
fn fingerprint(bytes: &[u8], at: usize) -> [u8; 4] {
    let length = (at + 8 - HEADER) as u16; // at + 8 is within a message, whose length field has 16 bits
    let mut header = [bytes[0], bytes[1], 0, 0];
    header[2..].copy_from_slice(&length.to_be_bytes());
    let crc = Fingerprint::compute(&[&header, &bytes[4..at]]);
    // `compute` gives the plain CRC; on the wire it is XORed with "STUN" (RFC 8489 §14.7).
    (u32::from_be_bytes(crc) ^ 0x5354_554E).to_be_bytes()
}
