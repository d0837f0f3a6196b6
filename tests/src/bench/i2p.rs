//! I2P: goodput of one and of ten streams between two nodes through routers of i2pd, beside i2pd's own tunnels on the same
//! routers; how soon a session is ready and a first byte is there; memory of a stream.
//!
//! ```text
//!   node a ── I2CP ── i2pd 1 ══ no hops ══ i2pd 2 ── I2CP ── node b        anode
//!   load ─── client tunnel ─┘                 └─ server tunnel ─── sink    i2pd
//! ```

use super::{Plan, report::median};
use crate::i2p::i2pd::{self, I2pNet, I2pd};
use crate::lab::{Host, Lab, Node};
use crate::traffic;
use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(90);
/// Until windows have grown.
const RAMP: Duration = Duration::from_secs(3);
/// Streams whose memory is measured.
const HELD: usize = 500;
const ZERO_HOPS: &str =
    "inbound.length = 0\noutbound.length = 0\ninbound.quantity = 2\noutbound.quantity = 2\n";
const DESTINATION: &str = "[i2p]\n[[i2p.destination]]\noptions = { \"inbound.length\" = \"0\", \
     \"outbound.length\" = \"0\", \"inbound.quantity\" = \"2\", \"outbound.quantity\" = \"2\" }";
const SINK: u16 = 7002;
const ECHO: u16 = 7003;
const TUNNEL: u16 = 7100;

/// What was measured.
#[derive(Default)]
pub struct Report {
    /// From the start of a node to a destination that is ready.
    ready: Vec<f64>,
    /// From connect to the first byte of an answer: over a new session, over one that knows the way.
    first: Vec<f64>,
    again: Vec<f64>,
    /// Megabytes a second: streams, ours, i2pd's.
    goodput: Vec<(usize, Vec<f64>, Vec<f64>)>,
    /// KiB of a stream that is open and idle, at its opener and at its taker.
    held: (f64, f64),
}

/// Measures all.
///
/// # Panics
/// If a router or a node fails.
pub fn run(lab: &Lab, plan: &Plan) -> Report {
    let server = format!(
        "[sink]\ntype = server\nhost = 127.0.0.1\nport = {SINK}\nkeys = sink.dat\nsignaturetype = 7\n{ZERO_HOPS}"
    );
    let name = i2pd::make_keys(&i2pd::directory(lab, 2).join("sink.dat"))
        .hash()
        .b32();
    let client = format!(
        "[to-sink]\ntype = client\naddress = 127.0.0.1\nport = {TUNNEL}\ndestination = {name}\nkeys = to-sink.dat\nsignaturetype = 7\n{ZERO_HOPS}"
    );
    let net = I2pNet::start(lab, &[&client, &server]);
    let (near, far) = (&net.routers[0], &net.routers[1]);
    let mut report = Report::default();
    let b = node(lab, far, "b");
    let (name_b, ip) = ready(&b);
    let received = Arc::new(AtomicU64::new(0));
    sink(&far.host, at(ip, SINK), &received);
    sink(&far.host, loopback(SINK), &received);
    echo(&far.host, at(ip, ECHO));
    let mut a = None;
    for run in 0..plan.runs {
        drop(a.take());
        let start = Instant::now();
        let fresh = node(lab, near, &format!("a{run}"));
        ready(&fresh);
        report.ready.push(start.elapsed().as_secs_f64());
        learn(&fresh, &name_b);
        report.first.push(first_byte(&near.host, at(ip, ECHO)));
        report.again.push(first_byte(&near.host, at(ip, ECHO)));
        a = Some(fresh);
    }
    let mut a = a.expect("one run at least");
    first_tunnel(&near.host);
    for streams in [1, 10] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..plan.runs {
            ours.push(goodput(
                &near.host,
                at(ip, SINK),
                streams,
                plan.length,
                &received,
            ));
            theirs.push(goodput(
                &near.host,
                loopback(TUNNEL),
                streams,
                plan.length,
                &received,
            ));
        }
        report.goodput.push((streams, ours, theirs));
    }
    report.held = held(&mut a, b, &near.host, at(ip, ECHO));
    report
}

fn node(lab: &Lab, router: &I2pd, name: &str) -> Node {
    Node::on(&router.host, lab.directory(), name)
        .no_lan()
        .config(DESTINATION)
        .config("[inbound]\nallow = [\"any-i2p tcp/1-65535\"]")
        .start()
}

fn at(ip: Ipv6Addr, port: u16) -> SocketAddr {
    SocketAddr::new(ip.into(), port)
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::from([127, 0, 0, 1]), port)
}

/// Name and address of a node's destination, once it is ready.
fn ready(node: &Node) -> (String, Ipv6Addr) {
    let mut found = serde_json::Value::Null;
    node.wait("the destination is ready", LIMIT, || {
        found = node.json(&["i2p", "status"])["destinations"][0].clone();
        found["state"] == "ready"
    });
    let text = |key: &str| found[key].as_str().expect("a text").to_owned();
    (text("b32"), text("ipv6").parse().expect("an address"))
}

/// Lets a node know of a destination, and waits until its router finds it.
fn learn(node: &Node, name: &str) {
    node.wait("the lease set is found", LIMIT, || {
        node.cli(&["i2p", "lookup", name]).ok()
    });
    node.cli(&["resolve", name]).expect_ok();
}

/// Seconds from connect to the first byte of an echo.
fn first_byte(host: &Host, to: SocketAddr) -> f64 {
    let start = Instant::now();
    let mut stream = traffic::connect(host, to, LIMIT).expect("a connection");
    stream.write_all(b"x").expect("it is taken");
    stream.read_exact(&mut [0]).expect("it comes back");
    start.elapsed().as_secs_f64()
}

/// i2pd's client tunnel asks for the lease set when it is first used, and refuses until it has it.
fn first_tunnel(host: &Host) {
    let start = Instant::now();
    while start.elapsed() < LIMIT {
        let mut stream = traffic::connect(host, loopback(TUNNEL), LIMIT).expect("a tunnel");
        let pause = Some(Duration::from_secs(3));
        stream.set_read_timeout(pause).expect("a timeout");
        // open and silent: it leads to the sink
        let led = stream.write_all(b"x").is_ok()
            && matches!(stream.read(&mut [0]), Err(e) if e.kind() == std::io::ErrorKind::WouldBlock);
        if led {
            return;
        }
    }
    panic!("the tunnel of i2pd leads nowhere");
}

fn serve(host: &Host, at: SocketAddr, each: impl Fn(TcpStream) + Clone + Send + 'static) {
    let listener = traffic::listen(host, at);
    // ends with the process
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let each = each.clone();
            thread::spawn(move || each(stream));
        }
    });
}

fn sink(host: &Host, at: SocketAddr, received: &Arc<AtomicU64>) {
    let received = Arc::clone(received);
    serve(host, at, move |mut stream| {
        let mut buffer = vec![0; 256 * 1024];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            received.fetch_add(count as u64, Ordering::Relaxed);
        }
    });
}

fn echo(host: &Host, at: SocketAddr) {
    serve(host, at, |mut stream| {
        let mut byte = [0];
        while let Ok(1) = stream.read(&mut byte) {
            if stream.write_all(&byte).is_err() {
                return;
            }
        }
    });
}

/// Megabytes a second that the sink gets of so many streams.
fn goodput(
    host: &Host,
    to: SocketAddr,
    streams: usize,
    length: Duration,
    received: &AtomicU64,
) -> f64 {
    let end = Arc::new(AtomicBool::new(false));
    let noise = Arc::new(traffic::Noise::new(5).bytes(256 * 1024));
    let threads: Vec<_> = (0..streams)
        .map(|_| {
            let mut stream = traffic::connect(host, to, LIMIT).expect("a connection");
            let (end, noise) = (Arc::clone(&end), Arc::clone(&noise));
            thread::spawn(move || {
                while !end.load(Ordering::Relaxed) && stream.write_all(&noise).is_ok() {}
                // what still waits is thrown away: the next measure begins on an empty line
                let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            })
        })
        .collect();
    thread::sleep(RAMP);
    let (before, start) = (received.load(Ordering::Relaxed), Instant::now());
    thread::sleep(length);
    let count = received.load(Ordering::Relaxed) - before;
    let seconds = start.elapsed().as_secs_f64();
    end.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().expect("no panic");
    }
    thread::sleep(RAMP);
    count as f64 / 1e6 / seconds
}

/// KiB that an open and idle stream costs a node, both sides; one byte has gone each way.
fn held(a: &mut Node, mut b: Node, host: &Host, to: SocketAddr) -> (f64, f64) {
    let before = (a.memory_kib(), b.memory_kib());
    let streams: Vec<_> = (0..HELD)
        .map(|_| {
            let mut stream = traffic::connect(host, to, LIMIT).expect("a connection");
            stream.write_all(b"x").expect("it is taken");
            stream.read_exact(&mut [0]).expect("it comes back");
            stream
        })
        .collect();
    let each = |before: u64, now: u64| now.saturating_sub(before) as f64 / HELD as f64;
    let cost = (
        each(before.0, a.memory_kib()),
        each(before.1, b.memory_kib()),
    );
    drop(streams);
    cost
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let middle = |values: &[f64]| median(values).unwrap_or_default();
        let range = |values: &[f64]| {
            let least = values.iter().copied().fold(f64::INFINITY, f64::min);
            let most = values.iter().copied().fold(0.0, f64::max);
            format!("{:.3} ({least:.3} to {most:.3})", middle(values))
        };
        writeln!(
            f,
            "session ready after the node's start   {} s",
            range(&self.ready)
        )?;
        writeln!(
            f,
            "connect to first byte, new session     {} s",
            range(&self.first)
        )?;
        writeln!(
            f,
            "connect to first byte, afterwards      {} s",
            range(&self.again)
        )?;
        for (streams, ours, theirs) in &self.goodput {
            let ratio = middle(ours) / middle(theirs);
            writeln!(
                f,
                "{streams:>2} streams, MB/s    anode {}    i2pd {}    ratio {ratio:.2}",
                range(ours),
                range(theirs)
            )?;
        }
        let (opener, taker) = self.held;
        write!(
            f,
            "memory of an idle stream: {opener:.1} KiB at its opener, {taker:.1} KiB at its taker ({HELD} streams)"
        )
    }
}
