//! What waits for the end of a batch, gathered by where it goes.

use std::net::{IpAddr, SocketAddr};

/// Larger datagrams are not joined: a segment must fit the device's MTU, while a single one may be fragmented.
const MAX_SEGMENT: usize = 1452;
/// The kernel's limits for one call (UDP_MAX_SEGMENTS, and the length of an IP packet).
const MAX_SEGMENTS: usize = 64;
const MAX_RUN: usize = 64_000;
/// Places that datagrams are gathered for before they must leave.
pub(super) const MAX_RUNS: usize = 64;

/// Where and how a datagram leaves. `E` names the socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::turn) struct Key<E> {
    pub exit: E,
    pub to: SocketAddr,
    /// From which address of ours, where the socket has several.
    pub source: Option<IpAddr>,
    pub dont_fragment: bool,
}

/// Equal datagrams to one place; the last may be shorter.
pub(in crate::turn) struct Run {
    pub key: Key<()>,
    pub segment: usize,
    pub count: usize,
    /// The last one was shorter: nothing can follow it.
    ended: bool,
    pub bytes: Vec<u8>,
}

/// Datagrams that wait for the end of a batch.
pub(in crate::turn) struct Sends<E> {
    runs: Vec<Run>,
    exits: Vec<E>,
}

impl<E: Copy + PartialEq> Sends<E> {
    pub fn new() -> Self {
        Self {
            runs: Vec::new(),
            exits: Vec::new(),
        }
    }

    /// Adds a datagram made of these parts. `false`: there is no room, [`Sends::flush`] first.
    #[must_use]
    pub fn push(&mut self, key: Key<E>, parts: &[&[u8]]) -> bool {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let (exit, key) = (
            key.exit,
            Key {
                exit: (),
                to: key.to,
                source: key.source,
                dont_fragment: key.dont_fragment,
            },
        );
        let used = self.exits.len();
        let last = (0..used)
            .rev()
            .find(|at| self.exits[*at] == exit && self.runs[*at].key == key);
        let at = match last.filter(|at| self.runs[*at].takes(length)) {
            Some(at) => at,
            None if used == MAX_RUNS => return false,
            None => {
                self.exits.push(exit);
                if self.runs.len() == used {
                    self.runs.push(Run {
                        key,
                        segment: 0,
                        count: 0,
                        ended: false,
                        bytes: Vec::new(),
                    });
                }
                let run = &mut self.runs[used];
                (run.key, run.segment, run.count) = (key, length, 0);
                run.bytes.clear();
                used
            }
        };
        let run = &mut self.runs[at];
        run.count += 1;
        run.ended = length < run.segment || length == 0 || length > MAX_SEGMENT;
        for part in parts {
            run.bytes.extend_from_slice(part);
        }
        true
    }

    /// Takes everything out, in order: runs that the socket is to send which their exit names.
    pub fn each(&mut self, mut send: impl FnMut(E, &[Run])) {
        let mut rest = &self.runs[..self.exits.len()];
        for together in self.exits.chunk_by(E::eq) {
            let (first, others) = rest.split_at(together.len());
            send(together[0], first);
            rest = others;
        }
        self.exits.clear();
    }
}

impl Run {
    /// One datagram, about which nothing is special.
    pub fn is_plain(&self) -> bool {
        self.count == 1 && self.key.source.is_none()
    }

    fn takes(&self, length: usize) -> bool {
        !self.ended
            && length <= self.segment
            && self.count < MAX_SEGMENTS
            && self.bytes.len() + length <= MAX_RUN
    }
}

#[cfg(test)]
mod tests {
    use super::super::send_runs;
    use super::*;

    fn key(exit: u8, port: u16) -> Key<u8> {
        Key {
            exit,
            to: SocketAddr::from(([127, 0, 0, 1], port)),
            source: None,
            dont_fragment: false,
        }
    }

    #[test]
    fn equal_datagrams_to_one_place_leave_together() {
        let mut sends = Sends::new();
        for size in [100, 100, 40, 100, 0, 0, 1500, 1500] {
            assert!(sends.push(key(1, 9), &[&vec![7; size]]));
            assert!(sends.push(key(2, 9), &[&[1; 60], &[2; 40]]));
        }
        let runs = |sends: &Sends<u8>, exit: u8| -> Vec<(usize, usize)> {
            let all = sends.exits.iter().zip(&sends.runs);
            let of = all.filter(|(e, _)| **e == exit);
            of.map(|(_, run)| (run.count, run.bytes.len())).collect()
        };
        let expected = [(3, 240), (2, 100), (1, 0), (1, 1500), (1, 1500)];
        assert_eq!(runs(&sends, 1), expected);
        assert_eq!(runs(&sends, 2), [(8, 800)]);
        let mut lost = 0;
        sends.each(|_, runs| lost += send_runs(runs, None));
        assert_eq!(lost, 16, "all lost without a socket");
        assert!(sends.exits.is_empty());
    }

    #[test]
    fn a_full_table_says_so_and_keeps_order() {
        let mut sends = Sends::new();
        for port in 0..MAX_RUNS as u16 {
            assert!(sends.push(key(0, 1 + port), &[&[0; 10]]));
        }
        assert!(!sends.push(key(0, 9999), &[&[0; 10]]));
        assert!(sends.push(key(0, 5), &[&[0; 10]]), "one that has its place");
    }
}
