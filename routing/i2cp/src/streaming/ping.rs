//! Pings: ours and their answers, and answers to those of peers.
use super::packet::{ECHO, FROM, Packet, SIGNATURE};
use super::{Event, MOST_LOOSE, PingId, Streams};
use crate::destination::{Destination, Hash};
use crate::envelope::Ports;
use crate::error::{Error, Result};
use crate::time::Now;
use std::time::{Duration, Instant};

const MOST_PINGS: usize = 256;
const PING_TIMEOUT: Duration = Duration::from_secs(30);
/// A pong returns so many bytes.
const LONGEST_ECHO: usize = 32;

#[derive(Debug)]
pub(super) struct Ping {
    pub(super) to: Hash,
    pub(super) sent: Instant,
    pub(super) payload: Vec<u8>,
}

impl Streams {
    /// Sends a ping with at most 32 bytes of payload; more is cut off, because no more comes back.
    ///
    /// # Errors
    /// [`Error::Full`].
    pub fn ping(
        &mut self,
        to: &Destination,
        local_port: u16,
        remote_port: u16,
        payload: &[u8],
        now: Now,
    ) -> Result<PingId> {
        if self.pings.len() >= MOST_PINGS || self.loose.len() >= MOST_LOOSE {
            return Err(Error::Full("the table of pings"));
        }
        let payload = &payload[..payload.len().min(LONGEST_ECHO)];
        let id = self.fresh_id();
        let packet = Packet {
            to_id: id,
            flags: ECHO | SIGNATURE | FROM,
            payload,
            ..Packet::default()
        };
        let data = packet.write(&self.keys);
        self.send_loose(to.clone(), (local_port, remote_port), data, true);
        let ping = Ping {
            to: to.hash(),
            sent: now.instant,
            payload: payload.to_vec(),
        };
        self.pings.insert(id, ping);
        Ok(PingId(id))
    }

    /// Pings are answered, and answers told.
    pub(super) fn echo(&mut self, packet: &Packet<'_>, data: &[u8], ports: Ports, now: Now) {
        if packet.to_id == 0 {
            let answered = self
                .pings
                .get(&packet.from_id)
                .is_some_and(|ping| packet.payload.starts_with(&ping.payload));
            match self.pings.remove(&packet.from_id) {
                Some(ping) if answered => {
                    let rtt = now.instant.saturating_duration_since(ping.sent);
                    let event = Event::Pong(PingId(packet.from_id), Some(rtt));
                    self.events.push_back(event);
                }
                // another payload than the one we sent: somebody guesses
                Some(ping) => {
                    self.counters.forged += 1;
                    self.pings.insert(packet.from_id, ping);
                }
                None => self.counters.unknown += 1,
            }
            return;
        }
        let Some(from) = packet.from.clone() else {
            self.counters.forged += 1;
            return;
        };
        if !self.allow(None, now) {
            return;
        }
        if packet.verify(data, &from, now.unix_ms).is_err() {
            self.counters.forged += 1;
            return;
        }
        if !self.allow(Some(from.hash()), now) {
            return;
        }
        let pong = Packet {
            from_id: packet.to_id,
            flags: ECHO,
            payload: &packet.payload[..packet.payload.len().min(LONGEST_ECHO)],
            ..Packet::default()
        };
        let data = pong.write(&self.keys);
        self.counters.pongs += 1;
        self.send_loose(from, (ports.to, ports.from), data, false);
    }

    /// To whom a ping went.
    pub fn ping_target(&self, ping: PingId) -> Option<Hash> {
        self.pings.get(&ping.0).map(|ping| ping.to)
    }

    /// Those that were not answered in time.
    pub(super) fn give_up_pings(&mut self, now: Now) {
        let overdue = |ping: &Ping| ping.sent + PING_TIMEOUT <= now.instant;
        let silent: Vec<u32> = self
            .pings
            .iter()
            .filter(|(_, ping)| overdue(ping))
            .map(|(id, _)| *id)
            .collect();
        for id in silent {
            self.pings.remove(&id);
            self.events.push_back(Event::Pong(PingId(id), None));
        }
    }

    /// When the next one is given up.
    pub(super) fn ping_deadline(&self) -> Option<Instant> {
        let deadlines = self.pings.values().map(|ping| ping.sent + PING_TIMEOUT);
        deadlines.min()
    }
}
