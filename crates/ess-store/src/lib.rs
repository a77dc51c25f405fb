//! The Event Log, the outcomes of deliveries, the Ack Ledger and the registry, on SQLite or PostgreSQL.
//!
//! Publishing writes the event alone: what is pending for a partner is derived from the log and the partner's cursor, and an outcome
//! is written when it is known. One writer thread commits in groups, every commit with an fsync. Never decides anything about a
//! delivery; that is the lane's.

mod audience;
mod commit_times;
mod copy;
mod engine;
mod error;
mod ledger;
mod look;
mod nodes;
mod postgres;
mod retention;
mod seal;
mod server_url;
mod sessions;
mod sql;
mod sqlite;
mod store;
mod types;
mod writer;

pub use audience::Audience;
pub use commit_times::CommitTimes;
pub use copy::{Copied, copy_store};
pub use error::StoreError;
pub use ledger::{Entry, Word};
pub use look::{Direction, LogLine, LogSearch, Reached, StoredTelling, TextPage, TextSearch};
pub use nodes::{NodeLine, NodeNo, Nodes, Notice, RegistryChanges, Sight, home_of};
pub use retention::{AttemptPlace, Hold, HoldOn, Lifted, NewHold, Redaction, Step, Sweep, Swept};
pub use server_url::ServerUrl;
pub use sessions::{Session, SessionBounds, Sessions};
pub use sqlite::{Glance, glance};
pub use store::{Opened, Options, Store};
pub use types::{
    AckReceipt, Audit, AuditLine, Backlog, Change, FoundTrouble, LaneStart, LedgerEntry, NewEvent, NewPartner,
    PartnerTroubles, Publication, Recorded, RuleKind, Start, StoredAttempt, StoredCheckpoint, StoredDelivery,
    StoredEscalation, StoredPartner, StoredRules, StoredToken, UrgentBacklog,
};
