//! Dead letters: list, redrive, discard.

use std::collections::BTreeSet;

use ess_core::access::Principal;
use ess_core::delivery::{DeliveryKey, State};
use ess_core::id::{EventId, PartnerId, PartnerNo, Seq};
use ess_core::lane::OpenDelivery;
use ess_core::problem::{Code, Problem};
use ess_store::{Change, StoredDelivery};

use crate::ask::delivery_cursor;
use crate::cluster::Call;
use crate::hub::{FIRST, Hub};
use crate::lanes::{Input, ToLane, offer_of};
use crate::publish::unavailable;
use crate::replay::check_payload_is_there;
use crate::view::{DeliveryView, Page};

/// How many dead letters are looked at in one step.
const STEP: usize = 256;

/// Which dead letters.
#[derive(Debug, Clone, Default)]
pub struct Letters {
    /// Of this partner.
    pub partner: Option<PartnerId>,
    /// Of this event.
    pub event: Option<EventId>,
    /// Whose reason holds this text.
    pub matching: Option<String>,
}

/// The same, as the store knows them.
struct Chosen {
    partner: Option<PartnerNo>,
    event: Option<Seq>,
    matching: Option<String>,
}

impl Hub {
    /// A page of dead letters, oldest first.
    ///
    /// # Errors
    /// There is no such partner or event, or the cursor is not one of ours.
    pub async fn dead_letters(
        &self,
        letters: &Letters,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Page<DeliveryView>, Problem> {
        let chosen = self.choose_letters(letters).await?;
        let found = self.page_of(&chosen, delivery_cursor(after)?, limit as usize).await?;
        let mut page = self.delivery_page(found, limit).await?;
        page.items.retain(|letter| chosen.takes(letter.reason.as_deref()));
        Ok(page)
    }

    /// Tries dead letters again; answers how many. A partner that is given up is tried at once, with new patience.
    ///
    /// # Errors
    /// There is no such partner or event.
    pub async fn redrive(&self, letters: &Letters, reason: Option<String>, by: &Principal) -> Result<u64, Problem> {
        self.audit_bulk("dead_letters.redrive", letters, reason, by).await?;
        let mut count = self.redrive_here(letters).await?;
        for answer in self.ask_others(&Call::Redrive(letters.into())).await? {
            count += answer.count();
        }
        Ok(count)
    }

    /// The same for partners that are served here.
    pub(crate) async fn redrive_here(&self, letters: &Letters) -> Result<u64, Problem> {
        let chosen = self.choose_letters(letters).await?;
        if let Some(seq) = chosen.event {
            check_payload_is_there(&self.event_at(seq).await?.event)?;
        }
        let (mut count, mut partners) = (0, BTreeSet::new());
        let mut after = FIRST;
        while let Some(found) = self.next_letters(&chosen, &mut after).await? {
            count += found.len() as u64;
            partners.extend(found.iter().map(|letter| letter.key.partner));
        }
        for partner in partners {
            self.lanes.tell(Input::Lane(partner, ToLane::Redrive));
        }
        after = FIRST;
        while let Some(found) = self.next_letters(&chosen, &mut after).await? {
            // The lane has those that wait.
            for letter in found.into_iter().filter(|letter| !letter.waits) {
                let open = self.reopened(letter).await?;
                self.delivery.store.record(vec![Change::Reopened(open.clone())]);
                self.lanes.tell(Input::Lane(open.key.partner, ToLane::Opened(vec![open])));
            }
            self.delivery.store.record_durably(Vec::new()).await.map_err(|error| unavailable(&error))?;
        }
        Ok(count)
    }

    /// Gives dead letters up for good; they stay on record as cancelled. Answers how many.
    ///
    /// # Errors
    /// There is no such partner or event, or no reason was given.
    pub async fn discard(&self, letters: &Letters, reason: String, by: &Principal) -> Result<u64, Problem> {
        if reason.trim().is_empty() {
            return Err(Problem::new(Code::Invalid, "say why they are discarded").with_field("reason"));
        }
        self.audit_bulk("dead_letters.discard", letters, Some(reason.clone()), by).await?;
        let mut count = self.discard_here(letters, &reason).await?;
        for answer in self.ask_others(&Call::Discard(letters.into(), reason)).await? {
            count += answer.count();
        }
        Ok(count)
    }

    /// The same for partners that are served here.
    pub(crate) async fn discard_here(&self, letters: &Letters, reason: &str) -> Result<u64, Problem> {
        let chosen = self.choose_letters(letters).await?;
        let mut count = 0;
        let mut after = FIRST;
        while let Some(found) = self.next_letters(&chosen, &mut after).await? {
            let mut changes = Vec::new();
            for letter in found {
                count += 1;
                let reason = format!("discarded: {reason}");
                let (waits, partner) = (letter.waits, letter.key.partner);
                let open = self.reopened(letter).await?;
                if waits {
                    self.lanes.tell(Input::Lane(partner, ToLane::Cancel(Box::new(open), reason)));
                    continue;
                }
                let (state, at) = (State::Cancelled, self.now());
                changes.push(Change::Ended { open, state, at, reason, evidence: None, tried: None });
            }
            self.delivery.store.record_durably(changes).await.map_err(|error| unavailable(&error))?;
        }
        self.lanes.settle().await;
        self.delivery.store.record_durably(Vec::new()).await.map_err(|error| unavailable(&error))?;
        Ok(count)
    }

    /// The next step of the chosen letters of partners that are there; `None` at the end.
    async fn next_letters(
        &self,
        chosen: &Chosen,
        after: &mut DeliveryKey,
    ) -> Result<Option<Vec<StoredDelivery>>, Problem> {
        let mut found = self.page_of(chosen, *after, STEP).await?;
        let Some(last) = found.last() else { return Ok(None) };
        *after = last.key;
        let snapshot = self.delivery.registry.snapshot();
        found.retain(|letter| {
            let no = letter.key.partner;
            chosen.takes(letter.reason.as_deref()) && snapshot.by_no.contains_key(&no) && self.serves(no)
        });
        Ok(Some(found))
    }

    async fn page_of(&self, chosen: &Chosen, after: DeliveryKey, limit: usize) -> Result<Vec<StoredDelivery>, Problem> {
        let found = self.delivery.store.dead_letters(chosen.partner, chosen.event, after, limit).await;
        found.map_err(|error| unavailable(&error))
    }

    async fn choose_letters(&self, letters: &Letters) -> Result<Chosen, Problem> {
        let snapshot = self.delivery.registry.snapshot();
        let partner = match &letters.partner {
            Some(id) => Some(snapshot.partner(id)?.no),
            None => None,
        };
        let event = match &letters.event {
            Some(id) => Some(self.recorded(id, false).await?.event.seq),
            None => None,
        };
        Ok(Chosen { partner, event, matching: letters.matching.clone() })
    }

    async fn audit_bulk(
        &self,
        act: &'static str,
        letters: &Letters,
        reason: Option<String>,
        by: &Principal,
    ) -> Result<(), Problem> {
        let matching = letters.matching.as_ref().map(|text| format!("matching {text:?}"));
        let named = [
            letters.partner.as_ref().map(ToString::to_string),
            letters.event.as_ref().map(ToString::to_string),
            matching,
        ];
        let named: Vec<String> = named.into_iter().flatten().collect();
        let object = if named.is_empty() { "all".to_owned() } else { named.join(", ") };
        let audit = self.audit(by, act, object, reason);
        self.delivery.store.put_audit(audit).await.map_err(|error| unavailable(&error))
    }

    /// A dead letter as an open delivery: its attempts are remembered, its patience begins anew.
    pub(crate) async fn reopened(&self, letter: StoredDelivery) -> Result<OpenDelivery, Problem> {
        let recorded = self.event_at(letter.key.seq).await?;
        Ok(OpenDelivery {
            key: letter.key,
            attempts: letter.attempts_made,
            resends: letter.attempts_made,
            message_uuid: letter.message_uuid,
            ..offer_of(&recorded.event).to_open(letter.key.partner, letter.partner_seq)
        })
    }
}

impl Chosen {
    fn takes(&self, reason: Option<&str>) -> bool {
        self.matching.as_deref().is_none_or(|text| reason.is_some_and(|reason| reason.contains(text)))
    }
}
