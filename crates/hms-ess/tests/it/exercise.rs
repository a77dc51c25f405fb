//! Drills and the doctor, against a real hub.

use serde_json::Value;

use crate::partner::{Manner, Partner};
use crate::program::{RunningHub, program, run};

fn add(hub: &RunningHub, id: &str, url: &str, more: &str) {
    let name = format!("partners/{id}.yaml");
    hub.file(&name, &format!("id: {id}\nurl: {url}\n{more}"));
    hub.run(&["partner", "add", &name]).ok();
}

fn closed() -> String {
    // A port that was free a moment ago.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    format!("http://{address}/update")
}

fn line<'a>(report: &'a Value, partner: &str) -> &'a Value {
    report["partners"].as_array().unwrap().iter().find(|line| line["partner"] == partner).unwrap()
}

#[test]
fn a_drill_reaches_everybody_in_the_pinned_version_whatever_they_subscribed_to() {
    let hub = RunningHub::start();
    let (court, kiosk) = (Partner::listen(Manner::Acks), Partner::listen(Manner::Acks));
    add(&hub, "COURT-CAL", &court.url(), "accepts_version: 2\nsubscribe: [\"RULE-*\"]\n");
    add(&hub, "KIOSK", &kiosk.url(), "");
    let said = hub.run(&["drill", "--out", "report", "--json", "--reason", "autumn"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let report: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((&report["complete"], &report["acknowledged"]), (&Value::Bool(true), &2.into()), "{report}");
    assert!(line(&report, "COURT-CAL")["took_ms"].as_f64().unwrap() > 0.0, "{report}");
    let (got, event) = (&court.wait(1)[0], |got: &str| serde_json::from_str::<Value>(got).unwrap());
    assert_eq!(got.header("x-hms-test"), Some("true"));
    assert_eq!(event(&got.body)["version"], 2);
    assert_eq!(event(&kiosk.wait(1)[0].body)["version"], 1);
    // Both forms, under the time of the drill.
    let mut files: Vec<String> = std::fs::read_dir(hub.folder.path().join("report"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    assert!(
        files[0].starts_with("drill-20") && files[0].ends_with("Z.html") && files[1].ends_with("Z.json"),
        "{files:?}"
    );
    let written = std::fs::read_to_string(hub.folder.path().join("report").join(&files[1])).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), report);
    // It is no real event: nothing is open, and the real subject is untouched.
    assert_eq!(hub.json(&["unacked"])["items"], serde_json::json!([]));
    assert_eq!(hub.run(&["status", report["events"][0].as_str().unwrap()]).code, Some(1));
}

#[test]
fn a_drill_says_who_did_not_acknowledge_why_and_what_to_do() {
    let hub = RunningHub::start();
    let (acks, refuses) = (Partner::listen(Manner::Acks), Partner::listen(Manner::Refuses));
    add(&hub, "ACKS", &acks.url(), "");
    add(&hub, "AWAY", &closed(), "retry: {first: 100ms}\n");
    add(&hub, "REFUSES", &refuses.url(), "");
    add(&hub, "SKIPS", &acks.url(), "tests: skip\n");
    add(&hub, "ELSEWHERE", &closed(), &format!("tests: {}\n", acks.url()));
    add(&hub, "PAUSED", &acks.url(), "");
    hub.run(&["partner", "pause", "PAUSED"]).ok();
    let said = hub.run(&["drill", "--wait", "2s", "--out", "drill.html"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.out.contains("2 of 5 partners acknowledged within 2s"), "{}", said.out);
    let page = std::fs::read_to_string(hub.folder.path().join("drill.html")).unwrap();
    assert!(page.contains("Not complete") && page.contains("at its address for tests"), "{page}");
    let said = hub.run(&["drill", "--wait", "2s", "--out", "drill.json"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    let report: Value =
        serde_json::from_str(&std::fs::read_to_string(hub.folder.path().join("drill.json")).unwrap()).unwrap();
    let check = |partner: &str, result: &str, why: &str, what_to_do: &str| {
        let line = line(&report, partner);
        assert_eq!(line["result"], result, "{line}");
        assert!(line["why"].as_str().unwrap().contains(why), "{line}");
        assert!(line["what_to_do"].as_str().unwrap().contains(what_to_do), "{line}");
    };
    check("AWAY", "not received", "connection refused", "hms-ess drill --to AWAY");
    check("REFUSES", "no ACK", "422", "REFUSES");
    check("PAUSED", "not received", "paused", "hms-ess partner resume PAUSED");
    check("SKIPS", "skipped", "tests: skip", "tests: deliver");
    assert_eq!(line(&report, "ELSEWHERE")["test_address"], true);
}

#[test]
fn a_drill_is_for_those_who_are_named_and_a_misspelt_name_is_answered_with_the_nearest() {
    let hub = RunningHub::start();
    let partner = Partner::listen(Manner::Acks);
    for id in ["COURT-CAL", "COURT-LAW", "KIOSK"] {
        add(&hub, id, &partner.url(), "");
    }
    let report = hub.json(&["drill", "--to", "COURT-*", "--out", "drill.json"]);
    assert_eq!((&report["asked"], report["partners"].as_array().unwrap().len()), (&2.into(), 2));
    let said = hub.run(&["drill", "--to", "COURT-COL"]).refused(1);
    assert_eq!(said, "error: there is no partner COURT-COL\n\nhint: did you mean `COURT-CAL`?\n");
    // An event of one's own, each time under another id.
    hub.file("rule.json", r#"{"id":"RULE-A-V1","version":1,"payload":{"n":9007199254740993}}"#);
    for _ in 0..2 {
        let report = hub.json(&["drill", "--to", "KIOSK", "--event", "rule.json", "--out", "drill.json"]);
        assert!(report["events"][0].as_str().unwrap().starts_with("RULE-A-V1.drill-"), "{report}");
    }
    assert!(partner.wait(4)[3].body.contains("9007199254740993"));
}

fn findings(hub: &RunningHub, more: &[&str]) -> (Option<i32>, Vec<Value>) {
    let said = hub.run(&[&["doctor", "--json"], more].concat());
    let value: Value = serde_json::from_str(&said.out).unwrap_or_else(|_| panic!("{said:?}"));
    (said.code, value["findings"].as_array().unwrap().clone())
}

fn has(findings: &[Value], check: &str, grade: &str, what: &str) -> bool {
    findings.iter().any(|finding| {
        finding["check"] == check && finding["grade"] == grade && finding["what"].as_str().unwrap().contains(what)
    })
}

#[test]
fn the_doctor_looks_at_hub_machine_and_partners_and_sends_them_nothing() {
    let hub = RunningHub::start();
    let partner = Partner::listen(Manner::Acks);
    add(&hub, "HERE", &partner.url(), "");
    hub.run(&["token", "create", "--role", "auditor", "--expires-in", "2d", "--note", "visit"]).ok();
    let (code, found) = findings(&hub, &[]);
    assert_eq!(code, Some(0), "{found:?}");
    for (check, grade, what) in [
        ("configuration", "ok", "keys are read"),
        ("disk", "ok", "was synced in"),
        ("store", "ok", "its structure is sound"),
        ("certificate", "ok", "tls/hub.pem is valid for"),
        ("certificate", "ok", "trusted and of the right name"),
        ("hub", "ok", "is ready"),
        ("clock", "ok", "agree"),
        ("partners", "ok", "1 of 1 partner can be reached"),
        ("target", "warn", "nobody is told of trouble"),
        ("token", "warn", "(auditor, visit) ends in"),
    ] {
        // A loaded disk may be slow to sync; that is worth a warning and no more.
        let is_slow_disk = what.contains("synced") && has(&found, check, "warn", what);
        assert!(has(&found, check, grade, what) || is_slow_disk, "{check}: {what}\n{found:#?}");
    }
    add(&hub, "AWAY", &closed(), "");
    let (code, found) = findings(&hub, &[]);
    assert_eq!(code, Some(1));
    assert!(has(&found, "partner", "fail", "AWAY can't be reached"), "{found:#?}");
    for finding in found.iter().filter(|finding| finding["grade"] != "ok") {
        assert!(finding["why"].is_string() && finding["what_to_do"].is_string(), "{finding}");
    }
    let sent = hub.run(&["drill", "--to", "HERE", "--out", "drill.json"]);
    sent.ok();
    assert_eq!(partner.wait(1).len(), 1, "the doctor sent something");
}

#[test]
fn the_doctor_looks_at_the_machine_while_the_hub_is_down_and_at_a_store_that_is_damaged() {
    let mut hub = RunningHub::start();
    hub.signal("TERM");
    hub.wait();
    let (code, found) = findings(&hub, &[]);
    assert_eq!(code, Some(1));
    assert!(has(&found, "hub", "fail", "no hub answers at"), "{found:#?}");
    assert!(has(&found, "store", "ok", "its structure is sound"), "{found:#?}");
    let store = hub.folder.path().join("hms-ess-data/ess.db");
    let bytes = std::fs::read(&store).unwrap();
    std::fs::write(&store, [&bytes[..4096], &vec![0x5a; bytes.len() - 4096]].concat()).unwrap();
    let (_, found) = findings(&hub, &[]);
    assert!(found.iter().any(|finding| finding["check"] == "store" && finding["grade"] == "fail"), "{found:#?}");
    hub.file("hub.yaml", "listn: 127.0.0.1:1\n");
    let (_, found) = findings(&hub, &["--config", "hub.yaml"]);
    assert!(has(&found, "configuration", "fail", "unknown key listn"), "{found:#?}");
    // Elsewhere there is nothing to look at, and it says so.
    let elsewhere = tempfile::tempdir().unwrap();
    let said = run(program(elsewhere.path()).args(["doctor"]));
    assert!(said.code == Some(1) && said.out.contains("no data directory at"), "{said:?}");
}
