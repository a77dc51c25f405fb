//! Brings spans away, some at a time. One request is under way; what fails is told once, counted and let go.

use std::time::Duration;

use bytes::Bytes;
use ess_channels::Channel;
use ess_core::id::{Digest, EventId, Subject, Version};
use ess_core::message::Message;
use ess_core::receipt::Receipt;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::{Input, Span, WayOut, otlp};

/// Spans of one request.
const BATCH_MAX: usize = 512;
/// How long the first span of a request waits for others.
const GATHER: Duration = Duration::from_millis(500);
/// How long a request may take.
const TIMEOUT: Duration = Duration::from_secs(10);

impl WayOut {
    /// Runs until the hub stops.
    pub(crate) async fn run(mut self) {
        let mut is_failing = false;
        loop {
            let (spans, waiters) = gather(&mut self.inputs).await;
            if spans.is_empty() && waiters.is_empty() {
                return;
            }
            if !spans.is_empty() {
                let sent = send(&self.channel, &spans).await;
                self.metrics.count_spans(if sent.is_ok() { "sent" } else { "failed" }, spans.len());
                match (&sent, is_failing) {
                    (Err(reason), false) => {
                        tracing::warn!(reason, "could not bring spans to the collector; they are let go");
                    }
                    (Ok(()), true) => tracing::info!("the collector takes spans again"),
                    _ => {}
                }
                is_failing = sent.is_err();
            }
            for waiter in waiters {
                // Who waited may have gone.
                let _ = waiter.send(());
            }
        }
    }
}

/// Spans until there are enough, or somebody waits, or their time is over; nothing at all at the end.
async fn gather(inputs: &mut mpsc::Receiver<Input>) -> (Vec<Span>, Vec<oneshot::Sender<()>>) {
    let (mut spans, mut waiters) = (Vec::new(), Vec::new());
    let mut until = None;
    while spans.len() < BATCH_MAX && waiters.is_empty() {
        let input = tokio::select! {
            biased;
            input = inputs.recv() => input,
            () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => break,
        };
        match input {
            Some(Input::Span(span)) => spans.push(*span),
            Some(Input::Flush(waiter)) => waiters.push(waiter),
            None => break,
        }
        until.get_or_insert_with(|| Instant::now() + GATHER);
    }
    (spans, waiters)
}

async fn send(channel: &Channel, spans: &[Span]) -> Result<(), String> {
    let body = Bytes::from(otlp::request(spans));
    let message = Message {
        id: "traces".to_owned(),
        event_id: EventId::trusted("traces"),
        subject: Subject::trusted("traces"),
        version: Version(1),
        extension: "json",
        content_type: "application/json".to_owned(),
        headers: Vec::new(),
        body_digest: Digest::of(&body),
        body,
        test: false,
        replay: false,
        partner_seq: None,
        attempt: 1,
    };
    match channel.send(&message, Instant::now() + TIMEOUT).await {
        Receipt::Answer(answer) if (200..300).contains(&answer.status) => Ok(()),
        Receipt::Answer(answer) => Err(format!("status {}", answer.status)),
        Receipt::Failed(failure) => Err(failure.reason),
        _ => Err("it answered by no status".to_owned()),
    }
}
