//! Addresses of links.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Netlink, RouteKind, refused};
use crate::{PlatformError, Prefix};

/// One address of a link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InterfaceAddress {
    /// The link's index.
    pub index: u32,
    /// The address and the length of its net's prefix.
    pub prefix: Prefix,
    /// The broadcast address, where there is one (IPv4).
    pub broadcast: Option<Ipv4Addr>,
    /// Whether it only means something on its link (fe80::/10, 169.254.0.0/16).
    pub link_local: bool,
    /// Whether duplicate address detection is still under way: it cannot be used yet.
    pub tentative: bool,
    /// Whether the kernel shuns it for new flows: an old privacy address, or a lease that ran out.
    pub deprecated: bool,
    /// Whether it is for a while only (privacy addresses, RFC 8981, and IPv4 secondaries).
    pub temporary: bool,
}

impl InterfaceAddress {
    fn from_message(message: AddressMessage) -> Option<Self> {
        let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
        let mut broadcast = None;
        let mut address = None;
        let mut local = None;
        for attribute in message.attributes {
            match attribute {
                AddressAttribute::Address(ip) => address = Some(ip),
                AddressAttribute::Local(ip) => local = Some(ip),
                AddressAttribute::Broadcast(ip) => broadcast = Some(ip),
                AddressAttribute::Flags(all) => flags = all,
                _ => {}
            }
        }
        // On a point-to-point link IFA_ADDRESS is the far end's, IFA_LOCAL ours.
        let address = local.or(address)?;
        Some(Self {
            index: message.header.index,
            prefix: Prefix::new(address, message.header.prefix_len)?,
            broadcast,
            link_local: message.header.scope == AddressScope::Link,
            tentative: flags.contains(AddressFlags::Tentative),
            deprecated: flags.contains(AddressFlags::Deprecated),
            temporary: flags.contains(AddressFlags::Secondary),
        })
    }
}

impl Netlink {
    /// The IPv4 and IPv6 addresses of one link, or of all.
    pub fn addresses(
        &mut self,
        index: Option<u32>,
    ) -> Result<Vec<InterfaceAddress>, PlatformError> {
        let found = self
            .dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))
            .map_err(refused("list addresses".into()))?;
        Ok(found
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewAddress(message) => InterfaceAddress::from_message(message),
                _ => None,
            })
            .filter(|address| index.is_none_or(|index| address.index == index))
            .collect())
    }

    /// Gives a link an address, usable at once: without duplicate address detection. IPv4 gets its net's broadcast
    /// address.
    pub fn address_add(&mut self, index: u32, prefix: Prefix) -> Result<(), PlatformError> {
        self.create(RouteNetlinkMessage::NewAddress(message(index, prefix)))
            .map_err(refused(format!("add address {prefix}")))?;
        self.await_delivery(prefix.address())
    }

    /// The kernel starts to accept packets for a new IPv6 address from a work queue, some time after it has said yes.
    fn await_delivery(&mut self, address: IpAddr) -> Result<(), PlatformError> {
        /// It is a few microseconds on an idle machine.
        const LIMIT: Duration = Duration::from_secs(2);
        let local = RouteKind::Other(nix::libc::RTN_LOCAL);
        let deadline = Instant::now() + LIMIT;
        while address.is_ipv6()
            && self
                .route_to(address)?
                .is_none_or(|route| route.kind != local)
        {
            if Instant::now() > deadline {
                return Err(PlatformError::io(
                    format!("wait for address {address}"),
                    io::Error::from(io::ErrorKind::TimedOut),
                ));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(())
    }

    /// Takes an address from a link.
    pub fn address_delete(&mut self, index: u32, prefix: Prefix) -> Result<(), PlatformError> {
        self.change(RouteNetlinkMessage::DelAddress(message(index, prefix)), 0)
            .map_err(refused(format!("remove address {prefix}")))
    }
}

fn message(index: u32, prefix: Prefix) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = prefix.length();
    let address = prefix.address();
    message.attributes.push(AddressAttribute::Local(address));
    message.attributes.push(AddressAttribute::Address(address));
    match address {
        IpAddr::V4(v4) => {
            message.header.family = AddressFamily::Inet;
            // /31 and /32 have none (RFC 3021).
            if let Some(hosts) = u32::MAX.checked_shr(prefix.length().into())
                && hosts > 1
            {
                let broadcast = Ipv4Addr::from_bits(v4.to_bits() | hosts);
                message
                    .attributes
                    .push(AddressAttribute::Broadcast(broadcast));
            }
        }
        IpAddr::V6(_) => {
            message.header.family = AddressFamily::Inet6;
            message.header.flags = AddressHeaderFlags::Nodad;
        }
    }
    message
}
