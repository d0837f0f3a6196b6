//! The messages of Anode 0.8 §4 and §5 and of our additions IPPKT, WHOIS and IAM.
//!
//! `basic` holds the signals of §4 and the additions, `stream` the five messages of §5. A body of fixed size is refused
//! when bytes follow it; undefined flag bits are ignored (D17).
mod basic;
mod stream;

pub use basic::{Message, WHOIS_MAX, iam_capacity};
pub use stream::{Acks, Links, MAX_ACKS, StreamMessage, encode_ack};

use crate::WireError;

/// Message type numbers.
pub mod kind {
    #![allow(missing_docs)]
    pub const ERROR: u8 = 0x00;
    pub const PING: u8 = 0x01;
    pub const PONG: u8 = 0x02;
    pub const EPC_REQ: u8 = 0x03;
    pub const EPC: u8 = 0x04;
    pub const EPI: u8 = 0x05;
    pub const NAT_T: u8 = 0x06;
    pub const NETID_REQ: u8 = 0x07;
    pub const NETID: u8 = 0x08;
    pub const DGRAM: u8 = 0x09;
    // D27: section 5 writes these in decimal
    pub const S_OPEN: u8 = 20;
    pub const S_CLOSE: u8 = 21;
    pub const S_DATA: u8 = 22;
    pub const S_ACK: u8 = 23;
    pub const S_DACK: u8 = 24;
    pub const IPPKT: u8 = 0x44;
    pub const WHOIS: u8 = 0x46;
    pub const IAM: u8 = 0x47;
}

/// Codes of ERROR (A50).
pub mod error_code {
    /// The message is not valid.
    pub const INVALID_MESSAGE: u16 = 1;
    /// Authentication or decryption failed; goes with flag 0x04.
    pub const NOT_AUTHENTIC: u16 = 2;
    /// Relaying and related features are not authorised.
    pub const NOT_AUTHORISED: u16 = 3;
    /// The relay's recipient is not reachable.
    pub const UNREACHABLE: u16 = 4;
    /// Ours, beyond the draft's: traffic is only taken sealed here. With a MAC, never with flag 0x04.
    pub const SEALED_ONLY: u16 = 0x100;
}

/// Walks over a body; every shortage names the message.
struct Reader<'a> {
    what: &'static str,
    all: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn new(what: &'static str, body: &'a [u8]) -> Self {
        Self {
            what,
            all: body,
            rest: body,
        }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(WireError::Truncated {
                what: self.what,
                need: self.all.len() - self.rest.len() + len,
                have: self.all.len(),
            })?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let taken = self.take(N)?;
        Ok(std::array::from_fn(|i| taken[i]))
    }

    fn u8(&mut self) -> Result<u8, WireError> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16, WireError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, WireError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    fn endpoint(&mut self) -> Result<crate::Endpoint, WireError> {
        let (endpoint, rest) = crate::Endpoint::parse(self.rest)?;
        self.rest = rest;
        Ok(endpoint)
    }

    /// All that is left.
    fn remainder(self) -> &'a [u8] {
        self.rest
    }

    /// Nothing may be left.
    fn end(self) -> Result<(), WireError> {
        match self.rest.len() {
            0 => Ok(()),
            extra => Err(WireError::TrailingBytes {
                what: self.what,
                extra,
            }),
        }
    }
}

#[cfg(test)]
mod tests;
