//! Sessions of the dashboard where several hubs share the store: what is kept of one, and how many there may be.

use std::time::Duration;

pub use crate::postgres::Sessions;

/// How long sessions last and how many there are.
#[derive(Debug, Clone, Copy)]
pub struct SessionBounds {
    /// A session ends this long after it began, whatever happens.
    pub age_max: Duration,
    /// A session ends after this long without a request; up to a minute sooner, as not every request is written down.
    pub idle_max: Duration,
    /// Sessions at once.
    pub count_max: usize,
    /// Sessions at once of one token.
    pub of_a_token_max: usize,
}

/// A session that goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// What stands for its token.
    pub token: [u8; 32],
    /// Something is to be told on the next page.
    pub has_notice: bool,
}
