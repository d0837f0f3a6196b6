//! What happens at the destinations, carried to the program and to what waits for it.
use anode_i2cp::client::{CloseReason, Found, LookupError, LookupId};
use anode_i2cp::datagram::{Datagram, Kind, Sender};
use anode_i2cp::destination::{Destination, Hash};
use anode_i2cp::endpoint::Event;
use anode_i2cp::envelope::Ports;
use anode_i2cp::message::{MessageStatus, Query};
use anode_i2cp::{Now, streaming};
use rand::Rng as _;
use std::net::Ipv6Addr;

use super::local::State;
use super::names::Question;
use super::table::Origin;
use super::waiting::{Waiter, Way};
use super::{Echo, I2pOverlay, Stage, Stream};
use crate::overlay::{Failure, OverlayEvent, OverlaySink, StreamId};

/// Ports under which streams of peers appear that have none of their own, or one that is taken.
const FIRST_SHOWN: u16 = 49_152;

impl I2pOverlay {
    /// Drains a destination's events. Datagrams come only while it receives, with `sink`.
    pub(super) fn drain(&mut self, now: Now, index: usize, mut sink: Option<&mut dyn OverlaySink>) {
        while let Some(event) = self.locals[index].endpoint.poll_event() {
            match event {
                Event::Ready => self.ready(now, index),
                Event::Datagram {
                    kind,
                    ports,
                    datagram,
                } => {
                    if let Some(sink) = &mut sink {
                        self.datagram(now, index, kind, ports, &datagram, *sink);
                    }
                }
                Event::Stream(event) => self.stream_event(now, index, event),
                Event::Lookup(id, found) => self.looked_up(now, index, id, found),
                Event::Status(nonce, status) => self.fate(nonce, status),
                Event::BandwidthLimits(_) | Event::Reconfigured => {}
                Event::Closed(reason) => self.closed(now, index, &reason),
            }
        }
    }

    fn ready(&mut self, now: Now, index: usize) {
        self.counters.sessions += 1;
        let local = &mut self.locals[index];
        local.established();
        tracing::info!(destination = %local.hash.b32(), "the I2P destination is ready");
        for (way, _) in self.waiting.of(index) {
            self.proceed(now, way);
        }
        self.put_questions(now);
    }

    fn closed(&mut self, now: Now, index: usize, reason: &CloseReason) {
        let chance = self.random.next_u32();
        let local = &mut self.locals[index];
        let pause = local.ended(&self.dialler, reason, chance, now);
        let (b32, why) = (local.hash.b32(), local.last_error.clone());
        let why = why.unwrap_or_else(|| reason.to_string());
        self.waiting.unasked(index);
        self.questions.lost(index);
        self.echoes.retain(|(local, _), _| *local != index);
        if *reason == CloseReason::Idle {
            tracing::info!(destination = %b32, "the I2P session is closed: it was idle");
            if !self.waiting.of(index).is_empty() {
                self.locals[index].wake(now);
            }
            return;
        }
        self.counters.lost += 1;
        match pause {
            Some(pause) => tracing::warn!(
                "I2P destination {b32}: {why}; trying again in {:.1} s",
                pause.as_secs_f64()
            ),
            None => tracing::error!("I2P destination {b32} is given up: {why}"),
        }
        for (way, _) in self.waiting.of(index) {
            self.fail(&way, Failure::Unreachable);
        }
        self.put_questions(now);
    }

    /// Goes on with what waits on a way, as far as that is possible now.
    pub(super) fn proceed(&mut self, now: Now, way: Way) {
        let (index, hash) = way;
        if !self.locals[index].is_ready() {
            return;
        }
        let known = self.table.of(&hash).and_then(|e| e.destination.clone());
        if let Some(destination) = known {
            for waiter in self.waiting.take(&way) {
                self.go(now, index, &destination, waiter);
            }
            return;
        }
        if self.waiting.is_asked(&way) {
            return;
        }
        let endpoint = &mut self.locals[index].endpoint;
        match endpoint.lookup(Query::Hash(hash), now) {
            Ok(lookup) => self.waiting.asked(&way, lookup),
            Err(_) => self.fail(&way, Failure::Busy),
        }
    }

    /// Nobody on this way gets anywhere.
    pub(super) fn fail(&mut self, way: &Way, failure: Failure) {
        let Some(address) = self.waiting.address(way) else {
            return;
        };
        for waiter in self.waiting.take(way) {
            self.failed(address, waiter, failure);
        }
    }

    fn failed(&mut self, address: Ipv6Addr, waiter: Waiter, failure: Failure) {
        match waiter {
            Waiter::Stream(stream) => {
                self.forget_stream(stream);
                self.events
                    .push_back(OverlayEvent::StreamFailed { stream, failure });
            }
            Waiter::Datagram { .. } => self.events.push_back(OverlayEvent::Undeliverable {
                to: address,
                failure,
            }),
            Waiter::Ping { token, .. } => {
                self.events
                    .push_back(OverlayEvent::PingFailed { token, failure });
            }
        }
    }

    /// Session and destination are there.
    fn go(&mut self, now: Now, index: usize, to: &Destination, waiter: Waiter) {
        let hash = to.hash();
        let address = hash.synthetic_address();
        let result = match &waiter {
            Waiter::Stream(id) => self.connect(now, index, to, *id),
            Waiter::Datagram {
                from_port,
                to_port,
                payload,
            } => self.send_now(now, index, to, (*from_port, *to_port), payload),
            Waiter::Ping { token, payload } => {
                let streams = self.locals[index].endpoint.streams();
                match streams.ping(to, 0, 0, payload, now) {
                    Ok(ping) => {
                        let echo = Echo {
                            token: *token,
                            payload: payload.clone(),
                        };
                        self.echoes.insert((index, ping), echo);
                        Ok(())
                    }
                    Err(_) => Err(Failure::Busy),
                }
            }
        };
        if let Err(failure) = result {
            self.failed(address, waiter, failure);
        }
    }

    fn connect(
        &mut self,
        now: Now,
        index: usize,
        to: &Destination,
        id: StreamId,
    ) -> Result<(), Failure> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        let (from_port, to_port) = stream.ports;
        let streams = self.locals[index].endpoint.streams();
        let inner = streams
            .connect(to, from_port, to_port, now)
            .map_err(|_| Failure::Busy)?;
        stream.inner = Some(inner);
        self.by_inner.insert((index, inner), id);
        Ok(())
    }

    /// Sends a datagram; the fate that the router tells becomes an error for its program.
    pub(super) fn send_now(
        &mut self,
        now: Now,
        index: usize,
        to: &Destination,
        (from_port, to_port): (u16, u16),
        payload: &[u8],
    ) -> Result<(), Failure> {
        let hash = to.hash();
        let nonce = self.random.next_u32().max(1);
        let local = &mut self.locals[index];
        let kind = local.kind_of(from_port, to_port);
        let ports = local.ports.outgoing(from_port, to_port, hash, now.instant);
        let sent = local
            .endpoint
            .send_datagram(kind, to, ports, payload, nonce, now);
        match sent {
            Ok(()) => {}
            Err(anode_i2cp::Error::TooLong { .. }) => {
                return Err(Failure::TooBig {
                    max: kind.max_payload(),
                });
            }
            Err(_) => return Err(Failure::Busy),
        }
        self.nonces.add(nonce, hash.synthetic_address());
        self.counters.datagrams_out += 1;
        if let Some(entry) = self.table.of(&hash) {
            entry.used = now.instant;
            entry.tx_bytes += payload.len() as u64;
        }
        Ok(())
    }

    fn fate(&mut self, nonce: u32, status: MessageStatus) {
        if status.is_interim() {
            return;
        }
        let Some(to) = self.nonces.to.remove(&nonce) else {
            return;
        };
        if status.is_final_failure() {
            tracing::debug!(%to, %status, "a datagram was not delivered");
            self.events.push_back(OverlayEvent::Undeliverable {
                to,
                failure: Failure::Unreachable,
            });
        }
    }

    /// Asks the router what nobody has asked it yet, over the first destination that is ready.
    pub(super) fn put_questions(&mut self, now: Now) {
        let unasked = self.questions.unasked();
        if unasked.is_empty() {
            return;
        }
        let ready = self.locals.iter_mut().position(|local| local.is_ready());
        let Some(index) = ready else {
            let mut hope = false;
            for local in &mut self.locals {
                hope |= local.wake(now);
            }
            if !hope {
                for question in unasked {
                    self.questions
                        .close(&question, Err(LookupError::Closed), now.instant);
                }
            }
            return;
        };
        for question in unasked {
            let query = match &question {
                Question::Hash(hash) => Query::Hash(*hash),
                Question::Name(name) => Query::Name(name.clone()),
            };
            match self.locals[index].endpoint.lookup(query, now) {
                Ok(lookup) => self.questions.asked(&question, index, lookup),
                Err(_) => {
                    self.questions
                        .close(&question, Err(LookupError::TimedOut), now.instant);
                }
            }
        }
    }

    fn looked_up(
        &mut self,
        now: Now,
        index: usize,
        id: LookupId,
        found: Result<Found, LookupError>,
    ) {
        if let Ok(found) = &found {
            let hash = found.destination.hash();
            let destination = Some(&found.destination);
            // a second destination of one address is refused and logged there
            let _ = self
                .table
                .learn(hash, destination, Origin::Asked, now.instant);
        }
        if let Some(way) = self.waiting.by_lookup(index, id) {
            match &found {
                Ok(_) => self.proceed(now, way),
                Err(why) => {
                    tracing::debug!(destination = %way.1.b32(), %why, "I2P lookup");
                    self.fail(&way, lookup_failure(*why));
                }
            }
        }
        if let Some(question) = self.questions.by_lookup(index, id) {
            if let (Question::Name(name), Ok(found)) = (&question, &found) {
                let address = found.destination.hash().synthetic_address();
                self.table.name(address, name);
            }
            let result = found.map(|found| found.destination);
            self.questions.close(&question, result, now.instant);
        }
    }

    fn stream_event(&mut self, now: Now, index: usize, event: streaming::Event) {
        use streaming::Event as E;
        let known = |id: &streaming::StreamId| self.by_inner.get(&(index, *id)).copied();
        let event = match event {
            E::Incoming {
                stream,
                peer,
                local_port,
                remote_port,
            } => return self.incoming(now, index, stream, &peer, (local_port, remote_port)),
            E::Connected(id) => known(&id).map(|stream| {
                if let Some(entry) = self.streams.get_mut(&stream) {
                    entry.stage = Stage::Open(None);
                }
                OverlayEvent::StreamOpened { stream }
            }),
            E::Readable(id) => known(&id).map(|stream| OverlayEvent::StreamReadable { stream }),
            E::Writable(id) => known(&id).map(|stream| OverlayEvent::StreamWritable { stream }),
            E::Finished(id) => known(&id).map(|stream| OverlayEvent::StreamFinished { stream }),
            E::Closed(id, failure) => known(&id).map(|stream| {
                let opening = self
                    .forget_stream(stream)
                    .is_some_and(|entry| entry.stage == Stage::Opening);
                match failure {
                    None => OverlayEvent::StreamClosed { stream },
                    Some(failure) => OverlayEvent::StreamFailed {
                        stream,
                        failure: stream_failure(failure, opening),
                    },
                }
            }),
            E::Pong(id, rtt) => {
                let echo = self.echoes.remove(&(index, id));
                // silence is no answer, and no failure either: many destinations do not answer pings
                echo.zip(rtt).map(|(echo, rtt)| OverlayEvent::Pong {
                    token: echo.token,
                    rtt,
                    via: self.via(),
                    payload: echo.payload,
                })
            }
        };
        self.events.extend(event);
    }

    fn incoming(
        &mut self,
        now: Now,
        index: usize,
        inner: streaming::StreamId,
        peer: &Destination,
        (local_port, remote_port): (u16, u16),
    ) {
        let hash = peer.hash();
        let local = &mut self.locals[index];
        let own = local.address;
        let port = match local_port {
            0 => local.config.default_port,
            port => Some(port),
        };
        let from = self
            .table
            .learn(hash, Some(peer), Origin::Met, now.instant)
            .ok();
        let (Some(port), Some(from)) = (port, from) else {
            self.counters.streams_refused += 1;
            // it may be gone already
            let _ = local.endpoint.streams().refuse(inner, now);
            return;
        };
        self.counters.streams_in += 1;
        let shown = self.shown_port(from, remote_port, own, port);
        let stream = self.add_stream(Stream {
            local: index,
            peer: hash,
            ports: (port, remote_port),
            inner: Some(inner),
            stage: Stage::Incoming(shown),
        });
        self.by_inner.insert((index, inner), stream);
        self.events.push_back(OverlayEvent::StreamIncoming {
            stream,
            from,
            from_port: shown,
            to: own,
            to_port: port,
        });
    }

    /// Streams of I2P may share their ports (I73), connections of programs may not.
    fn shown_port(&mut self, from: Ipv6Addr, port: u16, to: Ipv6Addr, to_port: u16) -> u16 {
        let mut shown = port;
        while shown == 0 || !self.shown.insert((from, shown, to, to_port)) {
            self.next_port = self.next_port.wrapping_add(1).max(FIRST_SHOWN);
            shown = self.next_port;
        }
        shown
    }

    pub(super) fn add_stream(&mut self, stream: Stream) -> StreamId {
        let id = StreamId(self.next_stream);
        self.next_stream += 1;
        if let Some(entry) = self.table.of(&stream.peer) {
            entry.streams += 1;
        }
        self.streams.insert(id, stream);
        id
    }

    /// Takes a stream out of all tables.
    pub(super) fn forget_stream(&mut self, id: StreamId) -> Option<Stream> {
        let stream = self.streams.remove(&id)?;
        if let Some(inner) = stream.inner {
            self.by_inner.remove(&(stream.local, inner));
        } else {
            self.waiting.forget(&(stream.local, stream.peer), id);
        }
        if let Some(port) = stream.stage.shown_port() {
            let from = stream.peer.synthetic_address();
            let own = self.locals[stream.local].address;
            self.shown.remove(&(from, port, own, stream.ports.0));
        }
        if let Some(entry) = self.table.of(&stream.peer) {
            entry.streams = entry.streams.saturating_sub(1);
        }
        Some(stream)
    }

    fn datagram(
        &mut self,
        now: Now,
        index: usize,
        kind: Kind,
        ports: Ports,
        datagram: &Datagram,
        sink: &mut dyn OverlaySink,
    ) {
        let Some((hash, destination)) = self.sender(now, index, kind, ports, datagram) else {
            return;
        };
        let local = &mut self.locals[index];
        let own = local.address;
        let (to_port, from_port) = local
            .ports
            .incoming(ports.to, ports.from, hash, now.instant);
        let to_port = match to_port {
            0 => local.config.default_port,
            port => Some(port),
        };
        let from = self
            .table
            .learn(hash, destination, Origin::Met, now.instant)
            .ok();
        let (Some(to_port), Some(from)) = (to_port, from) else {
            self.counters.datagrams_refused += 1;
            return;
        };
        if let Some(entry) = self.table.of(&hash) {
            entry.rx_bytes += datagram.payload.len() as u64;
        }
        self.counters.datagrams_in += 1;
        sink.datagram(from, from_port, own, to_port, &datagram.payload);
    }

    /// Who sent a datagram, as far as that can be believed (S14).
    fn sender<'a>(
        &mut self,
        now: Now,
        index: usize,
        kind: Kind,
        ports: Ports,
        datagram: &'a Datagram,
    ) -> Option<(Hash, Option<&'a Destination>)> {
        let local = &mut self.locals[index];
        match &datagram.sender {
            Sender::Signed(destination) => Some((destination.hash(), Some(destination))),
            Sender::Unknown => {
                let hash = local.ports.raw.sender(ports.to, ports.from, now.instant)?;
                Some((hash, None))
            }
            Sender::Claimed(hash) => {
                let answers = local.ports.raw.holder(ports.to, ports.from, now.instant);
                let open = local.config.udp.get(&ports.to) == Some(&kind);
                if answers != Some(*hash) && !open {
                    self.counters.unproven += 1;
                    return None;
                }
                Some((*hash, None))
            }
        }
    }

    /// True if a destination will come back, or is there.
    pub(super) fn wake(&mut self, now: Now, index: usize) -> bool {
        let local = &mut self.locals[index];
        if !local.wake(now) {
            return false;
        }
        if local.state() != State::Ready {
            self.dial(now);
        }
        true
    }

    /// Dials what is due.
    pub(super) fn dial(&mut self, now: Now) {
        for index in 0..self.locals.len() {
            self.locals[index].dial_if_due(&self.dialler, index, now);
            self.drain(now, index, None);
        }
    }
}

fn lookup_failure(why: LookupError) -> Failure {
    match why {
        LookupError::TimedOut => Failure::TimedOut,
        _ => Failure::Unreachable,
    }
}

fn stream_failure(failure: streaming::Failure, opening: bool) -> Failure {
    use streaming::Failure as F;
    match failure {
        F::Reset if opening => Failure::Refused,
        F::Reset | F::NotAccepted => Failure::Reset,
        F::ConnectTimedOut => Failure::TimedOut,
        F::TimedOut => Failure::TimedOut,
        F::Router(_) => Failure::Unreachable,
        F::SessionLost if opening => Failure::Unreachable,
        F::SessionLost => Failure::Reset,
    }
}
