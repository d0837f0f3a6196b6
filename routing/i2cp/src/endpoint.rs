//! One local destination: the session with the router, its streams and its datagrams behind one interface.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datagram::Sender;
    use crate::router::{Router, start};
    use crate::streaming::{Failure, StreamId};
    use crate::vectors::{hex, keys};

    /// Two endpoints on one router, without delay.
    struct Pair {
        router: Router,
        ends: [Endpoint; 2],
        now: Now,
        events: [Vec<Event>; 2],
    }

    impl Pair {
        fn ready(options: &[(&str, &str)]) -> Self {
            let now = start();
            let mut router = Router::default();
            let ends = ["A", "B"].map(|who| {
                router.accept();
                let options = SessionOptions::parse(options.iter().copied()).unwrap();
                let config = streaming::Config::default();
                Endpoint::new(
                    keys(who),
                    options,
                    None,
                    config,
                    [who.as_bytes()[0]; 32],
                    now,
                )
                .unwrap()
            });
            let events = [vec![], vec![]];
            let mut pair = Self {
                router,
                ends,
                now,
                events,
            };
            pair.settle();
            for at in 0..2 {
                pair.router.request_leases(at, now);
            }
            pair.settle();
            assert_eq!(pair.take(0), [Event::Ready]);
            assert_eq!(pair.take(1), [Event::Ready]);
            pair
        }

        fn settle(&mut self) {
            let mut quiet = false;
            while !quiet {
                quiet = true;
                for at in 0..2 {
                    while let Some(bytes) = self.ends[at].poll_transmit(self.now) {
                        self.router.received(at, &bytes, self.now);
                        quiet = false;
                    }
                }
                for sent in std::mem::take(&mut self.router.sent) {
                    self.router.deliver(&sent);
                }
                for at in 0..2 {
                    let bytes = std::mem::take(&mut self.router.connections[at].to_client);
                    if !bytes.is_empty() {
                        self.ends[at].received(&bytes, self.now);
                        quiet = false;
                    }
                    while let Some(event) = self.ends[at].poll_event() {
                        self.events[at].push(event);
                    }
                }
            }
        }

        fn pass(&mut self, span: Duration) {
            let end = self.now + span;
            self.settle();
            loop {
                let next = self.ends.iter().filter_map(Endpoint::deadline).min();
                let Some(at) = next.filter(|at| *at <= end.instant) else {
                    break;
                };
                self.now = self.now + at.saturating_duration_since(self.now.instant);
                for end in &mut self.ends {
                    end.handle_timeout(self.now);
                }
                self.settle();
            }
            self.now = end;
        }

        fn take(&mut self, at: usize) -> Vec<Event> {
            std::mem::take(&mut self.events[at])
        }

        fn open(&mut self) -> (StreamId, StreamId) {
            let b = keys("B").destination().clone();
            let a = self.ends[0].streams().connect(&b, 0, 80, self.now).unwrap();
            self.settle();
            let Some(Event::Stream(streaming::Event::Incoming { stream, .. })) = self.take(1).pop()
            else {
                panic!()
            };
            self.ends[1].streams().accept(stream, self.now).unwrap();
            self.settle();
            let connected = Event::Stream(streaming::Event::Connected(a));
            assert!(self.take(0).contains(&connected));
            (a, stream)
        }
    }

    // I1, I67
    #[test]
    fn datagrams_of_every_kind_and_streams_share_one_session() {
        for options in [
            &[][..],
            &[("i2cp.gzip", "false"), ("i2cp.fastReceive", "false")],
        ] {
            let mut pair = Pair::ready(options);
            let (a, b) = (
                keys("A").destination().clone(),
                keys("B").destination().clone(),
            );
            for (kind, sender) in [
                (Kind::Datagram1, Sender::Signed(a.clone())),
                (Kind::Raw, Sender::Unknown),
                (Kind::Datagram2, Sender::Signed(a.clone())),
                (Kind::Datagram3, Sender::Claimed(a.hash())),
            ] {
                for length in [0, 1, 1300, 60_000] {
                    let payload = vec![length as u8; length];
                    let now = pair.now;
                    pair.ends[0]
                        .send_datagram(kind, &b, (5000, 53), &payload, 0, now)
                        .unwrap();
                    pair.settle();
                    let ports = Ports {
                        protocol: kind.protocol(),
                        from: 5000,
                        to: 53,
                    };
                    let datagram = Datagram {
                        sender: sender.clone(),
                        payload,
                    };
                    assert_eq!(
                        pair.take(1),
                        [Event::Datagram {
                            kind,
                            ports,
                            datagram
                        }]
                    );
                }
                let now = pair.now;
                let over = pair.ends[0].send_datagram(kind, &b, (1, 2), &[0; 61_001], 0, now);
                assert!(matches!(over, Err(Error::TooLong { .. })));
            }
            let (stream, other) = pair.open();
            let now = pair.now;
            pair.ends[0].streams().write(stream, b"hello", now).unwrap();
            pair.pass(Duration::from_millis(10));
            let (mut buffer, now) = ([0; 9], pair.now);
            assert_eq!(pair.ends[1].streams().read(other, &mut buffer, now), Ok(5));
        }
    }

    // I65
    #[test]
    fn what_carries_a_destination_is_compressed_even_without_gzip() {
        let mut pair = Pair::ready(&[("i2cp.gzip", "false")]);
        let b = keys("B").destination().clone();
        let now = pair.now;
        let mut sizes = Vec::new();
        for kind in [Kind::Datagram1, Kind::Raw] {
            pair.ends[0]
                .send_datagram(kind, &b, (1, 2), &[7; 200], 0, now)
                .unwrap();
            while let Some(bytes) = pair.ends[0].poll_transmit(now) {
                pair.router.received(0, &bytes, now);
            }
            sizes.push(pair.router.sent.pop().unwrap().payload.len());
        }
        assert!(sizes[0] < 300, "{sizes:?}");
        assert_eq!(sizes[1], 223, "stored");
    }

    // S37, I63
    #[test]
    fn bad_payloads_from_the_network_are_counted_and_the_session_goes_on() {
        let mut pair = Pair::ready(&[]);
        let to = keys("B").destination().hash();
        for payload in [
            hex("/gzip_bad_crc_must_be_dropped"),
            vec![],
            vec![0x1f, 0x8b],
        ] {
            let sent = crate::router::Sent {
                from: 0,
                to,
                payload,
                nonce: 0,
            };
            pair.router.deliver(&sent);
        }
        let mut gzip = Gzip::default();
        for protocol in [17, 99] {
            let ports = Ports {
                protocol,
                from: 0,
                to: 0,
            };
            let payload = gzip.seal(ports, b"no datagram", Effort::Stored).unwrap();
            pair.router.deliver(&crate::router::Sent {
                from: 0,
                to,
                payload,
                nonce: 0,
            });
        }
        pair.settle();
        let counters = pair.ends[1].counters().0;
        assert_eq!(
            (
                counters.bad_payloads,
                counters.bad_datagrams,
                counters.unknown_protocol
            ),
            (3, 1, 1)
        );
        assert_eq!(pair.take(1), []);
        pair.open();
    }

    #[test]
    fn connecting_to_nobody_fails_at_once() {
        let mut pair = Pair::ready(&[]);
        let nobody = LocalDestination::generate(&mut StdRng::seed_from_u64(9));
        let now = pair.now;
        let to = nobody.destination().clone();
        let stream = pair.ends[0].streams().connect(&to, 0, 80, now).unwrap();
        pair.settle();
        let failure = Failure::Router(MessageStatus(21));
        let closed = Event::Stream(streaming::Event::Closed(stream, Some(failure)));
        assert!(pair.take(0).contains(&closed));
    }

    // S37
    #[test]
    fn a_router_restart_ends_the_streams_and_a_new_session_works() {
        let mut pair = Pair::ready(&[]);
        let (stream, _) = pair.open();
        let now = pair.now;
        pair.take(0);
        pair.ends[0].connection_lost(now);
        let first = pair.ends[0].poll_event();
        let failure = Some(Failure::SessionLost);
        assert_eq!(
            first,
            Some(Event::Stream(streaming::Event::Closed(stream, failure)))
        );
        let second = pair.ends[0].poll_event();
        assert_eq!(second, Some(Event::Closed(CloseReason::ConnectionLost)));
        assert_eq!(pair.ends[0].deadline(), None);
        pair.router.connections[0] = crate::router::Connection::default();
        pair.ends[0]
            .restart(SessionOptions::default(), None, now)
            .unwrap();
        pair.settle();
        pair.router.request_leases(0, now);
        pair.settle();
        assert_eq!(pair.take(0), [Event::Ready]);
        pair.open();
    }

    #[test]
    fn a_large_transfer_runs_through_router_and_gzip() {
        let mut pair = Pair::ready(&[]);
        let (stream, other) = pair.open();
        let data: Vec<u8> = (0..2_000_000u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8)
            .collect();
        let (mut written, mut got) = (0, Vec::new());
        let mut buffer = vec![0; 65_536];
        for _ in 0..100_000 {
            let now = pair.now;
            if written < data.len() {
                written += pair.ends[0]
                    .streams()
                    .write(stream, &data[written..], now)
                    .unwrap();
            }
            pair.pass(Duration::from_millis(5));
            let now = pair.now;
            while let Ok(count @ 1..) = pair.ends[1].streams().read(other, &mut buffer, now) {
                got.extend_from_slice(&buffer[..count]);
            }
            if got.len() == data.len() {
                break;
            }
        }
        assert!(got == data);
    }
}
