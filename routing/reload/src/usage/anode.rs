//! ANODE-RECORD: the overlay's address book. Whoever holds a synthetic IPv6 address finds the full Anode address, where
//! it is and how to reach it; every reader checks the owner's signature himself.
//!
//! Keyed by the 108 bits of the synthetic address, not by the draft's 8-byte id: that can be forged.
use super::{Claim, Kind, forbid};
use crate::codec::{self, Reader, Write};
use crate::signature::SignerIdentity;
use crate::{DataModel, DataValue, Id, ReloadError, StoredData, TypeId};
use anode_wire::{Address, Endpoint, PeerId};
use std::net::Ipv6Addr;
use std::sync::Arc;

/// Copies of a record under independent seeds, against a lying responsible peer (R142).
pub const COPIES: u8 = 2;
/// Seconds that a record is stored for.
pub const LIFETIME: u32 = 3600;
/// Seconds after which its owner stores it again, give or take a tenth.
pub const REFRESH: u32 = 1200;
/// Bytes of a value.
pub const MAX_VALUE: usize = 1024;

const VERSION: u8 = 1;
const WITHDRAWN: u8 = 0x80;

/// What a record says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AnodeRecord {
    /// Flags: [`AnodeRecord::CLIENT`], [`AnodeRecord::RELAY`].
    pub flags: u8,
    /// What the node serves: [`AnodeRecord::CONNECT`] and the others.
    pub capabilities: u16,
    /// Its RELOAD Peer-ID, or [`Id::ZERO`].
    pub peer: Id,
    /// How to route to it, where its Peer-ID alone does not do.
    pub route: Vec<Id>,
    /// Where it is, best first.
    pub endpoints: Vec<Endpoint>,
    /// Its TURN relayed addresses.
    pub relayed: Vec<Endpoint>,
}

impl AnodeRecord {
    /// Flag: a client, use the route list.
    pub const CLIENT: u8 = 1;
    /// Flag: relays for others.
    pub const RELAY: u8 = 2;
    /// Capability: CONNECT with application 8737.
    pub const CONNECT: u16 = 1;
    /// Capability: TUNNEL with application 8737.
    pub const TUNNEL: u16 = 2;
    /// Capability: TCP endpoints.
    pub const TCP: u16 = 4;
    /// Capability: a TURN server.
    pub const TURN: u16 = 8;

    /// Reads a value; `None` where it says that the record is withdrawn.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, ReloadError> {
        const WHAT: &str = "an ANODE-RECORD";
        let mut r = Reader::new(bytes, WHAT);
        let version = r.u8()?;
        if version != VERSION {
            return Err(ReloadError::Tag {
                what: WHAT,
                tag: version.into(),
            });
        }
        let flags = r.u8()?;
        if flags & WITHDRAWN != 0 {
            r.end()?;
            return Ok(None);
        }
        let record = Self {
            flags,
            capabilities: r.u16()?,
            peer: r.id()?,
            route: codec::ids(r.vec8()?, WHAT)?,
            endpoints: endpoints(r.vec16()?)?,
            relayed: endpoints(r.vec16()?)?,
        };
        r.end()?;
        Ok(Some(record))
    }

    /// The value.
    pub fn emit(&self) -> Result<Vec<u8>, ReloadError> {
        let mut out = vec![VERSION, self.flags & !WITHDRAWN];
        out.u16(self.capabilities);
        out.raw(&self.peer.0);
        Write::vec8(&mut out, "a record's route", |out| {
            self.route.iter().for_each(|id| out.raw(&id.0));
        })?;
        for list in [&self.endpoints, &self.relayed] {
            out.vec16("endpoints", |out| {
                list.iter().for_each(|endpoint| endpoint.emit(out));
                Ok(())
            })?;
        }
        match out.len() <= MAX_VALUE {
            true => Ok(out),
            false => Err(ReloadError::TooLong {
                what: "an ANODE-RECORD",
                len: out.len(),
                limit: MAX_VALUE,
            }),
        }
    }

    /// The value that takes a record back.
    pub fn withdrawal() -> Vec<u8> {
        vec![VERSION, WITHDRAWN]
    }
}

fn endpoints(mut bytes: &[u8]) -> Result<Vec<Endpoint>, ReloadError> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let (endpoint, rest) = Endpoint::parse(bytes).map_err(|_| ReloadError::Invalid {
            what: "an ANODE-RECORD",
            why: "one of its endpoints is not valid",
        })?;
        all.push(endpoint);
        bytes = rest;
    }
    Ok(all)
}

/// Where copy number `copy` of the records of a synthetic address stands; the address with any peer digit.
pub fn resource(ip: Ipv6Addr, copy: u8) -> Id {
    let mut octets = ip.octets();
    octets[15] &= 0xf0;
    let mut seed = b"anode:".to_vec();
    seed.extend_from_slice(&octets);
    seed.push(copy);
    Id::of_seed(&seed)
}

/// All places of an address's records.
pub fn resources(ip: Ipv6Addr) -> [Id; COPIES as usize] {
    [resource(ip, 0), resource(ip, 1)]
}

/// The dictionary key of a record: address and peer digit.
pub fn key(address: &Address, peer: PeerId) -> Vec<u8> {
    let mut key = address.as_bytes().to_vec();
    key.push(peer.get());
    key
}

/// Address and peer digit of a dictionary key.
pub fn parse_key(key: &[u8]) -> Result<(Address, PeerId), ReloadError> {
    let wrong = || ReloadError::Forbidden("the key is no Anode address and peer digit");
    let (digit, address) = key.split_last().ok_or_else(wrong)?;
    let address = Address::from_bytes(address).map_err(|_| wrong())?;
    Ok((address, PeerId::new(*digit).ok_or_else(wrong)?))
}

/// A record as it is found: verified, so that `address` is who wrote it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// Whose.
    pub address: Address,
    /// Which of its peers.
    pub digit: PeerId,
    /// Unix seconds, by its owner's clock.
    pub storage_time: u32,
    /// Unix seconds.
    pub expires: u64,
    /// What it says; `None` where it was taken back.
    pub record: Option<AnodeRecord>,
}

/// Joins what both copies of a record gave: the newest of each peer (R141, R142). `values` are values that
/// [`Node`](crate::Node) has verified.
pub fn newest<'a>(values: impl IntoIterator<Item = &'a StoredData>) -> Vec<Found> {
    let mut found: Vec<Found> = Vec::new();
    for data in values {
        let DataValue::Dictionary { key, value } = &data.value else {
            continue;
        };
        let (Ok((address, digit)), Ok(record)) = (parse_key(key), AnodeRecord::parse(value)) else {
            continue;
        };
        let one = Found {
            address,
            digit,
            storage_time: data.storage_time,
            expires: data.expires(),
            record,
        };
        match found
            .iter_mut()
            .find(|known| known.address == address && known.digit == digit)
        {
            Some(known) if known.storage_time >= one.storage_time => {}
            Some(known) => *known = one,
            None => found.push(one),
        }
    }
    found
}

pub(super) fn kind() -> Kind {
    Kind {
        id: TypeId::ANODE_RECORD,
        name: "ANODE-RECORD".into(),
        model: DataModel::Dictionary,
        max_value: MAX_VALUE,
        max_values: 16,
        max_lifetime: LIFETIME,
        findable: false,
        permission: Arc::new(permit),
    }
}

/// ANODE-KEY-MATCH: the address in the key signs it itself, and hashes to this place. Storing peers and readers run the
/// same check; the zone was checked with the signature.
fn permit(claim: &Claim<'_>) -> Result<(), ReloadError> {
    let DataValue::Dictionary { key, value } = &claim.data.value else {
        return Err(ReloadError::Forbidden("an ANODE-RECORD has a key"));
    };
    let (address, _) = parse_key(key)?;
    let by_itself = claim
        .data
        .signature
        .as_ref()
        .is_some_and(|signature| signature.identity == SignerIdentity::Anode(address));
    forbid(
        "a record is signed by the address it is about",
        by_itself && claim.signer.address == Some(address),
    )?;
    forbid(
        "the address does not hash to this place",
        resources(address.ipv6(PeerId::ANY)).contains(&claim.resource),
    )?;
    if !value.is_empty() {
        AnodeRecord::parse(value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::security::{Credentials, Policy, Security, Signer};
    use crate::vectors::{SCALAR, address, bytes, hex, input};

    fn record() -> AnodeRecord {
        AnodeRecord::parse(&input("anode-record-stored_data", "value"))
            .unwrap()
            .unwrap()
    }

    // P1: the vectors of the record
    #[test]
    fn records_are_those_of_the_vectors() {
        let record = record();
        assert_eq!(record.capabilities, AnodeRecord::CONNECT);
        assert_eq!(record.peer.0.to_vec(), bytes("peer-id-sha256"));
        let texts: Vec<_> = record.endpoints.iter().map(|e| e.to_string()).collect();
        assert_eq!(texts, ["udp://192.0.2.1:8737", "udp://[2001:db8::1]:8737"]);
        assert!(record.relayed.is_empty());
        assert_eq!(
            record.emit().unwrap(),
            input("anode-record-stored_data", "value")
        );
        let ip = address().ipv6(PeerId::ANY);
        assert_eq!(
            ip,
            "fda0:a6a4:297e:40ba:5f34:c4dd:645d:ee00"
                .parse::<Ipv6Addr>()
                .unwrap()
        );
        let [first, second] = resources(address().ipv6(PeerId::new(7).unwrap()));
        assert_eq!(first.0.to_vec(), bytes("anode-record-resource-id"));
        assert_eq!(second.to_string(), "12c97a67ffaf47c6a00d0f394e8ed307");
    }

    #[test]
    fn cut_grown_and_oversized_records_are_refused() {
        let good = record().emit().unwrap();
        for len in 0..good.len() {
            assert!(AnodeRecord::parse(&good[..len]).is_err());
        }
        assert!(AnodeRecord::parse(&[&good[..], &[0]].concat()).is_err());
        assert_eq!(AnodeRecord::parse(&AnodeRecord::withdrawal()), Ok(None));
        assert!(AnodeRecord::parse(&[1, 0x80, 0]).is_err());
        assert!(AnodeRecord::parse(&[2, 0]).is_err());
        let mut big = record();
        big.endpoints = vec![big.endpoints[1].clone(); 60];
        assert!(big.emit().is_err());
    }

    fn stored(key: Vec<u8>, resource: Id, by: &Credentials) -> StoredData {
        let mut data = StoredData {
            storage_time: 5,
            lifetime: LIFETIME,
            value: DataValue::Dictionary {
                key,
                value: record().emit().unwrap(),
            },
            signature: None,
        };
        let identity = SignerIdentity::Anode(*by.address());
        let input = data
            .signature_input(resource, TypeId::ANODE_RECORD, &identity)
            .unwrap();
        data.signature = Some(by.sign_as_address(&input));
        data
    }

    // R139, S35: wrong signer, wrong key, wrong place
    #[test]
    fn only_the_address_itself_writes_its_record() {
        let policy = Policy {
            zone: anode_wire::Zone(1),
            self_signed: true,
            ..Policy::default()
        };
        let scalar = hex(SCALAR).try_into().unwrap();
        let own = Credentials::self_made(&scalar, PeerId::ANY, policy.clone()).unwrap();
        let other = Credentials::self_made(&[9; 32], PeerId::ANY, policy).unwrap();
        let here = resource(address().ipv6(PeerId::ANY), 1);
        let digit = PeerId::new(1).unwrap();
        let check = |data: &StoredData, resource, by: &Credentials| {
            let signer = Signer::new(vec![by.peer_id()], vec![], Some(*by.address()));
            permit(&Claim {
                resource,
                data,
                signer: &signer,
            })
            .is_ok()
        };
        let good = stored(key(&address(), digit), here, &own);
        assert!(check(&good, here, &own));
        assert!(!check(&good, Id([1; 16]), &own));
        let forged = stored(key(&address(), digit), here, &other);
        assert!(!check(&forged, here, &other));
        let elsewhere = stored(key(other.address(), digit), here, &other);
        assert!(!check(&elsewhere, here, &other));
        let mut odd = key(&address(), digit);
        odd[40] = 16;
        assert!(!check(&stored(odd, here, &own), here, &own));
    }

    // R141, R142
    #[test]
    fn readers_take_the_newest_of_both_copies() {
        let key = key(&address(), PeerId::ANY);
        let at = |storage_time, value: Vec<u8>| StoredData {
            storage_time,
            lifetime: 10,
            value: DataValue::Dictionary {
                key: key.clone(),
                value,
            },
            signature: None,
        };
        let old = at(1, record().emit().unwrap());
        let gone = at(2, AnodeRecord::withdrawal());
        let found = newest([&old, &gone, &old]);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].storage_time, &found[0].record), (2, &None));
    }
}
