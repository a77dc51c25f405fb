//! Sizes: a file has at most 500 lines, a function 70. What was longer on the day the rule came is in `xtask/ratchet.toml`,
//! whose numbers may only fall.

use std::collections::BTreeMap;

use anyhow::Context as _;

use super::{Tracked, source};
use crate::shell;

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;
const RATCHET: &str = "xtask/ratchet.toml";
const HEAD: &str = "# Files of more than 500 lines and functions of more than 70, and how long each may be.\n\
                    # A number may only fall: `cargo xtask tidy --shrink` lowers it. A new line needs a reason in its commit.\n";

/// What is over the limits: its name (`path` or `path::function`) and its lines.
type Sizes = BTreeMap<String, usize>;

/// Complaints about what is longer than it may be, and about lines of the ratchet that are no longer needed.
pub(super) fn check(files: &[Tracked]) -> anyhow::Result<Vec<String>> {
    let (ratchet, actual) = (read(files)?, measure(files));
    let mut found = Vec::new();
    for (name, lines) in &actual {
        match ratchet.get(name) {
            None => found.push(format!("{name}: {lines} lines; a file has at most 500, a function 70: split it")),
            Some(ceiling) if lines > ceiling => {
                found.push(format!("{name}: {lines} lines, and the ratchet holds it at {ceiling}: it may only shrink"));
            }
            Some(_) => {}
        }
    }
    let done = ratchet.keys().filter(|name| !actual.contains_key(*name));
    found.extend(done.map(|name| format!("{RATCHET}: {name} fits now; run `cargo xtask tidy --shrink`")));
    Ok(found)
}

/// Lowers the ratchet to what is there; never raises a number and never adds a line.
pub(super) fn shrink(files: &[Tracked]) -> anyhow::Result<()> {
    let (ratchet, actual) = (read(files)?, measure(files));
    let mut text = HEAD.to_owned();
    for (name, ceiling) in &ratchet {
        if let Some(lines) = actual.get(name) {
            text.push_str(&format!("\"{name}\" = {}\n", lines.min(ceiling)));
        }
    }
    std::fs::write(shell::root().join(RATCHET), text).context("could not write the ratchet")
}

fn read(files: &[Tracked]) -> anyhow::Result<Sizes> {
    let text = files.iter().find(|file| file.path == RATCHET).map(|file| file.text.as_str()).unwrap_or_default();
    let mut sizes = Sizes::new();
    for line in text.lines().filter(|line| line.starts_with('"')) {
        let (name, lines) =
            line.split_once(" = ").with_context(|| format!("{RATCHET}: `{line}` is not `\"name\" = lines`"))?;
        let lines = lines.trim().parse().with_context(|| format!("{RATCHET}: `{line}` has no number"))?;
        sizes.insert(name.trim_matches('"').to_owned(), lines);
    }
    Ok(sizes)
}

fn measure(files: &[Tracked]) -> Sizes {
    let mut sizes = Sizes::new();
    for file in files.iter().filter(|file| file.is_rust()) {
        let lines = file.text.lines().count();
        if lines > FILE_LINES_MAX {
            sizes.insert(file.path.clone(), lines);
        }
        for (name, lines) in functions(&file.text) {
            if lines > FUNCTION_LINES_MAX {
                let longest = sizes.entry(format!("{}::{name}", file.path)).or_default();
                *longest = lines.max(*longest);
            }
        }
    }
    sizes
}

/// Each function with a body and its lines, from the signature's first to the closing brace.
fn functions(text: &str) -> Vec<(String, usize)> {
    let code = source::blank(text);
    let bytes = code.as_bytes();
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let is_word = at == 0 || !(bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
        let rest = &code[at + 3..];
        let name: String = rest.chars().take_while(|&c| c.is_alphanumeric() || c == '_').collect();
        if !is_word || name.is_empty() {
            continue;
        }
        if let Some(length) = body_end(rest) {
            found.push((name, rest[..length].matches('\n').count() + 1));
        }
    }
    found
}

/// Where the body ends; `None` for a signature without one.
fn body_end(rest: &str) -> Option<usize> {
    let mut brackets = 0_i32;
    let mut braces = 0_i32;
    for (at, c) in rest.char_indices() {
        match c {
            '(' | '[' => brackets += 1,
            ')' | ']' => brackets -= 1,
            ';' if brackets == 0 && braces == 0 => return None,
            '{' => braces += 1,
            '}' => {
                braces -= 1;
                if braces == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_measured_from_its_signature_to_its_brace() {
        let text = "trait T { fn a(&self) -> [u8; 4]; }\nfn b(\n  x: u8,\n) {\n  \"}\";\n  if x { y }\n}\nfn c() {}\n";
        assert_eq!(functions(text), vec![("b".to_owned(), 6), ("c".to_owned(), 1)]);
    }
}
