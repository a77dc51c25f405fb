//! One evaluation process as the hub sees it: started when there is something to do, fed, judged, killed.

use std::collections::VecDeque;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ess_core::script::{Bounds, CODE_ENGINE, CODE_MEMORY, CODE_STOPPED, ScriptError};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::queue::Call;
use super::wire::{self, Answer, GREETING};
use super::worker::EXIT_STOPPED;
use super::{Program, Shared, TableSet};

/// Processes that did not come to life in a row, after which calls are answered with an error.
const FAILED_STARTS_MAX: u32 = 3;
/// Calls that a process still has when it is given more.
const REFILL_AT: usize = 8;
/// What may stand on a process' output before its greeting.
const PREAMBLE_BYTES_MAX: usize = 4096;
/// How long a process may take to come to life.
const START_MAX: Duration = Duration::from_secs(20);

/// A process that speaks.
struct Process {
    /// Of the lookup tables that it was given.
    generation: u64,
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// Takes calls from the queue until the pool is closed; the process idles for a while and then goes.
pub(super) async fn run(shared: &Shared) {
    let mut process: Option<Process> = None;
    let mut failed_starts = 0;
    // The script that the last process was lost over, or went after: its next turn comes when there is another one.
    let mut lost_over: Option<Arc<str>> = None;
    loop {
        // Asked for before the queue is looked at, so that no call slips between.
        let arrival = shared.arrival.notified();
        let tables = shared.tables();
        if process.as_ref().is_some_and(|process| process.generation != tables.generation) {
            end(process.take()).await;
            shared.processes.fetch_sub(1, Ordering::Relaxed);
        }
        // Started before a call is taken: whichever process is free has it meanwhile. One that was lost is replaced at
        // once: a notice of its script's next call may come to another owner, who cannot take it.
        let is_owed = lost_over.is_some() && !shared.is_closed();
        if process.is_none() && (is_owed || shared.has_waiting()) {
            let started = start(&shared.program, &shared.bounds, &tables).await;
            if let Some(script) = lost_over.take() {
                shared.replaced(&script);
            }
            process = match started {
                Ok(process) => Some(process),
                Err(error) => {
                    tracing::warn!(%error, "could not start an evaluation process");
                    failed_starts += 1;
                    give_up_or_wait(shared, failed_starts, &error).await;
                    continue;
                }
            };
            failed_starts = 0;
            shared.processes.fetch_add(1, Ordering::Relaxed);
        }
        let calls = if process.is_some() { shared.take() } else { Vec::new() };
        if calls.is_empty() {
            if shared.is_closed() && !shared.has_waiting() {
                break;
            }
            if timeout(shared.idle, arrival).await.is_err() && process.is_some() {
                end(process.take()).await;
                shared.processes.fetch_sub(1, Ordering::Relaxed);
            }
            continue;
        }
        if shared.tables().generation != tables.generation {
            // The calls may have come with the new tables.
            shared.put_back(calls);
            continue;
        }
        if let Some(running) = &mut process
            && let Err(left) = feed(shared, running, calls).await
        {
            let ended = process.take();
            lost_over = settle(shared, left, ended).await;
            shared.processes.fetch_sub(1, Ordering::Relaxed);
        }
    }
    end(process).await;
}

async fn give_up_or_wait(shared: &Shared, failed_starts: u32, error: &io::Error) {
    let calls = if failed_starts < FAILED_STARTS_MAX { Vec::new() } else { shared.take() };
    if calls.is_empty() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let error = ScriptError::new(CODE_ENGINE, format!("no evaluation process could be started: {error}"));
    for call in calls {
        shared.answer(call, Err(error.clone()), Duration::ZERO);
    }
}

/// What was unanswered when a process failed or went.
struct Left {
    calls: VecDeque<Call>,
    since: Instant,
    why: Why,
}

/// Why a process answers no more.
enum Why {
    /// It broke off, and one of the calls was being evaluated.
    Lost,
    /// An answer did not come in time.
    Overdue,
    /// It made room for a fresh one, after this script.
    Gone(Arc<str>),
}

/// Writes the calls and answers them as the answers come; the process always has some more at hand while there are any.
async fn feed(shared: &Shared, process: &mut Process, calls: Vec<Call>) -> Result<(), Left> {
    let mut frames = Vec::new();
    calls.iter().for_each(|call| call.write(&mut frames));
    let (mut calls, mut written) = (VecDeque::from(calls), 0);
    let answer_bytes_max = shared.bounds.output_bytes_max + (64 << 10);
    let overdue = shared.bounds.time * 10 + Duration::from_secs(2);
    let mut since = Instant::now();
    while !calls.is_empty() {
        let read = timeout(overdue, read_answer(&mut process.output, answer_bytes_max));
        tokio::pin!(read);
        let answer = loop {
            tokio::select! {
                biased;
                // Both at once: a process that waits for its answers to be read reads no requests.
                count = process.input.write(&frames[written..]), if written < frames.len() => {
                    // Where this fails, the process is gone, and reading tells why.
                    written = count.map_or(frames.len(), |count| written + count);
                }
                answer = &mut read => break answer,
            }
        };
        let (answer, is_last) = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => return Err(Left { calls, since, why: Why::Lost }),
            Err(_) => return Err(Left { calls, since, why: Why::Overdue }),
        };
        let took = since.elapsed();
        since = Instant::now();
        if let Some(call) = calls.pop_front() {
            if is_last {
                let why = Why::Gone(Arc::clone(&call.script));
                shared.answer_last(call, answer, took);
                return Err(Left { calls, since, why });
            }
            shared.answer(call, answer, took);
        }
        if calls.len() <= REFILL_AT {
            let more = shared.take_fast(process.generation);
            frames.drain(..written);
            written = 0;
            more.iter().for_each(|call| call.write(&mut frames));
            calls.extend(more);
        }
    }
    Ok(())
}

/// The next answer, and whether it is the last.
async fn read_answer(output: &mut BufReader<ChildStdout>, bytes_max: usize) -> io::Result<(Answer, bool)> {
    let mut length = output.read_u32_le().await? as usize;
    let is_last = length == 0;
    if is_last {
        length = output.read_u32_le().await? as usize;
    }
    if length > bytes_max {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; length];
    output.read_exact(&mut body).await?;
    let answer = wire::read_answer(&body).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok((answer, is_last))
}

/// After a process failed or went: says what its end means for the call it was at, or puts several back. Answers the script that
/// it was lost over.
async fn settle(shared: &Shared, left: Left, process: Option<Process>) -> Option<Arc<str>> {
    let Left { mut calls, since, why } = left;
    let mut process = process?;
    let is_overdue = match why {
        Why::Lost => false,
        Why::Overdue => {
            let _ = process.child.start_kill();
            true
        }
        Why::Gone(script) => {
            // It had begun none of them.
            shared.put_back(calls.into());
            end(Some(process)).await;
            return Some(script);
        }
    };
    let status = process.child.wait().await;
    let mut said = String::new();
    if let Some(mut stderr) = process.child.stderr.take() {
        let mut bytes = vec![0; 4096];
        let count = stderr.read(&mut bytes).await.unwrap_or(0);
        said = String::from_utf8_lossy(&bytes[..count]).into_owned();
    }
    let error = match status {
        Ok(status) => judge(is_overdue, status, &said, &shared.bounds),
        Err(error) => ScriptError::new(CODE_ENGINE, format!("the evaluation process is lost: {error}")),
    };
    if calls.len() > 1 {
        // Answers may have been lost with it, so none of them is blamed: each goes alone next.
        shared.suspect(calls.into());
        return None;
    }
    calls.pop_front().map(|call| {
        let script = Arc::clone(&call.script);
        shared.killed(call, error, since.elapsed());
        script
    })
}

/// What the end of a process says of the script that it was at.
fn judge(is_overdue: bool, status: std::process::ExitStatus, said: &str, bounds: &Bounds) -> ScriptError {
    if is_overdue || status.code() == Some(i32::from(EXIT_STOPPED)) {
        return ScriptError::too_slow(bounds);
    }
    if said.contains("overflowed its stack") {
        return ScriptError::new(CODE_STOPPED, "the script nests too deeply");
    }
    if status.signal().is_some() {
        let memory_mib = bounds.memory_bytes_max >> 20;
        return ScriptError::new(CODE_MEMORY, format!("the script wants more memory than {memory_mib} MiB"));
    }
    ScriptError::new(CODE_ENGINE, format!("the evaluation process ended with {status}"))
}

/// Starts a process and waits for its greeting.
async fn start(program: &Program, bounds: &Bounds, tables: &TableSet) -> io::Result<Process> {
    let mut child = Command::new(&program.path)
        // What lists of processes show, however it is found.
        .arg0("hms-ess")
        .args(&program.args)
        // What the hub was told in its environment, secrets among it, is not for scripts.
        .env_clear()
        // One arena: others would take address space without using it.
        .env("MALLOC_ARENA_MAX", "1")
        // Scripts make and drop many small values: more of them stay at hand than the few that are usual.
        .env("GLIBC_TUNABLES", "glibc.malloc.tcache_count=1000")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(io::ErrorKind::BrokenPipe.into());
    };
    let mut output = BufReader::with_capacity(64 << 10, output);
    let mut frame = Vec::new();
    wire::write_bounds(&mut frame, bounds);
    wire::write_tables(&mut frame, &tables.tables);
    let greeted = async {
        input.write_all(&frame).await?;
        let mut last = VecDeque::new();
        for _ in 0..PREAMBLE_BYTES_MAX {
            last.push_back(output.read_u8().await?);
            if last.len() > GREETING.len() {
                last.pop_front();
            }
            if last.iter().eq(GREETING) {
                return Ok(());
            }
        }
        Err(io::Error::from(io::ErrorKind::InvalidData))
    };
    timeout(START_MAX, greeted).await.map_err(io::Error::from)??;
    Ok(Process { generation: tables.generation, child, input, output })
}

/// Ends a process: its input is closed, and when that is not enough, it is killed.
async fn end(process: Option<Process>) {
    let Some(Process { mut child, input, output, .. }) = process else {
        return;
    };
    drop((input, output));
    if timeout(Duration::from_secs(1), child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}
