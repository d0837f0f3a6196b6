//! What a stranger's bytes may do to the responder's reader: the body of the fuzz target `dns_question`, and a test that
//! feeds it mutations from a fixed seed.

use super::message::{Heard, Outcome, QUESTION_MAX, read};
use super::zone::{Meaning, meaning};

/// The largest answer over TCP: its length stands in 16 bits.
const TCP_MAX: usize = 65_535;

/// Reads the bytes as a question and gives every kind of answer to it.
///
/// # Panics
/// If an answer is none, too long for its transport, or that of another question.
pub fn question(bytes: &[u8]) {
    if bytes.len() > QUESTION_MAX {
        return;
    }
    match read(bytes) {
        Heard::Nothing => {}
        Heard::Complain(answer) => check(bytes, &answer, QUESTION_MAX),
        Heard::Question(question) => {
            let zone = meaning(question.name()).map(|(zone, _)| zone);
            let outcomes = [
                Outcome::Addresses(
                    vec![std::net::Ipv6Addr::LOCALHOST; 40],
                    std::time::Duration::MAX,
                ),
                Outcome::Apex,
                Outcome::Pointer("box.anode".to_owned()),
                Outcome::Empty,
                Outcome::Nobody,
            ];
            for outcome in outcomes {
                check(
                    bytes,
                    &question.answer(zone, outcome.clone(), false),
                    QUESTION_MAX,
                );
                check(bytes, &question.answer(zone, outcome, true), TCP_MAX);
            }
            if let Some((_, Meaning::Address(address))) = meaning(question.name()) {
                assert_eq!(address.to_string().len(), 64, "an address is one");
            }
        }
    }
}

fn check(question: &[u8], answer: &[u8], most: usize) {
    assert!(
        answer.len() >= 12 && answer.len() <= most,
        "{} bytes",
        answer.len()
    );
    assert_eq!(answer[..2], question[..2], "the question's own number");
    assert_eq!(answer[2] & 0x80, 0x80, "it says that it is an answer");
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    /// A question for `name` with EDNS, as programs ask it.
    fn asked(name: &str, kind: u16, edns: bool) -> Vec<u8> {
        let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns)];
        for label in name.split('.').filter(|label| !label.is_empty()) {
            bytes.push(label.len() as u8);
            bytes.extend(label.as_bytes());
        }
        bytes.push(0);
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0, 1]);
        if edns {
            bytes.extend([0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0]);
        }
        bytes
    }

    // S26: questions of strangers
    #[test]
    fn no_bytes_make_the_reader_panic_or_answer_at_length() {
        let names = [
            "box.anode",
            "anode",
            "",
            "host.example.com.anode",
            "aeaaaaaaaaaag2yx2hzoclcci74lzzxf.moseb4txan6yclplgoqpjijzixmjrquw.anode",
            "0.2.7.9.e.6.1.0.0.a.4.4.e.e.3.c.3.0.3.4.9.8.9.8.0.0.d.c.0.a.d.f.ip6.arpa",
        ];
        let kinds = [1, 2, 6, 12, 16, 28, 255, 65_280];
        let mut seeds = Vec::new();
        for name in names {
            for kind in kinds {
                seeds.push(asked(name, kind, kind % 2 == 0));
            }
        }
        for seed in &seeds {
            for length in 0..=seed.len() {
                question(&seed[..length]);
            }
        }
        let mut rng = StdRng::seed_from_u64(53);
        for _ in 0..40_000 {
            let mut bytes = seeds[rng.random_range(0..seeds.len())].clone();
            for _ in 0..rng.random_range(1..6) {
                let at = rng.random_range(0..bytes.len());
                match rng.random_range(0..4) {
                    0 => bytes[at] ^= 1 << rng.random_range(0..8),
                    1 => bytes[at] = rng.random_range(0..=255),
                    2 => bytes.insert(at, rng.random_range(0..=255)),
                    // a label that points, forwards, backwards or at itself
                    _ => bytes.splice(at..at, [0xc0, at as u8]).for_each(drop),
                }
            }
            question(&bytes);
        }
    }
}
