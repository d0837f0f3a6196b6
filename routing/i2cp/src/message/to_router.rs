//! What goes to the router.
use super::{API_VERSION, HEADER, SessionId};
use crate::codec::{Mapping, Put as _};
use crate::destination::{Destination, Hash};
use crate::error::Result;
use crate::keys::LocalDestination;
use zeroize::Zeroizing;

fn frame(kind: u8, write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = vec![0, 0, 0, 0, kind];
    write(&mut out);
    let length = (out.len() - HEADER) as u32;
    out[..4].copy_from_slice(&length.to_be_bytes());
    out
}

/// GetDate with the credentials, if any (I11, I33). The bytes hold the password: wipe them after sending.
pub(crate) fn get_date(credentials: Option<(&str, &str)>) -> Result<Zeroizing<Vec<u8>>> {
    let mut mapping = Mapping::new();
    if let Some((user, password)) = credentials {
        mapping.set("i2cp.username", user)?;
        mapping.set("i2cp.password", password)?;
    }
    Ok(Zeroizing::new(frame(32, |out| {
        out.put_string(API_VERSION);
        if !mapping.is_empty() {
            mapping.put(out);
        }
    })))
}

/// Destination, options, date, and the signature over those three.
fn session_config(keys: &LocalDestination, options: &Mapping, date_ms: u64) -> Vec<u8> {
    let mut config = keys.destination().as_bytes().to_vec();
    options.put(&mut config);
    config.put_u64(date_ms);
    let signature = keys.sign(&config);
    config.put(&signature);
    config
}

/// I12
pub(crate) fn create_session(keys: &LocalDestination, options: &Mapping, date_ms: u64) -> Vec<u8> {
    frame(1, |out| out.put(&session_config(keys, options, date_ms)))
}

pub(crate) fn reconfigure_session(
    session: SessionId,
    keys: &LocalDestination,
    options: &Mapping,
    date_ms: u64,
) -> Vec<u8> {
    frame(2, |out| {
        out.put_u16(session.0);
        out.put(&session_config(keys, options, date_ms));
    })
}

pub(crate) fn destroy_session(session: SessionId) -> Vec<u8> {
    frame(3, |out| out.put_u16(session.0))
}

/// I14; `kind` is 3 or 5. The private key goes to the router, which decrypts with it.
pub(crate) fn create_lease_set(
    session: SessionId,
    kind: u8,
    lease_set: &[u8],
    private: &[u8; 32],
) -> Vec<u8> {
    frame(41, |out| {
        out.put_u16(session.0);
        out.put_u8(kind);
        out.put(lease_set);
        out.put_u8(1);
        out.put_u16(crate::lease_set::X25519);
        out.put_u16(32);
        out.put(private);
    })
}

/// How a message is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Comes back in the status messages; 0: no status is wanted.
    pub nonce: u32,
    /// Let the router send our lease set along, when it thinks that the far side needs it.
    pub bundle: bool,
    /// When the message is worthless, in milliseconds since 1970 by the router's clock.
    pub expires_ms: u64,
}

const DO_NOT_BUNDLE: u16 = 0x100;

pub(crate) fn send_message_expires(
    session: SessionId,
    to: &Destination,
    payload: &[u8],
    how: Delivery,
) -> Vec<u8> {
    frame(36, |out| {
        out.put_u16(session.0);
        out.put(to.as_bytes());
        out.put_u32(payload.len() as u32);
        out.put(payload);
        out.put_u32(how.nonce);
        out.put_u16(if how.bundle { 0 } else { DO_NOT_BUNDLE });
        out.put(&how.expires_ms.to_be_bytes()[2..]);
    })
}

/// What is looked up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Query {
    /// The destination with this hash.
    Hash(Hash),
    /// The destination with this name, in lower case.
    Name(String),
}

pub(crate) fn host_lookup(
    session: SessionId,
    request: u32,
    timeout_ms: u32,
    query: &Query,
    with_options: bool,
) -> Vec<u8> {
    frame(38, |out| {
        out.put_u16(session.0);
        out.put_u32(request);
        out.put_u32(timeout_ms);
        let kind = if with_options { 2 } else { 0 };
        match query {
            Query::Hash(hash) => {
                out.put_u8(kind);
                out.put(&hash.0);
            }
            Query::Name(name) => {
                out.put_u8(kind + 1);
                out.put_string(name);
            }
        }
    })
}

pub(crate) fn get_bandwidth_limits() -> Vec<u8> {
    frame(8, |_| {})
}

pub(crate) fn disconnect(reason: &str) -> Vec<u8> {
    frame(30, |out| out.put_string(reason))
}

/// ReceiveMessageBegin: hand over a message that was announced (without fastReceive).
pub(crate) fn receive_begin(session: SessionId, message: u32) -> Vec<u8> {
    frame(6, |out| {
        out.put_u16(session.0);
        out.put_u32(message);
    })
}

/// ReceiveMessageEnd: it was received and may be forgotten.
pub(crate) fn receive_end(session: SessionId, message: u32) -> Vec<u8> {
    frame(7, |out| {
        out.put_u16(session.0);
        out.put_u32(message);
    })
}
