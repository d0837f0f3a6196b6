//! Datagrams: repliable (17, 19), raw (18), and with a sender's hash only (20) (i2cp.md §2.7).
use crate::codec::{Mapping, Put as _, Reader};
use crate::destination::{Destination, Hash, Offline};
use crate::envelope::{MAX_MESSAGE, protocol};
use crate::error::{Error, Result};
use crate::keys::LocalDestination;
use std::collections::HashMap;
use std::time::{Duration, Instant};

const VERSION_2: u16 = 2;
const VERSION_3: u16 = 3;
const VERSION_MASK: u16 = 0x0f;
const HAS_OPTIONS: u16 = 0x10;
const IS_OFFLINE: u16 = 0x20;

/// The four forms.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Kind {
    /// 17: signed, with the sender's destination.
    Datagram1,
    /// 18: the payload alone.
    Raw,
    /// 19: signed for one receiver.
    Datagram2,
    /// 20: with the sender's hash, unsigned.
    Datagram3,
}

impl Kind {
    /// The protocol number in the gzip header.
    pub fn protocol(self) -> u8 {
        match self {
            Self::Datagram1 => protocol::DATAGRAM1,
            Self::Raw => protocol::RAW,
            Self::Datagram2 => protocol::DATAGRAM2,
            Self::Datagram3 => protocol::DATAGRAM3,
        }
    }

    /// Of a protocol number.
    pub fn from_protocol(number: u8) -> Option<Self> {
        [Self::Datagram1, Self::Raw, Self::Datagram2, Self::Datagram3]
            .into_iter()
            .find(|kind| kind.protocol() == number)
    }

    /// Bytes before and behind the payload, with our own destinations.
    pub fn overhead(self) -> usize {
        match self {
            Self::Datagram1 => 391 + 64,
            Self::Raw => 0,
            Self::Datagram2 => 391 + 2 + 64,
            Self::Datagram3 => 34,
        }
    }

    /// The largest payload.
    pub fn max_payload(self) -> usize {
        MAX_MESSAGE - self.overhead()
    }

    /// Whether it starts with a destination, whose padding compresses (I65).
    pub fn compresses(self) -> bool {
        matches!(self, Self::Datagram1 | Self::Datagram2)
    }
}

/// Who sent a datagram.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Sender {
    /// Proven by its signature.
    Signed(Destination),
    /// Claimed, not proven; a lookup must find the destination before an answer is possible.
    Claimed(Hash),
    /// Raw datagrams do not say.
    Unknown,
}

/// A datagram that arrived.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Datagram {
    /// Who sent it.
    pub sender: Sender,
    /// What it carries.
    pub payload: Vec<u8>,
}

/// Makes a datagram for `to`.
///
/// # Errors
/// [`Error::TooLong`] when the payload exceeds [`Kind::max_payload`].
pub fn encode(kind: Kind, keys: &LocalDestination, to: &Hash, payload: &[u8]) -> Result<Vec<u8>> {
    if payload.len() > kind.max_payload() {
        return Err(Error::TooLong {
            what: "a datagram",
            length: payload.len(),
            limit: kind.max_payload(),
        });
    }
    let mut out = Vec::with_capacity(kind.overhead() + payload.len());
    match kind {
        Kind::Raw => out.put(payload),
        Kind::Datagram1 => {
            out.put(keys.destination().as_bytes());
            out.put(&keys.sign(payload));
            out.put(payload);
        }
        Kind::Datagram2 => {
            out.put(keys.destination().as_bytes());
            let start = out.len();
            out.put_u16(VERSION_2);
            out.put(payload);
            let signature = keys.sign(&[&to.0, &out[start..]].concat());
            out.put(&signature);
        }
        Kind::Datagram3 => {
            out.put(&keys.destination().hash().0);
            out.put_u16(VERSION_3);
            out.put(payload);
        }
    }
    Ok(out)
}

/// Reads a datagram that came for `own`, and verifies it. `unix_ms` is for offline keys, which expire.
///
/// # Errors
/// Anything malformed or not signed by the sender (and, for 19, not for us): drop it.
pub fn decode(kind: Kind, own: &Hash, bytes: &[u8], unix_ms: u64) -> Result<Datagram> {
    match kind {
        Kind::Raw => Ok(Datagram {
            sender: Sender::Unknown,
            payload: bytes.to_vec(),
        }),
        Kind::Datagram1 => {
            let mut reader = Reader::new("a datagram", bytes);
            let from = Destination::read(&mut reader)?;
            let signature = reader.take(from.signature_type()?.signature_length())?;
            let payload = reader.rest();
            from.verify("a datagram", payload, signature)?;
            Ok(Datagram {
                sender: Sender::Signed(from),
                payload: payload.to_vec(),
            })
        }
        Kind::Datagram2 => decode_2(own, bytes, unix_ms),
        Kind::Datagram3 => {
            let mut reader = Reader::new("a datagram", bytes);
            let from = Hash(reader.array()?);
            flags(&mut reader, VERSION_3, HAS_OPTIONS)?;
            Ok(Datagram {
                sender: Sender::Claimed(from),
                payload: reader.rest().to_vec(),
            })
        }
    }
}

fn decode_2(own: &Hash, bytes: &[u8], unix_ms: u64) -> Result<Datagram> {
    let mut reader = Reader::new("a datagram", bytes);
    let from = Destination::read(&mut reader)?;
    let start = bytes.len() - reader.remaining();
    let flags = flags(&mut reader, VERSION_2, HAS_OPTIONS | IS_OFFLINE)?;
    let offline = (flags & IS_OFFLINE != 0)
        .then(|| Offline::read(&mut reader, &from))
        .transpose()?;
    let kind = match &offline {
        Some(offline) => offline.kind(),
        None => from.signature_type()?,
    };
    let length = reader
        .remaining()
        .checked_sub(kind.signature_length())
        .ok_or(Error::Truncated("a datagram"))?;
    let payload = reader.take(length)?;
    let signature = reader.rest();
    // bound to the receiver: nobody can send it on to somebody else
    let signed = [&own.0, &bytes[start..bytes.len() - signature.len()]].concat();
    match offline {
        Some(offline) => {
            let key = offline.verified(&from, unix_ms)?;
            key.verify("a datagram", &signed, signature)?;
        }
        None => from.verify("a datagram", &signed, signature)?,
    }
    Ok(Datagram {
        sender: Sender::Signed(from),
        payload: payload.to_vec(),
    })
}

/// The flags, with the options skipped.
fn flags(reader: &mut Reader<'_>, version: u16, allowed: u16) -> Result<u16> {
    let flags = reader.u16()?;
    if flags & VERSION_MASK != version || flags & !(VERSION_MASK | allowed) != 0 {
        return Err(reader.malformed("flags of another version"));
    }
    if flags & HAS_OPTIONS != 0 {
        Mapping::read(reader)?;
    }
    Ok(flags)
}

/// How long an answer without a sender is believed.
const RAW_LIFE: Duration = Duration::from_secs(120);
/// Most port pairs that are remembered.
const MOST_PAIRS: usize = 4096;

/// Which raw datagrams (18) are answers. i2pd's UDP tunnels answer a quick datagram 17 with 18, which names no sender:
/// it is taken only for a pair of ports on which we sent within two minutes, and counts as sent by whom we sent to.
#[derive(Debug, Default)]
pub struct RawAnswers {
    pairs: HashMap<(u16, u16), (Hash, Instant)>,
    /// Raw datagrams that matched no pair.
    pub refused: u64,
    /// Pairs forgotten before their time, because the table was full.
    pub evicted: u64,
}

impl RawAnswers {
    /// We sent from our port `local` to `to`'s port `remote`.
    pub fn sent(&mut self, local: u16, remote: u16, to: Hash, now: Instant) {
        if self.pairs.len() >= MOST_PAIRS && !self.pairs.contains_key(&(local, remote)) {
            self.pairs
                .retain(|_, (_, at)| now.saturating_duration_since(*at) < RAW_LIFE);
            if self.pairs.len() >= MOST_PAIRS
                && let Some(oldest) = self
                    .pairs
                    .iter()
                    .min_by_key(|(_, (_, at))| *at)
                    .map(|(pair, _)| *pair)
            {
                self.pairs.remove(&oldest);
                self.evicted += 1;
            }
        }
        self.pairs.insert((local, remote), (to, now));
    }

    /// To whom we sent last on a pair of ports, within two minutes.
    pub fn holder(&self, local: u16, remote: u16, now: Instant) -> Option<Hash> {
        let (hash, at) = self.pairs.get(&(local, remote))?;
        (now.saturating_duration_since(*at) < RAW_LIFE).then_some(*hash)
    }

    /// Who must have sent a raw datagram from `remote` to our port `local`; `None`: drop it.
    pub fn sender(&mut self, local: u16, remote: u16, now: Instant) -> Option<Hash> {
        let holder = self.holder(local, remote, now);
        self.refused += u64::from(holder.is_none());
        holder
    }
}

/// Who listens where (I67 to I72): a table with the order of lookup that Java has.
#[derive(Debug)]
pub struct Listeners<T> {
    table: HashMap<(u8, u16), T>,
}

impl<T> Default for Listeners<T> {
    fn default() -> Self {
        Self {
            table: HashMap::new(),
        }
    }
}

impl<T> Listeners<T> {
    /// `protocol` 0 is any, `port` 0 is all ports. Gives back what stood there.
    pub fn listen(&mut self, protocol: u8, port: u16, who: T) -> Option<T> {
        self.table.insert((protocol, port), who)
    }

    /// Nobody listens there any more.
    pub fn close(&mut self, protocol: u8, port: u16) -> Option<T> {
        self.table.remove(&(protocol, port))
    }

    /// Who gets what comes for this port: the exact one, the protocol's default, then those for any protocol.
    pub fn find(&self, protocol: u8, port: u16) -> Option<&T> {
        [(protocol, port), (protocol, 0), (0, port), (0, 0)]
            .iter()
            .find_map(|key| self.table.get(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{hex, keys};
    use proptest::prelude::*;

    const NOW: u64 = crate::router::START_MS;
    const ALL: [Kind; 4] = [Kind::Datagram1, Kind::Raw, Kind::Datagram2, Kind::Datagram3];

    // I62
    #[test]
    fn the_datagrams_of_the_vectors_are_made_and_read() {
        let (a, b) = (keys("A"), keys("B"));
        let to = b.destination().hash();
        let payload = hex("/datagram1/payload");
        let signed = Sender::Signed(a.destination().clone());
        for (kind, name, sender) in [
            (Kind::Datagram1, "datagram1", signed.clone()),
            (Kind::Datagram2, "datagram2", signed),
            (
                Kind::Datagram3,
                "datagram3",
                Sender::Claimed(a.destination().hash()),
            ),
        ] {
            let bytes = encode(kind, &a, &to, &payload).unwrap();
            assert_eq!(bytes, hex(&format!("/{name}/bytes")));
            assert_eq!(bytes.len() - payload.len(), kind.overhead());
            let payload = payload.clone();
            let read = decode(kind, &to, &bytes, NOW).unwrap();
            assert_eq!(read, Datagram { sender, payload });
        }
        let with_options = decode(Kind::Datagram2, &to, &hex("/datagram2/with_options"), NOW);
        assert_eq!(with_options.unwrap().payload, payload);
    }

    #[test]
    fn a_datagram2_for_somebody_else_is_dropped() {
        let a = keys("A");
        let own = a.destination().hash();
        let refused = decode(Kind::Datagram2, &own, &hex("/datagram2/bytes"), NOW);
        assert_eq!(refused, Err(Error::BadSignature("a datagram")));
    }

    #[test]
    fn an_offline_key_signs_until_it_expires() {
        let (a, b, to) = (keys("A"), keys("B"), Hash([7; 32]));
        let expires = (NOW / 1000) as u32 + 100;
        // B's key is the transient one of A
        let mut block = expires.to_be_bytes().to_vec();
        block.put_u16(7);
        block.put(&b.destination().as_bytes()[352..384]);
        let by_a = a.sign(&block);
        let mut body = (VERSION_2 | IS_OFFLINE).to_be_bytes().to_vec();
        body.put(&block);
        body.put(&by_a);
        body.put(b"payload");
        let signature = b.sign(&[&to.0, &body[..]].concat());
        let bytes = [a.destination().as_bytes(), &body, &signature].concat();
        let read = |unix_ms| decode(Kind::Datagram2, &to, &bytes, unix_ms);
        assert_eq!(
            read(NOW).unwrap().sender,
            Sender::Signed(a.destination().clone())
        );
        assert!(read(NOW + 100_000).is_err());
        let mut forged = bytes.clone();
        forged[391 + 2] ^= 1;
        assert!(decode(Kind::Datagram2, &to, &forged, NOW).is_err());
    }

    // S37
    #[test]
    fn signed_datagrams_cut_or_changed_anywhere_are_dropped() {
        let (a, to) = (keys("A"), Hash([7; 32]));
        for kind in [Kind::Datagram1, Kind::Datagram2] {
            let good = encode(kind, &a, &to, b"payload").unwrap();
            for length in 0..good.len() {
                assert!(
                    decode(kind, &to, &good[..length], NOW).is_err(),
                    "{kind:?} {length}"
                );
            }
            for at in (0..good.len()).filter(|at| kind == Kind::Datagram2 || *at >= 352) {
                let mut bad = good.clone();
                bad[at] ^= 1;
                // the padding of a destination is part of who it is: another sender, who may not sign with this key
                let read = decode(kind, &to, &bad, NOW);
                let other =
                    matches!(&read, Ok(d) if d.sender != Sender::Signed(a.destination().clone()));
                assert!(read.is_err() || other, "{kind:?} {at}");
            }
        }
    }

    #[test]
    fn payloads_up_to_the_limit_and_no_more() {
        let (a, to) = (keys("A"), Hash([7; 32]));
        for kind in ALL {
            assert_eq!(Kind::from_protocol(kind.protocol()), Some(kind));
            let most = vec![5; kind.max_payload()];
            let bytes = encode(kind, &a, &to, &most).unwrap();
            assert!(bytes.len() <= MAX_MESSAGE && most.len() >= 60_000);
            let over = vec![5; kind.max_payload() + 1];
            assert!(matches!(
                encode(kind, &a, &to, &over),
                Err(Error::TooLong { .. })
            ));
            assert!(encode(kind, &a, &to, b"").is_ok());
        }
    }

    #[test]
    fn a_raw_answer_counts_for_two_minutes_on_its_pair_of_ports() {
        let mut answers = RawAnswers::default();
        let (start, hash) = (Instant::now(), Hash([1; 32]));
        let after = |s| start + Duration::from_secs(s);
        answers.sent(5000, 53, hash, start);
        assert_eq!(answers.sender(5000, 53, after(119)), Some(hash));
        assert_eq!(answers.sender(5000, 54, after(1)), None);
        assert_eq!(answers.sender(53, 5000, after(1)), None);
        assert_eq!(answers.sender(5000, 53, after(120)), None);
        assert_eq!(answers.refused, 3);
        for port in 0..5000 {
            answers.sent(port, 1, hash, after(1 + u64::from(port)));
        }
        assert!(answers.pairs.len() <= MOST_PAIRS);
        assert_eq!(answers.sender(4999, 1, after(5000)), Some(hash));
    }

    // I67, I68, I69, I70, I71, I72
    #[test]
    fn listeners_are_found_in_javas_order() {
        let mut listeners = Listeners::default();
        for (protocol, port) in [(6, 80), (6, 0), (0, 80), (0, 0)] {
            assert_eq!(listeners.find(protocol, port), None);
        }
        listeners.listen(0, 0, "all");
        assert_eq!(listeners.find(6, 80), Some(&"all"));
        listeners.listen(0, 80, "any protocol on 80");
        assert_eq!(listeners.find(17, 80), Some(&"any protocol on 80"));
        listeners.listen(6, 0, "streaming");
        assert_eq!(listeners.find(6, 80), Some(&"streaming"));
        listeners.listen(6, 80, "web");
        assert_eq!(listeners.find(6, 80), Some(&"web"));
        // port 0 is a port like any other to the sender: the default gets it
        assert_eq!(listeners.find(6, 0), Some(&"streaming"));
        assert_eq!(listeners.find(18, 9), Some(&"all"));
        listeners.close(6, 80);
        assert_eq!(listeners.find(6, 80), Some(&"streaming"));
    }

    proptest! {
        // S37
        #[test]
        fn noise_never_panics(which in 0usize..4, bytes in proptest::collection::vec(any::<u8>(), 0..700)) {
            let _ = decode(ALL[which], &Hash([7; 32]), &bytes, NOW);
        }
    }
}
