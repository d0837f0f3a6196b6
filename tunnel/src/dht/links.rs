//! Links of RELOAD's own, one thread for each overlay that has them: `listen`, `bootstrap = ["dtls://…", "tls://…"]`,
//! `shared-key-file`.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Instant;

use anode_routing::dht::reload::security::LinkCredentials;
use anode_routing::dht::reload::{Id, overlay_hash};
use anode_routing::dht::{DhtConfig, DhtSecurity};
use anode_routing::ice::{Endpoint, Sessions, own_addresses};
use anode_routing::links::{Command, Counters, LinkEvent, LinkSecurity, Links, LinksHandle, run};
use rand::Rng as _;
use rand::rand_core::UnwrapErr;
use rand::rngs::SysRng;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::DhtPlan;
use super::config::DhtEntry;
use crate::Error;
use crate::clock;

/// Events of all overlays that wait for the task.
const EVENTS: usize = 8192;
/// Bytes of a shared key.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 16..=4096;

/// A file, and the shared key that it holds.
pub type KeyFile = (PathBuf, Zeroizing<Vec<u8>>);

/// The keys that entries name, each read once.
///
/// # Errors
/// A file cannot be read, or holds no key.
pub fn read_keys(entries: &[DhtEntry]) -> Result<Vec<KeyFile>, Error> {
    let files = entries.iter().filter(|entry| entry.enabled);
    let files = files.filter_map(|entry| entry.shared_key_file.as_ref());
    let read = |path: &PathBuf| {
        let key = fs::read(path).map(Zeroizing::new);
        let key = key.map_err(|error| Error::refused(format!("{}: {error}", path.display())))?;
        let key = Zeroizing::new(key.trim_ascii().to_vec());
        match KEY_BYTES.contains(&key.len()) {
            true => Ok((path.clone(), key)),
            false => Err(Error::refused(format!(
                "{}: a shared key has {} to {} bytes, this one has {}",
                path.display(),
                KEY_BYTES.start(),
                KEY_BYTES.end(),
                key.len()
            ))),
        }
    };
    files.map(read).collect()
}

/// A Peer-ID that nobody has.
pub fn random_id() -> Id {
    let mut id = Id::ZERO;
    while !id.is_valid_peer() {
        UnwrapErr(SysRng).fill_bytes(&mut id.0);
    }
    id
}

impl DhtPlan {
    pub(super) fn entry_of(&self, overlay: &str) -> Option<&DhtEntry> {
        let mut entries = self.entries.iter().enumerate();
        let found = entries
            .find(|(place, entry)| entry.enabled && self.overlay_of(*place, entry) == overlay);
        found.map(|(_, entry)| entry)
    }

    /// Where an overlay's own links are to have sockets, by the addresses that this machine has now.
    pub(super) fn own_places(&self, overlay: &str) -> std::io::Result<Vec<SocketAddr>> {
        places(
            self.entry_of(overlay)
                .map_or(&[][..], |entry| &entry.listen),
        )
    }

    /// Sockets and credentials of an overlay that has links of its own.
    pub(super) fn own_links(&self, config: &DhtConfig) -> Result<Links, Error> {
        let refused = |error: &dyn std::fmt::Display| Error::refused(error.to_string());
        let entry = self.entry_of(&config.overlay);
        let security = match &config.security {
            DhtSecurity::Address => {
                let mut serial = [0; 16];
                UnwrapErr(SysRng).fill_bytes(&mut serial);
                let (identity, policy) = (&self.identity, config.policy());
                LinkCredentials::self_made(identity, self.digit, policy, serial, clock::unix())
                    .map_err(|error| refused(&error))
                    .and_then(|made| LinkSecurity::certificates(made).map_err(|e| refused(&e)))?
            }
            DhtSecurity::Certificate(own) => {
                let own = own.as_ref().clone();
                LinkCredentials::certified(&self.identity, own, config.policy())
                    .map_err(|error| refused(&error))
                    .and_then(|made| LinkSecurity::certificates(made).map_err(|e| refused(&e)))?
            }
            DhtSecurity::SharedKey(own) => {
                let file = entry.and_then(|entry| entry.shared_key_file.as_ref());
                let mut keys = self.keys.iter();
                let key = keys.find(|(path, _)| Some(path) == file);
                let key = key.ok_or_else(|| refused(&"the shared key was not read"))?;
                LinkSecurity::shared_key(*own, key.1.clone())
            }
        };
        let places = self.own_places(&config.overlay);
        let places = places.map_err(|error| refused(&error))?;
        let endpoint = Endpoint::open(&places).map_err(|error| {
            let places: Vec<_> = places.iter().map(SocketAddr::to_string).collect();
            Error::refused(format!("cannot listen at {}: {error}", places.join(", ")))
        })?;
        let ice = Sessions::new(endpoint, Box::new(UnwrapErr(SysRng)));
        let stun = config
            .own_links
            .iter()
            .flatten()
            .map(|target| match target {
                anode_routing::links::Target::Dtls(at) => Some(*at),
                anode_routing::links::Target::Tls(_) => None,
            });
        let stun = stun.flatten().collect();
        let now = Instant::now();
        let mut links = Links::new(now, ice, security, stun, Vec::new());
        if !config.groups.is_empty() {
            let (overlay, own) = (
                overlay_hash(&config.overlay),
                config.peer_id(&self.identity, self.digit),
            );
            let random = UnwrapErr(SysRng).next_u64();
            links.set_groups(now, overlay, own, &config.groups, random);
        }
        Ok(links)
    }
}

/// Where to open sockets: a socket for each address, since ICE has to know which one a packet came to.
fn places(listen: &[SocketAddr]) -> std::io::Result<Vec<SocketAddr>> {
    let any = [SocketAddr::new(IpAddr::from([0, 0, 0, 0]), 0)];
    let listen = if listen.is_empty() { &any } else { listen };
    let mut all = Vec::new();
    for at in listen {
        match at.ip().is_unspecified() {
            false => all.push(*at),
            true => {
                // [::] stands for both families, as everywhere; so does no address at all.
                let both = at.is_ipv6() || at.port() == 0;
                let own = own_addresses()?.into_iter();
                let own = own.filter(|ip| both || ip.is_ipv4());
                all.extend(own.map(|ip| SocketAddr::new(ip, at.port())));
            }
        }
    }
    all.dedup();
    Ok(all)
}

/// The threads, by the hash of their overlay's name.
pub struct OwnLinks {
    threads: Vec<(u32, LinksHandle)>,
    tell: mpsc::Sender<(u32, LinkEvent)>,
    events: mpsc::Receiver<(u32, LinkEvent)>,
}

impl OwnLinks {
    pub fn new() -> Self {
        let (tell, events) = mpsc::channel(EVENTS);
        Self {
            threads: Vec::new(),
            tell,
            events,
        }
    }

    /// Starts the thread of an overlay.
    pub fn start(&mut self, overlay: u32, links: Links) -> Result<(), Error> {
        let tell = self.tell.clone();
        // A task that is too busy for its links learns of it by their silence.
        let hear = move |event| drop(tell.try_send((overlay, event)));
        let handle = run(links, hear).map_err(|error| Error::refused(error.to_string()))?;
        self.threads.push((overlay, handle));
        Ok(())
    }

    /// Ends the thread of an overlay.
    pub fn stop(&mut self, overlay: u32) {
        self.threads.retain(|(of, _)| *of != overlay);
    }

    pub fn tell(&self, overlay: u32, command: Command) {
        if let Some((_, thread)) = self.threads.iter().find(|(of, _)| *of == overlay) {
            // What is lost is sent again, as over any link.
            thread.tell(command);
        }
    }

    pub fn counters(&self, overlay: u32) -> Counters {
        let thread = self.threads.iter().find(|(of, _)| *of == overlay);
        thread.map_or_else(Counters::default, |(_, thread)| thread.counters())
    }

    /// The next event of any of them.
    pub async fn next_event(&mut self) -> Option<(u32, LinkEvent)> {
        self.events.recv().await
    }
}
