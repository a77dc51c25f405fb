//! The schema, as numbered forward steps. Several nodes may start at once: one takes the steps, the others wait for it.

use crate::error::StoreError;
use crate::sql::db::{Db, given};

use super::link::Link;

type Result<T> = std::result::Result<T, StoreError>;

/// Each step brings the schema from its index to the next version.
const STEPS: [&str; 3] = [include_str!("0001.sql"), include_str!("0002.sql"), include_str!("0003.sql")];
/// "HMSE", and what the lock is for.
pub(super) const LOCK_OF_STEPS: &str = "select pg_advisory_xact_lock(1213026117, 2)";

const IS_THERE: &str = "select count(*) from pg_catalog.pg_class \
    where relname = 'schema_step' and relkind = 'r' and pg_table_is_visible(oid)";
const VERSION: &str = "select coalesce(max(number), 0) from schema_step";
const TAKEN: &str = "insert into schema_step (number) values (?1)";

/// Whether the database was empty before.
pub(super) fn migrate(link: Link<'_>) -> Result<bool> {
    let number = |sql| Db::Postgres(link).query_row(sql, given![], |row| row.get::<i64>(0));
    let server = link.with.server;
    server.wait(link.tx.batch_execute(LOCK_OF_STEPS))?;
    let version = if number(IS_THERE)? == 0 { 0 } else { number(VERSION)? };
    let known = STEPS.len();
    let taken = usize::try_from(version).ok().filter(|taken| *taken <= known).ok_or_else(|| {
        StoreError::Open(format!("the database has schema {version}, this hub knows {known}; start a newer hub"))
    })?;
    for (index, step) in STEPS.iter().enumerate().skip(taken) {
        let made = server.wait(link.tx.batch_execute(step));
        made.map_err(|error| StoreError::Open(format!("could not make the tables: {error}")))?;
        link.execute(TAKEN, given![index as i64 + 1])?;
    }
    Ok(taken == 0)
}
