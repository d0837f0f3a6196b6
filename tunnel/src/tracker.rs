//! Trackers as people configure them: being one, and meeting at one.
//!
//! ```toml
//! [tracker]                     # a role of `anode relay`; alone in a file it is the whole program, without root
//! listen = ["0.0.0.0:6969", "[::]:6969"]   # each for UDP and HTTP
//! open = false                  # serve every info hash
//! info-hashes = ["HEX"]         # serve these, beside those of the own zone
//! interval-s = 1800
//! limits = { ports-per-ip = 64, requests-per-second = 10, entries = 100000 }
//!
//! [rendezvous]                  # find peers by what trackers say
//! trackers = ["udp://192.0.2.1:6969", "https://tracker.example/announce"]
//! secret = "…"                  # who does not know it cannot find the swarm
//! rotate = "1d"                 # another info hash every day
//! zone-trackers = false         # also those of the signed zone file
//! allow = []                    # only these own addresses are announced
//! deny = ["192.168.0.0/16"]     # neither announced nor probed
//! ```
pub mod meet;
pub mod names;
pub mod role;

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use anode_routing::tracker::{
    Cidr, ConnectionLimits, InfoHash, OwnHashes, Rotation, Served, ServerConfig, TrackerUrl,
};
use anode_wire::Zone;
use serde::Deserialize;

use crate::value::{Number, Text, ValueError};

/// The section `[tracker]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct TrackerRole {
    /// Where to serve, UDP and HTTP.
    pub listen: Vec<Text<TrackerListen>>,
    /// Serve every info hash.
    pub open: bool,
    /// Serve these.
    pub info_hashes: Vec<Text<HashText>>,
    /// What clients are told, in seconds; an entry lives twice as long.
    pub interval_s: Option<Number<IntervalSeconds>>,
    /// What one source and all of them may take.
    pub limits: TrackerLimits,
}

/// `[tracker] limits`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct TrackerLimits {
    /// Entries (a port in a swarm) of one IPv4 address or IPv6 /64.
    pub ports_per_ip: Option<Number<AtLeastOne>>,
    /// Requests a second from there.
    pub requests_per_second: Option<Number<AtLeastOne>>,
    /// Entries in all.
    pub entries: Option<Number<AtLeastOne>>,
    /// Swarms in all.
    pub swarms: Option<Number<AtLeastOne>>,
    /// Peers in one answer.
    pub peers: Option<Number<AtLeastOne>>,
    /// HTTP connections at once.
    pub connections: Option<Number<AtLeastOne>>,
    /// Of these, from one IPv4 address or IPv6 /64.
    pub connections_per_ip: Option<Number<AtLeastOne>>,
}

/// Where a tracker listens that nobody told: the port that most trackers have.
const DEFAULT_LISTEN: [&str; 2] = ["0.0.0.0:6969", "[::]:6969"];

impl TrackerRole {
    /// Where to listen.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        if self.listen.is_empty() {
            let parsed = DEFAULT_LISTEN.iter().filter_map(|text| text.parse().ok());
            return parsed.collect();
        }
        self.listen.iter().map(|listen| listen.0.0).collect()
    }

    /// With the defaults of what is not said.
    pub fn server(&self) -> (ServerConfig, ConnectionLimits) {
        let (server, connections) = (ServerConfig::default(), ConnectionLimits::default());
        let limits = &self.limits;
        let or = |limit: Option<Number<AtLeastOne>>, default: usize| {
            limit.map_or(default, |limit| limit.0.0 as usize)
        };
        let narrow = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let per_source = or(limits.ports_per_ip, server.entries_per_source.into());
        let rate = or(
            limits.requests_per_second,
            server.requests_per_second as usize,
        );
        let interval = self.interval_s.map_or(server.interval, |interval| {
            Duration::from_secs(interval.0.0.into())
        });
        let config = ServerConfig {
            interval,
            min_interval: server.min_interval.min(interval),
            max_peers: or(limits.peers, server.max_peers),
            entries_per_source: u16::try_from(per_source).unwrap_or(u16::MAX),
            requests_per_second: narrow(rate),
            max_entries: or(limits.entries, server.max_entries),
            max_swarms: or(limits.swarms, server.max_swarms),
            ..server
        };
        let connections = ConnectionLimits {
            in_all: or(limits.connections, connections.in_all),
            per_source: or(limits.connections_per_ip, connections.per_source),
        };
        (config, connections)
    }

    /// Which swarms are served: listed ones, and those of `zone`, if there is one.
    pub fn served(&self, rendezvous: Option<&Rendezvous>, zone: Option<Zone>) -> Served {
        let default = Rendezvous::default();
        let rendezvous = rendezvous.unwrap_or(&default);
        Served {
            open: self.open,
            listed: self.info_hashes.iter().map(|hash| hash.0.0).collect(),
            own: zone
                .map(|zone| rendezvous.hashes(zone))
                .into_iter()
                .collect(),
        }
    }
}

/// The section `[rendezvous]`.
#[derive(Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Rendezvous {
    /// All of them are announced to.
    pub trackers: Vec<Text<UrlText>>,
    /// Empty: the zone's public rendezvous.
    pub secret: String,
    /// `"off"` or `"1d"`
    pub rotate: Rotate,
    /// Also those that the signed zone file names.
    pub zone_trackers: bool,
    /// Only own addresses of these networks are announced; empty: of all.
    pub allow: Vec<Text<Network>>,
    /// Own addresses of these are not announced, others' not probed.
    pub deny: Vec<Text<Network>>,
}

impl std::fmt::Debug for Rendezvous {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rendezvous")
            .field("trackers", &self.trackers)
            .field("rotate", &self.rotate)
            .field("zone_trackers", &self.zone_trackers)
            .field("allow", &self.allow)
            .field("deny", &self.deny)
            .finish_non_exhaustive()
    }
}

impl Rendezvous {
    /// What makes the info hashes of `zone`.
    pub fn hashes(&self, zone: Zone) -> OwnHashes {
        OwnHashes {
            secret: self.secret.as_bytes().to_vec(),
            zone: zone.0.to_be_bytes(),
            rotation: match self.rotate {
                Rotate::Off => Rotation::Off,
                Rotate::Daily => Rotation::Daily,
            },
        }
    }

    /// `allow` and `deny`.
    pub fn networks(list: &[Text<Network>]) -> Vec<Cidr> {
        list.iter().map(|network| network.0.0).collect()
    }

    /// Whether the node announces itself anywhere, as far as the configuration says.
    pub fn is_on(&self) -> bool {
        !self.trackers.is_empty() || self.zone_trackers
    }
}

/// `[rendezvous] rotate`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Rotate {
    /// One info hash for ever.
    #[default]
    #[serde(rename = "off")]
    Off,
    /// Another one at midnight UTC.
    #[serde(rename = "1d")]
    Daily,
}

impl Rotate {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Daily => "1d",
        }
    }
}

/// A newtype of something that `anode-tracker` reads, whose message names the value.
macro_rules! named {
    ($name:ident, $inner:ty, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, PartialEq, Eq, Debug)]
        pub struct $name(pub $inner);

        impl FromStr for $name {
            type Err = ValueError;

            fn from_str(text: &str) -> Result<Self, ValueError> {
                let parsed = text.parse::<$inner>();
                parsed
                    .map(Self)
                    .map_err(|error| ValueError::new(format!("{text:?}: {error}")))
            }
        }
    };
}
named!(UrlText, TrackerUrl, "A tracker's URL: http, https or udp.");
named!(HashText, InfoHash, "An info hash: 40 hex digits.");
named!(Network, Cidr, "A network: ADDRESS/BITS.");

/// Where a tracker listens: IP:PORT; port 0 for any that is free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TrackerListen(pub SocketAddr);

impl FromStr for TrackerListen {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        text.parse().map(Self).map_err(|_| {
            ValueError::new(format!(
                "{text:?}: write IP:PORT, such as 0.0.0.0:6969 or [::]:6969"
            ))
        })
    }
}

/// Seconds between announces, 60 to 86,400: clients keep to no others (BEP 15).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IntervalSeconds(pub u32);

impl TryFrom<i64> for IntervalSeconds {
    type Error = ValueError;

    fn try_from(number: i64) -> Result<Self, ValueError> {
        match u32::try_from(number) {
            Ok(seconds @ 1..=86_400) => Ok(Self(seconds)),
            _ => Err(ValueError::new(format!(
                "interval-s {number}: use 1 to 86400"
            ))),
        }
    }
}

/// A limit: a number from 1 on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AtLeastOne(pub u32);

impl TryFrom<i64> for AtLeastOne {
    type Error = ValueError;

    fn try_from(number: i64) -> Result<Self, ValueError> {
        match u32::try_from(number) {
            Ok(limit @ 1..) => Ok(Self(limit)),
            _ => Err(ValueError::new(format!(
                "{number}: a limit is a number from 1 to {}",
                u32::MAX
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("/x/anode.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn both_sections_are_read_and_have_their_defaults() {
        let config = parse(
            r#"
            [tracker]
            listen = ["127.0.0.1:0", "[::1]:7000"]
            info-hashes = ["ae6c5ad699f4f549df3fa37df67ea8857b0d2d2a"]
            interval-s = 120
            limits = { ports-per-ip = 3, requests-per-second = 99, entries = 7, connections = 5 }
            [rendezvous]
            trackers = ["http://192.0.2.1:6969/announce", "udp://[2001:db8::1]:6969"]
            secret = "s"
            rotate = "1d"
            zone-trackers = true
            deny = ["10.0.0.0/8"]
            "#,
        )
        .unwrap();
        let role = config.tracker.unwrap();
        assert_eq!(role.addresses()[1], "[::1]:7000".parse().unwrap());
        let (server, connections) = role.server();
        assert_eq!(server.interval, Duration::from_secs(120));
        let limits = (
            server.entries_per_source,
            server.requests_per_second,
            server.max_entries,
        );
        assert_eq!(limits, (3, 99, 7));
        assert_eq!((connections.in_all, connections.per_source), (5, 32));
        let rendezvous = config.rendezvous.unwrap();
        let served = role.served(Some(&rendezvous), Some(Zone(0x2a)));
        assert_eq!(
            (served.listed.len(), served.own.len(), served.open),
            (1, 1, false)
        );
        assert_eq!(served.own[0].rotation, Rotation::Daily);
        assert_eq!(served.own[0].zone, [0, 0, 0, 0x2a]);
        assert!(rendezvous.is_on());
        assert!(
            !format!("{rendezvous:?}").contains("\"s\""),
            "the secret is not logged"
        );

        let config = parse("[tracker]\n[rendezvous]\n").unwrap();
        let role = config.tracker.unwrap();
        assert_eq!(
            role.server(),
            (ServerConfig::default(), ConnectionLimits::default())
        );
        assert_eq!(role.addresses().len(), 2);
        assert_eq!(role.served(None, None), Served::default());
        assert!(!config.rendezvous.unwrap().is_on());
    }

    // discovery.md §3: an interval below a minute lowers what clients may do too.
    #[test]
    fn the_least_interval_is_never_above_the_interval() {
        let config = parse("[tracker]\ninterval-s = 5\n").unwrap();
        let (server, _) = config.tracker.unwrap().server();
        assert_eq!(server.min_interval, Duration::from_secs(5));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, place, part) in [
            (
                "[tracker]\nlisten = [\"6969\"]\n",
                ":2: ",
                "\"6969\": write IP:PORT",
            ),
            ("[tracker]\nopne = true\n", ":2: ", "unknown key `opne`"),
            (
                "[tracker]\ninfo-hashes = [\"ab\"]\n",
                ":2: ",
                "\"ab\": an info hash is 40",
            ),
            (
                "[tracker]\ninterval-s = 0\n",
                ":2: ",
                "interval-s 0: use 1 to 86400",
            ),
            (
                "[tracker]\nlimits = { entries = 0 }\n",
                ":2: ",
                "0: a limit is a number from 1",
            ),
            (
                "[tracker]\nlimits = { entrys = 1 }\n",
                ":2: ",
                "unknown key `entrys`",
            ),
            (
                "[rendezvous]\ntrackers = [\"ftp://x/\"]\n",
                ":2: ",
                "\"ftp://x/\": a tracker URL",
            ),
            (
                "[rendezvous]\ntrackers = [\"udp://x\"]\n",
                ":2: ",
                "no valid port",
            ),
            (
                "[rendezvous]\nrotate = \"2d\"\n",
                ":2: ",
                "unknown variant `2d`",
            ),
            (
                "[rendezvous]\ndeny = [\"10/8\"]\n",
                ":2: ",
                "\"10/8\": a network is written",
            ),
        ] {
            let error = parse(text).expect_err(text);
            assert!(
                error.contains(place) && error.contains(part),
                "{text}: {error}"
            );
        }
    }
}
