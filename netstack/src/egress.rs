//! Packets that are built here and queued for the operating system.

use std::net::Ipv6Addr;
use std::time::Instant;

use crate::fragment::push_fragments;
use crate::packet::{IPV6_HEADER, fill_checksum, ipv6_header, partial_checksum, protocol};
use crate::{Netstack, Offload, Unreachable, icmp};

impl Netstack {
    /// Builds a packet, or its fragments, and queues it.
    pub(crate) fn send(
        &mut self,
        from: Ipv6Addr,
        to: Ipv6Addr,
        protocol: u8,
        header: &[u8],
        payload: &[u8],
    ) {
        let Ok(length) = u16::try_from(header.len() + payload.len()) else {
            self.counters.oversize += 1;
            return;
        };
        let packet = &mut self.scratch;
        packet.clear();
        packet.extend_from_slice(&ipv6_header(from, to, protocol, length));
        packet.extend_from_slice(header);
        packet.extend_from_slice(payload);
        let fits = packet.len() <= usize::from(self.config.mtu);
        let mut offload = Offload::default();
        if protocol == protocol::UDP && self.config.offload && fits {
            offload.checksum = partial_checksum(packet, IPV6_HEADER, from, to, protocol);
        } else if matches!(protocol, protocol::UDP | protocol::ICMPV6) {
            fill_checksum(packet, IPV6_HEADER, from, to, protocol);
        }
        let queued = if fits {
            self.queue.push(&[packet], offload)
        } else {
            self.counters.fragmented += 1;
            self.fragment_id = self.fragment_id.wrapping_add(1);
            let (mtu, id) = (self.config.mtu, self.fragment_id);
            push_fragments(
                &mut self.queue,
                from,
                to,
                protocol,
                &packet[IPV6_HEADER..],
                mtu,
                id,
            )
        };
        self.counters.queue_full += u64::from(!queued);
    }

    /// Queues an error about `packet`, if it may be sent.
    pub(crate) fn error(&mut self, now: Instant, error: icmp::Error, packet: &[u8]) {
        let quoted = icmp::quoted(packet).filter(|quoted| self.config.local.contains(&quoted.from));
        let (Some(quoted), Some(&own)) = (quoted, self.config.local.first()) else {
            self.counters.errors_forbidden += 1;
            return;
        };
        let repeated = error == icmp::Error::Unreachable(Unreachable::Address)
            && quoted.echo
            && !self.limiter.allow_destination(now, quoted.to);
        if repeated || !self.limiter.allow(now) {
            self.counters.errors_limited += 1;
            return;
        }
        // A closed port is the destination's word; everything else is ours (N21, N22).
        let source = match error {
            icmp::Error::Unreachable(Unreachable::Port) => quoted.to,
            _ => own,
        };
        icmp::write_error(&mut self.scratch, source, quoted.from, error, packet);
        if self.queue.push(&[&self.scratch], Offload::default()) {
            self.counters.errors_sent += 1;
        } else {
            self.counters.queue_full += 1;
        }
    }
}
