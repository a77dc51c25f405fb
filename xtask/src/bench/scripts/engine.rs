//! The two programs that evaluate: the hub's pool, and node with the reference engine. Both are told over
//! their pipes how many evaluations to make, and say how long they took.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::bench::process::{self, Process};

/// How long a program may take to end by itself.
const END_WITHIN: Duration = Duration::from_secs(2);

/// A program that evaluates; ended when it is dropped.
pub(super) struct Engine {
    child: Child,
    /// Kills the program should the bench be killed.
    _guard: Process,
    /// Taken when the program is to end.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

/// What an evaluation cost, in microseconds.
#[derive(Clone, Copy)]
pub(super) struct Cost {
    pub(super) wall: f64,
    /// Processor time of the program and, of the hub's, its evaluation process.
    pub(super) cpu: f64,
    /// Of that, the evaluation process alone.
    pub(super) cpu_below: f64,
}

/// Builds the hub's side, in release as the hub is.
pub(super) fn build() -> Result<String> {
    crate::shell::run("cargo", &["build", "--release", "-p", "ess-hub", "--example", "evaluate"])?;
    let program = crate::prepare::target().join("release/examples/evaluate");
    Ok(program.to_str().context("the target folder is not UTF-8")?.to_owned())
}

impl Engine {
    /// The hub's pool, with so many evaluation processes of this binary.
    pub(super) fn hub(program: &str, binary: &str, folder: &Path, processes: usize) -> Result<Self> {
        Self::start(crate::shell::command(program, &[binary]).arg(folder).arg(processes.to_string()))
    }

    /// The reference, from where npm put it.
    pub(super) fn reference(module: &Path, folder: &Path) -> Result<Self> {
        let program = "xtask/src/bench/scripts/reference.mjs";
        Self::start(crate::shell::command("node", &[program]).arg(module).arg(folder))
    }

    fn start(command: &mut Command) -> Result<Self> {
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = spawned.with_context(|| format!("could not start {:?}", command.get_program()))?;
        let guard = Process::start("guard-process", &[child.id().to_string()])?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("no stdout")?);
        Ok(Self { child, _guard: guard, input, output })
    }

    /// Makes so many evaluations; what each cost.
    pub(super) fn run(&mut self, evaluations: usize) -> Result<Cost> {
        let id = self.child.id();
        let (cpu, below) = (process::cpu_seconds(id)?, process::cpu_seconds_below(id)?);
        writeln!(self.input.as_mut().context("no stdin")?, "{evaluations}")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        let seconds: f64 = line.trim().parse().context("the program that evaluates failed; its words are above")?;
        let each = |seconds: f64| seconds * 1e6 / evaluations as f64;
        Ok(Cost {
            wall: each(seconds),
            cpu: each(process::cpu_seconds(id)? - cpu),
            cpu_below: each(process::cpu_seconds_below(id)? - below),
        })
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // It ends with its input, and takes its evaluation process along.
        drop(self.input.take());
        let end = Instant::now() + END_WITHIN;
        while Instant::now() < end {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
