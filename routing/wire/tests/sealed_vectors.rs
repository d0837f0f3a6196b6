//! The stored vectors are what this program computes (Q1 to Q4, Q8, Q12, Q13, Q15, Q18, Q29).
//!
//! `tests/independent/sealed.py` computes them once more, from the specification and with other libraries.
#[path = "../examples/sealed_vectors.rs"]
mod generator;

#[test]
fn stored_vectors_are_reproduced_to_the_byte() {
    let stored = include_str!("../../../docs/vectors/sealed.json");
    let stored: serde_json::Value = serde_json::from_str(stored).unwrap();
    let computed = generator::vectors();
    for (stored, computed) in stored["handshakes"]
        .as_array()
        .unwrap()
        .iter()
        .zip(computed["handshakes"].as_array().unwrap())
    {
        assert_eq!(stored, computed, "{}", stored["name"]);
    }
    assert_eq!(stored, computed);
}
