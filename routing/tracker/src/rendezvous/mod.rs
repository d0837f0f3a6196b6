//! How the overlay uses trackers (discovery.md §3): under which hash, which of its addresses it shows, and what becomes
//! of the endpoints that come back.
//!
//! ```text
//!  secret, zone ─▶ hash ─────────────▶ info hashes in force ─▶ client
//!  own addresses ▶ publish, scope ───▶ what is announced where ▶ client
//!  answers ──────▶ candidates ───────▶ at most 20 of an answer
//!                      └────▶ probes ▶ presence EPI, EPC_REQ within the budget   (the caller writes these packets)
//!  presence EPI of a stranger ▶ PresenceGate ▶ one EPC_REQ per source and 5 s
//! ```
//!
//! A tracker never says who somebody is, and anybody can name an endpoint of a third party. So a candidate is only ever
//! probed, within limits that make a node useless as a weapon, and becomes a path only by a valid EPC.

mod candidates;
mod cidr;
mod hash;
mod probes;
mod publish;
mod scope;

pub(crate) use candidates::below;
pub use candidates::{Dropped, Filter, MAX_CANDIDATES, MAX_PER_NETWORK, Selection};
pub use cidr::{Cidr, InvalidCidr};
pub(crate) use hash::hmac_sha1;
pub use hash::{Rotation, epochs_in_force, info_hash, next_change};
pub use probes::{PresenceGate, Probe, ProbeCounters, ProbeKind, Prober, SEARCH, Time};
pub use publish::{LocalAddress, MAX_PER_FAMILY, Publish, Unpublished, pairs};
pub use scope::{Scope, scope};
