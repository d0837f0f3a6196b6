//! Announcing to many trackers at once: the sockets, timers and lookups of one [`Client`].
use super::http::{self, AbortOnDrop};
use super::{TlsConfig, socket};
use anode_tracker::client::{Client, Report, RequestId, TrackerId, Transmit};
use rand::rand_core::UnwrapErr;
use rand::rngs::SysRng;
use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

/// Looks a host name up: all its addresses, or in words why there are none.
pub type Names = Arc<
    dyn Fn(String) -> Pin<Box<dyn Future<Output = Result<Vec<IpAddr>, String>> + Send>>
        + Send
        + Sync,
>;

/// What came and waits; a datagram more is lost, as datagrams are.
const INBOX: usize = 256;
/// A socket that nothing was sent from for so long is closed.
const IDLE: Duration = Duration::from_secs(120);
/// A datagram's largest size.
const DATAGRAM: usize = 65_536;

/// Runs a [`Client`].
pub struct Announcer {
    client: Client,
    names: Names,
    tls: TlsConfig,
    sender: mpsc::Sender<Input>,
    inbox: mpsc::Receiver<Input>,
    requests: HashMap<RequestId, AbortOnDrop>,
    lookups: HashMap<TrackerId, AbortOnDrop>,
    sockets: HashMap<(IpAddr, SocketAddr), Link>,
}

/// A UDP socket and the task that hears it.
struct Link {
    socket: Arc<UdpSocket>,
    used: Instant,
    _hearing: AbortOnDrop,
}

enum Input {
    Resolved(TrackerId, Result<Vec<IpAddr>, String>),
    Answer(RequestId, Result<(u16, Vec<u8>), String>),
    Datagram(IpAddr, SocketAddr, Vec<u8>),
    Refused(IpAddr, SocketAddr, String),
}

impl Announcer {
    /// Starts with nothing to announce. `secret` is random and belongs to this run.
    pub fn new(secret: [u8; 32], names: Names, tls: TlsConfig) -> Self {
        let (sender, inbox) = mpsc::channel(INBOX);
        Self {
            client: Client::new(secret),
            names,
            tls,
            sender,
            inbox,
            requests: HashMap::new(),
            lookups: HashMap::new(),
            sockets: HashMap::new(),
        }
    }

    /// What is announced, where, and how eagerly; takes effect with the next call of [`Announcer::next`].
    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// Works until there is something to report. May be dropped at any time and called again: nothing is lost.
    pub async fn next(&mut self) -> Report {
        loop {
            self.act().await;
            if let Some(report) = self.client.poll_report() {
                return report;
            }
            self.hear().await;
        }
    }

    /// Says `stopped` everywhere; 2 s at most.
    pub async fn shut_down(&mut self) {
        self.client.shut_down(Instant::now());
        while !self.client.is_finished() {
            self.act().await;
            while self.client.poll_report().is_some() {}
            if !self.client.is_finished() {
                self.hear().await;
            }
        }
    }

    /// Waits for an input or the client's deadline.
    async fn hear(&mut self) {
        let deadline = self.client.deadline(Instant::now());
        let due = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // The sender is ours, so the channel is never closed.
            Some(input) = self.inbox.recv() => self.take(input),
            () = due => {}
        }
    }

    fn take(&mut self, input: Input) {
        let now = Instant::now();
        match input {
            Input::Resolved(tracker, result) => {
                self.lookups.remove(&tracker);
                self.client.resolved(tracker, result, now);
            }
            Input::Answer(id, result) => {
                self.requests.remove(&id);
                match result {
                    Ok((status, body)) => self.client.http_answer(id, status, &body, now),
                    Err(error) => self.client.http_failed(id, &error, now),
                }
            }
            Input::Datagram(local, remote, bytes) => {
                self.client.datagram(local, remote, &bytes, now);
            }
            Input::Refused(local, remote, error) => {
                self.sockets.remove(&(local, remote));
                self.client.datagram_failed(local, remote, &error, now);
            }
        }
    }

    async fn act(&mut self) {
        let now = Instant::now();
        self.sockets
            .retain(|_, link| now.saturating_duration_since(link.used) < IDLE);
        while let Some(transmit) = self.client.poll(Instant::now(), &mut UnwrapErr(SysRng)) {
            match transmit {
                Transmit::Resolve { tracker, host } => self.resolve(tracker, host),
                Transmit::Cancel(id) => drop(self.requests.remove(&id)),
                Transmit::Http {
                    id,
                    local,
                    remote,
                    tls,
                    request,
                } => {
                    let (sender, config) = (self.sender.clone(), self.tls.clone());
                    let work = async move {
                        let answer =
                            http::get(local, remote, tls.as_deref(), &config, &request).await;
                        let answer = answer.map_err(|error| error.to_string());
                        // Gone only with the announcer, which ends this task.
                        let _ = sender.send(Input::Answer(id, answer)).await;
                    };
                    self.requests.insert(id, AbortOnDrop(tokio::spawn(work)));
                }
                Transmit::Datagram {
                    local,
                    remote,
                    payload,
                } => self.send(local, remote, &payload).await,
            }
        }
    }

    fn resolve(&mut self, tracker: TrackerId, host: String) {
        let (sender, answer) = (self.sender.clone(), (self.names)(host));
        let work = async move {
            let _ = sender.send(Input::Resolved(tracker, answer.await)).await;
        };
        self.lookups
            .insert(tracker, AbortOnDrop(tokio::spawn(work)));
    }

    async fn send(&mut self, local: IpAddr, remote: SocketAddr, payload: &[u8]) {
        let now = Instant::now();
        let link = match self.sockets.entry((local, remote)) {
            std::collections::hash_map::Entry::Occupied(link) => link.into_mut(),
            std::collections::hash_map::Entry::Vacant(empty) => {
                match socket::udp(local, remote).await {
                    Ok(socket) => empty.insert(listen(local, remote, socket, self.sender.clone())),
                    Err(error) => {
                        let error = format!("no way from {local} to {remote}: {error}");
                        return self.client.datagram_failed(local, remote, &error, now);
                    }
                }
            }
        };
        link.used = now;
        // `try_send` would refuse the first one: the runtime has not heard yet that a new socket is writable.
        if let Err(error) = link.socket.send(payload).await {
            // It is repeated like a lost one, unless the host has just said that nobody is there.
            tracing::debug!(%remote, %error, "sending to a tracker");
        }
    }
}

fn listen(
    local: IpAddr,
    remote: SocketAddr,
    socket: UdpSocket,
    sender: mpsc::Sender<Input>,
) -> Link {
    let socket = Arc::new(socket);
    let heard = Arc::clone(&socket);
    let hearing = tokio::spawn(async move {
        let mut buffer = vec![0; DATAGRAM];
        loop {
            let input = match heard.recv(&mut buffer).await {
                Ok(length) => Input::Datagram(local, remote, buffer[..length].to_vec()),
                Err(error) => {
                    let error = format!("no answer from {remote} to {local}: {error}");
                    let _ = sender.send(Input::Refused(local, remote, error)).await;
                    return;
                }
            };
            // More than fits is lost: whoever sends that much is no tracker.
            let _ = sender.try_send(input);
        }
    });
    Link {
        socket,
        used: Instant::now(),
        _hearing: AbortOnDrop(hearing),
    }
}

#[cfg(test)]
mod tests;
