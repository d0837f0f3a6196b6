mod schedule;

use super::*;
use crate::rendezvous::Publish;
use crate::server::{Access, Config, Server};
use crate::udp::packet;
use rand::Rng;
use rand::SeedableRng;
use rand::rngs::StdRng;

const HASH: InfoHash = InfoHash([7; 20]);

/// What a scripted tracker does with an announce.
#[derive(Clone)]
enum Script {
    /// Status and body.
    Http(u16, Vec<u8>),
    Silent,
}

/// Everything that left the client.
#[derive(Clone, Debug)]
struct Sent {
    second: u64,
    local: IpAddr,
    remote: SocketAddr,
    /// The HTTP target, or nothing for a datagram.
    target: String,
    datagram: Vec<u8>,
}

impl Sent {
    fn event(&self) -> &str {
        self.parameter("event")
    }

    fn parameter(&self, name: &str) -> &str {
        let start = format!("{name}=");
        self.target
            .split(['?', '&'])
            .find_map(|pair| pair.strip_prefix(start.as_str()))
            .unwrap_or("")
    }

    /// The action of a datagram.
    fn action(&self) -> u8 {
        self.datagram[11]
    }
}

/// Names, trackers and a fake clock around one or more clients.
struct World {
    rng: StdRng,
    start: Instant,
    now: Instant,
    names: BTreeMap<&'static str, Vec<IpAddr>>,
    servers: BTreeMap<SocketAddr, usize>,
    running: Vec<Server>,
    scripts: BTreeMap<SocketAddr, Script>,
    /// Of 100 datagrams, how many are lost.
    loss: u32,
    sent: Vec<Sent>,
    cancelled: Vec<RequestId>,
    reports: Vec<Report>,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            rng: StdRng::seed_from_u64(11),
            start: now,
            now,
            names: BTreeMap::new(),
            servers: BTreeMap::new(),
            running: Vec::new(),
            scripts: BTreeMap::new(),
            loss: 0,
            sent: Vec::new(),
            cancelled: Vec::new(),
            reports: Vec::new(),
        }
    }

    fn serve(&mut self, config: Config, addresses: &[&str]) {
        let server = Server::new(config, Access::Open, self.now, &mut self.rng);
        self.running.push(server);
        for address in addresses {
            self.servers
                .insert(address.parse().unwrap(), self.running.len() - 1);
        }
    }

    fn script(&mut self, address: &str, status: u16, body: &[u8]) {
        self.scripts.insert(
            address.parse().unwrap(),
            Script::Http(status, body.to_vec()),
        );
    }

    /// Does all that the client wants now.
    fn drain(&mut self, client: &mut Client) {
        while let Some(transmit) = client.poll(self.now, &mut self.rng) {
            match transmit {
                Transmit::Resolve { tracker, host } => {
                    let result = self
                        .names
                        .get(host.as_str())
                        .cloned()
                        .ok_or("no such name".to_owned());
                    client.resolved(tracker, result, self.now);
                }
                Transmit::Cancel(id) => self.cancelled.push(id),
                Transmit::Http {
                    id,
                    local,
                    remote,
                    request,
                    ..
                } => {
                    assert_eq!(local.is_ipv4(), remote.is_ipv4());
                    self.log(local, remote, &request.target, &[]);
                    let answer = match (
                        self.scripts.get(&remote).cloned(),
                        self.servers.get(&remote),
                    ) {
                        (Some(Script::Http(status, body)), _) => Some((status, body)),
                        (None, Some(server)) => {
                            let mut body = Vec::new();
                            let server = &mut self.running[*server];
                            let status = server.http(
                                local,
                                &request.target,
                                self.now,
                                &mut self.rng,
                                &mut body,
                            );
                            Some((status, body))
                        }
                        _ => None,
                    };
                    if let Some((status, body)) = answer {
                        client.http_answer(id, status, &body, self.now);
                    }
                }
                Transmit::Datagram {
                    local,
                    remote,
                    payload,
                } => {
                    assert_eq!(local.is_ipv4(), remote.is_ipv4());
                    self.log(local, remote, "", &payload);
                    let lost = self.rng.next_u32() % 100 < self.loss;
                    if let Some(server) = self.servers.get(&remote).filter(|_| !lost) {
                        let mut answer = Vec::new();
                        let source = SocketAddr::new(local, 50_000);
                        let server = &mut self.running[*server];
                        if server.udp(source, &payload, self.now, &mut self.rng, &mut answer) {
                            client.datagram(local, remote, &answer, self.now);
                        }
                    }
                }
            }
        }
        while let Some(report) = client.poll_report() {
            self.reports.push(report);
        }
    }

    fn log(&mut self, local: IpAddr, remote: SocketAddr, target: &str, datagram: &[u8]) {
        let second = (self.now - self.start).as_secs();
        let (target, datagram) = (target.to_owned(), datagram.to_vec());
        self.sent.push(Sent {
            second,
            local,
            remote,
            target,
            datagram,
        });
    }

    /// Lets time pass, from deadline to deadline.
    fn run(&mut self, client: &mut Client, seconds: u64) {
        let end = self.now + Duration::from_secs(seconds);
        loop {
            self.drain(client);
            let Some(next) = client.deadline(self.now).filter(|next| *next <= end) else {
                break;
            };
            assert!(next > self.now, "a deadline in the past would spin");
            self.now = next;
            for server in &mut self.running {
                server.handle_timeout(next);
            }
        }
        self.now = end;
    }

    fn seconds(&self) -> Vec<u64> {
        self.sent.iter().map(|sent| sent.second).collect()
    }
}

fn local(ip: &str) -> LocalAddress {
    LocalAddress {
        ip: ip.parse().unwrap(),
        port: 8737,
        deprecated: false,
        way_out: true,
    }
}

fn client(world: &World, urls: &[&str], locals: &[&str]) -> Client {
    let mut client = Client::new([9; 32]);
    let urls: Vec<TrackerUrl> = urls.iter().map(|url| url.parse().unwrap()).collect();
    let locals: Vec<_> = locals.iter().map(|ip| local(ip)).collect();
    client.set_locals(&locals, world.now);
    client.set_swarms(&[HASH], world.now);
    client.set_trackers(&urls, world.now);
    client
}

// B1, B2, B3, B5, B6, B7, B9
#[test]
fn every_qualifying_address_announces_to_its_own_family_of_every_tracker() {
    let mut world = World::new();
    let addresses = ["198.51.100.1", "2001:db8:1::1"].map(|ip| ip.parse().unwrap());
    world.names.insert("t.example", addresses.to_vec());
    world.serve(
        Config::default(),
        &["198.51.100.1:80", "[2001:db8:1::1]:80"],
    );
    let locals = [
        "192.0.2.1",
        "192.0.2.2",
        "2001:db8::1",
        "2001:db8::2",
        "fe80::1",
        "fda0::1",
        "127.0.0.1",
    ];
    let urls = ["http://t.example/announce", "udp://t.example:80"];
    let mut client = client(&world, &urls, &locals);
    world.run(&mut client, 30);

    let http: Vec<_> = world
        .sent
        .iter()
        .filter(|sent| !sent.target.is_empty())
        .collect();
    let pairs: BTreeSet<_> = http
        .iter()
        .map(|sent| (sent.local.to_string(), sent.remote.to_string()))
        .collect();
    let expected = [
        ("192.0.2.1", "198.51.100.1:80"),
        ("192.0.2.2", "198.51.100.1:80"),
        ("2001:db8::1", "[2001:db8:1::1]:80"),
        ("2001:db8::2", "[2001:db8:1::1]:80"),
    ];
    assert_eq!(
        pairs,
        expected.map(|(a, b)| (a.to_owned(), b.to_owned())).into()
    );
    assert_eq!(http.len(), 4);
    let announces: Vec<_> = world
        .sent
        .iter()
        .filter(|sent| sent.target.is_empty() && sent.action() == 1)
        .collect();
    assert_eq!(announces.len(), 4);

    let keys: BTreeSet<_> = http.iter().map(|sent| sent.parameter("key")).collect();
    assert_eq!(keys.len(), 1, "one key everywhere");
    for announce in announces {
        let key = u32::from_be_bytes(announce.datagram[88..92].try_into().unwrap());
        assert_eq!(format!("{key:08X}"), *keys.first().unwrap());
        assert_eq!(announce.datagram[84..88], [0; 4]);
    }
    for sent in http {
        assert_eq!(
            (sent.event(), sent.parameter("left"), sent.parameter("port")),
            ("started", "1", "8737")
        );
        assert!(
            ["ip", "ipv4", "ipv6"]
                .iter()
                .all(|name| sent.parameter(name).is_empty())
        );
    }
    let answered = world
        .reports
        .iter()
        .filter(|report| matches!(report, Report::Answered { .. }))
        .count();
    assert_eq!((answered, world.reports.len()), (8, 8));
}

#[test]
fn two_clients_find_each_other_over_every_protocol_and_family() {
    let mut world = World::new();
    world.serve(
        Config::default(),
        &["198.51.100.1:80", "[2001:db8:1::1]:80"],
    );
    for url in [
        "http://198.51.100.1/announce",
        "udp://198.51.100.1:80",
        "http://[2001:db8:1::1]/announce",
        "udp://[2001:db8:1::1]:80",
    ] {
        world.reports.clear();
        let mut one = client(&world, &[url], &["192.0.2.1", "2001:db8::1"]);
        let mut two = Client::new([3; 32]);
        two.set_locals(&[local("192.0.2.9"), local("2001:db8::9")], world.now);
        two.set_swarms(&[HASH], world.now);
        two.set_trackers(&[url.parse().unwrap()], world.now);
        world.drain(&mut one);
        world.drain(&mut two);
        let Some(Report::Answered { answer, .. }) = world.reports.last() else {
            panic!("{:?}", world.reports)
        };
        let first = if url.contains('[') {
            "[2001:db8::1]:8737"
        } else {
            "192.0.2.1:8737"
        };
        assert!(
            answer.peers.contains(&first.parse().unwrap()),
            "{url}: {answer:?}"
        );
        for leaving in [&mut one, &mut two] {
            leaving.shut_down(world.now);
            world.drain(leaving);
            assert!(leaving.is_finished());
        }
        assert_eq!(world.running[0].entries(), 0, "both have said stopped");
        world.now += SPACING;
    }
}

#[test]
fn the_tracker_id_is_sent_back() {
    let mut world = World::new();
    world.script(
        "198.51.100.1:80",
        200,
        b"d8:intervali60e10:tracker id3:a b5:peers0:e",
    );
    let mut client = client(&world, &["http://198.51.100.1/announce"], &["192.0.2.1"]);
    world.run(&mut client, 70);
    world.script("198.51.100.1:80", 200, b"d8:intervali60e5:peers0:e");
    world.run(&mut client, 140);
    let ids: Vec<_> = world
        .sent
        .iter()
        .take(3)
        .map(|sent| sent.parameter("trackerid"))
        .collect();
    assert_eq!(
        ids,
        ["", "a%20b", "a%20b"],
        "an answer without one keeps it"
    );
}

#[test]
fn connection_ids_belong_to_pairs_of_addresses() {
    let mut world = World::new();
    world.serve(Config::default(), &["198.51.100.1:80"]);
    let mut client = client(
        &world,
        &["udp://198.51.100.1:80"],
        &["192.0.2.1", "192.0.2.2"],
    );
    world.run(&mut client, 30);
    assert_eq!(world.sent.len(), 4, "each address connects and announces");
    client.shut_down(world.now);
    world.run(&mut client, 3);
    let actions: Vec<_> = world.sent[4..].iter().map(Sent::action).collect();
    assert_eq!(
        actions,
        [1, 1],
        "within a minute the ids are used again, each by its own address"
    );
    assert!(client.is_finished());
    assert_eq!(
        (
            world.running[0].entries(),
            world.running[0].counters().wrong_connection
        ),
        (0, 0)
    );
}

#[test]
fn addresses_and_ports_that_come_and_go_are_followed() {
    let mut world = World::new();
    world.serve(Config::default(), &["198.51.100.1:80"]);
    let mut client = client(&world, &["http://198.51.100.1/announce"], &["192.0.2.1"]);
    world.run(&mut client, 5);
    client.set_locals(&[local("192.0.2.1"), local("192.0.2.2")], world.now);
    world.run(&mut client, 5);
    assert_eq!(
        world.sent.last().unwrap().local.to_string(),
        "192.0.2.2",
        "a new address announces at once"
    );
    let mapped = LocalAddress {
        port: 40_000,
        ..local("192.0.2.1")
    };
    client.set_locals(&[mapped], world.now);
    world.run(&mut client, 100);
    let last = world.sent.last().unwrap();
    assert_eq!(
        (last.second, last.parameter("port"), last.event()),
        (60, "40000", ""),
        "a new port a minute later"
    );
    assert_eq!(world.sent.len(), 3, "an address that is gone says nothing");
    client.set_swarms(&[], world.now);
    world.run(&mut client, 3);
    assert_eq!(
        (world.sent.len(), world.sent.last().unwrap().event()),
        (4, "stopped")
    );
}

#[test]
fn a_tracker_taken_out_and_put_back_starts_again() {
    let mut world = World::new();
    world.serve(Config::default(), &["198.51.100.1:80"]);
    let mut client = client(&world, &["http://198.51.100.1/announce"], &["192.0.2.1"]);
    world.run(&mut client, 5);
    client.set_trackers(&[], world.now);
    client.set_trackers(
        &["http://198.51.100.1/announce".parse().unwrap()],
        world.now,
    );
    world.run(&mut client, 100);
    let events: Vec<_> = world.sent.iter().map(Sent::event).collect();
    assert_eq!(events, ["started", "stopped", "started"]);
    assert!(world.sent[2].second - world.sent[0].second >= 60);
}

#[test]
fn names_are_resolved_again_after_failures_and_hours() {
    let mut world = World::new();
    world.script("198.51.100.1:80", 200, b"d8:intervali86400ee");
    let mut client = client(&world, &["http://t.example/announce"], &["192.0.2.1"]);
    world.run(&mut client, 200);
    let Report::Unresolved { error, .. } = &world.reports[0] else {
        panic!("{:?}", world.reports)
    };
    assert_eq!(
        (error.as_str(), world.reports.len()),
        ("no such name", 3),
        "after 0, 60 and 180 s"
    );
    world
        .names
        .insert("t.example", vec!["198.51.100.1".parse().unwrap()]);
    world.run(&mut client, 300);
    assert_eq!(world.sent.len(), 1);
    world
        .names
        .insert("t.example", vec!["2001:db8:1::1".parse().unwrap()]);
    world.run(&mut client, 3_700);
    assert_eq!(
        world.sent.len(),
        2,
        "no address of our family any more: stopped"
    );
    assert_eq!(world.sent[1].event(), "stopped");
}

#[test]
fn a_failure_tries_the_next_address_of_the_name() {
    let mut world = World::new();
    world.names.insert(
        "t.example",
        ["198.51.100.1", "198.51.100.2"]
            .map(|ip| ip.parse().unwrap())
            .to_vec(),
    );
    world.script("198.51.100.1:80", 503, b"");
    world.script("198.51.100.2:80", 200, b"d8:intervali900ee");
    let mut client = client(&world, &["http://t.example/announce"], &["192.0.2.1"]);
    world.run(&mut client, 100);
    let remotes: Vec<_> = world
        .sent
        .iter()
        .map(|sent| sent.remote.ip().to_string())
        .collect();
    assert_eq!(remotes, ["198.51.100.1", "198.51.100.2"]);
}

#[test]
fn announces_arrive_through_heavy_loss() {
    let mut world = World::new();
    world.serve(Config::default(), &["198.51.100.1:80"]);
    world.loss = 40;
    let locals: Vec<_> = (1..=8).map(|n| format!("192.0.2.{n}")).collect();
    let locals: Vec<_> = locals.iter().map(String::as_str).collect();
    let mut client = client(&world, &["udp://198.51.100.1:80"], &locals);
    world.run(&mut client, 1_700);
    assert_eq!(world.running[0].entries(), 8);
    assert_eq!(world.running[0].counters().limited, 0);
}

// S36
#[test]
fn datagrams_of_strangers_change_nothing() {
    let mut world = World::new();
    let mut client = client(&world, &["udp://198.51.100.1:80"], &["192.0.2.1"]);
    world.drain(&mut client);
    let transaction = packet::TransactionId(u32::from_be_bytes(
        world.sent[0].datagram[12..16].try_into().unwrap(),
    ));
    let mut answer = Vec::new();
    packet::write_connected(transaction, packet::ConnectionId([1; 8]), &mut answer);
    let local = "192.0.2.1".parse().unwrap();
    client.datagram(
        local,
        "198.51.100.2:80".parse().unwrap(),
        &answer,
        world.now,
    );
    client.datagram(
        "192.0.2.2".parse().unwrap(),
        "198.51.100.1:80".parse().unwrap(),
        &answer,
        world.now,
    );
    answer[4] ^= 1;
    client.datagram(
        local,
        "198.51.100.1:80".parse().unwrap(),
        &answer,
        world.now,
    );
    assert_eq!(client.counters().stray, 3);
    assert_eq!(
        client.poll(world.now, &mut world.rng),
        None,
        "not connected"
    );
}

// S36
#[test]
fn an_answer_of_ten_thousand_entries_is_bounded() {
    let mut world = World::new();
    let mut body = b"d5:peers60000:".to_vec();
    body.extend(
        (0..10_000u32).flat_map(|n| [&(0x0A00_0000 + n).to_be_bytes()[..], &[0x22, 0x21]].concat()),
    );
    body.push(b'e');
    world.script("198.51.100.1:80", 200, &body);
    let mut client = client(&world, &["http://198.51.100.1/announce"], &["192.0.2.1"]);
    world.run(&mut client, 10);
    let Some(Report::Answered { answer, remote, .. }) = world.reports.first() else {
        panic!("no answer")
    };
    assert_eq!((answer.peers.len(), answer.surplus), (2_000, 8_000));
    let filter = crate::rendezvous::Filter::default();
    let found = filter.select(&answer.peers, remote.ip(), &mut world.rng);
    assert_eq!((found.candidates.len(), found.dropped.private), (0, 2_000));
}

// B1
#[test]
fn what_publish_leaves_out_is_not_announced() {
    let mut world = World::new();
    world.script("198.51.100.1:80", 200, b"d8:intervali900ee");
    let publish = Publish {
        allow: vec![],
        deny: vec!["192.0.2.0/24".parse().unwrap()],
    };
    let mut client = client(&world, &["http://198.51.100.1/announce"], &[]);
    let locals = publish.select(&[local("192.0.2.1"), local("203.0.113.1")], |_, _| ());
    client.set_locals(&locals, world.now);
    world.run(&mut client, 10);
    assert_eq!(
        world
            .sent
            .iter()
            .map(|sent| sent.local.to_string())
            .collect::<Vec<_>>(),
        ["203.0.113.1"]
    );
}
