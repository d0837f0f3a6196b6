//! Two overlays in one process over real sockets on loopback.
use super::*;
use crate::anode::{Plain, Security, Transport};
use crate::overlay::{Overlay, OverlayEvent, OverlaySink, Ready};
use anode_wire::{PeerId, Zone};
use rand::rngs::StdRng;
use std::time::Duration;

#[derive(Default)]
struct Sink {
    datagrams: Vec<(Ipv6Addr, u16, u16, Vec<u8>)>,
}

impl OverlaySink for Sink {
    fn datagram(
        &mut self,
        from: Ipv6Addr,
        from_port: u16,
        _to: Ipv6Addr,
        to_port: u16,
        payload: &[u8],
    ) {
        self.datagrams
            .push((from, from_port, to_port, payload.to_vec()));
    }
    fn other(&mut self, _from: Ipv6Addr, _to: Ipv6Addr, _next_header: u8, _payload: &[u8]) {}
}

fn overlay(number: u8, listen: &str) -> AnodeOverlay {
    overlay_with(number, listen, Security::default())
}

fn overlay_with(number: u8, listen: &str, security: Security) -> AnodeOverlay {
    let mut scalar = [0; 32];
    scalar[31] = number;
    let identity = Identity::from_scalar(Zone(0), &scalar).unwrap();
    let config = NodeConfig {
        lan: false,
        security,
        ..NodeConfig::default()
    };
    AnodeOverlay::new(
        identity,
        config,
        &[listen.parse().unwrap()],
        Vec::new(),
        Instant::now(),
    )
    .unwrap()
}

fn ip(overlay: &AnodeOverlay) -> Ipv6Addr {
    overlay.address().ipv6(PeerId::ANY)
}

/// Two overlays, the first knowing the second, and what their programs have got.
struct Pair {
    a: AnodeOverlay,
    b: AnodeOverlay,
    sinks: (Sink, Sink),
    events: (Vec<OverlayEvent>, Vec<OverlayEvent>),
}

impl Pair {
    fn new(listen: &str) -> Self {
        Self::with(listen, Security::default())
    }

    fn with(listen: &str, security: Security) -> Self {
        let (mut a, b) = (
            overlay_with(1, listen, security),
            overlay_with(2, listen, security),
        );
        let address = *b.address();
        let at: Vec<Place> = b.listen().iter().filter_map(Place::from_endpoint).collect();
        a.add_peer(Instant::now(), address, &at, true);
        Self {
            a,
            b,
            sinks: Default::default(),
            events: Default::default(),
        }
    }

    /// The second one accepts connections, and the first one knows no other way.
    fn over(transport: Transport) -> Self {
        Self::through(transport, None, Security::default())
    }

    fn through(transport: Transport, proxy: Option<SocketAddr>, security: Security) -> Self {
        let now = Instant::now();
        let mut a = overlay_with(1, "127.0.0.1:0", security);
        let mut b = overlay_with(2, "127.0.0.1:0", security);
        let asks = StreamConfig {
            proxy,
            ..StreamConfig::default()
        };
        let takes = StreamConfig {
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            ..StreamConfig::default()
        };
        a.configure_streams(now, asks).unwrap();
        b.configure_streams(now, takes).unwrap();
        let address = *b.address();
        let place = Place::over(transport, listener(&b)).unwrap();
        a.add_peer(now, address, &[place], true);
        Self {
            a,
            b,
            sinks: Default::default(),
            events: Default::default(),
        }
    }

    /// Pings the second one until it answers; the time that took.
    fn ping(&mut self, token: u64) -> Duration {
        let begin = Instant::now();
        let to = ip(&self.b);
        self.a.ping(begin, None, to, token, b"ping").unwrap();
        self.until("the pong", |pair| {
            pair.events.0.iter().find_map(|event| match event {
                OverlayEvent::Pong { token: known, .. } if *known == token => Some(()),
                OverlayEvent::PingFailed { failure, .. } => panic!("{failure:?}"),
                _ => None,
            })
        });
        begin.elapsed()
    }

    /// One round of what the data thread does; sleeps a little if nothing happened.
    fn turn(&mut self) {
        let now = Instant::now();
        let mut idle = true;
        for (overlay, sink, events) in [
            (&mut self.a, &mut self.sinks.0, &mut self.events.0),
            (&mut self.b, &mut self.sinks.1, &mut self.events.1),
        ] {
            let before = overlay.counters().rx_packets;
            overlay.receive(now, Ready::ANY, sink);
            if overlay.deadline().is_some_and(|(at, _)| at <= now) {
                overlay.handle_timeout(now);
            }
            idle &= overlay.counters().rx_packets == before;
            events.extend(std::iter::from_fn(|| overlay.poll_event()));
            overlay.transmit(now);
        }
        if idle {
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    fn until<T>(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> Option<T>) -> T {
        let limit = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(result) = done(self) {
                return result;
            }
            assert!(
                Instant::now() < limit,
                "{what}: counters {:?} and {:?}",
                self.a.counters(),
                self.b.counters()
            );
            self.turn();
        }
    }
}

#[test]
fn ping_and_datagram_cross_loopback_over_both_families() {
    for listen in ["127.0.0.1:0", "[::1]:0"] {
        let mut pair = Pair::new(listen);
        let (from, to) = (ip(&pair.a), ip(&pair.b));
        pair.a
            .ping(Instant::now(), None, to, 7, b"over real sockets")
            .unwrap();
        let rtt = pair.until("the pong", |pair| {
            pair.events.0.iter().find_map(|event| match event {
                OverlayEvent::Pong {
                    token: 7,
                    rtt,
                    payload,
                    ..
                } => {
                    assert_eq!(payload, b"over real sockets");
                    Some(*rtt)
                }
                _ => None,
            })
        });
        println!("{listen}: ping over loopback {rtt:?}");
        pair.a
            .send_datagram(Instant::now(), from, 1111, to, 2222, &[9; 1100])
            .unwrap();
        let got = pair.until("the datagram", |pair| pair.sinks.1.datagrams.pop());
        assert_eq!(got, (from, 1111, 2222, vec![9; 1100]));
        assert_eq!(pair.a.peers()[0].paths.len(), 1);
    }
}

fn listener(overlay: &AnodeOverlay) -> SocketAddr {
    let mut endpoints = overlay.listen().into_iter();
    let tcp = endpoints.find_map(|endpoint| match endpoint {
        Endpoint::Tcp(address) => Some(address),
        _ => None,
    });
    tcp.expect("it listens")
}

const CONNECTED: [Transport; 4] = [
    Transport::Tcp,
    Transport::Tls,
    Transport::Http,
    Transport::Https,
];

// A33, A34, D15
#[test]
fn every_kind_of_connection_carries_pings_datagrams_and_streams_sealed() {
    for transport in CONNECTED {
        let mut pair = Pair::over(transport);
        let first = pair.ping(7);
        let next = pair.ping(8);
        println!(
            "{}: first ping {first:?}, next {next:?}",
            transport.as_str()
        );
        let (from, to) = (ip(&pair.a), ip(&pair.b));
        pair.a
            .send_datagram(Instant::now(), from, 1111, to, 2222, &[9; 1100])
            .unwrap();
        let got = pair.until("the datagram", |pair| pair.sinks.1.datagrams.pop());
        assert_eq!(got, (from, 1111, 2222, vec![9; 1100]));
        pair.b
            .send_datagram(Instant::now(), to, 2222, from, 1111, b"back")
            .unwrap();
        let got = pair.until("its answer", |pair| pair.sinks.0.datagrams.pop());
        assert_eq!(got, (to, 2222, 1111, b"back".to_vec()));
        for (overlay, own) in [(&pair.a, from), (&pair.b, to)] {
            let peer = &overlay.peers()[0];
            assert!(peer.sealed && peer.ipv6 != own);
            assert_eq!(peer.paths[0].transport, transport);
            assert!(overlay.counters().rx_bytes > 0);
        }
        transfer(&mut pair, 10 << 20);
        println!("{:?}", pair.b.stream_counters());
    }
}

// DESIGN §4: the most restricted networks
#[test]
fn a_proxy_that_only_connects_is_enough() {
    let proxy = Proxy::start(200);
    for transport in [Transport::Tls, Transport::Http, Transport::Https] {
        let mut pair = Pair::through(transport, Some(proxy.address), Security::default());
        pair.ping(1);
        let counted = proxy.tunnels.load(std::sync::atomic::Ordering::Relaxed);
        assert!(counted > 0, "{transport:?} went past the proxy");
        proxy.tunnels.store(0, std::sync::atomic::Ordering::Relaxed);
    }
    let refusing = Proxy::start(403);
    let mut pair = Pair::through(Transport::Tls, Some(refusing.address), Security::default());
    let to = ip(&pair.b);
    pair.a.ping(Instant::now(), None, to, 1, b"ping").unwrap();
    let failed = pair.until("the failure", |pair| {
        pair.events.0.iter().find_map(|event| match event {
            OverlayEvent::PingFailed { failure, .. } => Some(*failure),
            _ => None,
        })
    });
    assert_eq!(failed, Failure::Unreachable);
    assert!(
        pair.a.stream_counters().dial_failed > 1,
        "tried again, with a pause"
    );
    assert!(pair.a.stream_counters().dialled < 10);
}

/// A proxy that knows CONNECT alone, in threads of its own.
struct Proxy {
    address: SocketAddr,
    tunnels: std::sync::Arc<std::sync::atomic::AtomicUsize>,
}

impl Proxy {
    fn start(status: u16) -> Self {
        use std::io::{BufRead as _, BufReader, Write as _};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let tunnels = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counter = std::sync::Arc::clone(&tunnels);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let mut client = client.unwrap();
                let mut reader = BufReader::new(client.try_clone().unwrap());
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                let target = line.strip_prefix("CONNECT ").unwrap().split(' ').next();
                let target: SocketAddr = target.unwrap().parse().unwrap();
                while line.trim() != "" {
                    line.clear();
                    reader.read_line(&mut line).unwrap();
                }
                write!(client, "HTTP/1.1 {status} x\r\nVia: test\r\n\r\n").unwrap();
                if status != 200 {
                    continue;
                }
                counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let server = std::net::TcpStream::connect(target).unwrap();
                let pump = |mut from: std::net::TcpStream, mut to: std::net::TcpStream| {
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(std::net::Shutdown::Write);
                    })
                };
                pump(client.try_clone().unwrap(), server.try_clone().unwrap());
                pump(server, client);
            }
        });
        Self { address, tunnels }
    }
}

// DESIGN §7: TCP beside UDP after one second without an answer
#[test]
fn where_datagrams_vanish_a_connection_takes_over_and_hands_back() {
    let mut pair = Pair::over(Transport::Tcp);
    let address = *pair.b.address();
    // Nobody listens there, and no error says so: datagrams vanish.
    let hole = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let silent = Place::Udp(hole.local_addr().unwrap());
    pair.a.add_peer(Instant::now(), address, &[silent], true);
    let took = pair.ping(1);
    println!("UDP vanishes: first pong after {took:?}");
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(3));
    assert_eq!(pair.a.peers()[0].paths[0].transport, Transport::Tcp);
    // A place where UDP works: preferred as soon as it has answered.
    let Endpoint::Udp(good) = pair.b.listen()[0] else {
        panic!("not UDP")
    };
    pair.a
        .add_peer(Instant::now(), address, &[Place::Udp(good)], true);
    pair.a.set_interfaces(
        Instant::now(),
        vec![Interface {
            name: "new".into(),
            index: 9,
            addresses: Vec::new(),
            broadcast: false,
            uplink: None,
        }],
    );
    pair.until("UDP again", |pair| {
        let _ = pair.a.peers();
        (pair.a.peers()[0].paths[0].transport == Transport::Udp).then_some(())
    });
    pair.ping(2);
}

// A connection that breaks is dialled again, and the peer never noticed by datagrams alone
#[test]
fn a_restarted_listener_is_found_again() {
    let mut pair = Pair::over(Transport::Tcp);
    pair.ping(1);
    let at = listener(&pair.b);
    let takes = StreamConfig {
        listen: vec![at],
        ..StreamConfig::default()
    };
    // All its connections end with the old table.
    pair.b
        .configure_streams(Instant::now(), StreamConfig::default())
        .unwrap();
    pair.b.configure_streams(Instant::now(), takes).unwrap();
    // What was on its way is lost, as datagrams are; what is sent a moment later is not.
    let begin = Instant::now();
    let to = ip(&pair.b);
    pair.a.ping(begin, None, to, 2, b"lost").unwrap();
    let again = pair.until("the connection", |pair| {
        let proven = |overlay: &AnodeOverlay| overlay.peers()[0].paths.iter().any(|p| p.proven);
        let renewed = pair.a.counters().paths_lost > 0;
        (renewed && proven(&pair.a) && proven(&pair.b)).then(Instant::now)
    });
    let took = again - begin;
    println!("after all connections broke: a proven path in {took:?}");
    assert!(took < Duration::from_secs(3));
    pair.ping(3);
}

#[test]
fn fifty_megabytes_cross_loopback_sealed_and_plain() {
    let draft = Security {
        plain: Plain::Only,
        ..Security::default()
    };
    for security in [Security::default(), draft] {
        fifty_megabytes(security);
    }
}

fn fifty_megabytes(security: Security) {
    let mut pair = Pair::with("127.0.0.1:0", security);
    transfer(&mut pair, 50 << 20);
    let sealed = security.plain != Plain::Only;
    assert_eq!(pair.a.peers()[0].sealed, sealed);
    assert_eq!(pair.a.counters().tx_sealed > 0, sealed);
}

/// A stream of so many bytes from the first to the second one.
fn transfer(pair: &mut Pair, len: usize) {
    let byte = |at: usize| {
        (at as u64)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .to_be_bytes()[0]
    };
    let to = ip(&pair.b);
    let from = ip(&pair.a);
    let stream = pair.a.open(Instant::now(), from, 40_000, to, 80).unwrap();
    let (mut written, mut read, mut opened, begin) = (0, 0, false, Instant::now());
    pair.until("the transfer", |pair| {
        let now = Instant::now();
        for event in std::mem::take(&mut pair.events.0) {
            opened |= event == OverlayEvent::StreamOpened { stream };
        }
        while opened && written < len {
            let end = len.min(written + 65_536);
            let chunk: Vec<u8> = (written..end).map(byte).collect();
            let taken = pair.a.write(now, stream, &chunk);
            written += taken;
            if written == len {
                pair.a.finish(now, stream);
            }
            if taken < chunk.len() {
                break;
            }
        }
        let mut finished = false;
        for event in std::mem::take(&mut pair.events.1) {
            match event {
                OverlayEvent::StreamIncoming {
                    stream,
                    to_port: 80,
                    ..
                } => pair.b.accept(now, stream),
                OverlayEvent::StreamReadable { stream } => {
                    pair.b.read(now, stream, &mut |bytes| {
                        for got in bytes {
                            assert_eq!(*got, byte(read), "byte {read}");
                            read += 1;
                        }
                        bytes.len()
                    });
                }
                OverlayEvent::StreamFinished { .. } => finished = true,
                _ => {}
            }
        }
        finished.then_some(())
    });
    assert_eq!(read, len);
    let took = begin.elapsed();
    let counters = pair.a.counters();
    let peer = &pair.a.peers()[0];
    println!(
        "{}, sealed: {}; {} MiB over loopback, both ends on one thread: {took:?}, {:.2} Gb/s, {} packets of {} bytes on average",
        peer.paths[0].transport.as_str(),
        peer.sealed,
        len >> 20,
        len as f64 * 8.0 / took.as_secs_f64() / 1e9,
        counters.tx_packets,
        counters.tx_bytes / counters.tx_packets
    );
}

#[test]
fn a_busy_port_is_named() {
    let taken = overlay(1, "127.0.0.1:0");
    let Endpoint::Udp(address) = taken.listen()[0] else {
        panic!("not UDP")
    };
    let identity = Identity::generate(Zone(0), &mut StdRng::seed_from_u64(5));
    let refused = AnodeOverlay::new(
        identity,
        NodeConfig::default(),
        &[address],
        Vec::new(),
        Instant::now(),
    );
    let message = refused
        .err()
        .map(|error| error.to_string())
        .unwrap_or_default();
    assert!(
        message.contains(&address.to_string()) && message.contains("in use"),
        "{message}"
    );
}
