//! The virtio-net header as the netstack sees it.

use anode_netstack::{Offload, SegmentKind, Segments};
use anode_platform::tun::VnetHeader;

const NEEDS_CSUM: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// Flag of `gso_type`: the segments carry CWR handling; of no concern here.
const GSO_ECN: u8 = 0x80;

/// What the kernel says of a packet that it gives. A kind that is not asked for becomes segments of size 0, which the
/// netstack refuses and counts.
pub fn decode(header: VnetHeader) -> Offload {
    let kind = match header.gso_type & !GSO_ECN {
        0 => None,
        GSO_UDP_L4 => Some((SegmentKind::Udp, header.gso_size)),
        GSO_TCPV6 => Some((SegmentKind::Tcp6, header.gso_size)),
        _ => Some((SegmentKind::Tcp6, 0)),
    };
    Offload {
        checksum: (header.flags & NEEDS_CSUM != 0)
            .then_some((header.csum_start, header.csum_offset)),
        segments: kind.map(|(kind, size)| Segments {
            kind,
            size,
            header_len: header.header_len,
        }),
    }
}

/// What the kernel has to know of a packet that it gets.
pub fn encode(offload: Offload) -> VnetHeader {
    let mut header = VnetHeader::default();
    if let Some((start, offset)) = offload.checksum {
        header.flags = NEEDS_CSUM;
        header.csum_start = start;
        header.csum_offset = offset;
    }
    if let Some(segments) = offload.segments {
        header.gso_type = match segments.kind {
            SegmentKind::Tcp6 => GSO_TCPV6,
            SegmentKind::Udp => GSO_UDP_L4,
        };
        header.gso_size = segments.size;
        header.header_len = segments.header_len;
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_the_way_there_and_back() {
        for (kind, gso_type) in [
            (SegmentKind::Tcp6, GSO_TCPV6),
            (SegmentKind::Udp, GSO_UDP_L4),
        ] {
            let offload = Offload {
                checksum: Some((40, 16)),
                segments: Some(Segments {
                    kind,
                    size: 1220,
                    header_len: 60,
                }),
            };
            let header = encode(offload);
            assert_eq!(
                (
                    header.flags,
                    header.gso_type,
                    header.gso_size,
                    header.header_len
                ),
                (1, gso_type, 1220, 60)
            );
            assert_eq!(decode(header), offload);
            assert_eq!(
                decode(VnetHeader {
                    gso_type: gso_type | GSO_ECN,
                    ..header
                }),
                offload
            );
        }
        assert_eq!(decode(encode(Offload::default())), Offload::default());
    }

    #[test]
    fn a_segment_kind_that_was_not_asked_for_is_one_that_the_netstack_refuses() {
        let tcp4 = decode(VnetHeader {
            gso_type: 1,
            gso_size: 1400,
            ..Default::default()
        });
        assert_eq!(tcp4.segments.map(|s| s.size), Some(0));
    }
}
