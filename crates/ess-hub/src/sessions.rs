//! Who is signed in to the dashboard, where several hubs share a store: kept there, so that it does not matter which one is asked.
//!
//! Never hands a session's text on, only digests of it.

use std::time::Duration;

use ess_core::access::Principal;
use ess_core::problem::Problem;
use ess_store::{Nodes, SessionBounds, Sessions, StoreError};

use crate::access::TokenMark;
use crate::hub::Hub;
use crate::publish::unavailable;

/// How long sessions last and how many there are, in memory as in a shared store.
pub const SESSION_BOUNDS: SessionBounds = SessionBounds {
    age_max: Duration::from_secs(12 * 3_600),
    idle_max: Duration::from_secs(3_600),
    count_max: 4_096,
    of_a_token_max: 32,
};
/// Somebody waits for a page: a database that does not answer is given up after this.
const ASK_WITHIN: Duration = Duration::from_secs(3);

/// What stands for a session: nobody finds the cookie from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionKey([u8; 32]);

impl SessionKey {
    /// What stands for the session of this cookie.
    #[must_use]
    pub fn of(cookie: &str) -> Self {
        Self(blake3::derive_key("hms-ess 2026 dashboard session", cookie.as_bytes()))
    }
}

/// The text that stands in every form of the session of this cookie: a page of somebody else's knows neither.
#[must_use]
pub fn form_token_of(cookie: &str) -> String {
    let token = blake3::derive_key("hms-ess 2026 dashboard form", cookie.as_bytes());
    token.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The sessions that all hubs on a store know; cheap to clone.
#[derive(Clone)]
pub struct SharedSessions {
    kept: Sessions,
}

impl SharedSessions {
    pub(crate) fn new(nodes: &Nodes) -> Self {
        Self { kept: nodes.sessions(SESSION_BOUNDS) }
    }

    /// Begins a session for a token that was just shown.
    ///
    /// # Errors
    /// The database can't be asked now.
    pub async fn begin(&self, key: SessionKey, mark: TokenMark) -> Result<(), Problem> {
        self.kept.begin(key.0, mark.digest(), ASK_WITHIN).await.map_err(|error| unavailable(&error))
    }

    /// What stands for the token of the session, if it goes on, and whether something is to be told on its next page; it was
    /// seen now.
    ///
    /// # Errors
    /// The database can't be asked now.
    pub async fn find(&self, key: SessionKey) -> Result<Option<(TokenMark, bool)>, Problem> {
        let found = self.kept.find(key.0, ASK_WITHIN).await.map_err(|error| unavailable(&error))?;
        Ok(found.map(|session| (TokenMark::of_digest(session.token), session.has_notice)))
    }

    /// Whether the session goes on; asking does not keep it.
    ///
    /// # Errors
    /// The database can't be asked now.
    pub async fn goes_on(&self, key: SessionKey) -> Result<bool, Problem> {
        let found = self.kept.peek(key.0, ASK_WITHIN).await.map_err(|error| unavailable(&error))?;
        Ok(found.is_some())
    }

    /// Ends a session at every hub.
    ///
    /// # Errors
    /// The database can't be asked now: it may go on.
    pub async fn end(&self, key: SessionKey) -> Result<(), Problem> {
        self.kept.end(key.0, ASK_WITHIN).await.map_err(|error| unavailable(&error))
    }

    /// Leaves word for the session's next page, whichever hub renders it.
    ///
    /// # Errors
    /// It could not be kept.
    pub async fn leave(&self, key: SessionKey, notice: &[u8]) -> Result<(), Problem> {
        self.kept.leave(key.0, notice, ASK_WITHIN).await.map_err(|error| unavailable(&error))
    }

    /// Takes the word that was left.
    ///
    /// # Errors
    /// The database can't be asked now: it stays for another page.
    pub async fn take_notice(&self, key: SessionKey) -> Result<Option<Vec<u8>>, Problem> {
        self.kept.take_notice(key.0, ASK_WITHIN).await.map_err(|error| unavailable(&error))
    }

    pub(crate) async fn clear(&self) -> Result<(), StoreError> {
        self.kept.clear(ASK_WITHIN).await
    }
}

impl Hub {
    /// The dashboard's sessions in the store, where other hubs share it.
    #[must_use]
    pub fn shared_sessions(&self) -> Option<SharedSessions> {
        self.cluster.as_ref().map(|cluster| cluster.sessions.clone())
    }

    /// Who bore the token that this stands for; `None` once it has expired or was revoked. One that another hub made a moment ago
    /// is looked for.
    ///
    /// # Errors
    /// It is not known here and the database can't be asked now.
    pub async fn find_bearer(&self, mark: &TokenMark) -> Result<Option<Principal>, Problem> {
        let known = self.still_bears(mark);
        if known.is_some() || self.cluster.is_none() {
            return Ok(known);
        }
        self.catch_up().await.map_err(|error| unavailable(&error))?;
        Ok(self.still_bears(mark))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_the_key_nor_the_forms_token_tells_of_the_cookie_or_of_each_other() {
        let cookie = "5a".repeat(32);
        let (key, token) = (SessionKey::of(&cookie), form_token_of(&cookie));
        let key: String = key.0.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(token.len() == 64 && key != token && key != cookie && token != cookie);
        assert_ne!(form_token_of(&"5b".repeat(32)), token);
    }
}
