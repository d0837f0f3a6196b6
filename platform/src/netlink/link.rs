//! Links: look up, change, make, move, remove.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute,
    LinkFlags, LinkInfo, LinkMessage,
};

use super::{InterfaceAddress, Netlink, refused};
use crate::PlatformError;

/// What a link can do and what state it is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flags {
    /// Switched on.
    pub up: bool,
    /// Switched on, and the layer below carries packets.
    pub running: bool,
    /// Has a broadcast address.
    pub broadcast: bool,
    /// Takes part in multicast.
    pub multicast: bool,
    /// A loopback link.
    pub loopback: bool,
    /// Has one other end (TUN, PPP).
    pub point_to_point: bool,
}

impl From<LinkFlags> for Flags {
    fn from(flags: LinkFlags) -> Self {
        Self {
            up: flags.contains(LinkFlags::Up),
            running: flags.contains(LinkFlags::Running),
            broadcast: flags.contains(LinkFlags::Broadcast),
            multicast: flags.contains(LinkFlags::Multicast),
            loopback: flags.contains(LinkFlags::Loopback),
            point_to_point: flags.contains(LinkFlags::Pointopoint),
        }
    }
}

/// One link as the kernel shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// Its number, unique in the namespace.
    pub index: u32,
    /// Its name, at most 15 bytes.
    pub name: String,
    /// State and abilities.
    pub flags: Flags,
    /// MTU in bytes.
    pub mtu: u32,
    /// Hardware address (6 bytes on Ethernet), empty where there is none.
    pub hardware_address: Vec<u8>,
    /// Transmit queue length in packets.
    pub queue_length: u32,
}

impl Link {
    pub(super) fn from_message(message: LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            flags: message.header.flags.into(),
            mtu: 0,
            hardware_address: Vec::new(),
            queue_length: 0,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Address(address) => link.hardware_address = address,
                LinkAttribute::TxQueueLen(length) => link.queue_length = length,
                _ => {}
            }
        }
        link
    }
}

/// A link with its addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interface {
    /// The link.
    pub link: Link,
    /// Its IPv4 and IPv6 addresses.
    pub addresses: Vec<InterfaceAddress>,
}

impl Netlink {
    /// All links of the namespace.
    pub fn links(&mut self) -> Result<Vec<Link>, PlatformError> {
        let found = self
            .dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))
            .map_err(refused("list links".into()))?;
        Ok(found
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewLink(message) => Some(Link::from_message(message)),
                _ => None,
            })
            .collect())
    }

    /// All links with their addresses.
    pub fn interfaces(&mut self) -> Result<Vec<Interface>, PlatformError> {
        let mut interfaces: Vec<_> = self
            .links()?
            .into_iter()
            .map(|link| Interface {
                link,
                addresses: Vec::new(),
            })
            .collect();
        for address in self.addresses(None)? {
            if let Some(interface) = interfaces
                .iter_mut()
                .find(|interface| interface.link.index == address.index)
            {
                interface.addresses.push(address);
            }
        }
        Ok(interfaces)
    }

    /// The link of that name, if there is one.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, PlatformError> {
        let mut message = LinkMessage::default();
        message
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        self.get_link(message, name)
    }

    /// The link of that index, if there is one.
    pub fn link_by_index(&mut self, index: u32) -> Result<Option<Link>, PlatformError> {
        self.get_link(of_index(index), &index.to_string())
    }

    fn get_link(
        &mut self,
        message: LinkMessage,
        which: &str,
    ) -> Result<Option<Link>, PlatformError> {
        match self.get(RouteNetlinkMessage::GetLink(message)) {
            Ok(Some(RouteNetlinkMessage::NewLink(message))) => {
                Ok(Some(Link::from_message(message)))
            }
            Ok(_) => Ok(None),
            Err(error) if error.raw_os_error() == Some(nix::libc::ENODEV) => Ok(None),
            Err(error) => Err(refused(format!("look up link {which}"))(error)),
        }
    }

    /// Switches a link on or off.
    pub fn set_up(&mut self, index: u32, up: bool) -> Result<(), PlatformError> {
        let mut message = of_index(index);
        message.header.change_mask = LinkFlags::Up;
        message.header.flags.set(LinkFlags::Up, up);
        let what = if up { "up" } else { "down" };
        self.set_link(message)
            .map_err(refused(format!("set link {index} {what}")))
    }

    /// Sets or clears a link's multicast flag.
    pub fn set_multicast(&mut self, index: u32, multicast: bool) -> Result<(), PlatformError> {
        let mut message = of_index(index);
        message.header.change_mask = LinkFlags::Multicast;
        message.header.flags.set(LinkFlags::Multicast, multicast);
        self.set_link(message)
            .map_err(refused(format!("set multicast of link {index}")))
    }

    /// Sets a link's MTU in bytes.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<(), PlatformError> {
        self.set_attribute(index, LinkAttribute::Mtu(mtu))
            .map_err(refused(format!("set MTU {mtu} of link {index}")))
    }

    /// Sets how many packets wait for the link's driver.
    pub fn set_queue_length(&mut self, index: u32, packets: u32) -> Result<(), PlatformError> {
        self.set_attribute(index, LinkAttribute::TxQueueLen(packets))
            .map_err(refused(format!(
                "set queue length {packets} of link {index}"
            )))
    }

    /// Switches a link's own making of IPv6 addresses off: no link-local address, hence no router solicitations.
    pub fn set_no_link_local(&mut self, index: u32) -> Result<(), PlatformError> {
        let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        let attribute = LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])]);
        self.set_attribute(index, attribute)
            .map_err(refused(format!(
                "switch link-local addresses of link {index} off"
            )))
    }

    /// Puts a link under a bridge, or takes it out again.
    pub fn set_master(&mut self, index: u32, master: Option<u32>) -> Result<(), PlatformError> {
        self.set_attribute(index, LinkAttribute::Controller(master.unwrap_or(0)))
            .map_err(refused(format!("put link {index} under {master:?}")))
    }

    /// Moves a link into the namespace of `netns`; it loses its addresses and is down there.
    pub fn move_link(&mut self, index: u32, netns: impl AsFd) -> Result<(), PlatformError> {
        let fd = netns.as_fd().as_raw_fd();
        self.set_attribute(index, LinkAttribute::NetNsFd(fd))
            .map_err(refused(format!("move link {index} to a namespace")))
    }

    /// Makes two links that are each other's far end, both down. The second is made in `peer_netns`, where given.
    pub fn veth_add(
        &mut self,
        name: &str,
        peer_name: &str,
        peer_netns: Option<&dyn AsFd>,
    ) -> Result<(), PlatformError> {
        let mut peer = LinkMessage::default();
        peer.attributes
            .push(LinkAttribute::IfName(peer_name.to_owned()));
        if let Some(netns) = peer_netns {
            let fd = netns.as_fd().as_raw_fd();
            peer.attributes.push(LinkAttribute::NetNsFd(fd));
        }
        self.link_add(
            name,
            InfoKind::Veth,
            Some(InfoData::Veth(InfoVeth::Peer(peer))),
        )
    }

    /// Makes a bridge, down. It keeps its hardware address while ports come and go: left alone it takes the lowest of theirs,
    /// and whoever has learnt the former one as his gateway's talks to nobody for half a minute.
    pub fn bridge_add(&mut self, name: &str) -> Result<(), PlatformError> {
        self.link_add(name, InfoKind::Bridge, None)?;
        let Some(link) = self.link(name)? else {
            return Ok(());
        };
        let own = LinkAttribute::Address(link.hardware_address);
        self.set_attribute(link.index, own)
            .map_err(refused(format!("fix the address of bridge {name}")))
    }

    fn link_add(
        &mut self,
        name: &str,
        kind: InfoKind,
        data: Option<InfoData>,
    ) -> Result<(), PlatformError> {
        let mut message = LinkMessage::default();
        message
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        let mut info = vec![LinkInfo::Kind(kind)];
        info.extend(data.map(LinkInfo::Data));
        message.attributes.push(LinkAttribute::LinkInfo(info));
        self.create(RouteNetlinkMessage::NewLink(message))
            .map_err(|error| match error.raw_os_error() {
                Some(nix::libc::EEXIST) => PlatformError::NameTaken { name: name.into() },
                _ => refused(format!("make link {name}"))(error),
            })
    }

    /// Removes a link.
    pub fn link_delete(&mut self, index: u32) -> Result<(), PlatformError> {
        self.change(RouteNetlinkMessage::DelLink(of_index(index)), 0)
            .map_err(refused(format!("remove link {index}")))
    }

    fn set_attribute(&mut self, index: u32, attribute: LinkAttribute) -> io::Result<()> {
        let mut message = of_index(index);
        message.attributes.push(attribute);
        self.set_link(message)
    }

    fn set_link(&mut self, message: LinkMessage) -> io::Result<()> {
        self.change(RouteNetlinkMessage::SetLink(message), 0)
    }
}

fn of_index(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}
