//! What is counted: one field per cause.

/// Everything that was counted since the start; names are the fields'. All count packets unless they say otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Counters {
    /// Packets and super-packets from the operating system, before any check.
    pub from_os: u64,
    /// Packets and super-packets handed to it by `poll_packet`.
    pub to_os: u64,

    /// Dropped: shorter than an IPv6 header, or than its payload length says.
    pub truncated: u64,
    /// Dropped: the IP version is not 6.
    pub not_ipv6: u64,
    /// Dropped: bytes behind the payload length's end.
    pub trailing_bytes: u64,
    /// Dropped: payload length 0, or a jumbo payload option (RFC 2675).
    pub jumbo: u64,
    /// Dropped: extension headers that are too many, too long, misplaced, or ask to be discarded.
    pub bad_extension: u64,
    /// Dropped: the offload information contradicts the packet.
    pub bad_offload: u64,
    /// Dropped: wrong transport checksum (or none, for UDP: RFC 8200 §8.1).
    pub bad_checksum: u64,
    /// Dropped: a TCP, UDP or ICMPv6 header that contradicts itself.
    pub bad_transport: u64,
    /// Dropped quietly: multicast, link-local, loopback or unspecified destination.
    pub not_for_overlay: u64,
    /// Dropped: the source is not an address of this machine.
    pub foreign_source: u64,
    /// Dropped: the destination is this machine, which the kernel should have kept.
    pub to_ourselves: u64,
    /// Answered with "no route": the destination is in no prefix.
    pub no_route: u64,
    /// Answered with "hop limit exceeded".
    pub hop_limit: u64,

    /// Dropped: a fragment whose size, offset or offload information is impossible.
    pub bad_fragment: u64,
    /// Datagrams dropped whole because fragments overlapped (RFC 5722).
    pub fragment_overlap: u64,
    /// Fragments dropped because reassembly had no room.
    pub fragment_no_room: u64,
    /// Datagrams that were not complete in time.
    pub fragment_timeout: u64,
    /// Datagrams reassembled.
    pub reassembled: u64,

    /// Dropped: SYN for which there was no room (the kernel will try again).
    pub tcp_no_room: u64,
    /// Ignored: further copies of a SYN that waits for its peer.
    pub tcp_duplicate_syn: u64,
    /// Flows replaced by a SYN with another sequence number.
    pub tcp_replaced: u64,
    /// Segments of unknown flows, answered with RST unless they were RST.
    pub tcp_unknown: u64,
    /// Flows that were opened, in either direction.
    pub tcp_opened: u64,
    /// Flows given up: no answer to `TcpOpen`, to our SYN, or to what was sent.
    pub tcp_timed_out: u64,
    /// Times a flow was asked for packets: the measure of work that must not grow with idle flows.
    pub flow_polls: u64,

    /// UDP datagrams handed to the sink.
    pub udp_from_os: u64,
    /// Echo requests handed to the sink.
    pub echo_from_os: u64,
    /// Echo requests to this node itself, answered.
    pub echo_self: u64,
    /// Other packets handed to the sink.
    pub other_from_os: u64,

    /// Packets not queued for the operating system: the queue was full.
    pub queue_full: u64,
    /// Packets not built: larger than an IPv6 packet can be.
    pub oversize: u64,
    /// Packets cut into fragments for the operating system.
    pub fragmented: u64,
    /// ICMPv6 errors sent.
    pub errors_sent: u64,
    /// ICMPv6 errors not sent: over the rate.
    pub errors_limited: u64,
    /// ICMPv6 errors not sent: RFC 4443 §2.4 (e) forbids an answer, or the quote was no packet.
    pub errors_forbidden: u64,
}
