//! A long line between two machines: delay, loss and a bottleneck, where the kernel offers none of them.
//!
//! ```text
//!   machine 1                        this process                       machine 2
//!   eth0 (TUN) ◀──▶ thread: recv → Line (loss, queue, delay) → send ◀──▶ eth0 (TUN)
//! ```
//!
//! Super-packets cross it whole, as they cross a card with segmentation offload and a receiver that joins what came
//! together; loss takes single segments out of them. What it can carry itself: `bench delaybox`.

mod line;
mod segments;

pub use line::{Bottleneck, Conditions, Counts};

use super::Host;
use super::link::Family;
use anode_platform::tun::{RECEIVE_BUFFER, Tun, TunConfig};
use line::Line;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// A packet of 1,500 bytes fits, as on Ethernet.
const MTU: u16 = 1_500;
/// Packets taken from an interface before those that are due are looked at.
const BATCH: usize = 32;
/// How soon it notices that it shall end or that conditions changed.
const IDLE: Duration = Duration::from_millis(50);

/// The box in the middle. The line is cut when it is dropped.
pub struct DelayBox {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    conditions: Mutex<Conditions>,
    stop: AtomicBool,
    counts: Mutex<[Counts; 2]>,
    /// Packets that an interface refused.
    refused: AtomicU64,
}

/// Two machines, numbers 1 and 2, at the ends of a line that yet does nothing to packets.
///
/// # Panics
/// If an interface cannot be made.
pub fn long_line(seed: u64) -> (Host, Host, DelayBox) {
    let (left, right) = (
        Host::bare("near", Family::V4, 1),
        Host::bare("far", Family::V4, 2),
    );
    let [near, far] = [&left, &right].map(|host| {
        let config = TunConfig {
            name: "eth0".into(),
            mtu: MTU,
            offload: true,
            addresses: Vec::new(),
            routes: Vec::new(),
        };
        let tun = host.run(|| Tun::create(&config));
        let tun = Arc::new(tun.unwrap_or_else(|e| panic!("{}: {e}", host.name())));
        host.address_add(host.v4().into(), 24);
        tun
    });
    let shared = Arc::new(Shared::default());
    let ways = [(near.clone(), far.clone()), (far, near)];
    let threads = ways
        .into_iter()
        .enumerate()
        .map(|(way, (from, to))| {
            let shared = shared.clone();
            let line = Line::new(seed.wrapping_mul(2) + way as u64 + 1);
            thread::spawn(move || carry(line, &from, &to, &shared, way))
        })
        .collect();
    (left, right, DelayBox { shared, threads })
}

impl DelayBox {
    /// What happens to packets from now on, in both directions.
    pub fn set(&self, conditions: Conditions) {
        *self
            .shared
            .conditions
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = conditions;
        // Both threads have seen it after this.
        thread::sleep(IDLE * 2);
    }

    /// What became of packets from machine 1 and from machine 2.
    pub fn counts(&self) -> [Counts; 2] {
        *self
            .shared
            .counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Packets that an interface refused to take.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }
}

impl Drop for DelayBox {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn carry(mut line: Line, from: &Tun, to: &Tun, shared: &Shared, way: usize) {
    let mut buffer = vec![0; RECEIVE_BUFFER];
    let mut looked = Instant::now() - IDLE;
    while !shared.stop.load(Ordering::Relaxed) {
        if looked.elapsed() >= IDLE {
            looked = Instant::now();
            line.set(
                *shared
                    .conditions
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner),
            );
            shared.counts.lock().unwrap_or_else(PoisonError::into_inner)[way] = line.counts();
        }
        let mut drained = false;
        for _ in 0..BATCH {
            let Ok((header, length)) = from.recv(&mut buffer) else {
                drained = true;
                break;
            };
            line.take(Instant::now(), header, &buffer[..length]);
        }
        while let Some(held) = line.due(Instant::now()) {
            if to.send(held.header, &held.packet).is_err() {
                shared.refused.fetch_add(1, Ordering::Relaxed);
            }
            line.recycle(held);
        }
        if drained {
            let now = Instant::now();
            let wait = line
                .next_due()
                .map_or(IDLE, |due| due.saturating_duration_since(now).min(IDLE));
            let mut readable = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
            let _ = ppoll(&mut readable, Some(TimeSpec::from_duration(wait)), None);
        }
    }
}
