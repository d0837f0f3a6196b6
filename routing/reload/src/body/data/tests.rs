use super::*;
use crate::body::DataValue;
use crate::contents::{Code, Contents, Kind, Method, emit_contents};
use crate::vectors::{bytes, input};

fn model(kind: TypeId) -> Option<DataModel> {
    match kind {
        TypeId::SIP_REGISTRATION | TypeId::ANODE_RECORD => Some(DataModel::Dictionary),
        TypeId::TURN_SERVICE => Some(DataModel::Single),
        TypeId::CERTIFICATE => Some(DataModel::Array),
        _ => None,
    }
}

fn alice() -> Id {
    Id::of_seed(b"sip:alice@example.com")
}

fn stored(vector: &str, model: DataModel) -> StoredData {
    let bytes = bytes(vector);
    let mut reader = Reader::new(&bytes, "stored data");
    let stored = StoredData::read(&mut reader, model).unwrap();
    reader.end().unwrap();
    let mut out = Vec::new();
    stored.write(&mut out).unwrap();
    assert_eq!(out, bytes, "{vector}");
    assert_eq!(stored.wire_len(), bytes.len());
    for len in 0..bytes.len() {
        let cut = StoredData::read(&mut Reader::new(&bytes[..len], "s"), model);
        assert!(cut.is_err(), "{vector}: {len}");
    }
    stored
}

// R66, R70, R76, RD35, RD36, RD40
#[test]
fn stored_values_and_their_signature_inputs_are_those_of_the_vectors() {
    let single = stored("stored_data-single", DataModel::Single);
    let identity = single.signature.clone().unwrap().identity;
    assert_eq!(
        single
            .signature_input(alice(), TypeId::TURN_SERVICE, &identity)
            .unwrap(),
        input("stored_data-single", "signature_input")
    );
    let append = stored("stored_data-array-append", DataModel::Array);
    assert!(matches!(append.value, DataValue::Array { index: -1, .. }));
    assert_eq!(
        append
            .signature_input(alice(), TypeId::CERTIFICATE, &identity)
            .unwrap(),
        input("stored_data-array-append", "signature_input")
    );
    let record = stored("anode-record-stored_data", DataModel::Dictionary);
    assert_eq!(record.expires(), 1_700_000_000 + 3600);
}

// R64, R74
#[test]
fn store_is_that_of_the_vectors() {
    let vector = bytes("store-request-contents");
    let payload = Contents::parse(&vector).unwrap().payload;
    let store = StoreRequest::parse(payload, model).unwrap();
    assert_eq!(store.resource, alice());
    assert_eq!(store.types[0].kind, TypeId::TURN_SERVICE);
    assert_eq!(store.emit().unwrap(), payload);
    for len in 0..payload.len() {
        assert!(StoreRequest::parse(&payload[..len], model).is_err());
    }
    let answer = [Generation {
        kind: TypeId::TURN_SERVICE,
        generation: 1,
    }];
    let contents = emit_contents(Kind::Response(Code::OK), &Generation::emit_list(&answer));
    assert_eq!(contents, bytes("store-response-contents"));
    assert_eq!(
        Generation::parse_list(Contents::parse(&contents).unwrap().payload).unwrap(),
        answer
    );
}

// R65, R81, R84
#[test]
fn a_type_stands_once_in_a_request() {
    let one = StoreType {
        kind: TypeId::CERTIFICATE,
        generation: 0,
        values: vec![],
    };
    let twice = StoreRequest {
        resource: alice(),
        types: vec![one.clone(), one],
    };
    assert_eq!(
        StoreRequest::parse(&twice.emit().unwrap(), model),
        Err(ReloadError::DuplicateType(TypeId::CERTIFICATE))
    );
    let one = FetchType {
        kind: TypeId::TURN_SERVICE,
        generation: 0,
        reference: Reference::Single,
    };
    let twice = References {
        resource: alice(),
        types: vec![one.clone(), one],
    };
    assert_eq!(
        References::parse(&twice.emit().unwrap(), model),
        Err(ReloadError::DuplicateType(TypeId::TURN_SERVICE))
    );
    let twice = FindRequest {
        resource: alice(),
        kinds: vec![TypeId(5); 2],
    };
    assert_eq!(
        FindRequest::parse(&twice.emit().unwrap()),
        Err(ReloadError::DuplicateType(TypeId(5)))
    );
}

// R68, RD43
#[test]
fn an_unknown_type_refuses_the_whole_request() {
    let store = StoreRequest {
        resource: alice(),
        types: vec![StoreType {
            kind: TypeId(99),
            generation: 0,
            values: vec![],
        }],
    };
    let error = StoreRequest::parse(&store.emit().unwrap(), model).unwrap_err();
    assert_eq!(error, ReloadError::UnknownType(TypeId(99)));
    assert_eq!(error.code(), Code::UNKNOWN_TYPE);
}

// R77, R78, R79, RD43, RD44
#[test]
fn fetch_is_that_of_the_vectors() {
    let vector = bytes("fetch-request-contents");
    let payload = Contents::parse(&vector).unwrap().payload;
    let fetch = References::parse(payload, model).unwrap();
    assert_eq!(fetch.types.len(), 3);
    assert_eq!(fetch.types[0].reference, Reference::Single);
    assert_eq!(fetch.types[1].reference, Reference::Array(ArrayRange::ALL));
    assert_eq!(
        fetch.types[2].reference,
        Reference::Dictionary(vec![vec![0x11; 16]])
    );
    assert_eq!(
        emit_contents(Kind::Request(Method::Fetch as u16), &fetch.emit().unwrap()),
        vector
    );
    for len in 0..payload.len() {
        assert!(References::parse(&payload[..len], model).is_err());
    }

    let vector = bytes("fetch-response-contents");
    let payload = Contents::parse(&vector).unwrap().payload;
    let found = FetchResponse::parse_list(payload, model).unwrap();
    assert_eq!(found.len(), 3);
    assert_eq!(found[0].values.len(), 1);
    assert_eq!((found[1].generation, found[1].values.len()), (5, 0));
    let missing = StoredData::missing(DataValue::Dictionary {
        key: vec![0x11; 16],
        value: vec![],
    });
    assert_eq!(found[2].values, [missing]);
    assert_eq!(FetchResponse::emit_list(&found).unwrap(), payload);
}

// R77, RD42
#[test]
fn array_ranges_keep_their_order() {
    for (first, last, good) in [
        (0, -1, true),
        (-1, -1, true),
        (3, 3, true),
        (4, 3, false),
        (-1, 3, false),
        (-2, -1, false),
        (0, -2, false),
        (i32::MIN, i32::MAX, false),
    ] {
        assert_eq!(
            ArrayRange::new(first, last).is_ok(),
            good,
            "{first}..{last}"
        );
    }
    let places = |first, last, len| ArrayRange::new(first, last).unwrap().places(len);
    assert_eq!(places(0, -1, 3), Some(0..=2));
    assert_eq!(places(-1, -1, 3), Some(2..=2));
    assert_eq!(places(1, 100, 3), Some(1..=2));
    assert_eq!(places(3, 100, 3), None);
    assert_eq!(places(0, -1, 0), None);
}

// R84, R86, RD6, RD46
#[test]
fn find_is_that_of_the_vectors() {
    let vector = bytes("find-request-contents");
    let payload = Contents::parse(&vector).unwrap().payload;
    let find = FindRequest::parse(payload).unwrap();
    assert_eq!(find.resource, alice());
    assert_eq!(find.kinds, [TypeId::SIP_REGISTRATION, TypeId::TURN_SERVICE]);
    assert_eq!(find.emit().unwrap(), payload);
    let vector = bytes("find-response-contents");
    let payload = Contents::parse(&vector).unwrap().payload;
    let found = FindResult::parse_list(payload).unwrap();
    assert_eq!(found[0].closest, alice());
    assert_eq!(found[1].closest, Id::ZERO);
    assert_eq!(FindResult::emit_list(&found), payload);
    assert!(FindResult::parse_list(&payload[..18]).is_err());
}
