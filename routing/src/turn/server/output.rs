//! Bytes on their way into a connection.

use std::collections::VecDeque;
use std::io;

use crate::net::streams::pipe::Pipe;

/// Bytes that a connection has not taken yet. Whoever adds to it holds the bound.
#[derive(Default)]
pub(super) struct Output {
    bytes: Vec<u8>,
    start: usize,
    /// Where messages end in `bytes`, beyond `start`.
    ends: VecDeque<usize>,
}

impl Output {
    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of a stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// A message made of these parts. In TLS it gets a record of its own: coturn's client takes a record for a message,
    /// and loses what else is in it.
    pub fn push_message(&mut self, parts: &[&[u8]]) {
        parts.iter().for_each(|part| self.push(part));
        self.ends.push_back(self.bytes.len());
    }

    /// Writes what the connection takes. `Ok(true)`: all of it, what TLS holds included.
    pub fn flush(&mut self, pipe: &mut Pipe) -> io::Result<bool> {
        while !self.is_empty() {
            let end = match self.ends.front() {
                Some(end) if pipe.is_tls() => *end,
                _ => self.bytes.len(),
            };
            match pipe.write_record(&self.bytes[self.start..end]) {
                Ok(taken) => self.taken(taken),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    pipe.flush_tls()?;
                    if !pipe.is_tls() || pipe.wants_write() {
                        self.close_up();
                        return Ok(false);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.close_up();
        pipe.flush_tls()?;
        Ok(!pipe.wants_write())
    }

    fn taken(&mut self, count: usize) {
        self.start += count;
        while self.ends.front().is_some_and(|end| *end <= self.start) {
            self.ends.pop_front();
        }
    }

    /// What was taken makes room.
    fn close_up(&mut self) {
        self.bytes.drain(..self.start);
        self.ends.iter_mut().for_each(|end| *end -= self.start);
        self.start = 0;
    }
}
