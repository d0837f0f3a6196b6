//! Every parser under noise, cuts and changes of real bytes: no panic, and what is read is written the same again.

use anode_reload::body::{
    ChordUpdate, ConnectBody, FetchResponse, FindRequest, FindResult, Generation, Membership,
    Packed, PingRequest, PingResponse, References, StoreRequest, TunnelRequest,
};
use anode_reload::contents::{Contents, ErrorBody};
use anode_reload::header::framed_len;
use anode_reload::security::{Certificate, SigningRequest};
use anode_reload::usage::Kinds;
use anode_reload::usage::anode::{AnodeRecord, parse_key};
use anode_reload::usage::sip::{SipRegistration, gruu, parse_gruu, resource};
use anode_reload::usage::turn::TurnServer;
use anode_reload::{Header, config};
use proptest::prelude::*;

fn samples() -> Vec<Vec<u8>> {
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("vectors/reload-vectors.json")).expect("good bytes");
    let hex = |text: &str| -> Option<Vec<u8>> {
        let pairs = (0..text.len()).step_by(2);
        pairs
            .map(|i| u8::from_str_radix(text.get(i..i + 2)?, 16).ok())
            .collect()
    };
    let mut all: Vec<Vec<u8>> = vectors["vectors"]
        .as_array()
        .expect("good bytes")
        .iter()
        .filter_map(|vector| hex(vector["hex"].as_str()?))
        .collect();
    // bodies without their headers, too
    let bodies: Vec<Vec<u8>> = all
        .iter()
        .filter(|it| it.len() > 8)
        .map(|it| it[8..].to_vec())
        .collect();
    all.extend(bodies);
    assert!(all.len() > 60);
    all
}

fn every_parser(bytes: &[u8]) {
    let kinds = Kinds::standard();
    let model = |kind| kinds.model(kind);
    let _ = framed_len(bytes, 65_535);
    if let Ok((header, contents)) = Header::parse(bytes)
        && header.log.is_none()
    {
        let again = header.emit(contents).expect("good bytes");
        assert_eq!(Header::parse(&again).expect("good bytes").0, header);
    }
    let _ = Contents::parse(bytes);
    macro_rules! round_trip {
        ($($parse:expr => $emit:expr;)*) => {
            $(if let Ok(body) = $parse {
                assert_eq!($emit(&body), bytes, "{}", stringify!($parse));
            })*
        };
    }
    round_trip! {
        ErrorBody::parse(bytes) => |it: &ErrorBody| it.emit().expect("good bytes");
        PingRequest::parse(bytes) => |it: &PingRequest| it.emit().expect("good bytes");
        TunnelRequest::parse(bytes) => |it: &TunnelRequest| it.emit().expect("good bytes");
        ConnectBody::parse(bytes) => |it: &ConnectBody| it.emit().expect("good bytes");
        Membership::parse(bytes) => Membership::emit;
        ChordUpdate::parse(bytes) => |it: &ChordUpdate| it.emit().expect("good bytes");
        StoreRequest::parse(bytes, model) => |it: &StoreRequest| it.emit().expect("good bytes");
        References::parse(bytes, model) => |it: &References| it.emit().expect("good bytes");
        FindRequest::parse(bytes) => |it: &FindRequest| it.emit().expect("good bytes");
        FindResult::parse_list(bytes) => |it: &Vec<FindResult>| FindResult::emit_list(it);
        Generation::parse_list(bytes) => |it: &Vec<Generation>| Generation::emit_list(it);
        FetchResponse::parse_list(bytes, model) => |it: &Vec<FetchResponse>| FetchResponse::emit_list(it).expect("good bytes");
        TurnServer::parse(bytes) => TurnServer::emit;
        SipRegistration::parse(bytes) => |it: &SipRegistration| it.emit().expect("good bytes");
    }
    let _ = PingResponse::parse(bytes);
    let _ = AnodeRecord::parse(bytes);
    let _ = parse_key(bytes);
    let _ = Certificate::from_der(bytes);
    let _ = SigningRequest::from_der(bytes);
    let text = String::from_utf8_lossy(bytes);
    let _ = config::parse(&text);
    let _ = config::discovery(&text);
    let _ = resource(&text);
    if let Ok(route) = parse_gruu(&text) {
        assert_eq!(gruu(&route), text);
    }
}

// RD74
#[test]
fn every_cut_of_every_vector() {
    for sample in samples() {
        for len in 0..=sample.len() {
            every_parser(&sample[..len]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    // RD74, S35
    #[test]
    fn noise(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        every_parser(&bytes);
    }

    // RD74, S35
    #[test]
    fn changed_vectors(which in any::<prop::sample::Index>(), changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let samples = samples();
        let mut bytes = samples[which.index(samples.len())].clone();
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        every_parser(&bytes);
    }
}
