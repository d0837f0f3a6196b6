//! One GET to a tracker: from the address that is announced, without redirects, without more body than an answer may have.
use super::{TlsConfig, socket};
use anode_tracker::http::{MAX_BODY, Request};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

/// Bytes and lines of an answer's head.
const HEAD_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;

/// Why a tracker's answer did not come.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GetError {
    /// No connection from this address to that.
    #[error("no connection from {local} to {remote}: {error}")]
    Connect {
        /// What was bound.
        local: IpAddr,
        /// Where to.
        remote: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// The certificate, or a name that none can carry.
    #[error("TLS: {0}")]
    Tls(String),
    /// Not HTTP, or cut short.
    #[error("the tracker does not answer as it should: {0}")]
    Protocol(String),
    /// More than [`MAX_BODY`].
    #[error("the tracker's answer has more than {MAX_BODY} bytes")]
    TooLarge,
}

/// Asks, with the connection bound to `local`. Status and body, whatever they are. Without a time limit of its own.
pub async fn get(
    local: IpAddr,
    remote: SocketAddr,
    host: Option<&str>,
    tls: &TlsConfig,
    request: &Request,
) -> Result<(u16, Vec<u8>), GetError> {
    let stream = socket::tcp(local, remote).await;
    let stream = stream.map_err(|error| GetError::Connect {
        local,
        remote,
        error,
    })?;
    let Some(host) = host else {
        return exchange(stream, request).await;
    };
    let no = |error: &dyn std::fmt::Display| GetError::Tls(error.to_string());
    let config = tls
        .as_ref()
        .ok_or_else(|| no(&"no certificates to trust were read at the start"))?;
    let name = ServerName::try_from(host.to_owned()).map_err(|error| no(&error))?;
    let connector = TlsConnector::from(Arc::clone(config));
    let stream = connector.connect(name, stream).await;
    exchange(stream.map_err(|error| no(&error))?, request).await
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: &Request,
) -> Result<(u16, Vec<u8>), GetError> {
    let broken = |error: &dyn std::fmt::Display| GetError::Protocol(error.to_string());
    let (mut requests, connection) = http1::Builder::new()
        .max_buf_size(HEAD_MAX)
        .max_headers(HEADERS_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(&error))?;
    // Ends with the request; what breaks it breaks the request too, and is reported there.
    let _guard = AbortOnDrop(tokio::spawn(async move {
        let _ = connection.await;
    }));
    let mut get = hyper::Request::get(&request.target);
    for (name, value) in &request.headers {
        get = get.header(*name, value);
    }
    let get = get
        .body(Empty::<Bytes>::new())
        .map_err(|error| broken(&error))?;
    let response = requests
        .send_request(get)
        .await
        .map_err(|error| broken(&error))?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
    match body {
        Ok(body) => Ok((status, body.to_bytes().to_vec())),
        Err(error) if error.is::<LengthLimitError>() => Err(GetError::TooLarge),
        Err(error) => Err(broken(&error)),
    }
}

/// A task that does not outlive its owner.
pub(super) struct AbortOnDrop(pub JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
