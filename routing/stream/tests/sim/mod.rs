//! Two ends of a stream on virtual time, joined by a link with a rate, delay, jitter, loss, duplication and a queue.
#![allow(dead_code, missing_docs)]
pub mod shared;

use anode_stream::{CloseReason, Config, Event, Stream};
use anode_wire::message::{Links, StreamMessage};
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

/// Body bytes of a packet; headers count on the link as well.
pub const MAX_BODY: usize = 1204;
pub const HEADER: usize = 28;

/// Splitmix64: the whole run follows from one number.
#[derive(Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    pub fn chance(&mut self, p: f64) -> bool {
        p > 0.0 && self.unit() < p
    }
}

/// One direction's properties.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// Bits per second; 0: no limit.
    pub rate: u64,
    pub delay: Duration,
    /// Each packet is delayed by up to this much more, on its own: it reorders.
    pub jitter: Duration,
    pub loss: f64,
    pub duplication: f64,
    /// Bytes that may wait.
    pub queue: usize,
    /// Instead of dropping at the full queue, mark above this many bytes.
    pub mark_above: Option<usize>,
}

impl Link {
    pub fn new(rate: u64, delay: Duration) -> Self {
        // A queue of a bandwidth-delay product, as routers have, of 64 packets at least.
        let bdp = (rate as f64 / 8.0 * delay.as_secs_f64() * 2.0) as usize;
        Self {
            rate,
            delay,
            jitter: Duration::ZERO,
            loss: 0.0,
            duplication: 0.0,
            queue: bdp.max(64 * 1500),
            mark_above: None,
        }
    }

    pub fn loss(self, loss: f64) -> Self {
        Self { loss, ..self }
    }
}

/// A packet under way.
struct InFlight {
    at: Instant,
    order: u64,
    to: usize,
    kind: u8,
    body: Vec<u8>,
    marked: bool,
}

impl PartialEq for InFlight {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for InFlight {}
impl PartialOrd for InFlight {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for InFlight {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

/// The byte at `offset` of what end `who` sends.
pub fn byte(who: usize, offset: u64) -> u8 {
    let x = (offset ^ (who as u64) << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (x >> 56) as u8
}

/// What an end's program does, and what it saw.
pub struct End {
    pub stream: Option<Stream>,
    pub config: Config,
    pub isn: u32,
    /// Bytes to write in all, and written.
    pub to_write: u64,
    pub written: u64,
    /// Half-close when all is written.
    pub finish: bool,
    /// ... but only once the peer has finished.
    pub finish_after_peer: bool,
    finish_called: bool,
    /// Bytes checked to be right and in order.
    pub got: u64,
    /// Bytes a second that the program reads; `None`: all at once.
    pub read_rate: Option<u64>,
    /// It reads nothing before this.
    pub read_from: Option<Instant>,
    read_credit: f64,
    read_at: Instant,
    pub events: Vec<Event>,
    pub event_times: Vec<Instant>,
    /// What the passive end does with an S_OPEN.
    pub answer: Answer,
    pub peak_memory: usize,
    check: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    Accept,
    /// Accept this much later.
    After(Duration),
    Refuse(CloseReason),
    Ignore,
}

impl End {
    fn new(now: Instant, config: &Config, isn: u32) -> Self {
        Self {
            stream: None,
            config: config.clone(),
            isn,
            to_write: 0,
            written: 0,
            finish: true,
            finish_after_peer: false,
            finish_called: false,
            got: 0,
            read_rate: None,
            read_from: None,
            read_credit: 0.0,
            read_at: now,
            events: Vec::new(),
            event_times: Vec::new(),
            answer: Answer::Accept,
            peak_memory: 0,
            check: true,
        }
    }

    pub fn saw(&self, event: Event) -> bool {
        self.events.contains(&event)
    }

    pub fn when(&self, event: Event) -> Option<Instant> {
        self.events
            .iter()
            .position(|e| *e == event)
            .map(|i| self.event_times[i])
    }

    pub fn aborted(&self) -> Option<(CloseReason, bool)> {
        self.events.iter().find_map(|e| match e {
            Event::Aborted { reason, by_peer } => Some((*reason, *by_peer)),
            _ => None,
        })
    }

    pub fn stream(&mut self) -> &mut Stream {
        self.stream.as_mut().expect("the end has a stream")
    }

    /// Lets the program read, write and finish as it is told to.
    fn program(&mut self, who: usize, now: Instant) {
        let Some(stream) = &mut self.stream else {
            return;
        };
        let may_read = self.read_from.is_none_or(|from| now >= from);
        if may_read && stream.readable() > 0 {
            let mut allowed = usize::MAX;
            if let Some(rate) = self.read_rate {
                self.read_credit += now.duration_since(self.read_at).as_secs_f64() * rate as f64;
                self.read_credit = self.read_credit.min(rate as f64 / 10.0);
                allowed = self.read_credit as usize;
            }
            self.read_at = now;
            let (got, check) = (&mut self.got, self.check);
            let taken = stream.read(now, &mut |bytes| {
                let take = bytes.len().min(allowed);
                allowed -= take;
                if check {
                    for (i, &b) in (0u64..).zip(&bytes[..take]) {
                        assert_eq!(
                            b,
                            byte(1 - who, *got + i),
                            "wrong byte at {got} of end {}",
                            1 - who
                        );
                    }
                }
                *got += take as u64;
                take
            });
            self.read_credit -= taken as f64;
        } else {
            self.read_at = now;
        }
        let mut chunk = [0u8; 8192];
        while self.written < self.to_write {
            let len = chunk
                .len()
                .min((self.to_write - self.written) as usize)
                .min(stream.write_capacity());
            if len == 0 {
                // Asking for more than there is room arms the Writable event.
                stream.write(now, &[byte(who, self.written)]);
                break;
            }
            if self.check {
                for (i, b) in (0u64..).zip(&mut chunk[..len]) {
                    *b = byte(who, self.written + i);
                }
            }
            let taken = stream.write(now, &chunk[..len]);
            assert_eq!(taken, len);
            self.written += taken as u64;
        }
        let peer_done = !self.finish_after_peer || self.events.contains(&Event::Finished);
        if self.finish && !self.finish_called && self.written == self.to_write && peer_done {
            stream.finish(now);
            self.finish_called = true;
        }
        while let Some(event) = stream.poll_event() {
            // Of the edges, the first is enough.
            let edge = matches!(event, Event::Readable | Event::Writable);
            if !edge || !self.events.contains(&event) {
                self.events.push(event);
                self.event_times.push(now);
            }
        }
        self.peak_memory = self.peak_memory.max(stream.memory());
    }

    /// When the program wants to run although nothing happens.
    fn wakes(&self, now: Instant) -> Option<Instant> {
        let stream = self.stream.as_ref()?;
        if stream.readable() == 0 {
            return None;
        }
        match (self.read_from, self.read_rate) {
            (Some(from), _) if from > now => Some(from),
            (_, Some(_)) => Some(now + Duration::from_millis(10)),
            _ => None,
        }
    }
}

/// The two ends and what is between them. End 0 opens.
pub struct Sim {
    pub start: Instant,
    pub now: Instant,
    pub rng: Rng,
    pub links: [Link; 2],
    pub ends: [End; 2],
    network: BinaryHeap<InFlight>,
    order: u64,
    /// When each direction's transmitter is free.
    free_at: [Instant; 2],
    pub packets: [u64; 2],
    pub bytes: [u64; 2],
    pub dropped_at_queue: u64,
    /// Both directions swallow everything.
    pub blackhole: bool,
    /// Body bytes of new packets.
    pub max_body: usize,
    /// Answer packets of unknown streams with a reset, as inside SEALED.
    pub sealed: bool,
    accept_at: Option<Instant>,
    pub trace: bool,
    pub steps: u64,
}

pub const LINKS: Links = Links {
    sender: 40_000,
    receiver: 80,
};

impl Sim {
    pub fn new(seed: u64, link: Link) -> Self {
        Self::with_config(seed, link, &Config::default())
    }

    pub fn with_config(seed: u64, link: Link, config: &Config) -> Self {
        let start = Instant::now();
        let mut rng = Rng(seed);
        // Near the wrap more often than not.
        let mut isn = || {
            if rng.chance(0.5) {
                u32::MAX - rng.below(2000) as u32
            } else {
                rng.next() as u32
            }
        };
        let isns = [isn(), isn()];
        let mut sim = Self {
            start,
            now: start,
            links: [link; 2],
            ends: [
                End::new(start, config, isns[0]),
                End::new(start, config, isns[1]),
            ],
            network: BinaryHeap::new(),
            order: 0,
            free_at: [start; 2],
            packets: [0; 2],
            bytes: [0; 2],
            dropped_at_queue: 0,
            blackhole: false,
            max_body: MAX_BODY,
            sealed: false,
            accept_at: None,
            trace: false,
            steps: 0,
            rng,
        };
        sim.ends[0].stream = Some(Stream::open(config, start, LINKS, 1, isns[0]));
        sim
    }

    /// Bulk runs that measure need not look at every byte.
    pub fn skip_content(&mut self) {
        self.ends[0].check = false;
        self.ends[1].check = false;
    }

    pub fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    fn send(&mut self, from: usize, message: &StreamMessage<'_>) {
        let mut body = vec![0; message.len()];
        message.emit(&mut body);
        self.send_body(from, message.kind(), body);
    }

    pub fn send_body(&mut self, from: usize, kind: u8, body: Vec<u8>) {
        let size = body.len() + HEADER;
        self.packets[from] += 1;
        self.bytes[from] += size as u64;
        let link = self.links[from];
        if self.blackhole || self.rng.chance(link.loss) {
            return;
        }
        let mut marked = false;
        let mut leaves = self.now;
        if link.rate > 0 {
            let starts = self.free_at[from].max(self.now);
            let waiting = ((starts - self.now).as_secs_f64() * link.rate as f64 / 8.0) as usize;
            if waiting > link.queue {
                self.dropped_at_queue += 1;
                return;
            }
            marked = link.mark_above.is_some_and(|above| waiting > above);
            leaves = starts + Duration::from_nanos(size as u64 * 8 * 1_000_000_000 / link.rate);
            self.free_at[from] = leaves;
        }
        let copies = 1 + usize::from(self.rng.chance(link.duplication));
        for _ in 0..copies {
            let jitter = link.jitter.mul_f64(self.rng.unit());
            self.order += 1;
            let at = leaves + link.delay + jitter;
            self.network.push(InFlight {
                at,
                order: self.order,
                to: 1 - from,
                kind,
                body: body.clone(),
                marked,
            });
        }
    }

    fn deliver(&mut self, packet: InFlight) {
        let who = packet.to;
        let message = StreamMessage::parse(packet.kind, &packet.body).expect("own messages parse");
        if self.trace {
            println!(
                "{:>10.6} -> {who} {}",
                self.elapsed().as_secs_f64(),
                describe(&message)
            );
        }
        let end = &mut self.ends[who];
        match &mut end.stream {
            Some(stream) => {
                let reset = matches!(message, StreamMessage::Close { reason: 0x10, initial, sequence, .. } if initial == sequence);
                if reset && self.sealed {
                    stream.handle_reset(self.now, &message);
                } else {
                    stream.handle(self.now, &message);
                }
                if packet.marked {
                    stream.handle_ecn(self.now);
                }
            }
            None => match message {
                StreamMessage::Open {
                    links, window, isn, ..
                } if who == 1 && end.answer != Answer::Ignore => {
                    let own = Links {
                        sender: links.receiver,
                        receiver: links.sender,
                    };
                    let mut stream =
                        Stream::incoming(&end.config, self.now, own, window, isn, end.isn);
                    match end.answer {
                        Answer::Accept => stream.accept(self.now),
                        Answer::After(wait) => self.accept_at = Some(self.now + wait),
                        Answer::Refuse(reason) => stream.abort(self.now, reason),
                        Answer::Ignore => {}
                    }
                    end.stream = Some(stream);
                }
                _ => {
                    if self.sealed
                        && let Some(reset) = anode_stream::reset_for(&message)
                    {
                        self.send(who, &reset);
                    }
                }
            },
        }
    }

    fn drive(&mut self, who: usize) {
        self.ends[who].program(who, self.now);
        let Some(mut stream) = self.ends[who].stream.take() else {
            return;
        };
        let mut burst = 0;
        while let Some(transmit) = stream.poll_transmit(self.now, self.max_body) {
            burst += 1;
            assert!(burst < 100_000, "poll_transmit does not end");
            let message = *transmit.message();
            if self.trace {
                println!(
                    "{:>10.6} {who} -> {}",
                    self.elapsed().as_secs_f64(),
                    describe(&message)
                );
            }
            self.send(who, &message);
        }
        self.ends[who].stream = Some(stream);
        self.ends[who].program(who, self.now);
    }

    /// Goes to the next instant at which something happens, and lets it happen. False: nothing will ever happen again.
    pub fn step(&mut self, until: Instant) -> bool {
        self.steps += 1;
        let mut next: Option<Instant> = self.network.peek().map(|p| p.at);
        let mut consider = |at: Option<Instant>| {
            if let Some(at) = at {
                next = Some(next.map_or(at, |n| n.min(at)));
            }
        };
        for end in &self.ends {
            consider(
                end.stream
                    .as_ref()
                    .and_then(Stream::deadline)
                    .map(|(at, _)| at),
            );
            consider(end.wakes(self.now));
        }
        consider(self.accept_at);
        let Some(next) = next else { return false };
        if next > until {
            self.now = until;
            return false;
        }
        self.now = self.now.max(next);
        if self.accept_at.is_some_and(|at| at <= self.now) {
            self.accept_at = None;
            let now = self.now;
            self.ends[1].stream().accept(now);
        }
        // Packets of one instant, and of the next 50 µs, come as one batch, as from a socket.
        let batch = self.now + Duration::from_micros(50);
        while self.network.peek().is_some_and(|p| p.at <= batch) {
            if let Some(packet) = self.network.pop() {
                self.now = self.now.max(packet.at);
                self.deliver(packet);
            }
        }
        for who in 0..2 {
            let now = self.now;
            if let Some(stream) = &mut self.ends[who].stream
                && stream.deadline().is_some_and(|(at, _)| at <= now)
            {
                stream.handle_timeout(now);
            }
        }
        true
    }

    /// Runs until `done` or for `limit` of virtual time; whether `done` came true.
    pub fn run(&mut self, limit: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let until = self.now + limit;
        loop {
            self.drive(0);
            self.drive(1);
            if done(self) {
                return true;
            }
            if !self.step(until) {
                return done(self);
            }
            assert!(self.steps < 3_000_000, "the simulation spins");
        }
    }

    /// Both ends saw everything and both directions are closed.
    pub fn complete(&self) -> bool {
        (0..2).all(|who| {
            let (end, other) = (&self.ends[who], &self.ends[1 - who]);
            end.got == other.to_write && end.saw(Event::Finished) && end.saw(Event::Flushed)
        })
    }

    pub fn any_aborted(&self) -> bool {
        self.ends.iter().any(|e| e.aborted().is_some())
    }
}

pub fn describe(message: &StreamMessage<'_>) -> String {
    match message {
        StreamMessage::Data {
            sequence, payload, ..
        } => format!("DATA {sequence} {}", payload.len()),
        StreamMessage::Ack { window, acks, .. } => {
            format!("ACK {:?} window {window}", acks.iter().collect::<Vec<_>>())
        }
        StreamMessage::Dack {
            window,
            acks,
            sequence,
            payload,
            ..
        } => {
            format!(
                "DACK {sequence} {} {:?} window {window}",
                payload.len(),
                acks.iter().collect::<Vec<_>>()
            )
        }
        StreamMessage::Open { window, isn, .. } => format!("OPEN {isn} window {window}"),
        StreamMessage::Close {
            reason,
            initial,
            sequence,
            ..
        } => format!("CLOSE {reason} {initial} {sequence}"),
    }
}
