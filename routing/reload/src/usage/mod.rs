//! Usages: what kinds of data there are, who may store them where, and how much (R11, R130, R139, R140).
//!
//! Usages are not on the wire, only their type-ids are (R10). A [`Kind`] gives all that R11 asks for; [`Kinds`] is the
//! set a node serves. The four of this project are [`Kinds::standard`]; any other is added with [`Kinds::add`].
pub mod anode;
pub mod certificate;
pub mod open;
pub mod sip;
pub mod turn;

use crate::security::Signer;
use crate::{DataModel, Id, ReloadError, StoredData, TypeId};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A value that somebody wants stored, and who signed it.
pub struct Claim<'a> {
    /// Where.
    pub resource: Id,
    /// What. An empty value takes away.
    pub data: &'a StoredData,
    /// Whom the value's own signature proves.
    pub signer: &'a Signer,
}

/// The access rule of a kind: reruns the seed rule on the signer's credential and compares (R139).
pub type Permission = Arc<dyn Fn(&Claim<'_>) -> Result<(), ReloadError> + Send + Sync>;

/// A kind of data.
#[derive(Clone)]
pub struct Kind {
    /// Number on the wire.
    pub id: TypeId,
    /// Name, for people and for the configuration document.
    pub name: String,
    /// How its values stand at a resource.
    pub model: DataModel,
    /// Bytes of one value, without key and signature.
    pub max_value: usize,
    /// Values at one resource.
    pub max_values: usize,
    /// Seconds; longer ones are refused (RD39).
    pub max_lifetime: u32,
    /// Whether FIND may walk it (R86).
    pub findable: bool,
    /// Who may store it where.
    pub permission: Permission,
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kind({} {})", self.id, self.name)
    }
}

/// The kinds a node serves.
#[derive(Clone, Default, Debug)]
pub struct Kinds {
    kinds: BTreeMap<TypeId, Kind>,
    /// For all numbers of [`open::NUMBERS`] that are not taken.
    open: Option<Kind>,
}

impl Kinds {
    /// SIP-REGISTRATION, TURN-SERVICE, CERTIFICATE, ANODE-RECORD, and the open numbers.
    pub fn standard() -> Self {
        let mut kinds = Self::default();
        kinds.add(sip::kind());
        kinds.add(turn::kind());
        kinds.add(certificate::kind());
        kinds.add(anode::kind());
        kinds.open = Some(open::kind());
        kinds
    }

    /// Adds a kind, or replaces the one of that number.
    pub fn add(&mut self, kind: Kind) {
        self.kinds.insert(kind.id, kind);
    }

    /// The kind of a number.
    pub fn get(&self, id: TypeId) -> Option<&Kind> {
        let open = self.open.as_ref().filter(|_| open::is_open(id));
        self.kinds.get(&id).or(open)
    }

    /// The data model of a number: what parsers ask for.
    pub fn model(&self, id: TypeId) -> Option<DataModel> {
        Some(self.get(id)?.model)
    }

    /// The kind of a name, in either case.
    pub fn by_name(&self, name: &str) -> Option<&Kind> {
        self.kinds
            .values()
            .find(|kind| kind.name.eq_ignore_ascii_case(name))
    }
}

fn forbid(what: &'static str, good: bool) -> Result<(), ReloadError> {
    match good {
        true => Ok(()),
        false => Err(ReloadError::Forbidden(what)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // R11, R130, R131, R135, R137, R140, RD71
    #[test]
    fn the_standard_kinds_have_the_draft_s_limits() {
        let kinds = Kinds::standard();
        let limits = |id| {
            let kind = kinds.get(id).unwrap();
            (kind.model, kind.max_value, kind.max_values, kind.findable)
        };
        assert_eq!(
            limits(TypeId::SIP_REGISTRATION),
            (DataModel::Dictionary, 10 * 1024, 10, false)
        );
        assert_eq!(
            limits(TypeId::TURN_SERVICE),
            (DataModel::Single, 20, 1, true)
        );
        let (model, size, count, _) = limits(TypeId::CERTIFICATE);
        assert!(model == DataModel::Array && size >= 1024 && count >= 10);
        assert_eq!(
            limits(TypeId::ANODE_RECORD),
            (DataModel::Dictionary, 1024, 16, false)
        );
        assert_eq!(
            kinds.by_name("anode-record").unwrap().id,
            TypeId::ANODE_RECORD
        );
        assert!(TypeId::PRIVATE.contains(&TypeId::ANODE_RECORD.0));
    }
}
