//! Which crate may use which: imports go down only. Read off the manifests and, for the finer rules, the text.

use super::Tracked;

/// Each crate and what of ours it may use.
const ARROWS: &[(&str, &[&str])] = &[
    ("ess-core", &[]),
    ("ess-store", &["ess-core"]),
    ("ess-channels", &["ess-core"]),
    ("ess-hub", &["ess-core", "ess-store", "ess-channels"]),
    ("ess-http", &["ess-core", "ess-hub"]),
    ("hms-ess", &["ess-core", "ess-store", "ess-channels", "ess-hub", "ess-http"]),
];

/// What the core must not touch: decisions take the time and the dice as arguments.
const NOT_IN_CORE: &[&str] = &[
    "SystemTime",
    "std::time::Instant",
    "Instant::now",
    "Timestamp::now",
    "Zoned::now",
    "Uuid::now_v7",
    "rand::",
    "getrandom",
    "tokio::",
    "std::fs",
    "std::env",
    "std::net::Tcp",
    "std::net::Udp",
    "std::thread",
    "std::process",
];

/// Complaints about manifests and about what the core touches.
pub(super) fn check(files: &[Tracked]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files {
        if let Some(name) = crate_of(&file.path)
            && file.path.ends_with("/Cargo.toml")
        {
            found.extend(check_manifest(name, file));
        }
        if file.is_rust() && file.path.starts_with("crates/ess-core/src/") {
            found.extend(check_core(file));
        }
    }
    found
}

fn check_manifest(name: &str, file: &Tracked) -> Vec<String> {
    let Some((_, allowed)) = ARROWS.iter().find(|(known, _)| *known == name) else {
        return vec![format!("{}: {name} is new; draw its arrows in docs/ARCHITECTURE.md and xtask", file.path)];
    };
    let mut found = Vec::new();
    let mut is_dependencies = false;
    for line in file.text.lines() {
        if line.starts_with('[') {
            is_dependencies = line.trim() == "[dependencies]";
        }
        let dependency = line.split(['.', '=', ' ']).next().unwrap_or_default();
        let is_ours = ARROWS.iter().any(|(known, _)| *known == dependency);
        if is_dependencies && is_ours && !allowed.contains(&dependency) {
            found.push(format!("{}: {name} must not use {dependency}; imports go down only", file.path));
        }
    }
    found
}

fn check_core(file: &Tracked) -> Vec<String> {
    let code = super::source::blank(&file.text);
    // Tests lie at the end of a file and may do as they like.
    let code = code.split("#[cfg(test)]").next().unwrap_or_default();
    let mut found = Vec::new();
    for (number, line) in code.lines().enumerate() {
        for word in NOT_IN_CORE.iter().filter(|word| line.contains(**word)) {
            found.push(format!("{}:{}: the core must not use {word}; take it as an argument", file.path, number + 1));
        }
    }
    found
}

fn crate_of(path: &str) -> Option<&str> {
    path.strip_prefix("crates/")?.split('/').next()
}
