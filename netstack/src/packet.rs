//! Parsing and checking of what the operating system sends. Nothing behind this module sees an unchecked length.

use std::net::Ipv6Addr;
use std::ops::Range;

use etherparse::checksum::Sum16BitWords;
use etherparse::{Ipv6FragmentHeaderSlice, Ipv6HeaderSlice, Ipv6RawExtHeaderSlice};

use crate::{Counters, Offload};

pub(crate) const IPV6_HEADER: usize = 40;
pub(crate) const UDP_HEADER: usize = 8;
pub(crate) const TCP_HEADER: usize = 20;
pub(crate) const ICMP_HEADER: usize = 8;

/// Next header values (IANA protocol numbers) that are treated here.
pub(crate) mod protocol {
    pub const HOP_BY_HOP: u8 = 0;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const ICMPV6: u8 = 58;
    pub const NONE: u8 = 59;
    pub const DESTINATION: u8 = 60;
    pub const MOBILITY: u8 = 135;
    pub const HIP: u8 = 139;
    pub const SHIM6: u8 = 140;
}

/// Extension headers walked before a packet counts as an attack: RFC 8504 §5.3 asks for such a limit.
const MAX_EXTENSIONS: usize = 8;
/// Bytes that they may have together.
const MAX_EXTENSION_BYTES: usize = 512;
const OPTION_PAD1: u8 = 0;
const OPTION_JUMBO: u8 = 0xc2;

/// Why a packet is dropped without an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Drop {
    Truncated,
    NotIpv6,
    TrailingBytes,
    Jumbo,
    Extension,
    Offload,
    Checksum,
    Transport,
    NotForOverlay,
    ForeignSource,
    ToOurselves,
    Fragment,
}

impl Counters {
    pub(crate) fn count(&mut self, drop: Drop) {
        *match drop {
            Drop::Truncated => &mut self.truncated,
            Drop::NotIpv6 => &mut self.not_ipv6,
            Drop::TrailingBytes => &mut self.trailing_bytes,
            Drop::Jumbo => &mut self.jumbo,
            Drop::Extension => &mut self.bad_extension,
            Drop::Offload => &mut self.bad_offload,
            Drop::Checksum => &mut self.bad_checksum,
            Drop::Transport => &mut self.bad_transport,
            Drop::NotForOverlay => &mut self.not_for_overlay,
            Drop::ForeignSource => &mut self.foreign_source,
            Drop::ToOurselves => &mut self.to_ourselves,
            Drop::Fragment => &mut self.bad_fragment,
        } += 1;
    }
}

/// The fixed header of a packet whose length is right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    pub from: Ipv6Addr,
    pub to: Ipv6Addr,
    pub hop_limit: u8,
    pub next_header: u8,
}

impl Header {
    /// Checks version and length (S4).
    pub fn parse(packet: &[u8]) -> Result<Self, Drop> {
        let Some(&first) = packet.first() else {
            return Err(Drop::Truncated);
        };
        if first >> 4 != 6 {
            return Err(Drop::NotIpv6);
        }
        let header = Ipv6HeaderSlice::from_slice(packet).map_err(|_| Drop::Truncated)?;
        match (
            packet.len() - IPV6_HEADER,
            usize::from(header.payload_length()),
        ) {
            // Nothing can follow, or its length stands in a jumbo payload option.
            (_, 0) => return Err(Drop::Jumbo),
            (present, said) if present < said => return Err(Drop::Truncated),
            (present, said) if present > said => return Err(Drop::TrailingBytes),
            _ => {}
        }
        Ok(Self {
            from: header.source_addr(),
            to: header.destination_addr(),
            hop_limit: header.hop_limit(),
            next_header: header.next_header().0,
        })
    }
}

/// A Fragment header (RFC 8200 §4.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FragmentHeader {
    /// Where it starts.
    pub at: usize,
    /// Where the byte stands that says that it follows.
    pub announced_at: usize,
    pub next_header: u8,
    pub id: u32,
    /// Bytes.
    pub offset: usize,
    pub more: bool,
}

/// What follows the fixed header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Upper {
    /// A transport protocol's packet starts at `at`.
    Whole { protocol: u8, at: usize },
    /// A piece of one.
    Fragment(FragmentHeader),
}

/// Walks the extension headers.
pub(crate) fn upper(packet: &[u8], first: u8) -> Result<Upper, Drop> {
    let mut next = first;
    let mut announced_at = 6;
    let mut at = IPV6_HEADER;
    for _ in 0..=MAX_EXTENSIONS {
        if at - IPV6_HEADER > MAX_EXTENSION_BYTES {
            return Err(Drop::Extension);
        }
        let rest = &packet[at..];
        match next {
            // RFC 8200 §4.1: only directly behind the fixed header.
            protocol::HOP_BY_HOP if at != IPV6_HEADER => return Err(Drop::Extension),
            protocol::HOP_BY_HOP | protocol::DESTINATION => {
                let header =
                    Ipv6RawExtHeaderSlice::from_slice(rest).map_err(|_| Drop::Extension)?;
                check_options(header.payload())?;
                (announced_at, next) = (at, header.next_header().0);
                at += header.slice().len();
            }
            protocol::ROUTING => {
                let header =
                    Ipv6RawExtHeaderSlice::from_slice(rest).map_err(|_| Drop::Extension)?;
                // Segments left: the packet wants to be sent on through others (RFC 5095).
                if header.payload()[1] != 0 {
                    return Err(Drop::Extension);
                }
                (announced_at, next) = (at, header.next_header().0);
                at += header.slice().len();
            }
            protocol::FRAGMENT => {
                let header =
                    Ipv6FragmentHeaderSlice::from_slice(rest).map_err(|_| Drop::Extension)?;
                return Ok(Upper::Fragment(FragmentHeader {
                    at,
                    announced_at,
                    next_header: header.next_header().0,
                    id: header.identification(),
                    offset: usize::from(header.fragment_offset().value()) * 8,
                    more: header.more_fragments(),
                }));
            }
            protocol::NONE | protocol::MOBILITY | protocol::HIP | protocol::SHIM6 => {
                return Err(Drop::Extension);
            }
            protocol => return Ok(Upper::Whole { protocol, at }),
        }
    }
    Err(Drop::Extension)
}

/// Options of a hop-by-hop or destination header: unknown ones may be skipped only if they say so (RFC 8200 §4.2).
fn check_options(mut options: &[u8]) -> Result<(), Drop> {
    while let [kind, rest @ ..] = options {
        if *kind == OPTION_PAD1 {
            options = rest;
            continue;
        }
        if *kind == OPTION_JUMBO {
            return Err(Drop::Jumbo);
        }
        let Some((&length, rest)) = rest.split_first() else {
            return Err(Drop::Extension);
        };
        if kind >> 6 != 0 || rest.len() < usize::from(length) {
            return Err(Drop::Extension);
        }
        options = &rest[usize::from(length)..];
    }
    Ok(())
}

/// Where a protocol keeps its checksum, counted from the start of its header.
fn checksum_field(protocol: u8) -> Option<usize> {
    match protocol {
        protocol::TCP => Some(16),
        protocol::UDP => Some(6),
        protocol::ICMPV6 => Some(2),
        _ => None,
    }
}

/// The sum of the pseudo-header (RFC 8200 §8.1).
fn pseudo_sum(from: Ipv6Addr, to: Ipv6Addr, protocol: u8, length: usize) -> Sum16BitWords {
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    Sum16BitWords::new()
        .add_16bytes(from.octets())
        .add_16bytes(to.octets())
        .add_4bytes(length.to_be_bytes())
        .add_2bytes([0, protocol])
}

/// Writes the whole checksum of a TCP, UDP or ICMPv6 packet that starts at `at`.
pub(crate) fn fill_checksum(
    packet: &mut [u8],
    at: usize,
    from: Ipv6Addr,
    to: Ipv6Addr,
    protocol: u8,
) {
    let Some(field) =
        checksum_field(protocol).and_then(|f| packet.get(at + f..at + f + 2).map(|_| at + f))
    else {
        return;
    };
    packet[field..field + 2].fill(0);
    let sum = pseudo_sum(from, to, protocol, packet.len() - at).add_slice(&packet[at..]);
    // RFC 768: a sum of zero is sent as all ones, because zero means "none". For TCP and ICMPv6 both mean the same.
    packet[field..field + 2].copy_from_slice(&sum.to_ones_complement_with_no_zero().to_ne_bytes());
}

/// Writes only the pseudo-header's sum, for whoever completes the checksum, and returns what to tell it.
pub(crate) fn partial_checksum(
    packet: &mut [u8],
    at: usize,
    from: Ipv6Addr,
    to: Ipv6Addr,
    protocol: u8,
) -> Option<(u16, u16)> {
    let offset = checksum_field(protocol)?;
    let sum = !pseudo_sum(from, to, protocol, packet.len() - at).ones_complement();
    packet
        .get_mut(at + offset..at + offset + 2)?
        .copy_from_slice(&sum.to_ne_bytes());
    Some((u16::try_from(at).ok()?, u16::try_from(offset).ok()?))
}

/// Checks the transport checksum of a whole packet, or that its offload information is consistent.
///
/// A partial checksum comes from the kernel of this machine, which has the data from its own memory: it is trusted.
pub(crate) fn check_checksum(
    packet: &mut [u8],
    at: usize,
    header: &Header,
    protocol: u8,
    offload: &Offload,
) -> Result<(), Drop> {
    let field = checksum_field(protocol);
    if let Some((start, offset)) = offload.checksum {
        let (start, offset) = (usize::from(start), usize::from(offset));
        let place = start + offset..start + offset + 2;
        if start != at || field.is_some_and(|field| field != offset) || place.end > packet.len() {
            return Err(Drop::Offload);
        }
        if field.is_none() {
            complete_checksum(packet, start, place);
        }
        return Ok(());
    }
    let Some(field) = field else { return Ok(()) };
    let Some(value) = packet.get(at + field..at + field + 2) else {
        return Err(Drop::Transport);
    };
    if protocol == protocol::UDP && value == [0, 0] {
        return Err(Drop::Checksum);
    }
    let sum =
        pseudo_sum(header.from, header.to, protocol, packet.len() - at).add_slice(&packet[at..]);
    if sum.ones_complement() == 0 {
        Ok(())
    } else {
        Err(Drop::Checksum)
    }
}

/// Does what the kernel left to the interface, for a protocol that we carry without knowing it.
fn complete_checksum(packet: &mut [u8], start: usize, place: Range<usize>) {
    let sum = Sum16BitWords::new()
        .add_slice(&packet[start..])
        .ones_complement();
    packet[place].copy_from_slice(&sum.to_ne_bytes());
}

/// Takes the extension headers out from between the fixed header and the transport header at `at`:
/// the result starts with a fixed header again and ends where `packet` does.
pub(crate) fn strip_extensions(packet: &mut [u8], at: usize, protocol: u8) -> &mut [u8] {
    let skipped = at - IPV6_HEADER;
    packet.copy_within(0..IPV6_HEADER, skipped);
    let packet = &mut packet[skipped..];
    set_payload_length(packet);
    packet[6] = protocol;
    packet
}

/// Makes the payload length say what is there.
pub(crate) fn set_payload_length(packet: &mut [u8]) {
    let length = u16::try_from(packet.len() - IPV6_HEADER).unwrap_or(u16::MAX);
    packet[4..6].copy_from_slice(&length.to_be_bytes());
}

/// A fixed header as we send it.
pub(crate) fn ipv6_header(
    from: Ipv6Addr,
    to: Ipv6Addr,
    next_header: u8,
    payload: u16,
) -> [u8; IPV6_HEADER] {
    etherparse::Ipv6Header {
        traffic_class: 0,
        flow_label: etherparse::Ipv6FlowLabel::ZERO,
        payload_length: payload,
        next_header: etherparse::IpNumber(next_header),
        hop_limit: 64,
        source: from.octets(),
        destination: to.octets(),
    }
    .to_bytes()
}
