//! Many open TCP connections over which nothing happens.

use crate::lab::Host;
use crate::traffic;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const PORT: u16 = 5_996;

/// Both ends of each; closed when dropped.
pub struct Idle {
    ends: Vec<TcpStream>,
    opened_in: Duration,
}

impl Idle {
    /// Opens `count` connections from the first machine to the second.
    ///
    /// # Panics
    /// If one cannot be opened.
    pub fn open(hosts: [&Host; 2], to_ip: IpAddr, count: usize) -> Self {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("Linux knows");
        let wanted = hard.max(count as u64 * 2 + 1_000);
        setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted).expect("root may raise its limit");
        hosts[0].sysctl("net/ipv4/ip_local_port_range", "1024 65000");
        let address = SocketAddr::new(to_ip, PORT);
        let listener = traffic::listen(hosts[1], address);
        let start = Instant::now();
        let ends = hosts[0].run(|| {
            let mut ends = Vec::with_capacity(count * 2);
            for number in 0..count {
                let near = TcpStream::connect_timeout(&address, traffic::PATIENCE)
                    .unwrap_or_else(|e| panic!("idle flow {number}: {e}"));
                ends.push(near);
                ends.push(traffic::accept(&listener));
            }
            ends
        });
        Self {
            ends,
            opened_in: start.elapsed(),
        }
    }

    /// Connections a second while they were opened, one after the other.
    pub fn opened_per_second(&self) -> f64 {
        (self.ends.len() / 2) as f64 / self.opened_in.as_secs_f64()
    }
}
