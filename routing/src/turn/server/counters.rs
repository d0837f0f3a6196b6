//! What the sockets count.

macro_rules! io_counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What the sockets have counted. All only grow.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct IoCounters { $($(#[$doc])* pub $name: u64,)* }

        impl IoCounters {
            pub(super) fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            /// Names and values, for metrics.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

io_counters! {
    /// Datagrams that a socket did not take: no room, no way there, too large.
    lost_datagrams,
    /// Datagrams for clients over TCP or TLS whose connection takes no more.
    lost_to_streams,
    /// Datagrams for clients over DTLS whose session takes no more.
    lost_to_sessions,
    /// Connections refused: too many in all, or of one source.
    refused_streams,
    /// Handshakes over DTLS refused, and datagrams that belong to none.
    refused_sessions,
}
