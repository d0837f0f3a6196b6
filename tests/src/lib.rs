//! Whole-system tests of anode: real programs, real interfaces, real nodes, in networks of our own.
//!
//! ```text
//!   tests/e2e/*.rs     what the program promises, a file per theme        bench          ratios to the plain link
//!        │                                                                     │
//!   ┌────▼─────────────────────────────────────────────────────────────────────▼───┐
//!   │ lab       namespaces, cables, LANs, processes, nodes; the user of the program  │
//!   │ programs  ping, curl, ssh, iperf3, dig and the servers they talk to            │
//!   │ traffic   std sockets: digested streams, echoes, half-closes, resets           │
//!   │ flow      a TCP transfer that runs while things happen; gateway: boxes that open ports  │
//!   │ i2p       a strict I2P router of our own, and i2pd                             │
//!   │ capture   what is on the wire, and packets that should not be                  │
//!   │ light, sealed_light   peers of one socket and one key, for hundreds of them    │
//!   │ matrix    pairs of sites behind NATs: what they reach, how soon, at what price   │
//!   └────────────────────────────────────────────────────────────────────────────────┘
//!   bench (bin/bench): the overlay beside the plain link, as ratios
//!   coverage (bin/coverage): which requirement ids of docs/spec no test names
//! ```
//!
//! Every test makes its own namespaces. They have no names and are held by a thread of the test process alone: when the
//! process ends, however it ends, the kernel takes them and everything in them away.
#![forbid(unsafe_code)]

pub mod bench;
pub mod capture;
pub mod coverage;
pub mod flow;
pub mod gateway;
pub mod i2p;
pub mod lab;
pub mod light;
pub mod matrix;
pub mod programs;
pub mod sealed_light;
pub mod tracker;
pub mod traffic;
