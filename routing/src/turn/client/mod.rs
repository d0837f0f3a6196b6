//! A TURN client on a real socket.
//!
//! ```text
//!   TurnClient ── anode_turn::client::Client ── wire ── UDP, TCP, TLS, DTLS
//!       │  reconnects after Redirect and NewSocket
//!   Blocking   the same, for a program that waits (T37)
//! ```

mod blocking;
mod wire;

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::time::Instant;

use anode_turn::client::{Client, Config, Counters, Event, Outgoing};
use anode_turn::resolve::Server;
use rand::TryRng as _;
use rand::rngs::SysRng;

pub use blocking::{Allocated, Blocking, BlockingError, ProbeStep, Reached, probe};
pub use wire::{Check, Stage, WireError};

use super::certificate::Name;
use wire::Wire;

/// A client and its socket; whoever owns it polls [`TurnClient::fd`] and calls [`TurnClient::work`].
pub struct TurnClient {
    client: Client,
    server: Server,
    check: Option<Check>,
    /// `None` between two sockets.
    wire: Option<Wire>,
    /// Of these there have been so many.
    wires: u64,
    started: bool,
    events: VecDeque<Event>,
    failure: Option<WireError>,
    lost: u64,
}

impl TurnClient {
    /// Starts to connect to a server and to ask for an allocation. TLS and DTLS need `check`.
    ///
    /// # Errors
    /// What the system refuses at once.
    pub fn new(
        now: Instant,
        server: Server,
        config: Config,
        check: Option<Check>,
    ) -> Result<Self, WireError> {
        let mut seed = [0; 32];
        SysRng
            .try_fill_bytes(&mut seed)
            .map_err(|error| io::Error::other(error.to_string()))?;
        let config = Config {
            transport: server.transport,
            ..config
        };
        let wire = Wire::dial(now, server.address, server.transport, check.clone())?;
        let mut all = Self {
            client: Client::new(now, config, server.address, seed),
            server,
            check,
            wire: Some(wire),
            wires: 1,
            started: false,
            events: VecDeque::new(),
            failure: None,
            lost: 0,
        };
        all.work(now, &mut |_, _| {});
        Ok(all)
    }

    /// What to wait for, and whether writing counts, too. `None`: for nothing any more.
    #[must_use]
    pub fn fd(&self) -> Option<(BorrowedFd<'_>, bool)> {
        let wire = self.wire.as_ref()?;
        Some((wire.fd(), wire.wants_write()))
    }

    /// How many sockets there have been: with another number, [`TurnClient::fd`] is another one.
    #[must_use]
    pub fn wires(&self) -> u64 {
        self.wires
    }

    /// How far the connection to the server has come.
    #[must_use]
    pub fn stage(&self) -> Option<Stage> {
        self.wire.as_ref().map(Wire::stage)
    }

    /// When [`TurnClient::work`] wants to be called although nothing came.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let wire = self.wire.as_ref().and_then(Wire::deadline);
        [self.client.deadline(), wire].into_iter().flatten().min()
    }

    /// Takes what has come, does what is due, sends what there is to send. Payload of permitted peers goes to `payload`.
    pub fn work(&mut self, now: Instant, payload: &mut dyn FnMut(SocketAddr, &[u8])) {
        let client = &mut self.client;
        if let Some(wire) = &mut self.wire {
            let worked = wire.work(now, &mut |message| {
                if let Some(received) = client.handle(now, message) {
                    payload(received.peer, &message[received.payload]);
                }
            });
            if let Err(error) = worked {
                self.broken(now, error);
            }
        }
        self.go_on(now);
    }

    /// Does what is due, and reads nothing: for whoever has no place for payload now.
    pub fn handle_timeout(&mut self, now: Instant) {
        let ticked = self.wire.as_mut().map(|wire| wire.tick(now));
        if let Some(Err(error)) = ticked {
            self.broken(now, error);
        }
        self.go_on(now);
    }

    fn go_on(&mut self, now: Instant) {
        if !self.started && self.stage() == Some(Stage::Open) {
            self.started = true;
            self.start(now);
        }
        if self.client.deadline().is_some_and(|at| at <= now) {
            self.client.handle_timeout(now);
        }
        self.transmit(now);
        self.hear(now);
    }

    fn start(&mut self, now: Instant) {
        if let Err(not_before) = self.client.start(now) {
            let why = anode_turn::client::Why::Mismatch;
            self.events.push_back(Event::Ended {
                why,
                not_before: Some(not_before),
            });
        }
    }

    fn transmit(&mut self, now: Instant) {
        while let Some(bytes) = self.client.poll_transmit() {
            let Some(wire) = &mut self.wire else {
                continue;
            };
            match wire.send(now, &[&bytes]) {
                Ok(true) => {}
                Ok(false) => self.lost += 1,
                Err(error) => self.broken(now, error),
            }
        }
    }

    /// Takes events; those that ask for another socket are answered here.
    fn hear(&mut self, now: Instant) {
        while let Some(event) = self.client.poll_event() {
            match event {
                Event::Redirect { server, domain } => {
                    if let (Some(check), Some(domain)) = (&mut self.check, domain)
                        && let Ok(name) = Name::host(&domain)
                    {
                        check.name = name;
                    }
                    self.server.address = server;
                    self.dial_again(now);
                }
                Event::NewSocket => self.dial_again(now),
                Event::Ended { .. } => {
                    self.events.push_back(event);
                    if let Some(wire) = self.wire.take() {
                        wire.close(now);
                    }
                }
                event => self.events.push_back(event),
            }
        }
    }

    fn dial_again(&mut self, now: Instant) {
        if let Some(wire) = self.wire.take() {
            wire.close(now);
        }
        let Server { address, transport } = self.server;
        match Wire::dial(now, address, transport, self.check.clone()) {
            Ok(wire) => {
                let open = wire.stage() == Stage::Open;
                self.wire = Some(wire);
                self.wires += 1;
                // A new server's table of what it wants no Allocate before is asked by `restart`, too.
                self.started = open;
                let restarted = if open {
                    self.client.restart(now, address)
                } else {
                    self.client.set_server(address);
                    Ok(())
                };
                if let Err(not_before) = restarted {
                    self.events.push_back(Event::Ended {
                        why: anode_turn::client::Why::Mismatch,
                        not_before: Some(not_before),
                    });
                }
                self.transmit(now);
            }
            Err(error) => self.broken(now, error),
        }
    }

    fn broken(&mut self, now: Instant, error: WireError) {
        self.wire = None;
        match error {
            // The client may go on elsewhere: only its requests are over.
            WireError::Refused => {
                let (kind, code) = if self.server.address.is_ipv6() {
                    (1, 4)
                } else {
                    (3, 3)
                };
                self.client.handle_server_icmp(now, kind, code);
                self.client.stream_ended();
            }
            _ => self.client.stream_ended(),
        }
        self.failure.get_or_insert(error);
    }

    /// What broke the connection to the server, in its own words; [`Event::Ended`] says less.
    #[must_use]
    pub fn failure(&self) -> Option<&WireError> {
        self.failure.as_ref()
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Sends a payload to a peer, at once or when the peer is let in. `false`: it is lost.
    pub fn send(&mut self, now: Instant, peer: SocketAddr, payload: &[u8]) -> bool {
        let outgoing = self.client.send(now, peer, payload);
        let fine = match (outgoing, &mut self.wire) {
            (Outgoing::Now(header), Some(wire)) => {
                let padding = &[0; 3][..header.padding()];
                match wire.send(now, &[header.bytes(), payload, padding]) {
                    Ok(fine) => fine,
                    Err(error) => {
                        self.broken(now, error);
                        false
                    }
                }
            }
            (Outgoing::Queued, _) => true,
            _ => false,
        };
        self.lost += u64::from(!fine);
        self.transmit(now);
        fine
    }

    /// Lets a peer in, without sending anything (T40).
    pub fn permit(&mut self, now: Instant, peer: IpAddr) -> bool {
        let permitted = self.client.permit(now, peer);
        self.transmit(now);
        permitted
    }

    /// Binds a channel to a peer, without sending anything (T40).
    pub fn bind(&mut self, now: Instant, peer: SocketAddr) -> bool {
        let bound = self.client.bind(now, peer);
        self.transmit(now);
        bound
    }

    /// Stops keeping a peer's permission and channels up.
    pub fn forget(&mut self, peer: IpAddr) {
        self.client.forget(peer);
    }

    /// Gives the allocation back; [`Event::Ended`] follows.
    pub fn close(&mut self, now: Instant) {
        self.client.close(now);
        self.transmit(now);
        self.hear(now);
    }

    /// The relay's addresses, while there is one.
    #[must_use]
    pub fn relayed(&self) -> &[SocketAddr] {
        self.client.relayed()
    }

    /// The server in use, after redirects.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// What was dropped.
    #[must_use]
    pub fn counters(&self) -> Counters {
        *self.client.counters()
    }

    /// Payloads that did not leave.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }
}
