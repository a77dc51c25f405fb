//! `hms-ess bounce`: hand over the mail in which a mail server says that a delivery by mail did not arrive.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::Args;
use http::Method;

use super::field;
use crate::client::{Body, Client};
use crate::failure::{Failure, Result};
use crate::output::Output;

/// What stands in the mail after so much is the end of what comes back: the hub needs its head.
const BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Arguments of `bounce`.
#[derive(Debug, Args)]
pub(crate) struct BounceArgs {
    /// The mail as it came, or `-` for standard input.
    file: PathBuf,
}

/// Hands it over.
pub(crate) async fn run(args: &BounceArgs, client: &Client, output: &Output) -> Result<()> {
    let mail = read(&args.file)
        .map_err(|error| Failure::io(format_args!("could not read {}", args.file.display()), &error))?;
    let body = Body::Bytes("message/rfc822", Bytes::from(mail));
    let value = client.ask(Method::POST, "/v1/bounces", body).await?.value()?;
    if output.json {
        return output.json(&value);
    }
    let partner = field(&value, "partner");
    let what = match value["event_id"].as_str() {
        Some(event) => format!("{event} for {partner}"),
        None => format!("a test of {partner}'s address"),
    };
    let reason = field(&value, "reason");
    match (value["counted"] == true, value["said"].as_str()) {
        (true, _) => output.line(format_args!("{what} did not arrive, and is a dead letter now: {reason}")),
        (false, _) if reason.is_empty() => output.line(format_args!("{what} is late; nothing was changed")),
        (false, Some("ack")) => {
            output.line(format_args!("{what} was acknowledged before; nothing was changed: {reason}"))
        }
        _ => output.line(format_args!("{what}: nothing was changed: {reason}")),
    }
}

/// At most so much of it; who writes into a pipe is not cut off.
fn read(file: &Path) -> std::io::Result<Vec<u8>> {
    let mut mail = Vec::new();
    if file == Path::new("-") {
        let mut input = std::io::stdin().lock();
        input.by_ref().take(BYTES_MAX).read_to_end(&mut mail)?;
        std::io::copy(&mut input, &mut std::io::sink())?;
    } else {
        std::fs::File::open(file)?.take(BYTES_MAX).read_to_end(&mut mail)?;
    }
    Ok(mail)
}
