//! Sessions of the dashboard, for all nodes: who is signed in, by a digest of the cookie, and what is to be told on the next page.
//!
//! Never holds a cookie's text or a token's, and a notice only sealed. Time is the database's own.

use std::sync::Arc;
use std::time::Duration;

use super::desk::Desk;
use super::link::Link;
use super::nodes::micros;
use crate::error::StoreError;
use crate::seal::Seal;
use crate::sessions::{Session, SessionBounds};
use crate::sql::db::{Db, Row, given};

type Result<T> = std::result::Result<T, StoreError>;

/// "HMSE", and what the lock is for: sign-ins at several nodes come one after the other, so that the bounds hold for all together, and
/// no two that clear away wait for each other's rows.
const LOCK: &str = "select pg_advisory_xact_lock(1213026117, 3)";
const FORGET_OVER: &str = "delete from dashboard_session \
    where began_at <= clock_timestamp() - ?1::bigint * interval '1 microsecond' \
    or seen_at <= clock_timestamp() - ?2::bigint * interval '1 microsecond'";
/// The oldest make room for one more.
const FORGET_OF_TOKEN: &str = "delete from dashboard_session where key in \
    (select key from dashboard_session where token = ?1 order by seen_at desc offset ?2)";
const FORGET_OLDEST: &str = "delete from dashboard_session where key in \
    (select key from dashboard_session order by seen_at desc offset ?1)";
const BEGIN: &str = "insert into dashboard_session (key, token) values (?1, ?2)";
const FIND: &str = "select token, case when notice is null then 0 else 1 end, \
    case when seen_at <= clock_timestamp() - ?4::bigint * interval '1 microsecond' then 1 else 0 end \
    from dashboard_session where key = ?1 \
    and began_at > clock_timestamp() - ?2::bigint * interval '1 microsecond' \
    and seen_at > clock_timestamp() - ?3::bigint * interval '1 microsecond'";
const SEE: &str = "update dashboard_session set seen_at = clock_timestamp() where key = ?1";
const END: &str = "delete from dashboard_session where key = ?1";
const LEAVE: &str = "update dashboard_session set notice = ?2 where key = ?1";
/// Who comes second waits for the first, and finds nothing.
const TAKE: &str = "with left_there as \
    (select notice from dashboard_session where key = ?1 and notice is not null for update) \
    update dashboard_session set notice = null from left_there where key = ?1 returning left_there.notice";

/// A session's `seen_at` moves so seldom: most requests read and write nothing.
const SEEN_EVERY: Duration = Duration::from_secs(60);
/// Connections at most: one is enough unless the server does not answer.
pub(super) const CONNECTIONS_MAX: usize = 2;

/// The sessions that all nodes know; cheap to clone.
#[derive(Clone)]
pub struct Sessions {
    desk: Arc<Desk>,
    seal: Arc<Seal>,
    bounds: SessionBounds,
}

impl Sessions {
    pub(super) fn new(desk: Arc<Desk>, seal: Arc<Seal>, bounds: SessionBounds) -> Self {
        Self { desk, seal, bounds }
    }

    /// Begins a session of a token; the oldest ones make room. Durable when this returns.
    ///
    /// # Errors
    /// The database can't be asked within this time.
    pub async fn begin(&self, key: [u8; 32], token: [u8; 32], within: Duration) -> Result<()> {
        let bounds = self.bounds;
        self.desk
            .ask(within, move |link| {
                link.execute(LOCK, given![])?;
                link.execute(FORGET_OVER, given![micros(bounds.age_max), micros(bounds.idle_max)])?;
                link.execute(FORGET_OF_TOKEN, given![token, bounds.of_a_token_max.saturating_sub(1)])?;
                link.execute(FORGET_OLDEST, given![bounds.count_max.saturating_sub(1)])?;
                link.execute(BEGIN, given![key, token]).map(drop)
            })
            .await
    }

    /// The session of this key, if it goes on; it was seen now.
    ///
    /// # Errors
    /// The database can't be asked within this time.
    pub async fn find(&self, key: [u8; 32], within: Duration) -> Result<Option<Session>> {
        let bounds = self.bounds;
        self.desk
            .ask(within, move |link| {
                let found = look(link, &key, bounds)?;
                if let Some((_, true)) = found {
                    // A crash that forgets it forgets a minute.
                    link.execute("set local synchronous_commit = off", given![])?;
                    link.execute(SEE, given![key])?;
                }
                Ok(found.map(|(session, _)| session))
            })
            .await
    }

    /// The same without having seen it.
    ///
    /// # Errors
    /// The database can't be asked within this time.
    pub async fn peek(&self, key: [u8; 32], within: Duration) -> Result<Option<Session>> {
        let bounds = self.bounds;
        let found = self.desk.ask(within, move |link| look(link, &key, bounds)).await?;
        Ok(found.map(|(session, _)| session))
    }

    /// Ends a session, at every node. Durable when this returns.
    ///
    /// # Errors
    /// The database can't be asked within this time.
    pub async fn end(&self, key: [u8; 32], within: Duration) -> Result<()> {
        self.desk.ask(within, move |link| link.execute(END, given![key]).map(drop)).await
    }

    /// Leaves word for the session's next page, in the place of an earlier one; sealed, as it may bear a secret.
    ///
    /// # Errors
    /// The database can't be asked within this time, or the word is longer than one may be.
    pub async fn leave(&self, key: [u8; 32], notice: &[u8], within: Duration) -> Result<()> {
        let sealed = self.seal.seal(&place(&key), notice)?;
        self.desk.ask(within, move |link| link.execute(LEAVE, given![key, sealed]).map(drop)).await
    }

    /// Takes the word that was left: nobody else gets it.
    ///
    /// # Errors
    /// The database can't be asked within this time, or what is there does not open.
    pub async fn take_notice(&self, key: [u8; 32], within: Duration) -> Result<Option<Vec<u8>>> {
        let read = |row: &Row<'_>| row.get::<Vec<u8>>(0);
        let taken = self.desk.ask(within, move |link| Db::Postgres(link).query_one(TAKE, given![key], read)).await?;
        taken.map(|sealed| self.seal.unseal(&place(&key), &sealed)).transpose()
    }

    /// Clears away what is over.
    ///
    /// # Errors
    /// The database can't be asked within this time.
    pub async fn clear(&self, within: Duration) -> Result<()> {
        let given = [self.bounds.age_max, self.bounds.idle_max].map(micros);
        self.desk
            .ask(within, move |link| {
                link.execute(LOCK, given![])?;
                link.execute(FORGET_OVER, given![given[0], given[1]]).map(drop)
            })
            .await
    }
}

/// The session of a key, if it goes on, and whether it is to be written down that it was seen.
fn look(link: Link<'_>, key: &[u8; 32], bounds: SessionBounds) -> Result<Option<(Session, bool)>> {
    let read = |row: &Row<'_>| Ok((Session { token: row.get(0)?, has_notice: row.get(1)? }, row.get(2)?));
    let SessionBounds { age_max, idle_max, .. } = bounds;
    Db::Postgres(link).query_one(FIND, given![key, micros(age_max), micros(idle_max), micros(SEEN_EVERY)], read)
}

/// Where a notice stands: it opens nowhere else.
fn place(key: &[u8; 32]) -> String {
    let key: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("dashboard_session/{key}/notice")
}
