//! The data thread: one loop that runs to completion.
//!
//! ```text
//!        TUN ──▶ netstack ──▶ adapter ──▶ overlay ──▶ UDP
//!        TUN ◀── netstack ◀── adapter ◀── overlay ◀── UDP
//!   commands ──▶ control
//! ```
//!
//! Drain what came, let every part react, send in batches, sleep. Nothing on the way locks, waits or allocates per packet.

mod control;
mod vnet;

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anode_netstack::Netstack;
use anode_platform::tun::{Tun, TunConfig};
use anode_platform::wake::{self, Waker};
use anode_routing::AnodeOverlay;
use anode_routing::overlay::Overlay;

use crate::Error;
use crate::adapter::Adapter;
use crate::command::{Command, DataHandle};
use crate::node::{Interface, ReadyInfo, Settings};

use control::Control;

/// Packets taken from the interface before the other parts have their turn.
const TUN_BATCH: usize = 64;
/// The largest packet of the interface: 64 KiB and the headers in front.
const TUN_BUFFER: usize = 66 * 1024;
/// Names tried for an interface that was not named.
const INTERFACE_NAMES: u32 = 100;

/// Brings up the sockets and the interface, then starts the thread. On failure nothing is left behind.
pub fn spawn(settings: Settings) -> Result<(DataHandle, JoinHandle<()>, ReadyInfo), Error> {
    let now = Instant::now();
    let overlay = control::overlay(&settings, now)?;
    let tun = create_tun(&settings, &overlay)?;
    let ready = ReadyInfo {
        interface: tun.as_ref().map(|tun| tun.name().to_owned()),
        listen: overlay.listeners(),
        lan: overlay.lan_interfaces(),
    };
    let netstack = Netstack::new(
        anode_netstack::Config {
            mtu: settings.mtu,
            offload: tun.as_ref().is_some_and(Tun::offload),
            local: overlay.local(),
            prefixes: vec![overlay.prefix()],
            ..Default::default()
        },
        rand::random(),
    );
    let waker = Arc::new(Waker::new()?);
    let (handle, commands) = DataHandle::new(Arc::clone(&waker));
    let thread = DataThread {
        tun,
        adapter: Adapter::new(netstack, overlay, Vec::new()),
        control: Control::new(&settings),
        commands,
        waker,
        packet: vec![0; TUN_BUFFER],
        outgoing: Vec::with_capacity(TUN_BUFFER),
        tun_dropped: 0,
    };
    let thread = std::thread::Builder::new()
        .name("anode-data".into())
        .spawn(move || thread.run())
        .map_err(Error::io("cannot start the data thread"))?;
    Ok((handle, thread, ready))
}

fn create_tun(settings: &Settings, overlay: &AnodeOverlay) -> Result<Option<Tun>, Error> {
    let config = |name: String| TunConfig {
        name,
        mtu: settings.mtu,
        offload: true,
        addresses: overlay.local().into_iter().map(|address| (address, 128)).collect(),
        routes: vec![overlay.prefix()],
    };
    match &settings.interface {
        Interface::None => Ok(None),
        Interface::Named(name) => Ok(Some(Tun::create(&config(name.clone()))?)),
        Interface::FirstFree => {
            for number in 0..INTERFACE_NAMES {
                match Tun::create(&config(format!("anode{number}"))) {
                    Err(error) if error.is_name_taken() => {}
                    result => return Ok(Some(result?)),
                }
            }
            Err(Error::refused(format!("anode0 to anode{} exist already: name one with --name", INTERFACE_NAMES - 1)))
        }
    }
}

struct DataThread {
    tun: Option<Tun>,
    adapter: Adapter<AnodeOverlay>,
    control: Control,
    commands: Receiver<Command>,
    waker: Arc<Waker>,
    packet: Vec<u8>,
    outgoing: Vec<u8>,
    tun_dropped: u64,
}

impl DataThread {
    fn run(mut self) {
        loop {
            let now = Instant::now();
            let mut more = self.drain_tun(now);
            more |= self.adapter.receive(now);
            self.adapter.handle_timeout(now);
            if self.obey(now) {
                return;
            }
            self.adapter.exchange(now);
            self.control.settle(now, &mut self.adapter);
            self.adapter.transmit(now);
            self.fill_tun(now);
            if !more {
                self.sleep();
            }
        }
    }

    /// True if more may be waiting.
    fn drain_tun(&mut self, now: Instant) -> bool {
        let Some(tun) = &self.tun else { return false };
        for _ in 0..TUN_BATCH {
            match tun.recv(&mut self.packet) {
                Ok((header, length)) => {
                    let offload = vnet::decode(header);
                    self.adapter.from_os(now, offload, &mut self.packet[..length]);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return false,
                Err(error) => {
                    tracing::debug!(%error, "reading the interface");
                    return false;
                }
            }
        }
        true
    }

    fn fill_tun(&mut self, now: Instant) {
        let Some(tun) = &self.tun else { return };
        while let Some(offload) = self.adapter.netstack.poll_packet(now, &mut self.outgoing) {
            if let Err(error) = tun.send(vnet::encode(offload), &self.outgoing) {
                // The kernel's queue is full or the interface is down: a lost packet like any other (N26).
                self.tun_dropped += 1;
                tracing::trace!(%error, "writing the interface");
            }
        }
    }

    /// Carries out commands; true when told to stop.
    fn obey(&mut self, now: Instant) -> bool {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Shutdown => return true,
                command => self.control.obey(now, command, &mut self.adapter, self.tun_dropped),
            }
        }
        false
    }

    fn sleep(&mut self) {
        let deadline = [self.adapter.deadline(), self.control.deadline()].into_iter().flatten().min_by_key(|(at, _)| *at);
        let timeout = deadline.map(|(at, reason)| {
            let left = at.saturating_duration_since(Instant::now());
            tracing::trace!(?left, reason, "sleep");
            left
        });
        if timeout == Some(Duration::ZERO) {
            return;
        }
        let mut fds = self.adapter.fds();
        fds.push(self.waker.as_fd());
        if let Some(tun) = &self.tun {
            fds.push(tun.as_fd());
        }
        if let Err(error) = wake::wait_readable(&fds, timeout) {
            tracing::warn!(%error, "waiting for packets");
        }
        self.waker.drain();
    }
}
