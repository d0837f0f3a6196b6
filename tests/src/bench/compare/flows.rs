//! Many open TCP connections over which nothing happens.

use crate::lab::{Host, Proc, command};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

const PORT: u16 = 5_996;
const PATIENCE: Duration = Duration::from_secs(30);

/// Both ends of each; closed when dropped.
pub struct Idle {
    ends: Vec<TcpStream>,
    opened_in: Duration,
    /// The far ends are another process's: both together are more descriptors than a process may have.
    _holder: Proc,
}

impl Idle {
    /// Opens `count` connections from the first machine to the second.
    ///
    /// # Panics
    /// If one cannot be opened.
    pub fn open(hosts: [&Host; 2], to_ip: IpAddr, count: usize) -> Self {
        hosts[0].sysctl("net/ipv4/ip_local_port_range", "1024 65000");
        let address = SocketAddr::new(to_ip, PORT);
        let mut holder = command(std::env::current_exe().expect("Linux knows the program"));
        holder.args(["hold", &address.to_string()]);
        let mut holder = hosts[1].start(holder);
        if let Err(why) = holder.wait_stdout_line("holding", PATIENCE) {
            panic!("{why}");
        }
        let start = Instant::now();
        let ends = hosts[0].run(|| {
            let open = |number| {
                TcpStream::connect_timeout(&address, PATIENCE)
                    .unwrap_or_else(|e| panic!("idle flow {number}: {e}"))
            };
            (0..count).map(open).collect()
        });
        Self {
            ends,
            opened_in: start.elapsed(),
            _holder: holder,
        }
    }

    /// Connections a second while they were opened, one after the other.
    pub fn opened_per_second(&self) -> f64 {
        self.ends.len() as f64 / self.opened_in.as_secs_f64()
    }
}

/// Accepts connections and holds them until the process ends.
///
/// # Errors
/// If it cannot listen or accept.
pub fn hold(address: SocketAddr) -> std::io::Result<()> {
    let listener = TcpListener::bind(address)?;
    println!("holding");
    let mut held = Vec::new();
    loop {
        held.push(listener.accept()?.0);
    }
}
