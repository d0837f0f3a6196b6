//! Destinations of I2P that people have named or trust, as they stand in the trust book.

use anode_routing::i2p::{Hash, Name};
use serde::{Deserialize, Serialize};

use crate::value::{Text, ValueError};

/// As many as there are peers in a book.
const MAX: usize = super::book::MAX_PEERS;

/// `site.i2p`: a host name of I2P, in lower case.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct I2pHost(String);

impl I2pHost {
    /// The name, `.i2p` and all.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for I2pHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for I2pHost {
    type Err = ValueError;

    /// Takes `site` for `site.i2p`.
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let whole = match text.to_ascii_lowercase() {
            name if name.trim_end_matches('.').ends_with(".i2p") || name.ends_with(".alt") => name,
            name => format!("{name}.i2p"),
        };
        match whole.parse::<Name>() {
            Ok(Name::Host(name)) => Ok(Self(name)),
            Ok(_) => Err(ValueError::new(format!(
                "{text:?} is the destination itself: give it a name such as site.i2p"
            ))),
            Err(error) => Err(ValueError::new(error.to_string())),
        }
    }
}

/// `<52 characters>.b32.i2p`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct B32(pub Hash);

impl std::str::FromStr for B32 {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text.parse::<Name>() {
            Ok(Name::Hash(hash)) => Ok(Self(hash)),
            _ => Err(ValueError::new(format!(
                "{text:?} is no destination: write its 52 characters and .b32.i2p"
            ))),
        }
    }
}

/// One of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Destination {
    /// Who.
    pub hash: Hash,
    /// What this machine calls it.
    pub name: Option<I2pHost>,
    /// It may do anything here.
    pub trusted: bool,
}

/// All of them, in the order in which they came.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Destinations(Vec<Destination>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileDestination {
    b32: Text<B32>,
    name: Option<Text<I2pHost>>,
    #[serde(default)]
    trusted: bool,
}

#[derive(Serialize)]
pub(super) struct FileDestinationOut {
    b32: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    trusted: bool,
}

impl Destinations {
    /// All.
    pub fn iter(&self) -> impl Iterator<Item = &Destination> {
        self.0.iter()
    }

    /// Who has this name.
    pub fn by_name(&self, name: &str) -> Option<&Destination> {
        let is_called = |one: &&Destination| one.name.as_ref().is_some_and(|n| n.as_str() == name);
        self.0.iter().find(is_called)
    }

    /// The entry of a destination.
    pub fn by_hash(&self, hash: &Hash) -> Option<&Destination> {
        self.0.iter().find(|one| one.hash == *hash)
    }

    /// Names one, and trusts it if `trusted`; what it was stays where nothing new is said. A name of another is refused.
    pub fn add(
        &mut self,
        hash: Hash,
        name: Option<I2pHost>,
        trusted: bool,
    ) -> Result<Destination, String> {
        if let Some(name) = &name
            && let Some(other) = self.by_name(name.as_str())
            && other.hash != hash
        {
            return Err(format!(
                "name {name} is {} already: choose another",
                other.hash
            ));
        }
        if let Some(one) = self.0.iter_mut().find(|one| one.hash == hash) {
            one.name = name.or(one.name.take());
            one.trusted |= trusted;
            return Ok(one.clone());
        }
        if self.0.len() >= MAX {
            return Err(format!("the book is full: {MAX} destinations"));
        }
        let one = Destination {
            hash,
            name,
            trusted,
        };
        self.0.push(one.clone());
        Ok(one)
    }

    /// Takes trust back. A name stays; one without goes. What it was, if it was trusted.
    pub fn distrust(&mut self, hash: &Hash) -> Option<Destination> {
        let index = self
            .0
            .iter()
            .position(|one| one.hash == *hash && one.trusted)?;
        self.0[index].trusted = false;
        let one = self.0[index].clone();
        if one.name.is_none() {
            self.0.remove(index);
        }
        Some(one)
    }

    pub(super) fn read(&mut self, file: FileDestination) -> Result<(), String> {
        let name = file.name.map(|name| name.0);
        self.add(file.b32.0.0, name, file.trusted).map(|_| ())
    }

    pub(super) fn write(&self) -> Vec<FileDestinationOut> {
        let out = |one: &Destination| FileDestinationOut {
            b32: one.hash.b32(),
            name: one.name.as_ref().map(ToString::to_string),
            trusted: one.trusted,
        };
        self.0.iter().map(out).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_brought_to_one_form_and_belong_to_one_destination() {
        let site: I2pHost = "Site".parse().unwrap();
        assert_eq!(site.as_str(), "site.i2p");
        for same in ["site.i2p", "SITE.I2P.", "site.i2p.alt"] {
            assert_eq!(same.parse::<I2pHost>().unwrap(), site, "{same}");
        }
        let (one, two) = (Hash([1; 32]), Hash([2; 32]));
        for bad in ["", "a_b", "-a", &one.b32(), "a..i2p"] {
            assert!(bad.parse::<I2pHost>().is_err(), "{bad:?}");
        }
        let mut all = Destinations::default();
        all.add(one, Some(site.clone()), false).unwrap();
        assert!(all.add(two, Some(site), true).is_err());
        all.add(two, None, true).unwrap();
        assert_eq!(all.by_name("site.i2p").unwrap().hash, one);
        all.add(one, None, true).unwrap();
        let entry = all.by_hash(&one).unwrap();
        assert!(entry.trusted && entry.name.is_some());
        assert!(all.distrust(&one).is_some() && all.distrust(&one).is_none());
        assert!(all.by_hash(&one).is_some(), "its name stays");
        assert!(all.distrust(&two).is_some() && all.by_hash(&two).is_none());
    }

    #[test]
    fn a_destination_is_written_with_all_of_its_hash() {
        let hash = Hash([7; 32]);
        assert_eq!(hash.b32().parse::<B32>().unwrap().0, hash);
        for bad in ["site.i2p", "abc.b32.i2p", "", &hash.b32()[..52]] {
            assert!(bad.parse::<B32>().is_err(), "{bad:?}");
        }
    }
}
