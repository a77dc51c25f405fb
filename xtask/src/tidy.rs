//! The house rules as a check (`cargo xtask tidy`, and a test): which crate may use which, words, sizes, heads of files.
//!
//! It reads files and judges; it never changes one, but for the ratchet, and that only downwards.

mod arrows;
mod sizes;
mod source;
mod words;

use std::path::PathBuf;

use anyhow::{Context as _, bail};

use crate::shell;

/// A tracked file and its text.
pub(crate) struct Tracked {
    /// From the root, with `/`.
    path: String,
    text: String,
}

impl Tracked {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }
}

/// Checks every rule and prints what breaks one.
pub(crate) fn run(args: &[String]) -> anyhow::Result<()> {
    let files = tracked()?;
    match args {
        [] => {}
        [flag] if flag == "--shrink" => return sizes::shrink(&files),
        _ => bail!("tidy knows one argument: --shrink"),
    }
    let complaints = complaints(&files)?;
    for complaint in &complaints {
        shell::complain(complaint);
    }
    if !complaints.is_empty() {
        bail!("{} house rules are broken; docs/STYLE.md has the reasons", complaints.len());
    }
    shell::say(&format!("{} files are tidy", files.len()));
    Ok(())
}

fn complaints(files: &[Tracked]) -> anyhow::Result<Vec<String>> {
    let mut found = arrows::check(files);
    found.extend(sizes::check(files)?);
    found.extend(words::check(files));
    found.extend(error_pages(files));
    Ok(found)
}

/// Every code of a problem has its page: meaning, cause, cure.
fn error_pages(files: &[Tracked]) -> Vec<String> {
    let Some(problem) = files.iter().find(|file| file.path == "crates/ess-core/src/problem.rs") else {
        return vec!["crates/ess-core/src/problem.rs is gone; tell xtask/src/tidy.rs where the codes are".to_owned()];
    };
    let codes = problem.text.lines().filter_map(|line| {
        let (left, right) = line.trim().split_once(" => \"")?;
        let word = right.split('"').next().unwrap_or_default();
        // The titles stand in the same file; a code is one lower-case word.
        let is_code = left.starts_with("Code::") && word.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        is_code.then(|| word.to_owned())
    });
    let pages = codes.map(|code| format!("docs/errors/{code}.md"));
    let missing = pages.filter(|page| !files.iter().any(|file| &file.path == page));
    missing.map(|page| format!("{page}: missing; every problem code has a page (meaning, cause, cure)")).collect()
}

/// What git tracks or would track, as text; other files are left out.
fn tracked() -> anyhow::Result<Vec<Tracked>> {
    let list = shell::capture("git", &["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .context("tidy needs git to know which files are the project's")?;
    let root: PathBuf = shell::root();
    let mut files = Vec::new();
    for path in list.split('\0').filter(|path| !path.is_empty()) {
        // Deleted but still indexed, or not text: neither is judged.
        if let Ok(text) = std::fs::read_to_string(root.join(path)) {
            files.push(Tracked { path: path.to_owned(), text });
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_house_is_tidy() {
        let files = tracked().expect("git lists the files");
        let found = complaints(&files).expect("the rules can be checked");
        assert!(found.is_empty(), "{}", found.join("\n"));
    }
}
