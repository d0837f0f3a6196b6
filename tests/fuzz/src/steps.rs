//! What several targets read their input as: steps of a talk.

/// A step of a talk: what happens (1), how much later (1), its bytes behind their length (2).
pub struct Step<'a> {
    pub kind: u8,
    pub later: u8,
    pub bytes: &'a [u8],
}

/// The steps of a talk; the last one may be cut short.
pub fn steps(mut talk: &[u8]) -> impl Iterator<Item = Step<'_>> {
    std::iter::from_fn(move || {
        let [kind, later, high, low, rest @ ..] = talk else {
            return None;
        };
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let bytes;
        (bytes, talk) = rest.split_at(length);
        Some(Step {
            kind: *kind,
            later: *later,
            bytes,
        })
    })
}

/// A step as [`steps`] reads it.
pub fn step(kind: u8, later: u8, bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u16).to_be_bytes();
    [&[kind, later, length[0], length[1]], bytes].concat()
}
