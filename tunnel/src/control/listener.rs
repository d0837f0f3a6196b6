//! The control socket: made with the right mode from the start, taken over from a crashed node but never from a live one,
//! and open only to whom it shall be (S29).

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Uid, chown};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::SocketAddr;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::Error;

/// Connections at a time; more wait in the kernel's queue.
const CONNECTIONS: usize = 64;

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 64;

/// Who may use the socket besides root.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// The node's own user: mode 0600.
    Owner,
    /// And the members of a group: mode 0660. The kernel checks the membership by the file's mode.
    Group(Gid),
}

/// A bound control socket; the file goes when this goes.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    access: Access,
    slots: Arc<Semaphore>,
    file: SocketFile,
}

/// The file of a bound socket, removed on drop if it is still the one we made.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another node may have taken the place of a removed file: leave its own alone.
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl ControlSocket {
    /// Binds `path`. Needs a tokio runtime with IO.
    pub fn bind(path: &Path, access: Access) -> Result<Self, Error> {
        clear_stale(path)?;
        let failed =
            |error| Error::io(format!("cannot make the control socket {}", path.display()))(error);
        let listener = bind_private(path).map_err(failed)?;
        let inode = fs::symlink_metadata(path).map_err(failed)?.ino();
        let file = SocketFile {
            path: path.to_owned(),
            inode,
        };
        if let Access::Group(group) = access {
            chown(path, None, Some(group)).map_err(|error| failed(error.into()))?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(failed)?;
        }
        Ok(Self {
            listener,
            access,
            slots: Arc::new(Semaphore::new(CONNECTIONS)),
            file,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    fn admits(&self, stream: &UnixStream) -> bool {
        let Ok(credentials) = stream.peer_cred() else {
            return false;
        };
        let user = Uid::from_raw(credentials.uid());
        match self.access {
            Access::Owner => user.is_root() || user == Uid::effective(),
            Access::Group(_) => true,
        }
    }
}

/// Binds and listens. The file is born with mode 0600, so there is no moment in which others could connect: Linux gives a
/// bound socket's file the mode that the socket had before.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    socket::bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    socket::listen(&socket, Backlog::new(BACKLOG)?)?;
    UnixListener::from_std(StdListener::from(socket))
}

/// Removes the socket of a node that is gone; refuses anything else that is in the way.
fn clear_stale(path: &Path) -> Result<(), Error> {
    let shown = path.display();
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(Error::io(format!("cannot use the control socket {shown}"))(
                error,
            ));
        }
        Ok(found) if !found.file_type().is_socket() => {
            return Err(Error::refused(format!(
                "{shown} is in the way of the control socket: move it away"
            )));
        }
        Ok(_) => {}
    }
    match StdStream::connect(path) {
        Ok(_) => Err(Error::refused(format!(
            "another anode answers at {shown}: stop it first, or use another --state DIR"
        ))),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)
            .map_err(Error::io(format!(
                "cannot remove the stale control socket {shown}"
            ))),
        Err(error) => Err(Error::io(format!("cannot use the control socket {shown}"))(
            error,
        )),
    }
}

impl axum::serve::Listener for ControlSocket {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            // The semaphore is never closed; if it were, one connection more is no harm.
            let slot = Arc::clone(&self.slots).acquire_owned().await.ok();
            match self.listener.accept().await {
                Ok((stream, peer)) if self.admits(&stream) => {
                    return (
                        Connection {
                            stream,
                            _slot: slot,
                        },
                        peer,
                    );
                }
                Ok(_) => tracing::warn!("control: a process of another user was turned away"),
                Err(error) => {
                    // Out of descriptors, most likely: wait for some to be closed instead of spinning.
                    tracing::warn!("control: cannot accept a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// One connection, and its place among `CONNECTIONS`.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    _slot: Option<OwnedSemaphorePermit>,
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
