//! Checkpoints brought elsewhere: to a directory, a file, a URL. What lies outside the hub is what shows that its ledger was cut
//! off or written anew.
//!
//! A place that does not take one is tried again, for ever and ever more slowly, and says why meanwhile; nothing waits for it.
//! Every checkpoint is in the store all the same, and those that a place missed since the hub began are brought in their order.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use ess_channels::Channel;
use ess_core::id::{Digest, EventId, Subject, Version};
use ess_core::ledger::checkpoint::{Checkpoint, VerifierKey, last_note};
use ess_core::message::Message;
use ess_core::receipt::Receipt;
use ess_core::time::Time;
use ess_store::StoredCheckpoint;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::hub::Hub;
use crate::view::PlaceView;

/// Checkpoints that are read from the store together.
const PAGE: usize = 64;
/// How long a URL may take.
const URL_TIMEOUT: Duration = Duration::from_secs(30);
/// The first wait after a failure; it doubles.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// The longest one.
const RETRY_MAX: Duration = Duration::from_secs(300);
/// How much of a file's end is read to find its last checkpoint.
const TAIL_BYTES: u64 = 64 * 1024;

/// A place outside the hub.
#[derive(Debug, Clone)]
pub enum Place {
    /// A directory, a file for each checkpoint.
    Directory(PathBuf),
    /// A file, one checkpoint after the other.
    File(PathBuf),
    /// POSTed, through the guarded dialer.
    Url(Arc<Channel>),
}

impl Place {
    fn word(&self) -> &'static str {
        match self {
            Place::Directory(_) => "directory",
            Place::File(_) => "file",
            Place::Url(_) => "url",
        }
    }
}

/// All places, and how they fare.
#[derive(Debug)]
pub(crate) struct Elsewhere {
    /// Guards how the places fare; held for look-ups and single changes.
    places: Mutex<Vec<Standing>>,
    /// There is a new checkpoint.
    pub(crate) new: Notify,
}

/// A place and how it fares.
#[derive(Debug, Clone)]
struct Standing {
    place: Place,
    /// Receipts of the last checkpoint that it took; unknown until it took one.
    taken: Option<u64>,
    failures: u32,
    failing_since: Option<Time>,
    error: Option<String>,
    due: Option<Instant>,
}

impl Elsewhere {
    pub(crate) fn new(places: Vec<Place>) -> Self {
        let standing =
            |place| Standing { place, taken: None, failures: 0, failing_since: None, error: None, due: None };
        Self { places: Mutex::new(places.into_iter().map(standing).collect()), new: Notify::new() }
    }

    /// How the places fare.
    pub(crate) fn view(&self) -> Vec<PlaceView> {
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let view = |standing: &Standing| PlaceView {
            to: standing.place.word(),
            size: standing.taken,
            failing_since: standing.failing_since,
            error: standing.error.clone(),
        };
        places.iter().map(view).collect()
    }

    fn standing(&self, at: usize) -> Option<Standing> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner).get(at).cloned()
    }

    fn note(&self, at: usize, standing: Standing) {
        if let Some(place) = self.places.lock().unwrap_or_else(PoisonError::into_inner).get_mut(at) {
            *place = standing;
        }
    }
}

/// Brings every checkpoint to every place.
pub(crate) async fn run(hub: Hub) {
    let elsewhere = &hub.notary.elsewhere;
    loop {
        let mut next: Option<Instant> = None;
        let mut at = 0;
        while let Some(mut standing) = elsewhere.standing(at) {
            if standing.due.is_none_or(|due| due <= Instant::now()) {
                let outcome = hub.bring(&mut standing).await;
                standing.settle(outcome, hub.now());
                elsewhere.note(at, standing.clone());
            }
            next = [next, standing.due].into_iter().flatten().min();
            at += 1;
        }
        match next {
            None => elsewhere.new.notified().await,
            Some(due) => tokio::select! {
                () = elsewhere.new.notified() => {}
                () = tokio::time::sleep_until(due) => {}
            },
        }
    }
}

impl Standing {
    /// What an attempt brought: a failure makes the next one due later.
    fn settle(&mut self, outcome: Result<(), String>, now: Time) {
        match outcome {
            Ok(()) => {
                if self.failing_since.is_some() {
                    tracing::info!(to = self.place.word(), "checkpoints of the ledger are taken again");
                }
                (self.failures, self.failing_since, self.error, self.due) = (0, None, None, None);
            }
            Err(error) => {
                tracing::error!(to = self.place.word(), error, "could not bring a checkpoint of the ledger elsewhere");
                self.due = Some(Instant::now() + retry_delay(self.failures));
                self.failures = self.failures.saturating_add(1);
                self.failing_since.get_or_insert(now);
                self.error = Some(error);
            }
        }
    }
}

/// How long to wait after so many failures before this one.
fn retry_delay(failures: u32) -> Duration {
    RETRY_FIRST.saturating_mul(1u32.checked_shl(failures).unwrap_or(u32::MAX)).min(RETRY_MAX)
}

impl Hub {
    /// Brings a place what it has not taken: at first the last checkpoint, then each one.
    async fn bring(&self, standing: &mut Standing) -> Result<(), String> {
        if standing.taken.is_none()
            && let Place::File(file) = &standing.place
        {
            let (file, verifier) = (file.clone(), self.notary.verifier.clone());
            standing.taken = off_thread(move || last_in(&file, &verifier)).await?;
        }
        let store = &self.delivery.store;
        loop {
            let unread = |error: ess_store::StoreError| error.to_string();
            let page = match standing.taken {
                None => store.last_checkpoint().await.map_err(unread)?.into_iter().collect(),
                Some(taken) => store.checkpoints(Some(taken), PAGE).await.map_err(unread)?,
            };
            if page.is_empty() {
                return Ok(());
            }
            for checkpoint in page {
                let size = checkpoint.size;
                self.bring_one(&standing.place, checkpoint).await?;
                standing.taken = Some(size);
            }
        }
    }

    async fn bring_one(&self, place: &Place, checkpoint: StoredCheckpoint) -> Result<(), String> {
        match place {
            Place::Directory(dir) => {
                let dir = dir.clone();
                off_thread(move || write_into(&dir, &checkpoint)).await
            }
            Place::File(file) => {
                let file = file.clone();
                off_thread(move || append(&file, &checkpoint.note)).await
            }
            Place::Url(channel) => {
                let message = self.message_of(checkpoint);
                match channel.send(&message, Instant::now() + URL_TIMEOUT).await {
                    Receipt::Answer(answer) if (200..300).contains(&answer.status) => Ok(()),
                    Receipt::Answer(answer) => Err(format!("status {}", answer.status)),
                    Receipt::Failed(failure) => Err(failure.reason),
                    _ => Err("it answered by no status".to_owned()),
                }
            }
        }
    }

    /// A checkpoint as a channel sends it: the note is the body.
    fn message_of(&self, checkpoint: StoredCheckpoint) -> Message {
        let body = Bytes::from(checkpoint.note);
        Message {
            id: format!("checkpoint_{}", checkpoint.size),
            event_id: EventId::trusted("ledger.checkpoint"),
            subject: Subject::trusted("ledger.checkpoint"),
            version: Version(1),
            extension: "txt",
            content_type: "text/plain; charset=utf-8".to_owned(),
            headers: vec![
                ("x-hms-ledger".to_owned(), self.notary.verifier.name().to_owned()),
                ("x-hms-ledger-size".to_owned(), checkpoint.size.to_string()),
            ],
            body_digest: Digest::of(&body),
            body,
            test: false,
            replay: false,
            attempt: 1,
            partner_seq: None,
        }
    }
}

/// Disks may be slow, above all those that are elsewhere.
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?
}

/// Whole or not there, also after a power cut.
fn write_into(dir: &Path, checkpoint: &StoredCheckpoint) -> Result<(), String> {
    let path = dir.join(format!("{:020}.checkpoint", checkpoint.size));
    let part = path.with_extension("part");
    let write = || -> io::Result<()> {
        std::fs::create_dir_all(dir)?;
        // The directory's own name may be new.
        if let Some(Ok(above)) = dir.parent().map(File::open) {
            above.sync_all()?;
        }
        let mut file = File::create(&part)?;
        file.write_all(checkpoint.note.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&part, &path)?;
        File::open(dir)?.sync_all()
    };
    write().map_err(|error| format!("{}: {error}", path.display()))
}

/// Adds a note to the file's end, durably. What a power cut left of one is written over.
fn append(path: &Path, note: &str) -> Result<(), String> {
    let write = || -> io::Result<()> {
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            std::fs::create_dir_all(dir)?;
        }
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let (start, tail) = tail(&mut file)?;
        let whole = last_note(&tail).map_or(0, |(_, end)| end);
        // Without a whole note in its last part it is no file of ours, or a new one.
        if whole == 0 && start + tail.len() as u64 > 0 && tail.contains('\n') {
            return Err(io::Error::other("its end is no checkpoint: name a file of its own"));
        }
        let end = start + whole as u64;
        file.set_len(end)?;
        file.seek(SeekFrom::Start(end))?;
        let gap = if end > 0 { "\n" } else { "" };
        file.write_all(format!("{gap}{note}").as_bytes())?;
        file.sync_all()
    };
    write().map_err(|error| format!("{}: {error}", path.display()))
}

/// How many receipts the last checkpoint of the file has.
fn last_in(path: &Path, verifier: &VerifierKey) -> Result<Option<u64>, String> {
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(named(&error)),
    };
    let (_, tail) = tail(&mut file).map_err(|error| named(&error))?;
    let Some((note, _)) = last_note(&tail) else { return Ok(None) };
    let checkpoint = Checkpoint::open(note, verifier).map_err(|error| named(&error))?;
    Ok(Some(checkpoint.size))
}

/// The file's end, and where it begins.
fn tail(file: &mut File) -> io::Result<(u64, String)> {
    let length = file.metadata()?.len();
    let start = length.saturating_sub(TAIL_BYTES);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    // A cut in the middle of a character would shift every place after it.
    let skipped = bytes.iter().take_while(|byte| start > 0 && (0x80..0xc0).contains(*byte)).count();
    let text = String::from_utf8_lossy(&bytes[skipped..]).into_owned();
    Ok((start + skipped as u64, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ess_core::ledger::checkpoint::notes;
    use ess_core::signature::Ed25519Key;

    fn note(size: u64) -> String {
        let root = Digest([size as u8; 32]);
        Checkpoint { origin: "hub".to_owned(), size, root }.sign(&Ed25519Key::from_seed([1; 32]))
    }

    #[test]
    fn a_file_takes_one_checkpoint_after_the_other_and_mends_a_torn_end() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("made/here/checkpoints");
        let verifier = VerifierKey::of(&Ed25519Key::from_seed([1; 32]), "hub");
        assert_eq!(last_in(&file, &verifier), Ok(None));
        append(&file, &note(1)).unwrap();
        append(&file, &note(2)).unwrap();
        let whole = std::fs::read_to_string(&file).unwrap();
        assert_eq!((last_in(&file, &verifier), notes(&whole).count()), (Ok(Some(2)), 2));
        // A power cut at any byte of the third.
        let third = format!("\n{}", note(3));
        for cut in (0..third.len()).filter(|cut| third.is_char_boundary(*cut)) {
            std::fs::write(&file, format!("{whole}{}", &third[..cut])).unwrap();
            assert_eq!(last_in(&file, &verifier), Ok(Some(2)), "{cut}");
            append(&file, &note(3)).unwrap();
            assert_eq!(std::fs::read_to_string(&file).unwrap(), format!("{whole}{third}"), "{cut}");
        }
        let other = VerifierKey::of(&Ed25519Key::from_seed([2; 32]), "hub");
        assert!(last_in(&file, &other).is_err());
        std::fs::write(&file, "somebody's\nown text\n").unwrap();
        assert!(append(&file, &note(4)).unwrap_err().contains("name a file of its own"));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "somebody's\nown text\n");
    }

    #[test]
    fn a_place_that_fails_is_tried_ever_more_slowly() {
        let delays: Vec<u64> = (0..12).map(|failures| retry_delay(failures).as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        assert_eq!(retry_delay(u32::MAX), RETRY_MAX);
    }
}
