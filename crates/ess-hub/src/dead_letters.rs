//! Dead letters: list, redrive, discard.

use ess_core::access::Principal;
use ess_core::delivery::State;
use ess_core::id::{EventId, PartnerId, PartnerNo, Seq};
use ess_core::lane::{OpenDelivery, OpenState};
use ess_core::problem::{Code, Problem};
use ess_store::{Change, StoredDelivery};

use crate::ask::delivery_cursor;
use crate::hub::{FIRST, Hub};
use crate::lanes::Input;
use crate::publish::unavailable;
use crate::replay::check_payload_is_there;
use crate::view::{DeliveryView, Page};

/// How many dead letters are redriven in one step.
const STEP: usize = 256;

impl Hub {
    /// A page of dead letters, oldest first.
    ///
    /// # Errors
    /// There is no such partner, or the cursor is not one of ours.
    pub async fn dead_letters(
        &self,
        partner: Option<&PartnerId>,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Page<DeliveryView>, Problem> {
        let (no, _) = self.places(partner, None).await?;
        let after = delivery_cursor(after)?;
        let found = self.delivery.store.dead_letters(no, None, after, limit as usize).await;
        self.delivery_page(found.map_err(|error| unavailable(&error))?, limit).await
    }

    /// Tries dead letters again, of a partner, of an event, or all; answers how many.
    ///
    /// # Errors
    /// There is no such partner or event.
    pub async fn redrive(
        &self,
        partner: Option<&PartnerId>,
        event: Option<&EventId>,
        reason: Option<String>,
        by: &Principal,
    ) -> Result<u64, Problem> {
        self.audit_bulk("dead_letters.redrive", partner, event, reason, by).await?;
        let (no, seq) = self.places(partner, event).await?;
        if let Some(seq) = seq {
            check_payload_is_there(&self.event_at(seq).await?.event)?;
        }
        let mut count = 0;
        let mut after = FIRST;
        loop {
            let found = self.delivery.store.dead_letters(no, seq, after, STEP).await;
            let found = found.map_err(|error| unavailable(&error))?;
            let Some(last) = found.last() else { return Ok(count) };
            after = last.key;
            for letter in found {
                if !self.delivery.registry.snapshot().by_no.contains_key(&letter.key.partner) {
                    continue;
                }
                let open = self.reopened(letter).await?;
                let change = vec![Change::Reopened(open.clone())];
                self.delivery.store.record(change);
                self.lanes.tell(Input::Opened(open.key.partner, vec![open]));
                count += 1;
            }
            self.delivery.store.record_durably(Vec::new()).await.map_err(|error| unavailable(&error))?;
        }
    }

    /// Gives dead letters up for good; they stay on record as cancelled. Answers how many.
    ///
    /// # Errors
    /// There is no such partner or event, or no reason was given.
    pub async fn discard(
        &self,
        partner: Option<&PartnerId>,
        event: Option<&EventId>,
        reason: String,
        by: &Principal,
    ) -> Result<u64, Problem> {
        if reason.trim().is_empty() {
            return Err(Problem::new(Code::Invalid, "say why they are discarded").with_field("reason"));
        }
        self.audit_bulk("dead_letters.discard", partner, event, Some(reason.clone()), by).await?;
        let (no, seq) = self.places(partner, event).await?;
        let mut count = 0;
        let mut after = FIRST;
        loop {
            let found = self.delivery.store.dead_letters(no, seq, after, STEP).await;
            let found = found.map_err(|error| unavailable(&error))?;
            let Some(last) = found.last() else { return Ok(count) };
            after = last.key;
            let mut changes = Vec::new();
            for letter in found {
                count += 1;
                let reason = format!("discarded: {reason}");
                let open = self.reopened(letter).await?;
                let (state, at) = (State::Cancelled, self.now());
                changes.push(Change::Ended { open, state, at, reason, evidence: None, tried: None });
            }
            self.delivery.store.record_durably(changes).await.map_err(|error| unavailable(&error))?;
        }
    }

    async fn places(
        &self,
        partner: Option<&PartnerId>,
        event: Option<&EventId>,
    ) -> Result<(Option<PartnerNo>, Option<Seq>), Problem> {
        let snapshot = self.delivery.registry.snapshot();
        let no = partner.map(|id| snapshot.partner(id).map(|registered| registered.no)).transpose()?;
        let seq = match event {
            Some(id) => Some(self.recorded(id, false).await?.event.seq),
            None => None,
        };
        Ok((no, seq))
    }

    async fn audit_bulk(
        &self,
        act: &'static str,
        partner: Option<&PartnerId>,
        event: Option<&EventId>,
        reason: Option<String>,
        by: &Principal,
    ) -> Result<(), Problem> {
        let named = [partner.map(PartnerId::as_str), event.map(EventId::as_str)];
        let named: Vec<&str> = named.into_iter().flatten().collect();
        let object = if named.is_empty() { "all".to_owned() } else { named.join(", ") };
        let audit = self.audit(by, act, object, reason);
        self.delivery.store.put_audit(audit).await.map_err(|error| unavailable(&error))
    }

    /// A dead letter as an open delivery: its attempts are remembered, its patience begins anew.
    async fn reopened(&self, letter: StoredDelivery) -> Result<OpenDelivery, Problem> {
        let recorded = self.event_at(letter.key.seq).await?;
        let content = &recorded.event.content;
        Ok(OpenDelivery {
            key: letter.key,
            subject: content.subject.clone(),
            priority: content.priority,
            kind: content.kind,
            test: content.test,
            state: OpenState::Pending,
            attempts: letter.attempts_made,
            resends: letter.attempts_made,
            due_at: None,
            first_failed_at: None,
            partner_seq: letter.partner_seq,
            reason: None,
            mend: None,
            message_uuid: letter.message_uuid,
            sent: None,
        })
    }
}
