//! What can be wrong with bytes and text of the protocol, in words for people.

/// Why bytes or text are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// A character outside the base32 alphabet; `place` counts characters from 1.
    #[error("{character:?} at place {place} is not base32 (letters a to z, digits 2 to 7)")]
    NotBase32 {
        /// The first offending character.
        character: char,
        /// Its place in the text, from 1.
        place: usize,
    },
    /// All characters are base32, but there are not 64 of them.
    #[error("an Anode address has 64 base32 characters, this has {0}")]
    AddressTextLength(usize),
    /// The first byte of an address names a type that does not exist.
    #[error("address type {0} is unknown: this program knows type 1 (ANODE-256-40) only")]
    AddressType(u8),
    /// Not the 40 bytes that type 1 has.
    #[error("an address of type 1 has 40 bytes, this has {0}")]
    AddressLength(usize),
    /// Reserved bytes are used: one key would have many addresses (D9).
    #[error("bytes 6 and 7 of the address must be zero, they are {0:02x}{1:02x}")]
    AddressUnused(u8, u8),
    /// The public key is not in compressed form.
    #[error("the public key of an address starts with 02 or 03, this with {0:02x}")]
    KeyForm(u8),
    /// X is not below the field's prime, or no point has it.
    #[error("the public key of the address is not a point on the curve P-256")]
    NotOnCurve,
    /// Not a zone number.
    #[error("{0:?} is not a zone: 1 to 8 hexadecimal digits")]
    ZoneText(String),
    /// The identity string has another form. What it holds is not repeated here: it may be a key.
    #[error("an identity reads ANODE-256-40:<address>:<64 hexadecimal digits>; {0}")]
    IdentityForm(&'static str),
    /// Zero, or not below the order of the curve.
    #[error("the private key of the identity is out of range for P-256")]
    IdentityScalar,
    /// Address and private key are of two identities.
    #[error("the private key of the identity does not belong to its address")]
    IdentityMismatch,

    /// The bytes end before the structure does.
    #[error("{what} is cut short: {have} bytes where at least {need} are needed")]
    Truncated {
        /// The structure.
        what: &'static str,
        /// Bytes that it needs at least.
        need: usize,
        /// Bytes that are there.
        have: usize,
    },
    /// Bytes follow the end of a structure of known size.
    #[error("{what} is followed by {extra} bytes that do not belong to it")]
    TrailingBytes {
        /// The structure.
        what: &'static str,
        /// How many bytes too many.
        extra: usize,
    },
    /// A packet or frame over 65,535 bytes.
    #[error("a packet has at most 65535 bytes, this has {0}")]
    PacketTooLong(usize),
    /// A frame that is too small to hold a packet; the connection must be closed (D14).
    #[error("a frame of {0} bytes: the smallest packet has 28")]
    FrameTooShort(usize),
    /// A message type that this program does not know (D17).
    #[error("message type 0x{0:02x} is unknown")]
    MessageType(u8),
    /// An endpoint type that this program does not know: its length is unknown, too (D16).
    #[error("endpoint type 0x{0:02x} is unknown")]
    EndpointType(u8),
    /// The URI of an HTTP endpoint.
    #[error("the URI of an HTTP endpoint {0}")]
    EndpointUri(&'static str),
    /// Text that names no endpoint.
    #[error("{text:?} is not an endpoint: {hint}")]
    EndpointText {
        /// What was given, cut to a length that can be shown.
        text: String,
        /// What is expected.
        hint: &'static str,
    },
    /// Acknowledgements that are not a whole number of 5-byte ranges, or none, or over 255 (D31).
    #[error("acknowledgements take 5 bytes each, 1 to 255 of them; this is {0} bytes")]
    Acks(usize),
    /// A WHOIS asks for something that is no synthetic address with peer digit 0.
    #[error("WHOIS asks for {0}, which is no synthetic address with peer digit 0")]
    WhoisPrefix(std::net::Ipv6Addr),
    /// A zone file that is refused as a whole (D4).
    #[error("zone file: {0}")]
    ZoneFile(crate::zonefile::Fault),
}
