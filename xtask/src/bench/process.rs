//! The bench's processes: started so that none outlives the bench, whichever way that ends, and what the kernel says of them.

use std::io::{BufRead as _, BufReader, Read as _};
use std::ops::Range;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};

/// Clock ticks of `/proc`: the kernel's interface has used 100 a second on every Linux for decades.
const TICKS_PER_SECOND: f64 = 100.0;

/// Another process of this program, killed when it is dropped.
pub(super) struct Process {
    child: Child,
    /// The first line it printed.
    pub(super) first_line: String,
}

impl Process {
    /// Starts `cargo xtask bench NAME ARGS` and waits for its first line.
    pub(super) fn start(name: &str, args: &[String]) -> Result<Self> {
        let mut child = command(name, args)?.stdout(Stdio::piped()).spawn()?;
        let mut first_line = String::new();
        BufReader::new(child.stdout.take().context("no stdout")?).read_line(&mut first_line)?;
        Ok(Self { child, first_line: first_line.trim().to_owned() })
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs another process of this program to its end; what it printed.
pub(super) fn run(name: &str, args: &[String]) -> Result<String> {
    let mut child = command(name, args)?.stdout(Stdio::piped()).spawn()?;
    let mut text = String::new();
    child.stdout.take().context("no stdout")?.read_to_string(&mut text)?;
    let status = child.wait()?;
    anyhow::ensure!(status.success(), "{name} ended with {status}");
    Ok(text)
}

fn command(name: &str, args: &[String]) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    // The open pipe tells the child that this process lives.
    command.args(["bench", name]).args(args).stdin(Stdio::piped());
    Ok(command)
}

/// In such a process: ends it when the bench is gone.
pub(super) fn end_with_parent() {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(3);
    });
}

/// A process' whole life that kills another when the bench is gone.
pub(super) fn guard(args: &[String]) -> Result<()> {
    let id: i32 = args.first().context("guard-process: one argument")?.parse()?;
    crate::shell::say("guarding");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    if let Some(id) = rustix::process::Pid::from_raw(id) {
        let _ = rustix::process::kill_process(id, rustix::process::Signal::KILL);
    }
    Ok(())
}

/// User and system time of a process and its children, also of those that have ended.
pub(super) fn cpu_seconds(id: u32) -> Result<f64> {
    // User and system time of its own.
    Ok(ticks_seconds(id, 11..13)? + cpu_seconds_below(id)?)
}

/// User and system time of a process' children, also of those that have ended.
pub(super) fn cpu_seconds_below(id: u32) -> Result<f64> {
    // User and system time of the children that it waited for.
    let mut below = ticks_seconds(id, 13..15)?;
    for thread in std::fs::read_dir(format!("/proc/{id}/task"))? {
        let children = std::fs::read_to_string(thread?.path().join("children")).unwrap_or_default();
        // A child may have ended since. Finer than ticks, because what they do may be short.
        below += children.split_whitespace().filter_map(|id| threads_seconds(id).ok()).sum::<f64>();
    }
    Ok(below)
}

/// What the scheduler gave to the living threads of a process.
fn threads_seconds(id: &str) -> Result<f64> {
    let mut seconds = 0.0;
    for thread in std::fs::read_dir(format!("/proc/{id}/task"))? {
        let text = std::fs::read_to_string(thread?.path().join("schedstat"))?;
        seconds += text.split_whitespace().next().context("a strange schedstat")?.parse::<f64>()? / 1e9;
    }
    Ok(seconds)
}

/// The sum of these fields of a process' `stat`, counted from behind its name.
fn ticks_seconds(id: u32, fields: Range<usize>) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
    // The name in brackets may hold spaces.
    let all: Vec<&str> = stat.rsplit_once(')').context("a strange stat")?.1.split_whitespace().collect();
    let ticks: f64 = fields.filter_map(|at| all.get(at)?.parse::<f64>().ok()).sum();
    Ok(ticks / TICKS_PER_SECOND)
}

/// Resident memory.
pub(super) fn resident_mib(id: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
    Ok(kib / 1024.0)
}

/// Processor seconds that all processes of the machine have used.
pub(super) fn machine_seconds() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let fields: Vec<f64> = stat
        .lines()
        .next()
        .context("no line")?
        .split_whitespace()
        .skip(1)
        .filter_map(|field| field.parse().ok())
        .collect();
    // user, nice, system, then irq, softirq and steal; idle and iowait are not use.
    Ok([0, 1, 2, 5, 6, 7].iter().filter_map(|at| fields.get(*at)).sum::<f64>() / TICKS_PER_SECOND)
}
