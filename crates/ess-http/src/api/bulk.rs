//! Many events in one body: NDJSON lines or a CloudEvents batch. Each line stands alone; they are recorded in their order.

use std::fmt::Write;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::Response;
use ess_core::cloudevents;
use ess_core::event::{Content, Kind, Trace, lines};
use ess_core::limits::BULK_EVENTS_MAX;
use ess_core::problem::{Code, Problem};
use ess_hub::view::PublishReceipt;
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::media::Media;
use crate::api::publish::{self, Receipt};
use crate::caller::Caller;
use crate::limits::BULK_AT_ONCE;
use crate::refusal::ProblemDocument;
use crate::site::Site;

/// What became of each line.
#[derive(Serialize, ToSchema)]
#[allow(dead_code)]
pub(crate) struct BulkResult<'a> {
    /// In the order of the body.
    results: Vec<LineResult<'a>>,
    /// How many were recorded now.
    recorded: u64,
    /// How many were there before.
    duplicates: u64,
    /// How many were refused.
    refused: u64,
}

/// What became of one line.
#[derive(Serialize, ToSchema)]
pub(crate) struct LineResult<'a> {
    /// Its number, from 1 (of an event in a batch: its place).
    line: u32,
    /// The status that it would have had alone.
    status: u16,
    /// When it was recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<Receipt<'a>>,
    /// When it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<ProblemDocument<'a>>,
}

type Line = (u32, Result<Content, Problem>);
type Published = Result<PublishReceipt, Problem>;

/// Publishes every line; 200 with a result for each.
pub(crate) async fn publish(
    site: &Site,
    caller: &Caller,
    request_id: &str,
    media: Media,
    body: &[u8],
    test: bool,
    trace: &Trace,
) -> Result<Response, Problem> {
    let mut report = Report::new(request_id);
    if media == Media::CloudEventBatch {
        let batch = cloudevents::from_batch(body, test)?;
        check_count(batch.len())?;
        publish_lines(site, caller, (1..).zip(batch), trace, &mut report).await;
    } else {
        check_count(lines(body).count())?;
        // Parsed as they are needed: a large body is not held twice.
        let parsed = lines(body).map(|(number, line)| (number, Content::from_json(line, test)));
        publish_lines(site, caller, parsed, trace, &mut report).await;
    }
    Ok(report.answer())
}

fn check_count(count: usize) -> Result<(), Problem> {
    if count <= BULK_EVENTS_MAX {
        return Ok(());
    }
    let detail = format!("the body has {count} events; at most {BULK_EVENTS_MAX} are taken at once");
    Err(Problem::new(Code::TooLarge, detail).with_hint("send them in several requests, in order"))
}

async fn publish_lines(
    site: &Site,
    caller: &Caller,
    lines: impl Iterator<Item = Line>,
    trace: &Trace,
    report: &mut Report<'_>,
) {
    let mut chunk: Vec<Line> = Vec::with_capacity(BULK_AT_ONCE);
    for line in lines {
        // A retraction refers to what was recorded before it, maybe by the line above.
        let is_retraction = matches!(&line.1, Ok(content) if content.kind == Kind::Retraction);
        if is_retraction {
            publish_chunk(site, caller, &mut chunk, trace, report).await;
        }
        chunk.push(line);
        if is_retraction || chunk.len() == BULK_AT_ONCE {
            publish_chunk(site, caller, &mut chunk, trace, report).await;
        }
    }
    publish_chunk(site, caller, &mut chunk, trace, report).await;
}

/// Publishes a few lines together, so that they share commits. They enter the log in their order: see `in_order`.
async fn publish_chunk(site: &Site, caller: &Caller, chunk: &mut Vec<Line>, trace: &Trace, report: &mut Report<'_>) {
    let (numbers, publishes): (Vec<u32>, Vec<_>) = chunk
        .drain(..)
        .map(|(number, parsed)| {
            let publish = async move {
                let content = parsed?;
                publish::permit(site, caller, &content).await?;
                site.hub.publish(content, trace.clone(), &caller.0).await
            };
            (number, Box::pin(publish))
        })
        .unzip();
    for (number, published) in numbers.into_iter().zip(in_order(publishes).await) {
        report.add(number, &published);
    }
}

/// Runs futures side by side; each takes its first step in order, which is where a publish takes its place in the log.
async fn in_order<F: Future<Output = Published> + Unpin>(mut futures: Vec<F>) -> Vec<Published> {
    let mut outcomes: Vec<Option<Published>> = futures.iter().map(|_| None).collect();
    poll_fn(|ctx| {
        let mut is_pending = false;
        for (future, outcome) in futures.iter_mut().zip(&mut outcomes) {
            if outcome.is_some() {
                continue;
            }
            match Pin::new(future).poll(ctx) {
                Poll::Ready(published) => *outcome = Some(published),
                Poll::Pending => is_pending = true,
            }
        }
        if is_pending { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    outcomes.into_iter().flatten().collect()
}

/// The answer as it grows.
struct Report<'a> {
    request_id: &'a str,
    out: String,
    recorded: u64,
    duplicates: u64,
    refused: u64,
}

impl<'a> Report<'a> {
    fn new(request_id: &'a str) -> Self {
        Self { request_id, out: String::from("{\"results\":["), recorded: 0, duplicates: 0, refused: 0 }
    }

    fn add(&mut self, line: u32, published: &Published) {
        let count = match published {
            Ok(receipt) if receipt.duplicate => &mut self.duplicates,
            Ok(_) => &mut self.recorded,
            Err(_) => &mut self.refused,
        };
        *count += 1;
        let result = LineResult {
            line,
            status: published
                .as_ref()
                .map_or_else(|problem| problem.code.status(), |receipt| publish::status(receipt).as_u16()),
            receipt: published.as_ref().ok().map(Receipt::of),
            problem: published.as_ref().err().map(|problem| ProblemDocument::of(problem, self.request_id)),
        };
        if !self.out.ends_with('[') {
            self.out.push(',');
        }
        self.out.push_str(&serde_json::to_string(&result).unwrap_or_default());
    }

    fn answer(mut self) -> Response {
        let (recorded, duplicates, refused) = (self.recorded, self.duplicates, self.refused);
        // Writing to a string never fails.
        let _ = write!(self.out, "],\"recorded\":{recorded},\"duplicates\":{duplicates},\"refused\":{refused}}}");
        let mut response = Response::new(Body::from(self.out));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_counts_and_names_each_line() {
        let mut report = Report::new("req-1");
        report.add(3, &Err(Problem::new(Code::Invalid, "no id").with_field("id")));
        let body = format!("{}]}}", report.out);
        let value: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(value["results"][0]["line"], 3);
        assert_eq!(value["results"][0]["status"], 422);
        assert_eq!(value["results"][0]["problem"]["request_id"], "req-1");
        assert_eq!(report.refused, 1);
    }
}
