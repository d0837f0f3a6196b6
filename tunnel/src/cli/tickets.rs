//! `anode invite`, `anode join`: two machines come to trust each other.

use std::io::Read;

use super::args::{Common, Invite, Join};
use super::{Done, block_on};
use crate::Error;
use crate::control::api::{
    Invitation, InviteRequest, IssuedTicket, JoinRequest, Trusted, WithdrawRequest,
};
use crate::control::tickets::{id_text, parse, parse_id, wall};
use crate::names::short;
use crate::output::{self, Style};
use crate::state::identity;

/// More characters than a ticket has.
const TICKET_MAX: u64 = 4096;

pub(super) fn invite(common: &Common, flags: &Invite) -> Result<Done, Error> {
    if flags.list {
        return list(common);
    }
    if let Some(id) = &flags.withdraw {
        return withdraw(common, id);
    }
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

fn list(common: &Common) -> Result<Done, Error> {
    let issued: Vec<IssuedTicket> =
        block_on(async { common.client().await?.get("/v1/tickets").await })?;
    if common.json {
        output::json(&issued)?;
        return Ok(Done::Yes);
    }
    let rows: Vec<Vec<String>> = issued
        .iter()
        .map(|ticket| {
            let used = ticket.taken_by.as_deref().map(short);
            vec![
                ticket.id.clone(),
                output::span(ticket.expires_in_s as f64),
                used.unwrap_or_else(|| "nobody".to_owned()),
            ]
        })
        .collect();
    let head = ["TICKET", "EXPIRES IN", "USED BY"];
    output::print(&output::table(Style::stdout(), &head, &rows))?;
    Ok(Done::Yes)
}

fn withdraw(common: &Common, id: &str) -> Result<Done, Error> {
    // A word that is no ticket's name is refused here, also when no node runs.
    let id = id_text(parse_id(id)?);
    let request = WithdrawRequest { id };
    let withdrawn: IssuedTicket = block_on(async {
        let mut client = common.client().await?;
        client.post("/v1/invite/withdraw", &request).await
    })?;
    if common.json {
        output::json(&withdrawn)?;
        return Ok(Done::Yes);
    }
    output::print(&format!("withdrawn: ticket {}\n", withdrawn.id))?;
    if let Some(by) = &withdrawn.taken_by {
        eprintln!(
            "{} {} had used it and stays trusted: `anode distrust {by}` takes that back",
            Style::stderr().red("note:"),
            short(by)
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
