//! The threads of a TURN server allocate nothing for what they relay: a server in this process, clients and peers on
//! loopback that allocate nothing themselves.
//!
//! Without the harness of tests, whose own thread allocates now and then: the allocator counts for the whole process.
#![allow(clippy::unwrap_used)]

mod loopback;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anode_routing::turn::server::{Bound, Settings};
use anode_turn::Transport;
use anode_turn::client::{Client, Config as ClientConfig, Credentials, Event};
use anode_turn::frame::{Channel, HEADROOM, Header, TAILROOM};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// Rounds of a batch, in which nothing may be allocated.
const ROUNDS: usize = 200;
/// Batches until that is so: buffers reach their size when the scheduler first lets so much meet.
const BATCHES: usize = 10;
/// Datagrams on their way at once: they leave in one call where they are equal, and in one for many where not.
const BURST: usize = 16;
const WAIT: Duration = Duration::from_secs(20);

fn udp() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(WAIT)).unwrap();
    socket
}

/// How a client reaches the server.
enum Wire {
    Udp(UdpSocket),
    Tcp(TcpStream),
}

impl Wire {
    fn to(server: SocketAddr, transport: Transport) -> Self {
        if transport == Transport::Tcp {
            let stream = TcpStream::connect(server).unwrap();
            stream.set_read_timeout(Some(WAIT)).unwrap();
            stream.set_nodelay(true).unwrap();
            return Self::Tcp(stream);
        }
        let socket = udp();
        socket.connect(server).unwrap();
        Self::Udp(socket)
    }

    fn send(&mut self, bytes: &[u8]) {
        match self {
            Self::Udp(socket) => assert_eq!(socket.send(bytes).unwrap(), bytes.len()),
            Self::Tcp(stream) => stream.write_all(bytes).unwrap(),
        }
    }

    /// One message.
    fn receive<'a>(&mut self, buffer: &'a mut [u8]) -> &'a [u8] {
        let length = match self {
            Self::Udp(socket) => socket.recv(buffer).unwrap(),
            Self::Tcp(stream) => {
                stream.read_exact(&mut buffer[..4]).unwrap();
                let said = usize::from(u16::from_be_bytes([buffer[2], buffer[3]]));
                let length = match buffer[0] >> 6 {
                    1 => 4 + said.next_multiple_of(4),
                    _ => 20 + said,
                };
                stream.read_exact(&mut buffer[4..length]).unwrap();
                length
            }
        };
        &buffer[..length]
    }
}

/// An allocation with a channel to `peer`; where it relays from.
fn allocate(server: SocketAddr, transport: Transport, peer: SocketAddr) -> (Wire, SocketAddr) {
    let config = ClientConfig {
        credentials: Some(Credentials {
            name: "alice".into(),
            password: "secret".to_owned().into(),
        }),
        transport,
        ..ClientConfig::default()
    };
    let mut wire = Wire::to(server, transport);
    let mut client = Client::new(Instant::now(), config, server, [transport as u8; 32]);
    client.start(Instant::now()).unwrap();
    let mut buffer = vec![0; 2_048];
    loop {
        while let Some(bytes) = client.poll_transmit() {
            wire.send(&bytes);
        }
        let message = wire.receive(&mut buffer);
        client.handle(Instant::now(), message);
        while let Some(event) = client.poll_event() {
            match event {
                Event::Allocated { .. } => assert!(client.bind(Instant::now(), peer)),
                Event::Bound(_) => return (wire, client.relayed()[0]),
                Event::Permitted(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

fn around(header: Header, size: usize) -> Vec<u8> {
    let mut buffer = vec![7; HEADROOM + size + TAILROOM];
    let whole = header.wrap(&mut buffer, HEADROOM..HEADROOM + size).unwrap();
    buffer[whole].to_vec()
}

/// A client, the peer of its channel, and one that only its address is let in of.
struct Ways {
    wire: Wire,
    relay: SocketAddr,
    bound: UdpSocket,
    permitted: UdpSocket,
    buffer: Vec<u8>,
}

impl Ways {
    fn open(server: SocketAddr, transport: Transport) -> Self {
        let (bound, permitted) = (udp(), udp());
        let (wire, relay) = allocate(server, transport, bound.local_addr().unwrap());
        Self {
            wire,
            relay,
            bound,
            permitted,
            buffer: vec![0; 2_048],
        }
    }

    /// A burst out and a burst back, by the channel and by indications.
    fn round(&mut self, on_channel: &[u8], sent: &[u8], payload: &[u8]) {
        for (message, peer) in [(on_channel, &self.bound), (sent, &self.permitted)] {
            for _ in 0..BURST {
                self.wire.send(message);
            }
            for _ in 0..BURST {
                let (length, from) = peer.recv_from(&mut self.buffer).unwrap();
                assert_eq!((&self.buffer[..length], from), (payload, self.relay));
            }
            for _ in 0..BURST {
                peer.send_to(payload, self.relay).unwrap();
            }
            for _ in 0..BURST {
                let message = self.wire.receive(&mut self.buffer);
                assert!(message.len() > payload.len());
            }
        }
    }
}

// T7, T13: ChannelData, Send and Data indications, over UDP and over TCP
fn main() {
    let _counting = dhat::Profiler::builder().testing().build();
    let blocks = || dhat::HeapStats::get().total_blocks;
    let (first, some) = (blocks(), vec![1_u8; 5]);
    assert_eq!(blocks() - first, 1, "it counts: {some:?}");

    let server = Bound::bind(loopback::settings(2)).unwrap().start().unwrap();
    let at = server.listening().plain[0];
    for transport in [Transport::Udp, Transport::Tcp] {
        let mut ways = Ways::open(at, transport);
        // A multiple of four and none.
        for size in [1_200, 161] {
            let payload = vec![7; size];
            let channel = Header::channel(Channel::new(0x4000).unwrap(), size, transport);
            let to = ways.permitted.local_addr().unwrap();
            let sent = Header::send([9; 12], to, size, false);
            let (channel, sent) = (around(channel.unwrap(), size), around(sent.unwrap(), size));
            let mut allocated = Vec::new();
            while allocated.last() != Some(&0) && allocated.len() < BATCHES {
                let before = blocks();
                for _ in 0..ROUNDS {
                    ways.round(&channel, &sent, &payload);
                }
                let now = blocks();
                allocated.push(now - before);
            }
            let datagrams = 4 * BURST * ROUNDS;
            println!(
                "{transport:?}, {size} bytes: {allocated:?} blocks for {datagrams} datagrams each"
            );
            assert_eq!(
                allocated.last(),
                Some(&0),
                "something is allocated for packets"
            );
        }
    }
    let counted = server.snapshot().turn;
    assert!(counted.to_peer_packets >= (8 * BURST * ROUNDS) as u64);
}
