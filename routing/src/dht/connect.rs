//! CONNECT (R58 to R60, R92 to R100): both sides tell where they are, and both ask there, so that their NATs let each other in.
//!
//! Between our nodes the session proves who is there, and EPC_REQ what ICE's checks would: a CONNECT carries candidates and
//! nothing else. For application 6084 (RELOAD) a link follows, for 8737 (Anode) paths of the overlay.
use super::links::Why;
use super::{Dht, End, Output, udp_places};
use anode_reload::body::{ConnectBody, MAX_CANDIDATES, Role};
use anode_reload::node::{Answer, AnswerBody, OfferId, RequestId, RequestOptions};
use anode_reload::{Id, Now, ReloadError, SignerIdentity};
use anode_wire::{Address, Endpoint};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Candidates that are told and asked.
const MAX_PLACES: usize = 4;
/// CONNECTs for paths of the overlay that wait for their answers.
const MAX_ASKED: usize = 64;
/// How long one is waited for.
const BUDGET: Duration = Duration::from_secs(5);

/// CONNECTs for paths of the overlay, to whom.
#[derive(Default)]
pub(super) struct Connects {
    asked: BTreeMap<RequestId, Address>,
}

impl Connects {
    pub fn is_asked(&self, request: RequestId) -> bool {
        self.asked.contains_key(&request)
    }
}

/// A host candidate as in RFC 5245 §15.1, the best first (RD31).
fn candidate(place: usize, at: SocketAddr) -> String {
    // §4.1.2.1: type preference 126, the place in the list as local preference, component 1
    let priority = (126u32 << 24) + ((65_535 - place as u32) << 8) + 255;
    format!(
        "candidate:{} 1 UDP {priority} {} {} typ host",
        place + 1,
        at.ip(),
        at.port()
    )
}

/// The UDP address of a candidate; `None`: it is of another kind, or no candidate.
fn parse_candidate(text: &str) -> Option<SocketAddr> {
    let mut words = text.strip_prefix("candidate:")?.split(' ');
    let (component, transport) = (words.nth(1)?, words.next()?);
    let ip: IpAddr = words.nth(1)?.parse().ok()?;
    let port: u16 = words.next()?.parse().ok()?;
    let usable = component == "1" && transport.eq_ignore_ascii_case("udp") && port != 0;
    usable.then(|| SocketAddr::new(ip, port))
}

pub(super) fn places_of(body: &ConnectBody) -> Vec<crate::anode::Place> {
    let candidates = body.candidates.iter().take(MAX_CANDIDATES);
    udp_places(
        candidates
            .filter_map(|text| parse_candidate(text))
            .take(MAX_PLACES),
    )
}

impl Dht {
    pub(super) fn connect_body(&self, application: u16, role: Role) -> ConnectBody {
        let udp = self.publisher.endpoints().iter().filter_map(|at| match at {
            Endpoint::Udp(at) => Some(*at),
            _ => None,
        });
        let udp = udp.take(MAX_PLACES).enumerate();
        ConnectBody {
            application,
            candidates: udp.map(|(place, at)| candidate(place, at)).collect(),
            ..ConnectBody::sealed(role)
        }
    }

    /// The ring wants a link: the CONNECT goes out at once, for the candidates are known.
    pub(super) fn offer(&mut self, now: Now, peer: Id) {
        if self.own_links.is_enabled() {
            return self.offer_own(peer);
        }
        let body = self.connect_body(ConnectBody::RELOAD, Role::Passive);
        self.node.offer(now, peer, &body);
    }

    pub(super) fn connect_answered(
        &mut self,
        now: Now,
        peer: Id,
        identity: &SignerIdentity,
        body: &ConnectBody,
    ) {
        if self.own_answered(peer, body) {
            return;
        }
        match identity.anode_peer().filter(|_| self.config.is_sealed()) {
            Some(end) if self.links.at(end).is_none() => {
                self.dial(now, end, Why::Ring(peer), places_of(body), false);
            }
            _ => self.node.connect_failed(now, peer),
        }
    }

    /// Somebody wants a link, or paths: the node has limited how often (RD63).
    pub(super) fn connect_offered(
        &mut self,
        now: Now,
        offer: OfferId,
        identity: &SignerIdentity,
        body: &ConnectBody,
    ) {
        let sealed = identity.anode_peer().filter(|_| self.config.is_sealed());
        let Some((who, digit)) = sealed else {
            return self.node.answer_connect(now, offer, None);
        };
        if !matches!(body.application, ConnectBody::RELOAD | ConnectBody::ANODE) {
            if !self.application_offered(now, offer, (who, digit), body) {
                self.node.answer_connect(now, offer, None);
            }
            return;
        }
        tracing::debug!(%who, application = body.application, "CONNECT");
        let answer = self.connect_body(body.application, Role::Active);
        self.node.answer_connect(now, offer, Some(&answer));
        // The first packet of ours opens our NAT for theirs.
        self.out(Output::Reach {
            who,
            digit,
            places: places_of(body),
            configured: false,
        });
    }

    /// Asks a peer whose record was found to meet us half-way.
    pub(super) fn ask_direct(&mut self, now: Now, (address, _): End, route: Vec<Id>) {
        let known = self.connects.asked.values().any(|asked| *asked == address);
        if known || route.is_empty() || self.connects.asked.len() >= MAX_ASKED {
            return;
        }
        let body = self.connect_body(ConnectBody::ANODE, Role::Passive);
        let options = RequestOptions {
            budget: BUDGET,
            log: false,
        };
        // A full table costs a way in, not the paths that the record names.
        if let Ok(request) = self.node.connect(now, route, &body, options) {
            self.connects.asked.insert(request, address);
        }
    }

    pub(super) fn direct_answered(
        &mut self,
        request: RequestId,
        result: Result<Answer, ReloadError>,
    ) {
        let Some(who) = self.connects.asked.remove(&request) else {
            return;
        };
        tracing::debug!(%who, error = ?result.as_ref().err(), "CONNECT was answered");
        if let Ok(Answer {
            body: AnswerBody::Connect(body),
            ..
        }) = result
        {
            let places = places_of(&body);
            self.out(Output::Found { who, places });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // R58, RD31
    #[test]
    fn candidates_are_those_of_rfc_5245() {
        let at: SocketAddr = "192.0.2.1:8737".parse().unwrap();
        let text = candidate(0, at);
        assert_eq!(text, "candidate:1 1 UDP 2130706431 192.0.2.1 8737 typ host");
        assert_eq!(parse_candidate(&text), Some(at));
        let six: SocketAddr = "[2001:db8::1]:9".parse().unwrap();
        assert_eq!(parse_candidate(&candidate(1, six)), Some(six));
        let srflx =
            "candidate:2 1 UDP 1694498815 192.0.2.3 45664 typ srflx raddr 10.0.1.1 rport 8998";
        assert_eq!(
            parse_candidate(srflx),
            Some("192.0.2.3:45664".parse().unwrap())
        );
        for bad in [
            "",
            "candidate:",
            "candidate:1 2 UDP 1 192.0.2.1 8737 typ host",
            "candidate:1 1 TCP 1 192.0.2.1 8737 typ host tcptype passive",
            "candidate:1 1 UDP 1 host.example.com 8737 typ host",
            "candidate:1 1 UDP 1 192.0.2.1 0 typ host",
            "candidate:1 1 UDP 1 192.0.2.1 65536 typ host",
            "1 1 UDP 1 192.0.2.1 8737 typ host",
        ] {
            assert_eq!(parse_candidate(bad), None, "{bad}");
        }
    }
}
