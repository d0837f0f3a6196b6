//! Whether what a UDP socket sends may be cut into fragments.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::libc;

/// With `dont_fragment`, datagrams leave with DF set (IPv4) or are never cut here (IPv6), and one that is too large for a
/// link on the way leads to an ICMP error. Without, they leave with DF clear and are cut where they have to be.
///
/// # Errors
/// What the system says: not an IP socket.
pub fn set_dont_fragment(socket: BorrowedFd<'_>, dont_fragment: bool) -> io::Result<()> {
    let domain = get_domain(socket)?;
    if domain == libc::AF_INET6 {
        // "Probe" sends what is larger than the path is known to take, too: only then its errors are fresh.
        let discover = if dont_fragment {
            libc::IPV6_PMTUDISC_PROBE
        } else {
            libc::IPV6_PMTUDISC_WANT
        };
        set(
            socket,
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            discover,
        )?;
        return set(
            socket,
            libc::IPPROTO_IPV6,
            libc::IPV6_DONTFRAG,
            libc::c_int::from(dont_fragment),
        );
    }
    let discover = if dont_fragment {
        libc::IP_PMTUDISC_PROBE
    } else {
        libc::IP_PMTUDISC_DONT
    };
    set(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, discover)
}

fn get_domain(socket: BorrowedFd<'_>) -> io::Result<libc::c_int> {
    let mut domain: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the pointers are to an int and to its size, which is what SO_DOMAIN writes; the descriptor is borrowed.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_DOMAIN,
            (&raw mut domain).cast(),
            &raw mut length,
        )
    };
    nix::errno::Errno::result(result)?;
    Ok(domain)
}

fn set(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the pointer is to an int, whose size is given; the kernel only reads it. The descriptor is borrowed.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    nix::errno::Errno::result(result)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    #[test]
    fn both_families_take_it_and_others_refuse() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let socket = UdpSocket::bind(address).unwrap();
            for dont_fragment in [true, false] {
                set_dont_fragment(socket.as_fd(), dont_fragment).unwrap();
            }
        }
        let other = std::os::unix::net::UnixDatagram::unbound().unwrap();
        assert!(set_dont_fragment(other.as_fd(), true).is_err());
    }
}
