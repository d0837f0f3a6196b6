//! What was dropped and why, and what work was done.

macro_rules! drops {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+) => {
        /// Why a packet had no effect.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(usize)]
        pub enum Drop { $($(#[doc = $doc])+ $name,)+ }

        impl Drop {
            /// All reasons.
            pub const ALL: &'static [Drop] = &[$(Drop::$name,)+];

            /// For metrics: lower case with underscores.
            pub fn name(self) -> &'static str {
                match self { $(Drop::$name => $text,)+ }
            }
        }
    };
}

drops! {
    /// Too short, too long, or a field that cannot be.
    Malformed = "malformed",
    /// For another address.
    NotForUs = "not_for_us",
    /// Our own packet came back.
    Reflected = "reflected",
    /// A version of the handshake that this program does not know.
    Version = "version",
    /// mac1 is wrong: the sender does not know whom it calls (Q4).
    Mac1 = "mac1",
    /// No budget left for HELLOs of this kind (Q7).
    Budget = "budget",
    /// Under load: a COOKIE was sent instead of work (Q8).
    CookieDemanded = "cookie_demanded",
    /// Under load, and no COOKIE either: this network has had enough of them.
    CookieBudget = "cookie_budget",
    /// The sender's address is none.
    Address = "address",
    /// The draft's CMAC is wrong.
    Cmac = "cmac",
    /// A HELLO that is not newer than the last one that led to a session (Q5).
    Stale = "stale",
    /// Noise did not accept it.
    Noise = "noise",
    /// The peer cannot do ML-KEM, and policy or its past demand it (Q14).
    PqRequired = "pq_required",
    /// No pending handshake or session under this index.
    UnknownIndex = "unknown_index",
    /// Addresses or peer ids are not the session's own (Q19).
    WrongParty = "wrong_party",
    /// Counter seen or too old (Q20).
    Replay = "replay",
    /// The tag is wrong.
    Tag = "tag",
    /// Past its time (Q16).
    Expired = "expired",
    /// Traffic in a session whose ML-KEM is not through (Q14).
    BeforeKem = "before_kem",
    /// A KEM message that does not fit the state.
    Kem = "kem",
    /// A fragment that contradicts another, or none that can be (Q21).
    Fragment = "fragment",
    /// No room for a fragment's datagram (Q21).
    FragmentRoom = "fragment_room",
    /// A datagram that was not complete in time (Q21).
    FragmentTimeout = "fragment_timeout",
    /// A COOKIE or ERROR that answers nothing of ours, or too late (Q8, Q24).
    NotExpected = "not_expected",
    /// An ERROR not sent, since there were too many (Q24).
    ErrorThrottled = "error_throttled",
    /// The table of peers is full of peers that must stay.
    PeersFull = "peers_full",
    /// A HELLO, where the policy is to speak in plain only.
    PlainOnly = "plain_only",
    /// The queue of outgoing packets was full.
    QueueFull = "queue_full",
}

/// Sums since the start.
#[derive(Clone, Debug)]
pub struct Counters {
    drops: [u64; Drop::ALL.len()],
    /// HELLOs sent, retries among them.
    pub hellos_sent: u64,
    /// HELLOs answered by a WELCOME.
    pub welcomes_sent: u64,
    /// COOKIEs sent.
    pub cookies_sent: u64,
    /// ERRORs for unknown indices sent.
    pub errors_sent: u64,
    /// ML-KEM operations: keys made, encapsulations, decapsulations.
    pub kem_operations: u64,
    /// Noise handshakes completed.
    pub handshakes: u64,
    /// Peers forgotten to make room.
    pub peers_evicted: u64,
    /// Cached agreements forgotten to make room.
    pub agreements_evicted: u64,
    /// Sessions dropped to make room.
    pub sessions_evicted: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            drops: [0; Drop::ALL.len()],
            hellos_sent: 0,
            welcomes_sent: 0,
            cookies_sent: 0,
            errors_sent: 0,
            kem_operations: 0,
            handshakes: 0,
            peers_evicted: 0,
            agreements_evicted: 0,
            sessions_evicted: 0,
        }
    }
}

impl Counters {
    /// Packets without effect for this reason.
    pub fn dropped(&self, reason: Drop) -> u64 {
        self.drops[reason as usize]
    }

    /// All reasons that occurred.
    pub fn drops(&self) -> impl Iterator<Item = (Drop, u64)> + '_ {
        Drop::ALL
            .iter()
            .map(|reason| (*reason, self.dropped(*reason)))
            .filter(|(_, count)| *count > 0)
    }

    pub(super) fn count(&mut self, reason: Drop) -> Drop {
        self.drops[reason as usize] += 1;
        reason
    }
}
