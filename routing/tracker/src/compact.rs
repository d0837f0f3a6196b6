//! Compact endpoints: 6 bytes (BEP 23) or 18 bytes (BEP 7), address and port in network order.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An address family, where it decides the size of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4: entries of 6 bytes.
    V4,
    /// IPv6: entries of 18 bytes.
    V6,
}

impl Family {
    /// The family of an address; one that maps IPv4 into IPv6 is IPv6 as it stands.
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Bytes of one entry.
    pub const fn entry_size(self) -> usize {
        match self {
            Self::V4 => 6,
            Self::V6 => 18,
        }
    }
}

/// The entries of one family; nothing when the length is no multiple of an entry. A list of the wrong family is thus
/// nearly always refused whole (discovery.md §2: one tracker sends 6-byte entries over IPv6).
pub fn entries(
    bytes: &[u8],
    family: Family,
) -> Option<impl ExactSizeIterator<Item = SocketAddr> + '_> {
    let size = family.entry_size();
    bytes
        .len()
        .is_multiple_of(size)
        .then(|| bytes.chunks_exact(size).map(decode))
}

/// One entry of 6 or 18 bytes; no caller has others.
pub(crate) fn decode(entry: &[u8]) -> SocketAddr {
    let (ip, port) = entry.split_at(entry.len() - 2);
    let ip = match <[u8; 4]>::try_from(ip) {
        Ok(v4) => IpAddr::V4(Ipv4Addr::from(v4)),
        Err(_) => {
            let mut v6 = [0; 16];
            v6.copy_from_slice(ip);
            IpAddr::V6(Ipv6Addr::from(v6))
        }
    };
    SocketAddr::new(ip, u16::from_be_bytes([port[0], port[1]]))
}

/// Appends one endpoint as 6 or 18 bytes.
pub fn push(endpoint: SocketAddr, out: &mut Vec<u8>) {
    match endpoint.ip() {
        IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
    }
    out.extend_from_slice(&endpoint.port().to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_vectors::{hex, vectors};

    // B11
    #[test]
    fn endpoints_match_the_vectors_both_ways() {
        for vector in &vectors("compact_endpoints") {
            let ip: IpAddr = vector["ip"].as_str().unwrap().parse().unwrap();
            let endpoint = SocketAddr::new(ip, vector["port"].as_u64().unwrap() as u16);
            let bytes = hex(&vector["compact"]);
            let mut out = Vec::new();
            push(endpoint, &mut out);
            assert_eq!(out, bytes);
            let read: Vec<_> = entries(&bytes, Family::of(ip)).unwrap().collect();
            assert_eq!(read, [endpoint]);
        }
    }

    // B11, S36
    #[test]
    fn lengths_that_are_no_multiple_are_refused_whole() {
        for (family, length, count) in [
            (Family::V4, 0, Some(0)),
            (Family::V4, 12, Some(2)),
            (Family::V4, 13, None),
            (Family::V6, 6, None),
            (Family::V6, 36, Some(2)),
            (Family::V6, 37, None),
        ] {
            assert_eq!(
                entries(&vec![1; length], family).map(|found| found.len()),
                count,
                "{family:?} {length}"
            );
        }
    }
}
