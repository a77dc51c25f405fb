//! The hub as a process: what it leaves on disk, how it stops, what it does at the next start.

use std::os::unix::fs::PermissionsExt;

use crate::program::{RunningHub, program, run};

#[test]
fn the_first_start_makes_private_files_and_a_profile() {
    let hub = RunningHub::start();
    let data = hub.folder.path().join("hms-ess-data");
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    for file in ["admin.token", "seal.key", "tls/ca.key", "tls/hub.key"] {
        assert_eq!(mode(&data.join(file)), 0o600, "{file}");
    }
    let profile = hub.folder.path().join(".config/hms-ess/profile.json");
    assert_eq!(mode(&profile), 0o600);
    let profile: serde_json::Value = serde_json::from_slice(&std::fs::read(profile).unwrap()).unwrap();
    assert_eq!(profile["hub"], hub.url);
    assert_eq!(profile["aliases"]["https://hub.sandbox.gov"], hub.url);
    assert_eq!(profile["token"].as_str(), Some(std::fs::read_to_string(data.join("admin.token")).unwrap().trim()));
    // The alias, and its certificate, as the mission's hub is called.
    hub.run(&["partner", "list", "--hub", "https://hub.sandbox.gov"]).ok();
}

#[test]
fn sigterm_and_sigint_stop_it_with_exit_0_and_the_next_start_knows_everything() {
    let mut hub = RunningHub::start();
    let token = std::fs::read(hub.folder.path().join("hms-ess-data/admin.token")).unwrap();
    hub.file("e.json", r#"{"id":"RULE-A-V1","version":1,"payload":1}"#);
    hub.run(&["publish", "e.json"]).ok();
    hub.signal("TERM");
    assert_eq!(hub.wait(), Some(0));
    let folder = std::mem::replace(&mut hub.folder, tempfile::tempdir().unwrap());
    let mut hub = RunningHub::start_in(folder, &[]);
    assert_eq!(std::fs::read(hub.folder.path().join("hms-ess-data/admin.token")).unwrap(), token);
    assert!(hub.run(&["publish", "e.json"]).ok().contains("before; nothing new was sent"));
    hub.signal("INT");
    assert_eq!(hub.wait(), Some(0));
}

#[test]
fn a_hub_on_all_addresses_is_dialled_on_loopback() {
    let hub = RunningHub::start_in(tempfile::tempdir().unwrap(), &["--listen", "0.0.0.0:0"]);
    assert!(hub.url.starts_with("https://0.0.0.0:"), "{}", hub.url);
    hub.run(&["partner", "list"]).ok();
}

#[test]
fn plain_http_is_spoken_when_asked_for() {
    let hub = RunningHub::start_in(tempfile::tempdir().unwrap(), &["--http"]);
    assert!(hub.url.starts_with("http://127.0.0.1:"));
    hub.run(&["partner", "list"]).ok();
}

#[test]
fn a_second_hub_in_the_same_directory_is_refused() {
    let hub = RunningHub::start();
    let said = run(program(hub.folder.path()).args(["serve", "--listen", "127.0.0.1:0", "--metrics-listen", "off"]));
    let said = said.refused(1);
    assert!(said.contains("error: ") && said.contains("--data"), "{said}");
    // The refused one has not led the clients astray.
    hub.run(&["partner", "list"]).ok();
}

#[test]
fn an_address_that_is_taken_is_named_with_a_way_out() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let said = run(program(folder.path()).args(["serve", "--listen", &address, "--metrics-listen", "off"])).refused(1);
    assert!(said.contains(&format!("could not listen on {address}")) && said.contains("hint: "), "{said}");
}

#[test]
fn a_stranger_without_a_token_is_told_where_one_lies() {
    let hub = RunningHub::start();
    let stranger = tempfile::tempdir().unwrap();
    let ca = hub.folder.path().join("hms-ess-data/tls/ca.pem").display().to_string();
    let said = run(program(stranger.path()).args(["partner", "list", "--hub", &hub.url, "--ca", &ca])).refused(1);
    assert!(said.contains("wants a token") && said.contains("HMS_ESS_TOKEN"), "{said}");
    // And without its CA, no word is exchanged at all.
    let said = run(program(stranger.path()).args(["partner", "list", "--hub", &hub.url])).refused(1);
    assert!(said.contains("could not speak TLS") && said.contains("--ca"), "{said}");
}
