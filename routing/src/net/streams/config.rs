//! What the node is told about its connections, and what they count.
use super::proxy::ProxyExcept;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

/// Bounds of what strangers can make grow.
#[derive(Clone, Debug)]
pub struct StreamLimits {
    /// Connections that came in.
    pub inbound: usize,
    /// Of these, from one IPv4 address or one IPv6 /64. HTTP takes two for each peer.
    pub inbound_per_network: usize,
    /// Places that this node has dialled, or wants to.
    pub dialled: usize,
    /// Bytes that wait for all connections together.
    pub waiting: usize,
}

impl Default for StreamLimits {
    fn default() -> Self {
        // D14, and twice its number for each source, because of HTTP.
        Self {
            inbound: 256,
            inbound_per_network: 16,
            dialled: 256,
            waiting: 16 << 20,
        }
    }
}

/// What the node is told about its connections at its start.
#[derive(Clone, Debug, Default)]
pub struct StreamConfig {
    /// Where connections of all kinds are accepted.
    pub listen: Vec<SocketAddr>,
    /// An HTTP proxy that TLS, HTTP and HTTPS go through, by CONNECT; framed TCP always goes straight.
    pub proxy: Option<SocketAddr>,
    /// What is dialled without that proxy.
    pub except: ProxyExcept,
    /// Bounds.
    pub limits: StreamLimits,
}

/// A file that `GET /z` gives: the zone file (A8, A9).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServedZone {
    /// Its bytes.
    pub bytes: Arc<[u8]>,
    /// When it was last changed, to the second.
    pub modified: SystemTime,
}

macro_rules! stream_counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of the connections since the start.
        #[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
        #[non_exhaustive]
        pub struct StreamCounters { $($(#[$doc])* pub $name: u64,)* }
        impl StreamCounters {
            /// All of them with their names.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),*].into_iter()
            }
        }
    };
}

stream_counters! {
    /// Connections that came in.
    accepted,
    /// Of these, refused: too many in all or from one source.
    refused,
    /// Connections dialled.
    dialled,
    /// Dialled ones that never stood.
    dial_failed,
    /// Closed for what the other side sent: an impossible frame, no HTTP.
    malformed,
    /// Closed because something took too long.
    timed_out,
    /// Packets received.
    rx_packets,
    /// Packets dropped because newer ones waited behind them, or their connection was gone.
    dropped_packets,
    /// Packets to a place that just failed, or that cannot be dialled.
    dropped_unreachable,
    /// Requests for a file.
    files,
}
