//! `anode policy`: with and without a node, and what a hangup does.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::common::{ADDRESS_1, ADDRESS_2, IPV6_2, Node, State};

fn check(state: &State, config: &str, who: &str, what: &str) -> (Value, Value) {
    let answer = state.json(&["--config", config, "policy", "check", who, what]);
    (answer["verdict"].clone(), answer["rule"].clone())
}

const POLICY: &str = "[lan]\nenabled = false\n[inbound]\ndefault = \"drop\"\n\
    allow = [\"any tcp/80\", \"box udp/5000-5010\"]\ndeny = [\"any tcp/8080-8090\"]\n";

#[test]
fn check_explains_without_a_node_and_says_the_same_with_one() {
    let state = State::with_key();
    state.ok(&["trust", ADDRESS_2, "box"]);
    let config = state.write("policy.toml", POLICY, 0o644);
    let config = config.to_str().unwrap();
    let cases = [
        ("any", "tcp/80", "allow", "any tcp/80"),
        ("any", "tcp/22", "drop", "default"),
        ("any", "icmp", "allow", "echo"),
        ("any", "udp/5000", "drop", "default"),
        ("box", "tcp/22", "allow", "trust"),
        ("box.anode", "udp/5000", "allow", "trust"),
        (IPV6_2, "ip/132", "allow", "trust"),
        (ADDRESS_2, "tcp/8080", "drop", "any tcp/8080-8090"),
        ("fda0::50", "tcp/80", "allow", "any tcp/80"),
    ];
    let all = |state: &State| {
        for (who, what, verdict, rule) in cases {
            let expected = (json!(verdict), json!(rule));
            assert_eq!(check(state, config, who, what), expected, "{who} {what}");
        }
    };
    all(&state);
    let text = state.ok(&["--config", config, "policy", "check", "any", "tcp/22"]);
    assert_eq!(text, "drop  no rule lets it in: [inbound] default\n");
    let _node = Node::start_with(&state, config, &[]);
    all(&state);
}

#[test]
fn bad_questions_and_bad_policies_are_status_2_with_their_place() {
    let state = State::with_key();
    let questions = [
        (["nobody", "tcp/22"], "nobody is called \"nobody\""),
        (["any", "tcp"], "one port"),
        (["any", "tcp/1-2"], "one port"),
        (["any", "any"], "one port"),
        (["any", "ssh"], "no protocol"),
        (["any", "tcp/65536"], "no port"),
        (["zone:2a", "tcp/22"], "ask about one peer"),
        (["2001:db8::1", "tcp/22"], "outside of the overlay"),
    ];
    for ([who, what], message) in questions {
        let error = state.fails_in_one_line(2, &["policy", "check", who, what]);
        assert!(error.contains(message), "{who} {what}: {error}");
    }
    let bad = [
        (
            "allow = [\"any tcp/22\", \"laptop tcp/22\"]",
            "policy.toml:2: nobody is called",
        ),
        (
            "allow = [\n\"any tcp/0-x\"]",
            "policy.toml:3: \"0-x\" is no port",
        ),
        ("default = \"deny\"", "policy.toml:2: unknown variant"),
        ("deny = [\"any icmp\"]", "policy.toml:2: \"any icmp\": echo"),
    ];
    for (text, message) in bad {
        let config = state.write("policy.toml", &format!("[inbound]\n{text}\n"), 0o644);
        let config = config.to_str().unwrap();
        for arguments in [
            &["up", "--no-tun"][..],
            &["policy", "check", "any", "tcp/1"],
        ] {
            let mut all = vec!["--config", config];
            all.extend(arguments);
            let error = state.fails_in_one_line(2, &all);
            assert!(error.contains(message), "{arguments:?}: {error}");
        }
    }
    state.fails_in_one_line(1, &["policy", "reload"]);
}

#[test]
fn reload_and_hangup_read_the_policy_again_and_a_bad_file_changes_nothing() {
    let state = State::with_key();
    let config = state.write("policy.toml", POLICY, 0o644);
    let config = config.to_str().unwrap();
    state.ok(&["trust", ADDRESS_2, "box"]);
    let mut node = Node::start_with(&state, config, &[]);
    let rule = |what: &str| check(&state, config, "fda0::50", what).1;
    let write = |allow: &str| {
        let text = format!("[lan]\nenabled = false\n[inbound]\nallow = [{allow}]\n");
        state.write("policy.toml", &text, 0o644);
    };

    write("\"any tcp/81\"");
    assert_eq!(rule("tcp/80"), "any tcp/80", "not read yet");
    let done = state.json(&["policy", "reload"]);
    assert_eq!(done, json!({"allow": 1, "deny": 0, "default": "reject"}));
    assert_eq!(
        (rule("tcp/80"), rule("tcp/81")),
        (json!("default"), json!("any tcp/81"))
    );

    write("\"any tcp/82\", \"laptop tcp/83\"");
    let error = state.fails_in_one_line(2, &["policy", "reload"]);
    assert!(
        error.contains("policy.toml:4: nobody is called \"laptop\""),
        "{error}"
    );
    assert_eq!(rule("tcp/81"), "any tcp/81");

    write("\"any tcp/84\"");
    node.signal(Signal::SIGHUP);
    let deadline = Instant::now() + Duration::from_secs(10);
    while rule("tcp/84") != "any tcp/84" {
        assert!(Instant::now() < deadline, "the hangup did nothing");
        std::thread::sleep(Duration::from_millis(20));
    }
    let metrics = state.metrics();
    for line in [
        "anode_policy_verdicts_total{protocol=\"tcp\",verdict=\"allow\"} 0",
        "anode_policy_verdicts_total{protocol=\"udp\",verdict=\"drop\"} 0",
        "# TYPE anode_policy_flows gauge",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
    assert!(
        !metrics.contains(ADDRESS_1) && !metrics.contains("fda0"),
        "S30"
    );

    // Whoever is no longer trusted is told of the rule that named it.
    write("\"box tcp/85\"");
    state.ok(&["policy", "reload"]);
    let gone = state.json(&["distrust", "box"]);
    assert!(
        gone["note"].as_str().unwrap().contains("policy.toml:4"),
        "{gone}"
    );
    assert!(node.is_running());
}
