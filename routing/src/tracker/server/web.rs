//! The tracker's HTTP: heads of 8 KiB, no bodies, connections that are few and short.
use super::{Tracker, count};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};

/// Bytes and lines of a request's head.
const HEAD_MAX: usize = 8 * 1024;
const HEADERS_MAX: usize = 64;
/// For a head, from the first byte or the last answer.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// For a connection, whatever it does.
const CONNECTION_TIME: Duration = Duration::from_secs(60);
/// After a failed accept (no descriptors left).
const PAUSE: Duration = Duration::from_millis(100);

/// How many may be connected at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// In all.
    pub in_all: usize,
    /// From one IPv4 address or IPv6 /64.
    pub per_source: usize,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            in_all: 1_024,
            per_source: 32,
        }
    }
}

/// Who is connected, by IPv4 address or /64.
#[derive(Default)]
pub(super) struct Places(Mutex<Taken>);

#[derive(Default)]
struct Taken {
    in_all: usize,
    sources: HashMap<IpAddr, usize>,
}

/// A connection's place among others.
struct Place {
    places: Arc<Places>,
    source: IpAddr,
}

impl Places {
    fn take(self: &Arc<Self>, ip: IpAddr, limits: ConnectionLimits) -> Option<Place> {
        let source = match ip.to_canonical() {
            IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() >> 64 << 64).into()),
            v4 => v4,
        };
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_source = taken.sources.get(&source).copied().unwrap_or_default();
        if taken.in_all >= limits.in_all || of_source >= limits.per_source {
            return None;
        }
        taken.in_all += 1;
        taken.sources.insert(source, of_source + 1);
        drop(taken);
        Some(Place {
            places: Arc::clone(self),
            source,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.in_all -= 1;
        if let Some(count) = taken.sources.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                taken.sources.remove(&self.source);
            }
        }
    }
}

/// Accepts connections for as long as the tracker runs.
pub(super) async fn serve(tracker: Arc<Tracker>, listener: TcpListener, places: Arc<Places>) {
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "accepting");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Some(place) = places.take(from.ip(), tracker.connections) else {
            count(&tracker.counters.connections_refused);
            continue;
        };
        count(&tracker.counters.connections);
        tokio::spawn(connection(Arc::clone(&tracker), stream, from, place));
    }
}

async fn connection(tracker: Arc<Tracker>, stream: TcpStream, from: SocketAddr, place: Place) {
    let service = {
        let tracker = Arc::clone(&tracker);
        service_fn(move |request| {
            let response = answer(&tracker, from.ip(), &request);
            async { Ok::<_, Infallible>(response) }
        })
    };
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let served = tokio::time::timeout(CONNECTION_TIME, served).await;
    if !matches!(served, Ok(Ok(()))) {
        count(&tracker.counters.connections_broken);
    }
    drop(place);
}

fn answer(tracker: &Tracker, source: IpAddr, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let (status, body) = if request.method() != Method::GET {
        (405, b"this tracker answers GET\n".to_vec())
    } else if request.uri().path() == "/metrics" && source.to_canonical().is_loopback() {
        (200, metrics(tracker))
    } else {
        let target = request.uri().path_and_query();
        let target = target.map_or("", |target| target.as_str());
        let mut body = Vec::with_capacity(1_024);
        let mut state = tracker.state();
        let state = &mut *state;
        let status = state
            .server
            .http(source, target, Instant::now(), &mut state.rng, &mut body);
        (status, body)
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let plain = HeaderValue::from_static("text/plain");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

/// Prometheus text, for this machine only.
fn metrics(tracker: &Tracker) -> Vec<u8> {
    let mut text = String::new();
    for (name, value) in tracker.counters() {
        let kind = if name.ends_with("_total") {
            "counter"
        } else {
            "gauge"
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# TYPE {name} {kind}\n{name} {value}");
    }
    text.into_bytes()
}
