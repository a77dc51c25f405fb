//! Judges every dependency that is built: where it comes from, its licence, and that there is one crypto provider.
//!
//! The lists here are the policy; `docs/dependencies.md` gives the reasons.

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::shell;

/// A second crypto provider, OpenSSL, or what is no longer maintained.
const BANNED: &[&str] = &[
    "aws-lc-rs",
    "aws-lc-sys",
    "boring",
    "boring-sys",
    "native-tls",
    "openssl",
    "openssl-sys",
    "paho-mqtt",
    "serde_yaml",
    "serde_yml",
    "ssh2",
];

const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Fails with every dependency that does not fit.
pub(crate) fn run() -> anyhow::Result<()> {
    let host = shell::capture("rustc", &["--print", "host-tuple"])?;
    let printed =
        shell::capture("cargo", &["metadata", "--format-version=1", "--locked", "--filter-platform", host.trim()])?;
    let metadata: Value = serde_json::from_str(&printed).context("cargo metadata is not JSON")?;
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    let complaints: Vec<String> = packages.iter().flat_map(complaints_of).collect();
    for complaint in &complaints {
        shell::complain(complaint);
    }
    if !complaints.is_empty() {
        bail!("{} dependencies do not fit docs/dependencies.md", complaints.len());
    }
    shell::say(&format!("{} packages: sources, licences and crypto provider fit", packages.len()));
    Ok(())
}

fn complaints_of(package: &Value) -> Vec<String> {
    let name = package["name"].as_str().unwrap_or_default();
    let mut complaints = Vec::new();
    if BANNED.contains(&name) {
        complaints.push(format!("{name}: banned; `cargo tree -i {name}` shows who brings it"));
    }
    // Our own crates have no source.
    let Some(source) = package["source"].as_str() else {
        return complaints;
    };
    if source != "registry+https://github.com/rust-lang/crates.io-index" {
        complaints.push(format!("{name}: comes from {source}, not from crates.io"));
    }
    let licence = package["license"].as_str().unwrap_or_default();
    if !is_allowed(licence) {
        complaints.push(format!("{name}: licence {licence:?} is not on the list"));
    }
    complaints
}

/// An SPDX expression of `OR` and `AND`: one alternative must be allowed whole.
fn is_allowed(expression: &str) -> bool {
    let plain = expression.replace('/', " OR ").replace(['(', ')'], " ");
    let joined = plain.split_whitespace().collect::<Vec<_>>().join(" ");
    if expression.contains('(') && joined.contains(" AND ") {
        // `(A OR B) AND C`: each factor in its own right.
        return joined.split(" AND ").all(is_allowed);
    }
    joined.split(" OR ").any(|choice| choice.split(" AND ").all(|licence| LICENCES.contains(&licence.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_needs_one_allowed_licence_and_a_sum_all() {
        assert!(is_allowed("MIT OR Apache-2.0"));
        assert!(is_allowed("GPL-3.0 OR MIT"));
        assert!(is_allowed("MIT/Apache-2.0"));
        assert!(is_allowed("(MIT OR Apache-2.0) AND Unicode-3.0"));
        assert!(is_allowed("Apache-2.0 AND ISC"));
        assert!(!is_allowed("AGPL-3.0"));
        assert!(!is_allowed("MIT AND AGPL-3.0"));
        assert!(!is_allowed(""));
    }
}
