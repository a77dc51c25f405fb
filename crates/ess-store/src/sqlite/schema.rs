//! The schema, as numbered forward steps. Each step may run on a database that old code still uses (expand first, contract later).

use rusqlite::Connection;

use crate::error::StoreError;

/// "HMSE": marks the file as ours.
const APPLICATION_ID: i64 = 0x484d_5345;

/// Each step brings the schema from its index to the next version.
const STEPS: [&str; 8] = [
    include_str!("0001.sql"),
    include_str!("0002.sql"),
    include_str!("0003.sql"),
    include_str!("0004.sql"),
    include_str!("0005.sql"),
    include_str!("0006.sql"),
    include_str!("0007.sql"),
    include_str!("0008.sql"),
];

/// What a database file is to this hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing is in it.
    Fresh,
    /// It has this schema, which may be an older one.
    Schema(usize),
}

/// Looks at a database without changing it.
///
/// # Errors
/// It is not ours, of a newer hub, or can't be read.
pub(super) fn look(db: &Connection) -> Result<Found, StoreError> {
    let open = |error: rusqlite::Error| StoreError::Open(format!("ess.db: {error}"));
    let number = |sql: &str| db.query_row(sql, [], |row| row.get::<_, i64>(0)).map_err(open);
    let version = number("pragma user_version")?;
    let application = number("pragma application_id")?;
    let objects = number("select count(*) from sqlite_schema")?;
    if (version, application, objects) == (0, 0, 0) {
        return Ok(Found::Fresh);
    }
    if application != APPLICATION_ID {
        return Err(StoreError::Open("ess.db is a database of another program".to_owned()));
    }
    match usize::try_from(version) {
        Ok(version) if version <= STEPS.len() => Ok(Found::Schema(version)),
        _ => {
            let text = format!("ess.db has schema {version}, this hub knows {}; start a newer hub", STEPS.len());
            Err(StoreError::Open(text))
        }
    }
}

/// Whether there is no step left to take.
pub(super) fn is_newest(found: Found) -> bool {
    found == Found::Schema(STEPS.len())
}

/// Brings the database to the newest schema; each step is one transaction, so that a crash leaves the schema before or after it.
///
/// # Errors
/// It can't be written.
pub(super) fn migrate(db: &mut Connection, found: Found) -> Result<(), StoreError> {
    let open = |error: rusqlite::Error| StoreError::Open(format!("ess.db: {error}"));
    let version = match found {
        Found::Fresh => 0,
        Found::Schema(version) => version,
    };
    for (index, step) in STEPS.iter().enumerate().skip(version) {
        let tx = db.transaction().map_err(open)?;
        tx.execute_batch(step).map_err(open)?;
        tx.pragma_update(None, "user_version", index as i64 + 1).map_err(open)?;
        tx.pragma_update(None, "application_id", APPLICATION_ID).map_err(open)?;
        tx.commit().map_err(open)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tables with their columns, and indexes with what they index: what two databases have in common when they mean the same.
    fn shape(db: &Connection) -> Vec<String> {
        let columns = "select t.name || '.' || c.name || ' ' || c.type || ' ' || c.\"notnull\" || ' ' || c.pk \
                       from sqlite_schema t, pragma_table_xinfo(t.name) c where t.type = 'table'";
        let indexes = "select sql from sqlite_schema where type = 'index' and sql is not null";
        let mut shape = Vec::new();
        for sql in [columns, indexes] {
            let mut statement = db.prepare(sql).unwrap();
            let rows = statement.query_map([], |row| row.get::<_, String>(0)).unwrap();
            shape.extend(rows.map(|row| row.unwrap().split_whitespace().collect::<Vec<_>>().join(" ")));
        }
        shape.sort();
        shape
    }

    #[test]
    fn the_steps_together_give_the_whole_schema() {
        let mut stepped = Connection::open_in_memory().unwrap();
        migrate(&mut stepped, Found::Fresh).unwrap();
        let whole = Connection::open_in_memory().unwrap();
        whole.execute_batch(include_str!("schema.sql")).unwrap();
        assert_eq!(shape(&stepped), shape(&whole));
        assert_eq!(look(&stepped).unwrap(), Found::Schema(STEPS.len()));
    }

    #[test]
    fn a_step_that_was_taken_is_not_taken_again() {
        let mut db = Connection::open_in_memory().unwrap();
        migrate(&mut db, Found::Fresh).unwrap();
        let before = shape(&db);
        let found = look(&db).unwrap();
        migrate(&mut db, found).unwrap();
        assert_eq!(shape(&db), before);
    }

    #[test]
    fn a_database_of_the_first_schema_keeps_what_its_lanes_reached() {
        let mut db = Connection::open_in_memory().unwrap();
        db.execute_batch(STEPS[0]).unwrap();
        db.pragma_update(None, "application_id", APPLICATION_ID).unwrap();
        db.pragma_update(None, "user_version", 1).unwrap();
        db.execute_batch(
            "insert into partner (no, id, document, secrets, added_at) values (1, 'a', x'', x'', 0);
             insert into lane (partner, cursor, counted, failures) values (1, 0, 0, 0);
             insert into audience (id, digest, partners) values (1, zeroblob(32), x'01');
             insert into event values (7, 'x', 0, 's', 1, 0, 0, 0, 1, zeroblob(16), zeroblob(32), '{}', '1');",
        )
        .unwrap();
        let found = look(&db).unwrap();
        migrate(&mut db, found).unwrap();
        let reached: i64 = db.query_row("select reached from lane", [], |row| row.get(0)).unwrap();
        assert_eq!(reached, 7);
    }

    #[test]
    fn databases_of_others_and_of_the_future_are_refused() {
        let other = Connection::open_in_memory().unwrap();
        other.execute_batch("create table t (x)").unwrap();
        assert!(look(&other).unwrap_err().to_string().contains("another program"));
        let mut future = Connection::open_in_memory().unwrap();
        migrate(&mut future, Found::Fresh).unwrap();
        future.pragma_update(None, "user_version", 99).unwrap();
        assert!(look(&future).unwrap_err().to_string().contains("start a newer hub"));
    }
}
