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
        #[arg(required_unless_present = "identity")]
        file: Option<PathBuf>,
        /// No script: only the version label changes.
        #[arg(long, conflicts_with = "file")]
        identity: bool,
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
        /// Name every path of the scripts that gives nothing; exit 1 if there is one.
        #[arg(long)]
        strict: bool,
    },
    /// Run every bridge's examples, and compare the shortest chains of bridges.
    Test,
}

/// Does it.
pub(crate) async fn run(command: &BridgeCommand, globals: &Globals, output: &Output) -> Result<()> {
    let client = client(globals)?;
    match command {
        BridgeCommand::Add { file, identity: _, subject, from, to, replace } => {
            let document = match file {
                Some(file) => document(file, subject, from, *to)?,
                None => json!({"subject": subject, "from": from, "to": to, "identity": true}),
            };
            let value = send(&document, *replace, &client).await?;
            if output.json {
                return output.json(&value);
            }
            let what = if value["changed"] == true { "added; what it blocked goes out now" } else { "unchanged" };
            output.line(format_args!("{} {what}", field(&value, "id")))?;
            show_differing_paths(&value, output)
        }
        BridgeCommand::List => list(&client, output).await,
        BridgeCommand::Remove { id } => {
            client.ask(Method::DELETE, &format!("/v1/bridges/{}", encode(id)), Body::Empty).await?;
            if output.json {
                return output.json(&json!({"id": id, "removed": true}));
            }
            output.line(format_args!("{id} removed"))
        }
        BridgeCommand::Try { payload, subject, from, to, script, strict } => {
            let script = script.as_deref().map(read_input).transpose()?;
            let head = json!({"subject": subject, "from": from, "to": to, "script": script, "strict": strict});
            let (head, payload) = (head.to_string(), read_input(payload)?);
            let text = format!("{},\"payload\":{}}}", &head[..head.len() - 1], payload.trim());
            let body = Body::Bytes("application/json", text.into());
            let reply = client.ask(Method::POST, "/v1/bridges/try", body).await?;
            let (left, right) = (format!("VERSION {from}"), format!("VERSION {to}"));
            show_trial(&reply.body, (&left, payload.trim()), &right, output)
        }
        BridgeCommand::Test => test(&client, output).await,
    }
}

/// What a conversion gave, and the paths that gave nothing; a failure if there is one.
fn show_trial(reply: &[u8], (left, payload): (&str, &str), right: &str, output: &Output) -> Result<()> {
    #[derive(serde::Deserialize)]
    struct Tried<'a> {
        // Printed as it came: numbers keep every digit.
        #[serde(borrow)]
        output: &'a serde_json::value::RawValue,
        unresolved: Option<Vec<Value>>,
    }
    let tried: Tried<'_> = serde_json::from_slice(reply)
        .map_err(|error| Failure::refused(format!("the hub's answer was not understood: {error}")))?;
    let unresolved = tried.unresolved.unwrap_or_default();
    if output.json {
        output.line(String::from_utf8_lossy(reply))?;
    } else {
        side_by_side(left, payload, right, tried.output.get(), output)?;
        for at in &unresolved {
            let place = match (at["line"].as_u64(), at["column"].as_u64()) {
                (Some(line), Some(column)) => format!("line {line}, column {column}: "),
                _ => String::new(),
            };
            let bridge = at["bridge"].as_str().map_or_else(String::new, |bridge| format!("bridge {bridge}: "));
            let (path, times, of) = (field(at, "path"), field(at, "times"), field(at, "of"));
            output.line(format_args!("{bridge}{place}{path} gave nothing ({times} of {of} times)"))?;
        }
    }
    if unresolved.is_empty() { Ok(()) } else { Err(Failure::told()) }
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
        let value = read_yaml(&examples)?;
        document["examples"] = match value {
            Value::Array(_) => value,
            other => other.get("examples").cloned().unwrap_or(Value::Null),
        };
        if !document["examples"].is_array() {
            return Err(Failure::refused(format!("{}: expected a list of input and output", examples.display())));
        }
    }
    Ok(document)
}

/// A bridge's document from a file that says `identity: true`.
pub(crate) fn identity_document(file: &Path, subject: &str, from: &str, to: u32) -> Result<Value> {
    if read_yaml(file)? != json!({"identity": true}) {
        let failure = Failure::refused(format!("{}: expected `identity: true` and nothing else", file.display()));
        return Err(failure.with_hint("a script stands in a file that ends in .jsonata"));
    }
    Ok(json!({"subject": subject, "from": from, "to": to, "identity": true}))
}

fn read_yaml(file: &Path) -> Result<Value> {
    let text = read_input(file)?;
    let problem = |error: serde_saphyr::Error| {
        Failure::refused(ess_core::partner_file::yaml_problem(&error, &file.display().to_string()).detail)
    };
    serde_saphyr::from_str(&text).map_err(problem)
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

/// Says which shortest chains give different payloads.
pub(crate) fn show_differing_paths(value: &Value, output: &Output) -> Result<()> {
    for line in value["differing_paths"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        output.line(format_args!("DIFFER {line}"))?;
    }
    Ok(())
}

/// Runs every example on the hub; exit 1 when one gives something else, or two chains differ.
async fn test(client: &Client, output: &Output) -> Result<()> {
    let value = client.post("/v1/bridges/test", &json!({})).await?.value()?;
    let (passed, failed) = (value["passed"].as_u64().unwrap_or(0), value["failed"].as_u64().unwrap_or(0));
    let differing = value["differing_paths"].as_array().map_or(0, Vec::len);
    if output.json {
        output.json(&value)?;
    } else {
        for result in value["results"].as_array().into_iter().flatten() {
            let (bridge, example) = (field(result, "bridge"), field(result, "example"));
            if result["passed"] == true {
                output.line(format_args!("ok     {bridge} example {example}"))?;
            } else {
                output.line(format_args!("FAIL   {bridge} example {example}\n       {}", field(result, "failure")))?;
            }
        }
        show_differing_paths(&value, output)?;
        output.line(format_args!("\n{passed} passed, {failed} failed, {differing} chains differ"))?;
    }
    if failed > 0 || differing > 0 { Err(Failure::told()) } else { Ok(()) }
}
