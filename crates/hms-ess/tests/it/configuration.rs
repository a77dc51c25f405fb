//! Where a key's value comes from, and what is said about a wrong one.

use crate::program::{program, run};

#[test]
fn file_environment_and_flags_rise_in_this_order() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("hub.yaml"), "listen: 127.0.0.1:1\ndata: from-file\nlog: json\n").unwrap();
    let said = run(program(folder.path())
        .env("HMS_ESS_CONFIG", "hub.yaml")
        .env("HMS_ESS_LISTEN", "127.0.0.1:2")
        .env("HMS_ESS_DATA", "from-environment")
        .args(["config", "show", "--listen", "127.0.0.1:3", "--json"]));
    let value: serde_json::Value = serde_json::from_str(&said.ok()).unwrap();
    let key = |name: &str| (value[name]["value"].as_str().unwrap(), value[name]["source"].as_str().unwrap());
    assert_eq!(key("listen"), ("127.0.0.1:3", "--listen"));
    assert_eq!(key("data"), ("from-environment", "HMS_ESS_DATA"));
    assert_eq!(key("log"), ("json", "hub.yaml:3"));
    assert_eq!(key("http"), ("false", "default"));
}

#[test]
fn a_wrong_value_is_named_with_its_source() {
    let folder = tempfile::tempdir().unwrap();
    let said = run(program(folder.path()).env("HMS_ESS_LISTEN", "here").args(["config", "show"])).refused(2);
    assert!(said.starts_with("error: HMS_ESS_LISTEN: listen: expected an address such as 127.0.0.1:8443"), "{said}");
    let said = run(program(folder.path()).args(["serve", "--allow-net", "everything"])).refused(2);
    assert!(said.starts_with("error: --allow-net: allow_net: expected address ranges"), "{said}");
}

#[test]
fn a_file_with_an_unknown_key_stops_the_start() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("hub.yaml"), "# the hub\nlistn: 127.0.0.1:1\n").unwrap();
    let said = run(program(folder.path()).args(["serve", "--config", "hub.yaml"])).refused(2);
    assert_eq!(said, "error: hub.yaml:2: unknown key listn\n\nhint: did you mean `listen`?\n");
    let said = run(program(folder.path()).args(["serve", "--config", "none.yaml"])).refused(1);
    assert!(said.contains("none.yaml"), "{said}");
}
