//! Raw Ethernet: packets in frames of one EtherType, between machines of one link, without IP (Anode 0.8 §2.10).
//!
//! The sockets are made by whoever has the rights for them. Links pad short frames, so a packet follows its size, as in a
//! stream.
use crate::anode::{Ecn, Place, Received, TransmitBatch};
use anode_wire::framing;
use std::io;
use std::os::fd::BorrowedFd;

/// IEEE 802 local experimental EtherType 1.
pub const ETHER_TYPE: u16 = 0x88b5;
/// Frames taken from one link before the others have their turn.
const AT_ONCE: usize = 64;
/// The largest frame that a link may bring (jumbo frames).
const MAX_FRAME: usize = 16 << 10;

/// A link that carries frames of [`ETHER_TYPE`]. Its calls do not block.
pub trait FrameLink: Send {
    /// Index of the interface.
    fn interface(&self) -> u32;
    /// Readable when a frame has come.
    fn fd(&self) -> BorrowedFd<'_>;
    /// Sends one frame.
    fn send(&self, to: [u8; 6], payload: &[u8]) -> io::Result<()>;
    /// Receives one: its sender, and how many bytes it has.
    fn receive(&self, buffer: &mut [u8]) -> io::Result<([u8; 6], usize)>;
}

/// All links that are used.
pub(super) struct Links {
    links: Vec<Box<dyn FrameLink>>,
    buffer: Vec<u8>,
}

impl Links {
    pub fn new() -> Self {
        Self {
            links: Vec::new(),
            buffer: Vec::new(),
        }
    }

    pub fn add(&mut self, link: Box<dyn FrameLink>) {
        self.buffer.resize(MAX_FRAME, 0);
        self.links.push(link);
    }

    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.links.iter().map(|link| link.fd())
    }

    /// Takes what has come. True if more may be waiting.
    pub fn receive(
        &mut self,
        is_ready: &mut dyn FnMut() -> bool,
        each: &mut dyn FnMut(Received<'_>),
    ) -> bool {
        let mut more = false;
        for link in &self.links {
            if !is_ready() {
                continue;
            }
            for turn in 0..=AT_ONCE {
                if turn == AT_ONCE {
                    more = true;
                    break;
                }
                let Ok((mac, len)) = link.receive(&mut self.buffer) else {
                    break;
                };
                let Some(packet) = packet_in(&mut self.buffer[..len]) else {
                    continue;
                };
                each(Received {
                    from: Place::Ethernet {
                        interface: link.interface(),
                        mac,
                    },
                    socket: 0,
                    local_ip: None,
                    ecn: Ecn::NotCapable,
                    segment_size: packet.len(),
                    bytes: packet,
                });
            }
        }
        more
    }

    /// Sends a batch; returns how many of its packets did not go.
    pub fn send(&mut self, batch: &TransmitBatch) -> usize {
        let Place::Ethernet { interface, mac } = batch.destination.to else {
            return batch.segments();
        };
        let link = self.links.iter().find(|link| link.interface() == interface);
        let Some(link) = link else {
            return batch.segments();
        };
        let mut frame = Vec::with_capacity(framing::PREFIX_LEN + batch.segment_size);
        let refused = batch.packets().filter(|packet| {
            frame.clear();
            framing::encode(packet, &mut frame).is_err() || link.send(mac, &frame).is_err()
        });
        refused.count()
    }
}

/// The packet of a frame, without what pads it.
fn packet_in(frame: &mut [u8]) -> Option<&mut [u8]> {
    let (size, rest) = frame.split_first_chunk_mut::<{ framing::PREFIX_LEN }>()?;
    let size = usize::from(u16::from_be_bytes(*size));
    rest.get_mut(..size).filter(|packet| !packet.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_cut_out_of_its_padding() {
        let cases: [(&[u8], Option<&[u8]>); 5] = [
            (&[0, 2, 7, 8, 0, 0, 0], Some(&[7, 8])),
            (&[0, 2, 7, 8], Some(&[7, 8])),
            (&[0, 3, 7, 8], None),
            (&[0, 0, 7], None),
            (&[0], None),
        ];
        for (frame, packet) in cases {
            let mut frame = frame.to_vec();
            let found = packet_in(&mut frame).map(|packet| packet.to_vec());
            assert_eq!(found.as_deref(), packet, "{frame:?}");
        }
    }
}
