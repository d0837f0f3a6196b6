//! Who issues an overlay's certificates: the credential server's key (R126, R143). Pure functions of bytes, time and
//! randomness.
use super::certificate::{
    Certificate, Profile, SigningRequest, build, key_from, mail, peer_uri, uri, validity, wrong,
};
use crate::{Id, ReloadError};
use p256::ecdsa::SigningKey;
use p256::pkcs8::EncodePrivateKey as _;
use rand_core::CryptoRng;
use std::net::IpAddr;
use x509_cert::der::asn1::{Ia5String, OctetString};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::name::Name;
use zeroize::Zeroizing;

/// The key that issues an overlay's certificates (R126, R143).
pub struct CredentialServer {
    key: SigningKey,
    root: Certificate,
    subject: Name,
    overlay: String,
}

impl CredentialServer {
    /// A server for `overlay`. Its root certificate is made anew from the key, and is the same as long as the arguments
    /// are. `valid` is in Unix seconds.
    pub fn new(scalar: &[u8; 32], overlay: &str, valid: (u64, u64)) -> Result<Self, ReloadError> {
        let (key, spki) = key_from(scalar)?;
        let subject: Name = format!("CN={overlay}")
            .parse()
            .map_err(|e| wrong("the overlay's name", e))?;
        let mut serial = [0; 16];
        serial.copy_from_slice(&Id::of_seed(&spki).0);
        let profile = Profile {
            issuer: None,
            subject: subject.clone(),
            names: Vec::new(),
        };
        let root = build(profile, serial, validity(valid.0, valid.1)?, &spki, &key)?;
        Ok(Self {
            key,
            root,
            subject,
            overlay: overlay.to_owned(),
        })
    }

    /// The certificate for the configuration document's `root-cert`.
    pub fn root(&self) -> &Certificate {
        &self.root
    }

    /// Issues a certificate for a user who has been authenticated: `granted` are the names this user may have, all that
    /// the request asks for must be among them. The Peer-ID is random and the server's choice: nobody picks a place on
    /// the ring (R126, R143). `valid` is in Unix seconds.
    pub fn issue(
        &self,
        request: &SigningRequest,
        granted: &[String],
        valid: (u64, u64),
        rng: &mut dyn CryptoRng,
    ) -> Result<Certificate, ReloadError> {
        let mut peer = [0; 16];
        rng.fill_bytes(&mut peer);
        self.renew(request, granted, Id(peer), valid, rng)
    }

    /// The same with a Peer-ID that this server has chosen before, for the same key.
    pub fn renew(
        &self,
        request: &SigningRequest,
        granted: &[String],
        peer: Id,
        valid: (u64, u64),
        rng: &mut dyn CryptoRng,
    ) -> Result<Certificate, ReloadError> {
        if let Some(name) = request.names.iter().find(|name| !granted.contains(name)) {
            return Err(ReloadError::Certificate(format!(
                "the user may not have the name {name}"
            )));
        }
        let mut names = vec![uri(&peer_uri(peer, &self.overlay, 0))?];
        for name in &request.names {
            names.push(mail(name)?);
        }
        let profile = Profile {
            issuer: Some(self.subject.clone()),
            subject: Name::default(),
            names,
        };
        self.sign(profile, &request.spki, valid, rng)
    }

    /// A key and a certificate for the server's own HTTPS: for the overlay's name (R123) and these addresses. The key is
    /// PKCS#8 in DER.
    pub fn host_certificate(
        &self,
        addresses: &[IpAddr],
        valid: (u64, u64),
        rng: &mut dyn CryptoRng,
    ) -> Result<(Certificate, Zeroizing<Vec<u8>>), ReloadError> {
        let mut scalar = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut scalar[..]);
        let (key, spki) = key_from(&scalar)?;
        let key = key.to_pkcs8_der().map_err(|e| wrong("the host's key", e))?;
        let host = Ia5String::new(&self.overlay).map_err(|e| wrong("a host name", e))?;
        let mut names = vec![GeneralName::DnsName(host)];
        for address in addresses {
            let bytes = match address {
                IpAddr::V4(ip) => ip.octets().to_vec(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            };
            let bytes = OctetString::new(bytes).map_err(|e| wrong("an address", e))?;
            names.push(GeneralName::IpAddress(bytes));
        }
        let profile = Profile {
            issuer: Some(self.subject.clone()),
            subject: Name::default(),
            names,
        };
        let certificate = self.sign(profile, &spki, valid, rng)?;
        Ok((certificate, Zeroizing::new(key.as_bytes().to_vec())))
    }

    fn sign(
        &self,
        profile: Profile,
        spki: &[u8],
        (from, until): (u64, u64),
        rng: &mut dyn CryptoRng,
    ) -> Result<Certificate, ReloadError> {
        let mut serial = [0; 16];
        rng.fill_bytes(&mut serial);
        // nothing outlives its root
        let until = until.min(self.root.validity().1);
        build(profile, serial, validity(from, until)?, spki, &self.key)
    }
}
