//! `[[zones]]`: zones beside the own one, whose relays lead to their machines (A26, U11).
//!
//! Only zones that the user names are fetched (D5), each as its own: with its key, its copy on disk, its pace. From their
//! files come relays and nothing else: members, services and host names are the own zone's alone.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anode_wire::Zone;
use serde::Deserialize;

use super::ZoneFrom;
use super::http::Fetcher;
use super::keeper::Keeper;
use crate::Error;
use crate::command::Command;
use crate::control::server::Control;
use crate::state::StateDir;
use crate::value::{Text, ZoneText};

/// So many at most: each is a task and a fetch now and then.
const MAX_ZONES: usize = 16;

/// One entry.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct OtherZone {
    /// `zone = "2b"`
    zone: Text<ZoneText>,
    /// `zone-file = "http://192.0.2.9:8737/z"`; by the zone's name and IP when not given.
    zone_file: Option<Text<ZoneFrom>>,
}

impl OtherZone {
    /// A path is from the configuration's `directory`.
    pub fn locate(&mut self, directory: &Path) {
        let from = self.zone_file.take();
        self.zone_file = from.map(|from| Text(from.0.relative_to(directory)));
    }

    /// Where its file comes from.
    pub fn from(&self) -> ZoneFrom {
        let from = self.zone_file.as_ref();
        from.map(|from| from.0.clone()).unwrap_or_default()
    }
}

/// What keeps their files, the copies on disk in use.
pub fn keepers(list: &[OtherZone], own: Zone, dir: &StateDir) -> Result<Vec<Keeper>, Error> {
    let wrong = |problem: String| Error::invalid("[[zones]]", problem);
    if list.len() > MAX_ZONES {
        return Err(wrong(format!("at most {MAX_ZONES} zones")));
    }
    let mut keepers: Vec<Keeper> = Vec::new();
    for entry in list {
        let zone = entry.zone.0.0;
        if zone == own {
            return Err(wrong(format!(
                "zone {zone} is this node's own: its file is zone-file"
            )));
        }
        if zone == Zone::LOCAL {
            return Err(wrong("zone 0 is local only and has no relays".into()));
        }
        if keepers.iter().any(|known| known.zone() == zone) {
            return Err(wrong(format!("zone {zone} stands there twice")));
        }
        let from = entry.from();
        let fetcher = match from.needs_tls() {
            true => Fetcher::with_tls()?,
            false => Fetcher::plain(),
        };
        let mut keeper = Keeper::new(from, zone, fetcher, dir)?;
        keeper.read_path_first()?;
        keepers.push(keeper);
    }
    Ok(keepers)
}

/// Looks for the file now and then, and tells the data thread of the relays in it. Each trouble is told once (S26).
pub(crate) async fn keep(control: Arc<Control>, mut keeper: Keeper) {
    let zone = keeper.zone();
    let mut in_use = None;
    let mut trouble: Option<String> = None;
    // A path was read before the start; a server is asked at once.
    let mut wait = match keeper.from() {
        ZoneFrom::Path(_) => keeper.next(),
        _ => Duration::ZERO,
    };
    loop {
        if let Some(known) = keeper.known()
            && in_use.as_ref() != Some(&known.file)
        {
            in_use = Some(known.file.clone());
            tracing::info!(%zone, revision = known.file.revision(), "relays of another zone");
            let relays = known.relays();
            let sent = control.insist(|reply| Command::SetRelays {
                relays: relays.clone(),
                reply,
            });
            if let Err(error) = sent.await {
                tracing::error!("zone {zone} has changed, but: {error}");
            }
        }
        if keeper.is_idle() {
            return;
        }
        tokio::time::sleep(wait).await;
        if keeper.is_due() {
            let told = keeper.look(false).await.err();
            let told = told.map(|trouble| trouble.to_string());
            if let Some(text) = &told
                && trouble.as_ref() != Some(text)
            {
                tracing::warn!("file of zone {zone}: {text}");
            }
            trouble = told;
            if let Err(error) = keeper.save(&control.state) {
                tracing::warn!("the copy of zone {zone}: {error}");
            }
        }
        wait = keeper.next();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::state::testing::TestDir;

    // U11
    #[test]
    fn other_zones_are_named_once_each_and_are_not_the_own_one() {
        let test = TestDir::new();
        let state = StateDir::find(Some(test.path())).unwrap().lock().unwrap();
        let many: String = (1..=17)
            .map(|zone| format!("[[zones]]\nzone = \"{zone}\"\n"))
            .collect();
        let cases = [
            (
                "[[zones]]\nzone = \"2b\"\nzone-file = \"none\"\n[[zones]]\nzone = \"2c\"\n",
                Ok(2),
            ),
            ("[[zones]]\nzone = \"2a\"\n", Err("this node's own")),
            ("[[zones]]\nzone = \"0\"\n", Err("local only")),
            (
                "[[zones]]\nzone = \"2b\"\n[[zones]]\nzone = \"2b\"\n",
                Err("twice"),
            ),
            (&many, Err("at most 16")),
            (
                "[[zones]]\nzone = \"2b\"\nzone-file = \"gone\"\n",
                Err("no such zone file"),
            ),
        ];
        for (text, expected) in cases {
            let config = Config::parse(text, Path::new("/nonexistent/x.toml")).unwrap();
            let found = keepers(&config.zones, Zone(0x2a), state.dir());
            match (found, expected) {
                (Ok(found), Ok(count)) => assert_eq!(found.len(), count, "{text}"),
                (Err(error), Err(part)) => {
                    assert!(error.to_string().contains(part), "{text}: {error}");
                    assert_eq!(error.exit_status(), 2, "{text}");
                }
                (found, _) => panic!("{text}: {}", found.is_ok()),
            }
        }
    }
}
