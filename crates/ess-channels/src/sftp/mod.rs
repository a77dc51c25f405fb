//! The SFTP channel: an atomic drop in a directory of the partner's server.
//!
//! ```text
//! NAME.1.part: create, write, fsync, close -> rename to NAME, never over another file -> the receipt
//! ```
//!
//! A connection is logged in once and used for one drop after the other. After a broken one the next attempt looks
//! whether the drop stands already, so that a link that was cut around the rename doubles nothing.

mod connection;
mod leash;
mod remote;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ess_core::message::{Message, receipt_name};
use ess_core::partner::{AckBy, Partner, Settings, Write};
use ess_core::receipt::{Evidence, Failure, Receipt, Stage};
use tokio::time::{Instant, timeout_at};

use self::connection::{Connection, IDLE_MAX, Login};
use self::remote::{Found, Trouble};
use crate::channel::ChannelError;
use crate::credential::Credential;
use crate::dialer::Dialer;
use crate::left::{Found as FoundFiles, Left, Search, Seen, places};
use crate::limits::PARTS_MAX;
use crate::progress::{Progress, one_line};
use crate::target::{SFTP, Target, percent_decode};
use crate::watch::{Awaited, Heard, Unsettled, Watch};

/// How often receipt files are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// With more receipts outstanding the directory is listed instead of asked for each.
const ASKED_SINGLY_MAX: usize = 16;

/// Drops for one partner.
pub struct SftpDrop {
    target: Target,
    dialer: Dialer,
    login: Login,
    /// Without a slash at its end; empty for the directory that the server begins in.
    dir: String,
    write: Write,
    pattern: Option<String>,
    extension: &'static str,
    unsettled: Unsettled,
    connections_max: usize,
    /// Locked for a push or a pop only; the longest idle lie at the bottom.
    idle: Mutex<Vec<Connection>>,
}

impl std::fmt::Debug for SftpDrop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SftpDrop").field("host", &self.target.host).field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl SftpDrop {
    pub(crate) fn open(
        partner: &Partner,
        url: &str,
        credential: Credential,
        dialer: &Dialer,
    ) -> Result<SftpDrop, ChannelError> {
        let Settings::Sftp(settings) = &partner.settings else {
            return Err(ChannelError::Option("the partner has no settings for sftp".to_owned()));
        };
        let target = Target::parse(url, &SFTP)?;
        let path = target.path.split('?').next().unwrap_or_default();
        let path =
            percent_decode(path).ok_or_else(|| ChannelError::Url("it is not percent-encoded UTF-8".to_owned()))?;
        if path.contains('\0') || path.split('/').any(|name| name == "..") {
            return Err(ChannelError::Url("it must name a directory without `..`".to_owned()));
        }
        // `/~/inbox` is beneath the directory in which the server lets the user begin.
        let dir = path.strip_prefix("/~").unwrap_or(&path);
        let dir = if path.starts_with("/~") { dir.trim_start_matches('/') } else { dir };
        let is_by_file = partner.ack.by == AckBy::File;
        Ok(SftpDrop {
            login: Login::new(credential, &target, &settings.host_key)?,
            dir: dir.trim_end_matches('/').to_owned(),
            target,
            dialer: dialer.clone(),
            write: settings.write,
            pattern: partner.ack.place.clone().filter(|_| is_by_file),
            extension: partner.format.extension(),
            unsettled: Unsettled::default(),
            connections_max: partner.limits.in_flight as usize,
            idle: Mutex::default(),
        })
    }

    pub(crate) async fn send(&self, message: &Message, deadline: Instant) -> Receipt {
        let progress = Progress::begin(deadline);
        match timeout_at(deadline, self.attempt(message, &progress)).await {
            Ok(Ok(receipt)) => receipt,
            Ok(Err(failure)) => Receipt::Failed(one_line(failure)),
            Err(_) => Receipt::Failed(progress.timed_out()),
        }
    }

    pub(crate) fn watch(&self) -> Watch {
        if self.pattern.is_some() { Watch::Look(LOOK_EVERY) } else { Watch::None }
    }

    pub(crate) async fn look(&self, awaited: &[Awaited], deadline: Instant) -> Result<Vec<Heard>, Failure> {
        let progress = Progress::begin(deadline);
        let looked = async {
            let connection = self.connection(&progress).await?;
            progress.enter(Stage::Read);
            let heard =
                self.receipts(&connection, awaited).await.map_err(|trouble| self.failure(trouble, Stage::Read))?;
            self.keep(connection);
            Ok(heard)
        };
        timeout_at(deadline, looked).await.unwrap_or_else(|_| Err(progress.timed_out())).map_err(one_line)
    }

    pub(crate) async fn settle(&self, awaited: &Awaited, deadline: Instant) -> Result<(), Failure> {
        let Some(path) = self.receipt_path(awaited) else { return Ok(()) };
        let progress = Progress::begin(deadline);
        let settled = async {
            let connection = self.connection(&progress).await?;
            progress.enter(Stage::Send);
            connection.remove(&path).await.map_err(|trouble| self.failure(trouble, Stage::Send))?;
            self.keep(connection);
            Ok(())
        };
        timeout_at(deadline, settled).await.unwrap_or_else(|_| Err(progress.timed_out())).map_err(one_line)
    }

    pub(crate) async fn left(&self, search: Search, deadline: Instant) -> Result<Vec<Left>, Failure> {
        let progress = Progress::begin(deadline);
        let listed = async {
            let connection = self.connection(&progress).await?;
            progress.enter(Stage::Read);
            let mut found = FoundFiles::new(search);
            for place in places(self.pattern.as_deref()) {
                let dir = self.path(&place);
                let dir = if dir.len() > 1 { dir.trim_end_matches('/') } else { &dir };
                let files = connection.files(dir).await.map_err(|trouble| self.failure(trouble, Stage::Read))?;
                for (name, modified) in files {
                    let seen = Seen { name: &format!("{place}{name}"), modified };
                    found.see(seen, self.pattern.as_deref(), self.extension);
                }
            }
            self.keep(connection);
            Ok(found.into_files())
        };
        timeout_at(deadline, listed).await.unwrap_or_else(|_| Err(progress.timed_out())).map_err(one_line)
    }

    pub(crate) async fn clean(&self, names: &[String], search: &Search, deadline: Instant) -> Result<usize, Failure> {
        let progress = Progress::begin(deadline);
        let cleaned = async {
            let connection = self.connection(&progress).await?;
            progress.enter(Stage::Send);
            let mut gone = 0;
            for name in names {
                let removed = connection.remove_old(&self.path(name), search.before).await;
                gone += usize::from(removed.map_err(|trouble| self.failure(trouble, Stage::Send))?);
            }
            self.keep(connection);
            Ok(gone)
        };
        timeout_at(deadline, cleaned).await.unwrap_or_else(|_| Err(progress.timed_out())).map_err(one_line)
    }

    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        let is_useless = |connection: &mut Connection| {
            now.saturating_duration_since(connection.used_at) > IDLE_MAX || connection.is_closed()
        };
        // They are dropped after the lock.
        let _useless: Vec<Connection> = {
            let mut idle = self.idle();
            idle.extract_if(.., is_useless).collect()
        };
    }

    /// One attempt: on a kept connection if there is one, once more on a fresh one if the kept one was stale.
    async fn attempt(&self, message: &Message, progress: &Progress) -> Result<Receipt, Failure> {
        let mut is_again = message.attempt > 1;
        if let Some(connection) = self.take() {
            match self.put(&connection, message, is_again, progress).await {
                Err(Trouble::Broken(_)) => is_again = true,
                outcome => return self.finish(connection, outcome),
            }
        }
        let connection = self.login.connect(&self.dialer, &self.target, progress).await?;
        let outcome = self.put(&connection, message, is_again, progress).await;
        self.finish(connection, outcome)
    }

    fn finish(&self, connection: Connection, outcome: Result<Receipt, Trouble>) -> Result<Receipt, Failure> {
        match outcome {
            Ok(receipt) => {
                self.keep(connection);
                Ok(receipt)
            }
            Err(trouble) => Err(self.failure(trouble, Stage::Send)),
        }
    }

    async fn put(
        &self,
        connection: &Connection,
        message: &Message,
        is_again: bool,
        progress: &Progress,
    ) -> Result<Receipt, Trouble> {
        progress.enter(Stage::Send);
        let name = message.file_name();
        let path = self.path(&name);
        if message.replay && message.attempt == 1 {
            // A receipt that was left there is of an earlier round.
            let awaited = Awaited { event: message.event_id.clone(), version: message.version, test: message.test };
            if let Some(receipt) = self.receipt_path(&awaited) {
                connection.remove(&receipt).await?;
            }
        }
        // A server that may replace a file by a rename is asked first.
        let must_ask = is_again || message.replay || (self.write == Write::Rename && !connection.has_posix_rename);
        let found = if must_ask { connection.compare(&path, &message.body).await? } else { Found::Nothing };
        match (found, self.write) {
            (Found::Same, _) => {
                self.clean_parts(connection, message, &name).await?;
                return Ok(Receipt::Confirmed);
            }
            (Found::Other, _) | (Found::Beginning, Write::Rename) if !message.replay => return Ok(self.taken(&name)),
            (Found::Other | Found::Beginning, write)
                if message.replay && (write == Write::Once || !connection.has_posix_rename) =>
            {
                connection.remove(&path).await?;
            }
            _ => {}
        }
        match self.write {
            Write::Once => self.put_once(connection, message, &path, &name).await,
            Write::Rename => self.put_and_rename(connection, message, &path, &name, progress).await,
        }
    }

    async fn put_and_rename(
        &self,
        connection: &Connection,
        message: &Message,
        path: &str,
        name: &str,
        progress: &Progress,
    ) -> Result<Receipt, Trouble> {
        let part = self.path(&part_name(name, message.attempt));
        match connection.write_new(&part, &message.body).await {
            // What an attempt before a restart left there goes.
            Err(Trouble::Refused(_)) if connection.exists(&part).await? => {
                connection.remove(&part).await?;
                connection.write_new(&part, &message.body).await?;
            }
            written => written?,
        }
        progress.enter(Stage::Await);
        let renamed = if message.replay && connection.has_posix_rename {
            connection.rename_over(&part, path).await
        } else {
            connection.rename(&part, path).await
        };
        match renamed {
            Ok(()) => {
                self.clean_parts(connection, message, name).await?;
                Ok(Receipt::Confirmed)
            }
            Err(Trouble::Refused(reason)) => {
                let found = connection.compare(path, &message.body).await?;
                connection.remove(&part).await?;
                match found {
                    Found::Same => Ok(Receipt::Confirmed),
                    Found::Other | Found::Beginning => Ok(self.taken(name)),
                    Found::Nothing => Err(Trouble::Refused(format!("the rename was refused: {reason}"))),
                }
            }
            Err(trouble) => Err(trouble),
        }
    }

    /// For servers without a rename: the file grows under its own name, and an attempt that was cut is written anew.
    async fn put_once(
        &self,
        connection: &Connection,
        message: &Message,
        path: &str,
        name: &str,
    ) -> Result<Receipt, Trouble> {
        match connection.write_new(path, &message.body).await {
            Ok(()) => Ok(Receipt::Confirmed),
            Err(Trouble::Refused(reason)) => match connection.compare(path, &message.body).await? {
                Found::Same => Ok(Receipt::Confirmed),
                Found::Other => Ok(self.taken(name)),
                Found::Beginning => {
                    connection.write_over(path, &message.body).await?;
                    Ok(Receipt::Confirmed)
                }
                Found::Nothing => Err(Trouble::Refused(reason)),
            },
            Err(trouble) => Err(trouble),
        }
    }

    /// Removes what broken attempts of this delivery left.
    async fn clean_parts(&self, connection: &Connection, message: &Message, name: &str) -> Result<(), Trouble> {
        for attempt in 1..message.attempt.min(PARTS_MAX) {
            connection.remove(&self.path(&part_name(name, attempt))).await?;
        }
        Ok(())
    }

    async fn receipts(&self, connection: &Connection, awaited: &[Awaited]) -> Result<Vec<Heard>, Trouble> {
        let mut heard = Vec::new();
        let mut names = Vec::with_capacity(awaited.len());
        let mut listed = remote::Listed::default();
        for one in awaited {
            let Some(path) = self.receipt_path(one) else { continue };
            let is_worth_asking = awaited.len() <= ASKED_SINGLY_MAX || listed.has(connection, &path).await?;
            if is_worth_asking
                && let Some((look, content)) = connection.read_receipt(&path).await?
                && let Some(said) = self.unsettled.read(&path, look, &content, &one.event)
            {
                heard.push(Heard { event: one.event.clone(), test: one.test, said, evidence: Evidence::File });
            }
            names.push(path);
        }
        self.unsettled.keep_only(&names);
        Ok(heard)
    }

    fn receipt_path(&self, awaited: &Awaited) -> Option<String> {
        let Awaited { event, version, test } = awaited;
        let name = receipt_name(self.pattern.as_deref()?, event, *version, self.extension, *test);
        Some(self.path(&name))
    }

    fn path(&self, name: &str) -> String {
        let is_at_home = self.dir.is_empty() && self.target.path.starts_with("/~");
        if is_at_home { name.to_owned() } else { format!("{}/{name}", self.dir) }
    }

    fn taken(&self, name: &str) -> Receipt {
        let dir = if self.dir.is_empty() { "/" } else { &self.dir };
        Receipt::Refused { reason: format!("another file called {name} is in {dir}; it was left as it is") }
    }

    async fn connection(&self, progress: &Progress) -> Result<Connection, Failure> {
        match self.take() {
            Some(connection) => Ok(connection),
            None => self.login.connect(&self.dialer, &self.target, progress).await,
        }
    }

    fn take(&self) -> Option<Connection> {
        loop {
            let popped = self.idle().pop();
            let connection = popped?;
            if !connection.is_closed() {
                return Some(connection);
            }
        }
    }

    fn keep(&self, mut connection: Connection) {
        connection.used_at = Instant::now();
        let mut idle = self.idle();
        if idle.len() < self.connections_max {
            idle.push(connection);
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failure(&self, trouble: Trouble, stage: Stage) -> Failure {
        let dir = if self.dir.is_empty() { "the first directory" } else { &self.dir };
        let reason = match trouble {
            Trouble::Missing => format!("the directory {dir} is not there"),
            Trouble::Forbidden => format!("the user may not write in {dir}"),
            Trouble::Refused(reason) | Trouble::Broken(reason) => reason,
        };
        Failure { stage, reason }
    }
}

/// Attempts do not write into each other's file: a server may still work on what one that was cut asked for.
fn part_name(name: &str, attempt: u32) -> String {
    format!("{name}.{attempt}.part")
}
