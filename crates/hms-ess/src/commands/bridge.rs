//! `hms-ess bridge`: add, list, remove, try, test.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::{client, field, read_input};
use crate::cli::Globals;
use crate::client::{Body, Client, encode};
use crate::failure::{Failure, Result};
use crate::output::Output;

/// What is done with bridges.
#[derive(Debug, Subcommand)]
pub(crate) enum BridgeCommand {
    /// Add a bridge; examples beside the script (NAME.examples.yaml) are run first.
    Add {
        /// The JSONata script.
        file: PathBuf,
        /// Subjects, as a glob.
        #[arg(long)]
        subject: String,
        /// From which version: 3 or '>=3'.
        #[arg(long)]
        from: String,
        /// To which version.
        #[arg(long)]
        to: u32,
        /// Change it when it is there.
        #[arg(long)]
        replace: bool,
    },
    /// List bridges.
    List,
    /// Remove a bridge.
    Remove {
        /// Its id, such as RULE-COURT-DEADLINE/3-to-1.
        id: String,
    },
    /// Convert a payload as the bridges, or a script, would.
    Try {
        /// The payload, JSON; - for standard input.
        payload: PathBuf,
        /// The subject.
        #[arg(long)]
        subject: String,
        /// From which version.
        #[arg(long)]
        from: u32,
        /// To which version.
        #[arg(long)]
        to: u32,
        /// This script instead of the hub's bridges.
        #[arg(long, value_name = "FILE")]
        script: Option<PathBuf>,
    },
    /// Run every bridge's examples.
    Test,
}

/// Does it.
pub(crate) async fn run(command: &BridgeCommand, globals: &Globals, output: &Output) -> Result<()> {
    let client = client(globals)?;
    match command {
        BridgeCommand::Add { file, subject, from, to, replace } => {
            let document = document(file, subject, from, *to)?;
            let value = send(&document, *replace, &client).await?;
            let what = if value["changed"] == true { "added; what it blocked goes out now" } else { "unchanged" };
            if output.json { output.json(&value) } else { output.line(format_args!("{} {what}", field(&value, "id"))) }
        }
        BridgeCommand::List => list(&client, output).await,
        BridgeCommand::Remove { id } => {
            client.ask(Method::DELETE, &format!("/v1/bridges/{}", encode(id)), Body::Empty).await?;
            output.line(format_args!("{id} removed"))
        }
        BridgeCommand::Try { payload, subject, from, to, script } => {
            let script = script.as_deref().map(read_input).transpose()?;
            let head = json!({"subject": subject, "from": from, "to": to, "script": script}).to_string();
            let payload = read_input(payload)?;
            let text = format!("{},\"payload\":{}}}", &head[..head.len() - 1], payload.trim());
            let body = Body::Bytes("application/json", text.into());
            let reply = client.ask(Method::POST, "/v1/bridges/try", body).await?;
            // Printed as it came: numbers keep every digit.
            let text = String::from_utf8_lossy(&reply.body).into_owned();
            if output.json {
                return output.line(text);
            }
            let output_text = text.strip_prefix("{\"output\":").and_then(|rest| rest.strip_suffix('}'));
            output.line(output_text.unwrap_or(&text))
        }
        BridgeCommand::Test => test(&client, output).await,
    }
}

/// A bridge's document from its script and the examples beside it.
pub(crate) fn document(file: &Path, subject: &str, from: &str, to: u32) -> Result<Value> {
    let script = read_input(file)?;
    let mut document = json!({"subject": subject, "from": from, "to": to, "script": script});
    let examples = file.with_extension("examples.yaml");
    if examples.exists() {
        let name = examples.display().to_string();
        let text = read_input(&examples)?;
        let value: Value = serde_saphyr::from_str(&text)
            .map_err(|error| Failure::refused(ess_core::partner_file::yaml_problem(&error, &name).detail))?;
        document["examples"] = match value {
            Value::Array(_) => value,
            other => other.get("examples").cloned().unwrap_or(Value::Null),
        };
        if !document["examples"].is_array() {
            return Err(Failure::refused(format!("{name}: expected a list of input and output")));
        }
    }
    Ok(document)
}

/// Sends a bridge to the hub.
pub(crate) async fn send(document: &Value, replace: bool, client: &Client) -> Result<Value> {
    client.post(&format!("/v1/bridges?replace={replace}"), document).await?.value()
}

async fn list(client: &Client, output: &Output) -> Result<()> {
    let value = client.get("/v1/bridges").await?;
    if output.json {
        return output.json(&value);
    }
    let rows = value["items"].as_array().into_iter().flatten().map(|item| {
        let digest: String = field(item, "sha256").chars().take(12).collect();
        let rule = if item["identity"] == true { "identity".to_owned() } else { digest };
        let examples = item["examples"].as_array().map_or(0, Vec::len).to_string();
        vec![field(item, "id"), field(item, "from"), field(item, "to"), rule, examples]
    });
    output.table(&["BRIDGE", "FROM", "TO", "SCRIPT", "EXAMPLES"], rows.collect())
}

async fn test(client: &Client, output: &Output) -> Result<()> {
    let value = client.get("/v1/bridges").await?;
    let (mut passed, mut failed) = (0u32, 0u32);
    for bridge in value["items"].as_array().into_iter().flatten() {
        let least = field(bridge, "from").trim_start_matches(">=").parse::<u32>().unwrap_or(1);
        let subject = field(bridge, "subject").replace('*', "X");
        for (number, example) in (1..).zip(bridge["examples"].as_array().into_iter().flatten()) {
            let body = json!({
                "subject": subject, "from": least, "to": bridge["to"],
                "script": bridge.get("script"), "payload": example["input"],
            });
            let name = format!("{} example {number}", field(bridge, "id"));
            let found = client.post("/v1/bridges/try", &body).await.and_then(|reply| reply.value());
            match found {
                Ok(found) if found["output"] == example["output"] => {
                    passed += 1;
                    output.line(format_args!("ok   {name}"))?;
                }
                Ok(found) => {
                    failed += 1;
                    output.line(format_args!(
                        "FAIL {name}\n  gave   {}\n  wanted {}",
                        found["output"], example["output"]
                    ))?;
                }
                Err(failure) => {
                    failed += 1;
                    output.line(format_args!("FAIL {name}\n  {}", failure.detail))?;
                }
            }
        }
    }
    output.line(format_args!("\n{passed} passed, {failed} failed"))?;
    if failed > 0 { Err(Failure::told()) } else { Ok(()) }
}
