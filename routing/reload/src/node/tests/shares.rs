//! Shares of a node's time for STOREs, and whose values may be taken away (S35).
use super::reader::{credentials, said_by, signed_value};
use super::*;
use crate::body::{FetchType, Reference, References, Remove, ResourceRequest as _};
use crate::chord::Config;
use crate::security::Security;
use crate::usage::anode;
use anode_wire::PeerId;

const OPEN: TypeId = TypeId(0xF0_0010);

/// A ring of one, and its links: so many signers, of whom each has a link of this group.
struct Keeper {
    node: Node,
    transaction: u64,
}

impl Keeper {
    fn new() -> Self {
        let own = credentials(200);
        let chord = Chord::new(own.peer_id(), Config::default(), 1);
        let config = NodeConfig::new(OVERLAY);
        let rng = Box::new(StdRng::seed_from_u64(1));
        let mut node = Node::new(config, Box::new(own), Box::new(chord), rng);
        node.create(at(0));
        Self {
            node,
            transaction: 0,
        }
    }

    fn link(&mut self, signer: u8, group: u64) {
        let info = LinkInfo {
            peer: credentials(signer).peer_id(),
            mtu: None,
            transport: LogTransport::Sealed,
            group,
        };
        self.node.link_up(at(0), LinkId(signer.into()), info);
        drain(&mut self.node);
    }

    /// What is answered to a request of a signer, over his link.
    fn asked(&mut self, signer: u8, method: Method, resource: Id, payload: &[u8]) -> u16 {
        self.transaction += 1;
        let kind = crate::contents::Kind::Request(method as u16);
        let contents = emit_contents(kind, payload);
        let contents = said_by(&credentials(signer), self.transaction, contents);
        let header = Header::new(overlay_hash(OVERLAY), self.transaction, vec![resource]);
        let message = header.emit(&contents).unwrap();
        let [(_, code)] = answers(&mut self.node, signer.into(), &message)[..] else {
            panic!("one answer");
        };
        code
    }

    fn store(&mut self, signer: u8, place: u64) -> u16 {
        let resource = Id::of_seed(&place.to_be_bytes());
        let key = anode::key(credentials(signer).address(), PeerId::ANY);
        let value = DataValue::Dictionary {
            key,
            value: vec![1],
        };
        let request = StoreRequest {
            resource,
            types: vec![StoreType {
                kind: OPEN,
                generation: 0,
                values: vec![signed_value(signer, resource, OPEN, value, 600)],
            }],
        };
        let payload = request.body().unwrap();
        self.asked(signer, Method::Store, resource, &payload)
    }

    /// How many STOREs at once of each of these signers are answered with 200; the others are with 503.
    fn accepted(&mut self, signers: std::ops::Range<u8>, each: u64) -> usize {
        let mut accepted = 0;
        for signer in signers {
            for place in 0..each {
                match self.store(signer, place) {
                    200 => accepted += 1,
                    code => assert_eq!(code, 503),
                }
            }
        }
        accepted
    }
}

// R140, S35: a signer has 20 STOREs at once, the links of one network together 200, and the node takes 400
#[test]
fn signers_and_networks_have_their_shares() {
    let mut keeper = Keeper::new();
    keeper.link(1, 1);
    assert_eq!(keeper.accepted(1..2, 30), 20, "of one signer");
    let mut keeper = Keeper::new();
    for signer in 1..=12 {
        keeper.link(signer, 1);
    }
    assert_eq!(keeper.accepted(1..13, 20), 200, "of one network");
    assert_eq!(keeper.node.counters().rate_limited, 40);
    for signer in 13..=30 {
        keeper.link(signer, signer.into());
    }
    assert_eq!(keeper.accepted(13..31, 20), 200, "of everybody");
}

// R81, S35: nobody takes away what another has stored
#[test]
fn values_of_others_are_not_removed() {
    let mut keeper = Keeper::new();
    keeper.link(1, 1);
    keeper.link(2, 2);
    assert_eq!(keeper.store(1, 0), 200);
    let resource = Id::of_seed(&0u64.to_be_bytes());
    let request = References {
        resource,
        types: vec![FetchType {
            kind: OPEN,
            generation: 0,
            reference: Reference::all(crate::DataModel::Dictionary),
        }],
    };
    let payload = Remove(&request).body().unwrap();
    assert_eq!(keeper.asked(2, Method::Remove, resource, &payload), 403);
    assert_eq!(keeper.node.storage().values(), 1);
    assert_eq!(keeper.asked(1, Method::Remove, resource, &payload), 200);
    assert_eq!(keeper.node.storage().values(), 0);
}
