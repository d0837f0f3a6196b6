//! What is sent, and in which order: answers to S_OPEN, acknowledgements, lost packets, new ones, the close.
use super::{DACK_ENTRIES, DACK_HEADER, DATA_HEADER, Live, State, Transmit};
use crate::acks::{ENTRY, Encoded, MAX_ENTRIES};
use crate::recv::Receiver;
use crate::send::{Outgoing, Payload};
use anode_wire::message::{Acks, StreamMessage};
use std::time::Instant;

/// A message decided on; what it borrows is looked up afterwards.
#[derive(Clone, Copy, Debug)]
enum Plan {
    Open {
        window: u16,
        again: bool,
    },
    Close {
        reason: u8,
        initial: u32,
        sequence: u32,
        again: bool,
    },
    Ack {
        window: u16,
    },
    /// With a window: S_DACK.
    Data {
        position: u64,
        payload: Payload,
        again: bool,
        window: Option<u16>,
    },
}

impl Live {
    /// The next message to send now, at most `max` bytes of body; `None`: nothing (or the pacer says wait: see
    /// `deadline`). Call until `None`.
    ///
    /// `max` shapes new data only. A packet's payload is fixed when it is first sent (N9), so a retransmission can
    /// exceed a `max` that has shrunk since: the caller sends it in fragments.
    pub(super) fn poll_transmit(&mut self, now: Instant, max: usize) -> Option<Transmit<'_>> {
        let plan = self.plan(now, max)?;
        self.build(plan)
    }

    fn plan(&mut self, now: Instant, max: usize) -> Option<Plan> {
        match &mut self.state {
            State::Opening(opening) | State::Answering(opening) if opening.send => {
                opening.send = false;
                let again = self.counters.opens_sent > 0;
                return Some(self.plan_open(again));
            }
            State::Refused { reason, send, .. } if *send => {
                *send = false;
                let number = self.recv.as_ref().map_or(0, Receiver::isn);
                return Some(Plan::Close {
                    reason: reason.code(),
                    initial: number,
                    sequence: number,
                    again: false,
                });
            }
            State::Aborting(aborting) if aborting.send => {
                aborting.send = false;
                let (reason, sequence, again) = (
                    aborting.reason.code(),
                    aborting.sequence,
                    aborting.tries > 1,
                );
                return Some(Plan::Close {
                    reason,
                    initial: self.send.isn(),
                    sequence,
                    again,
                });
            }
            State::Lingering { .. } if self.final_ack.is_some() => {
                let sequence = self.final_ack.take()?;
                self.counters.acks_sent += 1;
                self.encoded = Encoded::single(sequence);
                return Some(Plan::Ack { window: 0 });
            }
            State::Answering(_) | State::Open => {}
            State::Lingering { .. } => return self.plan_ack(now),
            _ => return None,
        }
        if self.reopen {
            self.reopen = false;
            return Some(self.plan_open(true));
        }
        if self.acks.is_due(now) && !self.can_ride() {
            return self.plan_ack(now);
        }
        self.plan_data(now, max).or_else(|| self.plan_ack(now))
    }

    /// Whether the acknowledgement waits for what follows at once: data, which it rides on, or the close, which is larger.
    /// Packets of one system call must not grow.
    fn can_ride(&self) -> bool {
        self.acks.is_small() && (self.send.has_unsent() || self.send.close_is_next())
    }

    fn plan_open(&mut self, again: bool) -> Plan {
        self.counters.opens_sent += 1;
        let window = self.grant();
        Plan::Open { window, again }
    }

    /// The window to state, noted as granted.
    fn grant(&mut self) -> u16 {
        match &mut self.recv {
            Some(recv) => {
                recv.grant();
                recv.window()
            }
            None => Receiver::first_window(self.config.initial_window, self.config.max_window),
        }
    }

    fn plan_ack(&mut self, now: Instant) -> Option<Plan> {
        if !self.acks.is_due(now) {
            return None;
        }
        let recv = self.recv.as_mut()?;
        self.encoded = self.acks.encode(now, recv, MAX_ENTRIES);
        self.counters.acks_sent += 1;
        let window = self.grant();
        Some(Plan::Ack { window })
    }

    fn plan_data(&mut self, now: Instant, max: usize) -> Option<Plan> {
        if let Some(position) = self.send.poll_persist(&mut self.counters) {
            if position == 0 {
                return Some(self.plan_open(true));
            }
            return Some(Plan::Data {
                position,
                payload: Payload::LastAcked,
                again: true,
                window: None,
            });
        }
        self.send.set_mss(max.saturating_sub(DATA_HEADER));
        let rides = self.acks.is_waiting() && self.acks.is_small();
        let header = if rides {
            DACK_HEADER + DACK_ENTRIES * ENTRY
        } else {
            DATA_HEADER
        };
        let out = self
            .send
            .poll(now, max.saturating_sub(header), &mut self.counters)?;
        self.active = now;
        self.released = false;
        if out.close {
            let sequence = self.send.sequence(out.position);
            return Some(Plan::Close {
                reason: 0,
                initial: self.send.isn(),
                sequence,
                again: out.again,
            });
        }
        Some(self.plan_payload(now, &out, rides))
    }

    fn plan_payload(&mut self, now: Instant, out: &Outgoing, rides: bool) -> Plan {
        let payload = self.send.payload(out);
        let mut window = None;
        if rides
            && !out.again
            && let Some(recv) = &self.recv
        {
            self.encoded = self.acks.encode(now, recv, DACK_ENTRIES);
            self.counters.acks_ridden += 1;
            window = Some(self.grant());
        }
        Plan::Data {
            position: out.position,
            payload,
            again: out.again,
            window,
        }
    }

    fn build(&self, plan: Plan) -> Option<Transmit<'_>> {
        let links = self.links;
        // Encoded holds whole entries, one at least.
        let acks = || Acks::from_bytes(self.encoded.as_bytes()).ok();
        let (message, retransmission) = match plan {
            Plan::Open { window, again } => (
                StreamMessage::Open {
                    links,
                    window,
                    isn: self.send.isn(),
                    flags: self.flags,
                },
                again,
            ),
            Plan::Close {
                reason,
                initial,
                sequence,
                again,
            } => (
                StreamMessage::Close {
                    links,
                    flags: 0,
                    reason,
                    initial,
                    sequence,
                },
                again,
            ),
            Plan::Ack { window } => (
                StreamMessage::Ack {
                    links,
                    window,
                    acks: acks()?,
                },
                false,
            ),
            Plan::Data {
                position,
                payload,
                again,
                window,
            } => {
                let (sequence, payload) = (self.send.sequence(position), self.send.bytes(payload));
                let message = match window {
                    Some(window) => StreamMessage::Dack {
                        links,
                        window,
                        acks: acks()?,
                        sequence,
                        payload,
                    },
                    None => StreamMessage::Data {
                        links,
                        sequence,
                        payload,
                    },
                };
                (message, again)
            }
        };
        Some(Transmit {
            message,
            retransmission,
        })
    }
}
