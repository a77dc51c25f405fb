//! The schema, as numbered forward steps. Several nodes may start at once: one takes the steps, the others wait for it.

use crate::error::StoreError;
use crate::sql::db::{Db, given};

use super::link::Link;

type Result<T> = std::result::Result<T, StoreError>;

/// Each step brings the schema from its index to the next version. Beside it is the version whose hubs get along with the tables after
/// it: they run on beside newer hubs, are started again, and take their place when an upgrade is taken back.
const STEPS: [(&str, i64); 3] =
    [(include_str!("0001.sql"), 1), (include_str!("0002.sql"), 2), (include_str!("0003.sql"), 2)];
/// "HMSE", and what the lock is for.
pub(super) const LOCK_OF_STEPS: &str = "select pg_advisory_xact_lock(1213026117, 2)";

const IS_THERE: &str = "select count(*) from pg_catalog.pg_class \
    where relname = 'schema_step' and relkind = 'r' and pg_table_is_visible(oid)";
const VERSION: &str = "select coalesce(max(number), 0) from schema_step";
const TAKEN: &str = "insert into schema_step (number) values (?1)";
/// From step 3 on.
const SET_LEAST: &str = "update schema_step set least = ?2 where number = ?1";
const LEAST: &str = "select coalesce(least, number) from schema_step order by number desc limit 1";

/// Whether the database was empty before.
pub(super) fn migrate(link: Link<'_>) -> Result<bool> {
    let number = |sql| Db::Postgres(link).query_row(sql, given![], |row| row.get::<i64>(0));
    let server = link.with.server;
    server.wait(link.tx.batch_execute(LOCK_OF_STEPS))?;
    let version = if number(IS_THERE)? == 0 { 0 } else { number(VERSION)? };
    let known = STEPS.len() as i64;
    if version > known {
        // Who made the tables knows whether this hub gets along with them; before step 3 nobody said.
        if number(LEAST)? > known {
            let text = format!("the database has schema {version}, this hub knows {known}; start a newer hub");
            return Err(StoreError::Open(text));
        }
        tracing::info!(
            "a newer hub has made the tables ({version}, this one knows {known}); they are used as they are"
        );
        return Ok(false);
    }
    for (number, (step, _)) in (1..).zip(STEPS).filter(|(number, _)| *number > version) {
        let made = server.wait(link.tx.batch_execute(step));
        made.map_err(|error| StoreError::Open(format!("could not make the tables: {error}")))?;
        link.execute(TAKEN, given![number])?;
    }
    if version < known {
        let (_, least) = STEPS[STEPS.len() - 1];
        link.execute(SET_LEAST, given![known, least])?;
    }
    Ok(version == 0)
}
