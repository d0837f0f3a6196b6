//! TLS to the router (I7): its certificate must be the very one that is pinned, or come from a named authority. Routers sign
//! their own, and say CA:TRUE in a leaf, which no usual check takes; so an exact match comes first, and no public root counts.
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, ClientConnection, RootCertStore};
use sha2::{Digest as _, Sha256};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::config::RouterPlace;
use crate::judge::{Judge, Judged};

/// Whose certificate the router must show.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trust {
    /// SHA-256 of the certificate (DER).
    Fingerprint([u8; 32]),
    /// One of these itself, or one that an authority among them vouches for, for the router's IP address.
    Certificates(Vec<CertificateDer<'static>>),
}

impl Trust {
    /// Certificates in PEM.
    ///
    /// # Errors
    /// What is wrong, in words for people.
    pub fn from_pem(text: &[u8]) -> Result<Self, String> {
        let all = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
        match all {
            Ok(all) if !all.is_empty() => Ok(Self::Certificates(all)),
            Ok(_) => Err("it holds no certificate (-----BEGIN CERTIFICATE-----)".to_owned()),
            Err(error) => Err(format!("it is no PEM file of certificates: {error}")),
        }
    }
}

/// Makes connections for one router.
#[derive(Clone, Debug)]
pub(super) struct Tls(Arc<ClientConfig>);

impl Tls {
    pub(super) fn new(trust: Trust) -> Result<Self, rustls::Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = Arc::new(Judged {
            judge: Router::new(trust, Arc::clone(&provider)),
            provider: Arc::clone(&provider),
        });
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        Ok(Self(Arc::new(config)))
    }

    pub(super) fn connect(&self, to: &RouterPlace) -> Result<ClientConnection, rustls::Error> {
        let ip = match to {
            RouterPlace::Tcp(address) => address.ip(),
            RouterPlace::Unix(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        ClientConnection::new(Arc::clone(&self.0), ServerName::from(ip))
    }
}

#[derive(Debug)]
struct Router {
    trust: Trust,
    /// For certificates that another one vouches for; none where no authority can be used.
    authority: Option<Arc<WebPkiServerVerifier>>,
}

impl Router {
    fn new(trust: Trust, provider: Arc<CryptoProvider>) -> Self {
        let authority = match &trust {
            Trust::Fingerprint(_) => None,
            Trust::Certificates(all) => {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(all.iter().cloned());
                let builder =
                    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.build().ok()
            }
        };
        Self { trust, authority }
    }

    fn is_pinned(&self, certificate: &CertificateDer<'_>) -> bool {
        match &self.trust {
            Trust::Fingerprint(wanted) => Sha256::digest(certificate)[..] == wanted[..],
            Trust::Certificates(all) => all.iter().any(|one| one == certificate),
        }
    }
}

impl Judge for Router {
    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.is_pinned(end_entity) {
            return Ok(ServerCertVerified::assertion());
        }
        match &self.authority {
            Some(authority) => {
                authority.verify_server_cert(end_entity, intermediates, server_name, ocsp, now)
            }
            None => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }
}
