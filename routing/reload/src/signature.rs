//! The signature element and what is signed (R45 to R48, RD21 to RD24).
use crate::codec::{Reader, Write};
use crate::{Id, ReloadError};
use anode_wire::{Address, PeerId};

/// No signature value: shared-key overlays, where the element only names the sender (RD29).
pub const ALGORITHM_NONE: u8 = 0;
/// RSA with SHA-1: never accepted (RD22).
pub const ALGORITHM_RSA_SHA1: u8 = 1;
/// RSA with SHA-256: not compiled in (RD22).
pub const ALGORITHM_RSA_SHA256: u8 = 2;
/// ECDSA P-256 with SHA-256, value r ‖ s in 64 bytes (RD22).
pub const ALGORITHM_ECDSA_P256: u8 = 0x81;

/// Who signs (R46, RD23).
#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum SignerIdentity {
    /// 1
    Peer(Id),
    /// 2: a user name of a certificate.
    Name(String),
    /// 3: a DER certificate.
    Certificate(Vec<u8>),
    /// 0x81: the key itself; of a message: the peer 0 of that address.
    Anode(Address),
    /// 0x82: one of the peers that share an address, 1 to 15. Beyond RD23: whose PING an answer is must be exact, for the
    /// Peer-ID of who answers is looked for in the ring.
    AnodePeer(Address, PeerId),
}

impl SignerIdentity {
    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, ReloadError> {
        Ok(match r.u8()? {
            1 => Self::Peer(r.id()?),
            2 => Self::Name(r.string()?),
            3 => Self::Certificate(r.vec16()?.to_vec()),
            0x81 => Self::Anode(read_address(r)?),
            0x82 => {
                let address = read_address(r)?;
                let digit = PeerId::new(r.u8()?).filter(|digit| *digit != PeerId::ANY);
                let digit = digit.ok_or(ReloadError::Invalid {
                    what: "a signer",
                    why: "its peer digit is none of 1 to 15",
                })?;
                Self::AnodePeer(address, digit)
            }
            tag => {
                return Err(ReloadError::Tag {
                    what: "a signer",
                    tag: tag.into(),
                });
            }
        })
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) -> Result<(), ReloadError> {
        match self {
            Self::Peer(id) => {
                out.u8(1);
                out.raw(&id.0);
                Ok(())
            }
            Self::Name(name) => {
                out.u8(2);
                out.bytes16("a user name", name.as_bytes())
            }
            Self::Certificate(der) => {
                out.u8(3);
                out.bytes16("a certificate", der)
            }
            Self::Anode(address) => {
                out.u8(0x81);
                out.raw(address.as_bytes());
                Ok(())
            }
            Self::AnodePeer(address, digit) => {
                out.u8(0x82);
                out.raw(address.as_bytes());
                out.u8(digit.get());
                Ok(())
            }
        }
    }

    /// The identity of a peer of an address.
    pub fn of_peer(address: Address, digit: PeerId) -> Self {
        match digit {
            PeerId::ANY => Self::Anode(address),
            digit => Self::AnodePeer(address, digit),
        }
    }

    /// Address and peer, where the identity is an address.
    pub fn anode_peer(&self) -> Option<(Address, PeerId)> {
        match self {
            Self::Anode(address) => Some((*address, PeerId::ANY)),
            Self::AnodePeer(address, digit) => Some((*address, *digit)),
            Self::Peer(_) | Self::Name(_) | Self::Certificate(_) => None,
        }
    }
}

fn read_address(r: &mut Reader<'_>) -> Result<Address, ReloadError> {
    Address::from_bytes(r.take(Address::LEN)?).map_err(|_| ReloadError::Invalid {
        what: "a signer",
        why: "its Anode address is not valid",
    })
}

/// A signature element, over a message or over a stored value.
#[derive(Clone, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub struct Signature {
    /// Algorithm code.
    pub algorithm: u8,
    /// What the algorithm made.
    pub value: Vec<u8>,
    /// Who claims to have made it.
    pub identity: SignerIdentity,
}

impl Signature {
    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, ReloadError> {
        Ok(Self {
            algorithm: r.u8()?,
            value: r.vec16()?.to_vec(),
            identity: SignerIdentity::read(r)?,
        })
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) -> Result<(), ReloadError> {
        out.u8(self.algorithm);
        out.bytes16("a signature", &self.value)?;
        self.identity.write(out)
    }

    /// An element without a value, which names the sender in a shared-key overlay (RD29).
    pub fn unsigned(peer: Id) -> Self {
        Self {
            algorithm: ALGORITHM_NONE,
            value: Vec::new(),
            identity: SignerIdentity::Peer(peer),
        }
    }
}

/// What a message signature covers: overlay, transaction, identity, contents (R47, RD24). Lists, TTL, flags and the
/// log change on the way and are not covered. Nothing of the contents is parsed for it (R48).
pub fn message_input(
    overlay: u32,
    transaction: u64,
    identity: &SignerIdentity,
    contents: &[u8],
) -> Result<Vec<u8>, ReloadError> {
    let mut input = Vec::with_capacity(64 + contents.len());
    input.u32(overlay);
    input.u64(transaction);
    identity.write(&mut input)?;
    input.raw(contents);
    Ok(input)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(signature: &Signature) {
        let mut out = Vec::new();
        signature.write(&mut out).unwrap();
        let mut reader = Reader::new(&out, "signature");
        assert_eq!(&Signature::read(&mut reader).unwrap(), signature);
        reader.end().unwrap();
        for len in 0..out.len() {
            assert!(Signature::read(&mut Reader::new(&out[..len], "s")).is_err());
        }
    }

    // R45, R46, RD23
    #[test]
    fn every_identity_round_trips() {
        for identity in [
            SignerIdentity::Peer(Id([7; 16])),
            SignerIdentity::Name("alice@example.com".into()),
            SignerIdentity::Certificate(vec![0x30; 300]),
            SignerIdentity::Anode(crate::vectors::address()),
        ] {
            round_trip(&Signature {
                algorithm: ALGORITHM_ECDSA_P256,
                value: vec![9; 64],
                identity,
            });
        }
        round_trip(&Signature::unsigned(Id([1; 16])));
    }

    #[test]
    fn unknown_identities_and_broken_addresses_are_refused() {
        let mut broken = vec![0x81, 0, 0, 0x81];
        broken.extend_from_slice(&[1; 40]);
        assert!(Signature::read(&mut Reader::new(&broken, "s")).is_err());
        assert!(Signature::read(&mut Reader::new(&[0x81, 0, 0, 9, 0, 0], "s")).is_err());
    }
}
