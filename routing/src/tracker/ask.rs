//! One question to one address of a tracker, from one address of ours.
use super::{TlsConfig, http, socket};
use anode_tracker::compact::Family;
use anode_tracker::udp::{self, Ask, Exchange, Outcome, Poll, Step};
use anode_tracker::{Announce, Answer, InfoHash, Scheme, ScrapeEntry, TrackerUrl};
use rand::rand_core::UnwrapErr;
use rand::rngs::SysRng;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// For all of it: one repeat of a lost datagram is in it (15 s, BEP 15).
const TIME_LIMIT: Duration = Duration::from_secs(20);
/// A datagram's largest size.
const DATAGRAM: usize = 65_536;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Put us on the list, and who else is there?
    Announce(Announce),
    /// How many are there?
    Scrape(InfoHash),
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To an announce.
    Announced(Answer),
    /// To a scrape; nothing where the tracker does not know the swarm.
    Scraped(ScrapeEntry),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// The tracker's own words, or an answer that is none.
    #[error(transparent)]
    Http(#[from] anode_tracker::http::AnswerError),
    /// The same over UDP.
    #[error(transparent)]
    Udp(#[from] udp::AnswerError),
    /// No answer over HTTP.
    #[error(transparent)]
    Get(#[from] http::GetError),
    /// The socket could not be had, or the host says that nobody is there.
    #[error("no answer from {remote} to {local}: {error}")]
    Socket {
        /// What was bound.
        local: IpAddr,
        /// Where to.
        remote: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// Silence.
    #[error("no answer from {0} within {limit} s", limit = TIME_LIMIT.as_secs())]
    Silent(SocketAddr),
    /// BEP 48.
    #[error("this tracker's URL has no scrape form: its path does not end in /announce")]
    NoScrape,
}

/// Asks. At most 20 s.
pub async fn ask(
    url: &TrackerUrl,
    local: IpAddr,
    remote: SocketAddr,
    question: &Question,
    tls: &TlsConfig,
) -> Result<Reply, AskError> {
    ask_within(TIME_LIMIT, url, local, remote, question, tls).await
}

async fn ask_within(
    limit: Duration,
    url: &TrackerUrl,
    local: IpAddr,
    remote: SocketAddr,
    question: &Question,
    tls: &TlsConfig,
) -> Result<Reply, AskError> {
    let work = async {
        match url.scheme() {
            Scheme::Udp => by_datagrams(url, local, remote, question).await,
            Scheme::Http => by_http(url, local, remote, question, None, tls).await,
            Scheme::Https => by_http(url, local, remote, question, Some(url.host()), tls).await,
        }
    };
    tokio::time::timeout(limit, work)
        .await
        .unwrap_or(Err(AskError::Silent(remote)))
}

async fn by_http(
    url: &TrackerUrl,
    local: IpAddr,
    remote: SocketAddr,
    question: &Question,
    host: Option<&str>,
    tls: &TlsConfig,
) -> Result<Reply, AskError> {
    use anode_tracker::http::{announce, announce_answer, scrape, scrape_answer};
    match question {
        Question::Announce(asked) => {
            let request = announce(url, asked);
            let (status, body) = http::get(local, remote, host, tls, &request).await?;
            Ok(Reply::Announced(announce_answer(status, &body)?))
        }
        Question::Scrape(hash) => {
            let request = scrape(url, &[*hash]).ok_or(AskError::NoScrape)?;
            let (status, body) = http::get(local, remote, host, tls, &request).await?;
            // Some trackers list others as well.
            let found = scrape_answer(status, &body, anode_tracker::MAX_PEERS)?;
            let own = found.into_iter().find(|(found, _)| found == hash);
            Ok(Reply::Scraped(
                own.map(|(_, entry)| entry).unwrap_or_default(),
            ))
        }
    }
}

async fn by_datagrams(
    url: &TrackerUrl,
    local: IpAddr,
    remote: SocketAddr,
    question: &Question,
) -> Result<Reply, AskError> {
    let failed = |error| AskError::Socket {
        local,
        remote,
        error,
    };
    let socket = socket::udp(local, remote).await.map_err(failed)?;
    let asked = match question {
        Question::Announce(announce) => Ask::Announce(announce.clone(), url.target().to_owned()),
        Question::Scrape(hash) => Ask::Scrape(vec![*hash]),
    };
    let mut exchange = Exchange::new(asked, Family::of(local), None, Instant::now());
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let mut datagram = Vec::new();
        let polled = exchange.poll(Instant::now(), &mut UnwrapErr(SysRng), &mut datagram);
        let until = match polled {
            Poll::Transmit => {
                socket.send(&datagram).await.map_err(failed)?;
                continue;
            }
            Poll::Wait(until) => until,
            Poll::GaveUp => return Err(AskError::Silent(remote)),
        };
        let received = tokio::select! {
            received = socket.recv(&mut buffer) => received.map_err(failed)?,
            () = tokio::time::sleep_until(until.into()) => continue,
        };
        match exchange.handle(&buffer[..received], Instant::now()) {
            Step::Done(Ok(Outcome::Announced(answer))) => return Ok(Reply::Announced(answer)),
            Step::Done(Ok(Outcome::Scraped(entries))) => {
                let entry = entries.first().copied().unwrap_or_default();
                return Ok(Reply::Scraped(entry));
            }
            Step::Done(Err(error)) => return Err(error.into()),
            Step::Ignored | Step::Connected(_) | Step::Reconnect => {}
        }
    }
}

#[cfg(test)]
mod tests;
