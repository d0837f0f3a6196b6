//! Challenges and signatures, honest and not.

use super::*;

// T27: quotes around the realm are not part of the key, and go back as they came
#[test]
fn quoted_realms() {
    let mut script = Script::new(config());
    script.client.start(script.now).unwrap();
    let asked = script.one(method::ALLOCATE);
    let challenge = Writer::error(method::ALLOCATE, asked.id(), 401)
        .raw(attr::REALM, b"\"realm\"\0")
        .raw(attr::NONCE, b"n");
    script.hear(&challenge.finish());
    let asked = script.one(method::ALLOCATE);
    assert_eq!(asked.message().raw(attr::REALM), Some(&b"\"realm\"\0"[..]));
    assert!(script.key.verifies(Mac::Sha1, &asked.message()));
}

// RFC 8489 §9.2.5: a realm that has changed is answered with a key of its own, once; the allocation goes on
#[test]
fn another_realm_is_answered_anew() {
    let mut script = Script::new(config());
    script.client.start(script.now).unwrap();
    script.login();
    script.allocated();
    script.events();
    assert!(
        script
            .client
            .permit(script.now, address("198.51.100.7:1").ip())
    );
    let asked = script.one(method::CREATE_PERMISSION);
    let moved = |asked: &Asked| {
        Writer::error(asked.method(), asked.id(), 401)
            .raw(attr::REALM, b"elsewhere")
            .raw(attr::NONCE, b"another")
            .finish()
    };
    script.hear(&moved(&asked));
    let again = script.one(method::CREATE_PERMISSION);
    assert_eq!(again.message().raw(attr::REALM), Some(&b"elsewhere"[..]));
    assert!(
        !script.key.verifies(Mac::Sha1, &again.message()),
        "another key"
    );
    script.hear(&moved(&again));
    let events = script.events();
    let refused = [Event::Ended {
        why: Why::Credentials,
        not_before: None,
    }];
    assert_eq!(events, refused, "wrong there, too");
}

// T22, T23, T24: strings beyond their limits are not answered; those at the limit are
#[test]
fn long_strings() {
    for (realm, nonce, heard) in [
        ("\u{20AC}".repeat(127), "n".repeat(127), true),
        ("r".repeat(128), "n".into(), false),
        ("r".into(), "n".repeat(128), false),
        ("r".into(), "\u{1F600}".repeat(127), true),
    ] {
        let mut script = Script::new(config());
        script.client.start(script.now).unwrap();
        let asked = script.one(method::ALLOCATE);
        let answer = Writer::error(method::ALLOCATE, asked.id(), 401);
        script.hear(
            &answer
                .raw(attr::REALM, realm.as_bytes())
                .raw(attr::NONCE, nonce.as_bytes())
                .finish(),
        );
        assert_eq!(script.asked().len(), usize::from(heard));
    }
}

// T39: unsigned and wrongly signed answers do not count, the request goes on
#[test]
fn answers_must_be_signed() {
    for strict in [true, false] {
        let mut script = Script::new(Config {
            require_integrity: strict,
            ..config()
        });
        script.client.start(script.now).unwrap();
        script.login();
        let asked = script.one(method::ALLOCATE);
        let success = || {
            Writer::new(Class::Success, method::ALLOCATE, asked.id())
                .xor_address(attr::XOR_RELAYED_ADDRESS, address(RELAY))
                .number(attr::LIFETIME, 600)
        };
        script.hear(&success().finish());
        script.hear(
            &success()
                .sign(&Key::from_bytes(b"wrong"), Mac::Sha1)
                .finish(),
        );
        script.hear(
            &Writer::error(method::ALLOCATE, asked.id(), 403)
                .sign(&Key::from_bytes(b"wrong"), Mac::Sha1)
                .finish(),
        );
        assert_eq!(script.events(), [], "never came");
        assert_eq!(script.client.counters().bad_integrity, 3);
        script.hear(&Writer::error(method::ALLOCATE, asked.id(), 403).finish());
        assert_eq!(
            script.events().len(),
            usize::from(!strict),
            "an unsigned refusal"
        );
        if strict {
            script.hear(&success().sign(&script.key.clone(), Mac::Sha1).finish());
            assert!(matches!(script.events()[..], [Event::Allocated { .. }]));
        }
    }
}

// 401 and 438: wrong passwords end it, fresh nonces are taken, but not for ever
#[test]
fn challenges() {
    let mut script = Script::new(config());
    script.client.start(script.now).unwrap();
    script.login();
    let asked = script.one(method::ALLOCATE);
    script.hear(&Script::challenge(&asked, 401, "another"));
    assert_eq!(
        script.events(),
        [Event::Ended {
            why: Why::Credentials,
            not_before: None
        }],
        "the password is wrong"
    );
    let mut script = Script::ready(config());
    script.client.permit(script.now, address(PEER).ip());
    for nonce in ["b", "c", "d"] {
        let asked = script.one(method::CREATE_PERMISSION);
        script.hear(&Script::challenge(&asked, 438, nonce));
    }
    let asked = script.one(method::CREATE_PERMISSION);
    assert_eq!(asked.message().raw(attr::NONCE), Some(&b"d"[..]));
    script.hear(&Script::challenge(&asked, 438, "e"));
    assert_eq!(
        script.events(),
        [Event::Ended {
            why: Why::Credentials,
            not_before: None
        }],
        "it never has enough"
    );
    let mut script = Script::new(Config {
        credentials: None,
        ..config()
    });
    script.client.start(script.now).unwrap();
    let asked = script.one(method::ALLOCATE);
    script.hear(&Script::challenge(&asked, 401, "n"));
    assert_eq!(
        script.events(),
        [Event::Ended {
            why: Why::Credentials,
            not_before: None
        }],
        "there are none"
    );
}

// T44: the cookie promises algorithms; an answer without them is somebody else's
#[test]
fn bidding_down_is_not_heard() {
    let cookie = "obMatJos2wAAAnonce";
    let both = [0, 2, 0, 0, 0, 1, 0, 0];
    let mut script = Script::new(Config {
        hide_name: true,
        ..config()
    });
    script.client.start(script.now).unwrap();
    let asked = script.one(method::ALLOCATE);
    script.hear(&Script::challenge(&asked, 401, cookie));
    assert!(script.asked().is_empty());
    assert_eq!(script.client.counters().bad_integrity, 1);
    let challenge = |asked: &Asked, code, nonce: &str, list: &[u8]| {
        Writer::error(asked.method(), asked.id(), code)
            .raw(attr::REALM, b"realm")
            .raw(attr::NONCE, nonce.as_bytes())
            .raw(attr::PASSWORD_ALGORITHMS, list)
            .finish()
    };
    script.hear(&challenge(&asked, 401, cookie, &[0, 9, 0, 0]));
    assert!(script.asked().is_empty(), "none that we know");
    script.hear(&challenge(&asked, 401, cookie, &both));
    let asked = script.one(method::ALLOCATE);
    let message = asked.message();
    assert_eq!(message.raw(attr::PASSWORD_ALGORITHMS), Some(&both[..]));
    assert_eq!(
        message.raw(attr::PASSWORD_ALGORITHM),
        Some(&[0, 2, 0, 0][..])
    );
    assert!(message.has(attr::USERHASH) && !message.has(attr::USERNAME));
    assert!(
        Key::long_term(KeyDigest::Sha256, "alice", "realm", "secret")
            .unwrap()
            .verifies(Mac::Sha256, &message)
    );
    // what was offered is not taken back with a nonce without the cookie
    script.hear(&Script::challenge(&asked, 438, "plain"));
    assert!(script.asked().is_empty() && script.events().is_empty());
}

// No log line or error holds a password
#[test]
fn passwords_are_not_printed() {
    let text = format!("{:?}", config());
    assert!(text.contains("alice") && !text.contains("secret"), "{text}");
}
