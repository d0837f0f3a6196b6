//! Plain sockets of the standard library, made inside a namespace: streams compared by digest, echoes, and the ways in
//! which a connection can end.

use crate::lab::Ns;
use sha2::{Digest, Sha256};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// No read or write of a test waits longer.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes that look random and are the same for the same seed (xorshift64*).
pub struct Noise(u64);

impl Noise {
    /// `seed` must differ from 0 to differ from 1.
    pub fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    /// The next 64 bits.
    pub fn word(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Fills `buffer`.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            chunk.copy_from_slice(&self.word().to_le_bytes()[..chunk.len()]);
        }
    }

    /// So many bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.fill(&mut bytes);
        bytes
    }
}

/// SHA-256 of a stream.
pub type Sum = [u8; 32];

/// Listens in `ns`.
///
/// # Panics
/// If it cannot.
#[track_caller]
pub fn listen(ns: &Ns, address: SocketAddr) -> TcpListener {
    ns.run(|| TcpListener::bind(address))
        .unwrap_or_else(|e| panic!("{}: listen on {address}: {e}", ns.name()))
}

/// Connects from `ns`, waiting at most `limit`; every later read and write of it waits at most [`PATIENCE`].
pub fn connect(ns: &Ns, address: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let stream = ns.run(|| TcpStream::connect_timeout(&address, limit))?;
    patient(&stream)?;
    Ok(stream)
}

/// Accepts one connection, as [`connect`] makes them.
///
/// # Panics
/// If none comes within [`PATIENCE`].
#[track_caller]
pub fn accept(listener: &TcpListener) -> TcpStream {
    listener.set_nonblocking(true).expect("a listener");
    let deadline = Instant::now() + PATIENCE;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).expect("a stream");
                patient(&stream).expect("timeouts");
                return stream;
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(1))
            }
            Err(e) => panic!("nobody connected: {e}"),
        }
    }
}

fn patient(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))
}

/// A connected pair over whatever lies between: the client's end and the server's.
///
/// # Panics
/// If it cannot be made.
#[track_caller]
pub fn pair(client: &Ns, server: &Ns, address: SocketAddr) -> (TcpStream, TcpStream) {
    let listener = listen(server, address);
    let near = connect(client, address, Duration::from_secs(10))
        .unwrap_or_else(|e| panic!("connect to {address}: {e}"));
    (near, accept(&listener))
}

/// Sends `count` bytes of noise; their digest.
pub fn send_noise(mut stream: impl Write, seed: u64, count: u64) -> io::Result<Sum> {
    let mut noise = Noise::new(seed);
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    let mut left = count;
    while left > 0 {
        let size = left.min(buffer.len() as u64) as usize;
        noise.fill(&mut buffer[..size]);
        digest.update(&buffer[..size]);
        stream.write_all(&buffer[..size])?;
        left -= size as u64;
    }
    Ok(digest.finalize().into())
}

/// Reads to the end of the stream; how much came and its digest.
pub fn receive_all(mut stream: impl Read) -> io::Result<(u64, Sum)> {
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    let mut total = 0;
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok((total, digest.finalize().into())),
            Ok(count) => {
                digest.update(&buffer[..count]);
                total += count as u64;
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Answers every datagram with the same bytes, until the socket's owner drops the guard.
pub struct UdpEcho {
    socket: UdpSocket,
    thread: Option<JoinHandle<()>>,
}

impl UdpEcho {
    /// Starts one.
    ///
    /// # Panics
    /// If the address cannot be bound.
    #[track_caller]
    pub fn start(ns: &Ns, address: SocketAddr) -> Self {
        let socket = udp(ns, address);
        socket
            .set_read_timeout(Some(Duration::from_millis(100)))
            .expect("a timeout");
        let own = socket.try_clone().expect("a second handle");
        let ended = address;
        let thread = thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            loop {
                match own.recv_from(&mut buffer) {
                    // The guard's goodbye comes from the socket itself.
                    Ok((0, from)) if from == ended => return,
                    Ok((size, from)) => {
                        let _ = own.send_to(&buffer[..size], from);
                    }
                    Err(_) => {}
                }
            }
        });
        Self {
            socket,
            thread: Some(thread),
        }
    }
}

impl Drop for UdpEcho {
    fn drop(&mut self) {
        if let Ok(own) = self.socket.local_addr() {
            let _ = self.socket.send_to(&[], own);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A UDP socket in `ns` whose reads wait at most two seconds.
///
/// # Panics
/// If the address cannot be bound.
#[track_caller]
pub fn udp(ns: &Ns, address: SocketAddr) -> UdpSocket {
    let socket = ns
        .run(|| UdpSocket::bind(address))
        .unwrap_or_else(|e| panic!("{}: UDP {address}: {e}", ns.name()));
    socket
        .set_read_timeout(Some(Duration::from_secs(2)))
        .expect("a timeout");
    socket
}

/// Closes with a reset instead of an end: SO_LINGER of zero seconds.
pub fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .expect("SO_LINGER");
    drop(stream);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_has_the_digest_of_what_is_received() {
        let mut wire = Vec::new();
        let sent = send_noise(&mut wire, 7, 1_000_003).unwrap();
        let (count, received) = receive_all(&wire[..]).unwrap();
        assert_eq!((count, received), (1_000_003, sent));
        wire[500_000] ^= 1;
        assert_ne!(receive_all(&wire[..]).unwrap().1, sent);
    }
}
