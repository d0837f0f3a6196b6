//! What the overlay's side asks of the table.

use std::net::{Ipv6Addr, SocketAddrV6};
use std::time::Instant;

use rand::RngExt;

use super::flow::Live;
use super::segment::{Segment, Tuple};
use super::{Flow, Flows, Outside, Stage, index};
use crate::packet::Header;
use crate::{FlowId, Offload};

impl Flows {
    /// Lets the SYN-ACK go.
    pub fn accept(&mut self, now: Instant, id: FlowId, outside: &mut Outside<'_>) {
        let Some(Flow {
            stage: Stage::Opening { syn },
            tuple,
            ..
        }) = self.find(id)
        else {
            return;
        };
        let (syn, peer) = (std::mem::take(syn), tuple.peer());
        let Ok(segment) = Header::parse(&syn).and_then(|header| Segment::parse(&header, &syn))
        else {
            // Cannot be: it was read before it was kept.
            self.take(id);
            return;
        };
        let (socket, seed) = (self.socket(), self.random.random());
        let (link, clock, scratch) = (self.link, &mut self.clock, &mut self.scratch);
        let live = Live::accepting(socket, link, peer, seed, now).and_then(|mut live| {
            live.ingress(now, clock, link, &syn, &segment, scratch);
            live.took_syn().then_some(live)
        });
        let (Some(live), Some(flow)) = (live, self.find(id)) else {
            // Its options are broken, so that smoltcp does not take it.
            self.take(id);
            outside.send(&segment.reset(), Offload::default());
            return;
        };
        flow.stage = Stage::Live(Box::new(live));
        flow.timer = None;
        self.opened(*peer.ip());
        self.enqueue(id);
    }

    /// Answers a SYN that waits with RST.
    pub fn refuse_waiting(&mut self, id: FlowId, outside: &mut Outside<'_>) {
        let Some(syn) = self.forget(id) else { return };
        if let Ok(segment) = Header::parse(&syn).and_then(|header| Segment::parse(&header, &syn)) {
            outside.send(&segment.reset(), Offload::default());
        }
    }

    /// Forgets a flow that waits; returns its SYN.
    pub fn forget(&mut self, id: FlowId) -> Option<Box<[u8]>> {
        if !matches!(self.find(id)?.stage, Stage::Opening { .. }) {
            return None;
        }
        match self.take(id)?.stage {
            Stage::Opening { syn } => Some(syn),
            Stage::Live(_) => None,
        }
    }

    /// Connects to a program of this machine.
    pub fn connect(
        &mut self,
        now: Instant,
        from: SocketAddrV6,
        to: SocketAddrV6,
        outside: &mut Outside<'_>,
    ) -> Option<FlowId> {
        let tuple = Tuple {
            program: (*to.ip(), to.port()),
            peer: (*from.ip(), from.port()),
        };
        let usable =
            |ip: &Ipv6Addr| !ip.is_multicast() && !ip.is_unspecified() && !ip.is_loopback();
        if self.table.len() >= self.max_flows
            || self.by_tuple.contains_key(&tuple)
            || !usable(from.ip())
            || !usable(to.ip())
        {
            return None;
        }
        let (socket, seed) = (self.socket(), self.random.random());
        let program = (to, self.manners.listens_first(to.port()));
        let live = Live::connecting(socket, self.link, from, program, seed, now)?;
        self.lingering.remove(&tuple);
        let id = self.insert(tuple, None, Stage::Live(Box::new(live)), outside);
        self.enqueue(id);
        Some(id)
    }

    pub fn receive(
        &mut self,
        id: FlowId,
        sink: &mut dyn FnMut(&[u8]) -> usize,
        outside: &mut Outside<'_>,
    ) -> usize {
        let Some(live) = self.live(id) else { return 0 };
        let taken = live.receive(sink);
        live.observe_end(id, &mut |event| outside.events.push_back(event));
        // A window update, or the end of the flow.
        self.enqueue(id);
        taken
    }

    pub fn send(&mut self, now: Instant, id: FlowId, data: &[u8]) -> usize {
        let Some(live) = self.live(id) else { return 0 };
        let taken = live.send(now, data);
        if taken > 0 {
            if live.breaks_silence()
                && let Some(flow) = self.find(id)
            {
                let port = flow.tuple.program.1;
                self.manners.learn(port, true);
            }
            self.enqueue(id);
        }
        taken
    }

    pub fn send_room(&self, id: FlowId) -> usize {
        match self
            .table
            .get(index(id))
            .filter(|flow| flow.id == id)
            .map(|flow| &flow.stage)
        {
            Some(Stage::Live(live)) => live.send_room(),
            _ => 0,
        }
    }

    pub fn finish(&mut self, now: Instant, id: FlowId) {
        let Some(live) = self.live(id) else { return };
        live.finish(now);
        self.enqueue(id);
    }

    pub fn reset(&mut self, id: FlowId, outside: &mut Outside<'_>) {
        match self.live(id) {
            Some(live) => {
                live.reset();
                self.enqueue(id);
            }
            None => self.refuse_waiting(id, outside),
        }
    }
}
