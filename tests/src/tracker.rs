//! Trackers for tests: a scripted one that writes down who asked what from where, and says what it is told to; and anode's.

use crate::lab::{Ns, Proc, anode_binary, command};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// One request to a scripted tracker.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its source.
    pub from: SocketAddr,
    /// Path and query.
    pub target: String,
    /// When it came.
    pub at: Instant,
}

impl Seen {
    /// The value of a parameter as it was written.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let (_, query) = self.target.split_once('?')?;
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value)
    }
}

/// An HTTP tracker that always says the same.
pub struct Scripted {
    seen: Arc<Mutex<Vec<Seen>>>,
    says: Arc<Mutex<Vec<u8>>>,
    stop: Arc<AtomicBool>,
}

impl Scripted {
    /// Serves at `at` in a namespace; `says` is a bencoded answer, or with `HTTP/` in front a whole one.
    pub fn start(ns: &Ns, at: SocketAddr, says: &[u8]) -> Self {
        let listener = ns.run(|| TcpListener::bind(at)).expect("a free port");
        listener.set_nonblocking(true).expect("non-blocking");
        let tracker = Self {
            seen: Arc::default(),
            says: Arc::new(Mutex::new(says.to_vec())),
            stop: Arc::default(),
        };
        let (seen, says, stop) = (
            tracker.seen.clone(),
            tracker.says.clone(),
            tracker.stop.clone(),
        );
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, from)) => {
                        let (seen, says) = (seen.clone(), says.clone());
                        thread::spawn(move || answer(stream, from, &seen, &says));
                    }
                    Err(_) => thread::sleep(Duration::from_millis(5)),
                }
            }
        });
        tracker
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// From now on it says this.
    pub fn say(&self, answer: &[u8]) {
        *self.says.lock().unwrap_or_else(PoisonError::into_inner) = answer.to_vec();
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn answer(mut stream: TcpStream, from: SocketAddr, seen: &Mutex<Vec<Seen>>, says: &Mutex<Vec<u8>>) {
    let _ = stream.set_nonblocking(false);
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head);
    let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
    seen.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(Seen {
            from,
            target,
            at: Instant::now(),
        });
    let says = says.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if says.starts_with(b"HTTP/") {
        let _ = stream.write_all(&says);
        return;
    }
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        says.len()
    );
    let _ = stream.write_all(&[head.as_bytes(), &says].concat());
}

/// Until a round of probes that has begun is over: its second half is at second 2 of the next minute of the wall clock.
pub fn await_round() {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let second = since.map_or(0, |since| since.as_secs() % 60);
    thread::sleep(Duration::from_secs(60 - second + 4));
}

/// A compact answer over HTTP that names these IPv4 endpoints.
pub fn compact_answer(interval: u32, endpoints: &[SocketAddr]) -> Vec<u8> {
    let mut peers = Vec::new();
    for endpoint in endpoints {
        if let SocketAddr::V4(endpoint) = endpoint {
            peers.extend(endpoint.ip().octets());
            peers.extend(endpoint.port().to_be_bytes());
        }
    }
    let mut answer = format!("d8:intervali{interval}e5:peers{}:", peers.len()).into_bytes();
    answer.extend(peers);
    answer.push(b'e');
    answer
}

/// `anode relay` with a file that has nothing but `[tracker]`.
pub struct AnodeTracker {
    /// The process.
    pub process: Proc,
    /// Its file.
    pub config: PathBuf,
}

impl AnodeTracker {
    /// With this in its file; waits until it serves.
    ///
    /// # Panics
    /// If it does not, with what it said.
    pub fn start(ns: &Ns, directory: &Path, text: &str) -> Self {
        let config = directory.join("tracker.toml");
        fs::write(&config, text).expect("the configuration");
        let mut start = command(anode_binary());
        start.args(["relay", "-c"]).arg(&config);
        let mut process = ns.start(start);
        process
            .wait_stderr_line("ready", Duration::from_secs(10))
            .unwrap_or_else(|said| panic!("{said}"));
        Self { process, config }
    }
}
