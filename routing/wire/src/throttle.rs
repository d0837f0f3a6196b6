//! ERROR messages and the throttle in front of them (Anode 0.8 §4.2.1, A50).
//!
//! Errors are a courtesy that strangers can provoke, so they are limited in number, never larger than what caused
//! them (S20), and never an answer to an error or to a broadcast.
use crate::message::error_code;
use crate::packet::{FLAG_AUTH_ERROR, FULL_SENDER_HEADER, SHORT_HEADER};
use crate::{Address, AddressId, Header, MacKey, Message, Packet, Party, PeerId, message::kind};
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

/// Lets through `burst` events at once and `per_second` in the long run.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    interval: Duration,
    tolerance: Duration,
    /// When the bucket will be full again; in the past: it is full.
    full_at: Option<Instant>,
}

impl TokenBucket {
    /// A full bucket.
    pub fn new(per_second: NonZeroU32, burst: NonZeroU32) -> Self {
        let interval = Duration::from_secs(1) / per_second.get();
        Self {
            interval,
            tolerance: interval * (burst.get() - 1),
            full_at: None,
        }
    }

    /// Takes a token if there is one. A clock that steps back finds the bucket as it was left.
    pub fn take(&mut self, now: Instant) -> bool {
        let full_at = self.full_at.map_or(now, |at| at.max(now));
        if full_at.duration_since(now) > self.tolerance {
            return false;
        }
        self.full_at = full_at.checked_add(self.interval);
        true
    }
}

/// What is wrong with a packet that was addressed to this node, or to be relayed by it.
#[derive(Clone, Copy, Debug)]
pub enum Complaint<'k> {
    /// 0x01: the packet is authentic, its message is not valid. Signed.
    InvalidMessage(&'k MacKey),
    /// 0x02: the MAC is wrong or the sender unknown. Flag 0x04 and a MAC of zeros: it must have no effect (A42).
    NotAuthentic,
    /// 0x03: this node does not relay for the sender. Signed; only for registered peers (D40).
    NotAuthorised(&'k MacKey),
    /// 0x04: the recipient is not registered here. Signed; only for registered peers (D40).
    Unreachable(&'k MacKey),
}

impl Complaint<'_> {
    fn code(&self) -> u16 {
        match self {
            Self::InvalidMessage(_) => error_code::INVALID_MESSAGE,
            Self::NotAuthentic => error_code::NOT_AUTHENTIC,
            Self::NotAuthorised(_) => error_code::NOT_AUTHORISED,
            Self::Unreachable(_) => error_code::UNREACHABLE,
        }
    }

    fn key(&self) -> Option<&MacKey> {
        match self {
            Self::NotAuthentic => None,
            Self::InvalidMessage(key) | Self::NotAuthorised(key) | Self::Unreachable(key) => {
                Some(key)
            }
        }
    }
}

/// Bytes of the body of an ERROR without arguments.
const BODY: usize = 2;

/// Makes ERROR packets, not too many of them.
#[derive(Clone, Debug)]
pub struct ErrorThrottle {
    bucket: TokenBucket,
    sent: u64,
    suppressed: u64,
}

impl ErrorThrottle {
    /// `burst` errors at once and `per_second` in the long run, to all peers together.
    pub fn new(per_second: NonZeroU32, burst: NonZeroU32) -> Self {
        Self {
            bucket: TokenBucket::new(per_second, burst),
            sent: 0,
            suppressed: 0,
        }
    }

    /// Writes the ERROR that answers `cause` into `out` (cleared first) and says whether there is one. It is at most 62
    /// bytes and goes to where `cause` came from.
    ///
    /// The sender is given in full (A41), unless that would make the answer larger than its cause.
    pub fn reply<T: AsRef<[u8]>>(
        &mut self,
        now: Instant,
        from: &Address,
        from_peer: PeerId,
        cause: &Packet<T>,
        complaint: Complaint<'_>,
        out: &mut Vec<u8>,
    ) -> bool {
        out.clear();
        let is_error = cause.kind() == kind::ERROR || cause.is_auth_error();
        let is_broadcast = cause.recipient() == Party::Id(AddressId::EVERYBODY);
        let sender = match cause.as_bytes().len() {
            len if len >= FULL_SENDER_HEADER + BODY => Some(Party::Full(from.as_bytes())),
            len if len >= SHORT_HEADER + BODY => Some(Party::Id(from.id())),
            _ => None,
        };
        let Some(sender) = sender.filter(|_| !is_error && !is_broadcast && self.bucket.take(now))
        else {
            self.suppressed += 1;
            return false;
        };

        let key = complaint.key();
        let header = Header {
            hop_count: 0,
            flags: if key.is_none() { FLAG_AUTH_ERROR } else { 0 },
            sender,
            recipient: Party::Id(cause.sender().id()),
            sender_peer: from_peer,
            recipient_peer: cause.sender_peer(),
            kind: kind::ERROR,
        };
        Message::Error {
            code: complaint.code(),
            arguments: &[],
        }
        .emit_packet(&header, key, out);
        self.sent += 1;
        true
    }

    /// Errors made.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Causes that got no answer.
    pub fn suppressed(&self) -> u64 {
        self.suppressed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{hex, identity, vector};
    use proptest::prelude::*;

    fn throttle(per_second: u32, burst: u32) -> ErrorThrottle {
        ErrorThrottle::new(per_second.try_into().unwrap(), burst.try_into().unwrap())
    }

    fn packet(name: &str) -> Packet<Vec<u8>> {
        Packet::new_checked(hex(&vector("packets", "name", name)["packet"])).unwrap()
    }

    // A50: 0x01 is signed and names us in full to one who named itself in full
    #[test]
    fn an_invalid_message_is_answered_by_a_signed_error() {
        let bob = identity("bob");
        let key = bob.agree(identity("alice").address());
        let cause = packet("PING payload \"hello\"");
        let mut out = Vec::new();
        let complaint = Complaint::InvalidMessage(&key);
        assert!(throttle(1, 1).reply(
            Instant::now(),
            bob.address(),
            PeerId::ANY,
            &cause,
            complaint,
            &mut out
        ));
        assert!(key.verify(&out));
        let error = Packet::new_checked(&out).unwrap();
        assert_eq!(error.flags() & FLAG_AUTH_ERROR, 0);
        assert_eq!(error.sender(), Party::Full(bob.address().as_bytes()));
        assert_eq!(
            error.recipient(),
            Party::Id(identity("alice").address().id())
        );
        assert_eq!(error.recipient_peer(), cause.sender_peer());
        let message = Message::parse(error.kind(), error.body());
        assert_eq!(
            message,
            Ok(Message::Error {
                code: 1,
                arguments: &[]
            })
        );
    }

    // A42, A50, S11: 0x02 carries flag 0x04 and a MAC that shows nothing
    #[test]
    fn a_wrong_mac_is_answered_by_an_error_without_mac() {
        let cause = packet("S_CLOSE alice->bob reason 0");
        let mut out = Vec::new();
        let bob = identity("bob");
        let complaint = Complaint::NotAuthentic;
        assert!(throttle(1, 1).reply(
            Instant::now(),
            bob.address(),
            PeerId::ANY,
            &cause,
            complaint,
            &mut out
        ));
        let error = Packet::new_checked(&out).unwrap();
        assert!(error.is_auth_error());
        assert_eq!(error.mac(), [0; 8]);
        assert!(!bob.agree(identity("alice").address()).verify(&out));
        // 42 bytes of cause leave no room for a full sender
        assert_eq!(error.sender(), Party::Id(bob.address().id()));
        let message = Message::parse(error.kind(), error.body());
        assert_eq!(
            message,
            Ok(Message::Error {
                code: 2,
                arguments: &[]
            })
        );
    }

    // A50
    #[test]
    fn a_relays_complaints_have_their_codes() {
        let relay = identity("relay");
        let key = relay.agree(identity("alice").address());
        for (complaint, code) in [
            (Complaint::NotAuthorised(&key), 3),
            (Complaint::Unreachable(&key), 4),
        ] {
            let mut out = Vec::new();
            let cause = packet("PING both addresses full");
            assert!(throttle(1, 1).reply(
                Instant::now(),
                relay.address(),
                PeerId::ANY,
                &cause,
                complaint,
                &mut out
            ));
            let error = Packet::new_checked(&out).unwrap();
            assert_eq!(
                Message::parse(error.kind(), error.body()),
                Ok(Message::Error {
                    code,
                    arguments: &[]
                })
            );
        }
    }

    #[test]
    fn errors_and_broadcasts_get_no_answer() {
        let bob = identity("bob");
        let mut auth_error = packet("PING payload \"hello\"").as_bytes().to_vec();
        auth_error[1] |= FLAG_AUTH_ERROR;
        for cause in [
            packet("ERROR 0x0004 relay recipient not reachable"),
            packet("presence EPI (LAN broadcast form)"),
            Packet::new_checked(auth_error).unwrap(),
        ] {
            let mut throttle = throttle(1, 1);
            let mut out = Vec::new();
            let complaint = Complaint::NotAuthentic;
            assert!(!throttle.reply(
                Instant::now(),
                bob.address(),
                PeerId::ANY,
                &cause,
                complaint,
                &mut out
            ));
            assert_eq!(
                (out.len(), throttle.sent(), throttle.suppressed()),
                (0, 0, 1)
            );
        }
    }

    // S20, S26
    #[test]
    fn a_flood_is_answered_at_the_set_rate() {
        let bob = identity("bob");
        let mut throttle = throttle(10, 5);
        let start = Instant::now();
        let mut out = Vec::new();
        for millisecond in 0..10_000 {
            let now = start + Duration::from_millis(millisecond);
            let cause = packet("DGRAM");
            throttle.reply(
                now,
                bob.address(),
                PeerId::ANY,
                &cause,
                Complaint::NotAuthentic,
                &mut out,
            );
        }
        // the burst, and ten in each of the ten seconds
        assert!(
            (104..=105).contains(&throttle.sent()),
            "{}",
            throttle.sent()
        );
        assert_eq!(throttle.sent() + throttle.suppressed(), 10_000);
    }

    #[test]
    fn a_clock_that_steps_back_opens_nothing() {
        let mut bucket = TokenBucket::new(NonZeroU32::MIN, NonZeroU32::MIN);
        let later = Instant::now() + Duration::from_secs(100);
        assert!(bucket.take(later));
        assert!(!bucket.take(later - Duration::from_secs(50)));
        assert!(!bucket.take(later));
        assert!(bucket.take(later + Duration::from_secs(1)));
    }

    proptest! {
        // S20
        #[test]
        fn no_error_is_larger_than_its_cause(bytes in proptest::collection::vec(any::<u8>(), 28..120), flags in 0u8..4) {
            let mut bytes = bytes;
            bytes[1] = flags;
            bytes[10] = 1;
            if let Ok(cause) = Packet::new_checked(&bytes) {
                let bob = identity("bob");
                let mut out = Vec::new();
                let complaint = Complaint::NotAuthentic;
                throttle(1, 1).reply(Instant::now(), bob.address(), PeerId::ANY, &cause, complaint, &mut out);
                prop_assert!(out.len() <= bytes.len());
            }
        }
    }
}
