//! How a TURN server is got at: its URI, who we are there, and whom to believe.

use std::path::Path;

use anode_routing::turn::certificate::{Authorities, Name};
use anode_routing::turn::client::Check;
use anode_turn::client::Credentials;
use anode_turn::uri::{Host, Uri};
use zeroize::Zeroizing;

/// A server, and what it is used with.
#[derive(Clone)]
pub struct Access {
    /// Where.
    pub uri: Uri,
    /// Who.
    pub credentials: Option<Credentials>,
    /// Whom to believe; the machine's own authorities without.
    pub authorities: Option<Authorities>,
}

impl Access {
    /// What its certificate is checked by; `None` for a server without TLS.
    ///
    /// # Errors
    /// In words.
    pub fn check(&self) -> Result<Option<Check>, String> {
        if !self.uri.secure {
            return Ok(None);
        }
        let name = match &self.uri.host {
            Host::Address(ip) => Name::address(*ip),
            Host::Name(name) => Name::host(name).map_err(|error| error.to_string())?,
        };
        let authorities = match &self.authorities {
            Some(authorities) => authorities.clone(),
            None => system_authorities()?,
        };
        Ok(Some(Check { authorities, name }))
    }
}

/// The authorities that this machine believes.
///
/// # Errors
/// In words: there are none.
pub fn system_authorities() -> Result<Authorities, String> {
    let found = rustls_native_certs::load_native_certs().certs;
    Authorities::from_der(found.iter().map(AsRef::as_ref)).map_err(|error| {
        format!("this machine names no authority to check a certificate by ({error}): install ca-certificates, or name them with --ca FILE")
    })
}

/// The first line of a file.
///
/// # Errors
/// In words, without what stands there.
pub fn read_password(file: &Path) -> Result<Zeroizing<String>, String> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    let text = Zeroizing::new(text);
    // An editor ends the line.
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    Ok(Zeroizing::new(line.to_owned()))
}

/// The certificates of a PEM file.
///
/// # Errors
/// In words.
pub fn read_authorities(file: &Path) -> Result<Authorities, String> {
    let pem =
        std::fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    Authorities::from_pem(&pem).map_err(|error| format!("{}: {error}", file.display()))
}
