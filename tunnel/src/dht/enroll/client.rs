//! Getting a certificate, and another one before it expires (R126): `user`, `password-file`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anode_platform::files::{read_secret, write_atomic};
use anode_routing::dht::reload::config::OverlayConfig;
use anode_routing::dht::reload::security::{
    Certificate, LinkCredentials, Policy, certificate_answer, request_for,
};
use anode_wire::Identity;
use anode_wire::zonefile::Reach;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use rand::Rng as _;
use rand::rand_core::UnwrapErr;
use rand::rngs::SysRng;
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::digest::Challenge;
use super::{MAX_WORD, REQUEST_TYPE, renew_after, state_file};
use crate::Error;
use crate::clock::unix;
use crate::state::book::hex;
use crate::zone::http;
use crate::zone::source::Url;

/// After a failure it is tried again, twice as late each time.
const RETRY: Duration = Duration::from_secs(5);
const MAX_RETRY: Duration = Duration::from_secs(600);
/// Between two certificates at least.
const BETWEEN: Duration = Duration::from_secs(60);
/// All of one attempt at one server.
const TOTAL: Duration = Duration::from_secs(15);
/// Bytes of an answer.
const MAX_ANSWER: usize = 64 * 1024;
/// Bytes of an answer's head.
const HEAD_MAX: usize = 16 * 1024;
/// What is left of a certificate is looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(3600);

/// All that a node needs to get its certificate.
#[derive(Clone)]
pub struct Enrolling {
    user: String,
    password: Arc<Zeroizing<String>>,
    identity: Arc<Identity>,
    state: PathBuf,
    /// Certificates that this machine trusts, beside the roots of the overlay.
    trusted: Arc<RootCertStore>,
}

impl Enrolling {
    /// Reads the password, and the certificates that this machine trusts: a confined node cannot.
    ///
    /// # Errors
    /// The password file cannot be read, is open to others, or holds none.
    pub fn new(
        user: &str,
        password_file: &Path,
        identity: Arc<Identity>,
        state: &Path,
    ) -> Result<Self, Error> {
        let bytes = Zeroizing::new(read_secret(password_file, MAX_WORD + 2)?);
        let wrong = |why: &str| Error::refused(format!("{}: {why}", password_file.display()));
        let text = str::from_utf8(&bytes).map_err(|_| wrong("it is not in UTF-8"))?;
        let text = text.trim_end_matches(['\r', '\n']);
        if text.is_empty() || text.contains('\n') {
            return Err(wrong("it holds one line, the password"));
        }
        let mut trusted = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        trusted.add_parsable_certificates(found.certs);
        Ok(Self {
            user: user.to_owned(),
            password: Arc::new(Zeroizing::new(text.to_owned())),
            identity,
            state: state.to_owned(),
            trusted: Arc::new(trusted),
        })
    }

    /// The certificate of an earlier run, if it is still good.
    pub fn known(&self, document: &OverlayConfig) -> Option<Certificate> {
        let der = std::fs::read(state_file(&self.state, &document.name, "crt")).ok()?;
        let certificate = Certificate::from_der(&der).ok()?;
        match self.check(document, &certificate) {
            Ok(()) => Some(certificate),
            Err(why) => {
                tracing::info!("DHT {}: the certificate is not used: {why}", document.name);
                None
            }
        }
    }

    /// Whether it is for this node, in this overlay, by one of its roots (R126).
    fn check(&self, document: &OverlayConfig, certificate: &Certificate) -> Result<(), String> {
        let policy = Policy {
            overlay: document.name.clone(),
            roots: document.roots.clone(),
            ..Policy::default()
        };
        let accepted = policy.accept(certificate, unix());
        accepted.map_err(|error| error.to_string())?;
        LinkCredentials::certified(&self.identity, certificate.clone(), policy)
            .map(drop)
            .map_err(|error| error.to_string())
    }

    async fn enroll(&self, document: &OverlayConfig) -> Result<Certificate, String> {
        let name = format!("{}@{}", self.user, document.name);
        let request = request_for(&self.identity, &[&name]).map_err(|error| error.to_string())?;
        let mut last = "the overlay's document names no credential server".to_owned();
        for server in &document.credential_servers {
            let asked = async {
                let url: Url = server.parse().map_err(|error| format!("{error}"))?;
                let der = tokio::time::timeout(TOTAL, self.ask(document, &url, &request))
                    .await
                    .map_err(|_| "no whole answer in time".to_owned())??;
                let certificate = certificate_answer(&der).map_err(|error| error.to_string())?;
                self.check(document, &certificate)?;
                Ok::<_, String>(certificate)
            };
            match asked.await {
                Ok(certificate) => return Ok(certificate),
                Err(error) => last = format!("{server}: {error}"),
            }
        }
        Err(last)
    }

    /// Asks twice: the first answer says how the password is to be shown.
    async fn ask(
        &self,
        document: &OverlayConfig,
        url: &Url,
        request: &[u8],
    ) -> Result<Vec<u8>, String> {
        let mut server = self.connect(document, url).await?;
        let (status, challenge, body) = post(&mut server, url, request, None).await?;
        if status == StatusCode::OK {
            return Ok(body);
        }
        let challenge = challenge.filter(|_| status == StatusCode::UNAUTHORIZED);
        let challenge = challenge
            .and_then(|challenge| Challenge::parse(&challenge))
            .ok_or_else(|| format!("status {status}, and no question for a password by SHA-256"))?;
        let mut cnonce = [0; 16];
        UnwrapErr(SysRng).fill_bytes(&mut cnonce);
        let password = self.password.as_str();
        let shown = challenge.answer(&self.user, password, "POST", &url.path, &hex(&cnonce));
        match post(&mut server, url, request, Some(&shown)).await? {
            (StatusCode::OK, _, body) => Ok(body),
            (StatusCode::UNAUTHORIZED, ..) => {
                Err(format!("it does not know this password of {}", self.user))
            }
            (status, _, body) => {
                let why: String = String::from_utf8_lossy(&body).chars().take(200).collect();
                Err(format!("status {status}: {}", why.trim().escape_debug()))
            }
        }
    }

    async fn connect(
        &self,
        document: &OverlayConfig,
        url: &Url,
    ) -> Result<SendRequest<Full<Bytes>>, String> {
        if !url.tls {
            return Err("a credential server is asked by https alone".to_owned());
        }
        let mut roots = RootCertStore::clone(&self.trusted);
        for root in &document.roots {
            let der = CertificateDer::from(root.der().to_vec());
            roots.add(der).map_err(|error| error.to_string())?;
        }
        let config = Arc::new(http::client_config(roots));
        let stream = http::connect(url, Reach::Local).await;
        let stream = stream.map_err(|error| error.to_string())?;
        let name = http::server_name_of(&url.host);
        let name = http::server_name(&name).map_err(|error| error.to_string())?;
        let stream = TlsConnector::from(config).connect(name, stream).await;
        let stream = stream.map_err(|error| format!("TLS: {error}"))?;
        let made = http1::Builder::new()
            .max_buf_size(HEAD_MAX)
            .handshake(TokioIo::new(stream))
            .await;
        let (server, connection) = made.map_err(|error| error.to_string())?;
        // Ends with the last request; what breaks it breaks the request, too.
        tokio::spawn(async move { drop(connection.await) });
        Ok(server)
    }
}

async fn post(
    server: &mut SendRequest<Full<Bytes>>,
    url: &Url,
    body: &[u8],
    shown: Option<&str>,
) -> Result<(StatusCode, Option<String>, Vec<u8>), String> {
    let broken =
        |error: &dyn std::fmt::Display| format!("it does not answer as it should: {error}");
    server.ready().await.map_err(|error| broken(&error))?;
    let mut request = Request::post(&url.path)
        .header(header::HOST, &url.authority)
        .header(header::CONTENT_TYPE, REQUEST_TYPE);
    if let Some(shown) = shown {
        request = request.header(header::AUTHORIZATION, shown);
    }
    let request = request
        .body(Full::new(Bytes::copy_from_slice(body)))
        .map_err(|error| broken(&error))?;
    let answer = server.send_request(request).await;
    let answer = answer.map_err(|error| broken(&error))?;
    let status = answer.status();
    let challenge = answer.headers().get(header::WWW_AUTHENTICATE);
    let challenge = challenge.and_then(|it| Some(it.to_str().ok()?.to_owned()));
    let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
    let body = body.map_err(|error| broken(&error))?;
    Ok((status, challenge, body.to_bytes().to_vec()))
}

/// Between two certificates at least, but for those that are good for minutes only.
fn pause((from, until): (u64, u64)) -> Duration {
    BETWEEN.min(Duration::from_secs(until.saturating_sub(from)) / 8)
}

/// Tells of certificates as they come, until nobody listens or the document has gone. `current`: of an earlier run.
pub async fn keep(
    enrolling: Enrolling,
    mut document: watch::Receiver<OverlayConfig>,
    mut current: Option<Certificate>,
    place: usize,
    tell: mpsc::Sender<(usize, Certificate)>,
) {
    let mut retry = RETRY;
    loop {
        let wanted = document.borrow_and_update().clone();
        let usable = current
            .as_ref()
            .filter(|it| enrolling.check(&wanted, it).is_ok());
        let wait = usable.map_or(Duration::ZERO, |it| renew_after(it.validity(), unix()));
        if !wait.is_zero() {
            tokio::select! {
                // Clocks are set, and machines sleep.
                () = tokio::time::sleep(wait.min(LOOK_EVERY)) => {}
                changed = document.changed() => if changed.is_err() { return },
            }
            continue;
        }
        match enrolling.enroll(&wanted).await {
            Ok(certificate) => {
                retry = RETRY;
                let file = state_file(&enrolling.state, &wanted.name, "crt");
                if let Err(error) = write_atomic(&file, certificate.der(), 0o600) {
                    tracing::warn!("DHT {}: {error}", wanted.name);
                }
                tracing::info!("DHT {}: a certificate for {}", wanted.name, enrolling.user);
                let valid = certificate.validity();
                current = Some(certificate.clone());
                if tell.send((place, certificate)).await.is_err() {
                    return;
                }
                // A server whose clock is wrong issues what is old already.
                tokio::time::sleep(pause(valid)).await;
            }
            Err(error) => {
                tracing::warn!("DHT {}: no certificate: {error}", wanted.name);
                tokio::select! {
                    () = tokio::time::sleep(retry) => {}
                    changed = document.changed() => if changed.is_err() { return },
                }
                retry = (retry * 2).min(MAX_RETRY);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // R126, R137: half of its time before the end
    #[test]
    fn a_certificate_is_renewed_before_it_expires() {
        let day = 86_400;
        assert_eq!(renew_after((0, 60 * day), 0), Duration::from_secs(30 * day));
        assert_eq!(renew_after((0, 60 * day), 30 * day), Duration::ZERO);
        assert_eq!(renew_after((0, 60 * day), 70 * day), Duration::ZERO);
        assert_eq!(renew_after((9, 3), 1), Duration::from_secs(8));
        assert_eq!(pause((0, 60 * day)), BETWEEN);
        assert_eq!(pause((0, 24)), Duration::from_secs(3));
        assert_eq!(pause((9, 3)), Duration::ZERO);
    }
}
