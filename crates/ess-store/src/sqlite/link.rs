//! A connection as the shared questions see it.

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ToSql, params_from_iter};

use crate::error::StoreError;
use crate::sql::db::{Cell, Row};

type Result<T> = std::result::Result<T, StoreError>;

/// A connection, in a transaction.
#[derive(Clone, Copy)]
pub(crate) struct Link<'a>(pub(crate) &'a Connection);

impl Link<'_> {
    pub(crate) fn execute(self, sql: &str, given: &[Cell<'_>]) -> Result<usize> {
        Ok(self.0.prepare_cached(sql)?.execute(params_from_iter(given))?)
    }

    /// Row by row, until `step` has enough.
    pub(crate) fn walk(
        self,
        sql: &str,
        given: &[Cell<'_>],
        mut step: impl FnMut(&Row<'_>) -> Result<bool>,
    ) -> Result<()> {
        let mut statement = self.0.prepare_cached(sql)?;
        let mut rows = statement.query(params_from_iter(given))?;
        while let Some(row) = rows.next()? {
            if !step(&Row::Sqlite(row))? {
                break;
            }
        }
        Ok(())
    }
}

/// What stands in a column.
pub(crate) fn cell<'a>(row: &'a rusqlite::Row<'_>, column: usize) -> Result<Cell<'a>> {
    Ok(match row.get_ref(column)? {
        ValueRef::Null => Cell::Null,
        ValueRef::Integer(number) => Cell::Int(number),
        ValueRef::Text(_) => Cell::Text(row.get_ref(column)?.as_str().map_err(rusqlite::Error::from)?),
        ValueRef::Blob(bytes) => Cell::Blob(bytes),
        ValueRef::Real(_) => return Err(crate::sql::db::damaged(column)),
    })
}

impl ToSql for Cell<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Cell::Null => ToSqlOutput::Borrowed(ValueRef::Null),
            Cell::Int(number) => ToSqlOutput::Borrowed(ValueRef::Integer(*number)),
            Cell::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
            Cell::Blob(bytes) => ToSqlOutput::Borrowed(ValueRef::Blob(bytes)),
            // A number past 2^63, which no column holds.
            Cell::TooBig(number) => return number.to_sql(),
        })
    }
}
