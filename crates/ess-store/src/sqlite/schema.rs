//! The schema, as numbered forward steps. Each step may run on a database that old code still uses (expand first, contract later).

use rusqlite::Connection;

use crate::error::StoreError;

/// "HMSE": marks the file as ours.
const APPLICATION_ID: i64 = 0x484d_5345;

/// Each step brings the schema from its index to the next version.
const STEPS: [&str; 1] = [include_str!("0001.sql")];

/// Brings the database to the newest schema.
///
/// # Errors
/// Not our database, one of a newer hub, or it can't be written.
pub(super) fn migrate(db: &mut Connection) -> Result<(), StoreError> {
    let open = |error: rusqlite::Error| StoreError::Open(error.to_string());
    let version: usize = db.query_row("pragma user_version", [], |row| row.get::<_, i64>(0)).map_err(open)? as usize;
    let application: i64 = db.query_row("pragma application_id", [], |row| row.get(0)).map_err(open)?;
    if version > 0 && application != APPLICATION_ID {
        return Err(StoreError::Open("ess.db is a database of another program".to_owned()));
    }
    if version > STEPS.len() {
        let text = format!("ess.db has schema {version}, this hub knows {}; start a newer hub", STEPS.len());
        return Err(StoreError::Open(text));
    }
    for (index, step) in STEPS.iter().enumerate().skip(version) {
        let tx = db.transaction().map_err(open)?;
        tx.execute_batch(step).map_err(open)?;
        tx.pragma_update(None, "user_version", index as i64 + 1).map_err(open)?;
        tx.pragma_update(None, "application_id", APPLICATION_ID).map_err(open)?;
        tx.commit().map_err(open)?;
    }
    Ok(())
}
