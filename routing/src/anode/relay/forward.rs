//! Packets for others: from the header alone, in place, and a group for one recipient at a time.
use super::registry::take_bytes;
use super::{Relay, byte_rate};
use crate::anode::Node;
use crate::anode::output::{Destination, Ecn, Received};
use crate::overlay::OverlaySink;
use anode_wire::message::error_code;
use anode_wire::packet::DEFAULT_HOP_LIMIT;
use anode_wire::{AddressId, Message, Packet, Party};
use std::time::Instant;

/// Every packet is charged at least so many bytes: small ones cost the relay as much as large ones.
const LEAST_CHARGE: usize = 256;

/// Packets that go on as they stand: all of `segment_size` bytes, but the last, which may be shorter.
#[derive(Debug)]
pub struct Onward<'a> {
    /// Where to.
    pub destination: Destination,
    /// Their ECN bits, which a relay passes on (RFC 6040).
    pub ecn: Ecn,
    /// Bytes of each packet but the last.
    pub segment_size: usize,
    /// The packets.
    pub bytes: &'a [u8],
}

/// Whose the packets at the front of a group are.
enum Whose {
    /// This node's, or nobody's that it could tell.
    Ours,
    /// Without effect, and counted.
    Dropped,
    /// Somebody's who is registered.
    Theirs(Destination),
}

impl Node {
    /// Datagrams have come from the underlay, all from one place: those for this node are decrypted where they stand, those
    /// for others go to `onward`, which says whether it has sent them; else they wait for `poll_transmit`.
    pub fn receive(
        &mut self,
        now: Instant,
        received: Received<'_>,
        sink: &mut dyn OverlaySink,
        onward: &mut dyn FnMut(Onward<'_>) -> bool,
    ) {
        if self.relay.is_none() || received.socket >= crate::anode::SECOND_SOCKET {
            return self.handle_own(now, received, sink);
        }
        let Received {
            from,
            socket,
            local_ip,
            ecn,
            bytes: mut rest,
            segment_size,
        } = received;
        while !rest.is_empty() {
            let (len, is_packet) = first_run(rest, segment_size);
            let (run, others) = std::mem::take(&mut rest).split_at_mut(len);
            rest = others;
            let whose = match is_packet {
                true => self.whose(now, &from, run, segment_size),
                false => Whose::Ours,
            };
            match whose {
                Whose::Dropped => {}
                Whose::Ours => self.handle_own(
                    now,
                    Received {
                        from,
                        socket,
                        local_ip,
                        ecn,
                        bytes: run,
                        segment_size,
                    },
                    sink,
                ),
                Whose::Theirs(destination) => {
                    let packets = run.len().div_ceil(segment_size.max(1)) as u64;
                    self.counters.relayed_packets += packets;
                    self.counters.relayed_bytes += run.len() as u64;
                    let packets = Onward {
                        destination,
                        ecn,
                        segment_size,
                        bytes: run,
                    };
                    if !onward(packets) {
                        self.queue_onward(destination, run, segment_size);
                    }
                }
            }
        }
    }

    /// What cannot leave at once.
    fn queue_onward(&mut self, destination: Destination, run: &[u8], segment_size: usize) {
        for packet in run.chunks(segment_size.max(1)) {
            let fits = self
                .forwarded
                .push(destination, |out| out.extend_from_slice(packet));
            if !fits {
                self.counters.relay_overflow += 1;
            }
        }
    }

    /// The packets of a run have one header but for the MAC; the first one decides for all.
    fn whose(
        &mut self,
        now: Instant,
        from: &crate::anode::Place,
        run: &mut [u8],
        segment_size: usize,
    ) -> Whose {
        let Ok(first) = Packet::new_checked(&run[..segment_size.min(run.len())]) else {
            return Whose::Ours;
        };
        let recipient = first.recipient();
        match recipient {
            Party::Full(bytes) if bytes == self.own.address.as_bytes() => return Whose::Ours,
            Party::Id(id) if id == self.own.id || id == AddressId::EVERYBODY => return Whose::Ours,
            Party::Full(_) | Party::Id(_) => {}
        }
        let (sender, digit, hops) = (first.sender(), first.recipient_peer(), first.hop_count());
        let packets = run.len().div_ceil(segment_size.max(1));
        let Some(relay) = self.relay.as_deref_mut() else {
            return Whose::Ours;
        };
        let Relay {
            config,
            registry,
            in_all,
            sources,
        } = relay;
        self.counters.rx_packets += packets as u64;
        self.counters.rx_bytes += run.len() as u64;
        let dropped = |counter: &mut u64| {
            *counter += packets as u64;
            Whose::Dropped
        };
        // D18: also no loop outlives this, whatever two relays and a forger agree on.
        if hops > DEFAULT_HOP_LIMIT {
            return dropped(&mut self.counters.dropped_hop_limit);
        }
        let Some((destination, recipient_bucket)) = registry.find(now, &sender, &recipient, digit)
        else {
            let told = config.errors.then(|| sender.id());
            let whose = dropped(&mut self.counters.relay_unregistered);
            if let Some(sender) = told {
                self.tell_unreachable(now, from, sender);
            }
            return whose;
        };
        if destination.to == *from {
            return dropped(&mut self.counters.relay_back);
        }
        let charge = run.len().max(packets * LEAST_CHARGE);
        let rate = byte_rate(config.rate);
        if !take_bytes(recipient_bucket, now, rate, charge) {
            return dropped(&mut self.counters.relay_recipient_limit);
        }
        let tokens = u32::try_from(charge).unwrap_or(u32::MAX);
        if !sources.take_many(now, from.ip(), tokens) {
            return dropped(&mut self.counters.relay_source_limit);
        }
        if !take_bytes(in_all, now, byte_rate(config.rate_in_all), charge) {
            return dropped(&mut self.counters.relay_limit);
        }
        for packet in run.chunks_mut(segment_size.max(1)) {
            packet[0] = hops + 1;
        }
        Whose::Theirs(destination)
    }

    /// ERROR 0x04, where the operator wants it: to a registered peer where it is registered, and nobody else, since the
    /// packet that led to it proves nothing (D40).
    fn tell_unreachable(&mut self, now: Instant, from: &crate::anode::Place, sender: AddressId) {
        let error = Message::Error {
            code: error_code::UNREACHABLE,
            arguments: &[],
        };
        for found in self.peers.with_id(&sender).into_iter().flatten() {
            let Some(peer) = self.peers.get_mut(found) else {
                continue;
            };
            let Some(path) = peer.path_mut(from).filter(|path| path.is_proven()) else {
                continue;
            };
            let destination = Destination {
                to: path.endpoint,
                socket: path.socket,
                source: None,
            };
            let digit = path.peer_id;
            if !self.is_registered(now, found, digit)
                || !self
                    .peers
                    .get_mut(found)
                    .is_some_and(|peer| peer.errors.take(now, super::ERROR_RATE))
            {
                continue;
            }
            self.counters.tx_errors += 1;
            self.send_control(now, found, destination, crate::anode::Sender::Short, &error);
        }
    }
}

/// The bytes of the packets at the front that have one header but for MAC and type; false: no packet.
fn first_run(bytes: &[u8], segment_size: usize) -> (usize, bool) {
    let size = segment_size.clamp(1, bytes.len());
    let first = &bytes[..size];
    let Ok(packet) = Packet::new_checked(first) else {
        return (size, false);
    };
    // Without the type: HELLO and EPC_REQ to one peer are one run.
    let header = size - packet.body().len() - 1;
    let same = |next: &&[u8]| {
        next.len() > header && next[..2] == first[..2] && next[10..header] == first[10..header]
    };
    let more = bytes[size..].chunks(size).take_while(same);
    (size + more.map(<[u8]>::len).sum::<usize>(), true)
}
