//! Targets without libFuzzer: the committed corpus is replayed, and mutated from a fixed seed. A crate's `fuzz_replay` test
//! includes this, names its targets and makes their seeds.
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Of each codec, whose runs take microseconds.
pub const MUTATIONS: usize = 28_000;
/// Set to write the seeds into the corpus.
const WRITE: &str = "ANODE_WRITE_CORPUS";

/// Name of the corpus, body, mutations.
pub type Target = (String, fn(&[u8]), usize);

/// A target as its table names it, without the family.
pub type Named = (&'static str, fn(&[u8]));

/// The corpus of a target, by file name.
pub type Corpus = BTreeMap<String, Vec<u8>>;

/// The targets of a table, `mutations` of each by its name there.
pub fn targets<const N: usize>(
    family: &str,
    table: [Named; N],
    mutations: impl Fn(&str) -> usize,
) -> Vec<Target> {
    let target = |(name, body)| (format!("{family}_{name}"), body, mutations(name));
    table.map(target).into()
}

fn directory(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fuzz/corpus")
        .join(target)
}

fn committed(target: &str) -> Corpus {
    let files =
        std::fs::read_dir(directory(target)).unwrap_or_else(|error| panic!("{target}: {error}"));
    files
        .map(|file| {
            let file = file.unwrap();
            (
                file.file_name().into_string().unwrap(),
                std::fs::read(file.path()).unwrap(),
            )
        })
        .collect()
}

/// The corpus of a target holds these seeds; with `ANODE_WRITE_CORPUS=1` they are written first.
pub fn expect_seeds(target: &str, seeds: Corpus) {
    assert!(seeds.len() > 2, "{target}");
    if std::env::var_os(WRITE).is_some() {
        std::fs::create_dir_all(directory(target)).unwrap();
        for (name, input) in &seeds {
            std::fs::write(directory(target).join(name), input).unwrap();
        }
    }
    let committed = committed(target);
    for (name, input) in seeds {
        assert_eq!(
            committed.get(&name),
            Some(&input),
            "{target}/{name}: run once with {WRITE}=1"
        );
    }
}

/// The tests of a crate whose `targets` and `seeds` are in scope.
macro_rules! tests {
    () => {
        /// Set `ANODE_WRITE_CORPUS=1` to write the seeds after a change of the codecs.
        #[test]
        fn the_committed_corpus_holds_every_seed() {
            for (target, ..) in targets() {
                replay::expect_seeds(&target, seeds(&target));
            }
        }

        #[test]
        fn every_target_survives_its_corpus_and_its_truncations() {
            replay::replay(targets());
        }

        #[test]
        fn every_target_survives_mutations_of_its_corpus() {
            replay::mutations(targets());
        }
    };
}
pub(crate) use tests;

/// Every input of the corpora, and its beginnings.
pub fn replay(targets: Vec<Target>) {
    for (target, body, mutations) in targets {
        // Of a slow target not every beginning.
        let step = MUTATIONS / mutations;
        for input in committed(&target).values() {
            body(input);
            for len in (0..=input.len()).step_by(step) {
                body(&input[..len]);
            }
        }
    }
}

/// Mutations of every corpus.
pub fn mutations(targets: Vec<Target>) {
    let mut rng = StdRng::seed_from_u64(0x0a0d_e008);
    for (target, body, mutations) in targets {
        let corpus: Vec<Vec<u8>> = committed(&target).into_values().collect();
        for _ in 0..mutations {
            let mut input = corpus[rng.random_range(0..corpus.len())].clone();
            for _ in 0..rng.random_range(1..4) {
                mutate(&mut input, &corpus, &mut rng);
            }
            body(&input);
        }
    }
}

fn mutate(input: &mut Vec<u8>, corpus: &[Vec<u8>], rng: &mut impl Rng) {
    const INTERESTING: [u8; 12] = [0, 1, 2, 3, 27, 28, 40, 0x7f, 0x80, 0xfe, 0xff, b'\\'];
    let at = rng.random_range(0..=input.len());
    match rng.random_range(0..7) {
        0 if at < input.len() => input[at] ^= 1 << rng.random_range(0..8),
        1 if at < input.len() => input[at] = INTERESTING[rng.random_range(0..INTERESTING.len())],
        2 if at < input.len() => input[at] = rng.random(),
        3 => input.insert(at, rng.random()),
        4 if at < input.len() => drop(input.remove(at)),
        5 => input.truncate(at),
        _ => {
            // the end of another input behind the start of this one
            let other = &corpus[rng.random_range(0..corpus.len())];
            input.truncate(at);
            input.extend_from_slice(&other[rng.random_range(0..=other.len())..]);
        }
    }
}
