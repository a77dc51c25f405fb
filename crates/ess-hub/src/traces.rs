//! The journey of an event as spans of one trace: publish, conversions, deliveries, attempts, receipts.
//!
//! ```text
//! caller's span ─▶ publish ─┬▶ convert            one for each version
//!                           └▶ deliver            one for each partner and round, from the recording to its end
//!                                 ├▶ attempt      one for each try
//!                                 └▶ receipt      the partner's word
//! ```
//!
//! Ids come from the event's own, so that spans of one event fit together through restarts and nothing is kept for them. What is not
//! exported costs one look at an option; what can't be brought away is let go and counted, never waited for.

mod export;
mod otlp;

use std::sync::Arc;

use ess_channels::Channel;
use ess_core::event::Event;
use ess_core::id::Version;
use ess_core::lane::Report;
use ess_core::time::Time;
use ess_core::traceparent::Traceparent;
use tokio::sync::{mpsc, oneshot};

use crate::cells::{Blocked, Converted};
use crate::metrics::Metrics;
use crate::registry::Registered;

/// Spans that wait to be brought away; more are let go.
const WAITING_MAX: usize = 8_192;

/// Where spans go.
#[derive(Debug, Clone)]
pub struct TracesOptions {
    /// To the collector's `/v1/traces`, through the guarded dialer.
    pub channel: Arc<Channel>,
    /// Which share of the events is traced whose publisher did not decide it by a `traceparent`; 0 to 1.
    pub share: f64,
}

/// Takes spans. Off unless there is somewhere to bring them.
#[derive(Debug, Clone, Default)]
pub struct Tracer(Option<On>);

#[derive(Debug, Clone)]
struct On {
    inputs: mpsc::Sender<Input>,
    metrics: Arc<Metrics>,
    share: f64,
}

/// Brings spans away while it runs.
pub(crate) struct WayOut {
    channel: Arc<Channel>,
    inputs: mpsc::Receiver<Input>,
    metrics: Arc<Metrics>,
}

/// What the loop that brings spans away hears.
#[derive(Debug)]
pub(crate) enum Input {
    /// One more.
    Span(Box<Span>),
    /// Somebody waits until what came before is away.
    Flush(oneshot::Sender<()>),
}

/// What a span is of, as OpenTelemetry numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Internal = 1,
    Server = 2,
    Client = 3,
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Text(String),
    Number(i64),
}

/// A span that has ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Span {
    trace_id: [u8; 16],
    id: [u8; 8],
    parent: Option<[u8; 8]>,
    name: String,
    role: Role,
    began: Time,
    ended: Time,
    attributes: Vec<(&'static str, Value)>,
    /// Why it did not go well, if so.
    error: Option<String>,
}

/// A trace that is recorded, as far as it is the event's.
struct Journey<'a> {
    event: &'a Event,
    trace_id: [u8; 16],
    caller: Option<[u8; 8]>,
}

/// A delivery of an event.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) registered: &'a Registered,
    pub(crate) round: u32,
}

impl Tracer {
    /// A tracer, and the way out of its spans; off without a collector or in a build without `otel`.
    pub(crate) fn open(options: Option<TracesOptions>, metrics: &Arc<Metrics>) -> (Self, Option<WayOut>) {
        let Some(TracesOptions { channel, share }) = options.filter(|_| cfg!(feature = "otel")) else {
            return (Self(None), None);
        };
        let (inputs, waiting) = mpsc::channel(WAITING_MAX);
        let way_out = WayOut { channel, inputs: waiting, metrics: metrics.clone() };
        (Self(Some(On { inputs, metrics: metrics.clone(), share })), Some(way_out))
    }

    /// An event was recorded for so many partners.
    pub(crate) fn published(&self, event: &Event, ended: Time, partners: usize) {
        let Some((on, journey)) = self.journey(event) else { return };
        let mut span = journey.span("publish", Role::Server, &[], event.recorded_at, ended);
        span.name = format!("publish {}", event.content.subject);
        span.parent = journey.caller;
        span.attributes.push(("hms.partners", Value::Number(i64::try_from(partners).unwrap_or(i64::MAX))));
        span.attributes.push(("hms.event.version", Value::Number(i64::from(event.content.version.0))));
        on.take(span);
    }

    /// A payload was converted, or could not be.
    pub(crate) fn converted(
        &self,
        event: &Event,
        to: Version,
        (began, ended): (Time, Time),
        made: &Result<Converted, Blocked>,
    ) {
        let Some((on, journey)) = self.journey(event) else { return };
        let from = event.content.version;
        let mut span = journey.span("convert", Role::Internal, &[u64::from(to.0)], began, ended);
        span.name = format!("convert {from} to {to}");
        span.attributes.push(("hms.bridge.from", Value::Number(i64::from(from.0))));
        span.attributes.push(("hms.bridge.to", Value::Number(i64::from(to.0))));
        match made {
            Ok(converted) => {
                let scripts: Vec<String> = converted.scripts.iter().map(ToString::to_string).collect();
                span.attributes.push(("hms.bridge.scripts", Value::Text(scripts.join(","))));
            }
            Err(blocked) => span.error = Some(blocked.reason.clone()),
        }
        on.take(span);
    }

    /// A partner was tried.
    pub(crate) fn attempted(&self, event: &Event, registered: &Registered, report: &Report) {
        let Some((on, journey)) = self.journey(event) else { return };
        let (attempt, tried) = (&report.attempt, &report.tried);
        let place = Place { registered, round: attempt.round };
        let number = u64::from(attempt.number);
        let parts = [u64::from(registered.no.0), u64::from(attempt.round), number];
        let mut span = journey.span("attempt", Role::Client, &parts, tried.at, tried.at.after(tried.took));
        span.name = format!("attempt {}", registered.partner.id);
        span.parent = Some(journey.deliver_id(place));
        span.attributes.extend(place.attributes());
        span.attributes.push(("delivery.attempt", Value::Number(i64::from(attempt.number))));
        span.attributes.push(("delivery.outcome", Value::Text(tried.outcome.to_owned())));
        if let Some(status) = tried.status {
            span.attributes.push(("http.response.status_code", Value::Number(i64::from(status))));
        }
        let is_well = matches!(tried.outcome, "acked" | "received");
        span.error = (!is_well).then(|| tried.reason.clone());
        on.take(span);
    }

    /// A partner acknowledged: its word, and the end of the delivery.
    pub(crate) fn acked(&self, event: &Event, place: Place<'_>, evidence: &'static str, at: Time) {
        let Some((on, journey)) = self.journey(event) else { return };
        let parts = [u64::from(place.registered.no.0), u64::from(place.round)];
        let mut receipt = journey.span("receipt", Role::Internal, &parts, at, at);
        receipt.name = format!("receipt {}", place.registered.partner.id);
        receipt.parent = Some(journey.deliver_id(place));
        receipt.attributes.extend(place.attributes());
        receipt.attributes.push(("hms.receipt.evidence", Value::Text(evidence.to_owned())));
        on.take(receipt);
        on.take(journey.delivery(place, at, "ack"));
    }

    /// A delivery ended in another way.
    pub(crate) fn ended(&self, event: &Event, place: Place<'_>, state: &'static str, reason: &str, at: Time) {
        let Some((on, journey)) = self.journey(event) else { return };
        let mut span = journey.delivery(place, at, state);
        span.error = Some(reason.to_owned());
        on.take(span);
    }

    /// Waits until what was taken so far is away, or was given up.
    pub(crate) async fn flush(&self) {
        let Some(on) = &self.0 else { return };
        let (reply, done) = oneshot::channel();
        if on.inputs.send(Input::Flush(reply)).await.is_ok() {
            // A loop that ended has nothing left.
            drop(done.await);
        }
    }

    /// Whether this event is traced: as its publisher decided, else by the share.
    fn journey<'a>(&self, event: &'a Event) -> Option<(&On, Journey<'a>)> {
        let on = self.0.as_ref()?;
        let caller = event.trace.traceparent.as_deref().and_then(Traceparent::parse);
        let own = *event.message_uuid.as_bytes();
        let is_traced = match caller {
            Some(caller) => caller.is_sampled,
            // The last bytes of a version 7 uuid are random.
            None => (f64::from(u32::from_be_bytes([own[12], own[13], own[14], own[15]])) / 4_294_967_296.0) < on.share,
        };
        // A plan has no id: nothing happens to it.
        let is_recorded = !event.message_uuid.is_nil();
        let trace_id = caller.map_or(own, |caller| caller.trace_id);
        let caller = caller.map(|caller| caller.parent_id);
        (is_traced && is_recorded).then_some((on, Journey { event, trace_id, caller }))
    }
}

impl On {
    fn take(&self, span: Span) {
        if self.inputs.try_send(Input::Span(Box::new(span))).is_err() {
            self.metrics.count_spans("dropped", 1);
        }
    }
}

impl Journey<'_> {
    /// A child of the publish with the attributes that all have.
    fn span(&self, what: &'static str, role: Role, parts: &[u64], began: Time, ended: Time) -> Span {
        let content = &self.event.content;
        let attributes = vec![
            ("event.id", Value::Text(content.id.to_string())),
            ("event.seq", Value::Number(i64::try_from(self.event.seq.0).unwrap_or(i64::MAX))),
            ("hms.event.subject", Value::Text(content.subject.to_string())),
        ];
        Span {
            trace_id: self.trace_id,
            id: self.id(what, parts),
            parent: Some(self.id("publish", &[])),
            name: what.to_owned(),
            role,
            began,
            ended,
            attributes,
            error: None,
        }
    }

    fn delivery(&self, place: Place<'_>, at: Time, state: &'static str) -> Span {
        let mut span = self.span("deliver", Role::Internal, &[], self.event.recorded_at, at);
        span.id = self.deliver_id(place);
        span.name = format!("deliver {}", place.registered.partner.id);
        span.attributes.extend(place.attributes());
        span.attributes.push(("delivery.state", Value::Text(state.to_owned())));
        span
    }

    fn deliver_id(&self, place: Place<'_>) -> [u8; 8] {
        self.id("deliver", &[u64::from(place.registered.no.0), u64::from(place.round)])
    }

    /// The same for the same thing, in every run of the hub.
    fn id(&self, what: &str, parts: &[u64]) -> [u8; 8] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.event.message_uuid.as_bytes()).update(what.as_bytes());
        for part in parts {
            hasher.update(&part.to_be_bytes());
        }
        let mut id = [0; 8];
        id.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        // All zero would be no id.
        id[7] |= u8::from(id == [0; 8]);
        id
    }
}

impl Place<'_> {
    fn attributes(self) -> [(&'static str, Value); 3] {
        let partner = &self.registered.partner;
        [
            ("partner.id", Value::Text(partner.id.to_string())),
            ("hms.channel", Value::Text(partner.channel.word().to_owned())),
            ("delivery.round", Value::Number(i64::from(self.round))),
        ]
    }
}
