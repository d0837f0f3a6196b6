//! The fuzz targets of `tests/fuzz` without libFuzzer: the committed corpus is replayed, and mutated from a fixed seed.

#[path = "../../../tests/fuzz/src/reload.rs"]
mod reload;
#[path = "../../../tests/fuzz/src/replay.rs"]
#[allow(clippy::unwrap_used, reason = "a panic is the report")]
mod replay;

use anode_reload::body::{
    ChordUpdate, ConnectBody, FetchType, FindRequest, Membership, PingRequest, Reference,
    References, Role, StoreRequest, StoreType, TunnelRequest,
};
use anode_reload::contents::{Kind, emit_contents};
use anode_reload::{DataValue, Header, Id, Method, Signature, StoredData, TypeId, overlay_hash};
use proptest::prelude::*;
use reload::{OVERLAY, PLACES, UNIX};
use replay::{Corpus, MUTATIONS, Target};

/// Of the target that makes a node each time.
const NODE_MUTATIONS: usize = 4_000;

fn targets() -> Vec<Target> {
    replay::targets("reload", reload::TARGETS, |name| match name {
        "node" => NODE_MUTATIONS,
        _ => MUTATIONS,
    })
}

fn seeds(target: &str) -> Corpus {
    match target {
        "reload_parsers" => vectors(),
        "reload_document" => documents(),
        "reload_node" => talks(),
        unknown => panic!("no seeds for {unknown}"),
    }
}

/// Every vector, and the bodies of these without what stands before them.
fn vectors() -> Corpus {
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("vectors/reload-vectors.json")).expect("JSON");
    // Some vectors are text.
    let unhex = |text: &str| -> Option<Vec<u8>> {
        let pairs = (0..text.len()).step_by(2);
        pairs
            .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
            .collect()
    };
    let mut all = Corpus::new();
    for vector in vectors["vectors"].as_array().expect("a list") {
        let bytes = vector["hex"].as_str().and_then(unhex);
        let (Some(name), Some(bytes)) = (vector["name"].as_str(), bytes) else {
            continue;
        };
        let name = name.replace(':', "-");
        if bytes.len() > 8 {
            all.insert(format!("{name}-body"), bytes[8..].to_vec());
        }
        all.insert(name, bytes);
    }
    assert!(all.len() > 60, "{}", all.len());
    all
}

fn documents() -> Corpus {
    let texts = [
        (
            "overlay",
            "<?xml version=\"1.0\"?><overlay name=\"x.net\" expiration=\"86400\"><dht name=\"chord-128-2-8\"/>\
             <bootstrap-peer address=\"192.0.2.1\" port=\"6084\"/><self-signed-permitted digest=\"sha256\">true\
             </self-signed-permitted><turn-density>20</turn-density></overlay>",
        ),
        (
            "overlays",
            "<overlays><overlay name=\"a.net\"><migration overlay=\"b.net\" stage=\"1\"/></overlay>\
             <overlay name=\"b.net\"><multicast-bootstrap address=\"239.255.0.1\" port=\"6085\"/></overlay></overlays>",
        ),
        (
            "entities",
            "<!DOCTYPE x [<!ENTITY a \"aaaa\">]><overlay name=\"&a;\"/>",
        ),
        ("sip", "sip:alice@example.com"),
        ("gruu", "AQEBAQEBAQEBAQEBAQEBAQ~~"),
    ];
    let texts = texts.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()));
    texts.into()
}

/// A request as the peer at the other end of a link sends it, behind that link and the time.
fn said(link: u8, method: Method, to: Id, payload: &[u8], transaction: u64) -> Vec<u8> {
    let contents = emit_contents(Kind::Request(method as u16), payload);
    let by = PLACES[usize::from(1 + link % 2)];
    let contents = Signature::unsigned(by).append(contents).expect("short");
    let header = Header::new(overlay_hash(OVERLAY), transaction, vec![to]);
    let message = header.emit(&contents).expect("short");
    let length = (message.len() as u16).to_be_bytes();
    [&[link, 3, length[0], length[1]][..], &message].concat()
}

fn talks() -> Corpus {
    let [own, neighbour, other] = PLACES;
    let near = Id::from_number(own.number() - 9);
    let ping = PingRequest { infos: vec![1, 2] }.emit().expect("short");
    let update = ChordUpdate {
        predecessors: vec![other; 3],
        successors: vec![own, Id([0x70; 16])],
    };
    let update = update.emit().expect("short");
    let member = |peer| {
        let data = Vec::new();
        Membership { peer, data }.emit()
    };
    let store = |number: u8| {
        let data = StoredData {
            storage_time: UNIX as u32 + u32::from(number),
            lifetime: 600,
            value: DataValue::Single(vec![number; 9]),
            signature: None,
        };
        let request = StoreRequest {
            resource: near,
            types: vec![StoreType {
                kind: TypeId::TURN_SERVICE,
                generation: 0,
                values: vec![data],
            }],
        };
        request.emit().expect("short")
    };
    let fetch = References {
        resource: near,
        types: vec![FetchType {
            kind: TypeId::TURN_SERVICE,
            generation: 0,
            reference: Reference::Single,
        }],
    };
    let fetch = fetch.emit().expect("short");
    let find = FindRequest {
        resource: near,
        kinds: vec![TypeId::TURN_SERVICE],
    };
    let find = find.emit().expect("short");
    let tunnel = TunnelRequest {
        application: 5060,
        dialog: "d".into(),
        pdu: vec![7; 30],
    };
    let tunnel = tunnel.emit().expect("short");
    let connect = ConnectBody::sealed(Role::Passive).emit().expect("short");
    let update = said(0, Method::Update, own, &update, 1);
    let talks = [
        (
            "pings",
            vec![
                said(0, Method::Ping, own, &ping, 2),
                said(1, Method::Ping, neighbour, &ping, 3),
            ],
        ),
        (
            "ring",
            vec![
                update.clone(),
                said(1, Method::Join, own, &member(other), 4),
                said(0, Method::Leave, own, &member(neighbour), 5),
            ],
        ),
        (
            "values",
            vec![
                update.clone(),
                said(1, Method::Store, near, &store(1), 6),
                said(1, Method::Store, near, &store(9), 7),
                said(1, Method::Fetch, near, &fetch, 8),
                said(1, Method::Find, near, &find, 9),
                said(1, Method::Remove, near, &fetch, 10),
            ],
        ),
        (
            "copies",
            vec![update, said(0, Method::Store, own, &store(2), 11)],
        ),
        (
            "connections",
            vec![
                said(0, Method::Connect, own, &connect, 12),
                said(1, Method::Tunnel, own, &tunnel, 13),
            ],
        ),
    ];
    let talks = talks.map(|(name, talk)| (name.to_owned(), talk.concat()));
    talks.into()
}

// RD74, S35
replay::tests!();

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    // RD74, S35
    #[test]
    fn every_target_survives_noise(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        for (_, body) in reload::TARGETS {
            body(&bytes);
        }
    }
}
