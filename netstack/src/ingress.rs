//! What becomes of a packet of the operating system.

use std::net::SocketAddrV6;
use std::time::Instant;

use crate::fragment::unwrap_atomic;
use crate::icmp::QUOTE_MAX;
use crate::packet::{
    Header, ICMP_HEADER, IPV6_HEADER, Reject, UDP_HEADER, Upper, check_checksum, protocol,
    strip_extensions, upper,
};
use crate::tcp::Outside;
use crate::{Netstack, Offload, SegmentKind, Segments, Sink, Unreachable, icmp};

impl Netstack {
    /// Whether the packet may come from this machine and go to an overlay, and then on.
    pub(crate) fn sort(
        &mut self,
        now: Instant,
        offload: Offload,
        packet: &mut [u8],
        sink: &mut dyn Sink,
    ) -> Result<(), Reject> {
        let header = Header::parse(packet)?;
        let Header { from, to, .. } = header;
        // N23: the kernel sends these on its own as soon as the interface is up.
        if to.is_multicast()
            || to.is_unicast_link_local()
            || to.is_loopback()
            || to.is_unspecified()
        {
            return Err(Reject::NotForOverlay);
        }
        if !self.config.local.contains(&from) {
            return Err(Reject::ForeignSource);
        }
        if self.config.local.contains(&to) {
            return Err(Reject::ToOurselves);
        }
        if !self.config.magic_self.contains(&to) && !self.config.serves(to) {
            self.counters.no_route += 1;
            self.error(now, icmp::Error::Unreachable(Unreachable::NoRoute), packet);
            return Ok(());
        }
        match upper(packet, header.next_header)? {
            Upper::Whole { protocol, at } => {
                self.whole(now, &header, protocol, at, offload, packet, sink)
            }
            Upper::Fragment(fragment) => {
                if offload != Offload::default() {
                    return Err(Reject::Offload);
                }
                if fragment.offset == 0 && !fragment.more {
                    return self.reassembled(now, unwrap_atomic(packet, &fragment), sink);
                }
                let whole =
                    self.reassembly
                        .insert(now, &header, &fragment, packet, &mut self.counters)?;
                match whole {
                    Some(mut whole) => self.reassembled(now, &mut whole, sink),
                    None => Ok(()),
                }
            }
        }
    }

    /// A packet that came in fragments, as if it had not.
    fn reassembled(
        &mut self,
        now: Instant,
        packet: &mut [u8],
        sink: &mut dyn Sink,
    ) -> Result<(), Reject> {
        let header = Header::parse(packet)?;
        match upper(packet, header.next_header)? {
            Upper::Whole { protocol, at } => {
                self.whole(now, &header, protocol, at, Offload::default(), packet, sink)
            }
            // Fragments of fragments.
            Upper::Fragment(_) => Err(Reject::Fragment),
        }
    }

    /// A whole packet whose transport header starts at `at`.
    #[expect(clippy::too_many_arguments, reason = "what was read of one packet")]
    fn whole(
        &mut self,
        now: Instant,
        header: &Header,
        protocol: u8,
        at: usize,
        offload: Offload,
        packet: &mut [u8],
        sink: &mut dyn Sink,
    ) -> Result<(), Reject> {
        let to_self = self.config.magic_self.contains(&header.to);
        // N22
        if header.hop_limit <= 1 && !to_self {
            self.counters.hop_limit += 1;
            self.error(now, icmp::Error::HopLimit, packet);
            return Ok(());
        }
        if let Some(segments) = offload.segments {
            let kind = match protocol {
                protocol::TCP => Some(SegmentKind::Tcp6),
                protocol::UDP => Some(SegmentKind::Udp),
                _ => None,
            };
            if kind != Some(segments.kind)
                || segments.size == 0
                || usize::from(segments.header_len) > packet.len()
            {
                return Err(Reject::Offload);
            }
        }
        check_checksum(packet, at, header, protocol, &offload)?;
        match protocol {
            protocol::TCP => {
                let packet = if at == IPV6_HEADER {
                    packet
                } else {
                    strip_extensions(packet, at, protocol)
                };
                let mut outside = Outside {
                    queue: &mut self.queue,
                    events: &mut self.events,
                    counters: &mut self.counters,
                };
                if to_self {
                    self.flows.refuse(header, packet, &mut outside)
                } else {
                    self.flows.ingress(now, header, packet, &mut outside)
                }
            }
            protocol::UDP if to_self => {
                self.error(now, icmp::Error::Unreachable(Unreachable::Port), packet);
                Ok(())
            }
            protocol::UDP => self.udp(header, at, offload.segments, packet, sink),
            protocol::ICMPV6 => self.icmp(header, at, to_self, packet, sink),
            _ if to_self => Err(Reject::NotForOverlay),
            _ => {
                self.counters.other_from_os += 1;
                sink.other(
                    header.from,
                    header.to,
                    protocol,
                    &packet[at..],
                    quote(packet),
                );
                Ok(())
            }
        }
    }

    /// A datagram, or several of one size behind one header.
    fn udp(
        &mut self,
        header: &Header,
        at: usize,
        segments: Option<Segments>,
        packet: &[u8],
        sink: &mut dyn Sink,
    ) -> Result<(), Reject> {
        let udp =
            etherparse::UdpHeaderSlice::from_slice(&packet[at..]).map_err(|_| Reject::Transport)?;
        if usize::from(udp.length()) != packet.len() - at || udp.destination_port() == 0 {
            return Err(Reject::Transport);
        }
        let from = SocketAddrV6::new(header.from, udp.source_port(), 0, 0);
        let to = SocketAddrV6::new(header.to, udp.destination_port(), 0, 0);
        let payload = &packet[at + UDP_HEADER..];
        // A datagram without payload is one all the same.
        let size = segments
            .map_or(payload.len(), |segments| usize::from(segments.size))
            .max(1);
        let (first, rest) = payload.split_at(size.min(payload.len()));
        for datagram in std::iter::once(first).chain(rest.chunks(size)) {
            self.counters.udp_from_os += 1;
            sink.udp(from, to, datagram, quote(packet));
        }
        Ok(())
    }

    fn icmp(
        &mut self,
        header: &Header,
        at: usize,
        to_self: bool,
        packet: &[u8],
        sink: &mut dyn Sink,
    ) -> Result<(), Reject> {
        let message = &packet[at..];
        let Some((&[kind, code, _, _, i1, i2, s1, s2], payload)) =
            message.split_first_chunk::<ICMP_HEADER>()
        else {
            return Err(Reject::Transport);
        };
        let (id, sequence) = (u16::from_be_bytes([i1, i2]), u16::from_be_bytes([s1, s2]));
        match (kind, code, to_self) {
            (icmp::ECHO_REQUEST, 0, true) => {
                self.counters.echo_self += 1;
                self.echo_reply_to_os(header.to, header.from, id, sequence, payload);
            }
            (icmp::ECHO_REQUEST, 0, false) => {
                self.counters.echo_from_os += 1;
                sink.echo(header.from, header.to, id, sequence, payload, quote(packet));
            }
            (_, _, true) => return Err(Reject::NotForOverlay),
            (_, _, false) => {
                self.counters.other_from_os += 1;
                sink.other(
                    header.from,
                    header.to,
                    protocol::ICMPV6,
                    message,
                    quote(packet),
                );
            }
        }
        Ok(())
    }
}

/// As much of a packet as an error about it may quote.
fn quote(packet: &[u8]) -> &[u8] {
    &packet[..packet.len().min(QUOTE_MAX)]
}
