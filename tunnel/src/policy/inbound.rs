//! The section `[inbound]` of the configuration.

use std::path::Path;

use serde::Deserialize;
use serde::de::Deserializer;

use super::{Otherwise, RuleText, WhoText};
use crate::Error;
use crate::config::place;
use crate::names::Given;
use crate::value::Text;

/// Rules of each list. More are not looked through for every packet of a stranger.
const MAX_RULES: usize = 1024;

/// The section `[inbound]`: who may open what, beside the trusted.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Inbound {
    /// `default = "reject"`, or `"drop"` for silence.
    pub default: Otherwise,
    /// `allow = ["laptop tcp/22"]`
    pub allow: Vec<Line>,
    /// `deny = ["laptop any"]`: looked at first; also the trusted are kept out.
    pub deny: Vec<Line>,
    /// `[names]` of the same file: rules may use them.
    #[serde(skip)]
    pub names: Given,
}

/// A rule and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// The rule.
    pub rule: RuleText,
    /// `/etc/anode/anode.toml:12`
    pub place: String,
    start: usize,
}

impl<'de> Deserialize<'de> for Line {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = toml::Spanned::<Text<RuleText>>::deserialize(deserializer)?;
        let start = text.span().start;
        Ok(Line {
            rule: text.into_inner().0,
            place: String::new(),
            start,
        })
    }
}

impl Inbound {
    /// Whether a rule names a zone, whose members must then be known.
    pub fn names_a_zone(&self) -> bool {
        let mut lines = self.allow.iter().chain(&self.deny);
        lines.any(|line| matches!(line.rule.who, WhoText::Zone(_)))
    }

    /// Gives every rule its place in `text`, the file at `path`, and checks what one rule alone cannot know.
    pub(crate) fn locate(&mut self, text: &str, path: &Path) -> Result<(), Error> {
        for lines in [&mut self.allow, &mut self.deny] {
            for (count, line) in lines.iter_mut().enumerate() {
                line.place = place(text, line.start, path);
                if count >= MAX_RULES {
                    return Err(Error::invalid(
                        line.place.as_str(),
                        format!(
                            "more than {MAX_RULES} rules: use ranges of ports, `any`, or `anode trust`"
                        ),
                    ));
                }
            }
        }
        // A rule that does nothing would make people feel safe.
        match self.deny.iter().find(|line| line.rule.what.is_echo()) {
            Some(line) => Err(Error::invalid(
                line.place.as_str(),
                format!(
                    "\"{}\": echo requests are always answered, no rule can deny them",
                    line.rule
                ),
            )),
            None => Ok(()),
        }
    }
}
