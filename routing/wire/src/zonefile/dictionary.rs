//! The flat `key=value` text of a zone file (A5, D1 to D3): bytes in, entries out, and back.
use std::collections::BTreeMap;
use std::ops::Range;

/// One `key=value`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Unescaped and trimmed, in the case it was written in.
    pub key: Vec<u8>,
    /// Unescaped and trimmed.
    pub value: Vec<u8>,
    /// Line in the file, from 1, as an editor shows it; 0 where the entry did not come from a file.
    pub line: usize,
    /// Whether there was a `=` at all.
    pub has_separator: bool,
}

/// The entries of a file in their order; of duplicates, the last.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Dictionary {
    /// In the order of the file, with the duplicates.
    entries: Vec<Entry>,
    /// Lower-case key to the last entry with it.
    last: BTreeMap<Vec<u8>, usize>,
}

impl Dictionary {
    /// Reads any bytes: there is no wrong dictionary, only one that does not hold what one looks for.
    pub fn parse(bytes: &[u8]) -> Self {
        let mut dictionary = Self::default();
        for line in lines(bytes) {
            if let Some(entry) = line.entry() {
                dictionary.push(entry);
            }
        }
        dictionary
    }

    fn push(&mut self, entry: Entry) {
        self.last
            .insert(entry.key.to_ascii_lowercase(), self.entries.len());
        self.entries.push(entry);
    }

    /// The entry with this key; ASCII case does not matter (D3).
    pub fn get(&self, key: &str) -> Option<&Entry> {
        let index = self.last.get(key.to_ascii_lowercase().as_bytes())?;
        self.entries.get(*index)
    }

    /// Sets a key, in its old place if it has one.
    pub fn set(&mut self, key: &str, value: &[u8]) {
        let entry = Entry {
            key: key.into(),
            value: value.into(),
            line: 0,
            has_separator: true,
        };
        match self.last.get(key.to_ascii_lowercase().as_bytes()) {
            Some(index) => self.entries[*index] = entry,
            None => self.push(entry),
        }
    }

    /// Takes a key out, with all its duplicates.
    pub fn remove(&mut self, key: &str) {
        let entries = std::mem::take(&mut self.entries);
        self.last.clear();
        for entry in entries {
            if !entry.key.eq_ignore_ascii_case(key.as_bytes()) {
                self.push(entry);
            }
        }
    }

    /// The text with other values for some keys and nothing else touched: comments, blank lines and line ends stay. A
    /// key that is not there comes last; of duplicates, the last stays.
    pub fn edit(text: &[u8], changes: &[(&str, &[u8])]) -> Vec<u8> {
        let entries: Vec<_> = lines(text)
            .into_iter()
            .filter_map(|line| Some((line.entry()?.key, line.span)))
            .collect();
        let last = |name: &str| {
            entries
                .iter()
                .rposition(|(key, _)| key.eq_ignore_ascii_case(name.as_bytes()))
        };
        let mut out = Vec::with_capacity(text.len());
        let mut copied = 0;
        for (index, (key, span)) in entries.iter().enumerate() {
            let named = |(name, _): &&(&str, _)| key.eq_ignore_ascii_case(name.as_bytes());
            let Some((name, value)) = changes.iter().find(named) else {
                continue;
            };
            out.extend_from_slice(&text[copied..span.start]);
            copied = span.end;
            if last(name) == Some(index) {
                write_entry(name.as_bytes(), value, &mut out);
            }
        }
        out.extend_from_slice(&text[copied..]);

        let end = line_end(text);
        for (name, value) in changes.iter().filter(|(name, _)| last(name).is_none()) {
            finish_line(&mut out, end);
            write_entry(name.as_bytes(), value, &mut out);
            out.extend_from_slice(end);
        }
        out
    }

    /// The text with CR LF where a line ends with CR, LF or both: what every reader of D1 takes for lines.
    pub fn with_crlf(text: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(text.len());
        let mut after_cr = false;
        for (place, token) in tokens(text) {
            match (token.is(b'\r'), token.is(b'\n')) {
                (true, _) => out.extend_from_slice(b"\r\n"),
                (_, true) if after_cr => {}
                (_, true) => out.extend_from_slice(b"\r\n"),
                _ => out.extend_from_slice(&text[place.bytes]),
            }
            after_cr = token.is(b'\r');
        }
        out
    }

    /// The first line that ends with LF alone in a text whose lines end with CR: it is one with the next (D1).
    pub fn bare_lf(text: &[u8]) -> Option<usize> {
        let mut after_cr = false;
        let mut found = None;
        let mut any_cr = false;
        for (place, token) in tokens(text) {
            if token.is(b'\n') && !after_cr {
                found = found.or(Some(place.line));
            }
            after_cr = token.is(b'\r');
            any_cr |= after_cr;
        }
        found.filter(|_| any_cr)
    }

    /// All entries that count, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.marked()
            .filter_map(|(entry, counts)| counts.then_some(entry))
    }

    /// The entries that a later one with the same key overrides.
    pub fn overridden(&self) -> impl Iterator<Item = &Entry> {
        self.marked()
            .filter_map(|(entry, counts)| (!counts).then_some(entry))
    }

    fn marked(&self) -> impl Iterator<Item = (&Entry, bool)> {
        self.entries.iter().enumerate().map(|(index, entry)| {
            let last = self.last.get(&entry.key.to_ascii_lowercase());
            (entry, last == Some(&index))
        })
    }

    /// The file: CR LF after each entry, which means the same to every reader of D1 and to editors.
    pub fn emit(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for entry in self.iter() {
            write_entry(&entry.key, &entry.value, &mut out);
            out.extend_from_slice(b"\r\n");
        }
        out
    }
}

fn write_entry(key: &[u8], value: &[u8], out: &mut Vec<u8>) {
    escape(key, Field::Key, out);
    out.push(b'=');
    escape(value, Field::Value, out);
}

/// What ends a line in this text.
fn line_end(text: &[u8]) -> &'static [u8] {
    match separator(text) {
        b'\r' if text.windows(2).any(|pair| pair == b"\r\n") => b"\r\n",
        b'\r' => b"\r",
        _ => b"\n",
    }
}

/// Ends the last line, if there is one that has no end.
fn finish_line(text: &mut Vec<u8>, end: &[u8]) {
    // a backslash at the end of the file is dropped (D2); here it would escape what follows
    let backslashes = text.iter().rev().take_while(|byte| **byte == b'\\').count();
    text.truncate(text.len() - backslashes % 2);
    if lines(text)
        .last()
        .is_some_and(|line| !line.tokens.is_empty())
    {
        text.extend_from_slice(end);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    Key,
    Value,
}

fn escape(bytes: &[u8], field: Field, out: &mut Vec<u8>) {
    for (at, byte) in bytes.iter().enumerate() {
        let is_edge = at == 0 || at + 1 == bytes.len();
        let needs_escape = match byte {
            b'\\' | b'\r' | b'\n' => true,
            b'=' => field == Field::Key,
            b';' => field == Field::Key && at == 0,
            b' ' | b'\t' => is_edge,
            _ => false,
        };
        if needs_escape {
            out.push(b'\\');
        }
        out.push(*byte);
    }
}

/// A byte, and whether a backslash made it an ordinary one.
#[derive(Clone, Copy)]
struct Token {
    byte: u8,
    escaped: bool,
}

impl Token {
    fn is(self, byte: u8) -> bool {
        self.byte == byte && !self.escaped
    }

    fn is_blank(self) -> bool {
        self.is(b' ') || self.is(b'\t')
    }
}

#[derive(Default)]
struct Line {
    number: usize,
    /// Its bytes, without what ends it.
    span: Range<usize>,
    tokens: Vec<Token>,
}

impl Line {
    /// `None`: a comment, or blank.
    fn entry(&self) -> Option<Entry> {
        if self.tokens.first()?.is(b';') {
            return None;
        }
        // D3: the first unescaped `=`; further ones belong to the value
        let separator = self.tokens.iter().position(|token| token.is(b'='));
        let (key, value) = match separator {
            Some(at) => (&self.tokens[..at], &self.tokens[at + 1..]),
            None => (self.tokens.as_slice(), [].as_slice()),
        };
        let (key, value) = (trimmed(key), trimmed(value));
        if separator.is_none() && key.is_empty() {
            return None;
        }
        Some(Entry {
            key,
            value,
            line: self.number,
            has_separator: separator.is_some(),
        })
    }
}

fn trimmed(tokens: &[Token]) -> Vec<u8> {
    let start = tokens
        .iter()
        .position(|token| !token.is_blank())
        .unwrap_or(tokens.len());
    let end = tokens
        .iter()
        .rposition(|token| !token.is_blank())
        .map_or(start, |last| last + 1);
    tokens[start..end].iter().map(|token| token.byte).collect()
}

/// Where a token stands.
#[derive(Clone)]
struct Place {
    /// Line of the file, from 1.
    line: usize,
    /// With its backslash.
    bytes: Range<usize>,
}

/// D2: one walk from left to right; an escaped backslash escapes nothing. A backslash at the end of the file is dropped.
fn tokens(bytes: &[u8]) -> impl Iterator<Item = (Place, Token)> {
    let mut at = 0;
    let mut line = 1;
    std::iter::from_fn(move || {
        let mut next = |line: &mut usize| {
            let byte = *bytes.get(at)?;
            // an editor's lines: CR, LF and CR LF each end one
            let previous = at.checked_sub(1).map(|before| bytes[before]);
            *line +=
                usize::from(previous == Some(b'\r') && byte != b'\n' || previous == Some(b'\n'));
            at += 1;
            Some(byte)
        };
        let byte = next(&mut line)?;
        let start = line;
        let token = match byte {
            b'\\' => Token {
                byte: next(&mut line)?,
                escaped: true,
            },
            _ => Token {
                byte,
                escaped: false,
            },
        };
        let place = Place {
            line: start,
            bytes: at - 1 - usize::from(token.escaped)..at,
        };
        Some((place, token))
    })
}

/// D1: with one unescaped CR anywhere, CR separates and LF is nothing; without, LF separates.
fn separator(bytes: &[u8]) -> u8 {
    if tokens(bytes).any(|(_, token)| token.is(b'\r')) {
        b'\r'
    } else {
        b'\n'
    }
}

fn lines(bytes: &[u8]) -> Vec<Line> {
    let separator = separator(bytes);
    let mut lines = Vec::new();
    let mut line = Line::default();
    for (place, token) in tokens(bytes) {
        if token.is(separator) {
            lines.push(std::mem::take(&mut line));
        } else if !token.is(b'\n') {
            if line.tokens.is_empty() {
                line.number = place.line;
                line.span.start = place.bytes.start;
            }
            line.tokens.push(token);
            line.span.end = place.bytes.end;
        }
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{hex, vectors};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn map(dictionary: &Dictionary) -> BTreeMap<String, String> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        dictionary
            .iter()
            .map(|e| (text(&e.key).to_ascii_lowercase(), text(&e.value)))
            .collect()
    }

    fn parsed(text: &str) -> BTreeMap<String, String> {
        map(&Dictionary::parse(text.as_bytes()))
    }

    fn entries(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries
            .iter()
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect()
    }

    // A5, D1, D2, D3
    #[test]
    fn vectors_pass_where_we_follow_the_library() {
        let ours = [
            "escaped CRLF in value",
            "escaped backslash at end of line",
            "double =",
        ];
        let mut followed = 0;
        for vector in vectors("zone_dictionary") {
            let name = vector["name"].as_str().unwrap();
            if ours.contains(&name) {
                continue;
            }
            followed += 1;
            let expected: BTreeMap<String, String> =
                serde_json::from_value(vector["entries"].clone()).unwrap();
            assert_eq!(
                map(&Dictionary::parse(&hex(&vector["input"]))),
                expected,
                "{name}"
            );
        }
        assert_eq!(followed, 18);
    }

    // D1, D2, D3: where the library has bugs that must not be copied
    #[test]
    fn vectors_differ_where_we_do_not_follow_the_library() {
        let input = |name| hex(&crate::vectors::vector("zone_dictionary", "name", name)["input"]);
        for (name, expected) in [
            // the LF after the escaped CR vanishes, as every LF of a file with CRs does
            (
                "escaped CRLF in value",
                entries(&[("d", "line1\rline2"), ("n", "x")]),
            ),
            (
                "escaped backslash at end of line",
                entries(&[("d", "a\\"), ("n", "x")]),
            ),
            ("double =", entries(&[("k", "=v")])),
        ] {
            assert_eq!(map(&Dictionary::parse(&input(name))), expected, "{name}");
        }
    }

    // D1
    #[test]
    fn one_unescaped_cr_decides_what_separates() {
        assert_eq!(parsed("a=1\nb=2"), entries(&[("a", "1"), ("b", "2")]));
        assert_eq!(parsed("a=1\nb=2\r"), entries(&[("a", "1b=2")]));
        assert_eq!(parsed("a=1\r\nb=2\r\n"), entries(&[("a", "1"), ("b", "2")]));
        // an escaped CR does not decide, and an escaped LF stays
        assert_eq!(parsed("a=1\\\r\nb=2"), entries(&[("a", "1\r"), ("b", "2")]));
        assert_eq!(
            parsed("a=1\\\nb=2\rc=3"),
            entries(&[("a", "1\nb=2"), ("c", "3")])
        );
    }

    // D2, D3
    #[test]
    fn escapes_comments_and_blanks() {
        for (text, expected) in [
            ("a=\\r", entries(&[("a", "r")])),
            ("a=b\\", entries(&[("a", "b")])),
            ("a=\\\\\\", entries(&[("a", "\\")])),
            ("\\;a=b", entries(&[(";a", "b")])),
            (" ;a=b", entries(&[(";a", "b")])),
            ("a=b;c", entries(&[("a", "b;c")])),
            ("a=\\ b\\ ", entries(&[("a", " b ")])),
            ("a=\t b \t", entries(&[("a", "b")])),
            ("  \n\t\n\n", entries(&[])),
            ("=", entries(&[("", "")])),
            ("", entries(&[])),
        ] {
            assert_eq!(parsed(text), expected, "{text:?}");
        }
    }

    // D3: bytes are kept as bytes
    #[test]
    fn bytes_that_are_no_utf8_are_kept() {
        let dictionary = Dictionary::parse(b"d=\xff\xfe\r");
        assert_eq!(dictionary.get("D").unwrap().value, b"\xff\xfe");
        assert_eq!(dictionary.emit(), b"d=\xff\xfe\r\n");
    }

    #[test]
    fn entries_know_their_line_as_an_editor_shows_it() {
        for (text, lines) in [
            ("a=1\nb=2\n\nc=3", [1, 2, 4]),
            ("a=1\rb=2\r\rc=3", [1, 2, 4]),
            ("a=1\r\nb=2\r\n\r\nc=3", [1, 2, 4]),
            (";x\na=1\nb=\\\n2\nc=3", [2, 3, 5]),
            ("a=1\r\nb=\\\r\n2\r\nc=3", [1, 2, 4]),
        ] {
            let found: Vec<usize> = Dictionary::parse(text.as_bytes())
                .iter()
                .map(|e| e.line)
                .collect();
            assert_eq!(found, lines, "{text:?}");
        }
    }

    #[test]
    fn set_replaces_in_place_and_the_overridden_are_known() {
        let mut dictionary = Dictionary::parse(b"a=1\nB=2\nA=3");
        assert_eq!(
            dictionary.overridden().map(|e| e.line).collect::<Vec<_>>(),
            [1]
        );
        assert_eq!(dictionary.emit(), b"B=2\r\nA=3\r\n");
        dictionary.set("b", b"4");
        dictionary.set("c", b"5");
        assert_eq!(dictionary.emit(), b"b=4\r\nA=3\r\nc=5\r\n");
    }

    #[test]
    fn an_edit_leaves_everything_else_as_it_was() {
        let changes: [(&str, &[u8]); 2] = [("r", b"8"), ("sig", b"x ")];
        for (text, expected) in [
            ("", "r=8\nsig=x\\ \n"),
            ("; c\nR = 7 \n\nn=a", "; c\nr=8\n\nn=a\nsig=x\\ \n"),
            ("r=1\r\nsig=\r\nn=a\r\n", "r=8\r\nsig=x\\ \r\nn=a\r\n"),
            ("r=1\rn=a\r", "r=8\rn=a\rsig=x\\ \r"),
            ("r=1\nr=2\nsig=1", "\nr=8\nsig=x\\ "),
            ("n=a\\\n\nr=1", "n=a\\\n\nr=8\nsig=x\\ \n"),
            ("n=a\\", "n=a\nr=8\nsig=x\\ \n"),
            ("n=a\\\\", "n=a\\\\\nr=8\nsig=x\\ \n"),
            ("n=a\\\n", "n=a\\\n\nr=8\nsig=x\\ \n"),
        ] {
            let edited = Dictionary::edit(text.as_bytes(), &changes);
            assert_eq!(String::from_utf8(edited).unwrap(), expected, "{text:?}");
        }
        let mut dictionary = Dictionary::parse(b"r=1\nR=2\nn=a");
        dictionary.remove("r");
        assert_eq!(dictionary.emit(), b"n=a\r\n");
    }

    // D1
    #[test]
    fn an_editor_that_ends_lines_with_lf_in_a_file_with_crs_is_noticed() {
        for (text, line, mended) in [
            ("a=1\r\nb=2\r\n", None, "a=1\r\nb=2\r\n"),
            ("a=1\nb=2\n", None, "a=1\r\nb=2\r\n"),
            ("a=1\rb=2", None, "a=1\r\nb=2"),
            ("a=1\r\nb=2\nc=3\r\n", Some(2), "a=1\r\nb=2\r\nc=3\r\n"),
            ("\n\r", Some(1), "\r\n\r\n"),
            ("a=\\\nb\r\r\n", None, "a=\\\nb\r\n\r\n"),
        ] {
            assert_eq!(Dictionary::bare_lf(text.as_bytes()), line, "{text:?}");
            let crlf = Dictionary::with_crlf(text.as_bytes());
            assert_eq!(String::from_utf8(crlf).unwrap(), mended, "{text:?}");
        }
    }

    fn nasty() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![
            proptest::sample::select(b"\\\r\n=; \t:,.ab\xff".to_vec()),
            any::<u8>(),
        ];
        proptest::collection::vec(byte, 0..40)
    }

    proptest! {
        #[test]
        fn written_entries_are_read_back(pairs in proptest::collection::vec((nasty(), nasty()), 0..10)) {
            let mut dictionary = Dictionary::default();
            for (key, value) in pairs {
                dictionary.push(Entry { key, value, line: 0, has_separator: true });
            }
            let again = Dictionary::parse(&dictionary.emit());
            let pairs = |d: &Dictionary| d.iter().map(|e| (e.key.clone(), e.value.clone())).collect::<Vec<_>>();
            prop_assert_eq!(pairs(&again), pairs(&dictionary));
        }

        // an edit changes what it shall and nothing else, whatever the text
        #[test]
        fn edited_texts_have_the_new_values_and_the_old_rest(
            bytes in proptest::collection::vec(nasty(), 0..20),
            value in nasty(),
        ) {
            let text = bytes.concat();
            let edited = Dictionary::parse(&Dictionary::edit(&text, &[("a", &value)]));
            prop_assert_eq!(&edited.get("a").unwrap().value, &value);
            let mut before = Dictionary::parse(&text);
            before.set("a", &value);
            prop_assert_eq!(map(&edited), map(&before));
        }

        // S1: whatever is read can be written and means the same
        #[test]
        fn any_bytes_read_write_and_read_alike(bytes in proptest::collection::vec(nasty(), 0..20)) {
            let dictionary = Dictionary::parse(&bytes.concat());
            let again = Dictionary::parse(&dictionary.emit());
            prop_assert_eq!(map(&again), map(&dictionary));
            prop_assert_eq!(again.emit(), dictionary.emit());
        }
    }
}
