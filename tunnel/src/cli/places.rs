//! What a running node may read and write once it has given up its rights: its state, its control socket, its
//! configuration, and what programs everywhere read to look up a host name and to check a certificate.

use std::path::{Path, PathBuf};

use anode_platform::privileges::Places;
use nix::unistd::geteuid;

use crate::config::ConfigSource;
use crate::dns::stub;
use crate::node::DnsPlan;
use crate::state::LockedState;
use crate::zone::ZoneFrom;

/// What the C library reads to look up a host name; world-readable.
const RESOLVER: [&str; 7] = [
    stub::RESOLV_CONF,
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/protocols",
];

/// Where distributions keep the certificates that the machine trusts, each in one file.
const CERTIFICATES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// For `anode up` and `anode relay`. `looks_up`: host names of a zone or of peers.
pub(super) fn places(
    state: &LockedState,
    socket: &Path,
    source: &ConfigSource,
    dns: &DnsPlan,
    zone: &ZoneFrom,
    looks_up: bool,
) -> Places {
    let zone_file = match zone {
        ZoneFrom::Path(path) => Some(path.as_path()),
        _ => None,
    };
    let own_files = [source.path(), zone_file].into_iter().flatten();
    let own_files = own_files.flat_map(|file| {
        // A file may be replaced by another one of its name, and may be a link into another directory.
        [Some(file.to_owned()), file.canonicalize().ok()]
    });
    let mut read: Vec<PathBuf> = own_files
        .flatten()
        .filter_map(|file| directory(&file))
        .collect();
    // A zone file may name hosts of relays, whose certificates are checked then.
    let mut read_files = match zone {
        ZoneFrom::Nowhere => Vec::new(),
        _ => authorities(),
    };
    for file in resolver(dns, looks_up) {
        let target = file.canonicalize().unwrap_or(file);
        read.extend(directory(&target).filter(|directory| is_public(directory)));
        read_files.push(target);
    }
    Places {
        write: vec![state.dir().path().to_owned()],
        remove: directory(socket).into_iter().collect(),
        read,
        read_files,
    }
}

fn directory(path: &Path) -> Option<PathBuf> {
    path.parent().map(Path::to_owned)
}

/// The files of the resolver that are needed: all of them to look up host names of a zone or of peers, and to ask the system's DNS servers the one
/// that names those.
fn resolver(dns: &DnsPlan, looks_up: bool) -> impl Iterator<Item = PathBuf> {
    let count = match (looks_up, dns.servers.is_empty()) {
        (true, _) => RESOLVER.len(),
        (false, true) => 1,
        (false, false) => 0,
    };
    RESOLVER.into_iter().take(count).map(PathBuf::from)
}

/// A file that is replaced is found again in its directory. That is /etc where nothing manages it; root could read secrets
/// there, so that root sees no later file.
fn is_public(directory: &Path) -> bool {
    directory != Path::new("/etc") || !geteuid().is_root()
}

/// The files with the authorities that this machine believes.
pub fn authorities() -> Vec<PathBuf> {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let usual = CERTIFICATES.into_iter().map(PathBuf::from);
    named
        .into_iter()
        .chain(usual)
        .flat_map(|file| file.canonicalize())
        .collect()
}
