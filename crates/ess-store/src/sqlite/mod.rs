//! The store on SQLite: one writer thread, a few readers.

mod apply;
mod read;
mod rows;
mod schema;
mod start;
mod writer;

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ess_core::delivery::DeliveryKey;
use ess_core::id::{Digest, PartnerNo, Seq, Subject};
use ess_core::lane::OpenDelivery;
use ess_core::time::Time;
use rusqlite::{Connection, OpenFlags, Transaction, params};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use writer::{Act, Heads, Item, Shared, Writer};

use crate::error::StoreError;
use crate::seal::Seal;
use crate::types::{
    Audit, AuditLine, Backlog, Change, LaneStart, LedgerEntry, NewEvent, NewPartner, Publication, Recorded, Start,
    StoredDelivery, StoredToken,
};

/// Where the store is and how it behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// The data directory.
    pub dir: PathBuf,
    /// How long outcomes wait for others before they are committed.
    pub outcome_window: Duration,
    /// Reading connections.
    pub readers: usize,
    /// Ceiling of the database file.
    pub bytes_max: Option<u64>,
}

/// An open store with what it holds.
pub struct Opened {
    /// The store.
    pub store: Store,
    /// Every event that is recorded from now on, in the order of the log.
    pub recorded: mpsc::UnboundedReceiver<Vec<Recorded>>,
    /// What it holds.
    pub start: Start,
}

/// The store; cheap to clone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    items: std::sync::mpsc::Sender<Item>,
    shared: Arc<Shared>,
    seal: Seal,
    path: PathBuf,
    /// Guards the idle readers; held to take one or give it back.
    readers: Mutex<Vec<Connection>>,
    permits: Semaphore,
    /// Keeps a second hub out of the directory.
    _lock: File,
}

/// A reply that never came: the writer is gone.
fn gone(_: oneshot::error::RecvError) -> StoreError {
    StoreError::Closed
}

impl Store {
    /// Opens or makes the store of a directory.
    ///
    /// # Errors
    /// Another hub has it open, it is damaged or of a newer hub, or the directory can't be written.
    pub fn open(options: &Options) -> Result<Opened, StoreError> {
        let fail = |what: &str, error: &dyn std::fmt::Display| StoreError::Open(format!("{what}: {error}"));
        std::fs::create_dir_all(&options.dir).map_err(|error| fail("data directory", &error))?;
        let lock = lock(&options.dir)?;
        let seal = Seal::open(&options.dir.join("seal.key"))?;
        let path = options.dir.join("ess.db");
        let mut db = Connection::open(&path).map_err(|error| fail("ess.db", &error))?;
        configure(&db, false).map_err(|error| fail("ess.db", &error))?;
        schema::migrate(&mut db)?;
        set_bytes_max(&db, options.bytes_max);
        let start = start::read(&db, &seal)?;
        let (ledger, chain) = read::ledger_head(&db).map_err(|error| fail("ledger", &error))?;
        let (items, queue) = std::sync::mpsc::channel();
        let (recorded_sender, recorded) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            unrecorded: AtomicUsize::new(0),
            failing: Mutex::new(None),
            commits: watch::Sender::new(0),
        });
        let writer = Writer {
            db,
            items: queue,
            recorded: recorded_sender,
            shared: shared.clone(),
            outcome_window: options.outcome_window,
            heads: Heads { seq: start.head, ledger, chain },
            audiences: HashMap::new(),
            waiting: Vec::new(),
        };
        std::thread::Builder::new()
            .name("ess-store-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(|error| fail("writer thread", &error))?;
        let permits = Semaphore::new(options.readers.max(1));
        let readers = Mutex::default();
        let inner = Inner { items, shared, seal, path, readers, permits, _lock: lock };
        Ok(Opened { store: Store { inner: Arc::new(inner) }, recorded, start })
    }

    /// Appends an event; answers after the fsync.
    ///
    /// # Errors
    /// The store can't write now: nothing was recorded.
    pub async fn publish(&self, new: NewEvent) -> Result<Publication, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.hand_over(Item::Publish(Box::new(new), reply))?;
        answer.await.map_err(gone)?
    }

    /// Hands outcomes over; they are committed within the outcome window, in this order.
    pub fn record(&self, changes: Vec<Change>) {
        let count = changes.len();
        self.inner.shared.unrecorded.fetch_add(count, Ordering::Relaxed);
        // A store that was closed has nobody left who could ask for what is lost here.
        if self.hand_over(Item::Changes(changes)).is_err() {
            self.inner.shared.unrecorded.fetch_sub(count, Ordering::Relaxed);
        }
    }

    /// Hands outcomes over and waits for their commit; all that was handed over before is committed too.
    ///
    /// # Errors
    /// The store can't write now: they are kept and tried again.
    pub async fn record_durably(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        self.hand_over(Item::Durable(changes, reply))?;
        answer.await.map_err(gone)?
    }

    /// Outcomes that were handed over and are not yet committed.
    #[must_use]
    pub fn unrecorded(&self) -> usize {
        self.inner.shared.unrecorded.load(Ordering::Relaxed)
    }

    /// Counts commits: who waits for something to change waits for this.
    #[must_use]
    pub fn commits(&self) -> watch::Receiver<u64> {
        self.inner.shared.commits.subscribe()
    }

    /// Why the last commit failed, until one succeeds.
    #[must_use]
    pub fn failing(&self) -> Option<String> {
        self.inner.shared.failing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets another ceiling of the database file.
    pub async fn set_bytes_max(&self, bytes: Option<u64>) {
        let (reply, answer) = oneshot::channel();
        if self.hand_over(Item::BytesMax(bytes, reply)).is_ok() {
            // A closed store has no ceiling.
            drop(answer.await);
        }
    }

    /// Adds a partner, or puts it in the place of the one with its number; answers the number.
    ///
    /// # Errors
    /// The store can't write now.
    pub async fn put_partner(&self, partner: NewPartner, audit: Audit) -> Result<PartnerNo, StoreError> {
        let head = self
            .read(|db| Ok(db.query_row("select coalesce(max(no), 0) from partner", [], |row| row.get::<_, i64>(0))?))
            .await?;
        let no = partner.no.map_or(head + 1, |no| i64::from(no.0));
        let place = format!("partner/{no}");
        let document = self.inner.seal.seal(&place, partner.document.as_bytes())?;
        let secrets = self.inner.seal.seal(&place, start::write_secrets(&partner.secrets).as_bytes())?;
        let is_new = partner.no.is_none();
        let act: Act = Box::new(move |tx| {
            tx.execute(
                "insert into partner (no, id, document, secrets, added_at) values (?1, ?2, ?3, ?4, ?5) \
                 on conflict (no) do update set document = excluded.document, secrets = excluded.secrets",
                params![no, partner.id, document, secrets, partner.added_at.as_micros()],
            )?;
            if is_new {
                // Events recorded before it came are not sent to it.
                tx.execute(
                    "insert into lane (partner, cursor, counted, failures) \
                     values (?1, (select coalesce(max(seq), 0) from event), 0, 0)",
                    params![no],
                )?;
            }
            write_audit(tx, &audit)?;
            Ok(no)
        });
        self.act(act).await.and_then(|no| {
            u32::try_from(no).map(PartnerNo).map_err(|_| StoreError::Damaged("partner number".to_owned()))
        })
    }

    /// Pauses a partner, or lets it go on.
    ///
    /// # Errors
    /// The store can't write now.
    pub async fn set_paused(&self, no: PartnerNo, since: Option<Time>, audit: Audit) -> Result<(), StoreError> {
        self.update("update partner set paused_since = ?2 where no = ?1", no, since, audit).await
    }

    /// Removes a partner; what it was sent stays on record.
    ///
    /// # Errors
    /// The store can't write now.
    pub async fn remove_partner(&self, no: PartnerNo, at: Time, audit: Audit) -> Result<(), StoreError> {
        self.update("update partner set removed_at = ?2 where no = ?1", no, Some(at), audit).await
    }

    async fn update(
        &self,
        sql: &'static str,
        no: PartnerNo,
        time: Option<Time>,
        audit: Audit,
    ) -> Result<(), StoreError> {
        let act: Act = Box::new(move |tx| {
            tx.execute(sql, params![no.0, time.map(Time::as_micros)])?;
            write_audit(tx, &audit)?;
            Ok(0)
        });
        self.act(act).await.map(drop)
    }

    /// Stores another set of signing secrets for a partner.
    ///
    /// # Errors
    /// The store can't write now.
    pub async fn put_secrets(
        &self,
        no: PartnerNo,
        secrets: &[(String, Option<Time>)],
        audit: Audit,
    ) -> Result<(), StoreError> {
        let place = format!("partner/{}", no.0);
        let sealed = self.inner.seal.seal(&place, start::write_secrets(secrets).as_bytes())?;
        let act: Act = Box::new(move |tx| {
            tx.execute("update partner set secrets = ?2 where no = ?1", params![no.0, sealed])?;
            write_audit(tx, &audit)?;
            Ok(0)
        });
        self.act(act).await.map(drop)
    }

    /// Stores a bridge's document under its id.
    ///
    /// # Errors
    /// The store can't write now.
    pub async fn put_bridge(&self, id: String, document: String, audit: Audit) -> Result<(), StoreError> {
        let act: Act = Box::new(move |tx| {
            tx.execute("insert or replace into bridge (id, document) values (?1, ?2)", params![id, document])?;
            write_audit(tx, &audit)?;
            Ok(0)
        });
        self.act(act).await.map(drop)
    }

    /// Removes a bridge.
    ///
    /// # Errors
    /// The store can't write now.
    pub async fn remove_bridge(&self, id: String, audit: Audit) -> Result<(), StoreError> {
        let act: Act = Box::new(move |tx| {
            tx.execute("delete from bridge where id = ?1", params![id])?;
            write_audit(tx, &audit)?;
            Ok(0)
        });
        self.act(act).await.map(drop)
    }

    /// Stores a token, or its new state.
    ///
    /// # Errors
    /// The store can't write now.
    pub async fn put_token(&self, token: StoredToken, audit: Audit) -> Result<(), StoreError> {
        let act: Act = Box::new(move |tx| {
            start::write_token(tx, &token)?;
            write_audit(tx, &audit)?;
            Ok(0)
        });
        self.act(act).await.map(drop)
    }

    /// Marks a token as revoked.
    ///
    /// # Errors
    /// The store can't write now.
    pub async fn revoke_token(&self, id: String, at: Time, audit: Audit) -> Result<(), StoreError> {
        let act: Act = Box::new(move |tx| {
            let sql = "update token set revoked_at = coalesce(revoked_at, ?2) where id = ?1";
            tx.execute(sql, params![id, at.as_micros()])?;
            write_audit(tx, &audit)?;
            Ok(0)
        });
        self.act(act).await.map(drop)
    }

    /// A sealed setting.
    ///
    /// # Errors
    /// The store can't be read, or the setting does not open.
    pub async fn secret_setting(&self, key: &'static str) -> Result<Option<Vec<u8>>, StoreError> {
        use rusqlite::OptionalExtension as _;
        let sealed: Option<Vec<u8>> = self
            .read(move |db| {
                let sql = "select value from setting where key = ?1";
                Ok(db.query_row(sql, params![key], |row| row.get(0)).optional()?)
            })
            .await?;
        sealed.map(|sealed| self.inner.seal.unseal(key, &sealed)).transpose()
    }

    /// Stores a setting, sealed.
    ///
    /// # Errors
    /// The store can't write now.
    pub async fn put_secret_setting(&self, key: &'static str, value: &[u8]) -> Result<(), StoreError> {
        let sealed = self.inner.seal.seal(key, value)?;
        let act: Act = Box::new(move |tx| {
            tx.execute("insert or replace into setting (key, value) values (?1, ?2)", params![key, sealed])?;
            Ok(0)
        });
        self.act(act).await.map(drop)
    }

    /// Writes a line of the audit trail.
    ///
    /// # Errors
    /// The store can't write now.
    pub async fn put_audit(&self, audit: Audit) -> Result<(), StoreError> {
        let act: Act = Box::new(move |tx| write_audit(tx, &audit).map(|()| 0));
        self.act(act).await.map(drop)
    }

    async fn act(&self, act: Act) -> Result<i64, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.hand_over(Item::Act(act, reply))?;
        answer.await.map_err(gone)?
    }

    fn hand_over(&self, item: Item) -> Result<(), StoreError> {
        self.inner.items.send(item).map_err(|_| StoreError::Closed)
    }
}

/// Questions.
impl Store {
    /// The event at this place.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn event(&self, seq: Seq) -> Result<Option<Recorded>, StoreError> {
        self.read(move |db| Ok(read::event(db, seq)?)).await
    }

    /// The event of this id.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn event_by_id(&self, id: &str, test: bool) -> Result<Option<Recorded>, StoreError> {
        let id = id.to_owned();
        self.read(move |db| Ok(read::event_by_id(db, &id, test)?)).await
    }

    /// A page of the log.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn events(&self, subject: Option<&str>, after: Seq, limit: usize) -> Result<Vec<Recorded>, StoreError> {
        let subject = subject.map(str::to_owned);
        self.read(move |db| Ok(read::events(db, subject.as_deref(), after, limit)?)).await
    }

    /// What a lane needs to go on where it was.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn lane_start(&self, partner: PartnerNo) -> Result<LaneStart, StoreError> {
        self.read(move |db| Ok(read::lane_start(db, partner)?)).await
    }

    /// Open deliveries with records of their own, after a place.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn open_deliveries(
        &self,
        partner: PartnerNo,
        after: (Seq, u32),
        limit: usize,
    ) -> Result<Vec<OpenDelivery>, StoreError> {
        self.read(move |db| Ok(read::open_deliveries(db, partner, after, limit)?)).await
    }

    /// The oldest open deliveries of a line.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn open_of_subject(
        &self,
        partner: PartnerNo,
        subject: &Subject,
        test: bool,
        limit: usize,
    ) -> Result<Vec<OpenDelivery>, StoreError> {
        let subject = subject.clone();
        self.read(move |db| Ok(read::open_of_subject(db, partner, subject.as_str(), test, limit)?)).await
    }

    /// A page of the events after `after` that are for the partner.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn backlog(&self, partner: PartnerNo, after: Seq, limit: usize) -> Result<Backlog, StoreError> {
        self.read(move |db| Ok(read::backlog(db, partner, after, limit)?)).await
    }

    /// How many deliveries of the partner have not ended, up to `ceiling`.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn backlog_count(&self, partner: PartnerNo, ceiling: u64) -> Result<u64, StoreError> {
        self.read(move |db| Ok(read::backlog_count(db, partner, ceiling)?)).await
    }

    /// Every delivery of an event.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn deliveries_of_event(&self, seq: Seq) -> Result<Vec<StoredDelivery>, StoreError> {
        self.read(move |db| Ok(read::deliveries_of_event(db, seq)?)).await
    }

    /// Dead letters, oldest first, after a place.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn dead_letters(
        &self,
        partner: Option<PartnerNo>,
        event: Option<Seq>,
        after: DeliveryKey,
        limit: usize,
    ) -> Result<Vec<StoredDelivery>, StoreError> {
        let after = (after.seq, after.partner, after.round);
        self.read(move |db| Ok(read::dead_letters(db, partner, event, after, limit)?)).await
    }

    /// Open deliveries of every partner with records of their own, oldest first, after a place.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn open_everywhere(&self, after: DeliveryKey, limit: usize) -> Result<Vec<StoredDelivery>, StoreError> {
        self.read(move |db| Ok(read::open_everywhere(db, after, limit)?)).await
    }

    /// The newest event of the subject after `seq` that the partner acknowledged.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn acked_after_of_subject(
        &self,
        partner: PartnerNo,
        subject: &Subject,
        seq: Seq,
    ) -> Result<Option<Seq>, StoreError> {
        let subject = subject.clone();
        self.read(move |db| Ok(read::acked_after_of_subject(db, partner, subject.as_str(), seq)?)).await
    }

    /// Receipts from an index on.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn ledger(&self, from: u64, limit: usize) -> Result<Vec<LedgerEntry>, StoreError> {
        self.read(move |db| Ok(read::ledger(db, from, limit)?)).await
    }

    /// How many receipts there are, and the head of their chain.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn ledger_head(&self) -> Result<(u64, Digest), StoreError> {
        self.read(|db| Ok(read::ledger_head(db)?)).await
    }

    /// Walks the whole chain.
    ///
    /// # Errors
    /// `Damaged` names the first entry that does not fit.
    pub async fn verify_ledger(&self) -> Result<(u64, Digest), StoreError> {
        self.read(|db| read::verify_ledger(db)).await
    }

    /// Lines of the audit trail after a number.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn audit(&self, after: u64, limit: usize) -> Result<Vec<AuditLine>, StoreError> {
        self.read(move |db| Ok(read::audit(db, after, limit)?)).await
    }

    /// Writes a consistent copy of the database to `file` while the hub goes on; answers its bytes.
    ///
    /// # Errors
    /// The file exists already or can't be written.
    pub async fn backup(&self, file: &Path) -> Result<u64, StoreError> {
        let file = file.to_owned();
        self.read(move |db| {
            let fail = |error: &dyn std::fmt::Display| StoreError::Unavailable(format!("back-up: {error}"));
            if file.exists() {
                return Err(fail(&"the file exists already"));
            }
            let mut copy = Connection::open(&file).map_err(|error| fail(&error))?;
            {
                let backup = rusqlite::backup::Backup::new(db, &mut copy).map_err(|error| fail(&error))?;
                // Small steps without a pause: readers and the writer go on meanwhile under WAL.
                backup.run_to_completion(256, Duration::ZERO, None).map_err(|error| fail(&error))?;
            }
            let check: String =
                copy.query_row("pragma quick_check", [], |row| row.get(0)).map_err(|error| fail(&error))?;
            if check != "ok" {
                return Err(fail(&check));
            }
            drop(copy);
            let written = File::open(&file).and_then(|written| written.sync_all().map(|()| written));
            let bytes = written.and_then(|written| written.metadata()).map_err(|error| fail(&error))?.len();
            Ok(bytes)
        })
        .await
    }

    /// Writes what is left and closes the database.
    pub async fn close(&self) {
        let (reply, answer) = oneshot::channel();
        if self.hand_over(Item::Close(reply)).is_ok() {
            // The writer that is gone already has closed it.
            drop(answer.await);
        }
    }

    async fn read<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let _permit = self.inner.permits.acquire().await.map_err(|_| StoreError::Closed)?;
        let store = self.clone();
        let asked = tokio::task::spawn_blocking(move || {
            let idle = store.inner.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let db = match idle {
                Some(db) => db,
                None => open_reader(&store.inner.path)?,
            };
            let answer = question(&db);
            store.inner.readers.lock().unwrap_or_else(PoisonError::into_inner).push(db);
            answer
        });
        asked.await.map_err(|error| StoreError::Unavailable(error.to_string()))?
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        StoreError::Unavailable(error.to_string())
    }
}

fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)?;
    configure(&db, true)?;
    Ok(db)
}

fn configure(db: &Connection, read_only: bool) -> rusqlite::Result<()> {
    db.busy_timeout(Duration::from_secs(5))?;
    db.pragma_update(None, "cache_size", -1_024)?;
    db.set_prepared_statement_cache_capacity(64);
    if read_only {
        return Ok(());
    }
    db.pragma_update(None, "journal_mode", "wal")?;
    db.pragma_update(None, "synchronous", "full")?;
    db.pragma_update(None, "foreign_keys", true)?;
    // The writer moves the log itself when it is idle; this is the ceiling under steady load.
    db.pragma_update(None, "wal_autocheckpoint", 8_000)?;
    db.pragma_update(None, "journal_size_limit", 64 * 1024 * 1024)
}

fn set_bytes_max(db: &Connection, bytes: Option<u64>) {
    let page: u64 = db.query_row("pragma page_size", [], |row| row.get(0)).unwrap_or(4_096);
    let pages = bytes.map_or(4_294_967_294, |bytes| (bytes / page).max(1));
    // Never below what is there: SQLite keeps the larger of the two.
    let _ = db.query_row(&format!("pragma max_page_count = {pages}"), [], |_| Ok(()));
}

fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join("lock");
    let fail = |error: &dyn std::fmt::Display| StoreError::Open(format!("{}: {error}", path.display()));
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(|error| fail(&error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(fail(&"another hub has this data directory open")),
        Err(std::fs::TryLockError::Error(error)) => Err(fail(&error)),
    }
}

fn write_audit(tx: &Transaction<'_>, audit: &Audit) -> rusqlite::Result<()> {
    tx.execute(
        "insert into audit (at, actor, act, object, reason) values (?1, ?2, ?3, ?4, ?5)",
        params![audit.at.as_micros(), audit.actor, audit.act, audit.object, audit.reason],
    )?;
    Ok(())
}
