//! HTTP/1.1 as a carrier of packets, as far as that needs it (Anode 0.8 §2.9, A34, D15): heads, bodies, and what we say.
//! Bytes in, bytes out; every length that the other side can choose has a bound.
use std::time::SystemTime;

/// Bytes of a head (request line or status line, and headers) at most.
pub(super) const MAX_HEAD: usize = 8 << 10;
/// Bytes of one body at most, its chunk lines not counted (D15).
pub(super) const MAX_BODY: u64 = 1 << 20;
/// Headers of one head at most.
const MAX_HEADERS: usize = 64;
/// Bytes of a chunk's line, or of all trailers, at most.
const MAX_CHUNK_LINE: usize = 256;
/// Bytes of one body at most with all that chunks put around it: one-byte chunks do not get far.
const MAX_CODED: u64 = 2 * MAX_BODY;

/// Why a connection is of no more use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum HttpError {
    #[error("not HTTP/1.1")]
    Head,
    #[error("a head of more than {MAX_HEAD} bytes")]
    HeadTooLong,
    #[error("a body whose end is not clear")]
    Framing,
    #[error("a body of more than {MAX_BODY} bytes")]
    BodyTooLong,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Method {
    Get,
    Post,
    Other,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Request {
    pub method: Method,
    pub target: String,
    pub body: Body,
    pub keep_alive: bool,
    /// The other side waits for "100 Continue".
    pub expects: bool,
    pub if_modified_since: Option<SystemTime>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Response {
    pub status: u16,
    pub body: Body,
    pub keep_alive: bool,
}

/// What the headers say about the body and the connection.
#[derive(Default)]
struct Fields {
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep: bool,
    expects: bool,
    if_modified_since: Option<SystemTime>,
}

impl Fields {
    fn read(headers: &[httparse::Header<'_>]) -> Result<Self, HttpError> {
        let mut fields = Self::default();
        for header in headers {
            let value = header.value.trim_ascii();
            match header.name.to_ascii_lowercase().as_str() {
                "content-length" => {
                    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
                    let text = std::str::from_utf8(value).ok().filter(|_| digits);
                    let length = text
                        .and_then(|text| text.parse().ok())
                        .ok_or(HttpError::Framing)?;
                    // Two that differ: somebody between us may believe the other one (RFC 9112 §6.3).
                    if fields.length.is_some_and(|known| known != length) {
                        return Err(HttpError::Framing);
                    }
                    fields.length = Some(length);
                }
                "transfer-encoding" => {
                    if fields.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                        return Err(HttpError::Framing);
                    }
                    fields.chunked = true;
                }
                "connection" => {
                    for option in value.split(|byte| *byte == b',') {
                        let option = option.trim_ascii();
                        fields.close |= option.eq_ignore_ascii_case(b"close");
                        fields.keep |= option.eq_ignore_ascii_case(b"keep-alive");
                    }
                }
                "expect" => fields.expects = value.eq_ignore_ascii_case(b"100-continue"),
                "if-modified-since" => {
                    let text = std::str::from_utf8(value).unwrap_or_default();
                    fields.if_modified_since = httpdate::parse_http_date(text).ok();
                }
                _ => {}
            }
        }
        match (fields.length, fields.chunked) {
            (Some(_), true) => Err(HttpError::Framing),
            (Some(length), _) if length > MAX_BODY => Err(HttpError::BodyTooLong),
            _ => Ok(fields),
        }
    }

    fn body(&self) -> Option<Body> {
        match (self.length, self.chunked) {
            (_, true) => Some(Body::chunked()),
            (Some(length), _) => Some(Body::of(length)),
            (None, false) => None,
        }
    }

    /// `minor`: HTTP/1.x.
    fn keep_alive(&self, minor: Option<u8>) -> bool {
        !self.close && (minor == Some(1) || self.keep)
    }
}

fn or_more<T>(bytes: &[u8]) -> Result<Option<T>, HttpError> {
    if bytes.len() >= MAX_HEAD {
        Err(HttpError::HeadTooLong)
    } else {
        Ok(None)
    }
}

/// Reads the head of a request; with it, how many bytes it has. `None`: more is needed.
pub(super) fn request(bytes: &[u8]) -> Result<Option<(Request, usize)>, HttpError> {
    let bytes = &bytes[..bytes.len().min(MAX_HEAD)];
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut headers);
    let len = match head.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return or_more(bytes),
        Err(_) => return Err(HttpError::Head),
    };
    let fields = Fields::read(head.headers)?;
    let request = Request {
        method: match head.method {
            Some("GET") => Method::Get,
            Some("POST") => Method::Post,
            _ => Method::Other,
        },
        target: head.path.unwrap_or_default().to_owned(),
        // A request without a length has no body (RFC 9112 §6.3).
        body: fields.body().unwrap_or(Body::of(0)),
        keep_alive: fields.keep_alive(head.version),
        expects: fields.expects,
        if_modified_since: fields.if_modified_since,
    };
    Ok(Some((request, len)))
}

/// Reads the head of an answer; with it, how many bytes it has. `None`: more is needed.
pub(super) fn response(bytes: &[u8]) -> Result<Option<(Response, usize)>, HttpError> {
    let bytes = &bytes[..bytes.len().min(MAX_HEAD)];
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    let len = match head.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return or_more(bytes),
        Err(_) => return Err(HttpError::Head),
    };
    let fields = Fields::read(head.headers)?;
    let status = head.code.unwrap_or_default();
    let bodiless = status < 200 || status == 204 || status == 304;
    let body = match fields.body() {
        _ if bodiless => Body::of(0),
        // A body up to the end of the connection does not tell whether it is whole.
        None => return Err(HttpError::Framing),
        Some(body) => body,
    };
    let response = Response {
        status,
        body,
        keep_alive: fields.keep_alive(head.version),
    };
    Ok(Some((response, len)))
}

/// How an answer to CONNECT ends: its status, and the bytes of its head. What follows is the tunnel.
pub(super) fn connect_answer(bytes: &[u8]) -> Result<Option<(u16, usize)>, HttpError> {
    let bytes = &bytes[..bytes.len().min(MAX_HEAD)];
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    match head.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => Ok(Some((head.code.unwrap_or_default(), len))),
        Ok(httparse::Status::Partial) => or_more(bytes),
        Err(_) => Err(HttpError::Head),
    }
}

/// A body on its way in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Body {
    state: BodyState,
    /// Bytes of the content so far.
    content: u64,
    /// Bytes as they came.
    coded: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum BodyState {
    /// So many bytes more, then the end.
    Length(u64),
    /// The line in front of a chunk.
    ChunkLine(Vec<u8>),
    /// So many bytes more of a chunk.
    Chunk(u64),
    /// The line end behind a chunk: its bytes so far.
    ChunkEnd(u8),
    /// Lines behind the last chunk, as far as they came: all of them, and the one that is open.
    Trailers {
        seen: usize,
        line: usize,
    },
    Ended,
}

/// The next piece of a body.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Piece<'a> {
    Content(&'a [u8]),
    /// All input is taken.
    More,
    End,
}

impl Body {
    fn of(length: u64) -> Self {
        Self::in_state(match length {
            0 => BodyState::Ended,
            _ => BodyState::Length(length),
        })
    }

    fn chunked() -> Self {
        Self::in_state(BodyState::ChunkLine(Vec::new()))
    }

    fn in_state(state: BodyState) -> Self {
        Self {
            state,
            content: 0,
            coded: 0,
        }
    }

    /// Whether it certainly has no content.
    pub fn is_ended(&self) -> bool {
        self.state == BodyState::Ended
    }

    /// Takes bytes from the front of `input`. Call it until it says `More` or `End`.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Piece<'a>, HttpError> {
        loop {
            match &mut self.state {
                BodyState::Ended => return Ok(Piece::End),
                BodyState::Length(left) => {
                    let Some(piece) = take(input, left) else {
                        return Ok(Piece::More);
                    };
                    if *left == 0 {
                        self.state = BodyState::Ended;
                    }
                    self.count(piece.len())?;
                    return Ok(Piece::Content(piece));
                }
                BodyState::Chunk(left) => {
                    let Some(piece) = take(input, left) else {
                        return Ok(Piece::More);
                    };
                    if *left == 0 {
                        self.state = BodyState::ChunkEnd(0);
                    }
                    self.count(piece.len())?;
                    return Ok(Piece::Content(piece));
                }
                _ => {
                    let Some((byte, rest)) = input.split_first() else {
                        return Ok(Piece::More);
                    };
                    *input = rest;
                    self.coded += 1;
                    if self.coded > MAX_CODED {
                        return Err(HttpError::BodyTooLong);
                    }
                    self.step(*byte)?;
                }
            }
        }
    }

    /// One byte of what stands around the content.
    fn step(&mut self, byte: u8) -> Result<(), HttpError> {
        match &mut self.state {
            BodyState::ChunkLine(line) => {
                if byte != b'\n' {
                    if line.len() >= MAX_CHUNK_LINE {
                        return Err(HttpError::Framing);
                    }
                    line.push(byte);
                    return Ok(());
                }
                let size = chunk_size(line)?;
                if size > MAX_BODY {
                    return Err(HttpError::BodyTooLong);
                }
                self.state = match size {
                    0 => BodyState::Trailers { seen: 0, line: 0 },
                    size => BodyState::Chunk(size),
                };
            }
            BodyState::ChunkEnd(seen) => match (*seen, byte) {
                (0, b'\r') => *seen = 1,
                (0 | 1, b'\n') => self.state = BodyState::ChunkLine(Vec::new()),
                _ => return Err(HttpError::Framing),
            },
            BodyState::Trailers { seen, line } => {
                *seen += 1;
                if *seen > MAX_CHUNK_LINE {
                    return Err(HttpError::Framing);
                }
                match byte {
                    b'\n' if *line == 0 => self.state = BodyState::Ended,
                    b'\n' => *line = 0,
                    b'\r' => {}
                    _ => *line += 1,
                }
            }
            BodyState::Length(_) | BodyState::Chunk(_) | BodyState::Ended => {}
        }
        Ok(())
    }

    fn count(&mut self, bytes: usize) -> Result<(), HttpError> {
        self.content += bytes as u64;
        self.coded += bytes as u64;
        if self.content > MAX_BODY || self.coded > MAX_CODED {
            return Err(HttpError::BodyTooLong);
        }
        Ok(())
    }
}

/// Up to `left` bytes from the front of `input`; `None` if that is empty.
fn take<'a>(input: &mut &'a [u8], left: &mut u64) -> Option<&'a [u8]> {
    if input.is_empty() {
        return None;
    }
    let len = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
    let (piece, rest) = input.split_at(len);
    *input = rest;
    *left -= len as u64;
    Some(piece)
}

/// `1f;extension=x` and its CR: hexadecimal, nothing before it, extensions ignored.
fn chunk_size(line: &[u8]) -> Result<u64, HttpError> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let digits = line
        .split(|byte| *byte == b';')
        .next()
        .unwrap_or_default()
        .trim_ascii_end();
    let plain = !digits.is_empty() && digits.len() <= 15;
    let text = std::str::from_utf8(digits)
        .ok()
        .filter(|text| plain && text.bytes().all(|byte| byte.is_ascii_hexdigit()));
    text.and_then(|text| u64::from_str_radix(text, 16).ok())
        .ok_or(HttpError::Framing)
}

/// Appends the head of a POST with `length` bytes.
pub(super) fn write_post(out: &mut Vec<u8>, target: &str, host: &str, length: usize) {
    let head = format!(
        "POST {target} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/octet-stream\r\n\
         Cache-Control: no-store\r\nContent-Length: {length}\r\n\r\n"
    );
    out.extend_from_slice(head.as_bytes());
}

/// Appends the request for a tunnel through a proxy.
pub(super) fn write_connect(out: &mut Vec<u8>, authority: &str) {
    let head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
    out.extend_from_slice(head.as_bytes());
}

/// Appends the head of an answer with packets.
pub(super) fn write_packets_head(out: &mut Vec<u8>, length: usize, keep_alive: bool) {
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nCache-Control: no-store\r\n\
         {}Content-Length: {length}\r\n\r\n",
        connection(keep_alive)
    );
    out.extend_from_slice(head.as_bytes());
}

/// Appends an answer without a body.
pub(super) fn write_status(out: &mut Vec<u8>, status: &str, keep_alive: bool) {
    let head = format!(
        "HTTP/1.1 {status}\r\n{}Content-Length: 0\r\n\r\n",
        connection(keep_alive)
    );
    out.extend_from_slice(head.as_bytes());
}

pub(super) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Appends a file, or that it has not changed since.
pub(super) fn write_file(
    out: &mut Vec<u8>,
    bytes: &[u8],
    modified: SystemTime,
    since: Option<SystemTime>,
    keep_alive: bool,
) {
    // The date has whole seconds.
    let date = httpdate::fmt_http_date(modified);
    let whole = httpdate::parse_http_date(&date).unwrap_or(modified);
    let unchanged = since.is_some_and(|since| whole <= since);
    let (status, length) = match unchanged {
        true => ("304 Not Modified", String::new()),
        false => ("200 OK", format!("Content-Length: {}\r\n", bytes.len())),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nLast-Modified: {date}\r\n{}{length}\r\n",
        connection(keep_alive)
    );
    out.extend_from_slice(head.as_bytes());
    if !unchanged {
        out.extend_from_slice(bytes);
    }
}

fn connection(keep_alive: bool) -> &'static str {
    if keep_alive {
        ""
    } else {
        "Connection: close\r\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All of a body that comes in pieces of these sizes, and what is left behind it.
    fn read(
        mut body: Body,
        bytes: &[u8],
        piece: usize,
    ) -> Result<Option<(Vec<u8>, usize)>, HttpError> {
        let (mut content, mut taken) = (Vec::new(), 0);
        for chunk in bytes.chunks(piece.max(1)) {
            let mut input = chunk;
            loop {
                match body.next(&mut input)? {
                    Piece::Content(bytes) => content.extend_from_slice(bytes),
                    Piece::More => break,
                    Piece::End => return Ok(Some((content, taken + chunk.len() - input.len()))),
                }
            }
            taken += chunk.len();
        }
        Ok(None)
    }

    fn head(text: &str) -> Result<Option<(Request, usize)>, HttpError> {
        request(text.as_bytes())
    }

    // A34, D15
    #[test]
    fn heads_say_how_the_body_ends() {
        let (post, len) = head("POST /a?s=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
            .unwrap()
            .unwrap();
        assert_eq!(
            (post.method, post.target.as_str(), len),
            (Method::Post, "/a?s=1", 52)
        );
        assert!(post.keep_alive && !post.expects);
        assert_eq!(read(post.body, b"abcd", 1), Ok(Some((b"abc".to_vec(), 3))));
        let (get, _) =
            head("GET /z HTTP/1.0\r\nIf-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n")
                .unwrap()
                .unwrap();
        assert_eq!((get.method, get.keep_alive), (Method::Get, false));
        assert!(get.if_modified_since.is_some() && get.body.is_ended());
        let (chunked, _) =
            head("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
                .unwrap()
                .unwrap();
        assert!(!chunked.keep_alive);
        let coded = b"2;x=\"y\"\r\nab\r\n0A \r\n0123456789\r\n0\r\nTrailer: 1\r\n\r\nnext";
        for piece in 1..coded.len() {
            let (content, taken) = read(chunked.body.clone(), coded, piece).unwrap().unwrap();
            assert_eq!(
                (content.as_slice(), taken),
                (b"ab0123456789".as_slice(), coded.len() - 4)
            );
        }
    }

    // S1, D15
    #[test]
    fn odd_heads_and_bodies_are_refused() {
        let cases = [
            (
                "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
                HttpError::Framing,
            ),
            (
                "POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
                HttpError::Framing,
            ),
            (
                "POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\n",
                HttpError::Framing,
            ),
            (
                "POST / HTTP/1.1\r\nContent-Length: \r\n\r\n",
                HttpError::Framing,
            ),
            (
                "POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
                HttpError::Framing,
            ),
            (
                "POST / HTTP/1.1\r\nContent-Length: 1048577\r\n\r\n",
                HttpError::BodyTooLong,
            ),
            (
                "POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
                HttpError::Framing,
            ),
            ("\x16\x03\x01\x02\x00", HttpError::Head),
            ("POST /\r\n\r\n", HttpError::Head),
        ];
        for (text, error) in cases {
            assert_eq!(head(text), Err(error), "{text:?}");
        }
        let long = format!("POST / HTTP/1.1\r\nX: {}", "x".repeat(MAX_HEAD));
        assert_eq!(head(&long), Err(HttpError::HeadTooLong));
        for wrong in [
            "x\r\n",
            "\r\n",
            "-1\r\n",
            "1 1\r\n",
            "ffffffffffffffff\r\n",
            "1\r\nab",
        ] {
            assert_eq!(
                read(Body::chunked(), wrong.as_bytes(), 3),
                Err(HttpError::Framing),
                "{wrong:?}"
            );
        }
        let endless = "1\r\na\r\n".repeat(1 << 20);
        assert_eq!(
            read(Body::chunked(), endless.as_bytes(), 4096),
            Err(HttpError::BodyTooLong)
        );
        let line = "1".to_owned() + &";x".repeat(MAX_CHUNK_LINE);
        assert_eq!(
            read(Body::chunked(), line.as_bytes(), 7),
            Err(HttpError::Framing)
        );
        let trailers = "0\r\n".to_owned() + &"a: b\r\n".repeat(MAX_CHUNK_LINE);
        assert_eq!(
            read(Body::chunked(), trailers.as_bytes(), 7),
            Err(HttpError::Framing)
        );
        assert_eq!(
            response(b"HTTP/1.1 200 OK\r\n\r\n"),
            Err(HttpError::Framing),
            "no end to its body"
        );
    }

    #[test]
    fn a_file_is_sent_once_and_then_only_its_date() {
        let modified = SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(1_000_500);
        let mut out = Vec::new();
        write_file(&mut out, b"n=x", modified, None, true);
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("\r\n\r\nn=x"));
        let date = text
            .split("Last-Modified: ")
            .nth(1)
            .unwrap()
            .lines()
            .next()
            .unwrap();
        let since = httpdate::parse_http_date(date).ok();
        let mut out = Vec::new();
        write_file(&mut out, b"n=x", modified, since, true);
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("HTTP/1.1 304") && text.ends_with("\r\n\r\n"));
    }

    proptest! {
        // S1
        #[test]
        fn no_bytes_make_the_parsers_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), piece in 1usize..20) {
            let _ = request(&bytes);
            let _ = response(&bytes);
            let _ = connect_answer(&bytes);
            let _ = read(Body::chunked(), &bytes, piece);
        }

        #[test]
        fn bodies_come_back_whatever_the_chunks(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..50), 0..10),
            piece in 1usize..40,
        ) {
            let mut coded = Vec::new();
            for chunk in &chunks {
                coded.extend_from_slice(format!("{:X}\r\n", chunk.len()).as_bytes());
                coded.extend_from_slice(chunk);
                coded.extend_from_slice(b"\r\n");
            }
            coded.extend_from_slice(b"0\r\n\r\n");
            let whole = chunks.concat();
            prop_assert_eq!(read(Body::chunked(), &coded, piece), Ok(Some((whole.clone(), coded.len()))));
            let plain = read(Body::of(whole.len() as u64), &whole, piece).unwrap();
            prop_assert_eq!(plain.map(|(content, _)| content).unwrap_or_default(), whole);
        }
    }
}
