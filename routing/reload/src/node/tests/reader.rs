//! What a reader believes of what a storing peer gives it (S35): the peer may lie, and so may the values' owner.
use super::*;
use crate::body::{Fetch, FetchResponse, FetchType, Reference, References};
use crate::chord::Config;
use crate::security::{Credentials, Policy, Security};
use crate::storage::MAX_AHEAD;
use crate::usage::anode;
use anode_wire::{Address, PeerId, Zone};

const UNIX: u64 = 1_700_000_000;

/// The node asks for everything of a kind at a resource; what the peer on link 1 is asked with.
fn asks(node: &mut Node, resource: Id, kind: TypeId, reference: Reference) -> Header {
    let request = References {
        resource,
        types: vec![FetchType {
            kind,
            generation: 0,
            reference,
        }],
    };
    node.ask(at(0), &Fetch(&request), RequestOptions::default())
        .expect("room");
    let (sent, _) = drain(node);
    let fetch = |(_, _, contents): &Sent| {
        let kind = Contents::parse(contents).map(|it| it.kind);
        kind == Ok(Kind::Request(Method::Fetch as u16))
    };
    let (_, header, _) = sent.into_iter().find(fetch).expect("a FETCH");
    header
}

/// What it believes of an answer: values, and how many were refused.
fn believes(node: &mut Node, answer: &[u8]) -> (Vec<StoredData>, usize) {
    node.handle(at(10), LinkId(1), answer);
    let answered = drain(node).1.into_iter().find_map(|event| match event {
        Event::Answered { result, .. } => Some(result),
        _ => None,
    });
    match answered.expect("an answer").expect("a 200").body {
        AnswerBody::Values { found, refused } => (
            found.into_iter().flat_map(|one| one.values).collect(),
            refused,
        ),
        other => panic!("{other:?}"),
    }
}

fn list(kind: TypeId, values: Vec<StoredData>) -> Vec<u8> {
    let found = FetchResponse {
        kind,
        generation: 1,
        values,
    };
    FetchResponse::emit_list(&[found]).unwrap()
}

/// A value of 0x90's range, said at this time.
fn said(time: u64, lifetime: u32) -> StoredData {
    StoredData {
        storage_time: time as u32,
        lifetime,
        value: DataValue::Single(vec![1]),
        signature: None,
    }
}

/// How many of these values a reader refuses that it is given one after the other.
fn refused(values: &[StoredData]) -> Vec<usize> {
    let mut node = bench();
    let mut each = Vec::new();
    for data in values {
        let header = asks(&mut node, id(0x80), TypeId::TURN_SERVICE, Reference::Single);
        let payload = list(TypeId::TURN_SERVICE, vec![data.clone()]);
        let contents = signed(0x90, crate::contents::Kind::Response(Code::OK), &payload);
        let answer = Header::new(header.overlay, header.transaction, vec![id(0x50)]);
        let (kept, refused) = believes(&mut node, &answer.emit(&contents).unwrap());
        assert_eq!(kept.len() + refused, 1);
        each.push(refused);
    }
    each
}

// R141, RD39, S35: what is over, what is older than what was seen before, and what is of the future. The last would make all
// that its owner says until then look old
#[test]
fn values_out_of_their_time_are_not_believed() {
    let good = said(UNIX - 60, 600);
    assert_eq!(refused(&[good.clone(), good.clone()]), [0, 0]);
    assert_eq!(refused(&[said(UNIX - 601, 600)]), [1], "over");
    let (older, newer) = (said(UNIX - 61, 600), said(UNIX - 59, 600));
    assert_eq!(
        refused(&[good.clone(), older.clone()]),
        [0, 1],
        "back in time"
    );
    assert_eq!(refused(&[older, good.clone(), newer]), [0, 0, 0]);
    let ahead = said(UNIX + MAX_AHEAD, 600);
    assert_eq!(refused(&[ahead]), [0], "clocks differ");
    let future = said(UNIX + MAX_AHEAD + 1, 600);
    assert_eq!(refused(&[future, good]), [1, 0]);
}

fn key(n: u8) -> [u8; 32] {
    let mut scalar = [7; 32];
    scalar[31] = n;
    scalar
}

/// Of somebody with an Anode address.
pub(super) fn credentials(n: u8) -> Credentials {
    let policy = Policy {
        overlay: OVERLAY.into(),
        self_signed: true,
        zone: Zone(9),
        ..Policy::default()
    };
    Credentials::self_made(&key(n), PeerId::ANY, policy).unwrap()
}

/// A value for this place, signed by its owner, or by whoever says to be.
pub(super) fn signed_value(
    by: u8,
    resource: Id,
    kind: TypeId,
    value: DataValue,
    lifetime: u32,
) -> StoredData {
    let mut data = StoredData {
        storage_time: UNIX as u32 - 60,
        lifetime,
        value,
        signature: None,
    };
    let signer = credentials(by);
    let identity = SignerIdentity::Anode(*signer.address());
    let input = data.signature_input(resource, kind, &identity);
    let (algorithm, value) = signer.sign(&input.unwrap());
    data.signature = Some(Signature {
        algorithm,
        value,
        identity,
    });
    data
}

/// Contents with a signature.
pub(super) fn said_by(by: &Credentials, transaction: u64, contents: Vec<u8>) -> Vec<u8> {
    let overlay = overlay_hash(OVERLAY);
    let identity = by.identity(true);
    let input = crate::signature::message_input(overlay, transaction, &identity, &contents);
    let (algorithm, value) = by.sign(&input.unwrap());
    let signature = Signature {
        algorithm,
        value,
        identity,
    };
    signature.append(contents).unwrap()
}

/// A record in the name of `of`, for this place, signed by `by`.
fn record(of: &Address, by: u8, resource: Id, value: Vec<u8>) -> StoredData {
    let value = DataValue::Dictionary {
        key: anode::key(of, PeerId::ANY),
        value,
    };
    signed_value(by, resource, TypeId::ANODE_RECORD, value, anode::LIFETIME)
}

// R76, R139, R142, S35: whoever stores can leave a value out, and no more: not change it, nor sign for its owner, nor bring it
// from another place, nor another kind
#[test]
fn records_of_others_than_their_owner_are_not_believed() {
    let (reader, storer) = (credentials(1), credentials(2));
    let storer_id = storer.peer_id();
    let mut node = Node::new(
        NodeConfig::new(OVERLAY),
        Box::new(credentials(1)),
        Box::new(Chord::new(reader.peer_id(), Config::default(), 1)),
        Box::new(StdRng::seed_from_u64(1)),
    );
    node.create(at(0));
    let info = LinkInfo {
        peer: storer_id,
        mtu: None,
        transport: LogTransport::Sealed,
        group: 0,
    };
    node.link_up(at(0), LinkId(1), info);
    drain(&mut node);
    let owner = *credentials(3).address();
    let [first, second] = anode::resources(owner.ipv6(PeerId::ANY));
    let tombstone = vec![1, 0x80];
    let good = record(&owner, 3, first, tombstone.clone());
    let mut changed = good.clone();
    changed.lifetime -= 1;
    let mut moved = good.clone();
    moved.value = DataValue::Dictionary {
        key: anode::key(&owner, PeerId::new(1).unwrap()),
        value: tombstone.clone(),
    };
    let mut unsigned = good.clone();
    unsigned.signature = None;
    let mut renamed = record(&owner, 2, first, tombstone.clone());
    if let Some(signature) = &mut renamed.signature {
        signature.identity = SignerIdentity::Anode(owner);
    }
    let elsewhere = Id::of_seed(b"elsewhere");
    let cases = [
        ("its owner's", first, good.clone(), true),
        ("changed", first, changed, false),
        ("under another key", first, moved, false),
        ("not signed", first, unsigned, false),
        (
            "of the storing peer",
            first,
            record(&owner, 2, first, tombstone.clone()),
            false,
        ),
        ("in the owner's name", first, renamed, false),
        ("of the other place", second, good, false),
        (
            "good, where it does not belong",
            elsewhere,
            record(&owner, 3, elsewhere, tombstone),
            false,
        ),
        (
            "no record",
            first,
            record(&owner, 3, first, vec![9; 9]),
            false,
        ),
    ];
    for (what, resource, data, expected) in cases {
        let all = Reference::all(crate::DataModel::Dictionary);
        // The place is the storing peer's own, by a route that ends there (R142).
        let request = References {
            resource,
            types: vec![FetchType {
                kind: TypeId::ANODE_RECORD,
                generation: 0,
                reference: all,
            }],
        };
        let payload = crate::body::ResourceRequest::body(&Fetch(&request));
        let sent = node.request(
            at(0),
            crate::node::transact::For::User,
            Method::Fetch,
            vec![storer_id],
            &payload.unwrap(),
            None,
            None,
            RequestOptions::default(),
        );
        let RequestId(transaction) = sent.unwrap();
        drain(&mut node);
        let contents = emit_contents(
            Kind::Response(Code::OK),
            &list(TypeId::ANODE_RECORD, vec![data]),
        );
        let contents = said_by(&storer, transaction, contents);
        let header = Header::new(overlay_hash(OVERLAY), transaction, vec![reader.peer_id()]);
        let (kept, refused) = believes(&mut node, &header.emit(&contents).unwrap());
        assert_eq!(
            (kept.len(), refused),
            (usize::from(expected), usize::from(!expected)),
            "{what}"
        );
    }
}
