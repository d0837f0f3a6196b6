//! The control API: HTTP and JSON on a Unix socket, for the command line and for scripts.
//!
//! ```text
//! client ── Unix socket ── listener (who may: file mode, peer credentials) ── server (routes) ── DataHandle ── data thread
//! ```
//!
//! | method, path | body | answer |
//! |---|---|---|
//! | GET /v1/status | | [`api::Status`] |
//! | GET /v1/peers | | list of [`api::Peer`] |
//! | POST /v1/ping | [`api::PingRequest`] | [`api::PingAnswer`] |
//! | POST /v1/lookup | [`api::LookupRequest`] | [`api::Lookup`], or 404 |
//! | POST /v1/resolve | [`api::TargetRequest`] | [`api::Resolved`] |
//! | POST /v1/trust | [`api::TrustRequest`] | [`api::Trusted`] |
//! | POST /v1/distrust | [`api::TargetRequest`] | [`api::Trusted`], or 404 |
//! | POST /v1/policy/check | [`api::PolicyQuestion`] | [`api::PolicyAnswer`] |
//! | POST /v1/policy/reload | `{}` | [`api::PolicyReloaded`] |
//! | POST /v1/invite | [`api::InviteRequest`] | [`api::Invitation`] |
//! | POST /v1/join | [`api::JoinRequest`] | [`api::Trusted`] |
//! | GET /v1/zone | | [`zone::ZoneStatus`] |
//! | POST /v1/zone/refresh | [`zone::RefreshRequest`] | [`zone::Refreshed`] |
//! | POST /v1/zone/accept | [`zone::AcceptRequest`] | [`zone::Refreshed`] |
//! | GET /v1/dht | | list of [`dht::OverlayStatus`] |
//! | POST /v1/dht/get | [`dht::KeyRequest`] | list of [`crate::dht::text::ValueDocument`], or 404 |
//! | POST /v1/dht/put | [`dht::PutRequest`] | [`dht::Stored`] |
//! | POST /v1/dht/find | [`dht::PlaceRequest`] | [`dht::Nearest`] |
//! | POST /v1/dht/route | [`dht::PlaceRequest`] | [`dht::Route`] |
//! | GET /metrics | | Prometheus text; names no peers (S30) |
//!
//! Errors are `{"error": "…"}`: 400 for a bad value, 404 for nobody, 409 for a conflict, 503 when the node is too busy.

pub mod api;
pub mod client;
pub mod dht;
pub mod i2p;
pub mod listener;
mod metrics;
pub mod netcheck;
pub(crate) mod people;
pub mod rendezvous;
pub mod server;
pub mod tickets;
pub mod zone;

#[cfg(test)]
mod tests;
