//! `hms-ess apply`: bring the hub to what a folder says, after showing the plan.

use std::path::{Path, PathBuf};

use clap::Args;
use ess_core::partner::{Partner, differences};
use ess_core::partner_file::PartnerFile;
use serde_json::{Value, json};

use super::{bridge, field, partner, schema, table};
use crate::client::Client;
use crate::failure::{Failure, Result};
use crate::output::Output;

/// Arguments of `apply`.
#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// Folder with partners/*.yaml, adapters/*.jsonata, bridges/SUBJECT/3-to-1.jsonata, schemas/SUBJECT/v3.json, tables/*.csv.
    dir: PathBuf,
    /// Do it without asking.
    #[arg(long)]
    yes: bool,
    /// Show the plan and do nothing.
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
}

/// One thing that the folder names, beside what the hub has.
struct Planned {
    mark: Mark,
    kind: &'static str,
    id: String,
    differences: Vec<String>,
    document: Document,
}

/// What is to be done with it.
#[derive(Clone, Copy, PartialEq)]
enum Mark {
    Add,
    Change,
    /// A sealed secret can't be compared here; the hub does it, and keeps what is the same.
    Compare,
    Keep,
}

/// What is sent.
enum Document {
    Partner(PartnerFile),
    Bridge(Value),
    Schema(schema::Document),
    Table(Value),
}

impl Mark {
    fn of(there: Option<&Value>, differences: &[String]) -> Self {
        match there {
            None => Self::Add,
            Some(_) if differences.is_empty() => Self::Keep,
            Some(_) => Self::Change,
        }
    }

    fn sign(self) -> char {
        match self {
            Self::Add => '+',
            Self::Change => '~',
            Self::Compare => '?',
            Self::Keep => '=',
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Change => "change",
            Self::Compare => "compare",
            Self::Keep => "keep",
        }
    }
}

/// Applies.
pub(crate) async fn run(args: &ApplyArgs, client: &Client, output: &Output) -> Result<()> {
    if !["partners", "bridges", "schemas", "tables"].iter().any(|name| args.dir.join(name).is_dir()) {
        let detail = format!("{} has none of partners/, bridges/, schemas/, tables/", args.dir.display());
        return Err(Failure::refused(detail).with_hint(
            "name a folder such as examples/ of this project: partners/*.yaml, bridges/SUBJECT/3-to-1.jsonata",
        ));
    }
    // Everything is read and checked before anything is changed. In the order in which one needs the other, so that a
    // partner's first event is not blocked.
    let mut plan = plan_tables(&args.dir, client).await?;
    plan.extend(plan_schemas(&args.dir, client).await?);
    plan.extend(plan_bridges(&args.dir, client).await?);
    plan.extend(plan_partners(&args.dir, client).await?);
    if !output.json {
        show(&plan, output)?;
    }
    let changes: Vec<&Planned> = plan.iter().filter(|planned| planned.mark != Mark::Keep).collect();
    let is_asked = !changes.is_empty() && !args.dry_run;
    let mut secrets = serde_json::Map::new();
    if is_asked {
        agree(args, output)?;
        for (done, planned) in changes.iter().enumerate() {
            let sent = send(planned, client, output).await.map_err(|mut failure| {
                let (kind, id) = (planned.kind, &planned.id);
                failure.detail = format!("{kind} {id}: {} ({done} of {} applied)", failure.detail, changes.len());
                failure
            })?;
            secrets.extend(sent.map(|secret| (planned.id.clone(), secret)));
        }
    }
    if !output.json {
        return Ok(());
    }
    let plan: Vec<Value> = plan
        .iter()
        .map(|planned| {
            let word = planned.mark.word();
            json!({"act": word, "kind": planned.kind, "id": planned.id, "differences": planned.differences})
        })
        .collect();
    output.json(&json!({"plan": plan, "applied": is_asked, "secrets": secrets}))
}

fn show(plan: &[Planned], output: &Output) -> Result<()> {
    for planned in plan {
        output.line(format_args!("{} {} {}", planned.mark.sign(), planned.kind, planned.id))?;
        for line in &planned.differences {
            output.line(format_args!("    {line}"))?;
        }
    }
    match plan.iter().filter(|planned| planned.mark != Mark::Keep).count() {
        0 => output.line("nothing to do"),
        1 => output.line("\n1 change"),
        count => output.line(format_args!("\n{count} changes")),
    }
}

fn agree(args: &ApplyArgs, output: &Output) -> Result<()> {
    if args.yes {
        return Ok(());
    }
    if !output.can_ask() {
        let failure = Failure::refused("nothing was changed: nobody can be asked here");
        return Err(failure.with_hint("pass --yes to do it, or --dry-run to see the plan only"));
    }
    if output.ask("do it?")? { Ok(()) } else { Err(Failure::refused("nothing was changed")) }
}

/// Sends one; the signing secret when the hub made one.
async fn send(planned: &Planned, client: &Client, output: &Output) -> Result<Option<Value>> {
    let mut value = match &planned.document {
        Document::Bridge(document) => bridge::send(document, true, client).await?,
        Document::Schema(document) => schema::send(document, true, client).await?,
        Document::Table(document) => table::send(document, true, client).await?,
        Document::Partner(file) => partner::send(file, true, client).await?,
    };
    let secret = value.get_mut("secret").map(Value::take);
    if !output.json {
        output.line(format_args!("{} {} applied", planned.kind, planned.id))?;
        schema::show_offers(&value, output)?;
        bridge::show_differing_paths(&value, output)?;
        if let Some(Value::String(secret)) = &secret {
            output.line(format_args!("    signing secret, shown this once: {secret}"))?;
        }
    }
    Ok(secret)
}

async fn plan_partners(dir: &Path, client: &Client) -> Result<Vec<Planned>> {
    let known = client.list("/v1/partners", 100_000).await?;
    let mut plan = Vec::new();
    for path in files(&dir.join("partners"), &["yaml", "yml"])? {
        let file = partner::read_file(&path)?;
        let wanted = file.check().map_err(super::from_problem)?;
        let there = known.iter().find(|item| field(item, "id") == wanted.id.as_str());
        let there = there.and_then(|item| Partner::from_json(&item["config"]).ok());
        let differences = there.as_ref().map(|there| differences(there, &wanted)).unwrap_or_default();
        let mark = match &there {
            None => Mark::Add,
            Some(_) if differences.is_empty() => Mark::Keep,
            Some(_) if differences.iter().all(|line| line.starts_with("auth: (sealed)")) => Mark::Compare,
            Some(_) => Mark::Change,
        };
        let id = wanted.id.to_string();
        plan.push(Planned { mark, kind: "partner", id, differences, document: Document::Partner(file) });
    }
    Ok(plan)
}

async fn plan_bridges(dir: &Path, client: &Client) -> Result<Vec<Planned>> {
    let known = client.get("/v1/bridges").await?;
    let mut plan = Vec::new();
    for folder in folders(&dir.join("bridges"))? {
        let subject = name_of(&folder);
        for path in files(&folder, &["jsonata", "yaml"])? {
            let name = stem_of(&path);
            if name.ends_with(".examples") {
                continue;
            }
            let ways = name.split_once("-to-").and_then(|(from, to)| Some((from, to.parse::<u32>().ok()?)));
            let Some((from, to)) = ways else {
                let detail = format!("{}: expected a name such as 3-to-1.jsonata", path.display());
                return Err(Failure::refused(detail));
            };
            let from = from.strip_suffix('+').map_or_else(|| from.to_owned(), |least| format!(">={least}"));
            let document = if path.extension().is_some_and(|end| end == "jsonata") {
                bridge::document(&path, &subject, &from, to)?
            } else {
                bridge::identity_document(&path, &subject, &from, to)?
            };
            let id = format!("{subject}/{name}");
            let there = find(&known, "id", &id);
            let none = json!([]);
            let mut differences = Vec::new();
            if let Some(there) = there {
                for name in ["script", "identity", "examples"] {
                    if there.get(name).unwrap_or(&none) != document.get(name).unwrap_or(&none) {
                        differences.push(format!("{name} changed"));
                    }
                }
            }
            let mark = Mark::of(there, &differences);
            plan.push(Planned { mark, kind: "bridge", id, differences, document: Document::Bridge(document) });
        }
    }
    Ok(plan)
}

async fn plan_schemas(dir: &Path, client: &Client) -> Result<Vec<Planned>> {
    let known = client.get("/v1/schemas").await?;
    let mut plan = Vec::new();
    for folder in folders(&dir.join("schemas"))? {
        let subject = name_of(&folder);
        for path in files(&folder, &["json"])? {
            let name = stem_of(&path);
            let Some(version) = name.strip_prefix('v').and_then(|version| version.parse::<u32>().ok()) else {
                return Err(Failure::refused(format!("{}: expected a name such as v3.json", path.display())));
            };
            let document = schema::Document::read(&path, &subject, version)?;
            let id = format!("{subject}/v{version}");
            let there = find(&known, "id", &id);
            let is_same = there.is_none_or(|there| document.is(there));
            let differences = if is_same { Vec::new() } else { vec!["schema changed".to_owned()] };
            let mark = Mark::of(there, &differences);
            plan.push(Planned { mark, kind: "schema", id, differences, document: Document::Schema(document) });
        }
    }
    Ok(plan)
}

async fn plan_tables(dir: &Path, client: &Client) -> Result<Vec<Planned>> {
    let known = client.get("/v1/tables").await?;
    let mut plan = Vec::new();
    for path in files(&dir.join("tables"), &["csv", "yaml", "yml"])? {
        let document = table::document(&path)?;
        let id = field(&document, "name");
        let there = find(&known, "name", &id);
        let is_same = there.is_none_or(|there| there["value"] == document["value"]);
        let differences = if is_same { Vec::new() } else { vec!["value changed".to_owned()] };
        let mark = Mark::of(there, &differences);
        plan.push(Planned { mark, kind: "table", id, differences, document: Document::Table(document) });
    }
    Ok(plan)
}

fn find<'a>(known: &'a Value, name: &str, id: &str) -> Option<&'a Value> {
    known["items"].as_array().into_iter().flatten().find(|item| field(item, name) == id)
}

fn name_of(folder: &Path) -> String {
    folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn stem_of(file: &Path) -> String {
    file.file_stem().unwrap_or_default().to_string_lossy().into_owned()
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
