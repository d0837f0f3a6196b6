//! [`Links`] on a thread of their own, and the way to them.

use super::{Counters, LinkEvent, LinkKey, Links, Target, Token};
use anode_reload::Id;
use anode_reload::body::ConnectBody;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

/// Commands that wait.
const MAX_COMMANDS: usize = 4096;

/// What the thread is told.
pub enum Command {
    /// See [`Links::dial`].
    Dial(Target),
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
    /// What was counted.
    Count(SyncSender<Counters>),
}

/// The way to the thread; the thread ends when it is dropped.
pub struct LinksHandle {
    commands: SyncSender<Command>,
    bell: UnixStream,
}

impl LinksHandle {
    /// Tells the thread. False: it is too busy, or has ended.
    pub fn tell(&self, command: Command) -> bool {
        let told = self.commands.try_send(command).is_ok();
        // A full bell rings already.
        let _ = (&self.bell).write(&[1]);
        told
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
    let (bell, rung) = UnixStream::pair()?;
    bell.set_nonblocking(true)?;
    rung.set_nonblocking(true)?;
    let (commands, told) = sync_channel(MAX_COMMANDS);
    let thread = std::thread::Builder::new().name("reload links".to_owned());
    thread.spawn(move || {
        while turn(&mut links, &told) {
            while let Some(event) = links.poll_event() {
                hear(event);
            }
            wait(&mut links, &rung);
        }
        links.shut(Instant::now());
    })?;
    Ok(LinksHandle { commands, bell })
}

/// Does what it is told, and what is due. False: nobody is left.
fn turn(links: &mut Links, told: &Receiver<Command>) -> bool {
    let now = Instant::now();
    links.work(now);
    loop {
        match told.try_recv() {
            Ok(Command::Dial(target)) => links.dial(now, target),
            Ok(Command::Send(link, bytes)) => drop(links.send(now, link, &bytes)),
            Ok(Command::Close(link)) => links.close(now, link),
            Ok(Command::Offer(token, application)) => links.offer(now, token, application),
            Ok(Command::Answer(token, body, peer)) => links.answer(now, token, body, peer),
            Ok(Command::Start(token, body, peer)) => links.start(now, token, body, peer),
            Ok(Command::Forget(token)) => links.forget(token),
            // Who asked may have gone.
            Ok(Command::Count(reply)) => drop(reply.try_send(links.counters())),
            Err(TryRecvError::Empty) => return true,
            Err(TryRecvError::Disconnected) => return false,
        }
    }
}

fn wait(links: &mut Links, rung: &UnixStream) {
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
    let mut bells = [0; 256];
    while matches!((&*rung).read(&mut bells), Ok(1..)) {}
}
