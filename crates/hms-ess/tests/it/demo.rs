//! The demo tells the mission's story, and leaves things as they were.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::program::{RunningHub, program, run};

#[test]
fn once_tells_the_whole_story_and_exits_0() {
    let folder = tempfile::tempdir().unwrap();
    let told = run(program(folder.path()).args(["demo", "--once", "--data", "d", "--listen", "127.0.0.1:0"])).ok();
    for line in [
        r#"{"id":"RULE-COURT-DEADLINE-V3","version":3,"payload":{"deadline":"16:00","timezone":"local"}}"#,
        "answers 202: on disk as number 1, for 3 partners",
        "converts 3 -> 1 for COURT-CAL",
        r#""payload":{"filing_cutoff_hour":16,"filing_cutoff_minute":0,"local_time":true}}"#,
        "ack: COURT-CAL acknowledged on attempt 1",
        "retrying: LAW-FIRM-SYS",
        "LAW-FIRM-SYS  is back",
    ] {
        assert!(told.contains(line), "{line}\n{told}");
    }
    assert_eq!(told.matches("signature verified").count(), 3, "{told}");
    let (_, table) = told.split_once("Who has acknowledged RULE-COURT-DEADLINE-V3:").unwrap();
    assert_eq!(table.matches(" ack ").count(), 3, "{told}");
    assert!(!folder.path().join(".config").exists(), "a demo that ended leaves no profile");
    // Once more in the same directory: the event is known, and still everybody has it.
    let again = run(program(folder.path()).args(["demo", "--once", "--data", "d", "--listen", "127.0.0.1:0"])).ok();
    assert!(again.contains("answers 200: known as number 1 already"), "{again}");
}

#[test]
fn the_printed_lines_work_as_they_stand_and_ctrl_c_stops_it() {
    // Another hub answers to the profile that is there.
    let other = RunningHub::start();
    let home = other.folder.path();
    let profile = home.join(".config/hms-ess/profile.json");
    let before = std::fs::read(&profile).unwrap();
    let mut demo = program(home)
        .args(["demo", "--data", "demo-data", "--listen", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut commands = Vec::new();
    for line in lines.by_ref() {
        let line = line.trim().to_owned();
        if line.contains("HMS_ESS_PROFILE=") || line.starts_with("curl ") {
            commands.push(line.clone());
        }
        if line.starts_with("curl ") {
            break;
        }
    }
    assert_eq!(commands.len(), 7, "{commands:?}");
    for line in commands.iter().filter(|line| !line.ends_with(" tap") && !line.starts_with("curl ")) {
        let mut shell = std::process::Command::new("bash");
        let said = run(shell.current_dir(home).env_clear().env("HOME", home).args(["-c", line]));
        assert_eq!(said.code, Some(0), "{line}\n{said:?}");
    }
    // What was published meanwhile shows in the demo, too.
    assert!(lines.by_ref().any(|line| line.contains("COURT-CAL") && line.contains("receives version 1")));
    let interrupted = std::process::Command::new("kill").args(["-INT", &demo.id().to_string()]).status().unwrap();
    assert!(interrupted.success());
    let ended = demo.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("stopping; what was recorded stays in demo-data"));
    assert_eq!(std::fs::read(&profile).unwrap(), before);
    assert!(!home.join("demo-data/profile.json").exists());
}
