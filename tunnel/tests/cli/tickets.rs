//! `anode invite`, `anode join` on the program itself.

use serde_json::json;

use crate::common::{ADDRESS_1, Node, State};

#[test]
fn invite_prints_the_ticket_alone_and_bad_ones_are_status_2_with_their_place() {
    // Q29
    let state = State::with_key();
    for expires in ["", "0s", "31d", "5", "h", "-1h", "+1h", "1.5h", "1w"] {
        state.fails(2, &["invite", "--expires", expires]);
    }
    state.fails_in_one_line(1, &["invite"]);
    let node = Node::start(&state, &[]);
    let printed = state.ok(&["invite", "--expires", "1h"]);
    assert!(printed.starts_with("anode-ticket-") && printed.lines().count() == 1);
    let document = state.json(&["invite"]);
    assert_eq!(document["lifetime_s"], 86400);
    assert!(
        document["endpoints"][0]
            .as_str()
            .unwrap()
            .starts_with("udp://127.0.0.1:")
    );
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(state.0.join("trust.toml"))
            .unwrap()
            .permissions(),
    );
    assert_eq!(mode & 0o777, 0o600, "S31: it holds the tickets' secrets");

    let ticket = printed.trim();
    let own = state.fails_in_one_line(2, &["join", ticket]);
    assert!(own.contains("this machine's own"), "{own}");
    let other = State::new();
    other.ok(&["key", "new"]);
    let mut damaged = ticket.to_owned();
    damaged.replace_range(30..31, "0");
    let cases = [
        ("ticket", "starts with anode-ticket-"),
        (&damaged, "'0' at place 31"),
        (&ticket[..ticket.len() - 8], "checksum"),
        (&ticket[..ticket.len() - 3], "not complete"),
    ];
    for (text, message) in cases {
        let error = other.fails_in_one_line(2, &["join", text]);
        assert!(error.contains(message), "{text}: {error}");
    }
    let error = other.fails_in_one_line(1, &["join", ticket]);
    assert!(error.contains("not running"), "{error}");
    // A restart keeps the tickets.
    drop(node);
    let _again = Node::start(&state, &[]);
    let book = std::fs::read_to_string(state.0.join("trust.toml")).unwrap();
    assert_eq!(book.matches("[[ticket]]").count(), 2);
    assert_eq!(state.json(&["peers"]), json!([]));
    assert_eq!(state.json(&["status"])["address"], ADDRESS_1);
}
