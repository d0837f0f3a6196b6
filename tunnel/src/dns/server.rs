//! The responder's sockets, and the bounds on what they take in.

use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener, UdpSocket as StdUdpSocket};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::Names;
use super::message::{Heard, QUESTION_MAX, read};

/// Questions over UDP that wait for the system's servers.
const MAX_WAITING: usize = 64;

/// TCP connections.
const MAX_CONNECTIONS: usize = 16;

/// Questions on one TCP connection.
const MAX_PER_CONNECTION: usize = 64;

/// A TCP connection has as long for each question, from the last answer on, and to take its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// After an error of a socket (out of descriptors, most likely) it rests.
const REST: Duration = Duration::from_millis(100);

/// Bound sockets: made before rights are given up, for port 53 needs one.
#[derive(Debug)]
pub struct Sockets {
    udp: StdUdpSocket,
    tcp: StdTcpListener,
    listen: SocketAddr,
}

impl Sockets {
    /// Binds `listen`, a loopback address, for UDP and TCP; port 0 takes any that is free for both.
    pub fn bind(listen: SocketAddr) -> io::Result<Self> {
        let udp = StdUdpSocket::bind(listen)?;
        let listen = udp.local_addr()?;
        let tcp = StdTcpListener::bind(listen)?;
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        Ok(Self { udp, tcp, listen })
    }

    /// Where they are.
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Answers until it is dropped.
    pub async fn serve(self, names: Arc<Names>) -> io::Result<()> {
        let udp = Arc::new(UdpSocket::from_std(self.udp)?);
        let tcp = TcpListener::from_std(self.tcp)?;
        tokio::join!(serve_udp(udp, Arc::clone(&names)), serve_tcp(tcp, names));
        Ok(())
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, names: Arc<Names>) {
    let waiting = Arc::new(Semaphore::new(MAX_WAITING));
    let mut tasks = JoinSet::new();
    // One byte more than any question that is read.
    let mut buffer = [0; QUESTION_MAX + 1];
    loop {
        while tasks.try_join_next().is_some() {}
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(came) => came,
            Err(error) => {
                tracing::debug!("DNS: {error}");
                tokio::time::sleep(REST).await;
                continue;
            }
        };
        names.counters.udp.add();
        let Some(heard) = admit(&names, &buffer[..length], from) else {
            continue;
        };
        let question = match heard {
            Heard::Nothing => continue,
            Heard::Complain(answer) => {
                send(&names, &socket, &answer, from);
                continue;
            }
            Heard::Question(question) => question,
        };
        let later = match names.answer(&question, false) {
            Ok(answer) => {
                send(&names, &socket, &answer, from);
                continue;
            }
            Err(later) => later,
        };
        let Ok(place) = Arc::clone(&waiting).try_acquire_owned() else {
            // Silence: the asker tries again, and an answer would only say so.
            names.counters.busy.add();
            continue;
        };
        let (names, socket) = (Arc::clone(&names), Arc::clone(&socket));
        tasks.spawn(async move {
            let answer = names.answer_later(&question, &later, false).await;
            send(&names, &socket, &answer, from);
            drop(place);
        });
    }
}

/// Answers go at once or not at all: an asker's full buffer must not hold up the others.
fn send(names: &Names, socket: &UdpSocket, answer: &[u8], to: SocketAddr) {
    if let Err(error) = socket.try_send_to(answer, to) {
        names.counters.unsent.add();
        tracing::debug!(%to, "DNS: an answer could not be sent: {error}");
    }
}

/// What came, if it may be looked at at all.
fn admit(names: &Names, bytes: &[u8], from: SocketAddr) -> Option<Heard> {
    // The address is a loopback one, so the kernel sees to that; unless somebody has set route_localnet.
    if !from.ip().to_canonical().is_loopback() {
        names.counters.strangers.add();
        return None;
    }
    if bytes.len() > QUESTION_MAX {
        names.counters.oversized.add();
        return None;
    }
    let heard = read(bytes);
    match &heard {
        Heard::Nothing => names.counters.malformed.add(),
        Heard::Complain(_) => names.counters.refused.add(),
        Heard::Question(_) => {}
    }
    Some(heard)
}

async fn serve_tcp(listener: TcpListener, names: Arc<Names>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut tasks = JoinSet::new();
    loop {
        while tasks.try_join_next().is_some() {}
        let (stream, from) = match listener.accept().await {
            Ok(came) => came,
            Err(error) => {
                tracing::debug!("DNS: {error}");
                tokio::time::sleep(REST).await;
                continue;
            }
        };
        // Closed at once: who holds all the places must not make others wait.
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            names.counters.connections.add();
            continue;
        };
        let names = Arc::clone(&names);
        tasks.spawn(async move {
            match converse(stream, from, &names).await {
                Err(error) if error.kind() == io::ErrorKind::TimedOut => names.counters.slow.add(),
                // It has gone.
                Err(_) | Ok(()) => {}
            }
            drop(slot);
        });
    }
}

/// One question after the other (RFC 7766 allows to answer in order).
async fn converse(mut stream: TcpStream, from: SocketAddr, names: &Names) -> io::Result<()> {
    let mut buffer = [0; QUESTION_MAX];
    for _ in 0..MAX_PER_CONNECTION {
        let deadline = Instant::now() + PATIENCE;
        let length = match timeout_at(deadline, stream.read_u16()).await? {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            length => usize::from(length?),
        };
        names.counters.tcp.add();
        let Some(question) = buffer.get_mut(..length) else {
            names.counters.oversized.add();
            return Ok(());
        };
        timeout_at(deadline, stream.read_exact(question)).await??;
        let answer = match admit(names, question, from) {
            None | Some(Heard::Nothing) => return Ok(()),
            Some(Heard::Complain(answer)) => answer,
            Some(Heard::Question(question)) => match names.answer(&question, true) {
                Ok(answer) => answer,
                Err(later) => names.answer_later(&question, &later, true).await,
            },
        };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let framed = [&length.to_be_bytes()[..], &answer].concat();
        timeout_at(Instant::now() + PATIENCE, stream.write_all(&framed)).await??;
    }
    Ok(())
}
