//! Echo requests of programs that wait for their PONG.

use std::collections::{HashMap, VecDeque};
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use super::quotes::Quote;

/// Bytes in front of the program's data in a PING: identifier and sequence number.
pub const HEADER: usize = 4;
/// Requests that wait at most; the oldest gives way.
const MAX_WAITING: usize = 4096;
/// No answer is waited for longer.
const LIFETIME: Duration = Duration::from_secs(10);

/// One request of a program.
#[derive(Clone, Copy, Debug)]
pub struct Echo {
    /// The program's address.
    pub from: Ipv6Addr,
    /// Who is asked.
    pub to: Ipv6Addr,
    /// ICMPv6 identifier.
    pub id: u16,
    /// ICMPv6 sequence number.
    pub sequence: u16,
    /// For an error.
    pub quote: Quote,
}

/// The requests that wait, by token.
#[derive(Default)]
pub struct Echoes {
    waiting: HashMap<u64, Echo, foldhash::fast::RandomState>,
    order: VecDeque<(Instant, u64)>,
    next: u64,
    message: Vec<u8>,
}

impl Echoes {
    /// Keeps a request; the token finds it again.
    pub fn remember(&mut self, now: Instant, echo: Echo) -> u64 {
        while let Some(&(since, token)) = self.order.front()
            && (self.order.len() >= MAX_WAITING || now.duration_since(since) > LIFETIME)
        {
            self.order.pop_front();
            self.waiting.remove(&token);
        }
        self.next = (self.next + 1) & (super::CONTROL_TOKEN - 1);
        self.waiting.insert(self.next, echo);
        self.order.push_back((now, self.next));
        self.next
    }

    /// The request of this token, once.
    pub fn take(&mut self, token: u64) -> Option<Echo> {
        self.waiting.remove(&token)
    }

    /// The PING payload: identifier, sequence number, the program's data (DESIGN §6).
    pub fn message(&mut self, id: u16, sequence: u16, data: &[u8]) -> &[u8] {
        self.message.clear();
        self.message.extend_from_slice(&id.to_be_bytes());
        self.message.extend_from_slice(&sequence.to_be_bytes());
        self.message.extend_from_slice(data);
        &self.message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echo(sequence: u16) -> Echo {
        Echo {
            from: Ipv6Addr::LOCALHOST,
            to: Ipv6Addr::LOCALHOST,
            id: 7,
            sequence,
            quote: Quote::new(&[]),
        }
    }

    #[test]
    fn each_request_is_answered_once_and_the_table_is_bounded() {
        // N20
        let now = Instant::now();
        let mut echoes = Echoes::default();
        let first = echoes.remember(now, echo(1));
        for sequence in 0..MAX_WAITING as u16 {
            echoes.remember(now, echo(sequence));
        }
        assert!(echoes.take(first).is_none(), "the oldest gave way");
        assert_eq!(echoes.waiting.len(), MAX_WAITING);
        let token = echoes.remember(now + LIFETIME * 2, echo(9));
        assert_eq!(echoes.waiting.len(), 1, "the others were too old");
        assert_eq!(echoes.take(token).map(|e| e.sequence), Some(9));
        assert!(echoes.take(token).is_none());
    }
}
