//! The ioctls of the TUN driver that the `tun` crate does not have (`linux/if_tun.h`).

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::AsRawFd;

use nix::libc;

/// Bits of TUNSETOFFLOAD.
#[derive(Clone, Copy)]
pub(crate) struct Features(libc::c_ulong);

impl Features {
    /// TUN_F_CSUM.
    pub(crate) const CHECKSUM: Self = Self(0x01);
    /// TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_TSO_ECN.
    pub(crate) const TCP: Self = Self(0x0f);
    /// TUN_F_USO4, TUN_F_USO6.
    pub(crate) const UDP: Self = Self(0x60);
}

impl std::ops::BitOr for Features {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

mod raw {
    use nix::libc;

    nix::ioctl_read!(tun_get_iff, b'T', 210, libc::c_uint);
    nix::ioctl_write_ptr!(tun_set_header_size, b'T', 216, libc::c_int);
    nix::ioctl_write_int_bad!(
        /// The argument is the value itself, though the number claims a pointer.
        tun_set_offload,
        nix::request_code_write!(b'T', 208, std::mem::size_of::<libc::c_uint>())
    );
}

/// What a descriptor is attached to.
pub(crate) struct Attached {
    pub(crate) name: String,
    pub(crate) is_tun: bool,
    pub(crate) packet_information: bool,
    pub(crate) vnet_header: bool,
    pub(crate) persistent: bool,
}

/// TUNGETIFF: fails when `device` is no TUN or has no interface.
pub(crate) fn attached(device: &File) -> nix::Result<Attached> {
    /// The kernel writes a whole `ifreq`, though the ioctl's number says `unsigned int`.
    #[repr(C)]
    union Request {
        number: libc::c_uint,
        ifreq: libc::ifreq,
    }
    // SAFETY: an `ifreq` is plain old data, for which all zeros is a value.
    let ifreq = unsafe { std::mem::zeroed() };
    let mut request = Request { ifreq };
    // SAFETY: the kernel writes `size_of::<ifreq>()` bytes, for which the union has room.
    unsafe { raw::tun_get_iff(device.as_raw_fd(), (&raw mut request).cast())? };
    // SAFETY: all bytes are initialised, by us or by the kernel.
    let request = unsafe { request.ifreq };
    // SAFETY: this ioctl fills the member `ifru_flags`; any bits are a value of it.
    let flags = i32::from(unsafe { request.ifr_ifru.ifru_flags });
    // SAFETY: `c_char` and `u8` are of one size and layout, and the array outlives the slice.
    let name: &[u8; libc::IFNAMSIZ] =
        unsafe { &*(&raw const request.ifr_name).cast::<[u8; libc::IFNAMSIZ]>() };
    let name = CStr::from_bytes_until_nul(name).map_err(|_| nix::Error::EINVAL)?;
    let has = |bit: i32| flags & bit != 0;
    Ok(Attached {
        name: name.to_string_lossy().into_owned(),
        is_tun: has(libc::IFF_TUN),
        packet_information: !has(libc::IFF_NO_PI),
        vnet_header: has(libc::IFF_VNET_HDR),
        persistent: has(libc::IFF_PERSIST),
    })
}

/// TUNSETVNETHDRSZ.
pub(crate) fn set_header_size(device: &File, bytes: usize) -> nix::Result<()> {
    let bytes = bytes as libc::c_int;
    // SAFETY: the kernel reads one `int` from a live reference.
    unsafe { raw::tun_set_header_size(device.as_raw_fd(), &bytes) }.map(|_| ())
}

/// TUNSETOFFLOAD.
pub(crate) fn set_offload(device: &File, features: Features) -> nix::Result<()> {
    // SAFETY: the argument is a number; the kernel touches no memory of ours.
    unsafe { raw::tun_set_offload(device.as_raw_fd(), features.0 as libc::c_int) }.map(|_| ())
}
