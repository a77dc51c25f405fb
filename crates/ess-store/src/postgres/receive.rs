//! Takes a whole embedded store in.

use std::pin::pin;
use std::sync::Arc;

use tokio_postgres::Transaction;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::{ToSql, Type};

use super::address::Address;
use super::connection::Server;
use super::keeper::{Keeper, MOVE_HEAD};
use super::link::Link;
use crate::copy::{Copied, TABLES};
use crate::error::StoreError;
use crate::server_url::ServerUrl;
use crate::sql::Heads;
use crate::sql::db::{Cell, Db, given};
use crate::sql::events::{Audiences, Reader};
use crate::sql::ledger::{Walked, verify_step};
use crate::sqlite;
use crate::store::Options;

type Result<T> = std::result::Result<T, StoreError>;

const IS_EMPTY: &str = "select case when exists (select 1 from event) or exists (select 1 from partner) \
    or exists (select 1 from token) or exists (select 1 from ledger) then 0 else 1 end";
/// Numbers go on where they were.
const GO_ON: &str = "select setval(pg_get_serial_sequence('audit', 'number'), coalesce(max(number), 0) + 1, false) from audit; \
    select setval(pg_get_serial_sequence('audience', 'id'), coalesce(max(id), 0) + 1, false) from audience; \
    select setval(pg_get_serial_sequence('legal_hold', 'number'), coalesce(max(number), 0) + 1, false) from legal_hold; \
    select setval(pg_get_serial_sequence('telling', 'number'), coalesce(max(number), 0) + 1, false) from telling";

/// Copies every table, and commits when the ledger's chain fits.
pub(crate) fn receive(options: &Options, to: &ServerUrl, source: &sqlite::Keeper, heads: Heads) -> Result<Copied> {
    let server = Arc::new(Server::start(Address::parse(to.expose())?)?);
    let (mut keeper, ..) = Keeper::open(server, &options.seal_key())?;
    let copied = keeper.in_transaction(|link| {
        if Db::Postgres(link).query_row(IS_EMPTY, given![], |row| row.get::<i64>(0))? == 0 {
            return Err(StoreError::Refused("the database is not empty; give the copy one of its own".to_owned()));
        }
        let server = link.with.server;
        server.wait(link.tx.batch_execute("set local statement_timeout = 0"))?;
        let mut rows = 0;
        for table in TABLES {
            rows += copy(link.tx, server, source, table)?;
        }
        link.execute(MOVE_HEAD, given![heads.seq.0, heads.ledger, heads.chain.0])?;
        server.wait(link.tx.batch_execute(GO_ON))?;
        verify(link, heads)?;
        let events = Db::Postgres(link).query_row("select count(*) from event", given![], |row| row.get::<u64>(0))?;
        Ok(Copied { events, receipts: heads.ledger, rows })
    });
    keeper.close();
    copied
}

fn copy(tx: &Transaction<'_>, server: &Server, source: &sqlite::Keeper, table: &str) -> Result<u64> {
    let shape = server.wait(tx.prepare(&format!("select * from {table} limit 0")))?;
    let names = shape.columns().iter().map(|column| column.name()).collect::<Vec<_>>().join(", ");
    let types: Vec<Type> = shape.columns().iter().map(|column| column.type_().clone()).collect();
    let sink = server.wait(tx.copy_in(&format!("copy {table} ({names}) from stdin binary")))?;
    let mut writer = pin!(BinaryCopyInWriter::new(sink, &types));
    // What the embedded database writes to try its disk is of no use elsewhere.
    let but = if table == "setting" { " where key not in ('written', 'probe')" } else { "" };
    let mut count = 0;
    source.link()?.walk(&format!("select {names} from {table}{but}"), given![], |row| {
        let cells = (0..types.len()).map(|column| row.cell(column)).collect::<Result<Vec<Cell<'_>>>>()?;
        let given: Vec<&(dyn ToSql + Sync)> = cells.iter().map(|cell| cell as &(dyn ToSql + Sync)).collect();
        server.wait(writer.as_mut().write(&given))?;
        count += 1;
        Ok(true)
    })?;
    let written = server.wait(writer.finish())?;
    if written != count {
        return Err(StoreError::Damaged(format!("{written} of {count} rows of {table} arrived")));
    }
    Ok(count)
}

/// Computes the whole chain again from what arrived.
fn verify(link: Link<'_>, heads: Heads) -> Result<()> {
    let reader = Reader { db: Db::Postgres(link), audiences: &Audiences::default() };
    let mut walked = Walked::START;
    loop {
        let from = walked;
        walked = verify_step(&reader, from, heads.ledger)?;
        if walked == from {
            break;
        }
    }
    if (walked.size, walked.chain) == (heads.ledger, heads.chain) {
        return Ok(());
    }
    Err(StoreError::Damaged(format!("{} of {} receipts fit their chain", walked.size, heads.ledger)))
}
