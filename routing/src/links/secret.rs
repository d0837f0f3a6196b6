//! What links show, and whom they believe: certificates, or a key that all members share (R12, R13, RD61).

use anode_reload::security::{Certificate, LinkCredentials};
use anode_reload::{Id, ReloadError};
use dimpl::{Config as DtlsConfig, Dtls, DtlsCertificate, PskResolver};
use rustls::client::danger::ServerCertVerified;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use zeroize::Zeroizing;

use crate::judge::{ClientJudge, Judge, Judged};

/// Bytes of a DTLS record with what it carries: below every path's packet size.
const MTU: usize = 1280;
/// Plain bytes that a TLS connection holds while its socket takes none.
const BUFFER: usize = 256 << 10;

/// Why a link cannot be begun.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecurityError {
    /// DTLS refuses its settings.
    #[error("cannot prepare DTLS: {0}")]
    Dtls(String),
    /// TLS refuses its settings.
    #[error("cannot prepare TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// TLS knows no shared keys here.
    #[error("a shared key is for DTLS only: write dtls:// instead of tls://")]
    SharedKeyOverTls,
    /// Nobody shows certificates here.
    #[error("the members of this overlay share a key, and have no certificates")]
    NoCertificate,
    /// The certificate is not this node's.
    #[error(transparent)]
    Certificate(#[from] ReloadError),
    /// The connection could not be opened.
    #[error("cannot connect: {0}")]
    Connect(#[from] std::io::Error),
}

/// How the links of an overlay are secured.
pub enum LinkSecurity {
    /// Both sides show certificates.
    Certificates(Certified),
    /// All members know one key.
    SharedKey(Shared),
}

/// With certificates.
pub struct Certified {
    credentials: Arc<LinkCredentials>,
    dtls: Arc<DtlsConfig>,
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

/// With a shared key.
pub struct Shared {
    own: Id,
    key: Arc<Zeroizing<Vec<u8>>>,
}

/// A DTLS connection; with a shared key, what its other side calls itself.
pub(super) struct Begun {
    pub dtls: Dtls,
    pub named: Option<Arc<Named>>,
}

/// Hears who the other side says it is, while the handshake looks for the key (RD61).
pub(super) struct Named {
    key: Arc<Zeroizing<Vec<u8>>>,
    peer: Mutex<Option<Id>>,
}

impl Named {
    pub fn peer(&self) -> Option<Id> {
        *self.peer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PskResolver for Named {
    fn resolve(&self, identity: &[u8]) -> Option<Vec<u8>> {
        let hex = str::from_utf8(identity)
            .ok()
            .filter(|hex| hex.len() == 32)?;
        let id = Id::from_number(u128::from_str_radix(hex, 16).ok()?);
        if !id.is_valid_peer() {
            return None;
        }
        *self.peer.lock().unwrap_or_else(PoisonError::into_inner) = Some(id);
        Some(self.key.to_vec())
    }
}

/// Seconds since 1970, by the wall clock: certificates have times.
pub(super) fn unix() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

impl LinkSecurity {
    /// With certificates.
    ///
    /// # Errors
    /// They cannot be used.
    pub fn certificates(credentials: LinkCredentials) -> Result<Self, SecurityError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let credentials = Arc::new(credentials);
        let own = || {
            let leaf = CertificateDer::from(credentials.certificate().der().to_vec());
            let key = PrivatePkcs8KeyDer::from(credentials.key_der().to_vec());
            (vec![leaf], PrivateKeyDer::Pkcs8(key))
        };
        let judge = Members(Arc::clone(&credentials));
        let judged = Arc::new(Judged {
            judge: judge.clone(),
            provider: Arc::clone(&provider),
        });
        let (chain, key) = own();
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(judged)
            .with_client_auth_cert(chain, key)?;
        let clients = Arc::new(Judged {
            judge,
            provider: Arc::clone(&provider),
        });
        let (chain, key) = own();
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain, key)?;
        Ok(Self::Certificates(Certified {
            credentials,
            dtls: built(DtlsConfig::builder())?,
            client: Arc::new(client),
            server: Arc::new(server),
        }))
    }

    /// With a key that all members share; `own` is this node's random Peer-ID.
    pub fn shared_key(own: Id, key: Zeroizing<Vec<u8>>) -> Self {
        let key = Arc::new(key);
        Self::SharedKey(Shared { own, key })
    }

    /// The same with another certificate for the same key and Peer-ID.
    ///
    /// # Errors
    /// It is for another key or Peer-ID, or a key is shared instead.
    pub fn renewed(&self, certificate: Certificate) -> Result<Self, SecurityError> {
        let Self::Certificates(it) = self else {
            return Err(SecurityError::NoCertificate);
        };
        let renewed = it.credentials.renewed(certificate)?;
        Self::certificates(renewed)
    }

    /// This node's Peer-ID.
    pub fn peer(&self) -> Id {
        match self {
            Self::Certificates(it) => it.credentials.peer(),
            Self::SharedKey(it) => it.own,
        }
    }

    /// What a CONNECT says of our certificate; empty with a shared key.
    pub fn fingerprint(&self) -> String {
        match self {
            Self::Certificates(it) => {
                anode_reload::security::fingerprint(it.credentials.certificate().der())
            }
            Self::SharedKey(_) => String::new(),
        }
    }

    /// A DTLS connection; the active side is the client.
    pub(super) fn dtls(&self, now: Instant, active: bool) -> Result<Begun, SecurityError> {
        let mut begun = match self {
            Self::Certificates(it) => {
                let leaf = DtlsCertificate {
                    certificate: it.credentials.certificate().der().to_vec(),
                    private_key: it.credentials.key_der().to_vec(),
                };
                let dtls = Dtls::new_auto(Arc::clone(&it.dtls), leaf, now);
                Begun { dtls, named: None }
            }
            Self::SharedKey(it) => {
                let named = Arc::new(Named {
                    key: Arc::clone(&it.key),
                    peer: Mutex::new(None),
                });
                let name = it.own.to_string().into_bytes();
                let resolver = Arc::clone(&named) as Arc<dyn PskResolver>;
                let config = match active {
                    true => DtlsConfig::builder().with_psk_client(name, resolver),
                    false => DtlsConfig::builder().with_psk_server(None, resolver),
                };
                let dtls = Dtls::new_12_psk(built(config)?, now);
                // Of the client itself the resolver hears nothing but its own name.
                let named = (!active).then_some(named);
                Begun { dtls, named }
            }
        };
        if active {
            begun.dtls.set_active(true);
        }
        Ok(begun)
    }

    /// Who shows this certificate.
    pub(super) fn check(&self, leaf: &[u8]) -> Result<Id, ReloadError> {
        match self {
            Self::Certificates(it) => it.credentials.check(leaf, unix()),
            Self::SharedKey(_) => Err(ReloadError::Unverified(
                "a certificate where a shared key was agreed on",
            )),
        }
    }

    /// Whether both sides show certificates.
    pub(super) fn has_certificates(&self) -> bool {
        matches!(self, Self::Certificates(_))
    }

    pub(super) fn connect_tls(
        &self,
        to: std::net::IpAddr,
    ) -> Result<Box<Connection>, SecurityError> {
        let Self::Certificates(it) = self else {
            return Err(SecurityError::SharedKeyOverTls);
        };
        let mut connection = ClientConnection::new(Arc::clone(&it.client), ServerName::from(to))?;
        connection.set_buffer_limit(Some(BUFFER));
        Ok(Box::new(connection.into()))
    }

    pub(super) fn accept_tls(&self) -> Result<Box<Connection>, SecurityError> {
        let Self::Certificates(it) = self else {
            return Err(SecurityError::SharedKeyOverTls);
        };
        let mut connection = ServerConnection::new(Arc::clone(&it.server))?;
        connection.set_buffer_limit(Some(BUFFER));
        Ok(Box::new(connection.into()))
    }
}

fn built(builder: dimpl::ConfigBuilder) -> Result<Arc<DtlsConfig>, SecurityError> {
    let config = builder.mtu(MTU).build();
    let config = config.map_err(|error| SecurityError::Dtls(error.to_string()))?;
    Ok(Arc::new(config))
}

/// Members of the overlay, by their certificates (R138).
#[derive(Clone)]
struct Members(Arc<LinkCredentials>);

impl std::fmt::Debug for Members {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Members")
    }
}

impl Members {
    fn check(&self, leaf: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        let wrong = |error: ReloadError| rustls::Error::General(error.to_string());
        self.0.check(leaf, unix()).map(drop).map_err(wrong)
    }
}

impl Judge for Members {
    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end_entity)?;
        Ok(ServerCertVerified::assertion())
    }
}

impl ClientJudge for Members {
    fn verify_client(&self, end_entity: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        self.check(end_entity)
    }
}
