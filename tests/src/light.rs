//! A peer that knows the draft alone: one socket, one key, no session. Hundreds of them are no burden.

use crate::lab::Ns;
use anode_wire::message::kind;
use anode_wire::{Address, Header, Identity, MacKey, Message, Packet, Party, PeerId, Zone};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::UdpGroSegment;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

/// See the module.
pub struct Light {
    identity: Identity,
    socket: UdpSocket,
}

impl Light {
    /// Number `number`, bound to `own`, that talks to nobody but `relay`.
    ///
    /// # Panics
    /// If it cannot be bound.
    pub fn new(ns: &Ns, number: u16, own: SocketAddr, relay: SocketAddr) -> Self {
        let mut scalar = [9; 32];
        scalar[30..].copy_from_slice(&number.to_be_bytes());
        let socket = ns.run(|| UdpSocket::bind(own).expect("a socket"));
        socket
            .connect(relay)
            .expect("a UDP socket connects at once");
        Self {
            identity: Identity::from_scalar(Zone(0), &scalar).expect("a key"),
            socket,
        }
    }

    /// Whether it reads or not, the kernel hands it groups of packets (GRO), as it does to every node.
    ///
    /// # Panics
    /// If the kernel knows no such groups.
    pub fn take_groups(&self) {
        setsockopt(&self.socket, UdpGroSegment, &true).expect("GRO");
    }

    /// Its address.
    pub fn address(&self) -> &Address {
        self.identity.address()
    }

    /// Its key.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Its socket, connected to the relay.
    pub fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// A message as it would send it.
    pub fn packet(&self, to: &Address, key: &MacKey, message: &Message<'_>) -> Vec<u8> {
        let header = Header {
            hop_count: 0,
            flags: 0,
            sender: Party::Full(self.address().as_bytes()),
            recipient: Party::Id(to.id()),
            sender_peer: PeerId::ANY,
            recipient_peer: PeerId::ANY,
            kind: message.kind(),
        };
        let mut bytes = Vec::new();
        message.emit_packet(&header, Some(key), &mut bytes);
        bytes
    }

    /// Sends a message towards the relay.
    ///
    /// # Panics
    /// If the kernel refuses.
    pub fn send(&self, to: &Address, key: &MacKey, message: &Message<'_>) {
        let bytes = self.packet(to, key, message);
        self.socket.send(&bytes).expect("it is sent");
    }

    /// Registers: a PING whose answer says that the place is proven. The relay must hear the draft.
    ///
    /// # Panics
    /// If there is no answer to ten PINGs.
    pub fn register(&self, relay: &Address) {
        let key = self.identity.agree(relay);
        let registered = |_: &u32| {
            self.send(relay, &key, &Message::Ping(b"register"));
            let limit = Duration::from_millis(300);
            self.await_kind(kind::PONG, relay, limit).is_some()
        };
        assert!((0..10).any(|tried| registered(&tried)), "the relay answers");
    }

    /// The next packet of a kind; questions of the relay are answered on the way.
    ///
    /// # Panics
    /// If the relay asks something that is none of the draft's questions.
    pub fn await_kind(&self, wanted: u8, relay: &Address, limit: Duration) -> Option<Vec<u8>> {
        let key = self.identity.agree(relay);
        self.socket
            .set_read_timeout(Some(limit))
            .expect("a timeout");
        let mut buffer = [0; 2048];
        loop {
            let length = self.socket.recv(&mut buffer).ok()?;
            let packet = Packet::new_checked(&buffer[..length]).ok()?;
            if packet.kind() == kind::EPC_REQ {
                match Message::parse(kind::EPC_REQ, packet.body()) {
                    Ok(Message::EpcReq { id }) => self.send(relay, &key, &Message::Epc { id }),
                    other => panic!("not EPC_REQ: {other:?}"),
                }
            }
            if packet.kind() == wanted {
                return Some(buffer[..length].to_vec());
            }
        }
    }
}
