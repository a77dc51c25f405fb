//! A quick look at a store from outside, also while a hub has it open: reads only, and changes nothing.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use crate::error::StoreError;

/// A database up to this size is read whole; of a larger one only the head is looked at.
const WHOLE_BYTES_MAX: u64 = 256 << 20;

/// What a quick look found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glance {
    /// Size of the database's file.
    pub bytes: u64,
    /// Whether all of it was read.
    pub is_whole: bool,
    /// What is wrong, as SQLite says it; nothing when all is well.
    pub faults: Vec<String>,
}

/// Looks at the store of a data directory; `None` when there is none.
///
/// # Errors
/// It can't be read, or it is no database.
pub fn glance(dir: &Path) -> Result<Option<Glance>, StoreError> {
    let path = dir.join("ess.db");
    let fail = |error: &dyn std::fmt::Display| StoreError::Open(format!("{}: {error}", path.display()));
    let bytes = match std::fs::metadata(&path) {
        Ok(found) => found.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(&error)),
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(&path, flags).map_err(|error| fail(&error))?;
    let is_whole = bytes <= WHOLE_BYTES_MAX;
    let question = if is_whole { "pragma quick_check(5)" } else { "select 'ok' from sqlite_schema limit 1" };
    let mut asked = db.prepare(question).map_err(|error| fail(&error))?;
    let said = asked.query_map((), |row| row.get::<_, String>(0)).map_err(|error| fail(&error))?;
    let mut faults = Vec::new();
    for line in said {
        let line = line.map_err(|error| fail(&error))?;
        if line != "ok" {
            faults.push(line);
        }
    }
    Ok(Some(Glance { bytes, is_whole, faults }))
}
