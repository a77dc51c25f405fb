//! The file channel: an atomic drop in a directory of the hub's machine, most often a mounted share.
//!
//! ```text
//! write NAME.1.part, fsync -> rename to NAME, never over another file -> fsync of the directory -> the receipt
//! ```
//!
//! It opens nothing outside of the directories that the operator allowed, also not through links, and a share that hangs
//! costs its own partners' attempts and a bounded number of threads, nothing else: no other allowed directory is touched on
//! the way to a partner's own.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ess_core::limits::RECEIPT_BYTES_MAX;
use ess_core::message::{Message, receipt_name};
use ess_core::partner::{AckBy, AllowDir, Partner};
use ess_core::receipt::{Evidence, Failure, Receipt, Said, Stage};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use crate::channel::ChannelError;
use crate::dialer::Dialer;
use crate::dir_sync::DirSync;
use crate::left::{Found, Left, Search, Seen, places};
use crate::limits::{FILE_THREADS_MAX, PARTS_MAX};
use crate::progress::{Progress, one_line};
use crate::target::percent_decode;
use crate::watch::{Awaited, Heard, Look, Unsettled, Watch};
use crate::wire::io_words;

/// How often receipt files are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Drops for one partner.
#[derive(Debug)]
pub struct FileDrop {
    place: Arc<Place>,
    /// Threads in the directory, and those of all partners beneath the allowed one; a thread that hangs keeps its permits to
    /// its real end.
    permits: Arc<Semaphore>,
    shared_permits: Arc<Semaphore>,
}

#[derive(Debug)]
struct Place {
    dir: PathBuf,
    allow: AllowDir,
    /// How receipts are called, where they come as files.
    pattern: Option<String>,
    extension: &'static str,
    unsettled: Unsettled,
    /// Syncs of the directory as it was last resolved to. Locked to look and to exchange it only.
    syncs: Mutex<(PathBuf, Arc<DirSync>)>,
}

/// What became of a drop.
enum Dropped {
    /// It is there under its name, durably.
    There,
    /// Another file has the name.
    Taken(String),
}

impl FileDrop {
    pub(crate) fn open(partner: &Partner, url: &str, dialer: &Dialer) -> Result<FileDrop, ChannelError> {
        let refuse = |why: String| ChannelError::Url(why);
        let path = url.strip_prefix("file://").ok_or_else(|| refuse("it must begin with file:///".to_owned()))?;
        let path = percent_decode(path).ok_or_else(|| refuse("it is not percent-encoded UTF-8".to_owned()))?;
        let dir = PathBuf::from(&path);
        let is_plain = dir.is_absolute()
            && !path.contains('\0')
            && dir.components().all(|part| !matches!(part, std::path::Component::ParentDir));
        if !is_plain {
            return Err(refuse("it must name an absolute directory, without `..`".to_owned()));
        }
        let Some(shared_permits) = dialer.dir_threads(&dir) else {
            return Err(refuse(not_allowed(&dir)));
        };
        let is_by_file = partner.ack.by == AckBy::File;
        let place = Place {
            dir,
            allow: dialer.allow_dir().clone(),
            pattern: partner.ack.place.clone().filter(|_| is_by_file),
            extension: partner.format.extension(),
            unsettled: Unsettled::default(),
            syncs: Mutex::default(),
        };
        let permits = FILE_THREADS_MAX.min(partner.limits.in_flight as usize);
        Ok(FileDrop { place: Arc::new(place), permits: Arc::new(Semaphore::new(permits)), shared_permits })
    }

    pub(crate) async fn send(&self, message: &Message, deadline: Instant) -> Receipt {
        let message = message.clone();
        match self.run(deadline, Stage::Send, move |place| place.put(&message)).await {
            Ok(Dropped::There) => Receipt::Confirmed,
            Ok(Dropped::Taken(reason)) => Receipt::Refused { reason },
            Err(failure) => Receipt::Failed(one_line(failure)),
        }
    }

    /// Whether the directory is there and may be used; nothing is written.
    pub(crate) async fn probe(&self, deadline: Instant) -> Result<(), Failure> {
        let resolved = self.run(deadline, Stage::Connect, |place| place.resolve(&place.dir).map(|_| ()));
        resolved.await.map_err(one_line)
    }

    pub(crate) fn watch(&self) -> Watch {
        if self.place.pattern.is_some() { Watch::Look(LOOK_EVERY) } else { Watch::None }
    }

    pub(crate) async fn look(&self, awaited: &[Awaited], deadline: Instant) -> Result<Vec<Heard>, Failure> {
        let awaited = awaited.to_vec();
        self.run(deadline, Stage::Read, move |place| place.look(&awaited)).await.map_err(one_line)
    }

    pub(crate) async fn settle(&self, awaited: &Awaited, deadline: Instant) -> Result<(), Failure> {
        let awaited = awaited.clone();
        let settled = self.run(deadline, Stage::Send, move |place| match place.receipt(&awaited)? {
            Some((_, path)) => remove(&path),
            None => Ok(()),
        });
        settled.await.map_err(one_line)
    }

    pub(crate) async fn left(&self, search: Search, deadline: Instant) -> Result<Vec<Left>, Failure> {
        self.run(deadline, Stage::Read, move |place| place.left(search)).await.map_err(one_line)
    }

    pub(crate) async fn clean(&self, names: Vec<String>, search: Search, deadline: Instant) -> Result<usize, Failure> {
        self.run(deadline, Stage::Send, move |place| place.clean(&names, &search)).await.map_err(one_line)
    }

    /// Runs `step` in a thread that may hang, and waits for it until the deadline.
    async fn run<T: Send + 'static>(
        &self,
        deadline: Instant,
        stage: Stage,
        step: impl FnOnce(&Place) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Failure> {
        let progress = Progress::begin(deadline);
        progress.enter(Stage::Connect);
        let gone = || Failure { stage, reason: "the hub is stopping".to_owned() };
        let run = async {
            // Its own first, so that those who wait for a thread of a partner's that hangs take none from others.
            let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| gone())?;
            let shared = Arc::clone(&self.shared_permits).acquire_owned().await.map_err(|_| gone())?;
            progress.enter(stage);
            let place = Arc::clone(&self.place);
            let ran = tokio::task::spawn_blocking(move || {
                let _permits = (permit, shared);
                step(&place)
            });
            ran.await.map_err(|_| gone())?.map_err(|error| self.failure(stage, &error))
        };
        timeout_at(deadline, run).await.unwrap_or_else(|_| Err(progress.timed_out()))
    }

    fn failure(&self, stage: Stage, error: &io::Error) -> Failure {
        let dir = self.place.dir.display();
        let reason = match error.kind() {
            io::ErrorKind::NotFound => format!("the directory {dir} is not there; is the share mounted?"),
            io::ErrorKind::PermissionDenied => format!("the hub may not write in {dir}"),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => format!("no space is left in {dir}"),
            io::ErrorKind::ReadOnlyFilesystem => format!("{dir} is read-only"),
            _ => format!("{} in {dir}", io_words(error)),
        };
        let stage = if error.kind() == io::ErrorKind::NotFound { Stage::Connect } else { stage };
        Failure { stage, reason }
    }
}

impl Place {
    /// The directory without links, if it is still one that the operator allowed.
    fn resolve(&self, dir: &Path) -> io::Result<PathBuf> {
        let real = fs::canonicalize(dir)?;
        // What the operator named may itself be a link, such as /mnt/share; it is followed as it is now.
        // Those on the way come first: a look at another one would hang if that does.
        let is_near = |allowed: &&PathBuf| dir.starts_with(allowed) || real.starts_with(allowed);
        let (near, far): (Vec<_>, Vec<_>) = self.allow.0.iter().partition(is_near);
        let mut in_turn = near.into_iter().chain(far);
        let is_allowed =
            in_turn.any(|allowed| fs::canonicalize(allowed).is_ok_and(|allowed| real.starts_with(allowed)));
        if is_allowed { Ok(real) } else { Err(io::Error::other(not_allowed(&real))) }
    }

    fn put(&self, message: &Message) -> io::Result<Dropped> {
        let dir = self.resolve(&self.dir)?;
        let name = message.file_name();
        let path = dir.join(&name);
        let taken =
            || Dropped::Taken(format!("another file called {name} is in {}; it was left as it is", dir.display()));
        if message.replay && message.attempt == 1 {
            // A receipt that was left there is of an earlier round.
            let awaited = Awaited { event: message.event_id.clone(), version: message.version, test: message.test };
            if let Some((_, path)) = self.receipt(&awaited)? {
                remove(&path)?;
            }
        }
        // Most drops are the first of their name, which the rename finds out by itself.
        if message.attempt > 1 || message.replay {
            match is_same(&path, &message.body)? {
                Some(true) => return self.sync(&dir).map(|()| Dropped::There),
                Some(false) if !message.replay => return Ok(taken()),
                _ => {}
            }
        }
        let part = dir.join(part_name(&name, message.attempt));
        let placed = write_part(&part, &message.body).and_then(|()| {
            // An operator who replays an event wants this one in the place of the last.
            if message.replay { fs::rename(&part, &path).map(|()| true) } else { rename_new(&part, &path) }
        });
        let is_placed = match placed {
            Ok(is_placed) => is_placed,
            Err(error) => {
                drop(fs::remove_file(&part));
                return Err(error);
            }
        };
        if !is_placed {
            drop(fs::remove_file(&part));
            return match is_same(&path, &message.body)? {
                Some(true) => self.sync(&dir).map(|()| Dropped::There),
                _ => Ok(taken()),
            };
        }
        self.sync(&dir)?;
        for attempt in 1..message.attempt.min(PARTS_MAX) {
            drop(fs::remove_file(dir.join(part_name(&name, attempt))));
        }
        Ok(Dropped::There)
    }

    /// Makes the names of the directory durable: without it a drop could be gone after a crash of this machine, also one that
    /// an attempt before left there when this very step failed.
    fn sync(&self, dir: &Path) -> io::Result<()> {
        let syncs = {
            let mut known = self.syncs.lock().unwrap_or_else(PoisonError::into_inner);
            // A link may lead to another directory meanwhile.
            if known.0 != dir {
                *known = (dir.to_owned(), Arc::default());
            }
            Arc::clone(&known.1)
        };
        syncs.wait(|| File::open(dir)?.sync_all())
    }

    fn look(&self, awaited: &[Awaited]) -> io::Result<Vec<Heard>> {
        let mut heard = Vec::new();
        let mut names = Vec::with_capacity(awaited.len());
        for one in awaited {
            let Some((name, path)) = self.receipt(one)? else { continue };
            if let Some((look, content)) = read_file(&path)?
                && let Some(said) = self.unsettled.read(&name, look, &content, &one.event)
            {
                heard.push(heard_of(one, said));
            }
            names.push(name);
        }
        self.unsettled.keep_only(&names);
        Ok(heard)
    }

    fn left(&self, search: Search) -> io::Result<Vec<Left>> {
        let mut found = Found::new(search);
        for place in places(self.pattern.as_deref()) {
            let dir = match self.resolve(&self.dir.join(&place)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && !place.is_empty() => continue,
                dir => dir?,
            };
            for entry in fs::read_dir(dir)? {
                let entry = entry?;
                let (Ok(name), Ok(kind)) = (entry.file_name().into_string(), entry.file_type()) else { continue };
                if kind.is_file() {
                    let modified = entry.metadata().and_then(|file| file.modified()).ok();
                    let seen = Seen { name: &format!("{place}{name}"), modified };
                    found.see(seen, self.pattern.as_deref(), self.extension);
                }
            }
        }
        Ok(found.into_files())
    }

    fn clean(&self, names: &[String], search: &Search) -> io::Result<usize> {
        let mut gone = 0;
        for name in names {
            let path = self.dir.join(name);
            let (Some(dir), Some(last)) = (path.parent(), path.file_name()) else { continue };
            let path = self.resolve(dir)?.join(last);
            // A replay may have put another one in its place meanwhile.
            let is_old = fs::symlink_metadata(&path)
                .is_ok_and(|file| file.is_file() && file.modified().is_ok_and(|modified| modified < search.before));
            if is_old {
                remove(&path)?;
                gone += 1;
            }
        }
        Ok(gone)
    }

    /// Where the receipt of this delivery lies or will lie; nowhere when its directory is not there.
    fn receipt(&self, awaited: &Awaited) -> io::Result<Option<(String, PathBuf)>> {
        let Some(pattern) = &self.pattern else { return Ok(None) };
        let Awaited { event, version, test } = awaited;
        let name = receipt_name(pattern, event, *version, self.extension, *test);
        let path = self.dir.join(&name);
        let (Some(dir), Some(last)) = (path.parent(), path.file_name()) else { return Ok(None) };
        match self.resolve(dir) {
            Ok(real) => Ok(Some((name, real.join(last)))),
            // The partner makes its directory for receipts when it has one to write.
            Err(error) if error.kind() == io::ErrorKind::NotFound && dir != self.dir => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn heard_of(awaited: &Awaited, said: Said) -> Heard {
    Heard { event: awaited.event.clone(), test: awaited.test, said, evidence: Evidence::File }
}

fn not_allowed(dir: &Path) -> String {
    let dir = dir.display();
    format!("{dir} is not a directory that the hub may use; allow it with --allow-dir {dir}")
}

/// Attempts do not write into each other's file: one that was given up may still be writing.
fn part_name(name: &str, attempt: u32) -> String {
    format!("{name}.{attempt}.part")
}

fn write_part(part: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = match File::create_new(part) {
        // What an attempt before a restart left there goes, and a link in its place is not followed.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            remove(part)?;
            File::create_new(part)?
        }
        created => created?,
    };
    file.write_all(bytes)?;
    file.sync_all()
}

/// Renames without ever replacing a file; false when the name is taken.
fn rename_new(part: &Path, path: &Path) -> io::Result<bool> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use rustix::io::Errno;
    match renameat_with(CWD, part, CWD, path, RenameFlags::NOREPLACE) {
        Ok(()) => return Ok(true),
        Err(Errno::EXIST) => return Ok(false),
        // Network file systems do not know the flag.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
        Err(error) => return Err(error.into()),
    }
    match fs::hard_link(part, path) {
        Ok(()) => fs::remove_file(part).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        // No links either: between this look and the rename another writer could lose its file.
        Err(_) if fs::symlink_metadata(path).is_ok() => Ok(false),
        Err(_) => fs::rename(part, path).map(|()| true),
    }
}

/// Whether the file holds just these bytes; `None` when there is none.
fn is_same(path: &Path, bytes: &[u8]) -> io::Result<Option<bool>> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if !found.is_file() || found.len() != bytes.len() as u64 {
        return Ok(Some(false));
    }
    let mut content = Vec::with_capacity(bytes.len());
    File::open(path)?.take(bytes.len() as u64 + 1).read_to_end(&mut content)?;
    Ok(Some(content == bytes))
}

/// A receipt's beginning, and how the file looks; `None` when there is none, or something else than a file.
fn read_file(path: &Path) -> io::Result<Option<(Look, Vec<u8>)>> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) if found.is_file() => found,
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut content = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(RECEIPT_BYTES_MAX as u64).read_to_end(&mut content)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Some((Look { bytes: found.len(), modified: found.modified().ok() }, content)))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
