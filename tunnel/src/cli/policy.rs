//! `anode policy`: who may reach this machine, by the running node or, when none runs, by the files.

use super::args::{Common, Policy as Action, Question};
use super::{Done, block_on};
use crate::Error;
use crate::control::api::{PolicyAnswer, PolicyQuestion, PolicyReloaded};
use crate::output::{self, Style};
use crate::policy::Policy;
use crate::state::book::Book;

pub(super) fn run(common: &Common, action: Action) -> Result<Done, Error> {
    match action {
        Action::Check(question) => check(common, question),
        Action::Reload => reload(common),
    }
}

fn check(common: &Common, question: Question) -> Result<Done, Error> {
    let question = PolicyQuestion {
        who: question.who,
        what: question.what,
    };
    // What no node could answer is refused here, also when none runs.
    let parsed = question.parse()?;
    let asked = block_on(async {
        let mut client = common.client().await?;
        client.post("/v1/policy/check", &question).await
    });
    let answer: PolicyAnswer = match asked {
        Err(Error::NotRunning { .. }) => {
            let dir = common.dir()?;
            let book = Book::load(&dir)?;
            let config = common.config(&dir)?;
            let members = super::zone::members(&config, &dir)?;
            let policy = Policy::new(&config.inbound, &book, &members)?;
            parsed.answer(&policy, &book)?
        }
        answer => answer?,
    };
    if common.json {
        output::json(&answer)?;
        return Ok(Done::Yes);
    }
    let style = Style::stdout();
    let verdict = match answer.verdict.as_str() {
        "allow" => style.green("allow"),
        other => style.red(other),
    };
    output::print(&format!("{verdict}  {}\n", answer.reason))?;
    Ok(Done::Yes)
}

fn reload(common: &Common) -> Result<Done, Error> {
    let done: PolicyReloaded = block_on(async {
        let mut client = common.client().await?;
        client
            .post("/v1/policy/reload", &serde_json::json!({}))
            .await
    })?;
    if common.json {
        output::json(&done)?;
    } else {
        output::print(&format!("policy reloaded: {}\n", done.text()))?;
    }
    Ok(Done::Yes)
}
