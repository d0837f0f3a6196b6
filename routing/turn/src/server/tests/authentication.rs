//! Long-term credentials.

use super::*;
use base64::Engine as _;
use hmac::{Hmac, KeyInit, Mac as _};

fn code(lab: &mut Lab, from: &FiveTuple, build: impl FnOnce(&mut Lab, Writer) -> Vec<u8>) -> u16 {
    let writer = udp(Writer::new(Class::Request, method::ALLOCATE, lab.id()));
    let bytes = build(lab, writer);
    lab.raw(from, &bytes).expect("an answer").code()
}

// RFC 8489 §9.2.4, T10: the order of the checks
#[test]
fn credentials_are_checked_in_order() {
    let mut lab = Lab::new(config());
    let from = client(1);
    let nonce = lab.nonce(&from);
    let key = lab.key();
    assert_eq!(code(&mut lab, &from, |_, w| w.finish()), 401);
    // T10: short-term credentials carry neither realm nor nonce
    let short = |w: Writer| {
        w.raw(attr::USERNAME, b"alice")
            .sign(&Key::short_term("secret").unwrap(), Mac::Sha1)
    };
    assert_eq!(code(&mut lab, &from, |_, w| short(w).finish()), 400);
    let full = |w: Writer, name: &str, realm: &str, nonce: &str, key: &Key| {
        w.raw(attr::USERNAME, name.as_bytes())
            .raw(attr::REALM, realm.as_bytes())
            .raw(attr::NONCE, nonce.as_bytes())
            .sign(key, Mac::Sha1)
            .finish()
    };
    let no_name = |w: Writer| {
        w.raw(attr::REALM, b"example.org")
            .raw(attr::NONCE, nonce.as_bytes())
            .sign(&key, Mac::Sha1)
    };
    assert_eq!(code(&mut lab, &from, |_, w| no_name(w).finish()), 400);
    assert_eq!(
        code(&mut lab, &from, |_, w| full(
            w, "alice", REALM, "stale", &key
        )),
        438
    );
    assert_eq!(
        code(&mut lab, &from, |_, w| full(
            w, "mallory", REALM, &nonce, &key
        )),
        401
    );
    assert_eq!(
        code(&mut lab, &from, |_, w| full(
            w, "alice", "other", &nonce, &key
        )),
        401
    );
    assert_eq!(
        code(&mut lab, &from, |_, w| full(
            w,
            "alice",
            REALM,
            &nonce,
            &Key::from_bytes(b"wrong")
        )),
        401
    );
    // T22 to T24: strings beyond their limits
    assert_eq!(
        code(&mut lab, &from, |_, w| full(
            w,
            &"u".repeat(764),
            REALM,
            &nonce,
            &key
        )),
        400
    );
    assert_eq!(
        code(&mut lab, &from, |_, w| full(
            w,
            "alice",
            &"r".repeat(128),
            &nonce,
            &key
        )),
        400
    );
    assert_eq!(
        code(&mut lab, &from, |_, w| full(
            w,
            "alice",
            REALM,
            &"n".repeat(128),
            &key
        )),
        400
    );
    assert_eq!(lab.server.allocations(), 0);
    // S33: a nonce of another 5-tuple
    assert_eq!(
        code(&mut lab, &client(2), |_, w| full(
            w, "alice", REALM, &nonce, &key
        )),
        438
    );
    // and the right one; T27: quotes around the realm
    assert_eq!(
        code(&mut lab, &from, |_, w| full(
            w,
            "alice",
            "\"example.org\"",
            &nonce,
            &key
        )),
        0
    );
}

// T24: a nonce ends with its time
#[test]
fn nonces_expire() {
    let mut lab = Lab::new(config());
    assert_eq!(lab.allocate(&client(1)).code(), 0);
    lab.pass(590);
    lab.ask(&client(1), method::REFRESH, |w| {
        w.number(attr::LIFETIME, 3600)
    });
    lab.pass(3011);
    let answer = lab.ask(&client(1), method::REFRESH, |w| w);
    assert_eq!(answer.code(), 438);
    let nonce = answer
        .message()
        .text(Text::Nonce)
        .unwrap()
        .unwrap()
        .to_owned();
    lab.nonces.insert(format!("{:?}", client(1)), nonce);
    assert_eq!(lab.ask(&client(1), method::REFRESH, |w| w).code(), 0);
}

// S33: other people's allocations: 441 in every request
#[test]
fn an_allocation_belongs_to_its_user() {
    let mut lab = Lab::new(config());
    assert_eq!(lab.allocate(&client(1)).code(), 0);
    lab.user = "bob";
    assert_eq!(
        lab.ask(&client(1), method::REFRESH, |w| w.number(attr::LIFETIME, 0))
            .code(),
        441
    );
    assert_eq!(lab.permit(&client(1), &[PEER]), 441);
    assert_eq!(lab.bind(&client(1), 0x4000, PEER), 441);
    assert_eq!(lab.permit(&client(2), &[PEER]), 437, "nobody's");
    // S33: somebody else's 5-tuple with the right key does not reach it either
    lab.user = "alice";
    assert_eq!(lab.permit(&client(3), &[PEER]), 437);
}

// T22, T26: SASLprep and OpaqueString spellings of one password
#[test]
fn both_preparations_of_a_password_are_taken() {
    let password = "The\u{AD}M\u{AA}tr\u{2168}";
    let mut config = config();
    config
        .users
        .add_password(REALM, "\u{30DE}\u{30C8}", password)
        .unwrap();
    let mut lab = Lab::new(config);
    lab.user = "\u{30DE}\u{30C8}";
    lab.password = "TheMatrIX";
    assert_eq!(lab.allocate(&client(1)).code(), 0);
    let nonce = lab.nonce(&client(2));
    let opaque = Key::long_term_prepared(KeyDigest::Md5, lab.user, REALM, password);
    let bytes = udp(Writer::new(Class::Request, method::ALLOCATE, [9; 12]))
        .raw(attr::USERNAME, lab.user.as_bytes())
        .raw(attr::REALM, REALM.as_bytes())
        .raw(attr::NONCE, nonce.as_bytes())
        .sign(&opaque, Mac::Sha1)
        .finish();
    let answer = lab.raw(&client(2), &bytes).unwrap();
    assert_eq!(answer.code(), 0);
    assert!(
        opaque.verifies(Mac::Sha1, &answer.message()),
        "signed with the key that was used"
    );
}

// T44: RFC 8489's family, and bidding down
#[test]
fn sha256_family() {
    let mut lab = Lab::new(config());
    let offered = [0, 2, 0, 0, 0, 1, 0, 0];
    let key = Key::long_term(KeyDigest::Sha256, "alice", REALM, "secret").unwrap();
    let md5 = lab.key();
    let mut port = 0;
    let mut attempt = |lab: &mut Lab, key: &Key, mac: Mac, build: &dyn Fn(Writer) -> Writer| {
        port += 1;
        let from = client(port);
        let nonce = lab.nonce(&from);
        let writer = udp(Writer::new(
            Class::Request,
            method::ALLOCATE,
            [port as u8; 12],
        ));
        let bytes = build(
            writer
                .raw(attr::REALM, REALM.as_bytes())
                .raw(attr::NONCE, nonce.as_bytes()),
        );
        let answer = lab.raw(&from, &bytes.sign(key, mac).finish()).unwrap();
        if answer.code() == 0 {
            assert!(key.verifies(mac, &answer.message()), "answered in kind");
        }
        answer.code()
    };
    let name = |w: Writer| w.raw(attr::USERNAME, b"alice");
    let algorithms = |w: Writer, list: &[u8], chosen: u8| {
        w.raw(attr::PASSWORD_ALGORITHMS, list)
            .raw(attr::PASSWORD_ALGORITHM, &[0, chosen, 0, 0])
    };
    assert_eq!(
        attempt(&mut lab, &key, Mac::Sha256, &|w| algorithms(
            name(w),
            &offered,
            2
        )),
        0
    );
    assert_eq!(
        attempt(&mut lab, &md5, Mac::Sha256, &|w| algorithms(
            name(w),
            &offered,
            1
        )),
        0
    );
    assert_eq!(attempt(&mut lab, &md5, Mac::Sha1, &name), 0, "the old way");
    let hash = crate::stun::integrity::userhash("alice", REALM);
    assert_eq!(
        attempt(&mut lab, &key, Mac::Sha256, &|w| algorithms(
            w.raw(attr::USERHASH, &hash),
            &offered,
            2
        )),
        0
    );
    assert_eq!(
        attempt(&mut lab, &key, Mac::Sha256, &|w| algorithms(
            w.raw(attr::USERHASH, &[1; 32]),
            &offered,
            2
        )),
        401
    );
    // bidding down: the list that arrived at the client was cut, or one of the two is missing
    assert_eq!(
        attempt(&mut lab, &md5, Mac::Sha256, &|w| algorithms(
            name(w),
            &offered[4..],
            1
        )),
        400
    );
    assert_eq!(
        attempt(&mut lab, &md5, Mac::Sha256, &|w| name(w)
            .raw(attr::PASSWORD_ALGORITHM, &[0, 1, 0, 0])),
        400
    );
    assert_eq!(
        attempt(&mut lab, &md5, Mac::Sha256, &|w| name(w)
            .raw(attr::PASSWORD_ALGORITHMS, &offered)),
        400
    );
    assert_eq!(
        attempt(&mut lab, &md5, Mac::Sha256, &|w| algorithms(
            name(w),
            &offered,
            3
        )),
        400
    );
    // switched off: the plain family of RFC 5389
    let mut old = Lab::new(Config {
        sha256: false,
        ..config()
    });
    let answer = old
        .raw(
            &client(1),
            &Writer::new(Class::Request, method::ALLOCATE, [1; 12]).finish(),
        )
        .unwrap();
    assert!(!answer.message().has(attr::PASSWORD_ALGORITHMS));
    assert_eq!(old.allocate(&client(1)).code(), 0);
}

// T44: what is offered is what every user can, since it is chosen before the name is told
#[test]
fn sha256_is_offered_if_every_user_has_a_key_for_it() {
    let of = |digest, name: &str| Key::long_term(digest, name, REALM, "secret").unwrap();
    let old = Keys {
        md5: Some(of(KeyDigest::Md5, "old")),
        sha256: None,
    };
    let new = Keys {
        md5: None,
        sha256: Some(of(KeyDigest::Sha256, "new")),
    };
    let offered = |users: &[(&str, &Keys)]| {
        let mut config = config();
        for (name, keys) in users {
            let added = config.users.add_keys(REALM, name, (*keys).clone());
            added.unwrap();
        }
        config.check()?;
        let mut lab = Lab::new(config);
        let request = Writer::new(Class::Request, method::ALLOCATE, [1; 12]).finish();
        let answer = lab.raw(&client(1), &request).expect("a challenge");
        Ok(answer.message().has(attr::PASSWORD_ALGORITHMS))
    };
    assert_eq!(offered(&[]), Ok(true), "passwords make keys of both");
    assert_eq!(offered(&[("new", &new)]), Ok(true));
    assert_eq!(offered(&[("old", &old)]), Ok(false));
    let neither = TurnError::Digests {
        md5_only: "old".into(),
        sha256_only: "new".into(),
    };
    assert_eq!(offered(&[("old", &old), ("new", &new)]), Err(neither));
}

// T4, T44: a reload that brings a user with an MD5 key alone ends the offer for newcomers, and nobody's allocation: what
// its user was promised holds as long as that user has the key
#[test]
fn an_allocation_keeps_its_algorithm_over_a_reload() {
    let mut lab = Lab::new(config());
    let newer = Credentials::of(&lab, "alice");
    let (from, late) = (client(1), client(2));
    assert_eq!(newer.ask(&mut lab, &from, method::ALLOCATE, udp).0, 0);
    let held = lab.nonce(&late);

    let md5 = |name: &str| Keys {
        md5: Key::long_term(KeyDigest::Md5, name, REALM, "secret").ok(),
        sha256: None,
    };
    let mut more = config();
    more.users.add_keys(REALM, "old", md5("old")).unwrap();
    lab.server.reload(more.clone()).unwrap();

    // By the nonce of before, and by the next ones, hours later.
    let mut stale = 0;
    for _ in 0..16 {
        lab.pass(500);
        let (mut code, offered) = newer.ask(&mut lab, &from, method::REFRESH, |w| w);
        if code == 438 {
            assert!(offered, "as much as before");
            stale += 1;
            lab.nonces.clear();
            code = newer.ask(&mut lab, &from, method::REFRESH, |w| w).0;
        }
        assert_eq!(code, 0);
    }
    assert_eq!(stale, 2);
    // Whoever was on the way in when the file changed tries again, as everybody does with a nonce that is too old.
    lab.nonces.insert(format!("{late:?}"), held);
    let (code, offered) = newer.ask(&mut lab, &late, method::ALLOCATE, udp);
    assert_eq!((code, offered), (438, false));
    lab.nonces.clear();
    for (port, user) in [(3, "old"), (4, "alice")] {
        lab.user = user;
        assert_eq!(lab.allocate(&client(port)).code(), 0, "{user} by MD5");
    }
    // Her own key is gone: she is asked in the old way, too.
    more.users.add_keys(REALM, "alice", md5("alice")).unwrap();
    lab.server.reload(more).unwrap();
    let (code, offered) = newer.ask(&mut lab, &from, method::REFRESH, |w| w);
    assert_eq!((code, offered), (401, false));
    lab.nonces.clear();
    let refreshed = lab.ask(&from, method::REFRESH, |w| w);
    assert_eq!(refreshed.code(), 0, "with the MD5 key that she has");
    // She is gone: refused in what her client believes.
    let mut without = config();
    without.users = Users::default();
    without.users.add_keys(REALM, "old", md5("old")).unwrap();
    lab.server.reload(without).unwrap();
    lab.nonces.clear();
    let (code, offered) = newer.ask(&mut lab, &from, method::REFRESH, |w| w);
    assert_eq!((code, offered), (401, true));
}

/// A user who signs with SHA-256 in all.
struct Credentials {
    name: &'static str,
    key: Key,
}

impl Credentials {
    fn of(lab: &Lab, name: &'static str) -> Self {
        let key = Key::long_term(KeyDigest::Sha256, name, REALM, lab.password).unwrap();
        Self { name, key }
    }

    /// The code, 0 for success, and whether algorithms are offered with it.
    fn ask(
        &self,
        lab: &mut Lab,
        from: &FiveTuple,
        method: u16,
        build: impl FnOnce(Writer) -> Writer,
    ) -> (u16, bool) {
        let nonce = lab.nonce(from);
        let bytes = build(Writer::new(Class::Request, method, lab.id()))
            .raw(attr::USERNAME, self.name.as_bytes())
            .raw(attr::REALM, REALM.as_bytes())
            .raw(attr::NONCE, nonce.as_bytes())
            .raw(attr::PASSWORD_ALGORITHMS, &[0, 2, 0, 0, 0, 1, 0, 0])
            .raw(attr::PASSWORD_ALGORITHM, &[0, 2, 0, 0])
            .sign(&self.key, Mac::Sha256)
            .finish();
        let answer = lab.raw(from, &bytes).expect("an answer");
        let offered = answer.message().has(attr::PASSWORD_ALGORITHMS);
        (answer.code(), offered)
    }
}

// Keys instead of passwords; an authority
#[test]
fn keys_and_authorities() {
    struct Zone;
    impl Authority for Zone {
        fn keys(&self, name: &str, realm: &str) -> Option<Keys> {
            (name == "carol").then(|| Keys::of(name, realm, "secret"))
        }
    }
    let mut config = config();
    let md5 = Key::long_term(KeyDigest::Md5, "dave", REALM, "secret").unwrap();
    config
        .users
        .add_keys(
            REALM,
            "dave",
            Keys {
                md5: Some(md5),
                sha256: None,
            },
        )
        .unwrap();
    config.authority = Some(Arc::new(Zone));
    let mut lab = Lab::new(config);
    for (port, user, code) in [(1, "dave", 0), (2, "carol", 0), (3, "erin", 401)] {
        lab.user = user;
        assert_eq!(lab.allocate(&client(port)).code(), code, "{user}");
    }
}

// REST-style credentials: the time in the name counts, use is counted for who stands behind it
#[test]
fn time_limited_credentials() {
    let secrets = [&b"old"[..], b"new"].map(|s| zeroize::Zeroizing::new(s.to_vec()));
    let quota = Quota {
        allocations_per_user: 2,
        ..Quota::default()
    };
    let mut lab = Lab::new(Config {
        rest_secrets: secrets.to_vec(),
        quota,
        ..config()
    });
    let now = lab.now;
    let attempt = |lab: &mut Lab, port: u16, name: &str, secret: &[u8]| {
        let mut hmac = Hmac::<sha1::Sha1>::new_from_slice(secret).unwrap();
        hmac.update(name.as_bytes());
        let password =
            base64::engine::general_purpose::STANDARD.encode(hmac.finalize().into_bytes());
        let key = Key::long_term(KeyDigest::Md5, name, REALM, &password).unwrap();
        let from = client(port);
        let nonce = lab.nonce(&from);
        let bytes = udp(Writer::new(
            Class::Request,
            method::ALLOCATE,
            [port as u8; 12],
        ))
        .raw(attr::USERNAME, name.as_bytes())
        .raw(attr::REALM, REALM.as_bytes())
        .raw(attr::NONCE, nonce.as_bytes())
        .sign(&key, Mac::Sha1)
        .finish();
        lab.raw(&from, &bytes).unwrap().code()
    };
    assert_eq!(
        attempt(&mut lab, 1, "2000000000:eve", b"new"),
        401,
        "the time of the day is not known yet"
    );
    lab.server.set_unix_time(now, 1_700_000_000);
    assert_eq!(attempt(&mut lab, 2, "1700000010:eve", b"new"), 0);
    assert_eq!(
        attempt(&mut lab, 3, "1700000099:eve", b"old"),
        0,
        "both secrets are good"
    );
    assert_eq!(
        attempt(&mut lab, 4, "1700000098:eve", b"new"),
        486,
        "counted together"
    );
    assert_eq!(attempt(&mut lab, 5, "1700000010:fay", b"wrong"), 401);
    assert_eq!(attempt(&mut lab, 6, "1700000000:fay", b"new"), 401, "over");
    assert_eq!(attempt(&mut lab, 7, "fay", b"new"), 401);
    lab.pass(10);
    assert_eq!(
        attempt(&mut lab, 8, "1700000010:fay", b"new"),
        401,
        "over by now"
    );
}
