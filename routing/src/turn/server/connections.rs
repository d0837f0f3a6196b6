//! Connections of a shard, to clients and to peers: what waits to leave, when they end, and what the kernel is asked to
//! tell of them.

use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use slab::Slab;

use super::output::Output;
use super::token::Token;
use crate::net::streams::pipe::Pipe;

/// What a closed connection still has to send takes no longer; nor does a TLS handshake.
pub(super) const SLOW: Duration = Duration::from_secs(15);

/// One, and what it is for.
pub(super) struct Connection<T> {
    pub pipe: Pipe,
    pub output: Output,
    /// Nothing is read: the other side of the relay takes no more.
    pub paused: bool,
    /// It does not stand yet.
    pub connecting: bool,
    /// It ends when its output is empty, and then at the latest.
    closing: Option<Instant>,
    interest: EpollFlags,
    with: T,
}

impl<T> Connection<T> {
    /// Whether something is to be read from it.
    pub fn is_read(&self) -> bool {
        !self.paused && !self.connecting && self.closing.is_none()
    }

    /// Whether its time to end has come.
    pub fn is_late(&self, now: Instant) -> bool {
        self.closing.is_some_and(|until| until <= now)
    }

    /// Ends it at once, whatever waits.
    pub fn give_up(&mut self, now: Instant) {
        self.closing = Some(now);
    }
}

impl<T> Deref for Connection<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.with
    }
}

impl<T> DerefMut for Connection<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.with
    }
}

pub(super) struct Connections<T> {
    epoll: Arc<Epoll>,
    token: fn(usize) -> Token,
    all: Slab<Connection<T>>,
    /// Those with something to send, or to tell the kernel.
    dirty: Vec<usize>,
    /// What the last flush has found.
    found: Vec<(usize, Found)>,
}

/// What a flush finds about a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// It is over.
    Ended,
    /// All that was queued has left.
    Drained,
}

impl<T> Connections<T> {
    /// `token`: what epoll calls them.
    pub fn new(epoll: Arc<Epoll>, token: fn(usize) -> Token) -> Self {
        Self {
            epoll,
            token,
            all: Slab::new(),
            dirty: Vec::new(),
            found: Vec::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn add(&mut self, pipe: Pipe, connecting: bool, with: T) -> io::Result<usize> {
        let interest = match connecting {
            true => EpollFlags::EPOLLOUT,
            false => EpollFlags::EPOLLIN,
        };
        let entry = self.all.vacant_entry();
        let index = entry.key();
        let event = EpollEvent::new(interest, (self.token)(index).into());
        self.epoll.add(&pipe, event)?;
        entry.insert(Connection {
            pipe,
            output: Output::default(),
            paused: false,
            connecting,
            closing: None,
            interest,
            with,
        });
        Ok(index)
    }

    pub fn get(&mut self, index: usize) -> Option<&mut Connection<T>> {
        self.all.get_mut(index)
    }

    pub fn iter(&self) -> impl Iterator<Item = (usize, &Connection<T>)> {
        self.all.iter()
    }

    /// It is looked at in the next flush.
    pub fn touch(&mut self, index: usize) {
        self.dirty.push(index);
    }

    pub fn pause(&mut self, index: usize, paused: bool) {
        if let Some(one) = self.all.get_mut(index) {
            one.paused = paused;
            self.dirty.push(index);
        }
    }

    /// Queues bytes. The caller holds the bound.
    pub fn push(&mut self, index: usize, bytes: &[u8]) {
        if let Some(one) = self.all.get_mut(index) {
            one.output.push(bytes);
            self.dirty.push(index);
        }
    }

    /// The same of a message.
    pub fn push_message(&mut self, index: usize, parts: &[&[u8]]) {
        if let Some(one) = self.all.get_mut(index) {
            one.output.push_message(parts);
            self.dirty.push(index);
        }
    }

    /// Ends it when what is queued has left.
    pub fn close_after(&mut self, now: Instant, index: usize) {
        if let Some(one) = self.all.get_mut(index) {
            one.closing.get_or_insert(now + SLOW);
            self.dirty.push(index);
        }
    }

    /// What is written now; [`Connections::found`] tells what came of it.
    pub fn flush(&mut self, now: Instant) {
        // It keeps its memory, as all that a packet passes through.
        let mut dirty = std::mem::take(&mut self.dirty);
        for index in dirty.drain(..) {
            match self.write(now, index) {
                Ok(true) => self.found.push((index, Found::Drained)),
                Ok(false) => {}
                Err(_) => self.found.push((index, Found::Ended)),
            }
        }
        self.dirty = dirty;
    }

    /// The next one that a flush has found something about.
    pub fn found(&mut self) -> Option<(usize, Found)> {
        self.found.pop()
    }

    /// Writes one queue; `Ok(true)`: it is empty. An error: the connection is over.
    fn write(&mut self, now: Instant, index: usize) -> io::Result<bool> {
        let one = self.all.get_mut(index);
        let Some(one) = one.filter(|one| !one.connecting || one.closing.is_some()) else {
            return Ok(false);
        };
        let empty = one.connecting || one.output.flush(&mut one.pipe)?;
        if one.closing.is_some() && (empty || one.is_late(now)) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let mut interest = EpollFlags::empty();
        interest.set(EpollFlags::EPOLLIN, one.is_read());
        interest.set(EpollFlags::EPOLLOUT, !empty);
        if interest != one.interest {
            one.interest = interest;
            let mut event = EpollEvent::new(interest, (self.token)(index).into());
            self.epoll.modify(&one.pipe, &mut event)?;
        }
        Ok(empty)
    }

    /// Closes it; what it was for.
    pub fn remove(&mut self, index: usize) -> Option<T> {
        let one = self.all.try_remove(index)?;
        one.pipe.close();
        Some(one.with)
    }
}
