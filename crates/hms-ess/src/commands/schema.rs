//! `hms-ess schema`: add, list, remove.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::{field, read_input};
use crate::client::{Body, Client, encode};
use crate::failure::{Failure, Result};
use crate::output::Output;

/// What is done with schemas.
#[derive(Debug, Subcommand)]
pub(crate) enum SchemaCommand {
    /// Add a JSON Schema: payloads that do not fit it are refused at publishing.
    Add {
        /// The schema, JSON.
        file: PathBuf,
        /// Subjects, as a glob.
        #[arg(long)]
        subject: String,
        /// The payloads' version.
        #[arg(long)]
        version: u32,
        /// Change it when it is there.
        #[arg(long)]
        replace: bool,
    },
    /// List schemas.
    List,
    /// Remove a schema.
    Remove {
        /// Its id, such as RULE-COURT-DEADLINE/v3.
        id: String,
    },
}

/// A schema as it is sent: its text is kept as it was written.
pub(crate) struct Document {
    head: Value,
    schema: String,
}

impl Document {
    /// Reads a schema's file.
    pub(crate) fn read(file: &Path, subject: &str, version: u32) -> Result<Self> {
        let schema = read_input(file)?;
        serde_json::from_str::<serde::de::IgnoredAny>(&schema)
            .map_err(|error| Failure::refused(format!("{}: not JSON: {error}", file.display())))?;
        Ok(Self { head: json!({"subject": subject, "version": version}), schema: schema.trim().to_owned() })
    }

    /// Whether the hub has the same.
    pub(crate) fn is(&self, there: &Value) -> bool {
        serde_json::from_str::<Value>(&self.schema).is_ok_and(|schema| schema == there["schema"])
    }

    fn body(&self) -> String {
        let head = self.head.to_string();
        format!("{},\"schema\":{}}}", &head[..head.len() - 1], self.schema)
    }
}

/// Does it.
pub(crate) async fn run(command: &SchemaCommand, client: &Client, output: &Output) -> Result<()> {
    match command {
        SchemaCommand::Add { file, subject, version, replace } => {
            let value = send(&Document::read(file, subject, *version)?, *replace, client).await?;
            if output.json {
                return output.json(&value);
            }
            let what = if value["changed"] == true { "added" } else { "unchanged" };
            output.line(format_args!("{} {what}", field(&value, "id")))?;
            show_offers(&value, output)
        }
        SchemaCommand::List => {
            let value = client.get("/v1/schemas").await?;
            if output.json {
                return output.json(&value);
            }
            let rows = value["items"].as_array().into_iter().flatten().map(|item| {
                let digest: String = field(item, "sha256").chars().take(12).collect();
                vec![field(item, "id"), field(item, "subject"), field(item, "version"), digest]
            });
            output.table(&["SCHEMA", "SUBJECT", "VERSION", "SHA-256"], rows.collect())
        }
        SchemaCommand::Remove { id } => {
            client.ask(Method::DELETE, &format!("/v1/schemas/{}", encode(id)), Body::Empty).await?;
            if output.json {
                return output.json(&json!({"id": id, "removed": true}));
            }
            output.line(format_args!("{id} removed"))
        }
    }
}

/// Sends a schema to the hub.
pub(crate) async fn send(document: &Document, replace: bool, client: &Client) -> Result<Value> {
    let body = Body::Bytes("application/json", document.body().into());
    client.ask(Method::POST, &format!("/v1/schemas?replace={replace}"), body).await?.value()
}

/// Says which bridges need no script.
pub(crate) fn show_offers(value: &Value, output: &Output) -> Result<()> {
    for offer in value["offers"].as_array().into_iter().flatten() {
        let (from, to) = (field(offer, "from"), field(offer, "to"));
        output.line(format_args!(
            "version {from} fits schema {}/v{to} as it is; for partners on version {to}: {}",
            field(offer, "subject"),
            field(offer, "command"),
        ))?;
    }
    Ok(())
}
