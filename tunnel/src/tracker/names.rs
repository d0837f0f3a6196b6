//! Host names of trackers, and the certificates for https, as the rest of the program has them.

use std::net::IpAddr;
use std::sync::Arc;

use anode_routing::tracker::{Names, Scheme, TlsConfig, TrackerUrl};

use crate::Error;
use crate::zone::http;

/// All addresses of a name (B2), by the system's resolver.
pub async fn look_up(name: String) -> Result<Vec<IpAddr>, String> {
    http::look_up(name).await.map_err(|error| error.to_string())
}

/// The same, for an announcer.
pub fn names() -> Names {
    Arc::new(|name| Box::pin(look_up(name)))
}

/// Certificates to trust, if one of the trackers wants them. Read before rights are given up.
pub fn certificates<'a>(
    trackers: impl IntoIterator<Item = &'a TrackerUrl>,
) -> Result<TlsConfig, Error> {
    let mut schemes = trackers.into_iter().map(TrackerUrl::scheme);
    if schemes.any(|scheme| scheme == Scheme::Https) {
        http::trusted_certificates().map(Some)
    } else {
        Ok(None)
    }
}
