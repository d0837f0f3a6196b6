//! What was counted: every packet that is dropped is dropped into one of these.

crate::counters::counters! {
    "Counters of a node since its start; the names are what `status` and the metrics show.";

    /// Packets received from the underlay.
    rx_packets,
    /// Bytes received from the underlay.
    rx_bytes,
    /// Packets handed to the underlay.
    tx_packets,
    /// Bytes handed to the underlay.
    tx_bytes,
    /// Not an Anode packet: too short, an impossible address type.
    dropped_malformed,
    /// Authentic, but its message could not be read.
    dropped_bad_message,
    /// Hop count 255; to be relayed: above 16 (D18).
    dropped_hop_limit,
    /// Our own address as sender: reflected or looped.
    dropped_own_sender,
    /// Addressed to somebody else, and we do not relay.
    dropped_not_for_us,
    /// "Authentication error" packets (flag 0x04), which never have an effect (A42).
    dropped_auth_error,
    /// A short sender id that we know nobody of.
    dropped_unknown_sender,
    /// The MAC did not match.
    dropped_bad_mac,
    /// Dropped early: too many MAC failures from this source, or under this sender's name (D39).
    dropped_blocked_source,
    /// First packets of strangers beyond the budget for key agreements.
    dropped_first_contact,
    /// Sender addresses that are not valid (D9).
    dropped_bad_address,
    /// Seen before (D38).
    dropped_replay,
    /// Questions over other uplinks than the kernel's, where that gave no answer.
    tx_other_uplinks,
    /// Changes to another uplink, and back to the kernel's.
    uplink_changes,
    /// Forbidden in plain by the policy, or since there is a session (Q23, Q26).
    dropped_policy,
    /// RELOAD messages received.
    rx_reload,
    /// RELOAD messages beyond the budget, or too large.
    dropped_reload,
    /// Packets of the sealed sessions without effect; their own counters say why.
    dropped_sealed,
    /// Scalar multiplications on P-256, by the sessions and for the MACs of plain packets: the dearest work that strangers
    /// can ask for (Q7).
    key_agreements,
    /// Sealed packets received.
    rx_sealed,
    /// Sealed packets sent.
    tx_sealed,
    /// Sessions established, renewed ones among them.
    sessions,
    /// Handshakes of ours that came to nothing.
    handshakes_failed,
    /// Messages sent in fragments (Q21).
    tx_fragmented,
    /// Messages put together from fragments.
    rx_reassembled,
    /// Resets sent for unknown streams inside a session (Q22).
    tx_resets,
    /// JOINs and their like beyond their budget.
    dropped_controls,
    /// Nothing sent to an endpoint that has not proven itself, beyond three times what came from it (Q25).
    dropped_unproven,
    /// Times that the clocks jumped apart and all sessions were dropped (Q17).
    clock_jumps,
    /// Message types we know and do nothing about.
    ignored_messages,
    /// ERROR messages received.
    rx_errors,
    /// ERROR messages sent.
    tx_errors,
    /// Replies to unproven sources beyond their rate.
    dropped_reply_limit,
    /// EPC that answers no question of ours, too late, or from another place (D24).
    epc_unexpected,
    /// EPC_REQs not sent because too many were outstanding.
    dropped_checks,
    /// Paths proven by an EPC.
    paths_proven,
    /// Paths forgotten after three misses.
    paths_lost,
    /// New source endpoints of peers that were not looked at: limit, or not acceptable.
    dropped_nominations,
    /// Endpoints that others told us and that must not be dialled (S16).
    refused_endpoints,
    /// EPI hints beyond their budget.
    dropped_hints,
    /// Changes of our own interfaces that were followed.
    link_changes,
    /// Changes that came before the last one was followed, and were followed with it.
    link_changes_joined,
    /// Beacons received of other nodes.
    rx_beacons,
    /// Our own beacons heard.
    rx_own_beacons,
    /// Beacons sent.
    tx_beacons,
    /// Beacons refused: LAN off, not on-link, relayed, or above the limits.
    dropped_beacons,
    /// Peers evicted from the table.
    peers_evicted,
    /// Strangers refused because the table was full of peers in use.
    peers_refused,
    /// NETID_REQs not answered (D25).
    dropped_netid,
    /// WHOIS not answered: not about us, or smaller than the answer.
    dropped_whois,
    /// IAM with an address that is not what was asked for.
    dropped_iam,
    /// Packets waiting for a path that did not fit the queue, or whose peer was not found.
    dropped_held,
    /// Packets that did not fit the output queue.
    dropped_output,
    /// Datagrams or pings larger than the path carries.
    too_big,
    /// PONGs that answer no ping of ours.
    dropped_pongs,
    /// Pings refused because too many were outstanding.
    dropped_pings,
    /// Stream packets without a stream; in plain nobody answers (D35).
    dropped_unknown_stream,
    /// S_OPENs beyond the limits on pending streams (S22).
    dropped_opens,
    /// Streams opened by us or by peers.
    streams,
    /// Events that the program did not fetch in time.
    dropped_events,
    /// NAT_T messages sent.
    tx_offers,
    /// NAT_T messages without effect: unreadable, in plain, too many, or of a stranger that nothing of ours talks to (Q28).
    refused_offers,
    /// EPC_REQs to places that peers have named, guessed ports among them.
    tx_punches,
    /// The same that were not sent, beyond the budget of their IP address or of all.
    dropped_punches,
    /// Searches for a port of a symmetric NAT.
    searches,
    /// The same that were not begun, beyond the budgets.
    refused_searches,
    /// Tries for a direct path that ended relayed.
    holes_failed,
    /// Sockets for holes that the system did not give.
    sockets_refused,
    /// Relays of ours that did not answer three PINGs.
    relays_lost,
    /// Packets passed on to registered peers.
    relayed_packets,
    /// Bytes passed on.
    relayed_bytes,
    /// Peers registered for relaying, again after an end among them.
    relay_registrations,
    /// Registrations that were not renewed.
    relay_expired,
    /// PINGs that did not register: of another zone, relayed, or in plain.
    relay_refused,
    /// Registrations beyond the table.
    relay_full,
    /// Registrations beyond what one source may have.
    relay_full_source,
    /// Registrations of an address whose short id another one has.
    relay_same_id,
    /// Packets for somebody who is not registered.
    relay_unregistered,
    /// Packets whose recipient is where they came from.
    relay_back,
    /// Packets of a source beyond its rate.
    relay_source_limit,
    /// Packets to a peer beyond its rate.
    relay_recipient_limit,
    /// Packets beyond the rate of all.
    relay_limit,
    /// Packets to be passed on that did not fit the queue.
    relay_overflow,
    /// Padded PINGs that asked for larger packets (RFC 8899).
    size_probes,
    /// Times that full packets no longer passed a path (RFC 8899 §4.3).
    black_holes,
    /// Presence EPIs that were answered with a question.
    rx_presences,
    /// Times that a TURN server was needed.
    turn_orders,
    /// EPIs with a relayed address of ours.
    tx_turn_offers,
    /// The network refused a packet: unreachable, too big, no buffer.
    tx_refused,
}
