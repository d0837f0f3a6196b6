//! What sealed sessions cost, beside the raw cost of their primitives: `cargo run --release --example sealed_speed`.
//!
//! Each figure is the best of 500 rounds on one core: what disturbs a round only makes it slower.
use anode_wire::sealed::{
    Config, Limits, Now, Outcome, PeerKey, Rate, Reason, SEALED_BODY, SEALED_TAIL, Sessions,
    Source, Timestamp,
};
use anode_wire::{Identity, Zone, message};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{ECDH_P256, PrivateKey, UnparsedPublicKey, agree};
use ml_kem::Decapsulate;
use ml_kem::ml_kem_768::DecapsulationKey;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::hint::black_box;
use std::time::Instant;

const SOURCE: Source<'static> = Source {
    endpoint: b"here",
    network: 1,
};
const HEAD: usize = 40;
const TAIL: usize = SEALED_TAIL;

fn main() {
    println!("AES-256-GCM in place: ns a packet (GB/s of body)");
    println!(
        "    body        raw seal   sealed, batch    sealed, each        raw open          opened"
    );
    for body in [64, 1183, 1280, 65_000] {
        packets(body);
    }
    handshakes();
}

/// Seconds that `work` takes at best for what `prepare` makes, the latter not counted.
fn best<T>(mut prepare: impl FnMut() -> T, mut work: impl FnMut(&mut T)) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..500 {
        let mut input = prepare();
        let start = Instant::now();
        work(&mut input);
        best = best.min(start.elapsed().as_secs_f64());
        black_box(&input);
    }
    best
}

fn packets(body: usize) {
    let (mut a, mut b, now) = connected();
    let to_b = a.lookup(&b.own()).expect("connected");
    let len = SEALED_BODY + body + TAIL;
    // As many as one system call carries.
    let count = (65_536 / len).max(1);
    let plain = || vec![vec![7u8; len]; count];
    let raw = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).expect("32 bytes"));

    let raw_seal = best(plain, |packets| {
        for packet in packets {
            seal_raw(&raw, packet);
        }
    });
    let batch = best(plain, |packets| {
        let mut sealer = a.sealer(now, to_b).expect("connected");
        for packet in packets {
            sealer.seal(message::kind::DGRAM, packet).expect("young");
        }
    });
    let each = best(plain, |packets| {
        for packet in packets {
            seal(&mut a, now, to_b, packet);
        }
    });
    let sealed_raw = || {
        let mut packets = plain();
        packets.iter_mut().for_each(|packet| seal_raw(&raw, packet));
        packets
    };
    let raw_open = best(sealed_raw, |packets| {
        for packet in packets {
            let (head, rest) = packet.split_at_mut(HEAD);
            let (text, tail) = rest.split_at_mut(rest.len() - TAIL);
            let tag = [&head[2..10], tail].concat();
            head[2..10].fill(0);
            raw.open_in_place_separate_tag(nonce(), Aad::from(&head[1..]), &tag, text)
                .expect("sealed with this key");
        }
    });
    let sealed = || {
        let mut packets = plain();
        for packet in &mut packets {
            seal(&mut a, now, to_b, packet);
        }
        packets
    };
    let opened = best(sealed, |packets| {
        for packet in packets {
            let outcome = b.handle(now, SOURCE, packet);
            assert!(matches!(outcome, Outcome::Opened { .. }));
        }
    });

    let show = |seconds: f64| {
        let ns = seconds / count as f64 * 1e9;
        format!("{ns:>7.0} ({:>5.2})", body as f64 / ns)
    };
    println!(
        "{body:>8} {:>15} {:>15} {:>15} {:>15} {:>15}",
        show(raw_seal),
        show(batch),
        show(each),
        show(raw_open),
        show(opened)
    );
}

fn seal(from: &mut Sessions, now: Now, to: PeerKey, packet: &mut [u8]) {
    from.seal(now, to, message::kind::DGRAM, packet)
        .expect("young");
}

fn seal_raw(key: &LessSafeKey, packet: &mut [u8]) {
    let (head, rest) = packet.split_at_mut(HEAD);
    let (text, tail) = rest.split_at_mut(rest.len() - TAIL);
    head[2..10].fill(0);
    let tag = key
        .seal_in_place_separate_tag(nonce(), Aad::from(&head[1..]), text)
        .expect("short enough");
    head[2..10].copy_from_slice(&tag.as_ref()[..8]);
    tail.copy_from_slice(&tag.as_ref()[8..]);
}

fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

fn handshakes() {
    let mut work = 0;
    let strangers = best(
        || nodes(false),
        |(a, b, now)| {
            connect(a, b, *now);
            work = a.key_agreements() + b.key_agreements();
        },
    );
    let known = best(|| nodes(true), |(a, b, now)| connect(a, b, *now));
    let scalar = [9; 32];
    let own = PrivateKey::from_private_key(&ECDH_P256, &scalar).expect("a scalar");
    let public = own.compute_public_key().expect("a public key");
    let ecdh = best(
        || (),
        |()| {
            let public = UnparsedPublicKey::new(&ECDH_P256, public.as_ref());
            agree(&own, public, (), |x| Ok(black_box(x[0]))).expect("a point");
        },
    );
    let keygen = best(
        || (),
        |()| {
            let key = PrivateKey::from_private_key(&ECDH_P256, &scalar).expect("a scalar");
            black_box(key.compute_public_key().expect("a public key"));
        },
    );
    let kem = best(
        || (),
        |()| {
            let key = DecapsulationKey::from_seed(ml_kem::Seed::from([3; 64]));
            let message = ml_kem::B32::from([4; 32]);
            let (ciphertext, _) = key.encapsulation_key().encapsulate_deterministic(&message);
            black_box(key.decapsulate(&ciphertext));
        },
    );
    // Each side: an ephemeral key and three agreements; the fourth is static and cached.
    let raw = 2.0 * keygen + 6.0 * ecdh + kem;
    println!("\nHandshakes, both sides on one core: µs (a second)");
    for (what, seconds) in [
        ("P-256 agreement", ecdh),
        ("P-256 key", keygen),
        ("ML-KEM-768, all three steps", kem),
        ("raw sum: 2 keys, 6 agreements, ML-KEM", raw),
        ("whole handshake, agreements cached", known),
        ("whole handshake of strangers", strangers),
    ] {
        println!("{what:>46} {:>8.1} ({:>7.0})", seconds * 1e6, 1.0 / seconds);
    }
    println!("{:>46} {work:>8}", "scalar multiplications for strangers");
}

fn nodes(known: bool) -> (Sessions, Sessions, Now) {
    let node = |seed: u8| {
        let identity = Identity::from_scalar(Zone(1), &[seed; 32]).expect("a scalar");
        let config = Config {
            limits: Limits {
                known: Rate::new(1_000_000, 1_000_000),
                ..Limits::default()
            },
            ..Config::default()
        };
        let rng = Box::new(StdRng::seed_from_u64(seed.into()));
        Sessions::new(&identity, config, rng)
    };
    let (mut a, mut b) = (node(1), node(2));
    if known {
        a.trust(&b.own().address);
        b.trust(&a.own().address);
    }
    let now = Now {
        at: Instant::now(),
        wall: Timestamp(1_700_000_000_000_000),
    };
    (a, b, now)
}

fn connected() -> (Sessions, Sessions, Now) {
    let (mut a, mut b, now) = nodes(true);
    connect(&mut a, &mut b, now);
    (a, b, now)
}

fn connect(a: &mut Sessions, b: &mut Sessions, now: Now) {
    a.start(now, b.own(), Reason::Traffic);
    loop {
        let mut idle = true;
        while let Some(mut transmit) = a.poll_transmit() {
            b.handle(now, SOURCE, &mut transmit.packet);
            idle = false;
        }
        while let Some(mut transmit) = b.poll_transmit() {
            a.handle(now, SOURCE, &mut transmit.packet);
            idle = false;
        }
        if idle {
            break;
        }
    }
    assert!(b.has_session(&a.own().address));
}
