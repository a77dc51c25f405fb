//! Whose data directory a hub has: a hub that is started again there follows the one that was killed there, and need not wait for the
//! end of its lease.
//!
//! ```text
//! lock (held: nobody else lives here) + this boot of the machine = home
//! ```
//!
//! The file's lock is what proves it: whoever holds it knows that no other process of this home is left. The machine's boot is part
//! of it, as a copy of a disk has the same files, and a machine that was started anew may be another one.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// The same for the directory `/proc` of a process and of a container's: the kernel's.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A directory that this process alone lives in.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) id: [u8; 32],
    /// Let go with the process, however that ends.
    _lock: File,
}

impl Home {
    /// Moves in; `None` where that can't be proved: another process lives there, or the file system knows no locks. Leases do then.
    pub(super) fn take(dir: &Path) -> Option<Self> {
        let file = File::options().create(true).truncate(false).write(true).open(dir.join("lock")).ok()?;
        file.try_lock().ok()?;
        let boot = std::fs::read(BOOT_ID).ok()?;
        let found = file.metadata().ok()?;
        let mut hasher = blake3::Hasher::new_derive_key("hms-ess 2026 node home");
        hasher.update(&found.dev().to_le_bytes()).update(&found.ino().to_le_bytes()).update(&boot);
        Some(Self { id: *hasher.finalize().as_bytes(), _lock: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_is_the_same_for_one_after_the_other_and_for_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = Home::take(dir.path()).unwrap();
        assert!(Home::take(dir.path()).is_none());
        let id = first.id;
        drop(first);
        assert_eq!(Home::take(dir.path()).unwrap().id, id);
        let other = tempfile::tempdir().unwrap();
        assert_ne!(Home::take(other.path()).unwrap().id, id);
        assert!(Home::take(&dir.path().join("gone")).is_none());
    }
}
