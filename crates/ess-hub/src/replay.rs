//! Replays: an event sent again on request, under a new message id and marked.

use ess_core::access::Principal;
use ess_core::delivery::DeliveryKey;
use ess_core::event::Event;
use ess_core::id::{PartnerNo, Seq};
use ess_core::lane::OpenDelivery;
use ess_core::problem::{Code, Problem};
use ess_store::{Change, Recorded, StoredDelivery};

use crate::cluster::Call;
use crate::hub::Hub;
use crate::lanes::{Input, ToLane, offer_of};
use crate::publish::unavailable;
use crate::view::{ReplayReceipt, ReplayRequest};

impl Hub {
    /// Sends an event again; durable when this returns.
    ///
    /// # Errors
    /// There is no such event or partner, or a newer acknowledged event of the subject has overtaken it and `force` is not set.
    pub async fn replay(&self, request: ReplayRequest, by: &Principal) -> Result<ReplayReceipt, Problem> {
        let recorded = self.recorded(&request.event, false).await?;
        check_payload_is_there(&recorded.event)?;
        let content = &recorded.event.content;
        let snapshot = self.delivery.registry.snapshot();
        let mut to: Vec<PartnerNo> = Vec::new();
        for id in &request.to {
            to.push(snapshot.partner(id)?.no);
        }
        if to.is_empty() {
            let known = recorded.audience.partners().iter().copied();
            to.extend(known.filter(|no| snapshot.by_no.contains_key(no)));
        }
        if !request.force {
            for no in &to {
                let newer = self.delivery.store.acked_after_of_subject(*no, &content.subject, recorded.event.seq).await;
                if let Some(seq) = newer.map_err(|error| unavailable(&error))? {
                    let partner = &snapshot.by_no[no].partner.id;
                    let newer = self.event_at(seq).await?.event.content.id.clone();
                    let detail = format!(
                        "{partner} acknowledged the newer {newer} of the subject; {} would take it back",
                        content.id
                    );
                    return Err(Problem::new(Code::Conflict, detail)
                        .with_field("force")
                        .with_hint("if that is meant, replay with --force (\"force\": true)"));
                }
            }
        }
        let object =
            format!("{} to {}", content.id, request.to.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
        let audit = self.audit(by, "event.replay", object, request.reason.clone());
        self.delivery.store.put_audit(audit).await.map_err(|error| unavailable(&error))?;
        let mut replayed = self.replay_here(recorded.event.seq, self.served_of(&to)).await?;
        let mut rest: Vec<PartnerNo> = to;
        let without = |rest: &mut Vec<PartnerNo>, done: &[(PartnerNo, u32)]| {
            rest.retain(|no| done.iter().all(|(known, _)| known != no));
        };
        without(&mut rest, &replayed);
        if !rest.is_empty() {
            let call = Call::Replay { event: recorded.event.seq, partners: rest.clone() };
            for answer in self.ask_others(&call).await? {
                replayed.extend(answer.replayed());
            }
            without(&mut rest, &replayed);
        }
        for no in rest {
            // On its way from one node to another.
            let call = || Call::Replay { event: recorded.event.seq, partners: vec![no] };
            match self.ask_server(no, call).await? {
                Some(answer) => replayed.extend(answer.replayed()),
                None => replayed.extend(self.replay_here(recorded.event.seq, vec![no]).await?),
            }
        }
        tracing::debug!(event.id = %content.id, actor = by.token_id, count = replayed.len(), "a replay is under way");
        let name = |(no, round): (PartnerNo, u32)| (snapshot.name(no), round);
        Ok(ReplayReceipt { id: content.id.clone(), replayed: replayed.into_iter().map(name).collect() })
    }

    fn served_of(&self, partners: &[PartnerNo]) -> Vec<PartnerNo> {
        partners.iter().copied().filter(|no| self.serves(*no)).collect()
    }

    /// Sends an event again to partners that are served here; answers each with its round.
    pub(crate) async fn replay_here(&self, event: Seq, to: Vec<PartnerNo>) -> Result<Vec<(PartnerNo, u32)>, Problem> {
        let recorded = self.event_at(event).await?;
        let content = &recorded.event.content;
        let snapshot = self.delivery.registry.snapshot();
        let deliveries = self.stored_deliveries(&recorded).await?;
        let mut replayed = Vec::new();
        for no in to {
            let open = replay_of(&recorded, no, &deliveries);
            let opened = vec![Change::Opened(open.clone())];
            self.delivery.store.record_durably(opened).await.map_err(|error| unavailable(&error))?;
            let partner = snapshot.name(no);
            tracing::info!(
                event.id = %content.id,
                event.seq = recorded.event.seq.0,
                partner.id = %partner,
                delivery.round = open.key.round,
                "{} is sent again to {partner}",
                content.id
            );
            replayed.push((no, open.key.round));
            self.lanes.tell(Input::Lane(no, ToLane::Opened(vec![open])));
        }
        Ok(replayed)
    }
}

/// What is gone can't be sent again.
pub(crate) fn check_payload_is_there(event: &Event) -> Result<(), Problem> {
    let Some(gone) = &event.gone else { return Ok(()) };
    let id = &event.content.id;
    Err(Problem::new(Code::PayloadGone, format!("the payload of {id} is gone: {}", gone.told()))
        .with_hint(format!("publish the change anew under a new id, with {id} among its references")))
}

fn replay_of(recorded: &Recorded, partner: PartnerNo, deliveries: &[StoredDelivery]) -> OpenDelivery {
    let own = deliveries.iter().filter(|delivery| delivery.key.partner == partner);
    let last = own.clone().map(|delivery| delivery.key.round).max().unwrap_or(0);
    // The number of the first sending, so that the partner can close the gap that it saw.
    let partner_seq = own.clone().find_map(|delivery| delivery.partner_seq);
    OpenDelivery {
        key: DeliveryKey { seq: recorded.event.seq, partner, round: last + 1 },
        // A receiver drops what it has seen by its message id; a replay is meant to be seen.
        message_uuid: Some(uuid::Uuid::now_v7()),
        ..offer_of(&recorded.event).to_open(partner, partner_seq)
    }
}
