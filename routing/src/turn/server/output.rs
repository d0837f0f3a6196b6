//! Bytes on their way into a connection.

use std::io;

use crate::net::streams::pipe::Pipe;

/// Bytes that a connection has not taken yet. Whoever adds to it holds the bound.
#[derive(Default)]
pub(super) struct Output {
    bytes: Vec<u8>,
    start: usize,
}

impl Output {
    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Writes what the connection takes. `Ok(true)`: all of it, what TLS holds included.
    pub fn flush(&mut self, pipe: &mut Pipe) -> io::Result<bool> {
        while !self.is_empty() {
            match pipe.write(&self.bytes[self.start..]) {
                Ok(taken) => self.start += taken,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.bytes.drain(..self.start);
                    self.start = 0;
                    return Ok(false);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.bytes.clear();
        self.start = 0;
        pipe.flush_tls()?;
        Ok(!pipe.wants_write())
    }
}
