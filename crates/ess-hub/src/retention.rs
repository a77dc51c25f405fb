//! What is kept for how long: a pass every so often, in steps that leave the store's writer to deliveries nearly all the time.
//!
//! It decides nothing about an event; the store asks the core in the transaction that removes. A pass that is interrupted goes on
//! where it was, as what went is gone.

use std::sync::Arc;
use std::time::Duration;

use ess_core::access::Principal;
use ess_core::event::Content;
use ess_core::id::{EventId, PartnerNo, Seq};
use ess_core::partner::Glob;
use ess_core::problem::{Code, Problem};
use ess_core::retention::{Keep, pause_after};
use ess_store::{AttemptPlace, Hold, HoldOn, Lifted, NewHold, Step, StoreError, Sweep};

use crate::hub::Hub;
use crate::metrics::RemovedLabels;
use crate::publish::unavailable;
use crate::view::{HeldThing, HoldView};

/// Rows that a step looks at, and how long it may take: a publish that comes meanwhile waits for it.
const ROWS_MAX: usize = 1_024;
const TIME_MAX: Duration = Duration::from_millis(2);
/// After a step that failed.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// What is kept for how long, and how often it is looked at.
#[derive(Debug, Clone, Copy)]
pub struct RetentionOptions {
    /// For how long.
    pub keep: Keep,
    /// From one pass to the next.
    pub every: Duration,
}

/// The parts of a pass, each with what it removes.
const PARTS: [(&str, Step); 6] = [
    ("payloads", Step::Later(Seq(0))),
    ("payloads", Step::Payloads { test: false }),
    ("payloads", Step::Payloads { test: true }),
    ("attempts", Step::Attempts(AttemptPlace::START)),
    ("audit", Step::Audit),
    ("pages", Step::FreePages),
];

/// How often a node looks whether it is the one that clears away; nothing hurries, what is old waits.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Makes a pass at the start and every so often.
pub(crate) async fn run(hub: Hub, options: RetentionOptions) {
    let mut ticks = tokio::time::interval(options.every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // One node clears away for all; another may take its place at any time.
        hub.wait_to_lead(LOOK_AGAIN).await;
        let mut removed = [0; PARTS.len()];
        for ((what, first), removed) in PARTS.into_iter().zip(&mut removed) {
            *removed = sweep_part(&hub, &options.keep, what, first).await;
        }
        let [later, events, tests, attempts, audit, pages] = removed;
        if removed.iter().any(|removed| *removed > 0) {
            tracing::info!(
                payloads = later + events + tests,
                attempts,
                audit,
                pages,
                "retention removed what is older than it is kept"
            );
        }
    }
}

/// Makes steps until there is nothing more; answers how much went.
async fn sweep_part(hub: &Hub, keep: &Keep, what: &'static str, first: Step) -> u64 {
    let counter = hub.delivery.metrics.removed.get_or_create_owned(&RemovedLabels { what });
    let (mut removed, mut next) = (0, Some(first));
    let mut cursors: Option<Arc<[(PartnerNo, Seq)]>> = None;
    while let Some(step) = next {
        let known = match &cursors {
            Some(known) => Ok(known.clone()),
            None => hub.delivery.store.cursors().await.map(Arc::from),
        };
        let swept = match known {
            Ok(known) => {
                cursors = Some(known.clone());
                let (keep, now) = (*keep, hub.now());
                let sweep = Sweep { step, keep, now, cursors: known, rows_max: ROWS_MAX, time_max: TIME_MAX };
                hub.delivery.store.sweep(sweep).await
            }
            Err(error) => Err(error),
        };
        match swept {
            Ok(swept) => {
                swept.expired.iter().for_each(|seq| hub.delivery.cells.drop_expired(*seq));
                removed += swept.removed;
                counter.inc_by(swept.removed);
                next = swept.next;
                tokio::time::sleep(pause_after(swept.took)).await;
            }
            Err(StoreError::Closed) => return removed,
            Err(error) => {
                tracing::warn!(%error, what, "retention could not go on; trying again");
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
    }
    removed
}

impl Hub {
    /// Places a legal hold: nothing that it covers goes by age or is redacted until it is lifted. Durable when this returns.
    ///
    /// # Errors
    /// There is no such event, or as many holds as there may be.
    pub async fn place_hold(&self, on: HeldThing, reason: String, by: &Principal) -> Result<HoldView, Problem> {
        let (object, stored) = match &on {
            HeldThing::Event(id) => {
                self.check_is_recorded(id).await?;
                (id.to_string(), HoldOn::Event(id.to_string()))
            }
            HeldThing::Subject(glob) => {
                (format!("subject {}", glob.as_str()), HoldOn::Subject(glob.as_str().to_owned()))
            }
        };
        let hold = NewHold { on: stored, at: self.now(), by: by.token_id.clone(), reason };
        let audit = self.audit(by, "hold.add", object, Some(hold.reason.clone()));
        let placed = self.delivery.store.put_hold(hold.clone(), audit).await;
        let number = placed.map_err(|error| match error {
            StoreError::Refused(why) => Problem::new(Code::Conflict, why)
                .with_hint("lift holds that are over, or hold a subject: one covers many"),
            error => unavailable(&error),
        })?;
        let NewHold { at, by, reason, .. } = hold;
        Ok(HoldView { number, on, at, by, reason, lifted: None })
    }

    /// Legal holds in the order in which they were placed; with `all`, lifted ones too.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn holds(&self, all: bool) -> Result<Vec<HoldView>, Problem> {
        let holds = self.delivery.store.holds().await.map_err(|error| unavailable(&error))?;
        Ok(holds.into_iter().filter(|hold| all || hold.lifted.is_none()).map(view).collect())
    }

    /// Lifts a legal hold; it stays on record.
    ///
    /// # Errors
    /// None of this number is in force.
    pub async fn lift_hold(&self, number: u64, reason: String, by: &Principal) -> Result<(), Problem> {
        let lifted = Lifted { at: self.now(), by: by.token_id.clone(), reason: reason.clone() };
        let audit = self.audit(by, "hold.remove", number.to_string(), Some(reason));
        self.delivery.store.lift_hold(number, lifted, audit).await.map_err(|error| match error {
            StoreError::Refused(_) => Problem::new(Code::NotFound, format!("no legal hold {number} is in force"))
                .with_hint("`hms-ess hold list` shows those that are"),
            error => unavailable(&error),
        })
    }

    /// The hold that covers an event, if one does.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn hold_on(&self, content: &Content) -> Result<Option<HoldView>, Problem> {
        let holds = self.holds(false).await?;
        Ok(holds.into_iter().find(|hold| match &hold.on {
            HeldThing::Event(id) => *id == content.id,
            HeldThing::Subject(glob) => glob.matches(content.subject.as_str()),
        }))
    }

    /// There is an event of this id, or a dry run.
    async fn check_is_recorded(&self, id: &EventId) -> Result<(), Problem> {
        match self.recorded(id, false).await {
            Err(problem) if problem.code == Code::NotFound => {
                self.recorded(id, true).await.map(drop).map_err(|_| problem)
            }
            found => found.map(drop),
        }
    }
}

fn view(hold: Hold) -> HoldView {
    let Hold { number, on, at, by, reason, lifted } = hold;
    let on = match on {
        HoldOn::Event(id) => HeldThing::Event(EventId::trusted(&id)),
        HoldOn::Subject(glob) => HeldThing::Subject(Glob::trusted(&glob)),
    };
    let lifted = lifted.map(|Lifted { at, by, reason }| (at, by, reason));
    HoldView { number, on, at, by, reason, lifted }
}
