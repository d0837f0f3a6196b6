//! Files of the I2P overlay: keys of destinations, and the destinations elsewhere that are known.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anode_platform::files::{read_secret, write_atomic};
use anode_routing::i2p::{
    Credentials, DestinationConfig, Hash, I2pConfig, Known, LocalDestination, Name, RouterConfig,
    Trust,
};
use rand::rand_core::UnwrapErr;
use rand::rngs::SysRng;
use zeroize::Zeroizing;

use super::{LockedState, StateDir};
use crate::Error;
use crate::config::i2p::{Destination, I2p};

/// Keys of other programs are as long; text in base 64 is the longest form.
const MAX_KEY: usize = 4096;
const MAX_PASSWORD: usize = 1024;
const MAX_CERTIFICATES: u64 = 1 << 20;
/// Destinations that are written down, each in less than 200 bytes.
const MAX_KNOWN: usize = 4096;
const MAX_KNOWN_BYTES: u64 = 200 * MAX_KNOWN as u64;
const KNOWN: &str = "i2p-destinations";

/// What the overlay is started with. Keys that are missing are made. `kept`: see [`I2pConfig::kept`].
pub fn prepare(config: &I2p, state: &LockedState, kept: Vec<Hash>) -> Result<I2pConfig, Error> {
    let only = [Destination {
        place: config.place.clone(),
        ..Destination::default()
    }];
    let wanted = match config.destination.as_slice() {
        [] => &only[..],
        some => some,
    };
    let destinations = wanted.iter().map(|one| destination(one, state.dir()));
    let router = RouterConfig {
        place: config.router.0.0.clone(),
        tls: trust(config)?,
        credentials: credentials(config)?,
    };
    if router.tls.is_none() && !router.place.is_local() {
        tracing::warn!(
            "[i2p] router {}: keys and traffic cross the network in clear; set tls = true",
            router.place
        );
    }
    Ok(I2pConfig {
        router,
        destinations: destinations.collect::<Result<_, _>>()?,
        known: load(state.dir()),
        kept,
    })
}

fn destination(config: &Destination, dir: &StateDir) -> Result<DestinationConfig, Error> {
    let keys = match config.transient {
        true => LocalDestination::generate(&mut UnwrapErr(SysRng)),
        false => keys(&key_file(config, dir))?,
    };
    Ok(DestinationConfig {
        name: config.name.as_ref().map(|name| name.0.to_string()),
        keys: Arc::new(keys),
        options: config.options.session.clone(),
        default_port: config.default_port.map(|port| port.0),
        udp: config.udp.0.clone(),
    })
}

fn key_file(config: &Destination, dir: &StateDir) -> PathBuf {
    match (&config.key_file, &config.name) {
        (Some(file), _) => file.clone(),
        (None, Some(name)) => dir.file(&format!("i2p-{}.key", name.0)),
        (None, None) => dir.file("i2p.key"),
    }
}

/// Reads keys, or makes them.
fn keys(file: &Path) -> Result<LocalDestination, Error> {
    let found = std::fs::symlink_metadata(file);
    if matches!(found, Err(error) if error.kind() == io::ErrorKind::NotFound) {
        let keys = LocalDestination::generate(&mut UnwrapErr(SysRng));
        write_atomic(file, &keys.to_file(), 0o600)?;
        return Ok(keys);
    }
    let bytes = Zeroizing::new(read_secret(file, MAX_KEY)?);
    LocalDestination::from_file(&bytes).map_err(|error| {
        Error::invalid(
            file.display().to_string(),
            format!("{error}; put the right file back, or remove it for a new destination"),
        )
    })
}

fn trust(config: &I2p) -> Result<Option<Trust>, Error> {
    if !config.tls {
        return Ok(None);
    }
    if let Some(fingerprint) = &config.tls_fingerprint {
        return Ok(Some(Trust::Fingerprint(fingerprint.0.0)));
    }
    let Some(path) = &config.tls_ca else {
        return Ok(None);
    };
    let refused = |problem: String| {
        Error::invalid(
            config.place.as_str(),
            format!("tls-ca {}: {problem}", path.display()),
        )
    };
    let length = std::fs::metadata(path).map(|data| data.len());
    let text = match length {
        Ok(..=MAX_CERTIFICATES) => std::fs::read(path),
        Ok(length) => return Err(refused(format!("{length} bytes are too many"))),
        Err(error) => Err(error),
    };
    let text = text.map_err(|error| refused(error.to_string()))?;
    Trust::from_pem(&text).map(Some).map_err(refused)
}

fn credentials(config: &I2p) -> Result<Option<Credentials>, Error> {
    let (Some(user), Some(file)) = (&config.user, &config.password_file) else {
        return Ok(None);
    };
    let bytes = Zeroizing::new(read_secret(file, MAX_PASSWORD)?);
    let text = std::str::from_utf8(&bytes).map(|text| text.trim_end_matches(['\r', '\n']));
    match text {
        Ok(password @ ("" | _))
            if !password.is_empty() && password.len() <= 255 && user.len() <= 255 =>
        {
            Ok(Some(Credentials {
                user: user.clone(),
                password: Zeroizing::new(password.to_owned()),
            }))
        }
        _ => Err(Error::invalid(
            file.display().to_string(),
            "one line of 1 to 255 bytes of UTF-8 is needed, and as much for the user",
        )),
    }
}

/// What was known before; losing it costs nothing but names of addresses, so a damaged file is left out with a warning.
fn load(dir: &StateDir) -> Vec<Known> {
    let path = dir.file(KNOWN);
    let read = || -> io::Result<String> {
        if path.metadata()?.len() > MAX_KNOWN_BYTES {
            return Err(io::Error::other(format!(
                "more than {MAX_KNOWN_BYTES} bytes"
            )));
        }
        std::fs::read_to_string(&path)
    };
    match read() {
        Ok(text) => text.lines().take(MAX_KNOWN).filter_map(parse).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            tracing::warn!("{}: {error}: starting without", path.display());
            Vec::new()
        }
    }
}

/// `<52 characters>.b32.i2p`, and the name that led to it.
fn parse(line: &str) -> Option<Known> {
    let mut words = line.split_whitespace();
    let Name::Hash(hash) = words.next()?.parse().ok()? else {
        return None;
    };
    let name = match words.next().map(str::parse) {
        Some(Ok(Name::Host(name))) => Some(name),
        _ => None,
    };
    Some(Known { hash, name })
}

/// Replaces the file.
pub fn save(state: &LockedState, known: &[Known]) -> Result<(), Error> {
    let mut text = String::new();
    for one in known.iter().take(MAX_KNOWN) {
        text += &one.hash.b32();
        if let Some(name) = &one.name {
            text += " ";
            text += name;
        }
        text += "\n";
    }
    write_atomic(&state.dir().file(KNOWN), text.as_bytes(), 0o600)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn locked(path: &Path) -> LockedState {
        StateDir::find(Some(path)).unwrap().lock().unwrap()
    }

    #[test]
    fn keys_are_made_once_for_their_owner_alone_and_found_again() {
        let dir = crate::state::testing::TestDir::new();
        let state = locked(dir.path());
        let config = I2p::default();
        let first = prepare(&config, &state, Vec::new()).unwrap();
        let again = prepare(&config, &state, Vec::new()).unwrap();
        let [one, two] = [&first, &again].map(|all| all.destinations[0].keys.clone());
        assert_eq!(one.destination(), two.destination());
        let mode = std::fs::metadata(state.dir().file("i2p.key")).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn keys_that_are_none_or_open_to_others_are_refused_and_kept() {
        let dir = crate::state::testing::TestDir::new();
        let state = locked(dir.path());
        let file = state.dir().file("i2p.key");
        write_atomic(&file, b"nothing", 0o600).unwrap();
        let error = prepare(&I2p::default(), &state, Vec::new()).unwrap_err();
        assert_eq!(error.exit_status(), 2);
        assert!(
            error
                .to_string()
                .contains("i2p.key: key file: it is cut short"),
            "{error}"
        );
        assert_eq!(std::fs::read(&file).unwrap(), b"nothing");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = prepare(&I2p::default(), &state, Vec::new()).unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }

    #[test]
    fn what_is_known_comes_back_and_what_is_damaged_is_left_out() {
        let dir = crate::state::testing::TestDir::new();
        let state = locked(dir.path());
        let known = [
            Known {
                hash: Hash([1; 32]),
                name: Some("site.i2p".to_owned()),
            },
            Known {
                hash: Hash([2; 32]),
                name: None,
            },
        ];
        save(&state, &known).unwrap();
        assert_eq!(load(state.dir()), known);
        let path = state.dir().file(KNOWN);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("x\n\n{text}abc.b32.i2p\nsite.i2p\n")).unwrap();
        assert_eq!(load(state.dir()), known);
        std::fs::write(&path, [0xff; 9]).unwrap();
        assert_eq!(load(state.dir()), []);
    }
}
