//! Trouble and targets for those who ask, and a test of a target.

use std::sync::PoisonError;

use ess_core::access::Principal;
use ess_core::escalation::{LOG, Note, Target, commands};
use ess_core::id::PartnerId;
use ess_core::partner::Secrets;
use ess_core::problem::{Code, Problem};

use crate::hub::Hub;
use crate::publish::unavailable;
use crate::view::{EscalationView, Page, TargetTest, TargetView, TellingView};

impl Hub {
    /// Trouble that is there now, urgent first, then oldest; of one partner if it is named.
    #[must_use]
    pub fn escalations(&self, partner: Option<&PartnerId>) -> Vec<EscalationView> {
        let troubles = self.ops.board.lock().unwrap_or_else(PoisonError::into_inner).troubles.clone();
        let snapshot = self.delivery.registry.snapshot();
        let is_log = |name: &String| name == LOG;
        let mut views: Vec<EscalationView> = troubles
            .into_iter()
            .map(|watched| {
                let name = snapshot.name(watched.partner);
                let run = commands(&name, watched.cause, &watched.trouble);
                EscalationView {
                    cause: watched.cause.word(),
                    since: watched.trouble.since,
                    urgent: watched.trouble.urgent,
                    deliveries: watched.trouble.count,
                    oldest_event: watched.trouble.oldest,
                    last_error: watched.trouble.error,
                    run: run.into_iter().map(|(command, _)| command).collect(),
                    told: watched.told.into_iter().filter(|name| !is_log(name)).collect(),
                    waiting: watched.waiting.into_iter().filter(|(name, _)| !is_log(name)).collect(),
                    partner: name,
                }
            })
            .filter(|view| partner.is_none_or(|partner| *partner == view.partner))
            .collect();
        views.sort_by_key(|view| (!view.urgent, view.since));
        views
    }

    /// What targets were told and took, newest first; `next` is the `before` of the following page.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn tellings(&self, before: Option<u64>, limit: usize) -> Result<Page<TellingView>, Problem> {
        let found = self.delivery.store.tellings_before(before.unwrap_or(u64::MAX), limit).await;
        let found = found.map_err(|error| unavailable(&error))?;
        let is_full = found.len() == limit;
        let next = found.last().filter(|last| is_full && last.number > 1).map(|last| last.number.to_string());
        let snapshot = self.delivery.registry.snapshot();
        let items = found.into_iter().map(|line| TellingView {
            number: line.number,
            at: line.at,
            partner: snapshot.name(line.partner),
            cause: line.cause,
            target: Some(line.target).filter(|name| name != LOG),
            is_end: line.is_end,
            urgent: line.urgent,
        });
        Ok(Page { items: items.collect(), next })
    }

    /// The configured targets and how they fare, by name.
    #[must_use]
    pub fn targets(&self) -> Vec<TargetView> {
        let fares = self.ops.board.lock().unwrap_or_else(PoisonError::into_inner).fares.clone();
        let view = |(name, target): (&String, &Target)| {
            let fares = fares.get(name).cloned().unwrap_or_default();
            TargetView {
                name: name.clone(),
                document: target.to_json(Secrets::Masked),
                failures: fares.failures,
                not_before: Some(fares.not_before).filter(|time| *time > self.now()),
                sent_at: fares.sent_at,
                last_error: fares.last_error.or_else(|| self.ops.targets.unusable(name)),
            }
        };
        self.ops.options.targets.iter().map(view).collect()
    }

    /// Sends a marked message to a target, and says what came back.
    ///
    /// # Errors
    /// There is none of this name.
    pub async fn test_target(&self, name: &str, by: &Principal) -> Result<TargetTest, Problem> {
        if !self.ops.options.targets.contains_key(name) {
            let known: Vec<&str> = self.ops.options.targets.keys().map(String::as_str).collect();
            let hint = if known.is_empty() {
                "`targets:` in the hub's configuration has none".to_owned()
            } else {
                format!("known are {}", known.join(", "))
            };
            return Err(Problem::new(Code::NotFound, format!("there is no target {name}")).with_hint(hint));
        }
        let audit = self.audit(by, "target.test", name, None);
        self.delivery.store.put_audit(audit).await.map_err(|error| unavailable(&error))?;
        let began = self.now();
        let note = Note::test(&self.ops.hub_name, name, began);
        let sent = self.ops.targets.send(name, &note, &self.delivery.workshop.key).await;
        let took = self.now().since(began);
        let (sent, reason) = match sent {
            Ok(()) => (true, "taken".to_owned()),
            Err(reason) => (false, reason),
        };
        Ok(TargetTest { sent, reason, took })
    }
}
