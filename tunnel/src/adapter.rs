//! Between the operating system's flows and the overlays' streams (DESIGN §6).
//!
//! ```text
//!   netstack event / sink ──▶ Adapter ──▶ overlay call
//!   netstack call         ◀── Adapter ◀── overlay event / sink
//! ```
//!
//! Every TCP connection is a bridge: one flow of the netstack, one stream of an overlay, bytes pumped both ways
//! and never more than both sides have room for. Datagrams, echoes and other packets pass through with bounded state: who
//! began to speak, for the policy ([`Gate`]), and what an error would have to quote.

mod bridge;
mod echo;
pub mod gate;
mod quotes;
mod refusals;
mod sinks;

use std::any::Any;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use anode_netstack::{FlowId, Netstack, Offload, Unreachable};
use anode_routing::overlay::{Failure, Overlay, OverlayEvent, Ready, StreamId, Via, sooner};

use anode_wire::Address;

use crate::dht::DhtNews;
use crate::policy::Policy;

use bridge::Bridges;
use echo::Echoes;
use gate::Gate;
use quotes::Quotes;
use refusals::Refusals;
use sinks::{FromOs, ToOs};

/// Tokens of pings that people asked for have this bit; those of programs do not.
pub const CONTROL_TOKEN: u64 = 1 << 63;

/// Messages for the program itself that wait for one turn of the loop.
const MAX_CONTROL_MESSAGES: usize = 64;

/// Words for the DHT that wait for one turn of the loop.
const MAX_DHT_NEWS: usize = 4096;

/// The result of a ping that was not a program's.
pub struct ControlPong {
    /// As given to [`Adapter::ping`].
    pub token: u64,
    /// The answer or why there is none.
    pub result: Result<(Duration, Via), Failure>,
}

/// A message of a peer for the program itself.
pub struct ControlMessage {
    /// Whose key sealed it; may be a stranger.
    pub from: Address,
    /// Where it came from; see [`OverlayEvent::Control`].
    pub network: u64,
    /// Of the session that it was sealed in.
    pub handshake_hash: [u8; 32],
    /// Message type.
    pub kind: u8,
    /// Unchecked.
    pub body: Vec<u8>,
}

/// What was counted at the border between flows and streams.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Streams of peers that found no local program or no room.
    pub inbound_refused: u64,
    /// Connections of programs that ended without a stream.
    pub outbound_failed: u64,
    /// Datagrams and other packets of programs that no overlay took.
    pub packets_unsent: u64,
    /// Echo requests of programs that no overlay took, or whose answer came too late.
    pub echoes_unsent: u64,
    /// Messages of peers for the program itself that came too many at once.
    pub control_dropped: u64,
    /// Words for the DHT beyond what one turn takes.
    pub dht_dropped: u64,
    /// Packets of peers that the policy rejected, and whose sender was told so.
    pub refusals_sent: u64,
    /// Those whose sender was not told: too many of them (S20), or no way to it.
    pub refusals_limited: u64,
}

impl Counters {
    /// All of them with their names.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("inbound_refused", self.inbound_refused),
            ("outbound_failed", self.outbound_failed),
            ("packets_unsent", self.packets_unsent),
            ("echoes_unsent", self.echoes_unsent),
            ("control_dropped", self.control_dropped),
            ("dht_dropped", self.dht_dropped),
            ("refusals_sent", self.refusals_sent),
            ("refusals_limited", self.refusals_limited),
        ]
        .into_iter()
    }
}

/// The overlays, each found by its prefix. The first is of a known type, so that the fast path is not behind a pointer and
/// the control side can ask what is particular to it.
struct Overlays<A> {
    first: A,
    others: Vec<Box<dyn Overlay + Send>>,
}

impl<A: Overlay> Overlays<A> {
    fn len(&self) -> usize {
        1 + self.others.len()
    }

    /// `index` came from [`Overlays::index`], so it is below `len()`.
    fn get(&mut self, index: usize) -> &mut dyn Overlay {
        match index {
            0 => &mut self.first,
            other => self.others[other - 1].as_mut(),
        }
    }

    fn index(&self, to: Ipv6Addr) -> Option<usize> {
        let holds = |overlay: &dyn Overlay| {
            let (prefix, length) = overlay.prefix();
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            (u128::from(prefix) ^ u128::from(to)) & mask == 0
        };
        if holds(&self.first) {
            return Some(0);
        }
        self.others
            .iter()
            .position(|overlay| holds(overlay.as_ref()))
            .map(|index| index + 1)
    }

    fn towards(&mut self, to: Ipv6Addr) -> Option<&mut dyn Overlay> {
        let index = self.index(to)?;
        Some(self.get(index))
    }

    fn for_each(&mut self, mut act: impl FnMut(&mut dyn Overlay)) {
        act(&mut self.first);
        self.others
            .iter_mut()
            .for_each(|overlay| act(overlay.as_mut()));
    }
}

/// See the module.
pub struct Adapter<A> {
    /// The operating system's side.
    pub netstack: Netstack,
    overlays: Overlays<A>,
    bridges: Bridges,
    echoes: Echoes,
    quotes: Quotes,
    gate: Gate,
    refusals: Refusals,
    control_pongs: Vec<ControlPong>,
    control_messages: Vec<ControlMessage>,
    dht_news: Vec<DhtNews>,
    persist: bool,
    counters: Counters,
    errors: Vec<(quotes::Quote, Failure)>,
}

/// What a program is told about a packet that did not get through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Answer {
    Unreachable(Unreachable),
    /// Packet too big, with this MTU in bytes.
    TooBig(u32),
}

/// IPv6 and UDP (or ICMPv6 echo) headers in bytes: what a payload needs on top to be a packet.
const PACKET_HEADERS: u32 = 48;
const ICMPV6: u8 = 58;
/// No path's MTU is smaller (RFC 8200 §5).
const MIN_MTU: u32 = 1280;

/// Which ICMPv6 error tells a program of this failure; `None`: silence, the program waits and tries again (netstack.md 6.3).
fn answer(failure: Failure) -> Option<Answer> {
    match failure {
        Failure::NoSuchPeer | Failure::Unreachable | Failure::TimedOut => {
            Some(Answer::Unreachable(Unreachable::Address))
        }
        Failure::Policy => Some(Answer::Unreachable(Unreachable::Prohibited)),
        Failure::Refused => Some(Answer::Unreachable(Unreachable::Port)),
        Failure::TooBig { max } => {
            let payload = u32::try_from(max).unwrap_or(u32::MAX);
            Some(Answer::TooBig(
                payload.saturating_add(PACKET_HEADERS).max(MIN_MTU),
            ))
        }
        Failure::Reset | Failure::Busy => None,
    }
}

fn tell(now: Instant, netstack: &mut Netstack, quote: &quotes::Quote, failure: Failure) {
    match answer(failure) {
        Some(Answer::Unreachable(why)) => netstack.unreachable_to_os(now, quote.as_bytes(), why),
        Some(Answer::TooBig(mtu)) => netstack.too_big_to_os(now, quote.as_bytes(), mtu),
        None => {}
    }
}

impl<A: Overlay> Adapter<A> {
    /// Joins a netstack and the overlays; `policy` says which of the peers' first packets pass.
    pub fn new(
        netstack: Netstack,
        first: A,
        others: Vec<Box<dyn Overlay + Send>>,
        policy: Policy,
    ) -> Self {
        Adapter {
            netstack,
            overlays: Overlays { first, others },
            bridges: Bridges::default(),
            echoes: Echoes::default(),
            quotes: Quotes::default(),
            gate: Gate::new(policy),
            refusals: Refusals::default(),
            control_pongs: Vec::new(),
            control_messages: Vec::new(),
            dht_news: Vec::new(),
            persist: false,
            counters: Counters::default(),
            errors: Vec::new(),
        }
    }

    /// A packet of the operating system.
    pub fn from_os(&mut self, now: Instant, offload: Offload, packet: &mut [u8]) {
        let mut sink = FromOs {
            now,
            overlays: &mut self.overlays,
            echoes: &mut self.echoes,
            quotes: &mut self.quotes,
            gate: &mut self.gate,
            errors: &mut self.errors,
            counters: &mut self.counters,
        };
        self.netstack.handle_packet(now, offload, packet, &mut sink);
        for (quote, failure) in self.errors.drain(..) {
            tell(now, &mut self.netstack, &quote, failure);
        }
    }

    /// Drains the sockets of the overlays, of each those that are ready; true if more is waiting.
    pub fn receive(&mut self, now: Instant, ready: &[Ready]) -> bool {
        let mut sink = ToOs {
            now,
            netstack: &mut self.netstack,
            gate: &mut self.gate,
            refusals: &mut self.refusals,
        };
        let mut more = false;
        let mut ready = ready.iter();
        self.overlays.for_each(|overlay| {
            let ready = ready.next().copied().unwrap_or(Ready::ANY);
            more |= overlay.receive(now, ready, &mut sink);
        });
        self.tell_refused(now);
        more
    }

    /// Tells peers which of their packets were not let in.
    fn tell_refused(&mut self, now: Instant) {
        for (own, peer, message) in self.refusals.take() {
            let sent = match self.overlays.towards(peer) {
                Some(overlay) => overlay.send_other(now, own, peer, ICMPV6, &message),
                None => Err(Failure::NoSuchPeer),
            };
            match sent {
                Ok(()) => self.counters.refusals_sent += 1,
                Err(_) => self.counters.refusals_limited += 1,
            }
        }
    }

    /// Carries every event of either side to the other until both are quiet.
    pub fn exchange(&mut self, now: Instant) {
        loop {
            let mut quiet = true;
            while let Some(event) = self.netstack.poll_event() {
                quiet = false;
                self.bridges.netstack_event(
                    now,
                    event,
                    &mut self.netstack,
                    &mut self.overlays,
                    &mut self.counters,
                );
            }
            for index in 0..self.overlays.len() {
                while let Some(event) = self.overlays.get(index).poll_event() {
                    quiet = false;
                    self.overlay_event(now, index, event);
                }
            }
            if quiet {
                return;
            }
        }
    }

    /// Sends what the overlays have ready.
    pub fn transmit(&mut self, now: Instant) {
        self.overlays.for_each(|overlay| overlay.transmit(now));
    }

    /// The earliest deadline of all parts, with its reason.
    pub fn deadline(&self) -> Option<(Instant, &'static str)> {
        let first = sooner(self.overlays.first.deadline(), self.netstack.deadline());
        let others = self.overlays.others.iter();
        others.fold(first, |first, overlay| sooner(first, overlay.deadline()))
    }

    /// Runs the timers that are due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.netstack.deadline().is_some_and(|(at, _)| at <= now) {
            self.netstack.handle_timeout(now);
        }
        self.overlays.for_each(|overlay| {
            if overlay.deadline().is_some_and(|(at, _)| at <= now) {
                overlay.handle_timeout(now);
            }
        });
    }

    /// Sends an echo request that no program asked for; the answer comes by [`Adapter::take_control_pongs`].
    pub fn ping(
        &mut self,
        now: Instant,
        to: Ipv6Addr,
        token: u64,
        payload: &[u8],
    ) -> Result<(), Failure> {
        let overlay = self.overlays.towards(to).ok_or(Failure::NoSuchPeer)?;
        overlay.ping(now, None, to, CONTROL_TOKEN | token, payload)
    }

    /// Answers to [`Adapter::ping`] since the last call.
    pub fn take_control_pongs(&mut self) -> std::vec::Drain<'_, ControlPong> {
        self.control_pongs.drain(..)
    }

    /// Words for the DHT since the last call.
    pub fn take_dht_news(&mut self) -> Vec<DhtNews> {
        std::mem::take(&mut self.dht_news)
    }

    /// Messages for the program itself since the last call.
    pub fn take_control_messages(&mut self) -> Vec<ControlMessage> {
        std::mem::take(&mut self.control_messages)
    }

    /// Whether what is known of peers should be written to disk; true once.
    pub fn take_persist(&mut self) -> bool {
        std::mem::take(&mut self.persist)
    }

    /// From now on this policy is in force: what is open by the old one and not allowed by the new one ends.
    pub fn set_policy(&mut self, now: Instant, policy: Policy) {
        self.gate.replace(policy);
        self.bridges
            .end_forbidden(now, &mut self.gate, &mut self.netstack, &mut self.overlays);
    }

    /// The policy at work, for what it counted.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// What was counted here.
    pub fn counters(&self) -> Counters {
        Counters {
            refusals_limited: self.counters.refusals_limited + self.refusals.limited,
            ..self.counters
        }
    }

    /// The first overlay, for what is particular to it.
    pub fn first(&mut self) -> &mut A {
        &mut self.overlays.first
    }

    /// Another overlay, for what is particular to it.
    pub fn other<T: Overlay>(&mut self) -> Option<&mut T> {
        self.overlays.others.iter_mut().find_map(|overlay| {
            let overlay: &mut dyn Any = overlay.as_mut();
            overlay.downcast_mut()
        })
    }

    /// The overlays in order, for the file descriptors whose readability should lead to [`Adapter::receive`].
    pub fn overlays(&self) -> impl Iterator<Item = &dyn Overlay> + Clone {
        let others = self.overlays.others.iter();
        std::iter::once(&self.overlays.first as &dyn Overlay)
            .chain(others.map(|overlay| overlay.as_ref() as &dyn Overlay))
    }

    fn overlay_event(&mut self, now: Instant, overlay: usize, event: OverlayEvent) {
        match event {
            OverlayEvent::Pong {
                token,
                rtt,
                via,
                payload,
            } => {
                if token & CONTROL_TOKEN != 0 {
                    self.control_pongs.push(ControlPong {
                        token: token & !CONTROL_TOKEN,
                        result: Ok((rtt, via)),
                    });
                } else if let Some(echo) = self.echoes.take(token) {
                    let data = payload.get(echo::HEADER..).unwrap_or_default();
                    self.netstack.echo_reply_to_os(
                        echo.to,
                        echo.from,
                        echo.id,
                        echo.sequence,
                        data,
                    );
                } else {
                    self.counters.echoes_unsent += 1;
                }
            }
            OverlayEvent::PingFailed { token, failure } => {
                if token & CONTROL_TOKEN != 0 {
                    self.control_pongs.push(ControlPong {
                        token: token & !CONTROL_TOKEN,
                        result: Err(failure),
                    });
                } else if let Some(echo) = self.echoes.take(token) {
                    tell(now, &mut self.netstack, &echo.quote, failure);
                }
            }
            OverlayEvent::Undeliverable { to, failure } => {
                if let Some(quote) = self.quotes.get(to) {
                    tell(now, &mut self.netstack, &quote, failure);
                }
            }
            OverlayEvent::Persist => self.persist = true,
            OverlayEvent::Reload {
                from,
                digit,
                network,
                body,
            } => self.tell_dht(DhtNews::Message {
                from,
                digit,
                network,
                body,
            }),
            OverlayEvent::Wanted { target } => self.tell_dht(DhtNews::Wanted(target)),
            OverlayEvent::Control {
                from,
                network,
                handshake_hash,
                kind,
                body,
            } => {
                if self.control_messages.len() < MAX_CONTROL_MESSAGES {
                    self.control_messages.push(ControlMessage {
                        from,
                        network,
                        handshake_hash,
                        kind,
                        body,
                    });
                } else {
                    self.counters.control_dropped += 1;
                }
            }
            stream_event => self.bridges.overlay_event(
                now,
                overlay,
                stream_event,
                &mut self.netstack,
                &mut self.overlays,
                &mut self.gate,
                &mut self.counters,
            ),
        }
    }
}

impl<O: Overlay> Adapter<O> {
    fn tell_dht(&mut self, word: DhtNews) {
        match self.dht_news.len() < MAX_DHT_NEWS {
            true => self.dht_news.push(word),
            false => self.counters.dht_dropped += 1,
        }
    }
}

/// A flow of the netstack or a stream of an overlay, from whose side an event came.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct StreamKey {
    overlay: usize,
    stream: StreamId,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Ends {
    flow: FlowId,
    stream: StreamKey,
}
