//! Words that arrive later: `POST /v1/acks` under a partner's own token, receipt files and topics.

use std::sync::Arc;

use ess_core::access::Principal;
use ess_core::delivery::{DeliveryKey, State};
use ess_core::event::Event;
use ess_core::id::{Digest, EventId, PartnerId, Version};
use ess_core::problem::{Code, Problem};
use ess_core::receipt::Evidence;
use ess_store::{AckReceipt, Change, StoredDelivery};

use crate::cluster::Call;
use crate::hub::Hub;
use crate::lanes::{Input, ToLane, Word as LaneWord};
use crate::publish::unavailable;
use crate::registry::Registered;

/// A partner's word.
#[derive(Debug, Clone)]
pub enum Word {
    /// It has it.
    Ack {
        /// The event.
        event: EventId,
        /// A dry run.
        test: bool,
        /// SHA-256 of the bytes that it got, if it says so.
        digest: Option<Digest>,
    },
    /// It refuses it.
    Nack {
        /// The event.
        event: EventId,
        /// A dry run.
        test: bool,
        /// Why.
        reason: String,
        /// Worth another attempt: the hub's own schedule goes on.
        retryable: bool,
    },
}

impl Hub {
    /// Takes a partner's word; durable when this returns. An ACK that comes late, or twice, or of an earlier attempt, counts once.
    ///
    /// # Errors
    /// The event is not one of this partner's, was never sent to it, or the digest is of other bytes.
    pub async fn acknowledge(&self, word: Word, partner: &PartnerId, by: &Principal) -> Result<(), Problem> {
        let snapshot = self.delivery.registry.snapshot();
        let registered = snapshot.partner(partner)?.clone();
        tracing::debug!(partner.id = %partner, actor = by.token_id, "a partner's word by callback");
        self.take_word(word, &registered, Evidence::Callback).await
    }

    /// Takes a partner's word, however it came; durable when this returns.
    pub(crate) async fn take_word(
        &self,
        word: Word,
        registered: &Registered,
        evidence: Evidence,
    ) -> Result<(), Problem> {
        self.take_word_about(word, registered, evidence, None).await
    }

    /// Takes the word about one round, whatever was said of others.
    pub(crate) async fn take_word_of_round(
        &self,
        word: Word,
        registered: &Registered,
        evidence: Evidence,
        round: u32,
    ) -> Result<(), Problem> {
        self.take_word_about(word, registered, evidence, Some(round)).await
    }

    /// Takes the word where the partner is served, about one round if it is named.
    pub(crate) async fn take_word_about(
        &self,
        word: Word,
        registered: &Registered,
        evidence: Evidence,
        round: Option<u32>,
    ) -> Result<(), Problem> {
        let no = registered.no;
        if self.ask_server(no, || Call::word(no, &word, evidence, round)).await?.is_some() {
            return Ok(());
        }
        let is_meant = |delivery: &StoredDelivery| round.is_none_or(|round| delivery.key.round == round);
        let partner = &registered.partner.id;
        let (id, test) = match &word {
            Word::Ack { event, test, .. } | Word::Nack { event, test, .. } => (event.clone(), *test),
        };
        let not_its = || {
            Problem::new(Code::NotFound, format!("there is no delivery of {id} to {partner}"))
                .with_hint("acknowledge events that this partner was sent, with its own token")
        };
        let recorded = self.recorded(&id, test).await.map_err(|_| not_its())?;
        let deliveries = self.stored_deliveries(&recorded).await?;
        let own: Vec<&StoredDelivery> =
            deliveries.iter().filter(|delivery| delivery.key.partner == registered.no).collect();
        // The newest round that is not acknowledged, else it was said before.
        let Some(newest) = own.last() else { return Err(not_its()) };
        let open = own.iter().rev().find(|delivery| delivery.state != State::Acked && is_meant(delivery));
        let Some(delivery) = open else { return Ok(()) };
        let key = delivery.key;
        match word {
            Word::Ack { digest, .. } => {
                check_digest(digest, delivery)?;
                let lane_word = LaneWord::Ack { seq: key.seq, round: key.round, evidence };
                if !self.lanes.word(registered.no, lane_word).await {
                    self.acknowledge_in_store(delivery, newest, &recorded.event, evidence).await;
                    self.delivery.metrics.count_end(State::Acked.word(), registered.partner.channel.word());
                }
            }
            Word::Nack { retryable: true, reason, .. } => {
                tracing::info!(partner.id = %partner, event.id = %id, reason, "a retryable nack; the schedule goes on");
            }
            Word::Nack { reason, .. } => {
                let lane_word = LaneWord::Nack { seq: key.seq, round: key.round, evidence, reason };
                self.lanes.word(registered.no, lane_word).await;
            }
        }
        if let Ok(channel) = registered.channel_for(test)
            && let Some(pull) = channel.pull()
        {
            // It was said: it is not offered again.
            pull.recall(&id, test);
        }
        tracing::info!(partner.id = %partner, event.id = %id, evidence = evidence.word(), "a partner's word for {id}");
        self.delivery.store.record_durably(Vec::new()).await.map_err(|error| unavailable(&error))
    }

    /// A delivery that no lane holds: it ended, or waits in the store.
    async fn acknowledge_in_store(
        &self,
        delivery: &StoredDelivery,
        newest: &StoredDelivery,
        event: &Event,
        evidence: Evidence,
    ) {
        // The lane may have ended it between the look and the word: then it is in the ledger already.
        if let Ok(Some(State::Acked)) = self.state_of(delivery.key).await {
            return;
        }
        let receipt = AckReceipt {
            key: delivery.key,
            at: self.now(),
            attempt: delivery.attempts_made.max(1),
            evidence,
            body_digest: delivery.body_digest.or(newest.body_digest).unwrap_or(Digest([0; 32])),
            version: delivery.version.or(newest.version).unwrap_or(Version(0)),
            scripts: Arc::clone(&delivery.scripts),
            partner_seq: delivery.partner_seq,
            has_rows: true,
        };
        self.delivery.store.record(vec![Change::Acked(receipt)]);
        let content = &event.content;
        let (key, subject) = (delivery.key, content.subject.clone());
        self.lanes.tell(Input::Lane(key.partner, ToLane::EndedInStore((key.seq, key.round), subject, content.test)));
    }

    pub(crate) async fn state_of(&self, key: DeliveryKey) -> Result<Option<State>, Problem> {
        // What lanes recorded before this question is to be seen.
        self.delivery.store.record_durably(Vec::new()).await.map_err(|error| unavailable(&error))?;
        let deliveries = self.delivery.store.deliveries_of_event(key.seq).await.map_err(|error| unavailable(&error))?;
        Ok(deliveries.into_iter().find(|delivery| delivery.key == key).map(|delivery| delivery.state))
    }
}

fn check_digest(said: Option<Digest>, delivery: &StoredDelivery) -> Result<(), Problem> {
    match (said, delivery.body_digest) {
        (Some(said), Some(sent)) if said != sent => {
            let detail = format!("the ACK is for other bytes: it names sha-256 {said}, sent were {sent}");
            Err(Problem::new(Code::Conflict, detail).with_field("digest"))
        }
        _ => Ok(()),
    }
}
