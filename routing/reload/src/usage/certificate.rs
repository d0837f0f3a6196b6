//! CERTIFICATE: peers' and users' certificates (R137).
use super::{Claim, Kind, forbid};
use crate::security::Certificate;
use crate::{DataModel, Id, TypeId};
use std::sync::Arc;

/// Seconds that a certificate is stored for.
pub const LIFETIME: u32 = 60 * 24 * 3600;
/// It is stored again when fewer seconds than this are left.
pub const REFRESH_BELOW: u32 = 30 * 24 * 3600;
/// How often its owner looks, in seconds.
pub const CHECK_EVERY: u32 = 24 * 3600;
/// How long a reader keeps it, in seconds.
pub const CACHE: u32 = 8 * 3600;

/// Where a certificate belongs: the hash of each of its user names and of each of its Peer-IDs (RD57).
pub fn resources(certificate: &Certificate) -> Vec<Id> {
    let names = certificate.names().iter().map(|name| name.as_bytes());
    let peers = certificate.peers().iter().map(|peer| &peer.0[..]);
    names.chain(peers).map(Id::of_seed).collect()
}

pub(super) fn kind() -> Kind {
    Kind {
        id: TypeId::CERTIFICATE,
        name: "CERTIFICATE".into(),
        model: DataModel::Array,
        max_value: 1024,
        max_values: 16,
        max_lifetime: LIFETIME,
        findable: false,
        permission: Arc::new(permit),
    }
}

fn permit(claim: &Claim<'_>) -> Result<(), crate::ReloadError> {
    let value = claim.data.value.bytes();
    if value.is_empty() {
        let mut peers = claim.signer.peers().iter();
        let mut names = claim.signer.names.iter();
        let own = peers.any(|peer| Id::of_seed(&peer.0) == claim.resource)
            || names.any(|name| Id::of_seed(name.as_bytes()) == claim.resource);
        return forbid("the signer has no certificate here", own);
    }
    let certificate = Certificate::from_der(value)?;
    forbid(
        "the certificate holds nothing that hashes to this place",
        resources(&certificate).contains(&claim.resource),
    )?;
    let mut peers = certificate.peers().iter();
    forbid(
        "the certificate is stored by somebody else",
        peers.any(|peer| claim.signer.is_peer(*peer)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::security::{Signer, self_signed};
    use crate::{DataValue, StoredData};

    // R137, R139
    #[test]
    fn a_certificate_stands_where_its_ids_hash_to() {
        let certificate = self_signed(&[7; 32], "x.net", 0, [1; 16], (0, 100)).unwrap();
        let peer = certificate.peers()[0];
        let places = resources(&certificate);
        assert_eq!(places, [Id::of_seed(&peer.0)]);
        assert_ne!(places[0], peer, "not at the peer's own id");
        let data = StoredData::missing(DataValue::Array {
            index: 0,
            value: certificate.der().to_vec(),
        });
        let check = |resource, peer| {
            permit(&Claim {
                resource,
                data: &data,
                signer: &Signer::new(vec![peer], vec![], None),
            })
            .is_ok()
        };
        assert!(check(places[0], peer));
        assert!(!check(peer, peer));
        assert!(!check(places[0], Id([9; 16])));
        let (life, refresh) = (LIFETIME, REFRESH_BELOW);
        assert!(refresh < life && certificate.der().len() <= kind().max_value);
    }
}
