//! Links of RELOAD's own, as `crate::links` would make them: two nodes, a wire that can be cut.
use super::*;
use crate::links::{LinkEvent, LinkKey, LinkTransport, Made, Token};
use anode_reload::body::{ConnectBody, Role as Side};

/// Where a node listens.
fn at(n: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, n as u8 + 1], 6084))
}

/// Two nodes with links of their own.
struct Pair {
    at: Duration,
    nodes: Vec<Dht>,
    events: BTreeMap<(Duration, u64), (usize, LinkEvent)>,
    order: u64,
    cut: bool,
    up: bool,
    dials: Vec<(usize, Duration)>,
    /// What nodes have described for ICE, and to whose description it is the answer.
    described: BTreeMap<(usize, Token), Option<String>>,
    /// Links of applications.
    connected: LinkKey,
    heard: Vec<(usize, ConversationId, Heard)>,
}

/// What a node's ICE says of itself; its name is in it.
fn description(n: usize, token: Token, application: u16, role: Side) -> ConnectBody {
    ConnectBody {
        ufrag: format!("n{n}t{token}"),
        password: "a password of 22 bytes".into(),
        application,
        fingerprint: format!("SHA-256 {}", ["AB"; 32].join(":")),
        role,
        candidates: vec![],
    }
}

impl Pair {
    fn new() -> Self {
        let mut pair = Self {
            at: Duration::from_secs(1),
            nodes: Vec::new(),
            events: BTreeMap::new(),
            order: 0,
            cut: false,
            up: false,
            dials: Vec::new(),
            described: BTreeMap::new(),
            connected: 1,
            heard: Vec::new(),
        };
        for n in 0..2 {
            let own = identity(n);
            let config = DhtConfig {
                overlay: "own.example".into(),
                role: Role::Peer,
                bootstrap: vec![],
                create: n == 0,
                publish: false,
                relays: false,
                security: DhtSecurity::Address,
                roots: vec![],
                chord: None,
                turn: None,
                turn_density: 1,
                groups: vec![],
                applications: vec![5060],
                users: vec![],
                own_links: Some(match n {
                    0 => vec![],
                    _ => vec![Target::Dtls(at(0))],
                }),
            };
            let seeds = [rng(n as u64 * 2), rng(n as u64 * 2 + 1)];
            let dht = Dht::new(&own, PeerId::ANY, config, seeds, pair.now()).unwrap();
            pair.nodes.push(dht);
        }
        pair
    }

    fn now(&self) -> Now {
        Now {
            at: self.at,
            unix: 1_700_000_000 + self.at.as_secs(),
        }
    }

    fn later(&mut self, wait: Duration, node: usize, event: LinkEvent) {
        self.order += 1;
        self.events
            .insert((self.at + wait, self.order), (node, event));
    }

    fn link_up(&mut self, node: usize, link: LinkKey, made: Made) {
        let event = LinkEvent::Up {
            link,
            peer: Some(self.nodes[1 - node].id()),
            made,
            transport: LinkTransport::Dtls,
            at: at(1 - node),
            listens: Some(Target::Dtls(at(1 - node))),
        };
        self.later(LATENCY, node, event);
    }

    fn drain(&mut self, n: usize) {
        while let Some(output) = self.nodes[n].poll_output() {
            match output {
                Output::Links(Command::Dial(target)) => {
                    self.dials.push((n, self.at));
                    if self.cut || self.up {
                        let why = "silence".into();
                        let wait = Duration::from_secs(5);
                        self.later(wait, n, LinkEvent::DialFailed { target, why });
                    } else {
                        self.up = true;
                        self.link_up(n, 1, Made::Dialled(target));
                        self.link_up(1 - n, 1, Made::Accepted);
                    }
                }
                Output::Links(Command::Offer(token, application)) => {
                    let body = description(n, token, application, Side::Passive);
                    self.described.insert((n, token), None);
                    self.later(LATENCY, n, LinkEvent::Described { token, body });
                }
                Output::Links(Command::Answer(token, theirs, _)) => {
                    let body = description(n, token, theirs.application, Side::Active);
                    self.described.insert((n, token), Some(theirs.ufrag));
                    self.later(LATENCY, n, LinkEvent::Described { token, body });
                }
                Output::Links(Command::Start(token, theirs, _)) => self.start(n, token, &theirs),
                Output::Links(Command::Forget(token)) => drop(self.described.remove(&(n, token))),
                Output::Application {
                    conversation,
                    heard,
                } => self.heard.push((n, conversation, heard)),
                Output::Links(Command::Send(link, bytes)) if self.up => {
                    self.later(LATENCY, 1 - n, LinkEvent::Message { link, bytes });
                }
                Output::Links(Command::Close(link)) if std::mem::take(&mut self.up) => {
                    self.later(LATENCY, 1 - n, LinkEvent::Down { link });
                }
                _ => {}
            }
        }
    }

    /// Where the other side answers just this offer, and neither has given it up, there is a path.
    fn start(&mut self, n: usize, token: Token, theirs: &ConnectBody) {
        let own = description(n, token, theirs.application, Side::Passive).ufrag;
        let answer = |((m, other), to): (&(usize, Token), &Option<String>)| {
            let name = description(*m, *other, theirs.application, Side::Active).ufrag;
            (name == theirs.ufrag && to.as_ref() == Some(&own)).then_some(*other)
        };
        let answer = self.described.iter().find_map(answer);
        if let (Some(other), true) = (answer, self.described.contains_key(&(n, token))) {
            self.connected += 1;
            self.link_up(n, self.connected, Made::Connected(token));
            self.link_up(1 - n, self.connected, Made::Connected(other));
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.at + time;
        loop {
            let event = self.events.keys().next().map(|(at, _)| *at);
            let timers = self.nodes.iter().filter_map(Dht::deadline);
            let next = timers.chain(event).min();
            let Some(next) = next.filter(|at| *at <= end) else {
                self.at = end;
                return;
            };
            self.at = self.at.max(next);
            let now = self.now();
            if event == Some(next) {
                let (_, (n, event)) = self.events.pop_first().unwrap();
                self.nodes[n].handle_link(now, event);
                self.drain(n);
            } else {
                for n in 0..2 {
                    self.nodes[n].handle_timeout(now);
                    self.drain(n);
                }
            }
        }
    }

    fn neighbours(&self) -> [usize; 2] {
        [0, 1].map(|n| self.nodes[n].status().neighbours.len())
    }
}

// R116, RD55: also where links are RELOAD's own, whoever is alone looks for the others, and is soon back; a few times a minute
#[test]
fn the_last_of_a_ring_dials_again() {
    let mut pair = Pair::new();
    pair.run(Duration::from_secs(10));
    assert_eq!(pair.neighbours(), [1, 1]);
    for minutes in [1, 20] {
        (pair.cut, pair.up) = (true, false);
        for n in 0..2 {
            pair.later(Duration::ZERO, n, LinkEvent::Down { link: 1 });
        }
        let dials = pair.dials.len();
        pair.run(Duration::from_secs(60 * minutes));
        assert_eq!(pair.neighbours(), [0, 0]);
        let dials = pair.dials.len() - dials;
        pair.cut = false;
        let begin = pair.at;
        while pair.neighbours() != [1, 1] {
            pair.run(Duration::from_millis(100));
            assert!(pair.at < begin + Duration::from_secs(900), "never");
        }
        println!(
            "{minutes} min, {dials} dials: back after {:?}",
            pair.at - begin
        );
        assert!(pair.at - begin <= Duration::from_secs(11));
        assert!(dials as u64 <= 12 * minutes);
    }
}

// R61, R133: both sides of a conversation ask for a connection by ICE at once; one of the two is made, and carries what both say
#[test]
fn of_two_connects_at_once_one_stands() {
    let mut pair = Pair::new();
    pair.run(Duration::from_secs(10));
    let now = pair.now();
    let callee = Callee::Route(vec![pair.nodes[1].id()]);
    let call = pair.nodes[0].open(now, 5060, &callee).unwrap();
    pair.nodes[0].say(now, call, b"there?".to_vec());
    pair.drain(0);
    pair.run(Duration::from_secs(1));
    let begun = |it: &&(usize, _, Heard)| it.0 == 1 && matches!(it.2, Heard::Begun { .. });
    let theirs = pair.heard.iter().find(begun).expect("a call").1;
    for n in 0..12u8 {
        let now = pair.now();
        for (node, conversation) in [(0, call), (1, theirs)] {
            pair.nodes[node].say(now, conversation, vec![n; 10]);
        }
        for node in 0..2 {
            pair.drain(node);
        }
        pair.run(Duration::from_millis(500));
    }
    assert_eq!(pair.connected, 2, "one link beside the first");
    for node in 0..2 {
        let counters = pair.nodes[node].application_counters();
        assert!(counters.connected >= 6, "{counters:?}");
        assert_eq!(counters.lost, 0);
        let units = pair.heard.iter().filter(|it| it.0 == node);
        let units = units.filter(|it| matches!(it.2, Heard::Unit(_)));
        assert_eq!(units.count(), 13 - usize::from(node == 0));
    }
}
