//! Who may reach this machine (DESIGN §5, §6): nobody, but for echo, for what `[inbound]` or `anode trust` lets in, and for
//! answers to what this machine itself began.
//!
//! ```text
//!  [inbound] (config) ─┐
//!  trust.toml (names) ─┴▶ Policy ──▶ verdict: deny list, echo, trust, allow list, default
//!  packets of programs ──▶ Flows ──▶ answers pass without a verdict
//! ```
//!
//! The source of a packet is never what it claims: it is the synthetic address of the key that authenticated it (S14).
//! An address is blocked by its key (S40): there is one spelling of it here, the synthetic IPv6 with digit 0.

mod flows;
mod inbound;
mod rule;

use std::collections::HashSet;
use std::net::Ipv6Addr;

use anode_routing::i2p::Hash;
use anode_wire::PeerId;
use anode_wire::address::split_digit;

use crate::Error;
use crate::names::Given;
use crate::state::book::Book;
use crate::zone::Members;

pub use flows::{Flow, Flows};
pub use inbound::{Inbound, Line};
pub use rule::{Protocol, Rule, RuleText, What, Who, WhoText, carried};

/// Somebody whom no rule names, for `anode policy check any …`.
pub const A_STRANGER: Ipv6Addr = Ipv6Addr::UNSPECIFIED;

/// The same, for `anode policy check any-i2p …`.
pub const I2P_STRANGER: Ipv6Addr = Ipv6Addr::new(0xfda1, 0, 0, 0, 0, 0, 0, 0);

/// What happens to what nobody let in: `[inbound] default`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Otherwise {
    /// The other side is told: `connect()` fails at once.
    #[default]
    Reject,
    /// Silence.
    Drop,
}

impl Otherwise {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reject => "reject",
            Self::Drop => "drop",
        }
    }
}

/// What becomes of a first packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It passes.
    Allow,
    /// It does not, and the other side is told where the protocol can say so.
    Reject,
    /// It does not, in silence.
    Drop,
}

impl Verdict {
    /// As in JSON and in the metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Reject => "reject",
            Self::Drop => "drop",
        }
    }
}

/// The rules in force. Replaced whole when people change them.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// For what no rule lets in.
    pub otherwise: Otherwise,
    /// `[inbound] deny`: before everything else but echo.
    pub deny: Vec<Rule>,
    /// `[inbound] allow`, in their order.
    pub allow: Vec<Rule>,
    /// Peers that may do anything (synthetic addresses with digit 0).
    pub trusted: HashSet<Ipv6Addr>,
    /// Destinations of I2P on which all this rests: their addresses belong to nobody else.
    pub destinations: Vec<Hash>,
    /// The names of `[names]`, for questions.
    pub names: Given,
}

/// Why a verdict is what it is, for `anode policy check`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason<'a> {
    /// Echo is always answered.
    Echo,
    /// A rule of `[inbound] deny`.
    Denied(&'a Rule),
    /// `anode trust`.
    Trusted,
    /// A rule of `[inbound] allow`.
    Allowed(&'a Rule),
    /// `[inbound] default`.
    Default,
}

impl Reason<'_> {
    /// For people.
    pub fn explain(&self) -> String {
        match self {
            Reason::Echo => "echo requests are always answered".to_owned(),
            Reason::Denied(rule) => format!("[inbound] deny: \"{rule}\""),
            Reason::Trusted => "the peer is trusted (anode trust)".to_owned(),
            Reason::Allowed(rule) => format!("[inbound] allow: \"{rule}\""),
            Reason::Default => "no rule lets it in: [inbound] default".to_owned(),
        }
    }
}

/// The rule as it was written, or `echo`, `trust`, `default` where there is none.
impl std::fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Reason::Echo => f.write_str("echo"),
            Reason::Denied(rule) | Reason::Allowed(rule) => rule.fmt(f),
            Reason::Trusted => f.write_str("trust"),
            Reason::Default => f.write_str("default"),
        }
    }
}

impl Policy {
    /// The policy of a configuration, a trust book and the zone's members; a name that the book does not have, or a zone
    /// whose members nobody vouches for, is an error with its place.
    pub fn new(inbound: &Inbound, book: &Book, members: &Members) -> Result<Self, Error> {
        let (policy, lost) = Self::lenient(inbound, book, members, &Policy::default());
        match lost.into_iter().next() {
            None => Ok(policy),
            Some(error) => Err(error),
        }
    }

    /// As [`Policy::new`], but names may be gone: taking trust back must always work. Such an `allow` lets nobody in; such
    /// a `deny` keeps out whom it kept out `before`.
    pub fn lenient(
        inbound: &Inbound,
        book: &Book,
        members: &Members,
        before: &Policy,
    ) -> (Self, Vec<Error>) {
        let mut lost = Vec::new();
        let mut resolve = |lines: &[Line], before: &[Rule]| -> Vec<Rule> {
            let rules = lines.iter().filter_map(|line| {
                let known = || before.iter().find(|rule| rule.text() == line.rule.text());
                match line.rule.resolve(book, &inbound.names, members) {
                    Ok(rule) => Some(rule),
                    Err(error) => {
                        lost.push(Error::invalid(line.place.as_str(), error.to_string()));
                        known().cloned()
                    }
                }
            });
            rules.collect()
        };
        let trusted = book.destinations.iter().filter(|one| one.trusted);
        let lines = inbound.allow.iter().chain(&inbound.deny);
        let policy = Policy {
            otherwise: inbound.default,
            deny: resolve(&inbound.deny, &before.deny),
            allow: resolve(&inbound.allow, &[]),
            trusted: book
                .entries()
                .iter()
                .map(|entry| entry.address.ipv6(PeerId::ANY))
                .chain(trusted.map(|one| one.hash.synthetic_address()))
                .collect(),
            destinations: lines
                .filter_map(|line| line.rule.destination(book, &inbound.names))
                .chain(book.destinations.iter().map(|one| one.hash))
                .collect(),
            names: inbound.names.clone(),
        };
        (policy, lost)
    }

    /// Whether `from` may begin to speak to `port` (0 where the protocol has none) of this machine, and why.
    pub fn verdict(&self, from: Ipv6Addr, protocol: Protocol, port: u16) -> (Verdict, Reason<'_>) {
        let (from, _) = split_digit(from);
        let speaks = |rule: &&Rule| rule.matches(from, protocol, port);
        if protocol == Protocol::Icmp {
            return (Verdict::Allow, Reason::Echo);
        }
        if let Some(rule) = self.deny.iter().find(speaks) {
            return (self.refusal(), Reason::Denied(rule));
        }
        if self.trusted.contains(&from) {
            return (Verdict::Allow, Reason::Trusted);
        }
        match self.allow.iter().find(speaks) {
            Some(rule) => (Verdict::Allow, Reason::Allowed(rule)),
            None => (self.refusal(), Reason::Default),
        }
    }

    fn refusal(&self) -> Verdict {
        match self.otherwise {
            Otherwise::Reject => Verdict::Reject,
            Otherwise::Drop => Verdict::Drop,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Rule {
        let rule: RuleText = text.parse().unwrap();
        rule.resolve(&Book::default(), &Given::default(), &Members::default())
            .unwrap()
    }

    #[test]
    fn nobody_gets_in_but_by_trust_or_rule_and_a_denied_key_never() {
        // S40
        let [a, b, c]: [Ipv6Addr; 3] =
            ["fda0::a0", "fda0::b0", "fda0::c0"].map(|text| text.parse().unwrap());
        let a_digit: Ipv6Addr = "fda0::a7".parse().unwrap();
        let policy = Policy {
            otherwise: Otherwise::Reject,
            deny: vec![rule("fda0::c5 any"), rule("fda0::a0 tcp/25")],
            allow: vec![
                rule("fda0::b0 tcp/22"),
                rule("any udp/5000-5010"),
                rule("fda0::b0 ip/132"),
            ],
            trusted: HashSet::from([a, c]),
            names: Given::default(),
            ..Policy::default()
        };
        let cases = [
            (a, Protocol::Tcp, 1, Verdict::Allow),
            (a, Protocol::Tcp, 25, Verdict::Reject),
            (a_digit, Protocol::Tcp, 1, Verdict::Allow),
            (a_digit, Protocol::Tcp, 25, Verdict::Reject),
            (a, Protocol::Ip(47), 0, Verdict::Allow),
            (b, Protocol::Tcp, 22, Verdict::Allow),
            (b, Protocol::Tcp, 23, Verdict::Reject),
            (b, Protocol::Udp, 22, Verdict::Reject),
            (b, Protocol::Udp, 4999, Verdict::Reject),
            (b, Protocol::Udp, 5000, Verdict::Allow),
            (b, Protocol::Udp, 5010, Verdict::Allow),
            (b, Protocol::Udp, 5011, Verdict::Reject),
            (b, Protocol::Ip(132), 0, Verdict::Allow),
            (b, Protocol::Ip(47), 0, Verdict::Reject),
            (b, Protocol::Icmp, 0, Verdict::Allow),
            (c, Protocol::Tcp, 1, Verdict::Reject),
            (c, Protocol::Udp, 5000, Verdict::Reject),
            (c, Protocol::Icmp, 0, Verdict::Allow),
            (A_STRANGER, Protocol::Udp, 5000, Verdict::Allow),
            (A_STRANGER, Protocol::Tcp, 22, Verdict::Reject),
        ];
        for (from, protocol, port, expected) in cases {
            let (verdict, reason) = policy.verdict(from, protocol, port);
            assert_eq!(verdict, expected, "{from} {protocol:?} {port}: {reason}");
        }
        let silent = Policy {
            otherwise: Otherwise::Drop,
            ..Policy::default()
        };
        assert_eq!(
            silent.verdict(b, Protocol::Tcp, 22),
            (Verdict::Drop, Reason::Default)
        );
        assert_eq!(
            Policy::default().verdict(b, Protocol::Tcp, 22).0,
            Verdict::Reject
        );
    }

    #[test]
    fn a_rule_whose_name_is_gone_lets_nobody_in_and_is_told() {
        let config = crate::config::Config::parse(
            "[inbound]\nallow = [\n  \"any tcp/80\",\n  \"laptop tcp/22\",\n]\n",
            std::path::Path::new("/x/anode.toml"),
        )
        .unwrap();
        let error =
            Policy::new(&config.inbound, &Book::default(), &Members::default()).unwrap_err();
        assert_eq!(error.exit_status(), 2);
        assert!(
            error
                .to_string()
                .starts_with("/x/anode.toml:4: nobody is called \"laptop\""),
            "{error}"
        );
        let (policy, lost) = Policy::lenient(
            &config.inbound,
            &Book::default(),
            &Members::default(),
            &Policy::default(),
        );
        assert_eq!((policy.allow.len(), lost.len()), (1, 1));
        assert_eq!(
            policy.verdict(A_STRANGER, Protocol::Tcp, 22).0,
            Verdict::Reject
        );
    }

    #[test]
    fn rules_use_the_names_of_the_same_file_after_those_of_the_book() {
        let own = "aeaaaaaaaaaag2yx2hzoclcci74lzzxfmoseb4txan6yclplgoqpjijzixmjrquw";
        let text = format!("[inbound]\nallow = [\"box tcp/22\"]\n[names]\nbox = \"{own}\"\n");
        let config = crate::config::Config::parse(&text, std::path::Path::new("x")).unwrap();
        let policy = Policy::new(&config.inbound, &Book::default(), &Members::default()).unwrap();
        let address: anode_wire::Address = own.parse().unwrap();
        let ip = address.ipv6(PeerId::ANY);
        assert_eq!(policy.verdict(ip, Protocol::Tcp, 22).0, Verdict::Allow);
        assert_eq!(
            policy.verdict(A_STRANGER, Protocol::Tcp, 22).0,
            Verdict::Reject
        );
        // Whom people trusted under that name comes first.
        let other = *anode_wire::Identity::from_scalar(anode_wire::Zone(0), &[7; 32])
            .unwrap()
            .address();
        let mut book = Book::default();
        book.trust(other, Some("box".parse().unwrap())).unwrap();
        let policy = Policy::new(&config.inbound, &book, &Members::default()).unwrap();
        assert_eq!(policy.verdict(ip, Protocol::Tcp, 22).0, Verdict::Reject);
    }

    #[test]
    fn a_denied_peer_stays_out_when_its_name_goes() {
        let address: anode_wire::Address =
            "aeaaaaaaaaaag2yx2hzoclcci74lzzxfmoseb4txan6yclplgoqpjijzixmjrquw"
                .parse()
                .unwrap();
        let mut book = Book::default();
        book.trust(address, Some("mallory".parse().unwrap()))
            .unwrap();
        let text = "[inbound]\nallow = [\"any tcp/80\"]\ndeny = [\"mallory any\"]\n";
        let config = crate::config::Config::parse(text, std::path::Path::new("x")).unwrap();
        let before = Policy::new(&config.inbound, &book, &Members::default()).unwrap();
        book.distrust(&address);
        let (after, lost) = Policy::lenient(&config.inbound, &book, &Members::default(), &before);
        assert_eq!(lost.len(), 1);
        let ip = address.ipv6(PeerId::ANY);
        assert_eq!(after.verdict(ip, Protocol::Tcp, 80).0, Verdict::Reject);
    }
}
