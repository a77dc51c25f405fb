//! The life of events and partners from the command line: each verb against a real hub.

use serde_json::json;

use crate::partner::{Manner, Partner};
use crate::program::{RunningHub, program, run, run_with_input, wait_for};

fn add(hub: &RunningHub, id: &str, partner: &Partner, more: &str) -> String {
    let name = format!("partners/{id}.yaml");
    hub.file(&name, &format!("id: {id}\nurl: {}\nretry: {{first: 200ms}}\n{more}", partner.url()));
    hub.run(&["partner", "add", &name]).ok()
}

fn publish(hub: &RunningHub, text: &str) -> String {
    run_with_input(program(hub.folder.path()).args(["publish", "-"]), text).ok()
}

#[test]
fn a_partner_is_added_once_and_changed_only_when_told_so() {
    let hub = RunningHub::start();
    let partner = Partner::listen(Manner::Acks);
    let said = add(&hub, "COURT-CAL", &partner, "");
    assert!(said.contains("COURT-CAL added") && said.contains("whsec_"), "{said}");
    assert_eq!(add(&hub, "COURT-CAL", &partner, ""), "COURT-CAL unchanged\n");
    hub.file("partners/COURT-CAL.yaml", &format!("id: COURT-CAL\nurl: {}\ntimeout: 7s\n", partner.url()));
    let said = hub.run(&["partner", "add", "partners/COURT-CAL.yaml"]).refused(1);
    assert!(said.contains("timeout: 30s -> 7s") && said.contains("--replace"), "{said}");
    let said = hub.run(&["partner", "add", "partners/COURT-CAL.yaml", "--replace"]).ok();
    assert_eq!(said, "COURT-CAL changed\n");
    let shown = hub.run(&["partner", "show", "COURT-CAL"]).ok();
    assert!(shown.starts_with("COURT-CAL is active") && shown.contains("timeout: 7s"), "{shown}");
    assert!(!shown.contains("whsec_"), "{shown}");
    let listed = hub.run(&["partner", "list"]).ok();
    assert!(listed.lines().nth(1).unwrap().starts_with("COURT-CAL  active  as published  webhook"), "{listed}");
    assert!(hub.run(&["partner", "test", "COURT-CAL"]).ok().starts_with("COURT-CAL: "));
    let secret = hub.run(&["partner", "rotate-secret", "COURT-CAL", "--overlap", "1h"]).ok();
    assert!(secret.starts_with("whsec_"), "{secret}");
    hub.run(&["partner", "remove", "COURT-CAL", "--reason", "moved"]).ok();
    let said = hub.run(&["partner", "show", "COURT-CAL"]).refused(1);
    assert!(said.starts_with("error: "), "{said}");
}

#[test]
fn an_event_is_published_acknowledged_replayed_and_retracted() {
    let hub = RunningHub::start();
    let partner = Partner::listen(Manner::Acks);
    add(&hub, "COURT-CAL", &partner, "");
    let event =
        r#"{"id":"RULE-COURT-DEADLINE-V3","version":3,"payload":{"n":9007199254740993,"d":0.1000000000000000055}}"#;
    let said = publish(&hub, event);
    assert_eq!(said, "RULE-COURT-DEADLINE-V3 recorded as number 1, for 1 partner\n");
    assert!(publish(&hub, event).contains("before; nothing new was sent"));
    let table = hub.run(&["status", "RULE-COURT-DEADLINE-V3", "--wait"]).ok();
    assert!(table.lines().nth(1).unwrap().starts_with("COURT-CAL  ack     3"), "{table}");
    assert_eq!(hub.json(&["status", "RULE-COURT-DEADLINE-V3"]), json!({"COURT-CAL": "ack"}));
    assert!(partner.wait(1)[0].body.contains(r#""payload":{"n":9007199254740993,"d":0.1000000000000000055}"#));

    let said = hub.run(&["replay", "RULE-COURT-DEADLINE-V3", "--to", "COURT-CAL"]).ok();
    assert_eq!(said, "RULE-COURT-DEADLINE-V3 goes to COURT-CAL again (replay 1)\n");
    assert_eq!(partner.wait(2)[1].header("x-hms-replay"), Some("true"));
    hub.run(&["status", "RULE-COURT-DEADLINE-V3", "--wait"]).ok();
    let said = hub.run(&["retract", "RULE-COURT-DEADLINE-V3"]).ok();
    assert!(said.starts_with("RULE-COURT-DEADLINE-V3.retraction takes RULE-COURT-DEADLINE-V3 back"), "{said}");
    assert!(partner.wait(3)[2].body.contains("9007199254740993"));
    hub.run(&["status", "RULE-COURT-DEADLINE-V3.retraction", "--wait"]).ok();
    let said = hub.run(&["replay", "--subject", "RULE-COURT-*", "--to", "COURT-CAL", "--force"]).ok();
    assert_eq!(said, "2 replayed, 0 refused\n");
    partner.wait(5);
    hub.run(&["status", "RULE-COURT-DEADLINE-V3", "--wait"]).ok();
    assert!(hub.run(&["ledger", "verify"]).ok().contains("chain whole"));
    assert!(hub.run(&["ledger", "export"]).ok().lines().count() >= 3);
    let said = hub.run(&["status", "RULE-NONE"]).refused(1);
    assert!(said.starts_with("error: "), "{said}");
}

#[test]
fn what_is_blocked_names_its_cure_and_the_cure_works() {
    let hub = RunningHub::start();
    let partner = Partner::listen(Manner::Acks);
    add(&hub, "COURT-CAL", &partner, "accepts_version: 1\n");
    let event = r#"{"id":"RULE-A-V3","version":3,"payload":{"deadline":"16:00"}}"#;
    let said = publish(&hub, event);
    assert!(said.contains("blocked COURT-CAL: "), "{said}");
    let mut table = String::new();
    wait_for("the lane to find out", || {
        table = hub.run(&["status", "RULE-A-V3"]).ok();
        table.contains("blocked")
    });
    let mend = table.lines().last().unwrap().trim().to_owned();
    assert!(mend.starts_with("hms-ess bridge add "), "{table}");
    // The command as it is printed, once the script that it names is written.
    let script = mend.split(' ').nth(3).unwrap();
    hub.file(script, r#"{"deadline": deadline & ":00"}"#);
    let mut shell = std::process::Command::new("bash");
    let folder = std::path::Path::new(env!("CARGO_BIN_EXE_hms-ess")).parent().unwrap();
    let path = format!("{}:/usr/bin:/bin", folder.display());
    let shell = shell.current_dir(hub.folder.path()).env_clear().env("HOME", hub.folder.path()).env("PATH", path);
    assert!(run(shell.args(["-c", &mend])).ok().contains("what it blocked goes out now"));
    hub.run(&["status", "RULE-A-V3", "--wait"]).ok();
    assert!(partner.wait(1)[0].body.contains(r#""payload":{"deadline":"16:00:00"}"#));
    hub.file("payload.json", r#"{"deadline":"09:00"}"#);
    let said = hub.run(&["bridge", "try", "payload.json", "--subject", "RULE-A", "--from", "3", "--to", "1"]).ok();
    assert_eq!(said.lines().nth(2), Some("  \"deadline\": \"09:00\"  |    \"deadline\": \"09:00:00\""), "{said}");
    // A script that fails is shown where it does.
    hub.file("bad.jsonata", "{\"deadline\":\n  deadline + 1}");
    let bad =
        ["bridge", "try", "payload.json", "--subject", "RULE-A", "--from", "3", "--to", "1", "--script", "bad.jsonata"];
    let said = hub.run(&bad).refused(1);
    assert!(
        said.contains("T2001") && said.contains("line 2, column 12, at `+`") && said.contains("2 |   deadline + 1}"),
        "{said}"
    );
    assert!(hub.run(&["bridge", "list"]).ok().contains("RULE-A/3-to-1"));
    hub.run(&["bridge", "remove", "RULE-A/3-to-1"]).ok();
}

#[test]
fn a_failing_example_refuses_the_bridge() {
    let hub = RunningHub::start();
    hub.file("3-to-1.jsonata", "deadline");
    hub.file("3-to-1.examples.yaml", "- input: {deadline: 1}\n  output: 2\n");
    let args = ["bridge", "add", "3-to-1.jsonata", "--subject", "RULE-A", "--from", "3", "--to", "1"];
    let said = hub.run(&args).refused(1);
    assert!(said.contains("example"), "{said}");
    assert_eq!(hub.json(&["bridge", "list"])["items"], json!([]));
}

#[test]
fn a_refusal_is_a_dead_letter_that_can_be_redriven_and_discarded() {
    let hub = RunningHub::start();
    let partner = Partner::listen(Manner::Refuses);
    add(&hub, "LAW-FIRM-SYS", &partner, "");
    publish(&hub, r#"{"id":"RULE-A-V1","version":1,"payload":1}"#);
    let said = hub.run(&["status", "RULE-A-V1", "--wait"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.out.contains("LAW-FIRM-SYS  dead"), "{said:?}");
    assert!(hub.run(&["dead-letters", "list"]).ok().contains("RULE-A-V1"));
    assert!(hub.run(&["unacked"]).code == Some(0));
    assert_eq!(hub.run(&["dead-letters", "redrive", "--partner", "LAW-FIRM-SYS"]).ok(), "1 redriven\n");
    partner.wait(2);
    assert_eq!(hub.run(&["status", "RULE-A-V1", "--wait"]).code, Some(1));
    hub.run(&["dead-letters", "discard", "--event", "RULE-A-V1"]).refused(2);
    let said = hub.run(&["dead-letters", "discard", "--event", "RULE-A-V1", "--reason", "told by phone"]).ok();
    assert_eq!(said, "1 discarded\n");
}

#[test]
fn a_paused_partner_gets_nothing_until_it_is_resumed() {
    let hub = RunningHub::start();
    let partner = Partner::listen(Manner::Acks);
    add(&hub, "COURT-CAL", &partner, "");
    assert!(hub.run(&["partner", "pause", "COURT-CAL"]).ok().starts_with("COURT-CAL is paused"));
    publish(&hub, r#"{"id":"RULE-A-V1","version":1,"payload":1}"#);
    assert_eq!(hub.json(&["status", "RULE-A-V1"]), json!({"COURT-CAL": "paused"}));
    let said = hub.run(&["status", "RULE-A-V1", "--wait", "--timeout", "200ms"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    hub.run(&["partner", "resume", "COURT-CAL"]).ok();
    let watched = hub.run(&["status", "RULE-A-V1", "--watch"]).ok();
    assert_eq!(watched.lines().last(), Some("COURT-CAL ack"), "{watched}");
    assert_eq!(partner.wait(1).len(), 1);
}

#[test]
fn a_dry_run_is_marked_and_leaves_the_id_free() {
    let hub = RunningHub::start();
    let partner = Partner::listen(Manner::Acks);
    add(&hub, "COURT-CAL", &partner, "");
    hub.file("e.json", r#"{"id":"RULE-A-V1","version":1,"payload":1}"#);
    assert!(hub.run(&["publish", "e.json", "--dry-run"]).ok().starts_with("RULE-A-V1 (test) recorded"));
    assert_eq!(partner.wait(1)[0].header("x-hms-test"), Some("true"));
    hub.run(&["status", "RULE-A-V1", "--test", "--wait"]).ok();
    hub.run(&["status", "RULE-A-V1"]).refused(1);
    assert!(hub.run(&["publish", "e.json"]).ok().starts_with("RULE-A-V1 recorded"));
}

#[test]
fn many_lines_are_published_and_a_wrong_one_is_named() {
    let hub = RunningHub::start();
    let mut text: String = (1..=2_500)
        .map(|number| format!("{{\"id\":\"RULE-N{number}-V1\",\"version\":1,\"payload\":{number}}}\n"))
        .collect();
    hub.file("many.ndjson", &text);
    assert_eq!(hub.run(&["publish", "many.ndjson"]).ok(), "2500 recorded, 0 known before, 0 refused\n");
    text.push_str("\n{\"id\":\"RULE NO\",\"version\":1,\"payload\":1}\n");
    let said = run_with_input(program(hub.folder.path()).args(["publish", "-"]), &text);
    assert_eq!(said.code, Some(1));
    assert_eq!(said.out, "0 recorded, 2500 known before, 1 refused\n");
    assert!(said.err.starts_with("-:2502: "), "{said:?}");
}

#[test]
fn tokens_are_made_shown_once_and_revoked() {
    let hub = RunningHub::start();
    let token = hub.run(&["token", "create", "--role", "publisher", "--subject", "RULE-A*", "--note", "gov"]).ok();
    let as_publisher = |args: &[&str]| run(program(hub.folder.path()).env("HMS_ESS_TOKEN", token.trim()).args(args));
    hub.file("a.json", r#"{"id":"RULE-A-V1","version":1,"payload":1}"#);
    hub.file("b.json", r#"{"id":"RULE-B-V1","version":1,"payload":1}"#);
    as_publisher(&["publish", "a.json"]).ok();
    as_publisher(&["status", "RULE-A-V1"]).ok();
    assert!(as_publisher(&["publish", "b.json"]).refused(1).starts_with("error: "));
    as_publisher(&["partner", "list"]).refused(1);
    let listed = hub.json(&["token", "list"]);
    let made = listed["items"].as_array().unwrap().iter().find(|item| item["note"] == "gov").unwrap();
    hub.run(&["token", "revoke", made["id"].as_str().unwrap()]).ok();
    as_publisher(&["publish", "a.json"]).refused(1);
    assert!(!hub.run(&["token", "list"]).ok().contains(token.trim()));
}

#[test]
fn a_backup_is_written_on_the_hubs_machine() {
    let hub = RunningHub::start();
    publish(&hub, r#"{"id":"RULE-A-V1","version":1,"payload":1}"#);
    let said = hub.run(&["backup", "copy.db"]).ok();
    assert!(said.contains("bytes written to"), "{said}");
    assert!(std::fs::metadata(hub.folder.path().join("copy.db")).unwrap().len() > 0);
}

#[test]
fn what_happens_is_followed_live() {
    use std::io::BufRead;
    let hub = RunningHub::start();
    let partner = Partner::listen(Manner::Acks);
    add(&hub, "COURT-CAL", &partner, "");
    let mut tap = program(hub.folder.path())
        .args(["tap", "COURT-CAL"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // It says when it listens.
    let mut ready = String::new();
    std::io::BufReader::new(tap.stderr.take().unwrap()).read_line(&mut ready).unwrap();
    publish(&hub, r#"{"id":"RULE-A-V1","version":1,"payload":1}"#);
    let mut line = String::new();
    std::io::BufReader::new(tap.stdout.take().unwrap()).read_line(&mut line).unwrap();
    tap.kill().unwrap();
    tap.wait().unwrap();
    assert!(line.contains("delivery.acked") && line.contains("RULE-A-V1"), "{line}");
}

#[test]
fn a_predicate_is_tried_with_an_event_and_counted() {
    let hub = RunningHub::start();
    let partner = Partner::listen(Manner::Acks);
    add(&hub, "COOK", &partner, "subscribe: [\"RULE-*\"]\nwhere: payload.county = \"Cook\"\n");
    hub.file("cook.json", r#"{"id":"RULE-A-V1","version":1,"payload":{"county":"Cook"}}"#);
    hub.file("lake.json", r#"{"id":"RULE-A-V2","version":1,"payload":{"county":"Lake"}}"#);
    hub.file("other.json", r#"{"id":"NOTICE","version":1,"payload":{"county":"Cook"}}"#);
    let said = hub.run(&["partner", "test", "COOK", "--event", "cook.json"]).ok();
    assert!(said.starts_with("COOK would get RULE-A-V1 in version 1:\n{\"id\":\"RULE-A-V1\""), "{said}");
    let said = hub.run(&["partner", "test", "COOK", "--event", "lake.json"]);
    assert_eq!(
        (said.code, said.out.as_str()),
        (Some(1), "COOK would not get RULE-A-V2 of RULE-A: its `where` leaves it out\n")
    );
    let said = hub.run(&["partner", "test", "COOK", "--event", "other.json"]);
    assert!(said.code == Some(1) && said.out.contains("it did not subscribe"), "{said:?}");
    hub.run(&["publish", "cook.json"]).ok();
    hub.run(&["publish", "lake.json"]).ok();
    partner.wait(1);
    let said = hub.run(&["partner", "show", "COOK"]).ok();
    assert!(said.contains("where, since the hub began: 1 matched, 1 left out, 0 failed"), "{said}");
}

#[test]
fn a_receipt_is_proven_without_the_hub_and_a_forgery_is_not() {
    let hub = RunningHub::start();
    let partner = Partner::listen(Manner::Acks);
    add(&hub, "COURT-CAL", &partner, "");
    for number in 1..=5 {
        hub.file("event.json", &format!(r#"{{"id":"RULE-A-V{number}","version":1,"payload":{number}}}"#));
        hub.run(&["publish", "event.json"]).ok();
    }
    hub.run(&["status", "RULE-A-V5", "--wait"]).ok();
    hub.run(&["status", "RULE-A-V3", "--wait"]).ok();
    let key = hub.run(&["ledger", "key"]).ok().trim().to_owned();
    let early = hub.run(&["ledger", "checkpoint"]).ok();
    hub.file("early.checkpoint", &early);
    hub.run(&["prove", "RULE-A-V3", "COURT-CAL", "--out", "proof.json"]).ok();
    let said = hub.run(&["prove", "RULE-A-V3", "NOBODY"]).refused(1);
    assert!(said.contains("there is no receipt of NOBODY for RULE-A-V3"), "{said}");
    hub.file("event.json", r#"{"id":"RULE-B-V1","version":1,"payload":0}"#);
    hub.run(&["publish", "event.json"]).ok();
    hub.run(&["status", "RULE-B-V1", "--wait"]).ok();
    let said = hub.run(&["ledger", "verify", "--checkpoint", "early.checkpoint"]).ok();
    assert!(said.starts_with("the ledger of ") && said.contains("continues the checkpoint of "), "{said}");
    hub.run(&["ledger", "verify"]).ok();

    // The file and the key are enough.
    let apart = tempfile::tempdir().unwrap();
    let proof = std::fs::read_to_string(hub.folder.path().join("proof.json")).unwrap();
    let verify = |proof: &str, key: &str| {
        std::fs::write(apart.path().join("proof.json"), proof).unwrap();
        run(program(apart.path()).args(["ledger", "verify", "proof.json", "--key", key]))
    };
    let said = verify(&proof, &key).ok();
    assert!(said.starts_with("proven: COURT-CAL acknowledged RULE-A-V3 at 20"), "{said}");
    let forged = proof.replace("COURT-CAL", "COURT-COL");
    let said = verify(&forged, &key).refused(1);
    assert!(said.contains("the receipt is not in the ledger of the checkpoint"), "{said}");
    let other = "hms-ess/0000000000000000+00000000+AQAA";
    verify(&proof, other).refused(1);
    let said = run(program(apart.path()).args(["ledger", "verify", "proof.json"])).refused(2);
    assert!(said.contains("--key KEY"), "{said}");
}
