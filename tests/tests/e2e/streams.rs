//! Connections tell the truth: every byte, in order, or the error that a plain link would give.

use crate::common::{NOBODY, Pair};
use anode_tests::lab::{Family, Lab, Lan, Node, heavy};
use anode_tests::traffic::{self, accept, connect, listen};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(30);

/// After so long without progress a stream ends (D37): a peer that lost its state does not tell.
const NO_PROGRESS: Duration = Duration::from_secs(120);

const LARGE: u64 = 1 << 30;

#[test]
fn a_gibibyte_arrives_whole() {
    // A64, D30: half a million packets
    let Some(pair) = Pair::start(Family::V4) else {
        return;
    };
    let _alone = heavy();
    let (near, far) = traffic::pair(&pair.host_a, &pair.host_b, pair.b_at(9000));
    let start = Instant::now();
    let receiver = thread::spawn(move || traffic::receive_all(far));
    let sent = traffic::send_noise(&near, 42, LARGE).expect("the stream takes everything");
    drop(near);
    let (count, sum) = receiver
        .join()
        .expect("no panic")
        .expect("the stream ends well");
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{LARGE} bytes in {seconds:.2} s, {:.0} Mbit/s, made and digested on the fly",
        LARGE as f64 * 8e-6 / seconds
    );
    assert_eq!((count, sum), (LARGE, sent));
}

#[test]
fn both_directions_at_once_arrive_whole() {
    // D28
    let Some(pair) = Pair::start(Family::V4) else {
        return;
    };
    let _alone = heavy();
    const SIZE: u64 = 50_000_000;
    let (near, far) = traffic::pair(&pair.host_a, &pair.host_b, pair.b_at(9000));
    let side = |stream: TcpStream, seed: u64| {
        let reader = stream.try_clone().expect("a second handle");
        let read = thread::spawn(move || traffic::receive_all(reader));
        let written = thread::spawn(move || {
            let sum = traffic::send_noise(&stream, seed, SIZE)?;
            stream.shutdown(Shutdown::Write)?;
            Ok::<_, std::io::Error>(sum)
        });
        (read, written)
    };
    let (near_read, near_written) = side(near, 1);
    let (far_read, far_written) = side(far, 2);
    let near_sum = near_written.join().expect("no panic").expect("sent");
    let far_sum = far_written.join().expect("no panic").expect("sent");
    assert_eq!(
        far_read.join().expect("no panic").expect("received"),
        (SIZE, near_sum)
    );
    assert_eq!(
        near_read.join().expect("no panic").expect("received"),
        (SIZE, far_sum)
    );
}

#[test]
fn a_port_where_nobody_listens_refuses_at_once() {
    // N1, A61, A63, U18
    let Some(pair) = Pair::start(Family::V4) else {
        return;
    };
    for _ in 0..3 {
        let start = Instant::now();
        let error = connect(&pair.host_a, pair.b_at(9), LIMIT).expect_err("nobody listens there");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
        assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    }
}

#[test]
fn an_address_that_nobody_has_is_unreachable_soon() {
    // N2, U18, S23
    let Some(lab) = Lab::open() else { return };
    let lan = Lan::new(&lab, Family::V4);
    let host = lan.host("a");
    let _node = Node::on(&host, lab.directory(), "a").start();
    let start = Instant::now();
    let error =
        connect(&host, SocketAddr::new(NOBODY.into(), 80), LIMIT).expect_err("nobody has it");
    println!("{error} after {:?}", start.elapsed());
    assert_eq!(error.kind(), ErrorKind::HostUnreachable, "{error}");
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn a_peer_that_vanished_before_the_connection_is_unreachable_in_bounded_time() {
    // N2, U18
    let Some(mut pair) = Pair::start(Family::V4) else {
        return;
    };
    let address = pair.b_at(80);
    pair.b.kill();
    let start = Instant::now();
    let error =
        connect(&pair.host_a, address, Duration::from_secs(100)).expect_err("nobody is there");
    println!("{error} after {:?}", start.elapsed());
    assert_eq!(error.kind(), ErrorKind::HostUnreachable, "{error}");
    assert!(
        start.elapsed() < Duration::from_secs(60),
        "{:?}",
        start.elapsed()
    );
}

fn half_close(client_first: bool) {
    let Some(pair) = Pair::start(Family::V4) else {
        return;
    };
    let (near, far) = traffic::pair(&pair.host_a, &pair.host_b, pair.b_at(9000));
    let (mut first, mut second) = if client_first {
        (near, far)
    } else {
        (far, near)
    };
    first.write_all(b"all I have to say").expect("sent");
    first.shutdown(Shutdown::Write).expect("half closed");
    let mut heard = String::new();
    second.read_to_string(&mut heard).expect("the end arrives");
    assert_eq!(heard, "all I have to say");
    // The other direction stays open: for a while idle, then for more than any buffer holds.
    thread::sleep(Duration::from_secs(1));
    let writer = thread::spawn(move || {
        let sum = traffic::send_noise(&second, 3, 20_000_000);
        drop(second);
        sum
    });
    let received = traffic::receive_all(&first).expect("the other half still works");
    let sum = writer.join().expect("no panic").expect("sent");
    assert_eq!(received, (20_000_000, sum));
}

#[test]
fn a_client_may_close_its_half_first() {
    // N4, D35, A63
    half_close(true);
}

#[test]
fn a_server_may_close_its_half_first() {
    // N4, D35
    half_close(false);
}

#[test]
fn both_may_close_their_halves_at_once() {
    // N4, D35
    let Some(pair) = Pair::start(Family::V4) else {
        return;
    };
    for round in 0..10 {
        let (mut near, mut far) =
            traffic::pair(&pair.host_a, &pair.host_b, pair.b_at(9100 + round));
        near.write_all(b"n").expect("sent");
        far.write_all(b"f").expect("sent");
        near.shutdown(Shutdown::Write).expect("half closed");
        far.shutdown(Shutdown::Write).expect("half closed");
        let (mut at_near, mut at_far) = (String::new(), String::new());
        near.read_to_string(&mut at_near)
            .expect("an end, not an error");
        far.read_to_string(&mut at_far)
            .expect("an end, not an error");
        assert_eq!(
            (at_near.as_str(), at_far.as_str()),
            ("f", "n"),
            "round {round}"
        );
    }
}

fn reset_is_seen(by_client: bool) {
    let Some(pair) = Pair::start(Family::V4) else {
        return;
    };
    let (near, far) = traffic::pair(&pair.host_a, &pair.host_b, pair.b_at(9000));
    let (who, mut other) = if by_client { (near, far) } else { (far, near) };
    // Something was said, so that the connection is more than half made.
    (&who).write_all(b"x").expect("sent");
    other.read_exact(&mut [0]).expect("received");
    let start = Instant::now();
    traffic::reset(who);
    let error = other.read(&mut [0]).expect_err("a reset is no end of file");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}

#[test]
fn a_reset_by_the_client_is_a_reset_at_the_server() {
    // N3, N5
    reset_is_seen(true);
}

#[test]
fn a_reset_by_the_server_is_a_reset_at_the_client() {
    // N3, N5
    reset_is_seen(false);
}

#[test]
fn a_server_that_dies_with_unread_data_resets() {
    // N3: the kernel answers a close with unread data by a reset
    let Some(pair) = Pair::start(Family::V4) else {
        return;
    };
    let (mut near, far) = traffic::pair(&pair.host_a, &pair.host_b, pair.b_at(9000));
    near.write_all(&[7; 10_000]).expect("sent");
    far.peek(&mut [0]).expect("something arrived");
    drop(far);
    let error = near.read(&mut [0]).expect_err("a reset is no end of file");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
}

#[test]
fn a_peer_killed_in_mid_transfer_ends_the_connection_and_a_restart_recovers() {
    // D37, N6, S38
    let Some(mut pair) = Pair::start(Family::V4) else {
        return;
    };
    let (near, far) = traffic::pair(&pair.host_a, &pair.host_b, pair.b_at(9000));
    near.set_write_timeout(Some(2 * NO_PROGRESS))
        .expect("a timeout");
    let sender = thread::spawn(move || {
        let started = Instant::now();
        // More than can be sent before the end comes.
        let error = traffic::send_noise(&near, 1, 1 << 40).expect_err("the peer dies");
        (error, started.elapsed())
    });
    far.set_read_timeout(Some(Duration::from_secs(8)))
        .expect("a timeout");
    let receiver = thread::spawn(move || traffic::receive_all(far));
    thread::sleep(Duration::from_secs(1));
    pair.b.kill();
    thread::sleep(Duration::from_secs(1));
    pair.b.start();

    // The sender's program gets an error; the receiver's connection hangs in a kernel whose interface went away, and
    // its reads end by their own time limit or an error, never by an end of file.
    let (error, after) = sender.join().expect("no panic");
    println!("the sender got `{error}` {after:?} after its start");
    assert!(
        error.kind() != ErrorKind::WouldBlock && after < NO_PROGRESS + LIMIT,
        "{error} after {after:?}"
    );
    receiver
        .join()
        .expect("no panic")
        .expect_err("a cut stream is no whole one");

    let (mut near, mut far) = traffic::pair(&pair.host_a, &pair.host_b, pair.b_at(9001));
    near.write_all(b"again").expect("sent");
    let mut buffer = [0; 5];
    far.read_exact(&mut buffer).expect("received");
    assert_eq!(&buffer, b"again");
}

#[test]
fn five_hundred_connections_at_once() {
    // N11, S22, D28
    let Some(pair) = Pair::start(Family::V4) else {
        return;
    };
    let _alone = heavy();
    const COUNT: usize = 500;
    let listener = listen(&pair.host_b, pair.b_at(9000));
    let start = Instant::now();
    let server = thread::spawn(move || {
        let streams: Vec<TcpStream> = (0..COUNT).map(|_| accept(&listener)).collect();
        // All are open before the first is answered: each answer is the question, backwards.
        for mut stream in streams {
            let mut question = [0; 1_000];
            stream.read_exact(&mut question).expect("a question");
            question.reverse();
            stream.write_all(&question).expect("an answer");
        }
    });
    let clients: Vec<_> = (0..COUNT)
        .map(|number| {
            let (ns, address) = (pair.host_a.clone(), pair.b_at(9000));
            thread::spawn(move || {
                let mut stream = connect(&ns, address, LIMIT).expect("connected");
                let mut question = traffic::Noise::new(number as u64 + 1).bytes(1_000);
                stream.write_all(&question).expect("sent");
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer).expect("received");
                question.reverse();
                assert!(
                    answer == question,
                    "connection {number} got another's answer"
                );
            })
        })
        .collect();
    let failed = clients
        .into_iter()
        .filter_map(|client| client.join().err())
        .count();
    assert_eq!(failed, 0, "of {COUNT} connections");
    server.join().expect("every question was read and answered");
    println!(
        "{COUNT} connections opened, used and closed in {:?}",
        start.elapsed()
    );
}

#[test]
fn a_thousand_short_connections_one_after_the_other() {
    // N12
    let Some(pair) = Pair::start(Family::V4) else {
        return;
    };
    let _alone = heavy();
    let listener = listen(&pair.host_b, pair.b_at(9000));
    let server = thread::spawn(move || {
        for _ in 0..1_000 {
            let mut stream = accept(&listener);
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("a byte");
            stream.write_all(&byte).expect("a byte back");
        }
    });
    let start = Instant::now();
    for number in 0..1_000_u32 {
        let mut stream = connect(&pair.host_a, pair.b_at(9000), LIMIT)
            .unwrap_or_else(|e| panic!("number {number}: {e}"));
        stream.write_all(&[number as u8]).expect("sent");
        let mut answer = Vec::new();
        stream
            .read_to_end(&mut answer)
            .unwrap_or_else(|e| panic!("number {number}: {e}"));
        assert_eq!(answer, [number as u8]);
    }
    server.join().expect("every connection was served");
    println!("{:?} for each", start.elapsed() / 1_000);
}

#[test]
fn a_reader_that_stops_holds_the_sender_back_and_loses_nothing() {
    // N7, D33, S24
    let Some(mut pair) = Pair::start(Family::V4) else {
        return;
    };
    let _alone = heavy();
    const SIZE: u64 = 300_000_000;
    let (near, far) = traffic::pair(&pair.host_a, &pair.host_b, pair.b_at(9000));
    let before = pair.a.memory_kib() + pair.b.memory_kib();
    let sender = thread::spawn(move || traffic::send_noise(&near, 9, SIZE));
    thread::sleep(Duration::from_secs(2));
    assert!(
        !sender.is_finished(),
        "nobody has read, yet everything was taken"
    );
    let grown = (pair.a.memory_kib() + pair.b.memory_kib()).saturating_sub(before);
    println!("both nodes grew by {grown} KiB while the reader slept");
    // Two windows of at most 64 MiB each (D33) and their bookkeeping.
    assert!(grown < 200_000, "{grown} KiB");
    let received = traffic::receive_all(far).expect("the stream ends well");
    assert_eq!(
        received,
        (SIZE, sender.join().expect("no panic").expect("sent"))
    );
}
