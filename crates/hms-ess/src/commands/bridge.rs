//! `hms-ess bridge`: add, list, remove, try, test.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};
use similar::{DiffTag, TextDiff};

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
            if output.json {
                return output.json(&json!({"id": id, "removed": true}));
            }
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
            let output_text = output_text.unwrap_or(&text);
            side_by_side(&format!("VERSION {from}"), payload.trim(), &format!("VERSION {to}"), output_text, output)
        }
        BridgeCommand::Test => test(&client, output).await,
    }
}

/// Two payloads beside each other, as `diff -y` does it: `|` differs, `<` is gone, `>` is new.
fn side_by_side(left: &str, input: &str, right: &str, converted: &str, output: &Output) -> Result<()> {
    let (input, converted) = (ess_core::json::pretty(input), ess_core::json::pretty(converted));
    let diff = TextDiff::from_lines(&input, &converted);
    let (old, new) = (diff.old_slices(), diff.new_slices());
    let line = |lines: &[&str], at: usize| lines.get(at).map_or_else(String::new, |line| line.trim_end().to_owned());
    let mut rows = Vec::new();
    for op in diff.ops() {
        let (olds, news) = (op.old_range(), op.new_range());
        for step in 0..olds.len().max(news.len()) {
            let was = (step < olds.len()).then(|| line(old, olds.start + step));
            let is = (step < news.len()).then(|| line(new, news.start + step));
            let mark = match (op.tag(), &was, &is) {
                (DiffTag::Equal, ..) => "",
                (_, Some(_), Some(_)) => "|",
                (_, Some(_), None) => "<",
                _ => ">",
            };
            rows.push(vec![was.unwrap_or_default(), mark.to_owned(), is.unwrap_or_default()]);
        }
    }
    output.table(&[left, "", right], rows)
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

/// Runs every example as the hub would convert it; exit 1 when one gives something else.
async fn test(client: &Client, output: &Output) -> Result<()> {
    let value = client.get("/v1/bridges").await?;
    let (mut results, mut failed) = (Vec::new(), 0);
    for bridge in value["items"].as_array().into_iter().flatten() {
        for (number, example) in (1..).zip(bridge["examples"].as_array().into_iter().flatten()) {
            let found = try_example(bridge, example, client).await;
            let id = field(bridge, "id");
            let passed = matches!(&found, Ok(found) if *found == example["output"]);
            let said = match &found {
                _ if passed => format!("ok    {id} example {number}"),
                Ok(found) => {
                    format!("FAIL  {id} example {number}\n      gave   {found}\n      wanted {}", example["output"])
                }
                Err(failure) => format!("FAIL  {id} example {number}\n      {}", failure.detail),
            };
            failed += u32::from(!passed);
            if output.json {
                let error = found.as_ref().err().map(|failure| failure.detail.clone());
                results.push(json!({
                    "bridge": id, "example": number, "passed": passed, "output": found.ok(), "error": error,
                }));
            } else {
                results.push(Value::Null);
                output.line(said)?;
            }
        }
    }
    let passed = results.len() as u32 - failed;
    if output.json {
        output.json(&json!({"results": results, "passed": passed, "failed": failed}))?;
    } else {
        output.line(format_args!("\n{passed} passed, {failed} failed"))?;
    }
    if failed > 0 { Err(Failure::told()) } else { Ok(()) }
}

async fn try_example(bridge: &Value, example: &Value, client: &Client) -> Result<Value> {
    let body = json!({
        // Any subject that the glob fits will do.
        "subject": field(bridge, "subject").replace('*', "X"),
        "from": field(bridge, "from").trim_start_matches(">=").parse::<u32>().unwrap_or(1),
        "to": bridge["to"],
        "script": bridge.get("script"),
        "payload": example["input"],
    });
    let mut found = client.post("/v1/bridges/try", &body).await?.value()?;
    Ok(found["output"].take())
}
