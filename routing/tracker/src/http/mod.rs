//! Announce and scrape over HTTP (BEP 3, 7, 23, 24, 31, 48): request targets and bodies, no transport.

mod answer;
mod query;
mod request;

pub use answer::{AnswerError, MAX_BODY, announce_answer, scrape_answer};
pub use query::{AnnounceQuery, InvalidQuery, ScrapeQuery};
pub use request::{Request, announce, scrape};

#[cfg(test)]
mod tests;
