//! `hms-ess listen`: a partner behind a firewall fetches its events and hands each to a local webhook.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clap::Args;
use ess_core::receipt::AckWord;
use http::{Method, Uri};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::client::{Body, Client, encode};
use crate::config::profile::Target;
use crate::failure::{Failure, Result};
use crate::output::Output;

/// How long one question waits at the hub.
const WAIT: Duration = Duration::from_secs(30);
/// The first wait when the hub can't be reached; it doubles.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// The longest one.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Arguments of `listen`.
#[derive(Debug, Args)]
pub(crate) struct ListenArgs {
    /// The partner, which has `channel: pull`; the token must be its own, or an operator's.
    partner: String,
    /// The local webhook, such as `http://127.0.0.1:8000/update`.
    #[arg(long, value_name = "URL")]
    forward: String,
    /// Any 2xx of the local webhook acknowledges; else its body must.
    #[arg(long)]
    by_status: bool,
    /// End when the inbox is empty.
    #[arg(long)]
    once: bool,
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    items: Vec<Item<'a>>,
}

/// A message of the inbox.
#[derive(Deserialize)]
struct Item<'a> {
    event_id: String,
    #[serde(default)]
    test: bool,
    headers: Map<String, Value>,
    #[serde(borrow)]
    envelope: Option<&'a RawValue>,
    text: Option<String>,
    base64: Option<String>,
}

/// Fetches and hands on until it is stopped; what the hub's absence interrupts goes on when it is back.
pub(crate) async fn run(args: &ListenArgs, client: &Client, output: &Output) -> Result<()> {
    let (local, path) = local(&args.forward)?;
    let inbox = format!("/v1/partners/{}/inbox?max=1", encode(&args.partner));
    output.note(format_args!("{}: handing events on to {}; Ctrl-C ends it", args.partner, args.forward));
    let mut pause = RETRY_FIRST;
    loop {
        let wait = if args.once { Duration::ZERO } else { WAIT };
        let question = format!("{inbox}&wait={}s", wait.as_secs());
        let reply = match client.send(Method::GET, &question, Body::Empty, &[], wait).await {
            // What the hub refuses once it refuses again, unless it is only busy.
            Ok(reply) if args.once || !matches!(reply.status.as_u16(), 502..=504) => client.taken(reply)?,
            Err(failure) if args.once => return Err(failure),
            absent => {
                let refused = absent.and_then(|reply| client.taken(reply));
                let why = refused.map_or_else(|failure| failure.detail, |_| "the hub is busy".to_owned());
                output.note(format_args!("{why}; asking again in {} s", pause.as_secs()));
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_MAX);
                continue;
            }
        };
        pause = RETRY_FIRST;
        let page: Page<'_> = serde_json::from_slice(&reply.body)
            .map_err(|error| Failure::refused(format!("the hub's answer was not understood: {error}")))?;
        if args.once && page.items.is_empty() {
            return Ok(());
        }
        for item in &page.items {
            let word = hand_on(args, item, &local, &path).await;
            let told = match word {
                Ok(word) => match client.post("/v1/acks", &word).await {
                    Ok(_) if word.get("ack").is_some() => "acknowledged".to_owned(),
                    Ok(_) => format!("refused: {}", super::field(&word, "reason")),
                    Err(failure) => format!("the hub did not take the word: {}", failure.detail),
                },
                Err(why) => format!("{why}; it is offered again"),
            };
            let test = if item.test { " (dry run)" } else { "" };
            if output.json {
                output.json(&json!({"event": item.event_id, "test": item.test, "outcome": told}))?;
            } else {
                output.line(format_args!("{}{test}: {told}", item.event_id))?;
            }
        }
    }
}

/// POSTs a message as the hub would have; answers the word to pass back.
async fn hand_on(args: &ListenArgs, item: &Item<'_>, local: &Client, path: &str) -> std::result::Result<Value, String> {
    let body = match (item.envelope, &item.text, &item.base64) {
        (Some(envelope), _, _) => Bytes::copy_from_slice(envelope.get().as_bytes()),
        (_, Some(text), _) => Bytes::copy_from_slice(text.as_bytes()),
        (_, _, Some(encoded)) => Bytes::from(STANDARD.decode(encoded).map_err(|_| "its body is not base64")?),
        _ => return Err("it has no body".to_owned()),
    };
    let kind = item.headers.get("content-type").and_then(Value::as_str).unwrap_or("application/octet-stream");
    let headers: Vec<(&str, &str)> = item
        .headers
        .iter()
        .filter(|(name, _)| *name != "content-type")
        .filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)))
        .collect();
    let answer = local.send(Method::POST, path, Body::Bytes(kind, body), &headers, Duration::ZERO).await;
    let answer = answer.map_err(|failure| failure.detail)?;
    let status = answer.status;
    if !status.is_success() {
        return Err(format!("the webhook answered {}", status.as_u16()));
    }
    let (event, test) = (item.event_id.as_str(), item.test);
    match AckWord::parse(&answer.body) {
        Ok(AckWord::Ack { event: named, .. }) if named.as_str() == event => Ok(json!({"ack": event, "test": test})),
        Ok(AckWord::Nack { event: named, reason, retryable, .. }) if named.as_str() == event => {
            Ok(json!({"nack": event, "reason": reason, "retryable": retryable, "test": test}))
        }
        _ if args.by_status => Ok(json!({"ack": event, "test": test})),
        _ => Err(format!(
            "the webhook answered {} without {{\"ack\": \"{event}\"}}; with --by-status that is enough",
            status.as_u16()
        )),
    }
}

/// A client of the local webhook, and the path there. It never gets the hub's token.
fn local(url: &str) -> Result<(Client, String)> {
    let wrong = |why: &str| Failure::usage(format!("--forward: {why}"));
    let uri: Uri = url.parse().map_err(|_| wrong("it is no URL"))?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(wrong("write a URL such as http://127.0.0.1:8000/update"));
    };
    let target = Target { hub: format!("{scheme}://{authority}"), token: None, ca: None };
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned();
    Ok((Client::new(vec![target], None)?, path))
}
