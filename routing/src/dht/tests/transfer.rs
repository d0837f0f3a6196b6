//! Transfers of programs that connect: a stream's bytes in the units of a conversation.
use super::*;
use crate::dht::bytes::{self, Bytes, Event};
use std::time::Instant;

const APPLICATION: u16 = 5062;

/// One end of a connection, at a node, in a conversation there.
struct End {
    node: usize,
    conversation: Option<ConversationId>,
    bytes: Option<Bytes>,
    /// What it has still to write, and what it has read.
    writes: Vec<u8>,
    read: Vec<u8>,
    finished: bool,
    aborted: bool,
}

impl End {
    fn new(node: usize, writes: Vec<u8>) -> Self {
        Self {
            node,
            conversation: None,
            bytes: None,
            writes,
            read: Vec::new(),
            finished: false,
            aborted: false,
        }
    }
}

/// A connection of a program at one node to one at another.
struct Transfer {
    epoch: Instant,
    shared: bytes::Shared,
    ends: [End; 2],
    over: Vec<Ended>,
}

impl Transfer {
    fn begin(net: &mut Net, from: usize, to: usize, callee: &Callee, writes: Vec<u8>) -> Self {
        let epoch = Instant::now();
        let shared = bytes::Shared::default();
        let mut ends = [End::new(from, writes), End::new(to, Vec::new())];
        let now = net.now();
        ends[0].conversation = net.nodes[from].open(now, APPLICATION, callee);
        ends[0].bytes = Some(Bytes::open(&shared, epoch + net.at, APPLICATION, 7, 1));
        Self {
            epoch,
            shared,
            ends,
            over: Vec::new(),
        }
    }

    /// Hands units on.
    fn carry(&mut self, net: &mut Net) {
        let at = self.epoch + net.at;
        for (node, conversation, heard) in std::mem::take(&mut net.heard) {
            let Some(end) = self.ends.iter_mut().find(|it| it.node == node) else {
                continue;
            };
            match heard {
                Heard::Begun { .. } => end.conversation = Some(conversation),
                Heard::Same(other) => end.conversation = Some(other),
                Heard::Unit(unit) => match &mut end.bytes {
                    Some(bytes) => bytes.handle(at, &unit),
                    None => {
                        end.bytes = Bytes::incoming(&self.shared, at, &unit, 2);
                        if let Some(bytes) = &mut end.bytes {
                            bytes.accept(at);
                        }
                    }
                },
                Heard::Over(why) => self.over.push(why),
            }
        }
        for end in &mut self.ends {
            let (Some(bytes), Some(conversation)) = (&mut end.bytes, end.conversation) else {
                continue;
            };
            if bytes.deadline().is_some_and(|due| due <= at) {
                bytes.handle_timeout(at);
            }
            if !end.writes.is_empty() {
                let written = bytes.write(at, &end.writes);
                end.writes.drain(..written);
                if end.writes.is_empty() {
                    bytes.finish(at);
                }
            }
            bytes.read(at, &mut end.read, usize::MAX);
            while let Some(event) = bytes.event() {
                match event {
                    Event::Finished => end.finished = true,
                    Event::Aborted { .. } => end.aborted = true,
                    _ => {}
                }
            }
            let mut said = false;
            while let Some(unit) = bytes.unit(at) {
                let now = net.now();
                net.nodes[end.node].say(now, conversation, unit);
                said = true;
            }
            if said {
                net.drain(end.node);
            }
        }
    }

    /// Until the other end has it all, or `limit` is over; how long that took.
    fn run(&mut self, net: &mut Net, limit: Duration) -> Duration {
        let begin = net.at;
        while net.at < begin + limit && self.over.is_empty() && !self.ends[1].finished {
            self.carry(net);
            net.run(Duration::from_millis(1));
        }
        net.at - begin
    }
}

fn pattern(len: u32) -> Vec<u8> {
    (0..len).map(|n| (n % 251) as u8).collect()
}

/// A ring in which node 3 serves connections, and nothing passes inside sessions but RELOAD's own: no CONNECT of an application
/// comes to anything.
fn tunnels_alone(count: usize) -> Net {
    let mut net = Net::new();
    net.served.push((3, APPLICATION));
    net.add(true, Role::Peer, &[]);
    for _ in 1..count {
        net.add(false, Role::Peer, &[0]);
        net.run(Duration::from_secs(3));
    }
    net.run(Duration::from_secs(60));
    net.loses = Some(Box::new(|_, _, body| body.first() == Some(&4)));
    net
}

// R61, R134: a transfer of megabytes goes in TUNNELs where there is nothing else: whole, and with nothing lost for want of room, also
// where each message takes a node 20 ms
#[test]
fn a_long_transfer_over_tunnels_alone_is_slow_and_whole() {
    for (work, bytes) in [(0, 3_000_000), (20, 200_000)] {
        let mut net = tunnels_alone(6);
        net.work = Duration::from_millis(work);
        let callee = Callee::Route(vec![net.nodes[3].id()]);
        let sent = pattern(bytes);
        let mut transfer = Transfer::begin(&mut net, 1, 3, &callee, sent.clone());
        let took = transfer.run(&mut net, Duration::from_secs(600));
        println!("{bytes} bytes, {work} ms a message: {took:?}");
        assert!(transfer.over.is_empty(), "{:?}", transfer.over);
        assert!(transfer.ends[1].read == sent);
        assert!(transfer.ends.iter().all(|end| !end.aborted));
        for node in [1, 3] {
            let counters = net.nodes[node].application_counters();
            assert_eq!((counters.lost, counters.connected), (0, 0));
            assert_eq!(net.nodes[node].node_counters().timeouts, 0);
        }
    }
}
