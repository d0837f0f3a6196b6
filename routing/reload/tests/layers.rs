//! The layers, and what stands on the wire of each: a topology and a usage of somebody else's between two nodes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use anode_reload::body::{
    ConnectBody, DataValue, Fetch, FetchType, Reference, References, Role, StoreRequest, StoreType,
    TunnelRequest,
};
use anode_reload::node::{Answer, AnswerBody, RequestOptions};
use anode_reload::route_log::LogTransport;
use anode_reload::security::{
    Certificate, CredentialServer, Policy, SigningRequest, certificate_request,
};
use anode_reload::topology::{Action, Hop, Input};
use anode_reload::usage::sip::{self, SipRegistration};
use anode_reload::usage::{Kind, Kinds};
use anode_reload::{
    Chord, Credentials, DataModel, Event, Id, LinkId, LinkInfo, Node, NodeConfig, Now, ReloadError,
    Security, SharedKey, Signature, SignerIdentity, StoredData, Topology, TypeId, chord,
};
use anode_wire::PeerId;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::sync::Arc;
use std::time::Duration;

const OVERLAY: &str = "x.net";
const NOW: Now = Now {
    at: Duration::ZERO,
    unix: 1_700_000_000,
};
const LINK: LinkId = LinkId(1);

fn id(n: u8) -> Id {
    Id([n; 16])
}

/// A DHT of one: it keeps everything.
#[derive(Default)]
struct Hoard;

impl Topology for Hoard {
    fn name(&self) -> &'static str {
        "hoard"
    }
    fn handle(&mut self, _now: Now, _input: Input<'_>) {}
    fn deadline(&self) -> Option<Duration> {
        None
    }
    fn handle_timeout(&mut self, _now: Now) {}
    fn poll_action(&mut self) -> Option<Action> {
        None
    }
    fn next_hop(&self, _key: Id, _avoid: &[Id]) -> Hop {
        Hop::Here
    }
    fn range(&self) -> Option<(Id, Id)> {
        Some((Id::ZERO, Id::ZERO))
    }
    fn replicas(&self) -> Vec<Id> {
        Vec::new()
    }
    fn may_copy(&self, _peer: Id, _key: Id) -> bool {
        false
    }
    fn keeps(&self, _key: Id) -> bool {
        true
    }
    fn admit(&mut self, _now: Now, _joiner: Id) -> Result<(), ReloadError> {
        Err(ReloadError::Forbidden("nobody joins here"))
    }
    fn neighbours(&self) -> (Vec<Id>, Vec<Id>) {
        (Vec::new(), Vec::new())
    }
    fn fingers(&self) -> Vec<Id> {
        Vec::new()
    }
    fn is_joined(&self) -> bool {
        true
    }
}

/// A usage of somebody else's: one number at a place, by whomever.
fn weather(name: &str) -> Kind {
    Kind {
        id: TypeId(0xF0_1234),
        name: name.into(),
        model: DataModel::Single,
        max_value: 8,
        max_values: 1,
        max_lifetime: 3600,
        findable: true,
        permission: Arc::new(|_| Ok(())),
    }
}

fn kinds(name: &str) -> Kinds {
    let mut kinds = Kinds::standard();
    kinds.add(weather(name));
    kinds
}

/// `asker` sends all to `keeper`, who keeps all.
struct Pair {
    asker: Node,
    keeper: Node,
    /// Bytes from one to the other, and back.
    sent: Vec<Vec<u8>>,
}

impl Pair {
    fn new(asker: Box<dyn Security>, keeper: Box<dyn Security>, names: [&str; 2]) -> Self {
        let node = |security: Box<dyn Security>, topology: Box<dyn Topology>, name: &str| {
            let mut config = NodeConfig::new(OVERLAY);
            config.kinds = kinds(name);
            config.tunnels.insert(5060);
            let rng = Box::new(StdRng::seed_from_u64(1));
            Node::new(config, security, topology, rng)
        };
        let client = chord::Config {
            is_client: true,
            ..chord::Config::default()
        };
        let [own, other] = [asker.peer_id(), keeper.peer_id()];
        let mut pair = Self {
            asker: node(asker, Box::new(Chord::new(own, client, 1)), names[0]),
            keeper: node(keeper, Box::new(Hoard), names[1]),
            sent: Vec::new(),
        };
        let info = |peer| LinkInfo {
            peer,
            mtu: None,
            transport: LogTransport::Tls,
            group: 0,
        };
        pair.asker.link_up(NOW, LINK, info(other));
        pair.keeper.link_up(NOW, LINK, info(own));
        pair.asker.join(NOW, LINK).expect("there is a link");
        pair
    }

    fn shared(names: [&str; 2]) -> Self {
        let security = |n| Box::new(SharedKey::new(id(n)));
        Self::new(security(0x20), security(0x50), names)
    }

    fn run(&mut self) {
        loop {
            let before = self.sent.len();
            while let Some(transmit) = self.asker.poll_transmit() {
                self.keeper.handle(NOW, LINK, &transmit.bytes);
                self.sent.push(transmit.bytes);
            }
            while let Some(transmit) = self.keeper.poll_transmit() {
                self.asker.handle(NOW, LINK, &transmit.bytes);
                self.sent.push(transmit.bytes);
            }
            if self.sent.len() == before {
                return;
            }
        }
    }

    fn answer(&mut self) -> Result<Answer, ReloadError> {
        self.run();
        let mut events = std::iter::from_fn(|| self.asker.poll_event());
        events
            .find_map(|event| match event {
                Event::Answered { result, .. } => Some(result),
                _ => None,
            })
            .expect("an answer")
    }

    fn fetch(&mut self, request: &References) -> Vec<Vec<Vec<u8>>> {
        let options = RequestOptions::default();
        let asked = self.asker.ask(NOW, &Fetch(request), options);
        asked.expect("room");
        let AnswerBody::Values { found, .. } = self.answer().expect("values").body else {
            panic!("values");
        };
        let bytes = |values: Vec<StoredData>| {
            let all = values.into_iter().map(|it| it.value.bytes().to_vec());
            all.collect()
        };
        found.into_iter().map(|one| bytes(one.values)).collect()
    }
}

fn data(value: DataValue) -> StoredData {
    StoredData {
        storage_time: NOW.unix as u32,
        lifetime: 3600,
        value,
        signature: None,
    }
}

fn store(resource: Id, kind: TypeId, values: Vec<StoredData>) -> StoreRequest {
    StoreRequest {
        resource,
        types: vec![StoreType {
            kind,
            generation: 0,
            values,
        }],
    }
}

fn all_of(resource: Id, kind: TypeId, model: DataModel) -> References {
    References {
        resource,
        types: vec![FetchType {
            kind,
            generation: 0,
            reference: Reference::all(model),
        }],
    }
}

// R1, R3, R10, R11, R130: usage, storage, topology and links are four things; what a usage is called, the wire does not say
#[test]
fn a_usage_and_a_topology_of_somebody_elses_meet_at_two_interfaces() {
    let mut pair = Pair::shared(["weather", "another name for it"]);
    let kind = weather("").id;
    let request = store(id(7), kind, vec![data(DataValue::Single(vec![21]))]);
    pair.asker
        .ask(NOW, &request, RequestOptions::default())
        .unwrap();
    pair.answer().unwrap();
    assert_eq!(pair.keeper.storage().values(), 1);
    assert_eq!(pair.keeper.topology().name(), "hoard");
    let found = pair.fetch(&all_of(id(7), kind, DataModel::Single));
    assert_eq!(found, [[vec![21]]]);
    let names = |bytes: &Vec<u8>| bytes.windows(7).any(|it| it == b"weather");
    assert!(!pair.sent.iter().any(names));
}

// R24: whatever the overlay's parameters are, a message is the same
#[test]
fn no_message_tells_the_parameters_of_the_overlay() {
    let message = |config: chord::Config| {
        let rng = Box::new(StdRng::seed_from_u64(1));
        let security = Box::new(SharedKey::new(id(1)));
        let chord = Box::new(Chord::new(id(1), config, 1));
        let mut node = Node::new(NodeConfig::new(OVERLAY), security, chord, rng);
        let info = LinkInfo {
            peer: id(2),
            mtu: None,
            transport: LogTransport::Tls,
            group: 0,
        };
        node.link_up(NOW, LINK, info);
        let options = RequestOptions::default();
        node.ping(NOW, vec![id(2)], &[1, 2], options).unwrap();
        node.poll_transmit().expect("a PING").bytes
    };
    let other = chord::Config {
        update_every: Duration::from_secs(7),
        ping_every: Duration::from_secs(9),
        neighbours: Some(15),
        fingers: Some(120),
        shortcut: false,
        is_client: false,
    };
    assert_eq!(message(chord::Config::default()), message(other));
}

// RD69: what an application tunnels goes as it is
#[test]
fn a_tunnel_adds_no_secrecy_of_its_own() {
    let mut pair = Pair::shared(["a", "b"]);
    let tunnel = TunnelRequest {
        application: 5060,
        dialog: "a dialog".into(),
        pdu: b"OPTIONS sip:bob@x.net SIP/2.0".to_vec(),
    };
    let (to, options) = (pair.keeper.id(), RequestOptions::default());
    pair.asker
        .tunnel(NOW, vec![to], None, &tunnel, options)
        .unwrap();
    assert_eq!(pair.answer().unwrap().body, AnswerBody::Arrived);
    let arrived = std::iter::from_fn(|| pair.keeper.poll_event());
    let arrived = arrived.filter_map(|event| match event {
        Event::Tunnel { tunnel, .. } => Some(tunnel),
        _ => None,
    });
    assert_eq!(arrived.collect::<Vec<_>>(), std::slice::from_ref(&tunnel));
    let carries = |bytes: &Vec<u8>| bytes.windows(tunnel.pdu.len()).any(|it| it == tunnel.pdu);
    assert!(carries(&pair.sent[0]));
}

// R63, R134: what SIP tunnels names its instance by the GRUU; a long dialog is to have a connection
#[test]
fn sip_is_tunnelled_to_the_instance_that_its_gruu_names() {
    let mut pair = Pair::shared(["a", "b"]);
    let (through, to) = (id(0x33), pair.keeper.id());
    let tunnel = sip::tunnel(&[through, to], b"MESSAGE sip:bob@x.net SIP/2.0");
    assert_eq!(
        (tunnel.application, sip::destination(&tunnel).unwrap()),
        (5060, to)
    );
    let options = RequestOptions::default();
    pair.asker
        .tunnel(NOW, vec![to], None, &tunnel, options)
        .unwrap();
    assert_eq!(pair.answer().unwrap().body, AnswerBody::Arrived);
    let mut events = std::iter::from_fn(|| pair.keeper.poll_event());
    let arrived = events.find_map(|event| match event {
        Event::Tunnel { tunnel, .. } => Some(tunnel),
        _ => None,
    });
    assert_eq!(sip::destination(&arrived.unwrap()).unwrap(), to);
    for (application, dialog) in [
        (8737, tunnel.dialog.clone()),
        (5060, "no GRUU".into()),
        (5060, String::new()),
    ] {
        let wrong = TunnelRequest {
            application,
            dialog,
            pdu: Vec::new(),
        };
        assert!(sip::destination(&wrong).is_err());
    }
    assert!(sip::wants_connect(20) && !sip::wants_connect(1));
}

// R133, RD15: a CONNECT for SIP counts only when the last id of its route has signed the answer
#[test]
fn a_connect_for_sip_is_answered_by_the_instance_or_not_at_all() {
    for (last, good) in [(0x50, true), (0x77, false)] {
        let mut pair = Pair::shared(["a", "b"]);
        let body = ConnectBody {
            application: sip::APPLICATION,
            ..ConnectBody::sealed(Role::Passive)
        };
        let options = RequestOptions::default();
        pair.asker
            .connect(NOW, vec![id(last)], &body, options)
            .unwrap();
        pair.run();
        let mut events = std::iter::from_fn(|| pair.keeper.poll_event());
        let offer = events.find_map(|event| match event {
            Event::ConnectOffered { offer, body, .. } => Some((offer, body.application)),
            _ => None,
        });
        let (offer, application) = offer.expect("an offer");
        assert_eq!(application, 5060);
        let answer = ConnectBody {
            application,
            ..ConnectBody::sealed(Role::Active)
        };
        pair.keeper.answer_connect(NOW, offer, Some(&answer));
        match pair.answer() {
            Ok(Answer { body, .. }) => assert!(good && body == AnswerBody::Connect(answer)),
            Err(error) => assert!(!good, "{error}"),
        }
    }
}

fn issued(server: &CredentialServer, scalar: u8, names: &[&str]) -> Certificate {
    let request = certificate_request(&[scalar; 32], names).expect("a request");
    let request = SigningRequest::from_der(&request).expect("a request");
    let granted: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut rng = StdRng::seed_from_u64(scalar.into());
    let valid = (NOW.unix - 9, NOW.unix + 86_400);
    let issued = server.issue(&request, &granted, valid, &mut rng);
    issued.expect("a certificate")
}

// R80, R137: a value whose signer is not known is believed when his certificate comes in the same answer
#[test]
fn the_signers_certificate_is_asked_for_in_the_same_fetch() {
    let valid = (NOW.unix - 9, NOW.unix + 900_000);
    let server = CredentialServer::new(&[7; 32], OVERLAY, valid).unwrap();
    let policy = || Policy {
        overlay: OVERLAY.into(),
        roots: vec![server.root().clone()],
        ..Policy::default()
    };
    let member = |scalar: u8| -> Box<dyn Security> {
        let certificate = issued(&server, scalar, &[]);
        Box::new(Credentials::certified(&[scalar; 32], certificate, policy()).unwrap())
    };
    let alice = issued(&server, 9, &["alice@x.net"]);
    let (resource, kind) = (
        sip::resource("sip:alice@x.net").unwrap(),
        TypeId::SIP_REGISTRATION,
    );
    let peer = alice.peers()[0];
    let value = SipRegistration::Uri("sip:alice@y.net".into())
        .emit()
        .unwrap();
    let mut registered = data(DataValue::Dictionary {
        key: peer.0.to_vec(),
        value: value.clone(),
    });
    let signed_as = |identity: SignerIdentity, data: &StoredData, kind| {
        let owner = Credentials::self_made(&[9; 32], PeerId::ANY, policy()).unwrap();
        let input = data.signature_input(resource, kind, &identity).unwrap();
        let (algorithm, value) = owner.sign(&input);
        Some(Signature {
            algorithm,
            value,
            identity,
        })
    };
    // The keeper knows alice; whoever asks does not.
    let mut keeper = Credentials::certified(&[2; 32], issued(&server, 2, &[]), policy()).unwrap();
    keeper.learn(&alice, NOW).unwrap();
    let mut pair = Pair::new(member(1), Box::new(keeper), ["a", "b"]);
    registered.signature = signed_as(SignerIdentity::Peer(peer), &registered, kind);
    let mut shown = data(DataValue::Array {
        index: 0,
        value: alice.der().to_vec(),
    });
    shown.signature = signed_as(
        SignerIdentity::Certificate(alice.der().to_vec()),
        &shown,
        TypeId::CERTIFICATE,
    );
    let request = store(resource, kind, vec![registered]);
    pair.asker
        .ask(NOW, &request, RequestOptions::default())
        .unwrap();
    pair.answer().unwrap();
    let plain = all_of(resource, kind, DataModel::Dictionary);
    let with = plain.clone().with_certificates();
    assert_eq!(with.types.len(), 2);
    assert_eq!(with.clone().with_certificates(), with, "once");
    assert!(pair.fetch(&plain)[0].is_empty(), "nobody vouches for it");
    // A certificate that no root has signed changes nothing.
    let forger = CredentialServer::new(&[8; 32], OVERLAY, valid).unwrap();
    let forged = issued(&forger, 9, &["alice@x.net"]);
    for (certificate, expected) in [(forged, 0), (alice, 1)] {
        pair.asker.learn_certificate(NOW, certificate.der());
        assert_eq!(pair.fetch(&with)[0].len(), expected);
    }
}
