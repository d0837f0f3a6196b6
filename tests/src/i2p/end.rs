//! The I2P overlay without a node around it: what it is told, and what it tells.

use anode_i2cp::options::SessionOptions;
use anode_platform::wake::{PollFd, PollFlags, poll};
use anode_routing::i2p::{
    Credentials, DestinationConfig, I2pConfig, I2pOverlay, LocalDestination, RouterConfig,
    RouterPlace, State, Trust,
};
use anode_routing::overlay::{Overlay, OverlayEvent, OverlaySink, Ready, StreamId};
use rand::{Rng as _, SeedableRng as _, TryRng as _};
use std::collections::{BTreeMap, HashMap};
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Nothing takes longer here.
const LIMIT: Duration = Duration::from_secs(20);

/// A datagram that came: from, its port, to, its port, payload.
pub type Came = (Ipv6Addr, u16, Ipv6Addr, u16, Vec<u8>);

#[derive(Default)]
struct Sink(Vec<Came>);

impl OverlaySink for Sink {
    fn datagram(&mut self, from: Ipv6Addr, fp: u16, to: Ipv6Addr, tp: u16, payload: &[u8]) {
        self.0.push((from, fp, to, tp, payload.to_vec()));
    }

    fn other(&mut self, _: Ipv6Addr, _: Ipv6Addr, _: u8, _: &[u8]) {}
}

/// One overlay, and what it told.
pub struct End {
    /// The overlay.
    pub overlay: I2pOverlay,
    /// Events that nobody has looked at.
    pub events: Vec<OverlayEvent>,
    /// Datagrams that nobody has looked at.
    pub came: Vec<Came>,
    /// Bytes of streams that were read, unless [`End::reading`] says otherwise.
    pub read: HashMap<StreamId, Vec<u8>>,
    /// Whether what comes is read at once.
    pub reading: bool,
    unsent: HashMap<StreamId, Vec<u8>>,
    address: Ipv6Addr,
}

/// How an end is made.
#[derive(Clone)]
pub struct EndOptions {
    /// `127.0.0.1:7654` or `unix:PATH`
    pub router: String,
    /// Whose certificate is believed.
    pub tls: Option<Trust>,
    /// User and password.
    pub credentials: Option<(String, String)>,
    /// Of the session.
    pub options: Vec<(String, String)>,
    /// Number of destinations.
    pub destinations: usize,
    /// Forms of datagrams by port.
    pub udp: BTreeMap<u16, anode_routing::i2p::DatagramKind>,
    /// For what comes to port 0.
    pub default_port: Option<u16>,
}

impl EndOptions {
    /// One destination over TCP or a Unix socket.
    pub fn new(router: &str) -> Self {
        Self {
            router: router.to_owned(),
            tls: None,
            credentials: None,
            options: Vec::new(),
            destinations: 1,
            udp: BTreeMap::new(),
            default_port: None,
        }
    }

    /// Adds an option of the session.
    pub fn option(mut self, name: &str, value: &str) -> Self {
        self.options.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts it, with new keys.
    pub fn start(self) -> End {
        let place = match self.router.strip_prefix("unix:") {
            Some(path) => RouterPlace::Unix(path.into()),
            None => RouterPlace::Tcp(self.router.parse().expect("IP:PORT")),
        };
        let mut seed = [0; 32];
        rand::rngs::SysRng
            .try_fill_bytes(&mut seed)
            .expect("randomness");
        let mut random = rand::rngs::StdRng::from_seed(seed);
        let pairs = self.options.iter().map(|(n, v)| (n.as_str(), v.as_str()));
        let options = SessionOptions::parse(pairs).expect("good options");
        let destination = || DestinationConfig {
            name: None,
            keys: Arc::new(LocalDestination::generate(&mut random)),
            options: options.clone(),
            default_port: self.default_port,
            udp: self.udp.clone(),
        };
        let config = I2pConfig {
            router: RouterConfig {
                place,
                tls: self.tls,
                credentials: self.credentials.map(|(user, password)| Credentials {
                    user,
                    password: password.into(),
                }),
            },
            destinations: std::iter::repeat_with(destination)
                .take(self.destinations)
                .collect(),
            known: Vec::new(),
            kept: Vec::new(),
        };
        let mut seed = [0; 32];
        random.fill_bytes(&mut seed);
        let overlay = I2pOverlay::new(config, seed, Instant::now()).expect("an overlay");
        let address = overlay.local()[0];
        End {
            overlay,
            events: Vec::new(),
            came: Vec::new(),
            read: HashMap::new(),
            reading: true,
            unsent: HashMap::new(),
            address,
        }
    }
}

impl End {
    /// Of its first destination.
    pub fn address(&self) -> Ipv6Addr {
        self.address
    }

    /// How its first destination stands.
    pub fn state(&mut self) -> State {
        self.overlay.snapshot().destinations[0].state.clone()
    }

    /// Writes all of it, as fast as the stream takes it.
    pub fn write(&mut self, stream: StreamId, data: &[u8]) {
        self.unsent.entry(stream).or_default().extend(data);
        self.push(stream);
    }

    /// Bytes that the stream has not taken yet.
    pub fn unsent(&self, stream: StreamId) -> usize {
        self.unsent.get(&stream).map_or(0, Vec::len)
    }

    fn push(&mut self, stream: StreamId) {
        if let Some(data) = self.unsent.get_mut(&stream) {
            let count = self.overlay.write(Instant::now(), stream, data);
            data.drain(..count);
        }
    }

    /// Reads what is there.
    pub fn pull(&mut self, stream: StreamId) {
        let bytes = self.read.entry(stream).or_default();
        self.overlay.read(Instant::now(), stream, &mut |piece| {
            bytes.extend(piece);
            piece.len()
        });
    }

    /// One turn of a loop as the data thread has it.
    pub fn turn(&mut self) {
        let now = Instant::now();
        let mut sink = Sink::default();
        self.overlay.receive(now, Ready::ANY, &mut sink);
        self.came.append(&mut sink.0);
        if self.overlay.deadline().is_some_and(|(at, _)| at <= now) {
            self.overlay.handle_timeout(now);
        }
        while let Some(event) = self.overlay.poll_event() {
            match &event {
                OverlayEvent::StreamReadable { stream } if self.reading => {
                    let stream = *stream;
                    self.pull(stream);
                }
                OverlayEvent::StreamWritable { stream } => {
                    let stream = *stream;
                    self.push(stream);
                }
                _ => {}
            }
            self.events.push(event);
        }
        self.overlay.transmit(now);
    }

    /// The first event that `wanted` takes, out of the list.
    pub fn take<T>(&mut self, wanted: impl Fn(&OverlayEvent) -> Option<T>) -> Option<T> {
        let at = self
            .events
            .iter()
            .position(|event| wanted(event).is_some())?;
        wanted(&self.events.remove(at))
    }
}

/// Runs the ends until `done` gives something.
///
/// # Panics
/// If that takes more than twenty seconds, with what they told.
#[track_caller]
pub fn until<const N: usize, T>(
    ends: &mut [End; N],
    what: &str,
    mut done: impl FnMut(&mut [End; N]) -> Option<T>,
) -> T {
    let start = Instant::now();
    loop {
        for end in ends.iter_mut() {
            end.turn();
        }
        if let Some(result) = done(ends) {
            return result;
        }
        if start.elapsed() > LIMIT {
            let told: Vec<_> = ends
                .iter_mut()
                .map(|end| (end.state(), &end.events))
                .collect();
            panic!("not within {LIMIT:?}: {what}; {told:?}");
        }
        let fds = ends.iter().flat_map(|end| end.overlay.fds());
        let mut fds: Vec<_> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        poll(&mut fds, Some(Duration::from_millis(2))).expect("poll");
    }
}

/// Runs them for so long.
pub fn pass<const N: usize>(ends: &mut [End; N], span: Duration) {
    let start = Instant::now();
    until(ends, "time passes", |_| {
        (start.elapsed() >= span).then_some(())
    });
}

/// Waits until every destination of every end is ready, and makes them known to each other.
#[track_caller]
pub fn ready<const N: usize>(ends: &mut [End; N]) {
    until(ends, "all are ready", |ends| {
        let mut all = ends
            .iter_mut()
            .flat_map(|end| end.overlay.snapshot().destinations);
        all.all(|one| one.state == State::Ready).then_some(())
    });
    let hashes: Vec<_> = ends
        .iter_mut()
        .flat_map(|end| end.overlay.snapshot().destinations)
        .map(|one| one.hash)
        .collect();
    for end in ends.iter_mut() {
        for hash in &hashes {
            end.overlay.learn(Instant::now(), *hash);
        }
    }
}

/// Opens a stream from the first end to a port of the second, which takes it; both sides' names for it.
#[track_caller]
pub fn open<const N: usize>(ends: &mut [End; N], port: u16) -> (StreamId, StreamId) {
    let (from, to) = (ends[0].address(), ends[1].address());
    let now = Instant::now();
    let near = ends[0].overlay.open(now, from, 40_000, to, port);
    let near = near.expect("a stream");
    let far = until(ends, "it arrives", |ends| {
        ends[1].take(|event| match event {
            OverlayEvent::StreamIncoming { stream, .. } => Some(*stream),
            _ => None,
        })
    });
    ends[1].overlay.accept(Instant::now(), far);
    until(ends, "it is answered", |ends| {
        ends[0].take(|event| (*event == OverlayEvent::StreamOpened { stream: near }).then_some(()))
    });
    (near, far)
}
