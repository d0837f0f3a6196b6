//! Routes to the peers that are known, while another node of the machine has the rest of the overlay (U11).
//!
//! ```text
//!   node ── the addresses of all of them ──▶ keeper ── netlink ──▶ kernel
//!        ◀── what went wrong, in words ─────
//! ```
//!
//! A node has given up its rights when peers come and go. So the keeper is a process of its own, which a node starts before: it
//! holds CAP_NET_ADMIN and no key, hears nobody else, and changes nothing but routes to overlay addresses over that one
//! interface. It ends with the node.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::net::Ipv6Addr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as Socket;
use std::process::{Child, Command};
use std::time::Duration;

use anode_platform::Prefix;
use anode_platform::privileges::{self, Capability, Places};
use anode_platform::tun::PeerRoutes;
use anode_wire::PeerId;
use nix::sys::signal::{SigSet, Signal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::Mutex;

use crate::Error;
use crate::node::overlay_prefixes;
use crate::state::book::Book;
use crate::zone::Members;

/// So many at most: a full trust book, and a full zone file.
const MAX: usize = 8192;

/// The keeper answers within milliseconds unless it hangs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Whom a node knows for good: of its flags and its configuration, of the trust book, of its zone. With peer digit 0.
pub fn known(configured: &[Ipv6Addr], book: &Book, members: &Members) -> HashSet<Ipv6Addr> {
    let entries = book.entries().iter();
    let trusted = entries.map(|entry| entry.address.ipv6(PeerId::ANY));
    let members = members.0.iter().flat_map(|(_, members)| members.iter());
    let configured = configured.iter().copied();
    configured.chain(trusted).chain(members.copied()).collect()
}

/// All machines that share an address: its last digit is anything.
pub fn machines_of(address: Ipv6Addr) -> Option<Prefix> {
    Prefix::new(address, 124).map(|prefix| prefix.network())
}

/// The keeper, as its node sees it.
pub struct Routes {
    configured: Vec<Ipv6Addr>,
    pipe: Mutex<UnixStream>,
    /// It ends when the pipe is closed.
    _keeper: Child,
}

impl Routes {
    /// Starts the keeper, with the rights of now. `own`: the address that flows get; `configured`: peers that stay.
    pub fn start(interface: &str, own: Ipv6Addr, configured: Vec<Ipv6Addr>) -> Result<Self, Error> {
        let start = || -> io::Result<_> {
            let (pipe, other) = Socket::pair()?;
            pipe.set_nonblocking(true)?;
            let keeper = Command::new("/proc/self/exe")
                .args(["keep-routes", interface, &own.to_string()])
                .stdin(OwnedFd::from(other.try_clone()?))
                .stdout(OwnedFd::from(other))
                .spawn()?;
            Ok((UnixStream::from_std(pipe)?, keeper))
        };
        let (pipe, keeper) = start().map_err(Error::io("cannot start what keeps the routes"))?;
        Ok(Self {
            configured,
            pipe: Mutex::new(pipe),
            _keeper: keeper,
        })
    }

    /// Brings the routes to whom is known: `who` is asked at the moment of sending, so that the last one sent is right.
    pub async fn follow(
        &self,
        who: impl FnOnce(&[Ipv6Addr]) -> HashSet<Ipv6Addr>,
    ) -> Result<(), Error> {
        let mut pipe = self.pipe.lock().await;
        let peers = who(&self.configured);
        let said = tokio::time::timeout(ANSWER_TIMEOUT, ask(&mut pipe, &peers)).await;
        let said = said.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        match said.map_err(Error::io("what keeps the routes is gone"))? {
            problem if !problem.is_empty() => Err(Error::refused(problem)),
            _ if peers.len() > MAX => Err(Error::refused(format!(
                "{} peers: only {MAX} have routes",
                peers.len()
            ))),
            _ => Ok(()),
        }
    }
}

/// A list with its length, and the answer with its.
async fn ask(pipe: &mut UnixStream, peers: &HashSet<Ipv6Addr>) -> io::Result<String> {
    let mut list = Vec::new();
    let count = peers.len().min(MAX);
    list.extend(u16::try_from(count).unwrap_or(u16::MAX).to_be_bytes());
    list.extend(peers.iter().take(count).flat_map(Ipv6Addr::octets));
    pipe.write_all(&list).await?;
    let mut answer = vec![0; pipe.read_u16().await?.into()];
    pipe.read_exact(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The keeper itself: serves the lists that come on standard input until there are no more.
pub fn keep(interface: &str, own: Ipv6Addr) -> Result<(), Error> {
    let mut routes = PeerRoutes::open(interface, own)?;
    // Its node decides when it ends: not a terminal, nor who stops both at once.
    SigSet::from_iter([Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM])
        .thread_block()
        .map_err(|errno| Error::io("cannot block signals")(errno.into()))?;
    privileges::confine(&Places::default(), &[Capability::NetAdmin], false)?;
    let (mut lists, mut answers) = (io::stdin().lock(), io::stdout().lock());
    let [overlay, _] = overlay_prefixes();
    loop {
        let mut count = [0; 2];
        if lists.read_exact(&mut count).is_err() {
            return Ok(());
        }
        let mut list = vec![0; 16 * usize::from(u16::from_be_bytes(count))];
        let read = lists.read_exact(&mut list);
        read.map_err(Error::io("cannot read the peers"))?;
        let addresses = list.as_chunks::<16>().0.iter();
        let addresses = addresses.map(|octets| Ipv6Addr::from(*octets));
        let peers = addresses.filter(|address| overlay.contains((*address).into()));
        let done = routes.follow(&peers.filter_map(machines_of).collect());
        let problem = done.err().map(|error| error.to_string());
        let mut problem = problem.unwrap_or_default();
        problem.truncate(problem.floor_char_boundary(usize::from(u16::MAX)));
        let length = u16::try_from(problem.len()).unwrap_or_default();
        answers
            .write_all(&[&length.to_be_bytes(), problem.as_bytes()].concat())
            .and_then(|()| answers.flush())
            .map_err(Error::io("cannot answer"))?;
    }
}
