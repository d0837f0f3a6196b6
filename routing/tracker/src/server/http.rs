//! The HTTP side: a request target in, a status and a body out.

use super::swarm::{Choice, Entry, Swarm};
use super::{DEFAULT_WANT, Server, source_key};
use crate::bencode::Writer;
use crate::compact::{Family, decode};
use crate::http::{AnnounceQuery, ScrapeQuery};
use crate::types::Event;
use rand_core::CryptoRng;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

impl Server {
    /// Answers `GET target` of `source`: the status; the body, of type `text/plain`, is appended to `out`. Refusals
    /// are 200 with a `failure reason`, which is what clients read.
    pub fn http(
        &mut self,
        source: IpAddr,
        target: &str,
        now: Instant,
        rng: &mut dyn CryptoRng,
        out: &mut Vec<u8>,
    ) -> u16 {
        let source = source.to_canonical();
        if !self
            .proven
            .allow(source_key(source), self.microseconds(now))
        {
            self.counters.limited += 1;
            fail("too many requests from this address", Some(1), out);
            return 200;
        }
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        match path {
            "/announce" => self.announce_http(source, query, now, rng, out),
            "/scrape" => self.scrape_http(query, out),
            _ => {
                self.counters.invalid += 1;
                out.extend_from_slice(b"this tracker answers at /announce and /scrape\n");
                return 404;
            }
        }
        200
    }

    fn announce_http(
        &mut self,
        source: IpAddr,
        query: &str,
        now: Instant,
        rng: &mut dyn CryptoRng,
        out: &mut Vec<u8>,
    ) {
        let query = match AnnounceQuery::parse(query) {
            Ok(query) => query,
            Err(error) => {
                self.counters.invalid += 1;
                return fail(&error.to_string(), None, out);
            }
        };
        let entry = Entry {
            hash: query.info_hash,
            endpoint: SocketAddr::new(source, query.port),
            id: query.peer_id,
            client: self.registry.tag(&query.peer_id, &query.key),
            complete: query.complete,
            event: query.event,
        };
        let seconds = self.seconds(now);
        let (interval, min_interval) = (self.interval(), self.config.min_interval.as_secs());
        let stopped = query.event == Some(Event::Stopped);
        let want = if stopped {
            0
        } else {
            query.num_want.map_or(DEFAULT_WANT, |want| want as usize)
        };
        let want = want.min(self.config.max_peers);
        let swarm = match self.register(&entry, seconds) {
            Ok(swarm) => swarm,
            Err(refused) => {
                self.count(refused);
                return fail(refused.text(), None, out);
            }
        };
        let counts = swarm.map(Swarm::counts).unwrap_or_default();
        let choice = Choice {
            asker: entry.client,
            random: rng.next_u32(),
            now: seconds,
        };
        let mut writer = Writer::new(out);
        writer
            .dict()
            .bytes(b"complete")
            .int(counts.complete.into())
            .bytes(b"external ip");
        match source {
            IpAddr::V4(ip) => writer.bytes(&ip.octets()),
            IpAddr::V6(ip) => writer.bytes(&ip.octets()),
        };
        writer.bytes(b"incomplete").int(counts.incomplete.into());
        writer
            .bytes(b"interval")
            .int(interval.into())
            .bytes(b"min interval")
            .int(min_interval);
        if query.compact {
            compact_peers(swarm, want, choice, &mut writer);
        } else {
            listed_peers(swarm, want, choice, query.no_peer_id, &mut writer);
        }
        writer.end();
        self.counters.announces += 1;
    }

    fn scrape_http(&mut self, query: &str, out: &mut Vec<u8>) {
        let query = match ScrapeQuery::parse(query) {
            Ok(query) => query,
            Err(error) => {
                self.counters.invalid += 1;
                return fail(&error.to_string(), None, out);
            }
        };
        let mut writer = Writer::new(out);
        writer.dict().bytes(b"files").dict();
        // sorted and without repeats, as a dictionary must be
        for hash in query.hashes.into_iter().collect::<BTreeSet<_>>() {
            if let Some(counts) = self.registry.swarm(&hash).map(Swarm::counts) {
                writer.bytes(&hash.0).dict();
                writer.bytes(b"complete").int(counts.complete.into());
                writer.bytes(b"downloaded").int(counts.downloaded.into());
                writer
                    .bytes(b"incomplete")
                    .int(counts.incomplete.into())
                    .end();
            }
        }
        writer.end().end();
        self.counters.scrapes += 1;
    }
}

/// `peers` and `peers6`, both, whatever the family of the request (B14).
fn compact_peers(swarm: Option<&Swarm>, want: usize, choice: Choice, writer: &mut Writer<'_>) {
    let (four, six) = swarm.map_or((0, 0), |swarm| swarm.shares(want));
    let mut entries =
        Vec::with_capacity((four * Family::V4.entry_size()).max(six * Family::V6.entry_size()));
    if let Some(swarm) = swarm {
        swarm.choose4(four, choice, |entry, _| entries.extend_from_slice(entry));
    }
    writer.bytes(b"peers").bytes(&entries);
    entries.clear();
    if let Some(swarm) = swarm {
        swarm.choose6(six, choice, |entry, _| entries.extend_from_slice(entry));
    }
    writer.bytes(b"peers6").bytes(&entries);
}

/// The list of BEP 3, with addresses of both families as text (B10).
fn listed_peers(
    swarm: Option<&Swarm>,
    want: usize,
    choice: Choice,
    no_peer_id: bool,
    writer: &mut Writer<'_>,
) {
    writer.bytes(b"peers").list();
    if let Some(swarm) = swarm {
        let mut each = |entry: &[u8], id: &crate::types::PeerId| {
            let endpoint = decode(entry);
            writer
                .dict()
                .bytes(b"ip")
                .bytes(endpoint.ip().to_string().as_bytes());
            if !no_peer_id {
                writer.bytes(b"peer id").bytes(&id.0);
            }
            writer.bytes(b"port").int(endpoint.port().into()).end();
        };
        let (four, six) = swarm.shares(want);
        swarm.choose4(four, choice, &mut each);
        swarm.choose6(six, choice, &mut each);
    }
    writer.end();
}

/// A refusal; `retry` in minutes (BEP 31).
fn fail(reason: &str, retry: Option<u64>, out: &mut Vec<u8>) {
    let mut writer = Writer::new(out);
    writer
        .dict()
        .bytes(b"failure reason")
        .bytes(reason.as_bytes());
    if let Some(minutes) = retry {
        writer.bytes(b"retry in").int(minutes);
    }
    writer.end();
}
