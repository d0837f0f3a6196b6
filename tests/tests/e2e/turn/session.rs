//! A client by hand: the state machine on a socket of the test, so that a test holds an allocation as long as it likes.

use super::*;
use anode_tests::lab::Ns;
use anode_turn::client::{Client, Config, Credentials, Event, Outgoing};
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};

pub struct Session {
    socket: UdpSocket,
    client: Client,
    events: Vec<Event>,
    pub payloads: Vec<(SocketAddr, Vec<u8>)>,
}

impl Session {
    /// Asks for an allocation; [`Session::until`] waits for it.
    pub fn start(host: &Host, server: SocketAddr, name: &str) -> Self {
        Self::of(host, server, name, "secret")
    }

    /// The same with a password.
    pub fn of(host: &Host, server: SocketAddr, name: &str, password: &str) -> Self {
        Self::with(host, server, Self::config(name, password))
    }

    /// What a client of this name is told.
    pub fn config(name: &str, password: &str) -> Config {
        let credentials = Credentials {
            name: name.to_owned(),
            password: password.to_owned().into(),
        };
        Config {
            credentials: Some(credentials),
            ..Config::default()
        }
    }

    /// Asks from a machine, told all that a client is.
    pub fn with(at: &Ns, server: SocketAddr, config: Config) -> Self {
        let any: IpAddr = match server {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = anode_tests::traffic::udp(at, SocketAddr::new(any, 0));
        socket.connect(server).expect("a way there");
        // Any seed does; the port makes it another one for each session.
        let mut seed = [7; 32];
        let port = socket.local_addr().expect("bound").port();
        seed[..2].copy_from_slice(&port.to_be_bytes());
        let now = Instant::now();
        let mut client = Client::new(now, config, server, seed);
        client.start(now).expect("nothing is in the way");
        Self {
            socket,
            client,
            events: Vec::new(),
            payloads: Vec::new(),
        }
    }

    /// With an allocation.
    pub fn allocated(host: &Host, server: SocketAddr) -> Self {
        let mut session = Self::start(host, server, "alice");
        session.until(|event| matches!(event, Event::Allocated { .. }));
        session
    }

    pub fn relayed(&self) -> SocketAddr {
        self.client.relayed()[0]
    }

    pub fn permit(&mut self, peer: IpAddr) {
        self.client.permit(Instant::now(), peer);
        self.until(|event| *event == Event::Permitted(peer));
    }

    pub fn send(&mut self, peer: SocketAddr, payload: &[u8]) {
        if let Outgoing::Now(header) = self.client.send(Instant::now(), peer, payload) {
            let padding = &[0; 3][..header.padding()];
            let bytes = [header.bytes(), payload, padding].concat();
            self.socket.send(&bytes).expect("sent");
        }
    }

    /// Whether a payload sent to an echo comes back.
    pub fn echoes(&mut self, peer: SocketAddr, payload: &[u8]) -> bool {
        self.payloads.clear();
        self.send(peer, payload);
        self.hears(peer, payload, Duration::from_secs(2))
    }

    /// Sends so many kilobytes to an echo, one each 10 ms; how many come back within a while.
    pub fn count_echoes(&mut self, peer: SocketAddr, count: usize, wait: Duration) -> usize {
        self.payloads.clear();
        for _ in 0..count {
            self.send(peer, &[7; 1000]);
            // In a burst, those on the way out would use up what the echoes may pass with.
            let next = Instant::now() + Duration::from_millis(10);
            while Instant::now() < next {
                self.work_for(Duration::from_millis(2));
            }
        }
        let deadline = Instant::now() + wait;
        while self.payloads.len() < count && Instant::now() < deadline {
            self.work();
        }
        self.payloads.len()
    }

    /// Whether this payload of a peer comes within a while; the client does what it has to meanwhile.
    pub fn hears(&mut self, peer: SocketAddr, payload: &[u8], wait: Duration) -> bool {
        let deadline = Instant::now() + wait;
        let heard = |all: &[(SocketAddr, Vec<u8>)]| {
            let mut all = all.iter();
            all.any(|(from, bytes)| *from == peer && bytes == payload)
        };
        while Instant::now() < deadline && !heard(&self.payloads) {
            self.work();
        }
        heard(&self.payloads)
    }

    /// Waits for an event.
    #[track_caller]
    pub fn until(&mut self, wanted: impl Fn(&Event) -> bool) -> Event {
        let deadline = Instant::now() + LIMIT;
        loop {
            self.work();
            if let Some(at) = self.events.iter().position(&wanted) {
                return self.events.remove(at);
            }
            assert!(Instant::now() < deadline, "not among {:?}", self.events);
        }
    }

    fn work(&mut self) {
        self.work_for(Duration::from_millis(50));
    }

    /// Waits so long at most for a datagram.
    fn work_for(&mut self, wait: Duration) {
        while let Some(bytes) = self.client.poll_transmit() {
            self.socket.send(&bytes).expect("sent");
        }
        self.socket.set_read_timeout(Some(wait)).expect("a timeout");
        let mut buffer = [0; 65_536];
        if let Ok(length) = self.socket.recv(&mut buffer) {
            let received = self.client.handle(Instant::now(), &buffer[..length]);
            let payload = received.map(|r| (r.peer, buffer[r.payload].to_vec()));
            self.payloads.extend(payload);
        }
        self.client.handle_timeout(Instant::now());
        self.events
            .extend(std::iter::from_fn(|| self.client.poll_event()));
    }
}
