//! A session that idles asks for fewer tunnels, then ends (I46, I47).
use super::{Client, CloseReason};
use crate::codec::Mapping;
use crate::error::Result;
use crate::message::{self as wire, SessionId};
use crate::options::SessionOptions;
use crate::time::Now;
use std::time::Instant;
use zeroize::Zeroizing;

/// How the tunnels of a session that may idle stand (I47).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tunnels {
    Full,
    Reduced,
}

impl Client {
    pub(super) fn idle_deadline(&self) -> Option<Instant> {
        let close = self.options.close_on_idle;
        let reduce = match self.tunnels {
            Tunnels::Full => self.options.reduce_on_idle.map(|reduce| reduce.after),
            Tunnels::Reduced => None,
        };
        let idle = [close, reduce].into_iter().flatten().min()?;
        Some(self.last_traffic + idle)
    }

    pub(super) fn idle(&mut self, session: SessionId, now: Now) {
        let idle = now.instant.saturating_duration_since(self.last_traffic);
        if self
            .options
            .close_on_idle
            .is_some_and(|after| idle >= after)
        {
            return self.close_for(CloseReason::Idle, now);
        }
        if let Some(reduce) = self.options.reduce_on_idle
            && self.tunnels == Tunnels::Full
            && idle >= reduce.after
        {
            self.tunnels = Tunnels::Reduced;
            let options = SessionOptions::reduced_config(reduce.quantity);
            self.send_config(session, options, now);
        }
    }

    /// A message went in or out: the session is not idle, and gets its tunnels back (I47).
    pub(super) fn traffic(&mut self, session: SessionId, now: Now) {
        self.last_traffic = now.instant;
        if self.tunnels == Tunnels::Reduced {
            self.tunnels = Tunnels::Full;
            self.send_config(session, self.options.restored_config(), now);
        }
    }

    pub(super) fn send_config(&mut self, session: SessionId, options: Result<Mapping>, now: Now) {
        // these mappings are a few short pairs: they always fit
        if let Ok(options) = options {
            let date = self.router_ms(now);
            let message = wire::reconfigure_session(session, &self.keys, &options, date);
            self.push(Zeroizing::new(message));
        }
    }
}
