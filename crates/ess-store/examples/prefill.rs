//! Fills a new data directory with events of the last 120 days and their attempts, for the bench of retention:
//! `prefill DIR ATTEMPTS`. Rows go in by SQL in the order of their keys; nothing of it was ever sent.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use ess_store::{Options, Store};
use rusqlite::{Connection, params};

const ATTEMPTS_OF_EVENT: i64 = 100;
const DAYS: i64 = 120;
const DAY_US: i64 = 86_400_000_000;
/// Partners 1,000,001 to 1,000,010, which are there no more, in the store's form: distances between neighbours as varints.
const AUDIENCE: [u8; 12] = [0xc1, 0x84, 0x3d, 1, 1, 1, 1, 1, 1, 1, 1, 1];

const EVENTS: &str = "with recursive n (seq) as (select 1 union all select seq + 1 from n where seq < ?1) \
    insert into event (seq, id, test, subject, version, kind, priority, recorded_at, audience, message, digest, rest, payload) \
    select seq, 'OLD-' || seq, 0, 'OLD-' || seq, 1, 0, 0, ?2 + seq * ?3, 1, randomblob(16), randomblob(32), '{}', \
    '{\"filler\":\"' || hex(randomblob(230)) || '\"}' from n";
const ATTEMPTS: &str = "with recursive n (i) as (select 0 union all select i + 1 from n where i < 99) \
    insert into attempt (seq, partner, round, number, at, took, status, outcome, reason) \
    select seq, 1000001 + i / 10, 0, i % 10 + 1, recorded_at + (i % 10) * 60000000, 1200 + i, 503, 'failed', \
    'the partner answered 503 Service Unavailable' from event cross join n order by seq, i";

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(dir), Some(attempts)) = (arguments.next(), arguments.next()) else {
        return Err("prefill DIR ATTEMPTS".into());
    };
    let (dir, events) = (PathBuf::from(dir), attempts.parse::<i64>()? / ATTEMPTS_OF_EVENT);
    make_store(&dir)?;
    let db = Connection::open(dir.join("ess.db"))?;
    // Nobody else has it, and it is worth nothing until it is whole.
    db.pragma_update(None, "journal_mode", "off")?;
    db.pragma_update(None, "synchronous", "off")?;
    db.execute("insert into audience (id, digest, partners) values (1, randomblob(32), ?1)", params![AUDIENCE])?;
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros())?;
    db.execute(EVENTS, params![events, now - DAYS * DAY_US, DAYS * DAY_US / events])?;
    db.execute(ATTEMPTS, [])?;
    Ok(())
}

/// An empty store of today's schema.
fn make_store(dir: &Path) -> Result<(), Box<dyn Error>> {
    let options = Options { readers: 1, ..Options::embedded(dir.to_owned()) };
    let opened = Store::open(&options)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(opened.store.close());
    Ok(())
}
