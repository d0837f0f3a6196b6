//! Contents of a message: common header, payload, signature (R43 to R52).
use crate::codec::{Reader, Write};
use crate::signature::Signature;
use crate::{Id, ReloadError};
use std::fmt;

/// The ten methods (RD19).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
#[repr(u16)]
pub enum Method {
    /// Is somebody there, and how is it?
    Ping = 1,
    /// Make a direct connection.
    Connect = 3,
    /// Carry one unit of an application.
    Tunnel = 5,
    /// Store values.
    Store = 7,
    /// Fetch values.
    Fetch = 9,
    /// Remove values.
    Remove = 11,
    /// Where is the next resource of a type?
    Find = 13,
    /// Become part of the ring.
    Join = 15,
    /// Leave the ring.
    Leave = 17,
    /// The sender's view of the ring.
    Update = 19,
}

impl Method {
    /// All of them.
    pub const ALL: [Method; 10] = [
        Self::Ping,
        Self::Connect,
        Self::Tunnel,
        Self::Store,
        Self::Fetch,
        Self::Remove,
        Self::Find,
        Self::Join,
        Self::Leave,
        Self::Update,
    ];
}

impl TryFrom<u16> for Method {
    type Error = ReloadError;
    fn try_from(code: u16) -> Result<Self, ReloadError> {
        Self::ALL
            .into_iter()
            .find(|method| *method as u16 == code)
            .ok_or(ReloadError::Method(code))
    }
}

/// A response code (R49, RD25).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code(pub u16);

macro_rules! codes {
    ($($name:ident = $number:literal, $phrase:literal;)*) => {
        impl Code {
            $(#[doc = concat!(stringify!($number), " ", $phrase)]
            pub const $name: Code = Code($number);)*
            /// All codes that this crate sends.
            pub const ALL: &'static [Code] = &[$(Code($number)),*];
            /// The phrase of the draft, or of SIP and HTTP for the codes it does not list (R51).
            pub fn phrase(self) -> &'static str {
                match self.0 {
                    $($number => $phrase,)*
                    _ => "Unknown",
                }
            }
        }
    };
}

codes! {
    OK = 200, "OK";
    MOVED_TEMPORARILY = 302, "Moved Temporarily";
    MALFORMED = 400, "Bad Request";
    UNAUTHORIZED = 401, "Unauthorized";
    FORBIDDEN = 403, "Forbidden";
    NOT_FOUND = 404, "Not Found";
    REQUEST_TIMEOUT = 408, "Request Timeout";
    PRECONDITION_FAILED = 412, "Precondition Failed";
    TOO_LARGE = 413, "Too Large";
    UNKNOWN_TYPE = 415, "Unknown Type";
    TTL_EXCEEDED = 483, "TTL Exceeded";
    REQUEST_PENDING = 491, "Request Pending";
    INCOMPATIBLE = 498, "Incompatible with Overlay";
    UNWILLING = 499, "UnWilling To Proxy";
    BUSY = 503, "Service Unavailable";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0, self.phrase())
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The R/r bit and the code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A request of this method number (perhaps unknown).
    Request(u16),
    /// A response.
    Response(Code),
}

const RESPONSE: u16 = 0x8000;

/// Common header, payload and signature. Borrows from the message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Contents<'a> {
    /// What it is.
    pub kind: Kind,
    /// The body of the method or of the response.
    pub payload: &'a [u8],
    /// What the signature covers: common header, length and payload.
    pub signed: &'a [u8],
    /// The signature, if there is one (RD21).
    pub signature: Option<Signature>,
}

impl<'a> Contents<'a> {
    /// Reads what follows the forwarding header of a whole message.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ReloadError> {
        let mut r = Reader::new(bytes, "the message contents");
        let code = r.u16()?;
        let _reserved = r.u16()?;
        let len = r.u32()? as usize;
        let payload = r.take(len)?;
        let signed = &bytes[..8 + len];
        let signature = match r.is_empty() {
            true => None,
            false => Some(Signature::read(&mut r)?),
        };
        r.end()?;
        Ok(Self {
            kind: match code & RESPONSE {
                0 => Kind::Request(code),
                _ => Kind::Response(Code(code & !RESPONSE)),
            },
            payload,
            signed,
            signature,
        })
    }
}

/// Common header and payload, ready to be signed.
pub fn emit_contents(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + payload.len());
    out.u16(match kind {
        Kind::Request(method) => method & !RESPONSE,
        Kind::Response(code) => code.0 | RESPONSE,
    });
    out.u16(0);
    out.u32(payload.len() as u32);
    out.raw(payload);
    out
}

/// The payload of every response but 200 (R50).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ErrorBody {
    /// For people.
    pub phrase: String,
    /// 302: the next hop; 412: generations; 415: types; 503: seconds; else empty (R52, RD25, RD26).
    pub info: Vec<u8>,
}

impl ErrorBody {
    /// With the listed phrase (R51).
    pub fn new(code: Code, info: Vec<u8>) -> Self {
        Self {
            phrase: code.phrase().to_owned(),
            info,
        }
    }

    /// Reads the payload of an error.
    pub fn parse(payload: &[u8]) -> Result<Self, ReloadError> {
        let mut r = Reader::new(payload, "an error");
        let body = Self {
            phrase: r.string()?,
            info: r.vec16()?.to_vec(),
        };
        r.end()?;
        Ok(body)
    }

    /// The payload.
    pub fn emit(&self) -> Result<Vec<u8>, ReloadError> {
        let mut out = Vec::new();
        out.bytes16("a reason phrase", self.phrase.as_bytes())?;
        out.bytes16("error information", &self.info)?;
        Ok(out)
    }

    /// Where a 302 points (RD26).
    pub fn moved_to(&self) -> Option<Id> {
        Some(Id(self.info.as_slice().try_into().ok()?))
    }

    /// Seconds to wait after a 503 (RD25).
    pub fn retry_after(&self) -> Option<u32> {
        Some(u32::from_be_bytes(self.info.as_slice().try_into().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::Header;
    use crate::vectors::bytes;

    // RD19, RD71
    #[test]
    fn methods_have_the_numbers_of_the_next_draft() {
        let numbers = Method::ALL.map(|method| method as u16);
        assert_eq!(numbers, [1, 3, 5, 7, 9, 11, 13, 15, 17, 19]);
        for number in 0..100 {
            assert_eq!(Method::try_from(number).is_ok(), numbers.contains(&number));
        }
    }

    // R43, R44, RD21
    #[test]
    fn requests_and_responses_are_those_of_the_vectors() {
        let request = bytes("ping-request-unsigned");
        let (_, contents) = Header::parse(&request).unwrap();
        let parsed = Contents::parse(contents).unwrap();
        assert_eq!(parsed.kind, Kind::Request(Method::Ping as u16));
        assert_eq!(parsed.signature, None);
        assert_eq!(emit_contents(parsed.kind, parsed.payload), contents);

        let response = bytes("ping-response-unsigned");
        let (header, contents) = Header::parse(&response).unwrap();
        assert_eq!(header.route.len(), 4);
        let parsed = Contents::parse(contents).unwrap();
        assert_eq!(parsed.kind, Kind::Response(Code::OK));
        assert_eq!(emit_contents(parsed.kind, parsed.payload), contents);
    }

    // R49, R50, R51, RD25, RD26
    #[test]
    fn errors_are_those_of_the_vectors() {
        let moved = bytes("error-302-contents");
        let contents = Contents::parse(&moved).unwrap();
        assert_eq!(contents.kind, Kind::Response(Code::MOVED_TEMPORARILY));
        let body = ErrorBody::parse(contents.payload).unwrap();
        assert_eq!(body.moved_to(), Some(Id([0x22; 16])));
        assert_eq!(
            body,
            ErrorBody::new(Code::MOVED_TEMPORARILY, vec![0x22; 16])
        );
        assert_eq!(
            emit_contents(contents.kind, &body.emit().unwrap()),
            bytes("error-302-contents")
        );
        let mut info = crate::TypeId(2).0.to_be_bytes()[1..].to_vec();
        info.extend_from_slice(&1u64.to_be_bytes());
        let precondition = ErrorBody::new(Code::PRECONDITION_FAILED, info);
        assert_eq!(
            emit_contents(
                Kind::Response(Code::PRECONDITION_FAILED),
                &precondition.emit().unwrap()
            ),
            bytes("store-412-contents")
        );
    }

    // R52
    #[test]
    fn error_information_of_another_size_is_not_read() {
        for len in [0, 3, 5, 15, 17] {
            let body = ErrorBody::new(Code::BUSY, vec![1; len]);
            assert_eq!(body.moved_to(), None);
            assert_eq!(body.retry_after(), None);
        }
        let body = ErrorBody::new(Code::BUSY, 7u32.to_be_bytes().to_vec());
        assert_eq!(body.retry_after(), Some(7));
    }

    // RD21: trailing garbage, and every cut
    #[test]
    fn cut_and_grown_contents_are_refused() {
        let message = bytes("ping-request-signed");
        let (_, contents) = Header::parse(&message).unwrap();
        let unsigned = Contents::parse(contents).unwrap().signed.len();
        for len in 0..contents.len() {
            let parsed = Contents::parse(&contents[..len]);
            assert_eq!(parsed.is_ok(), len == unsigned, "{len}");
        }
        let mut longer = contents.to_vec();
        longer.push(0);
        assert!(Contents::parse(&longer).is_err());
        let mut lying = contents.to_vec();
        lying[4..8].copy_from_slice(&u32::MAX.to_be_bytes());
        assert!(Contents::parse(&lying).is_err());
    }
}
