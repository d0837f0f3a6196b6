//! One GET, and nothing of what a hostile server would like: no redirects, no compression, no cookies, no waiting, no
//! body beyond what a zone file may have (D4, D5, S27).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anode_wire::zonefile::{self, Reach};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::{Body, Bytes};
use hyper::client::conn::http1;
use hyper::header::{self, HeaderValue};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::source::{Host, Url};
use crate::Error;

/// For a connection, to whichever of the server's addresses.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For all of it.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Addresses of a server that are tried.
const MAX_ADDRESSES: usize = 4;
/// Bytes and lines of an answer's head.
const HEAD_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;
/// Bytes of a Last-Modified that is sent back; an HTTP date has 29.
const DATE_MAX: usize = 64;

/// What the server had.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fetched {
    /// A file.
    File {
        /// Not looked at yet; at most [`zonefile::MAX_LEN`].
        bytes: Vec<u8>,
        /// Last-Modified, to be sent back as If-Modified-Since.
        modified: Option<String>,
        /// What relays it may name, by where the server is.
        reach: Reach,
    },
    /// 304: what we have is what it has.
    Unchanged,
}

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The name has no address.
    #[error("the name cannot be looked up: {0}")]
    Name(String),
    /// None of its addresses may be asked.
    #[error("{0} is no address that may be asked for a zone file")]
    Forbidden(IpAddr),
    /// None of its addresses answered.
    #[error("no connection to {at}: {error}")]
    Connect {
        /// The one tried last.
        at: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// TLS.
    #[error("TLS: {0}")]
    Tls(String),
    /// It took too long.
    #[error("no whole answer within {} s", TOTAL_TIMEOUT.as_secs())]
    TimedOut,
    /// Not HTTP, or cut short.
    #[error("the server does not answer as it should: {0}")]
    Protocol(String),
    /// Somewhere else.
    #[error("status {status}, to {to:?}: redirects are not followed, give the new URL")]
    Redirect {
        /// 301, …
        status: u16,
        /// Its Location, cut.
        to: String,
    },
    /// Neither 200 nor 304.
    #[error("status {0}")]
    Status(u16),
    /// More than a zone file may have.
    #[error("the file has more than {} bytes", zonefile::MAX_LEN)]
    TooLarge,
    /// Compressed, or otherwise not the file itself.
    #[error("the server sends it encoded ({0:?}), which was not asked for")]
    Encoded(String),
    /// Nothing in it.
    #[error("the file is empty")]
    Empty,
    /// 304 without a question.
    #[error("status 304, but no copy is here to be unchanged")]
    UnchangedWithoutCopy,
}

/// Makes requests; knows which certificates this machine trusts.
#[derive(Clone, Default)]
pub struct Fetcher {
    tls: Option<Arc<ClientConfig>>,
}

impl Fetcher {
    /// For http alone.
    pub fn plain() -> Self {
        Self::default()
    }

    /// Also for https, by the certificates that this machine trusts. They are read here and now: a confined node cannot.
    pub fn with_tls() -> Result<Self, Error> {
        Ok(Self {
            tls: Some(trusted_certificates()?),
        })
    }

    /// One request, bounded in time and size. `reach`: how far inside the server may be. `since`: Last-Modified of the copy.
    pub async fn fetch(
        &self,
        url: &Url,
        reach: Reach,
        since: Option<&str>,
    ) -> Result<Fetched, FetchError> {
        self.request(url, &server_name_of(&url.host), reach, since)
            .await
    }

    /// The same from a server that must have the certificate of another name than that which has led there.
    pub async fn fetch_of(
        &self,
        url: &Url,
        name: &str,
        reach: Reach,
    ) -> Result<Fetched, FetchError> {
        self.request(url, name, reach, None).await
    }

    async fn request(
        &self,
        url: &Url,
        name: &str,
        reach: Reach,
        since: Option<&str>,
    ) -> Result<Fetched, FetchError> {
        let work = async {
            let stream = tokio::time::timeout(CONNECT_TIMEOUT, connect(url, reach))
                .await
                .map_err(|_| FetchError::TimedOut)??;
            let server = stream
                .peer_addr()
                .map_err(|error| FetchError::Protocol(error.to_string()))?;
            if url.tls {
                let stream = self.handshake(name, stream).await?;
                exchange(stream, url, server.ip(), since).await
            } else {
                exchange(stream, url, server.ip(), since).await
            }
        };
        tokio::time::timeout(TOTAL_TIMEOUT, work)
            .await
            .unwrap_or(Err(FetchError::TimedOut))
    }

    async fn handshake(
        &self,
        name: &str,
        stream: TcpStream,
    ) -> Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static, FetchError> {
        let no = |error: &dyn std::fmt::Display| FetchError::Tls(error.to_string());
        let Some(config) = &self.tls else {
            return Err(no(&"not prepared at the start"));
        };
        let name = server_name(name)?;
        let connector = TlsConnector::from(Arc::clone(config));
        connector
            .connect(name, stream)
            .await
            .map_err(|error| no(&error))
    }
}

/// The name that a server's certificate must have.
pub(crate) fn server_name(name: &str) -> Result<ServerName<'static>, FetchError> {
    ServerName::try_from(name.to_owned()).map_err(|error| FetchError::Tls(error.to_string()))
}

/// A host as its certificate names it.
pub(crate) fn server_name_of(host: &Host) -> String {
    match host {
        Host::Name(name) => name.clone(),
        Host::Ip(ip) => ip.to_string(),
    }
}

/// TLS by the certificates that this machine trusts.
pub(crate) fn trusted_certificates() -> Result<Arc<ClientConfig>, Error> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err(Error::refused(
            "https needs certificates to trust, and this machine has none: install ca-certificates",
        ));
    }
    Ok(Arc::new(client_config(roots)))
}

/// TLS that believes these.
pub(crate) fn client_config(roots: RootCertStore) -> ClientConfig {
    let provider = tokio_rustls::rustls::crypto::aws_lc_rs::default_provider();
    ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// To the first address that answers, of those that may be asked.
pub(crate) async fn connect(url: &Url, reach: Reach) -> Result<TcpStream, FetchError> {
    let found = match &url.host {
        Host::Ip(ip) => vec![*ip],
        Host::Name(name) => look_up(name.clone()).await?,
    };
    let mut last = FetchError::Name("it has no address".to_owned());
    for ip in found.into_iter().take(MAX_ADDRESSES) {
        if reach.check(ip).is_err() {
            last = FetchError::Forbidden(ip);
            continue;
        }
        let at = SocketAddr::new(ip, url.port);
        match TcpStream::connect(at).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = FetchError::Connect { at, error },
        }
    }
    Err(last)
}

/// The system's resolver, in a thread of its own: it may wait for longer than anybody here, and at the end of the program
/// nothing waits for it.
pub(crate) async fn look_up(name: String) -> Result<Vec<IpAddr>, FetchError> {
    use std::net::ToSocketAddrs;
    use std::sync::atomic::{AtomicUsize, Ordering};
    /// Threads that wait for a resolver.
    static WAITING: AtomicUsize = AtomicUsize::new(0);
    const MOST: usize = 4;
    let no = |error: &dyn std::fmt::Display| FetchError::Name(error.to_string());
    if WAITING.fetch_add(1, Ordering::Relaxed) >= MOST {
        WAITING.fetch_sub(1, Ordering::Relaxed);
        return Err(no(&"earlier questions have no answer yet"));
    }
    let (sender, answer) = tokio::sync::oneshot::channel();
    let thread = std::thread::Builder::new().name("anode-lookup".into());
    let work = move || {
        let found = (name.as_str(), 0).to_socket_addrs();
        let found = found.map(|found| found.map(|address| address.ip()).collect::<Vec<_>>());
        WAITING.fetch_sub(1, Ordering::Relaxed);
        // Who asked may have given up.
        let _ = sender.send(found);
    };
    let started = thread.spawn(work).map_err(|error| {
        WAITING.fetch_sub(1, Ordering::Relaxed);
        no(&error)
    })?;
    let found = answer.await.map_err(|error| no(&error))?;
    // It has sent its last word: a process that gives up its rights must have one thread.
    let _ = started.join();
    found.map_err(|error| no(&error))
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    url: &Url,
    server: IpAddr,
    since: Option<&str>,
) -> Result<Fetched, FetchError> {
    let broken = |error: &dyn std::fmt::Display| FetchError::Protocol(error.to_string());
    let (mut requests, connection) = http1::Builder::new()
        .max_buf_size(HEAD_MAX)
        .max_headers(HEADERS_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(&error))?;
    // Ends with the request; what breaks it breaks the request too, and is reported there.
    let connection = tokio::spawn(async move {
        let _ = connection.await;
    });
    let _guard = AbortOnDrop(connection);
    let mut request = Request::get(&url.path)
        .header(header::HOST, &url.authority)
        .header(
            header::USER_AGENT,
            concat!("anode/", env!("CARGO_PKG_VERSION")),
        )
        .header(header::ACCEPT_ENCODING, "identity")
        .header(header::CONNECTION, "close");
    let since = since.and_then(|date| HeaderValue::from_str(date).ok());
    let asked = since.is_some();
    if let Some(date) = since {
        request = request.header(header::IF_MODIFIED_SINCE, date);
    }
    let request = request
        .body(Empty::<Bytes>::new())
        .map_err(|error| broken(&error))?;
    let response = requests
        .send_request(request)
        .await
        .map_err(|error| broken(&error))?;
    match response.status() {
        StatusCode::OK => read(response, server).await,
        StatusCode::NOT_MODIFIED if asked => Ok(Fetched::Unchanged),
        StatusCode::NOT_MODIFIED => Err(FetchError::UnchangedWithoutCopy),
        status if status.is_redirection() => Err(FetchError::Redirect {
            status: status.as_u16(),
            to: text(&response, header::LOCATION).unwrap_or_default(),
        }),
        status => Err(FetchError::Status(status.as_u16())),
    }
}

async fn read(
    response: Response<hyper::body::Incoming>,
    server: IpAddr,
) -> Result<Fetched, FetchError> {
    if let Some(coding) = text(&response, header::CONTENT_ENCODING)
        && !coding.eq_ignore_ascii_case("identity")
    {
        return Err(FetchError::Encoded(coding));
    }
    let modified = text(&response, header::LAST_MODIFIED)
        .filter(|date| date.len() <= DATE_MAX && date.bytes().all(|b| (b' '..0x7f).contains(&b)));
    if response.body().size_hint().lower() > zonefile::MAX_LEN as u64 {
        return Err(FetchError::TooLarge);
    }
    let body = Limited::new(response.into_body(), zonefile::MAX_LEN)
        .collect()
        .await;
    let bytes = match body {
        Ok(body) => body.to_bytes().to_vec(),
        Err(error) if error.is::<LengthLimitError>() => return Err(FetchError::TooLarge),
        Err(error) => return Err(FetchError::Protocol(error.to_string())),
    };
    if bytes.is_empty() {
        return Err(FetchError::Empty);
    }
    let reach = Reach::of_server(server).ok_or(FetchError::Forbidden(server))?;
    Ok(Fetched::File {
        bytes,
        modified,
        reach,
    })
}

/// A header as text, cut to what can be shown.
fn text<B>(response: &Response<B>, name: header::HeaderName) -> Option<String> {
    let value = response.headers().get(name)?;
    let value = String::from_utf8_lossy(value.as_bytes());
    Some(value.chars().take(200).collect())
}

/// A connection does not outlive its request.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests;
