//! Running `hms-ess`: one command, or a hub that stays up. Nothing of the machine's own configuration reaches it.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// What is waited for at most.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The program with an environment of its own; its folder is its home and where it stands.
pub(crate) fn program(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hms-ess"));
    command.current_dir(folder).env_clear().env("HOME", folder).env("PATH", "/usr/bin:/bin");
    command
}

/// What a command said and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.out
    }

    #[track_caller]
    pub(crate) fn refused(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        self.err
    }
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Said {
    Said::of(command.stdin(Stdio::null()).output().unwrap())
}

/// Runs a command with something on its standard input.
pub(crate) fn run_with_input(command: &mut Command, input: &str) -> Said {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    Said::of(child.wait_with_output().unwrap())
}

/// A hub that runs, in a folder that goes with it.
pub(crate) struct RunningHub {
    pub(crate) folder: TempDir,
    pub(crate) url: String,
    pub(crate) child: Child,
}

impl RunningHub {
    /// A hub with TLS on a free port.
    pub(crate) fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), &[])
    }

    /// A hub in this folder, with these flags too.
    pub(crate) fn start_in(folder: TempDir, flags: &[&str]) -> Self {
        let mut child = program(folder.path())
            // By the environment, so that a flag may say otherwise.
            .envs([("HMS_ESS_LISTEN", "127.0.0.1:0"), ("HMS_ESS_METRICS_LISTEN", "off")])
            .env("HMS_ESS_ALLOW_NET", "127.0.0.0/8")
            .arg("serve")
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(folder.path().join("hub.log")).unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.strip_prefix("listening on ").map(|url| url.trim().to_owned());
        let log = || std::fs::read_to_string(folder.path().join("hub.log")).unwrap();
        let url = url.unwrap_or_else(|| panic!("no ready line: {line:?}\n{}", log()));
        Self { folder, url, child }
    }

    /// Runs a client command that finds the hub by the profile.
    pub(crate) fn run(&self, args: &[&str]) -> Said {
        run(program(self.folder.path()).args(args))
    }

    /// The same, decoded.
    pub(crate) fn json(&self, args: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.run(&[args, &["--json"]].concat()).ok()).unwrap()
    }

    /// Writes a file into the hub's folder and names it.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for the end; the exit code.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        let mut ended = None;
        wait_for("the hub's end", || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        });
        ended.and_then(|status| status.code())
    }
}

impl Drop for RunningHub {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks until it is so, within a bound.
#[track_caller]
pub(crate) fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
