//! A consistent copy of the database while the hub goes on.
//!
//! The copy is made from one snapshot: SQLite's back-up begins anew whenever the source changes between two steps, and under steady
//! publishing it would never end. It comes under its name only when it is whole and checked.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::backup::Backup;

use super::readers;
use crate::error::StoreError;

/// Pages that are copied at once: 1 MiB.
const STEP_PAGES: i32 = 256;

/// Copies the database at `path` to a new file; answers its bytes.
pub(super) fn backup(path: &Path, file: &Path) -> Result<u64, StoreError> {
    let fail = |error: &dyn std::fmt::Display| StoreError::Unavailable(format!("back-up: {error}"));
    if file.exists() {
        return Err(fail(&"the file exists already"));
    }
    let part = PathBuf::from(format!("{}.part", file.display()));
    let copied = copy(path, &part).and_then(|()| {
        // A link, not a renaming: it does not take the place of a file that came meanwhile.
        std::fs::hard_link(&part, file).map_err(|error| fail(&error))?;
        let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| fail(&error))?;
        file.metadata().map(|found| found.len()).map_err(|error| fail(&error))
    });
    // What is left of it is of no use. A copy that failed may leave a journal, too.
    drop(std::fs::remove_file(&part));
    drop(std::fs::remove_file(format!("{}-journal", part.display())));
    copied
}

fn copy(path: &Path, part: &Path) -> Result<(), StoreError> {
    let fail = |error: &dyn std::fmt::Display| StoreError::Unavailable(format!("back-up: {error}"));
    let made = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(part);
    drop(made.map_err(|error| fail(&error))?);
    let source = readers::open(path)?;
    let snapshot = source.unchecked_transaction()?;
    // A deferred transaction has a snapshot from its first question on.
    snapshot.query_row("select count(*) from setting", [], |_| Ok(()))?;
    let mut target = Connection::open(part).map_err(|error| fail(&error))?;
    Backup::new(&snapshot, &mut target)
        .and_then(|backup| backup.run_to_completion(STEP_PAGES, Duration::ZERO, None))
        .map_err(|error| fail(&error))?;
    drop(snapshot);
    // One file, without a log beside it; the hub that opens it turns the log on again.
    target.pragma_update(None, "journal_mode", "delete").map_err(|error| fail(&error))?;
    let check: String = target.query_row("pragma quick_check", [], |row| row.get(0)).map_err(|error| fail(&error))?;
    if check != "ok" {
        return Err(StoreError::Damaged(format!("back-up: {check}")));
    }
    drop(target);
    File::open(part).and_then(|written| written.sync_all()).map_err(|error| fail(&error))
}
