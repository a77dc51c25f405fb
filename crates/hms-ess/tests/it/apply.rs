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
    assert!(tested.ends_with("2 passed, 0 failed\n"), "{tested}");
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
    assert!(said.starts_with("error: nowhere has neither partners/ nor bridges/"), "{said}");
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
