//! One TCP flow: a smoltcp socket with an interface and a socket set of its own.

use std::net::SocketAddrV6;
use std::time::{Duration, Instant};

use smoltcp::iface::{Config as InterfaceConfig, Interface, SocketHandle, SocketSet};
use smoltcp::socket::Socket;
use smoltcp::socket::tcp::{self, CongestionControl, State};
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpEndpoint};

use super::device::{Device, Link};
use super::segment::Segment;
use crate::{Event, FlowId};

/// How long a local program may take to answer our SYN.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the kernel may leave sent data, a FIN or a window probe (at most 60 s apart) unanswered. A kernel that lives
/// answers at once, so this only ends flows whose address was taken away.
const UNANSWERED: Duration = Duration::from_secs(180);
/// How often a SYN is sent again at once because the kernel still held an earlier connection of the same ports.
const REDIALS: u8 = 3;
/// What a segment may hold at least, whatever the MSS option says: the same as smoltcp's and Linux' lower bound.
const MIN_MSS: u16 = 48;
/// What a missing MSS option means (RFC 9293 §3.7.1, for IPv6).
const DEFAULT_MSS: u16 = 1220;

/// How long the ACK of little data waits for something to ride on: an answer from the same link, or what follows at once,
/// comes within this time. Each ACK of its own is a packet that the kernel has to digest, and a short connection has four of
/// them. A program that waits for it (Nagle) waits no longer than this; more than a segment's worth is acknowledged without
/// delay. A SYN-ACK waits only where the program listens first: there the first data brings the ACK, and accepts.
const ACK_DELAY: smoltcp::time::Duration = smoltcp::time::Duration::from_millis(1);
/// The same for the ACK of a program's FIN, which nobody waits for and which the kernel sends again after 200 ms.
const FIN_ACK_DELAY: smoltcp::time::Duration = smoltcp::time::Duration::from_millis(4);

/// smoltcp counts microseconds; its zero is our first `now` less one second, so that no time of ours is its zero.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clock {
    epoch: Option<Instant>,
    /// The last answer: most questions of a turn are about the same moment.
    last: Option<(Instant, smoltcp::time::Instant)>,
}

impl Clock {
    const OFFSET: i64 = 1_000_000;

    pub fn advance(&mut self, now: Instant) -> smoltcp::time::Instant {
        if let Some((at, answer)) = self.last
            && at == now
        {
            return answer;
        }
        let epoch = *self.epoch.get_or_insert(now);
        let micros = now.saturating_duration_since(epoch).as_micros();
        let micros = i64::try_from(micros).unwrap_or(i64::MAX / 2) + Self::OFFSET;
        let answer = smoltcp::time::Instant::from_micros(micros);
        self.last = Some((now, answer));
        answer
    }

    fn instant(self, at: smoltcp::time::Instant, now: Instant) -> Instant {
        let micros = u64::try_from(at.total_micros() - Self::OFFSET).unwrap_or(0);
        self.epoch
            .map_or(now, |epoch| epoch + Duration::from_micros(micros))
    }
}

/// How far a flow with a socket is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Our SYN is out; it may be sent again at once so often.
    Connecting { until: Instant, redials: u8 },
    /// The SYN-ACK may go; the program's ACK is awaited.
    Accepted,
    /// Data may flow.
    Open,
    /// Nobody may use it any more; a RST has to leave.
    Resetting,
}

/// What was told of the bytes from the program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Incoming {
    /// Nothing since the last `tcp_recv`.
    Quiet,
    /// `TcpReadable`, and `tcp_recv` was not called since.
    Told,
    /// `TcpFinished`.
    Finished,
}

/// The direction towards the program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outgoing {
    Open,
    /// `tcp_send` took less than offered: `TcpWritable` is owed.
    Blocked,
    /// A FIN is owed as soon as the connection stands: smoltcp would send it in place of the SYN.
    FinishWanted,
    Finished,
}

/// Who has spoken on a connection to a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Silence {
    /// Nobody; the program is one that listens first, or is not.
    Lasts { listens_first: bool },
    /// Somebody, or it is not known who should.
    Over,
}

/// How a flow ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// In order, with the final sequence and acknowledgement numbers if the kernel may ask for its last ACK again.
    Closed {
        linger: Option<(u32, u32)>,
    },
    Reset,
    Refused {
        timed_out: bool,
    },
    /// The kernel no longer answers.
    Unanswered,
    /// As the user of this crate wanted: there is nothing to tell.
    Silent,
}

/// What a flow without packets waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rest {
    Until(Option<Instant>),
    Over(End),
}

pub(super) struct Live {
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    phase: Phase,
    incoming: Incoming,
    outgoing: Outgoing,
    /// The kernel's maximum segment size.
    mss: u16,
    /// When the kernel was last heard, or began to owe an answer.
    heard: Instant,
    /// Sequence and acknowledgement number of the last packet sent.
    last_sent: Option<(u32, u32)>,
    /// Time stands still for a socket in TIME-WAIT: smoltcp would throw away unread bytes after 10 s.
    time_wait_since: Option<smoltcp::time::Instant>,
    /// Until when the ACK of the program's SYN-ACK waits for data, or that of its FIN for ours.
    held_ack: Option<smoltcp::time::Instant>,
    silence: Silence,
}

/// A socket with `buffer` bytes in each direction.
pub(super) fn socket(buffer: usize) -> tcp::Socket<'static> {
    // Zeroed memory of this size comes from the kernel page by page when it is written, unless the allocator recycles.
    let ring = || tcp::SocketBuffer::new(vec![0; buffer]);
    let mut socket = tcp::Socket::new(ring(), ring());
    // N10, but for the ACK of little data: see ACK_DELAY.
    socket.set_nagle_enabled(false);
    socket.set_ack_delay(Some(ACK_DELAY));
    // N7: the leg through the interface loses nothing, so there is nothing to control.
    socket.set_congestion_control(CongestionControl::None);
    socket
}

impl Live {
    fn new(
        socket: tcp::Socket<'static>,
        link: Link,
        ours: SocketAddrV6,
        seed: u64,
        phase: Phase,
        now: Instant,
    ) -> Self {
        let mut config = InterfaceConfig::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut out = Vec::new();
        let mut device = Device {
            link,
            received: None,
            out: &mut out,
            sent: false,
        };
        let mut interface = Interface::new(config, &mut device, smoltcp::time::Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            // Cannot fail: the list is empty and holds at least one.
            let _ = addresses.push(IpCidr::new(IpAddress::Ipv6(*ours.ip()), 128));
        });
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        Self {
            interface,
            sockets,
            handle,
            phase,
            incoming: Incoming::Quiet,
            outgoing: Outgoing::Open,
            mss: DEFAULT_MSS,
            heard: now,
            last_sent: None,
            time_wait_since: None,
            held_ack: None,
            silence: Silence::Over,
        }
    }

    /// A socket for the SYN that is given to `ingress` next.
    pub fn accepting(
        socket: tcp::Socket<'static>,
        link: Link,
        ours: SocketAddrV6,
        seed: u64,
        now: Instant,
    ) -> Option<Self> {
        let mut live = Self::new(socket, link, ours, seed, Phase::Accepted, now);
        live.socket_mut().listen(endpoint(ours)).ok()?;
        Some(live)
    }

    /// A socket that connects to a local program, which lets us speak first or not.
    pub fn connecting(
        socket: tcp::Socket<'static>,
        link: Link,
        ours: SocketAddrV6,
        (program, listens_first): (SocketAddrV6, bool),
        seed: u64,
        now: Instant,
    ) -> Option<Self> {
        let phase = Phase::Connecting {
            until: now + CONNECT_TIMEOUT,
            redials: REDIALS,
        };
        let mut live = Self::new(socket, link, ours, seed, phase, now);
        live.silence = Silence::Lasts { listens_first };
        live.dial(endpoint(ours), endpoint(program)).then_some(live)
    }

    /// A SYN with a fresh sequence number, with the next `egress`.
    fn dial(&mut self, ours: IpEndpoint, program: IpEndpoint) -> bool {
        let Self {
            interface,
            sockets,
            handle,
            ..
        } = self;
        let socket = sockets.get_mut::<tcp::Socket>(*handle);
        socket.connect(interface.context(), program, ours).is_ok()
    }

    /// The kernel answered our SYN out of an earlier connection of the same ports: TIME-WAIT, most often. The reset that
    /// just went back ends that one, and our SYN has to go again (RFC 9293 §3.5.1, figure 9). At once: smoltcp waits a
    /// second, and under many short connections that is soon the fate of most.
    fn redial(&mut self) {
        let Phase::Connecting { redials, .. } = &mut self.phase else {
            return;
        };
        let Some(left) = redials.checked_sub(1) else {
            return;
        };
        *redials = left;
        let socket = self.socket_mut();
        if let (Some(ours), Some(program)) = (socket.local_endpoint(), socket.remote_endpoint()) {
            socket.abort();
            self.dial(ours, program);
        }
    }

    fn socket(&self) -> &tcp::Socket<'static> {
        self.sockets.get(self.handle)
    }

    fn socket_mut(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    /// The socket, for another flow.
    pub fn into_socket(mut self) -> tcp::Socket<'static> {
        let Socket::Tcp(mut socket) = self.sockets.remove(self.handle);
        socket.abort();
        socket
    }

    /// Whether the user of this crate has done with it.
    pub fn is_resetting(&self) -> bool {
        self.phase == Phase::Resetting
    }

    pub fn is_connecting(&self) -> bool {
        matches!(self.phase, Phase::Connecting { .. })
    }

    /// Whether the SYN that `accepting` was made for was taken.
    pub fn took_syn(&self) -> bool {
        self.socket().state() == State::SynReceived
    }

    fn time(&mut self, now: Instant, clock: &mut Clock) -> smoltcp::time::Instant {
        let now = clock.advance(now);
        if self.socket().state() == State::TimeWait {
            *self.time_wait_since.get_or_insert(now)
        } else {
            now
        }
    }

    /// A segment of the kernel. An immediate answer stands in `out` if there is one.
    pub fn ingress(
        &mut self,
        now: Instant,
        clock: &mut Clock,
        link: Link,
        packet: &[u8],
        segment: &Segment,
        out: &mut Vec<u8>,
    ) -> (bool, Option<End>) {
        self.heard = now;
        if let Some(mss) = segment.mss {
            self.mss = mss.max(MIN_MSS);
        }
        let before = self.socket().state();
        let time = self.time(now, clock);
        let mut device = Device {
            link,
            received: Some(packet),
            out,
            sent: false,
        };
        self.interface
            .poll_ingress_single(time, &mut device, &mut self.sockets);
        let sent = device.sent;
        let after = self.socket().state();
        let stale = sent && segment.ack && !segment.syn && !segment.rst;
        if stale && (before, after) == (State::SynSent, State::SynSent) {
            self.redial();
        }
        // After RST smoltcp is closed, or listens again if it had listened: our only chance to tell RST from FIN (N3).
        let reset = segment.rst
            && before != State::Closed
            && matches!(after, State::Closed | State::Listen);
        let end = reset.then_some(match self.phase {
            Phase::Connecting { .. } => End::Refused { timed_out: false },
            Phase::Resetting => End::Silent,
            Phase::Accepted | Phase::Open => End::Reset,
        });
        (sent, end)
    }

    /// Whether there is nothing but an ACK to send, and it may wait a little for something to ride on.
    fn holds_ack(&mut self, time: smoltcp::time::Instant) -> bool {
        let delay = match (self.phase, self.socket().state(), self.silence) {
            _ if self.socket().send_queue() > 0 => None,
            (Phase::Open, State::CloseWait, _) => Some(FIN_ACK_DELAY),
            (
                Phase::Open,
                State::Established,
                Silence::Lasts {
                    listens_first: true,
                },
            ) => Some(ACK_DELAY),
            _ => None,
        };
        let Some(delay) = delay else {
            self.held_ack = None;
            return false;
        };
        time < *self.held_ack.get_or_insert(time + delay)
    }

    /// Whether data were the first of this connection to a program; from now on there are some.
    pub fn breaks_silence(&mut self) -> bool {
        std::mem::replace(&mut self.silence, Silence::Over) != Silence::Over
    }

    /// Whether the program has sent what nobody has taken.
    pub fn has_unread(&self) -> bool {
        self.socket().recv_queue() > 0
    }

    /// Whether `egress` may have something. Asking costs half of trying, and most flows that are looked at have nothing.
    /// Before a connection stands smoltcp cannot be asked: it compares numbers that are not set yet, and panics.
    fn wants_egress(&mut self, time: smoltcp::time::Instant) -> bool {
        self.phase != Phase::Open
            || (self.interface.poll_at(time, &self.sockets)).is_some_and(|at| at <= time)
    }

    /// The next packet for the kernel, written to `out`.
    pub fn egress(
        &mut self,
        now: Instant,
        clock: &mut Clock,
        link: Link,
        out: &mut Vec<u8>,
    ) -> bool {
        let mut time = self.time(now, clock);
        if self.socket().state() == State::TimeWait {
            // Nothing follows that an ACK could ride on, and the time it waits for would not come.
            time += ACK_DELAY;
        }
        if !self.wants_egress(time) || self.holds_ack(time) {
            return false;
        }
        let mut device = Device {
            link,
            received: None,
            out,
            sent: false,
        };
        self.interface
            .poll_egress(time, &mut device, &mut self.sockets);
        let sent = device.sent;
        if sent {
            self.last_sent = Some(super::segment::numbers(out));
        }
        sent
    }

    /// The kernel's maximum segment size.
    pub fn mss(&self) -> u16 {
        self.mss
    }

    /// Tells what has changed.
    pub fn observe(&mut self, flow: FlowId, tell: &mut impl FnMut(Event)) {
        let state = self.socket().state();
        if matches!(self.phase, Phase::Connecting { .. } | Phase::Accepted)
            && matches!(state, State::Established | State::CloseWait)
        {
            if self.is_connecting() {
                tell(Event::TcpConnected { flow });
            }
            self.phase = Phase::Open;
            if self.outgoing == Outgoing::FinishWanted {
                self.close();
            }
        }
        if self.phase != Phase::Open {
            return;
        }
        if self.socket().recv_queue() > 0 && self.incoming == Incoming::Quiet {
            self.incoming = Incoming::Told;
            tell(Event::TcpReadable { flow });
        }
        self.observe_end(flow, tell);
        // A quarter of the buffer at a time: every wake-up of the sender costs more than a segment.
        if self.outgoing == Outgoing::Blocked
            && self.send_room() >= self.socket().send_capacity() / 4
        {
            self.outgoing = Outgoing::Open;
            tell(Event::TcpWritable { flow });
        }
    }

    /// Tells when the last byte was read.
    pub fn observe_end(&mut self, flow: FlowId, tell: &mut impl FnMut(Event)) {
        let unread = self.socket().recv_queue() > 0;
        if self.phase == Phase::Open
            && !unread
            && self.incoming != Incoming::Finished
            && self.program_finished()
        {
            self.incoming = Incoming::Finished;
            tell(Event::TcpFinished { flow });
        }
    }

    /// Whether the program's FIN was received with everything before it.
    fn program_finished(&self) -> bool {
        // CLOSED in phase `Open` is the end of LAST-ACK: RST and timeouts take the flow away at once.
        matches!(
            self.socket().state(),
            State::CloseWait | State::LastAck | State::Closing | State::TimeWait | State::Closed
        )
    }

    /// To be asked after `egress` had nothing: what ends this flow, or when to look again.
    pub fn rest(&mut self, now: Instant, clock: &mut Clock) -> Rest {
        let state = self.socket().state();
        match self.phase {
            Phase::Resetting => return Rest::Over(End::Silent),
            Phase::Connecting { until, .. } if now >= until => {
                return Rest::Over(End::Refused { timed_out: true });
            }
            Phase::Open if self.incoming == Incoming::Finished => match state {
                State::Closed => return Rest::Over(End::Closed { linger: None }),
                // The last ACK has left, else `egress` had something.
                State::TimeWait => {
                    return Rest::Over(End::Closed {
                        linger: self.last_sent,
                    });
                }
                _ => {}
            },
            _ => {}
        }
        if state == State::TimeWait {
            return Rest::Until(None);
        }
        let waits = self.socket().send_queue() > 0
            || matches!(
                state,
                State::SynReceived | State::FinWait1 | State::Closing | State::LastAck
            );
        if waits && now.saturating_duration_since(self.heard) >= UNANSWERED {
            return Rest::Over(End::Unanswered);
        }
        let time = clock.advance(now);
        let wanted = match self.interface.poll_at(time, &self.sockets) {
            // Cannot be, since `egress` just had nothing; a pause turns a mistake into a delay, not into a busy loop.
            Some(at) if at <= time => Some(match self.held_ack {
                Some(until) if until > time => clock.instant(until, now),
                _ => now + Duration::from_millis(1),
            }),
            Some(at) => Some(clock.instant(at, now)),
            None => None,
        };
        Rest::Until(match self.phase {
            Phase::Connecting { until, .. } => {
                Some(wanted.map_or(until, |wanted| wanted.min(until)))
            }
            _ => wanted,
        })
    }

    /// Offers received bytes.
    pub fn receive(&mut self, sink: &mut dyn FnMut(&[u8]) -> usize) -> usize {
        let mut total = 0;
        if self.incoming == Incoming::Told {
            self.incoming = Incoming::Quiet;
        }
        while self.socket().recv_queue() > 0 {
            let taken = self.socket_mut().recv(|bytes| {
                let taken = sink(bytes).min(bytes.len());
                (taken, (taken, taken == bytes.len()))
            });
            let Ok((taken, all)) = taken else { break };
            total += taken;
            if !all {
                break;
            }
        }
        total
    }

    /// Takes bytes for the program.
    pub fn send(&mut self, now: Instant, data: &[u8]) -> usize {
        if matches!(self.outgoing, Outgoing::FinishWanted | Outgoing::Finished) {
            return 0;
        }
        if self.socket().send_queue() == 0 {
            self.heard = now;
        }
        // Before the connection stands smoltcp takes nothing.
        let taken = self.socket_mut().send_slice(data).unwrap_or(0);
        if taken < data.len() {
            self.outgoing = Outgoing::Blocked;
        }
        taken
    }

    pub fn send_room(&self) -> usize {
        let socket = self.socket();
        if socket.may_send() {
            socket.send_capacity() - socket.send_queue()
        } else {
            0
        }
    }

    /// FIN behind what was sent.
    pub fn finish(&mut self, now: Instant) {
        match self.phase {
            Phase::Connecting { .. } | Phase::Accepted => self.outgoing = Outgoing::FinishWanted,
            Phase::Open if self.outgoing != Outgoing::Finished => {
                self.heard = now;
                self.close();
            }
            Phase::Open | Phase::Resetting => {}
        }
    }

    fn close(&mut self) {
        self.outgoing = Outgoing::Finished;
        self.socket_mut().close();
    }

    /// RST with the next `egress`, if the kernel still holds its end.
    pub fn reset(&mut self) {
        self.phase = Phase::Resetting;
        self.socket_mut().abort();
    }
}

fn endpoint(address: SocketAddrV6) -> IpEndpoint {
    IpEndpoint::new(IpAddress::Ipv6(*address.ip()), address.port())
}
