//! Requests: made, sent, repeated, at most ten at a time.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::Rng;
use turn_types::attribute::{ChannelNumber, DontFragment, EvenPort, RequestedTransport};

use super::{Client, Families, OUTSTANDING, PortWish, Why};
use crate::frame::Channel;
use crate::rto::{Due, Timing};
use crate::stun::{Class, TransactionId, Writer, attr, method};

/// What is asked: enough to ask it again with another nonce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Allocate,
    Refresh { lifetime: Duration },
    Permit(Vec<IpAddr>),
    Bind { channel: Channel, peer: SocketAddr },
    Connect { peer: SocketAddr },
}

impl Request {
    pub fn method(&self) -> u16 {
        match self {
            Self::Allocate => method::ALLOCATE,
            Self::Refresh { .. } => method::REFRESH,
            Self::Permit(_) => method::CREATE_PERMISSION,
            Self::Bind { .. } => method::CHANNEL_BIND,
            Self::Connect { .. } => method::CONNECT,
        }
    }
}

/// A request that waits for one of the ten places.
pub(super) struct Waiting {
    request: Request,
    nonces: u32,
    paced: u32,
}

/// A request under way.
pub(super) struct Transaction {
    pub id: TransactionId,
    pub request: Request,
    pub timing: Timing,
    /// Whether it carries credentials.
    pub signed: bool,
    /// Fresh nonces taken for this request; a server that never has enough is given up.
    pub nonces: u32,
    /// How often it has been asked again after 442 or 443 (T41).
    pub paced: u32,
    bytes: Vec<u8>,
}

impl Client {
    pub(super) fn transaction_id(&mut self) -> TransactionId {
        let mut id = [0; 12];
        self.random.fill_bytes(&mut id);
        id
    }

    /// Sends a request, or lets it wait until fewer than ten are under way.
    pub(super) fn ask(&mut self, now: Instant, request: Request) {
        self.ask_again(now, request, 0, 0);
    }

    pub(super) fn ask_again(&mut self, now: Instant, request: Request, nonces: u32, paced: u32) {
        if self.transactions.len() >= OUTSTANDING {
            // Bounded: a peer has at most one permission and one binding waiting, and connects are few.
            if self.waiting.len() < 2 * self.config.peers + OUTSTANDING {
                self.waiting.push_back(Waiting {
                    request,
                    nonces,
                    paced,
                });
            }
            return;
        }
        let id = self.transaction_id();
        let (bytes, signed) = self.encode(&request, id);
        let rto = self.estimator.rto(now, &self.config.rto);
        let timing = Timing::start(
            now,
            rto,
            self.config.transport.is_stream(),
            &self.config.rto,
        );
        self.transmit(now, bytes.clone());
        self.transactions.push(Transaction {
            id,
            request,
            timing,
            signed,
            nonces,
            paced,
            bytes,
        });
    }

    pub(super) fn ask_waiting(&mut self, now: Instant) {
        while self.transactions.len() < OUTSTANDING
            && let Some(Waiting {
                request,
                nonces,
                paced,
            }) = self.waiting.pop_front()
        {
            self.ask_again(now, request, nonces, paced);
        }
    }

    pub(super) fn time_requests(&mut self, now: Instant) {
        let mut again = Vec::new();
        for transaction in &mut self.transactions {
            match transaction.timing.due(now, &self.config.rto) {
                Due::Nothing => {}
                Due::Resend => again.push(transaction.bytes.clone()),
                Due::GiveUp => return self.dead(now, Why::Silence),
            }
        }
        for bytes in again {
            self.transmit(now, bytes);
        }
    }

    fn encode(&self, request: &Request, id: TransactionId) -> (Vec<u8>, bool) {
        let mut writer = Writer::new(Class::Request, request.method(), id);
        writer = match request {
            Request::Allocate => self.encode_allocate(writer),
            Request::Refresh { lifetime } => {
                writer.number(attr::LIFETIME, lifetime.as_secs() as u32)
            }
            Request::Permit(peers) => peers.iter().fold(writer, |w, ip| {
                w.xor_address(attr::XOR_PEER_ADDRESS, SocketAddr::new(*ip, 0))
            }),
            Request::Bind { channel, peer } => {
                // A raw value: the typed one leaves a byte of the reserved half unwritten.
                let [high, low] = ChannelNumber::new(channel.number()).channel().to_be_bytes();
                writer
                    .raw(attr::CHANNEL_NUMBER, &[high, low, 0, 0])
                    .xor_address(attr::XOR_PEER_ADDRESS, *peer)
            }
            Request::Connect { peer } => writer.xor_address(attr::XOR_PEER_ADDRESS, *peer),
        };
        if !self.config.software.is_empty() {
            writer = writer.raw(attr::SOFTWARE, self.config.software.as_bytes());
        }
        match &self.challenge {
            Some(challenge) => (challenge.sign(writer, &self.config).finish(), true),
            None => (writer.finish(), false),
        }
    }

    fn encode_allocate(&self, writer: Writer) -> Writer {
        let config = &self.config;
        let protocol = if config.tcp {
            RequestedTransport::TCP
        } else {
            RequestedTransport::UDP
        };
        let mut writer = writer
            .typed(&RequestedTransport::new(protocol))
            .number(attr::LIFETIME, config.lifetime.as_secs() as u32);
        writer = match (config.port, config.families) {
            (PortWish::Kept(token), _) => return writer.raw(attr::RESERVATION_TOKEN, &token),
            (_, Families::Default) => writer,
            (_, Families::V6) => writer.raw(attr::REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0]),
            (_, Families::Both) => writer.raw(attr::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]),
        };
        if let PortWish::Even { reserve } = config.port {
            writer = writer.typed(&EvenPort::new(reserve));
        }
        if self.dont_fragment {
            writer.typed(&DontFragment::new())
        } else {
            writer
        }
    }
}
