//! Partners, rules, tokens and settings: each change is durable with its audit line when its method returns, or not made at all.

use ess_core::id::{Digest, PartnerNo};
use ess_core::time::Time;

use super::Store;
use crate::error::StoreError;
use crate::sql::registry::{self, Act, Deed};
use crate::types::{Audit, AuditLine, NewPartner, RuleKind, StoredCheckpoint, StoredEscalation, StoredToken};

impl Store {
    /// Adds a partner, or puts it in the place of the one with its number; answers the number. Numbers are never given again.
    ///
    /// # Errors
    /// `Refused` when a partner of this id is there already, or none of this number. `Unavailable` when it can't be written now.
    pub async fn put_partner(&self, partner: NewPartner, audit: Audit) -> Result<PartnerNo, StoreError> {
        self.act(Deed::PutPartner(partner), audit).await.map(PartnerNo)
    }

    /// Pauses a partner, or lets it go on.
    ///
    /// # Errors
    /// The store can't write now.
    pub async fn set_paused(&self, no: PartnerNo, since: Option<Time>, audit: Audit) -> Result<(), StoreError> {
        self.act(Deed::Pause(no, since), audit).await.map(drop)
    }

    /// Removes a partner; what it was sent stays on record.
    ///
    /// # Errors
    /// The store can't write now.
    pub async fn remove_partner(&self, no: PartnerNo, at: Time, audit: Audit) -> Result<(), StoreError> {
        self.act(Deed::RemovePartner(no, at), audit).await.map(drop)
    }

    /// Stores another set of signing secrets for a partner, sealed.
    ///
    /// # Errors
    /// The store can't write now.
    pub async fn put_secrets(
        &self,
        no: PartnerNo,
        secrets: &[(String, Option<Time>)],
        audit: Audit,
    ) -> Result<(), StoreError> {
        self.act(Deed::PutSecrets(no, secrets.to_vec()), audit).await.map(drop)
    }

    /// Stores a rule's document under its id, in the place of one that is there.
    ///
    /// # Errors
    /// The store can't write now.
    pub async fn put_rule(&self, kind: RuleKind, id: String, document: String, audit: Audit) -> Result<(), StoreError> {
        self.act(Deed::PutRule { kind, id, document }, audit).await.map(drop)
    }

    /// Removes a rule.
    ///
    /// # Errors
    /// The store can't write now.
    pub async fn remove_rule(&self, kind: RuleKind, id: String, audit: Audit) -> Result<(), StoreError> {
        self.act(Deed::RemoveRule { kind, id }, audit).await.map(drop)
    }

    /// Stores a token, or its new state.
    ///
    /// # Errors
    /// The store can't write now.
    pub async fn put_token(&self, token: StoredToken, audit: Audit) -> Result<(), StoreError> {
        self.act(Deed::PutToken(token), audit).await.map(drop)
    }

    /// Marks a token as revoked; the first time counts.
    ///
    /// # Errors
    /// The store can't write now.
    pub async fn revoke_token(&self, id: String, at: Time, audit: Audit) -> Result<(), StoreError> {
        self.act(Deed::RevokeToken { id, at }, audit).await.map(drop)
    }

    /// A sealed setting.
    ///
    /// # Errors
    /// The store can't be read, or the setting does not open.
    pub async fn secret_setting(&self, key: &'static str) -> Result<Option<Vec<u8>>, StoreError> {
        let seal = self.engine.seal();
        self.engine.read(move |reader| registry::setting(reader, &seal, key)).await
    }

    /// Stores a setting, sealed, unless there is one: what was chosen first stays.
    ///
    /// # Errors
    /// The store can't write now.
    pub async fn put_secret_setting(&self, key: &'static str, value: &[u8]) -> Result<(), StoreError> {
        let deed = Deed::PutSetting { key, value: value.to_vec() };
        self.engine.act(Act { deed, audit: None }).await.map(drop)
    }

    /// Adds the ledger's next leaves to its tree; `first` is the place of the first one.
    ///
    /// # Errors
    /// `Refused` when the tree has another size. `Unavailable` when it can't be written now.
    pub async fn grow_tree(&self, first: u64, leaves: Vec<Digest>) -> Result<(), StoreError> {
        self.engine.act(Act { deed: Deed::GrowTree { first, leaves }, audit: None }).await.map(drop)
    }

    /// Keeps a signed checkpoint; one of the same size stays as it is.
    ///
    /// # Errors
    /// The store can't write now.
    pub async fn put_checkpoint(&self, checkpoint: StoredCheckpoint) -> Result<(), StoreError> {
        self.engine.act(Act { deed: Deed::PutCheckpoint(checkpoint), audit: None }).await.map(drop)
    }

    /// Remembers that Ops were told of a trouble's beginning.
    ///
    /// # Errors
    /// The store can't write now.
    pub async fn put_escalation(&self, told: StoredEscalation) -> Result<(), StoreError> {
        self.engine.act(Act { deed: Deed::PutEscalation(told), audit: None }).await.map(drop)
    }

    /// Remembers that Ops were told of its end.
    ///
    /// # Errors
    /// The store can't write now.
    pub async fn remove_escalation(&self, told: StoredEscalation) -> Result<(), StoreError> {
        self.engine.act(Act { deed: Deed::RemoveEscalation(told), audit: None }).await.map(drop)
    }

    /// Writes a line of the audit trail.
    ///
    /// # Errors
    /// The store can't write now.
    pub async fn put_audit(&self, audit: Audit) -> Result<(), StoreError> {
        self.act(Deed::Note, audit).await.map(drop)
    }

    /// Lines of the audit trail after a number.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn audit(&self, after: u64, limit: usize) -> Result<Vec<AuditLine>, StoreError> {
        self.engine.read(move |reader| registry::audit(reader, after, limit)).await
    }

    pub(super) async fn act(&self, deed: Deed, audit: Audit) -> Result<u32, StoreError> {
        self.engine.act(Act { deed, audit: Some(audit) }).await
    }
}
