//! What a link of DTLS or TLS shows, and whom it believes (R138, RD33, RD62, RD68).
use super::certificate::{Certificate, MAX_CERTIFICATE, certificate_request, self_signed};
use super::credentials::{Policy, scalar_of};
use crate::{Id, ReloadError};
use anode_wire::{Identity, PeerId};
use p256::SecretKey;
use p256::pkcs8::EncodePrivateKey as _;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// A self-made certificate is good from a day before its making, for clocks that are behind, …
const BEFORE: u64 = 86_400;
/// … and for a year after: it is made anew at each start.
const AFTER: u64 = 366 * 86_400;

/// The certificate of this node's links, its key, and whom they believe.
pub struct LinkCredentials {
    certificate: Certificate,
    key: Zeroizing<Vec<u8>>,
    peer: Id,
    policy: Policy,
}

impl LinkCredentials {
    /// With a certificate that the node makes itself. `serial` is random; `unix` is now, in seconds.
    ///
    /// # Errors
    /// The identity makes no certificate.
    pub fn self_made(
        identity: &Identity,
        digit: PeerId,
        policy: Policy,
        serial: [u8; 16],
        unix: u64,
    ) -> Result<Self, ReloadError> {
        let scalar = scalar_of(identity)?;
        let valid = (unix.saturating_sub(BEFORE), unix + AFTER);
        let certificate = self_signed(&scalar, &policy.overlay, digit.get(), serial, valid)?;
        Self::certified(identity, certificate, policy)
    }

    /// With a certificate of the overlay's credential server.
    ///
    /// # Errors
    /// It is for another key, or holds no Peer-ID.
    pub fn certified(
        identity: &Identity,
        certificate: Certificate,
        policy: Policy,
    ) -> Result<Self, ReloadError> {
        let wrong = |why: &str| ReloadError::Certificate(why.to_owned());
        let key = SecretKey::from_slice(&scalar_of(identity)?[..])
            .map_err(|_| wrong("the key is out of range"))?;
        let public = p256::ecdsa::VerifyingKey::from(key.public_key());
        if *certificate.key() != public {
            return Err(wrong("the certificate is for another key"));
        }
        let peer = certificate.peers().first();
        let peer = *peer.ok_or_else(|| wrong("the certificate holds no Peer-ID"))?;
        let der = key.to_pkcs8_der();
        let der = der.map_err(|_| wrong("the key cannot be written"))?;
        Ok(Self {
            certificate,
            key: Zeroizing::new(der.as_bytes().to_vec()),
            peer,
            policy,
        })
    }

    /// The same with another certificate for the same key and Peer-ID: who renews stays who he is.
    ///
    /// # Errors
    /// It is for another key or Peer-ID.
    pub fn renewed(&self, certificate: Certificate) -> Result<Self, ReloadError> {
        let same_key = certificate.key() == self.certificate.key();
        if !same_key || certificate.peers().first() != Some(&self.peer) {
            return Err(ReloadError::Certificate(
                "the certificate is for another key or Peer-ID".into(),
            ));
        }
        Ok(Self {
            certificate,
            key: self.key.clone(),
            peer: self.peer,
            policy: self.policy.clone(),
        })
    }

    /// This node's Peer-ID.
    pub fn peer(&self) -> Id {
        self.peer
    }

    /// The certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Its private key, PKCS#8 in DER.
    pub fn key_der(&self) -> &[u8] {
        &self.key
    }

    /// Who shows this certificate (R138). That he has its key, the handshake has to show.
    ///
    /// # Errors
    /// It is not to be believed, or is our own.
    pub fn check(&self, der: &[u8], unix: u64) -> Result<Id, ReloadError> {
        let certificate = Certificate::from_der(der)?;
        self.policy.accept(&certificate, unix)?;
        let peer = certificate.peers().first().copied();
        peer.filter(|peer| *peer != self.peer)
            .ok_or(ReloadError::Unverified(
                "the certificate holds no other Peer-ID than our own",
            ))
    }
}

/// A request for a certificate with the key of an identity (R126): PKCS#10 in DER.
///
/// # Errors
/// A name cannot stand in a certificate.
pub fn request_for(identity: &Identity, names: &[&str]) -> Result<Vec<u8>, ReloadError> {
    certificate_request(&*scalar_of(identity)?, names)
}

/// What a CONNECT says of a link's certificate (R99, RFC 4572 §5): `SHA-256 AA:BB:…`.
pub fn fingerprint(der: &[u8]) -> String {
    let der = &der[..der.len().min(MAX_CERTIFICATE)];
    let hash = Sha256::digest(der);
    let pairs: Vec<String> = hash.iter().map(|byte| format!("{byte:02X}")).collect();
    format!("SHA-256 {}", pairs.join(":"))
}
