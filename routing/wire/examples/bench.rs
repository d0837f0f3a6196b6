//! Time per operation, each beside the primitive that it cannot beat:
//! `cargo run --release -p anode-wire --example bench`
use aes::Aes256Enc;
use aes::cipher::{BlockCipherEncrypt, KeyInit};
use anode_wire::message::{Links, StreamMessage};
use anode_wire::{Address, Header, Identity, Message, Packet, Party, PeerId, WireError, Zone};
use std::hint::black_box;
use std::time::{Duration, Instant};

fn main() -> Result<(), WireError> {
    let (alice, bob) = (
        Identity::from_scalar(Zone(1), &[7; 32])?,
        Identity::from_scalar(Zone(1), &[8; 32])?,
    );
    let (address, text) = (*bob.address(), bob.address().to_string());
    let key = alice.agree(&address);

    println!(
        "{:<44}{:>12}   {:<40}{:>12}",
        "operation", "time", "primitive", "time"
    );
    compare(
        "address from 64 characters",
        || text.parse::<Address>().is_ok(),
        "point decompression",
        || p256::PublicKey::from_sec1_bytes(address.public_key_bytes()).is_ok(),
    );
    compare(
        "short id of an address",
        || address.id(),
        "three AES-256 key schedules and blocks",
        || {
            [1, 2, 3].map(|byte| {
                aes_chain(
                    &Aes256Enc::new(&[byte; 32].into()),
                    1,
                    &mut aes::Block::default(),
                )
            })
        },
    );
    compare(
        "synthetic IPv6 of an address",
        || address.ipv6(PeerId::ANY),
        "SHA-256 of one block",
        || <sha2::Sha256 as sha2::Digest>::digest(address.as_bytes()),
    );
    let secret = p256::SecretKey::from_slice(&[7; 32]).map_err(|_| WireError::IdentityScalar)?;
    let point = p256::PublicKey::from_sec1_bytes(address.public_key_bytes())
        .map_err(|_| WireError::NotOnCurve)?;
    compare(
        "key agreement",
        || alice.agree(&address),
        "P-256 scalar multiplication",
        || p256::ecdh::diffie_hellman(secret.to_nonzero_scalar(), point.as_affine()),
    );

    let cipher = Aes256Enc::new(&[9; 32].into());
    let mut state = aes::Block::default();
    let header = Header {
        hop_count: 0,
        flags: 0,
        sender: Party::Id(alice.address().id()),
        recipient: Party::Id(address.id()),
        sender_peer: PeerId::ANY,
        recipient_peer: PeerId::ANY,
        kind: 0,
    };
    for size in [64, 1232] {
        let payload = vec![5; size - header.len() - 8];
        let links = Links {
            sender: 1,
            receiver: 2,
        };
        let message = Message::Stream(StreamMessage::Data {
            links,
            sequence: 3,
            payload: &payload,
        });
        let mut packet = Vec::with_capacity(size);
        message.emit_packet(&header, Some(&key), &mut packet);
        assert_eq!(packet.len(), size);
        assert!(key.verify(&packet));

        // everything but the hop count, and the last block is the only one that may be short
        let blocks = (size - 1).div_ceil(16);
        let raw = format!("{blocks} AES-256 blocks in a chain");
        compare(
            &format!("MAC of {size} bytes"),
            || key.packet_mac(&packet),
            &raw,
            || aes_chain(&cipher, blocks, &mut state),
        );
        compare(
            &format!("parse, verify, message: {size} bytes"),
            || {
                let packet = Packet::new_checked(black_box(packet.as_slice())).ok()?;
                key.verify(packet.as_bytes()).then_some(())?;
                Message::parse(packet.kind(), packet.body())
                    .ok()
                    .map(|message| message.kind())
            },
            &raw,
            || aes_chain(&cipher, blocks, &mut state),
        );
        let mut out = Vec::with_capacity(size);
        compare(
            &format!("header, message, sign: {size} bytes"),
            || {
                out.clear();
                message.emit_packet(black_box(&header), Some(&key), &mut out);
                out.len()
            },
            &raw,
            || aes_chain(&cipher, blocks, &mut state),
        );
    }
    Ok(())
}

/// Goes on from `state`, so that one call cannot begin before the last one has ended.
fn aes_chain(cipher: &Aes256Enc, blocks: usize, state: &mut aes::Block) {
    for _ in 0..blocks {
        cipher.encrypt_block(state);
    }
}

fn compare<A, B>(
    name: &str,
    ours: impl FnMut() -> A,
    primitive_name: &str,
    primitive: impl FnMut() -> B,
) {
    let (ours, primitive) = (time(ours), time(primitive));
    println!(
        "{name:<44}{:>9.0} ns   {primitive_name:<40}{:>9.0} ns   x{:.2}",
        ours,
        primitive,
        ours / primitive
    );
}

/// Nanoseconds of one call: the best of 15 runs of about 20 ms, since everything else that runs only ever adds.
fn time<T>(mut call: impl FnMut() -> T) -> f64 {
    let mut run = |calls: u32| {
        let start = Instant::now();
        for _ in 0..calls {
            black_box(call());
        }
        start.elapsed()
    };
    let mut calls = 1;
    while run(calls) < Duration::from_millis(20) {
        calls *= 2;
    }
    let best = (0..15).map(|_| run(calls)).min().unwrap_or_default();
    best.as_nanos() as f64 / f64::from(calls)
}
