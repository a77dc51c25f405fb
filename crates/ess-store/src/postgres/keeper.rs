//! The writer's connection: commits, steps of retention, and finding out what became of a commit whose answer was lost.
//!
//! A connection that is cut during a commit leaves open whether it was made. Each commit therefore writes its mark into the row of
//! this process in `writer`. Afterwards that row is locked, which waits for a commit that is still under way, and compared.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ess_core::id::{Digest, Seq};
use tokio_postgres::Transaction;

use super::connection::{Connection, Server};
use super::link::{Link, Statements};
use super::schema;
use crate::error::StoreError;
use crate::retention::{Sweep, Swept};
use crate::seal::Seal;
use crate::sql::commit::{self, Mode};
use crate::sql::db::{Db, Row, given};
use crate::sql::{Heads, Work, Written, registry, retention};
use crate::types::Start;

type Result<T> = std::result::Result<T, StoreError>;

const HEAD: &str = "select seq, ledger, chain from head where one = 1";
const LOCK_HEAD: &str = "select seq, ledger, chain from head where one = 1 for update";
pub(super) const MOVE_HEAD: &str = "update head set seq = ?1, ledger = ?2, chain = ?3 where one = 1";
const PUT_MARK: &str = "insert into writer (id, mark) values (?1, ?2) on conflict (id) \
    do update set mark = excluded.mark, at = now()";
/// Both at once: what follows is the commit.
const MOVE_HEAD_AND_MARK: &str = "with marked as (insert into writer (id, mark) values (?4, ?5) on conflict (id) \
    do update set mark = excluded.mark, at = now()) update head set seq = ?1, ledger = ?2, chain = ?3 where one = 1";
const MARK: &str = "select mark from writer where id = ?1 for update";
const FORGET_OLD: &str = "delete from writer where at < now() - interval '30 days' and id <> ?1";
const FORGET: &str = "delete from writer where id = ?1";
/// "HMSE", and what the lock is for: one hub at a time. The server lets go of it with the connection.
const LOCK_HUB: &str = "select case when pg_try_advisory_lock(1213026117, 1) then 1 else 0 end";
/// A time limit would end a commit's wait for a synchronous standby, and the server would then call it made.
const NO_TIMEOUT: &str = "set statement_timeout = 0";
/// What the writer asks is found by an index: one plan is as good as any other that begins with different values, and one that was made
/// while the tables were small must not read them whole later.
const BY_INDEX: &str = "set plan_cache_mode = force_generic_plan; \
    set enable_seqscan = off; set enable_hashjoin = off; set enable_mergejoin = off";
const ENCODING: &str = "select current_setting('server_encoding'), current_setting('server_version_num')::bigint, \
    current_setting('fsync')";
const VERSION_MIN: i64 = 130_000;
const PROBE: &str = "insert into setting (key, value) values ('probe', ?1) \
    on conflict (key) do update set value = excluded.value";
const PROBE_GONE: &str = "delete from setting where key = 'probe'";
const PROBE_BYTES: usize = 64 * 1024;
/// What a sealed text of the database opens to with its key.
const SEALED: &[u8] = b"hms-ess";
const SEAL_SETTING: &str = "seal";

/// How long a hub that has just ended may keep the database, and how often it is asked.
const LET_GO_WITHIN: Duration = Duration::from_secs(10);
const ASK_EVERY: Duration = Duration::from_millis(100);

/// The writer's hold on the server.
pub(crate) struct Keeper {
    server: Arc<Server>,
    /// None while there is no connection.
    connection: Option<Connection>,
    /// This process.
    id: [u8; 16],
    /// Counts its commits.
    mark: i64,
    /// A commit whose answer was lost.
    doubt: Option<Written>,
}

impl Keeper {
    /// Connects, brings the schema up to date and reads what is there.
    pub(super) fn open(server: Arc<Server>, seal_key: &Path) -> Result<(Self, Seal, Heads, Start)> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|error| StoreError::Open(error.to_string()))?;
        let mut keeper = Self { server, connection: None, id, mark: 0, doubt: None };
        let end = Instant::now() + LET_GO_WITHIN;
        while let Err(error) = keeper.connect() {
            let may_pass = matches!(error, StoreError::Shaken(_));
            if !may_pass || Instant::now() >= end {
                return Err(error);
            }
            // On a thread of its own, which may wait: a hub that has just ended still holds the database.
            std::thread::sleep(ASK_EVERY);
        }
        let seal = keeper.in_transaction(|link| {
            check_server(link)?;
            let is_fresh = schema::migrate(link)?;
            open_seal(link, seal_key, is_fresh)
        })?;
        let (heads, start) = keeper.in_transaction(|link| {
            link.execute(FORGET_OLD, given![id])?;
            // There from the beginning: what locks it waits for the first commit too.
            link.execute(PUT_MARK, given![id, 0_i64])?;
            Ok((read_head(link, HEAD)?, registry::start(Db::Postgres(link), &seal)?))
        })?;
        Ok((keeper, seal, heads, start))
    }

    /// Connects as the one hub of the database.
    fn connect(&mut self) -> Result<()> {
        self.connection = None;
        let connection = self.server.connect()?;
        let row = self.server.wait(connection.client.query_one(LOCK_HUB, &[]))?;
        self.server.wait(connection.client.batch_execute(NO_TIMEOUT))?;
        self.server.wait(connection.client.batch_execute(BY_INDEX))?;
        if row.get::<_, i32>(0) == 0 {
            return Err(StoreError::Shaken("another hub has this database; it is free when that one ends".to_owned()));
        }
        self.connection = Some(connection);
        Ok(())
    }

    /// Does something in a transaction; what fails leaves nothing.
    pub(super) fn in_transaction<T>(&mut self, work: impl FnOnce(Link<'_>) -> Result<T>) -> Result<T> {
        let (done, tx, server) = self.begun(work)?;
        server.wait(tx.commit())?;
        Ok(done)
    }

    /// The same, with the commit left to the caller.
    fn begun<T>(&mut self, work: impl FnOnce(Link<'_>) -> Result<T>) -> Result<(T, Transaction<'_>, &Server)> {
        let connection = self.connection.as_mut().ok_or_else(cut)?;
        let Connection { server, client, statements, .. } = connection;
        let tx = server.wait(client.transaction())?;
        let done = work(Link { tx: &tx, with: Statements { server, known: statements } })?;
        Ok((done, tx, server))
    }

    pub(crate) fn write(&mut self, work: &Work<'_>, _: Heads) -> Result<Written> {
        let written = match self.write_as(Mode::Together, work) {
            Err(StoreError::Refused(_) | StoreError::Damaged(_)) => self.write_as(Mode::OneByOne, work),
            other => other,
        };
        match written {
            Err(error) if self.is_in_doubt() => {
                tracing::warn!(%error, "the connection was lost during a commit; finding out whether it was made");
                match self.resolve() {
                    Ok(Some(written)) => Ok(written),
                    Ok(None) | Err(_) => Err(error),
                }
            }
            Err(error) if self.connection.as_ref().is_none_or(Connection::is_closed) => {
                Err(StoreError::Shaken(error.to_string()))
            }
            other => other,
        }
    }

    fn write_as(&mut self, mode: Mode, work: &Work<'_>) -> Result<Written> {
        self.mark += 1;
        let (id, mark) = (self.id, self.mark);
        let (mut written, tx, server) = self.begun(|link| {
            let before = read_head(link, LOCK_HEAD)?;
            let written = commit::write(Db::Postgres(link), mode, work, before)?;
            let Heads { seq, ledger, chain } = written.heads;
            if written.heads == before {
                link.execute(PUT_MARK, given![id, mark])?;
            } else {
                link.execute(MOVE_HEAD_AND_MARK, given![seq.0, ledger, chain.0, id, mark])?;
            }
            Ok(written)
        })?;
        let began = Instant::now();
        match server.wait(tx.commit()) {
            Ok(()) => {
                written.took = began.elapsed();
                Ok(written)
            }
            // The server answered: it was not made.
            Err(error @ (StoreError::Refused(_) | StoreError::Unavailable(_) | StoreError::Damaged(_))) => Err(error),
            Err(error) => {
                self.doubt = Some(written);
                self.connection = None;
                Err(error)
            }
        }
    }

    pub(crate) fn is_in_doubt(&self) -> bool {
        self.doubt.is_some()
    }

    /// Finds out whether the commit was made whose answer was lost, on a new connection.
    fn resolve(&mut self) -> Result<Option<Written>> {
        self.connect()?;
        let (id, mark) = (self.id, self.mark);
        let found =
            self.in_transaction(|link| Db::Postgres(link).query_row(MARK, given![id], |row| row.get::<i64>(0)))?;
        let written = self.doubt.take();
        Ok(written.filter(|_| found == mark))
    }

    pub(crate) fn heads(&mut self) -> Result<Heads> {
        self.in_transaction(|link| read_head(link, HEAD))
    }

    /// Connects anew; answers the commit that was in doubt when it was made.
    pub(crate) fn mend(&mut self, known: Heads) -> Result<Option<Written>> {
        let resolved = if self.is_in_doubt() {
            self.resolve()?
        } else {
            self.connect()?;
            None
        };
        let found = self.heads()?;
        if found.seq < known.seq || found.ledger < known.ledger {
            self.connection = None;
            let text = format!(
                "the database went back: event {} was its last and now it is {}; start the hub anew when that is right",
                known.seq, found.seq
            );
            return Err(StoreError::Damaged(text));
        }
        Ok(resolved)
    }

    pub(crate) fn probe(&mut self) -> Result<()> {
        let bytes = vec![0; PROBE_BYTES];
        self.in_transaction(|link| {
            link.execute(PROBE, given![bytes])?;
            link.execute(PROBE_GONE, given![]).map(drop)
        })
    }

    pub(crate) fn sweep(&mut self, sweep: &Sweep) -> Result<Swept> {
        let began = Instant::now();
        let mut swept = self.in_transaction(|link| {
            // A step that a crash forgets is made again.
            link.execute("set local synchronous_commit = off", given![])?;
            // What other nodes record meanwhile waits: nothing that they open is missed.
            read_head(link, LOCK_HEAD)?;
            retention::step(Db::Postgres(link), sweep, began)
        })?;
        swept.took = began.elapsed();
        Ok(swept)
    }

    pub(crate) fn close(&mut self) {
        let id = self.id;
        // The row is forgotten a month later otherwise.
        drop(self.in_transaction(|link| link.execute(FORGET, given![id])));
        if let Some(connection) = self.connection.take() {
            connection.close();
        }
    }
}

/// There is no connection.
fn cut() -> StoreError {
    StoreError::Shaken("no connection to the database".to_owned())
}

fn read_head(link: Link<'_>, sql: &'static str) -> Result<Heads> {
    let read = |row: &Row<'_>| Ok(Heads { seq: Seq(row.get(0)?), ledger: row.get(1)?, chain: row.get::<Digest>(2)? });
    Db::Postgres(link).query_row(sql, given![], read)
}

fn check_server(link: Link<'_>) -> Result<()> {
    let read = |row: &Row<'_>| {
        let (encoding, version): (&str, i64) = (row.get(0)?, row.get(1)?);
        if encoding != "UTF8" {
            return Err(StoreError::Open(format!("the database's encoding is {encoding}; make it with encoding UTF8")));
        }
        if version < VERSION_MIN {
            return Err(StoreError::Open(format!("PostgreSQL {} is too old; 13 is the oldest", version / 10_000)));
        }
        if row.get::<&str>(2)? == "off" {
            tracing::warn!("the server runs with fsync = off: a crash of its machine may lose what was acknowledged");
        }
        Ok(())
    };
    Db::Postgres(link).query_row(ENCODING, given![], read)
}

/// A fresh database with a new key, or one with its own key: another would open none of the secrets.
fn open_seal(link: Link<'_>, path: &Path, is_fresh: bool) -> Result<Seal> {
    let db = Db::Postgres(link);
    if is_fresh {
        let seal = Seal::read(path)?.map_or_else(|| Seal::make(path), Ok)?;
        registry::put_setting(db, &seal, SEAL_SETTING, SEALED)?;
        return Ok(seal);
    }
    let told = |what: &str| {
        let text =
            format!("{} {what}: copy it from the hub that made the database, or from its back-up", path.display());
        StoreError::Open(text)
    };
    let seal = Seal::read(path)?.ok_or_else(|| told("is missing"))?;
    match registry::setting_of(db, &seal, SEAL_SETTING) {
        Ok(Some(text)) if text == SEALED => Ok(seal),
        Ok(_) | Err(StoreError::Damaged(_)) => Err(told("is not the key of this database")),
        Err(error) => Err(error),
    }
}
