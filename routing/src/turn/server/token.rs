//! What the descriptors of a shard are.

/// What a descriptor is, as it stands in epoll.
#[derive(Clone, Copy)]
pub(super) enum Token {
    Letters,
    Port(usize),
    Listener(usize),
    Relay(usize),
    Stream(usize),
    Peer(usize),
}

impl From<Token> for u64 {
    fn from(token: Token) -> Self {
        let (kind, index) = match token {
            Token::Letters => (0, 0),
            Token::Port(index) => (1, index),
            Token::Listener(index) => (2, index),
            Token::Relay(index) => (3, index),
            Token::Stream(index) => (4, index),
            Token::Peer(index) => (5, index),
        };
        kind << 56 | index as u64
    }
}

impl From<u64> for Token {
    fn from(number: u64) -> Self {
        let index = (number & ((1 << 56) - 1)) as usize;
        match number >> 56 {
            1 => Self::Port(index),
            2 => Self::Listener(index),
            3 => Self::Relay(index),
            4 => Self::Stream(index),
            5 => Self::Peer(index),
            _ => Self::Letters,
        }
    }
}
