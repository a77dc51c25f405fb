//! A connection as the shared questions see it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

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
    pub(super) known: &'a RefCell<HashMap<&'static str, Statement>>,
}

impl Link<'_> {
    pub(crate) fn execute(self, sql: &'static str, given: &[Cell<'_>]) -> Result<usize> {
        let (statement, given) = (self.statement(sql)?, places(given)?);
        let count = self.with.server.wait(self.tx.execute(&statement, &given))?;
        Ok(usize::try_from(count).unwrap_or(usize::MAX))
    }

    /// The same statement for many rows: sent one after the other, without waiting for the answers in between.
    pub(crate) fn execute_all(self, sql: &'static str, all: &[Vec<Cell<'_>>]) -> Result<()> {
        let statement = self.statement(sql)?;
        let all = all.iter().map(|given| places(given)).collect::<Result<Vec<_>>>()?;
        let sent = all.iter().map(|given| Box::pin(self.tx.execute(&statement, given))).collect();
        self.with.server.wait(together(sent)).map(drop)
    }

    /// How many rows the statement has for all that is given.
    pub(crate) fn count_all(self, sql: &'static str, all: &[Vec<Cell<'_>>]) -> Result<usize> {
        let statement = self.statement(sql)?;
        let all = all.iter().map(|given| places(given)).collect::<Result<Vec<_>>>()?;
        let sent = all.iter().map(|given| Box::pin(self.tx.query(&statement, given))).collect();
        Ok(self.with.server.wait(together(sent))?.iter().map(Vec::len).sum())
    }

    /// Every row of a bounded answer, in one message.
    pub(crate) fn each(
        self,
        sql: &'static str,
        given: &[Cell<'_>],
        mut step: impl FnMut(&Row<'_>) -> Result<bool>,
    ) -> Result<()> {
        let (statement, given) = (self.statement(sql)?, places(given)?);
        for row in self.with.server.wait(self.tx.query(&statement, &given))? {
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
        let portal = self.with.server.wait(self.tx.bind(&statement, &given))?;
        let mut rows_max = FIRST_ROWS;
        loop {
            let rows = self.with.server.wait(self.tx.query_portal(&portal, rows_max))?;
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
        if let Some(known) = self.with.known.borrow().get(sql) {
            return Ok(known.clone());
        }
        let statement = self.with.server.wait(self.tx.prepare(&in_own_words(sql)))?;
        self.with.known.borrow_mut().insert(sql, statement.clone());
        Ok(statement)
    }
}

/// Waits for all of them, each begun before the first is answered; the answers are in their order, or the first failure.
async fn together<T, E, F>(mut asked: Vec<Pin<Box<F>>>) -> std::result::Result<Vec<T>, E>
where
    F: Future<Output = std::result::Result<T, E>>,
{
    let mut answers: Vec<Option<T>> = asked.iter().map(|_| None).collect();
    let mut are_begun = false;
    poll_fn(|context| {
        let mut is_waiting = false;
        for (one, answer) in asked.iter_mut().zip(&mut answers).filter(|(_, answer)| answer.is_none()) {
            match one.as_mut().poll(context) {
                Poll::Ready(Ok(answered)) => *answer = Some(answered),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                // The answers come in their order: once all are begun, those behind it are not looked at.
                Poll::Pending if are_begun => return Poll::Pending,
                Poll::Pending => is_waiting = true,
            }
        }
        are_begun = true;
        if is_waiting { Poll::Pending } else { Poll::Ready(Ok(())) }
    })
    .await?;
    Ok(answers.into_iter().flatten().collect())
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

fn places<'a, 'b>(given: &'a [Cell<'b>]) -> Result<Vec<&'a (dyn ToSql + Sync)>>
where
    'b: 'a,
{
    let place = |cell: &'a Cell<'b>| match cell {
        Cell::TooBig(number) => Err(StoreError::Refused(format!("{number} is past what a column holds"))),
        cell => Ok(cell as &(dyn ToSql + Sync)),
    };
    given.iter().map(place).collect()
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
}
