//! From a URI to servers: S-NAPTR, SRV and addresses in the order of RFC 5928 (and RFC 8489 §8 for STUN), as a state
//! machine over DNS answers that somebody else gets.
//!
//! ```text
//!   literal, or port given ─────────────────────────────────▶ addresses
//!   transport given ────────────────▶ SRV of that transport ─▶ addresses   (no SRV: the host, default port)
//!   neither ──────────────▶ NAPTR ──▶ SRV or addresses       (no NAPTR: SRV of each transport we speak)
//! ```

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use crate::frame::Transport;
use crate::uri::{Host, Uri};

/// Ask DNS this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// NAPTR records of a name.
    Naptr(String),
    /// SRV records of a name.
    Srv(String),
    /// A and AAAA records of a name.
    Addresses(String),
}

/// A NAPTR record (RFC 3403); the regular expression is not used by S-NAPTR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Naptr {
    /// Lower ones first.
    pub order: u16,
    /// Lower ones first within an order.
    pub preference: u16,
    /// `s`: an SRV name follows; `a`: a host; empty: another NAPTR.
    pub flags: String,
    /// `RELAY:turn.udp` and the like, several joined by colons.
    pub services: String,
    /// The name that follows.
    pub replacement: String,
}

/// An SRV record (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Srv {
    /// Lower ones first.
    pub priority: u16,
    /// Among equals, a share of the choices.
    pub weight: u16,
    /// The port.
    pub port: u16,
    /// The host; `.` says that the service is not offered.
    pub target: String,
}

/// A server to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Where.
    pub address: SocketAddr,
    /// How.
    pub transport: Transport,
}

#[derive(Clone, Debug)]
enum Step {
    Naptr(String),
    Srv(String, Transport),
    Addresses(String, u16, Transport),
}

/// The lookup of one URI. Ask [`Lookup::query`], give the answer, until there is no query left.
#[derive(Debug)]
pub struct Lookup {
    uri: Uri,
    speak: Vec<Transport>,
    steps: VecDeque<Step>,
    servers: Vec<Server>,
    fallback: Fallback,
    /// Queries left: records can point in circles.
    budget: u32,
}

/// What is tried when nothing was found so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fallback {
    /// SRV of each transport.
    EachSrv,
    /// The host itself at the default port.
    Host,
    Nothing,
}

const BUDGET: u32 = 32;
const SERVERS: usize = 32;

impl Lookup {
    /// `speak`: the transports that we can use, best first.
    #[must_use]
    pub fn new(uri: Uri, speak: &[Transport]) -> Self {
        let can = |t: &Transport| t.is_secure() == uri.secure;
        let speak: Vec<Transport> = speak.iter().copied().filter(can).collect();
        let mut lookup = Self {
            speak,
            steps: VecDeque::new(),
            servers: Vec::new(),
            fallback: Fallback::Nothing,
            budget: BUDGET,
            uri,
        };
        lookup.begin();
        lookup
    }

    fn begin(&mut self) {
        let uri = &self.uri;
        let transport = uri.transport.unwrap_or(uri.default_transport());
        match (&uri.host, uri.port, uri.transport) {
            (Host::Address(ip), port, _) => {
                let address = SocketAddr::new(*ip, port.unwrap_or(uri.default_port()));
                self.servers.push(Server { address, transport });
            }
            (Host::Name(name), Some(port), _) => {
                self.steps
                    .push_back(Step::Addresses(name.clone(), port, transport))
            }
            (Host::Name(name), None, Some(transport)) => {
                self.steps
                    .push_back(Step::Srv(self.srv_name(name, transport), transport));
                self.fallback = Fallback::Host;
            }
            (Host::Name(name), None, None) if uri.relay => {
                self.steps.push_back(Step::Naptr(name.clone()));
                self.fallback = Fallback::EachSrv;
            }
            // RFC 8489 §8 knows no NAPTR for STUN.
            (Host::Name(_), None, None) => self.each_srv(),
        }
    }

    fn srv_name(&self, host: &str, transport: Transport) -> String {
        let service = if self.uri.relay { "turn" } else { "stun" };
        let (s, protocol) = match transport {
            Transport::Udp => ("", "udp"),
            Transport::Tcp => ("", "tcp"),
            Transport::Tls => ("s", "tcp"),
            Transport::Dtls => ("s", "udp"),
        };
        format!("_{service}{s}._{protocol}.{host}")
    }

    fn each_srv(&mut self) {
        if let Host::Name(name) = &self.uri.host {
            let srv = |t: &Transport| Step::Srv(self.srv_name(name, *t), *t);
            let steps: Vec<Step> = self.speak.iter().map(srv).collect();
            self.steps.extend(steps);
        }
        self.fallback = Fallback::Host;
    }

    /// What to ask next; `None`: done.
    pub fn query(&mut self) -> Option<Query> {
        while self.steps.is_empty() && self.servers.is_empty() {
            match (self.fallback, &self.uri.host) {
                (Fallback::EachSrv, _) => self.each_srv(),
                (Fallback::Host, Host::Name(name)) => {
                    let transport = self.uri.transport.unwrap_or(self.uri.default_transport());
                    self.steps.push_back(Step::Addresses(
                        name.clone(),
                        self.uri.default_port(),
                        transport,
                    ));
                    self.fallback = Fallback::Nothing;
                }
                _ => return None,
            }
        }
        if self.budget == 0 || self.servers.len() >= SERVERS {
            return None;
        }
        Some(match self.steps.front()? {
            Step::Naptr(name) => Query::Naptr(name.clone()),
            Step::Srv(name, _) => Query::Srv(name.clone()),
            Step::Addresses(name, ..) => Query::Addresses(name.clone()),
        })
    }

    fn step(&mut self) -> Option<Step> {
        self.budget = self.budget.saturating_sub(1);
        self.steps.pop_front()
    }

    /// Answers [`Query::Naptr`]; no records if there are none.
    pub fn naptr(&mut self, mut records: Vec<Naptr>) {
        if !matches!(self.step(), Some(Step::Naptr(_))) {
            return;
        }
        records.truncate(64);
        records.sort_by_key(|r| (r.order, r.preference));
        let mut next = Vec::new();
        for record in records {
            for transport in self.transports(&record.services) {
                next.push(match record.flags.to_ascii_lowercase().as_str() {
                    "s" => Step::Srv(record.replacement.clone(), transport),
                    "a" => Step::Addresses(
                        record.replacement.clone(),
                        self.uri.default_port(),
                        transport,
                    ),
                    "" => Step::Naptr(record.replacement.clone()),
                    _ => continue,
                });
            }
        }
        for step in next.into_iter().rev() {
            self.steps.push_front(step);
        }
    }

    /// The transports of a NAPTR's services that we speak (RFC 5928 §5: `RELAY:turn.udp`, `.tcp`, `.tls`; RFC 7350:
    /// `.dtls`), in the record's order.
    fn transports(&self, services: &str) -> Vec<Transport> {
        let Some((service, protocols)) = services.split_once(':') else {
            return Vec::new();
        };
        if !service.eq_ignore_ascii_case("RELAY") {
            return Vec::new();
        }
        let transport = |p: &str| match p.to_ascii_lowercase().as_str() {
            "turn.udp" => Some(Transport::Udp),
            "turn.tcp" => Some(Transport::Tcp),
            "turn.tls" => Some(Transport::Tls),
            "turn.dtls" => Some(Transport::Dtls),
            _ => None,
        };
        protocols
            .split(':')
            .filter_map(transport)
            .filter(|t| self.speak.contains(t))
            .collect()
    }

    /// Answers [`Query::Srv`]; `random(n)` gives a number below n.
    pub fn srv(&mut self, records: Vec<Srv>, random: &mut impl FnMut(u32) -> u32) {
        let Some(Step::Srv(_, transport)) = self.step() else {
            return;
        };
        for record in in_order(records, random).into_iter().rev() {
            if record.target != "." && !record.target.is_empty() && record.port != 0 {
                self.steps
                    .push_front(Step::Addresses(record.target, record.port, transport));
            }
        }
    }

    /// Answers [`Query::Addresses`].
    pub fn addresses(&mut self, addresses: &[IpAddr]) {
        let Some(Step::Addresses(_, port, transport)) = self.step() else {
            return;
        };
        for ip in addresses
            .iter()
            .take(SERVERS - self.servers.len().min(SERVERS))
        {
            let server = Server {
                address: SocketAddr::new(*ip, port),
                transport,
            };
            if !self.servers.contains(&server) {
                self.servers.push(server);
            }
        }
    }

    /// The servers found so far, in the order to try them.
    #[must_use]
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }
}

/// SRV records in the order to try them: by priority, and by chance according to weight (RFC 2782).
#[must_use]
pub fn in_order(mut records: Vec<Srv>, random: &mut impl FnMut(u32) -> u32) -> Vec<Srv> {
    records.truncate(64);
    records.sort_by_key(|r| (r.priority, r.weight));
    let mut ordered = Vec::with_capacity(records.len());
    while let Some(first) = records.first() {
        let equals = records
            .iter()
            .take_while(|r| r.priority == first.priority)
            .count();
        let total: u32 = records[..equals].iter().map(|r| u32::from(r.weight)).sum();
        let mut left = random(total + 1);
        let chosen = records[..equals].iter().position(|r| {
            let weight = u32::from(r.weight);
            let here = weight >= left;
            left = left.saturating_sub(weight);
            here
        });
        ordered.push(records.remove(chosen.unwrap_or(0)));
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Transport; 4] = [
        Transport::Udp,
        Transport::Tcp,
        Transport::Tls,
        Transport::Dtls,
    ];

    fn lookup(uri: &str) -> Lookup {
        Lookup::new(uri.parse().unwrap(), &ALL)
    }

    fn srv(priority: u16, weight: u16, port: u16, target: &str) -> Srv {
        Srv {
            priority,
            weight,
            port,
            target: target.into(),
        }
    }

    fn naptr(order: u16, flags: &str, services: &str, replacement: &str) -> Naptr {
        Naptr {
            order,
            preference: 0,
            flags: flags.into(),
            services: services.into(),
            replacement: replacement.into(),
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    // T36: which names are asked when all answers are empty
    #[test]
    fn names_are_asked_in_order() {
        for (uri, asked) in [
            ("turn:192.0.2.1", vec![]),
            ("turn:[2001:db8::1]:99?transport=tcp", vec![]),
            ("turn:h.example:99", vec!["h.example"]),
            (
                "turn:h.example?transport=tcp",
                vec!["_turn._tcp.h.example", "h.example"],
            ),
            (
                "turns:h.example?transport=tcp",
                vec!["_turns._tcp.h.example", "h.example"],
            ),
            (
                "turns:h.example?transport=udp",
                vec!["_turns._udp.h.example", "h.example"],
            ),
            (
                "turn:h.example",
                vec![
                    "h.example",
                    "_turn._udp.h.example",
                    "_turn._tcp.h.example",
                    "h.example",
                ],
            ),
            (
                "turns:h.example",
                vec![
                    "h.example",
                    "_turns._tcp.h.example",
                    "_turns._udp.h.example",
                    "h.example",
                ],
            ),
            (
                "stun:h.example",
                vec!["_stun._udp.h.example", "_stun._tcp.h.example", "h.example"],
            ),
            (
                "stuns:h.example",
                vec![
                    "_stuns._tcp.h.example",
                    "_stuns._udp.h.example",
                    "h.example",
                ],
            ),
        ] {
            let (mut lookup, mut names) = (lookup(uri), Vec::new());
            while let Some(query) = lookup.query() {
                let (Query::Naptr(name) | Query::Srv(name) | Query::Addresses(name)) = &query;
                names.push(name.clone());
                match query {
                    Query::Naptr(_) => lookup.naptr(vec![]),
                    Query::Srv(_) => lookup.srv(vec![], &mut |_| 0),
                    Query::Addresses(_) => lookup.addresses(&[]),
                }
            }
            assert_eq!(names, asked, "{uri}");
        }
        assert_eq!(
            lookup("turns:192.0.2.1").servers()[0].address,
            "192.0.2.1:5349".parse().unwrap()
        );
    }

    // T36: RFC 5928 §4.2's example
    #[test]
    fn naptr_leads_to_srv_leads_to_addresses() {
        let mut lookup = lookup("turn:example.com");
        assert_eq!(lookup.query(), Some(Query::Naptr("example.com".into())));
        lookup.naptr(vec![
            naptr(200, "", "RELAY:turn.tcp", "datagram.example.com"),
            naptr(100, "S", "RELAY:turn.udp", "_turn._udp.example.com"),
            naptr(50, "s", "SIP+D2U", "_sip._udp.example.com"),
            naptr(60, "s", "RELAY:turn.tls", "_turns._tcp.example.com"),
        ]);
        assert_eq!(
            lookup.query(),
            Some(Query::Srv("_turn._udp.example.com".into()))
        );
        lookup.srv(
            vec![
                srv(0, 0, 5000, "a.example.com"),
                srv(1, 0, 5001, "b.example.com"),
            ],
            &mut |_| 0,
        );
        assert_eq!(
            lookup.query(),
            Some(Query::Addresses("a.example.com".into()))
        );
        lookup.addresses(&[ip("192.0.2.1"), ip("2001:db8::1")]);
        lookup.addresses(&[ip("192.0.2.2")]);
        assert_eq!(
            lookup.query(),
            Some(Query::Naptr("datagram.example.com".into()))
        );
        lookup.naptr(vec![naptr(0, "a", "RELAY:turn.tcp", "c.example.com")]);
        assert_eq!(
            lookup.query(),
            Some(Query::Addresses("c.example.com".into()))
        );
        lookup.addresses(&[ip("192.0.2.3")]);
        assert_eq!(lookup.query(), None);
        let found: Vec<String> = lookup
            .servers()
            .iter()
            .map(|s| format!("{} {:?}", s.address, s.transport))
            .collect();
        assert_eq!(
            found,
            [
                "192.0.2.1:5000 Udp",
                "[2001:db8::1]:5000 Udp",
                "192.0.2.2:5001 Udp",
                "192.0.2.3:3478 Tcp"
            ]
        );
    }

    // T36: priorities strictly, weights by chance
    #[test]
    fn srv_records_are_ordered_and_weighed() {
        let records = vec![
            srv(2, 9, 1, "late"),
            srv(1, 0, 1, "none"),
            srv(1, 10, 1, "ten"),
            srv(1, 30, 1, "thirty"),
        ];
        let (mut firsts, mut state) = ([0_u32; 2], 1_u64);
        let mut random = |n: u32| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % u64::from(n)) as u32
        };
        for _ in 0..4000 {
            let ordered = in_order(records.clone(), &mut random);
            assert_eq!((ordered.len(), ordered[3].target.as_str()), (4, "late"));
            match ordered[0].target.as_str() {
                "ten" => firsts[0] += 1,
                "thirty" => firsts[1] += 1,
                _ => {}
            }
        }
        let ratio = f64::from(firsts[1]) / f64::from(firsts[0]);
        assert!((2.5..3.6).contains(&ratio), "30 to 10: {ratio}");
    }

    // Records that point in circles, "not offered", more records than anybody needs
    #[test]
    fn hostile_records_end() {
        let mut lookup = lookup("turn:example.com");
        let mut queries = 0;
        while let Some(query) = lookup.query() {
            queries += 1;
            match query {
                Query::Naptr(name) => {
                    lookup.naptr(vec![naptr(0, "", "RELAY:turn.udp:turn.tcp", &name); 500])
                }
                Query::Srv(_) => lookup.srv(vec![srv(0, 0, 0, "x"), srv(0, 0, 1, ".")], &mut |_| 0),
                Query::Addresses(_) => lookup.addresses(&[]),
            }
        }
        assert_eq!(queries, BUDGET);
        assert!(in_order(vec![srv(0, u16::MAX, 1, "x"); 100_000], &mut |_| 0).len() <= 64);
    }
}
