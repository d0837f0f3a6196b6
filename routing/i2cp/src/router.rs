//! A strict router in memory, for tests only. It checks what a real one checks, and more: exact lengths, signatures,
//! dates, the order of options, session ids. It delivers between the sessions that it holds.
use crate::client::{Client, Event};
use crate::codec::{Mapping, Put as _, Reader};
use crate::destination::{Destination, Hash, VerifyingKey};
use crate::keys::LocalDestination;
use crate::options::SessionOptions;
use crate::time::Now;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) const START_MS: u64 = 1_700_000_000_000;

pub(crate) fn start() -> Now {
    Now {
        instant: Instant::now(),
        unix_ms: START_MS,
    }
}

/// One connection as the router sees it.
#[derive(Default)]
pub(crate) struct Connection {
    buffer: Vec<u8>,
    greeted: bool,
    pub(crate) destination: Option<Destination>,
    pub(crate) session: Option<u16>,
    pub(crate) options: Mapping,
    pub(crate) published: Vec<u32>,
    pub(crate) lease_set: Vec<u8>,
    pub(crate) lease_set_kind: u8,
    pub(crate) to_client: Vec<u8>,
    pub(crate) reconfigured: Vec<Mapping>,
    pub(crate) said: Vec<String>,
    /// Types of messages received.
    pub(crate) kinds: Vec<u8>,
    announced: HashMap<u32, Vec<u8>>,
}

/// What a message for another session is.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) from: usize,
    pub(crate) to: Hash,
    pub(crate) payload: Vec<u8>,
    pub(crate) nonce: u32,
}

#[derive(Default)]
pub(crate) struct Router {
    pub(crate) connections: Vec<Connection>,
    pub(crate) password: Option<(&'static str, &'static str)>,
    pub(crate) hosts: HashMap<String, Destination>,
    pub(crate) clock_ahead_ms: i64,
    /// What the network may delay, lose or repeat; [`Router::deliver`] takes it from here.
    pub(crate) sent: Vec<Sent>,
    next_message: u32,
}

pub(crate) fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = (body.len() as u32).to_be_bytes().to_vec();
    out.push(kind);
    out.put(body);
    out
}

impl Router {
    pub(crate) fn accept(&mut self) -> usize {
        self.connections.push(Connection::default());
        self.connections.len() - 1
    }

    fn clock(&self, now: Now) -> u64 {
        now.unix_ms.saturating_add_signed(self.clock_ahead_ms)
    }

    pub(crate) fn say(&mut self, at: usize, kind: u8, body: &[u8]) {
        self.connections[at].to_client.extend(frame(kind, body));
    }

    /// Takes bytes of the client. Anything it must not do is a panic: the test fails.
    pub(crate) fn received(&mut self, at: usize, bytes: &[u8], now: Now) {
        self.connections[at].buffer.extend_from_slice(bytes);
        if !self.connections[at].greeted {
            if self.connections[at].buffer.is_empty() {
                return;
            }
            assert_eq!(self.connections[at].buffer.remove(0), 0x2a, "protocol byte");
            self.connections[at].greeted = true;
        }
        loop {
            let buffer = &mut self.connections[at].buffer;
            let Some(header) = buffer.first_chunk::<5>().copied() else {
                return;
            };
            let length = u32::from_be_bytes(header[..4].try_into().unwrap()) as usize;
            assert!(length <= 65_535, "i2pd would close");
            if buffer.len() < 5 + length {
                return;
            }
            let body: Vec<u8> = buffer.drain(..5 + length).skip(5).collect();
            self.connections[at].kinds.push(header[4]);
            self.message(at, header[4], &body, now);
        }
    }

    fn own_session(&self, at: usize, reader: &mut Reader<'_>) {
        let session = reader.u16().unwrap();
        assert_eq!(Some(session), self.connections[at].session, "session id");
    }

    fn message(&mut self, at: usize, kind: u8, body: &[u8], now: Now) {
        let mut reader = Reader::new("it", body);
        match kind {
            32 => {
                assert_eq!(reader.string().unwrap(), "0.9.66");
                let mapping = match reader.remaining() {
                    0 => Mapping::new(),
                    _ => Mapping::read(&mut reader).unwrap(),
                };
                reader.finish().unwrap();
                if let Some((user, password)) = self.password
                    && (mapping.get("i2cp.username"), mapping.get("i2cp.password"))
                        != (Some(user), Some(password))
                {
                    let text = b"Authorization failed, user = joe";
                    let body = [&[text.len() as u8], &text[..]].concat();
                    return self.say(at, 30, &body);
                }
                let date = self.clock(now).to_be_bytes();
                self.say(at, 33, &[&date[..], b"\x060.9.66"].concat());
            }
            1 => {
                assert!(self.connections[at].session.is_none(), "second session");
                let (destination, options) = self.config(reader, now);
                for name in ["i2cp.password", "i2cp.leaseSetPrivateKey"] {
                    assert_eq!(options.get(name), None);
                }
                let taken = self
                    .connections
                    .iter()
                    .any(|c| c.session.is_some() && c.destination.as_ref() == Some(&destination));
                if taken {
                    return self.say(at, 20, &[0xff, 0xff, 3]);
                }
                let session = 100 + at as u16;
                let connection = &mut self.connections[at];
                connection.destination = Some(destination);
                connection.options = options;
                connection.session = Some(session);
                self.say(at, 20, &[&session.to_be_bytes()[..], &[1]].concat());
            }
            2 => {
                self.own_session(at, &mut reader);
                let (destination, options) = self.config(reader, now);
                assert_eq!(
                    Some(&destination),
                    self.connections[at].destination.as_ref()
                );
                self.connections[at].reconfigured.push(options);
                let session = self.connections[at].session.unwrap().to_be_bytes();
                self.say(at, 20, &[&session[..], &[2]].concat());
            }
            3 => {
                self.own_session(at, &mut reader);
                reader.finish().unwrap();
                let session = self.connections[at].session.take().unwrap().to_be_bytes();
                self.say(at, 20, &[&session[..], &[0]].concat());
            }
            6 => {
                self.own_session(at, &mut reader);
                let id = reader.u32().unwrap();
                reader.finish().unwrap();
                let payload = self.connections[at].announced[&id].clone();
                self.hand_over(at, id, &payload);
            }
            7 => {
                self.own_session(at, &mut reader);
                let id = reader.u32().unwrap();
                reader.finish().unwrap();
                assert!(self.connections[at].announced.remove(&id).is_some());
            }
            8 => {
                reader.finish().unwrap();
                let body: Vec<u8> = (1..=16u32).flat_map(u32::to_be_bytes).collect();
                self.say(at, 23, &body);
            }
            30 => {
                let text = reader.string().unwrap();
                reader.finish().unwrap();
                self.connections[at].said.push(text);
            }
            36 => {
                self.own_session(at, &mut reader);
                assert!(
                    !self.connections[at].published.is_empty(),
                    "sent before ready"
                );
                let to = Destination::read(&mut reader).unwrap();
                let length = reader.u32().unwrap() as usize;
                let payload = reader.take(length).unwrap().to_vec();
                let nonce = reader.u32().unwrap();
                assert_eq!(reader.u16().unwrap() & !0x100, 0, "flags");
                let expiry: [u8; 6] = reader.array().unwrap();
                reader.finish().unwrap();
                let mut date = [0; 8];
                date[2..].copy_from_slice(&expiry);
                let clock = self.clock(now);
                assert!(
                    (clock..clock + 120_000).contains(&u64::from_be_bytes(date)),
                    "expiry"
                );
                let to = to.hash();
                self.sent.push(Sent {
                    from: at,
                    to,
                    payload,
                    nonce,
                });
            }
            38 => self.host_lookup(at, reader),
            41 => self.create_lease_set(at, reader, now),
            other => panic!("message type {other}"),
        }
    }

    fn config(&self, mut reader: Reader<'_>, now: Now) -> (Destination, Mapping) {
        let whole = reader.clone().rest();
        let destination = Destination::read(&mut reader).unwrap();
        let before = whole.len() - reader.remaining();
        let options = Mapping::read(&mut reader).unwrap();
        let mut again = Vec::new();
        options.put(&mut again);
        assert_eq!(
            whole[before..before + again.len()],
            again,
            "options are not sorted"
        );
        let date = reader.u64().unwrap();
        assert!(date.abs_diff(self.clock(now)) < 30_000, "date");
        let signed = &whole[..whole.len() - reader.remaining()];
        destination
            .verify("it", signed, reader.take(64).unwrap())
            .unwrap();
        reader.finish().unwrap();
        (destination, options)
    }

    fn host_lookup(&mut self, at: usize, mut reader: Reader<'_>) {
        self.own_session(at, &mut reader);
        let request: [u8; 4] = reader.array().unwrap();
        assert!(reader.u32().unwrap() >= 10_000, "timeout");
        let kind = reader.u8().unwrap();
        let found = match kind {
            0 | 2 => {
                let hash = Hash(reader.array().unwrap());
                let all = self
                    .connections
                    .iter()
                    .filter_map(|c| c.destination.clone());
                all.chain(self.hosts.values().cloned())
                    .find(|d| d.hash() == hash)
            }
            _ => self.hosts.get(&reader.string().unwrap()).cloned(),
        };
        reader.finish().unwrap();
        let mut body = self.connections[at].session.unwrap().to_be_bytes().to_vec();
        body.put(&request);
        match found {
            Some(destination) => {
                body.put_u8(0);
                body.put(destination.as_bytes());
                if kind >= 2 {
                    body.put(b"\0\x06\x01a=\x01b;");
                }
            }
            None => body.put_u8(1),
        }
        self.say(at, 39, &body);
    }

    fn create_lease_set(&mut self, at: usize, mut reader: Reader<'_>, now: Now) {
        self.own_session(at, &mut reader);
        let kind = reader.u8().unwrap();
        let clock_s = self.clock(now) / 1000;
        let private_at = reader.remaining() - 37;
        let lease_set = reader.take(private_at).unwrap().to_vec();
        assert_eq!(reader.take(5).unwrap(), [1, 0, 4, 0, 32]);
        let private: [u8; 32] = reader.array().unwrap();
        reader.finish().unwrap();
        let connection = &mut self.connections[at];
        let own = connection.destination.clone().unwrap();
        let published = match kind {
            3 => check_lease_set(&lease_set, &own, Some(&private), clock_s),
            // opened by the test that asks for it: only it has the keys of the clients
            5 => u32::from_be_bytes(lease_set[34..38].try_into().unwrap()),
            other => panic!("lease set type {other}"),
        };
        if let Some(last) = connection.published.last() {
            assert!(published > *last, "published must grow");
        }
        connection.published.push(published);
        connection.lease_set = lease_set;
        connection.lease_set_kind = kind;
    }

    /// Tunnels are up: two leases of ten minutes.
    pub(crate) fn request_leases(&mut self, at: usize, now: Now) {
        let session = self.connections[at].session.unwrap();
        let end = self.clock(now) + 600_000;
        let mut body = session.to_be_bytes().to_vec();
        body.put_u8(2);
        for gateway in 1..=2u8 {
            body.put(&[gateway; 32]);
            body.put_u32(gateway.into());
            body.put_u64(end + u64::from(gateway));
        }
        self.say(at, 37, &body);
    }

    /// Brings a message to its session; the sender learns what became of it.
    pub(crate) fn deliver(&mut self, sent: &Sent) {
        let to = self.connections.iter().position(|c| {
            c.session.is_some() && c.destination.as_ref().is_some_and(|d| d.hash() == sent.to)
        });
        let status = if to.is_some() { 4 } else { 21 };
        if let (Some(session), 1..) = (self.connections[sent.from].session, sent.nonce) {
            let mut body = session.to_be_bytes().to_vec();
            body.put_u32(0);
            body.put_u8(status);
            body.put_u32(0);
            body.put_u32(sent.nonce);
            self.say(sent.from, 22, &body);
        }
        let Some(to) = to else { return };
        self.next_message += 1;
        let id = self.next_message;
        if self.connections[to].options.get("i2cp.fastReceive") == Some("true") {
            return self.hand_over(to, id, &sent.payload);
        }
        self.connections[to]
            .announced
            .insert(id, sent.payload.clone());
        let mut body = self.connections[to].session.unwrap().to_be_bytes().to_vec();
        body.put_u32(id);
        body.put_u8(0);
        body.put_u32(sent.payload.len() as u32);
        body.put_u32(0);
        self.say(to, 22, &body);
    }

    fn hand_over(&mut self, to: usize, id: u32, payload: &[u8]) {
        let mut body = self.connections[to].session.unwrap().to_be_bytes().to_vec();
        body.put_u32(id);
        body.put_u32(payload.len() as u32);
        body.put(payload);
        self.say(to, 31, &body);
    }
}

/// Checks a LeaseSet2 to the last byte; returns when it was published.
pub(crate) fn check_lease_set(
    bytes: &[u8],
    own: &Destination,
    private: Option<&[u8; 32]>,
    clock_s: u64,
) -> u32 {
    let signed = [&[3], bytes].concat();
    let (signed, signature) = signed.split_at(signed.len() - 64);
    let key = VerifyingKey {
        kind: own.signature_type().unwrap(),
        key: &own.as_bytes()[352..384],
    };
    key.verify("it", signed, signature).unwrap();
    let mut reader = Reader::new("it", &bytes[..bytes.len() - 64]);
    assert_eq!(&Destination::read(&mut reader).unwrap(), own);
    let published = reader.u32().unwrap();
    assert!(u64::from(published).abs_diff(clock_s) < 30, "published");
    let expires = reader.u16().unwrap();
    assert!((1..=660).contains(&expires), "expires {expires}");
    let flags = reader.u16().unwrap();
    assert!([0, 2, 6].contains(&flags));
    Mapping::read(&mut reader).unwrap();
    assert_eq!(reader.take(5).unwrap(), [1, 0, 4, 0, 32]);
    let public: [u8; 32] = reader.array().unwrap();
    if let Some(private) = private {
        assert_eq!(crate::keys::x25519_public(private).unwrap(), public);
    }
    let count = reader.u8().unwrap();
    assert!((1..=16).contains(&count));
    for _ in 0..count {
        reader.take(36).unwrap();
        let end = reader.u32().unwrap();
        assert!(u64::from(end) > clock_s, "a lease that is over");
    }
    reader.finish().unwrap();
    published
}

/// A client with a router at the other end of a wire without delay.
pub(crate) struct Wired {
    pub(crate) router: Router,
    pub(crate) client: Client,
    pub(crate) now: Now,
    /// Nothing reaches the router any more.
    pub(crate) cut: bool,
    happened: Vec<Event>,
}

impl Wired {
    pub(crate) fn new(keys: Arc<LocalDestination>, options: &[(&str, &str)]) -> Self {
        let options = SessionOptions::parse(options.iter().copied()).unwrap();
        let now = start();
        let mut router = Router::default();
        router.accept();
        let client = Client::new(keys, options, None, [1; 32], now).unwrap();
        Self::with(router, client, now)
    }

    pub(crate) fn with(router: Router, client: Client, now: Now) -> Self {
        Self {
            router,
            client,
            now,
            cut: false,
            happened: Vec::new(),
        }
    }

    /// Moves bytes both ways until nobody has any; what happened at the client since the last call.
    pub(crate) fn settle(&mut self) -> Vec<Event> {
        let mut quiet = false;
        while !quiet {
            quiet = true;
            while let Some(bytes) = self.client.poll_transmit() {
                if !self.cut {
                    self.router.received(0, &bytes, self.now);
                }
                quiet = false;
            }
            let bytes = std::mem::take(&mut self.router.connections[0].to_client);
            if !bytes.is_empty() {
                self.client.received(&bytes, self.now);
                quiet = false;
            }
            while let Some(event) = self.client.poll_event() {
                self.happened.push(event);
            }
        }
        std::mem::take(&mut self.happened)
    }

    pub(crate) fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(at) = self.client.deadline().filter(|at| *at <= end.instant) {
            let step = at.saturating_duration_since(self.now.instant);
            self.now = self.now + step;
            self.client.handle_timeout(self.now);
            assert_ne!(
                self.client.deadline(),
                Some(at),
                "a deadline that does not move"
            );
            self.happened = self.settle();
        }
        self.now = end;
    }

    pub(crate) fn ready(keys: Arc<LocalDestination>, options: &[(&str, &str)]) -> Self {
        let mut wired = Self::new(keys, options);
        assert_eq!(wired.settle(), []);
        wired.router.request_leases(0, wired.now);
        assert_eq!(wired.settle(), [Event::Ready]);
        wired
    }
}
