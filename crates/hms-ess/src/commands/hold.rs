//! `hms-ess hold`: place, list and lift legal holds.

use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::{client, field};
use crate::cli::Globals;
use crate::client::{Body, encode};
use crate::failure::{Failure, Result};
use crate::output::Output;

/// What is done with legal holds.
#[derive(Debug, Subcommand)]
pub(crate) enum HoldCommand {
    /// Hold an event or subjects; takes --reason.
    Add {
        /// The event's id.
        #[arg(required_unless_present = "subject")]
        event: Option<String>,
        /// Events of these subjects instead, as a glob; later ones too.
        #[arg(long, value_name = "GLOB", conflicts_with = "event")]
        subject: Option<String>,
    },
    /// List the holds in force.
    List {
        /// Lifted ones too.
        #[arg(long)]
        all: bool,
    },
    /// Lift a hold; takes --reason.
    Remove {
        /// Its number.
        id: u64,
    },
}

/// Does it.
pub(crate) async fn run(command: &HoldCommand, globals: &Globals, output: &Output) -> Result<()> {
    match command {
        HoldCommand::Add { event, subject } => {
            let reason = reason(globals, "why it is held")?;
            let mut document = json!({"reason": reason});
            for (name, value) in [("event", event), ("subject", subject)] {
                if let Some(value) = value {
                    document[name] = json!(value);
                }
            }
            let value = client(globals)?.post("/v1/holds", &document).await?.value()?;
            if output.json {
                return output.json(&value);
            }
            output.line(format_args!(
                "hold {} covers {}; nothing of it is removed",
                field(&value, "id"),
                covered(&value)
            ))
        }
        HoldCommand::List { all } => {
            let value = client(globals)?.get(&format!("/v1/holds?all={all}")).await?;
            if output.json {
                return output.json(&value);
            }
            let rows = value["items"].as_array().into_iter().flatten().map(|item| {
                let lifted = field(&item["lifted"], "at");
                vec![
                    field(item, "id"),
                    covered(item),
                    field(item, "at"),
                    field(item, "by"),
                    field(item, "reason"),
                    lifted,
                ]
            });
            output.table(&["HOLD", "COVERS", "SINCE", "BY", "WHY", "LIFTED"], rows.collect())
        }
        HoldCommand::Remove { id } => {
            reason(globals, "why it is lifted")?;
            let path = format!("/v1/holds/{}", encode(&id.to_string()));
            client(globals)?.ask(Method::DELETE, &path, Body::Empty).await?;
            if output.json {
                return output.json(&json!({"id": id, "lifted": true}));
            }
            output.line(format_args!("hold {id} lifted; what is older than it is kept goes with the next pass"))
        }
    }
}

/// The reason that must be given.
pub(super) fn reason<'a>(globals: &'a Globals, what: &str) -> Result<&'a str> {
    globals.reason.as_deref().ok_or_else(|| Failure::usage(format!("say {what}: --reason TEXT")))
}

fn covered(hold: &Value) -> String {
    match hold["event"].as_str() {
        Some(event) => event.to_owned(),
        None => format!("subjects {}", field(hold, "subject")),
    }
}
