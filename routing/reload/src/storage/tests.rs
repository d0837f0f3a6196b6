use super::*;
use crate::body::ArrayRange;
use crate::signature::Signature;
use crate::usage::Kind;
use std::sync::Arc;

const SINGLE: TypeId = TypeId(0xF0_0101);
const ARRAY: TypeId = TypeId(0xF0_0102);
const MAP: TypeId = TypeId(0xF0_0103);

fn now(seconds: u64) -> Now {
    Now {
        at: Duration::from_secs(seconds),
        unix: 1000 + seconds,
    }
}

fn kinds() -> Kinds {
    let mut kinds = Kinds::default();
    for (id, model) in [
        (SINGLE, DataModel::Single),
        (ARRAY, DataModel::Array),
        (MAP, DataModel::Dictionary),
    ] {
        kinds.add(Kind {
            id,
            name: format!("test {id}"),
            model,
            max_value: 100,
            max_values: 4,
            max_lifetime: 3600,
            findable: true,
            permission: Arc::new(|_| Ok(())),
        });
    }
    kinds
}

fn data(time: u64, value: DataValue) -> StoredData {
    StoredData {
        storage_time: (1000 + time) as u32,
        lifetime: 600,
        value,
        signature: Some(Signature::unsigned(Id([1; 16]))),
    }
}

fn single(time: u64, text: &str) -> StoredData {
    data(time, DataValue::Single(text.into()))
}

fn entry(time: u64, index: i32, text: &str) -> StoredData {
    data(
        time,
        DataValue::Array {
            index,
            value: text.into(),
        },
    )
}

fn pair(time: u64, key: &str, text: &str) -> StoredData {
    data(
        time,
        DataValue::Dictionary {
            key: key.into(),
            value: text.into(),
        },
    )
}

const HERE: Id = Id([7; 16]);

struct Bench {
    storage: Storage,
    kinds: Kinds,
}

impl Bench {
    fn new() -> Self {
        Self {
            storage: Storage::new(Limits::default()),
            kinds: kinds(),
        }
    }

    fn put(
        &mut self,
        at: u64,
        kind: TypeId,
        generation: u64,
        values: &[StoredData],
    ) -> Result<(u64, bool), ReloadError> {
        self.put_as(at, Mode::Owner, kind, generation, values)
    }

    fn put_as(
        &mut self,
        at: u64,
        mode: Mode,
        kind: TypeId,
        generation: u64,
        values: &[StoredData],
    ) -> Result<(u64, bool), ReloadError> {
        let request = StoreRequest {
            resource: HERE,
            types: vec![StoreType {
                kind,
                generation,
                values: values.to_vec(),
            }],
        };
        self.storage
            .store(now(at), &self.kinds, &request, mode, 0, 1)
            .map(|(generations, changed)| (generations[0].generation, changed))
    }

    fn get(&mut self, at: u64, kind: TypeId, reference: Reference) -> Vec<String> {
        let request = References {
            resource: HERE,
            types: vec![FetchType {
                kind,
                generation: 0,
                reference,
            }],
        };
        let found = self.storage.fetch(now(at), &request).remove(0).values;
        let text = |data: &StoredData| String::from_utf8_lossy(data.value.bytes()).into_owned();
        found.iter().map(text).collect()
    }

    fn all(&mut self, at: u64, kind: TypeId) -> Vec<String> {
        let model = self.kinds.model(kind).unwrap();
        self.get(at, kind, Reference::all(model))
    }

    fn take(
        &mut self,
        at: u64,
        kind: TypeId,
        reference: Reference,
    ) -> Result<(u64, bool), ReloadError> {
        let request = References {
            resource: HERE,
            types: vec![FetchType {
                kind,
                generation: 0,
                reference,
            }],
        };
        self.storage
            .remove(now(at), &request, true)
            .map(|(generations, changed)| (generations[0].generation, changed))
    }
}

// R69, R71, R74, R83, RD38
#[test]
fn a_single_value_is_overwritten_and_raises_the_generation() {
    let mut it = Bench::new();
    assert_eq!(it.put(0, SINGLE, 0, &[single(0, "a")]), Ok((1, true)));
    assert_eq!(it.put(1, SINGLE, 1, &[single(1, "b")]), Ok((2, true)));
    assert_eq!(it.all(1, SINGLE), ["b"]);
    assert_eq!(it.take(2, SINGLE, Reference::Single), Ok((3, true)));
    assert_eq!(it.take(2, SINGLE, Reference::Single), Ok((3, false)));
    assert_eq!(it.all(2, SINGLE), [""]);
    assert_eq!(it.storage.resources(), 0);
}

// R67, R68, R141, RD37
#[test]
fn storage_times_only_go_forward() {
    let mut it = Bench::new();
    it.put(5, SINGLE, 0, &[single(5, "a")]).unwrap();
    for old in [single(4, "b"), single(5, "b")] {
        let error = it.put(6, SINGLE, 0, &[old]).unwrap_err();
        assert!(matches!(error, ReloadError::Precondition(_)));
    }
    // the very same again is no change
    assert_eq!(it.put(6, SINGLE, 0, &[single(5, "a")]), Ok((1, false)));
    assert_eq!(it.all(6, SINGLE), ["a"]);
}

// R75, RD38
#[test]
fn another_generation_is_a_failed_precondition() {
    let mut it = Bench::new();
    it.put(0, SINGLE, 0, &[single(0, "a")]).unwrap();
    let error = it.put(1, SINGLE, 9, &[single(1, "b")]).unwrap_err();
    assert!(matches!(error, ReloadError::Precondition(_)));
    assert_eq!(it.all(1, SINGLE), ["a"]);
    let known = it.storage.generations(HERE, [SINGLE].into_iter());
    assert_eq!(known[0].generation, 1);
}

// R72, R79, R82, RD40, RD41
#[test]
fn arrays_are_sparse_grow_at_the_end_and_shorten() {
    let mut it = Bench::new();
    it.put(0, ARRAY, 0, &[entry(0, 2, "c")]).unwrap();
    assert_eq!(it.all(0, ARRAY), ["", "", "c"]);
    it.put(1, ARRAY, 0, &[entry(1, -1, "d")]).unwrap();
    assert_eq!(it.all(1, ARRAY), ["", "", "c", "d"]);
    // an append that is sent again is no second one
    assert_eq!(it.put(1, ARRAY, 0, &[entry(1, -1, "d")]), Ok((2, false)));
    let last = Reference::Array(ArrayRange::new(-1, -1).unwrap());
    assert_eq!(it.get(1, ARRAY, last.clone()), ["d"]);
    it.take(2, ARRAY, last).unwrap();
    assert_eq!(it.all(2, ARRAY), ["", "", "c"]);
    let middle = Reference::Array(ArrayRange::new(1, 2).unwrap());
    it.take(3, ARRAY, middle).unwrap();
    assert!(it.all(3, ARRAY).is_empty());
    for (index, good) in [(1023, true), (1024, false), (-2, false), (i32::MAX, false)] {
        let stored = it.put(4, ARRAY, 0, &[entry(4, index, "x")]);
        assert_eq!(stored.is_ok(), good, "{index}");
    }
    // RD41: a far place does not make a long answer
    assert_eq!(it.all(4, ARRAY), ["x"]);
}

// R73, R79
#[test]
fn dictionaries_hold_one_value_for_a_key() {
    let mut it = Bench::new();
    it.put(0, MAP, 0, &[pair(0, "k", "a"), pair(0, "l", "b")])
        .unwrap();
    it.put(1, MAP, 0, &[pair(1, "k", "c")]).unwrap();
    assert_eq!(it.all(1, MAP), ["c", "b"]);
    let two = Reference::Dictionary(vec![b"l".to_vec(), b"none".to_vec()]);
    assert_eq!(it.get(1, MAP, two), ["b", ""]);
    it.take(2, MAP, Reference::Dictionary(vec![b"k".to_vec()]))
        .unwrap();
    assert_eq!(it.all(2, MAP), ["b"]);
    it.take(3, MAP, Reference::Dictionary(vec![])).unwrap();
    assert!(it.all(3, MAP).is_empty());
}

// R65: the second type fails, the first must not stay
#[test]
fn a_store_is_all_or_nothing() {
    let mut it = Bench::new();
    let request = |bad: StoredData| StoreRequest {
        resource: HERE,
        types: vec![
            StoreType {
                kind: SINGLE,
                generation: 0,
                values: vec![single(0, "a")],
            },
            StoreType {
                kind: MAP,
                generation: 0,
                values: vec![pair(0, "k", "v"), bad],
            },
        ],
    };
    for bad in [
        pair(0, "k", "again"),
        pair(301, "l", "future"),
        pair(0, "l", &"x".repeat(101)),
        single(0, "model"),
    ] {
        let stored = it
            .storage
            .store(now(0), &it.kinds, &request(bad), Mode::Owner, 0, 1);
        assert!(stored.is_err());
        assert_eq!((it.storage.values(), it.storage.bytes()), (0, 0));
        assert_eq!(it.all(0, SINGLE), [""]);
    }
}

// RD39, S35: future, too long, over already
#[test]
fn times_and_lifetimes_are_checked() {
    let mut it = Bench::new();
    assert!(it.put(0, SINGLE, 0, &[single(300, "a")]).is_ok());
    let mut it = Bench::new();
    let future = it.put(0, SINGLE, 0, &[single(301, "a")]).unwrap_err();
    assert_eq!(future.code(), crate::Code::FORBIDDEN);
    let mut long = single(0, "a");
    long.lifetime = 3601;
    let long = it.put(0, SINGLE, 0, &[long]).unwrap_err();
    assert_eq!(long.code(), crate::Code::TOO_LARGE);
    assert!(it.put(700, SINGLE, 0, &[single(0, "a")]).is_err());
}

// RD39
#[test]
fn values_expire_by_the_local_clock() {
    let mut it = Bench::new();
    it.put(0, SINGLE, 0, &[single(0, "a")]).unwrap();
    it.put(0, MAP, 0, &[pair(100, "k", "v")]).unwrap();
    assert_eq!(it.all(599, SINGLE), ["a"]);
    assert_eq!(it.all(600, SINGLE), [""]);
    assert_eq!(it.all(600, MAP), ["v"]);
    it.storage.expire(now(700));
    assert_eq!((it.storage.values(), it.storage.bytes()), (0, 0));
    assert_eq!(it.storage.expired, 2);
    assert_eq!(it.storage.deadline(), None);
}

// RD45
#[test]
fn what_was_removed_does_not_come_back() {
    let mut it = Bench::new();
    it.put(5, SINGLE, 0, &[single(5, "a")]).unwrap();
    it.take(6, SINGLE, Reference::Single).unwrap();
    assert!(it.put(7, SINGLE, 0, &[single(5, "a")]).is_err());
    assert!(
        !it.put_as(7, Mode::Copy, SINGLE, 0, &[single(5, "a")])
            .unwrap()
            .1
    );
    assert!(it.put(7, SINGLE, 0, &[single(6, "b")]).is_ok());
    // a signed empty value is a tombstone, and is copied like a value
    it.put(8, SINGLE, 0, &[single(8, "")]).unwrap();
    assert_eq!(it.all(8, SINGLE), [""]);
    assert_eq!(it.storage.resources_in(Id::ZERO, Id([8; 16])), [HERE]);
    assert_eq!(it.storage.resources(), 0);
    // the memory of a removal ends after a day
    let mut it = Bench::new();
    it.put(5, SINGLE, 0, &[single(5, "a")]).unwrap();
    it.take(6, SINGLE, Reference::Single).unwrap();
    it.storage.expire(now(6 + REMOVE_MEMORY));
    assert!(it.storage.slots.is_empty() && it.storage.removals == 0);
}

// R11, R118, RD38: copies merge as if everything had been stored in the order of storage times
#[test]
fn copies_merge_by_storage_time() {
    let mut it = Bench::new();
    it.put(5, MAP, 0, &[pair(5, "new", "ours"), pair(5, "same", "x")])
        .unwrap();
    let theirs = [
        pair(4, "new", "older"),
        pair(5, "same", "x"),
        pair(6, "other", "theirs"),
    ];
    let merged = it.put_as(7, Mode::Copy, MAP, 40, &theirs);
    assert_eq!(merged, Ok((40, true)));
    assert_eq!(it.all(7, MAP), ["ours", "theirs", "x"]);
}

// R140, RD64, S35: one byte more than a kind allows, or in a key
#[test]
fn values_and_keys_have_their_largest_size() {
    let mut it = Bench::new();
    let sizes = |value: usize| single(0, &"x".repeat(value));
    let refused = it.put(0, SINGLE, 0, &[sizes(101)]).unwrap_err();
    assert_eq!(refused.code(), crate::Code::TOO_LARGE);
    it.put(0, SINGLE, 0, &[sizes(100)]).unwrap();
    let keys = |key: usize| pair(0, &"k".repeat(key), "v");
    let refused = it.put(0, MAP, 0, &[keys(257)]).unwrap_err();
    assert_eq!(refused.code(), crate::Code::TOO_LARGE);
    it.put(0, MAP, 0, &[keys(256)]).unwrap();
}

// R140, RD64, S35: per resource, per group, in all
#[test]
fn quotas_hold() {
    let mut it = Bench::new();
    for n in 0..4 {
        it.put(0, MAP, 0, &[pair(0, &format!("{n}"), "v")]).unwrap();
    }
    let fifth = it.put(0, MAP, 0, &[pair(0, "4", "v")]).unwrap_err();
    assert_eq!(fifth.code(), crate::Code::TOO_LARGE);
    it.put(1, MAP, 0, &[pair(1, "3", "w")]).unwrap();

    let limits = Limits {
        bytes: 20_000,
        group_bytes: 10_000,
        values: 1000,
        removals: 10,
    };
    let mut storage = Storage::new(limits);
    let kinds = kinds();
    let mut store = |n: u128, group| {
        let request = StoreRequest {
            resource: Id::from_number(n + 1),
            types: vec![StoreType {
                kind: SINGLE,
                generation: 0,
                values: vec![single(0, &"x".repeat(100))],
            }],
        };
        let stored = storage.store(now(0), &kinds, &request, Mode::Owner, group, 1);
        (stored.is_ok(), storage.bytes(), storage.refused)
    };
    let mut accepted = [0; 4];
    for n in 0..400 {
        let group = (n % 4) as u64;
        let (good, bytes, _) = store(n, group);
        accepted[group as usize] += usize::from(good);
        assert!(bytes <= limits.bytes);
    }
    assert!(accepted.iter().all(|count| *count > 0));
    let mut flood = Storage::new(limits);
    let mut from_one = 0;
    for n in 0..400u128 {
        let request = StoreRequest {
            resource: Id::from_number(n + 1),
            types: vec![StoreType {
                kind: SINGLE,
                generation: 0,
                values: vec![single(0, &"x".repeat(100))],
            }],
        };
        from_one += usize::from(
            flood
                .store(now(0), &kinds, &request, Mode::Owner, 9, 1)
                .is_ok(),
        );
    }
    assert!(flood.bytes() <= limits.group_bytes && from_one > 10);
    assert!(flood.refused > 0);
}

// R5, RD46
#[test]
fn nothing_is_stored_at_zero() {
    let mut storage = Storage::new(Limits::default());
    let request = StoreRequest {
        resource: Id::ZERO,
        types: vec![],
    };
    let stored = storage.store(now(0), &kinds(), &request, Mode::Owner, 0, 1);
    assert!(stored.is_err());
}

// R78: an equal generation gives nothing
#[test]
fn an_unchanged_generation_is_answered_without_values() {
    let mut it = Bench::new();
    it.put(0, SINGLE, 0, &[single(0, "a")]).unwrap();
    let fetch = |generation| References {
        resource: HERE,
        types: vec![FetchType {
            kind: SINGLE,
            generation,
            reference: Reference::Single,
        }],
    };
    assert!(it.storage.fetch(now(0), &fetch(1))[0].values.is_empty());
    assert_eq!(it.storage.fetch(now(0), &fetch(0))[0].values.len(), 1);
    assert_eq!(it.storage.fetch(now(0), &fetch(2))[0].values.len(), 1);
}

// R86, R87, RD46
#[test]
fn find_walks_clockwise_within_the_range() {
    let mut storage = Storage::new(Limits::default());
    let kinds = kinds();
    for n in [10u128, 20, 30] {
        let request = StoreRequest {
            resource: Id::from_number(n),
            types: vec![StoreType {
                kind: SINGLE,
                generation: 0,
                values: vec![single(0, "a")],
            }],
        };
        storage
            .store(now(0), &kinds, &request, Mode::Owner, 0, 1)
            .unwrap();
    }
    let mut find = |from: u128, upto: u128| {
        let (from, upto) = (Id::from_number(from), Id::from_number(upto));
        storage.find(now(0), from, upto, SINGLE).number()
    };
    assert_eq!(find(10, 25), 10);
    assert_eq!(find(11, 25), 20);
    assert_eq!(find(21, 25), 0);
    assert_eq!(find(u128::MAX, 15), 10);
    assert_eq!(find(31, 40), 0);
    let mut seen = Vec::new();
    let mut at = 1;
    while let found @ 1.. = find(at, 100) {
        seen.push(found);
        at = found + 1;
    }
    assert_eq!(seen, [10, 20, 30]);
}

// R118
#[test]
fn copies_are_cut_to_size_and_make_the_same_again() {
    let mut it = Bench::new();
    it.put(0, SINGLE, 0, &[single(0, "a")]).unwrap();
    for n in 0..4 {
        let text = "v".repeat(90);
        it.put(0, MAP, 0, &[pair(0, &format!("{n}"), &text)])
            .unwrap();
    }
    let copies = it.storage.copies(HERE, 300);
    assert!(copies.len() > 1);
    let mut other = Storage::new(Limits::default());
    for copy in &copies {
        assert!(copy.emit().unwrap().len() <= 400);
        other
            .store(now(0), &it.kinds, copy, Mode::Copy, 0, 1)
            .unwrap();
    }
    assert_eq!(other.values(), it.storage.values());
    let gone = it.storage.drop_resources(|_| false);
    assert_eq!((gone, it.storage.bytes()), (5, 0));
}
