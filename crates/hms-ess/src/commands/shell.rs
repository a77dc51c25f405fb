//! `hms-ess completions` and `hms-ess man`: made from the command line itself, so that they can't say anything else.

use std::path::PathBuf;

use clap::{Args, CommandFactory, ValueEnum};
use serde_json::json;

use crate::cli::Cli;
use crate::failure::{Failure, Result, plain};
use crate::output::Output;

/// Shells that are completed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shell {
    /// GNU Bash.
    Bash,
    /// The Z shell.
    Zsh,
    /// The friendly interactive shell.
    Fish,
}

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

/// Arguments of `man`.
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Where the pages go; made when it is not there.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Prints what the shell is to read.
pub(crate) fn completions(args: &CompletionsArgs, output: &Output) -> Result<()> {
    use clap_complete::{Shell as Known, generate};
    let (known, name) = match args.shell {
        Shell::Bash => (Known::Bash, "bash"),
        Shell::Zsh => (Known::Zsh, "zsh"),
        Shell::Fish => (Known::Fish, "fish"),
    };
    let mut script = Vec::new();
    generate(known, &mut Cli::command(), "hms-ess", &mut script);
    let script = String::from_utf8_lossy(&script);
    if output.json { output.json(&json!({"shell": name, "script": script})) } else { output.text(&script) }
}

/// Writes a page for the program and one for each command.
pub(crate) fn man(args: &ManArgs, output: &Output) -> Result<()> {
    let failed = |error: &std::io::Error| {
        Failure::refused(format!("could not write the pages to {}: {}", args.out.display(), plain(error)))
            .with_hint("name a directory that you may write to with --out DIR")
    };
    std::fs::create_dir_all(&args.out).map_err(|error| failed(&error))?;
    clap_mangen::generate_to(Cli::command(), &args.out).map_err(|error| failed(&error))?;
    let mut pages: Vec<String> = std::fs::read_dir(&args.out)
        .map_err(|error| failed(&error))?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("hms-ess") && name.ends_with(".1"))
        .collect();
    pages.sort();
    if output.json {
        return output.json(&json!({"dir": args.out.display().to_string(), "pages": pages}));
    }
    output.line(format_args!(
        "{} pages in {}; read one with `man -l {}`",
        pages.len(),
        args.out.display(),
        args.out.join("hms-ess.1").display()
    ))
}
