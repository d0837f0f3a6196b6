use super::*;
use anode_tracker::{Key, PeerId};
use std::net::Ipv4Addr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const SHORT: Duration = Duration::from_secs(2);

fn announce() -> Question {
    Question::Announce(Announce {
        info_hash: InfoHash([7; 20]),
        peer_id: PeerId([8; 20]),
        key: Key(9),
        port: 9_000,
        left: 1,
        event: None,
        num_want: 30,
        tracker_id: None,
        compact: true,
    })
}

/// A server that reads a head and then says this, again and again with these pauses.
async fn says(head: &'static [u8], more: &'static [u8], pause: Duration) -> SocketAddr {
    let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = [0; 2_048];
        let _ = stream.read(&mut buffer).await;
        let _ = stream.write_all(head).await;
        while !more.is_empty() && stream.write_all(more).await.is_ok() {
            tokio::time::sleep(pause).await;
        }
    });
    at
}

async fn words(scheme: &str, at: SocketAddr) -> String {
    let url: TrackerUrl = format!("{scheme}://{at}/announce").parse().unwrap();
    match ask_within(SHORT, &url, at.ip(), at, &announce(), &None).await {
        Ok(reply) => format!("{reply:?}"),
        Err(error) => error.to_string(),
    }
}

// S36: however an answer never ends, it ends here.
#[tokio::test]
async fn endless_and_slow_answers_are_cut() {
    const OK: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";
    const BLOCK: &[u8] = &[b'l'; 65_536];
    let quick = Duration::ZERO;
    let endless = words("http", says(OK, BLOCK, quick).await).await;
    assert!(endless.contains("more than"), "{endless}");
    let head = words("http", says(b"HTTP/1.1 200 OK\r\nx: ", BLOCK, quick).await).await;
    assert!(head.contains("does not answer as it should"), "{head}");
    let start = Instant::now();
    let slow = words("http", says(OK, b"i", Duration::from_millis(50)).await).await;
    assert!(slow.contains("no answer from"), "{slow}");
    let silent = words("http", says(b"", b"", quick).await).await;
    assert!(silent.contains("does not answer as it should"), "{silent}");
    assert!(start.elapsed() < 3 * SHORT, "{:?}", start.elapsed());
}

#[tokio::test]
async fn redirects_and_statuses_are_told_and_not_followed() {
    let quick = Duration::ZERO;
    for (answer, part) in [
        (&b"HTTP/1.1 301 Moved\r\nlocation: http://127.0.0.1:9/announce\r\ncontent-length: 0\r\n\r\n"[..], "redirects"),
        (b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n", "status 404"),
        (b"HTTP/1.1 403 No\r\ncontent-length: 27\r\n\r\nd14:failure reason6:no way e", "the tracker"),
        (b"no HTTP\r\n\r\n", "does not answer as it should"),
    ] {
        let said = words("http", says(answer, b"", quick).await).await;
        assert!(said.contains(part), "{said}");
    }
}

// B3, B4: bind comes first, and what cannot be bound is said so.
#[tokio::test]
async fn an_address_that_is_not_ours_cannot_announce() {
    let at = says(b"", b"", Duration::ZERO).await;
    for scheme in ["http", "udp"] {
        let url: TrackerUrl = format!("{scheme}://{at}/announce").parse().unwrap();
        let foreign: IpAddr = "192.0.2.1".parse().unwrap();
        let said = ask(&url, foreign, at, &announce(), &None)
            .await
            .unwrap_err()
            .to_string();
        assert!(said.contains("192.0.2.1"), "{said}");
    }
}

/// A UDP tracker that gives an id, and answers an announce by this tail behind the right head.
async fn datagrams(ip: IpAddr, tail: &'static [u8]) -> SocketAddr {
    let socket = UdpSocket::bind((ip, 0)).await.unwrap();
    let other = UdpSocket::bind((ip, 0)).await.unwrap();
    let at = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 2_048];
        while let Ok((_, from)) = socket.recv_from(&mut buffer).await {
            let transaction: [u8; 4] = buffer[12..16].try_into().unwrap();
            let action: [u8; 4] = buffer[8..12].try_into().unwrap();
            let answer = |transaction: [u8; 4]| match action {
                [0, 0, 0, 0] => [&[0; 4][..], &transaction, &[5; 8]].concat(),
                _ => [
                    &action[..],
                    &transaction,
                    &[0, 0, 7, 8, 0, 0, 0, 1, 0, 0, 0, 0],
                    tail,
                ]
                .concat(),
            };
            let mut wrong = transaction;
            wrong[0] ^= 1;
            // Of another transaction, from another port, and only then the right one.
            let _ = socket.send_to(&answer(wrong), from).await;
            let _ = other.send_to(&answer(transaction), from).await;
            let _ = socket.send_to(b"short", from).await;
            let _ = socket.send_to(&answer(transaction), from).await;
        }
    });
    at
}

// B11, B13: six bytes an entry over IPv4, eighteen over IPv6, and nothing in between.
#[tokio::test]
async fn entries_of_the_wrong_family_discard_an_answer_whole() {
    let six: IpAddr = "::1".parse().unwrap();
    const FOUR: &[u8] = &[192, 0, 2, 1, 35, 40];
    let good = words("udp", datagrams(LOCAL, FOUR).await).await;
    assert!(good.contains("192.0.2.1:9000"), "{good}");
    let wrong = words("udp", datagrams(six, FOUR).await).await;
    assert!(
        wrong.contains("6 bytes of peers, which is no multiple"),
        "{wrong}"
    );
    let odd = words("udp", datagrams(LOCAL, &[0; 7]).await).await;
    assert!(odd.contains("7 bytes of peers"), "{odd}");
}

#[tokio::test]
async fn nobody_there_is_said_at_once() {
    let free = std::net::UdpSocket::bind((LOCAL, 0)).unwrap();
    let at = free.local_addr().unwrap();
    drop(free);
    let start = Instant::now();
    for scheme in ["udp", "http"] {
        let said = words(scheme, at).await;
        assert!(said.contains("refused"), "{said}");
    }
    assert!(start.elapsed() < SHORT);
}
