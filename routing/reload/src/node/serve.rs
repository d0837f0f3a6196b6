//! Requests of others (R55 to R92).
use super::tables::{Answer as Kept, Bucket};
use super::transact::{is_cacheable, is_same_owner, repeat_key};
use super::{CONNECT_BUDGET, Connecting, Event, MAX_OFFERS, Node, Offer, OfferId};
use crate::body::{
    ConnectBody, FetchResponse, FindRequest, FindResult, Generation, Membership, Packed, PingInfo,
    PingRequest, PingResponse, References, StoreRequest, TunnelRequest,
};
use crate::contents::{Contents, ErrorBody, Kind, emit_contents};
use crate::security::Signer;
use crate::storage::Mode;
use crate::topology::Input;
use crate::{Code, Header, Id, LinkId, Method, Now, ReloadError, TypeId};

/// STOREs of owners a second, for their signatures cost half a millisecond each (S35).
const STORE_RATE: f64 = 200.0;
/// As many at once.
pub(super) const STORE_BURST: f64 = 400.0;
/// STOREs a second of one signer.
const SIGNER_RATE: f64 = 5.0;
const SIGNER_BURST: f64 = 20.0;
/// And of those that come over links of one group, the half: keys cost nothing where everybody makes his own, so that the limit
/// of a signer alone would leave nothing to others.
const GROUP_RATE: f64 = STORE_RATE / 2.0;
const GROUP_BURST: f64 = STORE_BURST / 2.0;
/// CONNECTs a second of one signer (RD63), and as many at once.
const CONNECT_RATE: f64 = 1.0;
const CONNECT_BURST: f64 = 8.0;
/// Accounts of CONNECTs beside those of STOREs.
const CONNECTS: u64 = 0x636f_6e6e_6563_7473;
const BILLION: u128 = 1_000_000_000;

/// A request that is being served.
struct Asked<'a> {
    header: &'a Header,
    key: (u64, u64),
    signer: Signer,
    contents: &'a Contents<'a>,
    /// Whether the route list ended in this node's own Peer-ID.
    to_me: bool,
    /// The peer at the other end of the link, where the request came straight from its signer.
    neighbour: Option<Id>,
    link: Option<LinkId>,
}

impl Asked<'_> {
    /// A source route to whoever has asked, which answers of applications take: the signer, behind the first peer on the
    /// way, for a client is nobody's neighbour (R8). A via list that was made shorter names the signer alone.
    fn way_back(&self) -> Vec<Id> {
        let via = &self.header.via;
        match (via.first(), self.signer.peers().first()) {
            (Some(first), _) if self.signer.is_peer(*first) => {
                via.get(1).copied().into_iter().chain([*first]).collect()
            }
            (_, Some(signer)) => vec![*signer],
            (_, None) => Vec::new(),
        }
    }
}

/// What serving came to.
enum Served {
    Reply(Vec<u8>),
    /// The reply comes later.
    Later,
}

impl Node {
    /// A whole message for this node.
    pub(super) fn deliver(
        &mut self,
        now: Now,
        link: Option<LinkId>,
        header: Header,
        bytes: &[u8],
        to_me: bool,
    ) {
        let contents = match Contents::parse(bytes) {
            Ok(contents) => contents,
            Err(_) => {
                self.counters.malformed += 1;
                return;
            }
        };
        match contents.kind {
            Kind::Response(code) => self.on_response(now, &header, code, &contents),
            Kind::Request(method) => {
                let key = repeat_key(&header, bytes);
                match self.answers.get(key) {
                    Some(Kept::Pending) => self.counters.repeated += 1,
                    Some(Kept::Given(answer)) => {
                        self.counters.repeated += 1;
                        let (answer, response) = (answer.clone(), header.response(None));
                        self.dispatch(now, None, response, &answer);
                    }
                    None => self.on_request(now, link, &header, key, method, &contents, to_me),
                }
            }
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "all that is known of a request, gathered into Asked at once"
    )]
    fn on_request(
        &mut self,
        now: Now,
        link: Option<LinkId>,
        header: &Header,
        key: (u64, u64),
        method: u16,
        contents: &Contents<'_>,
        to_me: bool,
    ) {
        let signer = match self.verify_message(now, header, contents) {
            Ok(signer) => signer,
            Err(error) => {
                self.counters.unverified += 1;
                self.refuse(now, header, key, &error, Vec::new());
                return;
            }
        };
        let peer = link
            .and_then(|link| self.links.get(&link))
            .map(|it| it.info.peer);
        let neighbour = peer.filter(|peer| header.via.len() == 1 && signer.is_peer(*peer));
        let asked = Asked {
            header,
            key,
            signer,
            contents,
            to_me,
            neighbour,
            link,
        };
        let served = Method::try_from(method).and_then(|method| self.serve(now, method, &asked));
        match served {
            Ok(Served::Reply(payload)) => self.reply(now, header, key, Code::OK, payload),
            Ok(Served::Later) => self.answers.put(now.at, key, Kept::Pending),
            Err(error) => {
                let info = self.error_info(&error, method, contents.payload);
                self.refuse(now, header, key, &error, info);
            }
        }
    }

    /// Signs, keeps and sends a response.
    pub(super) fn reply(
        &mut self,
        now: Now,
        header: &Header,
        key: (u64, u64),
        code: Code,
        payload: Vec<u8>,
    ) {
        let payload = match code {
            Code::OK => payload,
            code => ErrorBody::new(code, payload).emit().unwrap_or_default(),
        };
        let response = header.response(None);
        let contents = emit_contents(Kind::Response(code), &payload);
        // whoever asks may know nothing of this node
        let signed = self.sign_contents(response.transaction, contents, true);
        if is_cacheable(code) {
            self.answers.put(now.at, key, Kept::Given(signed.clone()));
        }
        self.dispatch(now, None, response, &signed);
    }

    fn refuse(
        &mut self,
        now: Now,
        header: &Header,
        key: (u64, u64),
        error: &ReloadError,
        info: Vec<u8>,
    ) {
        self.reply(now, header, key, error.code(), info);
    }

    /// What an error carries (R52, RD25): 412 generations, 415 types, 503 seconds.
    fn error_info(&self, error: &ReloadError, method: u16, payload: &[u8]) -> Vec<u8> {
        match error {
            ReloadError::UnknownType(kind) => kind.0.to_be_bytes()[1..].to_vec(),
            ReloadError::Busy(_) => 1u32.to_be_bytes().to_vec(),
            ReloadError::Precondition(_) => {
                let kinds = &self.config.kinds;
                let model = |kind| kinds.model(kind);
                let of = |resource, types: Vec<TypeId>| {
                    let known = self.storage.generations(resource, types.into_iter());
                    Generation::emit_list(&known)
                };
                if method == Method::Store as u16
                    && let Ok(request) = StoreRequest::parse(payload, model)
                {
                    let types = request.types.iter().map(|one| one.kind).collect();
                    return of(request.resource, types);
                }
                match References::parse(payload, model) {
                    Ok(request) => {
                        let types = request.types.iter().map(|one| one.kind).collect();
                        of(request.resource, types)
                    }
                    Err(_) => Vec::new(),
                }
            }
            _ => Vec::new(),
        }
    }

    fn serve(
        &mut self,
        now: Now,
        method: Method,
        asked: &Asked<'_>,
    ) -> Result<Served, ReloadError> {
        match method {
            Method::Ping => self.serve_ping(asked),
            Method::Connect => self.serve_connect(now, asked),
            Method::Tunnel => self.serve_tunnel(asked),
            Method::Store => self.serve_store(now, asked),
            Method::Fetch => self.serve_fetch(now, asked),
            Method::Remove => self.serve_remove(now, asked),
            Method::Find => self.serve_find(now, asked),
            Method::Join | Method::Leave | Method::Update => self.serve_ring(now, method, asked),
        }
    }

    fn serve_ping(&mut self, asked: &Asked<'_>) -> Result<Served, ReloadError> {
        let ping = PingRequest::parse(asked.contents.payload)?;
        let infos = ping.infos.iter().take(16).filter_map(|info| match *info {
            PingInfo::RESPONSIBLE => Some(PingInfo::Responsible(self.responsible_ppb())),
            PingInfo::RESOURCES => Some(PingInfo::Resources(self.storage.resources() as u32)),
            _ => None,
        });
        let infos = infos.collect();
        let response_id = self.rng.next_u64();
        Ok(Served::Reply(PingResponse { response_id, infos }.emit()?))
    }

    fn responsible_ppb(&self) -> u32 {
        match self.topology.range() {
            None => 0,
            Some((after, upto)) => match after.distance_to(upto) {
                0 => BILLION as u32,
                arc => (arc / (u128::MAX / BILLION)).min(BILLION) as u32,
            },
        }
    }

    fn serve_connect(&mut self, now: Now, asked: &Asked<'_>) -> Result<Served, ReloadError> {
        let body = ConnectBody::parse(asked.contents.payload)?;
        let identity = match &asked.contents.signature {
            Some(signature) => signature.identity.clone(),
            None => return Err(ReloadError::Unverified("a CONNECT is signed")),
        };
        let limited = self.limit(
            now,
            asked.signer.account ^ CONNECTS,
            CONNECT_RATE,
            CONNECT_BURST,
        );
        if limited || self.offers.len() >= MAX_OFFERS {
            self.counters.rate_limited += 1;
            return Err(ReloadError::Busy("the table of connections being made"));
        }
        let peer = match asked.signer.peers() {
            [only] => Some(*only),
            peers => peers
                .iter()
                .copied()
                .find(|peer| self.connecting.contains_key(peer)),
        };
        if let Some(peer) = peer
            && body.application == ConnectBody::RELOAD
            && matches!(self.connecting.get(&peer), Some(Connecting::Asked { .. }))
        {
            // RD32: both ask; the larger Peer-ID's request stands
            if self.id > peer {
                return Err(ReloadError::Refused(Code::REQUEST_PENDING));
            }
            self.abandon_connect(peer);
            let until = now.at + CONNECT_BUDGET;
            self.connecting.insert(peer, Connecting::Linking { until });
        }
        let id = self.rng.next_u64();
        let offer = Offer {
            header: asked.header.clone(),
            key: asked.key,
            until: now.at + CONNECT_BUDGET,
        };
        self.offers.insert(id, offer);
        self.emit(Event::ConnectOffered {
            offer: OfferId(id),
            peer,
            identity,
            body,
        });
        Ok(Served::Later)
    }

    fn serve_tunnel(&mut self, asked: &Asked<'_>) -> Result<Served, ReloadError> {
        let tunnel = TunnelRequest::parse(asked.contents.payload)?;
        if !asked.to_me || !self.config.tunnels.contains(&tunnel.application) {
            return Err(ReloadError::Refused(Code::NOT_FOUND));
        }
        self.emit(Event::Tunnel {
            from: asked.signer.clone(),
            back: asked.way_back(),
            tunnel,
        });
        Ok(Served::Reply(Vec::new()))
    }

    fn limit(&mut self, now: Now, account: u64, rate: f64, burst: f64) -> bool {
        let bucket = self.rates.entry(account, || Bucket::full(burst, now.at));
        !bucket.take(now.at, rate, burst)
    }

    fn limit_group(&mut self, now: Now, group: u64) -> bool {
        let full = || Bucket::full(GROUP_BURST, now.at);
        let bucket = self.group_rates.entry(group, full);
        !bucket.take(now.at, GROUP_RATE, GROUP_BURST)
    }

    fn serve_store(&mut self, now: Now, asked: &Asked<'_>) -> Result<Served, ReloadError> {
        let kinds = &self.config.kinds;
        let request = StoreRequest::parse(asked.contents.payload, |kind| kinds.model(kind))?;
        let mode = self.store_mode(request.resource, asked)?;
        let link = asked.link.and_then(|link| self.links.get(&link));
        let group = link.map_or(0, |link| link.info.group);
        if mode == Mode::Owner && self.security.protects_data() {
            let account = asked.signer.account;
            if self.limit(now, account, SIGNER_RATE, SIGNER_BURST)
                || (asked.link.is_some() && self.limit_group(now, group))
                || !self.store_rate.take(now.at, STORE_RATE, STORE_BURST)
            {
                self.counters.rate_limited += 1;
                return Err(ReloadError::Busy("this node's time for signatures"));
            }
        }
        for one in &request.types {
            for data in &one.values {
                self.check_owner(now, request.resource, one.kind, data)?;
            }
        }
        // RD38: not a number that was used before the state was lost
        let fresh = match mode {
            Mode::Owner => 1 + (self.rng.next_u64() >> 2),
            Mode::Copy => 1,
        };
        let (generations, changed) =
            self.storage
                .store(now, &self.config.kinds, &request, mode, group, fresh)?;
        let payload = Generation::emit_list(&generations);
        if mode == Mode::Copy || !changed {
            return Ok(Served::Reply(payload));
        }
        let mut copy = request;
        for one in &mut copy.types {
            let known = generations.iter().find(|it| it.kind == one.kind);
            one.generation = known.map_or(0, |it| it.generation);
        }
        let copy = copy.emit()?;
        Ok(self.replicate(now, asked.header, asked.key, Method::Store, &copy, payload))
    }

    /// Whether a STORE or REMOVE is an owner's or a neighbour's (RD72).
    fn store_mode(&self, resource: Id, asked: &Asked<'_>) -> Result<Mode, ReloadError> {
        if let Some(peer) = asked.neighbour
            && asked.to_me
            && self.topology.may_copy(peer, resource)
        {
            return Ok(Mode::Copy);
        }
        match self.topology.is_responsible(resource) {
            true => Ok(Mode::Owner),
            false => Err(ReloadError::Refused(Code::NOT_FOUND)),
        }
    }

    fn serve_fetch(&mut self, now: Now, asked: &Asked<'_>) -> Result<Served, ReloadError> {
        let kinds = &self.config.kinds;
        let request = References::parse(asked.contents.payload, |kind| kinds.model(kind))?;
        // a replica may be asked by its Peer-ID: parallel lookups go around a lying peer (R142)
        if !asked.to_me && !self.topology.is_responsible(request.resource) {
            return Err(ReloadError::Refused(Code::NOT_FOUND));
        }
        let found = self.storage.fetch(now, &request);
        Ok(Served::Reply(FetchResponse::emit_list(&found)?))
    }

    fn serve_remove(&mut self, now: Now, asked: &Asked<'_>) -> Result<Served, ReloadError> {
        let kinds = &self.config.kinds;
        let request = References::parse(asked.contents.payload, |kind| kinds.model(kind))?;
        let mode = self.store_mode(request.resource, asked)?;
        if mode == Mode::Owner && self.security.protects_data() {
            for one in &request.types {
                for data in self.storage.selected(request.resource, one) {
                    let owner = data.signature.as_ref().map(|it| &it.identity);
                    if !owner.is_some_and(|owner| is_same_owner(owner, &asked.signer)) {
                        return Err(ReloadError::Forbidden("the values are somebody else's"));
                    }
                }
            }
        }
        let check_generation = mode == Mode::Owner;
        let (generations, changed) = self.storage.remove(now, &request, check_generation)?;
        let payload = Generation::emit_list(&generations);
        if mode == Mode::Copy || !changed {
            return Ok(Served::Reply(payload));
        }
        let copy = request.emit()?;
        Ok(self.replicate(now, asked.header, asked.key, Method::Remove, &copy, payload))
    }

    fn serve_find(&mut self, now: Now, asked: &Asked<'_>) -> Result<Served, ReloadError> {
        let request = FindRequest::parse(asked.contents.payload)?;
        let range = self.topology.range();
        let Some((_, upto)) =
            range.filter(|(after, upto)| request.resource.in_range(*after, *upto))
        else {
            return Err(ReloadError::Refused(Code::NOT_FOUND));
        };
        let mut found = Vec::new();
        for kind in request.kinds {
            let known = self.config.kinds.get(kind);
            let closest = match known.map(|kind| kind.findable) {
                None => Id::ZERO,
                Some(false) => continue,
                Some(true) => self.storage.find(now, request.resource, upto, kind),
            };
            found.push(FindResult { kind, closest });
        }
        Ok(Served::Reply(FindResult::emit_list(&found)))
    }

    /// JOIN, LEAVE and UPDATE: over the link of the peer that they are about (RD47 to RD49).
    fn serve_ring(
        &mut self,
        now: Now,
        method: Method,
        asked: &Asked<'_>,
    ) -> Result<Served, ReloadError> {
        if !asked.to_me {
            return Err(ReloadError::Refused(Code::NOT_FOUND));
        }
        let neighbour = asked.neighbour.ok_or(ReloadError::Forbidden(
            "it must come over the link of the peer that signs it",
        ))?;
        let payload = asked.contents.payload;
        if method == Method::Update {
            crate::body::ChordUpdate::parse(payload)?;
            let update = Input::Update {
                from: neighbour,
                body: payload,
            };
            self.topology.handle(now, update);
            return Ok(Served::Reply(Vec::new()));
        }
        let membership = Membership::parse(payload)?;
        if membership.peer != neighbour {
            return Err(ReloadError::Forbidden("it is about somebody else"));
        }
        if method == Method::Join {
            self.topology.admit(now, neighbour)?;
        } else {
            self.topology.handle(now, Input::Left(&membership));
        }
        Ok(Served::Reply(Vec::new()))
    }

    /// Sends a change to the replicas; the answer waits for the first of them, or a second (R112).
    fn replicate(
        &mut self,
        now: Now,
        header: &Header,
        key: (u64, u64),
        method: Method,
        copy: &[u8],
        payload: Vec<u8>,
    ) -> Served {
        let replicas = self.topology.replicas();
        match self.copy_to_replicas(now, &replicas, method, copy, header, key, &payload) {
            true => Served::Later,
            false => Served::Reply(payload),
        }
    }
}
