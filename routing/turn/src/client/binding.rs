//! One Binding request (RFC 8489 §3): how a server sees us. It needs no credentials.

use std::net::SocketAddr;
use std::time::Instant;

use super::Why;
use crate::frame::Transport;
use crate::rto::{Due, RtoConfig, Timing};
use crate::stun::{Class, Message, TransactionId, Writer, attr, method};

/// Send [`Binding::poll_transmit`] when [`Binding::deadline`] has come, feed what comes to [`Binding::handle`].
pub struct Binding {
    id: TransactionId,
    timing: Timing,
    config: RtoConfig,
    due: Due,
}

impl Binding {
    /// To be sent now; `id` must be random.
    #[must_use]
    pub fn new(now: Instant, transport: Transport, config: RtoConfig, id: TransactionId) -> Self {
        Self {
            id,
            timing: Timing::start(now, config.initial, transport.is_stream(), &config),
            config,
            due: Due::Resend,
        }
    }

    /// What is to be sent now.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        (self.due == Due::Resend).then(|| {
            self.due = Due::Nothing;
            Writer::new(Class::Request, method::BINDING, self.id)
                .fingerprint()
                .finish()
        })
    }

    /// When [`Binding::handle_timeout`] wants to be called.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.timing.next
    }

    /// Does what is due.
    ///
    /// # Errors
    /// [`Why::Silence`] after all repetitions.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), Why> {
        match self.timing.due(now, &self.config) {
            Due::GiveUp => return Err(Why::Silence),
            Due::Resend => self.due = Due::Resend,
            Due::Nothing => {}
        }
        Ok(())
    }

    /// Takes a message of the server. `None`: it is not the answer.
    ///
    /// # Errors
    /// What the server says instead of our address.
    pub fn handle(&mut self, bytes: &[u8]) -> Option<Result<SocketAddr, Why>> {
        let message = Message::parse(bytes).ok()?;
        if message.transaction() != self.id || message.method() != method::BINDING {
            return None;
        }
        match message.class() {
            Class::Success => {
                let address = message.xor_address(attr::XOR_MAPPED_ADDRESS).ok().flatten();
                // What RFC 3489 put there.
                let plain = || message.address(attr::MAPPED_ADDRESS).ok().flatten();
                Some(address.or_else(plain).ok_or(Why::Nonsense))
            }
            Class::Error => Some(Err(match message.error_code() {
                Ok((code, reason)) => Why::Refused { code, reason },
                Err(_) => Why::Nonsense,
            })),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn binding(transport: Transport) -> (Binding, Instant) {
        let now = Instant::now();
        (
            Binding::new(now, transport, RtoConfig::default(), [5; 12]),
            now,
        )
    }

    // T30, T31, T32
    #[test]
    fn silence_ends_after_39_5_seconds() {
        for (transport, expected) in [(Transport::Udp, 7), (Transport::Tcp, 1)] {
            let (mut binding, start) = binding(transport);
            let mut sent = u32::from(binding.poll_transmit().is_some());
            let end = loop {
                let now = binding.deadline();
                if binding.handle_timeout(now).is_err() {
                    break now;
                }
                sent += u32::from(binding.poll_transmit().is_some());
            };
            assert_eq!(
                (sent, end - start),
                (expected, Duration::from_millis(39_500))
            );
        }
    }

    #[test]
    fn only_the_answer_counts() {
        let (mut binding, _) = binding(Transport::Udp);
        let request = binding.poll_transmit().unwrap();
        let request = Message::parse(&request).unwrap();
        let address: SocketAddr = "192.0.2.7:4000".parse().unwrap();
        let answer = |id| {
            Writer::new(Class::Success, method::BINDING, id)
                .xor_address(attr::XOR_MAPPED_ADDRESS, address)
                .finish()
        };
        assert_eq!(binding.handle(&answer([6; 12])), None);
        assert_eq!(binding.handle(b"no message"), None);
        assert_eq!(
            binding.handle(&answer(request.transaction())),
            Some(Ok(address))
        );
        let empty = Writer::success(&request).finish();
        assert_eq!(binding.handle(&empty), Some(Err(Why::Nonsense)));
        let error = Writer::error(method::BINDING, request.transaction(), 420).finish();
        assert!(matches!(
            binding.handle(&error),
            Some(Err(Why::Refused { code: 420, .. }))
        ));
    }
}
