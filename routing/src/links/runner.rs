//! [`Links`] on a thread of their own, and the way to them.

use super::{Counters, LinkEvent, LinkKey, Links, Target, Token};
use anode_reload::Id;
use anode_reload::body::ConnectBody;
use anode_reload::security::Certificate;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Commands that wait.
const MAX_COMMANDS: usize = 4096;

/// What the thread is told.
#[derive(Clone, PartialEq, Debug)]
pub enum Command {
    /// See [`Links::dial`].
    Dial(Target),
    /// See [`Links::follow`].
    Follow(Vec<SocketAddr>),
    /// See [`Links::set_member`].
    Member(bool),
    /// See [`Links::renew`].
    Renew(Box<Certificate>),
    /// See [`Links::send`].
    Send(LinkKey, Vec<u8>),
    /// See [`Links::close`].
    Close(LinkKey),
    /// See [`Links::offer`].
    Offer(Token, u16),
    /// See [`Links::answer`].
    Answer(Token, ConnectBody, Option<Id>),
    /// See [`Links::start`].
    Start(Token, ConnectBody, Option<Id>),
    /// See [`Links::forget`].
    Forget(Token),
}

/// The way to the thread; the thread ends when it is dropped.
pub struct LinksHandle {
    /// `None` when it ends.
    commands: Option<SyncSender<Command>>,
    bell: Arc<EventFd>,
    counters: Arc<Mutex<Counters>>,
}

impl LinksHandle {
    /// What was counted by now.
    pub fn counters(&self) -> Counters {
        *self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the thread. False: it is too busy, or has ended.
    pub fn tell(&self, command: Command) -> bool {
        let commands = self.commands.as_ref();
        let told = commands.is_some_and(|commands| commands.try_send(command).is_ok());
        // A full bell rings already.
        let _ = self.bell.write(1);
        told
    }
}

impl Drop for LinksHandle {
    fn drop(&mut self) {
        self.commands = None;
        let _ = self.bell.write(1);
    }
}

/// Runs links on a thread of their own until the handle is dropped. `hear` takes events, on that thread.
///
/// # Errors
/// The system has no room for it.
pub fn run(
    mut links: Links,
    mut hear: impl FnMut(LinkEvent) + Send + 'static,
) -> io::Result<LinksHandle> {
    let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
    let bell = Arc::new(EventFd::from_value_and_flags(0, flags)?);
    let rung = Arc::clone(&bell);
    let (commands, told) = sync_channel(MAX_COMMANDS);
    let thread = std::thread::Builder::new().name("reload links".to_owned());
    let counters = Arc::new(Mutex::new(Counters::default()));
    let counted = Arc::clone(&counters);
    thread.spawn(move || {
        while turn(&mut links, &told) {
            while let Some(event) = links.poll_event() {
                hear(event);
            }
            *counted.lock().unwrap_or_else(PoisonError::into_inner) = links.counters();
            wait(&mut links, &rung);
        }
        links.shut(Instant::now());
    })?;
    Ok(LinksHandle {
        commands: Some(commands),
        bell,
        counters,
    })
}

/// Does what it is told, and what is due. False: nobody is left.
fn turn(links: &mut Links, told: &Receiver<Command>) -> bool {
    let now = Instant::now();
    links.work(now);
    loop {
        match told.try_recv() {
            Ok(Command::Dial(target)) => links.dial(now, target),
            Ok(Command::Member(member)) => links.set_member(now, member),
            Ok(Command::Renew(certificate)) => links.renew(*certificate),
            Ok(Command::Follow(addresses)) => links.follow(now, &addresses),
            Ok(Command::Send(link, bytes)) => drop(links.send(now, link, &bytes)),
            Ok(Command::Close(link)) => links.close(now, link),
            Ok(Command::Offer(token, application)) => links.offer(now, token, application),
            Ok(Command::Answer(token, body, peer)) => links.answer(now, token, body, peer),
            Ok(Command::Start(token, body, peer)) => links.start(now, token, body, peer),
            Ok(Command::Forget(token)) => links.forget(token),
            Err(TryRecvError::Empty) => return true,
            Err(TryRecvError::Disconnected) => return false,
        }
    }
}

fn wait(links: &mut Links, rung: &EventFd) {
    let due = links.deadline();
    let wait = due.map_or(Duration::from_secs(60), |at| {
        at.saturating_duration_since(Instant::now())
    });
    // A millisecond more: what is due then is due indeed.
    let wait = u16::try_from(wait.as_millis() + 1).unwrap_or(u16::MAX);
    let mut fds = vec![PollFd::new(rung.as_fd(), PollFlags::POLLIN)];
    links.fds(&mut fds);
    // An interrupted wait is a short one.
    let _ = poll(&mut fds, PollTimeout::from(wait));
    drop(fds);
    // It has rung, or has not.
    let _ = rung.read();
}
