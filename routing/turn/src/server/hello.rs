//! The first words of DTLS 1.2, answered before anything is kept (RFC 6347 §4.2.1).
//!
//! ```text
//!   ClientHello ───────────────▶ nothing is kept
//!   HelloVerifyRequest ◀──────── a cookie: the time, and an HMAC over it, the 5-tuple and the client's random
//!   ClientHello, the cookie ───▶ somebody is there: a session may begin
//! ```
//!
//! The answer has 60 bytes, fewer than any ClientHello that it answers.

use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::FiveTuple;

/// Record and handshake header.
const RECORD: usize = 13;
const HEADERS: usize = RECORD + 12;
/// Version and random, in front of the session's id.
const FIXED: usize = 34;
/// How long a cookie is taken: a client repeats its ClientHello for about a minute.
const LIFETIME: Duration = Duration::from_secs(60);

const DTLS_1_0: [u8; 2] = [0xFE, 0xFF];
const DTLS_1_2: [u8; 2] = [0xFE, 0xFD];
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const HELLO_VERIFY_REQUEST: u8 = 3;
const SUPPORTED_VERSIONS: u16 = 43;

/// What HelloVerifyRequest asks to bring back.
pub type Cookie = [u8; 32];

/// What a client can speak.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Speaks {
    /// Nothing newer than DTLS 1.0.
    Old,
    /// DTLS 1.2, whatever else.
    Dtls12,
    /// DTLS 1.3 alone.
    Dtls13,
}

/// A ClientHello, whole in a datagram of its own. One in fragments cannot be judged without keeping them.
#[derive(Clone, Copy, Debug)]
pub struct Hello<'a> {
    /// Of the record that it came in.
    sequence: [u8; 6],
    /// Version, random, session id.
    before: &'a [u8],
    random: &'a [u8; 32],
    cookie: &'a [u8],
    /// Cipher suites, compression methods, extensions.
    after: &'a [u8],
    speaks: Speaks,
}

fn split(bytes: &[u8], at: usize) -> Option<(&[u8], &[u8])> {
    bytes.split_at_checked(at)
}

/// What stands behind its own length of one byte, and the rest.
fn short(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    split(rest, usize::from(*length))
}

/// The same with two bytes.
fn long(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    split(rest, usize::from(u16::from_be_bytes(*length)))
}

impl<'a> Hello<'a> {
    /// `None`: it is something else, or in fragments, or malformed.
    #[must_use]
    pub fn parse(datagram: &'a [u8]) -> Option<Self> {
        let (headers, body) = split(datagram, HEADERS)?;
        let (sequence, length) = (headers[5..11].try_into().ok()?, body.len());
        let three = |number: usize| [number >> 16, number >> 8, number].map(|byte| byte as u8);
        let is_hello = headers[0] == HANDSHAKE
            && headers[1] == DTLS_1_2[0]
            && headers[3..5] == [0, 0]
            && usize::from(u16::from_be_bytes([headers[11], headers[12]])) + RECORD
                == datagram.len()
            && headers[13] == CLIENT_HELLO
            && headers[14..17] == three(length)
            && headers[19..22] == [0, 0, 0]
            && headers[22..25] == three(length);
        if !is_hello {
            return None;
        }
        let (_, of_session) = split(body, FIXED)?;
        let (_, with_cookie) = short(of_session)?;
        let (cookie, after) = short(with_cookie)?;
        let (_, methods) = long(after)?;
        let (_, extensions) = short(methods)?;
        let speaks = match body[..2] == DTLS_1_2 {
            true if is_new_alone(extensions)? => Speaks::Dtls13,
            true => Speaks::Dtls12,
            false => Speaks::Old,
        };
        Some(Self {
            sequence,
            before: &body[..length - with_cookie.len()],
            random: body[2..FIXED].try_into().ok()?,
            cookie,
            after,
            speaks,
        })
    }

    /// What its sender can speak.
    #[must_use]
    pub fn speaks(&self) -> Speaks {
        self.speaks
    }

    /// The client's random.
    #[must_use]
    pub fn random(&self) -> &[u8; 32] {
        self.random
    }

    /// As it was before a cookie was asked for: the first message of its sender, in its first record.
    #[must_use]
    pub fn without_cookie(&self) -> Vec<u8> {
        let body = [self.before, &[0], self.after].concat();
        message(CLIENT_HELLO, [0; 6], &body)
    }

    /// The answer that asks for the cookie, in a record with the number of the ClientHello's.
    #[must_use]
    pub fn verify_request(&self, cookie: &Cookie) -> Vec<u8> {
        // The version is 1.0 whatever follows.
        let body = [&DTLS_1_0[..], &[cookie.len() as u8], cookie].concat();
        message(HELLO_VERIFY_REQUEST, self.sequence, &body)
    }
}

/// The first handshake message of its sender, in one record.
fn message(kind: u8, sequence: [u8; 6], body: &[u8]) -> Vec<u8> {
    let length = &(body.len() as u32).to_be_bytes()[1..];
    let record = ((HEADERS - RECORD + body.len()) as u16).to_be_bytes();
    let whole: [&[u8]; 11] = [
        &[HANDSHAKE],
        &DTLS_1_0,
        &[0, 0],
        &sequence,
        &record,
        &[kind],
        length,
        &[0, 0],
        &[0, 0, 0],
        length,
        body,
    ];
    whole.concat()
}

/// Whether the extensions name versions, and not DTLS 1.2 among them. `None`: they are malformed.
fn is_new_alone(bytes: &[u8]) -> Option<bool> {
    if bytes.is_empty() {
        return Some(false);
    }
    let (mut rest, _) = long(bytes)?;
    while !rest.is_empty() {
        let (kind, behind) = rest.split_first_chunk()?;
        let (value, next) = long(behind)?;
        if u16::from_be_bytes(*kind) == SUPPORTED_VERSIONS {
            let (versions, _) = short(value)?;
            return Some(!versions.chunks(2).any(|version| version == DTLS_1_2));
        }
        rest = next;
    }
    Some(false)
}

/// Makes and checks cookies; remembers none.
#[derive(Debug)]
pub struct Cookies {
    secret: [u8; 32],
}

impl Cookies {
    /// `secret` must be random.
    #[must_use]
    pub fn new(secret: [u8; 32]) -> Self {
        Self { secret }
    }

    /// For who has sent this, `age` after the server's start.
    #[must_use]
    pub fn make(&self, age: Duration, client: &FiveTuple, hello: &Hello<'_>) -> Cookie {
        self.of(age.as_secs() as u32, client, hello) // wraps after 136 years
    }

    /// The cookie that it has brought, if it is ours, for this client and this hello, and not too old.
    #[must_use]
    pub fn check(&self, age: Duration, client: &FiveTuple, hello: &Hello<'_>) -> Option<Cookie> {
        let seconds = u32::from_be_bytes(*hello.cookie.first_chunk()?);
        let made = self.of(seconds, client, hello);
        let passed = (age.as_secs() as u32).checked_sub(seconds)?;
        let fresh = u64::from(passed) <= LIFETIME.as_secs();
        (bool::from(made[..].ct_eq(hello.cookie)) && fresh).then_some(made)
    }

    fn of(&self, seconds: u32, client: &FiveTuple, hello: &Hello<'_>) -> Cookie {
        let mut cookie = [0; 32];
        cookie[..4].copy_from_slice(&seconds.to_be_bytes());
        // HMAC takes a key of any length, so this cannot fail.
        if let Ok(mut hmac) = Hmac::<Sha256>::new_from_slice(&self.secret) {
            hmac.update(&cookie[..4]);
            hmac.update(&client.bytes());
            hmac.update(hello.before);
            cookie[4..].copy_from_slice(&hmac.finalize().into_bytes()[..28]);
        }
        cookie
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Transport;

    /// As OpenSSL sends it: DTLS 1.2, two suites, extensions as given.
    fn hello(version: [u8; 2], cookie: &[u8], extensions: &[u8]) -> Vec<u8> {
        let mut body = version.to_vec();
        body.extend((0..32).map(|byte| byte * 3));
        body.extend([2, 0xAA, 0xBB, cookie.len() as u8]);
        body.extend(cookie);
        body.extend([0, 4, 0xC0, 0x2B, 0xC0, 0x2C, 1, 0]);
        if !extensions.is_empty() {
            body.extend((extensions.len() as u16).to_be_bytes());
            body.extend(extensions);
        }
        message(CLIENT_HELLO, [0, 0, 0, 0, 0, 1], &body)
    }

    fn client(port: u16) -> FiveTuple {
        FiveTuple {
            transport: Transport::Dtls,
            client: ([192, 0, 2, 1], port).into(),
            server: ([192, 0, 2, 9], 5349).into(),
        }
    }

    fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    #[test]
    fn what_a_client_speaks_is_read() {
        let of = |versions: &[u8]| {
            let length = versions.len() as u8;
            [&[0, 23, 0, 0, 0, 43, 0, length + 1, length][..], versions].concat()
        };
        for (version, extensions, speaks) in [
            (DTLS_1_0, vec![], Speaks::Old),
            (DTLS_1_2, vec![], Speaks::Dtls12),
            (DTLS_1_2, vec![0, 23, 0, 0], Speaks::Dtls12),
            (DTLS_1_2, of(&[0xFE, 0xFC, 0xFE, 0xFD]), Speaks::Dtls12),
            (DTLS_1_2, of(&[0xFE, 0xFC]), Speaks::Dtls13),
        ] {
            let bytes = hello(version, &[], &extensions);
            assert_eq!(
                Hello::parse(&bytes).unwrap().speaks(),
                speaks,
                "{extensions:?}"
            );
        }
    }

    #[test]
    fn a_cookie_is_good_for_one_client_and_one_hello_for_a_minute() {
        let (cookies, bytes) = (Cookies::new([7; 32]), hello(DTLS_1_2, &[], &[]));
        let first = Hello::parse(&bytes).unwrap();
        let cookie = cookies.make(seconds(100), &client(1), &first);
        assert_eq!(
            cookies.check(seconds(100), &client(1), &first),
            None,
            "none yet"
        );
        let again = hello(DTLS_1_2, &cookie, &[]);
        let again = Hello::parse(&again).unwrap();
        for (age, from, good) in [
            (100, 1, true),
            (160, 1, true),
            (161, 1, false),
            (99, 1, false),
            (100, 2, false),
        ] {
            let found = cookies.check(seconds(age), &client(from), &again);
            assert_eq!(found, good.then_some(cookie), "{age} s, port {from}");
        }
        assert_eq!(
            Cookies::new([8; 32]).check(seconds(100), &client(1), &again),
            None
        );
        // Another session's id, and any bit of the cookie.
        for at in (HEADERS + FIXED + 1..HEADERS + FIXED + 3)
            .chain(HEADERS + FIXED + 4..HEADERS + FIXED + 36)
        {
            let mut other = hello(DTLS_1_2, &cookie, &[]);
            other[at] ^= 1;
            let other = Hello::parse(&other).unwrap();
            assert_eq!(
                cookies.check(seconds(100), &client(1), &other),
                None,
                "{at}"
            );
        }
    }

    #[test]
    fn the_first_hello_is_found_again_in_the_second() {
        let mut first = hello(DTLS_1_2, &[], &[0, 23, 0, 0]);
        let second = hello(DTLS_1_2, &[9; 32], &[0, 23, 0, 0]);
        first[10] = 0; // its record was the first
        assert_eq!(Hello::parse(&second).unwrap().without_cookie(), first);
    }

    #[test]
    fn the_answer_is_shorter_than_any_question() {
        let shortest = hello(DTLS_1_2, &[], &[]);
        let parsed = Hello::parse(&shortest).unwrap();
        let answer = parsed.verify_request(&[5; 32]);
        assert_eq!(answer.len(), 60);
        assert!(answer.len() < shortest.len());
        assert_eq!(answer[5..11], shortest[5..11], "the record's number");
        assert_eq!(answer[13..17], [3, 0, 0, 35]);
        assert_eq!(answer[25..28], [0xFE, 0xFF, 32]);
    }

    #[test]
    fn no_bytes_are_a_hello_by_accident() {
        let whole = hello(DTLS_1_2, &[9; 32], &[0, 43, 0, 3, 2, 0xFE, 0xFD]);
        for cut in 0..whole.len() {
            assert!(Hello::parse(&whole[..cut]).is_none(), "{cut}");
        }
        let headers = [0, 1, 3, 4, 11, 12, 13, 14, 15, 16, 19, 20, 21, 22, 23, 24];
        for at in headers {
            let mut other = whole.clone();
            other[at] ^= 1;
            assert!(Hello::parse(&other).is_none(), "{at}");
        }
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut other = whole.clone();
                other[at] ^= 1 << bit;
                let _ = Hello::parse(&other).map(|hello| hello.without_cookie());
            }
        }
    }
}
