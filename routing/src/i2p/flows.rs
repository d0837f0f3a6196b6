//! The overlay as the program knows it.
use anode_i2cp::Now;
use anode_i2cp::client::LookupError;
use nix::sys::epoll::{EpollEvent, EpollTimeout};
use std::net::Ipv6Addr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::Instant;

use super::link::Turn;
use super::waiting::Waiter;
use super::{I2pOverlay, PREFIX, Stage, Stream, clock};
use crate::overlay::{Failure, Overlay, OverlayEvent, OverlaySink, Ready, StreamId};

/// Connections that are looked at in one turn.
const EVENTS: usize = 64;

impl I2pOverlay {
    /// The destination of ours with this address.
    fn local_at(&self, address: Ipv6Addr) -> Option<usize> {
        self.locals
            .iter()
            .position(|local| local.address == address)
    }

    /// Begins something towards `to`, or lets it wait for what it needs.
    fn begin(
        &mut self,
        now: Now,
        index: usize,
        to: Ipv6Addr,
        waiter: Waiter,
    ) -> Result<(), Failure> {
        // 112 bits cannot be looked up: whom no name, no rule and no packet has told of is not there
        let entry = self.table.get(to).ok_or(Failure::NoSuchPeer)?;
        let way = (index, entry.hash);
        if !self.wake(now, index) {
            return Err(Failure::Unreachable);
        }
        self.waiting.add(way, waiter, now.instant)?;
        if let Some(entry) = self.table.of(&way.1) {
            entry.used = now.instant;
        }
        self.proceed(now, way);
        Ok(())
    }

    fn count(&mut self, stream: StreamId, now: Instant, rx: usize, tx: usize) {
        let Some(stream) = self.streams.get(&stream) else {
            return;
        };
        if rx + tx > 0
            && let Some(entry) = self.table.of(&stream.peer)
        {
            entry.rx_bytes += rx as u64;
            entry.tx_bytes += tx as u64;
            entry.used = now;
        }
    }
}

impl Overlay for I2pOverlay {
    fn prefix(&self) -> (Ipv6Addr, u8) {
        PREFIX
    }

    fn local(&self) -> Vec<Ipv6Addr> {
        self.locals.iter().map(|local| local.address).collect()
    }

    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.dialler.epoll.0.as_fd()]
    }

    fn receive(&mut self, now: Instant, readable: Ready, sink: &mut dyn OverlaySink) -> bool {
        let now = clock(now);
        let mut events = [EpollEvent::empty(); EVENTS];
        let count = if readable.has(0) {
            let waited = self.dialler.epoll.wait(&mut events, EpollTimeout::ZERO);
            waited.unwrap_or_default()
        } else {
            0
        };
        let mut ready = std::mem::take(&mut self.ready);
        ready.extend(events[..count].iter().map(|event| event.data() as usize));
        ready.sort_unstable();
        ready.dedup();
        let mut again = Vec::new();
        for index in ready {
            let Some(local) = self.locals.get_mut(index) else {
                continue;
            };
            match local.receive(now) {
                Ok(Turn::Drained) => {}
                Ok(Turn::More) => again.push(index),
                Err(error) => local.lost(&self.dialler, &error, now),
            }
            self.drain(now, index, Some(sink));
        }
        self.ready = again;
        count == EVENTS || !self.ready.is_empty()
    }

    fn transmit(&mut self, now: Instant) {
        let now = clock(now);
        self.dial(now);
        for index in 0..self.locals.len() {
            let local = &mut self.locals[index];
            if let Err(error) = local.transmit(&self.dialler, index, now) {
                local.lost(&self.dialler, &error, now);
            }
            self.drain(now, index, None);
        }
        // what came out of it is for the next turn of the loop
        self.again = (!self.events.is_empty()).then_some(now.instant);
    }

    fn deadline(&self) -> Option<(Instant, &'static str)> {
        let locals = self.locals.iter().filter_map(|local| local.deadline());
        [
            self.again.map(|at| (at, "I2P events")),
            locals.min().map(|at| (at, "an I2P session")),
            self.waiting.deadline().map(|at| (at, "what waits for I2P")),
            self.questions.deadline().map(|at| (at, "an I2P question")),
        ]
        .into_iter()
        .flatten()
        .min_by_key(|(at, _)| *at)
    }

    fn handle_timeout(&mut self, now: Instant) {
        let now = clock(now);
        self.again = None;
        for index in 0..self.locals.len() {
            let local = &mut self.locals[index];
            if local
                .endpoint
                .deadline()
                .is_some_and(|at| at <= now.instant)
            {
                local.endpoint.handle_timeout(now);
            }
            self.drain(now, index, None);
        }
        self.dial(now);
        for way in self.waiting.overdue(now.instant) {
            self.fail(&way, Failure::TimedOut);
        }
        for question in self.questions.overdue(now.instant) {
            self.questions
                .close(&question, Err(LookupError::TimedOut), now.instant);
        }
    }

    fn poll_event(&mut self) -> Option<OverlayEvent> {
        self.events.pop_front()
    }

    fn open(
        &mut self,
        now: Instant,
        from: Ipv6Addr,
        from_port: u16,
        to: Ipv6Addr,
        to_port: u16,
    ) -> Result<StreamId, Failure> {
        let index = self.local_at(from).ok_or(Failure::Unreachable)?;
        let peer = self.table.get(to).ok_or(Failure::NoSuchPeer)?.hash;
        let stream = self.add_stream(Stream {
            local: index,
            peer,
            ports: (from_port, to_port),
            inner: None,
            stage: Stage::Opening,
        });
        if let Err(failure) = self.begin(clock(now), index, to, Waiter::Stream(stream)) {
            self.forget_stream(stream);
            return Err(failure);
        }
        self.counters.streams_out += 1;
        Ok(stream)
    }

    fn accept(&mut self, now: Instant, stream: StreamId) {
        let Some(entry) = self.streams.get_mut(&stream) else {
            return;
        };
        let Some(inner) = entry.inner else { return };
        entry.stage = Stage::Open(entry.stage.shown_port());
        // a stream that is gone has told so by an event of its own
        let _ = self.locals[entry.local]
            .endpoint
            .streams()
            .accept(inner, clock(now));
    }

    fn abort(&mut self, now: Instant, stream: StreamId, _failure: Failure) {
        let Some(entry) = self.forget_stream(stream) else {
            return;
        };
        let streams = self.locals[entry.local].endpoint.streams();
        let Some(inner) = entry.inner else { return };
        // as above
        let _ = match entry.stage {
            Stage::Incoming(_) => streams.refuse(inner, clock(now)),
            Stage::Opening | Stage::Open(_) => streams.reset(inner, clock(now)),
        };
    }

    fn forget(&mut self, stream: StreamId) {
        if let Some(entry) = self.forget_stream(stream)
            && let Some(inner) = entry.inner
        {
            // as above
            let _ = self.locals[entry.local].endpoint.streams().ignore(inner);
        }
    }

    fn finish(&mut self, now: Instant, stream: StreamId) {
        if let Some(entry) = self.streams.get(&stream)
            && let Some(inner) = entry.inner
        {
            let streams = self.locals[entry.local].endpoint.streams();
            // as above
            let _ = streams.finish(inner, clock(now));
        }
    }

    fn write(&mut self, now: Instant, stream: StreamId, data: &[u8]) -> usize {
        let Some(entry) = self.streams.get(&stream) else {
            return 0;
        };
        let Some(inner) = entry.inner else { return 0 };
        let streams = self.locals[entry.local].endpoint.streams();
        let count = streams.write(inner, data, clock(now)).unwrap_or(0);
        self.count(stream, now, 0, count);
        count
    }

    fn write_capacity(&self, stream: StreamId) -> usize {
        let Some(entry) = self.streams.get(&stream) else {
            return 0;
        };
        let room = |inner| self.locals[entry.local].endpoint.stream_room(inner);
        entry.inner.map_or(0, room)
    }

    fn read(
        &mut self,
        now: Instant,
        stream: StreamId,
        sink: &mut dyn FnMut(&[u8]) -> usize,
    ) -> usize {
        let Some(entry) = self.streams.get(&stream) else {
            return 0;
        };
        let Some(inner) = entry.inner else { return 0 };
        let streams = self.locals[entry.local].endpoint.streams();
        let count = streams.read_with(inner, sink, clock(now)).unwrap_or(0);
        self.count(stream, now, count, 0);
        count
    }

    fn send_datagram(
        &mut self,
        now: Instant,
        from: Ipv6Addr,
        from_port: u16,
        to: Ipv6Addr,
        to_port: u16,
        payload: &[u8],
    ) -> Result<(), Failure> {
        let index = self.local_at(from).ok_or(Failure::Unreachable)?;
        let now = clock(now);
        let entry = self.table.get(to).ok_or(Failure::NoSuchPeer)?;
        let known = entry.destination.clone();
        let max = self.locals[index].kind_of(from_port, to_port).max_payload();
        if payload.len() > max {
            return Err(Failure::TooBig { max });
        }
        if let Some(destination) = known
            && self.locals[index].is_ready()
        {
            return self.send_now(now, index, &destination, (from_port, to_port), payload);
        }
        let waiter = Waiter::Datagram {
            from_port,
            to_port,
            payload: payload.to_vec(),
        };
        self.begin(now, index, to, waiter)
    }

    /// Destinations take streams and datagrams, nothing else.
    fn send_other(
        &mut self,
        _now: Instant,
        _from: Ipv6Addr,
        _to: Ipv6Addr,
        _next_header: u8,
        _payload: &[u8],
    ) -> Result<(), Failure> {
        Err(Failure::Policy)
    }

    /// A ping of the streaming protocol. It brings back 32 bytes; the rest of the payload is kept here for the answer. Who
    /// does not answer (tunnels of i2pd) stays silent: that its lease set was found says nothing of its being there.
    fn ping(
        &mut self,
        now: Instant,
        from: Option<Ipv6Addr>,
        to: Ipv6Addr,
        token: u64,
        payload: &[u8],
    ) -> Result<(), Failure> {
        let index = match from {
            Some(from) => self.local_at(from).ok_or(Failure::Unreachable)?,
            None => self
                .locals
                .iter_mut()
                .position(|local| local.is_ready())
                .unwrap_or(0),
        };
        let waiter = Waiter::Ping {
            token,
            payload: payload.to_vec(),
        };
        self.begin(clock(now), index, to, waiter)
    }
}
