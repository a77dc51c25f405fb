//! The folder `examples/`, applied: what is printed in its pages is what happens.

use std::path::PathBuf;

use crate::program::{RunningHub, program, run};

fn examples() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples").canonicalize().unwrap()
}

fn example(name: &str) -> String {
    examples().join(name).display().to_string()
}

#[test]
fn a_folder_is_applied_once_and_then_there_is_nothing_to_do() {
    let hub = RunningHub::start();
    let folder = examples().display().to_string();
    let plan = hub.run(&["apply", &folder, "--dry-run"]).ok();
    assert_eq!(
        plan,
        "+ bridge RULE-COURT-DEADLINE/3-to-1\n+ partner COUNTY-KIOSK\n+ partner COURT-CAL\n+ partner LAW-FIRM-SYS\n\n4 changes\n"
    );
    assert_eq!(hub.json(&["partner", "list"])["items"].as_array().unwrap().len(), 0);
    // Nobody can be asked in a pipe.
    let said = hub.run(&["apply", &folder]).refused(1);
    assert!(said.contains("--yes"), "{said}");
    let said = hub.run(&["apply", &folder, "--yes"]).ok();
    assert_eq!(said.matches("whsec_").count(), 3, "{said}");
    let again = hub.run(&["apply", &folder]).ok();
    assert!(again.ends_with("= partner LAW-FIRM-SYS\nnothing to do\n"), "{again}");

    let plan = hub.json(&["publish", &example("events/rule-court-deadline-v3.json"), "--plan"]);
    let of =
        |id: &str| plan["partners"].as_array().unwrap().iter().find(|entry| entry["partner"] == id).unwrap().clone();
    assert_eq!(of("COURT-CAL")["bridges"][0], "RULE-COURT-DEADLINE/3-to-1");
    assert!(of("LAW-FIRM-SYS")["body"].as_str().unwrap().contains(r#""zone":"America/Chicago""#), "{plan}");
    let tested = hub.run(&["bridge", "test"]).ok();
    assert!(tested.ends_with("2 passed, 0 failed, 0 chains differ\n"), "{tested}");
    let many = hub.run(&["publish", &example("events/many.ndjson")]).ok();
    assert_eq!(many, "3 recorded, 0 known before, 0 refused\n");
}

#[test]
fn a_changed_file_shows_its_fields_in_the_plan() {
    let hub = RunningHub::start();
    hub.file("dir/partners/p.yaml", "id: P\nurl: https://p.example/a\nretry: {first: 5s}\n");
    hub.run(&["apply", "dir", "--yes"]).ok();
    hub.file("dir/partners/p.yaml", "id: P\nurl: https://p.example/b\nretry: {first: 9s}\n");
    let plan = hub.run(&["apply", "dir", "--dry-run"]).ok();
    assert!(plan.starts_with("~ partner P\n"), "{plan}");
    assert!(plan.contains("url: https://p.example/a -> https://p.example/b"), "{plan}");
    assert!(plan.contains("retry.first: 5s -> 9s"), "{plan}");
    hub.file("dir/partners/q.yaml", "id: Q\nurl: https://q.example\nwhere: payload.[\n");
    let said = hub.run(&["apply", "dir", "--dry-run"]);
    assert_ne!(said.code, Some(2), "{said:?}");
    hub.file("dir/partners/q.yaml", "id: Q\nurl: https://q.example\nlimits:\n  in_fligt: 2\n");
    let said = hub.run(&["apply", "dir", "--yes"]).refused(1);
    assert!(said.starts_with("error: dir/partners/q.yaml:4: limits.in_fligt: unknown field"), "{said}");
    // Refused before anything was changed.
    assert_eq!(hub.json(&["partner", "show", "P"])["config"]["url"], "https://p.example/a");
}

#[test]
fn the_examples_configuration_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let said = run(program(folder.path()).args(["config", "show", "--config", &example("hub.yaml")])).ok();
    assert!(said.contains("10.20.0.0/16"), "{said}");
}

#[test]
fn a_folder_that_holds_nothing_of_ours_is_refused() {
    let hub = RunningHub::start();
    let said = hub.run(&["apply", "nowhere"]).refused(1);
    assert!(said.starts_with("error: nowhere has none of partners/, bridges/, schemas/, tables/"), "{said}");
}

#[test]
fn a_plan_is_json_too() {
    let hub = RunningHub::start();
    let folder = examples().display().to_string();
    let plan = hub.json(&["apply", &folder, "--dry-run"]);
    assert_eq!((&plan["applied"], plan["plan"][0]["act"].as_str()), (&serde_json::json!(false), Some("add")));
    let applied = hub.json(&["apply", &folder, "--yes"]);
    assert!(applied["secrets"]["COURT-CAL"].as_str().unwrap().starts_with("whsec_"), "{applied}");
    assert_eq!(hub.json(&["bridge", "test"])["passed"], 2);
}

const COURTS: &str = "id,name\nC1,\"Cook, County\"\nC2,Lake County\n";

/// A folder with one of everything.
fn rules(hub: &RunningHub) {
    hub.file("dir/tables/courts.csv", COURTS);
    hub.file("dir/schemas/RULE-A/v1.json", r#"{"required": ["cutoff"], "properties": {"cutoff": {"type": "string"}}}"#);
    hub.file("dir/schemas/RULE-A/v2.json", r#"{"required": ["deadline"]}"#);
    hub.file(
        "dir/schemas/RULE-A/v3.json",
        r#"{"required": ["deadline"], "properties": {"deadline": {"type": "string"}}, "examples": [{"deadline": "9:00"}]}"#,
    );
    let script = "{\n  'cutoff': deadline,\n  'court': $table('courts')[id = $$.court].name,\n  'zone': timezon\n}";
    hub.file("dir/bridges/RULE-A/3-to-1.jsonata", script);
    hub.file(
        "dir/bridges/RULE-A/3-to-1.examples.yaml",
        "- input: {deadline: '16:00', court: C1}\n  output: {cutoff: '16:00', court: 'Cook, County'}\n",
    );
}

#[test]
fn schemas_and_tables_are_applied_and_unneeded_bridges_offered() {
    let hub = RunningHub::start();
    rules(&hub);
    let said = hub.run(&["apply", "dir", "--yes"]).ok();
    assert!(
        said.starts_with(
            "+ table courts\n+ schema RULE-A/v1\n+ schema RULE-A/v2\n+ schema RULE-A/v3\n+ bridge RULE-A/3-to-1\n"
        ),
        "{said}"
    );
    let offer = "hms-ess bridge add --identity --subject 'RULE-A' --from 3 --to 2";
    assert!(
        said.contains(&format!("version 3 fits schema RULE-A/v2 as it is; for partners on version 2: {offer}\n")),
        "{said}"
    );
    // Version 1 looks different.
    assert!(!said.contains("--to 1\n"), "{said}");
    assert!(hub.run(&["apply", "dir"]).ok().ends_with("nothing to do\n"));
    hub.file("dir/tables/courts.csv", &COURTS.replace("Lake", "Pond"));
    hub.file("dir/schemas/RULE-A/v2.json", r#"{"required": ["deadline", "zone"]}"#);
    hub.file("dir/bridges/RULE-A/2-to-1.yaml", "identity: true\n");
    let said = hub.run(&["apply", "dir", "--yes"]).ok();
    for line in
        ["~ table courts\n    value changed", "~ schema RULE-A/v2\n    schema changed", "+ bridge RULE-A/2-to-1"]
    {
        assert!(said.contains(line), "{said}");
    }
    assert!(hub.run(&["apply", "dir"]).ok().ends_with("nothing to do\n"));
    hub.run(&["table", "remove", "courts"]).ok();
    assert!(hub.run(&["table", "remove", "courts"]).refused(1).contains("there is no table courts"));
    hub.run(&["schema", "remove", "RULE-A/v1"]).ok();
    assert_eq!(hub.json(&["schema", "list"])["items"].as_array().unwrap().len(), 2);
    hub.file("dir/schemas/RULE-A/three.json", "{}");
    assert!(hub.run(&["apply", "dir"]).refused(1).contains("expected a name such as v3.json"));
}

#[test]
fn a_payload_that_does_not_fit_is_refused_by_its_path() {
    let hub = RunningHub::start();
    rules(&hub);
    hub.run(&["apply", "dir", "--yes"]).ok();
    hub.file("wrong.json", r#"{"id": "RULE-A-V1", "version": 3, "payload": {"deadline": 16}}"#);
    let said = hub.run(&["publish", "wrong.json"]).refused(1);
    assert!(
        said.contains(r#"the payload does not fit schema RULE-A/v3: deadline: value is not of type "string""#),
        "{said}"
    );
    // Plans say so, too, and other versions have their own schemas.
    hub.run(&["publish", "wrong.json", "--plan"]).refused(1);
    hub.file("older.json", r#"{"id": "RULE-A-V1", "version": 2, "payload": {"deadline": 16}}"#);
    hub.run(&["publish", "older.json"]).ok();
}

#[test]
fn paths_of_a_script_that_give_nothing_are_named() {
    let hub = RunningHub::start();
    rules(&hub);
    hub.run(&["apply", "dir", "--yes"]).ok();
    hub.file("payload.json", r#"{"deadline": "16:00", "court": "C2"}"#);
    let trial = ["bridge", "try", "payload.json", "--subject", "RULE-A", "--from", "3", "--to", "1"];
    assert!(hub.run(&trial).ok().contains("\"court\": \"Lake County\""));
    let said = hub.run(&[&trial[..], &["--strict"]].concat());
    assert_eq!(said.code, Some(1));
    assert!(
        said.out.ends_with("bridge RULE-A/3-to-1: line 4, column 11: timezon gave nothing (1 of 1 times)\n"),
        "{}",
        said.out
    );
    hub.file("good.jsonata", "{'cutoff': deadline}");
    hub.run(&[&trial[..], &["--strict", "--script", "good.jsonata"]].concat()).ok();
}

#[test]
fn chains_that_differ_are_reported() {
    let hub = RunningHub::start();
    for (name, script) in
        [("3-to-2", "{'a': n}"), ("2-to-1", "{'b': a}"), ("3-to-4", "{'x': n}"), ("4-to-1", "{'b': x + 1}")]
    {
        hub.file(&format!("dir/bridges/RULE-A/{name}.jsonata"), script);
    }
    hub.file("dir/bridges/RULE-A/3-to-2.examples.yaml", "- input: {n: 1}\n  output: {a: 1}\n");
    let said = hub.run(&["apply", "dir", "--yes"]).ok();
    let differ = "DIFFER from 3 to 1 of RULE-A, example 1 of RULE-A/3-to-2: RULE-A/3-to-2, RULE-A/2-to-1 is taken and gives {\"b\":1}; RULE-A/3-to-4, RULE-A/4-to-1 gives {\"b\":2}\n";
    assert!(said.contains(differ), "{said}");
    let tested = hub.run(&["bridge", "test"]);
    assert_eq!(tested.code, Some(1));
    assert!(tested.out.ends_with(&format!("{differ}\n1 passed, 0 failed, 1 chains differ\n")), "{}", tested.out);
    hub.file("dir/bridges/RULE-A/4-to-1.jsonata", "{'b': x}");
    assert!(!hub.run(&["apply", "dir", "--yes"]).ok().contains("DIFFER"));
    assert!(hub.run(&["bridge", "test"]).ok().ends_with("1 passed, 0 failed, 0 chains differ\n"));
}
