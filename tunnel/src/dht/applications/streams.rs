//! TCP connections of local programs: a task for each, which carries bytes between its socket and the units of a conversation.
//!
//! ```text
//!  program ⇄ TcpStream ⇄ task: Bytes (a stream of §5) ⇄ units ⇄ conversation
//! ```

use std::collections::HashMap;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anode_routing::dht::bytes::{Bytes, Event, KEEP, Number, Shared, connection, refuse};
use rand::Rng as _;
use rand::rand_core::UnwrapErr;
use rand::rngs::SysRng;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::{By, Name, Said, What};

/// Connections at a time, in all conversations.
const MAX_CONNECTIONS: usize = 256;
/// Of these, in one conversation.
const MAX_OF_CONVERSATION: usize = 64;
/// Units that wait for a connection's task.
const WAITING: usize = 256;
/// Bytes between a socket and its stream.
const CHUNK: usize = 64 << 10;
/// The local program has so long to take a connection.
const DIAL: Duration = Duration::from_secs(10);
/// Where nobody says anything, this often a unit keeps the conversation, which is over after 180 s.
const KEEP_EVERY: Duration = Duration::from_secs(60);

/// See the module.
pub struct Streams {
    shared: Shared,
    /// Conversations that carry connections, and their application.
    conversations: HashMap<Name, u16>,
    all: HashMap<(Name, Number), mpsc::Sender<Vec<u8>>>,
    next: u16,
    tell: mpsc::Sender<Said>,
    lost: Arc<AtomicU64>,
}

impl Streams {
    /// Units go to `tell`; those for which there is no room are lost, and sent again.
    pub fn new(tell: mpsc::Sender<Said>, lost: Arc<AtomicU64>) -> Self {
        Self {
            shared: Shared::default(),
            conversations: HashMap::new(),
            all: HashMap::new(),
            next: 0,
            tell,
            lost,
        }
    }

    /// Whether units of this conversation are of connections.
    pub fn has(&self, name: Name) -> bool {
        self.conversations.contains_key(&name)
    }

    /// A peer has begun a conversation in which connections come.
    pub fn serve(&mut self, name: Name, application: u16) {
        self.conversations.insert(name, application);
    }

    /// It is over: local programs see their connections reset.
    pub fn over(&mut self, name: Name) {
        if self.conversations.remove(&name).is_some() {
            self.all.retain(|(of, _), _| *of != name);
        }
    }

    /// A conversation has turned out to be the same as another one: its connections go on there.
    pub fn same(&mut self, name: Name, other: Name) {
        let Some(application) = self.conversations.remove(&name) else {
            return;
        };
        self.conversations.insert(other, application);
        let moved: Vec<_> = self.all.extract_if(|(of, _), _| *of == name).collect();
        for ((_, number), units) in moved {
            // Numbers are given out in turn, so that two are the same only where one is very old: it stays, and this one ends.
            self.all.entry((other, number)).or_insert(units);
        }
    }

    /// A local program has connected. Where there are too many, its connection ends.
    pub fn open(&mut self, name: Name, application: u16, socket: TcpStream) {
        self.serve(name, application);
        if !self.has_room(name) {
            return;
        }
        let Some(number) = self.number(name, application) else {
            return;
        };
        let isn = UnwrapErr(SysRng).next_u32();
        let now = Instant::now();
        let bytes = Bytes::open(&self.shared, now, application, number.number, isn);
        let (link, units) = self.link(name, number);
        tokio::spawn(link.run(bytes, Local::Connected(socket), units));
    }

    /// A unit of a conversation. `program` is where that of an application listens.
    pub fn hear(&mut self, name: Name, unit: &[u8], program: impl Fn(u16) -> Option<SocketAddr>) {
        let Some(application) = self.conversations.get(&name).copied() else {
            return;
        };
        // What keeps the conversation is of no connection.
        let Some((number, begins)) = connection(application, unit) else {
            return;
        };
        if let Some(known) = self.all.get(&(name, number)) {
            match known.try_send(unit.to_vec()) {
                Ok(()) => return,
                Err(mpsc::error::TrySendError::Full(_)) => return self.note_lost(),
                Err(mpsc::error::TrySendError::Closed(_)) => drop(self.all.remove(&(name, number))),
            }
        }
        let to = program(application).filter(|_| begins && self.has_room(name));
        let isn = UnwrapErr(SysRng).next_u32();
        let made = to.and_then(|to| {
            let bytes = Bytes::incoming(&self.shared, Instant::now(), unit, isn)?;
            Some((to, bytes))
        });
        match made {
            Some((to, bytes)) => {
                let (link, units) = self.link(name, number);
                tokio::spawn(link.run(bytes, Local::Listens(to), units));
            }
            None => {
                if let Some(refusal) = refuse(unit) {
                    self.say(name, refusal);
                }
            }
        }
    }

    fn has_room(&mut self, name: Name) -> bool {
        self.all.retain(|_, units| !units.is_closed());
        let of = self.all.keys().filter(|(of, _)| *of == name).count();
        let room = self.all.len() < MAX_CONNECTIONS && of < MAX_OF_CONVERSATION;
        if !room {
            self.note_lost();
        }
        room
    }

    /// A number that no connection of this conversation has, nor the application.
    fn number(&mut self, name: Name, application: u16) -> Option<Number> {
        (0..=u16::MAX).find_map(|_| {
            self.next = self.next.wrapping_add(1);
            let number = Number {
                ours: true,
                number: self.next,
            };
            let free = self.next != application && !self.all.contains_key(&(name, number));
            free.then_some(number)
        })
    }

    fn link(&mut self, name: Name, number: Number) -> (Link, mpsc::Receiver<Vec<u8>>) {
        let (units, receiver) = mpsc::channel(WAITING);
        self.all.insert((name, number), units);
        let link = Link {
            name,
            tell: self.tell.clone(),
            lost: Arc::clone(&self.lost),
        };
        (link, receiver)
    }

    fn say(&self, name: Name, unit: Vec<u8>) {
        let link = Link {
            name,
            tell: self.tell.clone(),
            lost: Arc::clone(&self.lost),
        };
        link.say(unit);
    }

    fn note_lost(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }
}

/// The local side of a connection.
enum Local {
    /// The program has come to us.
    Connected(TcpStream),
    /// We go to the program.
    Listens(SocketAddr),
}

/// The way from a connection's task to its conversation.
struct Link {
    name: Name,
    tell: mpsc::Sender<Said>,
    lost: Arc<AtomicU64>,
}

impl Link {
    fn say(&self, unit: Vec<u8>) {
        let said = Said {
            by: By::Conversation(self.name),
            what: What::Unit(unit),
        };
        if self.tell.try_send(said).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Carries a connection until both sides are through with it.
    async fn run(self, mut bytes: Bytes, local: Local, units: mpsc::Receiver<Vec<u8>>) {
        let socket = match local {
            Local::Connected(socket) => socket,
            Local::Listens(to) => {
                let dialled = tokio::time::timeout(DIAL, TcpStream::connect(to)).await;
                match dialled.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                    Ok(socket) => {
                        bytes.accept(Instant::now());
                        socket
                    }
                    Err(error) => {
                        tracing::debug!("DHT: the program at {to}: {error}");
                        bytes.abort(Instant::now(), true);
                        return self.drain(&mut bytes, units).await;
                    }
                }
            }
        };
        // Small writes are not to wait for one another; where this fails they do.
        let _ = socket.set_nodelay(true);
        if self.carry(&mut bytes, socket, units).await.is_err() {
            tracing::debug!("DHT: a local connection was reset");
        }
    }

    /// Says what a connection that was not taken has still to say.
    async fn drain(&self, bytes: &mut Bytes, mut units: mpsc::Receiver<Vec<u8>>) {
        loop {
            while let Some(unit) = bytes.unit(Instant::now()) {
                self.say(unit);
            }
            while let Some(event) = bytes.event() {
                if event == Event::Closed {
                    return;
                }
            }
            tokio::select! {
                unit = units.recv() => match unit {
                    Some(unit) => bytes.handle(Instant::now(), &unit),
                    None => return,
                },
                () = until(bytes.deadline()) => bytes.handle_timeout(Instant::now()),
            }
        }
    }

    async fn carry(
        &self,
        bytes: &mut Bytes,
        socket: TcpStream,
        mut units: mpsc::Receiver<Vec<u8>>,
    ) -> io::Result<()> {
        let (mut from, mut to) = socket.into_split();
        let mut buffer = vec![0; CHUNK];
        let mut out: Vec<u8> = Vec::new();
        let (mut writes, mut reads) = (true, true);
        let (mut finished, mut over) = (false, false);
        let mut keep = pin!(tokio::time::sleep(KEEP_EVERY));
        loop {
            let now = Instant::now();
            bytes.read(now, &mut out, CHUNK);
            let mut aborted = false;
            while let Some(event) = bytes.event() {
                match event {
                    Event::Aborted { .. } => aborted = true,
                    Event::Finished => finished = true,
                    Event::Closed => over = true,
                    _ => {}
                }
            }
            while let Some(unit) = bytes.unit(now) {
                self.say(unit);
                keep.as_mut().reset((now + KEEP_EVERY).into());
            }
            if aborted {
                return reset(from, to);
            }
            if finished && reads && out.is_empty() {
                reads = false;
                to.shutdown().await?;
            }
            if over && out.is_empty() {
                return Ok(());
            }
            let room = bytes.room().min(buffer.len());
            tokio::select! {
                unit = units.recv() => match unit {
                    Some(unit) => {
                        bytes.handle(Instant::now(), &unit);
                        while let Ok(unit) = units.try_recv() {
                            bytes.handle(Instant::now(), &unit);
                        }
                    }
                    // The conversation is over.
                    None => return reset(from, to),
                },
                read = from.read(&mut buffer[..room]), if writes && room > 0 => match read {
                    Ok(0) => {
                        writes = false;
                        bytes.finish(Instant::now());
                    }
                    Ok(len) => {
                        // No more than there is room for was read.
                        bytes.write(Instant::now(), &buffer[..len]);
                    }
                    Err(error) => {
                        bytes.abort(Instant::now(), false);
                        self.drain(bytes, units).await;
                        return Err(error);
                    }
                },
                written = to.write(&out), if !out.is_empty() => match written {
                    Ok(len) => drop(out.drain(..len)),
                    Err(error) => {
                        bytes.abort(Instant::now(), false);
                        self.drain(bytes, units).await;
                        return Err(error);
                    }
                },
                () = until(bytes.deadline()) => bytes.handle_timeout(Instant::now()),
                () = keep.as_mut() => {
                    self.say(KEEP.to_vec());
                    keep.as_mut().reset((Instant::now() + KEEP_EVERY).into());
                }
            }
        }
    }
}

/// The local program sees a reset, not an end: what it hears is not all.
fn reset(
    from: tokio::net::tcp::OwnedReadHalf,
    to: tokio::net::tcp::OwnedWriteHalf,
) -> io::Result<()> {
    match from.reunite(to) {
        Ok(socket) => socket.set_zero_linger(),
        Err(error) => Err(io::Error::other(error)),
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => pending().await,
    }
}
