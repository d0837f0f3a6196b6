//! Certificates: what a server shows over TLS and DTLS, and how a client checks it (T4, T35).

use std::net::IpAddr;
use std::sync::Arc;

use super::cookie;
use crate::judge::{Judge, Judged};
use anode_turn::server::hello::{Cookie, Hello};
use dimpl::{Config as DtlsConfig, Dtls, DtlsCertificate};
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection,
};
use std::time::Instant;
use x509_cert::der::Decode as _;

/// Plain bytes that a TLS connection holds while its socket takes none.
const BUFFER: usize = 32 << 10;
/// RFC 7443 §3.
const ALPN: [&[u8]; 2] = [b"stun.turn", b"stun.nat-discovery"];

/// Why a certificate cannot be used, or is not believed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// A PEM file is none.
    #[error("no readable PEM: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// There is nothing in it.
    #[error("holds no certificate")]
    Empty,
    /// They do not fit each other, or are of no use.
    #[error("{0}")]
    Unusable(#[from] rustls::Error),
    /// DTLS knows ECDSA only.
    #[error(
        "the key is not ECDSA on P-256 or P-384, and DTLS, which is served on the same ports, knows no other: make a key with `openssl ecparam -name prime256v1 -genkey`"
    )]
    NotEcdsa,
    /// A file with authorities makes no verifier.
    #[error("{0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// Not a name that a certificate can carry.
    #[error("{0:?} is no host name")]
    Name(String),
    /// A certificate of our own could not be made.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// DTLS refuses its settings.
    #[error("cannot prepare DTLS: {0}")]
    Dtls(String),
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// The lowest version that is spoken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MinVersion {
    /// TLS 1.2, DTLS 1.2.
    #[default]
    V12,
    /// TLS 1.3, DTLS 1.3.
    V13,
}

/// What a server shows.
#[derive(Clone)]
pub struct ServerCertificate {
    tls: Arc<ServerConfig>,
    shared_tls: Arc<ServerConfig>,
    dtls: Arc<DtlsConfig>,
    leaf: DtlsCertificate,
    min: MinVersion,
}

impl std::fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerCertificate").finish_non_exhaustive()
    }
}

impl ServerCertificate {
    /// From PEM, the chain from the leaf up.
    ///
    /// # Errors
    /// What cannot be used, and why.
    pub fn from_pem(chain: &[u8], key: &[u8], min: MinVersion) -> Result<Self, CertificateError> {
        let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(key)?;
        let leaf = chain.first().ok_or(CertificateError::Empty)?.to_vec();
        let leaf = DtlsCertificate {
            certificate: leaf,
            private_key: key.secret_der().to_vec(),
        };
        let dtls = dimpl::Config::builder()
            .require_client_certificate(false)
            .with_crypto_provider(cookie::provider());
        let dtls = dtls_config(dtls)?;
        let usable = dtls.crypto_provider().key_provider;
        if usable.load_private_key(&leaf.private_key).is_err() {
            return Err(CertificateError::NotEcdsa);
        }
        let versions: &[&rustls::SupportedProtocolVersion] = match min {
            MinVersion::V12 => &[&TLS13, &TLS12],
            MinVersion::V13 => &[&TLS13],
        };
        let mut tls = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        tls.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
        let mut shared_tls = tls.clone();
        shared_tls.alpn_protocols.push(b"http/1.1".to_vec());
        Ok(Self {
            tls: Arc::new(tls),
            shared_tls: Arc::new(shared_tls),
            dtls,
            leaf,
            min,
        })
    }

    pub(super) fn accept_tls(&self) -> Result<Box<Connection>, rustls::Error> {
        let mut connection = ServerConnection::new(Arc::clone(&self.tls))?;
        connection.set_buffer_limit(Some(BUFFER));
        Ok(Box::new(connection.into()))
    }

    /// For a port that others than TURN clients come to, by HTTP among others.
    pub(super) fn accept_shared_tls(&self) -> Result<Box<Connection>, rustls::Error> {
        let mut connection = ServerConnection::new(Arc::clone(&self.shared_tls))?;
        connection.set_buffer_limit(Some(BUFFER));
        Ok(Box::new(connection.into()))
    }

    /// DTLS 1.3, which has its own way of asking for a cookie: a HelloRetryRequest is part of what the handshake signs, so that
    /// only a session can send it.
    pub(super) fn accept_dtls13(&self, now: Instant) -> Dtls {
        Dtls::new_13(Arc::clone(&self.dtls), self.leaf.clone(), now)
    }

    /// DTLS 1.2, for a client that has brought a cookie of ours.
    pub(super) fn accept_dtls12(
        &self,
        now: Instant,
        proven: (&Hello<'_>, Cookie, &[u8]),
    ) -> Result<Dtls, dimpl::Error> {
        cookie::accept(now, Arc::clone(&self.dtls), self.leaf.clone(), proven)
    }

    /// The lowest version.
    pub(super) fn min_version(&self) -> MinVersion {
        self.min
    }
}

/// Whom a client believes: authorities, and certificates that were given as such by themselves.
#[derive(Clone)]
pub struct Authorities {
    tls: Arc<ClientConfig>,
    verifier: Arc<Judged<Verifier>>,
}

impl Authorities {
    /// The authorities in a PEM file.
    ///
    /// # Errors
    /// What cannot be used, and why.
    pub fn from_pem(pem: &[u8]) -> Result<Self, CertificateError> {
        let mut roots = RootCertStore::empty();
        let mut pinned = Vec::new();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate?;
            roots.add(certificate.clone())?;
            pinned.push(certificate);
        }
        if roots.is_empty() {
            return Err(CertificateError::Empty);
        }
        Self::new(roots, pinned)
    }

    /// Authorities in DER; those that cannot be read are left out, as the system's stores hold some of these.
    ///
    /// # Errors
    /// [`CertificateError::Empty`] if none is left.
    pub fn from_der<'a>(all: impl Iterator<Item = &'a [u8]>) -> Result<Self, CertificateError> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(all.map(CertificateDer::from));
        if roots.is_empty() {
            return Err(CertificateError::Empty);
        }
        Self::new(roots, Vec::new())
    }

    fn new(
        roots: RootCertStore,
        pinned: Vec<CertificateDer<'static>>,
    ) -> Result<Self, CertificateError> {
        let chains =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build()?;
        let verifier = Arc::new(Judged {
            judge: Verifier { chains, pinned },
            provider: provider(),
        });
        let shared: Arc<dyn ServerCertVerifier> = Arc::clone(&verifier) as _;
        let mut tls = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(shared)
            .with_no_client_auth();
        // Without ALPN: servers that know none of RFC 7443's names would refuse.
        tls.alpn_protocols = Vec::new();
        Ok(Self {
            tls: Arc::new(tls),
            verifier,
        })
    }

    pub(super) fn connect_tls(&self, name: &Name) -> Result<Box<Connection>, rustls::Error> {
        let mut connection = ClientConnection::new(Arc::clone(&self.tls), name.0.clone())?;
        connection.set_buffer_limit(Some(BUFFER));
        Ok(Box::new(connection.into()))
    }

    /// Whether the leaf of a DTLS server, which is all that is seen of its chain, is signed by one of these and carries
    /// the name.
    pub(super) fn verify_leaf(&self, leaf: &[u8], name: &Name) -> Result<(), rustls::Error> {
        let leaf = CertificateDer::from(leaf);
        self.verifier
            .verify_server_cert(&leaf, &[], &name.0, &[], UnixTime::now())
            .map(drop)
    }
}

/// As rustls checks chains; beside that, a certificate that stands in the file of authorities itself is believed without
/// a chain, for its names and its time: a self-signed one says of itself that it is an authority, and no chain may end
/// in one.
#[derive(Debug)]
struct Verifier {
    chains: Arc<WebPkiServerVerifier>,
    pinned: Vec<CertificateDer<'static>>,
}

impl Judge for Verifier {
    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.pinned.contains(end_entity) {
            verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            verify_time(end_entity, now)?;
            return Ok(ServerCertVerified::assertion());
        }
        self.chains
            .verify_server_cert(end_entity, intermediates, server_name, ocsp, now)
    }
}

fn verify_time(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), rustls::Error> {
    let bad = || rustls::Error::InvalidCertificate(rustls::CertificateError::BadEncoding);
    let parsed = x509_cert::Certificate::from_der(certificate).map_err(|_| bad())?;
    let validity = parsed.tbs_certificate().validity();
    let from = validity.not_before.to_unix_duration().as_secs();
    let until = validity.not_after.to_unix_duration().as_secs();
    let wrong = match now.as_secs() {
        now if now < from => rustls::CertificateError::NotValidYet,
        now if now > until => rustls::CertificateError::Expired,
        _ => return Ok(()),
    };
    Err(rustls::Error::InvalidCertificate(wrong))
}

/// What a certificate must be good for: a host name, or an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(ServerName<'static>);

impl Name {
    /// A host name.
    ///
    /// # Errors
    /// [`CertificateError::Name`]
    pub fn host(name: &str) -> Result<Self, CertificateError> {
        ServerName::try_from(name.to_owned())
            .map(Self)
            .map_err(|_| CertificateError::Name(name.to_owned()))
    }

    /// An address (a SAN of type iPAddress).
    #[must_use]
    pub fn address(ip: IpAddr) -> Self {
        Self(ip.into())
    }
}

/// A DTLS client; servers ask for no certificate of it, but the library wants one.
pub(super) fn connect_dtls(now: Instant) -> Result<Dtls, CertificateError> {
    let made = rcgen::generate_simple_self_signed(vec!["anode.invalid".to_owned()])?;
    let certificate = DtlsCertificate {
        certificate: made.cert.der().to_vec(),
        private_key: made.signing_key.serialize_der(),
    };
    let config = dtls_config(dimpl::Config::builder())?;
    let mut dtls = Dtls::new_auto(config, certificate, now);
    dtls.set_active(true);
    Ok(dtls)
}

fn dtls_config(builder: dimpl::ConfigBuilder) -> Result<Arc<DtlsConfig>, CertificateError> {
    builder
        .build()
        .map(Arc::new)
        .map_err(|error| CertificateError::Dtls(error.to_string()))
}
