//! Runs other programs from the repository's root; what they print is passed on as it comes, and kept when asked for.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

/// What a program printed, both streams, and whether it ended well.
pub(crate) struct Printed {
    /// Standard output, then standard error.
    pub(crate) text: String,
    /// Exit status 0.
    pub(crate) is_success: bool,
}

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    // Invariant: xtask lies directly below the root.
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask has a parent").to_path_buf()
}

/// A command that starts at the root.
pub(crate) fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).current_dir(root()).stdin(Stdio::null());
    command
}

/// Runs the program and fails unless it ends well.
pub(crate) fn run(program: &str, args: &[&str]) -> anyhow::Result<()> {
    let line = format!("{program} {}", args.join(" "));
    let status = command(program, args).status().with_context(|| format!("could not start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed ({status})");
    }
    Ok(())
}

/// Whether the program can be started and ends well; prints nothing.
pub(crate) fn works(program: &str, args: &[&str]) -> bool {
    let quiet = command(program, args).stdout(Stdio::null()).stderr(Stdio::null()).status();
    quiet.is_ok_and(|status| status.success())
}

/// The standard output of a program that must end well.
pub(crate) fn capture(program: &str, args: &[&str]) -> anyhow::Result<String> {
    let line = format!("{program} {}", args.join(" "));
    let output = command(program, args)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("could not start `{line}`"))?;
    if !output.status.success() {
        bail!("`{line}` failed ({})", output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{line}` did not print UTF-8"))
}

/// Runs the command, passes on what it prints line by line, and keeps it.
pub(crate) fn tee(mut command: Command) -> anyhow::Result<Printed> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("could not start")?;
    let errors = child.stderr.take().map(|stream| std::thread::spawn(|| pass_on(stream, std::io::stderr())));
    let mut text = child.stdout.take().map(|stream| pass_on(stream, std::io::stdout())).unwrap_or_default();
    if let Some(Ok(more)) = errors.map(std::thread::JoinHandle::join) {
        text.push_str(&more);
    }
    let status = child.wait().context("could not wait")?;
    Ok(Printed { text, is_success: status.success() })
}

fn pass_on(stream: impl Read, mut to: impl Write) -> String {
    let mut kept = String::new();
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    while stream.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        // A closed pipe of ours must not stop the tests.
        let _ = to.write_all(&line).and_then(|()| to.flush());
        kept.push_str(&String::from_utf8_lossy(&line));
        line.clear();
    }
    kept
}

/// Prints a line.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Prints a line of complaint.
pub(crate) fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
