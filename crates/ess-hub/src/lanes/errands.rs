//! What runs beside the loop and comes back as an input: attempts, and reads of the store.

use std::sync::Arc;
use std::time::Duration;

use ess_core::id::{PartnerNo, Seq, Subject};
use ess_core::lane::Attempt;

use super::{Input, LanesHandle, ToLane};
use crate::deliver::{Delivery, Way};
use crate::heartbeat::Beat;
use crate::registry::Registered;

/// How many stored deliveries of one line are read at once.
const LINE_PAGE: usize = 16;

/// An attempt under way; it always comes back as a `Report`, so that the loop knows what is under way.
pub(super) fn spawn_attempt(
    delivery: &Arc<Delivery>,
    handle: &LanesHandle,
    registered: &Arc<Registered>,
    stay: u64,
    attempt: Attempt,
) {
    let (delivery, handle, registered) = (delivery.clone(), handle.clone(), registered.clone());
    tokio::spawn(async move {
        let no = registered.no;
        let announcing = handle.clone();
        let announce = move |sent| {
            announcing.tell(Input::Errand(no, stay, ToLane::Prepared(attempt.seq, attempt.round, sent)));
        };
        let report = delivery.attempt(&registered, attempt, Way::Own, announce).await;
        handle.tell(Input::Errand(no, stay, ToLane::Report(Box::new(report))));
    });
}

/// An attempt by the partner's fallback channel; it always comes back as a `FallbackReport`.
pub(super) fn spawn_fallback(
    delivery: &Arc<Delivery>,
    handle: &LanesHandle,
    registered: &Arc<Registered>,
    stay: u64,
    attempt: Attempt,
) {
    let (delivery, handle, registered) = (delivery.clone(), handle.clone(), registered.clone());
    tokio::spawn(async move {
        let report = delivery.attempt(&registered, attempt, Way::Fallback, drop).await;
        handle.tell(Input::Errand(registered.no, stay, ToLane::FallbackReport(Box::new(report))));
    });
}

/// A heartbeat; it always comes back as `Beaten`.
pub(super) fn spawn_heartbeat(
    delivery: &Arc<Delivery>,
    handle: &LanesHandle,
    registered: &Arc<Registered>,
    beat: Beat,
) {
    let (delivery, handle, registered) = (delivery.clone(), handle.clone(), registered.clone());
    tokio::spawn(async move {
        delivery.beat(&registered, beat).await;
        handle.tell(Input::Beaten);
    });
}

pub(super) fn spawn_load_urgent(
    delivery: &Arc<Delivery>,
    handle: &LanesHandle,
    (no, stay): (PartnerNo, u64),
    from: (Seq, Seq),
    limit: usize,
) {
    let (delivery, handle) = (delivery.clone(), handle.clone());
    tokio::spawn(async move {
        let page = until_read(|| delivery.store.urgent_backlog(no, from, limit)).await;
        handle.tell(Input::Errand(no, stay, ToLane::UrgentLoaded(page)));
    });
}

pub(super) fn spawn_load(
    delivery: &Arc<Delivery>,
    handle: &LanesHandle,
    (no, stay): (PartnerNo, u64),
    after: Seq,
    limit: usize,
) {
    let (delivery, handle) = (delivery.clone(), handle.clone());
    tokio::spawn(async move {
        let page = until_read(|| delivery.store.backlog(no, after, limit)).await;
        handle.tell(Input::Errand(no, stay, ToLane::Loaded(page.entries, page.scanned_to)));
    });
}

pub(super) fn spawn_load_line(
    delivery: &Arc<Delivery>,
    handle: &LanesHandle,
    (no, stay): (PartnerNo, u64),
    subject: Subject,
    test: bool,
) {
    let (delivery, handle) = (delivery.clone(), handle.clone());
    tokio::spawn(async move {
        // What was just left in the store must be there before it is read back.
        until_read(|| delivery.store.record_durably(Vec::new())).await;
        let read = || delivery.store.open_of_subject(no, &subject, test, LINE_PAGE + 1);
        let mut line = until_read(read).await;
        let more = line.len() > LINE_PAGE;
        line.truncate(LINE_PAGE);
        handle.tell(Input::Errand(no, stay, ToLane::LineLoaded(subject.clone(), test, line, more)));
    });
}

pub(super) fn spawn_load_open(
    delivery: &Arc<Delivery>,
    handle: &LanesHandle,
    (no, stay): (PartnerNo, u64),
    after: (Seq, u32),
    limit: usize,
) {
    let (delivery, handle) = (delivery.clone(), handle.clone());
    tokio::spawn(async move {
        until_read(|| delivery.store.record_durably(Vec::new())).await;
        let page = until_read(|| delivery.store.open_deliveries(no, after, limit)).await;
        let is_full = page.len() >= limit;
        let next = is_full.then(|| page.last().map(|open| (open.key.seq, open.key.round))).flatten();
        handle.tell(Input::Errand(no, stay, ToLane::OpenLoaded(page, next)));
    });
}

/// Reads until it succeeds: a lane that waits for a page has nothing better to do.
async fn until_read<T, F, R>(mut read: F) -> T
where
    F: FnMut() -> R,
    R: Future<Output = Result<T, ess_store::StoreError>>,
{
    loop {
        match read().await {
            Ok(value) => return value,
            Err(error) => {
                tracing::warn!(%error, "could not read from the store; trying again");
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
        }
    }
}
