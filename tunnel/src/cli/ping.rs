//! `anode ping`: as ping(8), and the path that each reply took.

use std::time::{Duration, Instant};

use super::args::{Common, Ping};
use super::show::request;
use super::{Done, block_on};
use crate::Error;
use crate::control::api::{
    PingAnswer, PingReply, PingRequest, PingSummary, Resolved, TargetRequest,
};
use crate::control::client::Client;
use crate::output::{self, Style};

pub(super) fn run(common: &Common, flags: &Ping) -> Result<Done, Error> {
    let target = request(common, &flags.target)?;
    let summary = block_on(echo_all(common, flags, target))?;
    if common.json {
        output::json(&summary)?;
    } else {
        output::print(&closing(&summary))?;
    }
    Ok(if summary.received > 0 {
        Done::Yes
    } else {
        Done::No
    })
}

/// Sends them one after another, until all are sent or Ctrl-C asks for the summary.
async fn echo_all(
    common: &Common,
    flags: &Ping,
    target: TargetRequest,
) -> Result<PingSummary, Error> {
    let mut client = common.client().await?;
    let resolved: Resolved = client.post("/v1/resolve", &target).await?;
    let shown = format!("{} ({})", label(&flags.target), resolved.ipv6);
    if !common.json {
        output::print(&format!("ping {shown}: {} bytes\n", flags.size))?;
    }
    let mut summary = PingSummary {
        sent: 0,
        received: 0,
        replies: Vec::new(),
    };
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    for seq in 1..=flags.count {
        let start = Instant::now();
        summary.sent = seq;
        let answer = tokio::select! {
            answer = echo(&mut client, flags, &target) => answer?,
            _ = &mut interrupted => {
                // Nobody waited for the answer to the last one: it does not count as lost.
                summary.sent = seq - 1;
                break;
            }
        };
        if !common.json {
            output::print(&line(&shown, seq, &answer))?;
        }
        if let PingAnswer::Reply {
            rtt_ms,
            path,
            via,
            hops,
        } = answer
        {
            summary.received += 1;
            summary.replies.push(PingReply {
                seq,
                rtt_ms,
                path,
                via,
                hops,
            });
        }
        if seq < flags.count {
            let rest = flags.interval.saturating_sub(start.elapsed());
            tokio::select! {
                () = tokio::time::sleep(rest) => {}
                _ = &mut interrupted => break,
            }
        }
    }
    Ok(summary)
}

async fn echo(
    client: &mut Client,
    flags: &Ping,
    target: &TargetRequest,
) -> Result<PingAnswer, Error> {
    let request = PingRequest {
        target: target.target.clone(),
        size: flags.size.into(),
        timeout_ms: u64::try_from(flags.timeout.max(Duration::from_millis(1)).as_millis())
            .unwrap_or(u64::MAX),
    };
    client.post("/v1/ping", &request).await
}

/// What the user wrote, cut where it is a whole address.
fn label(target: &str) -> String {
    if target.len() == 64 {
        crate::names::short(target)
    } else {
        target.to_owned()
    }
}

fn line(shown: &str, seq: u32, answer: &PingAnswer) -> String {
    match answer {
        PingAnswer::Reply {
            rtt_ms,
            path,
            via,
            hops,
        } => {
            let hops = match hops {
                0 => String::new(),
                1 => ", 1 relay".to_owned(),
                hops => format!(", {hops} relays"),
            };
            format!(
                "reply from {shown}: seq={seq} time={} via {via}, {}{hops}\n",
                output::rtt(*rtt_ms),
                path.as_str()
            )
        }
        PingAnswer::Failed { reason, .. } => {
            format!(
                "{} from {shown}: seq={seq} {reason}\n",
                Style::stdout().red("no reply")
            )
        }
    }
}

fn closing(summary: &PingSummary) -> String {
    let PingSummary {
        sent,
        received,
        replies,
    } = summary;
    let lost = match sent {
        0 => 0.0,
        sent => f64::from(sent - received) * 100.0 / f64::from(*sent),
    };
    let mut text = format!("{sent} sent, {received} received, {lost:.0} % lost");
    if !replies.is_empty() {
        let times = replies.iter().map(|reply| reply.rtt_ms);
        let least = times.clone().fold(f64::INFINITY, f64::min);
        let most = times.clone().fold(0.0, f64::max);
        let mean = times.sum::<f64>() / replies.len() as f64;
        text += &format!("; min/avg/max {least:.3}/{mean:.3}/{most:.3} ms");
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::api::Kind;

    #[test]
    fn a_reply_shows_time_and_path_and_the_summary_its_spread() {
        let answer = PingAnswer::Reply {
            rtt_ms: 0.31,
            path: Kind::Direct,
            via: "udp://192.0.2.1:8737".into(),
            hops: 0,
        };
        let expected =
            "reply from box (fda0::1): seq=1 time=0.31 ms via udp://192.0.2.1:8737, direct\n";
        assert_eq!(line("box (fda0::1)", 1, &answer), expected);

        let reply = |seq, rtt_ms| PingReply {
            seq,
            rtt_ms,
            path: Kind::Direct,
            via: String::new(),
            hops: 0,
        };
        let summary = PingSummary {
            sent: 3,
            received: 2,
            replies: vec![reply(1, 1.0), reply(2, 2.0)],
        };
        assert_eq!(
            closing(&summary),
            "3 sent, 2 received, 33 % lost; min/avg/max 1.000/1.500/2.000 ms\n"
        );
        let none = PingSummary {
            sent: 0,
            received: 0,
            replies: vec![],
        };
        assert_eq!(closing(&none), "0 sent, 0 received, 0 % lost\n");
    }
}
