//! Commands that need no hub: usage, versions, scripts, and what is said when no hub answers.

use crate::program::{program, run, run_with_input};

#[test]
fn a_usage_error_exits_2_and_help_0() {
    let folder = tempfile::tempdir().unwrap();
    let say = |args: &[&str]| run(program(folder.path()).args(args));
    assert!(say(&["publsh"]).refused(2).contains("publish"));
    say(&[]).refused(2);
    say(&["publish"]).refused(2);
    say(&["serve", "--tls-cert", "a.pem"]).refused(2);
    say(&["replay", "--to", "X"]).refused(2);
    assert!(say(&["--help"]).ok().contains("hms-ess demo"));
}

#[test]
fn version_names_the_jsonata_level() {
    let folder = tempfile::tempdir().unwrap();
    let said = run(program(folder.path()).arg("version")).ok();
    assert!(said.starts_with("hms-ess "), "{said}");
    assert!(said.contains("JSONata 2."), "{said}");
    let said = run(program(folder.path()).args(["version", "--json"])).ok();
    let value: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(value["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn a_script_is_evaluated_as_the_hub_would() {
    let folder = tempfile::tempdir().unwrap();
    let evaluate = |args: &[&str]| run(program(folder.path()).arg("jsonata").args(args));
    assert_eq!(evaluate(&["a + 1", r#"{"a": 41}"#]).ok(), "42\n");
    assert_eq!(evaluate(&["-1", ""]).ok(), "-1\n");
    assert_eq!(evaluate(&["none", "{}"]).ok(), "");
    assert_eq!(evaluate(&["id", r#"{"id": 9007199254740993}"#]).ok(), "9007199254740993\n");
    assert_eq!(evaluate(&["$x & '!'", "", "--bind", r#"{"x": "hi"}"#]).ok(), "\"hi!\"\n");
    let said = evaluate(&["1 + 'a'", "{}"]).refused(1);
    let error: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(error["code"], "T2002");
    assert!(error["position"].is_number() && error["message"].is_string(), "{error}");
}

#[test]
fn no_hub_known_says_how_to_start_one() {
    let folder = tempfile::tempdir().unwrap();
    let said = run(program(folder.path()).args(["status", "X"])).refused(1);
    assert_eq!(
        said,
        "error: no hub is known here\n\nhint: start one with `hms-ess serve` or `hms-ess demo`, or name one with --hub URL or HMS_ESS_HUB\n"
    );
}

#[test]
fn no_hub_answering_says_so_as_text_and_as_json() {
    let folder = tempfile::tempdir().unwrap();
    // A port that was free a moment ago.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let hub = format!("https://{address}");
    let said = run(program(folder.path()).args(["status", "X", "--hub", &hub])).refused(1);
    assert!(said.starts_with(&format!("error: no hub answers at {hub} (connection refused)\n\nhint: ")), "{said}");
    let said = run(program(folder.path()).env("HMS_ESS_HUB", &hub).args(["--json", "partner", "list"])).refused(1);
    let value: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert!(value["detail"].as_str().unwrap().contains("no hub answers"), "{value}");
    assert!(value["hint"].as_str().unwrap().contains("hms-ess serve"), "{value}");
}

#[test]
fn a_hub_that_is_no_url_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for hub in ["hub.sandbox.gov", "ftp://hub", "https://", "https://hub/path"] {
        let said = run(program(folder.path()).args(["status", "X", "--hub", hub])).refused(2);
        assert!(said.contains("no hub's URL"), "{said}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let said = run(program(folder.path()).args(["publish", "nowhere.json", "--hub", "https://127.0.0.1:1"])).refused(1);
    assert!(said.starts_with("error: could not read nowhere.json: no such file or directory\n"), "{said}");
}

#[test]
fn a_partners_file_is_checked_before_a_hub_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let add = |text: &str| {
        run_with_input(program(folder.path()).args(["partner", "add", "-", "--hub", "https://127.0.0.1:1"]), text)
            .refused(1)
    };
    let said = add("id: COURT-CAL\nurl: https://api.courtcal.com/update\nacepts_version: 1\n");
    assert_eq!(said, "error: -:3: acepts_version: unknown field\n\nhint: did you mean `accepts_version`?\n");
    let said = add("id: COURT-CAL\nurl: https://api.courtcal.com/update\nretry: {first: soon}\n");
    assert!(said.starts_with("error: -:3: retry.first"), "{said}");
    assert!(add("id: [\n").starts_with("error: -:"));
}

#[test]
fn a_reader_that_goes_away_ends_the_command_quietly() {
    let folder = tempfile::tempdir().unwrap();
    let binary = env!("CARGO_BIN_EXE_hms-ess");
    let line = format!("set -o pipefail; {binary} config show | true");
    for _ in 0..5 {
        let output =
            std::process::Command::new("bash").current_dir(folder.path()).args(["-c", &line]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        assert_eq!(output.status.code(), Some(0));
    }
}
