//! What can be tuned.
use std::time::Duration;

/// What an application does with a stream (Java's `i2p.streaming.profile`).
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum Profile {
    /// Less than a packet waits a little for more.
    #[default]
    Bulk,
    /// Everything goes out at once, and says so in its flags.
    Interactive,
}

/// When CLOSE goes out after the program has finished writing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HalfClose {
    /// When the peer has closed, or was silent for three retransmission timeouts, but not less than `least` and not
    /// more than `most`. i2pd throws away what it still has to send when it sees CLOSE.
    Delayed {
        /// Shortest silence.
        least: Duration,
        /// Longest silence.
        most: Duration,
    },
    /// At once: right between peers that know half-closed streams (Java, and this implementation).
    Immediate,
}

/// Tunables; `Default` is what the program uses.
#[derive(Clone, Debug)]
pub struct Config {
    /// How long a peer may take to answer our SYN.
    pub connect_timeout: Duration,
    /// How long the program may take to accept or refuse.
    pub accept_timeout: Duration,
    /// Silence after which the peer is asked whether it is there; up to 10 s are added at random.
    pub keep_alive: Duration,
    /// How long less than a packet may wait for more, while others are in flight.
    pub passive_flush: Duration,
    /// Bytes of a stream that may wait to be sent.
    pub send_buffer: usize,
    /// See [`HalfClose`].
    pub half_close: HalfClose,
    /// See [`Profile`].
    pub profile: Profile,
    /// Most streams.
    pub max_streams: usize,
    /// Most streams that wait to be accepted.
    pub backlog: usize,
    /// Most SYNs and pings per second from one peer, and ten times that from all.
    pub requests_per_second: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(60),
            accept_timeout: Duration::from_secs(30),
            keep_alive: Duration::from_secs(90),
            passive_flush: Duration::from_millis(175),
            send_buffer: 256 * 1024,
            half_close: HalfClose::Delayed {
                least: Duration::from_secs(5),
                most: Duration::from_secs(15),
            },
            profile: Profile::Bulk,
            max_streams: 4096,
            backlog: 64,
            requests_per_second: 20,
        }
    }
}

impl Config {
    pub(super) fn flush_after(&self) -> Duration {
        match self.profile {
            Profile::Bulk => self.passive_flush,
            Profile::Interactive => Duration::ZERO,
        }
    }
}
