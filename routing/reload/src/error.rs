//! What can be wrong with bytes, records and requests, in words for people.
use crate::{Code, TypeId};

/// Why bytes, a record or a request are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReloadError {
    /// The bytes end before the structure does.
    #[error("{what} is cut short: {missing} more bytes are needed")]
    Truncated {
        /// The structure.
        what: &'static str,
        /// Bytes that are missing at least.
        missing: usize,
    },
    /// Bytes follow the end of a structure of known size (RD21).
    #[error("{what} is followed by {extra} bytes that do not belong to it")]
    Trailing {
        /// The structure.
        what: &'static str,
        /// How many bytes too many.
        extra: usize,
    },
    /// More bytes than the length prefix or the limit of the field allows.
    #[error("{what} has {len} bytes, at most {limit} are allowed")]
    TooLong {
        /// The structure.
        what: &'static str,
        /// Bytes that it has.
        len: usize,
        /// Bytes that it may have.
        limit: usize,
    },
    /// The first four bytes are not RELO.
    #[error("this is no RELOAD message: it starts with {0:02x?}")]
    Magic([u8; 4]),
    /// Another overlay than the one this node is in.
    #[error("the message is for overlay {0:08x}")]
    Overlay(u32),
    /// Neither 0x81 nor, where it is allowed, 0x01 (RD14).
    #[error("version byte {0:02x} is not served")]
    Version(u8),
    /// A TTL over 100 (RD9).
    #[error("a TTL of {0}: at most 100 are allowed")]
    Ttl(u8),
    /// The length field does not fit the bytes.
    #[error("the header announces {announced} bytes, there are {have}")]
    Length {
        /// What the header says.
        announced: usize,
        /// What there is.
        have: usize,
    },
    /// A method that does not exist.
    #[error("method {0} is unknown")]
    Method(u16),
    /// The tag of a choice that does not exist (RD74).
    #[error("{what} of type {tag} is unknown")]
    Tag {
        /// The structure.
        what: &'static str,
        /// Its tag.
        tag: u16,
    },
    /// A string that is not UTF-8, or holds a zero byte (RD2).
    #[error("{0} is not UTF-8 text")]
    Text(&'static str),
    /// The same type twice in one request (R65, R81, R84).
    #[error("type {0} stands twice in one request")]
    DuplicateType(TypeId),
    /// Types this node does not know (415, RD25).
    #[error("type {0} is unknown")]
    UnknownType(TypeId),
    /// A value that its structure forbids.
    #[error("{what}: {why}")]
    Invalid {
        /// The structure.
        what: &'static str,
        /// The rule.
        why: &'static str,
    },
    /// A signature that is missing where one is needed, or cannot be checked (401).
    #[error("the signature cannot be verified: {0}")]
    Unverified(&'static str),
    /// A good signature of somebody who may not do this (403).
    #[error("not permitted: {0}")]
    Forbidden(&'static str),
    /// Too large, too many, too long (413).
    #[error("over the quota: {0}")]
    Quota(&'static str),
    /// A generation or storage time that does not fit (412).
    #[error("the precondition failed: {0}")]
    Precondition(&'static str),
    /// A table of this node is full (503).
    #[error("{0} is full")]
    Busy(&'static str),
    /// The overlay configuration document.
    #[error("configuration document: {0}")]
    Config(String),
    /// A certificate or a request for one.
    #[error("certificate: {0}")]
    Certificate(String),
    /// An answer other than 200.
    #[error("the answer was {0}")]
    Refused(Code),
    /// Somebody else has answered in the place of the peer that was asked (RD15).
    #[error("the peer is not there: somebody else has answered in its place")]
    Elsewhere,
    /// No answer in time (R53).
    #[error("no answer in time")]
    Timeout,
    /// There is no link to send over.
    #[error("this node is not connected to the overlay")]
    NotConnected,
}

impl ReloadError {
    /// The response code that tells a requester of this error (R49, RD25).
    pub fn code(&self) -> Code {
        match self {
            Self::Overlay(_) | Self::Version(_) => Code::INCOMPATIBLE,
            Self::Unverified(_) => Code::UNAUTHORIZED,
            Self::Forbidden(_) => Code::FORBIDDEN,
            Self::Quota(_) => Code::TOO_LARGE,
            Self::UnknownType(_) => Code::UNKNOWN_TYPE,
            Self::Precondition(_) => Code::PRECONDITION_FAILED,
            Self::Busy(_) => Code::BUSY,
            Self::Timeout => Code::REQUEST_TIMEOUT,
            Self::NotConnected | Self::Elsewhere => Code::NOT_FOUND,
            Self::Refused(code) => *code,
            _ => Code::MALFORMED,
        }
    }
}
