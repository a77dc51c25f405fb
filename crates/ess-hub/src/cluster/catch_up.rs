//! Partners, rules and tokens that other nodes changed.

use std::sync::Arc;
use std::time::Duration;

use ess_core::problem::Problem;
use ess_store::{RegistryChanges, StoreError, StoredPartner};
use tokio::sync::MutexGuard;

use super::{ASK_WITHIN, Cluster};
use crate::hub::{Hub, read_partner, read_secrets, write_secrets};
use crate::lanes::Input;
use crate::publish::unavailable;
use crate::rules::Rules;

/// What was not told is looked for so often.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Catches up whenever something was changed.
pub(super) async fn run(hub: Hub, cluster: Arc<Cluster>) {
    loop {
        // Looked at every now and then all the same.
        drop(tokio::time::timeout(LOOK_EVERY, cluster.told.registry.notified()).await);
        match hub.catch_up().await {
            Err(StoreError::Closed) => return,
            Err(error) => tracing::debug!(%error, "could not look for changes of the registry; trying again"),
            Ok(()) => {}
        }
    }
}

impl Hub {
    /// The right to change the registry, with what other nodes changed.
    pub(crate) async fn begin_change(&self) -> Result<MutexGuard<'_, ()>, Problem> {
        let changing = self.delivery.registry.changing.lock().await;
        self.catch_up_here().await.map_err(|error| unavailable(&error))?;
        Ok(changing)
    }

    /// Takes in what other nodes changed.
    pub(crate) async fn catch_up(&self) -> Result<(), StoreError> {
        let _changing = self.delivery.registry.changing.lock().await;
        self.catch_up_here().await
    }

    /// The same for who has the right to change the registry.
    async fn catch_up_here(&self) -> Result<(), StoreError> {
        let Some(cluster) = &self.cluster else { return Ok(()) };
        let known = self.delivery.registry.number();
        let changes = cluster.nodes.registry_since(known, ASK_WITHIN).await?;
        if changes.number == known {
            return Ok(());
        }
        let RegistryChanges { number, partners, rules, tokens } = changes;
        for stored in &partners {
            self.take_in(cluster, stored)?;
        }
        if let Some(tokens) = tokens {
            self.access.replace(tokens);
        }
        if let Some(stored) = rules {
            let rules = Rules::read(&stored).map_err(StoreError::Damaged)?;
            self.delivery.workshop.scripts.set_tables(rules.tables.clone());
            self.swap_rules(rules);
        }
        // Last: who reads the number before the snapshot never has more of the one than of the other.
        self.delivery.registry.set_number(number);
        cluster.told.seats.notify_one();
        Ok(())
    }

    fn take_in(&self, cluster: &Cluster, stored: &StoredPartner) -> Result<(), StoreError> {
        let registry = &self.delivery.registry;
        let known = registry.snapshot().by_no.get(&stored.no).cloned();
        if stored.removed_at.is_some() {
            if let Some(known) = known {
                registry.remove(&known.partner.id);
                self.lanes.tell(Input::Unseat(stored.no));
                self.delivery.attention.mark(stored.no);
                self.delivery.watches.leave(stored.no);
            }
            return Ok(());
        }
        let partner = read_partner(stored)?;
        let secrets = read_secrets(&stored.secrets);
        let next = match known {
            Some(known) if *known.partner == partner => {
                let is_same =
                    known.paused_since == stored.paused_since && write_secrets(&known.secrets) == stored.secrets;
                if is_same {
                    // This node's own change, mostly.
                    return Ok(());
                }
                known.with(stored.paused_since, secrets)
            }
            _ => self.opener.register(stored.no, Arc::new(partner), stored.added_at, stored.paused_since, secrets),
        };
        let next = Arc::new(next);
        registry.put(next.clone());
        self.survey.forget();
        if cluster.serves(stored.no) {
            self.lanes.tell(Input::Reseat(next.clone()));
            self.delivery.watches.watch(&next);
            self.delivery.attention.mark(stored.no);
        }
        Ok(())
    }
}
