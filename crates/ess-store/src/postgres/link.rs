//! A connection as the shared questions see it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use bytes::{BufMut as _, BytesMut};
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Statement, Transaction};

use super::connection::Server;
use crate::error::StoreError;
use crate::sql::db::{Cell, Row, damaged};

type Result<T> = std::result::Result<T, StoreError>;
type Anyway = Box<dyn std::error::Error + Sync + Send>;

/// Rows that are fetched at once, first and from then on.
const FIRST_ROWS: i32 = 128;
const MORE_ROWS: i32 = 1_024;

/// A connection's transaction, with the statements that the connection knows.
#[derive(Clone, Copy)]
pub(crate) struct Link<'a> {
    pub(super) tx: &'a Transaction<'a>,
    pub(super) with: Statements<'a>,
}

/// The part of a connection that is free while a transaction has its client.
#[derive(Clone, Copy)]
pub(super) struct Statements<'a> {
    pub(super) server: &'a Server,
    pub(super) known: &'a RefCell<HashMap<(Form, &'static str), Statement>>,
    /// How long each answer is waited for; what the server bears where nothing is said.
    pub(super) within: Option<Duration>,
}

impl Statements<'_> {
    fn wait<T, E: Into<StoreError>>(self, answer: impl Future<Output = std::result::Result<T, E>>) -> Result<T> {
        match self.within {
            Some(within) => self.server.wait_for(within, answer),
            None => self.server.wait(answer),
        }
    }
}

/// How a statement was prepared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Form {
    /// As it is written.
    AsIs,
    /// For lists of what its places take.
    ForRows,
}

impl Link<'_> {
    pub(crate) fn execute(self, sql: &'static str, given: &[Cell<'_>]) -> Result<usize> {
        let (statement, given) = (self.statement(sql)?, places(given)?);
        let count = self.with.wait(self.tx.execute(&statement, &given))?;
        Ok(usize::try_from(count).unwrap_or(usize::MAX))
    }

    /// An insert of one row, for many: one statement, which is given a list for each place.
    pub(crate) fn insert_all<const N: usize>(self, sql: &'static str, all: &[[Cell<'_>; N]]) -> Result<()> {
        if all.is_empty() {
            return Ok(());
        }
        let (statement, lists) = (self.statement_of_rows(sql)?, lists(all)?);
        self.with.wait(self.tx.execute(&statement, &places_of(&lists))).map(drop)
    }

    /// Every row of the bounded answer to a statement that takes a list for each place.
    pub(crate) fn each_of<const N: usize>(
        self,
        sql: &'static str,
        all: &[[Cell<'_>; N]],
        mut step: impl FnMut(&Row<'_>) -> Result<()>,
    ) -> Result<()> {
        if all.is_empty() {
            return Ok(());
        }
        let (statement, lists) = (self.statement(sql)?, lists(all)?);
        for row in self.with.wait(self.tx.query(&statement, &places_of(&lists)))? {
            step(&Row::Postgres(&row))?;
        }
        Ok(())
    }

    /// Every row of a bounded answer, in one message.
    pub(crate) fn each(
        self,
        sql: &'static str,
        given: &[Cell<'_>],
        mut step: impl FnMut(&Row<'_>) -> Result<bool>,
    ) -> Result<()> {
        let (statement, given) = (self.statement(sql)?, places(given)?);
        for row in self.with.wait(self.tx.query(&statement, &given))? {
            step(&Row::Postgres(&row))?;
        }
        Ok(())
    }

    /// Row by row, until `step` has enough: the server sends what was asked for and no more.
    pub(crate) fn walk(
        self,
        sql: &'static str,
        given: &[Cell<'_>],
        mut step: impl FnMut(&Row<'_>) -> Result<bool>,
    ) -> Result<()> {
        let (statement, given) = (self.statement(sql)?, places(given)?);
        let portal = self.with.wait(self.tx.bind(&statement, &given))?;
        let mut rows_max = FIRST_ROWS;
        loop {
            let rows = self.with.wait(self.tx.query_portal(&portal, rows_max))?;
            for row in &rows {
                if !step(&Row::Postgres(row))? {
                    return Ok(());
                }
            }
            if rows.len() < rows_max as usize {
                return Ok(());
            }
            rows_max = MORE_ROWS;
        }
    }

    pub(super) fn statement(self, sql: &'static str) -> Result<Statement> {
        if let Some(known) = self.with.known.borrow().get(&(Form::AsIs, sql)) {
            return Ok(known.clone());
        }
        self.prepare((Form::AsIs, sql), &in_own_words(sql))
    }

    fn statement_of_rows(self, sql: &'static str) -> Result<Statement> {
        if let Some(known) = self.with.known.borrow().get(&(Form::ForRows, sql)) {
            return Ok(known.clone());
        }
        // The lists are of the types that the places of one row have.
        let of_one = self.statement(sql)?;
        let words = for_rows(&in_own_words(sql), of_one.params());
        let words = words.ok_or_else(|| StoreError::Refused("no insert of one row".to_owned()))?;
        self.prepare((Form::ForRows, sql), &words)
    }

    fn prepare(self, key: (Form, &'static str), words: &str) -> Result<Statement> {
        let statement = self.with.wait(self.tx.prepare(words))?;
        self.with.known.borrow_mut().insert(key, statement.clone());
        Ok(statement)
    }
}

/// The statement as this database spells it: places are `$1`, and which index is taken is its own affair.
fn in_own_words(sql: &str) -> String {
    let mut words = Vec::new();
    let mut rest = sql.split_whitespace();
    while let Some(word) = rest.next() {
        if word == "indexed" {
            rest.nth(1);
        } else {
            words.push(word.replace('?', "$"));
        }
    }
    words.join(" ")
}

/// The insert of one row as one of a list for each place: `values ($1, 0)` is `select c1, 0 from unnest($1::int8[]) given (c1)`.
fn for_rows(sql: &str, types: &[Type]) -> Option<String> {
    let (into, rest) = sql.split_once(" values (")?;
    let (values, rest) = rest.split_once(')')?;
    let lists: Vec<String> = types.iter().zip(1..).map(|(of, at)| format!("${at}::{}[]", of.name())).collect();
    let names: Vec<String> = types.iter().zip(1..).map(|(_, at)| format!("c{at}")).collect();
    let (values, lists, names) = (values.replace('$', "c"), lists.join(", "), names.join(", "));
    Some(format!("{into} select {values} from unnest({lists}) given ({names}){rest}"))
}

/// Rows to a list for each place.
fn lists<'b, const N: usize>(all: &[[Cell<'b>; N]]) -> Result<[Vec<Cell<'b>>; N]> {
    all.iter().flatten().try_for_each(fits)?;
    Ok(std::array::from_fn(|place| all.iter().map(|row| row[place]).collect()))
}

fn places_of<'a, 'b, const N: usize>(lists: &'a [Vec<Cell<'b>>; N]) -> [&'a (dyn ToSql + Sync); N]
where
    'b: 'a,
{
    std::array::from_fn(|place| &lists[place] as &(dyn ToSql + Sync))
}

fn places<'a, 'b>(given: &'a [Cell<'b>]) -> Result<Vec<&'a (dyn ToSql + Sync)>>
where
    'b: 'a,
{
    given.iter().map(|cell| fits(cell).map(|()| cell as &(dyn ToSql + Sync))).collect()
}

fn fits(cell: &Cell<'_>) -> Result<()> {
    match cell {
        Cell::TooBig(number) => Err(StoreError::Refused(format!("{number} is past what a column holds"))),
        _ => Ok(()),
    }
}

/// What stands in a column.
pub(crate) fn cell<'a>(row: &'a tokio_postgres::Row, column: usize) -> Result<Cell<'a>> {
    let raw: Option<Raw<'_>> = row.try_get(column).map_err(|_| damaged(column))?;
    let Some(Raw(bytes)) = raw else { return Ok(Cell::Null) };
    let column_type = row.columns().get(column).map(tokio_postgres::Column::type_);
    let number = match (column_type, bytes) {
        (Some(&Type::TEXT | &Type::VARCHAR), bytes) => {
            return std::str::from_utf8(bytes).map(Cell::Text).map_err(|_| damaged(column));
        }
        (Some(&Type::BYTEA), bytes) => return Ok(Cell::Blob(bytes)),
        (Some(&Type::INT8), bytes) => bytes.try_into().map(i64::from_be_bytes).ok(),
        (Some(&Type::INT4), bytes) => bytes.try_into().map(|bytes| i64::from(i32::from_be_bytes(bytes))).ok(),
        (Some(&Type::INT2), bytes) => bytes.try_into().map(|bytes| i64::from(i16::from_be_bytes(bytes))).ok(),
        (Some(&Type::BOOL), [byte]) => Some(i64::from(*byte)),
        _ => None,
    };
    number.map(Cell::Int).ok_or_else(|| damaged(column))
}

/// A column's bytes as they came.
struct Raw<'a>(&'a [u8]);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> std::result::Result<Self, Anyway> {
        Ok(Self(raw))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

impl ToSql for Cell<'_> {
    fn to_sql(&self, wanted: &Type, out: &mut BytesMut) -> std::result::Result<IsNull, Anyway> {
        match self {
            Cell::Null => return Ok(IsNull::Yes),
            Cell::Int(number) => match *wanted {
                Type::INT8 => out.put_i64(*number),
                Type::INT4 => out.put_i32(i32::try_from(*number)?),
                Type::INT2 => out.put_i16(i16::try_from(*number)?),
                _ => return Err(format!("a number is given for {wanted}").into()),
            },
            // No text of this database has the character of number 0.
            Cell::Text(text) if text.contains('\0') => out.put_slice(text.replace('\0', "\u{fffd}").as_bytes()),
            Cell::Text(text) => out.put_slice(text.as_bytes()),
            Cell::Blob(bytes) => out.put_slice(bytes),
            Cell::TooBig(number) => return Err(format!("{number} is past what a column holds").into()),
        }
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_told_in_the_databases_own_words() {
        let sql = "select o.a from t o indexed by t_a join e on e.b = o.b where o.a = ?1 limit ?12";
        assert_eq!(in_own_words(sql), "select o.a from t o join e on e.b = o.b where o.a = $1 limit $12");
    }

    #[test]
    fn an_insert_of_one_row_is_one_of_many() {
        let sql = "insert into t (a, n, b) values ($1, 0, $2) on conflict (a) do update set b = excluded.b";
        let many = "insert into t (a, n, b) select c1, 0, c2 from unnest($1::int8[], $2::bytea[]) given (c1, c2) \
            on conflict (a) do update set b = excluded.b";
        assert_eq!(for_rows(sql, &[Type::INT8, Type::BYTEA]).unwrap(), many);
        assert!(for_rows("delete from t where a = $1", &[Type::INT8]).is_none());
    }
}
