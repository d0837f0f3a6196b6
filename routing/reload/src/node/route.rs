//! The forwarding layer of a node: receipt, route lists, private ids, the next hop (R7, R25 to R41).
use super::{MAX_QUEUE, Node, Transmit};
use crate::contents::{ErrorBody, Kind, emit_contents};
use crate::fragment;
use crate::header::{Fragment, MAX_LIST, MAX_TTL, Routing, VERSION_PLAIN, VERSION_PRIVATE};
use crate::private_id::{LIFETIME, Private};
use crate::topology::Hop;
use crate::{Code, Header, Id, LinkId, Now};

/// Private ids that one route list may hold after another.
const MAX_EXPANSIONS: usize = 8;
/// Bytes of a datagram left free, so that the next hop can add its id without cutting again (RD13).
const VIA_RESERVE: usize = 32;

/// Whether contents, or their first fragment, are a request's.
fn is_request(header: &Header, contents: &[u8]) -> bool {
    let first = matches!(
        header.fragment,
        Fragment::Whole | Fragment::Part { offset: 0, .. }
    );
    first && contents.first().is_some_and(|byte| byte & 0x80 == 0)
}

impl Node {
    /// A message from a link: checks the header (R25), appends the sender to the via list (RD17), and sends it its way.
    pub(super) fn receive(&mut self, now: Now, link: LinkId, bytes: &[u8]) {
        let Some(peer) = self.links.get(&link).map(|link| link.info.peer) else {
            return;
        };
        let Ok((mut header, contents)) = Header::parse(bytes) else {
            self.counters.malformed += 1;
            return;
        };
        let request = is_request(&header, contents);
        if header.via.len() >= MAX_LIST || header.ttl > MAX_TTL {
            self.counters.hops_exceeded += 1;
            return;
        }
        header.via.push(peer);
        let version_served = header.version == VERSION_PRIVATE
            || (header.version == VERSION_PLAIN && self.config.accept_plain_version);
        if header.overlay != self.overlay || !version_served {
            self.counters.incompatible += 1;
            if request {
                self.refuse_unsigned(now, &header, Code::INCOMPATIBLE, Vec::new());
            }
            return;
        }
        if bytes.len() > self.config.max_message {
            self.counters.malformed += 1;
            if request {
                self.refuse_unsigned(now, &header, Code::TOO_LARGE, Vec::new());
            }
            return;
        }
        self.dispatch(now, Some(link), header, contents);
    }

    /// Follows the route list as far as it is this node's, then delivers or forwards (R28 to R30).
    pub(super) fn dispatch(
        &mut self,
        now: Now,
        from: Option<LinkId>,
        mut header: Header,
        contents: &[u8],
    ) {
        let mut expansions = 0;
        let mut to_me = header.route.is_empty();
        loop {
            let Some(first) = header.route.first().copied() else {
                self.arrive(now, from, header, contents, to_me);
                return;
            };
            if first == self.id || first == Id::WILDCARD {
                to_me = first == self.id;
                header.route.remove(0);
                continue;
            }
            match self.private.expand(now, first) {
                Private::Mine(ids) if expansions < MAX_EXPANSIONS => {
                    expansions += 1;
                    header.route.splice(..1, ids.into_iter().rev());
                    if header.route.len() > MAX_LIST {
                        self.counters.hops_exceeded += 1;
                        return;
                    }
                    continue;
                }
                Private::Mine(_) | Private::Stale => {
                    self.counters.stale_private += 1;
                    return;
                }
                Private::Foreign => {}
            }
            // R30, RD66: who has a link, peer or client, is reached over it
            let tried = self.tried(from, &header, contents);
            let next = match self.by_peer.contains_key(&first) {
                true => Hop::To(first),
                false => match self.topology.next_hop(first, &tried) {
                    // every way has been tried: the first may be good again
                    Hop::None => self.topology.next_hop(first, &[]),
                    hop => hop,
                },
            };
            match next {
                Hop::Here => {
                    to_me = false;
                    header.route.remove(0);
                }
                Hop::To(peer) => {
                    self.pass(now, from, header, contents, peer);
                    return;
                }
                Hop::None => {
                    self.counters.unroutable += 1;
                    return;
                }
            }
        }
    }

    /// Ways that this very request went before: its requester heard nothing, so it takes another (beyond the draft).
    fn tried(&self, from: Option<LinkId>, header: &Header, contents: &[u8]) -> Vec<Id> {
        match is_request(header, contents) {
            true => {
                let tried = self.forwards.get(&(header.transaction, from)).cloned();
                tried.unwrap_or_default()
            }
            false => Vec::new(),
        }
    }

    fn remember_way(&mut self, from: Option<LinkId>, transaction: u64, peer: Id) {
        let ways = self.forwards.entry((transaction, from), Vec::new);
        ways.push(peer);
        // after three ways the first may be good again
        if ways.len() > 3 {
            ways.clear();
        }
    }

    fn pass(
        &mut self,
        now: Now,
        from: Option<LinkId>,
        mut header: Header,
        contents: &[u8],
        peer: Id,
    ) {
        let request = is_request(&header, contents);
        if from.is_some() {
            match header.routing {
                Routing::Iterative if request && self.config.iterative => {
                    let next = peer.0.to_vec();
                    self.refuse_unsigned(now, &header, Code::MOVED_TEMPORARILY, next);
                    return;
                }
                Routing::Iterative | Routing::Unknown(_) if request => {
                    self.refuse_unsigned(now, &header, Code::UNWILLING, Vec::new());
                    return;
                }
                _ => {}
            }
            // R16: a TTL of 0 is good for the destination only
            if header.ttl == 0 {
                self.counters.hops_exceeded += 1;
                if request {
                    self.refuse_unsigned(now, &header, Code::TTL_EXCEEDED, Vec::new());
                }
                return;
            }
            header.ttl -= 1;
            self.counters.forwarded += 1;
            if header.via.len() >= self.config.compress_via {
                let list = std::mem::take(&mut header.via);
                header.via = vec![self.private.compress(now, list, LIFETIME)];
            }
        }
        if request {
            self.remember_way(from, header.transaction, peer);
        }
        let Some(link) = self.by_peer.get(&peer).copied() else {
            self.counters.unroutable += 1;
            return;
        };
        if header.log.is_some()
            && let Some(transport) = self.links.get(&link).map(|link| link.info.transport)
        {
            let entry = self.log_entry(now, transport);
            header.log_hop(&entry);
        }
        self.transmit(link, &header, contents);
    }

    /// Queues a message for a link, in fragments where it must be (R36).
    pub(super) fn transmit(&mut self, link: LinkId, header: &Header, contents: &[u8]) {
        let Some(info) = self.links.get(&link).map(|link| link.info) else {
            return;
        };
        let limit = info.mtu.map_or(usize::MAX, |mtu| {
            // a little room, unless there is hardly any
            match header.wire_len() + VIA_RESERVE + 64 < mtu {
                true => mtu - VIA_RESERVE,
                false => mtu,
            }
        });
        let Ok(messages) = fragment::split(header, contents, limit) else {
            self.counters.malformed += 1;
            return;
        };
        for bytes in messages {
            if self.transmits.len() >= MAX_QUEUE {
                self.counters.queue_full += 1;
                return;
            }
            self.counters.sent += 1;
            self.counters.sent_bytes += bytes.len() as u64;
            self.transmits.push_back(Transmit { link, bytes });
        }
    }

    /// A message whose route list ends here.
    fn arrive(
        &mut self,
        now: Now,
        from: Option<LinkId>,
        header: Header,
        contents: &[u8],
        to_me: bool,
    ) {
        match (from, header.fragment) {
            (Some(link), Fragment::Part { .. }) => {
                let whole = self.reassembly.insert(now, link, header, contents);
                if let Some((header, contents)) = whole {
                    self.deliver(now, Some(link), header, &contents, to_me);
                }
            }
            (Some(link), Fragment::Whole) => {
                self.deliver(now, Some(link), header, contents, to_me);
            }
            // what a node sends to itself waits until its caller is done
            (None, _) => self.loopback.push_back((header, contents.to_vec())),
        }
    }

    /// Answers a request that this node does not serve, without looking at its signature.
    pub(super) fn refuse_unsigned(&mut self, now: Now, header: &Header, code: Code, info: Vec<u8>) {
        let Ok(payload) = ErrorBody::new(code, info).emit() else {
            return;
        };
        let contents = emit_contents(Kind::Response(code), &payload);
        let response = Header {
            overlay: header.overlay,
            ..header.response(None)
        };
        let signed = self.sign_contents(response.transaction, contents, false);
        self.dispatch(now, None, response, &signed);
    }
}
