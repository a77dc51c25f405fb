//! `hms-ess tap`: follow what happens, live.

use std::time::Duration;

use clap::Args;
use tokio::time::{Instant, sleep};

use crate::client::Client;
use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::stream::{Stream, Told};

/// A stream that held this long was no accident: the next one is opened at once.
const HELD_MIN: Duration = Duration::from_secs(10);
/// The first wait between streams that did not hold; it doubles.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
/// The longest one.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Arguments of `tap`.
#[derive(Debug, Args)]
pub(crate) struct TapArgs {
    /// Only this partner.
    partner: Option<String>,
}

/// Follows until the hub ends the stream, which is no success: whoever follows wants to hear of it. With several addresses it
/// goes on at the next one, as long as one answers.
pub(crate) async fn run(args: &TapArgs, client: &Client, output: &Output) -> Result<()> {
    let mut stream = Stream::open(client).await?;
    output.note("listening; Ctrl-C ends it");
    let mut pause = Duration::ZERO;
    loop {
        let (hub, began) = (client.hub().to_owned(), Instant::now());
        let ended = follow(args, &mut stream, output).await?;
        if !client.has_choice() {
            return Err(ended);
        }
        stream.leave(client);
        pause = if began.elapsed() >= HELD_MIN { Duration::ZERO } else { (pause * 2).clamp(PAUSE_FIRST, PAUSE_MAX) };
        // A hub that ends each stream at once, or is away, is not asked without a pause.
        sleep(pause).await;
        stream = Stream::open(client).await?;
        output.note(format_args!(
            "{hub}: {}; going on at {}, what happened between is not shown",
            ended.detail,
            client.hub()
        ));
    }
}

/// Shows what comes; why no more does.
async fn follow(args: &TapArgs, stream: &mut Stream, output: &Output) -> Result<Failure> {
    loop {
        match stream.next().await {
            Ok(Some(told)) => show(args, &told, output)?,
            Ok(None) => {
                return Ok(Failure::refused("the hub ended the stream").with_hint(
                    "it was stopped; run the command again when it is back: `hms-ess doctor` says whether it is",
                ));
            }
            Err(failure) => return Ok(failure),
        }
    }
}

fn show(args: &TapArgs, told: &Told, output: &Output) -> Result<()> {
    if args.partner.as_deref().is_some_and(|wanted| wanted != told.text("partner")) {
        return Ok(());
    }
    if output.json {
        return output.json(&told.event);
    }
    output.line(format_args!(
        "{}  {:<24} {:<28} {}",
        told.text("time"),
        told.kind,
        told.text("event_id"),
        told.text("detail")
    ))
}
