//! What a running node has given up, as the kernel sees it, and that it still does its work.

use serde_json::json;

use crate::common::{ADDRESS_2, Node, State};

fn kernel_says(node: &Node, field: &str) -> String {
    let path = format!("/proc/{}/status", node.child.id());
    let text = std::fs::read_to_string(path).unwrap();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().to_owned()
}

#[test]
fn a_node_keeps_no_rights_that_it_does_not_need_and_still_writes_its_state() {
    // S31
    let state = State::with_key();
    let node = Node::start(&state, &[]);
    for set in ["CapEff:", "CapPrm:", "CapInh:", "CapAmb:"] {
        assert_eq!(kernel_says(&node, set), "0000000000000000", "{set}");
    }
    assert_eq!(kernel_says(&node, "NoNewPrivs:"), "1");
    assert_eq!(kernel_says(&node, "Seccomp:"), "2");
    let threads = format!("/proc/{}/task", node.child.id());
    for thread in std::fs::read_dir(threads).unwrap() {
        let text = std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        assert!(
            text.contains("Seccomp:\t2") && text.contains("CapEff:\t0000000000000000"),
            "{text}"
        );
    }
    let limits = format!("/proc/{}/limits", node.child.id());
    let limits = std::fs::read_to_string(limits).unwrap();
    assert!(limits.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.starts_with(&["Max", "core", "file", "size", "0", "0"])
    }));
    let confined = &state.json(&["status"])["confined"];
    assert_eq!(confined["capabilities"], json!([]));
    assert_eq!(
        confined["seccomp"],
        cfg!(any(
            target_arch = "x86_64",
            target_arch = "aarch64",
            target_arch = "riscv64"
        ))
    );
    state.ok(&["trust", ADDRESS_2, "box"]);
    let book = std::fs::read_to_string(state.0.join("trust.toml")).unwrap();
    assert!(book.contains(ADDRESS_2));
}

#[test]
fn the_doctor_tells_what_is_wrong_and_the_fix() {
    let state = State::with_key();
    let doctor = |status: i32| -> serde_json::Value {
        let output = state.run(&["doctor", "--json"]);
        assert_eq!(output.status.code(), Some(status));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let layer = |report: &serde_json::Value, name: &str| {
        let checks = report["checks"].as_array().unwrap();
        let found = checks.iter().find(|check| check["layer"] == name);
        found
            .unwrap_or_else(|| panic!("no {name} in {report}"))
            .clone()
    };
    let report = doctor(1);
    assert_eq!(
        (&report["ok"], &report["confined"]),
        (&json!(false), &json!(null))
    );
    assert_eq!(layer(&report, "node")["fix"], "anode up");
    for name in [
        "tun",
        "capabilities",
        "ipv6",
        "routes",
        "identity",
        "policy",
        "port",
        "dns",
    ] {
        let check = layer(&report, name);
        assert_eq!(check["state"] == "ok", check["fix"].is_null(), "{check}");
    }

    state.write("trust.toml", "[[peer]]\naddress = \"x\"\n", 0o600);
    let broken = layer(&doctor(1), "policy");
    assert_eq!(broken["state"], "fail");
    assert!(
        broken["text"].as_str().unwrap().contains("trust.toml:2: "),
        "{broken}"
    );
    std::fs::remove_file(state.0.join("trust.toml")).unwrap();

    let node = Node::start(&state, &[]);
    let output = state.run(&["doctor", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let pid = format!("pid {}", node.child.id());
    assert!(
        layer(&report, "node")["text"]
            .as_str()
            .unwrap()
            .ends_with(&pid)
    );
    assert_eq!(layer(&report, "peers")["state"], "warn");
    assert_eq!(report["confined"]["no_new_privileges"], true);
}
