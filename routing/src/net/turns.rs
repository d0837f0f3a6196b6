//! One turn of the data thread, the fast half of [`Overlay`]: what came is read, what is due is sent, in batches; nothing
//! waits, locks or allocates per packet.
use std::io;
use std::net::Ipv6Addr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use super::udp::UdpSocket;
use super::{AnodeOverlay, clock};
use crate::anode::{Place, Received};
use crate::overlay::{Failure, Overlay, OverlayEvent, OverlaySink, Ready, StreamId, sooner};

/// The socket's buffer is full: try again this much later.
const SEND_AGAIN_AFTER: Duration = Duration::from_millis(1);

/// Orders about sockets that are carried out between two batches of packets: 64 of them take about a millisecond.
const ORDERS: usize = 64;

impl AnodeOverlay {
    /// Sends all that the node has to send, as far as the sockets take it.
    fn transmit_batches(&mut self, now: Instant) {
        loop {
            if self.blocked.is_none() {
                let max_segments = self
                    .sockets
                    .iter()
                    .map(UdpSocket::max_segments)
                    .min()
                    .unwrap_or(1);
                self.batch.clear(max_segments);
                if !self.node.poll_transmit(now, &mut self.batch) {
                    return;
                }
            }
            if self.batch.destination.to.transport().is_stream() {
                let refused = self.streams.send(now, &self.batch);
                self.node.note_refused(refused);
                continue;
            }
            if let Place::Ethernet { .. } = self.batch.destination.to {
                let refused = self.links.send(&self.batch);
                self.node.note_refused(refused);
                continue;
            }
            if let Place::Turn(_) = self.batch.destination.to {
                let refused = self.turn.send(now, &self.batch);
                self.node.note_refused(refused);
                continue;
            }
            let sent = match self.sockets.get(self.batch.destination.socket) {
                Some(socket) => socket.send(&self.batch),
                None => self.extra.send(&self.batch),
            };
            match sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked = Some(now + SEND_AGAIN_AFTER);
                    return;
                }
                Err(_) => self.node.note_refused(self.batch.segments()),
                Ok(refused) => {
                    self.node.note_refused(refused.packets);
                    if refused.too_large {
                        let size = self.batch.segment_size;
                        let to = self.batch.destination;
                        self.node.note_too_large(now, &to, size);
                    }
                }
            }
            self.blocked = None;
        }
    }

    /// Opens and closes sockets as the node says, some at a time: packets do not wait for all of them.
    fn obey_orders(&mut self, now: Instant) {
        for _ in 0..ORDERS {
            let Some(order) = self.node.poll_socket() else {
                self.ordered = None;
                return;
            };
            if let Some((number, stands)) = self.extra.obey(order, &self.interfaces) {
                self.node.socket_opened(now, number, stands);
            }
        }
        self.ordered = Some(now);
    }

    /// Has an allocation made or given back, and tells the node what has become of it.
    pub(super) fn obey_turn(&mut self, now: Instant) {
        while let Some(order) = self.node.poll_turn() {
            self.turn.obey(now, order);
        }
        while let Some(relayed) = self.turn.poll_change() {
            self.node.turn_stands(now, relayed);
        }
    }

    /// Connections have ended: their places lead nowhere, or must be asked again.
    fn tell_gone(&mut self, now: Instant) {
        while let Some((place, socket)) = self.streams.poll_gone() {
            self.node.note_gone(now, &place, socket);
        }
    }
}

impl Overlay for AnodeOverlay {
    fn prefix(&self) -> (Ipv6Addr, u8) {
        (Ipv6Addr::new(0xfda0, 0, 0, 0, 0, 0, 0, 0), 16)
    }

    fn local(&self) -> Vec<Ipv6Addr> {
        self.node.local()
    }

    fn fds<'a>(&'a self, each: &mut dyn FnMut(BorrowedFd<'a>)) {
        self.sockets.iter().map(AsFd::as_fd).for_each(&mut *each);
        self.beacons.fds().for_each(&mut *each);
        each(self.streams.fd());
        self.links.fds().for_each(&mut *each);
        each(self.extra.fd());
        each(self.turn.fd());
    }

    fn fds_changes(&self) -> u64 {
        self.fds_changes
    }

    fn receive(&mut self, now: Instant, ready: Ready, sink: &mut dyn OverlaySink) -> bool {
        self.node.set_clock(clock(now));
        let Self {
            node,
            sockets,
            beacons,
            buffers,
            streams,
            links,
            extra,
            turn,
            ..
        } = self;
        let mut more = false;
        let mut fds = 0..;
        let mut is_ready = || fds.next().is_some_and(|index| ready.has(index));
        for (index, socket) in sockets.iter().enumerate() {
            if !is_ready() {
                continue;
            }
            more |= buffers.receive(socket, &mut |datagram| {
                let datagram = Received {
                    socket: index,
                    ..datagram
                };
                node.receive(now, datagram, sink, &mut |packets| {
                    let socket = sockets.get(packets.destination.socket);
                    socket.is_some_and(|socket| socket.send_onward(&packets))
                })
            });
        }
        beacons.receive(buffers, &mut is_ready, &mut |datagram| {
            node.handle_datagram(now, datagram, sink)
        });
        if is_ready() || streams.has_more() {
            more |= streams.receive(now, &mut |packets| node.handle_datagram(now, packets, sink));
        }
        more |= links.receive(&mut is_ready, &mut |packet| {
            node.handle_datagram(now, packet, sink)
        });
        if is_ready() {
            more |= extra.receive(buffers, &mut |datagram| {
                node.receive(now, datagram, sink, &mut |_| false)
            });
        }
        if is_ready() {
            more |= turn.receive(now, &mut |packet| node.handle_datagram(now, packet, sink));
        }
        self.obey_turn(now);
        self.tell_gone(now);
        more
    }

    fn transmit(&mut self, now: Instant) {
        if !self.node.has_clock_of(now) {
            self.node.set_clock(clock(now));
        }
        self.obey_orders(now);
        self.obey_turn(now);
        self.transmit_batches(now);
        self.obey_turn(now);
        self.streams.flush(now);
        self.tell_gone(now);
    }

    fn deadline(&self) -> Option<(Instant, &'static str)> {
        let blocked = self.blocked.map(|at| (at, "socket buffer"));
        let ordered = self.ordered.map(|at| (at, "sockets to open"));
        let turn = self.turn.deadline().map(|at| (at, "TURN"));
        let own = sooner(sooner(blocked, ordered), turn);
        sooner(own, sooner(self.node.deadline(), self.streams.deadline()))
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.node.set_clock(clock(now));
        self.streams.handle_timeout(now);
        self.tell_gone(now);
        self.turn.handle_timeout(now);
        self.obey_turn(now);
        self.node.handle_timeout(now);
    }

    fn poll_event(&mut self) -> Option<OverlayEvent> {
        self.node.poll_event()
    }

    fn open(
        &mut self,
        now: Instant,
        _from: Ipv6Addr,
        from_port: u16,
        to: Ipv6Addr,
        to_port: u16,
    ) -> Result<StreamId, Failure> {
        self.node.open(now, from_port, to, to_port)
    }

    fn accept(&mut self, now: Instant, stream: StreamId) {
        self.node.accept(now, stream);
    }

    fn abort(&mut self, now: Instant, stream: StreamId, failure: Failure) {
        self.node.abort(now, stream, failure);
    }

    fn forget(&mut self, stream: StreamId) {
        self.node.forget(stream);
    }

    fn finish(&mut self, now: Instant, stream: StreamId) {
        self.node.finish(now, stream);
    }

    fn write(&mut self, now: Instant, stream: StreamId, data: &[u8]) -> usize {
        self.node.write(now, stream, data)
    }

    fn write_capacity(&self, stream: StreamId) -> usize {
        self.node.write_capacity(stream)
    }

    fn read(
        &mut self,
        now: Instant,
        stream: StreamId,
        sink: &mut dyn FnMut(&[u8]) -> usize,
    ) -> usize {
        self.node.read(now, stream, sink)
    }

    fn send_datagram(
        &mut self,
        now: Instant,
        _from: Ipv6Addr,
        from_port: u16,
        to: Ipv6Addr,
        to_port: u16,
        payload: &[u8],
    ) -> Result<(), Failure> {
        self.node
            .send_datagram(now, from_port, to, to_port, payload)
    }

    fn send_other(
        &mut self,
        now: Instant,
        _from: Ipv6Addr,
        to: Ipv6Addr,
        next_header: u8,
        payload: &[u8],
    ) -> Result<(), Failure> {
        self.node.send_other(now, to, next_header, payload)
    }

    fn ping(
        &mut self,
        now: Instant,
        _from: Option<Ipv6Addr>,
        to: Ipv6Addr,
        token: u64,
        payload: &[u8],
    ) -> Result<(), Failure> {
        self.node.ping(now, to, token, payload)
    }
}
