//! The URL of a server; it may hold a password, which is never shown.

use std::fmt;

/// `postgres://USER:PASSWORD@HOST:PORT/DATABASE`.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerUrl(String);

impl ServerUrl {
    /// Takes a URL of this kind; whether there is a server shows when it is opened.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let is_ours = ["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme));
        is_ours.then(|| Self(text.to_owned()))
    }

    /// With the password in it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

/// Without the password.
impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, rest) = self.0.split_once("://").unwrap_or_default();
        let (address, query) = rest.split_once('?').map_or((rest, None), |(address, query)| (address, Some(query)));
        write!(f, "{scheme}://")?;
        match address.rsplit_once('@') {
            Some((user, place)) => match user.split_once(':') {
                Some((user, _)) => write!(f, "{user}:***@{place}")?,
                None => write!(f, "{user}@{place}")?,
            },
            None => write!(f, "{address}")?,
        }
        let Some(query) = query else { return Ok(()) };
        let shown =
            |pair: &str| if pair.starts_with("password=") { "password=***".to_owned() } else { pair.to_owned() };
        write!(f, "?{}", query.split('&').map(shown).collect::<Vec<_>>().join("&"))
    }
}

/// Without the password.
impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, shown: &str) {
        assert_eq!(format!("{:?}", ServerUrl::new(url).unwrap()), shown);
    }

    #[test]
    fn a_password_is_never_shown() {
        check("postgres://ess:geheim@db:5432/ess", "postgres://ess:***@db:5432/ess");
        check("postgres://ess:ge@heim@db/ess?sslmode=verify-full", "postgres://ess:***@db/ess?sslmode=verify-full");
        check("postgresql://ess@db/ess?password=geheim&a=b", "postgresql://ess@db/ess?password=***&a=b");
        check("postgres:///ess?host=/run/postgresql", "postgres:///ess?host=/run/postgresql");
        assert_eq!(ServerUrl::new("mysql://x"), None);
    }
}
