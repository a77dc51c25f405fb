//! `hms-ess doctor`: looks at everything that a hub stands on and says what is wrong, why, and what to do.
//!
//! It changes nothing but a small file that it writes and removes to see whether the disk keeps what it is told, and it sends no
//! event. With the hub down it says so and looks at what lies on this machine.

mod finding;
mod hub;
mod machine;

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use self::finding::{Finding, Grade};
use crate::cli::Globals;
use crate::config::ServeArgs;
use crate::failure::{Failure, Result};
use crate::output::Output;

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// The hub's configuration file, YAML [default: HMS_ESS_CONFIG].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The hub's data directory, when it is on this machine [default: as configured, then as the profile knows it].
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
}

/// Looks; exit 1 when something fails.
pub(crate) async fn run(args: &DoctorArgs, globals: &Globals, output: &Output) -> Result<()> {
    let serve = ServeArgs { config: args.config.clone(), data: args.data.clone(), ..ServeArgs::default() };
    let mut findings = machine::examine(&serve);
    findings.extend(hub::examine(globals, output).await);
    show(&findings, output)?;
    if findings.iter().any(|finding| finding.grade == Grade::Fail) { Err(Failure::told()) } else { Ok(()) }
}

fn show(findings: &[Finding], output: &Output) -> Result<()> {
    let count = |grade: Grade| findings.iter().filter(|finding| finding.grade == grade).count();
    let (fine, warnings, failures) = (count(Grade::Ok), count(Grade::Warn), count(Grade::Fail));
    if output.json {
        let items: Vec<Value> = findings.iter().map(Finding::to_json).collect();
        return output.json(&json!({"ok": fine, "warn": warnings, "fail": failures, "findings": items}));
    }
    for finding in findings {
        let word = finding.grade.word();
        let pad = " ".repeat(6 - word.len());
        output.line(format_args!("{}{pad}{:<13}  {}", output.word(word), finding.check, finding.what))?;
        for (label, text) in [("why", &finding.why), ("do", &finding.what_to_do)] {
            if let Some(text) = text {
                output.line(format_args!("                     {label}: {text}"))?;
            }
        }
    }
    output.line(format_args!("\n{fine} ok, {warnings} to look at, {failures} failed"))
}
