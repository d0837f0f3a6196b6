//! `anode netcheck`: what lies between this machine and the others, as JSON has it, and in one sentence.

use anode_routing::anode::{Filtering, Mapping, NetReport, RelayReach, Relayed};
use serde::{Deserialize, Serialize};

use super::api::millis;
use crate::portmap::PortMapping;

/// `anode netcheck --json`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Netcheck {
    /// Datagrams go out, and answers come back.
    pub udp: bool,
    /// How the NAT chooses ports (RFC 4787 §4.1): `none`, `endpoint-independent`, `address-dependent`,
    /// `address-port-dependent`, `unknown`.
    pub mapping: String,
    /// What it lets in (RFC 4787 §5): the same words without `none`.
    pub filtering: String,
    /// Whether it turns packets to its own outside round; `null` where nobody could try.
    pub hairpin: Option<bool>,
    /// Ports that it gives lie in a sequence, so that they can be predicted.
    pub sequential: bool,
    /// Where others see us, as `udp://IP:PORT`.
    pub external: Vec<String>,
    /// The port that the gateway keeps open, if it does.
    pub portmap: Option<PortMapping>,
    /// Every place of every relay of the zone.
    pub relays: Vec<RelayPlace>,
    /// All of that in one sentence.
    pub verdict: String,
}

/// One of `relays` of [`Netcheck`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RelayPlace {
    /// 64 base32 characters.
    pub relay: String,
    /// As `udp://192.0.2.1:8737`.
    pub endpoint: String,
    /// `udp`, `tcp`, `tls`, `http`, `https`
    pub transport: String,
    /// Round trip in milliseconds; `null`: it does not answer.
    pub rtt_ms: Option<f64>,
}

impl Netcheck {
    /// As JSON has it.
    pub fn new(report: &NetReport, portmap: Option<PortMapping>) -> Self {
        let place = |reach: &RelayReach| RelayPlace {
            relay: reach.relay.to_string(),
            endpoint: reach.at.to_string(),
            transport: reach.at.transport().as_str().to_owned(),
            rtt_ms: reach.rtt.map(millis),
        };
        Self {
            udp: report.udp,
            mapping: report.mapping.as_str().to_owned(),
            filtering: report.filtering.as_str().to_owned(),
            hairpin: report.hairpin,
            sequential: report.in_sequence,
            external: report
                .external
                .iter()
                .map(|at| format!("udp://{at}"))
                .collect(),
            relays: report.relays.iter().map(place).collect(),
            verdict: verdict(report, portmap.is_some()),
            portmap,
        }
    }
}

/// What it means for whoever uses this machine.
fn verdict(report: &NetReport, mapped: bool) -> String {
    let answers = |reach: &&RelayReach| reach.rtt.is_some();
    let first = report.relays.iter().find(answers);
    let text = match (report.relays.is_empty(), first, report.udp) {
        (true, ..) => {
            "No relay is known here, so there is nobody to ask how this network looks from outside: name a zone file or [[relays]]."
        }
        (false, None, _) => {
            "No relay answers over any transport: this machine is offline, or a firewall lets nothing out."
        }
        (false, Some(reach), false) => {
            let over = reach.at.transport().as_str().to_uppercase();
            return format!(
                "UDP does not get out of this network: every peer outside of it is reached through a relay, over {over}."
            );
        }
        (false, Some(_), true) if mapped => {
            "The gateway keeps a port open for this machine: every peer that has UDP is reached directly."
        }
        (false, Some(_), true) => match (report.mapping, report.filtering) {
            (Mapping::None, Filtering::EndpointIndependent) => {
                "This machine is on the open internet: every peer that has UDP is reached directly."
            }
            (Mapping::None, _) => {
                "There is no NAT, and a firewall that opens for answers: peers are reached directly, but for some behind a NAT whose ports nobody can guess."
            }
            (
                Mapping::EndpointIndependent,
                Filtering::AddressPortDependent | Filtering::Unknown,
            ) => {
                "A NAT that keeps one port for all: peers are reached directly, at the price of a search where their NAT gives random ports."
            }
            (Mapping::EndpointIndependent, _) => {
                "A NAT that keeps one port for all and filters by address at most: every peer that has UDP is reached directly."
            }
            (Mapping::AddressDependent | Mapping::AddressPortDependent, _)
                if report.in_sequence =>
            {
                "A NAT with another port for each destination, in a sequence: most peers are reached directly by predicting it, those behind a NAT with random ports through a relay."
            }
            (Mapping::AddressDependent | Mapping::AddressPortDependent, _) => {
                "A NAT with another random port for each destination: peers behind such a NAT are reached through a relay, all others directly, some after a search."
            }
            (Mapping::Unknown, _) => {
                "UDP works; how the NAT maps ports is not known, since one place alone has answered."
            }
        },
    };
    text.to_owned()
}

/// Why a peer stays relayed, in words.
pub fn relayed_text(word: &str) -> &'static str {
    let all = [
        (Relayed::Trying, "a direct path is being looked for"),
        (
            Relayed::Stranger,
            "it is not trusted, and nothing here talks to it: no direct path is looked for",
        ),
        (
            Relayed::NoAnswer,
            "it does not say where it is: an older version, or it does not trust this machine",
        ),
        (Relayed::NoDatagrams, "UDP does not get out of this network"),
        (
            Relayed::NoDatagramsThere,
            "UDP does not get out of its network",
        ),
        (
            Relayed::BothSymmetric,
            "both NATs give each destination another port, and not both in a sequence: nobody can guess them",
        ),
        (
            Relayed::NoCommonFamily,
            "the one has IPv4 alone, the other IPv6 alone: nothing leads from one to the other",
        ),
        (
            Relayed::NothingThrough,
            "both sides tried, and nothing came through: a firewall, or a NAT that nobody has told us enough of",
        ),
        (
            Relayed::NotHit,
            "the ports of the symmetric NAT were not hit; tried again later",
        ),
        (
            Relayed::OverBudget,
            "too many searches for ports at once; tried again later",
        ),
    ];
    let found = all.into_iter().find(|(why, _)| why.as_str() == word);
    found.map_or("", |(_, text)| text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anode_routing::anode::Place;
    use anode_wire::{Identity, Zone};
    use std::time::Duration;

    fn report(rtt: Option<Duration>, at: &str) -> NetReport {
        let mut scalar = [0; 32];
        scalar[31] = 1;
        let identity = Identity::from_scalar(Zone(0), &scalar).expect("a key");
        NetReport {
            udp: rtt.is_some() && at.starts_with("udp"),
            mapping: Mapping::EndpointIndependent,
            filtering: Filtering::AddressPortDependent,
            hairpin: Some(false),
            in_sequence: false,
            external: vec!["198.51.100.7:4000".parse().expect("an endpoint")],
            mapped: None,
            relays: vec![RelayReach {
                relay: *identity.address(),
                at: Place::from_endpoint(&at.parse().expect("an endpoint")).expect("a place"),
                rtt,
            }],
        }
    }

    #[test]
    fn json_has_the_keys_that_scripts_read() {
        let answer = Netcheck::new(
            &report(Some(Duration::from_millis(20)), "udp://192.0.2.1:8737"),
            None,
        );
        let json = serde_json::to_value(&answer).expect("JSON");
        assert_eq!(json["udp"], true);
        assert_eq!(json["mapping"], "endpoint-independent");
        assert_eq!(json["filtering"], "address-port-dependent");
        assert_eq!(json["hairpin"], false);
        assert_eq!(json["external"][0], "udp://198.51.100.7:4000");
        assert!(json["portmap"].is_null());
        assert_eq!(json["relays"][0]["endpoint"], "udp://192.0.2.1:8737");
        assert_eq!(json["relays"][0]["transport"], "udp");
        assert_eq!(json["relays"][0]["rtt_ms"], 20.0);
        assert!(json["verdict"].as_str().expect("a sentence").ends_with('.'));
    }

    #[test]
    fn the_verdict_says_what_is_blocked() {
        let tcp = report(Some(Duration::from_millis(20)), "tcp://192.0.2.1:443");
        assert!(verdict(&tcp, false).contains("over TCP"));
        let silent = report(None, "udp://192.0.2.1:8737");
        assert!(verdict(&silent, false).contains("No relay answers"));
        let mut none = silent.clone();
        none.relays.clear();
        assert!(verdict(&none, false).contains("No relay is known"));
        let mut random = report(Some(Duration::from_millis(20)), "udp://192.0.2.1:8737");
        random.mapping = Mapping::AddressPortDependent;
        assert!(verdict(&random, false).contains("random port"));
        assert!(verdict(&random, true).contains("gateway"));
    }

    #[test]
    fn every_reason_has_its_words() {
        for why in [
            Relayed::Trying,
            Relayed::Stranger,
            Relayed::NotHit,
            Relayed::BothSymmetric,
            Relayed::NoCommonFamily,
        ] {
            assert_ne!(relayed_text(why.as_str()), "");
        }
        assert_eq!(relayed_text("of a later version"), "");
    }
}
