//! Redaction: a payload is taken away at once, everywhere it is kept; its digest stays, and so do the proofs over it.

use std::time::Duration;

use ess_core::access::Principal;
use ess_core::id::{EventId, Seq};
use ess_core::problem::{Code, Problem};
use ess_store::{Redaction, StoreError};

use crate::cluster::Call;
use crate::hub::Hub;
use crate::lanes::{Input, ToLane};
use crate::publish::unavailable;
use crate::replay::check_payload_is_there;
use crate::view::{EventView, RedactionReceipt};

/// How long readers of the write-ahead log are waited for before the answer says that it still holds the bytes.
const WIPE_WITHIN: Duration = Duration::from_secs(5);
const WIPE_RETRY: Duration = Duration::from_millis(50);
const WIPE_LATER_RETRY: Duration = Duration::from_secs(1);

/// Empties the write-ahead log where a redaction could not wait for it.
pub(crate) async fn run(hub: Hub) {
    loop {
        hub.unwiped.notified().await;
        while !hub.delivery.store.wipe_log().await.unwrap_or(false) {
            tokio::time::sleep(WIPE_LATER_RETRY).await;
        }
        tracing::info!("what was redacted is off the write-ahead log now");
    }
}

impl Hub {
    /// Takes the payload of an event away for good. Deliveries that have not ended are cancelled, dead letters discarded. Durable,
    /// and off the disk as far as the answer says so, when this returns.
    ///
    /// # Errors
    /// There is no such event, its payload is gone already, or it is under legal hold.
    pub async fn redact(
        &self,
        id: &EventId,
        test: bool,
        reason: String,
        by: &Principal,
    ) -> Result<RedactionReceipt, Problem> {
        let recorded = self.recorded(id, test).await?;
        let event = &recorded.event;
        check_payload_is_there(event)?;
        if let Some(hold) = self.hold_on(&event.content).await? {
            let detail = format!("{id} is under legal hold {}, placed by {}: {}", hold.number, hold.by, hold.reason);
            return Err(Problem::new(Code::Conflict, detail)
                .with_hint(format!("when the hold is over: `hms-ess hold remove {} --reason TEXT`", hold.number)));
        }
        let redaction = Redaction { seq: event.seq, at: self.now(), by: by.token_id.clone(), reason: reason.clone() };
        let audit = self.audit(by, "event.redact", id.as_str(), Some(reason.clone()));
        self.delivery.store.redact(redaction, audit).await.map_err(|error| match error {
            StoreError::Refused(why) => Problem::new(Code::Conflict, why).with_hint("look at the event and try again"),
            error => unavailable(&error),
        })?;
        let reason = format!("redacted: {reason}");
        self.cancel_here(event.seq, &reason).await?;
        self.ask_others(&Call::Cancel { event: event.seq, reason }).await?;
        tracing::warn!(event.id = %id, event.seq = event.seq.0, actor = by.token_id, "the payload of {id} was redacted");
        if self.happenings.has_listeners() {
            let detail = format!("the payload of {id} was redacted");
            self.happenings.tell(self.now(), "event.redacted", Some(id.clone()), None, detail);
        }
        let is_wiped = self.wipe_log().await?;
        let recorded = self.recorded(id, test).await?;
        let partners = u32::try_from(recorded.audience.len()).unwrap_or(u32::MAX);
        Ok(RedactionReceipt { event: EventView { event: recorded.event, partners }, is_wiped })
    }

    /// Gives up what is open of an event for partners that are served here; its payload is taken out of memory.
    pub(crate) async fn cancel_here(&self, event: Seq, reason: &str) -> Result<(), Problem> {
        let recorded = self.event_at(event).await?;
        let mut open = self.stored_deliveries(&recorded).await?;
        open.retain(|delivery| (!delivery.state.is_end() || delivery.waits) && self.serves(delivery.key.partner));
        self.delivery.cells.drop_redacted(event);
        for delivery in open {
            let partner = delivery.key.partner;
            let open = Box::new(self.reopened(delivery).await?);
            self.lanes.tell(Input::Lane(partner, ToLane::Cancel(open, reason.to_owned())));
        }
        self.lanes.settle().await;
        self.delivery.store.record_durably(Vec::new()).await.map_err(|error| unavailable(&error))
    }

    /// Empties the write-ahead log, within a bound.
    async fn wipe_log(&self) -> Result<bool, Problem> {
        // What lanes wrote of it just now goes along.
        self.delivery.store.record_durably(Vec::new()).await.map_err(|error| unavailable(&error))?;
        let deadline = tokio::time::Instant::now() + WIPE_WITHIN;
        loop {
            if self.delivery.store.wipe_log().await.map_err(|error| unavailable(&error))? {
                return Ok(true);
            }
            if tokio::time::Instant::now() >= deadline {
                self.unwiped.notify_one();
                return Ok(false);
            }
            tokio::time::sleep(WIPE_RETRY).await;
        }
    }
}
