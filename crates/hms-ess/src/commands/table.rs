//! `hms-ess table`: add, list, remove lookup tables.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use http::Method;
use serde_json::{Map, Value, json};

use super::{field, read_input};
use crate::client::{Body, Client, encode};
use crate::failure::{Failure, Result};
use crate::output::Output;

/// What is done with lookup tables.
#[derive(Debug, Subcommand)]
pub(crate) enum TableCommand {
    /// Add a table for $table('NAME'): rows of a CSV file, or the value of a YAML file.
    Add {
        /// courts.csv or courts.yaml; the name is the file's, without its end.
        file: PathBuf,
        /// Change it when it is there.
        #[arg(long)]
        replace: bool,
    },
    /// List tables.
    List,
    /// Remove a table.
    Remove {
        /// Its name.
        name: String,
    },
}

/// Does it.
pub(crate) async fn run(command: &TableCommand, client: &Client, output: &Output) -> Result<()> {
    match command {
        TableCommand::Add { file, replace } => {
            let value = send(&document(file)?, *replace, client).await?;
            let what = if value["changed"] == true { "added; what waited for it goes out now" } else { "unchanged" };
            if output.json {
                output.json(&value)
            } else {
                output.line(format_args!("{} {what}", field(&value, "name")))
            }
        }
        TableCommand::List => {
            let value = client.get("/v1/tables").await?;
            if output.json {
                return output.json(&value);
            }
            let rows = value["items"].as_array().into_iter().flatten().map(|item| {
                let digest: String = field(item, "sha256").chars().take(12).collect();
                let count = item["value"].as_array().map(|rows| rows.len().to_string()).unwrap_or_default();
                vec![field(item, "name"), count, digest]
            });
            output.table(&["TABLE", "ROWS", "SHA-256"], rows.collect())
        }
        TableCommand::Remove { name } => {
            client.ask(Method::DELETE, &format!("/v1/tables/{}", encode(name)), Body::Empty).await?;
            if output.json {
                return output.json(&json!({"name": name, "removed": true}));
            }
            output.line(format_args!("{name} removed"))
        }
    }
}

/// Sends a table to the hub.
pub(crate) async fn send(document: &Value, replace: bool, client: &Client) -> Result<Value> {
    client.post(&format!("/v1/tables?replace={replace}"), document).await?.value()
}

/// A table's document from its file.
pub(crate) fn document(file: &Path) -> Result<Value> {
    let text = read_input(file)?;
    let name = file.file_stem().unwrap_or_default().to_string_lossy();
    let shown = file.display().to_string();
    let value = match file.extension().and_then(|end| end.to_str()) {
        Some("csv") => rows(&text, &shown)?,
        Some("yaml" | "yml") => serde_saphyr::from_str(&text)
            .map_err(|error| Failure::refused(ess_core::partner_file::yaml_problem(&error, &shown).detail))?,
        _ => return Err(Failure::refused(format!("{shown}: expected a name that ends in .csv or .yaml"))),
    };
    Ok(json!({"name": name, "value": value}))
}

/// The rows of a CSV file (RFC 4180) as objects; the first line names their members, and every value is text.
fn rows(text: &str, file: &str) -> Result<Value> {
    let mut reader = csv::Reader::from_reader(text.trim_start_matches('\u{feff}').as_bytes());
    let wrong = |error: csv::Error| Failure::refused(format!("{file}: {error}"));
    let names = reader.headers().map_err(wrong)?.clone();
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(wrong)?;
        let row: Map<String, Value> =
            names.iter().zip(&record).map(|(name, value)| (name.to_owned(), Value::from(value))).collect();
        rows.push(Value::Object(row));
    }
    Ok(Value::Array(rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_objects_of_texts() {
        let text = "\u{feff}id,name\r\nC1,\"Cook, County\"\r\nC2,\"Lake \"\"L\"\"\"\r\n";
        let expected = json!([{"id": "C1", "name": "Cook, County"}, {"id": "C2", "name": "Lake \"L\""}]);
        assert_eq!(rows(text, "courts.csv").unwrap(), expected);
        let failure = rows("id,name\nC1\n", "courts.csv").unwrap_err();
        assert!(failure.detail.starts_with("courts.csv: ") && failure.detail.contains("line: 2"), "{}", failure.detail);
    }
}
