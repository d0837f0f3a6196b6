//! What smoltcp takes for its network device: one packet in, one packet out.

use std::num::NonZeroUsize;

use smoltcp::phy::{self, Checksum, DeviceCapabilities, Medium};
use smoltcp::time::Instant;

use crate::packet::{IPV6_HEADER, TCP_HEADER, partial_checksum, protocol};
use crate::{Offload, SegmentKind, Segments};

/// The largest packet: what the payload length can say, and what the kernel takes in one write.
pub(crate) const SUPER_PACKET: usize = 65_535;

/// IPv6 and TCP header with all options.
const MAX_HEADERS: usize = IPV6_HEADER + 60;

/// What the interface can do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub mtu: u16,
    pub offload: bool,
}

impl Link {
    /// The payload of a full segment without options.
    pub fn mss(self) -> u16 {
        self.mtu - (IPV6_HEADER + TCP_HEADER) as u16
    }

    fn capabilities(self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        // Checksums of what comes in were checked before smoltcp sees it.
        if self.offload {
            // smoltcp 0.14.0 drops IPv6 segments above the announced MTU without a word, also when it could have
            // them cut: so it believes in an MTU of 65,535 and `finish` tells the kernel where to cut.
            capabilities.max_transmission_unit = SUPER_PACKET;
            capabilities.segmentation.tcpv6 = NonZeroUsize::new(SUPER_PACKET);
            capabilities.checksum.tcp = Checksum::None;
        } else {
            capabilities.max_transmission_unit = usize::from(self.mtu);
            capabilities.checksum.tcp = Checksum::Tx;
        }
        capabilities
    }

    /// Makes a packet of smoltcp fit for the kernel. `mss` is the kernel's.
    pub fn finish(self, packet: &mut [u8], mss: u16) -> Offload {
        if !self.offload || packet.len() < IPV6_HEADER + TCP_HEADER {
            return Offload::default();
        }
        let header = IPV6_HEADER + usize::from(packet[52] >> 4) * 4;
        self.announce_mss(&mut packet[..header]);
        let (from, to) = addresses(packet);
        let checksum = partial_checksum(packet, IPV6_HEADER, from, to, protocol::TCP);
        let options = (header - IPV6_HEADER - TCP_HEADER) as u16;
        let size = self.mss().min(mss) - options;
        let segments = (packet.len() - header > usize::from(size)).then_some(Segments {
            kind: SegmentKind::Tcp6,
            size,
            header_len: header as u16,
        });
        Offload { checksum, segments }
    }

    /// smoltcp derives the MSS option from the MTU that it believes in; the kernel shall read the true one (N16).
    fn announce_mss(self, headers: &mut [u8]) {
        const SYN: u8 = 0x02;
        const MSS: [u8; 2] = [2, 4];
        let options = IPV6_HEADER + TCP_HEADER;
        if headers[53] & SYN != 0 && headers.get(options..options + 2) == Some(&MSS) {
            headers[options + 2..options + 4].copy_from_slice(&self.mss().to_be_bytes());
        }
    }
}

/// Source and destination of a packet of ours.
fn addresses(packet: &[u8]) -> (std::net::Ipv6Addr, std::net::Ipv6Addr) {
    let at = |start: usize| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&packet[start..start + 16]);
        octets.into()
    };
    (at(8), at(24))
}

/// One packet in (borrowed from the caller: nothing is copied before smoltcp's own buffer), one out.
pub(super) struct Device<'a> {
    pub link: Link,
    pub received: Option<&'a [u8]>,
    /// Holds the packet that was sent, if `sent`.
    pub out: &'a mut Vec<u8>,
    pub sent: bool,
}

pub(super) struct Receive<'a>(&'a [u8]);
pub(super) struct Transmit<'a> {
    out: &'a mut Vec<u8>,
    sent: &'a mut bool,
}

impl phy::RxToken for Receive<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(self.0)
    }
}

impl phy::TxToken for Transmit<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        // smoltcp writes the whole payload; in the headers it changes bits beside what is left of the last packet.
        self.out.resize(length, 0);
        self.out[..length.min(MAX_HEADERS)].fill(0);
        *self.sent = true;
        write(self.out)
    }
}

impl phy::Device for Device<'_> {
    type RxToken<'b>
        = Receive<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = Transmit<'b>
    where
        Self: 'b;

    fn receive(&mut self, _now: Instant) -> Option<(Receive<'_>, Transmit<'_>)> {
        let received = self.received.take()?;
        Some((
            Receive(received),
            Transmit {
                out: self.out,
                sent: &mut self.sent,
            },
        ))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Transmit<'_>> {
        (!self.sent).then_some(Transmit {
            out: self.out,
            sent: &mut self.sent,
        })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.link.capabilities()
    }
}
