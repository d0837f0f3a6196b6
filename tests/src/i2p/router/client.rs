//! One client: its messages, each read to the last byte, and what they bring about.

use super::super::lease_set;
use super::super::wire::{Bytes, Read, frame};
use super::socket::{Socket, Stream};
use super::{Held, POLL, SETTLING, Session, Shared, State};
use anode_i2cp::destination::{Destination, Hash};
use rustls::{ServerConnection, StreamOwned};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, MutexGuard};
use std::thread;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// One client.
struct Client<'a> {
    shared: &'a Shared,
    out: Sender<Vec<u8>>,
    buffer: Vec<u8>,
    greeted: bool,
    dated: bool,
    session: Option<u16>,
    /// When leases are asked for next.
    leases_at: Option<Instant>,
}

pub(super) fn serve(shared: &Shared, socket: Socket) {
    let (out, waiting) = channel();
    let generation = {
        let mut state = shared.state();
        state.connections += 1;
        state.generation
    };
    let mut client = Client {
        shared,
        out,
        buffer: Vec::new(),
        greeted: false,
        dated: false,
        session: None,
        leases_at: None,
    };
    let stream = match &shared.options.tls {
        None => Stream::Plain(socket),
        Some(config) => match ServerConnection::new(Arc::clone(config)) {
            Ok(tls) => Stream::Tls(Box::new(StreamOwned::new(tls, socket))),
            Err(_) => return,
        },
    };
    client.run(stream, &waiting, generation);
    if let Some(session) = client.session {
        shared.state().sessions.remove(&session);
    }
}

impl Client<'_> {
    fn run(&mut self, mut stream: Stream, waiting: &Receiver<Vec<u8>>, generation: u64) {
        if stream.socket().set_read_timeout(POLL).is_err() {
            return;
        }
        let mut buffer = [0; 64 * 1024];
        loop {
            if self.shared.state().generation != generation {
                return stream.socket().end();
            }
            let mut sent = Vec::new();
            while let Ok(bytes) = waiting.try_recv() {
                sent.extend(bytes);
            }
            if !sent.is_empty() && stream.write_all(&sent).is_err() {
                return;
            }
            if self.leases_at.is_some_and(|at| at <= Instant::now()) {
                self.request_leases();
            }
            let count = match stream.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => count,
                Err(error)
                    if [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut]
                        .contains(&error.kind()) =>
                {
                    continue;
                }
                Err(_) => return,
            };
            self.buffer.extend(&buffer[..count]);
            if let Err(wrong) = self.read_all() {
                let mut state = self.shared.state();
                // after a crash, what still comes over the old connection is no fault of the client
                if state.generation == generation {
                    state.violations.push(wrong);
                }
                drop(state);
                return stream.socket().end();
            }
        }
    }

    fn say(&self, kind: u8, body: &[u8]) {
        // the loop that takes it is this one's own
        let _ = self.out.send(frame(kind, body));
    }

    fn read_all(&mut self) -> Read<()> {
        if !self.greeted {
            if self.buffer.remove(0) != 0x2a {
                return Err("the first byte is not 0x2a".into());
            }
            self.greeted = true;
        }
        while let Some(header) = self.buffer.first_chunk::<5>().copied() {
            let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
            if length > 65_535 {
                return Err(format!("a message of {length} bytes: i2pd would close"));
            }
            if self.buffer.len() < 5 + length {
                break;
            }
            let body: Vec<u8> = self.buffer.drain(..5 + length).skip(5).collect();
            self.message(header[4], &body)
                .map_err(|wrong| format!("message type {}: {wrong}", header[4]))?;
        }
        Ok(())
    }

    fn message(&mut self, kind: u8, body: &[u8]) -> Read<()> {
        let mut bytes = Bytes(body);
        if !self.dated && kind != 32 {
            return Err("GetDate comes first".into());
        }
        match kind {
            32 => self.get_date(bytes),
            1 => self.create_session(bytes),
            2 => {
                let id = self.own_session(&mut bytes)?;
                let (destination, _) = config(bytes)?;
                let state = self.shared.state();
                let held = state.sessions.get(&id).ok_or("no session")?;
                if held.session.destination != destination {
                    return Err("another destination".into());
                }
                drop(state);
                self.say(20, &[&id.to_be_bytes()[..], &[2]].concat());
                Ok(())
            }
            3 => {
                let id = self.own_session(&mut bytes)?;
                bytes.end()?;
                self.shared.state().sessions.remove(&id);
                self.session = None;
                self.leases_at = None;
                self.say(20, &[&id.to_be_bytes()[..], &[0]].concat());
                Ok(())
            }
            6 | 7 => self.receive(kind, bytes),
            8 => {
                bytes.end()?;
                self.say(23, &[0; 64]);
                Ok(())
            }
            30 => {
                let text = bytes.string()?;
                bytes.end()?;
                self.shared.state().said.push(text);
                Ok(())
            }
            36 => self.send_message(bytes),
            38 => self.host_lookup(bytes),
            41 => self.create_lease_set(bytes),
            other => Err(format!("{other} is no message that a client sends here")),
        }
    }

    fn own_session(&self, bytes: &mut Bytes<'_>) -> Read<u16> {
        let id = bytes.number(2)? as u16;
        match self.session {
            Some(own) if own == id => Ok(id),
            _ => Err(format!("session {id} is not of this connection")),
        }
    }

    fn get_date(&mut self, mut bytes: Bytes<'_>) -> Read<()> {
        if bytes.string()? != "0.9.66" {
            return Err("another API version".into());
        }
        let shown = match bytes.0.is_empty() {
            true => BTreeMap::new(),
            false => bytes.mapping(false)?,
        };
        bytes.end()?;
        if let Some(wanted) = &self.shared.options.password {
            let is = |key: &str, value: &str| shown.get(key).is_some_and(|given| given == value);
            if !is("i2cp.username", wanted.user) || !is("i2cp.password", wanted.password) {
                let text = b"Authorization failed, user = nobody";
                self.say(30, &[&[text.len() as u8], &text[..]].concat());
                return Ok(());
            }
        }
        self.dated = true;
        self.say(33, &[&now_ms().to_be_bytes()[..], b"\x060.9.68"].concat());
        Ok(())
    }

    fn create_session(&mut self, bytes: Bytes<'_>) -> Read<()> {
        if self.session.is_some() {
            return Err("a second session on one connection breaks i2pd".into());
        }
        let (destination, options) = config(bytes)?;
        for secret in [
            "i2cp.password",
            "i2cp.leaseSetPrivateKey",
            "i2cp.leaseSetSigningPrivateKey",
        ] {
            if options.contains_key(secret) {
                return Err(format!("{secret} is none of the router's business"));
            }
        }
        for wanted in [
            "i2cp.fastReceive",
            "i2cp.dontPublishLeaseSet",
            "i2cp.leaseSetEncType",
            "i2cp.leaseSetType",
            "inbound.quantity",
        ] {
            if !options.contains_key(wanted) {
                return Err(format!("{wanted} is left to the router's default"));
            }
        }
        if options.get("i2cp.messageReliability").map(String::as_str) != Some("none") {
            return Err("i2cp.messageReliability is not none".into());
        }
        let mut state = self.shared.state();
        let mut taken = state.sessions.values();
        if taken.any(|held| held.session.destination == destination) {
            drop(state);
            self.say(20, &[0xff, 0xff, 3]);
            return Ok(());
        }
        state.next += 1;
        let id = 1000 + state.next as u16;
        let held = Held {
            session: Session {
                destination,
                options,
                lease_sets: 0,
                lease_set_kind: 0,
                sent: 0,
                received: 0,
            },
            out: self.out.clone(),
            published: 0,
            announced: HashMap::new(),
        };
        state.sessions.insert(id, held);
        drop(state);
        self.session = Some(id);
        self.leases_at = Some(Instant::now() + self.shared.options.tunnels_after);
        self.say(20, &[&id.to_be_bytes()[..], &[1]].concat());
        Ok(())
    }

    fn request_leases(&mut self) {
        let Some(id) = self.session else { return };
        self.leases_at = self
            .shared
            .options
            .leases_every
            .map(|every| Instant::now() + every);
        let end = now_ms() + 600_000;
        let mut body = id.to_be_bytes().to_vec();
        body.push(2);
        for gateway in 1..=2u8 {
            body.extend([gateway; 32]);
            body.extend(u32::from(gateway).to_be_bytes());
            body.extend(end.to_be_bytes());
        }
        self.say(37, &body);
    }

    fn create_lease_set(&mut self, mut bytes: Bytes<'_>) -> Read<()> {
        let id = self.own_session(&mut bytes)?;
        let kind = bytes.number(1)? as u8;
        let (set, keys) = bytes
            .0
            .split_at_checked(bytes.0.len().saturating_sub(37))
            .ok_or("cut short")?;
        let private = keys
            .strip_prefix(&[1, 0, 4, 0, 32])
            .ok_or("one X25519 key is wanted behind the lease set")?;
        let mut state = self.shared.state();
        let held = state.sessions.get_mut(&id).ok_or("no session")?;
        let destination = held.session.destination.clone();
        let read = match (kind, &self.shared.options.opener) {
            (3, _) => lease_set::check(set, &destination, private, now_ms() / 1000)?,
            (5, Some(opener)) => opener.open(set, &destination, private, now_ms() / 1000)?,
            (5, None) => return Err("nobody here opens encrypted lease sets".into()),
            (other, _) => return Err(format!("lease set type {other}")),
        };
        if read.published_s <= held.published {
            return Err("a lease set must be younger than the one before".into());
        }
        held.published = read.published_s;
        held.session.lease_sets += 1;
        held.session.lease_set_kind = kind;
        Ok(())
    }

    fn send_message(&mut self, mut bytes: Bytes<'_>) -> Read<()> {
        let id = self.own_session(&mut bytes)?;
        let to = bytes.destination()?.hash();
        let length = bytes.number(4)? as usize;
        let payload = bytes.take(length)?.to_vec();
        let nonce = bytes.number(4)? as u32;
        if bytes.number(2)? & !0x100 != 0 {
            return Err("flags that mean nothing".into());
        }
        let expires = bytes.number(6)?;
        bytes.end()?;
        if expires + 1000 < now_ms() || expires > now_ms() + 120_000 {
            return Err(format!("it expires at {expires}"));
        }
        if payload.get(..3) != Some(&[0x1f, 0x8b, 8]) || payload.get(8) != Some(&2) {
            return Err("the payload is no gzip as Java makes it".into());
        }
        let mut state = self.shared.state();
        let held = state.sessions.get_mut(&id).ok_or("no session")?;
        if held.published == 0 {
            return Err("sent before the lease set".into());
        }
        held.session.sent += 1;
        state = self.settled(state, to);
        state.next += 1;
        let message = state.next;
        let lost = self
            .shared
            .options
            .loses_one_of
            .is_some_and(|n| message.is_multiple_of(n));
        let there = state
            .sessions
            .iter_mut()
            .find(|(_, held)| held.published > 0 && held.session.destination.hash() == to);
        let status = if there.is_some() { 4 } else { 21 };
        if let Some((to, held)) = there.filter(|_| !lost) {
            held.session.received += 1;
            deliver(*to, held, message, payload);
        }
        drop(state);
        if nonce != 0 {
            let mut body = id.to_be_bytes().to_vec();
            body.extend([0; 4]);
            body.push(status);
            body.extend([0; 4]);
            body.extend(nonce.to_be_bytes());
            self.say(22, &body);
        }
        Ok(())
    }

    /// A client without fastReceive fetches what was announced.
    fn receive(&mut self, kind: u8, mut bytes: Bytes<'_>) -> Read<()> {
        let id = self.own_session(&mut bytes)?;
        let message = bytes.number(4)? as u32;
        bytes.end()?;
        let mut state = self.shared.state();
        let held = state.sessions.get_mut(&id).ok_or("no session")?;
        match kind {
            6 => {
                let payload = held.announced.get(&message).ok_or("not announced")?;
                let body = payload_body(id, message, payload);
                let _ = held.out.send(frame(31, &body));
            }
            _ => {
                held.announced.remove(&message).ok_or("not announced")?;
            }
        }
        Ok(())
    }

    /// Waits a moment for a session that has not published yet: real routers look for a lease set for seconds, too.
    fn settled<'s>(&'s self, state: MutexGuard<'s, State>, hash: Hash) -> MutexGuard<'s, State> {
        let mut state = state;
        let start = Instant::now();
        let unpublished =
            |held: &Held| held.published == 0 && held.session.destination.hash() == hash;
        while state.sessions.values().any(unpublished) && start.elapsed() < SETTLING {
            drop(state);
            thread::sleep(POLL);
            state = self.shared.state();
        }
        state
    }

    fn host_lookup(&mut self, mut bytes: Bytes<'_>) -> Read<()> {
        let id = self.own_session(&mut bytes)?;
        let request = bytes.take(4)?.to_vec();
        if bytes.number(4)? < 10_000 {
            return Err("less than 10 s for a lookup".into());
        }
        let kind = bytes.number(1)?;
        let mut state = self.shared.state();
        let found = match kind {
            0 => {
                let hash = Hash(bytes.take(32)?.try_into().map_err(|_| "no hash")?);
                state = self.settled(state, hash);
                let ready = state.sessions.values().filter(|held| held.published > 0);
                let all = ready.map(|held| &held.session.destination);
                all.chain(state.hosts.values())
                    .find(|one| one.hash() == hash)
                    .cloned()
            }
            1 => state.hosts.get(&bytes.string()?).cloned(),
            other => return Err(format!("lookup type {other}")),
        };
        drop(state);
        bytes.end()?;
        let mut body = id.to_be_bytes().to_vec();
        body.extend(request);
        match found {
            Some(destination) => {
                body.push(0);
                body.extend(destination.as_bytes());
            }
            None => body.push(1),
        }
        self.say(39, &body);
        Ok(())
    }
}

fn payload_body(id: u16, message: u32, payload: &[u8]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    body.extend(message.to_be_bytes());
    body.extend((payload.len() as u32).to_be_bytes());
    body.extend(payload);
    body
}

fn deliver(id: u16, held: &mut Held, message: u32, payload: Vec<u8>) {
    let fast = held.session.options.get("i2cp.fastReceive");
    // a client that has gone gets nothing
    if fast.map(String::as_str) == Some("true") {
        let _ = held
            .out
            .send(frame(31, &payload_body(id, message, &payload)));
        return;
    }
    let mut body = id.to_be_bytes().to_vec();
    body.extend(message.to_be_bytes());
    body.push(0);
    body.extend((payload.len() as u32).to_be_bytes());
    body.extend([0; 4]);
    held.announced.insert(message, payload);
    let _ = held.out.send(frame(22, &body));
}

/// SessionConfig: destination, sorted options, date, signature over all of it.
fn config(mut bytes: Bytes<'_>) -> Read<(Destination, BTreeMap<String, String>)> {
    let whole = bytes.0;
    let destination = bytes.destination()?;
    let options = bytes.mapping(true)?;
    let date = bytes.number(8)?;
    let signed = &whole[..whole.len() - bytes.0.len()];
    let signature = bytes.take(64)?;
    bytes.end()?;
    if date.abs_diff(now_ms()) > 30_000 {
        return Err(format!("its date {date} is off"));
    }
    destination
        .verify("a session", signed, signature)
        .map_err(|error| error.to_string())?;
    Ok((destination, options))
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}
