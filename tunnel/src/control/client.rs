//! The command line's end of the control API.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::api::ApiError;
use crate::Error;

/// Bytes of an answer: 64 MiB is more than the node's tables can fill.
const ANSWER_MAX: usize = 64 << 20;

/// Longer than the node takes for anything.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A connection to a running node.
pub struct Client {
    requests: SendRequest<Full<Bytes>>,
    socket: PathBuf,
}

impl Client {
    /// Connects to the first of `sockets` at which a node answers.
    pub async fn connect(sockets: &[PathBuf]) -> Result<Self, Error> {
        let mut first = None;
        for socket in sockets {
            match UnixStream::connect(socket).await {
                Ok(stream) => return Self::start(stream, socket).await,
                Err(error) => first = first.or(Some((socket, error))),
            }
        }
        let Some((socket, error)) = first else {
            return Err(Error::NotRunning {
                socket: PathBuf::new(),
            });
        };
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Err(Error::NotRunning {
                socket: socket.clone(),
            }),
            io::ErrorKind::PermissionDenied => Err(Error::refused(format!(
                "may not use the control socket {}: run as the node's user or as root, or join group {}",
                socket.display(),
                crate::state::SERVICE_GROUP
            ))),
            _ => Err(Error::io(format!(
                "cannot use the control socket {}",
                socket.display()
            ))(error)),
        }
    }

    async fn start(stream: UnixStream, socket: &Path) -> Result<Self, Error> {
        let (requests, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(|error| broken(socket, &error))?;
        // Ends with the last request; what breaks it breaks the request too, and is reported there.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Self {
            requests,
            socket: socket.to_owned(),
        })
    }

    /// GET `path`.
    pub async fn get<A: DeserializeOwned>(&mut self, path: &str) -> Result<A, Error> {
        self.request(Method::GET, path, Bytes::new()).await
    }

    /// POST `body` to `path`.
    pub async fn post<B: Serialize, A: DeserializeOwned>(
        &mut self,
        path: &str,
        body: &B,
    ) -> Result<A, Error> {
        let body = serde_json::to_vec(body).map_err(|error| broken(&self.socket, &error))?;
        self.request(Method::POST, path, body.into()).await
    }

    async fn request<A: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<A, Error> {
        match tokio::time::timeout(TIMEOUT, self.exchange(method, path, body)).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::refused(format!(
                "no answer from the node at {} in {TIMEOUT:?}",
                self.socket.display()
            ))),
        }
    }

    async fn exchange<A: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<A, Error> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "anode")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|error| broken(&self.socket, &error))?;
        self.requests
            .ready()
            .await
            .map_err(|error| broken(&self.socket, &error))?;
        let response = self
            .requests
            .send_request(request)
            .await
            .map_err(|error| broken(&self.socket, &error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_MAX)
            .collect()
            .await
            .map_err(|error| broken(&self.socket, &error))?
            .to_bytes();
        if status == StatusCode::OK {
            return serde_json::from_slice(&body).map_err(|error| broken(&self.socket, &error));
        }
        let text = match serde_json::from_slice::<ApiError>(&body) {
            Ok(problem) => problem.error,
            Err(_) => format!("the node answered {status}"),
        };
        // What the caller wrote is wrong: that is the caller's flag or argument.
        Err(match status {
            StatusCode::BAD_REQUEST | StatusCode::CONFLICT => Error::Value(text),
            _ => Error::refused(text),
        })
    }
}

fn broken(socket: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::refused(format!(
        "the node at {} does not answer as it should: {error}",
        socket.display()
    ))
}
