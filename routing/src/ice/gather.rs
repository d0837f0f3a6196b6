//! Server-reflexive candidates: how STUN servers see our sockets (RFC 8445 §5.1.1.2). Sans-IO.

use anode_turn::Transport;
use anode_turn::client::Binding;
use anode_turn::rto::RtoConfig;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Requests at a time.
const MAX_ASKED: usize = 32;
/// Longer no session waits for an answer.
const BUDGET: Duration = Duration::from_millis(1500);

struct Asked {
    base: SocketAddr,
    server: SocketAddr,
    binding: Binding,
}

/// One round of questions.
#[derive(Default)]
pub(super) struct Gather {
    asked: Vec<Asked>,
    until: Option<Instant>,
}

impl Gather {
    /// Asks each server from each base of its family. `id` makes transaction ids, which must be random.
    pub fn start(
        &mut self,
        now: Instant,
        bases: &[SocketAddr],
        servers: &[SocketAddr],
        mut id: impl FnMut() -> [u8; 12],
    ) {
        let pairs = servers.iter().flat_map(|server| {
            let family = bases.iter().filter(|it| it.is_ipv4() == server.is_ipv4());
            family.map(move |base| (*base, *server))
        });
        // The loopback leads to no server but one on it.
        let pairs =
            pairs.filter(|(base, server)| base.ip().is_loopback() == server.ip().is_loopback());
        let config = RtoConfig {
            initial: Duration::from_millis(200),
            ..RtoConfig::default()
        };
        self.asked = pairs
            .take(MAX_ASKED)
            .map(|(base, server)| Asked {
                base,
                server,
                binding: Binding::new(now, Transport::Udp, config, id()),
            })
            .collect();
        self.until = (!self.asked.is_empty()).then(|| now + BUDGET);
    }

    pub fn is_done(&self) -> bool {
        self.asked.is_empty()
    }

    /// The next request: from where, to whom.
    pub fn poll_transmit(&mut self) -> Option<(SocketAddr, SocketAddr, Vec<u8>)> {
        self.asked.iter_mut().find_map(|asked| {
            let bytes = asked.binding.poll_transmit()?;
            Some((asked.base, asked.server, bytes))
        })
    }

    /// `Some`: it is an answer; inside, what the base is seen as.
    pub fn handle(
        &mut self,
        base: SocketAddr,
        from: SocketAddr,
        bytes: &[u8],
    ) -> Option<Option<SocketAddr>> {
        let answered = |asked: &mut Asked| {
            let fits = asked.base == base && asked.server == from;
            fits.then(|| asked.binding.handle(bytes)).flatten()
        };
        let (at, answer) = self
            .asked
            .iter_mut()
            .enumerate()
            .find_map(|(at, asked)| answered(asked).map(|answer| (at, answer)))?;
        self.asked.swap_remove(at);
        Some(answer.ok())
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        if self.until.is_some_and(|until| until <= now) {
            self.asked.clear();
        }
        self.asked.retain_mut(|asked| {
            asked.binding.deadline() > now || asked.binding.handle_timeout(now).is_ok()
        });
        if self.asked.is_empty() {
            self.until = None;
        }
    }

    pub fn deadline(&self) -> Option<Instant> {
        let next = self.asked.iter().map(|asked| asked.binding.deadline());
        next.chain(self.until).min()
    }
}
