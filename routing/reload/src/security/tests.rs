use super::*;
use crate::contents::Contents;
use crate::header::Header;
use crate::signature::{ALGORITHM_RSA_SHA1, message_input};
use crate::vectors::{SCALAR, address, bytes, hex, input};
use crate::{DataModel, TypeId};
use anode_wire::{PeerId, Zone};
use rand::SeedableRng;

const OVERLAY: &str = "a--00000001.net";
const YEAR: (u64, u64) = (1_700_000_000, 1_731_000_000);

fn scalar() -> [u8; 32] {
    hex(SCALAR).try_into().unwrap()
}

fn now() -> Now {
    Now {
        at: std::time::Duration::ZERO,
        unix: 1_700_000_100,
    }
}

fn policy() -> Policy {
    Policy {
        overlay: OVERLAY.into(),
        roots: Vec::new(),
        self_signed: true,
        zone: Zone(1),
    }
}

fn credentials() -> Credentials {
    Credentials::self_made(&scalar(), PeerId::ANY, policy()).unwrap()
}

fn server() -> CredentialServer {
    CredentialServer::new(&[7; 32], OVERLAY, YEAR).unwrap()
}

fn certified(server: &CredentialServer, names: &[&str]) -> Certificate {
    let request = certificate_request(&scalar(), names).unwrap();
    let request = SigningRequest::from_der(&request).unwrap();
    let granted: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut rng = rand::rngs::StdRng::seed_from_u64(3);
    server.issue(&request, &granted, YEAR, &mut rng).unwrap()
}

// R45, R47, R48, RD22, RD24
#[test]
fn the_signed_ping_is_that_of_the_vectors() {
    let message = bytes("ping-request-signed");
    let (header, contents) = Header::parse(&message).unwrap();
    let parsed = Contents::parse(contents).unwrap();
    let signature = parsed.signature.clone().unwrap();
    let signed = message_input(
        header.overlay,
        header.transaction,
        &signature.identity,
        parsed.signed,
    )
    .unwrap();
    assert_eq!(signed, input("ping-request-signed", "signature_input"));
    let credentials = credentials();
    // RD62: the peer-id of the vectors' key
    assert_eq!(
        SignerIdentity::Peer(credentials.peer_id()),
        signature.identity
    );
    assert_eq!(
        credentials.sign(&signed),
        (signature.algorithm, signature.value)
    );
}

// R76, RD36
#[test]
fn the_signatures_of_stored_values_are_those_of_the_vectors() {
    let alice = crate::Id::of_seed(b"sip:alice@example.com");
    let record: [u8; 16] = bytes("anode-record-resource-id").try_into().unwrap();
    let cases = [
        ("stored_data-single", DataModel::Single, TypeId(2), alice),
        (
            "stored_data-array-append",
            DataModel::Array,
            TypeId(3),
            alice,
        ),
        (
            "anode-record-stored_data",
            DataModel::Dictionary,
            TypeId::ANODE_RECORD,
            Id(record),
        ),
    ];
    for (vector, model, kind, resource) in cases {
        let bytes = bytes(vector);
        let mut reader = crate::codec::Reader::new(&bytes, "stored");
        let stored = crate::StoredData::read(&mut reader, model).unwrap();
        let signature = stored.signature.clone().unwrap();
        let signed = stored
            .signature_input(resource, kind, &signature.identity)
            .unwrap();
        assert_eq!(signed, input(vector, "signature_input"), "{vector}");
        assert_eq!(credentials().sign(&signed).1, signature.value, "{vector}");
    }
}

// RD23: identity 0x81 needs no certificate
#[test]
fn an_anode_address_verifies_by_itself() {
    let credentials = credentials();
    let signature = credentials.sign_as_address(b"hello");
    let mut reader = Credentials::self_made(&[9; 32], PeerId::ANY, policy()).unwrap();
    let signer = reader
        .verify(&signature, b"hello", Purpose::Message, now())
        .unwrap();
    assert!(signer.is_peer(credentials.peer_id()));
    assert_eq!(signer.address, Some(address()));
    assert!(!signer.is_peer(reader.peer_id()));
    // RD62: of a message, just the peer that signs; of a value, all sixteen peers of the address
    let nine = PeerId::new(9).unwrap();
    let peer = Id::of_address(&address(), nine);
    assert!(!signer.is_peer(peer));
    let signer = reader
        .verify(&signature, b"hello", Purpose::Data, now())
        .unwrap();
    assert!(signer.is_peer(peer) && signer.peers().len() == 16);
    let of_nine = Signature {
        identity: SignerIdentity::of_peer(address(), nine),
        ..signature.clone()
    };
    let signer = reader
        .verify(&of_nine, b"hello", Purpose::Message, now())
        .unwrap();
    assert_eq!(signer.peers(), [peer]);
    assert!(
        reader
            .verify(&signature, b"hellp", Purpose::Message, now())
            .is_err()
    );
}

// R12, RD22: no signature, SHA-1, wrong lengths, all zeros, another zone
#[test]
fn other_signatures_are_refused() {
    let good = credentials().sign_as_address(b"x");
    let mut reader = credentials();
    let cases = [
        Signature {
            algorithm: ALGORITHM_NONE,
            ..good.clone()
        },
        Signature {
            algorithm: ALGORITHM_RSA_SHA1,
            ..good.clone()
        },
        Signature {
            value: good.value[..63].to_vec(),
            ..good.clone()
        },
        Signature {
            value: vec![0; 64],
            ..good.clone()
        },
        Signature {
            identity: SignerIdentity::Peer(credentials().peer_id()),
            ..good.clone()
        },
        Signature {
            identity: SignerIdentity::Name("nobody".into()),
            ..good.clone()
        },
        Signature {
            identity: SignerIdentity::Certificate(vec![1, 2, 3]),
            ..good.clone()
        },
    ];
    for case in cases {
        assert!(
            reader.verify(&case, b"x", Purpose::Message, now()).is_err(),
            "{case:?}"
        );
    }
    let elsewhere = Policy {
        zone: Zone(2),
        ..policy()
    };
    let mut elsewhere = Credentials::self_made(&scalar(), PeerId::ANY, elsewhere).unwrap();
    assert!(
        elsewhere
            .verify(&good, b"x", Purpose::Message, now())
            .is_err()
    );
}

// R126, R127, R138, RD27, RD59: request, certificate, chain, then by peer-id alone
#[test]
fn a_certificate_is_asked_for_issued_and_believed() {
    let server = server();
    let certificate = certified(&server, &["alice@example.com"]);
    assert_eq!(certificate.names(), ["alice@example.com"]);
    assert_eq!(certificate.peers().len(), 1);
    assert!(certificate.is_issued_by(server.root()));
    assert!(certificate.der().len() < 1024, "R137: fits the 1 K");
    let policy = Policy {
        roots: vec![server.root().clone()],
        self_signed: false,
        ..policy()
    };
    let alice = Credentials::certified(&scalar(), certificate, policy.clone()).unwrap();
    let mut bob = Credentials::self_made(&[9; 32], PeerId::ANY, policy).unwrap();
    let sign = |full| Signature {
        algorithm: alice.sign(b"x").0,
        value: alice.sign(b"x").1,
        identity: alice.identity(full),
    };
    assert!(
        bob.verify(&sign(false), b"x", Purpose::Message, now())
            .is_err()
    );
    let signer = bob
        .verify(&sign(true), b"x", Purpose::Message, now())
        .unwrap();
    assert!(signer.is_peer(alice.peer_id()));
    assert_eq!(signer.names, ["alice@example.com"]);
    assert!(
        bob.verify(&sign(false), b"x", Purpose::Message, now())
            .is_ok()
    );
    // outside its time
    let late = Now {
        unix: YEAR.1 + 1,
        ..now()
    };
    assert!(
        bob.verify(&sign(true), b"x", Purpose::Message, late)
            .is_err()
    );
    // RD23: in an overlay with certificates an address signs its records and nothing else
    let by_address = alice.sign_as_address(b"x");
    assert!(
        bob.verify(&by_address, b"x", Purpose::Message, now())
            .is_err()
    );
    assert!(bob.verify(&by_address, b"x", Purpose::Data, now()).is_ok());
}

// R143: the server chooses the peer-id, and grants only what it is told to
#[test]
fn peer_ids_are_random_and_names_must_be_granted() {
    let server = server();
    let request = certificate_request(&scalar(), &["bob@example.com"]).unwrap();
    let request = SigningRequest::from_der(&request).unwrap();
    let mut rng = rand::rngs::StdRng::seed_from_u64(1);
    let granted = ["bob@example.com".to_owned()];
    let one = server.issue(&request, &granted, YEAR, &mut rng).unwrap();
    let two = server.issue(&request, &granted, YEAR, &mut rng).unwrap();
    assert_ne!(one.peers(), two.peers());
    assert!(server.issue(&request, &[], YEAR, &mut rng).is_err());
}

// R126: somebody else's root, another overlay, a broken signature
#[test]
fn certificates_of_others_are_not_believed() {
    let ours = server();
    let theirs = CredentialServer::new(&[8; 32], OVERLAY, YEAR).unwrap();
    let elsewhere = CredentialServer::new(&[7; 32], "example.com", YEAR).unwrap();
    let strict = Policy {
        roots: vec![ours.root().clone()],
        self_signed: false,
        ..policy()
    };
    let mut reader = Credentials::self_made(&[9; 32], PeerId::ANY, strict).unwrap();
    assert!(reader.learn(&certified(&ours, &[]), now()).is_ok());
    assert!(reader.learn(&certified(&theirs, &[]), now()).is_err());
    assert!(reader.learn(&certified(&elsewhere, &[]), now()).is_err());
    let self_made = self_signed(&scalar(), OVERLAY, 0, [1; 16], YEAR).unwrap();
    assert!(reader.learn(&self_made, now()).is_err());
    let mut flipped = certified(&ours, &[]).der().to_vec();
    let last = flipped.len() - 1;
    flipped[last] ^= 1;
    if let Ok(flipped) = Certificate::from_der(&flipped) {
        assert!(reader.learn(&flipped, now()).is_err());
    }
}

// RD62: the peer digit has its own peer-id, and a self-made id must be the hash of the key
#[test]
fn self_signed_certificates_hold_the_hash_of_their_key() {
    for digit in [0, 1, 15] {
        let certificate = self_signed(&scalar(), OVERLAY, digit, [1; 16], YEAR).unwrap();
        assert!(certificate.is_self_made());
        let digit = PeerId::new(digit).unwrap();
        assert_eq!(certificate.peers(), [Id::of_address(&address(), digit)]);
    }
    // issued certificates hold random ids: never self-made
    assert!(!certified(&server(), &[]).is_self_made());
    assert!(!server().root().is_self_made());
}

// R126: the proof of possession
#[test]
fn requests_that_are_cut_or_changed_are_refused() {
    let request = certificate_request(&scalar(), &["alice@example.com"]).unwrap();
    assert!(SigningRequest::from_der(&request).is_ok());
    for len in 0..request.len() {
        assert!(SigningRequest::from_der(&request[..len]).is_err());
    }
    for at in 0..request.len() {
        let mut changed = request.clone();
        changed[at] ^= 0x10;
        assert!(SigningRequest::from_der(&changed).is_err(), "byte {at}");
    }
    let certificate = certified(&server(), &[]);
    for len in 0..certificate.der().len() {
        assert!(Certificate::from_der(&certificate.der()[..len]).is_err());
    }
}

// R13, RD29, RD61
#[test]
fn a_shared_key_overlay_names_senders_only() {
    let id = Id([5; 16]);
    let mut security = SharedKey::new(id);
    let (algorithm, value) = security.sign(b"x");
    let own = Signature {
        algorithm,
        value,
        identity: security.identity(true),
    };
    assert_eq!(own, Signature::unsigned(id));
    let signer = security
        .verify(&own, b"x", Purpose::Message, now())
        .unwrap();
    assert!(signer.is_peer(id));
    for wrong in [Id::ZERO, Id::WILDCARD] {
        let wrong = Signature::unsigned(wrong);
        assert!(
            security
                .verify(&wrong, b"x", Purpose::Message, now())
                .is_err()
        );
    }
    assert!(!security.protects_data());
}
