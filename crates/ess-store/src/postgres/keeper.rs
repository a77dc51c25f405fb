//! The writer's connection: commits, steps of retention, and finding out what became of a commit whose answer was lost.
//!
//! A connection that is cut during a commit leaves open whether it was made. Each commit therefore writes its mark into the row of
//! this process in `writer`. Afterwards that row is locked, which waits for a commit that is still under way, and compared.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ess_core::id::{Digest, Seq};
use tokio_postgres::Transaction;

use super::connection::{Connection, Server};
use super::link::{Link, Statements};
use super::schema;
use crate::error::StoreError;
use crate::nodes::NodeNo;
use crate::retention::{Sweep, Swept};
use crate::seal::Seal;
use crate::sql::commit::{self, Mode};
use crate::sql::db::{Db, Row, given};
use crate::sql::registry::{Act, Deed};
use crate::sql::{Heads, Work, Written, registry, retention};
use crate::types::{NewEvent, Start};

type Result<T> = std::result::Result<T, StoreError>;

pub(super) const HEAD: &str = "select seq, ledger, chain, terms, registry from head where one = 1";
pub(super) const LOCK_HEAD: &str = "select seq, ledger, chain, terms, registry from head where one = 1 for update";
pub(super) const MOVE_HEAD: &str = "update head set seq = ?1, ledger = ?2, chain = ?3 where one = 1";
const PUT_MARK: &str = "insert into writer (id, mark) values (?1, ?2) on conflict (id) \
    do update set mark = excluded.mark, at = now()";
/// Both at once: what follows is the commit.
const MOVE_HEAD_AND_MARK: &str = "with marked as (insert into writer (id, mark) values (?4, ?5) on conflict (id) \
    do update set mark = excluded.mark, at = now()) update head set seq = ?1, ledger = ?2, chain = ?3 where one = 1";
/// The same, and the other nodes hear of it when it is made.
const MOVE_HEAD_MARK_AND_TELL: &str = "with marked as (insert into writer (id, mark) values (?4, ?5) on conflict (id) \
    do update set mark = excluded.mark, at = now()) update head set seq = ?1, ledger = ?2, chain = ?3 where one = 1 \
    returning pg_notify('hms_ess', 'log')";
const MARK: &str = "select mark from writer where id = ?1 for update";
const FORGET_OLD: &str = "delete from writer where at < now() - interval '30 days' and id <> ?1";
const FORGET: &str = "delete from writer where id = ?1";
/// "HMSE", and what the lock is for: hubs that know of each other share the database, and one that wants it for itself (of an older
/// program, or a copy that is being taken in) keeps them out. The server lets go of it with the connection.
const SHARE_HUB: &str = "select case when pg_try_advisory_lock_shared(1213026117, 1) then 1 else 0 end";
const COUNT_CHANGE: &str = "update head set registry = registry + 1, \
    rules = case when ?1 = 1 then registry + 1 else rules end, \
    tokens = case when ?2 = 1 then registry + 1 else tokens end where one = 1";
const NOTE_PARTNER: &str = "insert into partner_change (partner, number) \
    values (?1, (select registry from head where one = 1)) \
    on conflict (partner) do update set number = excluded.number";
const TAKE_SEAT: &str = "insert into seat (partner, node) values (?1, ?2) on conflict (partner) do nothing";
const IS_IN: &str = "select count(*) from node where no = ?1";
const TELL_REGISTRY: &str = "select pg_notify('hms_ess', 'registry')";
/// A time limit would end a commit's wait for a synchronous standby, and the server would then call it made. A node that stalls within
/// a transaction holds the head, and with it all others, for this long at most.
const OF_WRITER: &str = "set statement_timeout = 0; set idle_in_transaction_session_timeout = '2s'";
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
    /// As which node it writes outcomes down; none before it is one, and for who has the database alone.
    node: Option<NodeNo>,
    /// The terms under which that was so when it was last asked.
    terms: Option<u64>,
}

/// The head as a commit found it.
struct Held {
    heads: Heads,
    terms: u64,
    registry: u64,
}

impl Keeper {
    /// Connects, brings the schema up to date and reads what is there.
    pub(super) fn open(server: Arc<Server>, seal_key: &Path) -> Result<(Self, Seal, Heads, Start)> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|error| StoreError::Open(error.to_string()))?;
        let mut keeper = Self { server, connection: None, id, mark: 0, doubt: None, node: None, terms: None };
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
            // Counted first: what is changed meanwhile is asked for again.
            let held = read_head(link, HEAD)?;
            let mut start = registry::start(Db::Postgres(link), &seal)?;
            start.registry = held.registry;
            Ok((held.heads, start))
        })?;
        Ok((keeper, seal, heads, start))
    }

    /// Connects as one of the hubs of the database.
    fn connect(&mut self) -> Result<()> {
        self.connection = None;
        let mut connection = self.server.connect()?;
        let row = self.server.wait(connection.client.query_one(SHARE_HUB, &[]))?;
        self.server.wait(connection.client.batch_execute(OF_WRITER))?;
        self.server.wait(connection.client.batch_execute(BY_INDEX))?;
        if row.get::<_, i32>(0) == 0 {
            return Err(StoreError::Shaken(
                "another hub has this database for itself; it is free when that one ends".to_owned(),
            ));
        }
        connection.lead();
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
        let done = work(Link { tx: &tx, with: Statements { server, known: statements, within: None } })?;
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
        let (id, mark, node, known_terms) = (self.id, self.mark, self.node, self.terms);
        let mut terms = None;
        let (mut written, tx, server) = self.begun(|link| {
            let held = read_head(link, LOCK_HEAD)?;
            // No node is given up while the head is held.
            let is_out = !work.changes.is_empty() && known_terms != Some(held.terms) && is_out(link, node)?;
            terms = (!is_out && !work.changes.is_empty()).then_some(held.terms);
            let is_outdated = |new: &NewEvent| new.registry.is_some_and(|registry| registry != held.registry);
            let are_outdated = work.news.iter().any(is_outdated);
            let mut possible = *work;
            if is_out {
                possible.changes = &[];
            }
            if are_outdated {
                possible.news = &[];
            }
            let mut written = commit::write(Db::Postgres(link), mode, &possible, held.heads)?;
            if are_outdated {
                written.places = work.news.iter().map(|_| Err(StoreError::Outdated)).collect();
            }
            written.refused = written.refused.or(is_out.then_some(StoreError::Ousted));
            written.is_out = is_out;
            let Heads { seq, ledger, chain } = written.heads;
            note_changes(link, work.acts, &written.answers, node)?;
            if written.heads == held.heads {
                link.execute(PUT_MARK, given![id, mark])?;
            } else {
                let is_news = seq != held.heads.seq && link.with.server.has_peers.load(Ordering::Relaxed);
                let sql = if is_news { MOVE_HEAD_MARK_AND_TELL } else { MOVE_HEAD_AND_MARK };
                link.execute(sql, given![seq.0, ledger, chain.0, id, mark])?;
            }
            Ok(written)
        })?;
        let began = Instant::now();
        match server.wait(tx.commit()) {
            Ok(()) => {
                written.took = began.elapsed();
                self.terms = terms.or(self.terms);
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
        self.in_transaction(|link| Ok(read_head(link, HEAD)?.heads))
    }

    /// As which node outcomes are written down from now on.
    pub(crate) fn set_node(&mut self, node: Option<NodeNo>) {
        (self.node, self.terms) = (node, None);
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

fn read_head(link: Link<'_>, sql: &'static str) -> Result<Held> {
    let read = |row: &Row<'_>| {
        let heads = Heads { seq: Seq(row.get(0)?), ledger: row.get(1)?, chain: row.get::<Digest>(2)? };
        Ok(Held { heads, terms: row.get(3)?, registry: row.get(4)? })
    };
    Db::Postgres(link).query_row(sql, given![], read)
}

/// Whether the node was given up.
fn is_out(link: Link<'_>, node: Option<NodeNo>) -> Result<bool> {
    let Some(node) = node else { return Ok(false) };
    Ok(Db::Postgres(link).query_row(IS_IN, given![node.0], |row| row.get::<i64>(0))? == 0)
}

/// Counts a change of the registry, so that nodes that don't know it yet find out before they publish.
fn note_changes(link: Link<'_>, acts: &[Act], answers: &[Result<u32>], node: Option<NodeNo>) -> Result<()> {
    let (mut partners, mut has_rules, mut has_tokens) = (Vec::new(), false, false);
    for (act, answer) in acts.iter().zip(answers) {
        match (&act.deed, answer) {
            (_, Err(_)) => {}
            (Deed::PutPartner(partner), Ok(no)) => {
                partners.push(*no);
                // The lane of a new partner is with the node that took it in, until it is given away.
                if let (None, Some(node)) = (partner.no, node) {
                    link.execute(TAKE_SEAT, given![no, node.0])?;
                }
            }
            (Deed::Pause(no, _) | Deed::RemovePartner(no, _) | Deed::PutSecrets(no, _), Ok(_)) => partners.push(no.0),
            (Deed::PutRule { .. } | Deed::RemoveRule { .. }, Ok(_)) => has_rules = true,
            (Deed::PutToken(_) | Deed::RevokeToken { .. }, Ok(_)) => has_tokens = true,
            _ => {}
        }
    }
    if partners.is_empty() && !has_rules && !has_tokens {
        return Ok(());
    }
    link.execute(COUNT_CHANGE, given![has_rules, has_tokens])?;
    for no in partners {
        link.execute(NOTE_PARTNER, given![no])?;
    }
    Db::Postgres(link).query_row(TELL_REGISTRY, given![], |_| Ok(()))
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
