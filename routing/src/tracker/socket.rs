//! Sockets whose source address is chosen: bind, then connect (B3, B4).
use std::io;
use std::net::{IpAddr, SocketAddr};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

/// A TCP connection from `local`.
pub(super) async fn tcp(local: IpAddr, remote: SocketAddr) -> io::Result<TcpStream> {
    let socket = match local {
        IpAddr::V4(_) => TcpSocket::new_v4()?,
        IpAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.bind(SocketAddr::new(local, 0))?;
    socket.connect(remote).await
}

/// A UDP socket from `local` that hears nobody but `remote`.
pub(super) async fn udp(local: IpAddr, remote: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(SocketAddr::new(local, 0)).await?;
    socket.connect(remote).await?;
    Ok(socket)
}
