//! The responder's life: bound while there are rights, started with the node, taken back from systemd-resolved at the end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anode_wire::Address;
use nix::net::if_::if_nametoindex;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::resolved::{self, Link};
use super::server::Sockets;
use super::{Hook, Names, State, stub};
use crate::node::ReadyInfo;

/// A node that ends waits no longer for systemd-resolved: the interface's end does the same.
const FAREWELL: Duration = Duration::from_secs(1);

/// Sockets, or why there are none.
pub struct Responder(Result<Sockets, State>);

impl Responder {
    /// Binds `listen`, if there is to be a responder. A failure is a warning: a node without names is a node.
    pub fn bind(listen: Option<SocketAddr>) -> Self {
        let Some(listen) = listen else {
            return Self(Err(State::Off));
        };
        Self(Sockets::bind(listen).map_err(|error| {
            let fix = match error.kind() {
                io::ErrorKind::PermissionDenied => {
                    "ports below 1024 need CAP_NET_BIND_SERVICE, or take another with [dns] listen"
                }
                io::ErrorKind::AddrInUse => {
                    "another program (another node?) has it: give one of them another [dns] listen"
                }
                _ => {
                    "give another loopback address with [dns] listen, or set [dns] enabled = false"
                }
            };
            let why = format!("names are not served on {listen} ({error}): {fix}");
            tracing::warn!("{why}");
            State::Failed(why)
        }))
    }

    /// What became of it.
    pub fn state(&self) -> State {
        match &self.0 {
            Ok(sockets) => State::Listening(sockets.listen()),
            Err(state) => state.clone(),
        }
    }

    /// Answers from now on. `named` hears whether systemd-resolved asks it for the names of `interface`.
    pub fn start(
        self,
        names: Arc<Names>,
        own: Address,
        ready: &ReadyInfo,
        named: fn(&Hook, SocketAddr),
    ) -> Running {
        let Ok(sockets) = self.0 else {
            return Running::default();
        };
        let server = sockets.listen();
        let serving = tokio::spawn(sockets.serve(Arc::clone(&names)));
        let own_interface = ready.interface.as_deref().filter(|_| ready.lacks.is_none());
        if let (Some(name), None) = (&ready.interface, own_interface) {
            let hook = match stub::system_asks(server) {
                true => Hook::ByHand,
                false => Hook::None(format!("the settings of {name} are not ours")),
            };
            named(&hook, server);
            names.set_hook(hook);
        }
        let index = own_interface.and_then(|name| if_nametoindex(name).ok());
        let hook = index
            .and_then(|index| i32::try_from(index).ok())
            .map(|index| {
                let (stop, stopped) = oneshot::channel();
                let zones = names.zones().collect();
                let link = Link {
                    index,
                    server,
                    own,
                    zones,
                };
                let told = move |hook: &Hook| named(hook, server);
                let task = tokio::spawn(resolved::keep_told(link, names, stopped, told));
                (stop, task)
            });
        Running {
            serving: Some(serving),
            hook,
        }
    }
}

/// A responder at work.
#[derive(Default)]
pub struct Running {
    serving: Option<JoinHandle<io::Result<()>>>,
    hook: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Running {
    /// Tells systemd-resolved that it is over, while the interface is still there, and stops.
    pub async fn stop(self) {
        if let Some((stop, mut task)) = self.hook {
            // It may have ended by itself.
            let _ = stop.send(());
            if tokio::time::timeout(FAREWELL, &mut task).await.is_err() {
                task.abort();
            }
        }
        if let Some(serving) = self.serving {
            serving.abort();
        }
    }
}
