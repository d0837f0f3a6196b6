//! A peer that seals and does nothing else: one socket, one key, one session with a relay. For tables of thousands.

use crate::lab::Ns;
use anode_wire::message::kind;
use anode_wire::sealed::{
    Config, Event, Now, Outcome, Pair, PeerKey, Reason, Sessions, Source, Timestamp,
};
use anode_wire::{Address, Header, Identity, Message, Packet, Party, PeerId, Zone};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A PING is repeated.
const AGAIN: Duration = Duration::from_millis(300);
/// The body of the PING: a relay of ours answers that length only when it has registered the sender.
const TOKEN: [u8; 8] = *b"register";

/// See the module.
pub struct SealedLight {
    identity: Identity,
    socket: UdpSocket,
    sessions: Sessions,
    relay: Address,
}

fn now() -> Now {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH);
    Now {
        at: Instant::now(),
        wall: Timestamp(wall.expect("after 1970").as_micros() as u64),
    }
}

impl SealedLight {
    /// Number `number`, bound to `own`, that talks to nobody but the relay at `at`. The keys are as predictable as numbers.
    ///
    /// # Panics
    /// If it cannot be bound.
    pub fn new(ns: &Ns, number: u16, own: SocketAddr, relay: &Address, at: SocketAddr) -> Self {
        let mut scalar = [11; 32];
        scalar[30..].copy_from_slice(&number.to_be_bytes());
        let identity = Identity::from_scalar(Zone(0), &scalar).expect("a key");
        let socket = ns.run(|| UdpSocket::bind(own).expect("a socket"));
        socket.connect(at).expect("UDP connects at once");
        let rng = Box::new(StdRng::seed_from_u64(number.into()));
        let sessions = Sessions::new(&identity, Config::default(), rng);
        Self {
            identity,
            socket,
            sessions,
            relay: *relay,
        }
    }

    /// A session, and a registration in it.
    ///
    /// # Panics
    /// If it has none within `limit`.
    pub fn register(&mut self, limit: Duration) {
        let pair = Pair {
            address: self.relay,
            peer: PeerId::ANY,
        };
        let start = Instant::now();
        let (mut session, mut asked) = (None, None::<Instant>);
        self.socket
            .set_read_timeout(Some(Duration::from_millis(20)))
            .expect("a timeout");
        let mut buffer = [0; 2048];
        while start.elapsed() < limit {
            let time = now();
            self.sessions.start(time, pair, Reason::Traffic);
            self.sessions.handle_timeout(time);
            while let Some(event) = self.sessions.poll_event() {
                if let Event::SessionUp { peer, .. } = event {
                    session = Some(peer);
                }
            }
            if let Some(peer) = session
                && asked.is_none_or(|at| at.elapsed() > AGAIN)
            {
                asked = Some(Instant::now());
                self.send_sealed(peer, &Message::Ping(&TOKEN));
            }
            self.flush();
            let Ok(length) = self.socket.recv(&mut buffer) else {
                continue;
            };
            if self.hear(&mut buffer[..length]) {
                return;
            }
        }
        panic!("no registration within {limit:?}");
    }

    fn flush(&mut self) {
        while let Some(transmit) = self.sessions.poll_transmit() {
            self.socket.send(&transmit.packet).expect("it is sent");
        }
    }

    fn send_sealed(&mut self, peer: PeerKey, message: &Message<'_>) {
        let mut body = Vec::with_capacity(message.body_len());
        message.emit(&mut body);
        let sealed = self.sessions.seal_copy(now(), peer, message.kind(), &body);
        self.socket
            .send(&sealed.expect("there is a session"))
            .expect("it is sent");
    }

    /// True: the relay says that we are registered.
    fn hear(&mut self, packet: &mut [u8]) -> bool {
        let from = Source {
            endpoint: b"relay",
            network: 0,
        };
        match self.sessions.handle(now(), from, packet) {
            Outcome::Opened { from, kind, body } => {
                match Message::parse(kind, &packet[body]) {
                    Ok(Message::EpcReq { id }) => self.send_sealed(from.peer, &Message::Epc { id }),
                    Ok(Message::Pong(token)) => return token == TOKEN,
                    _ => {}
                }
                false
            }
            Outcome::Plain => {
                self.hear_plain(packet);
                false
            }
            _ => false,
        }
    }

    /// Before a session the relay asks in plain whether we are there.
    fn hear_plain(&self, packet: &[u8]) {
        let Ok(packet) = Packet::new_checked(packet) else {
            return;
        };
        if packet.kind() != kind::EPC_REQ {
            return;
        }
        let Ok(Message::EpcReq { id }) = Message::parse(kind::EPC_REQ, packet.body()) else {
            return;
        };
        let message = Message::Epc { id };
        let header = Header {
            hop_count: 0,
            flags: 0,
            sender: Party::Full(self.identity.address().as_bytes()),
            recipient: Party::Id(self.relay.id()),
            sender_peer: PeerId::ANY,
            recipient_peer: PeerId::ANY,
            kind: message.kind(),
        };
        let mut bytes = Vec::new();
        let key = self.identity.agree(&self.relay);
        message.emit_packet(&header, Some(&key), &mut bytes);
        self.socket.send(&bytes).expect("it is sent");
    }
}
