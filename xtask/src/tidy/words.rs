//! Words: each file says at its head what it is, names use the house's words, and nothing unfinished or of one machine is
//! left in a text.

use super::{Tracked, source};

/// Style, rule 5: a second word for an idea that has one already.
const NOT_USED: &[&str] = &[
    "job",
    "task",
    "endpoint",
    "consumer",
    "subscriber",
    "sink",
    "handler",
    "manager",
    "service",
    "helper",
    "util",
    "utils",
    "data",
    "info",
];

/// Names that the contract, a standard or a library decides: `--data DIR`, a CloudEvent's `data`, `http_body::Body::Data`.
const GIVEN: &[&str] = &["data_dir", "no_binary_data", "info", "Data"];

const DEFINING: &[&str] = &["fn", "struct", "enum", "trait", "mod", "type", "const", "static"];

/// Complaints about heads, names, leftovers and paths.
pub(super) fn check(files: &[Tracked]) -> Vec<String> {
    let mut found = Vec::new();
    // The rules must name what they forbid.
    for file in files.iter().filter(|file| !file.path.starts_with("xtask/src/tidy") && file.path != "docs/STYLE.md") {
        if file.is_rust() {
            if !file.text.starts_with("//!") {
                found.push(format!("{}: begins without `//!`: say what the file is and must never do", file.path));
            }
            found.extend(names(file));
        }
        found.extend(leftovers(file));
    }
    found
}

fn names(file: &Tracked) -> Vec<String> {
    let code = source::blank(&file.text);
    let mut found = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let words: Vec<&str> =
            line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty()).collect();
        for pair in words.windows(2).filter(|pair| DEFINING.contains(&pair[0])) {
            let is_given = GIVEN.contains(&pair[1]);
            if let Some(word) = parts(pair[1]).into_iter().find(|part| NOT_USED.contains(&part.as_str()) && !is_given) {
                found.push(format!(
                    "{}:{}: `{}` says `{word}`, which is not one of our words",
                    file.path,
                    number + 1,
                    pair[1]
                ));
            }
        }
    }
    found
}

/// The words of a name: of `snake_case` and of `CamelCase`.
fn parts(name: &str) -> Vec<String> {
    let mut parts = Vec::new();
    for piece in name.split('_') {
        let mut word = String::new();
        for c in piece.chars() {
            if c.is_uppercase() && word.chars().last().is_some_and(char::is_lowercase) {
                parts.push(std::mem::take(&mut word).to_lowercase());
            }
            word.push(c);
        }
        parts.push(word.to_lowercase());
    }
    parts
}

fn leftovers(file: &Tracked) -> Vec<String> {
    let is_checked = [".rs", ".py", ".toml", ".md", ".yaml", ".yml", ".sh", ".sql", ".html", "run"];
    if !is_checked.iter().any(|end| file.path.ends_with(end)) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (number, line) in file.text.lines().enumerate() {
        let place = format!("{}:{}", file.path, number + 1);
        for word in ["TODO", "FIXME", "XXX"].iter().filter(|word| has_word(line, word)) {
            found.push(format!("{place}: {word}: finish it, or write an issue"));
        }
        for prefix in ["/work/", "/root/", "/home/", "/Users/"].iter().filter(|prefix| begins_path(line, prefix)) {
            found.push(format!("{place}: a path of one machine ({prefix}...)"));
        }
    }
    found
}

fn has_word(line: &str, word: &str) -> bool {
    line.split(|c: char| !c.is_alphanumeric()).any(|part| part == word)
}

fn begins_path(line: &str, prefix: &str) -> bool {
    line.match_indices(prefix).any(|(at, _)| {
        let before = line[..at].chars().last();
        !before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '/' | '.' | '}' | '~' | '-' | '_'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_taken_apart_whichever_way_it_is_written() {
        assert_eq!(parts("retry_job"), ["retry", "job"]);
        assert_eq!(parts("RetryManager"), ["retry", "manager"]);
        assert_eq!(parts("TASK_MAX"), ["task", "max"]);
        assert_eq!(parts("database"), ["database"]);
    }

    #[test]
    fn only_a_path_from_the_root_is_one_machines() {
        assert!(begins_path("see \"/home/me/x\"", "/home/"));
        assert!(!begins_path("https://example.org/home/x", "/home/"));
    }
}
