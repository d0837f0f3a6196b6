//! Each attribute of each request, as it must not be.

use super::*;

/// What is wrong with an attribute of this good value; the family's byte is where one stands.
fn wrongs(good: &[u8], family: Option<usize>) -> Vec<(&'static str, Vec<u8>)> {
    let mut all = vec![
        ("longer by four bytes", [good, &[0; 4]].concat()),
        ("longer by one byte", [good, &[0]].concat()),
        ("as long as it can be", [good, &[0; 1200]].concat()),
    ];
    if let Some((_, shorter)) = good.split_last() {
        all.push(("cut by one byte", shorter.to_vec()));
        all.push(("empty", Vec::new()));
    }
    if let Some(at) = family {
        for number in [0, 3, 0xFF] {
            let mut other = good.to_vec();
            other[at] = number;
            all.push(("of a family that there is not", other));
        }
    }
    all
}

/// A method, what it needs beside, the attribute, a good value, and where its family stands.
type Case = (
    u16,
    &'static [(u16, &'static [u8])],
    u16,
    &'static [u8],
    Option<usize>,
);

/// 198.51.100.7:9000, XORed.
const AT: [u8; 8] = [0, 1, 0x02, 0x3A, 0xE7, 0x21, 0xC0, 0x45];
const UDP: (u16, &[u8]) = (attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
const NUMBER: (u16, &[u8]) = (attr::CHANNEL_NUMBER, &[0x40, 0, 0, 0]);

const CASES: [Case; 11] = [
    (
        method::ALLOCATE,
        &[],
        attr::REQUESTED_TRANSPORT,
        &[17, 0, 0, 0],
        None,
    ),
    (
        method::ALLOCATE,
        &[UDP],
        attr::LIFETIME,
        &[0, 0, 3, 0],
        None,
    ),
    (method::ALLOCATE, &[UDP], attr::EVEN_PORT, &[0x80], None),
    (
        method::ALLOCATE,
        &[UDP],
        attr::RESERVATION_TOKEN,
        &[7; 8],
        None,
    ),
    (
        method::ALLOCATE,
        &[UDP],
        attr::REQUESTED_ADDRESS_FAMILY,
        &[1, 0, 0, 0],
        Some(0),
    ),
    (
        method::ALLOCATE,
        &[UDP],
        attr::ADDITIONAL_ADDRESS_FAMILY,
        &[2, 0, 0, 0],
        Some(0),
    ),
    (method::REFRESH, &[], attr::LIFETIME, &[0, 0, 3, 0], None),
    (
        method::REFRESH,
        &[],
        attr::REQUESTED_ADDRESS_FAMILY,
        &[1, 0, 0, 0],
        Some(0),
    ),
    (
        method::CREATE_PERMISSION,
        &[],
        attr::XOR_PEER_ADDRESS,
        &AT,
        Some(1),
    ),
    (
        method::CHANNEL_BIND,
        &[NUMBER],
        attr::XOR_PEER_ADDRESS,
        &AT,
        Some(1),
    ),
    (
        method::CHANNEL_BIND,
        &[(attr::XOR_PEER_ADDRESS, &AT)],
        attr::CHANNEL_NUMBER,
        &[0x40, 0, 0, 0],
        None,
    ),
];

/// A server, with an allocation unless that is what is asked for; its relay.
fn ready(method: u16) -> (Lab, Option<SocketAddr>) {
    let mut lab = Lab::new(config());
    let relayed = (method != method::ALLOCATE).then(|| lab.allocate(&client(1)).relayed()[0]);
    (lab, relayed)
}

fn with(writer: Writer, beside: &[(u16, &[u8])], kind: u16, value: &[u8]) -> Writer {
    let add = |writer: Writer, (kind, value): &(u16, &[u8])| writer.raw(*kind, value);
    beside.iter().fold(writer, add).raw(kind, value)
}

// Cut, too long, of no family: refused, and nothing has changed by it
#[test]
fn an_attribute_that_is_wrong_is_refused_and_changes_nothing() {
    for (method, beside, kind, good, family) in CASES {
        for (what, value) in wrongs(good, family) {
            let (mut lab, relayed) = ready(method);
            let answer = lab.ask(&client(1), method, |w| with(w, beside, kind, &value));
            let code = answer.code();
            let told = format!("method {method}, attribute {kind:#06x} {what}: {code}");
            let expected: &[u16] = match family {
                Some(_) if value.len() == good.len() => &[400, 440, 443],
                _ => &[400],
            };
            assert!(expected.contains(&code), "{told}");
            assert_eq!(
                lab.server.allocations(),
                usize::from(relayed.is_some()),
                "{told}"
            );
            if let Some(relayed) = relayed {
                assert!(lab.relayed(relayed, PEER, 10).is_none(), "{told}");
                assert!(lab.channel(&client(1), 0x4000, b"data").is_none(), "{told}");
            }
        }
    }
}

// RFC 8489 §14: of an attribute that comes again the first one counts, whatever the second one says
#[test]
fn the_first_of_an_attribute_that_is_repeated_counts() {
    for (method, beside, kind, good, family) in CASES {
        // Any number of peers may be let in at once, so that each of them counts; and tokens of nobody are refused.
        if (method, kind) == (method::CREATE_PERMISSION, attr::XOR_PEER_ADDRESS)
            || kind == attr::RESERVATION_TOKEN
        {
            continue;
        }
        for (what, second) in wrongs(good, family) {
            let (mut lab, _) = ready(method);
            let answer = lab.ask(&client(1), method, |w| {
                with(w, beside, kind, good).raw(kind, &second)
            });
            let told = format!("method {method}, attribute {kind:#06x}, the second {what}");
            assert_eq!(answer.code(), 0, "{told}");
        }
    }
}

// RFC 8489 §14: padding may be anything
#[test]
fn the_bytes_of_padding_are_not_looked_at() {
    let mut lab = Lab::new(config());
    let (writer, nonce) = (
        udp(Writer::new(Class::Request, method::ALLOCATE, lab.id())),
        lab.nonce(&client(1)),
    );
    let plain = writer
        .raw(attr::USERNAME, b"alice")
        .raw(attr::REALM, REALM.as_bytes())
        .raw(attr::NONCE, nonce.as_bytes())
        .finish();
    // Behind the name, which is followed by three bytes of padding.
    let name = plain.windows(5).position(|window| window == b"alice");
    let behind = name.expect("the name") + 5;
    let mut bytes = plain;
    bytes[behind..behind + 3].copy_from_slice(&[0xFF, 1, 0x80]);
    // The length says already that the signature follows.
    let length = (bytes.len() - 20 + 24) as u16;
    bytes[2..4].copy_from_slice(&length.to_be_bytes());
    let signature = lab.key().sign(Mac::Sha1, &bytes);
    bytes.extend([0, 8, 0, 20]);
    bytes.extend(signature);
    assert_eq!(lab.raw(&client(1), &bytes).expect("an answer").code(), 0);
}
