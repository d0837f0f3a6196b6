//! Peers whose machine has a name: `--peer ADDRESS@tls://home.example.com:443`. The name is looked up by the system's
//! resolver at the start and now and then, since a machine at home has another address tomorrow.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anode_routing::anode::{Place, Transport};
use anode_wire::Address;

use crate::command::Command;
use crate::control::server::Control;
use crate::value::{PeerEndpoint, ValueError, parse_address};

/// A name is looked up again after this time.
const AGAIN: Duration = Duration::from_secs(300);
/// The same after it was not found.
const RETRY: Duration = Duration::from_secs(30);
/// The resolver may take so long.
const PATIENCE: Duration = Duration::from_secs(10);
/// Addresses of one name that are tried.
const MAX_PLACES: usize = 8;
/// Bytes of a name.
const MAX_NAME: usize = 253;

/// A peer and one place where it may be, by address or by name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PeerText {
    /// By address.
    At(PeerEndpoint),
    /// By name.
    Named(NamedPeer),
}

/// A peer at a host that has a name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct NamedPeer {
    /// Who.
    pub address: Address,
    transport: Transport,
    host: String,
    port: u16,
}

impl FromStr for PeerText {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match (text.parse(), named(text)) {
            (Ok(peer), _) => Ok(Self::At(peer)),
            (Err(_), Some(peer)) => peer.map(Self::Named),
            (Err(error), None) => Err(error),
        }
    }
}

/// `None`: it is not of that form, and what is wrong with it another reader says.
fn named(text: &str) -> Option<Result<NamedPeer, ValueError>> {
    let (address, endpoint) = text.split_once('@')?;
    let (scheme, rest) = endpoint.split_once("://").unwrap_or(("udp", endpoint));
    let transport = match scheme {
        "udp" => Transport::Udp,
        "tcp" => Transport::Tcp,
        "tls" => Transport::Tls,
        "http" => Transport::Http,
        "https" => Transport::Https,
        _ => return None,
    };
    let (host, port) = rest.trim_end_matches('/').rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port > 0)?;
    is_name(host).then(|| {
        Ok(NamedPeer {
            address: parse_address(address)?,
            transport,
            host: host.to_ascii_lowercase(),
            port,
        })
    })
}

/// Labels of a host's name; what ends in a number is an address, or would be one.
fn is_name(host: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let last = host.rsplit('.').next().unwrap_or(host);
    host.len() <= MAX_NAME
        && host.split('.').all(is_label)
        && !last.bytes().all(|byte| byte.is_ascii_digit())
}

impl fmt::Display for NamedPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}://{}:{}",
            self.transport.as_str(),
            self.host,
            self.port
        )
    }
}

impl NamedPeer {
    async fn places(&self) -> Result<BTreeSet<SocketAddr>, String> {
        let looked = tokio::net::lookup_host((self.host.as_str(), self.port));
        match tokio::time::timeout(PATIENCE, looked).await {
            Ok(Ok(found)) => Ok(found.take(MAX_PLACES).collect()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {PATIENCE:?}")),
        }
    }
}

/// Keeps the node told of where these peers are.
pub async fn keep(control: Arc<Control>, peers: Vec<NamedPeer>) {
    let mut told: Vec<Option<BTreeSet<SocketAddr>>> = vec![None; peers.len()];
    let mut troubled = BTreeSet::new();
    // Known from the start, wherever they are.
    for peer in &peers {
        tell(&control, peer, Vec::new()).await;
    }
    loop {
        let mut wait = AGAIN;
        for (peer, told) in peers.iter().zip(&mut told) {
            match peer.places().await {
                Ok(found) if told.as_ref() == Some(&found) => {}
                Ok(found) => {
                    troubled.remove(peer);
                    let over = |at: &SocketAddr| Place::over(peer.transport, *at);
                    tell(&control, peer, found.iter().filter_map(over).collect()).await;
                    *told = Some(found);
                }
                Err(error) => {
                    wait = RETRY;
                    // Each trouble is told once, however often it comes (S26).
                    if troubled.insert(peer) {
                        tracing::warn!("{peer}: its name is not found: {error}");
                    }
                }
            }
        }
        tokio::time::sleep(wait).await;
    }
}

async fn tell(control: &Control, peer: &NamedPeer, places: Vec<Place>) {
    let sent = control
        .insist(|reply| Command::AddPeer {
            address: peer.address,
            places: places.clone(),
            pinned: true,
            reply,
        })
        .await;
    if let Err(error) = sent {
        tracing::error!("{peer}: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: &str = "aeaaaaaaaaaag2yx2hzoclcci74lzzxfmoseb4txan6yclplgoqpjijzixmjrquw";

    #[test]
    fn a_peer_is_at_an_address_or_at_a_name() {
        for (endpoint, shown) in [
            ("home.example.com:8737", "udp://home.example.com:8737"),
            ("tls://Home.Example.com:443", "tls://home.example.com:443"),
            ("https://box:443/", "https://box:443"),
            ("tcp://my_box.lan:1", "tcp://my_box.lan:1"),
        ] {
            match format!("{ADDRESS}@{endpoint}").parse() {
                Ok(PeerText::Named(peer)) => assert_eq!(peer.to_string(), shown),
                other => panic!("{endpoint}: {other:?}"),
            }
        }
        for endpoint in ["192.0.2.1:8737", "tls://[2001:db8::1]:443"] {
            let parsed = format!("{ADDRESS}@{endpoint}").parse();
            assert!(matches!(parsed, Ok(PeerText::At(_))), "{endpoint}");
        }
        for (text, problem) in [
            ("nobody", "write ADDRESS@ENDPOINT"),
            ("nobody@home.example.com:1", "an address is what"),
            (&format!("{ADDRESS}@home.example.com"), "write IP:PORT"),
            (&format!("{ADDRESS}@home.example.com:0"), "write IP:PORT"),
            (&format!("{ADDRESS}@-x.example.com:1"), "write IP:PORT"),
            (&format!("{ADDRESS}@300.300.300.300:1"), "write IP:PORT"),
            (
                &format!("{ADDRESS}@quic://home.example.com:1"),
                "unknown transport",
            ),
        ] {
            let error = text.parse::<PeerText>().unwrap_err().to_string();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }
}
