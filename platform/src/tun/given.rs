//! An interface that somebody else has made: a persistent one by its name, or a descriptor that was inherited (U4).
//!
//! Its settings stay as they are: MTU, addresses, routes, up or down. What it lacks can be asked for, to be told.

use std::net::Ipv6Addr;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use super::{Tun, TunConfig, check_name, open_device, prefixes};
use crate::netlink::Netlink;
use crate::{PlatformError, ioctl};

impl Tun {
    /// Takes a TUN device that was opened elsewhere (a container's runtime, a launcher with more rights). Its settings
    /// stay as they are; offloads are switched on where it has a virtio-net header.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, PlatformError> {
        Self::from_device(fd.into(), true)
    }

    /// Takes the descriptor `number`, which this process was started with. The interface stays when the process ends if
    /// somebody else holds it, too, or if it is persistent.
    pub fn inherited(number: RawFd) -> Result<Self, PlatformError> {
        let not_open = |error: nix::Error| PlatformError::NotATun {
            fd: number,
            why: error.desc().to_lowercase(),
        };
        // SAFETY: borrowed for one system call, which says so if the number is no open descriptor.
        let theirs = unsafe { BorrowedFd::borrow_raw(number) };
        let copy = fcntl(theirs, FcntlArg::F_DUPFD_CLOEXEC(3)).map_err(not_open)?;
        // SAFETY: the kernel has just made this descriptor for us, and nobody else knows its number.
        let copy = unsafe { std::os::fd::FromRawFd::from_raw_fd(copy) };
        Self::from_fd(copy)
    }

    /// Attaches to the persistent interface `name` (`ip tuntap add dev NAME mode tun user USER`). Its owner needs no
    /// capability for that. It stays when this value is dropped.
    pub fn attach(name: &str) -> Result<Self, PlatformError> {
        check_name(name)?;
        let given = |why: &str| PlatformError::NotGiven {
            name: name.into(),
            why: why.into(),
        };
        // Of a name that is free, the driver would make an interface.
        if Netlink::open()?.link(name)?.is_none() {
            return Err(given(&format!(
                "there is none; make it with `ip tuntap add dev {name} mode tun user USER`"
            )));
        }
        let device = open_device(name, true).map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM) => given("it belongs to another user, and this needs CAP_NET_ADMIN"),
            Some(libc::EBUSY) => given("another program uses it"),
            Some(libc::EINVAL) => given("it is no TUN interface with one queue"),
            _ => error,
        })?;
        let attached = ioctl::attached(&device)
            .map_err(|error| PlatformError::io("ask for the interface", error))?;
        if !attached.persistent {
            // It has gone in between, and the driver has made a new one, which goes with the descriptor.
            return Err(given("it has just gone"));
        }
        Self::from_device(device, true)
    }

    /// The MTU of the interface in bytes, as far as a packet can have so many.
    pub fn mtu(&self) -> Result<u16, PlatformError> {
        let link = self.link()?.ok_or_else(|| PlatformError::NotGiven {
            name: self.name.clone(),
            why: "it has just gone".into(),
        })?;
        let mtu = u16::try_from(link.mtu).unwrap_or(u16::MAX);
        super::check_mtu(mtu)?;
        Ok(mtu)
    }

    /// What `config` wants and the interface does not have, as commands that bring it about.
    pub fn lacks(&self, config: &TunConfig) -> Result<Vec<String>, PlatformError> {
        let mut netlink = Netlink::open()?;
        let name = &self.name;
        let mut missing = Vec::new();
        if !self.link()?.is_some_and(|link| link.flags.up) {
            missing.push(format!("ip link set {name} up"));
        }
        let present = netlink.addresses(Some(self.index))?;
        let has = |wanted: &Ipv6Addr| {
            let mut present = present.iter().map(|one| one.prefix.address());
            present.any(|address| address == *wanted)
        };
        for (address, length) in &config.addresses {
            if !has(address) {
                missing.push(format!(
                    "ip -6 addr add {address}/{length} dev {name} nodad"
                ));
            }
        }
        let routes = netlink.routes(true)?;
        for wanted in prefixes(&config.routes)? {
            // However narrow, and in whatever table: who makes routes has chosen them.
            let leads_here = routes.iter().any(|route| {
                route.index == Some(self.index)
                    && route.table != crate::netlink::TABLE_LOCAL
                    && (wanted.covers(&route.destination) || route.destination.covers(&wanted))
                    && !config
                        .addresses
                        .iter()
                        .any(|(own, _)| route.destination.address() == *own)
            });
            if !leads_here {
                missing.push(format!("ip -6 route add {wanted} dev {name}"));
            }
        }
        Ok(missing)
    }
}
