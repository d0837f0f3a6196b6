//! What may go in plain (Q23, Q26).
use super::{Sessions, kind};
use crate::Address;
use crate::message::kind as plain;

/// `security.plain`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Plain {
    /// Hints only.
    #[default]
    Deny,
    /// Everything of the draft, with peers that have never been seen sealed.
    Allow,
    /// Everything of the draft; nothing is sealed.
    Only,
}

/// What a message is for, as far as plain packets are concerned.
enum Use {
    /// Makes sessions; heard always.
    Handshake,
    /// Where somebody is; heard as long as there is no session.
    Hint,
    /// The programs' bytes.
    Traffic,
    /// Never outside SEALED.
    SealedOnly,
}

fn use_of(message_kind: u8, for_os: bool) -> Use {
    match message_kind {
        kind::HELLO | kind::WELCOME | kind::COOKIE | plain::ERROR => Use::Handshake,
        plain::PING | plain::PONG if for_os => Use::Traffic,
        plain::PING
        | plain::PONG
        | plain::EPC_REQ
        | plain::EPC
        | plain::EPI
        | plain::NAT_T
        | plain::NETID_REQ
        | plain::NETID
        | plain::WHOIS
        | plain::IAM => Use::Hint,
        plain::DGRAM
        | plain::S_OPEN
        | plain::S_CLOSE
        | plain::S_DATA
        | plain::S_ACK
        | plain::S_DACK => Use::Traffic,
        _ => Use::SealedOnly,
    }
}

impl Sessions {
    /// Whether a plain message of this type may be sent to or heard from `address`. `for_os`: a PING or PONG on behalf
    /// of a program, not a probe of ours.
    pub fn plain_permitted(&self, address: &Address, message_kind: u8, for_os: bool) -> bool {
        let policy = self.config().plain;
        match use_of(message_kind, for_os) {
            Use::Handshake => true,
            Use::Hint => policy == Plain::Only || !self.has_session(address),
            Use::Traffic => match policy {
                Plain::Deny => false,
                Plain::Allow => !self.was_sealed(address),
                Plain::Only => true,
            },
            Use::SealedOnly => false,
        }
    }
}
