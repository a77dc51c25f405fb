//! A directory in which every call hangs, as on a share whose server is gone: `servers/hanging_share.py` mounts a file system
//! over it that nobody serves. It ends when it is dropped; then the directory is there again as it was.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::python::python;

/// The mount.
pub(crate) struct HangingShare {
    process: Child,
}

impl HangingShare {
    /// Lets the directory hang; `None` on a system that lets nobody mount, such as a container without `/dev/fuse`, and says so.
    pub(crate) fn over(dir: &Path) -> Option<HangingShare> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ess-channels/tests/it/servers/hanging_share.py");
        let mut process = Command::new(python())
            .arg(script)
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the tests' Python is missing: cargo xtask test makes it");
        let mut said = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut said).unwrap();
        // From here on a drop ends the process.
        let share = HangingShare { process };
        if said == "HANGING\n" {
            return Some(share);
        }
        let may_mount = Path::new("/dev/fuse").exists() && !said.contains("not permitted");
        assert!(!may_mount, "no directory can be made to hang; is fuse3 installed? {said}");
        eprintln!("left out: a directory that hangs, as nothing can be mounted here: {said}");
        None
    }
}

impl Drop for HangingShare {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}
