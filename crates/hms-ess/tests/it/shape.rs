//! What every command has: `--json`, and failures that say what, why and what to do.

use std::path::Path;

use serde_json::Value;

use crate::partner::{Manner, Partner};
use crate::program::{RunningHub, Said, program, run};

/// Every command with words that it takes; `-` begins what is not asked of a hub.
const COMMANDS: &str = "
demo --listen TAKEN
serve --listen TAKEN --metrics-listen off
publish event.json
status X
replay X --to P
retract X
bounce event.json
partner add partner.yaml
partner list
partner show P
partner test P
partner pause P
partner resume P
partner remove P
partner rotate-secret P
apply folder --yes
bridge add script.jsonata --subject S --from 3 --to 1
bridge list
bridge remove X
bridge test
bridge try event.json --subject S --from 3 --to 1
schema add event.json --subject S --version 3
schema list
schema remove S/v3
table add table.csv
table list
table remove table
dead-letters list
dead-letters redrive
dead-letters discard --reason no
ledger verify
ledger export
ledger checkpoint
ledger key
prove X P --out proof.json
audit X --out packet.zip
unacked
hold add X --reason no
hold list
hold remove 1 --reason no
redact X --reason no --yes
target list
target test T
nodes
token create --role auditor
token list
token revoke tok_1
backup copy.db
store copy --from nowhere --to postgres://ess@127.0.0.1:1/ess
listen P --forward http://127.0.0.1:1/ --once
tap
top
drill
- doctor
- completions bash
- man --out man
- jsonata 1+1 {}
- config show
- version
";

fn files(folder: &Path) {
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    write("event.json", r#"{"id":"RULE-A-V1","version":1,"payload":{}}"#);
    write("partner.yaml", "id: P\nurl: https://partner.example/\n");
    write("script.jsonata", "$");
    write("table.csv", "id,name\n1,a\n");
    std::fs::create_dir_all(folder.join("folder/partners")).unwrap();
    write("folder/partners/P.yaml", "id: P\nurl: https://partner.example/\n");
}

fn last_line(text: &str) -> Value {
    let last = text.trim_end().lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn every_command_prints_json_or_fails_in_json_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    files(folder.path());
    let reference = run(program(folder.path()).args(["reference", "pages"]));
    reference.ok();
    // Every command that the program knows is in the list above.
    let page = std::fs::read_to_string(folder.path().join("pages/command-line.md")).unwrap();
    let known: Vec<&str> =
        page.lines().filter_map(|line| line.strip_prefix("## `hms-ess ")?.strip_suffix('`')).collect();
    let lines = || COMMANDS.trim().lines().map(|line| (line.trim_start_matches("- "), line.starts_with("- ")));
    for name in &known {
        let is_group = known.iter().any(|other| other.starts_with(&format!("{name} ")));
        let is_listed = lines().any(|(line, _)| line == *name || line.starts_with(&format!("{name} ")));
        assert!(is_group || is_listed, "`{name}` is not tried with --json");
    }
    assert!(known.len() >= lines().count(), "{known:?}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken_at = taken.local_addr().unwrap().to_string();
    for (line, is_local) in lines() {
        let words = line.split(' ').map(|word| if word == "TAKEN" { &taken_at } else { word });
        // Nobody speaks TLS at the address that is taken.
        let nobody = "https://127.0.0.1:1";
        let said = run(program(folder.path()).env("HMS_ESS_HUB", nobody).args(words).arg("--json"));
        if is_local {
            assert!(last_line(&said.out).is_object() || last_line(&said.out).is_number(), "{line}: {said:?}");
            continue;
        }
        assert_eq!(said.code, Some(1), "{line}: {said:?}");
        let failure = last_line(&said.err);
        assert!(failure["detail"].is_string() && failure["hint"].is_string(), "{line}: {said:?}");
        assert!(said.out.is_empty(), "{line}: {said:?}");
    }
}

#[test]
fn commands_that_show_something_print_json_and_nothing_else() {
    let hub = RunningHub::start();
    let partner = Partner::listen(Manner::Acks);
    files(hub.folder.path());
    hub.file("partner.yaml", &format!("id: P\nurl: {}\n", partner.url()));
    hub.run(&["partner", "add", "partner.yaml"]).ok();
    hub.run(&["publish", "event.json"]).ok();
    hub.run(&["status", "RULE-A-V1", "--wait"]).ok();
    for line in [
        "status RULE-A-V1",
        "partner list",
        "partner show P",
        "partner test P",
        "partner pause P",
        "partner resume P",
        "partner rotate-secret P",
        "bridge list",
        "bridge test",
        "schema list",
        "table list",
        "dead-letters list",
        "dead-letters redrive",
        "ledger verify",
        "ledger checkpoint",
        "ledger key",
        "unacked",
        "hold list",
        "target list",
        "nodes",
        "token list",
        "token create --role auditor",
        "replay RULE-A-V1 --to P",
        "apply folder --dry-run",
        "backup copy.db",
        "top",
        "prove RULE-A-V1 P --out proof.json",
        "audit RULE-A-V1 --out packet.zip",
        "drill --out drill.json",
        "doctor",
        "publish event.json --plan",
        "retract RULE-A-V1",
        "partner remove P",
    ] {
        let said = hub.run(&[line.split(' ').collect::<Vec<_>>().as_slice(), &["--json"]].concat());
        assert_eq!(said.code, Some(0), "{line}: {said:?}");
        let value: Result<Value, _> = serde_json::from_str(&said.out);
        assert!(value.is_ok_and(|value| value.is_object() || value.is_array()), "{line}: {said:?}");
    }
}

#[track_caller]
fn told(said: Said, what: &str, what_to_do: &str) {
    assert!(matches!(said.code, Some(1 | 2)), "{said:?}");
    let (error, hint) = said.err.split_once("\n\nhint: ").unwrap_or_else(|| panic!("no hint: {said:?}"));
    assert!(error.starts_with("error: ") && error.contains(what), "{said:?}");
    assert!(hint.contains(what_to_do) && hint.ends_with('\n'), "{said:?}");
    assert!(!said.err.contains('\x1b'), "colours in a pipe: {said:?}");
}

#[test]
fn each_way_to_fail_says_what_why_and_what_to_do() {
    let hub = RunningHub::start();
    let partner = Partner::listen(Manner::Acks);
    hub.file("court.yaml", &format!("id: COURT-CAL\nurl: {}\n", partner.url()));
    hub.run(&["partner", "add", "court.yaml"]).ok();
    let alone = tempfile::tempdir().unwrap();
    let ask = |words: &[&str]| run(program(hub.folder.path()).args(words));
    told(run(program(alone.path()).args(["unacked"])), "no hub is known here", "hms-ess serve");
    told(ask(&["unacked", "--hub", "https://127.0.0.1:1"]), "no hub answers at https://127.0.0.1:1", "--hub URL");
    told(ask(&["unacked", "--hub", "nowhere"]), "`nowhere` is no hub's URL", "https://");
    // A certificate that nobody here trusts, and one of another hub.
    let stranger = run(program(alone.path()).args(["unacked", "--hub", &hub.url]));
    told(stranger, "could not speak TLS", "--ca DIR/tls/ca.pem");
    let other = RunningHub::start();
    let ca = other.folder.path().join("hms-ess-data/tls/ca.pem");
    told(ask(&["unacked", "--ca", ca.to_str().unwrap()]), "could not speak TLS", "is that this hub's ca.pem?");
    told(ask(&["unacked", "--ca", "none.pem"]), "none.pem", "hms-ess doctor");
    let bad = run(program(hub.folder.path()).env("HMS_ESS_TOKEN", "hms_admin_wrong").args(["unacked"]));
    told(bad, "token", "token");
    let auditor = hub.json(&["token", "create", "--role", "auditor"])["token"].as_str().unwrap().to_owned();
    let refused =
        run(program(hub.folder.path()).env("HMS_ESS_TOKEN", &auditor).args(["partner", "pause", "COURT-CAL"]));
    told(refused, "", "");
    hub.file("court.yaml", &format!("id: COURT-CAL\nurl: {}\ntimeout: 7s\n", partner.url()));
    told(ask(&["partner", "add", "court.yaml"]), "timeout: 30s -> 7s", "--replace");
    told(ask(&["partner", "show", "COURT-COL"]), "there is no partner COURT-COL", "did you mean `COURT-CAL`?");
    told(ask(&["partner", "pause", "ZZZZZZZZZ"]), "there is no partner ZZZZZZZZZ", "hms-ess partner list");
    told(ask(&["publish", "nowhere.json"]), "could not read nowhere.json", "");
    told(ask(&["publsh", "x"]), "unrecognized subcommand 'publsh'", "'publish'");
    told(ask(&["status"]), "required arguments were not provided: <EVENT>", "hms-ess status");
    told(ask(&["drill", "--wait", "soon"]), "--wait", "--help");
    // A terminal that wants no colour gets none, and a pipe never does.
    let said = run(program(hub.folder.path()).env("NO_COLOR", "1").args(["partner", "list"]));
    assert!(!said.ok().contains('\x1b'));
}
