//! ML-KEM-768 inside a new session (Q13 to Q15), by `ml-kem`'s deterministic entry points.
use super::hello::be32;
use ml_kem::ml_kem_768::{Ciphertext, DecapsulationKey, EncapsulationKey};
use ml_kem::{Decapsulate, KeyExport};
use rand_core::CryptoRng;
use zeroize::{Zeroize, Zeroizing};

const EK: usize = 1184;
const CT: usize = 1088;
const STEP1: u8 = 1;
const STEP2: u8 = 2;
/// Bytes of the initiator's KEM body: step, index, encapsulation key.
pub(super) const STEP1_LEN: usize = 5 + EK;
/// Bytes of the responder's: step, index, the initiator's index, ciphertext.
pub(super) const STEP2_LEN: usize = 9 + CT;

/// The initiator's side, until the ciphertext comes. `ml-kem` clears the key when it is dropped.
pub(super) struct Offer {
    key: Box<DecapsulationKey>,
    step1: Vec<u8>,
    index: u32,
}

impl Offer {
    /// `index` names the session that will come of it.
    pub fn new(index: u32, rng: &mut dyn CryptoRng) -> Self {
        let mut seed = ml_kem::Seed::default();
        rng.fill_bytes(&mut seed);
        let key = Box::new(DecapsulationKey::from_seed(seed));
        seed.zeroize();

        let mut step1 = Vec::with_capacity(STEP1_LEN);
        step1.push(STEP1);
        step1.extend_from_slice(&index.to_be_bytes());
        step1.extend_from_slice(&key.encapsulation_key().to_bytes());
        Self { key, step1, index }
    }

    pub fn index(&self) -> u32 {
        self.index
    }

    pub fn step1(&self) -> &[u8] {
        &self.step1
    }

    /// The responder's index and the secret. Never fails on the ciphertext itself: a wrong one gives a secret that
    /// nobody shares (FIPS 203 §6.3).
    pub fn finish(&self, step2: &[u8]) -> Option<(u32, Zeroizing<[u8; 32]>)> {
        if step2.len() != STEP2_LEN || step2[0] != STEP2 || be32(step2, 5) != self.index {
            return None;
        }
        let ciphertext = Ciphertext::try_from(&step2[9..]).ok()?;
        let secret = take(self.key.decapsulate(&ciphertext));
        Some((be32(step2, 1), secret))
    }
}

/// The responder's side.
pub(super) struct Answer {
    pub initiator_index: u32,
    pub step2: Vec<u8>,
    pub secret: Zeroizing<[u8; 32]>,
}

/// `None` if `step1` is no such message or holds no encapsulation key (FIPS 203 §7.2).
pub(super) fn answer(step1: &[u8], index: u32, rng: &mut dyn CryptoRng) -> Option<Answer> {
    let initiator_index = step1_index(step1)?;
    let key = EncapsulationKey::new(step1[5..].try_into().ok()?).ok()?;
    let mut message = ml_kem::B32::default();
    rng.fill_bytes(&mut message);
    let (ciphertext, secret) = key.encapsulate_deterministic(&message);
    message.zeroize();

    let mut step2 = Vec::with_capacity(STEP2_LEN);
    step2.push(STEP2);
    step2.extend_from_slice(&index.to_be_bytes());
    step2.extend_from_slice(&initiator_index.to_be_bytes());
    step2.extend_from_slice(&ciphertext);
    Some(Answer {
        initiator_index,
        step2,
        secret: take(secret),
    })
}

/// The index in a message of step 1; `None` if it is none.
pub(super) fn step1_index(body: &[u8]) -> Option<u32> {
    (body.len() == STEP1_LEN && body[0] == STEP1).then(|| be32(body, 1))
}

fn take(mut secret: ml_kem::SharedKey) -> Zeroizing<[u8; 32]> {
    let mut out = Zeroizing::new([0; 32]);
    out.copy_from_slice(&secret);
    secret.zeroize();
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    // Q13
    #[test]
    fn both_sides_get_the_same_secret_and_sizes_are_as_specified() {
        let mut rng = StdRng::seed_from_u64(3);
        let offer = Offer::new(7, &mut rng);
        assert_eq!(offer.step1().len(), 1189);
        let answer = answer(offer.step1(), 9, &mut rng).unwrap();
        assert_eq!(answer.step2.len(), 1097);
        assert_eq!(answer.initiator_index, 7);
        let (index, secret) = offer.finish(&answer.step2).unwrap();
        assert_eq!(index, 9);
        assert_eq!(secret, answer.secret);
    }

    // Q13
    #[test]
    fn wrong_messages_are_refused_or_lead_nowhere() {
        let mut rng = StdRng::seed_from_u64(4);
        let offer = Offer::new(7, &mut rng);
        let good = answer(offer.step1(), 9, &mut rng).unwrap();
        let changed = |at: usize, bytes: &[u8]| {
            let mut copy = bytes.to_vec();
            copy[at] ^= 1;
            copy
        };
        assert!(
            answer(&changed(0, offer.step1()), 9, &mut rng).is_none(),
            "the step"
        );
        assert!(
            answer(&offer.step1()[1..], 9, &mut rng).is_none(),
            "the length"
        );
        let mut overflowing = offer.step1().to_vec();
        overflowing[5..8].fill(0xff);
        assert!(
            answer(&overflowing, 9, &mut rng).is_none(),
            "a coefficient above q"
        );
        assert!(offer.finish(&changed(0, &good.step2)).is_none(), "the step");
        assert!(
            offer.finish(&changed(8, &good.step2)).is_none(),
            "the index"
        );
        let (_, secret) = offer.finish(&changed(100, &good.step2)).unwrap();
        assert_ne!(secret, good.secret, "implicit rejection");
    }
}
