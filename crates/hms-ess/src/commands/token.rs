//! `hms-ess token`: create, list, revoke.

use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::field;
use crate::client::{Body, Client, encode};
use crate::failure::Result;
use crate::output::Output;

/// What is done with tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token; it is printed this once.
    Create {
        /// What its bearer may do.
        #[arg(long, value_parser = ["publisher", "partner", "operator", "auditor", "admin"])]
        role: String,
        /// For a publisher: subjects it may publish, as globs; may be repeated.
        #[arg(long)]
        subject: Vec<String>,
        /// For a partner: whose it is.
        #[arg(long, required_if_eq("role", "partner"))]
        partner: Option<String>,
        /// What it is for.
        #[arg(long, default_value = "")]
        note: String,
        /// When it ends, such as 90d; never when absent.
        #[arg(long, value_name = "SPAN")]
        expires_in: Option<String>,
    },
    /// List tokens.
    List,
    /// Revoke a token, at once.
    Revoke {
        /// Its public name, such as tok_3f9a0c12.
        id: String,
    },
}

/// Does it.
pub(crate) async fn run(command: &TokenCommand, client: &Client, output: &Output) -> Result<()> {
    match command {
        TokenCommand::Create { role, subject, partner, note, expires_in } => {
            let mut body = json!({"role": role, "note": note});
            // The hub refuses limits that have no effect, also empty ones.
            if !subject.is_empty() {
                body["subjects"] = json!(subject);
            }
            if let Some(partner) = partner {
                body["partner"] = json!(partner);
            }
            if let Some(span) = expires_in {
                body["expires_in"] = json!(span);
            }
            let value = client.post("/v1/tokens", &body).await?.value()?;
            if output.json {
                return output.json(&value);
            }
            output.line(field(&value, "token"))?;
            output.note(format_args!("{} ({role}); the token is not shown again", field(&value, "id")));
            Ok(())
        }
        TokenCommand::List => {
            let value = client.get("/v1/tokens").await?;
            if output.json {
                return output.json(&value);
            }
            let rows = value["items"].as_array().into_iter().flatten().map(|item| {
                let limits = match (&item["subjects"], &item["partner"]) {
                    (Value::Array(subjects), _) => {
                        subjects.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
                    }
                    (_, Value::String(partner)) => partner.clone(),
                    _ => String::new(),
                };
                let state = if item.get("revoked_at").is_some() { "revoked" } else { "active" };
                vec![
                    field(item, "id"),
                    field(item, "role"),
                    limits,
                    state.to_owned(),
                    field(item, "expires_at"),
                    field(item, "note"),
                ]
            });
            output.table(&["TOKEN", "ROLE", "FOR", "STATE", "ENDS", "NOTE"], rows.collect())
        }
        TokenCommand::Revoke { id } => {
            client.ask(Method::DELETE, &format!("/v1/tokens/{}", encode(id)), Body::Empty).await?;
            if output.json {
                return output.json(&json!({"id": id, "revoked": true}));
            }
            output.line(format_args!("{id} revoked"))
        }
    }
}
