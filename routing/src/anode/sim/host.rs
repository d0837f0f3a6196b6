//! A machine of the simulation: a node, its sockets and clocks, and what its programs do.
use super::*;

/// What the node's programs have seen.
#[derive(Default)]
pub struct Program {
    pub events: Vec<(Instant, OverlayEvent)>,
    pub datagrams: Vec<(Ipv6Addr, u16, Ipv6Addr, u16, Vec<u8>)>,
    pub others: Vec<(Ipv6Addr, u8, Vec<u8>)>,
    /// Bytes read, per stream.
    pub read: BTreeMap<StreamId, Vec<u8>>,
    /// Bytes still to write, per stream; the stream is finished after them.
    pub to_write: BTreeMap<StreamId, (Vec<u8>, usize)>,
    pub accepted: Vec<StreamId>,
    /// What it does with incoming streams.
    pub accepts: bool,
}

impl OverlaySink for Program {
    fn datagram(
        &mut self,
        from: Ipv6Addr,
        from_port: u16,
        to: Ipv6Addr,
        to_port: u16,
        payload: &[u8],
    ) {
        self.datagrams
            .push((from, from_port, to, to_port, payload.to_vec()));
    }
    fn other(&mut self, from: Ipv6Addr, _to: Ipv6Addr, next_header: u8, payload: &[u8]) {
        self.others.push((from, next_header, payload.to_vec()));
    }
}

pub struct Host {
    pub node: Node,
    pub at: SocketAddr,
    /// Its sockets beside the main one: number and port.
    pub(super) extra: BTreeMap<usize, u16>,
    /// A second uplink: its interface and the machine's address there.
    pub second: Option<(u32, IpAddr)>,
    /// Those of its sockets that send over it, whatever the routes say.
    pub(super) over_second: BTreeSet<usize>,
    pub(super) next_port: u16,
    pub program: Program,
    pub up: bool,
    /// How long it has slept in all: its clock stands still meanwhile, and that of the day does not.
    pub(super) slept: Duration,
    /// It has slept, and has not looked at its clocks since.
    pub(super) wakes: bool,
    /// Packets and bytes it has put on the wire.
    pub sent: (u64, u64),
    /// Packets and timers that it woke for.
    pub woken: u64,
    /// Bytes a second that it can send, if not the link's.
    pub rate: Option<u64>,
    /// When its line has nothing left to send.
    pub(super) line_free: Instant,
}

impl Host {
    /// The number of its socket at a place.
    pub(super) fn socket_at(&self, at: &Place) -> Option<usize> {
        let address = at.address()?;
        if self.second.is_some_and(|(_, ip)| address.ip() == ip) {
            let mut over = self.over_second.iter();
            let here = |number: &&usize| self.extra.get(number) == Some(&address.port());
            return over.find(here).copied();
        }
        if address.ip() != self.at.ip() {
            return None;
        }
        if address.port() == self.at.port() {
            return Some(0);
        }
        at.udp()?;
        let mut extra = self.extra.iter();
        let found = extra.find(|(_, port)| **port == address.port());
        found.map(|(number, _)| *number)
    }

    /// One of its addresses.
    pub(super) fn is_at(&self, ip: IpAddr) -> bool {
        self.at.ip() == ip || self.second.is_some_and(|(_, second)| second == ip)
    }

    /// What its clock shows at a moment.
    pub(super) fn clock(&self, now: Instant) -> Instant {
        now - self.slept
    }

    /// The moment of its next deadline.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.node.deadline().map(|(at, _)| at + self.slept)
    }

    /// Its first look at the clocks after a sleep, as before all that a program does.
    pub(super) fn look_at_clocks(&mut self, now: Now) {
        if std::mem::take(&mut self.wakes) {
            let at = self.clock(now.at);
            self.node.set_clock(Now { at, ..now });
        }
    }

    pub(super) fn obey_orders(&mut self, now: Instant) {
        while let Some(order) = self.node.poll_socket() {
            match order {
                SocketOrder::Open {
                    number, interface, ..
                } => {
                    self.next_port += 1;
                    if interface.is_some() && interface == self.second.map(|(index, _)| index) {
                        self.over_second.insert(number);
                    }
                    self.extra.insert(number, self.next_port);
                    self.node.socket_opened(now, number, true);
                }
                SocketOrder::Close(number) => {
                    self.extra.remove(&number);
                    self.over_second.remove(&number);
                }
            }
        }
    }

    /// Sockets beside the main one.
    pub fn extra_sockets(&self) -> usize {
        self.extra.len()
    }
}
