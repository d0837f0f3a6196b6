//! Sockets as all that serve want them.
use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Not bound yet; of IPv6, without IPv4.
pub(crate) fn unbound(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// Ports that are tried where any will do, until one is free for UDP and TCP.
const ANY_PORT: usize = 16;

/// What `bind` makes of an address for both protocols. With port 0 it is called again where the port that the kernel chose for one
/// is in use by the other: connections take ports of TCP alone.
pub(crate) fn on_one_port<T>(
    address: SocketAddr,
    bind: impl Fn(SocketAddr) -> io::Result<T>,
) -> io::Result<T> {
    let mut attempts = if address.port() == 0 { ANY_PORT } else { 1 };
    loop {
        attempts -= 1;
        match bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && attempts > 0 => {}
            result => return result,
        }
    }
}

/// Takes connections, of which the kernel keeps `backlog`; never blocks.
pub(crate) fn listen(address: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    let socket = unbound(address, Type::STREAM, Protocol::TCP)?;
    // Who is restarted takes its port again at once, although connections of its earlier life still close (RFC 9293 §3.6).
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    Ok(socket.into())
}
