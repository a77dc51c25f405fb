//! The writer's hold on its database: one of two, and what each does in its own way.

use crate::error::StoreError;
use crate::nodes::NodeNo;
use crate::postgres;
use crate::retention::{Sweep, Swept};
use crate::sql::{Heads, Work, Written};
use crate::sqlite;

type Result<T> = std::result::Result<T, StoreError>;

/// The database that is written to.
pub(crate) enum Keeper {
    /// The embedded one.
    Sqlite(Box<sqlite::Keeper>),
    /// A server.
    Postgres(Box<postgres::Keeper>),
}

/// Does the same with either.
macro_rules! either {
    ($self:expr, $keeper:ident => $done:expr) => {
        match $self {
            Keeper::Sqlite($keeper) => $done,
            Keeper::Postgres($keeper) => $done,
        }
    };
}

impl Keeper {
    /// Writes it all in one transaction; what is refused is left out and has its own answer.
    pub(super) fn write(&mut self, work: &Work<'_>, heads: Heads) -> Result<Written> {
        either!(self, keeper => keeper.write(work, heads))
    }

    /// Where the log and the ledger end.
    pub(super) fn heads(&mut self) -> Result<Heads> {
        either!(self, keeper => keeper.heads())
    }

    /// Whether something failed beside the commits.
    pub(super) fn has_failed(&self) -> bool {
        match self {
            Keeper::Sqlite(keeper) => keeper.has_failed(),
            Keeper::Postgres(_) => false,
        }
    }

    /// Whether it is not known if the last commit was made; `mend` finds out.
    pub(super) fn is_in_doubt(&self) -> bool {
        match self {
            Keeper::Sqlite(_) => false,
            Keeper::Postgres(keeper) => keeper.is_in_doubt(),
        }
    }

    /// Makes sure of what is written after something failed; answers the commit that was in doubt when it was made.
    pub(super) fn mend(&mut self, known: Heads) -> Result<Option<Written>> {
        match self {
            Keeper::Sqlite(keeper) => keeper.mend(known).map(|()| None),
            Keeper::Postgres(keeper) => keeper.mend(known),
        }
    }

    /// Finds out whether an event would fit.
    pub(super) fn probe(&mut self) -> Result<()> {
        either!(self, keeper => keeper.probe())
    }

    /// After a commit.
    pub(super) fn after_commit(&mut self) {
        match self {
            Keeper::Sqlite(keeper) => keeper.after_commit(),
            Keeper::Postgres(_) => {}
        }
    }

    /// Makes one step of retention.
    pub(super) fn sweep(&mut self, sweep: &Sweep) -> Result<Swept> {
        either!(self, keeper => keeper.sweep(sweep))
    }

    /// Takes what was deleted off the log that is written ahead, where it is the hub's.
    pub(super) fn wipe_log(&mut self) -> Result<bool> {
        match self {
            Keeper::Sqlite(keeper) => keeper.wipe_log(),
            // The server's log is its operator's.
            Keeper::Postgres(_) => Ok(true),
        }
    }

    /// Sets another ceiling of the database file.
    pub(super) fn set_bytes_max(&mut self, bytes: Option<u64>) {
        match self {
            Keeper::Sqlite(keeper) => keeper.set_bytes_max(bytes),
            // The server's disk is its operator's.
            Keeper::Postgres(_) => {}
        }
    }

    /// As which node outcomes are written down.
    pub(super) fn set_node(&mut self, node: Option<NodeNo>) {
        match self {
            // Nobody shares the embedded database.
            Keeper::Sqlite(_) => {}
            Keeper::Postgres(keeper) => keeper.set_node(node),
        }
    }

    /// Closes; what is open about the disk is left to the next start.
    pub(super) fn close(&mut self, is_shaken: bool) {
        match self {
            Keeper::Sqlite(keeper) => keeper.close(is_shaken),
            Keeper::Postgres(keeper) => keeper.close(),
        }
    }
}
