//! What is wrong with one partner, by the store, the registry and its lane.

use std::collections::HashMap;
use std::time::Duration;

use ess_core::escalation::{Cause, Trouble};
use ess_core::id::{EventId, PartnerNo};
use ess_core::time::Time;
use ess_store::{FoundTrouble, PartnerTroubles, StoreError};

use crate::hub::Hub;
use crate::lanes::LaneGlance;

/// Who pauses a partner whose address is gone.
const BY_HUB: &str = "hub";

/// Each cause with what is wrong, if anything is. `is_overdue` says that it was so before.
pub(super) async fn troubles(
    hub: &Hub,
    no: PartnerNo,
    (glance, is_overdue): (LaneGlance, bool),
    pauses: &mut HashMap<PartnerNo, (Time, Option<String>)>,
) -> Result<[(Cause, Option<Trouble>); 7], StoreError> {
    let snapshot = hub.delivery.registry.snapshot();
    let Some(registered) = snapshot.by_no.get(&no).cloned() else {
        // Removed: whatever was wrong is over.
        pauses.remove(&no);
        return Ok(Cause::ALL.map(|cause| (cause, None)));
    };
    let mut pending = glance.oldest;
    if pending[0].is_none() && is_overdue {
        // A lane that has just started may not have read its backlog yet: that is no end of what was told before.
        let first = hub.delivery.store.first_pending(no).await?;
        pending[0] = first.filter(|offer| !offer.test).map(|offer| offer.seq);
    }
    let found = hub.delivery.store.troubles(no, pending).await?;
    let offline_since = glance.offline_since.or(found.offline_since);
    let mut paused = None;
    if let Some(since) = registered.paused_since {
        if pauses.get(&no).is_none_or(|(known, _)| *known != since) {
            let last = hub.delivery.store.last_pause(registered.partner.id.as_str()).await?;
            let reason = last.filter(|(by, _)| by == BY_HUB).map(|(_, reason)| reason.unwrap_or_default());
            pauses.insert(no, (since, reason));
        }
        paused = pauses.get(&no).cloned().and_then(|(since, reason)| Some((since, reason?)));
    }
    let last_error = match (&found.open, offline_since) {
        (None, None) => None,
        _ => hub.lanes.inspect(no).await.last_error,
    };
    let after = hub.ops.after(&registered.partner);
    let now = hub.now();
    Ok(Cause::ALL.map(|cause| {
        let trouble = match cause {
            Cause::Unacked => unacked(&found, after, now, last_error.as_deref()),
            Cause::Blocked => found.blocked.as_ref().map(trouble),
            Cause::Offline => offline_since.map(|since| of_partner(&found, since, last_error.clone())),
            Cause::GaveUp => found.gave_up_at.map(|since| of_partner(&found, since, last_error.clone())),
            Cause::DeadLetter => found.dead.as_ref().map(trouble),
            Cause::Paused => paused.as_ref().map(|(since, reason)| of_partner(&found, *since, Some(reason.clone()))),
            Cause::Unacknowledged => found.outstanding.as_ref().map(trouble),
        };
        (cause, trouble)
    }))
}

fn unacked(found: &PartnerTroubles, after: Duration, now: Time, last_error: Option<&str>) -> Option<Trouble> {
    let open = found.open.as_ref().filter(|open| now.since(open.since) >= after)?;
    let mut trouble = trouble(open);
    trouble.urgent = found.open_urgent_since.is_some_and(|since| now.since(since) >= after);
    trouble.error = trouble.error.or_else(|| last_error.map(str::to_owned));
    Some(trouble)
}

fn trouble(found: &FoundTrouble) -> Trouble {
    Trouble {
        since: found.since,
        count: found.count,
        has_more: found.has_more,
        oldest: Some(EventId::trusted(&found.oldest)),
        error: found.reason.clone(),
        mend: found.mend.clone(),
        urgent: found.urgent,
    }
}

/// Trouble of the partner itself: everything that waits for it is concerned.
fn of_partner(found: &PartnerTroubles, since: Time, error: Option<String>) -> Trouble {
    let open = found.open.as_ref();
    Trouble {
        since,
        count: open.map_or(0, |open| open.count),
        has_more: open.is_some_and(|open| open.has_more),
        oldest: open.map(|open| EventId::trusted(&open.oldest)),
        error: error.filter(|error| !error.is_empty()).or_else(|| open.and_then(|open| open.reason.clone())),
        mend: None,
        urgent: found.open_urgent_since.is_some(),
    }
}
