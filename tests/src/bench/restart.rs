//! From the end of a node, as by a crash, to traffic again.

use super::{Plan, report::median};
use crate::lab::{Family, Host, Lab, Lan, Node};
use crate::{programs, traffic};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

const PORT: u16 = 5_998;
/// Between two probes: what the times are exact to.
const SPACING: Duration = Duration::from_millis(2);
const PATIENCE: Duration = Duration::from_secs(30);

/// Times in milliseconds, one list for each way to restart.
#[derive(Default, Debug)]
pub struct Recovery {
    rows: Vec<(&'static str, Vec<f64>, Vec<f64>)>,
}

/// Measures both: the node of the machine whose programs send is killed, or that of the machine that answers.
///
/// # Panics
/// If traffic does not come back within half a minute.
pub fn run(lab: &Lab, plan: &Plan) -> Recovery {
    let lan = Lan::new(lab, Family::V4);
    let (host_a, host_b) = (lan.host("a"), lan.host("b"));
    let mut a = Node::on(&host_a, lab.directory(), "a").start();
    let mut b = Node::on(&host_b, lab.directory(), "b").start();
    a.trust(&b, "b");
    b.trust(&a, "a");
    programs::first_ping(&host_a, b.ipv6().into(), Duration::from_secs(10));
    let echo_at = SocketAddr::new(b.ipv6().into(), PORT);
    let _echo = traffic::UdpEcho::start(&host_b, echo_at);

    let mut recovery = Recovery::default();
    for (name, sender_side) in [("the sender's node", true), ("the answerer's node", false)] {
        let (mut since_kill, mut since_ready) = (Vec::new(), Vec::new());
        for _ in 0..plan.runs {
            let own: IpAddr = a.ipv6().into();
            let probe = Probe::start(&host_a, SocketAddr::new(own, 0), echo_at);
            probe.await_reply(Instant::now());
            let node = if sender_side { &mut a } else { &mut b };
            let killed = Instant::now();
            node.kill();
            let gone = Instant::now();
            node.start();
            let ready = killed + (gone - killed) + node.ready_after();
            let again = probe.await_reply(gone);
            since_kill.push((again - killed).as_secs_f64() * 1e3);
            since_ready.push(again.saturating_duration_since(ready).as_secs_f64() * 1e3);
            // The next run starts from rest: confirmed session, nothing under way.
            std::thread::sleep(Duration::from_secs(2));
        }
        recovery.rows.push((name, since_kill, since_ready));
    }
    recovery
}

/// Sends a numbered datagram every [`SPACING`] and notes when answers come, until it is dropped.
struct Probe {
    replies: std::sync::mpsc::Receiver<(Instant, Instant)>,
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Probe {
    fn start(from: &Host, own: SocketAddr, to: SocketAddr) -> Self {
        let socket = traffic::udp(from, own);
        socket.set_nonblocking(true).expect("a socket");
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (note, replies) = std::sync::mpsc::channel();
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut sent = Vec::new();
            let mut buffer = [0; 16];
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                // While the interface is away, the kernel refuses.
                let _ = socket.send_to(&(sent.len() as u64).to_be_bytes(), to);
                sent.push(Instant::now());
                std::thread::sleep(SPACING);
                while let Ok((8, _)) = socket.recv_from(&mut buffer) {
                    let number = buffer
                        .first_chunk()
                        .map_or(u64::MAX, |n| u64::from_be_bytes(*n));
                    if let Some(at) = sent.get(number as usize) {
                        let _ = note.send((*at, Instant::now()));
                    }
                }
            }
        });
        Self {
            replies,
            stop,
            thread: Some(thread),
        }
    }

    /// When the first datagram was answered that was sent after `since`.
    fn await_reply(&self, since: Instant) -> Instant {
        loop {
            match self.replies.recv_timeout(PATIENCE) {
                Ok((sent, answered)) if sent > since => return answered,
                Ok(_) => {}
                Err(_) => panic!("no answer within {PATIENCE:?}"),
            }
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:24} {:>5} {:>28} {:>28}",
            "killed and started", "runs", "kill to reply, ms (worst)", "ready to reply, ms (worst)"
        )?;
        for (name, since_kill, since_ready) in &self.rows {
            let show = |values: &[f64]| {
                let worst = values.iter().copied().fold(0.0, f64::max);
                format!("{:.0} ({worst:.0})", median(values).unwrap_or(f64::NAN))
            };
            writeln!(
                f,
                "{name:24} {:>5} {:>28} {:>28}",
                since_kill.len(),
                show(since_kill),
                show(since_ready)
            )?;
        }
        Ok(())
    }
}
