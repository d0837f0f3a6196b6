//! Entries of the route log (R42, RD18), and addresses as RELOAD writes them.
use crate::codec::{Reader, Write};
use crate::{Id, ReloadError};
use std::net::{IpAddr, SocketAddr};

/// How a hop was reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogTransport {
    /// 1
    Tls,
    /// 2
    Dtls,
    /// 3: inside an Anode sealed session.
    Sealed,
    /// Any other number.
    Other(u8),
}

impl From<u8> for LogTransport {
    fn from(byte: u8) -> Self {
        match byte {
            1 => Self::Tls,
            2 => Self::Dtls,
            3 => Self::Sealed,
            other => Self::Other(other),
        }
    }
}

impl From<LogTransport> for u8 {
    fn from(transport: LogTransport) -> u8 {
        match transport {
            LogTransport::Tls => 1,
            LogTransport::Dtls => 2,
            LogTransport::Sealed => 3,
            LogTransport::Other(other) => other,
        }
    }
}

/// What one hop says about itself. Nothing proves it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RouteLogEntry {
    /// Software, as text.
    pub version: String,
    /// Transport that the message left by.
    pub transport: LogTransport,
    /// Its Peer-ID.
    pub id: Id,
    /// Seconds since it started.
    pub uptime: u32,
    /// Its certificate, or nothing.
    pub certificate: Vec<u8>,
    /// Its address; 0.0.0.0:0 where it keeps it to itself.
    pub address: SocketAddr,
}

impl RouteLogEntry {
    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, ReloadError> {
        Ok(Self {
            version: r.string()?,
            transport: r.u8()?.into(),
            id: r.id()?,
            uptime: r.u32()?,
            certificate: r.vec16()?.to_vec(),
            address: read_address(r)?,
        })
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) -> Result<(), ReloadError> {
        out.bytes16("a version", self.version.as_bytes())?;
        out.u8(self.transport.into());
        out.raw(&self.id.0);
        out.u32(self.uptime);
        out.bytes16("a certificate", &self.certificate)?;
        write_address(out, self.address);
        Ok(())
    }

    pub(crate) fn wire_len(&self) -> usize {
        let ip = if self.address.is_ipv4() { 4 } else { 16 };
        2 + self.version.len() + 1 + Id::LEN + 4 + 2 + self.certificate.len() + 1 + ip + 2
    }
}

/// `ip_address_and_port`: type (1 IPv4, 2 IPv6), address, port.
pub(crate) fn read_address(r: &mut Reader<'_>) -> Result<SocketAddr, ReloadError> {
    let ip: IpAddr = match r.u8()? {
        1 => r.array::<4>()?.into(),
        2 => r.array::<16>()?.into(),
        tag => {
            return Err(ReloadError::Tag {
                what: "an address",
                tag: tag.into(),
            });
        }
    };
    Ok(SocketAddr::new(ip, r.u16()?))
}

pub(crate) fn write_address(out: &mut Vec<u8>, address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(ip) => {
            out.u8(1);
            out.raw(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.u8(2);
            out.raw(&ip.octets());
        }
    }
    out.u16(address.port());
}

#[cfg(test)]
mod tests {
    use super::*;

    // RD4; RFC 6940 §6.3.1.1 has 01 06 c0000201 17c4, with a length byte that the draft does not have
    #[test]
    fn addresses_are_a_type_an_ip_and_a_port() {
        for (text, expected) in [
            ("192.0.2.1:6084", "01c000020117c4"),
            (
                "[2001:db8::1]:6084",
                "0220010db800000000000000000000000117c4",
            ),
        ] {
            let mut out = Vec::new();
            write_address(&mut out, text.parse().unwrap());
            assert_eq!(crate::vectors::hex(expected), out);
            let mut reader = Reader::new(&out, "address");
            assert_eq!(read_address(&mut reader).unwrap(), text.parse().unwrap());
            reader.end().unwrap();
        }
        assert!(read_address(&mut Reader::new(&[3, 0, 0, 0, 0, 0, 0], "address")).is_err());
    }
}
