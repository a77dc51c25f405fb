//! `hms-ess tap`: follow what happens, live.

use clap::Args;

use crate::client::Client;
use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::stream::Stream;

/// Arguments of `tap`.
#[derive(Debug, Args)]
pub(crate) struct TapArgs {
    /// Only this partner.
    partner: Option<String>,
}

/// Follows until the hub ends the stream, which is no success: whoever follows wants to hear of it.
pub(crate) async fn run(args: &TapArgs, client: &Client, output: &Output) -> Result<()> {
    let mut stream = Stream::open(client).await?;
    output.note("listening; Ctrl-C ends it");
    while let Some(told) = stream.next().await? {
        if args.partner.as_deref().is_some_and(|wanted| wanted != told.text("partner")) {
            continue;
        }
        if output.json {
            output.json(&told.event)?;
        } else {
            output.line(format_args!(
                "{}  {:<24} {:<28} {}",
                told.text("time"),
                told.kind,
                told.text("event_id"),
                told.text("detail")
            ))?;
        }
    }
    Err(Failure::refused("the hub ended the stream")
        .with_hint("it was stopped; run the command again when it is back: `hms-ess doctor` says whether it is"))
}
