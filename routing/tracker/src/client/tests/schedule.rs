//! When whom is asked, and when not.
use super::*;

#[test]
fn intervals_are_kept_with_a_little_extra() {
    for (body, wait) in [
        ("d8:intervali900e5:peers0:e", 900),
        ("d8:intervali1e5:peers0:e", 60),
        ("d8:intervali9999999e5:peers0:e", 86_400),
        ("d5:peers0:e", 1_800),
        ("d8:intervali60e12:min intervali500e5:peers0:e", 500),
    ] {
        let mut world = World::new();
        world.script("198.51.100.1:80", 200, body.as_bytes());
        let mut client = client(&world, &["http://198.51.100.1/announce"], &["192.0.2.1"]);
        world.run(&mut client, 3 * wait);
        let seconds = world.seconds();
        let gap = seconds[1] - seconds[0];
        assert!(
            (wait..=wait + wait / 10 + 1).contains(&gap),
            "{body}: {seconds:?}"
        );
        let events: Vec<_> = world.sent.iter().take(2).map(Sent::event).collect();
        assert_eq!(events, ["started", ""]);
    }
}

#[test]
fn a_search_announces_as_often_as_it_may_and_no_more() {
    for (body, gap) in [
        ("d8:intervali900ee", 60),
        ("d8:intervali900e12:min intervali300ee", 300),
    ] {
        let mut world = World::new();
        world.script("198.51.100.1:80", 200, body.as_bytes());
        let mut client = client(&world, &["http://198.51.100.1/announce"], &["192.0.2.1"]);
        world.run(&mut client, 10);
        client.set_eager(true, world.now);
        world.run(&mut client, 600);
        let gaps: Vec<_> = world
            .seconds()
            .windows(2)
            .map(|pair| pair[1] - pair[0])
            .collect();
        assert!(
            !gaps.is_empty() && gaps.iter().all(|found| *found == gap),
            "{gaps:?}"
        );
        client.set_eager(false, world.now);
        let before = world.sent.len();
        world.run(&mut client, 850);
        assert!(world.sent.len() <= before + 1);
    }
}

#[test]
fn two_swarms_of_one_address_keep_a_minute_between_them() {
    let mut world = World::new();
    world.script("198.51.100.1:80", 200, b"d8:intervali600ee");
    let mut client = client(
        &world,
        &["http://198.51.100.1/announce"],
        &["192.0.2.1", "192.0.2.2"],
    );
    client.set_swarms(&[HASH, InfoHash([8; 20])], world.now);
    client.set_eager(true, world.now);
    world.run(&mut client, 3_000);
    for ip in ["192.0.2.1", "192.0.2.2"] {
        let of_one: Vec<_> = world
            .sent
            .iter()
            .filter(|sent| sent.local.to_string() == ip)
            .collect();
        assert!(
            of_one
                .windows(2)
                .all(|pair| pair[1].second - pair[0].second >= 60)
        );
        let hashes: BTreeSet<_> = of_one
            .iter()
            .map(|sent| sent.parameter("info_hash"))
            .collect();
        assert_eq!(hashes.len(), 2, "both get their turn");
    }
}

#[test]
fn http_failures_double_the_wait_up_to_an_hour() {
    let mut world = World::new();
    world.script("198.51.100.1:80", 500, b"");
    let mut client = client(&world, &["http://198.51.100.1/announce"], &["192.0.2.1"]);
    client.set_eager(true, world.now);
    world.run(&mut client, 14_000);
    let gaps: Vec<_> = world
        .seconds()
        .windows(2)
        .map(|pair| pair[1] - pair[0])
        .collect();
    assert_eq!(gaps, [60, 120, 240, 480, 960, 1_920, 3_600, 3_600]);
    assert!(
        world.sent.iter().all(|sent| sent.event() == "started"),
        "repeated until an answer has come"
    );
}

// BEP 31
#[test]
fn retry_in_is_obeyed() {
    for (retry, gap) in [
        ("i10e", Some(600)),
        ("1:5", Some(300)),
        ("i0e", Some(60)),
        ("5:never", None),
    ] {
        let mut world = World::new();
        world.script(
            "198.51.100.1:80",
            200,
            format!("d14:failure reason2:no8:retry in{retry}e").as_bytes(),
        );
        let mut client = client(&world, &["http://198.51.100.1/announce"], &["192.0.2.1"]);
        world.run(&mut client, 100_000.min(gap.unwrap_or(100_000) + 5));
        assert_eq!(world.seconds().get(1).copied(), gap);
        let Some(Report::Failed { error, retry, .. }) = world.reports.first() else {
            panic!("no report")
        };
        assert_eq!(error, "the tracker refuses: no");
        assert_eq!(retry.is_some(), gap.is_some());
    }
}

#[test]
fn silent_http_trackers_are_cancelled_after_a_while() {
    let mut world = World::new();
    world
        .scripts
        .insert("198.51.100.1:80".parse().unwrap(), Script::Silent);
    let mut client = client(&world, &["http://198.51.100.1/announce"], &["192.0.2.1"]);
    world.run(&mut client, 100);
    assert_eq!((world.seconds(), world.cancelled.len()), (vec![0, 90], 1));
    client.http_answer(world.cancelled[0], 200, b"d8:intervali60ee", world.now);
    assert!(client.poll_report().is_none(), "a late answer is no answer");
}

#[test]
fn requests_at_a_time_are_bounded() {
    let mut world = World::new();
    let urls: Vec<_> = (0..40)
        .map(|n| format!("http://198.51.100.{n}/announce"))
        .collect();
    let urls: Vec<_> = urls.iter().map(String::as_str).collect();
    let locals: Vec<_> = (1..=20).map(|n| format!("192.0.2.{n}")).collect();
    let locals: Vec<_> = locals.iter().map(String::as_str).collect();
    let mut client = client(&world, &urls, &locals);
    world.drain(&mut client);
    assert_eq!(
        (world.sent.len(), client.counters().over_limit),
        (MAX_REQUESTS, 8 + 4)
    );
    assert!(client.deadline(world.now).unwrap() > world.now);
    world.run(&mut client, 31);
    assert_eq!(
        world.sent.len(),
        2 * MAX_REQUESTS,
        "the next ones after those have timed out"
    );
    assert!(client.reports.len() <= MAX_REPORTS);
}

#[test]
fn stopped_takes_two_seconds_at_most() {
    let mut world = World::new();
    world.serve(Config::default(), &["198.51.100.1:80"]);
    world.script("198.51.100.2:80", 200, b"d8:intervali900ee");
    let urls = [
        "udp://198.51.100.1:80",
        "http://198.51.100.2/announce",
        "http://198.51.100.3/announce",
    ];
    let mut client = client(&world, &urls, &["192.0.2.1"]);
    world.run(&mut client, 100);
    world.servers.clear();
    world
        .scripts
        .insert("198.51.100.2:80".parse().unwrap(), Script::Silent);
    let before = world.sent.len();
    client.shut_down(world.now);
    world.run(&mut client, 2);
    assert!(client.is_finished());
    assert_eq!(client.deadline(world.now), None);
    let stops: Vec<_> = world.sent[before..]
        .iter()
        .map(|sent| sent.remote.to_string())
        .collect();
    assert_eq!(
        stops,
        ["198.51.100.1:80", "198.51.100.2:80", "198.51.100.3:80"],
        "an announce may have arrived even so"
    );
}
