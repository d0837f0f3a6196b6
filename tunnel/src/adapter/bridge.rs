//! TCP flows of programs joined to streams of overlays.

use std::collections::HashMap;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::time::Instant;

use anode_netstack::{Event, FlowId, Netstack};
use anode_routing::overlay::{Failure, Overlay, OverlayEvent};

use super::gate::Gate;
use super::{Answer, Counters, Ends, Overlays, StreamKey, answer};
use crate::policy::Verdict;

/// How far a connection has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// A program connects; its SYN-ACK waits for the peer's answer (N1).
    Opening,
    /// A peer connects; its answer waits for the local program's.
    Connecting,
    /// Bytes flow.
    Open,
}

#[derive(Clone, Copy, Debug)]
struct Bridge {
    ends: Ends,
    state: State,
    origin: Origin,
}

/// Who opened it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Origin {
    /// A program of this machine: no policy ends it.
    Ours,
    /// A peer, and the local port that it called.
    Peer { from: Ipv6Addr, port: u16 },
}

/// All connections. An end that is gone is forgotten at once; the other end finishes by itself.
#[derive(Default)]
pub(super) struct Bridges {
    by_flow: HashMap<FlowId, Bridge>,
    by_stream: HashMap<StreamKey, FlowId>,
}

impl Bridges {
    fn insert(&mut self, ends: Ends, state: State, origin: Origin) {
        let bridge = Bridge {
            ends,
            state,
            origin,
        };
        self.by_flow.insert(ends.flow, bridge);
        self.by_stream.insert(ends.stream, ends.flow);
    }

    fn remove(&mut self, ends: Ends) {
        self.by_flow.remove(&ends.flow);
        self.by_stream.remove(&ends.stream);
    }

    fn of_stream(&self, stream: StreamKey) -> Option<Bridge> {
        self.by_flow.get(self.by_stream.get(&stream)?).copied()
    }

    fn opened(&mut self, flow: FlowId) {
        if let Some(bridge) = self.by_flow.get_mut(&flow) {
            bridge.state = State::Open;
        }
    }

    /// Ends the connections of peers that the policy does not allow anymore.
    pub(super) fn end_forbidden<A: Overlay>(
        &mut self,
        now: Instant,
        gate: &mut Gate,
        netstack: &mut Netstack,
        overlays: &mut Overlays<A>,
    ) {
        let forbidden = |bridge: &&Bridge| match bridge.origin {
            Origin::Ours => false,
            Origin::Peer { from, port } => !gate.allows_stream(from, port),
        };
        let ended: Vec<Ends> = self
            .by_flow
            .values()
            .filter(forbidden)
            .map(|bridge| bridge.ends)
            .collect();
        gate.counters.ended += ended.len() as u64;
        for ends in ended {
            // The peer was spoken to already: silence would hide nothing from it, and leave its program hanging.
            overlays
                .get(ends.stream.overlay)
                .abort(now, ends.stream.stream, Failure::Policy);
            netstack.tcp_reset(now, ends.flow);
            self.remove(ends);
        }
    }

    /// Carries what a program did to the overlay.
    pub(super) fn netstack_event<A: Overlay>(
        &mut self,
        now: Instant,
        event: Event,
        netstack: &mut Netstack,
        overlays: &mut Overlays<A>,
        counters: &mut Counters,
    ) {
        match event {
            Event::TcpOpen { flow, from, to } => {
                self.open(now, flow, from, to, netstack, overlays, counters)
            }
            Event::TcpConnected { flow } => {
                let Some(bridge) = self.by_flow.get(&flow).copied() else {
                    return;
                };
                overlays
                    .get(bridge.ends.stream.overlay)
                    .accept(now, bridge.ends.stream.stream);
                self.opened(flow);
                to_overlay(now, bridge.ends, netstack, overlays);
                to_program(now, bridge.ends, netstack, overlays);
            }
            Event::TcpRefused { flow, timed_out } => {
                let Some(bridge) = self.by_flow.get(&flow).copied() else {
                    return;
                };
                let failure = if timed_out {
                    Failure::TimedOut
                } else {
                    Failure::Refused
                };
                overlays.get(bridge.ends.stream.overlay).abort(
                    now,
                    bridge.ends.stream.stream,
                    failure,
                );
                counters.inbound_refused += 1;
                self.remove(bridge.ends);
            }
            Event::TcpReadable { flow } => {
                if let Some(bridge) = self.by_flow.get(&flow) {
                    to_overlay(now, bridge.ends, netstack, overlays);
                }
            }
            Event::TcpWritable { flow } => {
                if let Some(bridge) = self.by_flow.get(&flow) {
                    to_program(now, bridge.ends, netstack, overlays);
                }
            }
            Event::TcpFinished { flow } => {
                if let Some(bridge) = self.by_flow.get(&flow) {
                    overlays
                        .get(bridge.ends.stream.overlay)
                        .finish(now, bridge.ends.stream.stream);
                }
            }
            Event::TcpReset { flow } => {
                let Some(bridge) = self.by_flow.get(&flow).copied() else {
                    return;
                };
                overlays.get(bridge.ends.stream.overlay).abort(
                    now,
                    bridge.ends.stream.stream,
                    Failure::Reset,
                );
                self.remove(bridge.ends);
            }
            Event::TcpClosed { flow } => {
                if let Some(bridge) = self.by_flow.get(&flow).copied() {
                    self.remove(bridge.ends);
                }
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn open<A: Overlay>(
        &mut self,
        now: Instant,
        flow: FlowId,
        from: SocketAddrV6,
        to: SocketAddrV6,
        netstack: &mut Netstack,
        overlays: &mut Overlays<A>,
        counters: &mut Counters,
    ) {
        let Some(overlay) = overlays.index(*to.ip()) else {
            return netstack.tcp_unreachable(now, flow, anode_netstack::Unreachable::NoRoute);
        };
        match overlays
            .get(overlay)
            .open(now, *from.ip(), from.port(), *to.ip(), to.port())
        {
            Ok(stream) => self.insert(
                Ends {
                    flow,
                    stream: StreamKey { overlay, stream },
                },
                State::Opening,
                Origin::Ours,
            ),
            Err(failure) => {
                counters.outbound_failed += 1;
                refuse_program(now, flow, failure, netstack);
            }
        }
    }

    /// Carries what a peer did to the program.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn overlay_event<A: Overlay>(
        &mut self,
        now: Instant,
        overlay: usize,
        event: OverlayEvent,
        netstack: &mut Netstack,
        overlays: &mut Overlays<A>,
        gate: &mut Gate,
        counters: &mut Counters,
    ) {
        let key = |stream| StreamKey { overlay, stream };
        match event {
            OverlayEvent::StreamIncoming {
                stream,
                from,
                from_port,
                to,
                to_port,
            } => {
                match gate.stream(from, to_port) {
                    Verdict::Allow => {}
                    Verdict::Reject => {
                        return overlays.get(overlay).abort(now, stream, Failure::Policy);
                    }
                    Verdict::Drop => return overlays.get(overlay).forget(stream),
                }
                let origin = Origin::Peer {
                    from,
                    port: to_port,
                };
                let from = SocketAddrV6::new(from, from_port, 0, 0);
                let to = SocketAddrV6::new(to, to_port, 0, 0);
                match netstack.tcp_connect(now, from, to) {
                    Some(flow) => self.insert(
                        Ends {
                            flow,
                            stream: key(stream),
                        },
                        State::Connecting,
                        origin,
                    ),
                    None => {
                        counters.inbound_refused += 1;
                        overlays.get(overlay).abort(now, stream, Failure::Busy);
                    }
                }
            }
            OverlayEvent::StreamOpened { stream } => {
                let Some(bridge) = self.of_stream(key(stream)) else {
                    return;
                };
                netstack.tcp_accept(now, bridge.ends.flow);
                self.opened(bridge.ends.flow);
            }
            OverlayEvent::StreamFailed { stream, failure } => {
                let Some(bridge) = self.of_stream(key(stream)) else {
                    return;
                };
                match bridge.state {
                    State::Opening => {
                        counters.outbound_failed += 1;
                        refuse_program(now, bridge.ends.flow, failure, netstack);
                    }
                    State::Connecting | State::Open => netstack.tcp_reset(now, bridge.ends.flow),
                }
                self.remove(bridge.ends);
            }
            OverlayEvent::StreamReadable { stream } => {
                if let Some(bridge) = self.of_stream(key(stream)) {
                    to_program(now, bridge.ends, netstack, overlays);
                }
            }
            OverlayEvent::StreamWritable { stream } => {
                if let Some(bridge) = self.of_stream(key(stream)) {
                    to_overlay(now, bridge.ends, netstack, overlays);
                }
            }
            OverlayEvent::StreamFinished { stream } => {
                if let Some(bridge) = self.of_stream(key(stream)) {
                    netstack.tcp_finish(now, bridge.ends.flow);
                }
            }
            // The flow may still have to deliver its last bytes to the program: it ends by itself.
            OverlayEvent::StreamClosed { stream } => {
                self.by_stream.remove(&key(stream));
            }
            OverlayEvent::Pong { .. }
            | OverlayEvent::PingFailed { .. }
            | OverlayEvent::Persist
            | OverlayEvent::Control { .. }
            | OverlayEvent::Reload { .. }
            | OverlayEvent::Wanted { .. }
            | OverlayEvent::Undeliverable { .. } => {}
        }
    }
}

/// Tells a connecting program the truth about why it cannot (netstack.md 6.3).
fn refuse_program(now: Instant, flow: FlowId, failure: Failure, netstack: &mut Netstack) {
    match failure {
        Failure::Refused | Failure::Reset => netstack.tcp_refuse(now, flow),
        other => match answer(other) {
            Some(Answer::Unreachable(why)) => netstack.tcp_unreachable(now, flow, why),
            Some(Answer::TooBig(_)) | None => netstack.tcp_forget(flow),
        },
    }
}

fn to_overlay<A: Overlay>(
    now: Instant,
    ends: Ends,
    netstack: &mut Netstack,
    overlays: &mut Overlays<A>,
) {
    let overlay = overlays.get(ends.stream.overlay);
    netstack.tcp_recv(now, ends.flow, &mut |bytes| {
        overlay.write(now, ends.stream.stream, bytes)
    });
}

fn to_program<A: Overlay>(
    now: Instant,
    ends: Ends,
    netstack: &mut Netstack,
    overlays: &mut Overlays<A>,
) {
    let overlay = overlays.get(ends.stream.overlay);
    overlay.read(now, ends.stream.stream, &mut |bytes| {
        netstack.tcp_send(now, ends.flow, bytes)
    });
}
