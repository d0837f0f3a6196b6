//! DTLS sessions that begin with a cookie of ours.
//!
//! The library makes its cookie from a secret of the session, so that there must be a session before anybody has answered. Ours
//! needs none ([`anode_turn::server::hello`]): it is asked for and checked in front of the library. Once it has come back, a new
//! session is brought to where it would be had it asked itself: it gets the first ClientHello, its HelloVerifyRequest is thrown away, and
//! what it takes for its own cookie is the one that was brought. Neither message is part of what the handshake signs (RFC 6347 §4.2.1).

use std::cell::Cell;
use std::sync::Arc;
use std::time::Instant;

use anode_turn::server::hello::{Cookie, Hello};
use dimpl::crypto::{CryptoProvider, HashAlgorithm, HmacProvider, aws_lc_rs};
use dimpl::{Config, CryptoError, Dtls, DtlsCertificate, Error, Output};

/// A HelloVerifyRequest fits many times.
const ANSWER: usize = 2048;

/// A client's random, and the cookie that it has brought.
type Proven = ([u8; 32], Cookie);

thread_local! {
    static PROVEN: Cell<Option<Proven>> = const { Cell::new(None) };
}

/// HMAC as the library has it, but for the one cookie that is known already.
#[derive(Debug)]
struct KnownCookie;

impl HmacProvider for KnownCookie {
    fn hmac_sha256(&self, key: &[u8], data: &[u8]) -> Result<[u8; 32], CryptoError> {
        if let Some((_, cookie)) = PROVEN.get().filter(|(random, _)| random == data) {
            return Ok(cookie);
        }
        let mut out = [0; 32];
        self.hmac(HashAlgorithm::SHA256, key, data, &mut out)?;
        Ok(out)
    }

    fn hmac(
        &self,
        hash: HashAlgorithm,
        key: &[u8],
        data: &[u8],
        out: &mut [u8],
    ) -> Result<usize, CryptoError> {
        aws_lc_rs::default_provider()
            .hmac_provider
            .hmac(hash, key, data, out)
    }
}

/// What the library computes with.
pub(super) fn provider() -> CryptoProvider {
    CryptoProvider {
        hmac_provider: &KnownCookie,
        ..aws_lc_rs::default_provider()
    }
}

/// A session of DTLS 1.2 with a client that has brought `cookie` in `datagram`, which is `hello`. `config` computes with [`provider`].
pub(super) fn accept(
    now: Instant,
    config: Arc<Config>,
    leaf: DtlsCertificate,
    (hello, cookie, datagram): (&Hello<'_>, Cookie, &[u8]),
) -> Result<Dtls, Error> {
    let mut dtls = Dtls::new_12(config, leaf, now);
    PROVEN.set(Some((*hello.random(), cookie)));
    let begun = begin(now, &mut dtls, &hello.without_cookie(), datagram);
    PROVEN.set(None);
    begun.map(|()| dtls)
}

fn begin(now: Instant, dtls: &mut Dtls, first: &[u8], second: &[u8]) -> Result<(), Error> {
    dtls.handle_timeout(now)?;
    dtls.handle_packet(first)?;
    let mut asked = [0; ANSWER];
    while let Output::Packet(_) = dtls.poll_output(&mut asked) {}
    dtls.handle_packet(second)
}
