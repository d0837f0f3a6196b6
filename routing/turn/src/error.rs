//! What can be wrong with bytes and settings.

use crate::stun::text::Text;

/// Why a message, an address or a setting is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TurnError {
    /// Not a STUN message: too short, first two bits not zero, or no magic cookie (RFC 8489 §5).
    #[error("not a STUN message")]
    NotStun,
    /// The header's length is not what came, or no multiple of four.
    #[error("a STUN message whose length does not fit its {0} bytes")]
    Length(usize),
    /// An attribute runs past the end of the message.
    #[error("attribute 0x{0:04x} runs past the end of the message")]
    Truncated(u16),
    /// FINGERPRINT is there and wrong (RFC 8489 §14.7).
    #[error("the FINGERPRINT is wrong")]
    Fingerprint,
    /// An attribute whose value cannot be what its type says.
    #[error("attribute 0x{0:04x} has a value that it cannot have")]
    Attribute(u16),
    /// One of the five strings is longer than its limit, or empty where it may not be, or not UTF-8.
    #[error("{0} {1}")]
    Text(Text, &'static str),
    /// SASLprep (RFC 4013) or OpaqueString (RFC 8265) refuses the string. It is not quoted: it may be a password.
    #[error("the {0} holds characters that {1} forbids")]
    Prepare(&'static str, &'static str),
    /// A stream that carries neither STUN nor ChannelData. It cannot be found back into: close it.
    #[error("the stream carries neither STUN nor ChannelData")]
    Framing,
    /// A `turn:`, `turns:`, `stun:` or `stuns:` URI that is none (RFC 7064, RFC 7065).
    #[error("{uri:?} is no STUN or TURN URI: {reason}")]
    Uri {
        /// What was given.
        uri: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A network prefix that is none.
    #[error("{0:?} is no address and no address/length")]
    Prefix(String),
    /// A key of static credentials that is no hexadecimal of the right length.
    #[error("a key must be {0} hexadecimal digits")]
    Key(usize),
    /// Of two users each lacks the key that the other one has. Which digest is used is settled before the name is told.
    #[error("{md5_only:?} has no sha256 and {sha256_only:?} no md5: write both for one of them")]
    Digests {
        /// Because of whom SHA-256 is not offered.
        md5_only: String,
        /// Who can do nothing else.
        sha256_only: String,
    },
    /// A setting that cannot work.
    #[error("{0}")]
    Config(&'static str),
}
