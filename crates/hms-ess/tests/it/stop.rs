//! The hub as a process: what it leaves on disk, how it stops, what it does at the next start.

use std::os::unix::fs::PermissionsExt;

use std::process::Stdio;
use std::time::Duration;

use crate::program::{RunningHub, program, run, wait_for};

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

#[test]
fn a_partner_that_hangs_and_a_follower_hold_the_stop_up_for_its_bound_only() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("hub.yaml"), "stop_within: 2s\n").unwrap();
    let mut hub = RunningHub::start_in(folder, &["--config", "hub.yaml"]);
    // Takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    hub.file("p.yaml", &format!("id: P\nurl: http://{}/\n", silent.local_addr().unwrap()));
    hub.run(&["partner", "add", "p.yaml"]).ok();
    let mut tap = program(hub.folder.path()).arg("tap").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    hub.file("e.json", r#"{"id":"RULE-A-V1","version":1,"payload":1}"#);
    hub.run(&["publish", "e.json"]).ok();
    let _hanging = silent.accept().unwrap();
    let began = std::time::Instant::now();
    hub.signal("TERM");
    assert_eq!(hub.wait(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    assert_eq!(tap.wait().unwrap().code(), Some(1));
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut hub = RunningHub::start();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    hub.file("p.yaml", &format!("id: P\nurl: http://{}/\n", silent.local_addr().unwrap()));
    hub.run(&["partner", "add", "p.yaml"]).ok();
    hub.file("e.json", r#"{"id":"RULE-A-V1","version":1,"payload":1}"#);
    hub.run(&["publish", "e.json"]).ok();
    let _hanging = silent.accept().unwrap();
    let began = std::time::Instant::now();
    hub.signal("TERM");
    // Signals of one kind are not counted: the second is sent until it was heard.
    let mut ended = None;
    wait_for("the hub's end", || {
        hub.signal("INT");
        ended = hub.child.try_wait().unwrap();
        ended.is_some()
    });
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn a_certificate_is_exchanged_on_sighup() {
    let other = RunningHub::start();
    let tls = other.folder.path().join("hms-ess-data/tls");
    let folder = tempfile::tempdir().unwrap();
    let own = |name: &str| folder.path().join(name);
    // A certificate of another CA than the one that comes later.
    std::fs::copy(tls.join("hub.pem"), own("cert.pem")).unwrap();
    std::fs::copy(tls.join("hub.key"), own("key.pem")).unwrap();
    let hub = RunningHub::start_in(folder, &["--tls-cert", "cert.pem", "--tls-key", "key.pem"]);
    let list = |ca: &std::path::Path| hub.run(&["partner", "list", "--ca", ca.to_str().unwrap()]);
    list(&tls.join("ca.pem")).ok();
    let newer = RunningHub::start();
    let newer = newer.folder.path().join("hms-ess-data/tls");
    std::fs::copy(newer.join("hub.pem"), hub.folder.path().join("cert.pem")).unwrap();
    std::fs::copy(newer.join("hub.key"), hub.folder.path().join("key.pem")).unwrap();
    hub.signal("HUP");
    wait_for("the new certificate", || list(&newer.join("ca.pem")).code == Some(0));
    list(&tls.join("ca.pem")).refused(1);
}
