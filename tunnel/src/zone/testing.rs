//! A zone server for tests, as nasty as it is told to be.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anode_wire::Zone;
use anode_wire::zonefile::{MIN_TTL, ZoneFile, ZoneSigner};
use rand::SeedableRng;

/// What the server does with a connection, once it has the request.
pub(crate) type Answer = Box<dyn FnMut(&str, &mut TcpStream) + Send>;

/// Listens on loopback until it is dropped.
pub(crate) struct Server {
    pub(crate) at: SocketAddr,
    answer: Arc<Mutex<Answer>>,
    requests: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn new(answer: impl FnMut(&str, &mut TcpStream) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let answer: Arc<Mutex<Answer>> = Arc::new(Mutex::new(Box::new(answer)));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (answers, heard) = (Arc::clone(&answer), Arc::clone(&requests));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                stream
                    .set_read_timeout(Some(Duration::from_secs(5)))
                    .unwrap();
                stream
                    .set_write_timeout(Some(Duration::from_secs(5)))
                    .unwrap();
                let mut request = Vec::new();
                let mut piece = [0; 1024];
                while !request.ends_with(b"\r\n\r\n") {
                    match stream.read(&mut piece) {
                        Ok(0) | Err(_) => break,
                        Ok(size) => request.extend_from_slice(&piece[..size]),
                    }
                }
                let request = String::from_utf8_lossy(&request).into_owned();
                // the end: a connection without a request
                if request.is_empty() {
                    return;
                }
                heard.lock().unwrap().push(request.clone());
                answers.lock().unwrap()(&request, &mut stream);
            }
        });
        Self {
            at,
            answer,
            requests,
            thread: Some(thread),
        }
    }

    /// With this head and body, whatever is asked.
    pub(crate) fn fixed(head: &str, body: &[u8]) -> Self {
        let (head, body) = (head.to_owned(), body.to_owned());
        Self::new(move |_, stream| {
            let _ = stream.write_all(format!("{head}\r\n\r\n").as_bytes());
            let _ = stream.write_all(&body);
        })
    }

    /// An honest one.
    pub(crate) fn file(body: &[u8]) -> Self {
        let server = Self::new(|_, _| {});
        server.serve(body);
        server
    }

    pub(crate) fn serve(&self, body: &[u8]) {
        let body = body.to_owned();
        *self.answer.lock().unwrap() = Box::new(move |_, stream| {
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nlast-modified: Sat, 21 Nov 2026 00:00:00 GMT\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all(head.as_bytes());
            let _ = stream.write_all(&body);
        });
    }

    pub(crate) fn answer(&self, answer: impl FnMut(&str, &mut TcpStream) + Send + 'static) {
        *self.answer.lock().unwrap() = Box::new(answer);
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/z", self.at)
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = TcpStream::connect(self.at);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A key that is the same for the same seed.
pub(crate) fn signer(seed: u64) -> ZoneSigner {
    ZoneSigner::generate(&mut rand::rngs::StdRng::seed_from_u64(seed))
}

/// A signed file without relays.
pub(crate) fn signed(zone: Zone, revision: u64, signer: &ZoneSigner) -> Vec<u8> {
    let mut file = ZoneFile::new("n", "d", "c", revision, MIN_TTL);
    file.sign(zone, signer);
    file.emit()
}
