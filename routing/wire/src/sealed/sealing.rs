//! Packets out: traffic in a pair's current session, and the sessions' own messages in any (Q18, Q21).
use super::fragment::{self, Fragment};
use super::peer::PeerKey;
use super::session::{Session, TEXT};
use super::{Now, SEALED_BODY, SEALED_OVERHEAD, SEALED_TAIL, SealError, Sessions, To, kind};
use std::time::Instant;

impl Sessions {
    /// For many packets to one peer: looked up once, then only sealed.
    pub fn sealer(&mut self, now: Now, key: PeerKey) -> Result<Sealer<'_>, SealError> {
        let index = self
            .peer(key)
            .and_then(|peer| peer.current)
            .ok_or(SealError::NoSession)?;
        self.ask_rekey(now.at, index);
        let session = self.sessions.get_mut(&index).ok_or(SealError::NoSession)?;
        Ok(Sealer {
            session,
            now: now.at,
        })
    }

    /// Seals one packet in place. The body stands at `SEALED_BODY`, with `SEALED_TAIL` bytes of room behind it;
    /// everything else is written here. Returns the packet's number.
    pub fn seal(
        &mut self,
        now: Now,
        key: PeerKey,
        message_kind: u8,
        packet: &mut [u8],
    ) -> Result<u64, SealError> {
        self.sealer(now, key)?.seal(message_kind, packet)
    }

    /// Seals a message that needs no room of its own: copies the body into a new packet.
    pub fn seal_copy(
        &mut self,
        now: Now,
        key: PeerKey,
        message_kind: u8,
        body: &[u8],
    ) -> Result<Vec<u8>, SealError> {
        let mut packet = vec![0; SEALED_BODY + body.len() + SEALED_TAIL];
        packet[SEALED_BODY..SEALED_BODY + body.len()].copy_from_slice(body);
        self.seal(now, key, message_kind, &mut packet)?;
        Ok(packet)
    }

    /// Seals a message as FRAGMENTs, each in a packet of at most `max_packet` bytes (Q21).
    pub fn seal_fragments(
        &mut self,
        now: Now,
        key: PeerKey,
        message_kind: u8,
        body: &[u8],
        max_packet: usize,
    ) -> Result<Vec<Vec<u8>>, SealError> {
        let slice = max_packet.saturating_sub(SEALED_OVERHEAD + 1 + fragment::HEADER);
        let slices = fragment::cut(message_kind, body, slice).ok_or(SealError::TooLong)?;
        let id = self.next_fragment_id();
        let mut sealer = self.sealer(now, key)?;
        fragments(&slices, id)
            .map(|body| sealer.seal_copy(kind::FRAGMENT, &body))
            .collect()
    }

    /// Seals a message of the sessions' own in a given session, current or not.
    pub(super) fn send_in(&mut self, now: Instant, index: u32, message: Option<(u8, &[u8])>) {
        let Some(session) = self.sessions.get_mut(&index) else {
            return;
        };
        let key = session.peer;
        let mut sealer = Sealer { session, now };
        let sealed = match message {
            Some((message_kind, body)) => sealer.seal_copy(message_kind, body),
            None => sealer.seal_empty(),
        };
        if let (Ok(packet), Some(pair)) = (sealed, self.pair(key)) {
            self.send(To::Peer(pair), packet);
        }
    }
}

/// The bodies of the FRAGMENTs of one message.
pub(super) fn fragments(slices: &[Vec<u8>], id: u32) -> impl Iterator<Item = Vec<u8>> + '_ {
    let count = slices.len() as u8;
    slices.iter().zip(0..).map(move |(slice, index)| {
        let fragment = Fragment {
            id,
            index,
            count,
            slice,
        };
        [&fragment.header()[..], slice].concat()
    })
}

/// One peer's current session, borrowed for a batch. Sealing neither looks up, locks nor allocates.
pub struct Sealer<'a> {
    session: &'a mut Session,
    now: Instant,
}

impl Sealer<'_> {
    /// See [`Sessions::seal`].
    pub fn seal(&mut self, message_kind: u8, packet: &mut [u8]) -> Result<u64, SealError> {
        if packet.len() < SEALED_BODY + SEALED_TAIL {
            return Err(SealError::TooShort);
        }
        packet[TEXT] = message_kind;
        self.session.used = self.now;
        self.session.seal(self.now, packet)
    }

    /// See [`Sessions::seal_copy`].
    pub fn seal_copy(&mut self, message_kind: u8, body: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut packet = vec![0; SEALED_BODY + body.len() + SEALED_TAIL];
        packet[SEALED_BODY..SEALED_BODY + body.len()].copy_from_slice(body);
        self.seal(message_kind, &mut packet)?;
        Ok(packet)
    }

    /// An empty packet: proves the keys and says nothing (Q11).
    fn seal_empty(&mut self) -> Result<Vec<u8>, SealError> {
        let mut packet = vec![0; SEALED_OVERHEAD];
        self.session.seal(self.now, &mut packet)?;
        Ok(packet)
    }
}
