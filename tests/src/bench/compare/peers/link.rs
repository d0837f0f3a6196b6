//! The link that carries all others.

use super::{End, Site};

/// Nothing to start: the machines reach each other as they are.
pub fn wire(site: &Site<'_>) -> [End; 2] {
    site.hosts
        .map(|host| End::new(host, host.ip_address(), |_| Vec::new()))
}
