//! Two overlays in one process over real sockets on loopback.
use super::*;
use crate::anode::{Plain, Security};
use anode_wire::{PeerId, Zone};
use rand::SeedableRng as _;
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

    /// One round of what the data thread does; sleeps a little if nothing happened.
    fn turn(&mut self) {
        let now = Instant::now();
        let mut idle = true;
        for (overlay, sink, events) in [
            (&mut self.a, &mut self.sinks.0, &mut self.events.0),
            (&mut self.b, &mut self.sinks.1, &mut self.events.1),
        ] {
            let before = overlay.counters().rx_packets;
            overlay.receive(now, sink);
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
            .ping(Instant::now(), to, 7, b"over real sockets")
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
    const LEN: usize = 50 << 20;
    let byte = |at: usize| {
        (at as u64)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .to_be_bytes()[0]
    };
    let mut pair = Pair::with("127.0.0.1:0", security);
    let to = ip(&pair.b);
    let stream = pair.a.open(Instant::now(), 40_000, to, 80).unwrap();
    let (mut written, mut read, mut opened, begin) = (0, 0, false, Instant::now());
    pair.until("the transfer", |pair| {
        let now = Instant::now();
        for event in std::mem::take(&mut pair.events.0) {
            opened |= event == OverlayEvent::StreamOpened { stream };
        }
        while opened && written < LEN {
            let end = LEN.min(written + 65_536);
            let chunk: Vec<u8> = (written..end).map(byte).collect();
            let taken = pair.a.write(now, stream, &chunk);
            written += taken;
            if written == LEN {
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
    assert_eq!(read, LEN);
    let took = begin.elapsed();
    let counters = pair.a.counters();
    let sealed = security.plain != Plain::Only;
    assert_eq!(pair.a.peers()[0].sealed, sealed);
    assert_eq!(counters.tx_sealed > 0, sealed);
    println!(
        "sealed: {sealed}; 50 MiB over loopback, both ends on one thread: {took:?}, {:.2} Gb/s, {} packets of {} bytes on average",
        LEN as f64 * 8.0 / took.as_secs_f64() / 1e9,
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
