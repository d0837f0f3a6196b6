//! Tunables.

use std::net::Ipv6Addr;

/// The smallest MTU an IPv6 interface may have (RFC 8200 §5), in bytes.
pub const MIN_MTU: u16 = 1280;

/// Tunables. [`Config::default`] serves no prefix and has no address: `local` and `prefixes` are to be filled in.
#[derive(Clone, Debug)]
pub struct Config {
    /// The interface's MTU in bytes; values below [`MIN_MTU`] count as that.
    pub mtu: u16,
    /// The interface takes and gives super-packets and partial checksums.
    pub offload: bool,
    /// Addresses of this machine on the interface; packets from others are dropped and counted.
    /// The first is the source of ICMPv6 errors that speak for this node.
    pub local: Vec<Ipv6Addr>,
    /// Addresses that mean this node itself (`fda0::1`): echo requests to them are answered here, connections refused.
    pub magic_self: Vec<Ipv6Addr>,
    /// Destinations that belong to overlays: (prefix, length in bits). Others are answered "no route".
    pub prefixes: Vec<(Ipv6Addr, u8)>,
    /// Bytes of each of the two buffers of a TCP flow, 2 KiB to 1 GiB. Pages are touched only when used.
    pub tcp_buffer: usize,
    /// TCP flows at most, those that wait for their peer included.
    pub max_flows: usize,
    /// Bytes of datagrams, echo replies, errors and resets that may wait for `poll_packet`.
    pub queue_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mtu: MIN_MTU,
            offload: false,
            local: Vec::new(),
            magic_self: Vec::new(),
            prefixes: Vec::new(),
            tcp_buffer: 256 * 1024,
            max_flows: 16 * 1024,
            queue_bytes: 4 * 1024 * 1024,
        }
    }
}

impl Config {
    /// Brings every value into the range that the rest of the crate relies on.
    pub(crate) fn clamped(mut self) -> Self {
        self.mtu = self.mtu.max(MIN_MTU);
        self.tcp_buffer = self.tcp_buffer.clamp(2048, 1 << 30);
        self.max_flows = self.max_flows.clamp(1, 1 << 20);
        for (_, length) in &mut self.prefixes {
            *length = (*length).min(128);
        }
        self
    }

    /// Whether `address` lies in a prefix that is served.
    pub(crate) fn serves(&self, address: Ipv6Addr) -> bool {
        let address = u128::from(address);
        self.prefixes.iter().any(|&(prefix, length)| {
            let host_bits = 128 - u32::from(length);
            // A shift by 128 is none; `::/0` holds everything.
            let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
            (address ^ u128::from(prefix)) & mask == 0
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_match_by_their_length() {
        let config = |length| Config {
            prefixes: vec![("fda0::".parse().unwrap(), length)],
            ..Config::default()
        };
        let table = [
            (16, "fda0:1::1", true),
            (16, "fda1::1", false),
            (15, "fda1::1", true),
            (0, "2001:db8::1", true),
            (128, "fda0::", true),
            (128, "fda0::1", false),
        ];
        for (length, address, expected) in table {
            assert_eq!(
                config(length).serves(address.parse().unwrap()),
                expected,
                "{address} in /{length}"
            );
        }
    }
}
