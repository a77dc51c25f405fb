//! One fsync of a directory for all drops that wait for it together.
//!
//! ```text
//! rename A ─ sync 1 ────────┐
//!    rename B ─ waits ──────┤ sync 2 ──────┐
//!        rename C ─ waits ──┘ (for both)   └ B and C are durable
//! ```
//!
//! Only a sync that began after a drop's rename counts for it: one that was under way by then may have missed the name. A sync
//! that failed fails all that waited for it, whatever a later one says: what was lost is not found again by syncing.

use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The syncs of one directory.
#[derive(Debug, Default)]
pub(crate) struct DirSync {
    /// Locked to look and to note, never while a sync runs.
    rounds: Mutex<Rounds>,
    ended: Condvar,
}

/// Numbers of syncs, from 1; one at a time runs.
#[derive(Debug, Default)]
struct Rounds {
    begun: u64,
    ended: u64,
    /// The last that failed, and the system's number of the error.
    failed: (u64, Option<i32>),
    /// Threads that wait for the end of one.
    waiting: usize,
}

impl DirSync {
    /// Returns when a sync has ended that began after this call; runs it, unless another thread does.
    ///
    /// # Errors
    /// That sync failed, or a later one did before this thread looked.
    pub(crate) fn wait(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut rounds = self.lock();
        let wanted = rounds.begun + 1;
        while rounds.begun > rounds.ended {
            rounds.waiting += 1;
            rounds = self.ended.wait(rounds).unwrap_or_else(PoisonError::into_inner);
            rounds.waiting -= 1;
            if rounds.ended >= wanted {
                return rounds.outcome(wanted);
            }
        }
        if rounds.ended >= wanted {
            return rounds.outcome(wanted);
        }
        rounds.begun += 1;
        drop(rounds);
        let synced = sync();
        let mut rounds = self.lock();
        rounds.ended = rounds.begun;
        if let Err(error) = &synced {
            rounds.failed = (rounds.ended, error.raw_os_error());
        }
        if rounds.waiting > 0 {
            self.ended.notify_all();
        }
        synced
    }

    fn lock(&self) -> MutexGuard<'_, Rounds> {
        self.rounds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rounds {
    fn outcome(&self, wanted: u64) -> io::Result<()> {
        match self.failed {
            (failed, _) if failed < wanted => Ok(()),
            (_, Some(number)) => Err(io::Error::from_raw_os_error(number)),
            (_, None) => Err(io::Error::other("the directory could not be synced")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use std::sync::mpsc;
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;

    /// A directory whose names are durable once a sync that began after them has ended.
    #[derive(Default)]
    struct Disk {
        sync: DirSync,
        names: Mutex<BTreeSet<usize>>,
        durable: Mutex<BTreeSet<usize>>,
        syncs: Mutex<usize>,
    }

    impl Disk {
        fn drop_one(&self, name: usize, between: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
            self.names.lock().unwrap().insert(name);
            let outcome = self.sync.wait(|| {
                *self.syncs.lock().unwrap() += 1;
                // Only what is there when it begins is sure to be on the disk.
                let seen = self.names.lock().unwrap().clone();
                between()?;
                self.durable.lock().unwrap().extend(seen);
                Ok(())
            });
            assert!(outcome.is_err() || self.durable.lock().unwrap().contains(&name), "{name} may be lost");
            outcome
        }

        /// Three drops that come while a sync is under way, and what that and the next come to.
        fn three_behind_one(self: Arc<Disk>, next: fn() -> io::Result<()>) -> Vec<io::Result<()>> {
            let ((began, has_begun), (end, may_end)) = (mpsc::channel(), mpsc::channel());
            let disk = Arc::clone(&self);
            let first = thread::spawn(move || {
                disk.drop_one(0, || {
                    began.send(()).unwrap();
                    may_end.recv().unwrap();
                    Ok(())
                })
            });
            has_begun.recv().unwrap();
            let behind: Vec<_> = (1..=3)
                .map(|name| {
                    let disk = Arc::clone(&self);
                    thread::spawn(move || disk.drop_one(name, next))
                })
                .collect();
            let bound = Instant::now() + Duration::from_secs(60);
            while self.sync.lock().waiting < 3 {
                assert!(Instant::now() < bound, "they do not wait");
                thread::yield_now();
            }
            assert!(self.durable.lock().unwrap().is_empty());
            end.send(()).unwrap();
            let mut outcomes = vec![first.join().unwrap()];
            outcomes.extend(behind.into_iter().map(|thread| thread.join().unwrap()));
            outcomes
        }
    }

    #[test]
    fn drops_that_wait_share_one_sync_that_began_after_them() {
        let disk = Arc::new(Disk::default());
        assert!(Arc::clone(&disk).three_behind_one(|| Ok(())).iter().all(Result::is_ok));
        assert_eq!(*disk.syncs.lock().unwrap(), 2);
        // Nobody else is there: it has a sync of its own.
        disk.drop_one(4, || Ok(())).unwrap();
        assert_eq!(*disk.syncs.lock().unwrap(), 3);
    }

    #[test]
    fn a_sync_that_fails_fails_all_that_waited_for_it_and_no_other() {
        let disk = Arc::new(Disk::default());
        let outcomes = Arc::clone(&disk).three_behind_one(|| Err(io::Error::from_raw_os_error(28)));
        let kinds: Vec<_> = outcomes.into_iter().map(|outcome| outcome.map_err(|error| error.kind())).collect();
        let full = Err(io::ErrorKind::StorageFull);
        assert_eq!(kinds, [Ok(()), full, full, full]);
        disk.drop_one(4, || Ok(())).unwrap();
        assert_eq!(*disk.syncs.lock().unwrap(), 3);
    }

    #[test]
    fn no_drop_of_many_is_confirmed_by_a_sync_that_began_before_it() {
        let disk = Arc::new(Disk::default());
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                let disk = Arc::clone(&disk);
                thread::spawn(move || {
                    for number in 0..500 {
                        let others_go_on = || {
                            thread::yield_now();
                            Ok(())
                        };
                        disk.drop_one(number * 4 + thread, others_go_on).unwrap();
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(disk.durable.lock().unwrap().len(), 2_000);
    }
}
