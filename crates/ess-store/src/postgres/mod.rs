//! The store at a PostgreSQL server: one writing connection, a few that read.
//!
//! Nothing outside this folder speaks to a server. Connections are driven by a runtime of their own; who asks waits on a thread that
//! may wait, as with the embedded database.

mod address;
mod connection;
mod desk;
mod home;
mod keeper;
mod link;
mod nodes;
mod readers;
mod receive;
mod schema;
mod sessions;
mod silence;

use std::sync::Arc;

use tokio_postgres::error::SqlState;

use self::address::Address;
use self::connection::Server;
use self::home::Home;
pub(crate) use self::keeper::Keeper;
pub(crate) use self::link::{Link, cell};
pub use self::nodes::Nodes;
pub(crate) use self::nodes::ledger_head;
pub(crate) use self::readers::Readers;
pub(crate) use self::receive::receive;
pub use self::sessions::Sessions;
use crate::error::StoreError;
use crate::server_url::ServerUrl;
use crate::store::{Options, Parts};

type Result<T> = std::result::Result<T, StoreError>;

/// Opens or makes the tables of a database. Waits on this thread; from within a runtime, on another.
pub(crate) fn open(options: &Options, url: &ServerUrl) -> Result<Parts> {
    std::thread::scope(|scope| {
        let opened = scope.spawn(|| open_here(options, url)).join();
        opened.map_err(|_| StoreError::Open("the database could not be opened".to_owned()))?
    })
}

fn open_here(options: &Options, url: &ServerUrl) -> Result<Parts> {
    let server = Arc::new(Server::start(Address::parse(url.expose())?)?);
    let (keeper, seal, heads, start) =
        Keeper::open(server.clone(), &options.seal_key()).map_err(|error| match error {
            StoreError::Unavailable(text) | StoreError::Shaken(text) => StoreError::Open(text),
            other => other,
        })?;
    let readers = Arc::new(Readers::new(server.clone(), options.readers));
    let seal = Arc::new(seal);
    let home = Home::take(&options.dir);
    Ok(Parts {
        keeper: crate::writer::Keeper::Postgres(Box::new(keeper)),
        readers: crate::engine::Readers::Postgres(readers),
        nodes: Some(Nodes::new(server, seal.clone(), home)),
        seal,
        heads,
        start,
        failing: None,
    })
}

/// Names what failed by what the caller can do about it.
impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(told) = error.as_db_error() else {
            // The source says more than the error itself, and neither holds what was given.
            let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
            return Self::Shaken(format!("{error}{source}"));
        };
        let text = format!("{} ({})", told.message(), told.code().code());
        match told.code() {
            code if *code == SqlState::DATA_CORRUPTED || *code == SqlState::INDEX_CORRUPTED => Self::Damaged(text),
            // It became a standby: connecting anew finds out who is the primary.
            code if *code == SqlState::READ_ONLY_SQL_TRANSACTION => Self::Shaken(text),
            code => match code.code().get(..2) {
                Some("22" | "23") => Self::Refused(text),
                Some("08" | "57") => Self::Shaken(text),
                _ => Self::Unavailable(text),
            },
        }
    }
}
