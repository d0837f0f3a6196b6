//! The demo's ordinary programs: an HTTP server, an HTTP client, UDP echo. They know std's sockets and nothing of overlays.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::Error;

/// Nobody waits longer for a byte.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Datagrams under way at a time: a window that no socket buffer on the way overflows from.
const WINDOW: u32 = 16;

/// Bytes of one datagram.
const DATAGRAM: usize = 512;

/// Serves `file` over HTTP and echoes datagrams, on one port, until it is ended.
pub fn serve(listen: SocketAddr, file: &Path) -> Result<(), Error> {
    let failed = |error| Error::io(format!("cannot listen on {listen}"))(error);
    let tcp = TcpListener::bind(listen).map_err(failed)?;
    let udp = UdpSocket::bind(listen).map_err(failed)?;
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = udp.recv_from(&mut buffer) {
            // A lost answer is what the other side counts.
            let _ = udp.send_to(&buffer[..length], from);
        }
    });
    eprintln!("ready on {listen}");
    for stream in tcp.incoming() {
        if let Err(error) = stream.and_then(|stream| answer(stream, file)) {
            eprintln!("{error}");
        }
    }
    Ok(())
}

/// One request, one answer, closed.
fn answer(stream: TcpStream, file: &Path) -> io::Result<()> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let mut reader = BufReader::new((&stream).take(16 * 1024));
    let mut line = String::new();
    // To the empty line that ends the request's head.
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let mut content = File::open(file)?;
    let length = content.metadata()?.len();
    write!(
        &stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    io::copy(&mut content, &mut &stream)?;
    stream.shutdown(Shutdown::Write)
}

/// Fetches `/file` into `target`; prints the seconds that it took.
pub fn fetch(server: SocketAddr, target: &Path) -> Result<(), Error> {
    let start = Instant::now();
    get(server, target).map_err(Error::io(format!("cannot fetch http://{server}/file")))?;
    crate::output::print(&format!("{:.6}\n", start.elapsed().as_secs_f64()))
}

fn get(server: SocketAddr, target: &Path) -> io::Result<()> {
    let stream = TcpStream::connect_timeout(&server, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    write!(
        &stream,
        "GET /file HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n"
    )?;
    let mut reader = BufReader::with_capacity(256 * 1024, &stream);
    let mut status = String::new();
    reader.read_line(&mut status)?;
    if !status.starts_with("HTTP/1.1 200") {
        return Err(io::Error::other(format!(
            "the server answered {:?}",
            status.trim()
        )));
    }
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let mut file = File::create(target)?;
    io::copy(&mut reader, &mut file)?;
    Ok(())
}

/// Sends `count` datagrams and waits for every echo; prints the seconds that it took.
pub fn echo(server: SocketAddr, count: u32) -> Result<(), Error> {
    let start = Instant::now();
    let back = exchange(server, count).map_err(Error::io(format!("UDP echo with {server}")))?;
    if back < count {
        return Err(Error::refused(format!(
            "{back} of {count} datagrams came back"
        )));
    }
    crate::output::print(&format!("{:.6}\n", start.elapsed().as_secs_f64()))
}

/// How many came back, each counted once.
fn exchange(server: SocketAddr, count: u32) -> io::Result<u32> {
    let socket = UdpSocket::bind("[::]:0")?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut seen = vec![false; count as usize];
    let (mut sent, mut back) = (0, 0);
    let mut buffer = [0; 2048];
    while back < count {
        while sent < count && sent - back < WINDOW {
            let mut datagram = [0x5a; DATAGRAM];
            datagram[..4].copy_from_slice(&sent.to_be_bytes());
            socket.send(&datagram)?;
            sent += 1;
        }
        let length = match socket.recv(&mut buffer) {
            Ok(length) => length,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) =>
            {
                break;
            }
            Err(error) => return Err(error),
        };
        let number = buffer[..length]
            .first_chunk()
            .map(|bytes| u32::from_be_bytes(*bytes) as usize);
        if let Some(seen) = number.and_then(|number| seen.get_mut(number))
            && length == DATAGRAM
            && !std::mem::replace(seen, true)
        {
            back += 1;
        }
    }
    Ok(back)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demos_own_programs_understand_each_other() {
        let directory = crate::state::testing::TestDir::new();
        let (source, target) = (
            directory.path().join("file"),
            directory.path().join("fetched"),
        );
        let content: Vec<u8> = (0..300_000u32).map(|n| (n * 7 % 251) as u8).collect();
        std::fs::write(&source, &content).unwrap();
        // A free port; the server takes it right after.
        let server = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        std::thread::spawn(move || serve(server, &source).unwrap());
        let deadline = Instant::now() + Duration::from_secs(5);
        while TcpStream::connect(server).is_err() {
            assert!(Instant::now() < deadline, "the server does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        get(server, &target).unwrap();
        assert!(std::fs::read(&target).unwrap() == content);
    }

    #[test]
    fn udp_echo_counts_what_comes_back() {
        let socket = UdpSocket::bind("[::1]:0").unwrap();
        let server = socket.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                // Number 7 is lost, all others come twice.
                for _ in 0..if buffer[3] == 7 { 0 } else { 2 } {
                    socket.send_to(&buffer[..length], from).unwrap();
                }
            }
        });
        assert_eq!(exchange(server, 40).unwrap(), 39);
    }
}
