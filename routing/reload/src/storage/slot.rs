//! The values of one type at one resource: where each stands, which is newer, and what a FETCH gets of them (R70 to R73, R79).
use super::MAX_INDEX;
use crate::body::{FetchType, Reference};
use crate::{DataValue, ReloadError, StoredData};
use std::collections::BTreeMap;

/// Up to this many elements of an array are answered with their holes; of a longer stretch only what is there, whose
/// indexes tell the rest. A sparse array is no way to make an answer long (RD41).
const MAX_HOLES: usize = 16;

/// Where a value stands within its type.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Place {
    Single,
    Index(u16),
    Key(Vec<u8>),
}

#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub data: StoredData,
    /// Group of the link it came over.
    pub group: u64,
    pub cost: usize,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Slot {
    pub generation: u64,
    pub values: BTreeMap<Place, Stored>,
    /// Highest storage time of what a REMOVE took, and until when it is remembered (RD45).
    pub removed: BTreeMap<Place, (u32, u64)>,
}

impl Stored {
    pub fn exists(&self) -> bool {
        !self.data.value.bytes().is_empty()
    }
}

impl Place {
    pub fn cost(&self) -> usize {
        match self {
            Self::Key(key) => key.len(),
            _ => 0,
        }
    }
}

impl Slot {
    /// Elements of an array: one more than the last place with a value. Removing the last shortens it (R82).
    pub fn len(&self) -> usize {
        let last = self
            .values
            .iter()
            .rev()
            .find_map(|(place, stored)| match place {
                Place::Index(at) if stored.exists() => Some(usize::from(*at)),
                _ => None,
            });
        last.map_or(0, |last| last + 1)
    }

    /// Where an array holds just this value already.
    pub fn place_of(&self, data: &StoredData) -> Option<Place> {
        self.values
            .iter()
            .find(|(_, stored)| {
                stored.data.signature == data.signature
                    && stored.data.storage_time == data.storage_time
                    && stored.data.value.bytes() == data.value.bytes()
            })
            .map(|(place, _)| place.clone())
    }

    /// Whether a value is newer than what stands at its place; `Ok(false)`: it is the very same (R67, R141, RD37).
    pub fn accepts(&self, place: &Place, data: &StoredData) -> Result<bool, ReloadError> {
        if let Some(known) = self.values.get(place) {
            if known.data == *data {
                return Ok(false);
            }
            if data.storage_time <= known.data.storage_time {
                return Err(ReloadError::Precondition(
                    "a value of this or a later storage time is stored",
                ));
            }
        }
        if let Some((time, _)) = self.removed.get(place)
            && data.storage_time <= *time
        {
            return Err(ReloadError::Precondition("the value was removed"));
        }
        Ok(true)
    }

    /// The places a reference means.
    pub fn places(&self, reference: &Reference) -> Vec<Place> {
        match reference {
            Reference::Single => vec![Place::Single],
            Reference::Dictionary(keys) if keys.is_empty() => self.values.keys().cloned().collect(),
            Reference::Dictionary(keys) => keys.iter().cloned().map(Place::Key).collect(),
            Reference::Array(range) => match range.places(self.len()) {
                Some(places) => places
                    .filter_map(|at| u16::try_from(at).ok())
                    .map(Place::Index)
                    .collect(),
                None => Vec::new(),
            },
        }
    }
}

pub(super) fn index_place(index: i32) -> Result<Place, ReloadError> {
    match u16::try_from(index) {
        Ok(at) if index <= MAX_INDEX => Ok(Place::Index(at)),
        _ if index < -1 => Err(ReloadError::Invalid {
            what: "an array entry",
            why: "its index is below -1",
        }),
        _ => Err(ReloadError::Quota("arrays end at index 1023")),
    }
}

/// Values of a FETCH, with empty ones for what is not there (R79); at most as many as the kind stores.
pub(super) fn select(slot: Option<&Slot>, one: &FetchType) -> Vec<StoredData> {
    let stored = |place: &Place| {
        let stored = slot?.values.get(place)?;
        stored.exists().then(|| stored.data.clone())
    };
    match &one.reference {
        Reference::Single => {
            let missing = StoredData::missing(DataValue::Single(Vec::new()));
            vec![stored(&Place::Single).unwrap_or(missing)]
        }
        Reference::Dictionary(keys) if keys.is_empty() => slot.map_or(Vec::new(), |slot| {
            let all = slot.values.values().filter(|stored| stored.exists());
            all.map(|stored| stored.data.clone()).collect()
        }),
        Reference::Dictionary(keys) => keys
            .iter()
            .take(256)
            .map(|key| {
                stored(&Place::Key(key.clone())).unwrap_or_else(|| {
                    StoredData::missing(DataValue::Dictionary {
                        key: key.clone(),
                        value: Vec::new(),
                    })
                })
            })
            .collect(),
        Reference::Array(_) => slot.map_or(Vec::new(), |slot| {
            let places = slot.places(&one.reference);
            let show_holes = places.len() <= MAX_HOLES;
            let missing = |place: &Place| match place {
                Place::Index(at) if show_holes => Some(StoredData::missing(DataValue::Array {
                    index: i32::from(*at),
                    value: Vec::new(),
                })),
                _ => None,
            };
            let found = |place: &Place| stored(place).or_else(|| missing(place));
            places.iter().filter_map(found).collect()
        }),
    }
}
