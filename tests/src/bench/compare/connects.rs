//! How many connections a second: connect, one byte each way, close; one after the other on each thread.

use crate::lab::Host;
use crate::traffic::{self, PATIENCE};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const PORT: u16 = 5_997;

/// Connections a second from `from`, by `threads` threads together.
///
/// # Panics
/// If a connection fails.
pub fn rate(from: &Host, to: &Host, to_ip: IpAddr, threads: usize, length: Duration) -> f64 {
    for host in [from, to] {
        // Ordinary closes leave a port in TIME_WAIT; the default range would be used up within seconds.
        host.sysctl("net/ipv4/ip_local_port_range", "1024 65000");
    }
    let address = SocketAddr::new(to_ip, PORT);
    let listener = Arc::new(traffic::listen(to, address));
    let stop = Arc::new(AtomicBool::new(false));
    let servers: Vec<_> = (0..threads)
        .map(|_| {
            let (listener, stop) = (listener.clone(), stop.clone());
            thread::spawn(move || serve(&listener, &stop))
        })
        .collect();
    let clients: Vec<_> = (0..threads)
        .map(|_| from.run(|| spawn_client(address, length)))
        .collect();
    let mut sum = 0.0;
    let mut broken = None;
    for client in clients {
        match client.join().expect("clients do not panic") {
            Ok(rate) => sum += rate,
            Err(error) => broken = Some(error),
        }
    }
    stop.store(true, Ordering::Relaxed);
    for _ in 0..threads {
        // Wakes one server each. Where the path is broken there is nothing to wake it with but the machine itself.
        let _ = to.run(|| TcpStream::connect_timeout(&address, Duration::from_secs(1)));
    }
    for server in servers {
        let _ = server.join();
    }
    match broken {
        None => sum,
        Some(error) => panic!("a connection to {address} failed: {error}"),
    }
}

/// Threads inherit the namespace of the thread that starts them.
fn spawn_client(address: SocketAddr, length: Duration) -> thread::JoinHandle<io::Result<f64>> {
    thread::spawn(move || {
        let (start, mut count) = (Instant::now(), 0u32);
        while start.elapsed() < length {
            once(address)?;
            count += 1;
        }
        Ok(f64::from(count) / start.elapsed().as_secs_f64())
    })
}

fn once(address: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&[1])?;
    stream.read_exact(&mut [0])
}

fn serve(listener: &TcpListener, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let Ok((mut stream, _)) = listener.accept() else {
            continue;
        };
        let _ = stream.set_read_timeout(Some(PATIENCE));
        let mut byte = [0];
        if stream.read_exact(&mut byte).is_ok() {
            let _ = stream.write_all(&byte);
        }
    }
}
