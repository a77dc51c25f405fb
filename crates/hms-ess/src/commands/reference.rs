//! Pages of the docs that are made from the code: every command with its flags, every operation of the API.
//!
//! Called by `cargo xtask docs`; what it writes is never edited by hand.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory};
use serde_json::{Value, json};

use crate::cli::Cli;
use crate::failure::{Failure, Result};
use crate::output::Output;

/// Arguments of `reference`.
#[derive(Debug, Args)]
pub(crate) struct ReferenceArgs {
    /// Where the pages go; made when it is not there.
    dir: PathBuf,
}

/// Writes the pages.
pub(crate) fn run(args: &ReferenceArgs, output: &Output) -> Result<()> {
    let tried =
        |path: &Path, error: &std::io::Error| Failure::io(format_args!("could not write {}", path.display()), error);
    std::fs::create_dir_all(&args.dir).map_err(|error| tried(&args.dir, &error))?;
    let pages = [("command-line.md", command_line()), ("api.md", api(&ess_http::openapi()))];
    for (name, page) in &pages {
        let path = args.dir.join(name);
        std::fs::write(&path, page).map_err(|error| tried(&path, &error))?;
    }
    let names: Vec<&str> = pages.iter().map(|(name, _)| *name).collect();
    if output.json { output.json(&json!({"pages": names})) } else { output.line(names.join("\n")) }
}

fn command_line() -> String {
    let mut page = "# Every command and flag\n\nMade from the program; [command line](../command-line.md) says how they go together.\n".to_owned();
    let mut root = Cli::command();
    root.build();
    page.push_str("\n## Flags of every command\n\n");
    page.push_str(&flags(&root, |flag| flag.is_global_set()));
    for command in root.get_subcommands() {
        describe(command, "hms-ess", &mut page);
    }
    page
}

fn describe(command: &clap::Command, before: &str, page: &mut String) {
    if command.is_hide_set() {
        return;
    }
    let name = format!("{before} {}", command.get_name());
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let _ = write!(page, "\n## `{name}`\n\n{}.\n", about.trim_end_matches('.'));
    if command.has_subcommands() {
        for inner in command.get_subcommands() {
            describe(inner, &name, page);
        }
        return;
    }
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").split_whitespace().collect::<Vec<_>>().join(" ");
    let _ = write!(page, "\n```text\n{usage}\n```\n\n{}", flags(command, |flag| !flag.is_global_set()));
}

/// A line for each argument that is meant.
fn flags(command: &clap::Command, is_meant: impl Fn(&clap::Arg) -> bool) -> String {
    let mut lines = String::new();
    for flag in command.get_arguments().filter(|flag| is_meant(flag) && !flag.is_hide_set()) {
        if matches!(flag.get_id().as_str(), "help" | "version") {
            continue;
        }
        let takes = flag.get_action().takes_values();
        let value = flag.get_value_names().and_then(<[_]>::first).map(ToString::to_string).unwrap_or_default();
        let shown = match flag.get_long() {
            Some(long) if takes => format!("--{long} {value}"),
            Some(long) => format!("--{long}"),
            None => value,
        };
        let help = flag.get_help().map(ToString::to_string).unwrap_or_default();
        let choices: Vec<String> =
            flag.get_possible_values().iter().map(|choice| choice.get_name().to_owned()).collect();
        let choices =
            if takes && !choices.is_empty() { format!("; one of {}", choices.join(", ")) } else { String::new() };
        let default =
            flag.get_default_values().iter().map(|value| value.to_string_lossy()).collect::<Vec<_>>().join(", ");
        let default = if takes && !default.is_empty() { format!("; `{default}` unless given") } else { String::new() };
        let _ = writeln!(lines, "* `{shown}`: {}{choices}{default}.", help.trim_end_matches('.'));
    }
    lines
}

fn api(document: &Value) -> String {
    let mut page = "# Every operation\n\nMade from the hub's own description, which a running hub shows at `/docs` and, as OpenAPI 3.1, at `/openapi.json`; [the API](../api.md) says what all operations share.\n".to_owned();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for tag in document["tags"].as_array().into_iter().flatten() {
        let _ = write!(page, "\n## {}\n\n{}\n", text(&tag["name"]), text(&tag["description"]));
        for (path, methods) in document["paths"].as_object().into_iter().flatten() {
            for (method, operation) in methods.as_object().into_iter().flatten() {
                let is_of_tag = operation["tags"].as_array().is_some_and(|tags| tags.contains(&tag["name"]));
                if is_of_tag {
                    page.push_str(&operation_of(path, method, operation));
                }
            }
        }
    }
    page
}

fn operation_of(path: &str, method: &str, operation: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().trim().to_owned();
    let mut page =
        format!("\n### `{} {path}`\n\n{}.\n", method.to_uppercase(), text(&operation["summary"]).trim_end_matches('.'));
    let description = text(&operation["description"]);
    if !description.is_empty() {
        let _ = writeln!(page, "{description}");
    }
    let roles: Vec<String> = operation["x-hms-roles"].as_array().into_iter().flatten().map(text).collect();
    let roles = if roles.is_empty() { "anybody, without a token".to_owned() } else { roles.join(", ") };
    let _ = writeln!(page, "\nFor: {roles}.\n");
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        let (name, place) = (text(&parameter["name"]), text(&parameter["in"]));
        let needed = if parameter["required"] == true && place != "path" { ", needed" } else { "" };
        let _ = writeln!(page, "* `{name}` ({place}{needed}): {}", text(&parameter["description"]));
    }
    if let Some(contents) = operation["requestBody"]["content"].as_object() {
        for (media, content) in contents {
            let example = &content["example"];
            let shown = example.as_str().map_or_else(|| example.to_string(), |text| text.trim_end().to_owned());
            let _ = write!(page, "\nTakes `{media}`:\n\n```text\n{shown}\n```\n");
        }
    }
    page.push_str("\nAnswers:\n\n");
    for (status, answer) in operation["responses"].as_object().into_iter().flatten() {
        if status.parse::<u16>().is_ok_and(|status| status != 401 && status != 403) {
            let _ = writeln!(page, "* {status}: {}", text(&answer["description"]));
        }
    }
    page
}
