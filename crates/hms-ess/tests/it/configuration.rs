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

#[test]
fn the_example_shows_every_key_of_the_documentation_and_is_taken_as_it_stands() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = std::fs::read_to_string(root.join("docs/configuration.md")).unwrap();
    let example = std::fs::read_to_string(root.join("examples/hub.yaml")).unwrap();
    let table = page.split("\n\n").find(|part| part.starts_with("| key |")).unwrap();
    let documented: Vec<&str> = table.lines().skip(2).map(|line| line.split('`').nth(1).unwrap()).collect();
    let lines = example.lines().map(|line| line.strip_prefix("# ").unwrap_or(line));
    let shown: Vec<&str> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(key, _)| key)
        .filter(|key| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        .collect();
    assert_eq!(shown, documented, "the example and docs/configuration.md show the same keys in the same order");
    let folder = tempfile::tempdir().unwrap();
    for file in ["examples/hub.yaml", "ops/debian/hub.yaml"] {
        let said = run(program(folder.path()).args(["config", "show", "--json", "--config"]).arg(root.join(file))).ok();
        let known: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&said).unwrap();
        let undocumented: Vec<_> = known.keys().filter(|key| !documented.contains(&key.as_str())).collect();
        assert!(undocumented.is_empty(), "not in docs/configuration.md: {undocumented:?}");
    }
    // All that is commented out, taken as well: it is written as it would have to be.
    let all: String = example
        .lines()
        .skip(3)
        .map(|line| line.strip_prefix("# ").unwrap_or(line))
        .fold(String::new(), |all, line| all + line + "\n");
    std::fs::write(folder.path().join("all.yaml"), all).unwrap();
    run(program(folder.path()).args(["config", "show", "--config", "all.yaml"])).ok();
}
