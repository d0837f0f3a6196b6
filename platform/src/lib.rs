//! What anode needs of Linux: the virtual interface, addresses and routes, namespaces, files, privileges.
//!
//! ```text
//!            tunnel: `anode up`, `demo`, `guard`                  routing, tests
//!      ┌───────────┬────────────┬───────────┬──────────┐              │
//!  ┌───▼───┐   ┌───▼────┐  ┌────▼─────┐ ┌───▼────┐ ┌───▼──┐   ┌───────▼───────┐
//!  │  tun  │   │ files  │  │privileges│ │ notify │ │ wake │   │ netns         │
//!  │ create│   │ atomic │  │ has,     │ │ systemd│ │ wait │   │ new, run,     │
//!  │ recv  │   │ secret │  │ confine, │ └────────┘ └──────┘   │ command, named│
//!  │ send  │   │ lock   │  │ peers    │                       └───────┬───────┘
//!  └─┬───┬─┘   └────────┘  └──────────┘                               │
//!    │   │ MTU, addresses, routes, up                                 │ loopback up
//!    │ ┌─▼────────────────────────────────────────────────────────────▼─┐
//!    │ │ netlink: links · addresses · routes, conflicts, guard · monitor│
//!    │ └────────────────────────────────┬───────────────────────────────┘
//!    │ /dev/net/tun + TUNSETOFFLOAD     │ rtnetlink, no `ip`
//!  ──▼──────────────────────────────────▼───────────── Linux ──────────────
//! ```
//!
//! Everything here is synchronous and acts on the calling thread's network namespace. Only [`tun::Tun::recv`],
//! [`tun::Tun::send`], [`wait`] and [`wake`] are meant for the data path: they neither allocate nor lock.
//!
//! The interface needs CAP_NET_ADMIN and nothing else:
//!
//! ```no_run
//! use anode_platform::tun::{RECEIVE_BUFFER, Tun, TunConfig};
//!
//! let tun = Tun::create(&TunConfig {
//!     name: "anode0".into(),
//!     mtu: 1280,
//!     offload: true,
//!     addresses: vec![("fda0:8ed7:8a43:c2c:b76a:57af:6262:3020".parse()?, 128)],
//!     routes: vec![("fda0::".parse()?, 16)],
//! })?;
//! let mut buffer = vec![0; RECEIVE_BUFFER];
//! let (header, length) = tun.recv(&mut buffer)?;
//! println!("{} bytes, segments of {}", length, header.gso_size);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! This is the only crate of the workspace with `unsafe`; each use has its reason beside it.
#![deny(unsafe_op_in_unsafe_fn)]
#![deny(clippy::undocumented_unsafe_blocks)]

mod error;
pub mod files;
pub mod fragments;
pub mod frames;
mod ioctl;
pub mod netlink;
pub mod netns;
pub mod notify;
mod prefix;
pub mod privileges;
pub mod process;
pub mod tun;
pub mod wait;
pub mod wake;

pub use error::PlatformError;
pub use prefix::Prefix;
