//! Moves a hub up: everything of an embedded database into a server's empty one, in one transaction.

use std::path::Path;

use crate::error::StoreError;
use crate::server_url::ServerUrl;
use crate::store::Options;
use crate::{postgres, sqlite};

type Result<T> = std::result::Result<T, StoreError>;

/// Every table, those before that others refer to.
pub(crate) const TABLES: [&str; 21] = [
    "setting",
    "partner",
    "bridge",
    "json_schema",
    "lookup_table",
    "token",
    "audit",
    "audience",
    "event",
    "lane",
    "open_delivery",
    "ended_delivery",
    "attempt",
    "ledger",
    "ledger_tile",
    "checkpoint",
    "legal_hold",
    "retention_mark",
    "retention_later",
    "escalation",
    "telling",
];

/// What was copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// Events of the log.
    pub events: u64,
    /// Receipts of the ledger, each recomputed.
    pub receipts: u64,
    /// Rows of all tables.
    pub rows: u64,
}

/// Copies the store of a directory, whose hub is stopped, into an empty database; all of it or nothing. Waits on this thread.
///
/// # Errors
/// A hub has the directory or the database, the database is not empty, or the ledger does not fit its chain.
pub fn copy_store(from: &Path, to: &ServerUrl) -> Result<Copied> {
    if !from.join("ess.db").is_file() {
        return Err(StoreError::Open(format!("{}: no store is there", from.display())));
    }
    let options = Options::embedded(from.to_owned());
    let parts = sqlite::open(&options)?;
    if let Some(error) = parts.failing {
        return Err(error);
    }
    let crate::writer::Keeper::Sqlite(mut source) = parts.keeper else {
        return Err(StoreError::Open("the directory holds no embedded store".to_owned()));
    };
    let copied = postgres::receive(&options, to, &source, parts.heads);
    source.close(false);
    copied
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_is_copied() {
        let db = rusqlite::Connection::open_in_memory().unwrap();
        db.execute_batch(include_str!("sqlite/schema.sql")).unwrap();
        let names = "select name from sqlite_schema where type = 'table'";
        let mut known: Vec<String> =
            db.prepare(names).unwrap().query_map([], |row| row.get(0)).unwrap().map(rusqlite::Result::unwrap).collect();
        let mut copied: Vec<String> = TABLES.map(str::to_owned).to_vec();
        known.sort();
        copied.sort();
        assert_eq!(known, copied);
    }
}
