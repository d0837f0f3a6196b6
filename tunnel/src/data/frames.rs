//! Raw Ethernet: the sockets of the links that packets go over in frames, opened while this process may.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use anode_platform::frames::{FrameSocket, Mac};
use anode_routing::anode::Place;
use anode_routing::net::{ETHER_TYPE, FrameLink};
use nix::net::if_::if_indextoname;

use crate::Error;
use crate::value::PeerEndpoint;

struct Link(FrameSocket);

impl FrameLink for Link {
    fn interface(&self) -> u32 {
        self.0.interface()
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn send(&self, to: Mac, payload: &[u8]) -> io::Result<()> {
        self.0.send(to, payload)
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<(Mac, usize)> {
        self.0.receive(buffer)
    }
}

/// The links that the configuration names, and those of peers with an `eth://` endpoint.
pub fn open(named: &[String], peers: &[PeerEndpoint]) -> Result<Vec<Box<dyn FrameLink>>, Error> {
    let of_peers = peers.iter().filter_map(|peer| match peer.endpoint {
        Place::Ethernet { interface, .. } => name(interface),
        _ => None,
    });
    let names: BTreeSet<String> = named.iter().cloned().chain(of_peers).collect();
    let mut links: Vec<Box<dyn FrameLink>> = Vec::new();
    for name in names {
        links.push(Box::new(Link(FrameSocket::open(&name, ETHER_TYPE)?)));
    }
    Ok(links)
}

/// A place as people write it: `eth://` with the name of the interface.
pub fn text(place: &Place) -> String {
    let named = match place {
        Place::Ethernet { interface, mac } => name(*interface).map(|name| (name, mac)),
        _ => None,
    };
    match named {
        Some((name, [a, b, c, d, e, f])) => {
            format!("eth://{name}/{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
        }
        None => place.to_string(),
    }
}

fn name(interface: u32) -> Option<String> {
    if_indextoname(interface).ok()?.into_string().ok()
}
