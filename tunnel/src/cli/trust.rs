//! `anode trust`, `anode distrust`: by the running node, or straight in the book when none runs.

use anode_routing::i2p::Hash;
use anode_wire::Address;

use super::args::{Common, Trust, Trustee};
use super::{Done, block_on};
use crate::Error;
use crate::control::api::{TargetRequest, TrustRequest, Trusted};
use crate::control::people::take_out;
use crate::names::{Named, short};
use crate::output::{self, Style};
use crate::policy::Policy;
use crate::state::book::Book;
use crate::state::identity;
use crate::value::{PeerName, ValueError};

pub(super) fn trust(common: &Common, flags: &Trust) -> Result<Done, Error> {
    let address = match flags.address {
        Trustee::Peer(address) => address,
        Trustee::I2p(hash) => return trust_destination(common, hash, flags.name.as_ref()),
    };
    let name = flags.name.clone();
    let request = TrustRequest {
        address: address.to_string(),
        name: name.as_ref().map(PeerName::to_string),
    };
    let trusted = change(common, "/v1/trust", &request, |book, own| {
        if own == Some(address) {
            return Err(ValueError::own_address().into());
        }
        let entry = book.trust(address, name).map_err(Error::Value)?;
        Ok(Trusted::new(entry, true))
    })?;
    report(common, &trusted)
}

fn trust_destination(common: &Common, hash: Hash, name: Option<&PeerName>) -> Result<Done, Error> {
    let request = TrustRequest {
        address: hash.b32(),
        name: name.map(PeerName::to_string),
    };
    let name = name.map(|name| name.as_str().parse()).transpose()?;
    let trusted = change(common, "/v1/trust", &request, |book, _| {
        let added = book.destinations.add(hash, name, true);
        Ok(Trusted::destination(&added.map_err(Error::Value)?, true))
    })?;
    report(common, &trusted)
}

pub(super) fn distrust(common: &Common, text: &str) -> Result<Done, Error> {
    let named: Named = text.parse()?;
    let request = TargetRequest {
        target: text.to_owned(),
    };
    let trusted = change(common, "/v1/distrust", &request, |book, _| {
        Ok(take_out(book, &named)?)
    })?;
    report(common, &trusted)
}

/// The node is the book's only writer while it runs: it is asked first. Without one, the lock keeps others out.
fn change(
    common: &Common,
    path: &str,
    request: &impl serde::Serialize,
    offline: impl FnOnce(&mut Book, Option<Address>) -> Result<Trusted, Error>,
) -> Result<Trusted, Error> {
    let asked = block_on(async { common.client().await?.post(path, request).await });
    match asked {
        Err(Error::NotRunning { .. }) => {}
        answer => return answer,
    }
    let state = common.dir()?.lock()?;
    let own = identity::load(state.dir())?.map(|identity| *identity.address());
    let mut book = Book::load(state.dir())?;
    let mut trusted = offline(&mut book, own)?;
    book.save(&state)?;
    // A configuration that this command cannot read is for `anode up` to refuse.
    if let Ok(config) = common.config(state.dir())
        && let Ok(members) = super::zone::members(&config, state.dir())
    {
        trusted.note = Policy::new(&config.inbound, &book, &members)
            .err()
            .map(|error| {
                format!("{error}; change that rule before the next start, which would refuse it")
            });
    }
    Ok(trusted)
}

fn report(common: &Common, trusted: &Trusted) -> Result<Done, Error> {
    if common.json {
        output::json(trusted)?;
        return Ok(Done::Yes);
    }
    let name = trusted
        .name
        .clone()
        .unwrap_or_else(|| short(&trusted.address));
    let verb = if trusted.trusted {
        "trusted"
    } else {
        "no longer trusted"
    };
    output::print(&format!("{name} ({}) is {verb}\n", trusted.ipv6))?;
    if let Some(note) = &trusted.note {
        eprintln!("{} {note}", Style::stderr().red("note:"));
    }
    Ok(Done::Yes)
}
