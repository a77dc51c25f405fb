//! Legal holds and redaction from the command line, against a real hub.

use serde_json::json;

use crate::partner::{Manner, Partner};
use crate::program::{RunningHub, program, run_with_input, wait_for};

/// A hub with a partner that has acknowledged an event.
fn hub_with_event(partner: &Partner, event: &str) -> RunningHub {
    let hub = RunningHub::start();
    hub.file("partner.yaml", &format!("id: COURT-CAL\nurl: {}\nretry: {{first: 200ms}}\n", partner.url()));
    hub.run(&["partner", "add", "partner.yaml"]).ok();
    run_with_input(program(hub.folder.path()).args(["publish", "-"]), event).ok();
    hub
}

/// Whether a file of the data directory holds the text.
fn is_on_disk(hub: &RunningHub, text: &str) -> bool {
    let files = std::fs::read_dir(hub.folder.path().join("hms-ess-data")).unwrap();
    let files = files.map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    files
        .into_iter()
        .any(|path| std::fs::read(path).unwrap().windows(text.len()).any(|window| window == text.as_bytes()))
}

#[test]
fn a_redacted_event_is_gone_from_the_disk_and_proves_as_before() {
    let partner = Partner::listen(Manner::Acks);
    let event = r#"{"id":"RULE-A-V1","version":1,"payload":{"name":"CANARY-OF-A-MINOR"}}"#;
    let hub = hub_with_event(&partner, event);
    hub.run(&["status", "RULE-A-V1", "--wait"]).ok();
    hub.run(&["prove", "RULE-A-V1", "COURT-CAL", "--out", "before.json"]).ok();
    let key = hub.run(&["ledger", "key"]).ok().trim().to_owned();
    assert!(is_on_disk(&hub, "CANARY-OF-A-MINOR"));

    hub.run(&["redact", "RULE-A-V1", "--yes"]).refused(2);
    let said = hub.run(&["redact", "RULE-A-V1", "--reason", "a minor is named"]).refused(1);
    assert!(said.contains("nobody can be asked here") && said.contains("--yes"), "{said}");
    let said = hub.run(&["redact", "RULE-A-V1", "--reason", "a minor is named", "--yes"]).ok();
    assert_eq!(said, "the payload of RULE-A-V1 is gone; its receipts still prove\n");
    assert!(!is_on_disk(&hub, "CANARY-OF-A-MINOR"));

    hub.run(&["prove", "RULE-A-V1", "COURT-CAL", "--out", "after.json"]).ok();
    for file in ["before.json", "after.json"] {
        let said = hub.run(&["ledger", "verify", file, "--key", &key]).ok();
        assert!(said.starts_with("proven: COURT-CAL acknowledged RULE-A-V1"), "{said}");
    }
    let receipt = |file: &str| {
        let text = std::fs::read_to_string(hub.folder.path().join(file)).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["receipt"].clone()
    };
    assert_eq!(receipt("before.json"), receipt("after.json"));
    assert!(hub.run(&["ledger", "verify"]).ok().contains("chain whole"));
    hub.run(&["audit", "RULE-A-V1", "--out", "packet.zip"]).ok();
    hub.run(&["ledger", "verify", "packet.zip", "--key", &key]).ok();

    // Sent again it is a duplicate, changed it is refused, replayed it can't be.
    let publish = |text: &str| run_with_input(program(hub.folder.path()).args(["publish", "-"]), text);
    assert!(publish(event).ok().contains("before; nothing new was sent"));
    assert!(publish(&event.replace("CANARY", "OTHER")).refused(1).contains("with other content"));
    let said = hub.run(&["replay", "RULE-A-V1", "--to", "COURT-CAL"]).refused(1);
    assert!(said.contains("the payload of RULE-A-V1 is gone: redacted at ") && said.contains("hint: "), "{said}");
    let said = hub.run(&["redact", "RULE-A-V1", "--reason", "again", "--yes"]).refused(1);
    assert!(said.contains("is gone: redacted at "), "{said}");
    assert_eq!(hub.json(&["status", "RULE-A-V1"]), json!({"COURT-CAL": "ack"}));
    assert_eq!(partner.wait(1).len(), 1);
}

#[test]
fn a_hold_keeps_an_event_from_redaction_until_it_is_lifted() {
    let partner = Partner::listen(Manner::Acks);
    let hub = hub_with_event(&partner, r#"{"id":"RULE-A-V1","version":1,"payload":1}"#);
    hub.run(&["hold", "add", "RULE-A-V1"]).refused(2);
    let said = hub.run(&["hold", "add", "--subject", "RULE-*", "--reason", "Doe v. County"]).ok();
    assert_eq!(said, "hold 1 covers subjects RULE-*; nothing of it is removed\n");
    let said = hub.run(&["hold", "add", "RULE-NONE", "--reason", "x"]).refused(1);
    assert!(said.contains("there is no event RULE-NONE"), "{said}");
    let listed = hub.run(&["hold", "list"]).ok();
    assert!(listed.contains("subjects RULE-*") && listed.contains("Doe v. County"), "{listed}");
    let said = hub.run(&["redact", "RULE-A-V1", "--reason", "order", "--yes"]).refused(1);
    assert!(said.contains("is under legal hold 1") && said.contains("hms-ess hold remove 1"), "{said}");
    hub.run(&["hold", "remove", "1"]).refused(2);
    hub.run(&["hold", "remove", "7", "--reason", "x"]).refused(1);
    hub.run(&["hold", "remove", "1", "--reason", "settled"]).ok();
    assert_eq!(hub.json(&["hold", "list"])["items"], json!([]));
    assert_eq!(hub.json(&["hold", "list", "--all"])["items"][0]["lifted"]["reason"], "settled");
    hub.run(&["redact", "RULE-A-V1", "--reason", "order", "--yes"]).ok();
}

#[test]
fn what_was_not_sent_yet_is_cancelled_by_a_redaction_and_never_sent() {
    let partner = Partner::listen(Manner::Acks);
    let hub = RunningHub::start();
    hub.file("partner.yaml", &format!("id: COURT-CAL\nurl: {}\n", partner.url()));
    hub.run(&["partner", "add", "partner.yaml"]).ok();
    hub.run(&["partner", "pause", "COURT-CAL"]).ok();
    for id in ["RULE-A-V1", "RULE-B-V1"] {
        let event = format!(r#"{{"id":"{id}","version":1,"payload":"{id}"}}"#);
        run_with_input(program(hub.folder.path()).args(["publish", "-"]), &event).ok();
    }
    hub.run(&["redact", "RULE-A-V1", "--reason", "order", "--yes"]).ok();
    assert_eq!(hub.json(&["status", "RULE-A-V1"]), json!({"COURT-CAL": "cancelled"}));
    hub.run(&["partner", "resume", "COURT-CAL"]).ok();
    hub.run(&["status", "RULE-B-V1", "--wait"]).ok();
    let sent = partner.wait(1);
    assert!(sent.len() == 1 && sent[0].body.contains("RULE-B-V1"), "{sent:?}");
    // The counter has no gap: the first is the one that was never sent.
    assert_eq!(sent[0].header("x-hms-partner-seq"), Some("2"));
}

#[test]
fn what_is_older_than_it_is_kept_goes_by_itself() {
    let partner = Partner::listen(Manner::Acks);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("hub.yaml"), "keep_events: 1s\nretention_every: 1s\n").unwrap();
    let hub = RunningHub::start_in(folder, &["--config", "hub.yaml"]);
    hub.file("partner.yaml", &format!("id: COURT-CAL\nurl: {}\n", partner.url()));
    hub.run(&["partner", "add", "partner.yaml"]).ok();
    run_with_input(program(hub.folder.path()).args(["publish", "-"]), r#"{"id":"RULE-A-V1","version":1,"payload":1}"#)
        .ok();
    hub.run(&["status", "RULE-A-V1", "--wait"]).ok();
    // Looked at without touching it: a replay would make it young again.
    wait_for("the payload to go", || {
        hub.run(&["audit", "RULE-A-V1", "--out", "packet.zip", "--force"]).ok();
        let packet = std::fs::read(hub.folder.path().join("packet.zip")).unwrap();
        packet.windows(11).any(|window| window == b"expired at ")
    });
    let said = hub.run(&["replay", "RULE-A-V1", "--to", "COURT-CAL"]).refused(1);
    assert!(said.contains("is gone: expired at "), "{said}");
    assert!(hub.run(&["ledger", "verify"]).ok().contains("chain whole"));
}
