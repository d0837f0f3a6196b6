//! TLS around a connection: it gets through where nothing else does. Who the other side is, the session inside shows; a
//! certificate is checked only where a host name was given for a place.
use crate::judge::{Judge, Judged};
use rustls::client::danger::ServerCertVerified;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection,
};
use std::net::IpAddr;
use std::sync::Arc;

/// Plain bytes that a TLS connection holds while its socket takes none.
const BUFFER: usize = 32 << 10;

/// Why TLS cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The certificate of our own could not be made.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// A PEM file is none.
    #[error("the certificate or its key is not readable PEM: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// There is a host name to check, and nothing to check it against.
    #[error("this machine has no certificates to trust: install ca-certificates")]
    NobodyTrusted,
    /// They do not fit each other, or are of no use.
    #[error("the certificate and its key cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
}

/// What both sides of TLS need, made once.
pub(super) struct Tls {
    /// Made when the first one dials in, unless the operator has named one.
    server: Option<Arc<ServerConfig>>,
    /// Without a name to check.
    anybody: Arc<ClientConfig>,
    named: Option<Arc<ClientConfig>>,
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

impl Tls {
    pub fn new() -> Result<Self, TlsError> {
        let provider = provider();
        let verifier = Arc::new(Judged {
            judge: Anybody,
            provider: Arc::clone(&provider),
        });
        let anybody = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        Ok(Self {
            server: None,
            anybody: Arc::new(anybody),
            named: None,
        })
    }

    /// Serves with the operator's certificate from now on, in PEM, the chain from the leaf up.
    pub fn set_certificate(&mut self, chain: &[u8], key: &[u8]) -> Result<(), TlsError> {
        let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(key)?;
        self.server = Some(serve(chain, key)?);
        Ok(())
    }

    /// The side that was dialled.
    pub fn accept(&mut self) -> Result<Box<Connection>, TlsError> {
        let config = match &self.server {
            Some(config) => config,
            None => {
                let made = rcgen::generate_simple_self_signed(vec!["anode.invalid".to_owned()])?;
                let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
                self.server
                    .insert(serve(vec![made.cert.der().clone()], key)?)
            }
        };
        let mut connection = ServerConnection::new(Arc::clone(config))?;
        connection.set_buffer_limit(Some(BUFFER));
        Ok(Box::new(connection.into()))
    }

    /// The side that dials. With a name, the certificate must be good for it.
    pub fn connect(&mut self, to: IpAddr, name: Option<&str>) -> Result<Box<Connection>, TlsError> {
        let (config, name) = match name {
            None => (&self.anybody, ServerName::from(to)),
            Some(name) => {
                let parsed = ServerName::try_from(name.to_owned())
                    .map_err(|error| rustls::Error::General(error.to_string()))?;
                let config = match &mut self.named {
                    Some(config) => config,
                    empty => empty.insert(checking()?),
                };
                (&*config, parsed)
            }
        };
        let mut connection = ClientConnection::new(Arc::clone(config), name)?;
        connection.set_buffer_limit(Some(BUFFER));
        Ok(Box::new(connection.into()))
    }
}

fn serve(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(Arc::new(config))
}

/// Certificates are checked against those that the machine trusts: read when the first one is to be checked, from files
/// that a confined node may read.
fn checking() -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(TlsError::NobodyTrusted);
    }
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Takes any certificate that its holder can sign with.
#[derive(Debug)]
struct Anybody;

impl Judge for Anybody {
    fn verify(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
}
