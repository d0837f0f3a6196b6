//! An overlay that moves to another one (R14, RD70): its document names the next one and a stage. In the first, values are
//! written to both and read from the old one; in the second they are read from the next one, and where it has none, from the
//! old one. Without the element, the next overlay is left.

use anode_routing::dht::reload::config::MigrationStage;
use anode_routing::dht::{DhtConfig, DhtSecurity};
use anode_routing::links::Target;

use super::document::Chosen;
use super::{Answer, DhtPlan, Question};

/// How a question is asked in an overlay that moves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ways {
    /// Here alone.
    Alone,
    /// Here, and written to that one, too.
    Also(String),
    /// In that one; here only where nothing is found there.
    First(String),
}

/// Whether an answer has nothing, so that the old overlay is asked as well.
pub fn is_empty(answer: &Answer) -> bool {
    match answer {
        Answer::Got(values) => values.as_ref().map_or(true, Vec::is_empty),
        Answer::Found(found) => found.is_empty(),
        Answer::Nearest(found) => found
            .as_ref()
            .map_or(true, |(closest, _)| closest.is_none()),
        Answer::Put(_) | Answer::Route(_) => false,
    }
}

impl DhtPlan {
    fn chosen(&self, overlay: &str) -> Option<&Chosen> {
        let mut all = self.documents.iter().flatten();
        all.find(|it| it.own.name.eq_ignore_ascii_case(overlay))
    }

    /// Where an overlay moves to, and how far it is.
    fn moves_to(&self, overlay: &str) -> Option<(String, MigrationStage)> {
        let (next, stage) = self.chosen(overlay)?.own.migration.as_ref()?;
        Some((next.to_ascii_lowercase(), *stage))
    }

    /// This node's part in the overlay that another one of its moves to. `None`: it does not move, or takes certificates of its
    /// own credential server, for which it needs a `[[dht]]` of its own.
    pub(super) fn next_of(&self, config: &DhtConfig) -> Option<DhtConfig> {
        let (overlay, _) = self.moves_to(&config.overlay)?;
        let document = self.chosen(&config.overlay)?.next.as_ref();
        if matches!(config.security, DhtSecurity::Certificate(_)) {
            return None;
        }
        let targets = document.map(|it| it.bootstrap.iter().map(|at| Target::Dtls(*at)).collect());
        let own_links =
            targets.filter(|it: &Vec<Target>| !it.is_empty() || config.own_links.is_some());
        Some(DhtConfig {
            overlay,
            chord: document.map(|it| it.chord()),
            turn_density: document.map_or(1, |it| it.turn_density),
            groups: document.map_or(Vec::new(), |it| it.multicast.clone()),
            roots: document.map_or(Vec::new(), |it| it.roots.clone()),
            applications: Vec::new(),
            users: Vec::new(),
            own_links,
            ..config.clone()
        })
    }

    /// How a question is asked that is for this overlay.
    pub(super) fn ways(&self, overlay: &str, question: &Question) -> Ways {
        let Some((next, stage)) = self.moves_to(overlay) else {
            return Ways::Alone;
        };
        match (question, stage) {
            (Question::Put(_), _) => Ways::Also(next),
            (Question::Route { .. }, _) | (_, MigrationStage::WriteBoth) => Ways::Alone,
            (_, MigrationStage::ReadSecond) => Ways::First(next),
        }
    }

    /// Whether this overlay is only written to: it is the next one of another one in its first stage.
    pub(super) fn is_only_written(&self, overlay: &str) -> bool {
        let mut all = self.documents.iter().flatten();
        all.any(|it| {
            let migration = it.own.migration.as_ref();
            migration.is_some_and(|(next, stage)| {
                *stage == MigrationStage::WriteBoth && next.eq_ignore_ascii_case(overlay)
            })
        })
    }
}
