#![allow(clippy::todo, clippy::unused_async, unused_variables, missing_docs)]
//! Signatures only, while the engine is written.
use crate::view::*;
use ess_core::access::{Principal, Role};
use ess_core::bridge::Bridge;
use ess_core::event::{Content, Trace};
use ess_core::id::{EventId, PartnerId, Seq, Subject, Version};
use ess_core::partner::Partner;
use ess_core::problem::Problem;
use ess_core::time::Time;
use std::time::Duration;

#[derive(Clone)]
pub struct Hub;

/// A partner's word that came through `POST /v1/acks`.
#[derive(Debug, Clone)]
pub enum Word {
    Ack { event: EventId, test: bool },
    Nack { event: EventId, test: bool, reason: String, retryable: bool },
}

impl Hub {
    /// Who bears this token; `None` when unknown, expired or revoked. Never waits.
    pub fn authenticate(&self, token: &str) -> Option<Principal> {
        todo!()
    }
    /// Why the hub can't serve now (`/readyz`), if so.
    pub fn unready(&self) -> Option<String> {
        todo!()
    }
    pub async fn publish(&self, content: Content, trace: Trace, by: &Principal) -> Result<PublishReceipt, Problem> {
        todo!()
    }
    pub async fn plan(&self, content: Content) -> Result<Plan, Problem> {
        todo!()
    }
    pub async fn events(&self, subject: Option<&str>, after: Seq, limit: u32) -> Result<Page<EventView>, Problem> {
        todo!()
    }
    pub async fn event(&self, id: &EventId, test: bool) -> Result<EventView, Problem> {
        todo!()
    }
    /// Partner -> status word, sorted by partner. With `wait`, answers when all have ended or the span is over.
    pub async fn status(
        &self,
        id: &EventId,
        test: bool,
        wait: Option<Duration>,
    ) -> Result<Vec<(PartnerId, &'static str)>, Problem> {
        todo!()
    }
    pub async fn deliveries(&self, id: &EventId, test: bool) -> Result<Vec<DeliveryView>, Problem> {
        todo!()
    }
    pub async fn partner_deliveries(
        &self,
        partner: &PartnerId,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Page<DeliveryView>, Problem> {
        todo!()
    }
    /// A partner's events by its own gapless counter, `from..=to`: counter and the envelope as it is sent.
    pub async fn partner_events(&self, partner: &PartnerId, from: u64, to: u64) -> Result<Vec<(u64, String)>, Problem> {
        todo!()
    }
    pub async fn replay(&self, request: ReplayRequest, by: &Principal) -> Result<ReplayReceipt, Problem> {
        todo!()
    }
    pub async fn add_partner(
        &self,
        partner: Partner,
        replace: bool,
        reason: Option<String>,
        by: &Principal,
    ) -> Result<PartnerChange, Problem> {
        todo!()
    }
    pub async fn partners(&self) -> Result<Vec<PartnerView>, Problem> {
        todo!()
    }
    pub async fn partner(&self, id: &PartnerId) -> Result<PartnerView, Problem> {
        todo!()
    }
    pub async fn remove_partner(&self, id: &PartnerId, reason: Option<String>, by: &Principal) -> Result<(), Problem> {
        todo!()
    }
    pub async fn pause_partner(
        &self,
        id: &PartnerId,
        reason: Option<String>,
        by: &Principal,
    ) -> Result<PartnerView, Problem> {
        todo!()
    }
    pub async fn resume_partner(
        &self,
        id: &PartnerId,
        reason: Option<String>,
        by: &Principal,
    ) -> Result<PartnerView, Problem> {
        todo!()
    }
    pub async fn test_partner(&self, id: &PartnerId, by: &Principal) -> Result<PartnerTest, Problem> {
        todo!()
    }
    /// A new signing secret; the old one signs too for `overlap`.
    pub async fn rotate_secret(&self, id: &PartnerId, overlap: Duration, by: &Principal) -> Result<String, Problem> {
        todo!()
    }
    /// Public keys for `v1a`, as `whpk_…`, newest first.
    pub fn public_keys(&self) -> Vec<String> {
        todo!()
    }
    pub async fn acknowledge(&self, word: Word, partner: &PartnerId, by: &Principal) -> Result<(), Problem> {
        todo!()
    }
    pub async fn add_bridge(&self, bridge: Bridge, replace: bool, by: &Principal) -> Result<bool, Problem> {
        todo!()
    }
    pub async fn bridges(&self) -> Result<Vec<Bridge>, Problem> {
        todo!()
    }
    pub async fn remove_bridge(&self, id: &str, reason: Option<String>, by: &Principal) -> Result<(), Problem> {
        todo!()
    }
    /// Converts a payload as the bridges (or the given script) would; both JSON texts.
    pub async fn try_bridge(
        &self,
        subject: &Subject,
        from: Version,
        to: Version,
        script: Option<&str>,
        payload: &str,
    ) -> Result<String, Problem> {
        todo!()
    }
    pub async fn dead_letters(
        &self,
        partner: Option<&PartnerId>,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Page<DeliveryView>, Problem> {
        todo!()
    }
    /// Redrives (or discards) dead letters of a partner, or one event's; answers how many.
    pub async fn redrive(
        &self,
        partner: Option<&PartnerId>,
        event: Option<&EventId>,
        reason: Option<String>,
        by: &Principal,
    ) -> Result<u64, Problem> {
        todo!()
    }
    pub async fn discard(
        &self,
        partner: Option<&PartnerId>,
        event: Option<&EventId>,
        reason: String,
        by: &Principal,
    ) -> Result<u64, Problem> {
        todo!()
    }
    pub async fn unacked(&self, after: Option<&str>, limit: u32) -> Result<Page<DeliveryView>, Problem> {
        todo!()
    }
    pub async fn ledger(&self, after: Option<u64>, limit: u32) -> Result<Page<LedgerView>, Problem> {
        todo!()
    }
    pub async fn ledger_head(&self) -> Result<LedgerHead, Problem> {
        todo!()
    }
    /// Walks the whole chain; the error names the first entry that does not fit.
    pub async fn verify_ledger(&self) -> Result<LedgerHead, Problem> {
        todo!()
    }
    /// Makes a token and answers it with its view; the secret text is never shown again.
    pub async fn create_token(
        &self,
        role: Role,
        note: String,
        expires_at: Option<Time>,
        by: &Principal,
    ) -> Result<(String, TokenView), Problem> {
        todo!()
    }
    pub async fn tokens(&self) -> Result<Vec<TokenView>, Problem> {
        todo!()
    }
    pub async fn revoke_token(&self, id: &str, reason: Option<String>, by: &Principal) -> Result<(), Problem> {
        todo!()
    }
    pub async fn audit(&self, after: Option<u64>, limit: u32) -> Result<Page<AuditView>, Problem> {
        todo!()
    }
    /// Everything that happens from now on; a slow reader misses some and is told how many.
    pub fn happenings(&self) -> tokio::sync::broadcast::Receiver<Happening> {
        todo!()
    }
    /// Prometheus text exposition.
    pub fn metrics_text(&self) -> String {
        todo!()
    }
    /// Writes a consistent copy of the store to `file` on the hub's machine.
    pub async fn backup(&self, file: &std::path::Path, by: &Principal) -> Result<u64, Problem> {
        todo!()
    }
}
