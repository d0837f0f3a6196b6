//! A TCP transfer that runs while things happen, and how long it pauses.

use crate::lab::Node;
use crate::traffic;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// What a transfer may pause (DESIGN §7).
pub const GAP: Duration = Duration::from_secs(1);

/// The longest pause of a transfer, which is printed, is a short one.
#[track_caller]
pub fn short(gap: Duration, what: &str) {
    println!("{what}: longest gap of the transfer {gap:?}");
    assert!(gap < GAP, "{what}: {gap:?}");
}

/// A TCP connection through the overlay on which bytes flow, about 8 MB a second, until it is stopped.
pub struct Flow {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<u64>,
    receiver: JoinHandle<(u64, Vec<(Instant, Duration)>)>,
}

impl Flow {
    /// Starts it.
    pub fn start(from: &Node, to: &Node) -> Self {
        let at = SocketAddr::new(to.ipv6().into(), 9_100);
        let (mut near, mut far) = traffic::pair(from.ns(), to.ns(), at);
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let sender = thread::spawn(move || {
            let mut noise = traffic::Noise::new(11);
            let mut sent = 0;
            while !told.load(Ordering::Relaxed) {
                let bytes = noise.bytes(16 << 10);
                near.write_all(&bytes).expect("no reset");
                sent += bytes.len() as u64;
                thread::sleep(Duration::from_millis(2));
            }
            sent
        });
        let receiver = thread::spawn(move || {
            let mut noise = traffic::Noise::new(11);
            let (mut got, mut gaps, mut last) = (0, Vec::new(), Instant::now());
            let (mut buffer, mut expected) = (vec![0; 16 << 10], Vec::new());
            loop {
                let read = far.read(&mut buffer).expect("no reset");
                if read == 0 {
                    return (got, gaps);
                }
                let gap = last.elapsed();
                if gap > Duration::from_millis(100) {
                    gaps.push((last, gap));
                }
                last = Instant::now();
                while expected.len() < read {
                    expected.extend(noise.bytes(16 << 10));
                }
                assert!(buffer[..read] == expected[..read], "every byte, in order");
                expected.drain(..read);
                got += read as u64;
            }
        });
        Self {
            stop,
            sender,
            receiver,
        }
    }

    /// Ends it: every byte must have come. The longest gap.
    #[must_use]
    pub fn finish(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.join().expect("no reset");
        let (got, gaps) = self.receiver.join().expect("no reset, nothing wrong");
        assert_eq!(got, sent, "every byte");
        gaps.into_iter()
            .map(|(_, gap)| gap)
            .max()
            .unwrap_or_default()
    }
}
