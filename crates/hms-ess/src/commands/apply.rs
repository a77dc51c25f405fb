//! `hms-ess apply`: bring the hub to what a folder says, after showing the plan.

use std::path::{Path, PathBuf};

use clap::Args;
use ess_core::partner::{Partner, differences};
use ess_core::partner_file::PartnerFile;
use serde_json::Value;

use super::{bridge, field, partner};
use crate::client::Client;
use crate::failure::{Failure, Result};
use crate::output::Output;

/// Arguments of `apply`.
#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// Folder with partners/*.yaml, adapters/*.jsonata and bridges/SUBJECT/3-to-1.jsonata.
    dir: PathBuf,
    /// Do it without asking.
    #[arg(long)]
    yes: bool,
    /// Show the plan and do nothing.
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
}

/// What is to be done.
enum Step {
    Partner(PartnerFile),
    Bridge(Value),
}

/// Applies.
pub(crate) async fn run(args: &ApplyArgs, client: &Client, output: &Output) -> Result<()> {
    let mut steps = Vec::new();
    // Bridges first, so that a partner's first event is not blocked.
    plan_bridges(&args.dir, client, output, &mut steps).await?;
    plan_partners(&args.dir, client, output, &mut steps).await?;
    if steps.is_empty() {
        return output.line("nothing to do");
    }
    let count = steps.len();
    output.line(format_args!("\n{count} change{}", if count == 1 { "" } else { "s" }))?;
    if args.dry_run {
        return Ok(());
    }
    if !args.yes {
        if !output.can_ask() {
            return Err(
                Failure::refused("nothing was changed: nobody can be asked here").with_hint("pass --yes to do it")
            );
        }
        if !output.ask("do it?")? {
            return Err(Failure::refused("nothing was changed"));
        }
    }
    for step in steps {
        match step {
            Step::Bridge(document) => {
                let value = bridge::send(&document, true, client).await?;
                output.line(format_args!("bridge {} applied", field(&value, "id")))?;
            }
            Step::Partner(file) => {
                let value = partner::send(&file, true, client).await?;
                output.line(format_args!("partner {} applied", field(&value["partner"], "id")))?;
                if let Some(secret) = value["secret"].as_str() {
                    output.line(format_args!("  signing secret, shown this once: {secret}"))?;
                }
            }
        }
    }
    Ok(())
}

async fn plan_partners(dir: &Path, client: &Client, output: &Output, steps: &mut Vec<Step>) -> Result<()> {
    let known = client.list("/v1/partners", 100_000).await?;
    for path in files(&dir.join("partners"), &["yaml", "yml"])? {
        let file = partner::read_file(&path)?;
        let wanted = file.check().map_err(super::from_problem)?;
        let there = known.iter().find(|item| field(item, "id") == wanted.id.as_str());
        let there = there.and_then(|item| Partner::from_json(&item["config"]).ok());
        match there {
            None => output.line(format_args!("+ partner {}", wanted.id))?,
            Some(there) => {
                let lines = differences(&there, &wanted);
                if lines.is_empty() {
                    output.line(format_args!("= partner {}", wanted.id))?;
                    continue;
                }
                // A sealed secret can't be compared here; the hub does it, and keeps what is the same.
                let is_sealed_only = lines.iter().all(|line| line.starts_with("auth: (sealed)"));
                let mark = if is_sealed_only { '?' } else { '~' };
                output.line(format_args!("{mark} partner {}", wanted.id))?;
                for line in lines {
                    output.line(format_args!("    {line}"))?;
                }
            }
        }
        steps.push(Step::Partner(file));
    }
    Ok(())
}

async fn plan_bridges(dir: &Path, client: &Client, output: &Output, steps: &mut Vec<Step>) -> Result<()> {
    let known = client.get("/v1/bridges").await?;
    for folder in folders(&dir.join("bridges"))? {
        let subject = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for path in files(&folder, &["jsonata"])? {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let ways = name.split_once("-to-").and_then(|(from, to)| Some((from, to.parse::<u32>().ok()?)));
            let Some((from, to)) = ways else {
                let detail = format!("{}: expected a name such as 3-to-1.jsonata", path.display());
                return Err(Failure::refused(detail));
            };
            let from = from.strip_suffix('+').map_or_else(|| from.to_owned(), |least| format!(">={least}"));
            let document = bridge::document(&path, &subject, &from, to)?;
            let id = format!("{subject}/{name}");
            let there = known["items"].as_array().into_iter().flatten().find(|item| field(item, "id") == id);
            let is_same = there.is_some_and(|there| {
                let examples = document.get("examples").cloned().unwrap_or(Value::Array(Vec::new()));
                there["script"] == document["script"] && there["examples"] == examples
            });
            let mark = match (there, is_same) {
                (None, _) => "+",
                (Some(_), true) => "=",
                (Some(_), false) => "~",
            };
            output.line(format_args!("{mark} bridge {id}"))?;
            if !is_same {
                steps.push(Step::Bridge(document));
            }
        }
    }
    Ok(())
}

fn files(dir: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>> {
    let is_wanted =
        |path: &PathBuf| path.extension().is_some_and(|found| extensions.iter().any(|wanted| found == *wanted));
    Ok(entries(dir)?.into_iter().filter(|path| path.is_file()).filter(is_wanted).collect())
}

fn folders(dir: &Path) -> Result<Vec<PathBuf>> {
    Ok(entries(dir)?.into_iter().filter(|path| path.is_dir()).collect())
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let read = std::fs::read_dir(dir)
        .map_err(|error| Failure::io(format_args!("could not read {}", dir.display()), &error))?;
    let mut paths: Vec<PathBuf> = read.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}
