//! What can go wrong with the store, by what the caller can do about it.

/// A store's failure; the text is for the log, not for strangers.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// It can't be done now: the disk is full, or the file can't be read or written. Nothing was changed.
    #[error("store unavailable: {0}")]
    Unavailable(String),
    /// A read, a write or a sync failed. Nothing was changed, and nothing will be until the store has made sure of what is on the disk.
    #[error("store unavailable: {0}")]
    Shaken(String),
    /// The database was asked and says nothing: whether it was done, and will be, is open.
    #[error("store unavailable: {0}")]
    Unanswered(String),
    /// The database does not take it, and won't take it again: it breaks a rule of the schema. Nothing was changed.
    #[error("the store refused it: {0}")]
    Refused(String),
    /// The data directory can't be opened.
    #[error("could not open the store: {0}")]
    Open(String),
    /// What is stored is not what was stored.
    #[error("the store is damaged: {0}")]
    Damaged(String),
    /// Partners, rules or tokens were changed by another node since the event's audience was chosen. Nothing was changed.
    #[error("the registry was changed meanwhile")]
    Outdated,
    /// This node was given up, and others serve its partners: what it found out is not written down.
    #[error("this node was given up; others serve its partners")]
    Ousted,
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}
