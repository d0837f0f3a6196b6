//! Super-packets as the interface hands them over (virtio-net header, one set of headers, many segments), and parts of them.

use anode_platform::tun::VnetHeader;
use std::ops::Range;

const GSO_TYPE: u8 = 0x7f;
const TCP_V4: u8 = 1;
const TCP_V6: u8 = 4;
const UDP_L4: u8 = 5;

const FIN_AND_PSH: u8 = 0x09;
const CWR: u8 = 0x80;

/// Where the parts of a super-packet lie.
#[derive(Clone, Copy)]
pub struct Super<'a> {
    header: VnetHeader,
    packet: &'a [u8],
    /// Bytes of all headers; 0 for a packet that cannot be cut.
    headers: usize,
}

impl<'a> Super<'a> {
    /// Anything that does not read as a super-packet of TCP or UDP counts as one segment.
    pub fn new(header: VnetHeader, packet: &'a [u8]) -> Self {
        Self {
            header,
            packet,
            headers: headers(header, packet).unwrap_or(0),
        }
    }

    /// How many packets a card would put on the wire.
    pub fn segments(&self) -> usize {
        match self.headers {
            0 => 1,
            headers => (self.packet.len() - headers).div_ceil(self.header.gso_size.into()),
        }
    }

    /// Bytes of one segment on the wire, at most.
    pub fn segment_size(&self) -> usize {
        match self.headers {
            0 => self.packet.len(),
            headers => headers + usize::from(self.header.gso_size),
        }
    }

    /// The segments of `range` as a packet of their own, written to `into`.
    ///
    /// The transport checksum of a super-packet is always left to the receiver's side (virtio 1.2 §5.1.6.2): its field
    /// holds the sum of the pseudo-header, which is all that has to be made anew.
    pub fn part(&self, range: Range<usize>, into: &mut Vec<u8>) -> VnetHeader {
        into.clear();
        if range == (0..self.segments()) {
            into.extend_from_slice(self.packet);
            return self.header;
        }
        let size = usize::from(self.header.gso_size);
        let payload = &self.packet[self.headers..];
        let (from, to) = (range.start * size, payload.len().min(range.end * size));
        into.extend_from_slice(&self.packet[..self.headers]);
        into.extend_from_slice(&payload[from..to]);

        let l4 = usize::from(self.header.csum_start);
        set_ip_length(into, range.start);
        match self.header.gso_type & GSO_TYPE {
            UDP_L4 => {
                let length = (into.len() - l4) as u16;
                into[l4 + 4..l4 + 6].copy_from_slice(&length.to_be_bytes());
            }
            _ => {
                let sequence: [u8; 4] = [into[l4 + 4], into[l4 + 5], into[l4 + 6], into[l4 + 7]];
                let sequence = u32::from_be_bytes(sequence).wrapping_add(from as u32);
                into[l4 + 4..l4 + 8].copy_from_slice(&sequence.to_be_bytes());
                if to < payload.len() {
                    into[l4 + 13] &= !FIN_AND_PSH;
                }
                if from > 0 {
                    into[l4 + 13] &= !CWR;
                }
            }
        }
        let sum = pseudo_header_sum(into, l4);
        let field = l4 + usize::from(self.header.csum_offset);
        into[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        let single = to - from <= size;
        VnetHeader {
            gso_type: if single { 0 } else { self.header.gso_type },
            gso_size: if single { 0 } else { self.header.gso_size },
            header_len: self.headers as u16,
            ..self.header
        }
    }
}

/// Bytes of all headers of a packet that can be cut.
fn headers(header: VnetHeader, packet: &[u8]) -> Option<usize> {
    let l4 = usize::from(header.csum_start);
    let checksum_open = header.flags & 1 != 0;
    let length = match header.gso_type & GSO_TYPE {
        TCP_V4 | TCP_V6 => usize::from(packet.get(l4 + 12)? >> 4) * 4,
        UDP_L4 => 8,
        _ => return None,
    };
    let least_ip = match packet.first()? >> 4 {
        4 => 20,
        6 => 40,
        _ => return None,
    };
    let all = l4 + length;
    let sound = checksum_open && l4 >= least_ip && header.gso_size > 0 && packet.len() > all;
    let field = l4 + usize::from(header.csum_offset) + 2;
    (sound && field <= all).then_some(all)
}

/// The length of the packet as it is now; for IPv4 also the identification of this segment and the header's checksum.
fn set_ip_length(packet: &mut [u8], segment: usize) {
    let length = packet.len();
    if packet[0] >> 4 == 6 {
        packet[4..6].copy_from_slice(&((length - 40) as u16).to_be_bytes());
        return;
    }
    packet[2..4].copy_from_slice(&(length as u16).to_be_bytes());
    let id = u16::from_be_bytes([packet[4], packet[5]]).wrapping_add(segment as u16);
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    packet[10..12].fill(0);
    let header = usize::from(packet[0] & 15) * 4;
    let sum = !fold(words(&packet[..header]));
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

fn pseudo_header_sum(packet: &[u8], l4: usize) -> u16 {
    let (addresses, protocol) = match packet[0] >> 4 {
        4 => (&packet[12..20], packet[9]),
        // With extension headers the last one names the transport; it lies before `l4` and these peers use none.
        _ => (&packet[8..40], packet[6]),
    };
    fold(words(addresses) + u32::from(protocol) + (packet.len() - l4) as u32)
}

fn words(bytes: &[u8]) -> u32 {
    bytes
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// IPv4 and TCP (flags PSH, FIN, CWR) with 2,500 bytes in segments of 1,000.
    fn tcp() -> (VnetHeader, Vec<u8>) {
        let mut packet = vec![0; 40];
        packet[0] = 0x45;
        packet[4..6].copy_from_slice(&7u16.to_be_bytes());
        packet[9] = 6;
        packet[12..20].copy_from_slice(&[192, 0, 2, 1, 192, 0, 2, 2]);
        packet[24..28].copy_from_slice(&u32::MAX.to_be_bytes());
        packet[32] = 5 << 4;
        packet[33] = 0x99;
        packet.extend((0..2_500u32).map(|n| n as u8));
        let header = VnetHeader {
            flags: 1,
            gso_type: TCP_V4,
            gso_size: 1_000,
            header_len: 40,
            csum_start: 20,
            csum_offset: 16,
        };
        (header, packet)
    }

    #[test]
    fn a_part_of_tcp_has_its_own_length_sequence_and_flags() {
        let (header, packet) = tcp();
        let whole = Super::new(header, &packet);
        assert_eq!((whole.segments(), whole.segment_size()), (3, 1_040));
        let mut part = Vec::new();

        let first = whole.part(0..2, &mut part);
        assert_eq!((first.gso_size, part.len()), (1_000, 2_040));
        assert_eq!(part[33], 0x90, "no end and no push before the end");

        let last = whole.part(2..3, &mut part);
        assert_eq!((last.gso_type, last.gso_size, part.len()), (0, 0, 540));
        assert_eq!(part[33], 0x19);
        assert_eq!(part[24..28], 1_999u32.to_be_bytes());
        assert_eq!(part[4..6], 9u16.to_be_bytes());
        assert_eq!(part[40..], packet[2_040..]);
        assert_eq!(fold(words(&part[..20])), 0xffff, "the header's checksum");
        let pseudo = fold(words(&part[12..20]) + 6 + 520);
        assert_eq!(part[36..38], pseudo.to_be_bytes());
    }

    #[test]
    fn a_part_of_udp_has_its_own_lengths() {
        let mut packet = vec![0; 48];
        packet[0] = 0x60;
        packet[6] = 17;
        packet.extend([1; 1_250]);
        let header = VnetHeader {
            flags: 1,
            gso_type: UDP_L4,
            gso_size: 500,
            header_len: 48,
            csum_start: 40,
            csum_offset: 6,
        };
        let mut part = Vec::new();
        let out = Super::new(header, &packet).part(1..3, &mut part);
        assert_eq!((out.gso_size, part.len()), (500, 48 + 750));
        assert_eq!(part[4..6], 758u16.to_be_bytes());
        assert_eq!(part[44..46], 758u16.to_be_bytes());
    }

    #[test]
    fn what_cannot_be_cut_is_one_segment() {
        let (header, packet) = tcp();
        let lies = [
            VnetHeader {
                gso_size: 0,
                ..header
            },
            VnetHeader {
                csum_start: 2_539,
                ..header
            },
            VnetHeader {
                csum_offset: 60_000,
                ..header
            },
            VnetHeader { flags: 0, ..header },
            VnetHeader {
                gso_type: 3,
                ..header
            },
            VnetHeader::default(),
        ];
        for lie in lies {
            let whole = Super::new(lie, &packet);
            assert_eq!(whole.segments(), 1, "{lie:?}");
            let mut part = Vec::new();
            assert_eq!(whole.part(0..1, &mut part), lie);
            assert_eq!(part, packet);
        }
        assert_eq!(Super::new(header, &[]).segments(), 1);
    }
}
