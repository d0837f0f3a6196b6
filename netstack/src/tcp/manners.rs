//! Which programs of this machine let the other side speak first.

/// One bit for each port: set if the other side spoke first on the last connection there.
#[derive(Debug)]
pub(super) struct Manners(Box<[u64; Self::WORDS]>);

impl Manners {
    const WORDS: usize = (u16::MAX as usize + 1) / u64::BITS as usize;

    pub fn new() -> Self {
        Self(Box::new([0; Self::WORDS]))
    }

    pub fn listens_first(&self, port: u16) -> bool {
        let (word, bit) = place(port);
        self.0[word] & bit != 0
    }

    pub fn learn(&mut self, port: u16, listens_first: bool) {
        let (word, bit) = place(port);
        if listens_first {
            self.0[word] |= bit;
        } else {
            self.0[word] &= !bit;
        }
    }
}

fn place(port: u16) -> (usize, u64) {
    let port = usize::from(port);
    let bits = u64::BITS as usize;
    (port / bits, 1 << (port % bits))
}
