use std::io::Write;
use std::time::Instant;

use super::*;
use crate::zone::testing::Server;

fn fetch(url: &str, since: Option<&str>) -> Result<Fetched, FetchError> {
    fetch_within(url, Reach::Local, since)
}

fn fetch_within(url: &str, reach: Reach, since: Option<&str>) -> Result<Fetched, FetchError> {
    let url: Url = url.parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(Fetcher::plain().fetch(&url, reach, since))
}

fn error(server: &Server, since: Option<&str>) -> String {
    fetch(&server.url(), since).unwrap_err().to_string()
}

// A8, D5
#[test]
fn a_file_is_fetched_with_its_date_and_asked_for_by_it() {
    let server = Server::file(b"n=x");
    let date = "Sat, 21 Nov 2026 00:00:00 GMT";
    let expected = Fetched::File {
        bytes: b"n=x".to_vec(),
        modified: Some(date.to_owned()),
        reach: Reach::Local,
    };
    assert_eq!(fetch(&server.url(), None).unwrap(), expected);
    server.answer(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 304 Not Modified\r\n\r\n");
    });
    assert_eq!(
        fetch(&server.url(), Some(date)).unwrap(),
        Fetched::Unchanged
    );
    let requests = server.requests();
    let host = format!("host: {}\r\n", server.at);
    assert!(requests[0].starts_with("GET /z HTTP/1.1\r\n") && requests[0].contains(&host));
    assert!(!requests[0].contains("if-modified-since"));
    assert!(requests[1].contains(&format!("if-modified-since: {date}\r\n")));
    // the length by the end of the connection, and in chunks
    let server = Server::fixed("HTTP/1.0 200 OK", b"n=y");
    assert!(
        matches!(fetch(&server.url(), None), Ok(Fetched::File { bytes, .. }) if bytes == b"n=y")
    );
    let server = Server::fixed(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked",
        b"2\r\nn=\r\n1\r\nz\r\n0\r\n\r\n",
    );
    assert!(
        matches!(fetch(&server.url(), None), Ok(Fetched::File { bytes, .. }) if bytes == b"n=z")
    );
}

// S27
#[test]
fn what_a_hostile_server_answers_is_an_error_that_says_so() {
    let ok = "HTTP/1.1 200 OK";
    let location = |to: &str| format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0");
    let large = vec![b';'; zonefile::MAX_LEN + 1];
    let header = format!("{ok}\r\nx: {}", "x".repeat(HEAD_MAX));
    let headers = format!("{ok}{}", "\r\nx: y".repeat(HEADERS_MAX + 1));
    for (head, body, problem) in [
        (
            &*location("file:///etc/passwd"),
            &b""[..],
            "redirects are not followed",
        ),
        (
            &*location("http://127.0.0.1:22/"),
            b"",
            "to \"http://127.0.0.1:22/\"",
        ),
        (
            &*location(&"x".repeat(5000)),
            b"",
            "redirects are not followed",
        ),
        ("HTTP/1.1 304 Not Modified", b"", "no copy is here"),
        (
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0",
            b"",
            "status 404",
        ),
        (
            "HTTP/1.1 500 Oh\r\ncontent-length: 1000000000",
            b"",
            "status 500",
        ),
        (
            "HTTP/1.1 206 Partial Content\r\ncontent-length: 1",
            b"x",
            "status 206",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 0",
            b"",
            "the file is empty",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 10",
            b"n=x",
            "does not answer as it should",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: -1",
            b"n=x",
            "does not answer as it should",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2",
            b"n=x",
            "does not answer as it should",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 999999999999",
            b"n=x",
            "more than 262144 bytes",
        ),
        (ok, &large, "more than 262144 bytes"),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked",
            b"fffffffffffffffff\r\n",
            "does not answer as it should",
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked",
            b"3\r\nn=x\r\n",
            "does not answer as it should",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 3",
            b"\x1f\x8b\x08",
            "encoded (\"gzip\")",
        ),
        ("SSH-2.0-OpenSSH_9.2", b"", "does not answer as it should"),
        ("", b"", "does not answer as it should"),
        (&header, b"n=x", "does not answer as it should"),
        (&headers, b"n=x", "does not answer as it should"),
    ] {
        let server = Server::fixed(head, body);
        let error = error(&server, None);
        let shown: String = head.chars().take(80).collect();
        assert!(error.contains(problem), "{shown:?}: {error}");
        assert!(error.len() < 600 && !error.contains('\n'), "{error}");
    }
    // a date of a server is sent back only if it is one
    let server = Server::fixed(
        &format!(
            "{ok}\r\nlast-modified: {}\r\ncontent-length: 1",
            "y".repeat(65)
        ),
        b"x",
    );
    assert!(matches!(
        fetch(&server.url(), None),
        Ok(Fetched::File { modified: None, .. })
    ));
}

// S27: neither endless nor slow nor silent
#[test]
fn a_server_that_never_ends_costs_bounded_time_and_memory() {
    let endless = Server::new(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while stream.write_all(&[b';'; 65536]).is_ok() {}
    });
    let start = Instant::now();
    assert!(error(&endless, None).contains("more than 262144 bytes"));
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );

    let headers = Server::new(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
        while stream
            .write_all(b"x: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n")
            .is_ok()
        {}
    });
    assert!(error(&headers, None).contains("does not answer as it should"));

    let slow = Server::new(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n");
        while stream.write_all(b";").is_ok() {
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    let silent = Server::new(|_, _| std::thread::sleep(Duration::from_secs(12)));
    let start = Instant::now();
    std::thread::scope(|scope| {
        for server in [&slow, &silent] {
            scope.spawn(move || {
                assert!(error(server, None).contains("no whole answer within 10 s"))
            });
        }
    });
    let spent = start.elapsed();
    assert!((9.0..12.0).contains(&spent.as_secs_f64()), "{spent:?}");
}

// S16, D5
#[test]
fn servers_are_not_asked_where_none_may_be() {
    for url in [
        "http://0.0.0.0/z",
        "http://224.0.0.1/z",
        "http://[::]/z",
        "http://[ff02::1]/z",
        "http://[fda0::1]/z",
        "http://[fda1::1]/z",
        "http://[::ffff:127.0.0.1]/z",
        "http://[fe80::1]/z",
    ] {
        let error = fetch(url, None).unwrap_err();
        assert!(matches!(error, FetchError::Forbidden(_)), "{url}: {error}");
    }
    // what the draft's two ways may not reach
    for url in [
        "http://127.0.0.1/z",
        "http://169.254.169.254/z",
        "http://localhost/z",
        "http://[::1]/z",
    ] {
        let error = fetch_within(url, Reach::Private, None).unwrap_err();
        assert!(matches!(error, FetchError::Forbidden(_)), "{url}: {error}");
    }
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let error = fetch(&format!("http://{closed}/"), None)
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with(&format!("no connection to {closed}: ")),
        "{error}"
    );
}

#[test]
fn https_without_certificates_to_trust_is_an_error_and_no_plain_request() {
    let server = Server::fixed("HTTP/1.1 200 OK\r\ncontent-length: 1", b"x");
    let url = format!("https://{}/z", server.at);
    assert!(matches!(fetch(&url, None), Err(FetchError::Tls(_))));
    assert_eq!(server.requests(), Vec::<String>::new());
    let server = Server::fixed("HTTP/1.1 200 OK\r\ncontent-length: 1", b"x");
    let url: Url = format!("https://{}/z", server.at).parse().unwrap();
    let fetcher = Fetcher {
        tls: Some(Arc::new(client_config(RootCertStore::empty()))),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let result = runtime.block_on(fetcher.fetch(&url, Reach::Local, None));
    assert!(
        matches!(result, Err(FetchError::Tls(_) | FetchError::TimedOut)),
        "{result:?}"
    );
    assert!(
        server
            .requests()
            .iter()
            .all(|request| !request.starts_with("GET"))
    );
}
