//! The TUN device, with segmentation and checksum offload.
//!
//! The interface is silent: it carries no link-local address and no multicast, so that the kernel sends nothing over it
//! on its own. It lives as long as the descriptor; its addresses and routes go with it, also when the process is killed.

mod given;
mod sharing;

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::path::PathBuf;

use crate::PlatformError;
use crate::ioctl::{self, Features};
use crate::netlink::{Link, Netlink};
use crate::prefix::Prefix;

pub use sharing::{PeerRoutes, Sharing};

/// What a buffer for [`Tun::recv`] holds at least: the largest super-packet (64 KiB with its headers) and some room.
pub const RECEIVE_BUFFER: usize = 65 * 1024;

/// The least MTU of an IPv6 link (RFC 8200 §5).
const LEAST_MTU: u16 = 1280;

/// How many packets the kernel keeps for us while the data thread is away. The driver's own default is 500; physical
/// interfaces have 1000, and a super-packet counts as one.
const QUEUE_LENGTH: u32 = 1000;

/// What the interface shall be.
#[derive(Clone, Debug)]
pub struct TunConfig {
    /// At most 15 bytes.
    pub name: String,
    /// MTU in bytes.
    pub mtu: u16,
    /// Try IFF_VNET_HDR with TSO/USO and checksum offload.
    pub offload: bool,
    /// Addresses with prefix length. The first one within a route is the source of what takes it.
    pub addresses: Vec<(Ipv6Addr, u8)>,
    /// Routes with prefix length (`fda0::/16`).
    pub routes: Vec<(Ipv6Addr, u8)>,
}

/// What crosses the device in one piece.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Offloads {
    /// Packets whose checksum is still to be computed.
    pub checksum: bool,
    /// TCP super-packets, of both IP versions.
    pub tcp: bool,
    /// UDP super-packets, of both IP versions (Linux 6.2).
    pub udp: bool,
}

/// The virtio-net header (10 bytes, host byte order), decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VnetHeader {
    /// Bit 0: needs checksum; bit 1: data valid.
    pub flags: u8,
    /// 0 none, 1 TCPv4, 4 TCPv6, 5 UDP_L4; bit 7 ECN.
    pub gso_type: u8,
    /// Bytes of all headers.
    pub header_len: u16,
    /// Payload bytes of each segment.
    pub gso_size: u16,
    /// Where the checksum starts.
    pub csum_start: u16,
    /// Where it is stored, from there.
    pub csum_offset: u16,
}

impl VnetHeader {
    /// Its size on the device, in bytes.
    pub const LEN: usize = 10;

    /// As the device has it: host byte order (`linux/virtio_net.h`).
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        let [flags, gso_type, a, b, c, d, e, f, g, h] = bytes;
        Self {
            flags,
            gso_type,
            header_len: u16::from_ne_bytes([a, b]),
            gso_size: u16::from_ne_bytes([c, d]),
            csum_start: u16::from_ne_bytes([e, f]),
            csum_offset: u16::from_ne_bytes([g, h]),
        }
    }

    /// As the device takes it.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let [a, b] = self.header_len.to_ne_bytes();
        let [c, d] = self.gso_size.to_ne_bytes();
        let [e, f] = self.csum_start.to_ne_bytes();
        let [g, h] = self.csum_offset.to_ne_bytes();
        [self.flags, self.gso_type, a, b, c, d, e, f, g, h]
    }
}

/// An interface that exists as long as this value (and its process).
#[derive(Debug)]
pub struct Tun {
    device: File,
    name: String,
    index: u32,
    /// Whether each packet comes with a [`VnetHeader`].
    header: bool,
    offloads: Offloads,
    /// The interface of another node that has the routes.
    beside: Option<String>,
}

impl Tun {
    /// Creates and configures it: name, MTU, addresses (nodad), routes, up. Leaves nothing behind on failure.
    ///
    /// Refuses a name or a route that is in use. Needs CAP_NET_ADMIN; the interface is made in the calling thread's
    /// network namespace.
    pub fn create(config: &TunConfig) -> Result<Self, PlatformError> {
        Self::create_beside(config, &Sharing::default())
    }

    /// The same on a machine that may have other nodes: who has the routes keeps them, see [`Sharing`].
    pub fn create_beside(config: &TunConfig, sharing: &Sharing) -> Result<Self, PlatformError> {
        check_name(&config.name)?;
        check_mtu(config.mtu)?;
        let mut netlink = Netlink::open()?;
        if netlink.link(&config.name)?.is_some() {
            return Err(name_taken(&config.name));
        }
        netlink.refuse_conflicts(&prefixes(&config.routes)?, None)?;

        let device = make_device(&config.name, config.offload)?;
        let mut tun = Self::from_device(device, config.offload)?;
        tun.configure_beside(config, sharing)?;
        Ok(tun)
    }

    fn from_device(device: File, offload: bool) -> Result<Self, PlatformError> {
        let not_a_tun = |why: String| PlatformError::NotATun {
            fd: device.as_raw_fd(),
            why,
        };
        let attached = ioctl::attached(&device).map_err(|e| not_a_tun(e.to_string()))?;
        if !attached.is_tun || attached.packet_information {
            return Err(not_a_tun(
                "it must carry IP packets without a prefix (IFF_TUN, IFF_NO_PI)".into(),
            ));
        }
        let header = attached.vnet_header;
        let mut offloads = Offloads::default();
        if header {
            ioctl::set_header_size(&device, VnetHeader::LEN)
                .map_err(|e| PlatformError::io("set the size of the virtio-net header", e))?;
            if offload {
                offloads = switch_offloads_on(&device);
            }
        }
        set_nonblocking(&device)?;
        let link = Netlink::open()?.link(&attached.name)?;
        let index = link
            .ok_or_else(|| {
                not_a_tun(format!(
                    "its interface {} is in another namespace",
                    attached.name
                ))
            })?
            .index;
        Ok(Self {
            device,
            name: attached.name,
            index,
            header,
            offloads,
            beside: None,
        })
    }

    /// Gives the interface its MTU, addresses and routes, and switches it on; IPv6 addresses that it has are lost.
    /// [`Self::create`] has done this.
    pub fn configure(&mut self, config: &TunConfig) -> Result<(), PlatformError> {
        self.configure_beside(config, &Sharing::default())
    }

    fn configure_beside(
        &mut self,
        config: &TunConfig,
        sharing: &Sharing,
    ) -> Result<(), PlatformError> {
        check_mtu(config.mtu)?;
        let addresses = prefixes(&config.addresses)?;
        let routes = prefixes(&config.routes)?;
        let mut netlink = Netlink::open()?;
        netlink.refuse_conflicts(&routes, Some(self.index))?;
        netlink.set_queue_length(self.index, QUEUE_LENGTH)?;
        netlink.set_multicast(self.index, false)?;
        // On a machine that forwards IPv6, the link has joined the routers' group (RFC 4291 §2.7.1) and would report so.
        // Below the least MTU the kernel takes IPv6 off the link; then it starts afresh, without multicast.
        netlink.set_mtu(self.index, u32::from(LEAST_MTU) - 1)?;
        netlink.set_mtu(self.index, config.mtu.into())?;
        enable_ipv6(&self.name)?;
        netlink
            .set_no_link_local(self.index)
            .map_err(|e| self.ipv6_off(e))?;
        netlink.set_up(self.index, true)?;
        for &address in &addresses {
            netlink
                .address_add(self.index, address)
                .map_err(|e| self.ipv6_off(e))?;
        }
        self.beside = sharing::route(&mut netlink, self.index, &routes, &addresses, sharing)?;
        Ok(())
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The interface's index in its namespace.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The interface of another node that has the routes; `None`: this one has them.
    pub fn beside(&self) -> Option<&str> {
        self.beside.as_deref()
    }

    /// Whether super-packets and partial checksums cross it.
    pub fn offload(&self) -> bool {
        self.offloads.tcp
    }

    /// Which kinds of super-packets cross it, in both directions.
    pub fn offloads(&self) -> Offloads {
        self.offloads
    }

    /// The interface as the kernel shows it now; `None` when somebody removed it.
    pub fn link(&self) -> Result<Option<Link>, PlatformError> {
        Netlink::open()?.link_by_index(self.index)
    }

    /// Reads one packet without blocking into `buf` (64 KiB + 1 KiB); `WouldBlock` when there is none.
    ///
    /// A smaller `buf` cuts packets without a word. [`is_gone`] tells an error that stays.
    pub fn recv(&self, buf: &mut [u8]) -> io::Result<(VnetHeader, usize)> {
        let mut device = &self.device;
        if !self.header {
            return Ok((VnetHeader::default(), device.read(buf)?));
        }
        let mut header = [0; VnetHeader::LEN];
        let length =
            device.read_vectored(&mut [IoSliceMut::new(&mut header), IoSliceMut::new(buf)])?;
        let length = length
            .checked_sub(VnetHeader::LEN)
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok((VnetHeader::from_bytes(header), length))
    }

    /// Writes one packet.
    ///
    /// The kernel takes it whole or not at all; `InvalidInput` (EINVAL) means a header that does not fit the packet or
    /// an offload that is not on. Without offloads the header must be the default one.
    pub fn send(&self, header: VnetHeader, packet: &[u8]) -> io::Result<()> {
        let mut device = &self.device;
        let (written, length) = if self.header {
            let header = header.to_bytes();
            let slices = [IoSlice::new(&header), IoSlice::new(packet)];
            (device.write_vectored(&slices)?, header.len() + packet.len())
        } else if header == VnetHeader::default() {
            (device.write(packet)?, packet.len())
        } else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        if written == length {
            Ok(())
        } else {
            Err(io::ErrorKind::WriteZero.into())
        }
    }

    /// The kernel says in three ways that IPv6 is off.
    fn ipv6_off(&self, error: PlatformError) -> PlatformError {
        use nix::libc::{EACCES, EAFNOSUPPORT, EOPNOTSUPP};
        let fix = match &error {
            PlatformError::Io { source, .. } => match source.raw_os_error() {
                Some(EACCES) => format!("sysctl -w net.ipv6.conf.{}.disable_ipv6=0", self.name),
                Some(EOPNOTSUPP | EAFNOSUPPORT) => {
                    "start the kernel without ipv6.disable=1, or load its module ipv6".into()
                }
                _ => return error,
            },
            _ => return error,
        };
        PlatformError::Ipv6Disabled {
            interface: self.name.clone(),
            fix,
        }
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

/// Whether an error of [`Tun::recv`] or [`Tun::send`] means that the interface was removed under us.
pub fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::libc::EBADFD)
}

/// Whether Linux takes `name` for an interface: 1 to 15 bytes, no slash, colon, percent sign or white space.
pub fn check_name(name: &str) -> Result<(), PlatformError> {
    let why = if name.is_empty() {
        "it is empty"
    } else if name.len() > 15 {
        "it is longer than 15 bytes"
    } else if name == "." || name == ".." {
        "it is the name of a directory"
    } else if name.contains(['/', ':', '%', '\0']) {
        "it contains a slash, a colon, a percent sign or a zero byte"
    } else if name
        .bytes()
        .any(|byte| byte.is_ascii_whitespace() || byte == 0x0b)
    {
        "it contains white space"
    } else {
        return Ok(());
    };
    Err(PlatformError::NameInvalid {
        name: name.into(),
        why,
    })
}

fn check_mtu(mtu: u16) -> Result<(), PlatformError> {
    if mtu < LEAST_MTU {
        return Err(PlatformError::MtuTooSmall { mtu });
    }
    Ok(())
}

fn name_taken(name: &str) -> PlatformError {
    PlatformError::NameTaken { name: name.into() }
}

fn prefixes(list: &[(Ipv6Addr, u8)]) -> Result<Vec<Prefix>, PlatformError> {
    list.iter()
        .map(|&(address, length)| {
            Prefix::new(IpAddr::V6(address), length)
                .ok_or_else(|| PlatformError::PrefixInvalid(format!("{address}/{length}")))
        })
        .collect()
}

/// Opens the driver and attaches to the interface of that name, which is made if there is none.
fn open_device(name: &str, header: bool) -> Result<File, PlatformError> {
    probe_driver()?;
    let mut config = tun::Configuration::default();
    config.tun_name(name).platform_config(|platform| {
        // The crate's own configuration speaks IPv4 ioctls; ours follows over netlink.
        platform.ensure_root_privileges(false);
        platform.vnet_hdr(header);
    });
    let device = tun::create(&config).map_err(|error| {
        PlatformError::io(format!("make interface {name}"), io::Error::from(error))
    })?;
    // SAFETY: `into_raw_fd` gives the descriptor up to us, and nobody else has it.
    Ok(File::from(unsafe {
        OwnedFd::from_raw_fd(device.into_raw_fd())
    }))
}

/// The same for an interface that is new, and not persistent.
fn make_device(name: &str, header: bool) -> Result<File, PlatformError> {
    let device = open_device(name, header).map_err(|error| match error.raw_os_error() {
        Some(nix::libc::EPERM) => PlatformError::NoPermission {
            what: format!("make interface {name}"),
            capability: "CAP_NET_ADMIN",
        },
        // Somebody was faster since the name was looked up: EINVAL when theirs is of another kind.
        Some(nix::libc::EBUSY | nix::libc::EINVAL) => name_taken(name),
        _ => error,
    })?;
    // An interface that waits for a process belongs to somebody: the driver attaches to it instead of making one.
    let attached =
        ioctl::attached(&device).map_err(|e| PlatformError::io("ask for the interface", e))?;
    if attached.persistent {
        return Err(name_taken(name));
    }
    Ok(device)
}

/// Tells a missing driver from a missing right to it before the `tun` crate makes one error of both.
pub fn probe_driver() -> Result<(), PlatformError> {
    use nix::libc::{EACCES, ENODEV, ENOENT, ENXIO, EPERM};
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun");
    match opened {
        Ok(_) => Ok(()),
        Err(error) => Err(match error.raw_os_error() {
            Some(ENOENT | ENODEV | ENXIO) => PlatformError::TunMissing,
            Some(EACCES) => PlatformError::TunDenied {
                source: error,
                fix: "its mode shuts this user out: `chmod 666 /dev/net/tun`, as udev does (making interfaces still needs CAP_NET_ADMIN)",
            },
            Some(EPERM) => PlatformError::TunDenied {
                source: error,
                fix: "the container or the unit must allow the device (DeviceAllow=/dev/net/tun rw)",
            },
            _ => PlatformError::io("open /dev/net/tun", error),
        }),
    }
}

/// Asks for all that the kernel has, then for less. Without any, packets still carry an (empty) header.
fn switch_offloads_on(device: &File) -> Offloads {
    let steps = [
        (
            // USO6 without USO4 is refused.
            Features::TCP | Features::UDP,
            Offloads {
                checksum: true,
                tcp: true,
                udp: true,
            },
        ),
        (
            Features::TCP,
            Offloads {
                checksum: true,
                tcp: true,
                udp: false,
            },
        ),
        (
            Features::CHECKSUM,
            Offloads {
                checksum: true,
                ..Offloads::default()
            },
        ),
    ];
    for (features, offloads) in steps {
        match ioctl::set_offload(device, features) {
            Ok(()) => return offloads,
            Err(error) => tracing::debug!(?offloads, %error, "offload refused"),
        }
    }
    Offloads::default()
}

fn set_nonblocking(device: &File) -> Result<(), PlatformError> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    fcntl(device, FcntlArg::F_GETFL)
        .map(OFlag::from_bits_retain)
        .and_then(|flags| fcntl(device, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)))
        .map(|_| ())
        .map_err(|e| PlatformError::io("make the TUN device non-blocking", e))
}

/// Some hosts switch IPv6 off for every new interface; ours is nothing without it.
fn enable_ipv6(name: &str) -> Result<(), PlatformError> {
    let path: PathBuf = ["/proc/sys/net/ipv6/conf", name, "disable_ipv6"]
        .iter()
        .collect();
    let off = match std::fs::read(&path) {
        Ok(text) => text.starts_with(b"1"),
        // No /proc here, or no IPv6 in the kernel: adding the address tells which.
        Err(_) => false,
    };
    if !off {
        return Ok(());
    }
    std::fs::write(&path, "0").map_err(|error| PlatformError::Ipv6Disabled {
        interface: name.into(),
        fix: format!(
            "{} could not be set to 0 ({error}); run `sysctl -w net.ipv6.conf.default.disable_ipv6=0`",
            path.display()
        ),
    })
}

#[cfg(test)]
mod tests;
