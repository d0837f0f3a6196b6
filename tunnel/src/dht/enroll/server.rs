//! The credential server, a part of `anode relay`: it hands out the overlay's document, and certificates to whoever knows
//! a password (R123, R126). HTTPS, with a certificate of the overlay's own root for its name and addresses.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anode_platform::files::write_atomic;
use anode_routing::dht::reload::config::{
    CONTENT_TYPE, Discovery, ENROLL_PATH, OverlayConfig, discovery, write,
};
use anode_routing::dht::reload::security::{Certificate, request_for};
use anode_wire::Identity;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use rand::Rng as _;
use rand::rand_core::UnwrapErr;
use rand::rngs::SysRng;
use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use x509_cert::der::pem::{LineEnding, encode_string};

use super::digest::{Challenge, Claim};
use super::issued::{Authority, Denied};
use super::multicast::Responder;
use super::{CERTIFICATE_TYPE, CREDENTIALS_PATH, CredentialServerEntry, renew_after, state_file};
use crate::Error;
use crate::clock::unix;
use crate::state::book::hex;

/// Connections at a time; more wait.
const MAX_CONNECTIONS: usize = 64;
/// One connection has so long, whatever it does.
const CONNECTION: Duration = Duration::from_secs(10);
/// Bytes of a request for a certificate; ours have 300.
const MAX_REQUEST: usize = 4096;
/// Bytes of a request's head.
const MAX_HEAD: usize = 16 * 1024;
/// How long a question of ours may be answered, in seconds.
const NONCE: u64 = 60;
/// Wrong passwords of one source within [`WINDOW`].
const MAX_FAILURES: u32 = 10;
const WINDOW: Duration = Duration::from_secs(600);
/// Sources whose failures are counted.
const MAX_SOURCES: usize = 4096;
/// The users file is read again for a user it did not name, this often.
const READ_EVERY: Duration = Duration::from_secs(5);
/// The own certificate is looked at no more often than this, and no less often.
const SOONEST: Duration = Duration::from_secs(1);
const LATEST: Duration = Duration::from_secs(3600);
/// The certificate of the HTTPS is made at each start, for a year.
const YEAR: u64 = 366 * 86_400;

/// A credential server that has its sockets and keys, before this node gives up its rights.
pub struct Prepared {
    listeners: Vec<TcpListener>,
    tls: Arc<ServerConfig>,
    desk: Arc<Desk>,
    responder: Option<Responder>,
    /// For this node's own certificate, and how long the first one is good.
    request: Vec<u8>,
    valid: (u64, u64),
}

/// What this node's own part in the overlay needs of it.
pub struct Own {
    /// The overlay's document.
    pub document: OverlayConfig,
    /// This node's certificate.
    pub certificate: Certificate,
}

struct Desk {
    overlay: String,
    document: String,
    /// Of nonces.
    secret: [u8; 32],
    authority: Mutex<Authority>,
    sources: Mutex<BTreeMap<IpAddr, (u32, Instant)>>,
    /// When the users were read again.
    read: Mutex<Option<Instant>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Prepared {
    /// `peers` are where the overlay's links listen: they stand in the document.
    ///
    /// # Errors
    /// A file or a socket.
    pub fn new(
        entry: &CredentialServerEntry,
        overlay: &str,
        peers: &[SocketAddr],
        identity: &Identity,
        state: &Path,
    ) -> Result<(Self, Own), Error> {
        let refused = |error: &dyn std::fmt::Display| Error::refused(error.to_string());
        let mut authority = Authority::open(entry, overlay, state)?;
        let named = entry.listen.iter().chain(peers);
        let addresses: Vec<IpAddr> = named
            .map(SocketAddr::ip)
            .filter(|ip| !ip.is_unspecified())
            .collect();
        let Some(host) = addresses.first() else {
            return Err(Error::invalid(
                "[dht.credential-server]",
                "nobody would know where it is: name an address in listen of [[dht]] or of the server, not just 0.0.0.0",
            ));
        };
        let listeners = entry
            .listen
            .iter()
            .map(bind)
            .collect::<io::Result<Vec<_>>>();
        let listeners = listeners.map_err(|error| {
            Error::refused(format!("the credential server cannot listen: {error}"))
        })?;
        let port = listeners
            .first()
            .and_then(|listener| Some(listener.local_addr().ok()?.port()));
        let at = SocketAddr::new(*host, port.unwrap_or(443));
        let document = OverlayConfig {
            roots: vec![authority.server().root().clone()],
            credential_servers: vec![format!("https://{at}{CREDENTIALS_PATH}")],
            bootstrap: peers
                .iter()
                .copied()
                .filter(|at| !at.ip().is_unspecified())
                .collect(),
            ..OverlayConfig::new(overlay)
        };
        let text = write(std::slice::from_ref(&document));
        let now = unix();
        let valid = (now.saturating_sub(86_400), now + YEAR);
        let mut rng = UnwrapErr(SysRng);
        let made = authority
            .server()
            .host_certificate(&addresses, valid, &mut rng);
        let (shown, key) = made.map_err(|error| refused(&error))?;
        let root = authority.server().root().der().to_vec();
        let tls = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| refused(&error))?
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from(shown.der().to_vec())],
                PrivatePkcs8KeyDer::from(key.to_vec()).into(),
            )
            .map_err(|error| refused(&error))?;
        // What an operator hands to others: the document, and the root for browsers and the like.
        write_atomic(&state_file(state, overlay, "xml"), text.as_bytes(), 0o644)?;
        let root = encode_string("CERTIFICATE", LineEnding::LF, &root);
        let root = root.map_err(|error| refused(&error))?;
        write_atomic(&state_file(state, overlay, "pem"), root.as_bytes(), 0o644)?;
        let request = request_for(identity, &[]).map_err(|error| refused(&error))?;
        let certificate = authority
            .issue("", &request)
            .map_err(|why| Error::refused(format!("the own certificate: {why:?}")))?;
        let mut secret = [0; 32];
        rng.fill_bytes(&mut secret);
        let desk = Desk {
            overlay: overlay.to_owned(),
            document: text,
            secret,
            authority: Mutex::new(authority),
            sources: Mutex::default(),
            read: Mutex::new(None),
        };
        let responder = match discovery(overlay) {
            Discovery::Local { service, .. } => {
                let made = Responder::new(overlay, &service, &addresses, at.port());
                made.map_err(|error| Error::refused(format!("multicast DNS: {error}")))?
            }
            _ => None,
        };
        let prepared = Self {
            responder,
            listeners,
            tls: Arc::new(tls),
            desk: Arc::new(desk),
            request,
            valid: certificate.validity(),
        };
        let own = Own {
            document,
            certificate,
        };
        Ok((prepared, own))
    }

    /// Serves until the node ends, and tells of this node's own certificates as they are renewed; `place` is that of its
    /// `[[dht]]`.
    pub fn start(self, place: usize, tell: mpsc::Sender<(usize, Certificate)>) {
        let desk = Arc::clone(&self.desk);
        tokio::spawn(keep_own(desk, self.request, self.valid, place, tell));
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        if let Some(responder) = self.responder {
            tokio::spawn(responder.run());
        }
        for listener in self.listeners {
            let (tls, desk) = (TlsAcceptor::from(Arc::clone(&self.tls)), self.desk.clone());
            tokio::spawn(accept(listener, tls, desk, Arc::clone(&room)));
        }
    }
}

/// The server's own part in the ring needs a certificate as long as it runs.
async fn keep_own(
    desk: Arc<Desk>,
    request: Vec<u8>,
    mut valid: (u64, u64),
    place: usize,
    tell: mpsc::Sender<(usize, Certificate)>,
) {
    loop {
        let wait = renew_after(valid, unix());
        // Clocks are set, and machines sleep.
        tokio::time::sleep(wait.clamp(SOONEST, LATEST)).await;
        if !renew_after(valid, unix()).is_zero() {
            continue;
        }
        let issued = locked(&desk.authority).issue("", &request);
        match issued {
            Ok(certificate) => {
                valid = certificate.validity();
                if tell.send((place, certificate)).await.is_err() {
                    return;
                }
            }
            Err(why) => tracing::error!("credential server: the own certificate: {why:?}"),
        }
    }
}

/// `[::]` is for both families, and on a machine without IPv6 for IPv4 alone.
fn bind(at: &SocketAddr) -> io::Result<TcpListener> {
    let bound = match TcpListener::bind(at) {
        Err(error) if at.ip().is_unspecified() && at.is_ipv6() => {
            TcpListener::bind(SocketAddr::from(([0; 4], at.port()))).map_err(|_| error)
        }
        bound => bound,
    }?;
    bound.set_nonblocking(true)?;
    Ok(bound)
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, desk: Arc<Desk>, room: Arc<Semaphore>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!("credential server: {error}"),
    };
    loop {
        // Never closed.
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let Ok((stream, from)) = listener.accept().await else {
            // Out of descriptors: somebody will close one.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (tls, desk) = (tls.clone(), Arc::clone(&desk));
        tokio::spawn(async move {
            let serve = async {
                let stream = tls.accept(stream).await.ok()?;
                let from = from.ip().to_canonical();
                let service = service_fn(|request| {
                    let desk = Arc::clone(&desk);
                    async move { Ok::<_, Infallible>(desk.answer(from, request).await) }
                });
                let served = http1::Builder::new()
                    .max_buf_size(MAX_HEAD)
                    .serve_connection(TokioIo::new(stream), service);
                served.await.ok()
            };
            // Whoever is slow has had his time.
            let _ = tokio::time::timeout(CONNECTION, serve).await;
            drop(permit);
        });
    }
}

type Answer = Response<Full<Bytes>>;

fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let kind = header::HeaderValue::from_static(kind);
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}

fn told(status: StatusCode, text: &str) -> Answer {
    answer(status, "text/plain; charset=utf-8", format!("{text}\n"))
}

impl Desk {
    async fn answer(&self, from: IpAddr, request: Request<Incoming>) -> Answer {
        let path = request.uri().path();
        match (request.method(), path) {
            (&Method::GET, ENROLL_PATH) => {
                answer(StatusCode::OK, CONTENT_TYPE, self.document.clone())
            }
            (&Method::POST, CREDENTIALS_PATH) => self.enroll(from, request).await,
            (_, ENROLL_PATH | CREDENTIALS_PATH) => {
                told(StatusCode::METHOD_NOT_ALLOWED, "the other method")
            }
            _ => told(StatusCode::NOT_FOUND, "nothing is here"),
        }
    }

    async fn enroll(&self, from: IpAddr, request: Request<Incoming>) -> Answer {
        if self.is_blocked(from) {
            return told(StatusCode::TOO_MANY_REQUESTS, "too many wrong passwords");
        }
        let claim = request.headers().get(header::AUTHORIZATION);
        let claim = claim.and_then(|claim| Claim::parse(claim.to_str().ok()?));
        let Some(claim) = claim.filter(|claim| self.is_fresh(claim.nonce(), from)) else {
            return self.ask(from);
        };
        let user = claim.user().to_owned();
        let secret = self.secret(&user);
        let proves = secret
            .is_some_and(|secret| claim.proves(&secret, &self.overlay, "POST", CREDENTIALS_PATH));
        if !proves {
            self.note_failure(from);
            tracing::warn!(%from, "credential server: a wrong user or password");
            return self.ask(from);
        }
        let body = Limited::new(request.into_body(), MAX_REQUEST);
        let Ok(body) = body.collect().await else {
            return told(
                StatusCode::PAYLOAD_TOO_LARGE,
                "a request has 4,096 bytes at most",
            );
        };
        let issued = locked(&self.authority).issue(&user, &body.to_bytes());
        match issued {
            Ok(certificate) => {
                tracing::info!(user, peer = ?certificate.peers(), "credential server: a certificate");
                answer(StatusCode::OK, CERTIFICATE_TYPE, certificate.der().to_vec())
            }
            Err(Denied::Request(why)) => told(StatusCode::BAD_REQUEST, &why),
            Err(Denied::Full) => told(StatusCode::FORBIDDEN, "this user has too many machines"),
            Err(Denied::State(why)) => {
                tracing::error!("credential server: {why}");
                told(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "it cannot be written down",
                )
            }
        }
    }

    /// Whoever was added to the file since the start is let in, too.
    fn secret(&self, user: &str) -> Option<zeroize::Zeroizing<String>> {
        let mut authority = locked(&self.authority);
        let known = authority.secret(user);
        let mut read = locked(&self.read);
        if known.is_some() || read.is_some_and(|at| at.elapsed() < READ_EVERY) {
            return known;
        }
        *read = Some(Instant::now());
        authority.read_again();
        authority.secret(user)
    }

    fn ask(&self, from: IpAddr) -> Answer {
        let challenge = Challenge::new(&self.overlay, self.nonce(unix(), from));
        let mut answer = told(StatusCode::UNAUTHORIZED, "user and password");
        if let Ok(value) = header::HeaderValue::from_str(&challenge.header()) {
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, value);
        }
        answer
    }

    /// No table of questions: one is told by its time, and by who was asked.
    fn nonce(&self, unix: u64, from: IpAddr) -> String {
        let mut hasher = Sha256::new();
        hasher.update(self.secret);
        hasher.update(unix.to_be_bytes());
        hasher.update(from.to_string());
        format!("{unix:016x}{}", &hex(&hasher.finalize())[..32])
    }

    fn is_fresh(&self, nonce: &str, from: IpAddr) -> bool {
        let Some(at) = nonce
            .get(..16)
            .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        else {
            return false;
        };
        let now = unix();
        at <= now && now - at <= NONCE && self.nonce(at, from) == nonce
    }

    fn is_blocked(&self, from: IpAddr) -> bool {
        let sources = locked(&self.sources);
        let known = sources.get(&source(from));
        known.is_some_and(|(count, since)| *count >= MAX_FAILURES && since.elapsed() < WINDOW)
    }

    fn note_failure(&self, from: IpAddr) {
        let mut sources = locked(&self.sources);
        sources.retain(|_, (_, since)| since.elapsed() < WINDOW);
        let room = sources.len() < MAX_SOURCES;
        match sources.get_mut(&source(from)) {
            Some((count, _)) => *count += 1,
            None if room => drop(sources.insert(source(from), (1, Instant::now()))),
            None => {}
        }
    }
}

/// What is counted together: an IPv4 address, or the /64 of an IPv6 one.
fn source(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(ip) => IpAddr::from((u128::from(ip) & !u128::from(u64::MAX)).to_be_bytes()),
    }
}
