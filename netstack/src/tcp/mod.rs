//! The table of TCP flows: which segment belongs to which, which of them have work, and when the others want some.

mod calls;
mod device;
mod flow;
mod linger;
mod manners;
mod segment;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use slab::Slab;
use smoltcp::socket::tcp;

use self::device::Link;
use self::flow::{Clock, End, Live, Rest};
use self::linger::Lingering;
use self::manners::Manners;
use self::segment::{Segment, Tuple, hold};
use crate::packet::{Header, Reject};
use crate::queue::OutQueue;
use crate::{Config, Counters, Event, FlowId, Netstack, Offload};

/// What the table writes to besides itself.
pub(crate) struct Outside<'a> {
    pub queue: &'a mut OutQueue,
    pub events: &'a mut VecDeque<Event>,
    pub counters: &'a mut Counters,
}

impl Outside<'_> {
    fn send(&mut self, packet: &[u8], offload: Offload) {
        if !self.queue.push(&[packet], offload) {
            self.counters.queue_full += 1;
        }
    }
}

enum Stage {
    /// A program's SYN without an answer yet. Only the SYN is kept: a flood of them costs a few hundred bytes each, no
    /// buffers (S23), and smoltcp's timers never see a connection that must not move.
    Opening {
        syn: Box<[u8]>,
    },
    Live(Box<Live>),
}

struct Flow {
    id: FlowId,
    tuple: Tuple,
    /// The kernel's initial sequence number, once its SYN was seen.
    initial: Option<u32>,
    stage: Stage,
    /// It stands in `Flows::ready`.
    queued: bool,
    /// The earliest of its entries in `Flows::timers`.
    timer: Option<Instant>,
}

/// A timer that is no longer wanted is taken back if it is so near that the flow will hardly want one by then.
const SOON: Duration = Duration::from_millis(4);

pub(crate) struct Flows {
    link: Link,
    buffer: usize,
    max_flows: usize,
    random: StdRng,
    clock: Clock,
    table: Slab<Flow>,
    by_tuple: HashMap<Tuple, FlowId, foldhash::quality::RandomState>,
    /// Flows that may have packets, each once; ids of flows that are gone are skipped.
    ready: VecDeque<FlowId>,
    /// Entries whose time is not their flow's `timer` are skipped.
    timers: BinaryHeap<Reverse<(Instant, FlowId)>>,
    generation: u32,
    /// Waiting SYNs by destination.
    opening: HashMap<Ipv6Addr, usize>,
    lingering: Lingering,
    manners: Manners,
    /// For answers during `ingress`.
    scratch: Vec<u8>,
    /// Sockets of flows that are gone, the last one on top. Short connections so cost no allocation, and no page faults:
    /// glibc's `calloc` writes zeros over recycled memory, which would make every page of the buffers resident.
    spare: Vec<tcp::Socket<'static>>,
}

impl Flows {
    /// Of all flows, one in so many may wait for one destination: one dead peer must not stop the others (S23).
    const OPENING_SHARE: usize = 8;
    /// Bytes of buffers that `spare` may hold.
    const SPARE_BYTES: usize = 8 * 1024 * 1024;

    pub fn new(config: &Config, seed: [u8; 32]) -> Self {
        Self {
            link: Link {
                mtu: config.mtu,
                offload: config.offload,
            },
            buffer: config.tcp_buffer,
            max_flows: config.max_flows,
            random: StdRng::from_seed(seed),
            clock: Clock::default(),
            table: Slab::new(),
            by_tuple: HashMap::default(),
            ready: VecDeque::new(),
            timers: BinaryHeap::new(),
            generation: 0,
            opening: HashMap::new(),
            lingering: Lingering::default(),
            manners: Manners::new(),
            scratch: Vec::new(),
            spare: Vec::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.table.len()
    }

    fn socket(&mut self) -> tcp::Socket<'static> {
        self.spare
            .pop()
            .unwrap_or_else(|| flow::socket(self.buffer))
    }

    fn keep_socket(&mut self, live: Live) {
        if (self.spare.len() + 1) * 2 * self.buffer <= Self::SPARE_BYTES {
            self.spare.push(live.into_socket());
        }
    }

    /// A segment of the kernel: a fixed header directly followed by TCP, its checksum found right.
    pub fn ingress(
        &mut self,
        now: Instant,
        header: &Header,
        packet: &[u8],
        outside: &mut Outside<'_>,
    ) -> Result<(), Reject> {
        let segment = Segment::parse(header, packet)?;
        let known = self.by_tuple.get(&segment.tuple).copied();
        if segment.syn && !segment.ack {
            if let Some(id) = known {
                let flow = &mut self.table[index(id)];
                match flow.initial {
                    Some(initial) if initial == segment.sequence => {
                        outside.counters.tcp_duplicate_syn += 1;
                        return Ok(());
                    }
                    // Both sides dial at once (N13): smoltcp knows how.
                    None if matches!(&flow.stage, Stage::Live(live) if live.is_connecting()) => {
                        flow.initial = Some(segment.sequence);
                        self.deliver(now, id, packet, &segment, outside);
                        return Ok(());
                    }
                    // The kernel uses the ports again, so it has forgotten what was there (N12).
                    _ => {
                        outside.counters.tcp_replaced += 1;
                        self.end(now, id, End::Reset, outside);
                    }
                }
            }
            self.open(now, packet, &segment, outside);
            return Ok(());
        }
        match known {
            Some(id) => self.deliver(now, id, packet, &segment, outside),
            None => self.stray(now, &segment, outside),
        }
        Ok(())
    }

    /// A segment for an address that is never connected to.
    pub fn refuse(
        &mut self,
        header: &Header,
        packet: &[u8],
        outside: &mut Outside<'_>,
    ) -> Result<(), Reject> {
        let segment = Segment::parse(header, packet)?;
        outside.counters.tcp_unknown += 1;
        if !segment.rst {
            outside.send(&segment.reset(), Offload::default());
        }
        Ok(())
    }

    fn open(&mut self, now: Instant, packet: &[u8], segment: &Segment, outside: &mut Outside<'_>) {
        let tuple = segment.tuple;
        self.lingering.remove(&tuple);
        let waiting = self.opening.get(&tuple.peer.0).copied().unwrap_or(0);
        let share = (self.max_flows / Self::OPENING_SHARE).max(1);
        if self.table.len() >= self.max_flows || waiting >= share {
            outside.counters.tcp_no_room += 1;
            return;
        }
        *self.opening.entry(tuple.peer.0).or_default() += 1;
        let syn = hold(packet, segment.header_len);
        let flow = self.insert(
            tuple,
            Some(segment.sequence),
            Stage::Opening { syn },
            outside,
        );
        self.set_timer(flow, now + Netstack::OPEN_TIMEOUT);
        outside.events.push_back(Event::TcpOpen {
            flow,
            from: tuple.program(),
            to: tuple.peer(),
        });
    }

    fn insert(
        &mut self,
        tuple: Tuple,
        initial: Option<u32>,
        stage: Stage,
        outside: &mut Outside<'_>,
    ) -> FlowId {
        self.generation = self.generation.wrapping_add(1);
        let entry = self.table.vacant_entry();
        let id = FlowId(u64::from(self.generation) << 32 | entry.key() as u64);
        entry.insert(Flow {
            id,
            tuple,
            initial,
            stage,
            queued: false,
            timer: None,
        });
        self.by_tuple.insert(tuple, id);
        outside.counters.tcp_opened += 1;
        id
    }

    fn deliver(
        &mut self,
        now: Instant,
        id: FlowId,
        packet: &[u8],
        segment: &Segment,
        outside: &mut Outside<'_>,
    ) {
        let flow = &mut self.table[index(id)];
        let Stage::Live(live) = &mut flow.stage else {
            // Nothing was answered yet, so only a RST means something.
            if segment.rst {
                self.end(now, id, End::Reset, outside);
            } else {
                outside.counters.tcp_unknown += 1;
            }
            return;
        };
        let (sent, end) = live.ingress(
            now,
            &mut self.clock,
            self.link,
            packet,
            segment,
            &mut self.scratch,
        );
        if sent {
            let offload = self.link.finish(&mut self.scratch, live.mss());
            outside.send(&self.scratch, offload);
        }
        if let Some(end) = end {
            self.end(now, id, end, outside);
            return;
        }
        live.observe(id, &mut |event| outside.events.push_back(event));
        if live.has_unread() && live.breaks_silence() {
            self.manners.learn(segment.tuple.program.1, false);
        }
        self.enqueue(id);
    }

    /// A segment of no flow.
    fn stray(&mut self, now: Instant, segment: &Segment, outside: &mut Outside<'_>) {
        if segment.rst {
            outside.counters.tcp_unknown += 1;
            self.lingering.remove(&segment.tuple);
        } else if let Some(numbers) = self.lingering.get(&segment.tuple, now) {
            outside.send(&segment.last_ack(numbers), Offload::default());
        } else {
            outside.counters.tcp_unknown += 1;
            outside.send(&segment.reset(), Offload::default());
        }
    }

    /// Takes a flow out and tells how it ended.
    fn end(&mut self, now: Instant, id: FlowId, end: End, outside: &mut Outside<'_>) {
        let Some(flow) = self.take(id) else { return };
        let mut told = true;
        if let Stage::Live(live) = flow.stage {
            told = !live.is_resetting();
            self.keep_socket(*live);
        }
        let event = match end {
            End::Closed { linger } => {
                if let Some(numbers) = linger {
                    self.lingering.insert(flow.tuple, numbers, now);
                }
                Event::TcpClosed { flow: id }
            }
            End::Reset => Event::TcpReset { flow: id },
            End::Refused { timed_out } => {
                outside.counters.tcp_timed_out += u64::from(timed_out);
                Event::TcpRefused {
                    flow: id,
                    timed_out,
                }
            }
            End::Unanswered => {
                outside.counters.tcp_timed_out += 1;
                Event::TcpReset { flow: id }
            }
            End::Silent => return,
        };
        if told {
            outside.events.push_back(event);
        }
    }

    fn take(&mut self, id: FlowId) -> Option<Flow> {
        self.find(id)?;
        let flow = self.table.remove(index(id));
        self.by_tuple.remove(&flow.tuple);
        if matches!(flow.stage, Stage::Opening { .. }) {
            self.opened(flow.tuple.peer.0);
        }
        Some(flow)
    }

    /// One SYN less waits for this destination.
    fn opened(&mut self, peer: Ipv6Addr) {
        if let Some(waiting) = self.opening.get_mut(&peer) {
            *waiting -= 1;
            if *waiting == 0 {
                self.opening.remove(&peer);
            }
        }
    }

    fn find(&mut self, id: FlowId) -> Option<&mut Flow> {
        self.table.get_mut(index(id)).filter(|flow| flow.id == id)
    }

    /// A flow that its user may still use.
    fn live(&mut self, id: FlowId) -> Option<&mut Live> {
        match &mut self.find(id)?.stage {
            Stage::Live(live) if !live.is_resetting() => Some(live),
            _ => None,
        }
    }

    fn enqueue(&mut self, id: FlowId) {
        let Some(flow) = self.find(id) else { return };
        if !flow.queued {
            flow.queued = true;
            self.ready.push_back(id);
        }
    }

    fn set_timer(&mut self, id: FlowId, at: Instant) {
        let Some(flow) = self.find(id) else { return };
        // A later wish waits for the entry that exists: it is looked at again then, and there is at most one push per pop.
        if flow.timer.is_some_and(|timer| timer <= at) {
            return;
        }
        flow.timer = Some(at);
        self.timers.push(Reverse((at, id)));
        // Flows that came and went leave entries behind; more of them than flows are not kept.
        if self.timers.len() > 2 * self.table.len() + 64 {
            let table = &self.table;
            self.timers
                .retain(|&Reverse((at, id))| is_due(table, id, at));
        }
    }

    /// Drops entries that mean nothing any more from the head, so that nobody wakes up for them.
    fn prune_timers(&mut self) {
        while let Some(&Reverse((at, id))) = self.timers.peek() {
            if is_due(&self.table, id, at) {
                return;
            }
            self.timers.pop();
        }
    }

    /// When the earliest flow wants to be looked at.
    pub fn deadline(&self) -> Option<Instant> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    /// Looks at the flows whose time has come; calls `expired` with each SYN that waited too long.
    pub fn handle_timeout(
        &mut self,
        now: Instant,
        outside: &mut Outside<'_>,
        mut expired: impl FnMut(Box<[u8]>),
    ) {
        while let Some(&Reverse((at, id))) = self.timers.peek() {
            if at > now {
                break;
            }
            self.timers.pop();
            let Some(flow) = self.find(id).filter(|flow| flow.timer == Some(at)) else {
                continue;
            };
            flow.timer = None;
            match &mut flow.stage {
                Stage::Opening { syn } => {
                    expired(std::mem::take(syn));
                    outside.counters.tcp_timed_out += 1;
                    self.end(now, id, End::Reset, outside);
                }
                Stage::Live(_) => self.enqueue(id),
            }
        }
    }

    /// The next segment, of the flow that has waited longest.
    pub fn poll_packet(
        &mut self,
        now: Instant,
        out: &mut Vec<u8>,
        outside: &mut Outside<'_>,
    ) -> Option<Offload> {
        while let Some(id) = self.ready.pop_front() {
            let (clock, link) = (&mut self.clock, self.link);
            let Some(flow) = self.table.get_mut(index(id)).filter(|flow| flow.id == id) else {
                continue;
            };
            let Stage::Live(live) = &mut flow.stage else {
                continue;
            };
            outside.counters.flow_polls += 1;
            if live.egress(now, clock, link, out) {
                let offload = link.finish(out, live.mss());
                self.ready.push_back(id);
                return Some(offload);
            }
            match live.rest(now, clock) {
                Rest::Over(end) => self.end(now, id, end, outside),
                Rest::Until(wanted) => {
                    flow.queued = false;
                    // An ACK that was to wait has left with data: nobody shall wake up for it.
                    flow.timer.take_if(|at| {
                        *at <= now + SOON && wanted.is_none_or(|wanted| wanted > *at)
                    });
                    if let Some(at) = wanted {
                        self.set_timer(id, at);
                    }
                }
            }
        }
        self.prune_timers();
        None
    }
}

/// Whether a flow is there and waits for just this time.
fn is_due(table: &Slab<Flow>, id: FlowId, at: Instant) -> bool {
    table
        .get(index(id))
        .is_some_and(|flow| flow.id == id && flow.timer == Some(at))
}

/// The place in the table: the lower half of the id.
fn index(id: FlowId) -> usize {
    (id.0 & u64::from(u32::MAX)) as usize
}
