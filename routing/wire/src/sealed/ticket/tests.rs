use super::*;
use crate::{Identity, Zone};
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

fn address(seed: u8) -> Address {
    *Identity::from_scalar(Zone(3), &[seed; 32])
        .unwrap()
        .address()
}

fn ticket() -> Ticket {
    let mut rng = StdRng::seed_from_u64(1);
    let mut ticket = Ticket::new(address(1), Timestamp(1000), &mut rng);
    ticket.endpoints = vec![
        Endpoint::Udp("192.0.2.1:8737".parse().unwrap()),
        Endpoint::Tcp("[2001:db8::1]:443".parse().unwrap()),
    ];
    ticket.relays = vec![(
        address(2),
        Endpoint::Udp("198.51.100.7:8737".parse().unwrap()),
    )];
    ticket
}

// Q29
#[test]
fn text_round_trips_in_either_case_with_white_space_around() {
    let ticket = ticket();
    let text = ticket.to_text().unwrap();
    assert!(text.starts_with("anode-ticket-"));
    for text in [
        text.to_string(),
        text.to_uppercase(),
        format!("  {}\n", *text),
    ] {
        assert_eq!(text.parse::<Ticket>().unwrap(), ticket);
    }
    let hidden = format!("{:?}", ticket.secret);
    assert!(!format!("{ticket:?}").contains(&hidden));
}

// Q29: an error says what is wrong and where
#[test]
fn damaged_tickets_are_refused_with_the_place() {
    let text = ticket().to_text().unwrap().to_string();
    let parse = |text: &str| text.parse::<Ticket>().unwrap_err();
    assert_eq!(parse("tailscale-ticket"), TicketError::Prefix);
    assert_eq!(parse(""), TicketError::Prefix);
    let mut wrong = text.clone();
    wrong.replace_range(20..21, "1");
    assert_eq!(
        parse(&wrong),
        TicketError::Character {
            character: '1',
            place: 21
        }
    );
    assert_eq!(parse(&text[..50]), TicketError::Length(50));
    assert_eq!(parse(&text[..PREFIX.len()]), TicketError::Length(13));
    let swapped = if &text[60..61] == "a" { "b" } else { "a" };
    let mut wrong = text.clone();
    wrong.replace_range(60..61, swapped);
    assert_eq!(parse(&wrong), TicketError::Checksum);
    let mut crowded = ticket();
    crowded.endpoints = vec![crowded.endpoints[0].clone(); 9];
    assert_eq!(crowded.to_text(), Err(TicketError::TooMany));
}

// Q29: the formula, written out once more
#[test]
fn the_proof_is_the_specified_hmac() {
    use hmac::{Hmac, KeyInit, Mac};
    let ticket = ticket();
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&ticket.secret).unwrap();
    mac.update(&[&b"anode join 1"[..], &[7; 32], address(5).as_bytes()].concat());
    let expected: [u8; 32] = mac.finalize().into_bytes().into();
    assert_eq!(ticket.proof(&[7; 32], &address(5)), expected);
}

struct Inviter {
    tickets: Tickets,
    now: Instant,
}

impl Inviter {
    fn judge(&mut self, wall: u64, source: u64, joiner: u8, hash: u8, join: &Join) -> Verdict {
        let joiner = address(joiner);
        self.tickets.judge(
            self.now,
            Timestamp(wall),
            source,
            &joiner,
            &[hash; 32],
            join,
        )
    }
}

fn inviter() -> (Inviter, Ticket) {
    let ticket = ticket();
    let mut tickets = Tickets::new();
    assert!(tickets.add(Timestamp(0), Issued::from(&ticket)));
    let now = Instant::now();
    (Inviter { tickets, now }, ticket)
}

fn join(ticket: &Ticket, joiner: u8, hash: u8) -> Join {
    Join {
        id: ticket.id,
        proof: ticket.proof(&[hash; 32], &address(joiner)),
    }
}

// Q30
#[test]
fn the_first_takes_it_may_ask_again_and_nobody_else_may() {
    let (mut inviter, ticket) = inviter();
    let answer = |status| {
        Verdict::Answer(Joined {
            id: ticket.id,
            status,
        })
    };
    let first = join(&ticket, 5, 9);
    assert_eq!(
        inviter.judge(999, 1, 5, 9, &first),
        Verdict::Take(ticket.id)
    );
    // The write failed: nothing has happened.
    assert_eq!(
        inviter.judge(999, 1, 5, 9, &first),
        Verdict::Take(ticket.id)
    );
    inviter.tickets.commit(ticket.id, &address(5));
    assert_eq!(inviter.judge(999, 1, 5, 9, &first), answer(Status::Taken));
    // In a new session, its answer having been lost.
    let again = join(&ticket, 5, 10);
    assert_eq!(inviter.judge(1000, 1, 5, 10, &again), answer(Status::Taken));
    assert_eq!(
        inviter.judge(1001, 1, 5, 10, &again),
        answer(Status::Expired)
    );
    let other = join(&ticket, 6, 9);
    assert_eq!(inviter.judge(999, 2, 6, 9, &other), answer(Status::Unknown));
    inviter.tickets.commit(ticket.id, &address(6));
    assert_eq!(
        inviter.tickets.iter().next().unwrap().taken_by,
        Some(address(5))
    );
}

// Q29, Q30: a proof is for one session and one address
#[test]
fn a_stolen_proof_is_no_good_elsewhere() {
    let (mut inviter, ticket) = inviter();
    let stolen = join(&ticket, 5, 9);
    let unknown = Verdict::Answer(Joined {
        id: ticket.id,
        status: Status::Unknown,
    });
    assert_eq!(inviter.judge(1, 1, 6, 9, &stolen), unknown);
    assert_eq!(inviter.judge(1, 1, 5, 8, &stolen), unknown);
    assert_eq!(inviter.judge(1, 1, 5, 9, &stolen), Verdict::Take(ticket.id));
}

// Q30
#[test]
fn ten_wrong_ones_a_minute_and_then_silence_for_that_source() {
    let (mut inviter, ticket) = inviter();
    let mut wrong = join(&ticket, 5, 9);
    wrong.proof[31] ^= 1;
    for _ in 0..10 {
        assert!(matches!(
            inviter.judge(1, 1, 5, 9, &wrong),
            Verdict::Answer(_)
        ));
    }
    let right = join(&ticket, 5, 9);
    assert_eq!(inviter.judge(1, 1, 5, 9, &right), Verdict::Silence);
    assert_eq!(inviter.judge(1, 2, 5, 9, &right), Verdict::Take(ticket.id));
    inviter.now += MINUTE;
    assert_eq!(inviter.judge(1, 1, 5, 9, &right), Verdict::Take(ticket.id));
    for source in 0..10_000 {
        inviter.judge(1, source, 5, 9, &wrong);
    }
    assert!(inviter.tickets.wrong.len() <= SOURCES);
}

proptest! {
    #[test]
    fn bodies_round_trip(id in any::<[u8; 8]>(), proof in any::<[u8; 32]>(), status in 0u8..5) {
        let join = Join { id: TicketId(id), proof };
        prop_assert_eq!(Join::parse(&join.emit()), Some(join));
        let bytes = [&id[..], &[status]].concat();
        match Joined::parse(&bytes) {
            Some(joined) => prop_assert_eq!(&joined.emit()[..], &bytes[..]),
            None => prop_assert!(status > 2),
        }
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in ".{0,80}", data in "[a-z2-7]{0,400}") {
        let _ = text.parse::<Ticket>();
        let _ = format!("anode-ticket-{data}").parse::<Ticket>();
    }

    #[test]
    fn no_content_makes_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Ticket::parse(&bytes);
        let mut bytes = bytes;
        let mut whole = vec![FORMAT];
        whole.extend_from_slice(address(1).as_bytes());
        whole.append(&mut bytes);
        let _ = Ticket::parse(&whole);
    }
}
