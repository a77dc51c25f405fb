//! `hms-ess retract`: take an event back at everyone who got it.

use bytes::Bytes;
use clap::Args;
use http::Method;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::field;
use crate::client::{Body, Client, encode};
use crate::failure::{Failure, Result};
use crate::output::Output;

/// Arguments of `retract`.
#[derive(Debug, Args)]
pub(crate) struct RetractArgs {
    /// The event's id.
    event: String,
}

#[derive(Deserialize)]
struct Original<'a> {
    id: String,
    version: u32,
    subject: String,
    /// Absent when it is gone.
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

/// Publishes the retraction: the same version and payload, so that every partner's bridge fits.
pub(crate) async fn run(args: &RetractArgs, client: &Client, output: &Output) -> Result<()> {
    let found = client.ask(Method::GET, &format!("/v1/events/{}", encode(&args.event)), Body::Empty).await?;
    let original: Original<'_> = serde_json::from_slice(&found.body)
        .map_err(|error| Failure::refused(format!("the hub's answer is no event: {error}")))?;
    let head = serde_json::json!({
        "id": format!("{}.retraction", original.id),
        "version": original.version,
        "subject": original.subject,
        "kind": "retraction",
        "priority": "urgent",
        "references": [original.id],
    })
    .to_string();
    // The payload's own text: numbers stay as they were written.
    let text = format!("{},\"payload\":{}}}", &head[..head.len() - 1], original.payload.map_or("null", RawValue::get));
    let reply = client.ask(Method::POST, "/v1/events", Body::Bytes("application/json", Bytes::from(text))).await?;
    if output.json {
        return output.raw_json(&reply.body);
    }
    let receipt = reply.value()?;
    let partners = field(&receipt, "partners");
    output.line(format_args!("{} takes {} back; partners told: {partners}", field(&receipt, "id"), args.event))
}
