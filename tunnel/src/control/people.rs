//! Who is let in: trust given and taken back, tickets made and used.

use std::sync::Arc;
use std::time::Duration;

use anode_routing::anode::Place;
use anode_wire::Address;
use anode_wire::sealed::ticket::Status;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::api::{
    Invitation, InviteRequest, IssuedTicket, JoinRequest, TICKET_LIFETIME_MAX_S, TargetRequest,
    TrustRequest, Trusted, WithdrawRequest, failure_text,
};
use super::server::{ANSWER_TIMEOUT, Answer, Body, Control, Problem};
use super::tickets::{self, id_text, parse_id};
use crate::command::{Command, Target};
use crate::config::Plain;
use crate::names::{Given, Named};
use crate::state::book::Book;
use crate::state::destinations::B32;
use crate::value::{PeerName, ValueError, parse_address};

/// Longer than a ticket is shown.
const JOIN_TIMEOUT: Duration = Duration::from_secs(17);

pub(super) async fn trust(
    State(control): State<Arc<Control>>,
    Body(request): Body<TrustRequest>,
) -> Answer<Trusted> {
    if let Ok(B32(hash)) = request.address.parse() {
        return trust_destination(&control, hash, request.name.as_deref()).await;
    }
    let address = parse_address(&request.address)?;
    if address == control.address {
        return Err(ValueError::own_address().into());
    }
    let name = request.name.as_deref().map(str::parse).transpose()?;
    enter(&control, address, name).await
}

/// Writes a peer into the book, and lets it in from now on.
async fn enter(control: &Control, address: Address, name: Option<PeerName>) -> Answer<Trusted> {
    let mut trusted = control.change_book(|book| {
        let entry = book.trust(address, name).map_err(conflict)?;
        Ok(Trusted::new(entry, true))
    })?;
    control
        .ask(ANSWER_TIMEOUT, |reply| Command::Trust { address, reply })
        .await?;
    trusted.note = control.follow_book().await?;
    Ok(Json(trusted))
}

/// The book does not take it.
fn conflict(problem: String) -> Problem {
    Problem(StatusCode::CONFLICT, problem)
}

/// Takes a peer or a destination of I2P out of the book.
pub(crate) fn take_out(book: &mut Book, named: &Named) -> Result<Trusted, ValueError> {
    if let Named::I2p(_) | Named::Target(Target::I2p(_)) = named
        && let Target::I2p(hash) = named.resolve(book, &Given::default())?
    {
        let entry = book.destinations.distrust(&hash);
        let entry =
            entry.ok_or_else(|| ValueError::new(format!("{} is not trusted", hash.b32())))?;
        return Ok(Trusted::destination(&entry, false));
    }
    let entry = book.find(named)?.clone();
    book.distrust(&entry.address);
    Ok(Trusted::new(&entry, false))
}

async fn trust_destination(
    control: &Control,
    hash: anode_routing::i2p::Hash,
    name: Option<&str>,
) -> Answer<Trusted> {
    let name = name.map(str::parse).transpose()?;
    let entry =
        control.change_book(|book| book.destinations.add(hash, name, true).map_err(conflict))?;
    let mut trusted = Trusted::destination(&entry, true);
    trusted.note = control.follow_book().await?;
    Ok(Json(trusted))
}

pub(super) async fn distrust(
    State(control): State<Arc<Control>>,
    Body(request): Body<TargetRequest>,
) -> Answer<Trusted> {
    let named: Named = request.target.parse()?;
    let mut trusted = control.change_book(|book| Ok(take_out(book, &named)?))?;
    trusted.note = control.follow_book().await?;
    Ok(Json(trusted))
}

pub(super) async fn invite(
    State(control): State<Arc<Control>>,
    Body(request): Body<InviteRequest>,
) -> Answer<Invitation> {
    if !(1..=TICKET_LIFETIME_MAX_S).contains(&request.lifetime_s) {
        let text = format!(
            "lifetime {} s: use 1 to {TICKET_LIFETIME_MAX_S} (30 days)",
            request.lifetime_s
        );
        return Err(Problem(StatusCode::BAD_REQUEST, text));
    }
    if control.security.plain == Plain::Only {
        let text = "tickets need sealed sessions, which [security] plain = \"only\" switches off";
        return Err(Problem(StatusCode::CONFLICT, text.to_owned()));
    }
    let endpoints = control.ask(ANSWER_TIMEOUT, Command::Endpoints).await?;
    let ticket = control.desk.issue(
        control.address,
        endpoints.iter().map(Place::to_endpoint).collect(),
        Duration::from_secs(request.lifetime_s),
        &mut control.book(),
        &control.state,
    )?;
    let text = ticket
        .to_text()
        .map_err(|error| crate::Error::refused(error.to_string()))?;
    Ok(Json(Invitation {
        id: id_text(ticket.id),
        ticket: text.to_string(),
        endpoints: endpoints.iter().map(Place::to_string).collect(),
        lifetime_s: request.lifetime_s,
    }))
}

/// The tickets that have not expired.
pub(super) async fn tickets_issued(
    State(control): State<Arc<Control>>,
) -> Answer<Vec<IssuedTicket>> {
    let now = tickets::wall();
    let book = control.book();
    let live = book.tickets().iter().filter(|issued| now <= issued.expires);
    Ok(Json(
        live.map(|issued| IssuedTicket::new(issued, now)).collect(),
    ))
}

pub(super) async fn withdraw(
    State(control): State<Arc<Control>>,
    Body(request): Body<WithdrawRequest>,
) -> Answer<IssuedTicket> {
    let id = parse_id(&request.id)?;
    let withdrawn = control
        .desk
        .withdraw(id, &mut control.book(), &control.state)?;
    match withdrawn {
        Some(issued) => Ok(Json(IssuedTicket::new(&issued, tickets::wall()))),
        None => Err(Problem::not_found(format!(
            "no ticket {} is open: `anode invite --list` shows those that are",
            request.id
        ))),
    }
}

pub(super) async fn join(
    State(control): State<Arc<Control>>,
    Body(request): Body<JoinRequest>,
) -> Answer<Trusted> {
    let ticket = tickets::parse(&request.ticket, &control.address, tickets::wall())?;
    let address = ticket.address;
    let name: Option<PeerName> = request.name.as_deref().map(str::parse).transpose()?;
    // What could not be written down afterwards is refused before the ticket is used up.
    control
        .book()
        .clone()
        .trust(address, name.clone())
        .map_err(conflict)?;
    let ticket = Box::new(ticket);
    let answer = control
        .ask(JOIN_TIMEOUT, |reply| Command::Join { ticket, reply })
        .await?;
    let refused = |text: &str| Err(Problem(StatusCode::FORBIDDEN, text.to_owned()));
    match answer {
        Ok(Status::Taken) => {}
        Ok(Status::Unknown) => {
            return refused(
                "the other machine does not take this ticket: another machine has used it, or it was withdrawn; ask for a new one",
            );
        }
        Ok(Status::Expired) => {
            return refused("the ticket has expired: ask for a new one");
        }
        Err(failure) => {
            let text = format!(
                "{} did not answer: {}; the ticket is still good, try again",
                crate::names::short(&address.to_string()),
                failure_text(failure)
            );
            return Err(Problem(StatusCode::GATEWAY_TIMEOUT, text));
        }
    }
    enter(&control, address, name).await
}
