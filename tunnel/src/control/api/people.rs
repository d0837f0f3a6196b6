//! Who is let in: trust, rules, tickets.

use std::net::Ipv6Addr;
use std::time::Duration;

use anode_wire::PeerId;
use anode_wire::sealed::Timestamp;
use anode_wire::sealed::ticket::Issued;
use serde::{Deserialize, Serialize};

use crate::policy::{A_STRANGER, I2P_STRANGER, Policy, Protocol, What, Who, WhoText};
use crate::state::book::{Book, Entry};
use crate::state::destinations::Destination;
use crate::value::ValueError;
use crate::zone::Members;

/// Whom to let in.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustRequest {
    /// 64 base32 characters.
    pub address: String,
    /// What to call it.
    #[serde(default)]
    pub name: Option<String>,
}

/// `anode trust --json`, `anode distrust --json`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Trusted {
    /// 64 base32 characters.
    pub address: String,
    /// The synthetic IPv6 with peer digit 0.
    pub ipv6: Ipv6Addr,
    /// Its name.
    pub name: Option<String>,
    /// Whether it is let in now.
    pub trusted: bool,
    /// What people should know: a rule of the configuration that names somebody who has no name anymore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Trusted {
    /// What became of a destination of I2P.
    pub fn destination(entry: &Destination, trusted: bool) -> Self {
        Self {
            address: entry.hash.b32(),
            ipv6: entry.hash.synthetic_address(),
            name: entry.name.as_ref().map(ToString::to_string),
            trusted,
            note: None,
        }
    }

    /// What became of an entry.
    pub fn new(entry: &Entry, trusted: bool) -> Self {
        Self {
            address: entry.address.to_string(),
            ipv6: entry.address.ipv6(PeerId::ANY),
            name: entry.name.as_ref().map(ToString::to_string),
            trusted,
            note: None,
        }
    }
}

/// Whether somebody may reach something here: `anode policy check`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyQuestion {
    /// An address, an overlay IPv6, a name, or `any`.
    pub who: String,
    /// `tcp/22`, `udp/53`, `icmp`, `ip/132`
    pub what: String,
}

/// A [`PolicyQuestion`] that makes sense.
pub struct ParsedQuestion {
    who: WhoText,
    what: (Protocol, u16),
}

impl PolicyQuestion {
    /// Checks both words.
    pub fn parse(&self) -> Result<ParsedQuestion, ValueError> {
        let what: What = self.what.parse()?;
        let what = what.single().ok_or_else(|| {
            ValueError::new(format!(
                "\"{}\": ask about one port or protocol, as in tcp/22, udp/53, icmp or ip/132",
                self.what
            ))
        })?;
        let who: WhoText = self.who.parse()?;
        if let WhoText::Zone(_) = who {
            return Err(not_one());
        }
        Ok(ParsedQuestion { who, what })
    }
}

fn not_one() -> ValueError {
    ValueError::new(
        "ask about one peer: an address, an overlay IPv6, a name, or any; not about a zone",
    )
}

impl ParsedQuestion {
    /// What `policy` says; names by `book`.
    pub fn answer(&self, policy: &Policy, book: &Book) -> Result<PolicyAnswer, ValueError> {
        let from = match self.who.resolve(book, &policy.names, &Members::default())? {
            Who::Any => A_STRANGER,
            Who::AnyI2p => I2P_STRANGER,
            Who::Peer(ip) => ip,
            Who::Members(_) => return Err(not_one()),
        };
        let (protocol, port) = self.what;
        let (verdict, reason) = policy.verdict(from, protocol, port);
        Ok(PolicyAnswer {
            verdict: verdict.as_str().to_owned(),
            rule: reason.to_string(),
            reason: reason.explain(),
        })
    }
}

/// `anode policy check --json`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PolicyAnswer {
    /// `allow`, `reject` or `drop`.
    pub verdict: String,
    /// The rule as it was written; `echo`, `trust` or `default` where there is none.
    pub rule: String,
    /// The same for people.
    pub reason: String,
}

/// `anode policy reload --json`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PolicyReloaded {
    /// Rules of `allow`.
    pub allow: usize,
    /// Rules of `deny`.
    pub deny: usize,
    /// `reject` or `drop`: for what no rule lets in.
    pub default: String,
}

impl PolicyReloaded {
    /// Of the policy that is in force now.
    pub fn new(policy: &Policy) -> Self {
        Self {
            allow: policy.allow.len(),
            deny: policy.deny.len(),
            default: policy.otherwise.as_str().to_owned(),
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        format!(
            "{} allow, {} deny, default {}",
            self.allow, self.deny, self.default
        )
    }
}

/// A ticket is wanted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InviteRequest {
    /// How long it is good, at most [`TICKET_LIFETIME_MAX_S`].
    pub lifetime_s: u64,
}

/// 30 days.
pub const TICKET_LIFETIME_MAX_S: u64 = 30 * 86400;

/// `anode invite --json`
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    /// Its name, for `anode invite --withdraw`: 16 hex digits.
    pub id: String,
    /// The line for `anode join`.
    pub ticket: String,
    /// Where the joiner will look for this node, as `udp://IP:PORT`.
    pub endpoints: Vec<String>,
    /// Seconds from now.
    pub lifetime_s: u64,
}

/// One line of `anode invite --list --json`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct IssuedTicket {
    /// 16 hex digits; not secret.
    pub id: String,
    /// Seconds that are left.
    pub expires_in_s: u64,
    /// Who has used it.
    pub taken_by: Option<String>,
}

impl IssuedTicket {
    /// As it stands at `now`.
    pub fn new(issued: &Issued, now: Timestamp) -> Self {
        let left = Duration::from_micros(issued.expires.0.saturating_sub(now.0));
        Self {
            id: crate::control::tickets::id_text(issued.id),
            expires_in_s: left.as_secs(),
            taken_by: issued.taken_by.map(|address| address.to_string()),
        }
    }
}

/// A ticket is not to be used anymore.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WithdrawRequest {
    /// As listed.
    pub id: String,
}

/// A ticket is to be used.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// What `anode invite` printed.
    pub ticket: String,
    /// What to call its maker.
    #[serde(default)]
    pub name: Option<String>,
}
