//! One attempt, top to bottom: load, prepare, send, judge.

use std::sync::Arc;
use std::time::Duration;

use ess_channels::{Channel, Slot};
use ess_core::delivery::DeliveryKey;
use ess_core::id::Seq;
use ess_core::lane::{Attempt, Outcome, Report, Sent, Tried};
use ess_core::message::Message;
use ess_core::partner::{AckBy, AckPolicy, ChannelKind};
use ess_core::receipt::{Receipt, Verdict};
use ess_store::Store;

use crate::cells::{Cell, Cells};
use crate::clock::Clock;
use crate::cluster::Lease;
use crate::escalation::Attention;
use crate::flow::Flow;
use crate::links::Links;
use crate::metrics::{AttemptLabels, Metrics};
use crate::prepare::{Marking, Workshop};
use crate::registry::{Registered, Registry};
use crate::watch::Watches;

/// By which of the partner's channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Its own.
    Own,
    /// The one that is tried when its own brings no ACK for too long.
    Fallback,
}

/// What every attempt needs; shared by all.
pub struct Delivery {
    /// Where events are.
    pub store: Store,
    /// Events in memory.
    pub cells: Cells,
    /// Partners and bridges.
    pub registry: Registry,
    /// Makes messages.
    pub workshop: Workshop,
    /// Makes the links by which people acknowledge.
    pub links: Links,
    /// The time.
    pub clock: Clock,
    /// Fetches words that come apart from an attempt.
    pub watches: Watches,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The last hour.
    pub flow: Flow,
    /// Partners whose trouble may have changed.
    pub attention: Attention,
    /// Whether this node may send.
    pub lease: Lease,
    /// How quickly each partner acknowledged of late.
    pub paces: crate::pace::Paces,
}

impl Delivery {
    /// With nothing in memory yet.
    pub fn new(
        store: Store,
        registry: Registry,
        workshop: Workshop,
        links: Links,
        watches: Watches,
        lease: Lease,
    ) -> Self {
        Self {
            store,
            registry,
            links,
            watches,
            lease,
            cells: Cells::default(),
            clock: workshop.clock,
            metrics: workshop.metrics.clone(),
            workshop,
            flow: Flow::default(),
            attention: Attention::default(),
            paces: Default::default(),
        }
    }

    /// The event with what was made of it; read back from the store when it is not in memory.
    ///
    /// # Errors
    /// The store can't be read, or has no such event.
    pub async fn cell(&self, seq: Seq) -> Result<Arc<Cell>, String> {
        if let Some(cell) = self.cells.get(seq) {
            return Ok(cell);
        }
        // In a place of its own, as it is rare and large: see `attempt`.
        match Box::pin(self.store.event(seq)).await {
            Ok(Some(recorded)) => Ok(self.cells.keep(&recorded.event)),
            Ok(None) => Err(format!("event {seq} is not in the log")),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Makes one attempt. `announce` is called with what is about to be sent when the ACK may overtake the answer.
    ///
    /// Thousands are under way at once, each in a place of the allocator as large as the most that its future ever holds; so what is
    /// rare and large has places of its own.
    pub async fn attempt(
        &self,
        registered: &Registered,
        attempt: Attempt,
        way: Way,
        announce: impl FnOnce(Sent),
    ) -> Report {
        let term = self.lease.term();
        let slot = match self.slot(registered, attempt, way).await {
            Ok(slot) => slot,
            Err(report) => return *report,
        };
        let cell = match self.cell(attempt.seq).await {
            Ok(cell) => cell,
            Err(reason) => {
                tracing::error!(event.seq = attempt.seq.0, reason, "could not load an event to deliver it");
                let outcome = self.retry("the hub could not load the event".to_owned());
                return self.report(registered, attempt, outcome, None, None);
            }
        };
        if let Some(gone) = &cell.event.gone {
            let outcome = Outcome::Withdrawn { reason: format!("the payload is gone: {}", gone.told()) };
            return self.report(registered, attempt, outcome, None, None);
        }
        let snapshot = self.registry.snapshot();
        let made = self.workshop.body(&cell, &snapshot, registered, attempt.round > 0).await;
        let (version, body) = match made {
            Ok(made) => made,
            Err(blocked) => {
                let outcome = Outcome::Blocked { reason: blocked.reason, mend: blocked.mend };
                return self.report(registered, attempt, outcome, None, None);
            }
        };
        let (channel, policy) = match self.channel(registered, cell.event.content.test, way) {
            Ok((channel, policy)) => (channel.clone(), policy),
            Err(reason) => return self.report(registered, attempt, self.retry(reason.clone()), None, None),
        };
        let marking = Marking {
            round: attempt.round,
            message_uuid: attempt.message_uuid,
            partner_seq: attempt.partner_seq,
            attempt: attempt.number,
        };
        let now = self.clock.now();
        let mut message = self.workshop.message(&cell.event, registered, version, &body, marking, now);
        self.link(&mut message, &channel, policy, key_of(registered, attempt));
        // As late as can be: a process that is stopped after this sends it when it wakes.
        if !self.lease.still_holds(term) {
            return self.report(registered, attempt, self.too_late(way), None, None);
        }
        let sent = Sent { version, body_digest: body.digest, scripts: body.scripts.clone() };
        if policy.comes_apart() {
            announce(sent.clone());
        }
        let deadline = tokio::time::Instant::now() + registered.partner.timeout;
        let receipt = match slot.map(|slot| slot.fill(message.clone())) {
            None => channel.send(&message, deadline).await,
            Some(true) => Receipt::Taken,
            // Who asked is gone; the next one gets it.
            Some(false) => return self.report(registered, attempt, Outcome::Recalled, None, None),
        };
        let verdict = Verdict::of(&receipt, policy, &cell.event.content.id, &body.digest);
        let sent = receipt.may_have_arrived().then_some(sent);
        let mut report = self.report(registered, attempt, Outcome::Verdict(verdict), sent, status_of(&receipt));
        if way == Way::Fallback {
            report.tried.reason = format!("by the fallback channel: {}", report.tried.reason);
        }
        self.log(registered, &cell, &report);
        report
    }

    async fn slot(&self, registered: &Registered, attempt: Attempt, way: Way) -> Result<Option<Slot>, Box<Report>> {
        if registered.partner.channel != ChannelKind::Pull || way == Way::Fallback {
            return Ok(None);
        }
        Box::pin(self.turn(registered, attempt)).await
    }

    /// At a partner that fetches, an attempt begins when it asks. That nobody asks is no failure, and so there is no deadline.
    async fn turn(&self, registered: &Registered, attempt: Attempt) -> Result<Option<Slot>, Box<Report>> {
        let report = |outcome| Err(Box::new(self.report(registered, attempt, outcome, None, None)));
        let content = match self.cell(attempt.seq).await {
            Ok(cell) => (cell.event.content.id.clone(), cell.event.content.test),
            Err(reason) => {
                tracing::error!(event.seq = attempt.seq.0, reason, "could not load an event to deliver it");
                return report(self.retry("the hub could not load the event".to_owned()));
            }
        };
        let channel = match self.channel(registered, content.1, Way::Own) {
            Ok((channel, _)) => channel,
            Err(reason) => return report(self.retry(reason.clone())),
        };
        let Some(pull) = channel.pull() else { return Ok(None) };
        match pull.turn(&content.0, content.1).await {
            Some(slot) => Ok(Some(slot)),
            None => report(Outcome::Recalled),
        }
    }

    /// Gives people something to acknowledge by.
    pub(crate) fn link(&self, message: &mut Message, channel: &Channel, policy: &AckPolicy, key: DeliveryKey) {
        if channel.is_read_by_people() && policy.by == AckBy::Callback {
            message.headers.push(self.links.header(key, self.clock.now()));
        }
    }

    fn channel<'a>(
        &self,
        registered: &'a Registered,
        test: bool,
        way: Way,
    ) -> Result<(&'a Arc<Channel>, &'a AckPolicy), &'a String> {
        let own = &registered.partner.ack;
        match (&registered.fallback, way) {
            (Some(fallback), Way::Fallback) => fallback.channel.as_ref().map(|channel| (channel, &fallback.ack)),
            _ => registered.channel_for(test).as_ref().map(|channel| (channel, own)),
        }
    }

    /// The lease ran out while the message was made, and the partner may be another node's by now. It waits for the lease; by the
    /// fallback, which never waits, it is tried again.
    fn too_late(&self, way: Way) -> Outcome {
        match way {
            Way::Own => Outcome::Recalled,
            Way::Fallback => self.retry("this node's lease had run out".to_owned()),
        }
    }

    fn retry(&self, reason: String) -> Outcome {
        Outcome::Verdict(Verdict::Retry { reason, retry_after: None })
    }

    fn report(
        &self,
        registered: &Registered,
        attempt: Attempt,
        outcome: Outcome,
        sent: Option<Sent>,
        status: Option<u16>,
    ) -> Report {
        let (word, reason) = words(&outcome);
        if matches!(outcome, Outcome::Recalled) {
            // It did not take place, so it is not counted.
            let (number, at) = (attempt.number, attempt.started);
            let tried = Tried { number, at, took: Duration::ZERO, status: None, outcome: word, reason };
            return Report { attempt, outcome, sent, tried };
        }
        let labels = AttemptLabels { outcome: word, channel: registered.partner.channel.word() };
        self.metrics.attempts.get_or_create(&labels).inc();
        let took: Duration = self.clock.now().since(attempt.started);
        let tried = Tried { number: attempt.number, at: attempt.started, took, status, outcome: word, reason };
        Report { attempt, outcome, sent, tried }
    }

    /// The one canonical line of an attempt, and its span.
    fn log(&self, registered: &Registered, cell: &Cell, report: &Report) {
        let content = &cell.event.content;
        tracing::info!(
            event.id = %content.id,
            event.seq = cell.event.seq.0,
            partner.id = %registered.partner.id,
            delivery.attempt = report.attempt.number,
            delivery.outcome = report.tried.outcome,
            http.status = report.tried.status,
            duration_ms = report.tried.took.as_secs_f64() * 1e3,
            trace.id = cell.event.trace.trace_id,
            traceparent = cell.event.trace.traceparent,
            docket.id = cell.event.trace.docket_id,
            reason = report.tried.reason,
            "attempt {} of {} at {}: {}",
            report.attempt.number,
            content.id,
            registered.partner.id,
            report.tried.outcome
        );
        self.workshop.tracer.attempted(&cell.event, registered, report);
    }
}

fn key_of(registered: &Registered, attempt: Attempt) -> DeliveryKey {
    DeliveryKey { seq: attempt.seq, partner: registered.no, round: attempt.round }
}

pub(crate) fn status_of(receipt: &Receipt) -> Option<u16> {
    match receipt {
        Receipt::Answer(answer) => Some(answer.status),
        _ => None,
    }
}

fn words(outcome: &Outcome) -> (&'static str, String) {
    match outcome {
        Outcome::Blocked { reason, .. } => ("blocked", reason.clone()),
        Outcome::Recalled => ("withdrawn", String::new()),
        Outcome::Withdrawn { reason } => ("withdrawn", reason.clone()),
        Outcome::Verdict(verdict) => match verdict {
            Verdict::Acked(_) => ("acked", String::new()),
            Verdict::Received => ("received", String::new()),
            Verdict::Unacknowledged { reason } => ("unacknowledged", reason.clone()),
            Verdict::Nack { reason } => ("nack", reason.clone()),
            Verdict::Retry { reason, .. } => ("failed", reason.clone()),
            Verdict::Refused { reason } => ("refused", reason.clone()),
            Verdict::Gone { reason } => ("gone", reason.clone()),
        },
    }
}
