//! `POST /v1/meet`: whether trackers have led to somebody by now. Asking starts the search.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};

use super::api::{Lookup, TargetRequest};
use super::server::{ANSWER_TIMEOUT, Answer, Body, Control, Problem};
use crate::command::{Command, Target};

/// How far the search is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Met {
    /// Whether this node meets others at trackers at all.
    pub on: bool,
    /// Where it is, once it has answered.
    pub found: Option<Lookup>,
}

pub(super) async fn meet(
    State(control): State<Arc<Control>>,
    Body(request): Body<TargetRequest>,
) -> Answer<Met> {
    let Target::Address(address) = control.target(&request.target).await? else {
        return Err(Problem::not_found(format!(
            "{} is an IPv6 address that nobody here knows the key of: trackers are asked by address or name",
            request.target
        )));
    };
    let met = control
        .ask(ANSWER_TIMEOUT, |reply| Command::Meet { address, reply })
        .await?;
    Ok(Json(Met {
        on: met.on,
        found: met.found.map(Lookup::from),
    }))
}
