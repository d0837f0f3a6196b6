//! `anode turn`: tries servers. No node is needed.

use std::io::Write as _;

use anode_turn::client::Credentials;
use anode_turn::uri::Uri;
use zeroize::Zeroizing;

use super::Done;
use super::args::{Common, Turn, TurnAt, TurnVia};
use crate::Error;
use crate::output::{self, Style};
use crate::turn::access::{self, Access};
use crate::turn::attempt::{self, Load};

pub(super) fn run(common: &Common, action: Turn) -> Result<Done, Error> {
    match action {
        Turn::Check { server } => check(common, &prepare(server, false)?),
        Turn::Send {
            server,
            peer,
            count,
            size,
            via,
            dont_fragment,
        } => {
            if peer.port() == 0 {
                return Err(Error::invalid(
                    "PEER:PORT",
                    format!("{peer}: port 0 is none"),
                ));
            }
            let load = Load {
                peer,
                count,
                size: usize::from(size),
                channel: via == TurnVia::Channel,
                dont_fragment,
            };
            send(common, &prepare(server, true)?, &load)
        }
    }
}

/// Flags to what is tried. No message holds the password.
fn prepare(at: TurnAt, relay: bool) -> Result<Access, Error> {
    let uri: Uri = at
        .uri
        .parse()
        .map_err(|error: anode_turn::TurnError| Error::invalid("URI", error.to_string()))?;
    if relay && !uri.relay {
        return Err(Error::invalid(
            "URI",
            format!("{uri} names a STUN server, which does not relay: use turn: or turns:"),
        ));
    }
    let password = match (at.password, at.password_file) {
        (Some(password), _) => Some(Zeroizing::new(password)),
        (None, Some(file)) => Some(
            access::read_password(&file)
                .map_err(|problem| Error::invalid("--password-file", problem))?,
        ),
        (None, None) => None,
    };
    let credentials = match (at.user, password) {
        (Some(name), Some(password)) => Some(Credentials { name, password }),
        (Some(_), None) => {
            return Err(Error::invalid(
                "--user",
                "needs --password or --password-file, too",
            ));
        }
        (None, _) => None,
    };
    if let Some(credentials) = &credentials {
        credentials
            .check()
            .map_err(|error| Error::invalid("--user, --password", error.to_string()))?;
    }
    let authorities = at.ca.as_deref().map(access::read_authorities).transpose();
    let authorities = authorities.map_err(|problem| Error::invalid("--ca", problem))?;
    Ok(Access {
        uri,
        credentials,
        authorities,
    })
}

fn check(common: &Common, attempt: &Access) -> Result<Done, Error> {
    let report = attempt::check(attempt);
    let done = if report.ok { Done::Yes } else { Done::No };
    if common.json {
        output::json(&report)?;
        return Ok(done);
    }
    let style = Style::stdout();
    let rows: Vec<Vec<String>> = report
        .steps
        .iter()
        .map(|step| {
            let told = step.error.clone().unwrap_or_else(|| match step.step {
                "binding" => report
                    .mapped
                    .map(|at| format!("we are {at}"))
                    .unwrap_or_default(),
                "allocate" => report
                    .relayed
                    .map(|at| format!("relay {at}"))
                    .unwrap_or_default(),
                _ => String::new(),
            });
            let verdict = if step.ok {
                style.green("ok")
            } else {
                style.red("failed")
            };
            vec![step.step.to_owned(), verdict, output::rtt(step.ms), told]
        })
        .collect();
    let mut text = output::table(style, &["STEP", "", "TIME", ""], &rows);
    text.push_str(&match report.ok {
        true => format!("{} {}\n", report.uri, style.green("works")),
        false => format!("{} {}\n", report.uri, style.red("does not work")),
    });
    output::print(&text)?;
    Ok(done)
}

fn send(common: &Common, attempt: &Access, load: &Load) -> Result<Done, Error> {
    let json = common.json;
    let mut out = std::io::stdout().lock();
    let sent = attempt::send(attempt, load, |payload| {
        if !json {
            // Whoever stopped reading is told of by the exit status.
            let _ = writeln!(out, "{}", show(payload));
        }
    });
    drop(out);
    if json {
        output::json(&sent)?;
    } else {
        let rtt = sent
            .rtt_ms
            .map(|ms| format!(", {}", output::rtt(ms)))
            .unwrap_or_default();
        eprintln!("{} sent, {} received{rtt}", sent.sent, sent.received);
        if let Some(error) = &sent.error {
            eprintln!("{} {error}", Style::stderr().red("error:"));
        }
    }
    let all = sent.error.is_none() && sent.received == load.count;
    Ok(if all { Done::Yes } else { Done::No })
}

/// A payload in hexadecimal, which no terminal takes for anything else.
fn show(payload: &[u8]) -> String {
    payload.iter().map(|byte| format!("{byte:02x}")).collect()
}
