//! TURN, as far as nodes see of it.
use crate::anode::TurnOrder;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// A TURN server with one client.
#[derive(Default)]
pub struct Turn {
    /// The host whose allocation stands.
    pub client: Option<usize>,
    pub(super) permitted: Vec<IpAddr>,
}

impl Turn {
    /// The address it relays from.
    pub const RELAYED: SocketAddr =
        SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1)), 50_000);

    pub(super) fn obey(&mut self, index: usize, order: TurnOrder) -> Vec<SocketAddr> {
        let wanted = order == TurnOrder::Allocate;
        self.client = wanted.then_some(index);
        self.permitted.clear();
        self.client.map(|_| Self::RELAYED).into_iter().collect()
    }
}
