//! What comes over connections: frames, requests, answers.
use super::conn::{Answer, Asking, Errand, Group, Incoming, Owed, Role, Serving};
use super::http::{self, Method, Piece};
use super::outbox::Outbox;
use super::{CHUNK, Carrier, Closed, Link, READS, ServedZone, Streams};
use crate::anode::{Place, Received, Transport};
use anode_wire::framing::FrameDecoder;
use std::io;
use std::time::{Duration, Instant};

/// A poll is answered after this time, whether packets wait or not (D15).
const HOLD: Duration = Duration::from_secs(20);
/// Polls that are answered at once with nothing are not repeated sooner.
const POLL_PAUSE: Duration = Duration::from_secs(1);
/// Requests without an answer on one connection at most.
const MAX_OWED: usize = 16;
/// Connections of one HTTP session at most.
const MAX_PER_SESSION: usize = 4;

impl Streams {
    /// A connection has something to read, or has ended.
    pub(super) fn readable(&mut self, now: Instant, id: usize, each: &mut dyn FnMut(Received<'_>)) {
        let mut buffer = std::mem::take(&mut self.read);
        let mut result = Ok(());
        for turn in 0.. {
            let Some(conn) = self.conns.get_mut(id) else {
                break;
            };
            if matches!(conn.role, Role::Connecting(_)) {
                break;
            }
            if turn == READS {
                // What TLS holds already no epoll will tell of.
                self.again.push(id);
                break;
            }
            match conn.pipe.read(&mut buffer) {
                Ok(0) => {
                    result = Err(Closed::Ended);
                    break;
                }
                Ok(len) => {
                    result = self.advance(now, id, &buffer[..len], each);
                    if result.is_err() {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    result = Err(error.into());
                    break;
                }
            }
        }
        self.read = buffer;
        let serving = self
            .conns
            .get(id)
            .is_some_and(|conn| matches!(conn.role, Role::Serving(_)));
        if serving && result.is_ok() {
            // Answered after the node has seen what came, so that the answer brings what it has to say.
            return self.watch(id);
        }
        self.settle(now, id, result);
    }

    /// Plain bytes of a connection, whatever it is by now.
    fn advance(
        &mut self,
        now: Instant,
        id: usize,
        input: &[u8],
        each: &mut dyn FnMut(Received<'_>),
    ) -> Result<(), Closed> {
        let Some(conn) = self.conns.get_mut(id) else {
            return Ok(());
        };
        match &mut conn.role {
            Role::Connecting(_) => Ok(()),
            Role::Sniffing(_) => match self.recognise(now, id, input)? {
                Some(seen) => self.advance(now, id, &seen, each),
                None => Ok(()),
            },
            Role::AskingProxy { plan, answer } => {
                answer.extend_from_slice(input);
                let Some((status, len)) = http::connect_answer(answer)? else {
                    return Ok(());
                };
                if !(200..300).contains(&status) {
                    return Err(Closed::Proxy(status));
                }
                let (plan, early) = (plan.clone(), answer.split_off(len));
                self.through(now, id, &plan, early)
            }
            Role::Framed(decoder) => {
                let Some(place) = conn.place else {
                    return Ok(());
                };
                let Some(link) = self.links.get_mut(&place) else {
                    return Err(Closed::Idle);
                };
                let mut input = input;
                let socket = socket_of(link);
                let brought = frames(decoder, &mut input, place, socket, &mut self.group, each)?;
                conn.unfinished = match decoder.is_at_boundary() {
                    true => None,
                    false if brought > 0 => Some(now),
                    false => conn.unfinished.or(Some(now)),
                };
                if brought > 0 {
                    self.counters.rx_packets += brought;
                    (conn.active, link.active) = (now, now);
                    link.failures = 0;
                    conn.brought = true;
                }
                Ok(())
            }
            Role::Serving(_) => self.serve(now, id, input, each),
            Role::Asking(_) => self.answered(now, id, input, each),
        }
    }

    /// Bytes of requests.
    fn serve(
        &mut self,
        now: Instant,
        id: usize,
        mut input: &[u8],
        each: &mut dyn FnMut(Received<'_>),
    ) -> Result<(), Closed> {
        loop {
            let Some(conn) = self.conns.get_mut(id) else {
                return Ok(());
            };
            let Role::Serving(serving) = &mut conn.role else {
                return Ok(());
            };
            let Some(incoming) = &mut serving.request else {
                if serving.last {
                    // Whatever follows the last request was not announced.
                    return Ok(());
                }
                // Line ends between requests mean nothing (RFC 9112 §2.2).
                while serving.head.is_empty() && matches!(input, [b'\r' | b'\n', ..]) {
                    input = &input[1..];
                }
                if input.is_empty() {
                    return Ok(());
                }
                let before = serving.head.len();
                let room = (http::MAX_HEAD - before).min(input.len());
                serving.head.extend_from_slice(&input[..room]);
                let Some((request, len)) = http::request(&serving.head)? else {
                    conn.unfinished.get_or_insert(now);
                    return Ok(());
                };
                input = &input[len - before..];
                serving.head.clear();
                if request.expects && !request.body.is_ended() {
                    conn.output.bytes.extend_from_slice(http::CONTINUE);
                }
                conn.unfinished = Some(now);
                let is_post = request.method == Method::Post;
                let target = is_post.then(|| request.target.clone());
                serving.request = Some(Incoming {
                    request,
                    frames: FrameDecoder::new(),
                    brought: false,
                });
                if let Some(target) = target {
                    self.join_session(now, id, &target)?;
                }
                continue;
            };
            match incoming.request.body.next(&mut input)? {
                Piece::More => return Ok(()),
                Piece::Content(_) if incoming.request.method != Method::Post => {}
                Piece::Content(mut content) => {
                    let place = conn.place.ok_or(Closed::Protocol("no place"))?;
                    let link = self.links.get_mut(&place).ok_or(Closed::Idle)?;
                    let brought = frames(
                        &mut incoming.frames,
                        &mut content,
                        place,
                        socket_of(link),
                        &mut self.group,
                        each,
                    )?;
                    if brought > 0 {
                        incoming.brought = true;
                        self.counters.rx_packets += brought;
                        (conn.active, link.active) = (now, now);
                    }
                }
                Piece::End => {
                    conn.unfinished = None;
                    let Some(incoming) = serving.request.take() else {
                        return Ok(());
                    };
                    if !incoming.frames.is_at_boundary() {
                        return Err(Closed::Protocol("a packet that ends with its request"));
                    }
                    conn.active = now;
                    self.finish_request(now, id, incoming)?;
                }
            }
        }
    }

    /// A request is complete.
    fn finish_request(
        &mut self,
        now: Instant,
        id: usize,
        incoming: Incoming,
    ) -> Result<(), Closed> {
        let Some(conn) = self.conns.get_mut(id) else {
            return Ok(());
        };
        let Role::Serving(serving) = &mut conn.role else {
            return Ok(());
        };
        let Incoming {
            request, brought, ..
        } = incoming;
        serving.last = !request.keep_alive;
        if request.method == Method::Post {
            if serving.owed.len() >= MAX_OWED {
                return Err(Closed::Protocol("too many requests at once"));
            }
            let by = if brought {
                // Answers keep their order: those in front wait no longer.
                serving.owed.iter_mut().for_each(|owed| owed.by = now);
                now
            } else {
                now + HOLD
            };
            serving.owed.push_back(Owed {
                by,
                keep_alive: request.keep_alive,
            });
            if let Some(place) = conn.place
                && let Some(link) = self.links.get_mut(&place)
                && !std::mem::replace(&mut link.listed, true)
            {
                self.listed.push(place);
            }
            return Ok(());
        }
        if !serving.owed.is_empty() || !conn.output.is_empty() {
            return Err(Closed::Protocol("a file asked for behind packets"));
        }
        let out = &mut conn.output.bytes;
        let path = request.target.split('?').next().unwrap_or_default();
        match (&self.zone, request.method, path) {
            (Some(ServedZone { bytes, modified }), Method::Get, "/z") => {
                self.counters.files += 1;
                let since = request.if_modified_since;
                http::write_file(out, bytes, *modified, since, request.keep_alive);
            }
            (_, Method::Get, _) => http::write_status(out, "404 Not Found", request.keep_alive),
            _ => http::write_status(out, "405 Method Not Allowed", request.keep_alive),
        }
        if conn.write(now)? && serving_is_over(&conn.role) {
            return Err(Closed::Ended);
        }
        Ok(())
    }

    /// The session that a POST belongs to: its number joins connections; without one, a connection is its own.
    fn join_session(&mut self, now: Instant, id: usize, target: &str) -> Result<(), Closed> {
        let number = session_number(target);
        let Some(conn) = self.conns.get_mut(id) else {
            return Ok(());
        };
        let known = number.and_then(|number| self.sessions.get(&number).copied());
        if let Some(place) = conn.place {
            return match number.is_none() || known == Some(place) {
                true => Ok(()),
                false => Err(Closed::Protocol("two sessions on one connection")),
            };
        }
        let transport = match conn.pipe.is_tls() {
            true => Transport::Https,
            false => Transport::Http,
        };
        if let Some(place) = known {
            let link = self.links.get_mut(&place).ok_or(Closed::Idle)?;
            let Carrier::Serving(ids) = &mut link.carrier else {
                return Err(Closed::Idle);
            };
            conn.place = Some(place);
            ids.push(id);
            let crowded = ids.len() > MAX_PER_SESSION;
            if let Some(oldest) = ids.first().copied().filter(|_| crowded) {
                self.close(now, oldest, Closed::Idle);
            }
            return Ok(());
        }
        let place = Place::over(transport, conn.peer)
            .filter(|place| !self.links.contains_key(place))
            .ok_or(Closed::Protocol("its place is taken"))?;
        conn.place = Some(place);
        let link = Link::new(now, Carrier::Serving(vec![id]), true);
        self.links.insert(place, link);
        if let Some(number) = number {
            self.sessions.insert(number, place);
        }
        Ok(())
    }

    /// Bytes of answers to our requests.
    fn answered(
        &mut self,
        now: Instant,
        id: usize,
        mut input: &[u8],
        each: &mut dyn FnMut(Received<'_>),
    ) -> Result<(), Closed> {
        loop {
            let Some(conn) = self.conns.get_mut(id) else {
                return Ok(());
            };
            let (Role::Asking(asking), Some(place)) = (&mut conn.role, conn.place) else {
                return Ok(());
            };
            let Some(answer) = &mut asking.answer else {
                if input.is_empty() {
                    return Ok(());
                }
                if !begin_answer(asking, &mut input)? {
                    conn.unfinished.get_or_insert(now);
                    return Ok(());
                }
                conn.unfinished = Some(now);
                continue;
            };
            match answer.body.next(&mut input)? {
                Piece::More => return Ok(()),
                Piece::Content(mut content) => {
                    let decoder = &mut answer.frames;
                    let link = self.links.get_mut(&place).ok_or(Closed::Idle)?;
                    let group = &mut self.group;
                    let brought =
                        frames(decoder, &mut content, place, Place::DIALLED, group, each)?;
                    self.counters.rx_packets += brought;
                    if brought > 0 {
                        answer.brought = true;
                        link.active = now;
                    }
                }
                Piece::End => {
                    if !answer.frames.is_at_boundary() {
                        return Err(Closed::Protocol("a packet that ends with its answer"));
                    }
                    let empty = !answer.brought;
                    asking.answer = None;
                    let asked = asking.open.pop_front();
                    // Who only knows the draft may answer every poll at once.
                    let at_once = asked.is_some_and(|at| now < at + POLL_PAUSE);
                    if asking.errand == Errand::Poll && empty && at_once {
                        asking.pause = Some(now + POLL_PAUSE);
                    }
                    conn.unfinished = None;
                    conn.active = now;
                    conn.brought = true;
                    if let Some(link) = self.links.get_mut(&place) {
                        link.failures = 0;
                    }
                }
            }
        }
    }
}

/// The head of an answer. False: more is needed.
fn begin_answer(asking: &mut Asking, input: &mut &[u8]) -> Result<bool, Closed> {
    let before = asking.head.len();
    let room = (http::MAX_HEAD - before).min(input.len());
    asking.head.extend_from_slice(&input[..room]);
    let Some((response, len)) = http::response(&asking.head)? else {
        return Ok(false);
    };
    *input = &input[len - before..];
    asking.head.clear();
    if response.status == 100 {
        return Ok(true);
    }
    if asking.open.is_empty() {
        return Err(Closed::Protocol("an answer to nothing"));
    }
    if response.status != 200 {
        return Err(Closed::Protocol("an answer that is no success"));
    }
    asking.answer = Some(Answer {
        body: response.body,
        frames: FrameDecoder::new(),
        brought: false,
    });
    Ok(true)
}

/// Gives the next answer that is due, or for which packets wait. True if there was one.
pub(super) fn answer(
    now: Instant,
    serving: &mut Serving,
    outbox: &mut Outbox,
    out: &mut Vec<u8>,
) -> bool {
    let due = |owed: &Owed| !outbox.is_empty() || owed.by <= now;
    if !serving.owed.front().is_some_and(due) {
        return false;
    }
    let Some(owed) = serving.owed.pop_front() else {
        return false;
    };
    let length = outbox.fitting(CHUNK);
    http::write_packets_head(out, length, owed.keep_alive);
    if length > 0 {
        outbox.take(CHUNK, out);
    }
    true
}

fn serving_is_over(role: &Role) -> bool {
    matches!(role, Role::Serving(serving) if serving.last && serving.owed.is_empty())
}

fn socket_of(link: &Link) -> usize {
    match link.accepted {
        true => Place::ACCEPTED,
        false => Place::DIALLED,
    }
}

/// `?s=` and 32 hexadecimal digits.
fn session_number(target: &str) -> Option<u128> {
    let (_, query) = target.split_once('?')?;
    let number = query.split('&').find_map(|part| part.strip_prefix("s="))?;
    let plain = number.len() == 32 && number.bytes().all(|byte| byte.is_ascii_hexdigit());
    u128::from_str_radix(number, 16).ok().filter(|_| plain)
}

/// Hands on the packets of a stretch of frames; returns how many.
fn frames(
    decoder: &mut FrameDecoder,
    input: &mut &[u8],
    place: Place,
    socket: usize,
    group: &mut Group,
    each: &mut dyn FnMut(Received<'_>),
) -> Result<u64, Closed> {
    let mut count = 0;
    let end = loop {
        match decoder.next_packet(input) {
            Ok(Some(packet)) => {
                count += 1;
                group.push(place, socket, packet, each);
            }
            Ok(None) => break Ok(count),
            Err(error) => break Err(error.into()),
        }
    };
    group.hand_on(place, socket, each);
    end
}
