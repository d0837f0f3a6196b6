//! Values of nobody's usage: type-ids 0xF00010 to 0xF0FFFF, for people and programs that want to store something.
//!
//! At each resource there is a dictionary; its keys are those of ANODE-RECORD (40-byte Anode address, peer digit), and each is
//! signed by the address in its key. So everybody may say something anywhere, nobody can change what another has said, and a
//! reader knows who said it.
use super::{Claim, Kind, anode, forbid};
use crate::signature::SignerIdentity;
use crate::{DataModel, DataValue, ReloadError, TypeId};
use std::ops::RangeInclusive;
use std::sync::Arc;

/// The numbers.
pub const NUMBERS: RangeInclusive<u32> = 0xF0_0010..=0xF0_FFFF;
/// Bytes of a value.
pub const MAX_VALUE: usize = 4096;
/// Seconds that a value is stored for at most.
pub const LIFETIME: u32 = 24 * 3600;

/// Whether a number is one of these.
pub fn is_open(kind: TypeId) -> bool {
    NUMBERS.contains(&kind.0)
}

/// All of them have these rules, whatever their number.
pub(super) fn kind() -> Kind {
    Kind {
        id: TypeId(*NUMBERS.start()),
        name: "OPEN".into(),
        model: DataModel::Dictionary,
        max_value: MAX_VALUE,
        max_values: 64,
        max_lifetime: LIFETIME,
        findable: true,
        permission: Arc::new(permit),
    }
}

fn permit(claim: &Claim<'_>) -> Result<(), ReloadError> {
    let DataValue::Dictionary { key, .. } = &claim.data.value else {
        return Err(ReloadError::Forbidden("an open value has a key"));
    };
    let (address, _) = anode::parse_key(key)?;
    let signature = claim.data.signature.as_ref();
    let by_itself =
        signature.is_some_and(|signature| signature.identity == SignerIdentity::Anode(address));
    forbid(
        "an open value is signed by the address in its key",
        by_itself && claim.signer.address == Some(address),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::security::{Credentials, Policy, Signer};
    use crate::usage::Kinds;
    use crate::{Id, StoredData};
    use anode_wire::{PeerId, Zone};

    // R11, R130, R139: any number of the range has the rules, and nobody writes under another's key
    #[test]
    fn everybody_says_something_in_his_own_name_only() {
        let kinds = Kinds::standard();
        for (number, open) in [
            (0xF0_000F, false),
            (0xF0_0010, true),
            (0xF0_FFFF, true),
            (0xF1_0000, false),
        ] {
            assert_eq!(kinds.get(TypeId(number)).is_some(), open, "{number:x}");
        }
        let policy = Policy {
            zone: Zone(1),
            self_signed: true,
            ..Policy::default()
        };
        let keys = [[1; 32], [2; 32]];
        let keys =
            keys.map(|key| Credentials::self_made(&key, PeerId::ANY, policy.clone()).unwrap());
        let permission = &kinds.get(TypeId(0xF0_0042)).unwrap().permission;
        for (writer, owner) in [(0, 0), (0, 1), (1, 1)] {
            let mut data = StoredData {
                storage_time: 1,
                lifetime: 60,
                value: DataValue::Dictionary {
                    key: anode::key(keys[owner].address(), PeerId::ANY),
                    value: b"hello".to_vec(),
                },
                signature: None,
            };
            let identity = SignerIdentity::Anode(*keys[writer].address());
            let resource = Id::of_seed(b"board");
            let input = data.signature_input(resource, TypeId(0xF0_0042), &identity);
            data.signature = Some(keys[writer].sign_as_address(&input.unwrap()));
            let signer = Signer::new(vec![], vec![], Some(*keys[writer].address()));
            let claim = Claim {
                resource,
                data: &data,
                signer: &signer,
            };
            assert_eq!(permission(&claim).is_ok(), writer == owner);
        }
    }
}
