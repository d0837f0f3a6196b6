//! What can be tuned.
use super::send::Flush;
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
    /// i2pd throws away what it still has to send when it sees CLOSE, and a program that has finished may be waiting for
    /// just that: CLOSE goes out when the peer has closed, or was silent for a time that is stated here. It goes out
    /// at once where there is nothing to lose: to a peer whose SYN says that it knows half-closed streams
    /// (`HALF_CLOSE_HINT`), and behind the answer to a stream that the peer has opened.
    Held {
        /// Silence, at least, after something of the answer has come; three retransmission timeouts if that is more. A
        /// change of tunnels can take ten seconds.
        pause: Duration,
        /// Silence while nothing has come since the last byte went out: how long a peer may think. Also the most
        /// for `pause`.
        answer: Duration,
    },
    /// At once, whoever the peer is.
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
    /// The same while none is. A program that writes its request in pieces shall not send as many packets: i2pd's web tunnels
    /// take the end of a packet for the end of a line.
    pub gather: Duration,
    /// Bytes of a stream that may wait to be sent.
    pub send_buffer: usize,
    /// See [`HalfClose`].
    pub half_close: HalfClose,
    /// SYNs say that half-closed streams are known here.
    pub says_half_close: bool,
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
            gather: Duration::from_millis(4),
            send_buffer: 256 * 1024,
            half_close: HalfClose::Held {
                pause: Duration::from_secs(20),
                answer: Duration::from_secs(60),
            },
            says_half_close: true,
            profile: Profile::Bulk,
            max_streams: 4096,
            backlog: 64,
            requests_per_second: 20,
        }
    }
}

impl Config {
    pub(super) fn flush(&self) -> Flush {
        let (idle, busy) = match self.profile {
            Profile::Bulk => (self.gather, self.passive_flush),
            Profile::Interactive => (Duration::ZERO, Duration::ZERO),
        };
        Flush { idle, busy }
    }
}
