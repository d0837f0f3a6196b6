//! Bootstrap by multicast (R125, RD60): whoever looks for the overlay says a PING to a group, in clear, and dials who answers.
//! What else comes in clear is not heard; who is there the handshake shows.

use super::Links;
use crate::anode::{Bucket, Rate};
use crate::ice::{Path, Protocol};
use anode_reload::body::{PingRequest, PingResponse};
use anode_reload::contents::{Code, Contents, Kind, Method, emit_contents};
use anode_reload::{Header, Id, Signature, SignerIdentity};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// Groups of one overlay.
const MAX_GROUPS: usize = 4;
/// Answers of this node (RD60).
const ANSWERS: Rate = Rate::per_second(10, 10);
/// The first wait between two questions; it doubles.
const GAP: Duration = Duration::from_secs(1);
const MAX_GAP: Duration = Duration::from_secs(30);
/// Bytes of a question or answer.
const MESSAGE: usize = 1500;
/// Datagrams in one turn.
const TURN: usize = 16;

/// The groups of one overlay; without any, nothing.
#[derive(Default)]
pub(super) struct Groups {
    overlay: u32,
    own: Id,
    at: Vec<SocketAddr>,
    /// Where questions are heard.
    sockets: Vec<UdpSocket>,
    /// Part of the ring: this node answers, and does not ask.
    member: bool,
    transaction: u64,
    next: Option<Instant>,
    gap: Duration,
    answers: Bucket,
}

impl Groups {
    /// `locals` are the addresses of this machine; `transaction` is random.
    pub fn new(
        now: Instant,
        overlay: u32,
        own: Id,
        groups: &[SocketAddr],
        locals: &[SocketAddr],
        transaction: u64,
    ) -> Self {
        let at: Vec<SocketAddr> = groups.iter().copied().take(MAX_GROUPS).collect();
        let sockets = at.iter().filter_map(|group| {
            let joined = join(*group, locals);
            joined
                .inspect_err(|error| tracing::warn!("multicast group {group}: {error}"))
                .ok()
        });
        Self {
            overlay,
            own,
            sockets: sockets.collect(),
            member: false,
            transaction,
            next: (!at.is_empty()).then_some(now),
            gap: GAP,
            answers: Bucket::default(),
            at,
        }
    }

    pub fn sockets(&self) -> &[UdpSocket] {
        &self.sockets
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.next.filter(|_| !self.member)
    }

    pub fn set_member(&mut self, now: Instant, member: bool) {
        self.member = member;
        self.gap = GAP;
        self.next = (!self.at.is_empty()).then_some(now);
    }

    /// The question, and where to say it, if it is time.
    pub fn ask(&mut self, now: Instant) -> Option<(Vec<u8>, Vec<SocketAddr>)> {
        if self.deadline().is_none_or(|at| at > now) {
            return None;
        }
        self.next = Some(now + self.gap);
        self.gap = (self.gap * 2).min(MAX_GAP);
        self.transaction = self.transaction.wrapping_add(1);
        let payload = PingRequest::default().emit().ok()?;
        let header = Header::new(self.overlay, self.transaction, vec![Id::WILDCARD]);
        let contents = emit_contents(Kind::Request(Method::Ping as u16), &payload);
        let contents = Signature::unsigned(self.own).append(contents).ok()?;
        Some((header.emit(&contents).ok()?, self.at.clone()))
    }

    /// Questions that have come, as answers and where to send them.
    pub fn hear(&mut self, now: Instant) -> Vec<(Vec<u8>, SocketAddr)> {
        let mut answers = Vec::new();
        let mut buffer = [0; MESSAGE];
        for place in 0..self.sockets.len() {
            for _ in 0..TURN {
                let Ok((length, from)) = self.sockets[place].recv_from(&mut buffer) else {
                    break;
                };
                if let Some(answer) = self.answer(&buffer[..length])
                    && self.answers.take(now, ANSWERS)
                {
                    answers.push((answer, from));
                }
            }
        }
        answers
    }

    fn answer(&self, question: &[u8]) -> Option<Vec<u8>> {
        let (header, asker, contents) = self.read(question)?;
        let for_all = header.route == [Id::WILDCARD];
        let is_ping = contents.kind == Kind::Request(Method::Ping as u16);
        if !self.member || !for_all || !is_ping || asker == self.own {
            return None;
        }
        PingRequest::parse(contents.payload).ok()?;
        let response = PingResponse {
            response_id: header.transaction,
            infos: Vec::new(),
        };
        let contents = emit_contents(Kind::Response(Code::OK), &response.emit().ok()?);
        let contents = Signature::unsigned(self.own).append(contents).ok()?;
        header.response(Some(asker)).emit(&contents).ok()
    }

    /// Whether this is the answer to our question.
    pub fn is_answer(&self, bytes: &[u8]) -> bool {
        self.read(bytes).is_some_and(|(header, peer, contents)| {
            let ours = header.transaction == self.transaction && peer != self.own;
            ours && !self.member && contents.kind == Kind::Response(Code::OK)
        })
    }

    /// A message in clear of this overlay, and who says to have sent it.
    fn read<'a>(&self, bytes: &'a [u8]) -> Option<(Header, Id, Contents<'a>)> {
        if self.at.is_empty() {
            return None;
        }
        let (header, contents) = Header::parse(bytes).ok()?;
        let contents = Contents::parse(contents).ok()?;
        let peer = match contents.signature.as_ref()?.identity {
            SignerIdentity::Peer(peer) if peer.is_valid_peer() => peer,
            _ => return None,
        };
        (header.overlay == self.overlay).then_some((header, peer, contents))
    }
}

impl Links {
    /// Looks for members of an overlay in these multicast groups, and answers there as one (RD60). `random` is a number
    /// that nobody knows.
    pub fn set_groups(
        &mut self,
        now: Instant,
        overlay: u32,
        own: Id,
        groups: &[SocketAddr],
        random: u64,
    ) {
        let locals = self.addresses();
        self.groups = Groups::new(now, overlay, own, groups, &locals, random);
    }

    /// Whether this node is part of the ring: then it answers in its groups, and does not ask.
    pub fn set_member(&mut self, now: Instant, member: bool) {
        self.groups.set_member(now, member);
    }

    pub(super) fn work_groups(&mut self, now: Instant) {
        let own: Vec<SocketAddr> = self.addresses();
        let mut send = |to: SocketAddr, bytes: &[u8]| {
            let many = to.ip().is_multicast();
            let fits = |local: &&SocketAddr| {
                let near = local.ip().is_loopback() == to.ip().is_loopback();
                local.is_ipv4() == to.is_ipv4() && (many || near)
            };
            let from = own.iter().filter(fits);
            for local in from.copied().take(if many { own.len() } else { 1 }) {
                let path = Path {
                    protocol: Protocol::Udp,
                    local,
                    remote: to,
                };
                self.ice.send(now, path, bytes);
            }
        };
        if let Some((question, groups)) = self.groups.ask(now) {
            for group in groups {
                send(group, &question);
            }
        }
        for (answer, to) in self.groups.hear(now) {
            send(to, &answer);
        }
    }
}

/// A socket that hears a group, on every interface that has one of these addresses.
fn join(group: SocketAddr, locals: &[SocketAddr]) -> io::Result<UdpSocket> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(group), Type::DGRAM, Some(Protocol::UDP))?;
    // Other overlays of this machine may hear the same group.
    socket.set_reuse_address(true)?;
    if group.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&group.into())?;
    socket.set_nonblocking(true)?;
    let socket = UdpSocket::from(socket);
    match group.ip() {
        IpAddr::V4(group) => {
            let mut own: Vec<Ipv4Addr> = Vec::new();
            for local in locals {
                match local.ip() {
                    IpAddr::V4(ip) if !own.contains(&ip) => own.push(ip),
                    _ => {}
                }
            }
            for ip in own {
                socket.join_multicast_v4(&group, &ip)?;
            }
        }
        IpAddr::V6(group) => socket.join_multicast_v6(&group, 0)?,
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(own: u8, member: bool) -> Groups {
        Groups {
            overlay: 7,
            own: Id([own; 16]),
            at: vec!["224.0.0.9:6084".parse().unwrap()],
            member,
            transaction: u64::from(own),
            next: Some(Instant::now()),
            gap: GAP,
            ..Groups::default()
        }
    }

    // RD60: members answer a PING of their overlay, and nothing else in clear
    #[test]
    fn a_ping_to_the_group_is_answered_by_members() {
        let now = Instant::now() + GAP;
        let (mut asker, member) = (groups(1, false), groups(2, true));
        let (question, to) = asker.ask(now).unwrap();
        assert_eq!(to, asker.at);
        assert!(asker.ask(now).is_none(), "not at once again");
        assert_eq!(question[12], 0x81, "EXP is set");
        let answer = member.answer(&question).unwrap();
        assert!(asker.is_answer(&answer));
        assert!(!asker.is_answer(&question) && member.answer(&answer).is_none());
        assert!(groups(3, false).answer(&question).is_none(), "no member");
        assert!(groups(1, true).answer(&question).is_none(), "itself");
        let other = Groups {
            overlay: 8,
            ..groups(2, true)
        };
        assert!(other.answer(&question).is_none(), "another overlay");
        for cut in 0..question.len() {
            assert!(member.answer(&question[..cut]).is_none());
            assert!(!asker.is_answer(&question[..cut]));
        }
        // Another method in clear
        let header = Header::new(7, 9, vec![Id::WILDCARD]);
        let find = emit_contents(Kind::Request(Method::Find as u16), &[0; 17]);
        let find = Signature::unsigned(Id([1; 16])).append(find).unwrap();
        assert!(member.answer(&header.emit(&find).unwrap()).is_none());
        asker.set_member(now, true);
        assert!(asker.deadline().is_none() && !asker.is_answer(&answer));
    }
}
