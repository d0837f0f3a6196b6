//! A strict router: it checks what real ones check, and more, and keeps a list of what clients did wrong.

mod client;
mod socket;

use super::lease_set::Opener;
use super::wire::frame;
use anode_i2cp::destination::Destination;
use client::serve;
use rustls::ServerConfig;
use socket::Socket;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How often a connection looks for something to send.
const POLL: Duration = Duration::from_millis(1);
/// A lease set that is on its way is waited for so long.
const SETTLING: Duration = Duration::from_secs(2);

/// User and password that clients must show.
#[derive(Clone, Debug)]
pub struct Password {
    /// User.
    pub user: &'static str,
    /// Password.
    pub password: &'static str,
}

/// How the router behaves.
#[derive(Clone, Default)]
pub struct RouterOptions {
    /// Nobody without.
    pub password: Option<Password>,
    /// TLS from the first byte.
    pub tls: Option<Arc<ServerConfig>>,
    /// Tunnels take so long.
    pub tunnels_after: Duration,
    /// The lease set is asked for again in this interval, as with zero-hop tunnels.
    pub leases_every: Option<Duration>,
    /// Of so many messages one is lost.
    pub loses_one_of: Option<u32>,
    /// Opens encrypted lease sets.
    pub opener: Option<Opener>,
}

/// One session as the router knows it.
#[derive(Clone, Debug)]
pub struct Session {
    /// Whose.
    pub destination: Destination,
    /// As in CreateSession.
    pub options: BTreeMap<String, String>,
    /// Lease sets so far.
    pub lease_sets: usize,
    /// Type of the last one.
    pub lease_set_kind: u8,
    /// Messages that it has sent.
    pub sent: u64,
    /// Messages handed to it.
    pub received: u64,
}

struct Held {
    session: Session,
    out: Sender<Vec<u8>>,
    published: u64,
    announced: HashMap<u32, Vec<u8>>,
}

#[derive(Default)]
struct State {
    sessions: HashMap<u16, Held>,
    hosts: HashMap<String, Destination>,
    violations: Vec<String>,
    said: Vec<String>,
    next: u32,
    connections: usize,
    /// Counts up when all connections shall end.
    generation: u64,
    closed: bool,
}

struct Shared {
    options: RouterOptions,
    state: Mutex<State>,
}

/// A router that runs until it is dropped.
pub struct Router {
    shared: Arc<Shared>,
    place: String,
}

impl Router {
    /// On loopback, any port.
    pub fn tcp(options: RouterOptions) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").expect("a port"), options)
    }

    /// On a listener that was made, maybe in a namespace.
    pub fn on(listener: TcpListener, options: RouterOptions) -> Self {
        let place = listener.local_addr().expect("it is bound").to_string();
        Self::start(place, options, move || {
            let (socket, _) = listener.accept()?;
            socket.set_nodelay(true)?;
            Ok(Socket::Tcp(socket))
        })
    }

    /// On a Unix socket.
    pub fn unix(path: &Path, options: RouterOptions) -> Self {
        let listener = UnixListener::bind(path).expect("a socket");
        let place = format!("unix:{}", path.display());
        Self::start(place, options, move || {
            Ok(Socket::Unix(listener.accept()?.0))
        })
    }

    fn start(
        place: String,
        options: RouterOptions,
        accept: impl Fn() -> io::Result<Socket> + Send + 'static,
    ) -> Self {
        let shared = Arc::new(Shared {
            options,
            state: Mutex::default(),
        });
        let served = Arc::clone(&shared);
        thread::spawn(move || {
            while let Ok(socket) = accept() {
                if served.state().closed {
                    return;
                }
                let shared = Arc::clone(&served);
                thread::spawn(move || serve(&shared, socket));
            }
        });
        Self { shared, place }
    }

    /// As in the configuration.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Its TCP address.
    pub fn address(&self) -> SocketAddr {
        self.place.parse().expect("it listens on TCP")
    }

    /// Gives a name to a destination, as an address book does.
    pub fn name(&self, name: &str, destination: &Destination) {
        let hosts = &mut self.shared.state().hosts;
        hosts.insert(name.to_owned(), destination.clone());
    }

    /// The sessions that have published a lease set.
    pub fn sessions(&self) -> Vec<Session> {
        let state = self.shared.state();
        let ready = state.sessions.values().filter(|held| held.published > 0);
        ready.map(|held| held.session.clone()).collect()
    }

    /// Waits until so many sessions have published.
    ///
    /// # Panics
    /// If that takes more than ten seconds.
    #[track_caller]
    pub fn wait_sessions(&self, count: usize) -> Vec<Session> {
        let start = Instant::now();
        loop {
            let sessions = self.sessions();
            if sessions.len() == count {
                return sessions;
            }
            let wrong = self.violations();
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "{} sessions, {count} wanted; {wrong:?}",
                sessions.len()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// What clients did that they must not do.
    pub fn violations(&self) -> Vec<String> {
        self.shared.state().violations.clone()
    }

    /// What clients said in Disconnect.
    pub fn said(&self) -> Vec<String> {
        self.shared.state().said.clone()
    }

    /// Connections that were taken so far.
    pub fn connections(&self) -> usize {
        self.shared.state().connections
    }

    /// Sends bytes of a router that does as it likes, to every session.
    pub fn say(&self, kind: u8, body: impl Fn(u16) -> Vec<u8>) {
        for (id, held) in &self.shared.state().sessions {
            // a client that has gone hears nothing
            let _ = held.out.send(frame(kind, &body(*id)));
        }
    }

    /// Ends every connection, as a crash does.
    pub fn drop_all(&self) {
        let mut state = self.shared.state();
        state.generation += 1;
        state.sessions.clear();
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.shared.state().closed = true;
        self.drop_all();
        // wakes the thread that accepts
        match self.place.strip_prefix("unix:") {
            Some(path) => drop(UnixStream::connect(path)),
            None => drop(TcpStream::connect_timeout(
                &self.address(),
                Duration::from_millis(100),
            )),
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
