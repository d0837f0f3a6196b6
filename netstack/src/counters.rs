//! What is counted: one field per cause.

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Everything that was counted since the start; names are the fields'. All count packets unless they say otherwise.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        #[non_exhaustive]
        pub struct Counters { $($(#[$doc])* pub $name: u64,)* }

        impl Counters {
            /// All of them with their names.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),*].into_iter()
            }
        }
    };
}

counters! {
    /// Packets and super-packets from the operating system, before any check.
    from_os,
    /// Packets and super-packets handed to it by `poll_packet`.
    to_os,

    /// Dropped: shorter than an IPv6 header, or than its payload length says.
    truncated,
    /// Dropped: the IP version is not 6.
    not_ipv6,
    /// Dropped: bytes behind the payload length's end.
    trailing_bytes,
    /// Dropped: payload length 0, or a jumbo payload option (RFC 2675).
    jumbo,
    /// Dropped: extension headers that are too many, too long, misplaced, or ask to be discarded.
    bad_extension,
    /// Dropped: the offload information contradicts the packet.
    bad_offload,
    /// Dropped: wrong transport checksum (or none, for UDP: RFC 8200 §8.1).
    bad_checksum,
    /// Dropped: a TCP, UDP or ICMPv6 header that contradicts itself.
    bad_transport,
    /// Dropped quietly: multicast, link-local, loopback or unspecified destination.
    not_for_overlay,
    /// Dropped: the source is not an address of this machine.
    foreign_source,
    /// Dropped: the destination is this machine, which the kernel should have kept.
    to_ourselves,
    /// Answered with "no route": the destination is in no prefix.
    no_route,
    /// Answered with "hop limit exceeded".
    hop_limit,

    /// Dropped: a fragment whose size, offset or offload information is impossible.
    bad_fragment,
    /// Datagrams dropped whole because fragments overlapped (RFC 5722).
    fragment_overlap,
    /// Fragments dropped because reassembly had no room.
    fragment_no_room,
    /// Datagrams that were not complete in time.
    fragment_timeout,
    /// Datagrams reassembled.
    reassembled,

    /// Dropped: SYN for which there was no room (the kernel will try again).
    tcp_no_room,
    /// Ignored: further copies of a SYN that waits for its peer.
    tcp_duplicate_syn,
    /// Flows replaced by a SYN with another sequence number.
    tcp_replaced,
    /// Segments of unknown flows, answered with RST unless they were RST.
    tcp_unknown,
    /// Flows that were opened, in either direction.
    tcp_opened,
    /// Flows given up: no answer to `TcpOpen`, to our SYN, or to what was sent.
    tcp_timed_out,
    /// Times a flow was asked for packets: the measure of work that must not grow with idle flows.
    flow_polls,

    /// UDP datagrams handed to the sink.
    udp_from_os,
    /// Echo requests handed to the sink.
    echo_from_os,
    /// Echo requests to this node itself, answered.
    echo_self,
    /// Other packets handed to the sink.
    other_from_os,

    /// Packets not queued for the operating system: the queue was full.
    queue_full,
    /// Packets not built: larger than an IPv6 packet can be.
    oversize,
    /// Packets cut into fragments for the operating system.
    fragmented,
    /// ICMPv6 errors sent.
    errors_sent,
    /// ICMPv6 errors not sent: over the rate.
    errors_limited,
    /// ICMPv6 errors not sent: RFC 4443 §2.4 (e) forbids an answer, or the quote was no packet.
    errors_forbidden,
}
