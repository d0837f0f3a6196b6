//! One local destination: the session with the router, its streams and its datagrams behind one interface.
#[cfg(test)]
mod tests;

use crate::client::{
    Client, CloseReason, Counters as ClientCounters, Credentials, Event as ClientEvent, Found,
    LookupError, LookupId, Phase,
};
use crate::datagram::{self, Datagram, Kind};
use crate::destination::Destination;
use crate::envelope::{Effort, Gzip, Ports, protocol};
use crate::error::{Error, Result};
use crate::keys::LocalDestination;
use crate::message::{BandwidthLimits, MessageStatus, Query};
use crate::options::SessionOptions;
use crate::streaming::{self, Streams};
use crate::time::Now;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// How long a datagram is worth something.
const DATAGRAM_TTL: Duration = Duration::from_secs(60);

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The session is usable (I15).
    Ready,
    /// A datagram arrived and its signature, if its kind has one, is good.
    Datagram {
        /// Its form.
        kind: Kind,
        /// Where it came from and went to.
        ports: Ports,
        /// Sender and payload.
        datagram: Datagram,
    },
    /// Of a stream or ping.
    Stream(streaming::Event),
    /// A lookup has ended.
    Lookup(LookupId, std::result::Result<Found, LookupError>),
    /// The fate of a datagram that was sent with this nonce.
    Status(u32, MessageStatus),
    /// The router's rates.
    BandwidthLimits(BandwidthLimits),
    /// The router took the changed options.
    Reconfigured,
    /// The connection is over, and every stream with it. [`Endpoint::restart`] begins anew.
    Closed(CloseReason),
}

/// What was counted since the endpoint began.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Payloads that are no gzip, too large, or fail their checksum.
    pub bad_payloads: u64,
    /// Datagrams that are malformed or not signed by their sender.
    pub bad_datagrams: u64,
    /// Payloads of protocols that nobody speaks here.
    pub unknown_protocol: u64,
    /// Streaming packets that the router's queue did not take; they are sent again by their timers.
    pub not_queued: u64,
}

/// A local destination with its session.
#[derive(Debug)]
pub struct Endpoint {
    keys: Arc<LocalDestination>,
    client: Client,
    streams: Streams,
    gzip: Gzip,
    compress: bool,
    random: StdRng,
    events: VecDeque<Event>,
    counters: Counters,
}

impl Endpoint {
    /// Begins on a fresh connection to the router. `seed` must be random.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn new(
        keys: Arc<LocalDestination>,
        options: SessionOptions,
        credentials: Option<&Credentials>,
        config: streaming::Config,
        seed: [u8; 32],
        now: Now,
    ) -> Result<Self> {
        let mut random = StdRng::from_seed(seed);
        let (mut client_seed, mut stream_seed) = ([0; 32], [0; 32]);
        random.fill_bytes(&mut client_seed);
        random.fill_bytes(&mut stream_seed);
        let compress = options.gzip;
        Ok(Self {
            client: Client::new(keys.clone(), options, credentials, client_seed, now)?,
            streams: Streams::new(keys.clone(), config, stream_seed),
            keys,
            gzip: Gzip::default(),
            compress,
            random,
            events: VecDeque::new(),
            counters: Counters::default(),
        })
    }

    /// Begins again on a new connection, after [`Event::Closed`].
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn restart(
        &mut self,
        options: SessionOptions,
        credentials: Option<&Credentials>,
        now: Now,
    ) -> Result<()> {
        let mut seed = [0; 32];
        self.random.fill_bytes(&mut seed);
        self.compress = options.gzip;
        self.client = Client::new(self.keys.clone(), options, credentials, seed, now)?;
        // whatever the old session left behind
        self.streams.session_lost();
        self.collect(now);
        Ok(())
    }

    /// Takes bytes of the connection.
    pub fn received(&mut self, bytes: &[u8], now: Now) {
        self.client.received(bytes, now);
        self.collect(now);
    }

    /// The connection ended without a word.
    pub fn connection_lost(&mut self, now: Now) {
        self.client.connection_lost();
        self.collect(now);
    }

    /// The next bytes for the connection.
    pub fn poll_transmit(&mut self, now: Now) -> Option<Zeroizing<Vec<u8>>> {
        while self.client.has_room() {
            let Some(out) = self.streams.poll_transmit(now) else {
                break;
            };
            let effort = self.effort(out.compress, out.data.len());
            let sent = self
                .gzip
                .seal(out.ports, &out.data, effort)
                .and_then(|payload| {
                    // the far side needs our lease set to answer a SYN, and to keep answering when it changes; the
                    // router knows when that is
                    self.client
                        .send(&out.to, &payload, out.nonce, true, out.ttl, now)
                });
            self.counters.not_queued += u64::from(sent.is_err());
        }
        self.collect(now);
        self.client.poll_transmit()
    }

    /// I52, I65: what carries a destination is compressed even if the rest is not worth it.
    fn effort(&self, carries_destination: bool, length: usize) -> Effort {
        if self.compress || carries_destination && length > 0 {
            Effort::Deflate
        } else {
            Effort::Stored
        }
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called, once [`Self::poll_transmit`] said `None`.
    pub fn deadline(&self) -> Option<Instant> {
        let streams = match self.client.phase() {
            Phase::Ready => self.streams.deadline(),
            _ => None,
        };
        [self.client.deadline(), streams]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        self.client.handle_timeout(now);
        self.streams.handle_timeout(now);
        self.collect(now);
    }

    /// The streams: connect, accept, read, write and so on. Call [`Self::poll_transmit`] after using them.
    pub fn streams(&mut self) -> &mut Streams {
        &mut self.streams
    }

    /// Bytes that a stream would take now.
    pub fn stream_room(&self, stream: streaming::StreamId) -> usize {
        self.streams.room(stream)
    }

    /// The session: lookups, reconfiguration, closing, what it counts.
    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// Our own public half.
    pub fn destination(&self) -> &Destination {
        self.keys.destination()
    }

    /// Looks a destination up.
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub fn lookup(&mut self, query: Query, now: Now) -> Result<LookupId> {
        self.client.lookup(query, false, now)
    }

    /// Sends a datagram. With a nonce other than 0, [`Event::Status`] tells what became of it.
    ///
    /// # Errors
    /// [`Error::TooLong`] beyond [`Kind::max_payload`] ("packet too big"), [`Error::NotReady`], [`Error::Full`].
    pub fn send_datagram(
        &mut self,
        kind: Kind,
        to: &Destination,
        (from_port, to_port): (u16, u16),
        payload: &[u8],
        nonce: u32,
        now: Now,
    ) -> Result<()> {
        if self.client.phase() != Phase::Ready {
            return Err(Error::NotReady);
        }
        let data = datagram::encode(kind, &self.keys, &to.hash(), payload)?;
        let ports = Ports {
            protocol: kind.protocol(),
            from: from_port,
            to: to_port,
        };
        let effort = self.effort(kind.compresses(), data.len());
        let payload = self.gzip.seal(ports, &data, effort)?;
        self.client
            .send(to, &payload, nonce, true, DATAGRAM_TTL, now)
    }

    /// What was counted here; streams and session count for themselves.
    pub fn counters(&self) -> (Counters, ClientCounters, streaming::Counters) {
        (
            self.counters,
            self.client.counters(),
            self.streams.counters(),
        )
    }

    fn collect(&mut self, now: Now) {
        while let Some(event) = self.client.poll_event() {
            match event {
                ClientEvent::Ready => self.events.push_back(Event::Ready),
                ClientEvent::Payload(payload) => self.payload(&payload, now),
                ClientEvent::Status(nonce, status) => {
                    self.streams.handle_status(nonce, status, now);
                    self.events.push_back(Event::Status(nonce, status));
                }
                ClientEvent::Lookup(id, found) => self.events.push_back(Event::Lookup(id, found)),
                ClientEvent::BandwidthLimits(limits) => {
                    self.events.push_back(Event::BandwidthLimits(limits));
                }
                ClientEvent::Reconfigured => self.events.push_back(Event::Reconfigured),
                ClientEvent::Closed(reason) => {
                    self.streams.session_lost();
                    self.collect_streams();
                    self.events.push_back(Event::Closed(reason));
                }
            }
        }
        self.collect_streams();
    }

    fn collect_streams(&mut self) {
        while let Some(event) = self.streams.poll_event() {
            self.events.push_back(Event::Stream(event));
        }
    }

    /// From anybody on the network: what is wrong is dropped and counted, the session goes on.
    fn payload(&mut self, payload: &[u8], now: Now) {
        let Ok((ports, data)) = self.gzip.open(payload) else {
            self.counters.bad_payloads += 1;
            return;
        };
        if ports.protocol == protocol::STREAMING {
            return self.streams.handle(ports, &data, now);
        }
        let Some(kind) = Kind::from_protocol(ports.protocol) else {
            self.counters.unknown_protocol += 1;
            return;
        };
        let own = self.keys.destination().hash();
        let unix_ms = self.client.router_ms(now);
        match datagram::decode(kind, &own, &data, unix_ms) {
            Ok(datagram) => self.events.push_back(Event::Datagram {
                kind,
                ports,
                datagram,
            }),
            Err(_) => self.counters.bad_datagrams += 1,
        }
    }
}
