//! The options of NAT_T in mode 1 (Anode 0.8 §4.2.7, D26; docs/protocol.md, "Holes in NATs").
use anode_wire::Endpoint;
use std::net::SocketAddr;

/// The mode: a hole for UDP.
pub const MODE: u8 = 1;
/// Endpoints in one message (Q28); more are not looked at.
pub const MAX_PLACES: usize = 8;

/// How the NAT of a sender gives ports to new destinations.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(in crate::anode) enum Ports {
    /// Not known.
    #[default]
    Unknown,
    /// One port for all destinations, or no NAT.
    Stable,
    /// Another one for each, in a sequence.
    Sequence,
    /// Another one for each, at random.
    Random,
    /// Datagrams do not get out at all.
    None,
}

impl Ports {
    const ALL: [Self; 5] = [
        Self::Unknown,
        Self::Stable,
        Self::Sequence,
        Self::Random,
        Self::None,
    ];

    /// Whoever is spoken to sees another port than others do.
    pub fn is_symmetric(self) -> bool {
        matches!(self, Self::Sequence | Self::Random)
    }
}

/// What a message wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::anode) enum Op {
    /// Ask at these places, and say where you are.
    Request,
    /// The answer.
    Ready,
    /// Ask at the ports that these places will have.
    Aim,
    /// The answer where the receiver's ports must be guessed, too.
    Aimed,
}

impl Op {
    const ALL: [Self; 4] = [Self::Request, Self::Ready, Self::Aim, Self::Aimed];
}

/// One message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::anode) struct Offer {
    pub op: Op,
    pub token: u32,
    /// UDP alone.
    pub places: Vec<SocketAddr>,
    pub ports: Ports,
    /// From one port of a sequence to the next, and how many are worth a try.
    pub step: i16,
    pub window: u16,
}

impl Offer {
    pub fn emit(&self) -> Vec<u8> {
        let mut out = vec![
            Op::ALL
                .iter()
                .position(|op| *op == self.op)
                .unwrap_or_default() as u8,
        ];
        out.extend_from_slice(&self.token.to_be_bytes());
        let places = &self.places[..self.places.len().min(MAX_PLACES)];
        out.push(places.len() as u8);
        for place in places {
            Endpoint::Udp(*place).emit(&mut out);
        }
        let ports = Ports::ALL.iter().position(|ports| *ports == self.ports);
        out.push(ports.unwrap_or_default() as u8);
        out.extend_from_slice(&self.step.to_be_bytes());
        out.extend_from_slice(&self.window.to_be_bytes());
        out
    }

    /// `None`: it cannot be read. What follows the endpoints may be missing, and more may follow.
    pub fn parse(options: &[u8]) -> Option<Self> {
        let (op, rest) = options.split_first()?;
        let (token, rest) = rest.split_first_chunk::<4>()?;
        let (count, mut rest) = rest.split_first()?;
        if usize::from(*count) > MAX_PLACES {
            return None;
        }
        let mut places = Vec::with_capacity(usize::from(*count));
        for _ in 0..*count {
            let (endpoint, after) = Endpoint::parse(rest).ok()?;
            rest = after;
            // Others are for later versions.
            if let Endpoint::Udp(place) = endpoint {
                places.push(place);
            }
        }
        let ports = rest.first().map(|ports| usize::from(*ports));
        let two = |at: usize| Some([*rest.get(at)?, *rest.get(at + 1)?]);
        Some(Self {
            op: *Op::ALL.get(usize::from(*op))?,
            token: u32::from_be_bytes(*token),
            places,
            ports: ports
                .and_then(|at| Ports::ALL.get(at).copied())
                .unwrap_or_default(),
            step: two(1).map_or(0, i16::from_be_bytes),
            window: two(3).map_or(0, u16::from_be_bytes),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer() -> Offer {
        Offer {
            op: Op::Aim,
            token: 0x0102_0304,
            places: vec![
                "198.51.100.7:40000".parse().unwrap(),
                "[2001:db8::1]:8737".parse().unwrap(),
            ],
            ports: Ports::Sequence,
            step: -2,
            window: 32,
        }
    }

    #[test]
    fn an_offer_survives_the_wire() {
        let bytes = offer().emit();
        assert_eq!(bytes.len(), 1 + 4 + 1 + 7 + 19 + 5);
        assert_eq!(Offer::parse(&bytes), Some(offer()));
        let mut longer = bytes;
        longer.extend_from_slice(b"of a later version");
        assert_eq!(Offer::parse(&longer), Some(offer()));
    }

    #[test]
    fn what_only_d26_has_is_read_and_what_is_cut_or_too_much_is_not() {
        // D26, S2
        let bytes = offer().emit();
        let bare = Offer::parse(&bytes[..bytes.len() - 5]).unwrap();
        assert_eq!((bare.ports, bare.window), (Ports::Unknown, 0));
        assert_eq!(bare.places, offer().places);
        for len in 0..bytes.len() - 5 {
            assert_eq!(Offer::parse(&bytes[..len]), None, "{len} bytes");
        }
        let mut unknown = bytes.clone();
        unknown[0] = 9;
        assert_eq!(Offer::parse(&unknown), None);
        let mut many = bytes;
        many[5] = 9;
        assert_eq!(Offer::parse(&many), None);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(0u8.., 0..200)) {
            if let Some(offer) = Offer::parse(&bytes) {
                assert!(offer.places.len() <= MAX_PLACES);
            }
        }
    }
}
