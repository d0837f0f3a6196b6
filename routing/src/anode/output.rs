//! What goes to the sockets: packets to one destination lie one behind the other, so that they leave in one call (GSO).
use super::Place;
use anode_wire::PeerId;
use std::collections::VecDeque;
use std::net::IpAddr;

/// Bytes of one batch at most: what UDP segmentation offload takes in one call, less headers.
pub const MAX_BATCH_BYTES: usize = 65_000;
/// Packets of one batch at most; older kernels take 64 segments (`UDP_MAX_SEGMENTS`).
pub const MAX_BATCH_SEGMENTS: usize = 64;

/// The two ECN bits of the IP header (RFC 3168).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Ecn {
    /// Not capable, or not known.
    #[default]
    NotCapable,
    /// ECT(1)
    Capable1,
    /// ECT(0)
    Capable0,
    /// Congestion experienced.
    Experienced,
}

/// Where a packet goes, and out of which of our sockets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Destination {
    /// The endpoint.
    pub to: Place,
    /// Index in the list given to `set_sockets`; 0 for what is not UDP.
    pub socket: usize,
    /// The source address to use, where it matters: broadcasts (it chooses the interface) and answers.
    pub source: Option<IpAddr>,
}

/// Datagrams from the underlay, one behind the other as the system joins them (GRO). They are decrypted in place.
#[derive(Debug)]
pub struct Received<'a> {
    /// Who sent it.
    pub from: Place,
    /// Index of our socket that answers to it; 0 for what is not UDP.
    pub socket: usize,
    /// The own address it was sent to, where the system tells.
    pub local_ip: Option<IpAddr>,
    /// Its ECN bits.
    pub ecn: Ecn,
    /// Their contents.
    pub bytes: &'a mut [u8],
    /// Bytes of each datagram but the last, which may be shorter.
    pub segment_size: usize,
}

/// How one datagram came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    pub from: Place,
    /// Index of our socket that answers to it; 0 for what is not UDP.
    pub socket: usize,
    pub local_ip: Option<IpAddr>,
    pub ecn: Ecn,
    /// Bytes of the datagram.
    pub len: usize,
    /// Relays that it says it has passed; nobody vouches for that (A39).
    pub hops: u8,
}

impl Way {
    /// The way back.
    pub fn reply_to(&self) -> Destination {
        let source = self
            .local_ip
            .filter(|ip| !ip.is_multicast() && *ip != IpAddr::V4(std::net::Ipv4Addr::BROADCAST));
        Destination {
            to: self.from,
            socket: self.socket,
            source,
        }
    }
}

/// Packets for one destination: all of `segment_size` bytes, but the last, which may be shorter.
#[derive(Debug)]
pub struct TransmitBatch {
    /// Where they go.
    pub destination: Destination,
    /// ECN bits to set.
    pub ecn: Ecn,
    /// Bytes of each packet but the last.
    pub segment_size: usize,
    /// The packets.
    pub contents: Vec<u8>,
    segments: usize,
    max_segments: usize,
}

impl TransmitBatch {
    /// An empty batch for a socket that takes `max_segments` packets in one call (1: no offload).
    pub fn new(max_segments: usize) -> Self {
        let nowhere = Destination {
            to: Place::NOWHERE,
            socket: 0,
            source: None,
        };
        Self {
            destination: nowhere,
            ecn: Ecn::NotCapable,
            segment_size: 0,
            contents: Vec::with_capacity(MAX_BATCH_BYTES),
            segments: 0,
            max_segments: max_segments.clamp(1, MAX_BATCH_SEGMENTS),
        }
    }

    /// Packets in it.
    pub fn segments(&self) -> usize {
        self.segments
    }

    /// Nothing in it.
    pub fn is_empty(&self) -> bool {
        self.segments == 0
    }

    /// The packets one by one.
    pub fn packets(&self) -> impl Iterator<Item = &[u8]> {
        self.contents.chunks(self.segment_size.max(1))
    }

    /// Empties it, and takes the limit of the socket that will send it.
    pub fn clear(&mut self, max_segments: usize) {
        self.contents.clear();
        self.segments = 0;
        self.segment_size = 0;
        self.max_segments = max_segments.clamp(1, MAX_BATCH_SEGMENTS);
    }

    /// Whether a packet of `len` bytes to `destination` may be the next one.
    pub(super) fn fits(&self, destination: &Destination, ecn: Ecn, len: usize) -> bool {
        if self.is_empty() {
            return true;
        }
        let open = self.contents.len() == self.segments * self.segment_size;
        open && self.segments < self.max_segments
            && len <= self.segment_size
            && self.contents.len() + len <= MAX_BATCH_BYTES
            && self.ecn == ecn
            && self.destination == *destination
    }

    /// Whether a packet of up to `len` bytes may follow at all.
    pub(super) fn has_room(&self, len: usize) -> bool {
        let open = self.contents.len() == self.segments * self.segment_size;
        open && self.segments < self.max_segments && self.contents.len() + len <= MAX_BATCH_BYTES
    }

    /// Says that `len` bytes more in `contents` are the next packet; it must have fitted.
    pub(crate) fn commit(&mut self, destination: Destination, ecn: Ecn, len: usize) {
        if self.segments == 0 {
            self.destination = destination;
            self.ecn = ecn;
            self.segment_size = len;
        }
        self.segments += 1;
        debug_assert!(self.contents.len() <= self.segments * self.segment_size);
    }
}

struct Queued {
    destination: Destination,
    len: usize,
}

/// A bounded queue of finished packets in one buffer, which is reused once it has run empty.
pub(super) struct Queue {
    bytes: Vec<u8>,
    /// Start of the first packet that is still to go.
    head: usize,
    packets: VecDeque<Queued>,
    limit: usize,
}

impl Queue {
    pub fn new(limit: usize) -> Self {
        Self {
            bytes: Vec::new(),
            head: 0,
            packets: VecDeque::new(),
            limit,
        }
    }

    /// Whether packets of so many bytes together still have a place.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.bytes.len() - self.head + bytes.saturating_sub(1) < self.limit
    }

    /// Appends the packet that `write` appends; `false` if the queue is full, or `write` says that there is none.
    pub fn push_if(
        &mut self,
        destination: Destination,
        write: impl FnOnce(&mut Vec<u8>) -> bool,
    ) -> bool {
        if self.bytes.len() - self.head >= self.limit {
            return false;
        }
        if self.head > self.limit {
            self.bytes.drain(..self.head);
            self.head = 0;
        }
        let start = self.bytes.len();
        if !write(&mut self.bytes) {
            self.bytes.truncate(start);
            return false;
        }
        self.packets.push_back(Queued {
            destination,
            len: self.bytes.len() - start,
        });
        true
    }

    /// Appends the packet that `write` appends; `false` if the queue is full.
    pub fn push(&mut self, destination: Destination, write: impl FnOnce(&mut Vec<u8>)) -> bool {
        self.push_if(destination, |out| {
            write(out);
            true
        })
    }

    /// Moves as many packets into the batch as fit one call.
    pub fn pop_into(&mut self, batch: &mut TransmitBatch) {
        while let Some(front) = self.packets.front() {
            if !batch.fits(&front.destination, Ecn::NotCapable, front.len) {
                return;
            }
            batch
                .contents
                .extend_from_slice(&self.bytes[self.head..self.head + front.len]);
            batch.commit(front.destination, Ecn::NotCapable, front.len);
            self.head += front.len;
            self.packets.pop_front();
        }
        self.bytes.clear();
        self.head = 0;
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }
}

/// A route to a peer as the senders of messages need it.
#[derive(Clone, Copy)]
pub(super) struct Route {
    pub destination: Destination,
    pub max_packet: usize,
    pub peer_id: PeerId,
    /// Bytes that may go there before it is proven; `None`: it is proven (Q25).
    pub credit: Option<usize>,
}

impl Route {
    /// Whether `bytes` may go there now.
    pub fn affords(&self, bytes: usize) -> bool {
        self.credit.is_none_or(|credit| credit >= bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    fn to(port: u16) -> Destination {
        Destination {
            to: SocketAddr::from(([192, 0, 2, 1], port)).into(),
            socket: 0,
            source: None,
        }
    }

    #[test]
    fn equal_packets_to_one_place_share_a_batch() {
        let mut queue = Queue::new(1 << 20);
        for (port, len) in [(1, 100), (1, 100), (1, 60), (1, 60), (2, 60), (2, 80)] {
            assert!(queue.push(to(port), |out| out.resize(out.len() + len, 7)));
        }
        let mut batch = TransmitBatch::new(64);
        let mut shapes = Vec::new();
        while !queue.is_empty() {
            batch.clear(64);
            queue.pop_into(&mut batch);
            shapes.push((
                batch.destination.to.udp().unwrap().port(),
                batch.packets().map(<[u8]>::len).collect::<Vec<_>>(),
            ));
        }
        assert_eq!(
            shapes,
            [
                (1, vec![100, 100, 60]),
                (1, vec![60]),
                (2, vec![60]),
                (2, vec![80])
            ]
        );
    }

    #[test]
    fn batches_and_queues_are_bounded() {
        let mut queue = Queue::new(10_000);
        let taken = (0..1000)
            .filter(|_| queue.push(to(1), |out| out.resize(out.len() + 1000, 0)))
            .count();
        assert_eq!(taken, 10);
        let mut batch = TransmitBatch::new(4);
        queue.pop_into(&mut batch);
        assert_eq!((batch.segments(), batch.contents.len()), (4, 4000));
        let mut wide = TransmitBatch::new(1000);
        let mut queue = Queue::new(1 << 20);
        while queue.push(to(1), |out| out.resize(out.len() + 1232, 0)) {}
        queue.pop_into(&mut wide);
        assert!(wide.contents.len() <= MAX_BATCH_BYTES && wide.segments() == 52);
    }
}
