//! What goes in and out of a server beside payload: names, commands, counters.

use std::net::SocketAddr;

use crate::frame::Transport;

/// Who a client is to the server: the 5-tuple of RFC 8656 §2.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FiveTuple {
    /// How the client talks to us.
    pub transport: Transport,
    /// Its address as we see it.
    pub client: SocketAddr,
    /// The address of ours that it talks to.
    pub server: SocketAddr,
}

impl FiveTuple {
    /// As bytes, for the nonce's HMAC. Over a stream without the client's port: clients send the nonce of their control
    /// connection with the ConnectionBind of another one (RFC 6062 §4.3), and TCP has shown the address already.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.transport as u8];
        let stream = self.transport.is_stream();
        let client_port = if stream { 0 } else { self.client.port() };
        for (ip, port) in [
            (self.client.ip(), client_port),
            (self.server.ip(), self.server.port()),
        ] {
            match ip {
                std::net::IpAddr::V4(a) => bytes.extend(a.octets()),
                std::net::IpAddr::V6(a) => bytes.extend(a.octets()),
            }
            bytes.extend(port.to_be_bytes());
        }
        bytes
    }
}

/// A relay socket. Never used twice: a late packet for a closed one meets nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RelayId {
    pub(super) index: u32,
    pub(super) generation: u32,
}

impl RelayId {
    /// A small number that no other open relay of the shard has: a place in the owner's table.
    #[must_use]
    pub fn slot(self) -> usize {
        self.index as usize
    }
}

/// A TCP connection between a relay and a peer: CONNECTION-ID on the wire (RFC 6062).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u32);

/// What the owner of the sockets is to do. Nothing here is on the way of relayed datagrams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Send this message to a client.
    Send {
        /// To whom.
        to: FiveTuple,
        /// One STUN message; in a stream it goes as it is.
        bytes: Vec<u8>,
    },
    /// Bind a relay socket and say [`super::Server::relay_opened`].
    OpenRelay {
        /// Its name from now on.
        relay: RelayId,
        /// Where exactly.
        address: SocketAddr,
        /// A listening TCP socket instead of a UDP one (RFC 6062).
        tcp: bool,
        /// Bind the next port too and keep that socket under its address; if either fails, neither is bound.
        pair: bool,
    },
    /// The socket kept under this address is this relay now. Say [`super::Server::relay_opened`].
    AdoptRelay {
        /// Its name from now on.
        relay: RelayId,
        /// Under which it was kept.
        address: SocketAddr,
    },
    /// Close a relay socket, or stop opening it.
    CloseRelay {
        /// Which one.
        relay: RelayId,
    },
    /// Close the socket kept under this address: nobody came for it.
    CloseReserved {
        /// Under which it was kept.
        address: SocketAddr,
    },
    /// Connect from the relay's address to a peer and say [`super::Server::peer_connected`].
    Connect {
        /// The connection's name from now on.
        connection: ConnectionId,
        /// From which relay's address.
        relay: RelayId,
        /// To whom.
        peer: SocketAddr,
    },
    /// From now on pass bytes between this peer connection and this client's stream, unchanged: first what the peer
    /// has sent already, and what the client sent behind its request. Send the queued answer first.
    Join {
        /// The peer's side.
        connection: ConnectionId,
        /// The client's side.
        client: FiveTuple,
    },
    /// Close a connection to a peer, or stop making it.
    CloseConnection {
        /// Which one.
        connection: ConnectionId,
    },
    /// Close a client's stream, after what is queued for it.
    CloseClient {
        /// Which one.
        client: FiveTuple,
    },
}

/// Why a relay socket is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// The port is in use: another one will be tried.
    InUse,
    /// Anything else: no sockets left, no such address.
    Failed,
}

/// An ICMP error about something that a relay sent (RFC 8656 §11.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// ICMP or, for an IPv6 peer, ICMPv6 type.
    pub kind: u8,
    /// The code.
    pub code: u8,
    /// The MTU in "fragmentation needed" and "packet too big", else 0.
    pub data: u32,
    /// To whom the packet was sent that the error quotes.
    pub peer: SocketAddr,
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What happened so far. All only grow.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub struct Counters { $($(#[$doc])* pub $name: u64,)* }

        impl Counters {
            /// Adds those of another shard.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            /// Names and values, for metrics.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

counters! {
    /// Datagrams relayed to peers, and their payload.
    to_peer_packets, to_peer_bytes,
    /// Datagrams relayed to clients, and their payload.
    to_client_packets, to_client_bytes,
    /// ICMP errors passed on to clients.
    icmp_forwarded,
    /// Allocations made.
    allocations,
    /// Requests answered with success.
    successes,
    /// Requests answered with an error, by kind.
    unauthorized, stale_nonces, bad_requests, forbidden, quota_reached, no_capacity, other_errors, redirected,
    /// Neither STUN nor ChannelData, or malformed.
    dropped_malformed,
    /// From somebody without an allocation, or for a relay that is gone.
    dropped_no_allocation,
    /// On a channel that is not bound.
    dropped_no_channel,
    /// To or from a peer without permission.
    dropped_no_permission,
    /// To a port that the policy refuses.
    dropped_policy,
    /// Beyond an allocation's, a user's or the server's rate.
    dropped_rate,
    /// Answers not given: more than one source may get.
    dropped_refusals,
    /// Answers not given: larger than four times the request.
    dropped_amplification,
    /// TCP connections from peers not taken.
    dropped_connections,
}
