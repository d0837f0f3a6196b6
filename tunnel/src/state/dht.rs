//! `dht.toml`: peers of each overlay to which there was a link, to be asked first at the next start (R129). Losing it costs time
//! where the zone's relays are gone too, so a damaged one is left out with a warning.

use anode_routing::links::Target;
use anode_wire::Address;
use serde::{Deserialize, Serialize};

use super::{LockedState, StateDir, notes};
use crate::Error;

const NAME: &str = "dht.toml";

/// Overlays times the ten peers of each (R129).
pub const MAX_ENTRIES: usize = 160;

/// An overlay's name, an address, and what TOML puts around them.
const MAX_BYTES: u64 = 340 * MAX_ENTRIES as u64;

/// A peer, and the overlay that it is in.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CachedPeer {
    /// Name of the overlay.
    pub overlay: String,
    /// Who, or where.
    #[serde(rename = "address", with = "place")]
    pub at: CachedAt,
}

/// How a peer is asked again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CachedAt {
    /// Inside a sealed session.
    Address(Address),
    /// Over DTLS or TLS.
    Own(Target),
}

mod place {
    use super::CachedAt;
    use crate::dht::config::BootstrapAt;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(at: &CachedAt, serializer: S) -> Result<S::Ok, S::Error> {
        match at {
            CachedAt::Address(address) => serializer.collect_str(address),
            CachedAt::Own(target) => serializer.collect_str(&BootstrapAt::Own(*target)),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<CachedAt, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.contains("://") {
            false => text
                .parse()
                .map(CachedAt::Address)
                .map_err(D::Error::custom),
            true => match text.parse::<BootstrapAt>().map_err(D::Error::custom)? {
                BootstrapAt::Own(target) => Ok(CachedAt::Own(target)),
                BootstrapAt::Anode(_) => Err(D::Error::custom("an address has no scheme")),
            },
        }
    }
}

#[derive(Serialize, Deserialize)]
struct File {
    #[serde(default)]
    peer: Vec<CachedPeer>,
}

/// What an earlier run has written.
pub fn load(dir: &StateDir) -> Vec<CachedPeer> {
    let file: Option<File> = notes::load(dir, NAME, MAX_BYTES, "its peers");
    let mut peers = file.map(|file| file.peer).unwrap_or_default();
    peers.truncate(MAX_ENTRIES);
    peers
}

/// Replaces the file.
pub fn save(state: &LockedState, mut peer: Vec<CachedPeer>) -> Result<(), Error> {
    peer.truncate(MAX_ENTRIES);
    notes::save(state, NAME, &File { peer })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::TestDir;

    // R129
    #[test]
    fn what_is_saved_is_loaded_and_what_is_damaged_left_out() {
        let test = TestDir::new();
        let dir = StateDir::find(Some(test.path())).unwrap();
        let state = dir.lock().unwrap();
        assert!(load(state.dir()).is_empty());
        let address = "aeaaaaaaaaaag2yx2hzoclcci74lzzxfmoseb4txan6yclplgoqpjijzixmjrquw";
        let peer = CachedPeer {
            overlay: "a--0000002a.net".into(),
            at: CachedAt::Address(address.parse().unwrap()),
        };
        save(&state, vec![peer.clone(); 200]).unwrap();
        assert_eq!(load(state.dir()), vec![peer.clone(); MAX_ENTRIES]);
        let own = |target| CachedPeer {
            at: CachedAt::Own(target),
            ..peer.clone()
        };
        let own = [
            own(Target::Dtls("192.0.2.1:6084".parse().unwrap())),
            own(Target::Tls("[2001:db8::1]:6084".parse().unwrap())),
        ];
        save(&state, own.to_vec()).unwrap();
        assert_eq!(load(state.dir()), own);
        let file = state.dir().file("dht.toml");
        for text in [
            "peer = 1",
            "[[peer]]\noverlay = \"x\"\naddress = \"y\"\n",
            "\u{0}",
        ] {
            std::fs::write(&file, text).unwrap();
            assert!(load(state.dir()).is_empty(), "{text}");
        }
        std::fs::write(&file, vec![b'#'; MAX_BYTES as usize + 1]).unwrap();
        assert!(load(state.dir()).is_empty());
    }
}
