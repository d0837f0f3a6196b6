//! What can be wrong with bytes, options and calls.

/// Everything this crate refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes end before the structure does.
    #[error("{0} is cut short")]
    Truncated(&'static str),
    /// There are bytes behind the end of the structure.
    #[error("{extra} bytes too many behind {what}")]
    Trailing {
        /// What was read.
        what: &'static str,
        /// How many bytes are left over.
        extra: usize,
    },
    /// A field has a value that it must not have.
    #[error("{what}: {why}")]
    Malformed {
        /// What was read.
        what: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Longer than it may be.
    #[error("{what} of {length} bytes; at most {limit} are allowed")]
    TooLong {
        /// What was measured.
        what: &'static str,
        /// Its bytes.
        length: usize,
        /// The most there may be.
        limit: usize,
    },
    /// A signature type that this program cannot verify.
    #[error("signature type {0} is not supported")]
    SignatureType(u16),
    /// A signature that does not verify.
    #[error("the signature of {0} does not verify")]
    BadSignature(&'static str),
    /// The CRC-32 or the length at the end of a gzip payload is wrong.
    #[error("the payload's checksum does not match")]
    Checksum,
    /// An option whose value cannot be used.
    #[error("option {name} = {value:?}: {why}")]
    Option {
        /// The option's name.
        name: String,
        /// Its value; `…` when it is a secret.
        value: String,
        /// What is wrong with it.
        why: String,
    },
    /// A key that does not fit its destination, or is none.
    #[error("key file: {0}")]
    Key(&'static str),
    /// A name that is no I2P name.
    #[error("{name:?} is no I2P name: {why}")]
    Name {
        /// The name as given, cut to 80 characters.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The session is not (or no longer) ready.
    #[error("the I2P session is not ready")]
    NotReady,
    /// A queue or table is full; try again later.
    #[error("{0} is full")]
    Full(&'static str),
    /// There is no such stream.
    #[error("no such stream")]
    NoStream,
}

/// Shorthand.
pub type Result<T> = std::result::Result<T, Error>;
