//! `hms-ess partner`: add, list, show, test, pause, resume, remove, rotate-secret.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use ess_core::partner::Glob;
use ess_core::partner_file::PartnerFile;
use http::Method;
use serde_json::{Value, json};

use super::{field, from_problem, read_input};
use crate::client::{Body, Client, encode};
use crate::failure::{Failure, Result};
use crate::output::{self, Output};

/// What is done with partners.
#[derive(Debug, Subcommand)]
pub(crate) enum PartnerCommand {
    /// Add a partner from its YAML file; the same content again changes nothing.
    Add {
        /// The partner's file.
        file: PathBuf,
        /// Change it when it is there with other content.
        #[arg(long)]
        replace: bool,
    },
    /// List partners.
    List,
    /// Show one partner and how it fares.
    Show {
        /// Its id.
        id: String,
    },
    /// Send it one marked message and say what came back.
    Test {
        /// Its id.
        id: String,
        /// Send nothing; say whether it would get this event, and what.
        #[arg(long, value_name = "FILE")]
        event: Option<PathBuf>,
    },
    /// Send it nothing until it is resumed.
    Pause {
        /// Its id.
        id: String,
    },
    /// Let it go on.
    Resume {
        /// Its id.
        id: String,
    },
    /// Remove it; what it was sent stays on record.
    Remove {
        /// Its id.
        id: String,
    },
    /// Make a new signing secret; the old one signs too for a while.
    RotateSecret {
        /// Its id.
        id: String,
        /// How long the old one signs too.
        #[arg(long, default_value = "24h")]
        overlap: String,
    },
}

/// Does it.
pub(crate) async fn run(command: &PartnerCommand, client: &Client, output: &Output) -> Result<()> {
    match command {
        PartnerCommand::Add { file, replace } => add(file, *replace, client, output).await,
        PartnerCommand::List => list(client, output).await,
        PartnerCommand::Show { id } => {
            let view = client.get(&format!("/v1/partners/{}", encode(id))).await?;
            if output.json { output.json(&view) } else { output.text(&shown(&view, output)) }
        }
        PartnerCommand::Test { id, event: None } => test(id, client, output).await,
        PartnerCommand::Test { id, event: Some(file) } => would_get(id, file, client, output).await,
        PartnerCommand::Pause { id } => change(id, "pause", client, output).await,
        PartnerCommand::Resume { id } => change(id, "resume", client, output).await,
        PartnerCommand::Remove { id } => {
            client.ask(Method::DELETE, &format!("/v1/partners/{}", encode(id)), Body::Empty).await?;
            if output.json {
                return output.json(&json!({"id": id, "removed": true}));
            }
            output.line(format_args!("{id} removed; what it was sent stays on record"))
        }
        PartnerCommand::RotateSecret { id, overlap } => {
            let path = format!("/v1/partners/{}/rotate-secret", encode(id));
            let value = client.post(&path, &json!({"overlap": overlap})).await?.value()?;
            if output.json {
                return output.json(&value);
            }
            output.line(field(&value, "secret"))?;
            output.note(format_args!("the old secret signs too for {overlap}; this one is not shown again"));
            Ok(())
        }
    }
}

/// Reads a partner's file with its adapter.
pub(crate) fn read_file(file: &Path) -> Result<PartnerFile> {
    let text = read_input(file)?;
    let mut parsed = PartnerFile::parse(&text, &file.display().to_string()).map_err(from_problem)?;
    if let Some(adapter) = parsed.adapter_path.clone() {
        let path = file.parent().unwrap_or(Path::new(".")).join(&adapter);
        // Partners often lie in partners/, adapters beside that folder.
        let beside = file.parent().and_then(Path::parent).map(|folder| folder.join(&adapter));
        let path = if path.exists() { path } else { beside.filter(|beside| beside.exists()).unwrap_or(path) };
        parsed.set_adapter(&read_input(&path)?);
    }
    parsed.check().map_err(from_problem)?;
    Ok(parsed)
}

async fn add(file: &Path, replace: bool, client: &Client, output: &Output) -> Result<()> {
    let parsed = read_file(file)?;
    let value = send(&parsed, replace, client).await?;
    if output.json {
        return output.json(&value);
    }
    let id = field(&value["partner"], "id");
    match (value["changed"] == true, value.get("secret")) {
        (false, _) => output.line(format_args!("{id} unchanged")),
        (true, None) => output.line(format_args!("{id} changed")),
        (true, Some(secret)) => {
            output.line(format_args!("{id} added; future events flow to it"))?;
            output.line(format_args!("signing secret, shown this once: {}", secret.as_str().unwrap_or_default()))
        }
    }
}

/// Sends a partner's document to the hub; what it refuses is located in the file.
pub(crate) async fn send(file: &PartnerFile, replace: bool, client: &Client) -> Result<Value> {
    let path = format!("/v1/partners?replace={replace}");
    client.post(&path, &file.document).await?.value()
}

async fn list(client: &Client, output: &Output) -> Result<()> {
    let items = client.list("/v1/partners", 100_000).await?;
    if output.json {
        return output.json(&json!({"items": items}));
    }
    let rows = items.iter().map(|item| {
        let config = &item["config"];
        let version = match &config["accepts_version"] {
            Value::Null => "as published".to_owned(),
            other => other.to_string(),
        };
        vec![
            field(item, "id"),
            field(item, "state"),
            version,
            field(config, "channel"),
            field(item, "backlog"),
            field(config, "url"),
            field(item, "last_error"),
        ]
    });
    output.table(&["PARTNER", "STATE", "VERSION", "CHANNEL", "OPEN", "ADDRESS", "LAST ERROR"], rows.collect())
}

/// How a partner fares, then its configuration as a file could say it.
fn shown(view: &Value, output: &Output) -> String {
    let mut text = format!("{} is {}", field(view, "id"), output.word(&field(view, "state")));
    for (name, before) in [("paused_since", "since"), ("offline_since", "since"), ("added_at", "added")] {
        if let Some(time) = view[name].as_str() {
            text.push_str(&format!(", {before} {time}"));
        }
    }
    text.push_str(&format!("\nopen deliveries: {}, in flight: {}\n", field(view, "backlog"), field(view, "in_flight")));
    if let Some(counts) = view["where_counts"].as_object() {
        let count = |name: &str| counts.get(name).and_then(Value::as_u64).unwrap_or(0);
        let (matched, left_out, failed) = (count("matched"), count("left_out"), count("failed"));
        text.push_str(&format!(
            "where, since the hub began: {matched} matched, {left_out} left out, {failed} failed and went out\n"
        ));
    }
    if let Some(error) = view["last_error"].as_str() {
        text.push_str(&format!("last error: {error}\n"));
    }
    match serde_saphyr::to_string(&view["config"]) {
        Ok(yaml) => text.push_str(&format!("\n{yaml}")),
        Err(_) => text.push_str(&format!("\n{:#}\n", view["config"])),
    }
    text
}

async fn test(id: &str, client: &Client, output: &Output) -> Result<()> {
    let value = client.post(&format!("/v1/partners/{}/test", encode(id)), &json!({})).await?.value()?;
    if output.json {
        output.json(&value)?;
    } else {
        let took = output::span(std::time::Duration::from_secs_f64(value["took_ms"].as_f64().unwrap_or(0.0) / 1e3));
        let status = value.get("status").map(|status| format!("status {status}, ")).unwrap_or_default();
        output.line(format_args!("{id}: {} ({status}{took})", field(&value, "reason")))?;
    }
    if value["acked"] == true { Ok(()) } else { Err(Failure::told()) }
}

/// Whether the partner would get an event, and the body; exit 1 when it would not.
async fn would_get(id: &str, file: &Path, client: &Client, output: &Output) -> Result<()> {
    let partner = client.get(&format!("/v1/partners/{}", encode(id))).await?;
    let body = Body::Bytes("application/json", read_input(file)?.into());
    let plan = client.ask(Method::POST, "/v1/events?plan=true", body).await?.value()?;
    let planned = plan["partners"].as_array().into_iter().flatten().find(|entry| entry["partner"] == *id);
    if output.json {
        output.json(planned.unwrap_or(&Value::Null))?;
        return if planned.is_some_and(|entry| entry["outcome"] != "blocked") { Ok(()) } else { Err(Failure::told()) };
    }
    let (event, subject) = (field(&plan, "id"), field(&plan, "subject"));
    let Some(entry) = planned else {
        let globs = partner["config"]["subscribe"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let is_subscribed = globs.map(Glob::trusted).any(|glob| glob.matches(&subject));
        let why = if is_subscribed { "its `where` leaves it out" } else { "it did not subscribe to the subject" };
        output.line(format_args!("{id} would not get {event} of {subject}: {why}"))?;
        return Err(Failure::told());
    };
    if entry["outcome"] == "blocked" {
        output.line(format_args!("{id} would not get {event} yet: {}", field(entry, "reason")))?;
        output.line(format_args!("  mend with: {}", field(entry, "mend")))?;
        return Err(Failure::told());
    }
    output.line(format_args!("{id} would get {event} in version {}:", field(entry, "version")))?;
    output.line(field(entry, "body"))
}

async fn change(id: &str, verb: &str, client: &Client, output: &Output) -> Result<()> {
    let value = client.post(&format!("/v1/partners/{}/{verb}", encode(id)), &json!({})).await?.value()?;
    if output.json {
        return output.json(&value);
    }
    output.line(format_args!(
        "{id} is {}; open deliveries: {}",
        output.word(&field(&value, "state")),
        field(&value, "backlog")
    ))
}
