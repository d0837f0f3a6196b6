//! Load from plain sockets: the same code over the link and over the overlay.

use crate::lab::Host;
use crate::traffic;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const PORT: u16 = 5_999;
/// Slow start, rings and caches are over after this.
const WARM_UP: Duration = Duration::from_millis(300);

/// TCP connections that send as fast as they can.
pub struct Streams<'a> {
    pub from: &'a Host,
    pub to: &'a Host,
    pub to_ip: IpAddr,
    pub count: usize,
    /// Of the senders' kernel.
    pub congestion: &'static str,
    /// Not counted.
    pub warm_up: Duration,
}

impl<'a> Streams<'a> {
    /// CUBIC, and the usual time to get warm.
    pub fn new(from: &'a Host, to: &'a Host, to_ip: IpAddr, count: usize) -> Self {
        Self {
            from,
            to,
            to_ip,
            count,
            congestion: "cubic",
            warm_up: WARM_UP,
        }
    }

    /// Bits per second that arrived once warm, and all bytes that arrived.
    pub fn run(&self, length: Duration) -> (f64, u64) {
        let address = SocketAddr::new(self.to_ip, PORT);
        let listener = traffic::listen(self.to, address);
        let (arrived, stop) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let mut threads = Vec::new();
        for _ in 0..self.count {
            let near = traffic::connect(self.from, address, Duration::from_secs(10))
                .unwrap_or_else(|e| panic!("connect to {address}: {e}"));
            let far = traffic::accept(&listener);
            // The machine's default may be another for one of the two ways.
            let _ = nix::sys::socket::setsockopt(
                &near,
                nix::sys::socket::sockopt::TcpCongestion,
                &self.congestion.into(),
            );
            threads.push(thread::spawn({
                let stop = stop.clone();
                move || send(near, &stop)
            }));
            threads.push(thread::spawn({
                let arrived = arrived.clone();
                move || receive(far, &arrived)
            }));
        }
        thread::sleep(self.warm_up);
        let (start, before) = (Instant::now(), arrived.load(Ordering::Relaxed));
        thread::sleep(length);
        let (bytes, seconds) = (
            arrived.load(Ordering::Relaxed) - before,
            start.elapsed().as_secs_f64(),
        );
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().expect("load threads do not panic");
        }
        (
            bytes as f64 * 8.0 / seconds,
            arrived.load(Ordering::Relaxed),
        )
    }
}

/// One TCP connection that sends at a steady rate, for as long as it is not dropped.
pub struct PacedStream {
    arrived: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl PacedStream {
    /// Starts it at `rate` bytes per second. What the path held up is sent later, as fast as the path takes it.
    pub fn start(from: &Host, to: &Host, to_ip: IpAddr, rate: f64) -> Self {
        let (near, far) = traffic::pair(from, to, SocketAddr::new(to_ip, PORT));
        let (arrived, stop) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let threads = vec![
            thread::spawn({
                let stop = stop.clone();
                move || send_paced(near, rate, &stop)
            }),
            thread::spawn({
                let arrived = arrived.clone();
                move || receive(far, &arrived)
            }),
        ];
        Self {
            arrived,
            stop,
            threads,
        }
    }

    /// Bytes that have arrived so far.
    pub fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }
}

impl Drop for PacedStream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn send_paced(mut stream: TcpStream, rate: f64, stop: &AtomicBool) {
    let block = vec![0x5a; 64 * 1024];
    let (start, mut sent) = (Instant::now(), 0u64);
    while !stop.load(Ordering::Relaxed) {
        let due = (start.elapsed().as_secs_f64() * rate) as u64;
        let size = (due.saturating_sub(sent)).min(block.len() as u64) as usize;
        if size < block.len() / 4 {
            thread::sleep(Duration::from_micros(200));
            continue;
        }
        stream
            .write_all(&block[..size])
            .unwrap_or_else(|e| panic!("the stream broke: {e}"));
        sent += size as u64;
    }
}

fn send(mut stream: TcpStream, stop: &AtomicBool) {
    let block = vec![0x5a; 128 * 1024];
    while !stop.load(Ordering::Relaxed) {
        stream
            .write_all(&block)
            .unwrap_or_else(|e| panic!("the stream broke: {e}"));
    }
}

fn receive(mut stream: TcpStream, arrived: &AtomicU64) {
    let mut block = vec![0; 128 * 1024];
    loop {
        match stream.read(&mut block) {
            Ok(0) => return,
            Ok(count) => arrived.fetch_add(count as u64, Ordering::Relaxed),
            Err(e) => panic!("the stream broke: {e}"),
        };
    }
}

/// Datagrams at a rate.
pub struct Datagrams<'a> {
    pub from: &'a Host,
    pub to: &'a Host,
    pub from_ip: IpAddr,
    pub to_ip: IpAddr,
    pub size: usize,
}

/// "Without loss" allows what a busy machine loses now and then.
const LOSS_ALLOWED: f64 = 0.001;

impl Datagrams<'_> {
    /// The highest rate found at which (nearly) all arrive, in packets per second: doubled from 10,000 until packets are lost
    /// or the sender cannot, then halved between what went well and what did not. A rate that loses gets a second chance:
    /// what else runs on the machine costs packets, too.
    pub fn lossless_rate(&self, length: Duration) -> f64 {
        let trial = length / 4;
        let carried = |rate| {
            [(); 2].into_iter().find_map(|()| {
                let (arrived, loss) = self.trial(rate, trial);
                (loss <= LOSS_ALLOWED).then_some(arrived)
            })
        };
        let (mut good, mut bad) = (0.0, 10_000.0);
        let mut best: f64 = 0.0;
        while let Some(arrived) = carried(bad) {
            best = best.max(arrived);
            good = bad;
            bad *= 2.0;
            if arrived < good * 0.9 {
                // The sender is the limit.
                return best;
            }
        }
        for _ in 0..4 {
            let middle = (good + bad) / 2.0;
            match carried(middle) {
                Some(arrived) => {
                    best = best.max(arrived);
                    good = middle;
                }
                None => bad = middle,
            }
        }
        best
    }

    /// Arrived packets per second and the share that did not.
    fn trial(&self, rate: f64, length: Duration) -> (f64, f64) {
        let receiver = traffic::udp(self.to, SocketAddr::new(self.to_ip, PORT));
        // Beyond the machine's limit, which is for users: what is measured is the way, not this queue.
        let _ = nix::sys::socket::setsockopt(
            &receiver,
            nix::sys::socket::sockopt::RcvBufForce,
            &(8 << 20),
        );
        let sender = traffic::udp(self.from, SocketAddr::new(self.from_ip, 0));
        sender
            .connect(SocketAddr::new(self.to_ip, PORT))
            .unwrap_or_else(|e| panic!("{}: {e}", self.to_ip));
        let counter = thread::spawn(move || count(&receiver));
        let (sent, seconds) = offer(&sender, &vec![0x5a; self.size], rate, length);
        let arrived = counter.join().expect("load threads do not panic");
        (arrived as f64 / seconds, 1.0 - arrived as f64 / sent as f64)
    }
}

/// Counts until nothing came for a while. It looks every 200 µs instead of being woken for each packet: waking a sleeping
/// processor costs more than a packet's whole way, and would be all that is measured.
fn count(receiver: &UdpSocket) -> u64 {
    receiver.set_nonblocking(true).expect("a socket");
    let mut buffer = [0; 2_000];
    let (mut arrived, mut last) = (0, Instant::now());
    // The first may take as long as the path needs to wake up.
    let mut patience = Duration::from_secs(2);
    while last.elapsed() < patience {
        if receiver.recv(&mut buffer).is_ok() {
            arrived += 1;
            (last, patience) = (Instant::now(), Duration::from_millis(200));
        } else {
            thread::sleep(Duration::from_micros(200));
        }
    }
    arrived
}

/// Sends at `rate`, in bursts of at most 32; how many were taken and how long it took.
fn offer(sender: &UdpSocket, packet: &[u8], rate: f64, length: Duration) -> (u64, f64) {
    let start = Instant::now();
    let mut sent = 0;
    loop {
        let passed = start.elapsed();
        if passed >= length {
            return (sent, passed.as_secs_f64());
        }
        let due = (passed.as_secs_f64() * rate) as u64;
        for _ in 0..due.saturating_sub(sent).min(32) {
            // A full queue refuses (ENOBUFS): such a packet was not offered.
            sent += u64::from(sender.send(packet).is_ok());
        }
        if due <= sent {
            // Asleep and not spinning: the processors belong to those who carry the packets.
            thread::sleep(Duration::from_micros(100));
        }
    }
}
