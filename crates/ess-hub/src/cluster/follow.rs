//! The log as the lanes of this node see it: every event once, in its order, whoever recorded it.

use std::sync::Arc;
use std::time::Duration;

use ess_core::event::Kind;
use ess_core::id::Seq;
use ess_store::{Recorded, StoreError};
use tokio::sync::mpsc;

use super::Cluster;
use crate::hub::Hub;

/// Events that are read together.
const PAGE: usize = 256;
/// What was not told is looked for so often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Feeds the lanes until they have ended.
pub(super) async fn run(
    hub: Hub,
    cluster: Arc<Cluster>,
    mut recorded: mpsc::UnboundedReceiver<Vec<Recorded>>,
    fed: mpsc::UnboundedSender<Vec<Recorded>>,
    head: Seq,
) {
    let mut follower = Follower { hub, fed, head };
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let followed = tokio::select! {
            own = recorded.recv() => match own {
                Some(own) => follower.take(own).await,
                None => return,
            },
            () = cluster.told.log.notified() => follower.read_on().await,
            _ = tick.tick() => follower.read_on().await,
        };
        match followed {
            Ok(()) => {}
            Err(StoreError::Closed) => return,
            // What it missed is read at the next tick.
            Err(error) => tracing::warn!(%error, "could not read the log of the other nodes; trying again"),
        }
    }
}

struct Follower {
    hub: Hub,
    fed: mpsc::UnboundedSender<Vec<Recorded>>,
    /// The last event that the lanes were given.
    head: Seq,
}

impl Follower {
    /// Events that this node recorded: between them and the last ones may be others'.
    async fn take(&mut self, mut own: Vec<Recorded>) -> Result<(), StoreError> {
        own.retain(|recorded| recorded.event.seq > self.head);
        let Some(first) = own.first().map(|recorded| recorded.event.seq) else { return Ok(()) };
        if first.0 > self.head.0 + 1 {
            // They are read with the others; a read that fails is made again, and finds them.
            return self.read_on().await;
        }
        self.feed(own);
        Ok(())
    }

    async fn read_on(&mut self) -> Result<(), StoreError> {
        loop {
            let page = self.hub.delivery.store.events(None, self.head, PAGE).await?;
            let is_last = page.len() < PAGE;
            for recorded in &page {
                if recorded.event.content.kind == Kind::Retraction {
                    self.expect(recorded).await;
                }
            }
            if !page.is_empty() {
                self.feed(page);
            }
            if is_last {
                return Ok(());
            }
        }
    }

    /// What a retraction takes back has to be known before lanes are offered it; where it was recorded that was so.
    async fn expect(&self, recorded: &Recorded) {
        match self.hub.retraction_of(recorded).await {
            Ok(retraction) => self.hub.retractions.expect(&recorded.event.content.id, Arc::new(retraction)),
            Err(problem) => {
                tracing::warn!(event.id = %recorded.event.content.id, %problem, "what is retracted could not be read");
            }
        }
    }

    fn feed(&mut self, events: Vec<Recorded>) {
        if let Some(last) = events.last() {
            self.head = last.event.seq;
        }
        // Lanes that have ended take no more.
        drop(self.fed.send(events));
    }
}
