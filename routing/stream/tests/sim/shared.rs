//! Several streams through one bottleneck, on virtual time: who gets how much, and how long packets wait there.
use super::{HEADER, LINKS, MAX_BODY};
use anode_stream::{Algorithm, Config, Stream};
use anode_wire::message::{Links, StreamMessage};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

/// What is asked of the bottleneck.
#[derive(Clone, Copy, Debug)]
pub struct Bottleneck {
    /// Bits per second.
    pub rate: u64,
    pub round_trip: Duration,
    /// Queue in bandwidth-delay products.
    pub buffer: f64,
    /// How long, and from when on it is counted.
    pub time: Duration,
    pub settle: Duration,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// Of the bottleneck's capacity, by stream.
    pub shares: Vec<f64>,
    /// Waiting in the queue, in milliseconds: half of the packets wait longer, one in a hundred does.
    pub median: f64,
    pub p99: f64,
    /// Of the packets sent, how many the full queue dropped.
    pub dropped: f64,
}

struct Flow {
    sender: Stream,
    receiver: Option<Stream>,
    config: Config,
    starts: Instant,
    got: u64,
    woken: Option<Instant>,
}

/// A message that arrives: time, order, flow, towards the receiver or back.
type Arrival = (Instant, u64, usize, bool, u8, Vec<u8>);

/// Runs one endless transfer for each algorithm, started 100 ms apart.
pub fn compete(bottleneck: &Bottleneck, algorithms: &[Algorithm]) -> Outcome {
    let start = Instant::now();
    let config = |congestion| Config {
        congestion,
        max_window: 64 * 1024 * 1024,
        max_send_buffer: 64 * 1024 * 1024,
        ..Config::default()
    };
    let mut flows: Vec<Flow> = algorithms
        .iter()
        .zip(0u32..)
        .map(|(&algorithm, index)| {
            let config = config(algorithm);
            let starts = start + Duration::from_millis(100) * index;
            Flow {
                sender: Stream::open(&config, starts, LINKS, 1, 7 + index),
                receiver: None,
                config,
                starts,
                got: 0,
                woken: None,
            }
        })
        .collect();
    let mut shared = Shared::new(start, *bottleneck);
    for (index, flow) in flows.iter_mut().enumerate() {
        shared.timers.push(Reverse((flow.starts, index)));
        flow.woken = Some(flow.starts);
    }
    let end = start + bottleneck.time;
    loop {
        let arrival = shared.network.peek().map(|Reverse(a)| a.0);
        let timer = shared.timers.peek().map(|Reverse(t)| t.0);
        let next = [arrival, timer].into_iter().flatten().min();
        let Some(now) = next.filter(|&next| next < end) else {
            break;
        };
        shared.now = now;
        if arrival == Some(now) {
            shared.deliver(&mut flows);
        } else if let Some(Reverse((at, index))) = shared.timers.pop() {
            let flow = &mut flows[index];
            if flow.woken != Some(at) {
                // An earlier one took its place.
                continue;
            }
            flow.woken = None;
            for stream in [Some(&mut flow.sender), flow.receiver.as_mut()]
                .into_iter()
                .flatten()
            {
                stream.handle_timeout(now);
            }
            shared.drive(index, flow);
        }
    }
    shared.outcome(&flows)
}

struct Shared {
    bottleneck: Bottleneck,
    queue: f64,
    start: Instant,
    now: Instant,
    network: BinaryHeap<Reverse<Arrival>>,
    timers: BinaryHeap<Reverse<(Instant, usize)>>,
    order: u64,
    free_at: Instant,
    waits: Vec<f32>,
    sent: u64,
    dropped: u64,
    body: Vec<u8>,
}

impl Shared {
    fn new(start: Instant, bottleneck: Bottleneck) -> Self {
        let bdp = bottleneck.rate as f64 / 8.0 * bottleneck.round_trip.as_secs_f64();
        Self {
            bottleneck,
            queue: bdp * bottleneck.buffer,
            start,
            now: start,
            network: BinaryHeap::new(),
            timers: BinaryHeap::new(),
            order: 0,
            free_at: start,
            waits: Vec::new(),
            sent: 0,
            dropped: 0,
            body: Vec::new(),
        }
    }

    fn counts(&self) -> bool {
        self.now >= self.start + self.bottleneck.settle
    }

    /// Everything that arrives within the next 50 µs for the flow that is first, as one batch.
    fn deliver(&mut self, flows: &mut [Flow]) {
        let batch = self.now + Duration::from_micros(50);
        let mut touched = Vec::new();
        while self.network.peek().is_some_and(|Reverse(a)| a.0 <= batch) {
            let Some(Reverse((at, _, index, forward, kind, body))) = self.network.pop() else {
                break;
            };
            self.now = self.now.max(at);
            let flow = &mut flows[index];
            let message = StreamMessage::parse(kind, &body).expect("own messages parse");
            if !forward {
                flow.sender.handle(self.now, &message);
            } else if let Some(receiver) = &mut flow.receiver {
                receiver.handle(self.now, &message);
            } else if let StreamMessage::Open { window, isn, .. } = message {
                let own = Links {
                    sender: LINKS.receiver,
                    receiver: LINKS.sender,
                };
                let mut receiver = Stream::incoming(&flow.config, self.now, own, window, isn, 99);
                receiver.accept(self.now);
                flow.receiver = Some(receiver);
            }
            if !touched.contains(&index) {
                touched.push(index);
            }
        }
        for index in touched {
            self.drive(index, &mut flows[index]);
        }
    }

    /// The programs read and write, then both ends send what they may.
    fn drive(&mut self, index: usize, flow: &mut Flow) {
        let now = self.now;
        if let Some(receiver) = &mut flow.receiver {
            let got = receiver.read(now, &mut |bytes| bytes.len()) as u64;
            if self.now >= self.start + self.bottleneck.settle {
                flow.got += got;
            }
            while receiver.poll_event().is_some() {}
            while let Some(transmit) = receiver.poll_transmit(now, MAX_BODY) {
                let message = transmit.message();
                let mut body = vec![0; message.len()];
                message.emit(&mut body);
                let at = now + self.bottleneck.round_trip / 2;
                self.push(at, index, false, message.kind(), body);
            }
        }
        let chunk = [0u8; 16 * 1024];
        loop {
            while flow.sender.write_capacity() > 0 {
                let len = chunk.len().min(flow.sender.write_capacity());
                flow.sender.write(now, &chunk[..len]);
            }
            while flow.sender.poll_event().is_some() {}
            let Some(transmit) = flow.sender.poll_transmit(now, MAX_BODY) else {
                break;
            };
            let message = transmit.message();
            let mut body = std::mem::take(&mut self.body);
            body.resize(message.len(), 0);
            message.emit(&mut body);
            let kind = message.kind();
            self.through_bottleneck(index, kind, body);
        }
        let deadline = [Some(&flow.sender), flow.receiver.as_ref()]
            .into_iter()
            .flatten()
            .filter_map(|s| s.deadline().map(|(at, _)| at))
            .min();
        if let Some(at) = deadline.map(|at| at.max(now))
            && flow.woken.is_none_or(|woken| at < woken)
        {
            flow.woken = Some(at);
            self.timers.push(Reverse((at, index)));
        }
    }

    fn through_bottleneck(&mut self, index: usize, kind: u8, body: Vec<u8>) {
        let size = (body.len() + HEADER) as f64;
        let starts = self.free_at.max(self.now);
        let wait = (starts - self.now).as_secs_f64();
        let bytes_per_second = self.bottleneck.rate as f64 / 8.0;
        if self.counts() {
            self.sent += 1;
        }
        if wait * bytes_per_second + size > self.queue.max(4.0 * size) {
            self.dropped += u64::from(self.counts());
            return;
        }
        if self.counts() {
            self.waits.push((wait * 1000.0) as f32);
        }
        self.free_at = starts + Duration::from_secs_f64(size / bytes_per_second);
        let at = self.free_at + self.bottleneck.round_trip / 2;
        self.push(at, index, true, kind, body);
    }

    fn push(&mut self, at: Instant, index: usize, forward: bool, kind: u8, body: Vec<u8>) {
        self.order += 1;
        let arrival = (at, self.order, index, forward, kind, body);
        self.network.push(Reverse(arrival));
    }

    fn outcome(mut self, flows: &[Flow]) -> Outcome {
        let seconds = (self.bottleneck.time - self.bottleneck.settle).as_secs_f64();
        let capacity = self.bottleneck.rate as f64 / 8.0 * seconds;
        self.waits.sort_by(f32::total_cmp);
        let at = |share: f64| {
            let index = (self.waits.len() as f64 * share) as usize;
            self.waits.get(index).copied().map_or(0.0, f64::from)
        };
        Outcome {
            shares: flows.iter().map(|f| f.got as f64 / capacity).collect(),
            median: at(0.5),
            p99: at(0.99),
            dropped: self.dropped as f64 / self.sent.max(1) as f64,
        }
    }
}
