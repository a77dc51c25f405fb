//! Tokens: who may do what. The secret text is never kept, only its hash.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use ess_core::access::{Principal, Role};
use ess_core::id::PartnerId;
use ess_core::partner::Glob;
use ess_core::time::Time;
use ess_store::StoredToken;

use crate::view::TokenView;

/// Random bytes of a token and of its public name.
const SECRET_BYTES: usize = 32;

/// Stands for a token that was shown once, so that it need not be kept to ask again whether it is still good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenMark([u8; 32]);

impl TokenMark {
    /// What stands for this token, known or not.
    #[must_use]
    pub fn of(token: &str) -> Self {
        Self(hash(token))
    }

    pub(crate) fn of_digest(digest: [u8; 32]) -> Self {
        Self(digest)
    }

    pub(crate) fn digest(self) -> [u8; 32] {
        self.0
    }
}

/// The tokens of now, by hash.
#[derive(Debug, Default)]
pub struct Access {
    /// Guards the map; held for look-ups and single changes.
    tokens: RwLock<HashMap<[u8; 32], StoredToken>>,
}

impl Access {
    /// These tokens.
    #[must_use]
    pub fn new(tokens: Vec<StoredToken>) -> Self {
        Self { tokens: RwLock::new(tokens.into_iter().map(|token| (token.hash, token)).collect()) }
    }

    /// Who bears this token; `None` when it is unknown, expired or revoked.
    #[must_use]
    pub fn principal(&self, token: &str, now: Time) -> Option<Principal> {
        self.principal_of(&TokenMark::of(token), now)
    }

    /// Who bore the token that this stands for; `None` when it is unknown, expired or revoked.
    #[must_use]
    pub fn principal_of(&self, mark: &TokenMark, now: Time) -> Option<Principal> {
        let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
        let stored = tokens.get(&mark.0)?;
        let has_ended = stored.revoked_at.is_some() || stored.expires_at.is_some_and(|end| end <= now);
        if has_ended {
            return None;
        }
        Some(Principal { token_id: stored.id.clone(), role: role_of(stored)?, expires_at: stored.expires_at })
    }

    /// These tokens, in place of all.
    pub fn replace(&self, tokens: Vec<StoredToken>) {
        let tokens = tokens.into_iter().map(|token| (token.hash, token)).collect();
        *self.tokens.write().unwrap_or_else(PoisonError::into_inner) = tokens;
    }

    /// Takes a token in, or its new state.
    pub fn put(&self, token: StoredToken) {
        self.tokens.write().unwrap_or_else(PoisonError::into_inner).insert(token.hash, token);
    }

    /// Marks a token as revoked; `None` when there is none of this name.
    pub fn revoke(&self, id: &str, at: Time) -> Option<()> {
        let mut tokens = self.tokens.write().unwrap_or_else(PoisonError::into_inner);
        let token = tokens.values_mut().find(|token| token.id == id)?;
        token.revoked_at.get_or_insert(at);
        Some(())
    }

    /// Whether there is a token of this name.
    #[must_use]
    pub fn knows(&self, id: &str) -> bool {
        let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
        tokens.values().any(|token| token.id == id)
    }

    /// All tokens, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<TokenView> {
        let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
        let mut views: Vec<TokenView> = tokens.values().filter_map(view).collect();
        views.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        views
    }
}

/// A new token: its text, which is shown once, and what is stored of it.
///
/// # Errors
/// The system gives no random bytes.
pub fn mint(
    role: &Role,
    note: String,
    created_at: Time,
    expires_at: Option<Time>,
) -> Result<(String, StoredToken), getrandom::Error> {
    let mut random = [0u8; SECRET_BYTES + 4];
    getrandom::fill(&mut random)?;
    let (secret, name) = random.split_at(SECRET_BYTES);
    // The prefix lets secret scanners and people see what it is.
    let text = format!("hms_{}_{}", role.word(), hex(secret));
    let (subjects, partner) = match role {
        Role::Publisher { subjects } => (subjects.iter().map(|glob| glob.as_str().to_owned()).collect(), None),
        Role::Partner(partner) => (Vec::new(), Some(partner.as_str().to_owned())),
        Role::Operator | Role::Auditor | Role::Admin => (Vec::new(), None),
    };
    let stored = StoredToken {
        id: format!("tok_{}", hex(name)),
        hash: hash(&text),
        role: role.word().to_owned(),
        subjects,
        partner,
        note,
        created_at,
        expires_at,
        revoked_at: None,
    };
    Ok((text, stored))
}

/// A token's view.
#[must_use]
pub fn view(token: &StoredToken) -> Option<TokenView> {
    Some(TokenView {
        id: token.id.clone(),
        role: role_of(token)?,
        note: token.note.clone(),
        created_at: token.created_at,
        expires_at: token.expires_at,
        revoked_at: token.revoked_at,
    })
}

/// Tokens hold 256 random bits, so a plain hash is as good as a slow one: there is nothing to guess.
fn hash(token: &str) -> [u8; 32] {
    blake3::derive_key("hms-ess 2026 access token", token.as_bytes())
}

fn role_of(token: &StoredToken) -> Option<Role> {
    Some(match token.role.as_str() {
        "publisher" => Role::Publisher { subjects: token.subjects.iter().map(|glob| Glob::trusted(glob)).collect() },
        "partner" => Role::Partner(PartnerId::trusted(token.partner.as_deref()?)),
        "operator" => Role::Operator,
        "auditor" => Role::Auditor,
        "admin" => Role::Admin,
        _ => return None,
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_known_until_it_ends() {
        let now = Time::from_micros(1_000);
        let (text, stored) = mint(&Role::Auditor, "a note".to_owned(), now, Some(Time::from_micros(2_000))).unwrap();
        assert!(text.starts_with("hms_auditor_"));
        let id = stored.id.clone();
        let access = Access::new(vec![stored]);
        assert_eq!(access.principal(&text, now).unwrap().role, Role::Auditor);
        assert!(access.principal(&text, Time::from_micros(2_000)).is_none());
        assert!(access.principal("hms_auditor_00", now).is_none());
        access.revoke(&id, now).unwrap();
        assert!(access.principal(&text, now).is_none());
    }
}
