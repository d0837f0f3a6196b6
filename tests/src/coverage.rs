//! Which requirement ids of docs/spec no test names.
//!
//! ```text
//!   docs/spec/*.md ──ids──┐
//!                         ├── per list: ids, and those that no test names ── compared with docs/spec/coverage.txt
//!   test code, comments ──┘
//! ```
//!
//! An id counts as named when it stands in a `//` comment of test code: in a file below a `tests` or `fuzz_targets`
//! directory, in a `tests.rs`, in a `#[cfg(test)]` module, or in the file of one. `A50 to A53` and `A50..A53` name four.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The lists: their letter and the file that defines them.
const LISTS: [(&str, &str); 11] = [
    ("A", "anode.md"),
    ("D", "anode.md"),
    ("Q", "sealed.md"),
    ("N", "netstack.md"),
    ("S", "security.md"),
    ("U", "field.md"),
    ("R", "reload.md"),
    ("RD", "reload.md"),
    ("T", "turn.md"),
    ("B", "discovery.md"),
    ("I", "i2cp.md"),
];

/// A requirement: the letter of its list and its number.
pub type Id = (&'static str, u32);

/// One list and what no test names of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct List {
    /// Its letter.
    pub letter: &'static str,
    /// How many ids it has.
    pub ids: usize,
    /// Those that no test names.
    pub missing: BTreeSet<u32>,
}

/// Reads the lists in `spec` and the test code below `root`.
pub fn measure(root: &Path, spec: &Path) -> io::Result<Vec<List>> {
    let mut defined: BTreeMap<&'static str, BTreeSet<u32>> = BTreeMap::new();
    for (letter, file) in LISTS {
        let text = fs::read_to_string(spec.join(file))?;
        let numbers = ids(&text)
            .filter(|(found, _)| *found == letter)
            .map(|(_, number)| number);
        defined.insert(letter, numbers.collect());
    }
    let mut named = BTreeSet::new();
    for file in rust_files(root)? {
        named.extend(named_in(&file, root)?);
    }
    let list = |(letter, _): (&'static str, &str)| {
        let all = &defined[letter];
        let missing = all
            .iter()
            .copied()
            .filter(|number| !named.contains(&(letter, *number)));
        List {
            letter,
            ids: all.len(),
            missing: missing.collect(),
        }
    };
    Ok(LISTS.into_iter().map(list).collect())
}

/// Every id in `text`, ranges spelled out.
fn ids(text: &str) -> impl Iterator<Item = Id> + '_ {
    let mut rest = text;
    let mut queue = Vec::new();
    let mut before: Option<char> = None;
    std::iter::from_fn(move || {
        loop {
            if let Some(id) = queue.pop() {
                return Some(id);
            }
            let first = rest.chars().next()?;
            let fresh = !before.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
            match fresh.then(|| take_id(rest)).flatten() {
                Some(((letter, from), after)) => {
                    let (last, after) = range_end((letter, from), after).unwrap_or((from, after));
                    queue.extend((from..=last).rev().map(|number| (letter, number)));
                    before = rest[..rest.len() - after.len()].chars().next_back();
                    rest = after;
                }
                None => {
                    before = Some(first);
                    rest = &rest[first.len_utf8()..];
                }
            }
        }
    })
}

/// An id at the start of `text`, and what follows it.
fn take_id(text: &str) -> Option<(Id, &str)> {
    let letters = text.find(|c: char| !c.is_ascii_uppercase())?;
    let (letter, _) = LISTS
        .into_iter()
        .find(|(letter, _)| *letter == &text[..letters])?;
    let digits = &text[letters..];
    let end = digits
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(digits.len());
    let number = digits[..end].parse().ok()?;
    let after = &digits[end..];
    let whole = !after.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    whole.then_some(((letter, number), after))
}

/// The last number of a range that began with `from`, and what follows it.
fn range_end((letter, from): Id, after: &str) -> Option<(u32, &str)> {
    let between = [" to ", "..=", "..", " - ", "-", " – ", "–"];
    let second = between
        .iter()
        .find_map(|between| after.strip_prefix(between))?;
    let ((other, last), after) = take_id(second)?;
    (other == letter && (from..from + 200).contains(&last)).then_some((last, after))
}

fn rust_files(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    directories.push(path);
                }
            } else if name.ends_with(".rs") && !path.ends_with("tests/src/coverage.rs") {
                // This file's own examples name nothing.
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The ids that the test code of one file names.
fn named_in(file: &Path, root: &Path) -> io::Result<BTreeSet<Id>> {
    let text = fs::read_to_string(file)?;
    let lines = if is_test_file(file, root) {
        text.lines().collect()
    } else {
        test_lines(&text)
    };
    Ok(lines
        .into_iter()
        .filter_map(comment)
        .flat_map(ids)
        .collect())
}

fn is_test_file(file: &Path, root: &Path) -> bool {
    let inside = file.strip_prefix(root).unwrap_or(file);
    let in_test_directory = inside.parent().is_some_and(|d| {
        d.iter()
            .any(|part| part == "tests" || part == "fuzz_targets")
    });
    in_test_directory
        || file.file_name().is_some_and(|name| name == "tests.rs")
        || declared_as_test(file)
}

/// Whether the parent module has `#[cfg(test)] mod NAME;` for this file.
fn declared_as_test(file: &Path) -> bool {
    let (Some(name), Some(directory)) = (file.file_stem().and_then(|n| n.to_str()), file.parent())
    else {
        return false;
    };
    let beside = ["lib.rs", "main.rs", "mod.rs"].map(|parent| directory.join(parent));
    let above = directory.with_extension("rs");
    beside
        .iter()
        .chain([&above])
        .filter_map(|parent| fs::read_to_string(parent).ok())
        .any(|text| {
            let mut lines = text.lines().map(str::trim);
            let declaration = [format!("mod {name};"), format!("pub(crate) mod {name};")];
            while let Some(line) = lines.next() {
                if line == "#[cfg(test)]"
                    && lines
                        .next()
                        .is_some_and(|next| declaration.iter().any(|d| d == next))
                {
                    return true;
                }
            }
            false
        })
}

/// The lines inside `#[cfg(test)]` items that open a brace. Formatted code closes it at the same indentation.
fn test_lines(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim() != "#[cfg(test)]" {
            continue;
        }
        let indent = &line[..line.len() - line.trim_start().len()];
        let end = format!("{indent}}}");
        let opened = lines
            .by_ref()
            .find(|line| !line.trim_start().starts_with("#["));
        if opened.is_some_and(|line| line.ends_with('{')) {
            found.extend(lines.by_ref().take_while(|line| *line != end));
        }
    }
    found
}

fn comment(line: &str) -> Option<&str> {
    let at = line
        .match_indices("//")
        .map(|(at, _)| at)
        .find(|&at| at == 0 || line[..at].ends_with(char::is_whitespace))?;
    Some(&line[at..])
}

/// Numbers with runs as `3-7`.
pub fn ranges(numbers: &BTreeSet<u32>) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for &number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let run = |(first, last): (u32, u32)| {
        if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        }
    };
    runs.into_iter().map(run).collect::<Vec<_>>().join(" ")
}

/// The text of a baseline for these lists.
pub fn baseline(lists: &[List]) -> String {
    let head = "# Ids that no test names, per list: letter, ids, missing. tests/coverage fails when missing grows.\n";
    let rows = lists
        .iter()
        .map(|list| format!("{} {} {}\n", list.letter, list.ids, list.missing.len()));
    std::iter::once(head.to_owned()).chain(rows).collect()
}

/// What grew beyond `baseline`, in words; a list that stands in none may have no missing ids.
pub fn grown(lists: &[List], baseline: &str) -> Vec<String> {
    let allowed: BTreeMap<&str, usize> = baseline
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?, words.nth(1)?.parse().ok()?))
        })
        .collect();
    let worse = |list: &&List| list.missing.len() > allowed.get(list.letter).copied().unwrap_or(0);
    let say = |list: &List| {
        let allowed = allowed.get(list.letter).copied().unwrap_or(0);
        format!(
            "{}: {} ids are named by no test, {allowed} were allowed",
            list.letter,
            list.missing.len()
        )
    };
    lists.iter().filter(worse).map(say).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        ids(text)
            .map(|(letter, number)| format!("{letter}{number}"))
            .collect()
    }

    #[test]
    fn ids_are_whole_words_of_known_lists_and_ranges_are_spelled_out() {
        let cases: [(&str, &[&str]); 8] = [
            ("// A12, D9", &["A12", "D9"]),
            ("see RD7 and R7.", &["RD7", "R7"]),
            ("(Q3 to Q5)", &["Q3", "Q4", "Q5"]),
            ("N2..N4; S1-S2", &["N2", "N3", "N4", "S1", "S2"]),
            ("RFC 9438, SHA256, X25519, BA12, A12x, _A1, a12", &[]),
            ("A1", &["A1"]),
            ("A5 to D6", &["A5", "D6"]),
            ("ä D1 ö", &["D1"]),
        ];
        for (text, expected) in cases {
            assert_eq!(found(text), expected, "{text}");
        }
    }

    #[test]
    fn only_comments_inside_test_modules_count() {
        let text = "// D1\nfn a() {} // D2\n#[cfg(test)]\nmod tests {\n    // D3\n    fn b() {\n        x(\"http://D4\");\n    }\n}\n// D5\n";
        let named: Vec<_> = test_lines(text)
            .into_iter()
            .filter_map(comment)
            .flat_map(ids)
            .collect();
        assert_eq!(named, [("D", 3)]);
    }

    #[test]
    fn a_module_without_body_opens_nothing() {
        assert!(test_lines("#[cfg(test)]\nmod tests;\n// D1\nfn a() {\n    // D2\n}\n").is_empty());
    }

    #[test]
    fn a_list_that_grows_fails_and_one_that_shrinks_does_not() {
        let list = |letter, missing: &[u32]| List {
            letter,
            ids: 9,
            missing: missing.iter().copied().collect(),
        };
        let old = baseline(&[list("A", &[1, 2]), list("D", &[1])]);
        assert!(grown(&[list("A", &[3]), list("D", &[4])], &old).is_empty());
        assert_eq!(
            grown(&[list("A", &[1, 2, 3]), list("D", &[])], &old).len(),
            1
        );
        assert_eq!(
            grown(&[list("Q", &[1])], &old).len(),
            1,
            "a list without a baseline"
        );
    }

    #[test]
    fn runs_are_joined() {
        assert_eq!(ranges(&[1, 2, 3, 5, 8, 9].into()), "1-3 5 8-9");
    }
}
