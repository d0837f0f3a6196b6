//! What anode needs of Linux. The only crate with `unsafe`.
#![deny(unsafe_op_in_unsafe_fn)]
#![deny(clippy::undocumented_unsafe_blocks)]

mod error;
pub mod files;
mod ioctl;
pub mod netlink;
pub mod netns;
pub mod notify;
mod prefix;
pub mod privileges;
pub mod tun;
pub mod wake;

pub use error::PlatformError;
pub use prefix::Prefix;
