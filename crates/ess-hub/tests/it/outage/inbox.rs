//! A partner that fetches its events itself, and can go away.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ess_core::access::{Principal, Role};
use ess_core::id::PartnerId;
use ess_hub::{Hub, Word};
use tokio::task::JoinSet;

use super::town::number_of;

/// The partner.
#[derive(Default)]
pub(crate) struct Fetcher {
    hub: Option<Hub>,
    taken: Arc<Mutex<Vec<usize>>>,
    asking: JoinSet<()>,
}

impl Fetcher {
    /// Begins to ask, and goes on until it goes away; what it took and did not acknowledge until then is in flight.
    pub(crate) fn ask(&mut self, acked_max: usize) {
        let (hub, taken) = (self.hub.clone().unwrap(), Arc::clone(&self.taken));
        self.asking.spawn(async move {
            let id = PartnerId::trusted("P");
            let principal = Principal { token_id: "p".to_owned(), role: Role::Partner(id.clone()), expires_at: None };
            let mut acked = 0;
            loop {
                let fetched = hub.take_from_inbox(&id, 2, Duration::from_secs(3_600)).await.unwrap();
                for message in fetched.messages {
                    taken.lock().unwrap().push(number_of(message.event_id.as_str()));
                    if acked == acked_max {
                        // It fell over before it said that it has this one.
                        return;
                    }
                    acked += 1;
                    let word = Word::Ack { event: message.event_id, test: false, digest: None };
                    hub.acknowledge(word, &id, &principal).await.unwrap();
                }
            }
        });
    }

    pub(crate) fn meet(&mut self, hub: &Hub) {
        self.hub = Some(hub.clone());
    }

    pub(crate) fn go_away(&mut self) {
        self.asking.abort_all();
    }

    /// Whether it went away by itself.
    pub(crate) fn is_gone(&mut self) -> bool {
        self.asking.try_join_next().is_some() || self.asking.is_empty()
    }

    pub(crate) fn taken(&self) -> Vec<usize> {
        self.taken.lock().unwrap().clone()
    }
}
