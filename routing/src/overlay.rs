//! The one trait between the program and an overlay: flows in, flows out, all synchronous and in batches.
use crate::anode::Place;
use anode_wire::{Address, PeerId};
use std::any::Any;
use std::fmt;
use std::net::Ipv6Addr;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// A stream of an overlay. Never reused while anything of it can still come.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct StreamId(pub u64);

/// Why a peer could not be reached or a stream not be opened.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Failure {
    /// Lookup ended: nobody knows this address.
    NoSuchPeer,
    /// Known, but no path answers.
    Unreachable,
    /// The peer refused: nothing listens there.
    Refused,
    /// The peer's policy (or ours) forbids it; also where one side demands sealed sessions and the other will not have any.
    Policy,
    /// No answer in time.
    TimedOut,
    /// Reset by the peer or by an error of the protocol.
    Reset,
    /// A local limit; try again.
    Busy,
    /// The payload is larger than can be sent, in fragments where they are possible; `max` bytes fit.
    TooBig {
        /// Largest payload in bytes.
        max: usize,
    },
}

/// How a packet came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Via {
    /// Direct or over a relay.
    pub kind: PathKind,
    /// The underlay endpoint.
    pub endpoint: ViaEndpoint,
    /// Relays passed.
    pub hops: u8,
}
/// See [`Via`]; in text form `udp://192.0.2.1:8737`. Most are never read, so the text is made when it is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ViaEndpoint {
    /// One of Anode's.
    Place(Place),
    /// In text form.
    Text(String),
}
impl fmt::Display for ViaEndpoint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Place(place) => place.fmt(out),
            Self::Text(text) => text.fmt(out),
        }
    }
}
/// See [`Via`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PathKind {
    /// No relay.
    Direct,
    /// Over a relay of the overlay.
    Relay,
    /// Over a TURN server.
    Turn,
    /// Through I2P's tunnels, of which the router alone knows.
    I2p,
}

/// What an overlay has to say. Payload-carrying kinds go through [`OverlaySink`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OverlayEvent {
    /// Our `open` was answered.
    StreamOpened {
        /// The one that `open` returned.
        stream: StreamId,
    },
    /// Our `open` failed, or the stream ended abnormally. The stream is gone.
    StreamFailed {
        /// Which one.
        stream: StreamId,
        /// Why.
        failure: Failure,
    },
    /// A peer opens a stream: answer with `accept` or `abort`.
    StreamIncoming {
        /// A new one.
        stream: StreamId,
        /// The synthetic address of the key that authenticated it.
        from: Ipv6Addr,
        /// Its port.
        from_port: u16,
        /// Our address that it called.
        to: Ipv6Addr,
        /// Our port.
        to_port: u16,
    },
    /// Bytes to read (edge).
    StreamReadable {
        /// Where.
        stream: StreamId,
    },
    /// Room to write again after a short write (edge).
    StreamWritable {
        /// Where.
        stream: StreamId,
    },
    /// The peer's direction ended in order and everything was read.
    StreamFinished {
        /// Which one.
        stream: StreamId,
    },
    /// Both directions ended in order. The stream is gone.
    StreamClosed {
        /// Which one.
        stream: StreamId,
    },
    /// The answer to `ping`; `payload` as it came back.
    Pong {
        /// That of `ping`.
        token: u64,
        /// From the call of `ping` (or the first proof of a path, if that came later) to now.
        rtt: Duration,
        /// How the answer came.
        via: Via,
        /// The payload of `ping`, returned by the peer.
        payload: Vec<u8>,
    },
    /// A `ping` whose destination cannot be reached.
    PingFailed {
        /// That of `ping`.
        token: u64,
        /// Why.
        failure: Failure,
    },
    /// What is known of peers has changed and should be on disk within seconds. Comes once until it is exported.
    Persist,
    /// A message for the program itself (JOIN, JOINED), out of a session; its sender may be a stranger.
    Control {
        /// Whose key sealed it.
        from: Address,
        /// The network that the packet came from: one number for an IPv4 address, or for an IPv6 /64.
        network: u64,
        /// The handshake that the session came of which the message was sealed in; it need not be the present one (Q29).
        handshake_hash: [u8; 32],
        /// Message type.
        kind: u8,
        /// Its body, unchecked.
        body: Vec<u8>,
    },
    /// A RELOAD message out of a session; its sender may be a stranger. Only where [`crate::anode::NodeConfig::reload`] says so.
    Reload {
        /// Whose key sealed it.
        from: Address,
        /// Which of the peers that share the address.
        digit: PeerId,
        /// As in [`OverlayEvent::Control`].
        network: u64,
        /// Its body, unchecked.
        body: Vec<u8>,
    },
    /// Somebody wants to reach this address (digit 0), and it is not known, or does not answer. Only in a DHT
    /// ([`crate::anode::Node::set_in_dht`]).
    Wanted {
        /// Whom.
        target: Ipv6Addr,
    },
    /// A datagram or packet sent to this address found nobody.
    Undeliverable {
        /// Where it was sent.
        to: Ipv6Addr,
        /// Why.
        failure: Failure,
    },
}

/// Where packets with payload go while the overlay receives: no copy, no allocation.
pub trait OverlaySink {
    /// A datagram. `from` is the synthetic address of the key that authenticated it.
    fn datagram(
        &mut self,
        from: Ipv6Addr,
        from_port: u16,
        to: Ipv6Addr,
        to_port: u16,
        payload: &[u8],
    );
    /// Another IP protocol.
    fn other(&mut self, from: Ipv6Addr, to: Ipv6Addr, next_header: u8, payload: &[u8]);
}

/// Which of the descriptors that [`Overlay::fds`] names, in its order, are readable: a call for each that is not would be a
/// system call for nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ready(u64);

impl Ready {
    /// Any of them may be.
    pub const ANY: Self = Self(u64::MAX);

    /// None of them.
    pub const NONE: Self = Self(0);

    /// This one too, if it `is`. From the 64th on they share one place.
    pub fn add(&mut self, index: usize, is: bool) {
        self.0 |= u64::from(is) << index.min(63);
    }

    /// Whether that one is.
    pub fn has(self, index: usize) -> bool {
        self.0 >> index.min(63) & 1 == 1
    }
}

/// A moment to wake up at, and why.
pub type Deadline = Option<(Instant, &'static str)>;

/// The one that comes first.
pub fn sooner(one: Deadline, other: Deadline) -> Deadline {
    match (one, other) {
        (Some(a), Some(b)) => Some(if b.0 < a.0 { b } else { a }),
        (one, other) => one.or(other),
    }
}

/// One overlay network. All calls return at once.
pub trait Overlay: Any {
    /// The synthetic addresses it serves: prefix and length.
    fn prefix(&self) -> (Ipv6Addr, u8);
    /// This machine's own addresses in it, digit 0 first.
    fn local(&self) -> Vec<Ipv6Addr>;
    /// File descriptors whose readability should lead to `receive`.
    fn fds<'a>(&'a self, each: &mut dyn FnMut(BorrowedFd<'a>));
    /// How often `fds` has come to name others; these are asked for only then.
    fn fds_changes(&self) -> u64 {
        0
    }
    /// Drains those of the sockets that are `ready` (bounded per call: true if more is waiting).
    fn receive(&mut self, now: Instant, ready: Ready, sink: &mut dyn OverlaySink) -> bool;
    /// Sends what flows and timers have made ready.
    fn transmit(&mut self, now: Instant);
    /// When `handle_timeout` wants to be called, and why.
    fn deadline(&self) -> Option<(Instant, &'static str)>;
    /// Timers.
    fn handle_timeout(&mut self, now: Instant);
    /// The next event.
    fn poll_event(&mut self) -> Option<OverlayEvent>;

    /// Opens a stream; the result comes as an event. Looking the peer up is part of it. `from` is one of `local()`.
    fn open(
        &mut self,
        now: Instant,
        from: Ipv6Addr,
        from_port: u16,
        to: Ipv6Addr,
        to_port: u16,
    ) -> Result<StreamId, Failure>;
    /// Accepts an incoming stream.
    fn accept(&mut self, now: Instant, stream: StreamId);
    /// Refuses or resets a stream; it is gone.
    fn abort(&mut self, now: Instant, stream: StreamId, failure: Failure);
    /// Ends an incoming stream that was not accepted without a word: to the peer nobody is there.
    fn forget(&mut self, stream: StreamId);
    /// No more will be written.
    fn finish(&mut self, now: Instant, stream: StreamId);
    /// Takes bytes; returns how many.
    fn write(&mut self, now: Instant, stream: StreamId, data: &[u8]) -> usize;
    /// Room that `write` has now.
    fn write_capacity(&self, stream: StreamId) -> usize;
    /// Offers received bytes to `sink`, which returns how many it took; returns the sum.
    fn read(
        &mut self,
        now: Instant,
        stream: StreamId,
        sink: &mut dyn FnMut(&[u8]) -> usize,
    ) -> usize;
    /// Sends a datagram. `from` is one of `local()`.
    fn send_datagram(
        &mut self,
        now: Instant,
        from: Ipv6Addr,
        from_port: u16,
        to: Ipv6Addr,
        to_port: u16,
        payload: &[u8],
    ) -> Result<(), Failure>;
    /// Sends another IP protocol's packet.
    fn send_other(
        &mut self,
        now: Instant,
        from: Ipv6Addr,
        to: Ipv6Addr,
        next_header: u8,
        payload: &[u8],
    ) -> Result<(), Failure>;
    /// Sends an echo request; the answer is a `Pong` with this token. Outstanding ones are bounded and forgotten after 10 s.
    /// `from` is one of `local()`, or none where it does not matter.
    fn ping(
        &mut self,
        now: Instant,
        from: Option<Ipv6Addr>,
        to: Ipv6Addr,
        token: u64,
        payload: &[u8],
    ) -> Result<(), Failure>;
}
