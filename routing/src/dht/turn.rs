//! TURN servers through the overlay (R98, R135, R136): who has one stores where it is, who may need one looks for some.
use super::publish::Copy;
use super::{Dht, Output};
use anode_reload::body::{DataValue, Fetch, FetchType, FindRequest, Reference, References};
use anode_reload::node::{Answer, AnswerBody, RequestId, RequestOptions};
use anode_reload::security::Certificate;
use anode_reload::usage::anode::LIFETIME;
use anode_reload::usage::turn::TurnServer;
use anode_reload::{DataModel, Id, Now, ReloadError, SignerIdentity, StoredData, TypeId};
use anode_wire::Address;
use rand_core::Rng as _;
use std::net::SocketAddr;
use std::time::Duration;

/// Servers that are enough.
const ENOUGH: usize = 3;
/// Random places that are looked at for them (R136): with one server among ten peers nine of ten looks find it (reload.md §3).
const TRIES: u8 = 12;
/// After a look that found one.
const LOOK_AGAIN: Duration = Duration::from_secs(600);
/// After the first look that found none, for a server may be as new as the ring; four times as late after each further one, for
/// most overlays have no server at all.
const LOOK_SOON: Duration = Duration::from_secs(5);
const MAX_LOOK_AGAIN: Duration = Duration::from_secs(3600);
/// How long one place is asked.
const OPTIONS: RequestOptions = RequestOptions {
    budget: Duration::from_secs(5),
    log: false,
};

/// A TURN server that the overlay knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FoundTurn {
    /// Where.
    pub at: SocketAddr,
    /// Whose key has signed that: what its credentials are made with (reload.md §3).
    pub owner: Address,
}

enum Look {
    /// Nothing is asked until then.
    Resting(Duration),
    Finding(RequestId),
    Fetching(RequestId),
}

/// The own server's pointers, and the look for others'.
pub(super) struct Turn {
    own: Option<SocketAddr>,
    pointers: Vec<Copy>,
    look: Look,
    gap: Duration,
    tries: u8,
    found: Vec<FoundTurn>,
    told: Vec<FoundTurn>,
}

impl Turn {
    /// `own`: the server of this machine; `density`: how often it is stored.
    pub fn new(own: Option<SocketAddr>, density: u8) -> Self {
        let pointers = (0..density).map(|_| Copy::default()).collect();
        Self {
            own,
            pointers,
            look: Look::Resting(Duration::ZERO),
            gap: LOOK_SOON,
            tries: 0,
            found: Vec::new(),
            told: Vec::new(),
        }
    }

    pub fn deadline(&self) -> Option<Duration> {
        match (self.own, &self.look) {
            (Some(_), _) => self.pointers.iter().filter_map(|it| it.next).min(),
            (None, Look::Resting(until)) => Some(*until),
            (None, _) => None,
        }
    }

    /// This node has come into a ring.
    pub fn joined(&mut self, now: Now) {
        if self.own.is_some() {
            self.pointers.iter_mut().for_each(|it| it.due(now.at));
        }
        self.gap = LOOK_SOON;
        self.rest(now.at);
    }

    fn rest(&mut self, until: Duration) {
        self.look = Look::Resting(until);
        self.tries = 0;
        self.found.clear();
    }
}

impl Dht {
    pub(super) fn run_turn(&mut self, now: Now) {
        if !self.is_in() || self.turn.deadline().is_none_or(|at| at > now.at) {
            return;
        }
        match self.turn.own {
            Some(own) => self.store_turn(now, own),
            None => self.find_turn(now),
        }
    }

    /// R135: at H(peer-id, d) for d = 1 to the density.
    fn store_turn(&mut self, now: Now, address: SocketAddr) {
        let wall = u32::try_from(now.unix).unwrap_or(u32::MAX);
        for place in 0..self.turn.pointers.len() {
            let due = self.turn.pointers[place].next;
            if due.is_none_or(|at| at > now.at) {
                continue;
            }
            let iteration = place as u8 + 1;
            let resource = TurnServer::resource(self.node.id(), iteration);
            let value = DataValue::Single(TurnServer { iteration, address }.emit());
            let kind = TypeId::TURN_SERVICE;
            let sent = self.store_signed(now, resource, kind, value, wall, LIFETIME);
            self.turn.pointers[place].asked(now, sent);
        }
    }

    /// R136: what follows a random place.
    fn find_turn(&mut self, now: Now) {
        if self.turn.tries >= TRIES || self.turn.found.len() >= ENOUGH {
            return self.turn_over(now);
        }
        self.turn.tries += 1;
        let mut resource = Id::ZERO;
        self.rng.fill_bytes(&mut resource.0);
        let request = FindRequest {
            resource,
            kinds: vec![TypeId::TURN_SERVICE],
        };
        self.turn.look = match self.node.ask(now, &request, OPTIONS) {
            Ok(request) => Look::Finding(request),
            Err(_) => Look::Resting(now.at + LOOK_SOON),
        };
    }

    fn turn_over(&mut self, now: Now) {
        let (again, next) = match self.turn.found.is_empty() {
            true => (self.turn.gap, (self.turn.gap * 4).min(MAX_LOOK_AGAIN)),
            false => (LOOK_AGAIN, LOOK_SOON),
        };
        self.turn.gap = next;
        if self.turn.found != self.turn.told && !self.turn.found.is_empty() {
            self.turn.told = self.turn.found.clone();
            tracing::debug!(servers = ?self.turn.told, "TURN servers of the overlay");
            self.out(Output::TurnServers(self.turn.told.clone()));
        }
        self.turn.rest(now.at + again);
    }

    /// False: the answer is to no question of these.
    pub(super) fn turn_answered(
        &mut self,
        now: Now,
        request: RequestId,
        result: &Result<Answer, ReloadError>,
    ) -> bool {
        let mut pointers = self.turn.pointers.iter_mut();
        if let Some(pointer) = pointers.find(|it| it.request == Some(request)) {
            match result {
                Ok(_) => pointer.stored(now, self.rng.next_u32()),
                Err(_) => pointer.failed(now),
            }
            return true;
        }
        match self.turn.look {
            Look::Finding(asked) if asked == request => {
                let closest = match result.as_ref().map(|answer| &answer.body) {
                    Ok(AnswerBody::Found(found)) => found.first().map(|one| one.closest),
                    _ => None,
                };
                match closest.filter(|id| *id != Id::ZERO) {
                    Some(resource) => self.fetch_turn(now, resource),
                    None => self.find_turn(now),
                }
            }
            Look::Fetching(asked) if asked == request => {
                if let Ok(AnswerBody::Values { found, .. }) = result.as_ref().map(|it| &it.body) {
                    let values = found.iter().flat_map(|one| &one.values);
                    let servers = values.filter_map(|data| self.turn_of(data));
                    let new: Vec<FoundTurn> = servers.collect();
                    self.turn.found.extend(new);
                    self.turn.found.sort_by_key(|it| it.at);
                    self.turn.found.dedup();
                }
                self.find_turn(now);
            }
            _ => return false,
        }
        true
    }

    fn fetch_turn(&mut self, now: Now, resource: Id) {
        let request = References {
            resource,
            types: vec![FetchType {
                kind: TypeId::TURN_SERVICE,
                generation: 0,
                reference: Reference::all(DataModel::Single),
            }],
        };
        self.turn.look = match self.node.ask(now, &Fetch(&request), OPTIONS) {
            Ok(request) => Look::Fetching(request),
            Err(_) => Look::Resting(now.at + LOOK_SOON),
        };
    }

    /// A server, and whose it is: the node has verified its signature.
    fn turn_of(&self, data: &StoredData) -> Option<FoundTurn> {
        let at = TurnServer::parse(data.value.bytes()).ok()?.address;
        let owner = match &data.signature.as_ref()?.identity {
            SignerIdentity::Anode(address) | SignerIdentity::AnodePeer(address, _) => *address,
            SignerIdentity::Certificate(der) => {
                let zone = self.own.0.zone();
                Certificate::from_der(der).ok()?.address(zone)?
            }
            _ => return None,
        };
        (owner != self.own.0).then_some(FoundTurn { at, owner })
    }
}
