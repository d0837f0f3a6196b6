//! Servers that are silent or slow, and how long things are kept up.

use super::*;
use crate::frame::Transport;

// T30, T31, T32: a silent server
#[test]
fn silence() {
    for (transport, expected) in [
        (
            Transport::Udp,
            vec![0, 500, 1500, 3500, 7500, 15_500, 31_500],
        ),
        (Transport::Tcp, vec![0]),
    ] {
        let mut script = Script::new(Config {
            transport,
            ..config()
        });
        script.client.start(script.now).unwrap();
        let mut sends = vec![];
        let mut at = 0;
        let end = loop {
            sends.extend(script.asked().iter().map(|_| at));
            let Some(ms) = script.step() else { break at };
            at = ms;
        };
        assert_eq!((sends, end), (expected, 39_500), "{transport:?}");
        assert_eq!(
            script.events(),
            [Event::Ended {
                why: Why::Silence,
                not_before: None
            }]
        );
    }
}

// T33: a path of 900 ms: after the first measurement nothing is repeated any more
#[test]
fn a_slow_path_is_learned() {
    let mut script = Script::new(config());
    script.client.start(script.now).unwrap();
    let first = script.asked().remove(0);
    script.pass(Duration::from_millis(900));
    assert_eq!(script.asked().len(), 1, "repeated: nothing is known yet");
    script.hear(&Script::challenge(&first, 401, NONCE));
    // Karn: no sample; this one is repeated too, so its answer gives none either
    let second = script.asked().remove(0);
    script.pass(Duration::from_millis(400));
    script.succeed(&second, |w| {
        w.xor_address(attr::XOR_RELAYED_ADDRESS, address(RELAY))
            .number(attr::LIFETIME, 600)
    });
    script.events();
    // measured 400 ms: 400 + 4 × 200 = 1200 ms
    script.client.permit(script.now, address(PEER).ip());
    script.one(method::CREATE_PERMISSION);
    script.pass(Duration::from_millis(1199));
    assert!(script.asked().is_empty());
    script.pass(Duration::from_millis(1));
    assert_eq!(script.asked().len(), 1);
}

// T34
#[test]
fn hard_icmp_errors_end_it_and_soft_ones_do_not() {
    for (kind, code, hard) in [
        (3, 3, true),
        (3, 2, true),
        (3, 0, false),
        (3, 1, false),
        (3, 5, false),
        (11, 0, false),
    ] {
        let mut script = Script::new(config());
        script.client.start(script.now).unwrap();
        script.client.handle_server_icmp(script.now, kind, code);
        let ended = Event::Ended {
            why: Why::Unreachable,
            not_before: None,
        };
        assert_eq!(
            script.events(),
            if hard { vec![ended] } else { vec![] },
            "type {kind} code {code}"
        );
    }
}

// T38: what is refreshed when
#[test]
fn everything_is_kept_up() {
    let mut script = Script::ready(config());
    let number = script.bound(PEER);
    script.start = script.now;
    let (mut refreshes, mut permissions, mut channels, mut keepalives) =
        (vec![], vec![], vec![], vec![]);
    while let Some(ms) = script.step() {
        if ms > 1_200_000 {
            break;
        }
        let at = ms / 1000;
        for bytes in script.sent() {
            let asked = Asked(bytes);
            match (asked.message().class(), asked.method()) {
                (Class::Indication, method::BINDING) => keepalives.push(at),
                (_, method::REFRESH) => refreshes.push(at),
                (_, method::CREATE_PERMISSION) => permissions.push(at),
                (_, method::CHANNEL_BIND) => {
                    assert_eq!(asked.channel(), number);
                    channels.push(at);
                }
                other => panic!("{other:?}"),
            }
            if asked.message().class() == Class::Request {
                script.succeed(&asked, |w| w.number(attr::LIFETIME, 600));
            }
        }
    }
    assert_eq!(refreshes, [540, 1080]);
    assert_eq!(channels, [540, 1080]);
    // a ChannelBind renews the permission too
    assert_eq!(permissions, [240, 480, 780, 1020]);
    assert_eq!(keepalives[..3], [15, 30, 45]);
    assert!(
        keepalives.windows(2).all(|w| w[1] - w[0] <= 30),
        "{keepalives:?}"
    );
}

// At most ten requests at a time, the others follow
#[test]
fn ten_requests_at_a_time() {
    let mut script = Script::ready(config());
    for i in 1..=25 {
        assert!(
            script
                .client
                .permit(script.now, format!("198.51.100.{i}").parse().unwrap())
        );
    }
    let mut waves = vec![];
    loop {
        let asked = script.asked();
        if asked.is_empty() {
            break;
        }
        waves.push(asked.len());
        asked.iter().for_each(|a| script.succeed(a, |w| w));
    }
    assert_eq!(waves, [10, 10, 5]);
}
