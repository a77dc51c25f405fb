//! One way to ask both databases: a statement with numbered places (`?1`), what is given for them, and rows whose cells are read by
//! number. What is asked, and what follows from the answers, stands once for both.

use ess_core::id::Digest;
use uuid::Uuid;

use crate::error::StoreError;
use crate::postgres;
use crate::sqlite;

type Result<T> = std::result::Result<T, StoreError>;

/// A connection in a transaction: what it sees is one snapshot, or what the one writer does just now.
#[derive(Clone, Copy)]
pub(crate) enum Db<'a> {
    /// The embedded database.
    Sqlite(sqlite::Link<'a>),
    /// A server.
    Postgres(postgres::Link<'a>),
}

/// A row of an answer.
pub(crate) enum Row<'a> {
    /// Of the embedded database.
    Sqlite(&'a rusqlite::Row<'a>),
    /// Of a server.
    Postgres(&'a tokio_postgres::Row),
}

/// What stands in a row's place, or is given for one of a statement's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Cell<'a> {
    /// Nothing.
    Null,
    /// A number; a truth is 0 or 1.
    Int(i64),
    /// A number that no column holds.
    TooBig(u64),
    /// Text.
    Text(&'a str),
    /// Bytes.
    Blob(&'a [u8]),
}

impl Db<'_> {
    /// Writes; answers the number of rows.
    pub(crate) fn execute(self, sql: &'static str, given: &[Cell<'_>]) -> Result<usize> {
        match self {
            Self::Sqlite(link) => link.execute(sql, given),
            Self::Postgres(link) => link.execute(sql, given),
        }
    }

    /// Inserts many rows by the statement of one; a server hears of all of them at once, and then no key may come twice.
    pub(crate) fn insert_all<const N: usize>(self, sql: &'static str, all: &[[Cell<'_>; N]]) -> Result<()> {
        match self {
            Self::Sqlite(link) => all.iter().try_for_each(|given| link.execute(sql, given).map(drop)),
            Self::Postgres(link) => link.insert_all(sql, all),
        }
    }

    /// Every row of an answer that is bounded.
    pub(crate) fn query<T>(
        self,
        sql: &'static str,
        given: &[Cell<'_>],
        mut read: impl FnMut(&Row<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut found = Vec::new();
        let add = |row: &Row<'_>| {
            found.push(read(row)?);
            Ok(true)
        };
        match self {
            Self::Sqlite(link) => link.walk(sql, given, add)?,
            Self::Postgres(link) => link.each(sql, given, add)?,
        }
        Ok(found)
    }

    /// The first row, if there is one.
    pub(crate) fn query_one<T>(
        self,
        sql: &'static str,
        given: &[Cell<'_>],
        read: impl FnMut(&Row<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        Ok(self.query(sql, given, read)?.into_iter().next())
    }

    /// The first row of an answer that always has one.
    pub(crate) fn query_row<T>(
        self,
        sql: &'static str,
        given: &[Cell<'_>],
        read: impl FnMut(&Row<'_>) -> Result<T>,
    ) -> Result<T> {
        let missing = || StoreError::Damaged("a row that has to be there is missing".to_owned());
        self.query_one(sql, given, read)?.ok_or_else(missing)
    }

    /// Row by row, until `step` has enough: what comes after is not read.
    pub(crate) fn walk(
        self,
        sql: &'static str,
        given: &[Cell<'_>],
        step: impl FnMut(&Row<'_>) -> Result<bool>,
    ) -> Result<()> {
        match self {
            Self::Sqlite(link) => link.walk(sql, given, step),
            Self::Postgres(link) => link.walk(sql, given, step),
        }
    }
}

impl Row<'_> {
    /// What stands in a column.
    pub(crate) fn cell(&self, column: usize) -> Result<Cell<'_>> {
        match self {
            Self::Sqlite(row) => sqlite::cell(row, column),
            Self::Postgres(row) => postgres::cell(row, column),
        }
    }

    /// A column's value; `None` for nothing is an `Option`'s.
    pub(crate) fn get<'a, T: Read<'a>>(&'a self, column: usize) -> Result<T> {
        T::read(self.cell(column)?).ok_or_else(|| damaged(column))
    }
}

/// A column that does not hold what it should.
pub(crate) fn damaged(column: usize) -> StoreError {
    StoreError::Damaged(format!("column {column} of a row can't be read"))
}

/// What a cell can be read as.
pub(crate) trait Read<'a>: Sized {
    /// `None` when it can't.
    fn read(cell: Cell<'a>) -> Option<Self>;
}

/// Numbers of the widths that the schema's checks allow.
macro_rules! read_number {
    ($($number:ty),*) => {$(
        impl Read<'_> for $number {
            fn read(cell: Cell<'_>) -> Option<Self> {
                match cell {
                    Cell::Int(number) => Self::try_from(number).ok(),
                    _ => None,
                }
            }
        }
    )*};
}

read_number!(i64, u64, u32, u16, usize);

impl Read<'_> for bool {
    fn read(cell: Cell<'_>) -> Option<Self> {
        i64::read(cell).map(|number| number != 0)
    }
}

impl<'a> Read<'a> for &'a str {
    fn read(cell: Cell<'a>) -> Option<Self> {
        match cell {
            Cell::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl Read<'_> for String {
    fn read(cell: Cell<'_>) -> Option<Self> {
        <&str>::read(cell).map(str::to_owned)
    }
}

impl<'a> Read<'a> for &'a [u8] {
    fn read(cell: Cell<'a>) -> Option<Self> {
        match cell {
            Cell::Blob(bytes) => Some(bytes),
            _ => None,
        }
    }
}

impl Read<'_> for Vec<u8> {
    fn read(cell: Cell<'_>) -> Option<Self> {
        <&[u8]>::read(cell).map(<[u8]>::to_vec)
    }
}

impl Read<'_> for [u8; 32] {
    fn read(cell: Cell<'_>) -> Option<Self> {
        <&[u8]>::read(cell)?.try_into().ok()
    }
}

impl Read<'_> for Digest {
    fn read(cell: Cell<'_>) -> Option<Self> {
        <[u8; 32]>::read(cell).map(Digest)
    }
}

impl Read<'_> for Uuid {
    fn read(cell: Cell<'_>) -> Option<Self> {
        Uuid::from_slice(<&[u8]>::read(cell)?).ok()
    }
}

impl<'a, T: Read<'a>> Read<'a> for Option<T> {
    fn read(cell: Cell<'a>) -> Option<Self> {
        match cell {
            Cell::Null => Some(None),
            cell => T::read(cell).map(Some),
        }
    }
}

/// What can be given for a statement's place.
pub(crate) trait Give {
    /// As it is given.
    fn give(&self) -> Cell<'_>;
}

/// Numbers that always fit.
macro_rules! give_number {
    ($($number:ty),*) => {$(
        impl Give for $number {
            fn give(&self) -> Cell<'_> {
                Cell::Int(i64::from(*self))
            }
        }
    )*};
}

give_number!(i64, u32, u16, bool);

impl Give for u64 {
    fn give(&self) -> Cell<'_> {
        i64::try_from(*self).map_or(Cell::TooBig(*self), Cell::Int)
    }
}

impl Give for usize {
    fn give(&self) -> Cell<'_> {
        // A ceiling that no table reaches.
        Cell::Int(i64::try_from(*self).unwrap_or(i64::MAX))
    }
}

impl Give for str {
    fn give(&self) -> Cell<'_> {
        Cell::Text(self)
    }
}

impl Give for String {
    fn give(&self) -> Cell<'_> {
        Cell::Text(self)
    }
}

impl Give for [u8] {
    fn give(&self) -> Cell<'_> {
        Cell::Blob(self)
    }
}

impl Give for Vec<u8> {
    fn give(&self) -> Cell<'_> {
        Cell::Blob(self)
    }
}

impl<const N: usize> Give for [u8; N] {
    fn give(&self) -> Cell<'_> {
        Cell::Blob(self)
    }
}

impl<T: Give + ?Sized> Give for &T {
    fn give(&self) -> Cell<'_> {
        (**self).give()
    }
}

impl<T: Give> Give for Option<T> {
    fn give(&self) -> Cell<'_> {
        self.as_ref().map_or(Cell::Null, Give::give)
    }
}

/// What is given for a statement's places, in their order.
macro_rules! given {
    ($($value:expr),* $(,)?) => {
        &[$($crate::sql::db::Give::give(&$value)),*]
    };
}

pub(crate) use given;
