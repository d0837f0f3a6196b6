//! The UDP side. An answer is appended to the caller's buffer; nothing here allocates once that has its size.

use super::swarm::{Choice, Entry, Swarm};
use super::{DEFAULT_WANT, Server, source_key};
use crate::compact::Family;
use crate::types::{Event, ScrapeEntry};
use crate::udp::packet::{
    self, AnnounceHead, AnnounceRequest, ConnectionId, Request, ScrapeRequest,
};
use rand_core::CryptoRng;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

impl Server {
    /// Takes a datagram and appends the answer to `out`; false when there is none. To a source that has not shown that
    /// it hears us, never more than it sent.
    pub fn udp(
        &mut self,
        source: SocketAddr,
        datagram: &[u8],
        now: Instant,
        rng: &mut dyn CryptoRng,
        out: &mut Vec<u8>,
    ) -> bool {
        // a socket for both families shows IPv4 as mapped; entries are 6 bytes for it all the same
        let ip = source.ip().to_canonical();
        match Request::parse(datagram) {
            None => {
                self.counters.malformed += 1;
                false
            }
            Some(Request::Connect(transaction)) => {
                if !self.unproven.allow(source_key(ip), self.microseconds(now)) {
                    self.counters.limited += 1;
                    return false;
                }
                self.counters.connects += 1;
                packet::write_connected(transaction, self.cookies.issue(ip, self.minute(now)), out);
                true
            }
            Some(Request::Announce(request)) => {
                self.admitted(request.connection, ip, now) && {
                    self.announce_udp(&request, ip, now, rng, out);
                    true
                }
            }
            Some(Request::Scrape(request)) => {
                self.admitted(request.connection, ip, now) && {
                    self.scrape_udp(&request, out);
                    true
                }
            }
        }
    }

    /// Whether the source is real and within its rate. Anything else is dropped without a word: an answer could go to
    /// somebody who never asked.
    fn admitted(&mut self, connection: ConnectionId, ip: IpAddr, now: Instant) -> bool {
        if !self.cookies.check(connection, ip, self.minute(now)) {
            self.counters.wrong_connection += 1;
            return false;
        }
        let allowed = self.proven.allow(source_key(ip), self.microseconds(now));
        self.counters.limited += u64::from(!allowed);
        allowed
    }

    fn announce_udp(
        &mut self,
        request: &AnnounceRequest<'_>,
        ip: IpAddr,
        now: Instant,
        rng: &mut dyn CryptoRng,
        out: &mut Vec<u8>,
    ) {
        let entry = Entry {
            hash: request.info_hash,
            endpoint: SocketAddr::new(ip, request.port),
            id: request.peer_id,
            client: self.registry.tag(&request.peer_id, &request.key),
            complete: request.left == 0,
            event: request.event,
        };
        let seconds = self.seconds(now);
        let family = Family::of(ip);
        let room =
            self.config.max_datagram.saturating_sub(packet::ANSWER_SIZE) / family.entry_size();
        let want = request
            .num_want
            .map_or(DEFAULT_WANT, |want| want as usize)
            .min(self.config.max_peers)
            .min(room);
        let (interval, stopped) = (self.interval(), entry.event == Some(Event::Stopped));
        let swarm = match self.register(&entry, seconds) {
            Ok(swarm) => swarm,
            Err(refused) => {
                self.count(refused);
                return packet::write_error(request.transaction, refused.text(), out);
            }
        };
        let ScrapeEntry {
            complete,
            incomplete,
            ..
        } = swarm.map(Swarm::counts).unwrap_or_default();
        let head = AnnounceHead {
            interval,
            leechers: incomplete,
            seeders: complete,
        };
        packet::write_announced(request.transaction, head, out);
        if let Some(swarm) = swarm.filter(|_| !stopped) {
            let choice = Choice {
                asker: entry.client,
                random: rng.next_u32(),
                now: seconds,
            };
            match family {
                Family::V4 => swarm.choose4(want, choice, |peer, _| out.extend_from_slice(peer)),
                Family::V6 => swarm.choose6(want, choice, |peer, _| out.extend_from_slice(peer)),
            }
        }
        self.counters.announces += 1;
    }

    fn scrape_udp(&mut self, request: &ScrapeRequest<'_>, out: &mut Vec<u8>) {
        packet::write_scraped(request.transaction, out);
        for hash in request.hashes() {
            let counts = self
                .registry
                .swarm(&hash)
                .map(Swarm::counts)
                .unwrap_or_default();
            packet::write_scrape_entry(counts, out);
        }
        self.counters.scrapes += 1;
    }

    fn minute(&self, now: Instant) -> u64 {
        u64::from(self.seconds(now) / 60)
    }
}
