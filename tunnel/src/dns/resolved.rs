//! systemd-resolved: told over D-Bus that the interface's own server knows `.anode` and the reverse names, and nothing
//! else (org.freedesktop.resolve1(5)). The setting belongs to the link: it goes when the interface goes, also in a crash.

use std::future::poll_fn;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anode_wire::Address;
use nix::libc::{AF_INET, AF_INET6};
use tokio::sync::oneshot;
use tokio::time::timeout;
use zbus::export::futures_core::Stream;
use zbus::export::serde::{Serialize, de::DeserializeOwned};
use zbus::message::Type;
use zbus::zvariant::DynamicType;
use zbus::{Connection, MatchRule, MessageStream};

use super::zone::{Zone, address_name};
use super::{Hook, Names, stub};

const SERVICE: &str = "org.freedesktop.resolve1";
const OBJECT: &str = "/org/freedesktop/resolve1";
const MANAGER: &str = "org.freedesktop.resolve1.Manager";
const BUS: &str = "org.freedesktop.DBus";

/// Nobody on the bus takes longer unless it hangs.
const PATIENCE: Duration = Duration::from_secs(5);

/// A node that ends does not wait longer than this: the interface's end does the same.
const FAREWELL: Duration = Duration::from_millis(500);

/// Changes of owner that may wait to be looked at; only the last one matters.
const SIGNALS: Option<NonZeroUsize> = NonZeroUsize::new(4);

/// The interface whose names are served.
pub struct Link {
    /// Its index.
    pub index: i32,
    /// Where the responder is.
    pub server: SocketAddr,
    /// Who this node is: its own name shows whether the setting works.
    pub own: Address,
    /// What it is asked for.
    pub zones: Vec<Zone>,
}

/// Why systemd-resolved does not ask the responder.
#[derive(Debug, thiserror::Error)]
enum HookError {
    #[error("systemd-resolved does not run")]
    Absent,
    #[error("no system bus to reach systemd-resolved by")]
    NoBus,
    #[error("systemd-resolved refuses: {0}")]
    Refused(zbus::Error),
    #[error("systemd-resolved does not answer")]
    Silent,
    #[error(
        "systemd-resolved was told, and does not find this node's own name (versions 248 to 250 reach no 127.0.0.0/8 address but 127.0.0.1)"
    )]
    Deaf,
}

/// Keeps systemd-resolved told, also when it starts later or anew, until `stop`. `changed` is called with each outcome.
pub async fn keep_told(
    link: Link,
    names: Arc<Names>,
    mut stop: oneshot::Receiver<()>,
    changed: impl Fn(&Hook),
) {
    let set = |hook: Hook| {
        if names.hook() != hook {
            changed(&hook);
            names.set_hook(hook);
        }
    };
    let failed = |error: HookError| match stub::system_asks(link.server) {
        true => Hook::ByHand,
        false => Hook::None(error.to_string()),
    };
    let bus = match within(Connection::system()).await {
        Ok(Ok(connection)) => Bus(connection),
        Ok(Err(_)) | Err(_) => {
            set(failed(HookError::NoBus));
            return;
        }
    };
    let mut owners = bus.owners().await;
    loop {
        set(bus
            .tell(&link)
            .await
            .map_or_else(failed, |()| Hook::Resolved));
        // Woken when resolved comes or goes, and else by nothing.
        tokio::select! {
            _ = &mut stop => break,
            came = next(&mut owners) => {
                if !came {
                    // Without signals, or the bus has gone: what is told stays told.
                    let _ = (&mut stop).await;
                    break;
                }
            }
        }
    }
    if names.hook() == Hook::Resolved {
        let _ = timeout(FAREWELL, bus.call::<_, ()>("RevertLink", &link.index)).await;
    }
}

/// Waits for the next signal; `false` when there will be none.
async fn next(stream: &mut Option<MessageStream>) -> bool {
    let Some(stream) = stream else { return false };
    poll_fn(|cx| Pin::new(&mut *stream).poll_next(cx))
        .await
        .is_some()
}

async fn within<T>(work: impl Future<Output = T>) -> Result<T, HookError> {
    timeout(PATIENCE, work).await.map_err(|_| HookError::Silent)
}

struct Bus(Connection);

impl Bus {
    /// The signal that systemd-resolved has come or gone.
    async fn owners(&self) -> Option<MessageStream> {
        let rule = MatchRule::builder()
            .msg_type(Type::Signal)
            .sender(BUS)
            .interface(BUS)
            .member("NameOwnerChanged")
            .arg(0, SERVICE)
            .build()
            .ok()?;
        let stream = MessageStream::for_match_rule(rule, &self.0, SIGNALS);
        within(stream).await.ok()?.ok()
    }

    async fn call<B, T>(&self, method: &str, body: &B) -> Result<T, HookError>
    where
        B: Serialize + DynamicType,
        T: DeserializeOwned + zbus::zvariant::Type,
    {
        let reply = self
            .0
            .call_method(Some(SERVICE), OBJECT, Some(MANAGER), method, body);
        let reply = within(reply).await?.map_err(HookError::Refused)?;
        reply.body().deserialize().map_err(HookError::Refused)
    }

    /// Whether it runs: a call alone would make the bus start it.
    async fn is_there(&self) -> Result<bool, HookError> {
        let asked = self.0.call_method(
            Some(BUS),
            "/org/freedesktop/DBus",
            Some(BUS),
            "NameHasOwner",
            &SERVICE,
        );
        let reply = within(asked).await?.map_err(HookError::Refused)?;
        reply.body().deserialize().map_err(HookError::Refused)
    }

    async fn tell(&self, link: &Link) -> Result<(), HookError> {
        if !self.is_there().await? {
            return Err(HookError::Absent);
        }
        let Link {
            index,
            server,
            own,
            zones,
        } = link;
        let (family, ip) = match server.ip() {
            IpAddr::V4(ip) => (AF_INET, ip.octets().to_vec()),
            IpAddr::V6(ip) => (AF_INET6, ip.octets().to_vec()),
        };
        match server.port() {
            53 => {
                self.call("SetLinkDNS", &(*index, vec![(family, ip)]))
                    .await?
            }
            // systemd 246 and later.
            port => {
                let server = vec![(family, ip, port, "")];
                self.call("SetLinkDNSEx", &(*index, server)).await?
            }
        }
        // These domains alone, and only to find the server by: never to complete a name with.
        let domains: Vec<_> = zones.iter().map(|zone| (zone.text(), true)).collect();
        let () = self.call("SetLinkDomains", &(*index, domains)).await?;
        // Nothing else is asked here, and no name of ours is in the signed tree or behind TLS. Older versions lack some of it.
        let _ = self
            .call::<_, ()>("SetLinkDefaultRoute", &(*index, false))
            .await;
        let _ = self.call::<_, ()>("SetLinkDNSSEC", &(*index, "no")).await;
        let _ = self
            .call::<_, ()>("SetLinkDNSOverTLS", &(*index, "no"))
            .await;
        if self.finds(own).await {
            return Ok(());
        }
        let _ = self.call::<_, ()>("RevertLink", index).await;
        Err(HookError::Deaf)
    }

    /// Whether it finds the name that only our responder knows.
    async fn finds(&self, own: &Address) -> bool {
        type Found = (Vec<(i32, i32, Vec<u8>)>, String, u64);
        let question = (0i32, address_name(own), AF_INET6, 0u64);
        let found: Result<Found, HookError> = self.call("ResolveHostname", &question).await;
        let is_own = |ip: &[u8]| {
            <[u8; 16]>::try_from(ip)
                .is_ok_and(|ip| Ipv6Addr::from(ip) == own.ipv6(anode_wire::PeerId::ANY))
        };
        found.is_ok_and(|(addresses, ..)| addresses.iter().any(|(_, _, ip)| is_own(ip)))
    }
}
