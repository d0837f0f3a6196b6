//! `anode invite`, `anode join`: two machines come to trust each other.

use std::io::Read;

use super::args::{Common, Invite, Join};
use super::{Done, block_on};
use crate::Error;
use crate::control::api::{Invitation, InviteRequest, JoinRequest, Trusted};
use crate::control::tickets::{parse, wall};
use crate::names::short;
use crate::output::{self, Style};
use crate::state::identity;

/// More characters than a ticket has.
const TICKET_MAX: u64 = 4096;

pub(super) fn invite(common: &Common, flags: &Invite) -> Result<Done, Error> {
    let request = InviteRequest {
        lifetime_s: flags.expires.as_secs(),
    };
    let made: Invitation =
        block_on(async { common.client().await?.post("/v1/invite", &request).await })?;
    if common.json {
        output::json(&made)?;
        return Ok(Done::Yes);
    }
    output::print(&format!("{}\n", made.ticket))?;
    if made.endpoints.is_empty() {
        eprintln!(
            "{} this machine knows no address of its own for the ticket: the other must be on the same LAN",
            Style::stderr().red("note:")
        );
    }
    Ok(Done::Yes)
}

pub(super) fn join(common: &Common, flags: &Join) -> Result<Done, Error> {
    let ticket = match flags.ticket.as_str() {
        "-" => {
            let mut text = String::new();
            std::io::stdin()
                .take(TICKET_MAX)
                .read_to_string(&mut text)
                .map_err(Error::io("cannot read the ticket"))?;
            text
        }
        text => text.to_owned(),
    };
    // What the node would refuse is refused here, also when none runs.
    if let Some(own) = identity::load(&common.dir()?).ok().flatten() {
        parse(&ticket, own.address(), wall())?;
    }
    let request = JoinRequest {
        ticket: ticket.trim().to_owned(),
        name: flags.name.as_ref().map(ToString::to_string),
    };
    let trusted: Trusted =
        block_on(async { common.client().await?.post("/v1/join", &request).await })?;
    if common.json {
        output::json(&trusted)?;
        return Ok(Done::Yes);
    }
    let name = trusted
        .name
        .clone()
        .unwrap_or_else(|| short(&trusted.address));
    output::print(&format!(
        "joined: {name} ({}) and this machine trust each other\n",
        trusted.ipv6
    ))?;
    Ok(Done::Yes)
}
