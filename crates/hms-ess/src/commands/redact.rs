//! `hms-ess redact`: take an event's payload away for good.

use clap::Args;
use serde_json::json;

use super::hold::reason;
use super::{client, field};
use crate::cli::Globals;
use crate::client::encode;
use crate::failure::{Failure, Result};
use crate::output::Output;

/// Arguments of `redact`.
#[derive(Debug, Args)]
pub(crate) struct RedactArgs {
    /// The event's id.
    event: String,
    /// The dry run of that id.
    #[arg(long)]
    test: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

/// Does it, after asking.
pub(crate) async fn run(args: &RedactArgs, globals: &Globals, output: &Output) -> Result<()> {
    let reason = reason(globals, "why it is redacted")?;
    let client = client(globals)?;
    let path = format!("/v1/events/{}", encode(&args.event));
    let found = client.get(&format!("{path}?test={}", args.test)).await?;
    let question =
        format!("take the payload of {}, recorded at {}, away for good?", args.event, field(&found, "recorded_at"));
    if !args.yes && !output.can_ask() {
        let failure = Failure::refused("nothing was redacted: nobody can be asked here");
        return Err(failure.with_hint("pass --yes to do it"));
    }
    if !args.yes && !output.ask(&question)? {
        return Err(Failure::refused("nothing was redacted"));
    }
    let document = json!({"reason": reason});
    let value = client.post(&format!("{path}/redact?test={}", args.test), &document).await?.value()?;
    if output.json {
        return output.json(&value);
    }
    output.line(format_args!("the payload of {} is gone; its receipts still prove", args.event))?;
    if value["wiped"] == false {
        output
            .note("somebody, such as a back-up, reads from the hub's log: the bytes leave the disk when that is over");
    }
    Ok(())
}
