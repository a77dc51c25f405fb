//! Answers a scrape: what was counted, and what is read for it now.
//!
//! Bounded in size and work: the lanes' survey is shared by all who look, and only the partners that need attention most have
//! series of their own.

use std::sync::Arc;

use ess_core::problem::Code;
use ess_core::time::Time;

use crate::hub::Hub;
use crate::metrics::described as metric;
use crate::metrics::readings::Readings;
use crate::metrics::{Limit, Metrics};
use crate::overview::{Condition, PartnerStanding};

/// Partners with series of their own; those that need attention most come first.
pub const PARTNER_SERIES_MAX: usize = 100;
/// A partner's backlog is counted up to here.
const BACKLOG_COUNTED: u64 = 10_000;

impl Hub {
    /// Prometheus text exposition. What the store can't tell now is left out.
    pub async fn scrape(&self) -> String {
        let mut readings = Readings::default();
        self.read_itself(&mut readings);
        self.read_node(&mut readings);
        self.read_store(&mut readings);
        self.read_scripts(&mut readings);
        if let Err(problem) = self.read_partners(&mut readings).await {
            tracing::warn!(%problem, "a scrape lacks what only the store knows");
        }
        self.delivery.metrics.text(readings)
    }

    /// Notes when the certificate ends that the hub shows from now on.
    pub fn note_certificate(&self, ends: Time) {
        self.certificate_ends.send_replace(Some(ends));
    }

    /// What is counted, for those who count themselves.
    #[must_use]
    pub fn metrics(&self) -> Arc<Metrics> {
        self.delivery.metrics.clone()
    }

    /// Counts that a ceiling outside the engine was reached.
    pub fn count_limit(&self, limit: Limit) {
        self.delivery.metrics.count_limit(limit);
    }

    /// Counts a refused request.
    pub fn count_refusal(&self, code: Code) {
        self.delivery.metrics.count_refusal(code);
    }

    fn read_itself(&self, readings: &mut Readings) {
        readings.put(metric::HUB_READY, f64::from(u8::from(self.unready().is_none())));
        readings.put(metric::HUB_START, epoch_seconds(self.delivery.clock.began()));
        if let Some(ends) = *self.certificate_ends.borrow() {
            readings.put(metric::CERTIFICATE_EXPIRY, epoch_seconds(ends));
        }
    }

    fn read_node(&self, readings: &mut Readings) {
        let Some(cluster) = &self.cluster else { return };
        readings.put(metric::NODES_LIVE, cluster.live_count() as f64);
        readings.put(metric::NODE_LEASE, f64::from(u8::from(self.delivery.lease.holds())));
        readings.put(metric::NODE_PARTNERS, cluster.served_count() as f64);
        readings.put(metric::NODE_TAKEOVERS, cluster.takeovers() as f64);
    }

    fn read_store(&self, readings: &mut Readings) {
        let store = &self.delivery.store;
        readings.put_commits(store.commit_times());
        if let Some(bytes) = store.bytes() {
            readings.put(metric::STORE_BYTES, bytes as f64);
        }
        readings.put(metric::STORE_WRITABLE, f64::from(u8::from(store.failing().is_none())));
        readings.put(metric::STORE_UNRECORDED, store.unrecorded() as f64);
        if let Some(free) = self.free_bytes() {
            readings.put(metric::STORE_FREE, free as f64);
        }
    }

    fn read_scripts(&self, readings: &mut Readings) {
        let counts = self.delivery.workshop.scripts.counts();
        readings.put(metric::EVALUATIONS, counts.evaluations as f64);
        readings.put(metric::SCRIPT_ERRORS, counts.errors as f64);
        readings.put(metric::SCRIPT_KILLS, counts.kills as f64);
        readings.put(metric::SCRIPT_SECONDS, counts.time.as_secs_f64());
        readings.put(metric::SCRIPT_PROCESSES, counts.processes as f64);
    }

    async fn read_partners(&self, readings: &mut Readings) -> Result<(), ess_core::problem::Problem> {
        let survey = self.own_survey().await;
        let overview = self.overview_of(&survey, PARTNER_SERIES_MAX).await?;
        let age = |then: Time| overview.at.since(then).as_secs_f64();
        readings.put(metric::EVENTS, overview.events.0 as f64);
        readings.put(metric::LEDGER, overview.receipts as f64);
        readings.put(metric::DEAD_LETTERS, overview.dead as f64);
        let count = |condition: Condition| overview.counts.get(&condition).copied().unwrap_or(0) as f64;
        let conditions = Condition::ALL.map(|condition| (condition.word().to_owned(), count(condition)));
        readings.put_each(metric::CONDITIONS, conditions);
        let (open, oldest) = self.open_of(&survey).await?;
        readings.put(metric::BACKLOG, open as f64);
        readings.put(metric::OLDEST, oldest.map_or(0.0, age));
        let needing: usize = overview.counts.iter().filter(|(one, _)| **one != Condition::Well).map(|(_, n)| n).sum();
        readings.put(metric::PARTNER_UNLISTED, needing.saturating_sub(overview.attention.len()) as f64);
        let listed = &overview.attention;
        let name = |standing: &PartnerStanding| standing.partner.id.to_string();
        let ages = listed.iter().filter_map(|one| Some((name(one), age(one.oldest.as_ref()?.recorded_at))));
        readings.put_each(metric::PARTNER_OLDEST, ages);
        let offline = listed.iter().filter_map(|one| Some((name(one), age(one.standing.offline_since?))));
        readings.put_each(metric::PARTNER_OFFLINE, offline);
        let mut backlogs = Vec::with_capacity(listed.len());
        for one in listed {
            backlogs.push((name(one), self.backlog_of(one).await? as f64));
        }
        readings.put_each(metric::PARTNER_BACKLOG, backlogs);
        Ok(())
    }

    /// What the lane holds is counted there; more lies in the store.
    async fn backlog_of(&self, one: &PartnerStanding) -> Result<u64, ess_core::problem::Problem> {
        if !one.standing.has_more {
            return Ok(u64::from(one.standing.open));
        }
        let no = self.delivery.registry.snapshot().partner(&one.partner.id)?.no;
        let counted = self.delivery.store.backlog_count(no, BACKLOG_COUNTED).await;
        counted.map_err(|error| crate::publish::unavailable(&error))
    }
}

impl Condition {
    /// Every one, what needs somebody first first.
    pub const ALL: [Self; 8] = [
        Self::Blocked,
        Self::GivenUp,
        Self::Offline,
        Self::Unacknowledged,
        Self::Retrying,
        Self::Slow,
        Self::Paused,
        Self::Well,
    ];

    /// Its word in metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Blocked => "blocked",
            Self::GivenUp => "given_up",
            Self::Offline => "offline",
            Self::Unacknowledged => "unacknowledged",
            Self::Retrying => "retrying",
            Self::Slow => "slow",
            Self::Paused => "paused",
            Self::Well => "well",
        }
    }
}

fn epoch_seconds(time: Time) -> f64 {
    time.as_micros() as f64 / 1e6
}
