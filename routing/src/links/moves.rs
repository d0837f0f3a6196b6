//! A machine whose addresses change: its sockets follow, and what hung on those that are gone ends.

use super::Links;
use super::dtls::Conversation;
use crate::ice::Protocol;
use std::net::SocketAddr;
use std::time::Instant;

impl Links {
    /// This machine has other addresses now: links from those that are gone end at once, and not when they fall silent.
    pub fn follow(&mut self, now: Instant, addresses: &[SocketAddr]) {
        if !self.ice.endpoint_mut().follow(addresses) {
            return;
        }
        let own = self.addresses();
        let lost =
            |it: &Conversation| it.path.protocol == Protocol::Udp && !own.contains(&it.path.local);
        let lost = self.conversations.iter().filter(|(_, it)| lost(it));
        let lost: Vec<usize> = lost.map(|(at, _)| at).collect();
        for at in lost {
            let gone = self.remove(at);
            self.counters.lost += 1;
            self.over(&gone, "this machine has another address");
        }
        self.connects.gather_again();
        self.gather(now);
    }
}
