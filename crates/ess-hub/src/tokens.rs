//! Tokens: make, list, revoke.

use ess_core::access::{Principal, Role};
use ess_core::problem::{Code, Problem};
use ess_core::time::Time;

use crate::access;
use crate::hub::Hub;
use crate::publish::unavailable;
use crate::view::TokenView;

impl Hub {
    /// Makes a token and answers it with its view; its text is never shown again.
    ///
    /// # Errors
    /// The partner of a partner's token does not exist, or the store can't write.
    pub async fn create_token(
        &self,
        role: Role,
        note: String,
        expires_at: Option<Time>,
        reason: Option<String>,
        by: &Principal,
    ) -> Result<(String, TokenView), Problem> {
        // A list of tokens that was read before this one was made must not take the place of one that has it.
        let _changing = self.begin_change().await?;
        if let Role::Partner(partner) = &role {
            self.delivery.registry.snapshot().partner(partner)?;
        }
        let made = access::mint(&role, note, self.now(), expires_at);
        let (text, stored) = made.map_err(|_| Problem::new(Code::Internal, "the system gives no random bytes"))?;
        let audit = self.audit(by, "token.create", format!("{} ({})", stored.id, role.word()), reason);
        self.delivery.store.put_token(stored.clone(), audit).await.map_err(|error| unavailable(&error))?;
        let view = access::view(&stored).ok_or_else(|| Problem::new(Code::Internal, "a token without a role"))?;
        self.access.put(stored);
        Ok((text, view))
    }

    /// All tokens, oldest first.
    ///
    /// # Errors
    /// None today; the answer may come from a store one day.
    #[allow(clippy::unused_async)]
    pub async fn tokens(&self) -> Result<Vec<TokenView>, Problem> {
        Ok(self.access.list())
    }

    /// Revokes a token, at once.
    ///
    /// # Errors
    /// There is none of this name.
    pub async fn revoke_token(&self, id: &str, reason: Option<String>, by: &Principal) -> Result<(), Problem> {
        // The same of one that still had it: it would be good again for a while.
        let _changing = self.begin_change().await?;
        if !self.access.knows(id) {
            let problem = Problem::new(Code::NotFound, format!("there is no token {id}"));
            return Err(problem.with_hint("`hms-ess token list` shows the tokens"));
        }
        let now = self.now();
        let audit = self.audit(by, "token.revoke", id, reason);
        self.delivery.store.revoke_token(id.to_owned(), now, audit).await.map_err(|error| unavailable(&error))?;
        self.access.revoke(id, now);
        Ok(())
    }
}
